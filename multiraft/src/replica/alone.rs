//! The end of a replica that goes on alone under another id (`crate::alone`).

use raft::{GetEntriesContext, Storage as _};

use super::Replica;
use crate::alone::{Alone, NotAlone, Orphan, Remains};
use crate::state_machine::{EntryAt, StateMachine};

impl<M: StateMachine> Replica<M> {
    /// For those who may know what became of its range.
    pub(crate) fn orphan(&self) -> Orphan {
        let log = &self.raw.raft.raft_log;
        Orphan {
            descriptor: self.descriptor().clone(),
            peer: self.peer(),
            last: EntryAt { index: log.last_index(), term: log.last_term() },
            commit: log.committed,
            is_stopped: self.is_stopped(),
            is_empty: self.is_shell(),
        }
    }

    /// Whether it could go on alone now. `ticks` counts those of the store.
    pub(crate) fn may_go_on_alone(&self, ticks: u64, alone: &Alone) -> Result<(), NotAlone> {
        let log = &self.raw.raft.raft_log;
        if self.peer() != alone.peer {
            return Err(NotAlone::OtherPeer(self.peer()));
        }
        if self.is_stopped() {
            return Err(NotAlone::Stopped);
        }
        if self.is_shell() {
            return Err(NotAlone::NoState);
        }
        if !self.is_orphaned(ticks) {
            return Err(NotAlone::HasLeader);
        }
        let has_all = log.last_index() == self.log().last();
        if self.install.is_writing() || self.is_dividing || !self.halves.is_empty() || !has_all {
            return Err(NotAlone::Busy);
        }
        alone.check(self.descriptor(), self.log().last() - self.applied().index)
    }

    /// It is to go on alone at the end of its next turn.
    pub(crate) fn set_alone(&mut self, alone: Alone) {
        self.alone = Some(alone);
    }

    /// Once, if it is to.
    pub(crate) fn take_alone(&mut self) -> Option<Alone> {
        self.alone.take()
    }

    /// All that goes on of it. Nothing that it has put into batches or wants to say counts any more.
    pub(crate) fn into_remains(mut self) -> Remains<M> {
        let (from, to) = (self.applied().index + 1, self.log().last() + 1);
        let tail = match from < to {
            true => self.log().entries(from, to, None, GetEntriesContext::empty(false)),
            false => Ok(Vec::new()),
        };
        let term = self.raw.raft.term;
        let discarded = self.install.take_all();
        Remains {
            tail: tail.expect("what is not applied is in the log"),
            state: self.state,
            term,
            discarded,
        }
    }
}
