//! Recoveries of ranges that have lost their majority, as the masters have them in their log. They are
//! told to the stores that go on, by whichever master leads; those that are over are the audit record.

use std::collections::BTreeMap;

use sharklock_proto::{
    internal::v1::{GoOnAlone, RecoveryRow},
    v1::{Recovery, RecoveryState},
};
use sharklock_rangemap::{Bounds, Descriptor, Epoch, PeerId, RangeId, StoreId};

/// Recoveries that are remembered once they are over, for people.
const OVER_MAX: usize = 1_024;

/// What was decided about a range whose majority is lost for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryRecord {
    /// Given once.
    pub id: u64,
    /// The range.
    pub range: RangeId,
    /// How it stands.
    pub state: RecoveryState,
    /// Who has ordered it.
    pub by: String,
    /// When, by the clock of a gateway, for people.
    pub at_unix_ms: u64,
    /// Stores that were declared lost for it.
    pub lost: Vec<StoreId>,
    /// Where the replica is that goes on, and its ids before and after.
    pub store: StoreId,
    /// See `store`.
    pub peer: PeerId,
    /// See `store`.
    pub as_peer: PeerId,
    /// Term and index of the last entry that it had, for people.
    pub last: (u64, u64),
    /// Of the range from then on.
    pub epoch: Epoch,
    /// The term of the replica from then on, at least.
    pub term: u64,
    /// Its names: what is behind them belongs to other ranges.
    pub bounds: Bounds,
    /// Of the tokens from then on, at least.
    pub generation: u16,
    /// It grants at once.
    pub now: bool,
}

/// All recoveries that are known.
///
/// Invariants:
/// - `running` has exactly those of `all` that run, by their ranges: a range has one at most;
/// - at most `OVER_MAX` are over: the last of them, and those with the largest ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recoveries {
    all: BTreeMap<u64, RecoveryRecord>,
    running: BTreeMap<RangeId, u64>,
}

/// Those that have changed, as they were before; `None`: they were not there.
type Changed = Vec<(u64, Option<RecoveryRecord>)>;

impl Recoveries {
    /// All that are remembered, in order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = &RecoveryRecord> {
        self.all.values()
    }

    /// By its id, if it is remembered.
    pub fn get(&self, id: u64) -> Option<&RecoveryRecord> {
        self.all.get(&id)
    }

    /// The one of a range that runs.
    pub fn of(&self, range: RangeId) -> Option<&RecoveryRecord> {
        self.running.get(&range).map(|id| &self.all[id])
    }

    /// Those that run.
    pub fn running(&self) -> impl Iterator<Item = &RecoveryRecord> {
        self.running.values().map(|id| &self.all[id])
    }

    /// Those that run and are a store's to carry out.
    pub fn at(&self, store: StoreId) -> impl Iterator<Item = &RecoveryRecord> {
        self.running().filter(move |it| it.store == store)
    }

    pub(crate) fn insert(&mut self, record: RecoveryRecord) -> Result<(), String> {
        let (id, range) = (record.id, record.range);
        if record.state == RecoveryState::Running
            && let Some(other) = self.running.insert(range, id)
        {
            return Err(format!("recoveries {other} and {id} both run for range {range}"));
        }
        self.all.insert(id, record);
        Ok(())
    }

    /// One begins, in the place of one that runs for the range.
    pub(super) fn begin(&mut self, record: RecoveryRecord) -> Changed {
        let mut before = self.end(record.range, RecoveryState::Overtaken);
        before.push((record.id, None));
        self.insert(record).unwrap_or_else(|why| panic!("{why}"));
        before
    }

    /// The leader of a range has reported it so: what was recovered has gone on.
    pub(super) fn reported(&mut self, descriptor: &Descriptor) -> Changed {
        match self.of(descriptor.range) {
            Some(running) if running.epoch.conf_ver <= descriptor.epoch.conf_ver => {
                self.end(descriptor.range, RecoveryState::Done)
            }
            _ => Vec::new(),
        }
    }

    fn end(&mut self, range: RangeId, state: RecoveryState) -> Changed {
        let Some(id) = self.running.remove(&range) else { return Vec::new() };
        let record = self.all.get_mut(&id).expect("what runs is known");
        let mut before = vec![(id, Some(record.clone()))];
        record.state = state;
        while self.all.len() - self.running.len() > OVER_MAX {
            let is_over = |it: &&RecoveryRecord| it.state != RecoveryState::Running && it.id != id;
            let oldest =
                self.all.values().find(is_over).map(|it| it.id).expect("more than one is over");
            before.push((oldest, self.all.remove(&oldest)));
        }
        before
    }
}

impl RecoveryRecord {
    /// As the store is told that is to carry it out.
    pub fn order(&self) -> GoOnAlone {
        GoOnAlone {
            range_id: self.range.0,
            peer_id: self.peer.0,
            as_peer_id: self.as_peer.0,
            conf_ver: self.epoch.conf_ver,
            version: self.epoch.version,
            term: self.term,
            end: self.bounds.end.clone().into(),
            generation: self.generation.into(),
            waits: !self.now,
        }
    }

    /// As people are told.
    pub fn to_wire(&self) -> Recovery {
        Recovery {
            recovery_id: self.id,
            range_id: self.range.0,
            state: self.state.into(),
            by: self.by.clone(),
            at_unix_ms: self.at_unix_ms,
            lost_store_ids: self.lost.iter().map(|store| store.0).collect(),
            store_id: self.store.0,
            peer_id: self.peer.0,
            as_peer_id: self.as_peer.0,
            last_term: self.last.0,
            last_index: self.last.1,
            conf_ver: self.epoch.conf_ver,
            version: self.epoch.version,
            generation: self.generation.into(),
            now: self.now,
        }
    }

    pub(crate) fn to_row(&self) -> RecoveryRow {
        let recovery = Some(self.to_wire());
        let Bounds { start, end } = self.bounds.clone();
        RecoveryRow { recovery, start: start.into(), end: end.into(), term: self.term }
    }

    pub(crate) fn from_row(row: RecoveryRow) -> Result<Self, String> {
        let RecoveryRow { recovery, start, end, term } = row;
        let recovery = recovery.ok_or("it has no recovery")?;
        let state = recovery.state();
        let generation = u16::try_from(recovery.generation);
        Ok(Self {
            id: recovery.recovery_id,
            range: RangeId(recovery.range_id),
            state,
            by: recovery.by,
            at_unix_ms: recovery.at_unix_ms,
            lost: recovery.lost_store_ids.into_iter().map(StoreId).collect(),
            store: StoreId(recovery.store_id),
            peer: PeerId(recovery.peer_id),
            as_peer: PeerId(recovery.as_peer_id),
            last: (recovery.last_term, recovery.last_index),
            epoch: Epoch { version: recovery.version, conf_ver: recovery.conf_ver },
            term,
            bounds: Bounds { start: start.to_vec(), end: end.to_vec() },
            generation: generation.map_err(|_| "generation: beyond 16 bits")?,
            now: recovery.now,
        })
    }
}
