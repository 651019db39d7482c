//! Expire and WaitTimeout: what a leader's clock ends. Each names exactly what its leader saw and
//! the leader's term, and does nothing to anything else (D7).

use crate::{
    Acquisition, AcquisitionId, At, Change, Expire, ExpireItem, Finished, LockTable, Name, Reply,
    Token, WaitTimeout,
    holds::Hold,
    lock::{Lock, Step},
    sessions::Place,
};

impl LockTable {
    pub(crate) fn expire(&mut self, at: At, expire: Expire, changes: &mut Vec<Change>) -> Reply {
        if at.term != expire.proposer_term {
            return Reply::Done;
        }
        // Everything ends before anything is granted: else a dead waiter of this very command
        // would get the hold that a dead holder left, and keep it for another lease.
        let mut touched = Vec::with_capacity(expire.items.len());
        for item in expire.items {
            touched.push(match item {
                ExpireItem::Hold { name, token, newest, told } => {
                    self.with_lock(at, &name, changes, |lock, step| {
                        lock.expire(step, token, newest, told);
                    });
                    name
                }
                ExpireItem::Waiter { name, acquisition } => {
                    self.end_wait(at, &name, acquisition, Finished::Expired, changes);
                    name
                }
            });
        }
        for name in touched {
            self.with_lock(at, &name, changes, Lock::serve);
        }
        Reply::Done
    }

    pub(crate) fn wait_timeout(
        &mut self,
        at: At,
        timeout: WaitTimeout,
        changes: &mut Vec<Change>,
    ) -> Reply {
        let WaitTimeout { acquisition, name, proposer_term } = timeout;
        if at.term == proposer_term {
            self.end_wait(at, &name, acquisition, Finished::WaitTimedOut, changes);
            self.with_lock(at, &name, changes, Lock::serve);
        }
        Reply::Done
    }

    /// Takes a waiter out. An acquisition that is granted already, or was never here, stays as it
    /// is (hole 18).
    fn end_wait(
        &mut self,
        at: At,
        name: &Name,
        acquisition: Acquisition,
        how: Finished,
        changes: &mut Vec<Change>,
    ) {
        let Some(open) = self.ledger.sessions.get(acquisition) else { return };
        let place = open.place;
        if open.name != *name {
            return;
        }
        self.with_lock(at, name, changes, |lock, step| match place {
            Place::Waiting(ticket) => lock.leave(step, ticket, how),
            Place::Reclaiming(token) => lock.drop_reclaimer(step, token, how),
            Place::Held(_) => {}
        });
    }
}

impl Lock {
    /// The lease of a hold has ended. The caller serves the queue afterwards.
    fn expire(&mut self, step: &mut Step<'_>, token: Token, newest: AcquisitionId, told: bool) {
        let Some(Hold { row, .. }) = self.holds.get(token).filter(|hold| !hold.row.is_orphan())
        else {
            return;
        };
        let joined = row.open_ids.newest();
        if joined > newest {
            // Its client was told so, and counts from then (hole 6).
            let name = step.name.clone();
            step.changes.push(Change::ExpireMissed { token, name, newest: joined });
        } else if row.ending().is_some() && step.ledger.feature_level >= 2 {
            // Decided before the Ending was known; the lease is over all the same.
            self.conclude(step, token, told);
        } else if row.extras().claimed {
            self.orphan(step, token);
        } else {
            self.take_away(step, token, Finished::Expired, told);
        }
    }

    /// From here on the hold has no lease, and its client must not count on it. It ends by its
    /// session's word or an operator's (D9).
    pub(crate) fn orphan(&mut self, step: &mut Step<'_>, token: Token) {
        self.change_hold(step.name, step.ledger, token, |hold| {
            hold.change_extras(|extras| {
                extras.orphaned = true;
                extras.ending = None;
            });
        });
        let Some(hold) = self.holds.get(token) else { return };
        let (name, acquisitions) = (step.name.clone(), hold.row.acquisitions());
        step.changes.push(Change::Orphaned { token, name, acquisitions });
    }
}
