//! Agreements of a client and the table about a live hold (D9): SetCondition, Claim, and the mark
//! that Ask leaves; and Downgrade, by which a client gives up a part of its hold (D8).

use crate::{
    Acquisition, Ask, AskMark, AskedBy, At, Change, Claim, ConditionFlaw, Downgrade, Finished,
    Grant, HoldRow, LeaseRule, LockTable, Mode, Refusal, Reply, SetCondition, Token,
    holds::Hold,
    lock::{Lock, Step},
    sessions::{Open, Place},
};

impl LockTable {
    pub(crate) fn set_condition(
        &mut self,
        at: At,
        set: SetCondition,
        changes: &mut Vec<Change>,
    ) -> Reply {
        let SetCondition { acquisition, ref name, token, .. } = set;
        let agreed = self.with_lock(at, name, changes, |lock, step| {
            let hold = match lock.agreeing(token, acquisition)? {
                Ok(hold) if hold.extras().revision == set.revision => hold,
                Ok(hold) => return Some(Reply::Agreed(hold.agreement())),
                Err(reply) => return Some(reply),
            };
            if let Some(flaw) = set.condition.flaw(set.ttl_ms) {
                return Some(Reply::Refused(Refusal::Condition(flaw)));
            }
            if set.ttl_ms < hold.ttl_ms {
                return Some(Reply::Refused(Refusal::LeaseShortened));
            }
            Some(lock.set_condition(step, &set))
        });
        agreed.flatten().unwrap_or_else(|| self.finished(name, acquisition))
    }

    pub(crate) fn claim(&mut self, at: At, claim: Claim, changes: &mut Vec<Change>) -> Reply {
        let Claim { acquisition, ref name, token, revision } = claim;
        let agreed = self.with_lock(at, name, changes, |lock, step| {
            let hold = match lock.agreeing(token, acquisition)? {
                Ok(hold) if hold.extras().revision == revision => hold,
                Ok(hold) => return Some(Reply::Agreed(hold.agreement())),
                Err(reply) => return Some(reply),
            };
            if hold.extras().condition.lease != LeaseRule::Hold {
                return Some(Reply::Refused(Refusal::Condition(ConditionFlaw::NothingToClaim)));
            }
            if !hold.extras().claimed {
                lock.change_hold(step.name, step.ledger, token, |hold| {
                    hold.change_extras(|extras| extras.claimed = true);
                });
                step.changes.push(Change::Claimed { token, name: step.name.clone() });
            }
            Some(Reply::Agreed(lock.holds.get(token)?.row.agreement()))
        });
        agreed.flatten().unwrap_or_else(|| self.finished(name, acquisition))
    }

    pub(crate) fn ask(&mut self, at: At, ask: Ask, changes: &mut Vec<Change>) -> Reply {
        let Ask { acquisition, name } = ask;
        let open = self.ledger.sessions.get(acquisition).filter(|open| open.name == name);
        let Some(Place::Waiting(ticket)) = open.map(|open| open.place) else {
            return Reply::Refused(Refusal::NotWaiting);
        };
        let asked = self.with_lock(at, &name, changes, |lock, step| {
            let holds = lock.holds.iter().filter(|hold| may_be_asked(&hold.row));
            for token in holds.map(|hold| hold.row.token).collect::<Vec<_>>() {
                lock.note_asked(step, token, ticket);
            }
            let asked = lock.holds.iter().filter(|hold| hold.row.is_asked());
            asked.map(|hold| lock.view_of(&hold.row)).collect()
        });
        Reply::Holds(asked.unwrap_or_default())
    }

    pub(crate) fn downgrade(
        &mut self,
        at: At,
        downgrade: Downgrade,
        changes: &mut Vec<Change>,
    ) -> Reply {
        let Downgrade { acquisition, ref name, token } = downgrade;
        let held = self.hold_of(name.as_str(), acquisition);
        let downgraded = self.with_lock(at, name, changes, |lock, step| {
            let hold = &lock.holds.get(held?)?.row;
            if hold.is_orphan() {
                return Some(Reply::Finished(Finished::Orphaned));
            }
            let is_downgraded = hold.mode == Mode::Shared;
            let is_duplicate = is_downgraded && hold.extras().token_before == Some(token);
            if hold.token != token && !is_duplicate {
                return None;
            }
            // Also of one that is ending: its client would believe to be alone with it until then.
            if is_duplicate {
                return Some(Reply::Granted(lock.grant_of(hold)));
            }
            if hold.ending().is_some() {
                return Some(Reply::Refused(Refusal::HoldEnding));
            }
            if hold.mode != Mode::Exclusive {
                return Some(Reply::Refused(Refusal::ModeMismatch));
            }
            let grant = lock.downgrade(step, hold.token)?;
            lock.serve(step);
            Some(Reply::Granted(grant))
        });
        downgraded.flatten().unwrap_or_else(|| self.finished(name, acquisition))
    }
}

/// Whether a waiter's mark would be new to the hold.
fn may_be_asked(hold: &HoldRow) -> bool {
    let extras = hold.extras();
    let is_free_of_it = extras.asked.is_none() && extras.ending.is_none();
    extras.condition.ask_grace_ms.is_some() && is_free_of_it
}

impl Lock {
    /// The live hold with this token, if its client may agree to something new about it; else the
    /// answer. Nothing where it is not live, or another's.
    fn agreeing(&self, token: Token, acquisition: Acquisition) -> Option<Result<&HoldRow, Reply>> {
        let Hold { row, .. } = self.holds.get(token)?;
        if !row.is_of_owner(acquisition) {
            return None;
        }
        Some(if row.is_orphan() {
            Err(Reply::Finished(Finished::Orphaned))
        } else if row.ending().is_some() {
            Err(Reply::Refused(Refusal::HoldEnding))
        } else {
            Ok(row)
        })
    }

    fn set_condition(&mut self, step: &mut Step<'_>, set: &SetCondition) -> Reply {
        let SetCondition { token, ttl_ms, condition, .. } = *set;
        self.change_hold(step.name, step.ledger, token, |hold| {
            hold.ttl_ms = ttl_ms;
            hold.change_extras(|extras| {
                extras.condition = condition;
                extras.revision += 1;
                extras.claimed &= condition.lease == LeaseRule::Hold;
                if condition.ask_grace_ms.is_none() {
                    extras.asked = None;
                }
            });
        });
        let Some(Hold { row, .. }) = self.holds.get(token) else {
            unreachable!("the caller has just seen this hold");
        };
        let agreement = row.agreement();
        let asked = row.is_asked();
        step.changes.push(Change::ConditionSet {
            token,
            name: step.name.clone(),
            agreement,
            asked,
        });
        Reply::Agreed(agreement)
    }

    /// Leaves the mark of the waiter with this ticket.
    fn note_asked(&mut self, step: &mut Step<'_>, token: Token, ticket: u64) {
        let asker = self.queue.get(ticket).map(|waiter| &waiter.row);
        let asker = asker.filter(|_| step.ledger.feature_level >= 4);
        let by = asker.map(|row| AskedBy {
            session: row.acquisition.session,
            owner_id: row.owner.id.clone(),
        });
        let since_unix_ms = step.at.stamped_unix_ms;
        let mark = Box::new(AskMark { since_unix_ms, by: by.clone() });
        self.change_hold(step.name, step.ledger, token, |hold| {
            hold.change_extras(|extras| extras.asked = Some(mark));
        });
        let Some(Hold { row, .. }) = self.holds.get(token) else { return };
        let extras = row.extras();
        step.changes.push(Change::Asked {
            token,
            name: step.name.clone(),
            acquisitions: row.acquisitions(),
            by,
            since_unix_ms,
            grace_ms: extras.condition.ask_grace_ms.unwrap_or(0),
            revision: extras.revision,
        });
    }

    /// The hold goes on as a shared one, under a token that fences off what it wrote alone. It is
    /// alone still, so it keeps its place whoever waits. The caller serves the queue afterwards.
    fn downgrade(&mut self, step: &mut Step<'_>, before: Token) -> Option<Grant> {
        let mut row = self.remove_hold(step, before)?;
        row.token = step.ledger.next_token();
        row.mode = Mode::Shared;
        row.change_extras(|extras| extras.token_before = Some(before));
        let acquisitions = row.acquisitions();
        for &acquisition in &acquisitions {
            let open = Open { name: step.name.clone(), place: Place::Held(row.token) };
            step.ledger.sessions.insert(acquisition, &row.owner, open);
        }
        self.raise_fence_floor(step.name, step.ledger, row.token);
        let grant = self.grant_of(&row);
        let row_state = step.ledger.dirty.hold_came(step.name, row.token);
        self.insert_hold(step.name, step.ledger, row, row_state);
        let name = step.name.clone();
        step.changes.push(Change::Downgraded { before, name, grant, acquisitions });
        Some(grant)
    }
}
