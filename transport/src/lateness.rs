//! Whether what a stream brings is late: a peer whose link is slow is heard of for as long as what
//! stands in the link's queues comes in, whatever has become of it meanwhile.

use std::{sync::OnceLock, time::Duration};

use tokio::time::Instant;

/// Twice the time between heartbeats. What comes later than the quickest by more than this is late.
const LATE: Duration = Duration::from_millis(400);
/// After something late, what follows is in time again only if it is at least as quick as this: a queue
/// that is full is now and then a little shorter.
const IN_TIME_AGAIN: Duration = Duration::from_millis(200);
/// The quickest of at least so long, and of twice as long at most, is compared with: two clocks drift
/// apart by less than 1 ms in a second, and a link that is slower for good is as it is.
const QUICKEST_OF: Duration = Duration::from_secs(30);
/// Lateness that comes and goes is told once in so long.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// The time by a clock that never jumps and that only this process reads.
pub(crate) fn monotonic() -> Duration {
    static BEGIN: OnceLock<Instant> = OnceLock::new();
    BEGIN.get_or_init(Instant::now).elapsed()
}

/// Compares how long a stream's messages are on their way with the quickest of them. The two clocks need
/// not show the same time, and only need to run at the same speed.
#[derive(Debug, Default)]
pub(crate) struct Lateness {
    /// The begin of the time that `quickest[1]` is about, by our clock.
    since: Duration,
    /// The smallest differences of the two clocks at an arrival, in milliseconds, of the time before
    /// `since` and of that from then on.
    quickest: [Option<i64>; 2],
    /// The last arrival was late.
    is_late: bool,
    /// When somebody was told of it last.
    told_at: Option<Duration>,
}

impl Lateness {
    /// Something arrives at `now` by our clock that was sent at `sent_ms` by the sender's; 0: it did not
    /// say. Whether it is late.
    pub(crate) fn arrives(&mut self, now: Duration, sent_ms: u64) -> bool {
        let (Ok(now_ms), Ok(sent_ms)) = (i64::try_from(now.as_millis()), i64::try_from(sent_ms))
        else {
            return false;
        };
        if sent_ms == 0 {
            return false;
        }
        if now >= self.since + QUICKEST_OF {
            let is_recent = now < self.since + 2 * QUICKEST_OF;
            self.quickest = [self.quickest[1].filter(|_| is_recent), None];
            self.since = now;
        }
        let took = now_ms - sent_ms;
        let [before, here] = &mut self.quickest;
        let quickest = here.map_or(took, |quickest| quickest.min(took));
        *here = Some(quickest);
        let quickest = before.map_or(quickest, |before| before.min(quickest));
        let allowed = if self.is_late { IN_TIME_AGAIN } else { LATE };
        self.is_late = took.saturating_sub(quickest)
            > i64::try_from(allowed.as_millis()).expect("it is short");
        self.is_late
    }

    /// Whether it was not told of late that something is late; from now on it was.
    pub(crate) fn is_news(&mut self, now: Duration) -> bool {
        let is_news = self.told_at.is_none_or(|at| now >= at + TOLD_EVERY);
        if is_news {
            self.told_at = Some(now);
        }
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether something is late that arrives at `now` and was on its way for `took`. The sender's clock
    /// is an hour ahead.
    fn arrives(lateness: &mut Lateness, now: u64, took: u64) -> bool {
        lateness.arrives(Duration::from_millis(now), 3_600_000 + now - took)
    }

    #[test]
    fn what_takes_much_longer_than_the_quickest_is_late() {
        let mut lateness = Lateness::default();
        assert!(!arrives(&mut lateness, 50_000, 90));
        assert!(!arrives(&mut lateness, 50_200, 30));
        assert!(!arrives(&mut lateness, 50_400, 430));
        assert!(arrives(&mut lateness, 50_600, 431));
        assert!(arrives(&mut lateness, 50_800, 231), "not much quicker than what was late");
        assert!(!arrives(&mut lateness, 51_000, 230));
        assert!(!arrives(&mut lateness, 51_200, 10), "it is quicker than ever");
        assert!(arrives(&mut lateness, 51_400, 420));
    }

    #[test]
    fn a_link_that_is_slower_for_good_is_late_for_a_minute() {
        let mut lateness = Lateness::default();
        assert!(!arrives(&mut lateness, 100_000, 10));
        let arrivals = (100_200..300_000).step_by(200);
        let late: Vec<_> = arrivals.filter(|now| arrives(&mut lateness, *now, 1_000)).collect();
        let last = late.last().copied().expect("at first it is");
        assert!((130_000..=161_000).contains(&last), "{last}");
    }

    #[test]
    fn clocks_may_drift_apart() {
        let mut lateness = Lateness::default();
        for second in 1..10_000 {
            // Half a millisecond per second: 5 s in all.
            let late = lateness.arrives(Duration::from_secs(second), second * 1_000 - second / 2);
            assert!(!late, "{second}: {lateness:?}");
        }
    }

    #[test]
    fn what_was_long_ago_is_not_compared_with() {
        let mut lateness = Lateness::default();
        assert!(!arrives(&mut lateness, 100_000, 10));
        assert!(!arrives(&mut lateness, 200_000, 5_000), "the clocks have drifted apart since");
    }

    #[test]
    fn nonsense_breaks_nothing() {
        let mut lateness = Lateness::default();
        for sent_ms in [i64::MAX.unsigned_abs(), 1, u64::MAX, 0, 1] {
            lateness.arrives(Duration::from_secs(9), sent_ms);
        }
    }

    #[test]
    fn who_does_not_say_is_never_late() {
        let mut lateness = Lateness::default();
        assert!(!lateness.arrives(Duration::from_secs(1), 1_000));
        assert!(!lateness.arrives(Duration::from_secs(9), 0));
        assert!(lateness.arrives(Duration::from_secs(9), 1_000));
        assert!(!lateness.arrives(Duration::from_secs(9), u64::MAX));
    }
}
