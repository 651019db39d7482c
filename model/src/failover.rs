//! Leader changes, splits, and the leader that has not noticed that it was superseded.
//!
//! Raft is what is taken for granted here: one leader per term, a committed entry is in the log of
//! every later leader, and a leader that was superseded commits nothing. A new leader is elected and
//! applies to its own term in one step; in between it would only be silent, and its leases would
//! start later.

use crate::{
    leader::{Leased, expiry},
    message::{Command, Read},
    rules::Rule,
    state::{Lock, MOVED, NameIndex, Range, RangeId, Stale},
    world::World,
};

impl World<'_> {
    /// A new leader of a range: its log has inherited so many of the entries that its predecessor
    /// had proposed. It applies them before it answers anyone, and starts every lease in full.
    pub fn fail_over(&mut self, range: RangeId, inherited: u8) {
        self.state.failovers += 1;
        let stale = self.superseded(range);
        self.state.stale = Some(stale);
        if range == RangeId::Parent {
            self.state.lagging = None;
            self.state.mailbox.clear();
        }
        let soft = self.state.range(range);
        soft.reads.clear();
        soft.decided.clear();
        let mut log = std::mem::take(&mut soft.log);
        log.truncate(usize::from(inherited));
        for command in log {
            if command == Command::Split {
                self.begin_child();
            } else {
                self.apply(range, command, false);
            }
        }
        self.state.range(range).term += 1;
        for name in 0..self.state.locks.len() as NameIndex {
            if self.is_in(range, name) {
                self.restart_leases(name);
            }
        }
    }

    fn superseded(&self, range: RangeId) -> Stale {
        let view = |name| self.state.view(range, name).cloned();
        let term = self.state.ranges[range as usize].term;
        let mut locks: [Option<Lock>; 2] = [view(0), view(1)];
        // Its proposals may have been lost and may yet be proposed again.
        for lock in locks.iter_mut().flatten() {
            let holds = lock.hold.iter_mut().flat_map(|hold| &mut hold.leases);
            let waiters = lock.queue.iter_mut().map(|waiter| &mut waiter.lease);
            holds.chain(waiters).for_each(|lease| lease.pending = false);
        }
        Stale { range, term, locks }
    }

    /// Every lease of a lock as its new leader starts it, whose clock knows of no receipt.
    fn restart_leases(&mut self, name: NameIndex) {
        let is_full = self.has(Rule::FullLeaseAtNewLeader);
        let ends_in_full = is_full && self.has(Rule::EndWaitsInFullAgain);
        let full = if is_full { self.server_ttl() } else { 0 };
        let hold = self.state.locks[usize::from(name)].hold.as_ref();
        let ttl = hold.map_or(0, |hold| self.server_ttl_of(hold));
        let lock = &mut self.state.locks[usize::from(name)];
        if let Some(hold) = &mut lock.hold {
            let waits = if hold.is_ending() { ends_in_full } else { is_full };
            hold.restart(if waits { ttl } else { 0 });
        }
        for waiter in &mut lock.queue {
            waiter.lease.left = full;
            waiter.lease.pending = false;
            waiter.lease.heard = 0;
        }
    }

    /// The split is committed. A follower of the parent has applied it and leads the child; the
    /// parent's leader goes on with what it saw before.
    pub fn commit_split(&mut self) {
        self.state.lagging = Some(self.state.locks[usize::from(MOVED)].clone());
        self.begin_child();
    }

    /// The child's first leader applies to its own term.
    fn begin_child(&mut self) {
        let parent = self.state.range(RangeId::Parent);
        let mut child = Range { term: 1, ..Default::default() };
        child.counter = parent.counter;
        if !self.has(Rule::ChildCopiesCounter) {
            child.counter = 0;
        }
        self.state.ranges.push(child);
        self.restart_leases(MOVED);
    }

    /// The parent's leader applies the split.
    pub fn apply_split(&mut self) {
        self.state.lagging = None;
    }

    /// A command that the clock of a superseded leader finds due reaches the log of its successor,
    /// as a proposal that was late or forwarded. It happens once per lease.
    pub fn stale_scan(&mut self, name: NameIndex, leased: Leased) {
        let stale = self.state.stale.as_mut().expect("only a superseded leader scans late");
        let (range, term) = (stale.range, stale.term);
        let lock = stale.locks[usize::from(name)].as_mut().expect("it has seen what is due");
        let command = expiry(lock, name, leased, term).expect("the scan names what is there");
        self.state.range(range).log.push(command);
    }

    /// A superseded leader answers a keepalive out of its own state, without proof. It does so only
    /// where rule ProofOfLeadership is off.
    pub fn stale_answer(&mut self, read: Read) {
        self.answer_read(read, None);
    }
}
