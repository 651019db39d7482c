//! The callers that asked for an acquisition and may still be told of it, so that one which nobody
//! waits for any more can be withdrawn.
//!
//! A unary Acquire whose caller goes away leaves a waiter that nobody wants. To cancel it in the
//! caller's name is safe only while no other attempt of the same acquisition can have been told
//! that it holds, or will be: the caller may have asked again by another way, another gateway, a
//! leader before this one, and be inside its critical section by now. So a leader withdraws an
//! acquisition only if it knows everybody who ever asked for it, and all of them have gone away
//! without an answer. It leaves to the lease what it does not know.

use std::collections::BTreeMap;

use sharklock_locktable::{Acquisition, Change, Finished, Status};

use crate::front::Subscriber;

/// Attempts of one acquisition that are told apart; with more it is left to its lease. Each is a
/// caller whose call is open somewhere.
const CALLERS_MAX: usize = 8;

/// The callers that asked for one acquisition in the current term.
#[derive(Debug, Default)]
struct Asked {
    /// The unary calls that asked and have not gone away. One that was answered stays.
    callers: Vec<Subscriber>,
    /// Commands of attempts that are not applied.
    in_flight: usize,
    /// Somebody asked who is not among `callers` and may have been told: never withdrawn.
    is_kept: bool,
    /// Its Cancel is on its way through the log.
    is_withdrawn: bool,
}

/// The acquisitions of a range that may have to be withdrawn. Soft: it dies at step-down.
///
/// Invariants:
/// - an acquisition that is not here has no attempt in flight, and if it is live then somebody who
///   is not known may have been told of it;
/// - whoever may be told of one that is here, or was told in this term, is among its `callers`, or
///   it is kept. Nobody was told in an earlier term: it was not live when it came here.
#[derive(Debug, Default)]
pub struct Attempts(BTreeMap<Acquisition, Asked>);

impl Attempts {
    /// An attempt is queued. `caller` is the unary call that alone will hear of it; `now` how the
    /// acquisition stands in the table.
    pub fn asked(&mut self, acquisition: Acquisition, caller: Option<Subscriber>, now: &Status) {
        let was_live = may_be_known(now);
        let asked = self
            .0
            .entry(acquisition)
            .or_insert_with(|| Asked { is_kept: was_live, ..Asked::default() });
        asked.in_flight += 1;
        match caller {
            Some(caller) if asked.callers.contains(&caller) => {}
            Some(caller) if asked.callers.len() < CALLERS_MAX => asked.callers.push(caller),
            Some(_) | None => asked.is_kept = true,
        }
    }

    /// An attempt's command was applied, or dropped before it was proposed. `is_live`: it waits or
    /// holds by it.
    pub fn settled(&mut self, acquisition: Acquisition, is_live: bool) {
        let Some(asked) = self.0.get_mut(&acquisition) else { return };
        asked.in_flight = asked.in_flight.saturating_sub(1);
        let is_needed = is_live && !asked.is_kept;
        self.forget_unless(acquisition, is_needed);
    }

    /// Follows what apply changed: what has ended needs no memory.
    pub fn observe(&mut self, change: &Change) {
        match change {
            Change::WaiterLeft { acquisition, .. } | Change::Closed { acquisition, .. } => {
                self.forget_unless(*acquisition, false);
            }
            Change::HoldEnded { acquisitions, .. } => {
                for acquisition in acquisitions {
                    self.forget_unless(*acquisition, false);
                }
            }
            _ => {}
        }
    }

    /// Somebody is about to be told of a live acquisition by an answer to something else than its
    /// acquire. False: nothing may be said, since its end is on its way.
    pub fn may_tell(&mut self, acquisition: Acquisition, caller: Option<Subscriber>) -> bool {
        let Some(asked) = self.0.get_mut(&acquisition) else { return true };
        if asked.is_withdrawn {
            return false;
        }
        if caller.is_none_or(|caller| !asked.callers.contains(&caller)) {
            asked.is_kept = true;
        }
        true
    }

    /// A caller has gone away without an answer. True: a Cancel has to follow, since nobody is left
    /// and the caller `gives_up`, rather than having lost its connection, by which it may come again.
    pub fn withdraw(
        &mut self,
        acquisition: Acquisition,
        caller: Subscriber,
        gives_up: bool,
    ) -> bool {
        let Some(asked) = self.0.get_mut(&acquisition) else { return false };
        let Some(at) = asked.callers.iter().position(|known| *known == caller) else {
            return false;
        };
        asked.callers.swap_remove(at);
        let nobody = asked.callers.is_empty() && !asked.is_kept && !asked.is_withdrawn;
        asked.is_withdrawn |= nobody && gives_up;
        nobody && gives_up
    }

    /// The Cancel was applied.
    pub fn withdrawn(&mut self, acquisition: Acquisition) {
        if let Some(asked) = self.0.get_mut(&acquisition) {
            asked.is_withdrawn = false;
        }
        self.forget_unless(acquisition, false);
    }

    /// Names have left the range: what is open no more has, or has ended.
    pub fn keep_open(&mut self, is_open: impl Fn(Acquisition) -> bool) {
        self.0.retain(|acquisition, asked| {
            asked.in_flight > 0 || asked.is_withdrawn || is_open(*acquisition)
        });
    }

    /// Forgets all, at step-down.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.len()
    }

    /// To forget is always allowed where nothing is in flight: see the invariants.
    fn forget_unless(&mut self, acquisition: Acquisition, is_needed: bool) {
        let Some(asked) = self.0.get(&acquisition) else { return };
        if asked.in_flight == 0 && !asked.is_withdrawn && !is_needed {
            self.0.remove(&acquisition);
        }
    }
}

/// Whether somebody may have been told that the acquisition is live. An orphan is: its client may
/// have meant it to stay.
fn may_be_known(status: &Status) -> bool {
    match status {
        Status::Waiting { .. } | Status::Held { .. } => true,
        Status::Finished(how) => matches!(how, Finished::Orphaned),
    }
}

#[cfg(test)]
mod tests {
    use sharklock_locktable::{AcquisitionId, Instance, SessionHandle};

    use super::*;
    use crate::front::LinkId;

    const A: Acquisition = Acquisition {
        session: SessionHandle([1; 16]),
        instance: Instance(1),
        id: AcquisitionId(1),
    };
    const NEW: Status = Status::Finished(Finished::Unknown);
    const WAITS: Status = Status::Waiting { place: 1 };

    fn call(link: u64, stream: u64) -> Subscriber {
        Subscriber { link: LinkId(link), stream }
    }

    #[test]
    fn one_that_nobody_else_asked_for_is_withdrawn_in_flight_and_later() {
        for applied in [false, true] {
            let mut attempts = Attempts::default();
            attempts.asked(A, Some(call(1, 7)), &NEW);
            if applied {
                attempts.settled(A, true);
            }
            assert!(!attempts.withdraw(A, call(1, 8), true), "that call did not ask");
            assert!(attempts.withdraw(A, call(1, 7), true));
            assert!(!attempts.withdraw(A, call(1, 7), true), "once");
            attempts.settled(A, true);
            attempts.withdrawn(A);
            assert_eq!(attempts.len(), 0);
        }
    }

    /// Also where the second attempt was answered, and the first is the one that goes away.
    #[test]
    fn it_stays_as_long_as_one_caller_has_not_gone() {
        let (first, second) = (call(1, 7), call(2, 7));
        for (goes, stays) in [(first, second), (second, first)] {
            let mut attempts = Attempts::default();
            attempts.asked(A, Some(first), &NEW);
            attempts.asked(A, Some(second), &NEW);
            attempts.settled(A, true);
            attempts.settled(A, true);
            assert!(!attempts.withdraw(A, goes, true));
            assert!(attempts.withdraw(A, stays, true), "now nobody is left");
        }
    }

    #[test]
    fn one_that_was_live_before_or_whose_client_has_a_stream_is_left_to_its_lease() {
        let mut attempts = Attempts::default();
        attempts.asked(A, Some(call(1, 7)), &WAITS);
        attempts.settled(A, true);
        assert!(!attempts.withdraw(A, call(1, 7), true), "an older leader may have told of it");
        assert_eq!(attempts.len(), 0, "there is nothing to remember");

        let mut attempts = Attempts::default();
        attempts.asked(A, None, &NEW);
        attempts.asked(A, Some(call(1, 7)), &NEW);
        assert!(!attempts.withdraw(A, call(1, 7), true), "the stream will be told");
        attempts.settled(A, true);
        attempts.settled(A, true);
        assert_eq!(attempts.len(), 0);
    }

    #[test]
    fn an_orphan_counts_as_live() {
        let mut attempts = Attempts::default();
        attempts.asked(A, Some(call(1, 7)), &Status::Finished(Finished::Orphaned));
        assert!(!attempts.withdraw(A, call(1, 7), true));
    }

    #[test]
    fn a_lost_connection_ends_nothing_and_the_next_caller_who_gives_up_does() {
        let mut attempts = Attempts::default();
        attempts.asked(A, Some(call(1, 7)), &NEW);
        attempts.settled(A, true);
        assert!(!attempts.withdraw(A, call(1, 7), false));
        attempts.asked(A, Some(call(2, 3)), &WAITS);
        attempts.settled(A, true);
        assert!(attempts.withdraw(A, call(2, 3), true));
    }

    #[test]
    fn who_is_told_by_a_keepalive_keeps_it_and_while_its_cancel_is_on_its_way_nobody_is_told() {
        let mut attempts = Attempts::default();
        attempts.asked(A, Some(call(1, 7)), &NEW);
        attempts.settled(A, true);
        assert!(attempts.may_tell(A, Some(call(1, 7))), "the caller's own keepalive");
        assert!(attempts.withdraw(A, call(1, 7), true));
        assert!(!attempts.may_tell(A, None));
        attempts.withdrawn(A);
        assert!(attempts.may_tell(A, None), "it is gone, and that may be said");

        attempts.asked(A, Some(call(1, 7)), &NEW);
        attempts.settled(A, true);
        assert!(attempts.may_tell(A, Some(call(1, 9))));
        assert!(!attempts.withdraw(A, call(1, 7), true), "somebody else was told");
    }

    #[test]
    fn more_callers_than_are_counted_leave_it_to_its_lease() {
        let mut attempts = Attempts::default();
        let callers: Vec<_> = (0..=CALLERS_MAX as u64).map(|at| call(1, at)).collect();
        callers.iter().for_each(|caller| attempts.asked(A, Some(*caller), &NEW));
        assert!(callers.iter().all(|caller| !attempts.withdraw(A, *caller, true)));
    }

    #[test]
    fn what_ended_or_was_refused_is_forgotten_once_nothing_is_in_flight() {
        let mut attempts = Attempts::default();
        attempts.asked(A, Some(call(1, 7)), &NEW);
        attempts.asked(A, Some(call(1, 8)), &NEW);
        attempts.settled(A, true);
        let (acquisition, name) = (A, "a".into());
        let left = Change::WaiterLeft { acquisition, name, how: Finished::WaitTimedOut };
        attempts.observe(&left);
        assert_eq!(attempts.len(), 1, "a duplicate is in flight");
        attempts.settled(A, false);
        assert_eq!(attempts.len(), 0);
    }
}
