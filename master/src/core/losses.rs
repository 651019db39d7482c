//! What is left of ranges without a leader, by the word of the stores that have it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use sharklock_proto::internal::v1::OrphanReplica;
use sharklock_rangemap::{Descriptor, PeerId, RangeId, Replica, Role, StoreId};

/// A replica that has said that it hears of no leader.
#[derive(Clone, Debug)]
pub(super) struct Orphan {
    pub peer: PeerId,
    pub descriptor: Descriptor,
    /// Term and index.
    pub last: (u64, u64),
    pub commit: u64,
    pub generation: u16,
    pub is_stopped: bool,
    pub is_empty: bool,
}

/// For so long a store is asked about a range of which somebody has wanted to know.
const ASKED_FOR: Duration = Duration::from_secs(60);

/// What the stores have said of replicas without a leader, each with its last heartbeat. Soft: a leading
/// master learns it anew.
#[derive(Debug, Default)]
pub(super) struct Losses {
    orphans: BTreeMap<StoreId, BTreeMap<RangeId, Orphan>>,
    /// Ranges of which a store has no replica, though it is a member.
    absent: BTreeMap<StoreId, BTreeSet<RangeId>>,
    /// What stores are asked, and since when.
    asked: BTreeMap<(StoreId, RangeId), Duration>,
}

impl Losses {
    /// A store has said which of its replicas hear of no leader, and of which ranges it has none.
    pub(super) fn hear(&mut self, store: StoreId, orphans: &[OrphanReplica], absent: &[u64]) {
        match absent.is_empty() {
            true => self.absent.remove(&store),
            false => self.absent.insert(store, absent.iter().copied().map(RangeId).collect()),
        };
        let orphans: BTreeMap<_, _> = orphans.iter().filter_map(Orphan::of).collect();
        match orphans.is_empty() {
            true => self.orphans.remove(&store),
            false => self.orphans.insert(store, orphans),
        };
    }

    /// The ranges that a store is to say something about.
    pub(super) fn asked(&mut self, now: Duration, store: StoreId) -> Vec<u64> {
        self.asked.retain(|_, since| now.saturating_sub(*since) < ASKED_FOR);
        let of_store = (store, RangeId(0))..=(store, RangeId(u64::MAX));
        self.asked.range(of_store).map(|((_, range), _)| range.0).collect()
    }

    pub fn ask(&mut self, now: Duration, range: RangeId, stores: Vec<StoreId>) {
        self.asked.extend(stores.into_iter().map(|store| ((store, range), now)));
    }

    pub fn is_absent(&self, store: StoreId, range: RangeId) -> bool {
        self.absent.get(&store).is_some_and(|ranges| ranges.contains(&range))
    }

    pub fn of(&self, range: RangeId) -> BTreeMap<StoreId, &Orphan> {
        let all = self.orphans.iter();
        all.filter_map(|(store, of_store)| Some((*store, of_store.get(&range)?))).collect()
    }

    /// All replicas that hear of no leader.
    pub fn all(&self) -> impl Iterator<Item = &Orphan> {
        self.orphans.values().flat_map(BTreeMap::values)
    }
}

impl Orphan {
    /// One that is not well-formed is passed over: nothing could be decided from it.
    fn of(told: &OrphanReplica) -> Option<(RangeId, Self)> {
        let descriptor = Descriptor::try_from(told.descriptor.as_ref()?).ok()?;
        let orphan = Self {
            peer: PeerId(told.peer_id),
            last: (told.last_term, told.last_index),
            commit: told.commit_index,
            generation: u16::try_from(told.generation).ok()?,
            is_stopped: told.is_stopped,
            is_empty: told.is_empty,
            descriptor,
        };
        let is_of_it = orphan.descriptor.range == RangeId(told.range_id);
        is_of_it.then_some((orphan.descriptor.range, orphan))
    }
}

/// A range, by what its replicas have said.
///
/// Invariants: a replica of `base` is in `left`, or on a store of `silent`, `absent` or `missing`.
pub(super) struct Survey<'a> {
    pub range: RangeId,
    /// The newest configuration that anybody knows.
    pub base: Descriptor,
    /// Its replicas that hear of no leader.
    pub left: BTreeMap<StoreId, &'a Orphan>,
    /// Stores that are heard of, and have said nothing of theirs.
    pub silent: Vec<StoreId>,
    /// Stores that are heard of, and have no replica.
    pub absent: Vec<StoreId>,
    /// Stores that are not heard of.
    pub missing: Vec<StoreId>,
}

impl Survey<'_> {
    /// Whether those that are heard of could elect a leader.
    pub fn has_majority(&self) -> bool {
        let is_stopped =
            |store: &StoreId| self.left.get(store).is_some_and(|orphan| orphan.is_stopped);
        let is_up = |Replica { store, .. }: &&Replica| {
            !self.missing.contains(store) && !self.absent.contains(store) && !is_stopped(store)
        };
        let decides = |votes: fn(Role) -> bool| {
            let voters = self.base.replicas.iter().filter(|it| votes(it.role));
            2 * voters.clone().filter(is_up).count() > voters.count()
        };
        decides(Role::votes_incoming) && (!self.base.is_joint() || decides(Role::votes_outgoing))
    }

    /// The one that has most of the log.
    pub fn chosen(&self) -> Option<(StoreId, &Orphan)> {
        let is_whole = |orphan: &Orphan| !orphan.is_stopped && !orphan.is_empty;
        let whole = self.left.iter().filter(|(_, orphan)| is_whole(orphan));
        // Of equal ones the first.
        let best = whole.rev().max_by_key(|(_, orphan)| orphan.last)?;
        Some((*best.0, *best.1))
    }
}
