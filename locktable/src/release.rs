//! Release and Cancel: a client closes what it acquired, or makes sure that it never comes (D8). On
//! a hold that is ending, a release of all is its client's word that it has stopped: the hold ends,
//! or goes to its reclaimer, without waiting for the lease.

use crate::{
    Acquisition, At, Cancel, Change, Finished, FinishedRow, LockTable, Release, Reply, Token,
    ledger::HoldAfter,
    lock::{Lock, Step},
    sessions::Place,
};

impl LockTable {
    pub(crate) fn release(&mut self, at: At, release: Release, changes: &mut Vec<Change>) -> Reply {
        let Release { acquisition, ref name, token, all } = release;
        let released = self.with_lock(at, name, changes, |lock, step| {
            // Another session that knows the token has no say about it (hole 13).
            lock.holds.get(token).filter(|hold| hold.row.is_of_owner(acquisition))?;
            Some(if all {
                lock.release_all(step, token, acquisition)
            } else {
                lock.release_one(step, token, acquisition)
            })
        });
        released.flatten().unwrap_or_else(|| self.finished(name, acquisition))
    }

    pub(crate) fn cancel(&mut self, at: At, cancel: Cancel, changes: &mut Vec<Change>) -> Reply {
        let Cancel { acquisition, name } = cancel;
        let Some(open) = self.ledger.sessions.get(acquisition) else {
            if self.ledger.has_ended(acquisition) {
                self.ledger.come_again(acquisition);
                return self.finished(&name, acquisition);
            }
            // It has overtaken its Acquire, which must find that it may not come (hole 17).
            let how = Finished::Cancelled;
            let row = FinishedRow { acquisition, name, how, token: None };
            self.ledger.record(row, HoldAfter::Ended);
            return Reply::Cancelled;
        };
        if open.name != name {
            return Reply::Finished(Finished::Unknown);
        }
        let place = open.place;
        let cancelled = self.with_lock(at, &name, changes, |lock, step| match place {
            Place::Held(token) => lock.release_one(step, token, acquisition),
            Place::Waiting(ticket) => {
                lock.leave(step, ticket, Finished::Cancelled);
                lock.serve(step);
                Reply::Cancelled
            }
            Place::Reclaiming(token) => {
                lock.drop_reclaimer(step, token, Finished::Cancelled);
                Reply::Cancelled
            }
        });
        cancelled.unwrap_or(Reply::Finished(Finished::Unknown))
    }
}

impl Lock {
    /// Closes one acquisition of the hold's owner. One that is not known yet is recorded, so that
    /// it cannot join after its own release (hole 17).
    fn release_one(
        &mut self,
        step: &mut Step<'_>,
        token: Token,
        acquisition: Acquisition,
    ) -> Reply {
        let is_open = self.holds.get(token).is_some_and(|hold| hold.row.is_open(acquisition.id));
        if is_open {
            let open = self.close(step, token, acquisition.id);
            self.serve(step);
            return if open == 0 { Reply::Released } else { Reply::StillHeld { open } };
        }
        if step.ledger.is_known(acquisition) {
            step.ledger.come_again(acquisition);
            return Reply::Finished(step.ledger.how_finished(step.name, acquisition));
        }
        record_released(step, token, acquisition, HoldAfter::Lives);
        Reply::StillHeld { open: self.open_count(token) }
    }

    /// Ends the hold at its owner's word, which came in the name of one acquisition.
    fn release_all(
        &mut self,
        step: &mut Step<'_>,
        token: Token,
        acquisition: Acquisition,
    ) -> Reply {
        let is_new = !step.ledger.is_known(acquisition);
        self.give_up(step, token);
        if is_new {
            record_released(step, token, acquisition, HoldAfter::Ended);
        }
        self.serve(step);
        Reply::Released
    }
}

fn record_released(step: &mut Step<'_>, token: Token, acquisition: Acquisition, hold: HoldAfter) {
    let (name, how) = (step.name.clone(), Finished::Released);
    step.ledger.record(FinishedRow { acquisition, name, how, token: Some(token) }, hold);
}
