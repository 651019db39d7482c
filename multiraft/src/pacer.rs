//! When a store ticks, and when its images are brought up to date.

use std::time::Duration;

use crate::state_machine::StateMachine;
use crate::store::Store;

/// The ticks and flushes of a store, by its owner's clock.
///
/// Invariants:
/// - two ticks are never nearer to each other than the interval, and neither are two flushes.
#[derive(Clone, Copy, Debug)]
pub struct Pacer {
    tick: Every,
    flush: Every,
}

impl Pacer {
    /// Ticks from `now` on, and flushes, at these intervals.
    pub fn begin(now: Duration, tick: Duration, flush: Duration) -> Self {
        Self { tick: Every::begin(now, tick), flush: Every::begin(now, flush) }
    }

    /// Ticks the store and has it flush, as far as they are due. Whether it ticked.
    pub fn pace<M: StateMachine>(&mut self, now: Duration, store: &mut Store<M>) -> bool {
        let is_tick = self.tick.is_due(now);
        if is_tick {
            store.tick();
        }
        if self.flush.is_due(now) {
            store.flush_along();
        }
        is_tick
    }

    /// When the next tick is due. Flushes come along with it.
    pub fn next_tick(&self) -> Duration {
        self.tick.next
    }
}

#[derive(Clone, Copy, Debug)]
struct Every {
    interval: Duration,
    next: Duration,
}

impl Every {
    fn begin(now: Duration, interval: Duration) -> Self {
        Self { interval, next: now + interval }
    }

    /// Once. Those that a stall has missed are not made up for: ticks would only elect in haste.
    fn is_due(&mut self, now: Duration) -> bool {
        let is_due = now >= self.next;
        if is_due {
            self.next = now + self.interval;
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const INTERVAL: Duration = Duration::from_millis(100);

    #[test]
    fn missed_ones_are_not_made_up_for() {
        let mut every = Every::begin(Duration::ZERO, INTERVAL);
        let mut due_at = |ms| every.is_due(Duration::from_millis(ms));
        assert!(!due_at(99));
        assert!(due_at(100));
        assert!(!due_at(100));
        assert!(due_at(5_050), "the stall ends with one");
        assert!(!due_at(5_149), "and not with one for each that was missed");
        assert!(due_at(5_150));
    }

    proptest! {
        #[test]
        fn it_is_never_early_and_never_left_out(pauses in vec(0_u64..350, 1..100)) {
            let mut every = Every::begin(Duration::ZERO, INTERVAL);
            let (mut now, mut last) = (Duration::ZERO, Duration::ZERO);
            for pause in pauses {
                now += Duration::from_millis(pause);
                let is_due = every.is_due(now);
                prop_assert_eq!(is_due, now - last >= INTERVAL);
                if is_due {
                    last = now;
                }
            }
        }
    }
}
