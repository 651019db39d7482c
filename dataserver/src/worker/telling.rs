//! What gateways and masters are told of a worker's ranges.

use std::{cmp::Reverse, time::Duration};

use sharklock_multiraft::Orphan;
use sharklock_proto::internal::v1::{OrphanReplica, RangeDescriptor, RangeReport};
use sharklock_rangemap::RangeId;

use super::Worker;
use crate::reads::Word;

/// How often figures are compared with those that the masters have been told.
const FIGURES_EVERY: Duration = Duration::from_secs(10);

/// Figures by which the masters spread ranges over stores.
///
/// Told anew where one has changed by a fifth: they are no measurement, and each costs a row in a
/// heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToldFigures {
    bytes: u64,
    commands_per_second: u64,
    /// Replicas that the leader does not hear of.
    unheard: Vec<u64>,
}

impl ToldFigures {
    fn is_news_after(&self, told: &Self) -> bool {
        let differs = |now: u64, before: u64, floor: u64| {
            now.abs_diff(before) > (now.max(before) / 5).max(floor)
        };
        differs(self.bytes, told.bytes, 64 << 10)
            || differs(self.commands_per_second, told.commands_per_second, 20)
            || self.unheard != told.unheard
    }
}

/// A range that is busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy {
    /// The range.
    pub range: RangeId,
    /// In the last 10 s.
    pub commands_per_second: u64,
    /// Locks with a holder or a waiter.
    pub locks: u64,
    /// Waiting acquisitions.
    pub waiters: u64,
}

impl Busy {
    /// The busiest of them, at most so many.
    pub fn most(of: impl Iterator<Item = Self>, count: usize) -> Vec<Self> {
        let mut all: Vec<_> = of.collect();
        all.sort_by_key(|busy| (Reverse(busy.commands_per_second), busy.range));
        all.truncate(count);
        all
    }
}

impl Worker {
    /// The reports for the masters about the ranges that this store leads and answers for, by id.
    pub fn reports(&self) -> Vec<RangeReport> {
        self.fronts.keys().filter_map(|range| self.report(*range)).collect()
    }

    /// How many replicas are here.
    pub fn ranges_count(&self) -> usize {
        self.fronts.len()
    }

    /// The ranges that this store leads and that get the most commands, the busiest first, at most so
    /// many. None of those that get nothing, or have not been led for long enough to know.
    pub fn busiest(&self, now: Duration, count: usize) -> Vec<Busy> {
        let busy = self.fronts.iter().filter_map(|(range, front)| {
            let per_second = front.load.per_second(now).filter(|it| *it > 0)?;
            let counts = self.store.machine(*range)?.table().counts();
            let (locks, waiters) = (counts.locks as u64, counts.waiters as u64);
            Some(Busy { range: *range, commands_per_second: per_second, locks, waiters })
        });
        Busy::most(busy, count)
    }

    /// The reports that have changed since the last call, each with its range; `None`: this store
    /// does not lead it any more.
    pub fn take_reports(&mut self) -> Vec<(RangeId, Option<RangeReport>)> {
        let changed = std::mem::take(&mut self.unreported);
        changed.into_iter().map(|range| (range, self.report(range))).collect()
    }

    /// The replicas here of which the masters are asked whether they are members still.
    pub fn orphans(&self) -> Vec<OrphanReplica> {
        self.orphans.named()
    }

    /// Finds out which figures have changed since they were told.
    pub(super) fn note_figures(&mut self, now: Duration) {
        if now < self.next_figures {
            return;
        }
        self.next_figures = now + FIGURES_EVERY;
        let orphan = |it: Orphan| OrphanReplica {
            range_id: it.range().0,
            peer_id: it.peer.0,
            conf_ver: it.descriptor.epoch.conf_ver,
            descriptor: Some(RangeDescriptor::from(&it.descriptor)),
            last_term: it.last.term,
            last_index: it.last.index,
            commit_index: it.commit,
            generation: self
                .store
                .machine(it.range())
                .map_or(0, |machine| machine.table().generation().into()),
            is_stopped: it.is_stopped,
            is_empty: it.is_empty,
        };
        self.orphans.look(self.store.orphans().map(orphan));
        for (range, front) in self.fronts.iter_mut().filter(|(_, it)| it.leading.is_some()) {
            let peers = self.store.peers(*range).into_iter();
            let peers = peers.filter(|peer| !peer.is_active && !peer.is_new);
            let figures = ToldFigures {
                bytes: front.weighed,
                commands_per_second: front.load.per_second(now).unwrap_or(0),
                unheard: peers.map(|peer| peer.peer.0).collect(),
            };
            if figures.is_news_after(&front.told) {
                front.told = figures;
                self.unreported.insert(*range);
            }
        }
    }

    /// A range has been looked at. If others are to know of what has changed, it is told at the
    /// next opportunity.
    pub(super) fn note(&mut self, range: RangeId) {
        if self.journal.note(range, self.word(range)) {
            self.unreported.insert(range);
        }
    }

    /// What others are told of a range, if it is here.
    fn word(&self, range: RangeId) -> Option<Word> {
        let (front, descriptor) = (self.fronts.get(&range)?, self.store.descriptor(range)?);
        let (term, leader) = front.led;
        let feature_level = self.store.machine(range)?.table().feature_level();
        Some(Word { epoch: descriptor.epoch, term, leader, feature_level })
    }

    fn report(&self, range: RangeId) -> Option<RangeReport> {
        let front = self.fronts.get(&range).filter(|front| front.leading.is_some())?;
        let ToldFigures { bytes, commands_per_second, unheard } = front.told.clone();
        let status = self.store.status(range)?;
        let table = self.store.machine(range)?.table();
        Some(RangeReport {
            descriptor: Some(RangeDescriptor::from(self.store.descriptor(range)?)),
            term: status.term,
            applied_index: status.applied,
            locks: table.counts().locks as u64,
            feature_level: table.feature_level(),
            bytes,
            commands_per_second,
            unheard_peers: unheard,
        })
    }
}
