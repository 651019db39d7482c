//! How a hold is taken away (D9): Ending and End, TimeUp and Revoke, which begin one. Two commits, so
//! that the holder's client has the time of its lease to stop: from Ending on nothing renews the
//! hold, and End comes after the lease or at the holder's own release. Only an operator's End without
//! waiting breaks the promise.

use crate::{
    At, Change, End, EndCause, Ending, EndingCause, EndingMark, Finished, HoldView, LockTable,
    Name, Reclaimer, Reply, Revoke, TimeUp, Timed, Token,
    lock::{Lock, Step},
    sessions::{Place, Session},
};

impl LockTable {
    pub(crate) fn ending(&mut self, at: At, ending: Ending, changes: &mut Vec<Change>) -> Reply {
        let Ending { ref name, token, ref reason, .. } = ending;
        let views = self.with_lock(at, name, changes, |lock, step| {
            let views = lock.views_of(token);
            for HoldView { grant, .. } in &views {
                lock.begin_ending_by_operator(step, grant.token, reason);
            }
            lock.serve(step);
            views
        });
        Reply::Holds(views.unwrap_or_default())
    }

    pub(crate) fn end(&mut self, at: At, end: End, changes: &mut Vec<Change>) -> Reply {
        let End { name, token, cause } = end;
        match cause {
            EndCause::WaitedOut { proposer_term, .. } if at.term != proposer_term => Reply::Done,
            EndCause::WaitedOut { told, .. } => {
                self.with_lock(at, &name, changes, |lock, step| {
                    let Some(token) = token.filter(|&token| lock.is_ending(token)) else { return };
                    lock.conclude(step, token, told);
                    lock.serve(step);
                });
                Reply::Done
            }
            EndCause::Operator { reason, .. } => {
                let views = self.with_lock(at, &name, changes, |lock, step| {
                    step.words = reason;
                    let views = lock.views_of(token);
                    for HoldView { grant, .. } in &views {
                        lock.take_away(step, grant.token, Finished::ForceReleased, true);
                    }
                    lock.serve(step);
                    views
                });
                Reply::Holds(views.unwrap_or_default())
            }
        }
    }

    pub(crate) fn time_up(&mut self, at: At, time_up: TimeUp, changes: &mut Vec<Change>) -> Reply {
        let TimeUp { name, token, what, proposer_term } = time_up;
        if at.term == proposer_term {
            self.with_lock(at, &name, changes, |lock, step| match what {
                Timed::LockDelay => lock.end_delay(step, token),
                Timed::MaxHold { revision } => lock.max_hold_is_over(step, token, revision),
                Timed::AskGrace { revision } => lock.ask_grace_is_over(step, token, revision),
            });
        }
        Reply::Done
    }

    pub(crate) fn revoke(&mut self, at: At, revoke: Revoke, changes: &mut Vec<Change>) -> Reply {
        let Revoke { session, reason, .. } = revoke;
        let open = self.ledger.sessions.session(session).into_iter().flat_map(Session::iter);
        let mut places: Vec<(Name, Place)> =
            open.map(|(_, open)| (open.name.clone(), open.place)).collect();
        // One hold may have many open.
        places.sort();
        places.dedup();
        let (mut holds, mut waiters) = (vec![], 0);
        for (name, place) in &places {
            self.with_lock(at, name, changes, |lock, step| match *place {
                Place::Held(token) => {
                    let views = lock.views_of(Some(token)).into_iter();
                    holds.extend(views.map(|view| (name.clone(), view)));
                    lock.begin_ending_by_operator(step, token, &reason);
                }
                Place::Waiting(ticket) => {
                    waiters += 1;
                    lock.leave(step, ticket, Finished::ForceReleased);
                }
                Place::Reclaiming(token) => {
                    waiters += 1;
                    lock.drop_reclaimer(step, token, Finished::ForceReleased);
                }
            });
        }
        // Served only now, so that nothing is granted to what was about to leave.
        for (name, _) in places {
            self.with_lock(at, &name, changes, Lock::serve);
        }
        Reply::Revoked { holds, waiters }
    }
}

impl Lock {
    /// An operator's word ends whatever there is, also what a newer life is about to take back. The
    /// caller serves the queue afterwards.
    fn begin_ending_by_operator(&mut self, step: &mut Step<'_>, token: Token, reason: &str) {
        let Some(hold) = self.holds.get(token) else { return };
        if hold.row.is_orphan() {
            // It has no lease that could be waited for.
            reason.clone_into(&mut step.words);
            return self.take_away(step, token, Finished::ForceReleased, true);
        }
        let is_reclaimed = hold.row.ending().map(|mark| mark.cause) == Some(EndingCause::Reclaim);
        if is_reclaimed {
            self.drop_reclaimer(step, token, Finished::ForceReleased);
            return self.mark_ending(step, token, EndingCause::Operator, reason, None);
        }
        self.begin_ending(step, token, EndingCause::Operator, reason, None);
    }

    /// Gives notice that the hold ends, unless that has been done.
    pub(crate) fn begin_ending(
        &mut self,
        step: &mut Step<'_>,
        token: Token,
        cause: EndingCause,
        reason: &str,
        reclaimer: Option<Reclaimer>,
    ) {
        if self.is_ending(token) {
            return;
        }
        self.mark_ending(step, token, cause, reason, reclaimer);
        let Some(hold) = self.holds.get(token) else { return };
        step.changes.push(Change::EndingBegan {
            token,
            name: step.name.clone(),
            ttl_ms: hold.row.ttl_ms,
            acquisitions: hold.row.acquisitions(),
            reason: reason.to_owned(),
            how: cause.how(),
        });
    }

    pub(crate) fn mark_ending(
        &mut self,
        step: &mut Step<'_>,
        token: Token,
        cause: EndingCause,
        reason: &str,
        reclaimer: Option<Reclaimer>,
    ) {
        let mark = EndingMark { cause, reason: reason.to_owned(), reclaimer };
        self.change_hold(step.name, step.ledger, token, |hold| {
            hold.change_extras(|extras| extras.ending = Some(mark));
        });
    }

    /// The end of an ending hold whose lease is over. The caller serves the queue afterwards.
    pub(crate) fn conclude(&mut self, step: &mut Step<'_>, token: Token, told: bool) {
        let Some(hold) = self.holds.get(token) else { return };
        if hold.row.reclaimer().is_some() && step.ledger.is_quarantined() {
            // The lost entries may have given it to the reclaimer, and after it to others.
            self.drop_reclaimer(step, token, Finished::HoldLost);
            return self.conclude(step, token, told);
        }
        let Some(EndingMark { cause, reclaimer, .. }) = hold.row.ending() else { return };
        match (*cause, reclaimer) {
            (EndingCause::Reclaim, Some(_)) => {
                self.hand_over(step, token, Finished::Reclaimed);
            }
            // The reclaimer is gone again, which takes nothing from what the session has claimed.
            (EndingCause::Reclaim, None) if hold.row.extras().claimed => self.orphan(step, token),
            (cause, _) => self.take_away(step, token, cause.how(), told),
        }
    }

    fn max_hold_is_over(&mut self, step: &mut Step<'_>, token: Token, revision: u64) {
        let Some(hold) = self.holds.get(token) else { return };
        let extras = hold.row.extras();
        if extras.condition.max_hold_ms.is_some() && extras.revision == revision {
            self.begin_ending(step, token, EndingCause::MaxHold, "max_hold is over", None);
        }
    }

    fn ask_grace_is_over(&mut self, step: &mut Step<'_>, token: Token, revision: u64) {
        let Some(hold) = self.holds.get(token) else { return };
        let extras = hold.row.extras();
        if extras.asked.is_none() || extras.revision != revision || self.is_ending(token) {
            return;
        }
        if !self.queue.is_empty() {
            let reason = "a waiter asked for the lock";
            return self.begin_ending(step, token, EndingCause::AskGrace, reason, None);
        }
        // Nobody wants it any more. A later waiter may ask anew.
        self.change_hold(step.name, step.ledger, token, |hold| {
            hold.change_extras(|extras| extras.asked = None);
        });
        step.changes.push(Change::AskDropped { token, name: step.name.clone() });
    }

    fn end_delay(&mut self, step: &mut Step<'_>, token: Token) {
        let Some(delay) = self.holds.remove_delay(token) else { return };
        step.ledger.discount_delay(step.name, delay.digest);
        step.ledger.delays_count -= 1;
        step.ledger.dirty.delay_left(step.name, token);
        step.changes.push(Change::DelayEnded { token, name: step.name.clone() });
        self.serve(step);
    }

    /// The hold with this token, or all.
    pub(crate) fn views_of(&self, token: Option<Token>) -> Vec<HoldView> {
        let wanted = self.holds.iter().filter(|hold| token.is_none_or(|it| it == hold.row.token));
        wanted.map(|hold| self.view_of(&hold.row)).collect()
    }

    pub(crate) fn is_ending(&self, token: Token) -> bool {
        self.holds.get(token).is_some_and(|hold| hold.row.ending().is_some())
    }
}
