//! The arithmetic of a lease on the client's side (D7, *Client*). All times are readings of the
//! client's clock.

use std::time::Duration;

/// The drift that client and server each allow for their clocks, in percent of a lease (ρ).
const DRIFT_PERCENT: u32 = 1;

/// Leases longer than three of these are still renewed this often.
const INTERVAL_MAX: Duration = Duration::from_secs(5);

/// Servers refuse leases that would need this; until they have, it bounds what we send.
const INTERVAL_MIN: Duration = Duration::from_millis(10);

/// One lease: its length, and when it was last renewed for certain.
///
/// Invariants:
/// - `renewed` is the moment at which an attempt was *sent* whose echo came back, never the moment
///   of an answer, and never of an attempt whose number no answer has echoed;
/// - it only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) ttl: Duration,
    renewed: Option<Duration>,
}

impl Lease {
    pub(super) fn new(ttl: Duration) -> Self {
        Self { ttl, renewed: None }
    }

    /// An answer echoed an attempt that was sent at `sent`.
    pub(super) fn renew(&mut self, sent: Duration) {
        self.renewed = self.renewed.max(Some(sent));
    }

    /// No server ends the lease before this: it counts a full ttl from the arrival of the attempt,
    /// which was later than its sending. `None` until an answer has come.
    pub(super) fn valid_until(&self) -> Option<Duration> {
        self.renewed.map(|sent| sent + (self.ttl - self.ttl / 100 * DRIFT_PERCENT))
    }

    pub(super) fn remaining(&self, now: Duration) -> Duration {
        self.valid_until().map_or(Duration::ZERO, |until| until.saturating_sub(now))
    }

    /// When the holder is warned: half of the lease without an answered renewal.
    pub(super) fn jeopardy_at(&self) -> Option<Duration> {
        self.renewed.map(|sent| sent + self.ttl / 2)
    }

    /// Enough is left to hand out a guard without asking again.
    pub(super) fn is_worth_handing_out(&self, now: Duration) -> bool {
        let remaining = self.remaining(now);
        !remaining.is_zero() && remaining >= self.ttl / 3
    }

    /// Time between renewals.
    pub(super) fn interval(&self) -> Duration {
        (self.ttl / 3).clamp(INTERVAL_MIN, INTERVAL_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_lease_runs_from_the_sending_of_the_latest_answered_attempt() {
        let mut lease = Lease::new(ms(10_000));
        assert_eq!(lease.valid_until(), None);
        lease.renew(ms(2_000));
        assert_eq!(lease.valid_until(), Some(ms(11_900)));
        // A late answer to an earlier attempt does not take time away, nor add any.
        lease.renew(ms(1_000));
        assert_eq!(lease.valid_until(), Some(ms(11_900)));
        assert_eq!(lease.remaining(ms(12_000)), Duration::ZERO);
    }

    #[test]
    fn intervals_are_a_third_of_the_lease_and_at_most_five_seconds() {
        assert_eq!(Lease::new(ms(3_000)).interval(), ms(1_000));
        assert_eq!(Lease::new(ms(600_000)).interval(), ms(5_000));
    }
}
