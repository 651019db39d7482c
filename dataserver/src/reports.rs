//! What the masters are told of the ranges that are led here: once, and then what has changed. The
//! leading master says up to where it has heard, so whatever was lost, or was said to a master that
//! leads no more, is said again. A core: heartbeats carry it.

use std::collections::BTreeMap;

use sharklock_proto::internal::v1::{RangeReport, StoreHeartbeatRequest};
use sharklock_rangemap::RangeId;

use crate::journal::Journal;

/// Ranges in one heartbeat: some 200 KiB.
const PAGE: usize = 1_000;

/// Of one life of a store, all its workers together.
///
/// Invariants: `led_by` has exactly the ranges of which the journal has a report; `heard` is what the master that answered last has said, and nothing else; every
/// heartbeat begins behind it.
#[derive(Debug)]
pub struct Reports {
    journal: Journal<RangeReport>,
    /// The worker that leads a range, as far as they have said.
    led_by: BTreeMap<RangeId, usize>,
    page: usize,
    heard: u64,
    /// The change with which the last heartbeat ended, and whether it left something over.
    said: (u64, bool),
}

impl Default for Reports {
    fn default() -> Self {
        Self::in_pages_of(PAGE)
    }
}

impl Reports {
    /// With at most so many ranges in one heartbeat.
    pub fn in_pages_of(page: usize) -> Self {
        Self {
            journal: Journal::default(),
            led_by: BTreeMap::new(),
            page,
            heard: 0,
            said: (0, false),
        }
    }

    /// What has changed at a worker; `None`: it does not lead the range any more. It may say so later
    /// than another one says that it leads the range.
    pub fn note(
        &mut self,
        worker: usize,
        changed: impl IntoIterator<Item = (RangeId, Option<RangeReport>)>,
    ) {
        for (range, report) in changed {
            match &report {
                Some(_) => _ = self.led_by.insert(range, worker),
                None if self.led_by.get(&range) == Some(&worker) => {
                    self.led_by.remove(&range);
                }
                None => continue,
            }
            self.journal.note(range, report);
        }
    }

    /// What the next heartbeat says of ranges.
    pub fn heartbeat(&mut self) -> StoreHeartbeatRequest {
        let page = self.journal.since(self.heard, self.page);
        self.said = (page.upto, page.has_more);
        StoreHeartbeatRequest {
            since: page.since,
            upto: page.upto,
            // What is led no more needs no word: its next leader tells.
            ranges: page.changes.into_iter().filter_map(|(_, report)| report).collect(),
            leaders_count: u32::try_from(self.journal.len()).unwrap_or(u32::MAX),
            ..StoreHeartbeatRequest::default()
        }
    }

    /// A leading master has answered, and has `heard` everything up to this change. True: it takes
    /// in what it is told, and there is more: the next heartbeat is to follow at once.
    pub fn answered(&mut self, heard: u64) -> bool {
        let (upto, has_more) = self.said;
        self.heard = heard;
        has_more && heard >= upto
    }
}

#[cfg(test)]
mod tests {
    use sharklock_proto::internal::v1::RangeDescriptor;

    use super::*;

    fn report(range: u64, term: u64) -> (RangeId, Option<RangeReport>) {
        let descriptor = RangeDescriptor { range_id: range, ..RangeDescriptor::default() };
        let report = RangeReport { descriptor: Some(descriptor), term, ..RangeReport::default() };
        (RangeId(range), Some(report))
    }

    /// A leading master, as far as reports go: `sharklock_master::presence` has the same rule.
    #[derive(Default)]
    struct Master {
        heard: u64,
        terms: BTreeMap<u64, u64>,
    }

    impl Master {
        fn hears(&mut self, beat: &StoreHeartbeatRequest) -> u64 {
            if beat.since <= self.heard {
                self.heard = self.heard.max(beat.upto);
                for report in &beat.ranges {
                    let range = report.descriptor.as_ref().expect("it is set").range_id;
                    self.terms.insert(range, report.term);
                }
            }
            self.heard
        }
    }

    fn shape(beat: &StoreHeartbeatRequest) -> (u64, usize, u64) {
        (beat.since, beat.ranges.len(), beat.upto)
    }

    #[test]
    fn everything_is_said_once_in_bounded_parts_and_then_only_what_has_changed() {
        let mut reports = Reports::default();
        reports.note(0, (1..=2_500).map(|range| report(range, 1)));
        let beat = |reports: &mut Reports| {
            let beat = reports.heartbeat();
            (shape(&beat), reports.answered(beat.upto))
        };
        assert_eq!(beat(&mut reports), ((0, 1_000, 1_000), true));
        assert_eq!(beat(&mut reports), ((1_000, 1_000, 2_000), true));
        assert_eq!(beat(&mut reports), ((2_000, 500, 2_500), false));
        assert_eq!(beat(&mut reports), ((2_500, 0, 2_500), false));
        reports.note(0, [report(7, 1), report(8, 2), (RangeId(9), None)]);
        assert_eq!(beat(&mut reports), ((2_500, 1, 2_502), false));
        assert_eq!(reports.heartbeat().leaders_count, 2_499);
    }

    #[test]
    fn what_nobody_answered_is_said_again_and_whoever_has_heard_less_hears_the_rest() {
        let mut reports = Reports::in_pages_of(10);
        reports.note(0, (1..=15).map(|range| report(range, 1)));
        assert_eq!(shape(&reports.heartbeat()), (0, 10, 10));
        assert_eq!(shape(&reports.heartbeat()), (0, 10, 10), "no answer came");
        assert!(reports.answered(10));
        assert_eq!(shape(&reports.heartbeat()), (10, 5, 15));
        assert!(!reports.answered(0), "another master leads; its log may be full, so not at once");
        assert_eq!(shape(&reports.heartbeat()), (0, 10, 10));
        assert!(reports.answered(15), "it had heard that already, and only its answer was lost");
        assert_eq!(shape(&reports.heartbeat()), (15, 0, 15));
    }

    #[test]
    fn masters_in_turn_and_lost_answers_leave_no_master_without_a_report() {
        // A small generator of its own: no two steps alike, and each run the same.
        let mut state = 0x9e37_79b9_u64;
        let mut next = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % below
        };
        let mut reports = Reports::in_pages_of(3);
        let mut truth = BTreeMap::new();
        // The second is one that was deposed and does not know: it answers all the same.
        let mut masters = [Master::default(), Master::default()];
        for step in 1..=4_000 {
            let range = next(20);
            truth.insert(range, step);
            reports.note(0, [report(range, step)]);
            let at = next(2) as usize;
            match next(8) {
                0 => masters[at] = Master::default(),
                1 => _ = masters[at].hears(&reports.heartbeat()),
                2 => _ = reports.heartbeat(),
                _ => {
                    let heard = masters[at].hears(&reports.heartbeat());
                    reports.answered(heard);
                }
            }
            if step % 50 == 0 {
                for _ in 0..20 {
                    let heard = masters[at].hears(&reports.heartbeat());
                    reports.answered(heard);
                }
                assert_eq!(masters[at].terms, truth, "step {step}");
            }
        }
    }

    #[test]
    fn a_range_that_another_worker_leads_by_now_is_still_led() {
        let mut reports = Reports::default();
        reports.note(1, [report(7, 1)]);
        reports.note(0, [report(7, 2)]);
        reports.note(1, [(RangeId(7), None), (RangeId(8), None)]);
        let beat = reports.heartbeat();
        assert_eq!((beat.leaders_count, beat.ranges[0].term), (1, 2));
        reports.note(0, [(RangeId(7), None)]);
        assert_eq!(reports.heartbeat().leaders_count, 0);
    }
}
