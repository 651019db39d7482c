//! Expire and WaitTimeout: what a leader's clock ends. Each names exactly what its leader saw and
//! the leader's term, and does nothing to anything else (D7).

use crate::{
    Acquisition, AcquisitionId, At, Change, Expire, ExpireItem, Finished, LockTable, Name, Reply,
    Token, WaitTimeout,
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
                ExpireItem::Hold { name, token, newest } => {
                    self.expire_hold(at, &name, token, newest, changes);
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

    fn expire_hold(
        &mut self,
        at: At,
        name: &Name,
        token: Token,
        newest: AcquisitionId,
        changes: &mut Vec<Change>,
    ) {
        self.with_lock(at, name, changes, |lock, step: &mut Step<'_>| {
            let Some(hold) = lock.holds.get(token) else { return };
            let joined = hold.row.newest_id;
            if joined > newest {
                // Its client was told so, and counts from then (hole 6).
                let name = step.name.clone();
                step.changes.push(Change::ExpireMissed { token, name, newest: joined });
            } else {
                lock.end(step, token, Finished::Expired);
            }
        });
    }

    /// Takes a waiter out. What is granted already, or was never here, stays as it is (hole 18).
    fn end_wait(
        &mut self,
        at: At,
        name: &Name,
        acquisition: Acquisition,
        how: Finished,
        changes: &mut Vec<Change>,
    ) {
        let Some(open) = self.ledger.sessions.get(acquisition) else { return };
        let Place::Waiting(ticket) = open.place else { return };
        if open.name == *name {
            self.with_lock(at, name, changes, |lock, step| lock.leave(step, ticket, how));
        }
    }
}
