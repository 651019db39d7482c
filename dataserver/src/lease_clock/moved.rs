//! What a split does to the lease clock of the range that it makes smaller: leases of names that have
//! left the range go, and what the clock has asked for in vain is due again.

use std::time::Duration;

use sharklock_locktable::{Acquisition, Command, Expire, ExpireItem, Name, Token};
use sharklock_rangemap::Bounds;

use super::{Deadline, LeaseClock};

impl LeaseClock {
    /// Forgets the leases and times of names outside the bounds, which the range has no more. Its
    /// leader there begins them anew (D7). Takes time in proportion to all leases, as the split does
    /// to all that moves.
    pub fn shrink_to(&mut self, bounds: &Bounds) {
        let is_outside = |name: &Name| !bounds.contains(name.as_str().as_bytes());
        self.holds.retain(|_, lease| !is_outside(&lease.name));
        self.waiters.retain(|_, lease| !is_outside(&lease.name));
        let Self { waits, waiters, .. } = self;
        waits.retain(|waiter, ()| waiters.contains(*waiter));
        self.conditions.stop_those_of(is_outside);
    }

    /// A command of this clock came too late to be applied: the range's bounds changed while it was
    /// on its way. Where the range still has the name it is due again, or nothing would ever end
    /// that hold, and nobody who asks for it would be answered. Without it the command's cause
    /// stands, unless its holder was heard of meanwhile: that counts from its receipt, since apply
    /// has refused the end (compare [`LeaseClock::renew`]).
    pub fn not_applied(&mut self, now: Duration, command: &Command, bounds: &Bounds) {
        let mut names = command.names();
        match command {
            Command::Expire(Expire { items, .. }) => {
                for item in items {
                    match item {
                        ExpireItem::Hold { token, .. } => self.hold_again(now, *token),
                        ExpireItem::Waiter { acquisition, .. } => {
                            self.waiter_again(now, *acquisition);
                        }
                    }
                }
            }
            Command::End(end) => {
                if let Some(token) = end.token {
                    self.hold_again(now, token);
                }
            }
            Command::WaitTimeout(timeout) => self.wait_again(now, timeout.acquisition),
            // What has left the range has left this clock, too, where nothing is found of it; but a
            // time is not there once it is proposed.
            Command::TimeUp(time_up)
                if names.all(|name| bounds.contains(name.as_str().as_bytes())) =>
            {
                self.conditions.again(now, time_up);
            }
            Command::EndQuarantine(_) => self.quarantine = Some(now),
            _ => {}
        }
    }

    fn hold_again(&mut self, now: Duration, token: Token) {
        let Some(lease) = self.holds.get(token).filter(|lease| lease.is_pending()) else { return };
        let deadline = match lease.of.ending {
            // Nothing renews it any more.
            true => Deadline { plain: now, credit_before: self.credit },
            false => lease.carried_on(now, self.credit),
        };
        self.holds.set_deadline(token, deadline);
    }

    fn waiter_again(&mut self, now: Duration, waiter: Acquisition) {
        let pending = self.waiters.get(waiter).filter(|lease| lease.is_pending());
        if let Some(deadline) = pending.map(|lease| lease.carried_on(now, self.credit)) {
            self.waiters.set_deadline(waiter, deadline);
        }
    }

    fn wait_again(&mut self, now: Duration, waiter: Acquisition) {
        if self.waiters.contains(waiter) && !self.waits.contains(waiter) {
            self.waits.set(waiter, now, ());
        }
    }
}

#[cfg(test)]
mod tests {
    use sharklock_locktable::{
        AcquisitionId, Change, Condition, Grant, Instance, SessionHandle, Wait,
    };

    use super::super::LeaseKey;
    use super::*;

    const TERM: u64 = 7;
    const TTL_MS: u64 = 10_000;
    /// A lease of [`TTL_MS`] with what the clock adds.
    const LEASE: Duration = Duration::from_millis(10_100);

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn clock() -> LeaseClock {
        LeaseClock::inheriting(at(0), TERM, at(2_000), vec![])
    }

    fn acquisition(id: u64) -> Acquisition {
        let session = SessionHandle([u8::try_from(id).expect("small"); 16]);
        Acquisition { session, instance: Instance(1), id: AcquisitionId(id) }
    }

    fn granted(id: u64, name: &str, condition: Option<Condition>) -> Change {
        let grant = Grant { token: Token(id), fence_floor: Token(id), ttl_ms: TTL_MS };
        let (acquisition, name) = (acquisition(id), name.into());
        let condition = condition.map(Box::new);
        Change::Granted { acquisition, name, grant, from_queue: false, condition }
    }

    fn queued(id: u64, name: &str, wait: Wait) -> Change {
        Change::Queued { acquisition: acquisition(id), name: name.into(), ttl_ms: TTL_MS, wait }
    }

    fn up_to(end: &str) -> Bounds {
        Bounds { start: Vec::new(), end: end.into() }
    }

    /// Asks what is due, loses it to a split, and asks again.
    fn lose(clock: &mut LeaseClock, now: Duration, bounds: &Bounds) -> Vec<Command> {
        let lost = clock.due(now);
        assert!(!lost.is_empty(), "something is due at {now:?}");
        assert_eq!(clock.due(now), vec![], "it is asked for once");
        lost.iter().for_each(|command| clock.not_applied(now, command, bounds));
        lost
    }

    #[test]
    fn every_end_that_was_lost_is_asked_for_again() {
        let mut clock = clock();
        let condition = Condition { max_hold_ms: Some(10_000), ..Condition::default() };
        clock.observe(at(0), &granted(1, "a", Some(condition)));
        clock.observe(at(0), &queued(2, "a", Wait::AtMost(10_100)));
        clock.observe(at(0), &granted(3, "b", None));
        let ending = Change::EndingBegan {
            token: Token(3),
            name: "b".into(),
            ttl_ms: TTL_MS,
            acquisitions: vec![],
            reason: "stuck".into(),
            how: sharklock_locktable::Finished::ForceReleased,
        };
        clock.observe(at(0), &ending);
        let delay = Change::DelayBegan { token: Token(4), name: "c".into(), delay_ms: 10_000 };
        clock.observe(at(0), &delay);

        let lost = lose(&mut clock, LEASE, &up_to("m"));
        // Two leases in one Expire, a wait, an End, a longest hold, a lock-delay.
        assert_eq!(lost.len(), 5, "{lost:?}");
        let mut again = clock.due(LEASE);
        let order = |command: &Command| format!("{command:?}");
        again.sort_by_key(order);
        let mut expected = lost;
        expected.sort_by_key(order);
        assert_eq!(again, expected);
    }

    /// The receipt may have been an acquire that is answered behind the lost Expire: its client counts
    /// from there.
    #[test]
    fn who_was_heard_of_while_the_end_was_on_its_way_has_a_full_lease_from_then() {
        let mut clock = clock();
        clock.observe(at(0), &granted(1, "a", None));
        let lost = clock.due(LEASE);
        let heard = LEASE + at(50);
        clock.renew(heard, LeaseKey::Hold(Token(1)));
        clock.not_applied(heard + at(50), &lost[0], &up_to("m"));
        assert!(!clock.is_pending(LeaseKey::Hold(Token(1))));
        assert_eq!(clock.due(heard + LEASE - at(1)), vec![]);
        assert_eq!(clock.due(heard + LEASE).len(), 1);
    }

    #[test]
    fn names_that_have_left_the_range_have_no_lease_and_no_time_here() {
        let mut clock = clock();
        let condition = Condition { max_hold_ms: Some(5_000), ..Condition::default() };
        clock.observe(at(0), &granted(1, "m", Some(condition)));
        clock.observe(at(0), &queued(2, "z", Wait::AtMost(1_000)));
        clock.observe(at(0), &granted(3, "lz", None));
        let delay = Change::DelayBegan { token: Token(4), name: "m".into(), delay_ms: 10_000 };
        clock.observe(at(0), &delay);
        let before = clock.due(at(5_050));
        assert_eq!(before.len(), 2, "the wait and the longest hold: {before:?}");

        clock.shrink_to(&up_to("m"));
        before.iter().for_each(|command| clock.not_applied(at(5_050), command, &up_to("m")));
        assert_eq!(clock.len(), 1);
        let due = clock.due(at(60_000));
        assert!(matches!(&due[..], [Command::Expire(Expire { items, .. })] if items.len() == 1));
        assert_eq!(clock.next_alarm(), None, "nothing else is left");
    }

    /// A hold may have got another end, or another beginning, since the command was asked for.
    #[test]
    fn what_is_not_pending_any_more_is_left_as_it_is() {
        let mut clock = clock();
        clock.observe(at(0), &granted(1, "a", None));
        let lost = clock.due(LEASE);
        let missed =
            Change::ExpireMissed { token: Token(1), name: "a".into(), newest: AcquisitionId(9) };
        clock.observe(LEASE, &missed);
        clock.not_applied(LEASE, &lost[0], &up_to("m"));
        assert_eq!(clock.due(LEASE), vec![]);
        assert_eq!(clock.due(LEASE + LEASE).len(), 1);
    }
}
