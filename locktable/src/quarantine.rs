//! Quarantine: a range that was recovered grants nothing until every lease is over that its lost
//! entries may have given. What it knows goes on: leases are renewed and end, locks are released.
//! Whoever may wait queues meanwhile, and is served in order when it ends. The time is the leader's to
//! count.

use crate::{At, Change, EndQuarantine, LockTable, Name, Quarantine, Reply, lock::Lock};

/// Grants of one command, at least, before the rest waits for the next. Part of the rules.
const GRANTS: usize = 1_000;

impl LockTable {
    /// Whether the range grants nothing.
    pub fn quarantine(&self) -> Quarantine {
        self.ledger.quarantine
    }

    /// Of the tokens that it grants.
    pub fn generation(&self) -> u16 {
        self.header().generation
    }

    pub(crate) fn end_quarantine(
        &mut self,
        at: At,
        end: EndQuarantine,
        changes: &mut Vec<Change>,
    ) -> Reply {
        if at.term != end.proposer_term || !self.ledger.is_quarantined() {
            return Reply::Done;
        }
        let seats_max = self.ledger.seats_max();
        let waits = self.locks.iter().filter(|(_, lock)| lock.could_serve(seats_max));
        // Each is granted once at least.
        let names: Vec<Name> = waits.map(|(name, _)| name.clone()).take(GRANTS + 1).collect();
        let mut names = names.into_iter();
        self.ledger.quarantine = Quarantine::None;
        while changes.len() < GRANTS
            && let Some(name) = names.next()
        {
            self.with_lock(at, &name, changes, Lock::serve);
        }
        let is_over = names.next().is_none();
        if !is_over {
            self.ledger.quarantine = Quarantine::Ends;
        }
        changes.push(Change::QuarantineEnds { is_over });
        Reply::Done
    }
}
