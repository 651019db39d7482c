//! How old a call is when it is read: whether this gateway stood still while the call lay in its
//! socket. A core: `now_us` is an argument.
//!
//! A process that is stopped, starved, or suspended with its machine reads nothing, and what its
//! clients send meanwhile waits in the buffers of the kernel. Counted from its reading, such a call
//! would be young. Stores forget what has ended after a while, and would do an old copy of it again.

use std::sync::atomic::{AtomicU64, Ordering};

/// How often the gateway shows that it runs.
pub(crate) const SHOWN_EVERY_US: u64 = 500_000;
/// Not shown for so long: it stood still.
const STILL_US: u64 = 2 * SHOWN_EVERY_US;
/// For so long after it stood still, what is read may have come before. The kernel's buffers are
/// read within moments.
const CATCHING_UP_US: u64 = 2_000_000;

/// See the module. The gateway's clock begins with the gateway: it ran when the clock read 0.
///
/// Invariant: whoever sees a value of `shown_us` sees the `still_since_us` and `caught_up_us` that
/// were known when it was written, or later ones.
#[derive(Default)]
pub(crate) struct Presence {
    /// When it last ran for certain.
    shown_us: AtomicU64,
    /// When it last ran before it stood still the last time.
    still_since_us: AtomicU64,
    /// When all that came meanwhile has been read.
    caught_up_us: AtomicU64,
}

impl Presence {
    /// The gateway runs. Says for how long it stood still before, if it did. One thread calls this.
    pub(crate) fn show(&self, now_us: u64) -> Option<u64> {
        let shown_us = self.shown_us.load(Ordering::Relaxed);
        let still_us = now_us.saturating_sub(shown_us);
        let stood_still = still_us > STILL_US;
        if stood_still {
            self.still_since_us.store(self.waiting_since_us(shown_us), Ordering::Relaxed);
            self.caught_up_us.store(now_us + CATCHING_UP_US, Ordering::Relaxed);
        }
        self.shown_us.store(now_us, Ordering::Release);
        stood_still.then_some(still_us)
    }

    /// Since when a call may have waited that is read at `now_us`.
    pub(crate) fn arrived_us(&self, now_us: u64) -> u64 {
        let shown_us = self.shown_us.load(Ordering::Acquire);
        let is_still = now_us.saturating_sub(shown_us) > STILL_US;
        let ran_us = if is_still { shown_us } else { now_us };
        self.waiting_since_us(ran_us).min(now_us)
    }

    /// Since when what is read at `ran_us`, after which it may have stood still, has waited at most.
    fn waiting_since_us(&self, ran_us: u64) -> u64 {
        if ran_us < self.caught_up_us.load(Ordering::Relaxed) {
            self.still_since_us.load(Ordering::Relaxed)
        } else {
            ran_us
        }
    }

    /// For how long from `now_us` calls may be older than they seem.
    pub(crate) fn catching_up_us(&self, now_us: u64) -> u64 {
        self.caught_up_us.load(Ordering::Relaxed).saturating_sub(now_us).min(CATCHING_UP_US)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000;

    fn running_for(seconds: u64) -> Presence {
        let presence = Presence::default();
        (1..=2 * seconds).for_each(|shown| assert_eq!(presence.show(shown * SHOWN_EVERY_US), None));
        presence
    }

    #[test]
    fn what_is_read_while_it_runs_has_just_come() {
        let presence = Presence::default();
        assert_eq!(presence.arrived_us(S), S, "its first moment");
        for half_seconds in 1..20 {
            assert_eq!(presence.show(half_seconds * SHOWN_EVERY_US), None);
            let now_us = half_seconds * SHOWN_EVERY_US + 900_000;
            assert_eq!(presence.arrived_us(now_us), now_us);
        }
    }

    #[test]
    fn what_came_while_it_stood_still_is_as_old_as_that() {
        let presence = running_for(10);
        // It is read before the gateway notices, and after.
        assert_eq!(presence.arrived_us(40 * S), 10 * S);
        assert_eq!(presence.show(40 * S), Some(30 * S));
        for now_us in [40 * S, 41 * S, 42 * S - 1] {
            assert_eq!(presence.arrived_us(now_us), 10 * S);
        }
        assert_eq!(presence.catching_up_us(41 * S), S);
        (81..=84).for_each(|half_seconds| assert_eq!(presence.show(half_seconds * S / 2), None));
        assert_eq!(presence.arrived_us(42 * S), 42 * S);
        assert_eq!(presence.catching_up_us(42 * S), 0);
    }

    #[test]
    fn who_stands_still_before_it_was_ever_shown_has_stood_still_from_its_start() {
        let presence = Presence::default();
        assert_eq!(presence.arrived_us(44 * S), 0);
        assert_eq!(presence.show(44 * S), Some(44 * S));
        assert_eq!(presence.arrived_us(45 * S), 0);
    }

    #[test]
    fn who_stands_still_again_while_catching_up_has_not_caught_up() {
        let presence = running_for(10);
        presence.show(30 * S);
        assert_eq!(presence.show(31_900_000), Some(1_900_000));
        assert_eq!(presence.arrived_us(33 * S), 10 * S);
        // Nor when it is noticed only at the end.
        assert_eq!(presence.show(33_700_000), Some(1_800_000));
        assert_eq!(presence.arrived_us(34 * S), 10 * S);
        // Nor when it stands still before it has.
        assert_eq!(presence.arrived_us(50 * S), 10 * S);
        presence.show(50 * S);
        (101..=104).for_each(|half_seconds| assert_eq!(presence.show(half_seconds * S / 2), None));
        assert_eq!(presence.arrived_us(53 * S), 53 * S);
        assert_eq!(presence.arrived_us(60 * S), 52 * S);
    }

    #[test]
    fn a_clock_that_is_read_early_does_no_harm() {
        let presence = running_for(10);
        presence.show(20 * S);
        assert_eq!(presence.arrived_us(9 * S), 9 * S);
        assert_eq!(presence.show(19 * S), None);
    }
}
