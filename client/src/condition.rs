//! What a client and the cluster agree may end a hold (D9): a closed grammar, and its contradictions.

use std::time::Duration;

use crate::error::AcquireError;

/// The longest lock-delay, and the longest grace of a holder who is asked (lock.proto).
const DELAY_MAX: Duration = Duration::from_secs(3_600);

/// The longest bound on a hold (lock.proto).
const MAX_HOLD_MAX: Duration = Duration::from_secs(30 * 24 * 3_600);

/// Fewest and most keepalives that may be missed in a row (lock.proto).
const MISSED_MIN: u32 = 3;
const MISSED_MAX: u32 = 100;

/// What the end of a hold's lease means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LeaseRule {
    /// The hold ends.
    #[default]
    OnExpiry,
    /// The hold ends when so many keepalives in a row have been missed: its lease is `missed` times
    /// `interval`.
    AfterMissed {
        /// 3 to 100.
        missed: u32,
        /// How often the client sends one: whole milliseconds.
        interval: Duration,
    },
    /// The hold stays, without a lease: its client does not count on it any more, but nobody else gets
    /// the lock. Its session takes it back or releases it, or an operator ends it.
    Hold,
}

/// What may end a hold, beside its release and operators. The default is the end of its lease and
/// nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// What the end of the lease means.
    pub lease: LeaseRule,
    /// After an end that the holder did not ask for, the place stays taken for so long: 1 ms to 1 h.
    pub lock_delay: Option<Duration>,
    /// So long after the grant, or after the condition was set, the hold is ended with notice: 1 ms to
    /// 30 days. Not together with [`LeaseRule::Hold`].
    pub max_hold: Option<Duration>,
    /// Who waits may ask for the lock; so long after that the hold is ended with notice, if somebody
    /// waits then: 1 ms to 1 h. Not together with [`LeaseRule::Hold`].
    pub ask_grace: Option<Duration>,
}

/// What a client and the cluster have agreed about a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// What may end it.
    pub condition: Condition,
    /// Counts the changes of the condition since the grant.
    pub revision: u64,
    /// [`LeaseRule::Hold`] is in force: the client has seen the grant, and said so.
    pub claimed: bool,
    /// Length of the lease.
    pub ttl: Duration,
}

impl Condition {
    /// Nothing is agreed but the end of the lease.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The hold stays when its lease ends.
    pub fn holds(&self) -> bool {
        self.lease == LeaseRule::Hold
    }

    /// How often a keepalive is sent, where the condition says.
    pub(crate) fn interval(&self) -> Option<Duration> {
        match self.lease {
            LeaseRule::AfterMissed { interval, .. } => Some(interval),
            LeaseRule::OnExpiry | LeaseRule::Hold => None,
        }
    }

    /// Refuses what contradicts itself, or the lease that it is meant for.
    ///
    /// # Errors
    /// [`AcquireError::Invalid`] with the field, its limit and the way out.
    pub fn check(&self, ttl: Duration) -> Result<(), AcquireError> {
        self.check_missed(ttl)?;
        for (field, clause, max, limit) in [
            ("lock_delay_ms", self.lock_delay, DELAY_MAX, "1 h"),
            ("max_hold_ms", self.max_hold, MAX_HOLD_MAX, "30 days"),
            ("ask_grace_ms", self.ask_grace, DELAY_MAX, "1 h"),
        ] {
            let fits = |clause| (Duration::from_millis(1)..=max).contains(&clause);
            if !clause.is_none_or(fits) {
                let way_out = "choose within, or leave the clause out";
                return Err(bad(field, format!("1 ms to {limit}: {way_out}")));
            }
        }
        let clauses = [("max_hold_ms", self.max_hold), ("ask_grace_ms", self.ask_grace)];
        match clauses.into_iter().find(|(_, clause)| self.holds() && clause.is_some()) {
            None => Ok(()),
            Some((field, _)) => Err(bad(
                field,
                "it would end a hold that is to stay: leave it out, or leave `hold` out".to_owned(),
            )),
        }
    }

    fn check_missed(&self, ttl: Duration) -> Result<(), AcquireError> {
        let LeaseRule::AfterMissed { missed, interval } = self.lease else { return Ok(()) };
        if !(MISSED_MIN..=MISSED_MAX).contains(&missed) {
            let limit = format!("{MISSED_MIN} to {MISSED_MAX} keepalives may be missed");
            return Err(bad("missed", format!("{limit}: choose within")));
        }
        let whole = interval.subsec_nanos() % 1_000_000 == 0 && !interval.is_zero();
        if !whole {
            let way_out = "round it, and choose 1 ms or more";
            return Err(bad("interval_ms", format!("it has whole milliseconds: {way_out}")));
        }
        if interval.checked_mul(missed) != Some(ttl) {
            let way_out = "leave the ttl to it, or choose another interval";
            let message = format!("the ttl is {missed} intervals of {interval:?}: {way_out}");
            return Err(bad("interval_ms", message));
        }
        Ok(())
    }
}

impl Agreement {
    /// What holds where a server says nothing: the lease, and nothing else.
    pub fn plain(ttl: Duration) -> Self {
        Self { condition: Condition::default(), revision: 0, claimed: false, ttl }
    }

    /// It is to stay, and does not yet.
    pub(crate) fn wants_claim(&self) -> bool {
        self.condition.holds() && !self.claimed
    }
}

fn bad(field: &str, message: String) -> AcquireError {
    AcquireError::Invalid {
        field: Some(format!("condition.{field}")),
        reason: "BAD_CONDITION".to_owned(),
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);
    const MS: Duration = Duration::from_millis(1);

    fn refused(condition: Condition, ttl: Duration) -> Option<String> {
        match condition.check(ttl) {
            Ok(()) => None,
            Err(AcquireError::Invalid { field, reason, message }) => {
                assert_eq!(reason, "BAD_CONDITION");
                assert!(message.contains(": "), "no way out: {message}");
                field
            }
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn contradictions_are_refused_with_their_field() {
        let plain = Condition::default();
        let missed = |missed, interval| Condition {
            lease: LeaseRule::AfterMissed { missed, interval },
            ..plain
        };
        let delay = |delay| Condition { lock_delay: Some(delay), ..plain };
        let most = |most| Condition { max_hold: Some(most), ..plain };
        let grace = |grace| Condition { ask_grace: Some(grace), ..plain };
        let hold = |condition| Condition { lease: LeaseRule::Hold, ..condition };
        let secs = Duration::from_secs;
        for (condition, ttl, field) in [
            (plain, TTL, None),
            (hold(delay(MS)), TTL, None),
            (missed(3, secs(2)), secs(6), None),
            (missed(100, MS * 20), secs(2), None),
            (delay(DELAY_MAX), TTL, None),
            (most(MAX_HOLD_MAX), TTL, None),
            (grace(DELAY_MAX), TTL, None),
            (missed(2, secs(5)), TTL, Some("missed")),
            (missed(101, MS * 20), secs(2), Some("missed")),
            (missed(3, Duration::ZERO), Duration::ZERO, Some("interval_ms")),
            (missed(3, MS / 2), MS * 3 / 2, Some("interval_ms")),
            (missed(4, secs(2)), secs(6), Some("interval_ms")),
            (missed(100, Duration::MAX), Duration::MAX, Some("interval_ms")),
            (delay(Duration::ZERO), TTL, Some("lock_delay_ms")),
            (delay(MS / 2), TTL, Some("lock_delay_ms")),
            (delay(DELAY_MAX + MS), TTL, Some("lock_delay_ms")),
            (most(Duration::ZERO), TTL, Some("max_hold_ms")),
            (most(MAX_HOLD_MAX + MS), TTL, Some("max_hold_ms")),
            (grace(MS / 2), TTL, Some("ask_grace_ms")),
            (grace(DELAY_MAX + MS), TTL, Some("ask_grace_ms")),
            (hold(most(TTL)), TTL, Some("max_hold_ms")),
            (hold(grace(TTL)), TTL, Some("ask_grace_ms")),
        ] {
            let field = field.map(|field| format!("condition.{field}"));
            assert_eq!(refused(condition, ttl), field, "{condition:?}");
        }
    }
}
