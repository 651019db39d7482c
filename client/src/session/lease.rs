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
/// - it only grows;
/// - an attempt that was sent before a longer lease was known to be agreed counts with the length
///   from before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) ttl: Duration,
    renewed: Option<Duration>,
    /// What was sent up to this moment counts with that length.
    shorter: Option<(Duration, Duration)>,
    /// Time between renewals, where the condition says.
    every: Option<Duration>,
}

impl Lease {
    pub(super) fn new(ttl: Duration, every: Option<Duration>) -> Self {
        Self { ttl, renewed: None, shorter: None, every }
    }

    /// An answer echoed an attempt that was sent at `sent`.
    pub(super) fn renew(&mut self, sent: Duration) {
        self.renewed = self.renewed.max(Some(sent));
    }

    /// It is known since `now` that another length and time between renewals are agreed. An attempt
    /// that is under way may have arrived before that.
    pub(super) fn agree(&mut self, now: Duration, ttl: Duration, every: Option<Duration>) {
        self.every = every;
        if ttl > self.ttl {
            let before = self.shorter.map_or(self.ttl, |(_, before)| before);
            self.shorter = Some((now, before));
        }
        self.ttl = ttl;
    }

    /// The time between renewals is agreed.
    pub(super) fn renew_every(&mut self, every: Option<Duration>) {
        self.every = every;
    }

    /// The lease of the same hold, as another of its acquisitions knows its length.
    pub(super) fn join(&mut self, other: &Self) {
        (self.ttl, self.shorter, self.every) = (other.ttl, other.shorter, other.every);
    }

    /// With which length an attempt counts.
    fn ttl_of(&self, sent: Duration) -> Duration {
        match self.shorter {
            Some((until, before)) if sent <= until => before.min(self.ttl),
            _ => self.ttl,
        }
    }

    /// No server ends the lease before this: it counts a full ttl from the arrival of the attempt,
    /// which was later than its sending. `None` until an answer has come.
    pub(super) fn valid_until(&self) -> Option<Duration> {
        let sent = self.renewed?;
        let ttl = self.ttl_of(sent);
        Some(sent + (ttl - ttl / 100 * DRIFT_PERCENT))
    }

    pub(super) fn remaining(&self, now: Duration) -> Duration {
        self.valid_until().map_or(Duration::ZERO, |until| until.saturating_sub(now))
    }

    /// When the holder is warned: half of the lease without an answered renewal.
    pub(super) fn jeopardy_at(&self) -> Option<Duration> {
        self.renewed.map(|sent| sent + self.ttl_of(sent) / 2)
    }

    /// Enough is left to hand out a guard without asking again.
    pub(super) fn is_worth_handing_out(&self, now: Duration) -> bool {
        let remaining = self.remaining(now);
        !remaining.is_zero() && remaining >= self.ttl / 3
    }

    /// Time between renewals.
    pub(super) fn interval(&self) -> Duration {
        // As long as only the shorter lease is known to run, it is kept.
        let ttl = self.renewed.map_or(self.ttl, |sent| self.ttl_of(sent));
        let third = (ttl / 3).clamp(INTERVAL_MIN, INTERVAL_MAX);
        match self.every {
            Some(every) if ttl == self.ttl => every.max(INTERVAL_MIN),
            Some(every) => every.max(INTERVAL_MIN).min(third),
            None => third,
        }
    }

    /// What the repetition of unanswered calls is measured by: a condition may let renewals be further
    /// apart than anybody waits for an answer.
    pub(super) fn call_interval(&self) -> Duration {
        self.interval().min(INTERVAL_MAX)
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
        let mut lease = Lease::new(ms(10_000), None);
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
        assert_eq!(Lease::new(ms(3_000), None).interval(), ms(1_000));
        assert_eq!(Lease::new(ms(600_000), None).interval(), ms(5_000));
        let missed = Lease::new(ms(60_000), Some(ms(20_000)));
        assert_eq!((missed.interval(), missed.call_interval()), (ms(20_000), ms(5_000)));
    }

    #[test]
    fn a_longer_lease_counts_only_for_what_was_sent_after_it_was_known() {
        let mut lease = Lease::new(ms(10_000), None);
        lease.renew(ms(1_000));
        lease.agree(ms(2_000), ms(20_000), None);
        assert_eq!(lease.valid_until(), Some(ms(10_900)));
        lease.renew(ms(2_000));
        assert_eq!(lease.valid_until(), Some(ms(11_900)));
        assert_eq!(lease.interval(), ms(10_000) / 3, "the shorter one is what surely runs");
        // Longer still: what is under way since before counts as the shortest.
        lease.agree(ms(3_000), ms(60_000), None);
        lease.renew(ms(3_000));
        assert_eq!(lease.valid_until(), Some(ms(12_900)));
        lease.renew(ms(3_001));
        assert_eq!(lease.valid_until(), Some(ms(62_401)));
        assert_eq!(lease.interval(), ms(5_000));
    }
}
