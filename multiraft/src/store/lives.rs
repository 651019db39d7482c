//! How replicas come to a store and leave it: the one creation path, and tombstones (D12).
//!
//! A replica is here once its first records are durable; until then it is kept aside, and nothing of
//! it is stepped, sent or changed. It is gone, with all its records, in the batch that has its
//! tombstone.

use sharklock_rangemap::{Bounds, Descriptor, PeerId, RangeId};

use super::Store;
use crate::birth::{self, Birth, INITIAL};
use crate::burial;
use crate::create::{self, CreateError};
use crate::effects::{Effects, NotProposed};
use crate::range_state::Half;
use crate::recover::{RecoverError, Replayed};
use crate::replica::{Address, Loaded, Replica};
use crate::snapshot::Reserve;
use crate::split::SplitMark;
use crate::staging::Incarnation;
use crate::state_machine::StateMachine;

/// The log that is kept for a child that does not live, in ordinary logs.
const AWAITED_LOGS: u64 = 16;
/// Children of a range that do not live: a leader makes no more. Each keeps its mark, a part of the
/// log, and a replica that nobody leads.
const AWAITED_CHILDREN_MAX: usize = 64;

/// A child that has been split off a range and is not known to live: nobody has led it yet. The
/// range's log is kept for it from the split on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AwaitedChild {
    /// The child.
    pub child: RangeId,
    /// The range's log takes so much memory by now.
    pub log_bytes: u64,
    /// Beyond so much the owner is to take nothing new in: the log is not cut while it leads.
    pub log_bytes_max: u64,
}

impl AwaitedChild {
    /// Whether the log has become too long.
    pub fn is_too_much(&self) -> bool {
        self.log_bytes > self.log_bytes_max
    }
}

/// A replica whose first records are on their way to the disk.
pub(super) struct Unborn<M> {
    pub(super) loaded: Loaded<M>,
    /// The range of which it is a half.
    pub(super) parent: Option<RangeId>,
}

impl<M: StateMachine> Unborn<M> {
    pub(super) fn descriptor(&self) -> &Descriptor {
        self.loaded.state.descriptor()
    }
}

impl<M: StateMachine> Store<M> {
    /// Makes a replica of a first range, as [`crate::bootstrap`] does on a fresh disk, with the state
    /// that all of its replicas begin with. Its records go into the next batch, and it is here once they are durable. Where the
    /// range is already, with an equal descriptor, nothing happens.
    pub fn create(&mut self, descriptor: Descriptor, machine: M) -> Result<(), CreateError> {
        match self.has_or_can_have(&descriptor)? {
            Known::Here => {}
            Known::New => self.bear(birth::first(descriptor, machine)),
        }
        Ok(())
    }

    /// Makes an empty replica, for which the leader of its range has asked. It votes, and waits for a
    /// snapshot.
    pub(super) fn create_shell(&mut self, descriptor: Descriptor) -> Result<(), CreateError> {
        match self.has_or_can_have(&descriptor) {
            // Whatever became of it since.
            Ok(Known::Here) | Err(CreateError::Differs(_)) => {}
            Ok(Known::New) => self.bear(birth::shell(descriptor)),
            Err(refused) => return Err(refused),
        }
        Ok(())
    }

    /// Whether this replica is here, or could be made.
    fn has_or_can_have(&self, descriptor: &Descriptor) -> Result<Known, CreateError> {
        let offered = create::check(descriptor, self.ident.store)?;
        let range = descriptor.range;
        let here = self.replicas.get(&range).map(Replica::descriptor);
        let unborn = || self.unborn.get(&range).map(Unborn::descriptor);
        if let Some(known) = here.or_else(unborn) {
            return if known == descriptor {
                Ok(Known::Here)
            } else {
                Err(CreateError::Differs(range))
            };
        }
        if let Some(peer) = self.tombstone(range).filter(|peer| *peer >= offered) {
            return Err(CreateError::Buried { range, peer, offered });
        }
        match self.overlapping(&descriptor.bounds) {
            Some(other) => Err(CreateError::Overlap { range, other }),
            None => Ok(Known::New),
        }
    }

    /// Whether a replica of this range is here, is on its way, or was here.
    pub(super) fn has_or_had(&self, range: RangeId) -> bool {
        self.replicas.contains_key(&range)
            || self.unborn.contains_key(&range)
            || self.tombstones.contains_key(&range)
    }

    /// A range here, or on its way, that has one of these names.
    fn overlapping(&self, bounds: &Bounds) -> Option<RangeId> {
        // Those here do not overlap each other, so only the neighbours can overlap the new one.
        let before = self.by_start.range(..bounds.start.clone()).next_back();
        let after = self.by_start.range(bounds.start.clone()..).next();
        let mut neighbours = before.into_iter().chain(after).map(|(_, range)| *range);
        let mut unborn = self.unborn.iter();
        neighbours.find(|range| self.replicas[range].descriptor().bounds.overlaps(bounds)).or_else(
            || {
                let overlaps = |it: &Unborn<M>| it.descriptor().bounds.overlaps(bounds);
                unborn.find(|(_, it)| overlaps(it)).map(|(range, _)| *range)
            },
        )
    }

    /// The descriptor of the range that has a name, if a replica of it is here or on its way: the child
    /// of a split that is applied is a fact before its first records are durable, and whoever asks
    /// the parent for one of its names is to be told.
    pub fn descriptor_at(&self, name: &[u8]) -> Option<&Descriptor> {
        let here = self.range_at(name).and_then(|range| self.descriptor(range));
        let mut unborn = self.unborn.values().map(Unborn::descriptor);
        here.or_else(|| unborn.find(|it| it.bounds.contains(name)))
    }

    /// The descriptors of the replicas that are on their way: each is a fact, and its first records are
    /// not durable.
    pub fn coming(&self) -> impl Iterator<Item = &Descriptor> {
        self.unborn.values().map(Unborn::descriptor)
    }

    fn bear(&mut self, birth: Birth<M>) {
        let Birth { loaded, records } = birth;
        let range = loaded.state.descriptor().range;
        self.staging.put_all(records);
        self.staging.bear(range);
        self.await_birth(Unborn { loaded, parent: None });
    }

    pub(super) fn await_birth(&mut self, unborn: Unborn<M>) {
        let range = unborn.descriptor().range;
        let before = self.unborn.insert(range, unborn);
        assert!(before.is_none(), "range {range} is born twice");
    }

    /// The upper half of a range comes into being here, unless a replica of it is or was here that is
    /// as new: then this entry is late. Its records are in no batch before [`dividing`](super::dividing)
    /// has taken them all.
    pub(super) fn bear_half(&mut self, parent: RangeId, half: Half<M>) {
        let child = half.descriptor.range;
        let member = half.descriptor.on_store(self.ident.store);
        let peer = member.expect("a child is where its parent is").peer;
        let here = self.replicas.get(&child).map(Replica::peer);
        let known = here.max(self.tombstone(child));
        if known.is_some_and(|known| known >= peer) {
            tracing::info!(range = %parent, %child, "a split comes late: its child was here before");
            self.discarded.push(half.machine);
            return;
        }
        if let Some(other) = self.overlapping(&half.descriptor.bounds) {
            panic!("range {child}, split off {parent}, overlaps with {other}, which is here");
        }
        tracing::info!(range = %parent, %child, "a range is split");
        let Birth { loaded, records } = birth::half(half);
        self.await_birth(Unborn { loaded, parent: Some(parent) });
        self.dividing.begin(child, parent, records);
        if let Some(replica) = self.replicas.get_mut(&parent) {
            replica.set_dividing(true);
        }
    }

    /// The first records of a replica are durable.
    pub(super) fn is_born(&mut self, range: RangeId, effects: &mut Effects<M::Output>) {
        let Some(Unborn { loaded, parent }) = self.unborn.remove(&range) else { return };
        let leads = |parent| self.replicas.get(&parent).is_some_and(Replica::leads_now);
        let is_first = parent.is_some_and(leads);
        self.admit(loaded).expect("its state was made here");
        effects.born.push(range);
        let replica = self.replicas.get_mut(&range).expect("it has just been admitted");
        if is_first && !replica.leads_now() {
            // It has the most reason to lead: its clients are here already.
            replica.campaign_eagerly().expect("it is new, and follows");
        }
        if let Some(request) = self.early_votes.take(range) {
            self.hear(request);
        }
    }

    /// All that recovery has found.
    pub(super) fn admit_all(&mut self, found: Vec<Replayed<M>>) -> Result<(), RecoverError> {
        let mut all_halves = Vec::new();
        for Replayed { peer, loaded, halves } in found {
            let range = loaded.state.descriptor().range;
            let is_member = loaded.state.descriptor().on_store(self.ident.store).is_some();
            match is_member {
                true => self.admit(loaded)?,
                false => self.leave_tombstone(range, peer),
            }
            all_halves.extend(halves.into_iter().map(|half| (range, half)));
        }
        let mut parents = Vec::new();
        for (parent, half) in all_halves {
            self.bear_half(parent, half);
            parents.push(parent);
        }
        // What was not in the image must get there with what was split off. Nobody waits for a turn.
        parents.dedup();
        parents.into_iter().for_each(|parent| self.divide_at_once(parent));
        Ok(())
    }

    fn admit(&mut self, loaded: Loaded<M>) -> Result<(), RecoverError> {
        let descriptor = loaded.state.descriptor();
        let range = descriptor.range;
        let corrupt = |why| RecoverError::corrupt(format!("range {range}"), why);
        if let Some(other) = self.overlapping(&descriptor.bounds) {
            return Err(corrupt(format!("its names overlap with those of {other}")));
        }
        let start = descriptor.bounds.start.clone();
        let here = descriptor.on_store(self.ident.store);
        let peer = here.expect("its descriptor was checked to name this store").peer;
        if let Some(buried) = self.tombstone(range).filter(|buried| *buried >= peer) {
            return Err(corrupt(format!("peer {peer} is here, and the tombstone of {buried}")));
        }
        self.last_incarnation += 1;
        let address = Address {
            cluster_id: self.ident.cluster_id.to_wire(),
            store: self.ident.store,
            peer,
            incarnation: Incarnation(self.last_incarnation),
        };
        let refused = |error: raft::Error| corrupt(format!("Raft refuses its state: {error}"));
        let mut replica = Replica::new(address, loaded).map_err(refused)?;
        if let Some(why) = replica.lost() {
            tracing::error!(%range, peer = %replica.peer(), %why, "a replica's disk counts as lost");
            self.lost.insert(range);
        } else if replica.votes_alone() {
            replica.campaign().map_err(refused)?;
        }
        self.by_start.insert(start, range);
        self.work.insert(range);
        self.unflushed.insert(range);
        self.replicas.insert(range, replica);
        Ok(())
    }

    /// After a replica had its turn: what was split off is born, and a replica that is no member any
    /// more ends. Image and halves go into one batch: a crash leaves both or neither.
    pub(super) fn follow_life(&mut self, range: RangeId, effects: &mut Effects<M::Output>) {
        let Some(replica) = self.replicas.get_mut(&range) else { return };
        if let Some(alone) = replica.take_alone()
            && self.goes_on_alone(range, &alone, effects)
        {
            return;
        }
        let Some(replica) = self.replicas.get_mut(&range) else { return };
        let (halves, is_changed) = (replica.take_halves(), replica.take_change());
        let (is_removed, needs_flush) = (replica.is_removed(), replica.needs_flush());
        for half in halves {
            self.bear_half(range, half);
        }
        if is_changed && !is_removed {
            effects.changed.push(range);
        }
        if self.is_dividing(range) && !is_removed {
            self.begin_dividing(range);
        } else if is_changed && !is_removed && needs_flush {
            self.stage_image(range);
        }
        if is_removed {
            self.divide_at_once(range);
            self.bury(range);
            effects.gone.push(range);
        }
    }

    /// The range goes on without the replica here, and that is known for sure: a committed
    /// configuration does not have it.
    fn bury(&mut self, range: RangeId) {
        let Some(replica) = self.take_out(range) else { return };
        tracing::info!(%range, peer = %replica.peer(), "a replica ends: its range goes on without it");
        self.leave_tombstone(range, replica.peer());
        self.discarded.extend(replica.into_machines());
    }

    /// Nothing of the replica here happens any more.
    pub(super) fn take_out(&mut self, range: RangeId) -> Option<Replica<M>> {
        let replica = self.replicas.remove(&range)?;
        self.by_start.remove(&replica.descriptor().bounds.start);
        self.work.remove(&range);
        self.lost.remove(&range);
        self.behind.remove(&range);
        self.unflushed.remove(&range);
        self.flush_due.remove(&range);
        self.transfers.forget(range);
        Some(replica)
    }

    fn leave_tombstone(&mut self, range: RangeId, peer: PeerId) {
        self.staging.put_all(burial::records(range, peer));
        self.tombstones.insert(range, peer);
        self.buried.push((range, peer));
    }

    /// A replica that never came here is removed: it must not be made by a message that is late.
    pub(super) fn bury_unseen(&mut self, range: RangeId, peer: PeerId) {
        let is_known = self.unborn.contains_key(&range) || self.tombstone(range) >= Some(peer);
        if !is_known {
            self.staging.put(burial::tombstone(range, peer));
            self.tombstones.insert(range, peer);
            self.buried.push((range, peer));
        }
    }

    /// Puts the image of a range into the next batch.
    pub(super) fn stage_image(&mut self, range: RangeId) {
        let live: Vec<_> = {
            let splits = self.replicas[&range].splits().iter();
            splits.map(|split| split.child).filter(|child| self.lives(*child)).collect()
        };
        let replica = self.replicas.get_mut(&range).expect("its image is due");
        replica.forget_splits(|child| live.contains(&child));
        let reserve = self.log_reserve(range);
        let replica = self.replicas.get_mut(&range).expect("it was there a line above");
        replica.stage_image(&self.config.log, reserve, &mut self.staging);
    }

    /// What the log of a range is kept for beyond its maxima: snapshots, and splits whose children do
    /// not live yet. A store that lacks such an entry could learn of the child by nothing else, so a
    /// leader never cuts it: its owner takes nothing new in at some length. Whoever follows keeps more
    /// than a leader that does so ever has. If its log is longer still, the leader has none to keep:
    /// the child lives, and only the replica here does not know.
    pub(super) fn log_reserve(&self, range: RangeId) -> Option<Reserve> {
        let replica = self.replicas.get(&range)?;
        let awaited = self.awaited_splits(replica).map(|split| split.at.index - 1).min();
        let bytes = match replica.leads_now() {
            true => u64::MAX,
            false => self.log_bytes_max().saturating_mul(2),
        };
        let awaited = awaited.map(|from| Reserve { from, bytes });
        awaited.into_iter().chain(self.transfers.log_reserve(range)).reduce(Reserve::and)
    }

    /// The splits in the log of a replica whose children are not known to live.
    fn awaited_splits(&self, replica: &Replica<M>) -> impl Iterator<Item = SplitMark> {
        let first = replica.log().first();
        let splits = replica.splits().iter().copied();
        splits.filter(move |split| first <= split.at.index && self.is_awaited(split.child))
    }

    /// Whether one child more of this range may have to be waited for.
    pub(super) fn may_await_another(&self, range: RangeId) -> Result<(), NotProposed> {
        let marks = self.replicas.get(&range).into_iter().flat_map(Replica::splits);
        let count = marks.filter(|split| self.is_awaited(split.child)).count();
        if count < AWAITED_CHILDREN_MAX {
            Ok(())
        } else {
            Err(NotProposed::ChildrenAwaited { count })
        }
    }

    /// So long a log is kept for a child before the range is to take nothing new in.
    fn log_bytes_max(&self) -> u64 {
        AWAITED_LOGS.saturating_mul(self.config.log.bytes_max)
    }

    /// The first of the children of this range that do not live yet, if the log here is kept for one.
    pub fn awaited_child(&self, range: RangeId) -> Option<AwaitedChild> {
        let replica = self.replicas.get(&range)?;
        let child = self.awaited_splits(replica).next()?.child;
        let (log_bytes, log_bytes_max) = (replica.log().bytes(), self.log_bytes_max());
        Some(AwaitedChild { child, log_bytes, log_bytes_max })
    }

    /// Whether the child of a split is here and has not been heard to live.
    fn is_awaited(&self, child: RangeId) -> bool {
        let is_here = self.replicas.contains_key(&child) || self.unborn.contains_key(&child);
        is_here && !self.lives(child)
    }

    /// Whether a majority of a child's replicas is known to be there: it has committed an entry of a
    /// term of its own, its leader has asked for the one here, or it has gone on without the one here.
    fn lives(&self, child: RangeId) -> bool {
        match self.replicas.get(&child) {
            Some(replica) => replica.applied().term > INITIAL || replica.is_shell(),
            None => self.tombstones.contains_key(&child),
        }
    }
}

/// Whether a replica that is to be made is new.
enum Known {
    Here,
    New,
}
