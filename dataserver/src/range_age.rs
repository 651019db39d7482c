//! How old a range is, as its leader counts it. The age is what its entries add up to: each carries what
//! has passed since the one before, and apply forgets by it what has ended. A core: `now` is an
//! argument.
//!
//! Less than true time is always safe, more never is: what is forgotten early may happen twice. So a
//! leader counts with the slower of its clocks, rounds down, begins at its promotion, whatever
//! passed before, and counts little of a gap between two turns: while it stood still, requests lay
//! where nobody counted their age.

use std::time::Duration;

/// Of the time between two turns no more than so much counts. A turn comes with every tick.
const COUNTED_MAX: Duration = Duration::from_millis(500);

/// The time that counts for the ages of all ranges of a worker.
///
/// Invariants: it never grows by more than `now` does, and never shrinks.
#[derive(Debug)]
pub struct CountedTime {
    counted: Duration,
    last: Duration,
}

impl CountedTime {
    /// Nothing has counted yet.
    pub fn begin(now: Duration) -> Self {
        Self { counted: Duration::ZERO, last: now }
    }

    /// Counts the time since the last turn.
    pub fn count(&mut self, now: Duration) {
        self.counted += now.saturating_sub(self.last).min(COUNTED_MAX);
        self.last = now;
    }
}

/// The age of one range while its replica leads, as of the last time that somebody looked: what it
/// lacks of the time that has counted is late, and that is safe.
///
/// Invariants:
/// - it never grows by more than the counted time does, and never shrinks;
/// - `proposed_ms` is the age that all entries up to the last proposed one add up to, and not ahead.
#[derive(Debug)]
pub struct RangeAge {
    promoted_ms: u64,
    /// The time counted up to the promotion.
    since: Duration,
    /// The time counted by now.
    counted: Duration,
    proposed_ms: u64,
}

impl RangeAge {
    /// Of a range whose table is that old, at the promotion of its leader. Its log has no entry that is
    /// not applied.
    pub fn promote(time: &CountedTime, age_ms: u64) -> Self {
        let counted = time.counted;
        Self { promoted_ms: age_ms, since: counted, counted, proposed_ms: age_ms }
    }

    /// It is as old as the counted time makes it.
    pub fn count(&mut self, time: &CountedTime) {
        self.counted = time.counted;
    }

    /// The time that the next entry carries.
    pub fn unproposed_ms(&self) -> u64 {
        self.now_ms() - self.proposed_ms
    }

    /// That entry is in the log.
    pub fn proposed(&mut self, passed_ms: u64) {
        self.proposed_ms += passed_ms;
    }

    /// Whether an entry is due for what passes by itself at this age, and no entry on its way does it.
    pub fn is_due(&self, at_ms: Option<u64>) -> bool {
        self.due_in(at_ms) == Some(Duration::ZERO)
    }

    /// After how much more time, at the earliest, an entry is due for what passes by itself at this
    /// age; `None` if no time makes one due.
    pub fn due_in(&self, at_ms: Option<u64>) -> Option<Duration> {
        let at_ms = at_ms.filter(|at_ms| self.proposed_ms < *at_ms)?;
        let due = self.since + Duration::from_millis(at_ms - self.promoted_ms);
        Some(due.saturating_sub(self.counted))
    }

    /// The age of the range when a gateway got a request that is so old now, at the earliest. The clocks
    /// that have counted that may have been slewed by some percent.
    pub fn asked_ms(&self, age: Duration) -> u64 {
        let at_most = age + age / 10 + Duration::from_millis(1);
        let at_most = u64::try_from(at_most.as_millis()).unwrap_or(u64::MAX);
        self.now_ms().saturating_sub(at_most)
    }

    fn now_ms(&self) -> u64 {
        let since = self.counted - self.since;
        self.promoted_ms + u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn promoted(at: u64, age_ms: u64) -> (CountedTime, RangeAge) {
        let time = CountedTime::begin(ms(at));
        let age = RangeAge::promote(&time, age_ms);
        (time, age)
    }

    #[test]
    fn entries_carry_what_has_passed_and_no_millisecond_is_lost_or_won() {
        let (mut time, mut age) = promoted(5_000, 60_000);
        let mut carried = 0;
        for turn in 1..=1_000 {
            time.count(ms(5_000) + Duration::from_micros(turn * 700));
            if turn % 3 == 0 {
                age.count(&time);
                carried += age.unproposed_ms();
                age.proposed(age.unproposed_ms());
            }
            assert!(carried <= turn * 700 / 1_000, "{carried} ms in {turn} turns");
        }
        age.count(&time);
        assert_eq!(carried + age.unproposed_ms(), 700);
    }

    #[test]
    fn a_stall_counts_little_and_clocks_that_go_back_nothing() {
        let (mut time, mut age) = promoted(0, 60_000);
        time.count(ms(60_000));
        age.count(&time);
        assert_eq!(age.unproposed_ms(), 500);
        time.count(ms(59_000));
        age.count(&time);
        assert_eq!(age.unproposed_ms(), 500);
    }

    #[test]
    fn a_range_ages_from_its_promotion_on() {
        let mut time = CountedTime::begin(ms(0));
        time.count(ms(300));
        let mut age = RangeAge::promote(&time, 60_000);
        assert_eq!(age.unproposed_ms(), 0);
        time.count(ms(400));
        age.count(&time);
        assert_eq!(age.unproposed_ms(), 100);
    }

    #[test]
    fn a_request_was_asked_early_rather_than_late() {
        let (mut time, mut age) = promoted(0, 90_000);
        time.count(ms(400));
        age.count(&time);
        assert_eq!(age.asked_ms(ms(0)), 90_399);
        assert_eq!(age.asked_ms(ms(10_000)), 79_399);
        assert_eq!(age.asked_ms(ms(200_000)), 0);
    }

    #[test]
    fn what_passes_by_itself_is_proposed_once() {
        let (mut time, mut age) = promoted(0, 60_000);
        assert_eq!(age.due_in(Some(60_300)), Some(ms(300)));
        time.count(ms(300));
        age.count(&time);
        assert!(!age.is_due(None) && !age.is_due(Some(60_301)));
        assert_eq!(age.due_in(Some(60_301)), Some(ms(1)));
        assert!(age.is_due(Some(60_300)));
        age.proposed(age.unproposed_ms());
        assert!(!age.is_due(Some(60_300)), "an entry on its way does it");
        assert_eq!(age.due_in(Some(60_300)), None);
    }
}
