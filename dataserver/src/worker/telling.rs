//! What gateways and masters are told of a worker's ranges.

use std::{cmp::Reverse, time::Duration};

use sharklock_proto::internal::v1::{RangeDescriptor, RangeReport};
use sharklock_rangemap::RangeId;

use super::Worker;
use crate::reads::Word;

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
        self.fronts.get(&range)?.leading.as_ref()?;
        let status = self.store.status(range)?;
        let table = self.store.machine(range)?.table();
        Some(RangeReport {
            descriptor: Some(RangeDescriptor::from(self.store.descriptor(range)?)),
            term: status.term,
            applied_index: status.applied,
            locks: table.counts().locks as u64,
            feature_level: table.feature_level(),
        })
    }
}
