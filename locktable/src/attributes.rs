//! SetAttributes: what a holder tells people about its hold while it holds. Nothing but looks depends
//! on it, so it is allowed while the hold is ending: a holder that winds up may say so, and no lease
//! gets longer by it.

use crate::{
    At, Change, Finished, LockTable, Owner, Reply, SetAttributes,
    holds::Hold,
    lock::{Lock, Step},
};

impl LockTable {
    pub(crate) fn set_attributes(
        &mut self,
        at: At,
        set: SetAttributes,
        changes: &mut Vec<Change>,
    ) -> Reply {
        let (acquisition, name) = (set.acquisition, set.name.clone());
        let answered = self.with_lock(at, &name, changes, |lock, step| {
            let Hold { row, .. } = lock.holds.get(set.token)?;
            if !row.is_of_owner(acquisition) {
                return None;
            }
            if row.is_orphan() {
                return Some(Reply::Finished(Finished::Orphaned));
            }
            // 0 is what a hold has that was never changed: no change is so early.
            let seq_last = row.extras().attributes_seq.max(1);
            if set.seq > row.extras().attributes_seq {
                lock.set_attributes(step, set);
                return Some(Reply::AttributesSet { is_newest: true });
            }
            Some(Reply::AttributesSet { is_newest: set.seq == seq_last })
        });
        answered.flatten().unwrap_or_else(|| self.finished(&name, acquisition))
    }
}

impl Lock {
    /// The owner is shared with other acquisitions of the session, which keep theirs.
    fn set_attributes(&mut self, step: &mut Step<'_>, set: SetAttributes) {
        let SetAttributes { token, seq, attributes, .. } = set;
        let Some(Hold { row, .. }) = self.holds.get(token) else { return };
        let Owner { id, address, .. } = &*row.owner;
        let owner = Owner { id: id.clone(), address: address.clone(), attributes };
        let owner = step.ledger.sessions.share_instead(row.session, &row.owner, owner);
        self.change_hold(step.name, step.ledger, token, |hold| {
            hold.owner = owner;
            hold.change_extras(|extras| extras.attributes_seq = seq);
        });
        step.changes.push(Change::AttributesSet { token, name: step.name.clone() });
    }
}
