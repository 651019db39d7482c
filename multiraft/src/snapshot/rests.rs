//! The pauses after failures: making a snapshot costs a copy of the range, so the next one for the
//! same replica waits, the longer the more have failed in a row. And which failures are news.

use std::collections::BTreeMap;

use sharklock_rangemap::{PeerId, RangeId};

use super::fates::WhyEnded;

/// The first pause, in ticks.
const FIRST_TICKS: u64 = 10;
/// The longest pause behind a receiver that had no free place: that may come at any moment.
const BUSY_TICKS_MAX: u64 = 40;
/// The longest pause behind anything else.
const TICKS_MAX: u64 = 80;
/// So long after its pause a failure is forgotten, and the next one is the first again.
const FORGOTTEN_AFTER: u64 = 600;

/// For so long after it has refused a repair a receiver keeps a place free for one: longer than the
/// sender's longest pause behind that.
pub(super) const REPAIR_RETURNS_WITHIN: u64 = BUSY_TICKS_MAX + FIRST_TICKS;

/// The failures in a row of one replica.
#[derive(Clone, Copy, Debug)]
struct Rest {
    until: u64,
    failures: u32,
    why: WhyEnded,
}

/// The replicas that rest, or did of late.
#[derive(Debug, Default)]
pub(super) struct Rests(BTreeMap<(RangeId, PeerId), Rest>);

impl Rests {
    /// Whether no snapshot goes to this replica for now.
    pub(super) fn is_resting(&self, key: (RangeId, PeerId), ticks: u64) -> bool {
        self.0.get(&key).is_some_and(|rest| rest.until > ticks)
    }

    /// A snapshot for this replica has failed. True: that is news, the last one had not failed or
    /// for another reason.
    pub(super) fn failed(&mut self, key: (RangeId, PeerId), why: WhyEnded, ticks: u64) -> bool {
        let before = self.0.get(&key).copied();
        let failures = before.map_or(0, |rest| rest.failures);
        let longest = match why {
            WhyEnded::Busy => BUSY_TICKS_MAX,
            // It is not known to be of no use now.
            WhyEnded::LinkLost | WhyEnded::Deposed | WhyEnded::NotNeeded | WhyEnded::Gone => {
                FIRST_TICKS
            }
            _ => TICKS_MAX,
        };
        let pause = (FIRST_TICKS << failures.min(16)).min(longest);
        let rest = Rest { until: ticks + pause, failures: failures.saturating_add(1), why };
        self.0.insert(key, rest);
        before.is_none_or(|rest| rest.why != why)
    }

    /// A snapshot for this replica has arrived.
    pub(super) fn succeeded(&mut self, key: (RangeId, PeerId)) {
        self.0.remove(&key);
    }

    pub(super) fn forget(&mut self, range: RangeId) {
        self.0.retain(|(of, _), _| *of != range);
    }

    pub(super) fn tick(&mut self, ticks: u64) {
        self.0.retain(|_, rest| rest.until + FORGOTTEN_AFTER > ticks);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: (RangeId, PeerId) = (RangeId(7), PeerId(3));

    /// The pauses of these failures, each behind the pause of the one before, and which were news.
    fn pauses(failures: &[WhyEnded]) -> Vec<(u64, bool)> {
        let (mut rests, mut ticks) = (Rests::default(), 0);
        let mut pause = |why| {
            let is_news = rests.failed(KEY, why, ticks);
            let begin = ticks;
            while rests.is_resting(KEY, ticks) {
                ticks += 1;
                rests.tick(ticks);
            }
            (ticks - begin, is_news)
        };
        failures.iter().map(|why| pause(*why)).collect()
    }

    #[test]
    fn pauses_double_up_to_a_bound_and_only_another_reason_is_news() {
        use WhyEnded::{Busy, Idle, LinkLost, NoSpace};
        let of = |failures: &[WhyEnded]| pauses(failures);
        assert_eq!(
            of(&[NoSpace; 5]),
            [(10, true), (20, false), (40, false), (80, false), (80, false)]
        );
        assert_eq!(of(&[Busy; 4]), [(10, true), (20, false), (40, false), (40, false)]);
        assert_eq!(of(&[Idle, Busy, LinkLost]), [(10, true), (20, true), (10, true)]);
        assert_eq!(of(&[LinkLost; 3]), [(10, true), (10, false), (10, false)]);
        assert!(of(&[Busy; 20]).iter().all(|(pause, _)| *pause < REPAIR_RETURNS_WITHIN));
    }

    #[test]
    fn what_has_succeeded_or_is_long_ago_begins_anew() {
        let mut rests = Rests::default();
        assert!(rests.failed(KEY, WhyEnded::Idle, 0));
        rests.succeeded(KEY);
        assert!(!rests.is_resting(KEY, 1));
        assert!(rests.failed(KEY, WhyEnded::Idle, 1));
        rests.tick(11 + FORGOTTEN_AFTER);
        assert!(rests.failed(KEY, WhyEnded::Idle, 700), "news again");
        assert!(!rests.is_resting(KEY, 710), "a first pause again");
        rests.forget(KEY.0);
        assert!(rests.0.is_empty());
    }
}
