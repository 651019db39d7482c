//! How long commands of a range wait for others, to go into the log as one entry with them.
//!
//! An entry costs all replicas of the range as much as some twenty commands: messages, wake-ups,
//! syncs. So while an entry is under way, the commands that come wait for its end and are the next
//! one: with few entries of many commands each, all are through sooner than with many that follow each
//! other closely. Where commits take long, between replicas far from each other above all, nobody
//! waits for their end, but for [`WAIT_MAX`] at most.

use std::time::Duration;

/// The longest wait for others: little beside a commit over a slow network.
pub const WAIT_MAX: Duration = Duration::from_millis(2);

/// Whether the commands of a range wait for others.
#[derive(Clone, Copy, Debug, Default)]
pub struct Batching {
    /// Since when, as of the last turn that could have proposed them.
    held_since: Option<Duration>,
}

impl Batching {
    /// Whether commands are not to be proposed yet: some wait, and an entry is under way.
    pub fn holds(&mut self, now: Duration, some_wait: bool, under_way: bool) -> bool {
        self.held_since = match self.held_since {
            _ if !some_wait || !under_way => None,
            None => Some(now),
            Some(since) if now.saturating_sub(since) < WAIT_MAX => Some(since),
            Some(_) => None,
        };
        self.held_since.is_some()
    }

    /// When commands that were held are to be proposed; none: none is held.
    pub fn due(&self, under_way: bool) -> Option<Duration> {
        let since = self.held_since?;
        Some(if under_way { since + WAIT_MAX } else { Duration::ZERO })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn commands_wait_for_the_end_of_the_entry_under_way() {
        let mut batching = Batching::default();
        assert!(!batching.holds(ms(1), true, false), "nothing to wait for");
        assert_eq!(batching.due(true), None);
        assert!(batching.holds(ms(1), true, true));
        assert!(batching.holds(ms(2), true, true));
        assert_eq!(batching.due(true), Some(ms(3)));
        assert_eq!(batching.due(false), Some(ms(0)), "it has been applied: at once");
        assert!(!batching.holds(ms(2), true, false));
        assert_eq!(batching.due(false), None, "nothing is held, whatever came of it");
    }

    #[test]
    fn nobody_waits_longer_than_so_long() {
        let mut batching = Batching::default();
        assert!(batching.holds(ms(5), true, true));
        assert!(batching.holds(ms(6), true, true));
        assert!(!batching.holds(ms(7), true, true));
        assert!(batching.holds(ms(7), true, true), "the next ones wait anew");
        assert!(!batching.holds(ms(8), false, true));
        assert_eq!(batching.due(true), None, "nobody waits");
    }
}
