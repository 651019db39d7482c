//! The grammar of conditions (D9): what a client agrees may end its hold. Closed, so that apply can
//! evaluate it; what each clause does is told where it acts.

/// The agreement about what may end a hold beside its own client: exactly one rule about its lease,
/// and any of three clauses.
///
/// Refused combinations (see [`ConditionFlaw`]): `hold` with `max_hold` or `ask_holder`, because a
/// claimed `hold` ends only by its session or an operator, and the clauses would end it at a clock's
/// or a waiter's word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// The effect of the lease's end.
    pub lease: LeaseRule,
    /// `lock_delay(d)`, milliseconds: after an end that its client did not ask for, of a grant that
    /// its client was told of, the seat or the permits stay taken for so long.
    pub lock_delay_ms: Option<u64>,
    /// `max_hold(d)`, milliseconds: so long after its grant (or after the condition was set) the
    /// hold is ended, with the notice of [`crate::Ending`].
    pub max_hold_ms: Option<u64>,
    /// `ask_holder(grace)`, milliseconds: a waiter may ask for the lock, and so long after it asked
    /// the hold is ended, with the notice of [`crate::Ending`].
    pub ask_grace_ms: Option<u64>,
}

/// The effect of its lease's end on a hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LeaseRule {
    /// `on_expiry`: it ends.
    #[default]
    OnExpiry,
    /// `after_missed(n, interval)`: it ends; its ttl is `n` keepalive intervals.
    AfterMissed {
        /// How many keepalives in a row may be missed: at least [`MISSED_MIN`].
        missed: u32,
        /// How often the client sends one, milliseconds.
        interval_ms: u64,
    },
    /// `hold`: once claimed, it does not end but becomes an orphan. Before its claim it acts as
    /// `on_expiry`, so that a grant that its client never saw does not stay for ever.
    Hold,
}

/// One lost message and one late one must not cost a lock.
pub const MISSED_MIN: u32 = 3;

/// Why a condition is refused, wherever it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionFlaw {
    /// A duration or the interval is 0.
    ZeroDuration,
    /// `after_missed` with fewer than [`MISSED_MIN`].
    MissedTooFew,
    /// `after_missed` whose ttl is not `n * interval`.
    TtlIsNotMissedIntervals,
    /// `hold` with `max_hold`.
    HoldWithMaxHold,
    /// `hold` with `ask_holder`.
    HoldWithAskHolder,
    /// Re-entry joins a hold under the condition that it has, and brings none.
    WithReentry,
    /// A claim of a condition that is not `hold`.
    NothingToClaim,
}

impl Condition {
    /// Whether it says no more than that the hold ends with its lease.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The fault of this condition for a hold of this ttl, if it has one.
    pub(crate) fn flaw(&self, ttl_ms: u64) -> Option<ConditionFlaw> {
        let durations = [self.lock_delay_ms, self.max_hold_ms, self.ask_grace_ms];
        if durations.contains(&Some(0)) {
            return Some(ConditionFlaw::ZeroDuration);
        }
        match self.lease {
            LeaseRule::AfterMissed { interval_ms: 0, .. } => Some(ConditionFlaw::ZeroDuration),
            LeaseRule::AfterMissed { missed, .. } if missed < MISSED_MIN => {
                Some(ConditionFlaw::MissedTooFew)
            }
            LeaseRule::AfterMissed { missed, interval_ms }
                if u64::from(missed).checked_mul(interval_ms) != Some(ttl_ms) =>
            {
                Some(ConditionFlaw::TtlIsNotMissedIntervals)
            }
            LeaseRule::Hold if self.max_hold_ms.is_some() => Some(ConditionFlaw::HoldWithMaxHold),
            LeaseRule::Hold if self.ask_grace_ms.is_some() => {
                Some(ConditionFlaw::HoldWithAskHolder)
            }
            LeaseRule::OnExpiry | LeaseRule::AfterMissed { .. } | LeaseRule::Hold => None,
        }
    }
}
