//! What gateways and masters are told of a worker's ranges.

use sharklock_proto::internal::v1::{RangeDescriptor, RangeReport};
use sharklock_rangemap::RangeId;

use super::Worker;
use crate::reads::Word;

impl Worker {
    /// The reports for the masters about the ranges that this store leads and answers for, by id.
    pub fn reports(&self) -> Vec<RangeReport> {
        self.fronts.keys().filter_map(|range| self.report(*range)).collect()
    }

    /// How many replicas are here.
    pub fn ranges_count(&self) -> usize {
        self.fronts.len()
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
