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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Acquire, Acquisition, AcquisitionId, Command, Instance, Mode, Owner, Recover, Refusal,
        SessionHandle, Wait,
    };

    fn acquire(number: u64, wait: Wait) -> Command {
        let mut session = [0; 16];
        session[..8].copy_from_slice(&number.to_be_bytes());
        let session = SessionHandle(session);
        Command::Acquire(Box::new(Acquire {
            acquisition: Acquisition { session, instance: Instance(1), id: AcquisitionId(1) },
            name: format!("lock-{number:05}").as_str().into(),
            mode: Mode::Exclusive,
            ttl_ms: 10_000,
            wait,
            reenter: None,
            owner: Owner::default(),
            condition: None,
            asked_ms: u64::MAX,
        }))
    }

    /// One entry must not hold up a range for as long as all that waited would take.
    #[test]
    fn many_who_waited_are_served_a_thousand_at_a_time_and_nobody_comes_between() {
        let mut table = LockTable::new();
        let at = At { index: 1, term: 5, stamped_unix_ms: 0 };
        table.apply(at, Command::Recover(Recover { generation: 0, waits: true }));
        for number in 0..2_500 {
            table.apply(at, acquire(number, Wait::Unbounded));
        }
        assert_eq!(table.counts().holds, 0);
        for holds in [1_000, 2_000, 2_500] {
            let end = Command::EndQuarantine(EndQuarantine { proposer_term: 5 });
            let outcome = table.apply(at, end);
            let is_over = holds == 2_500;
            assert_eq!(outcome.changes.last(), Some(&Change::QuarantineEnds { is_over }));
            assert_eq!((table.counts().holds, table.counts().waiters), (holds, 2_500 - holds));
            table.check_invariants();
            let tried = table.apply(at, acquire(9_000 + holds as u64, Wait::Try)).reply;
            assert_eq!(tried == Reply::Refused(Refusal::Quarantine), !is_over, "{tried:?}");
        }
    }
}
