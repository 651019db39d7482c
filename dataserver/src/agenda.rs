//! Which ranges of a worker want something. A turn looks at those alone, so that it costs the same
//! however many ranges lie idle beside them. A core: `now` is an argument, and everything is in the
//! order of times and ranges.
//!
//! A range is *awake* from whatever happens to it until the end of the turn that leaves it without
//! work. Asleep, it has at most two alarms: the next one of its lease clock, which a turn is made
//! for, and one for what passes by itself as it grows older, which waits for a tick, so that many
//! ranges share a batch.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use sharklock_rangemap::RangeId;

/// See the module.
///
/// Invariants:
/// - `clocks` and `ages` have exactly what `alarms` has, which has no range without one;
/// - whatever has happened to a range since it was last put to rest has made it awake;
/// - an alarm of a range that is asleep is never behind the moment at which it has work. It may lie
///   before that (a stall was credited, or its age was counted less): whoever wakes looks again.
#[derive(Debug, Default)]
pub struct Agenda {
    awake: BTreeSet<RangeId>,
    /// The alarms that are set: those of a range's clock and of its age.
    alarms: BTreeMap<RangeId, [Option<Duration>; 2]>,
    clocks: BTreeSet<(Duration, RangeId)>,
    ages: BTreeSet<(Duration, RangeId)>,
}

impl Agenda {
    /// The next turn looks at this range.
    pub fn wake(&mut self, range: RangeId) {
        self.awake.insert(range);
    }

    /// Wakes those whose lease clocks may have something due, and at a tick also those that have
    /// grown old enough.
    pub fn wake_due(&mut self, now: Duration, is_tick: bool) {
        let is_due = |first: Option<&(Duration, RangeId)>| first.is_some_and(|(at, _)| *at <= now);
        while is_due(self.clocks.first()) || is_tick && is_due(self.ages.first()) {
            let clock = self.clocks.first().filter(|first| is_due(Some(*first)));
            let (_, range) = *clock.or(self.ages.first()).expect("one of them is due");
            self.set(range, [None, None]);
            self.awake.insert(range);
        }
    }

    /// The ranges that a turn looks at, by id.
    pub fn awake(&self) -> impl Iterator<Item = RangeId> {
        self.awake.iter().copied()
    }

    /// The same, at the end of a turn: each is to be put to rest, or is awake no more.
    pub fn take_awake(&mut self) -> BTreeSet<RangeId> {
        std::mem::take(&mut self.awake)
    }

    /// A range has been looked at. It stays awake if it `has_work`, and sleeps until one of its
    /// alarms otherwise.
    pub fn rest(&mut self, range: RangeId, rest: Rest) {
        let Rest { has_work, clock, age } = rest;
        if has_work {
            self.awake.insert(range);
        }
        self.set(range, [clock, age]);
    }

    /// When the first lease clock may have something due, of those that were put to rest.
    pub fn next_alarm(&self) -> Option<Duration> {
        self.clocks.first().map(|&(at, _)| at)
    }

    fn set(&mut self, range: RangeId, alarms: [Option<Duration>; 2]) {
        let before = self.alarms.get(&range).copied().unwrap_or_default();
        if before == alarms {
            return;
        }
        let sorted = [&mut self.clocks, &mut self.ages];
        for (by_time, (before, now)) in sorted.into_iter().zip(before.into_iter().zip(alarms)) {
            if before == now {
                continue;
            }
            if let Some(at) = before {
                by_time.remove(&(at, range));
            }
            by_time.extend(now.map(|at| (at, range)));
        }
        if alarms == [None, None] {
            self.alarms.remove(&range);
        } else {
            self.alarms.insert(range, alarms);
        }
    }
}

/// How a range is left by a turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rest {
    /// The next turn has something to do for it, whenever that is.
    pub has_work: bool,
    /// When its lease clock has something due.
    pub clock: Option<Duration>,
    /// When it is old enough for an entry of its own.
    pub age: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn awake(agenda: &Agenda) -> Vec<u64> {
        agenda.awake().map(|range| range.0).collect()
    }

    #[test]
    fn whoever_sleeps_wakes_at_its_alarm_and_nobody_else_does() {
        let mut agenda = Agenda::default();
        for range in 1..=1_000 {
            let clock = Some(at(10_000 + range));
            agenda.rest(RangeId(range), Rest { clock, ..Rest::default() });
        }
        assert_eq!(agenda.next_alarm(), Some(at(10_001)));
        agenda.wake_due(at(10_000), true);
        assert_eq!(awake(&agenda), []);
        agenda.rest(RangeId(1), Rest { clock: Some(at(20_000)), ..Rest::default() });
        agenda.rest(RangeId(2), Rest::default());
        agenda.wake_due(at(10_004), true);
        assert_eq!(awake(&agenda), [3, 4]);
        assert_eq!(agenda.next_alarm(), Some(at(10_005)), "an alarm rings once");
    }

    #[test]
    fn what_passes_with_the_age_waits_for_a_tick_and_makes_no_turn() {
        let mut agenda = Agenda::default();
        agenda.rest(RangeId(7), Rest { age: Some(at(50)), ..Rest::default() });
        assert_eq!(agenda.next_alarm(), None);
        agenda.wake_due(at(60), false);
        assert_eq!(awake(&agenda), []);
        agenda.wake_due(at(100), true);
        assert_eq!(awake(&agenda), [7]);
    }

    #[test]
    fn whoever_has_work_stays_awake() {
        let mut agenda = Agenda::default();
        agenda.wake(RangeId(1));
        agenda.wake(RangeId(2));
        for range in agenda.take_awake() {
            let has_work = range == RangeId(2);
            agenda.rest(range, Rest { has_work, ..Rest::default() });
        }
        assert_eq!(awake(&agenda), [2]);
    }
}
