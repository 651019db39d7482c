//! Ending and End: an operator takes a hold away (D9). Two commits, so that the holder's client has
//! the time of its lease to stop: from Ending on nothing renews the hold, and End comes after the
//! lease or at the holder's own release. Only an operator's End without waiting breaks the promise.

use crate::{
    At, Change, End, EndCause, Ending, Finished, HoldView, LockTable, Reply, Token, lock::Lock,
};

impl LockTable {
    pub(crate) fn ending(&mut self, at: At, ending: Ending, changes: &mut Vec<Change>) -> Reply {
        let Ending { ref name, token, ref reason, .. } = ending;
        let views = self.with_lock(at, name, changes, |lock, step| {
            let views = lock.views_of(token);
            for HoldView { grant, .. } in views.iter().filter(|view| view.ending.is_none()) {
                let token = grant.token;
                lock.change_hold(step.name, step.ledger, token, |hold| {
                    hold.ending_reason = Some(reason.clone());
                });
                let Some(hold) = lock.holds.get(token) else { continue };
                step.changes.push(Change::EndingBegan {
                    token,
                    name: step.name.clone(),
                    ttl_ms: hold.row.ttl_ms,
                    acquisitions: hold.row.acquisitions(),
                    reason: reason.clone(),
                });
            }
            views
        });
        Reply::Holds(views.unwrap_or_default())
    }

    pub(crate) fn end(&mut self, at: At, end: End, changes: &mut Vec<Change>) -> Reply {
        let End { name, token, cause } = end;
        match cause {
            EndCause::WaitedOut { proposer_term } if at.term != proposer_term => Reply::Done,
            EndCause::WaitedOut { .. } => {
                self.with_lock(at, &name, changes, |lock, step| {
                    let Some(token) = token.filter(|&token| lock.is_ending(token)) else { return };
                    lock.end(step, token, Finished::ForceReleased);
                    lock.serve(step);
                });
                Reply::Done
            }
            EndCause::Operator { .. } => {
                let views = self.with_lock(at, &name, changes, |lock, step| {
                    let views = lock.views_of(token);
                    for HoldView { grant, .. } in &views {
                        lock.end(step, grant.token, Finished::ForceReleased);
                    }
                    lock.serve(step);
                    views
                });
                Reply::Holds(views.unwrap_or_default())
            }
        }
    }
}

impl Lock {
    /// The hold with this token, or all.
    fn views_of(&self, token: Option<Token>) -> Vec<HoldView> {
        let wanted = self.holds.iter().filter(|hold| token.is_none_or(|it| it == hold.row.token));
        wanted.map(|hold| self.view_of(&hold.row)).collect()
    }

    fn is_ending(&self, token: Token) -> bool {
        self.holds.get(token).is_some_and(|hold| hold.row.ending_reason.is_some())
    }
}
