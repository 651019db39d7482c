//! Reclaim (D9): a newer life of a session takes a hold back. An orphan goes over at once; a live
//! hold is ending first, because the older life may still run (hole 21). Always under a new token.

use crate::{
    Acquisition, At, Change, EndingCause, EndingMark, Extras, Finished, Grant, HoldRow, LockTable,
    Reclaim, Reclaimer, Refusal, Reply, Token, Wait,
    acquire::REUSED,
    lock::{Lock, Request, Step},
    sessions::{Open, Place},
};

impl LockTable {
    pub(crate) fn reclaim(&mut self, at: At, reclaim: Reclaim, changes: &mut Vec<Change>) -> Reply {
        if let Some(reply) = self.first_outcome_of_reclaim(&reclaim) {
            self.ledger.come_again(reclaim.acquisition);
            return reply;
        }
        if self.ledger.is_doubtful(reclaim.asked_ms) {
            return Reply::Indeterminate;
        }
        if self.ledger.is_quarantined() {
            return Reply::Refused(Refusal::Quarantine);
        }
        let Reclaim { acquisition, name, token, owner, .. } = reclaim;
        let open_count = self.ledger.sessions.open_count(acquisition.session);
        let too_many = self.ledger.refusal_beside(open_count);
        let owner = self.ledger.sessions.share(acquisition.session, owner);
        let reclaimer = Reclaimer { acquisition, owner };
        let reclaimed = self.with_lock(at, &name, changes, |lock, step| {
            let hold = &lock.holds.get(token)?.row;
            if let Some(refusal) = refusal_to_reclaim(hold, &reclaimer, too_many) {
                return Some(Reply::Refused(refusal));
            }
            Some(if hold.is_orphan() {
                lock.take_over_orphan(step, token, reclaimer)
            } else {
                lock.announce_reclaim(step, token, reclaimer)
            })
        });
        match reclaimed.flatten() {
            Some(reply) => reply,
            // Recorded, so that a late copy does not find what has been granted since.
            None => self.ledger.record_unheld(name, acquisition, Finished::HoldLost),
        }
    }

    /// The answer to a duplicate, which has no effect; nothing for an acquisition that is new.
    fn first_outcome_of_reclaim(&self, reclaim: &Reclaim) -> Option<Reply> {
        let Reclaim { acquisition, ref name, token, .. } = *reclaim;
        let open = self.ledger.sessions.get(acquisition);
        let (lock, place) = match self.first_arrival(acquisition, name, open)? {
            Ok(arrival) => arrival,
            Err(reply) => return Some(reply),
        };
        Some(match place {
            Place::Held(held) => {
                let hold = &lock.holds.get(held)?.row;
                match hold.extras().token_before == Some(token) {
                    true if hold.is_orphan() => Reply::Finished(Finished::Orphaned),
                    true => Reply::Granted(lock.grant_of(hold)),
                    false => REUSED,
                }
            }
            Place::Reclaiming(ending) if ending == token => {
                Reply::Queued { place: 1, ttl_ms: lock.holds.get(ending)?.row.ttl_ms }
            }
            Place::Reclaiming(_) | Place::Waiting(_) => REUSED,
        })
    }
}

/// Why the acquisition may not have the live hold. `too_many` stands in the way of one more open
/// acquisition.
fn refusal_to_reclaim(
    hold: &HoldRow,
    reclaimer: &Reclaimer,
    too_many: Option<Refusal>,
) -> Option<Refusal> {
    let life = |it: Acquisition| (it.instance, it.id);
    let Reclaimer { acquisition, .. } = *reclaimer;
    let is_newer = acquisition.instance > hold.instance;
    if hold.session != acquisition.session || !(is_newer || hold.is_orphan_of(acquisition)) {
        return Some(Refusal::NotReclaimable);
    }
    match hold.ending() {
        Some(EndingMark { cause: EndingCause::Reclaim, reclaimer, .. }) => {
            let other = reclaimer.as_ref().map(|other| life(other.acquisition));
            if other > Some(life(acquisition)) {
                return Some(Refusal::NotReclaimable);
            }
        }
        Some(_) => return Some(Refusal::HoldEnding),
        None => {}
    }
    // It takes the places of an orphan's acquisitions; that of a live hold's it takes only later.
    too_many.filter(|_| !hold.is_orphan())
}

impl HoldRow {
    /// Whether it is an orphan that the acquisition's own life lost, which may have it back.
    fn is_orphan_of(&self, acquisition: Acquisition) -> bool {
        self.is_orphan() && self.is_of_owner(acquisition)
    }
}

impl Lock {
    fn take_over_orphan(
        &mut self,
        step: &mut Step<'_>,
        token: Token,
        reclaimer: Reclaimer,
    ) -> Reply {
        self.mark_ending(step, token, EndingCause::Reclaim, "reclaimed", Some(reclaimer));
        match self.hand_over(step, token, Finished::Reclaimed) {
            Some(grant) => Reply::Granted(grant),
            None => Reply::Finished(Finished::HoldLost),
        }
    }

    /// The older life gets the notice of an Ending, and the time of its lease.
    fn announce_reclaim(
        &mut self,
        step: &mut Step<'_>,
        token: Token,
        reclaimer: Reclaimer,
    ) -> Reply {
        let (acquisition, owner) = (reclaimer.acquisition, reclaimer.owner.clone());
        self.drop_reclaimer(step, token, Finished::Reclaimed);
        let reason = format!("reclaimed by instance {} of its session", acquisition.instance.0);
        if self.is_ending(token) {
            self.mark_ending(step, token, EndingCause::Reclaim, &reason, Some(reclaimer));
        } else {
            self.begin_ending(step, token, EndingCause::Reclaim, &reason, Some(reclaimer));
        }
        let open = Open { name: step.name.clone(), place: Place::Reclaiming(token) };
        step.ledger.sessions.insert(acquisition, &owner, open);
        let ttl_ms = self.holds.get(token).map_or(0, |hold| hold.row.ttl_ms);
        let (name, wait) = (step.name.clone(), Wait::Unbounded);
        step.changes.push(Change::Queued { acquisition, name, ttl_ms, wait });
        Reply::Queued { place: 1, ttl_ms }
    }

    /// The reclaimer of the hold is no more. The hold goes on ending: its older life has been told.
    pub(crate) fn drop_reclaimer(&mut self, step: &mut Step<'_>, token: Token, how: Finished) {
        let Some(hold) = self.holds.get(token) else { return };
        let Some(acquisition) = hold.row.reclaimer().map(|reclaimer| reclaimer.acquisition) else {
            return;
        };
        self.change_hold(step.name, step.ledger, token, |hold| {
            hold.change_extras(|extras| {
                if let Some(mark) = &mut extras.ending {
                    mark.reclaimer = None;
                }
            });
        });
        step.waiter_left(acquisition, how);
    }

    /// The hold ends, and a new one of its reclaimer begins in its place: no waiter may
    /// come between, so this does not serve the queue. A claimed hold stays claimed: the
    /// session has seen that grant, and a lost answer must not take the protection away.
    pub(crate) fn hand_over(
        &mut self,
        step: &mut Step<'_>,
        token: Token,
        how: Finished,
    ) -> Option<Grant> {
        let mut reclaimer = None;
        self.change_hold(step.name, step.ledger, token, |hold| {
            hold.change_extras(|extras| {
                reclaimer = extras.ending.take().and_then(|mark| mark.reclaimer);
            });
        });
        let Reclaimer { acquisition, owner } = reclaimer?;
        let before = self.end(step, token, how)?;
        let &Extras { condition, claimed, .. } = before.extras();
        let extras = Extras { condition, claimed, token_before: Some(token), ..Extras::default() };
        let condition = (!condition.is_default()).then(|| Box::new(condition));
        let HoldRow { mode, ttl_ms, arrival, .. } = before;
        let arrival = Some(arrival);
        let request = Request { acquisition, mode, ttl_ms, owner, condition, arrival };
        Some(self.grant_with(step, request, Some(Box::new(extras))))
    }
}
