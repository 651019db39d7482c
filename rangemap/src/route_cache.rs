//! The cache of routes: it says where a gateway sends a call for a name.
//!
//! It owns the decisions: which range, which of its stores, what an answer teaches, and when to
//! give up. It sends nothing, waits for nothing, and asks nobody for descriptors: on
//! [`RouteCache::route`] = `None` its owner does, and installs what it learns.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::descriptor::{Descriptor, Epoch, RangeId, StoreId};
use crate::map::{InsertError, RangeMap};

/// How often one call is sent before its caller hears that no leader was found. A stale map needs
/// one extra hop for the new bounds and one for the new leader; whoever needs more is chasing a
/// leader that moves, and belongs into the caller's back-off.
pub const HOPS_MAX: u32 = 3;

/// The store that a call is sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The range that holds the name.
    pub range: RangeId,
    /// The descriptor by which this was decided: its version goes into the call, so that a store
    /// with other bounds refuses it.
    pub epoch: Epoch,
    /// The store to send to.
    pub to: Destination,
}

/// A store, and what is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// It answered as leader, or another replica says that it leads.
    Leader(StoreId),
    /// Some voter: nobody has said who leads.
    AnyReplica(StoreId),
}

impl Destination {
    /// The store.
    pub fn store(self) -> StoreId {
        match self {
            Self::Leader(store) | Self::AnyReplica(store) => store,
        }
    }

    /// Whether nobody has said that it leads.
    pub fn is_guess(self) -> bool {
        matches!(self, Self::AnyReplica(_))
    }
}

/// A gateway's beliefs about the ranges. Wrong beliefs are safe: stores check every call's range
/// and version, and only cost a hop.
///
/// Invariants:
/// - there is exactly one destination per range of the map, and it is one of the range's voters;
/// - `guesses` has the ranges of whose destinations nobody has said that they lead;
/// - `heirs` names only ranges of the map;
/// - `terms` names only ranges of the map.
#[derive(Clone, Debug, Default)]
pub struct RouteCache {
    map: RangeMap,
    /// By range, whom to try next.
    destinations: BTreeMap<RangeId, Destination>,
    guesses: BTreeSet<RangeId>,
    /// Ranges that a split has made, and as whose leader nobody has answered since.
    heirs: BTreeSet<RangeId>,
    /// By range, the newest term in which a store has described it.
    terms: BTreeMap<RangeId, u64>,
}

impl RouteCache {
    /// The route of a call for `name`. `None`: no range is known for it, so ask for descriptors.
    pub fn route(&self, name: &[u8]) -> Option<Route> {
        let descriptor = self.map.at(name)?;
        let to = *self.destinations.get(&descriptor.range).expect("every range has one");
        Some(Route { range: descriptor.range, epoch: descriptor.epoch, to })
    }

    /// The descriptor that is known of a range.
    pub fn descriptor(&self, range: RangeId) -> Option<&Descriptor> {
        self.map.range(range)
    }

    /// Everything known, in order of names.
    pub fn descriptors(&self) -> impl Iterator<Item = &Descriptor> {
        self.map.iter()
    }

    /// The first names of the ranges that are known to follow the one of `name`, in order: as far as
    /// each begins where the one before it ends, at most so many.
    pub fn starts_behind(&self, name: &[u8], max: usize) -> Vec<&[u8]> {
        let mut starts = Vec::new();
        let mut before = self.map.at(name);
        while let Some(end) = before.map(|it| it.bounds.end.as_slice())
            && !end.is_empty()
            && starts.len() < max
        {
            before = self.map.at(end);
            starts.extend(before.map(|_| end));
        }
        starts
    }

    /// Takes a descriptor in, by the rules of [`RangeMap::insert`]. The range keeps its leader if
    /// that still votes; a new range is first tried where the leader was that had its names, since
    /// a split child's replica there campaigns at once.
    ///
    /// When it contradicts something known, neither is trusted: what was known is dropped too.
    pub fn install(&mut self, descriptor: Descriptor) -> Result<(), InsertError> {
        let heir_of = self.leader_before(&descriptor);
        self.install_with(descriptor, heir_of)
    }

    /// The store to try next for a range.
    pub fn destination(&self, range: RangeId) -> Option<Destination> {
        self.destinations.get(&range).copied()
    }

    /// Whether for some range nobody has said who leads, or nobody has answered yet after a split: only
    /// then an answer can teach anything.
    pub fn learns_from_answers(&self) -> bool {
        self.has_guesses() || !self.heirs.is_empty()
    }

    /// Whether for some range nobody has said who leads.
    pub fn has_guesses(&self) -> bool {
        !self.guesses.is_empty()
    }

    /// The ranges of which nobody has said who leads them, by id.
    pub fn guesses(&self) -> impl Iterator<Item = RangeId> {
        self.guesses.iter().copied()
    }

    /// Whether a split has made the range, and nobody has answered as its leader since: that takes a
    /// moment. Others may say who leads before he serves.
    pub fn is_unserved_heir(&self, range: RangeId) -> bool {
        self.heirs.contains(&range)
    }

    /// The moment has passed: the range is like any other without a leader.
    pub fn is_no_heir(&mut self, range: RangeId) {
        self.heirs.remove(&range);
    }

    /// A store answered as the range's leader.
    pub fn on_answered(&mut self, range: RangeId, from: StoreId) {
        if self.is_voter(range, from) {
            self.point(range, Destination::Leader(from));
            self.heirs.remove(&range);
        }
    }

    /// A store described the range: as far as it knows, `leader` leads in `term`. A deposed leader
    /// goes on to name itself until it hears of the next, so only a term newer than all described
    /// before takes the place of a leader that is known; a guess gives way to a term that is as new.
    pub fn on_described(&mut self, range: RangeId, leader: StoreId, term: u64) {
        if !self.is_voter(range, leader) {
            return;
        }
        let newest = self.terms.entry(range).or_default();
        let is_guess = matches!(self.destinations.get(&range), Some(Destination::AnyReplica(_)));
        if term > *newest || (is_guess && term == *newest) {
            *newest = term;
            self.point(range, Destination::Leader(leader));
        }
    }

    /// `from` said that it does not lead the range, and perhaps who does. A refusal by a store that
    /// is not the one to try now teaches nothing: it was sent before something newer was learnt.
    ///
    /// A hint at a store that does not vote in the known descriptor is passed over: either is
    /// stale, and the next voter's answer will tell.
    pub fn on_not_leader(&mut self, range: RangeId, from: StoreId, hint: Option<StoreId>) {
        match self.destinations.get(&range) {
            Some(to) if to.store() == from => {}
            _ => return,
        }
        let next = match hint {
            Some(leader) if leader != from && self.is_voter(range, leader) => {
                Destination::Leader(leader)
            }
            _ => Destination::AnyReplica(self.voter_after(range, from)),
        };
        self.point(range, next);
    }

    /// A store said that a call's range or version was wrong, and what it knows: installs each, and
    /// gives back those refused. Nothing may have changed, when this store is the one behind; the
    /// call's [`Hops`] end such a pursuit.
    pub fn on_epoch_not_match(&mut self, descriptors: Vec<Descriptor>) -> Vec<InsertError> {
        // All heirs first: the first of a split's halves to be installed displaces the parent.
        let heirs: Vec<_> = descriptors.iter().map(|known| self.leader_before(known)).collect();
        let installs = descriptors.into_iter().zip(heirs);
        installs.filter_map(|(known, heir_of)| self.install_with(known, heir_of).err()).collect()
    }

    /// Drops what is known of a range: nothing there answers, or what it answers makes no sense.
    pub fn forget(&mut self, range: RangeId) {
        self.map.remove(range);
        self.unpoint(range);
    }

    fn point(&mut self, range: RangeId, to: Destination) {
        self.destinations.insert(range, to);
        if to.is_guess() {
            self.guesses.insert(range);
        } else {
            self.guesses.remove(&range);
        }
    }

    fn unpoint(&mut self, range: RangeId) {
        self.destinations.remove(&range);
        self.guesses.remove(&range);
        self.heirs.remove(&range);
        self.terms.remove(&range);
    }

    fn install_with(
        &mut self,
        descriptor: Descriptor,
        heir_of: Option<Destination>,
    ) -> Result<(), InsertError> {
        let range = descriptor.range;
        let displaced = match self.map.insert(descriptor) {
            Ok(displaced) => displaced,
            Err(error) => {
                if let InsertError::Contradiction { cached_range, .. } = error {
                    self.forget(cached_range);
                }
                return Err(error);
            }
        };
        let before = self.destinations.get(&range).copied();
        let is_heir = match before {
            Some(_) => self.heirs.contains(&range),
            None => heir_of.is_some(),
        };
        let term = self.terms.get(&range).copied();
        for old in displaced {
            self.unpoint(old.range);
        }
        let keeps = |to: &Destination| self.is_voter(range, to.store());
        let to = before
            .filter(keeps)
            .or_else(|| heir_of.map(|to| Destination::AnyReplica(to.store())).filter(keeps))
            .unwrap_or_else(|| Destination::AnyReplica(self.first_voter(range)));
        self.point(range, to);
        if is_heir {
            self.heirs.insert(range);
        }
        // Terms of a range go on over its descriptors.
        self.terms.extend(term.map(|term| (range, term)));
        Ok(())
    }

    /// The store that is thought to lead the first of the known ranges that share a name with this
    /// one.
    fn leader_before(&self, descriptor: &Descriptor) -> Option<Destination> {
        let overlapped = self.map.overlapping(&descriptor.bounds).next()?;
        self.destinations.get(&overlapped.range).copied()
    }

    fn voters(&self, range: RangeId) -> impl Iterator<Item = StoreId> + Clone {
        let replicas = self.map.range(range).map_or(&[][..], |descriptor| &descriptor.replicas);
        let voters = replicas.iter().filter(|replica| replica.role.votes());
        voters.map(|replica| replica.store)
    }

    fn is_voter(&self, range: RangeId, store: StoreId) -> bool {
        self.voters(range).any(|voter| voter == store)
    }

    fn first_voter(&self, range: RangeId) -> StoreId {
        self.voters(range).next().expect("a well-formed descriptor has a voter")
    }

    /// The voter after `store` in the descriptor's order, around the end.
    fn voter_after(&self, range: RangeId, store: StoreId) -> StoreId {
        let after = self.voters(range).skip_while(|voter| *voter != store).nth(1);
        after.unwrap_or_else(|| self.first_voter(range))
    }
}

/// How often a call has been sent: one per call, asked before each sending.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hops(u32);

impl Hops {
    /// Counts one sending, or refuses it.
    pub fn take(&mut self) -> Result<(), TooManyHops> {
        if self.0 >= HOPS_MAX {
            return Err(TooManyHops);
        }
        self.0 += 1;
        Ok(())
    }
}

/// The call has been sent [`HOPS_MAX`] times without finding its range's leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyHops;

impl fmt::Display for TooManyHops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the leader of the range was not found in {HOPS_MAX} hops")
    }
}

impl std::error::Error for TooManyHops {}

#[cfg(test)]
mod tests;
