//! Acquire: grant, queue, refuse, join, or find the outcome of the first attempt (D8).

use std::collections::btree_map::Entry;

use crate::{
    Acquire, Acquisition, At, Change, ConditionFlaw, Finished, FinishedRow, HoldRow, LockTable,
    Mode, Name, Refusal, Reply, Token, Wait,
    holds::Hold,
    ledger::{HoldAfter, Ledger},
    lock::{Lock, Request, Step},
    sessions::{Open, Place, Session},
};

/// To an acquisition that was used for something else.
pub(crate) const REUSED: Reply = Reply::Refused(Refusal::AcquisitionReused);

impl LockTable {
    pub(crate) fn acquire(&mut self, at: At, acquire: Acquire, changes: &mut Vec<Change>) -> Reply {
        let session = self.ledger.sessions.session(acquire.acquisition.session);
        if let Some(reply) = self.first_outcome(&acquire, session) {
            self.ledger.come_again(acquire.acquisition);
            return reply;
        }
        if self.ledger.is_doubtful(acquire.asked_ms) {
            return Reply::Indeterminate;
        }
        let open_count = session.map_or(0, Session::len);
        let too_many = self.ledger.refusal_beside(open_count);
        match acquire.reenter {
            Some(token) => self.reenter(at, acquire, token, too_many, changes),
            None => self.acquire_anew(at, acquire, too_many, changes),
        }
    }

    /// The answer to a duplicate, which has no effect; nothing for an acquisition that is new.
    fn first_outcome(&self, acquire: &Acquire, session: Option<&Session>) -> Option<Reply> {
        let Acquire { acquisition, ref name, mode, .. } = *acquire;
        let open = session.and_then(|it| it.get((acquisition.instance, acquisition.id)));
        let (lock, place) = match self.first_arrival(acquisition, name, open)? {
            Ok(arrival) => arrival,
            Err(reply) => return Some(reply),
        };
        Some(match place {
            Place::Held(token) => {
                let hold = &lock.holds.get(token)?.row;
                match hold.mode == mode {
                    true if hold.is_orphan() => Reply::Finished(Finished::Orphaned),
                    true => Reply::Granted(lock.grant_of(hold)),
                    false => REUSED,
                }
            }
            Place::Reclaiming(_) => REUSED,
            Place::Waiting(ticket) => {
                let waiter = &lock.queue.get(ticket)?.row;
                let (place, ttl_ms) = (lock.queue.place(ticket)?, waiter.ttl_ms);
                if waiter.mode == mode { Reply::Queued { place, ttl_ms } } else { REUSED }
            }
        })
    }

    /// The place of an acquisition's first arrival, or the answer to any duplicate of it: it is
    /// over, or was for another lock. Nothing for an acquisition that is new.
    pub(crate) fn first_arrival(
        &self,
        acquisition: Acquisition,
        name: &Name,
        open: Option<&Open>,
    ) -> Option<Result<(&Lock, Place), Reply>> {
        let Some(open) = open else {
            if !self.ledger.has_ended(acquisition) {
                return None;
            }
            // How it ended only the ring knows, and for which lock.
            return Some(Err(match self.ledger.ring.get(acquisition) {
                Some(finished) if finished.name != *name => REUSED,
                finished => Reply::Finished(finished.map_or(Finished::Unknown, |row| row.how)),
            }));
        };
        if open.name != *name {
            return Some(Err(REUSED));
        }
        Some(Ok((self.locks.get(name)?, open.place)))
    }

    /// An acquisition that is new and no re-entry.
    fn acquire_anew(
        &mut self,
        at: At,
        acquire: Acquire,
        too_many: Option<Refusal>,
        changes: &mut Vec<Change>,
    ) -> Reply {
        let Acquire { acquisition, name, mode, ttl_ms, wait, owner, condition, .. } = acquire;
        let condition = condition.filter(|condition| !condition.is_default());
        if !mode.is_grantable() {
            // The edge refuses it; were it to pass, it would wait for ever.
            return Reply::Refused(Refusal::ModeMismatch);
        }
        if let Some(flaw) = condition.as_deref().and_then(|condition| condition.flaw(ttl_ms)) {
            return Reply::Refused(Refusal::Condition(flaw));
        }
        let owner = self.ledger.sessions.share(acquisition.session, owner);
        let request = Request { acquisition, mode, ttl_ms, owner, condition, arrival: None };
        let mut step = Step::new(at, &name, &mut self.ledger, changes);
        let mut slot = match self.locks.entry(name.clone()) {
            Entry::Vacant(slot) => {
                return match too_many {
                    Some(refusal) => Reply::Refused(refusal),
                    None if step.ledger.is_quarantined() => match wait {
                        Wait::Try => Reply::Refused(Refusal::Quarantine),
                        wait => {
                            let lock = slot.insert(Box::new(Lock::new()));
                            Reply::Queued { place: lock.enqueue(&mut step, request, wait), ttl_ms }
                        }
                    },
                    None => {
                        Reply::Granted(slot.insert(Box::new(Lock::new())).grant(&mut step, request))
                    }
                };
            }
            Entry::Occupied(slot) => slot,
        };
        let lock = slot.get_mut();
        if lock.kind() != Some(mode.kind()) {
            Reply::Refused(Refusal::ModeMismatch)
        } else if let Some(refusal) = too_many {
            Reply::Refused(refusal)
        } else if lock.is_open_to(mode) && step.ledger.is_quarantined() && wait == Wait::Try {
            // Not recorded: nobody has it, as far as is known.
            Reply::Refused(Refusal::Quarantine)
        } else if lock.is_open_to(mode) && !step.ledger.is_quarantined() {
            let max = step.ledger.seats_max();
            match lock.holds.admit(mode, max) {
                true => Reply::Granted(lock.grant(&mut step, request)),
                false => Reply::Refused(Refusal::TooManyHolders { max }),
            }
        } else if wait == Wait::Try {
            self.ledger.record_unheld(name, acquisition, Finished::TryRefused)
        } else if lock.queue.len() >= step.ledger.limits.waiters_per_lock_max {
            let max = step.ledger.limits.waiters_per_lock_max;
            Reply::Refused(Refusal::TooManyWaiters { max })
        } else {
            Reply::Queued { place: lock.enqueue(&mut step, request, wait), ttl_ms }
        }
    }

    /// An acquisition that is new and wants to join a live hold. It asks for that hold or nothing:
    /// a fresh grant would let the outer section go on under a token that is gone (hole 15).
    fn reenter(
        &mut self,
        at: At,
        acquire: Acquire,
        token: Token,
        too_many: Option<Refusal>,
        changes: &mut Vec<Change>,
    ) -> Reply {
        let Acquire { acquisition, ref name, ref condition, .. } = acquire;
        if condition.as_ref().is_some_and(|condition| !condition.is_default()) {
            return Reply::Refused(Refusal::Condition(ConditionFlaw::WithReentry));
        }
        let joined = self.with_lock(at, name, changes, |lock, step| {
            // An orphan's client was told that it is gone: nothing of it goes on.
            let hold = &lock.holds.get(token).filter(|hold| !hold.row.is_orphan())?.row;
            if let Some(refusal) = refusal_to_join(hold, &acquire) {
                return Some(Reply::Refused(refusal));
            }
            if hold.extras().highest_closed_id >= Some(acquisition.id) {
                return Some(Reply::Finished(Finished::Unknown));
            }
            if let Some(refusal) = too_many {
                return Some(Reply::Refused(refusal));
            }
            let grant = lock.grant_of(hold);
            lock.join(step, token, acquisition);
            Some(Reply::Granted(grant))
        });
        match joined.flatten() {
            Some(reply) => reply,
            None => self.ledger.record_unheld(acquire.name, acquisition, Finished::HoldLost),
        }
    }
}

impl Lock {
    /// Opens one more acquisition of the owner on a live hold: same token, lease and ttl.
    fn join(&mut self, step: &mut Step<'_>, token: Token, acquisition: Acquisition) {
        let id = acquisition.id;
        self.change_hold(step.name, step.ledger, token, |hold| {
            hold.open_ids.join(id);
        });
        let name = step.name.clone();
        let open = Open { name: name.clone(), place: Place::Held(token) };
        let Some(Hold { row, .. }) = self.holds.get(token) else { return };
        step.ledger.sessions.insert(acquisition, &row.owner, open);
        step.changes.push(Change::Joined { acquisition, name, token });
    }
}

impl Ledger {
    /// Records and answers an acquisition that ended without a hold, so that a duplicate of it does
    /// not fare better than it did (hole 19).
    pub(crate) fn record_unheld(
        &mut self,
        name: Name,
        acquisition: Acquisition,
        how: Finished,
    ) -> Reply {
        self.record(FinishedRow { acquisition, name, how, token: None }, HoldAfter::Ended);
        Reply::Finished(how)
    }
}

/// Why the acquisition may not join the live hold.
fn refusal_to_join(hold: &HoldRow, acquire: &Acquire) -> Option<Refusal> {
    let is_owner = hold.is_of_owner(acquire.acquisition) && hold.owner.id == acquire.owner.id;
    if is_owner && (hold.mode, acquire.mode) == (Mode::Shared, Mode::Exclusive) {
        return Some(Refusal::WouldDeadlock);
    }
    if is_owner && (hold.mode, acquire.mode) == (Mode::Exclusive, Mode::Shared) {
        return Some(Refusal::SharedReentry);
    }
    let may_join = is_owner && hold.mode == acquire.mode && hold.ending().is_none();
    (!may_join).then_some(Refusal::NotReenterable)
}
