//! The inheritance of a new leader: every lease of its table, begun anew and in full.
//!
//! There may be millions, and no client is answered while they are counted. So the leader takes them
//! up in runs, a bounded number in each turn. Until then a lease has the deadline that all of them
//! have, which needs no place of its own; and whatever happens to one takes that one up first.
//! Nothing is missed on the way: the earliest end of an inherited lease is a ttl and an election
//! behind the promotion, and by then all are taken up unless there are millions. Times that may be
//! shorter, those of waits and conditions, may be over later by as long as that takes.

use std::time::Duration;

use sharklock_locktable::{Change, Lease, LeaseCursor, LockTable, Token};

use super::{Deadline, Hold, LeaseClock, LeaseKey, Leases, wait_ends, with_drift};
use crate::{
    alarms::Alarms,
    condition_clock::{ConditionClock, TimeKey},
};

/// How many times more a turn takes up once an inherited lease could be due.
const HASTE: usize = 8;

/// The shortest ttl that a gateway lets in (D7).
const TTL_MIN: Duration = Duration::from_secs(2);

/// Leases that nothing has happened to since the promotion.
#[derive(Debug)]
pub(super) struct Inherited {
    /// When this leader began to lead.
    promoted_at: Duration,
    /// From when their ttl counts: longer than the promotion by the time in which an older leader
    /// may still have answered (D7, *New leader*).
    from: Duration,
    /// Up to where the table was taken up.
    after: Option<LeaseCursor>,
}

impl Inherited {
    /// When a lease of that ttl ends, but for the stalls since the promotion.
    pub(super) fn deadline(&self, ttl: Duration) -> Deadline {
        Deadline { plain: self.from + with_drift(ttl), credit_before: Duration::ZERO }
    }
}

impl LeaseClock {
    /// The clock of a leader that has just applied to its own `term`. It begins with nothing but
    /// what [`take_up`](Self::take_up) brings, and is right from the first moment on.
    pub fn promote(now: Duration, term: u64, election_max: Duration) -> Self {
        let inherited = Inherited { promoted_at: now, from: now + election_max, after: None };
        Self {
            term,
            election_max,
            holds: Leases::default(),
            waiters: Leases::default(),
            waits: Alarms::default(),
            conditions: ConditionClock::default(),
            credit: Duration::ZERO,
            paused_until: None,
            alarms_seen: 0,
            inherited: Some(inherited),
            quarantine: None,
        }
    }

    /// A clock that has taken up these leases, and inherits no others.
    #[cfg(test)]
    pub(crate) fn inheriting(
        now: Duration,
        term: u64,
        election_max: Duration,
        leases: Vec<Lease>,
    ) -> Self {
        let mut clock = Self::promote(now, term, election_max);
        leases.into_iter().for_each(|lease| clock.take_up_one(lease));
        clock.inherited = None;
        clock
    }

    /// Takes up about `steps_max` more of the leases that the leader found, and more than that where
    /// one of them could be due. Call it once a turn, when every change of the table was followed,
    /// until the clock is whole. How many steps there were.
    pub fn take_up(&mut self, now: Duration, table: &LockTable, steps_max: usize) -> usize {
        let Some(inherited) = &self.inherited else { return 0 };
        let is_late = now >= inherited.from + TTL_MIN;
        let steps_max = if is_late { steps_max * HASTE } else { steps_max };
        let (leases, stopped) = table.leases_after(inherited.after.as_ref(), steps_max);
        let steps = if stopped.is_some() { steps_max } else { leases.len().min(steps_max) };
        for lease in leases {
            self.take_up_one(lease);
        }
        match stopped {
            None => self.inherited = None,
            after => self.inherited.as_mut().expect("it has just been seen").after = after,
        }
        steps
    }

    /// Whether everything is taken up.
    pub fn is_whole(&self) -> bool {
        self.inherited.is_none()
    }

    /// Takes up the lease that somebody speaks of. Call it before whatever asks or renews it.
    pub fn meet(&mut self, table: &LockTable, name: &str, key: LeaseKey) {
        if self.is_whole() {
            return;
        }
        let lease = match key {
            LeaseKey::Hold(token) if self.holds.contains(token) => None,
            LeaseKey::Waiter(acquisition) if self.waiters.contains(acquisition) => None,
            LeaseKey::Hold(token) => table.lease_of_hold(name, token),
            LeaseKey::Waiter(acquisition) => table.lease_of_waiter(name, acquisition),
        };
        if let Some(lease) = lease {
            self.take_up_one(lease);
        }
    }

    /// Takes up the hold that a change is about, unless the change begins or ends it. Where the same
    /// entry has ended it since, the table lacks it, and there is nothing to follow.
    pub(super) fn meet_changed(&mut self, change: &Change, table: &LockTable) {
        match change {
            Change::Joined { token, name, .. }
            | Change::EndingBegan { token, name, .. }
            | Change::ExpireMissed { token, name, .. }
            | Change::ConditionSet { token, name, .. }
            | Change::Asked { token, name, .. }
            | Change::AskDropped { token, name, .. } => {
                self.meet(table, name.as_str(), LeaseKey::Hold(*token));
            }
            // The table knows it under its new token only.
            Change::Downgraded { before, name, grant, .. } if !self.holds.contains(*before) => {
                self.meet(table, name.as_str(), LeaseKey::Hold(grant.token));
            }
            Change::Downgraded { .. }
            | Change::Queued { .. }
            | Change::Granted { .. }
            | Change::Closed { .. }
            // No lease depends on it.
            | Change::AttributesSet { .. }
            | Change::Claimed { .. }
            | Change::WaiterLeft { .. }
            | Change::HoldEnded { .. }
            | Change::Orphaned { .. }
            | Change::DelayBegan { .. }
            | Change::DelayEnded { .. }
            | Change::QuarantineEnds { .. } => {}
        }
    }

    fn take_up_one(&mut self, lease: Lease) {
        let inherited = self.inherited.as_ref().expect("only what was inherited is taken up");
        let promoted_at = inherited.promoted_at;
        match lease {
            Lease::Hold { name, token, ttl_ms, newest, ending, agreement, asked, .. } => {
                if self.holds.contains(token) {
                    return;
                }
                // Whether an older leader has told its client is not known here.
                let hold = Hold { newest, ending, told: true, since: None };
                if !ending {
                    self.conditions.agree(promoted_at, &name, token, &agreement, asked);
                }
                let deadline = inherited.deadline(Duration::from_millis(ttl_ms));
                self.holds.start(token, name, ttl_ms, deadline, hold);
            }
            Lease::Waiter { name, acquisition, ttl_ms, wait } => {
                if self.waiters.contains(acquisition) {
                    return;
                }
                let deadline = inherited.deadline(Duration::from_millis(ttl_ms));
                let wait_ends = wait_ends(promoted_at, wait);
                self.start_waiter(deadline, (acquisition, None), &name, ttl_ms, wait_ends);
            }
            Lease::Delay { name, token, delay_ms } => {
                let key = TimeKey::LockDelay(token);
                if self.conditions.remaining(promoted_at, key).is_none() {
                    self.conditions.begin(promoted_at, key, name, delay_ms, 0);
                }
            }
        }
    }

    /// Upper bound of what is left of a lease of `ttl_ms` that the table has; none while its end is
    /// pending.
    pub fn remaining(&self, now: Duration, key: LeaseKey, ttl_ms: u64) -> Option<Duration> {
        let taken_up = match key {
            LeaseKey::Hold(token) => self.holds.get(token).map(|it| it.ends_at(self.credit)),
            LeaseKey::Waiter(acquisition) => {
                self.waiters.get(acquisition).map(|it| it.ends_at(self.credit))
            }
        };
        let ends_at = match (taken_up, &self.inherited) {
            (Some(ends_at), _) => ends_at?,
            (None, Some(inherited)) => {
                let ttl = Duration::from_millis(ttl_ms);
                inherited.deadline(ttl).ends_at(ttl, self.credit)
            }
            (None, None) => return None,
        };
        Some(ends_at.saturating_sub(now))
    }

    /// Upper bound of what is left of a lock-delay of `delay_ms` that the table has.
    pub fn delay_left(&self, now: Duration, token: Token, delay_ms: u64) -> Option<Duration> {
        self.condition_left(now, TimeKey::LockDelay(token), delay_ms)
    }

    /// Upper bound of what is left of a holder's grace of `grace_ms`, since it was asked for the lock.
    pub fn grace_left(&self, now: Duration, token: Token, grace_ms: u64) -> Option<Duration> {
        self.condition_left(now, TimeKey::AskGrace(token), grace_ms)
    }

    /// Of a time that the table has. What this leader has not met yet begins when it began to lead.
    fn condition_left(&self, now: Duration, key: TimeKey, ms: u64) -> Option<Duration> {
        self.conditions.remaining(now, key).or_else(|| {
            let over = self.inherited.as_ref()?.promoted_at;
            let over = over + with_drift(Duration::from_millis(ms));
            Some(over.saturating_sub(now))
        })
    }
}
