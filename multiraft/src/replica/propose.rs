//! The entries that a leader puts into its log, and the reads that need nothing there.

use std::collections::BTreeSet;

use raft::StateRole;
use sharklock_rangemap::{Descriptor, Epoch, Replica as Member};

use super::Replica;
use crate::effects::{NotProposed, Proposed, ReadId};
use crate::entry;
use crate::membership::{self, ChangePeers, PeerChange};
use crate::split::{self, NotChanged, Split};
use crate::state_machine::StateMachine;

impl<M: StateMachine> Replica<M> {
    pub(crate) fn propose(&mut self, data: Vec<u8>) -> Result<Proposed, NotProposed> {
        assert!(!data.is_empty(), "empty entries are Raft's own");
        self.leads()?;
        let appended = self.raw.propose(entry::machine(), data);
        self.proposed(appended)
    }

    pub(crate) fn split(&mut self, split: &Split) -> Result<Proposed, NotProposed> {
        self.may_change_epoch()?;
        split::halves(self.descriptor(), split)?;
        let appended = self.raw.propose(entry::split(split), Vec::new());
        let proposed = self.proposed(appended)?;
        self.epoch_change_at = proposed.index;
        Ok(proposed)
    }

    /// Whether a split of this epoch at this key would be proposed.
    pub(crate) fn may_split(&self, epoch: Epoch, key: &str) -> Result<(), NotProposed> {
        self.may_change_epoch()?;
        Ok(split::fits(self.descriptor(), epoch, key)?)
    }

    pub(crate) fn change_peers(
        &mut self,
        change: &ChangePeers,
        ticks: u64,
    ) -> Result<Proposed, NotProposed> {
        self.may_change_epoch()?;
        let next = membership::changed(self.descriptor(), change)?;
        self.keeps_a_majority(&next, ticks)?;
        // A leader without a vote would have to step down: nobody leads then for a whole timeout.
        if change.changes.contains(&PeerChange::Demote(self.address.peer)) {
            return Err(NotChanged::OwnVote(self.address.peer).into());
        }
        let conf_change = membership::conf_change(change);
        let appended = self.raw.propose_conf_change(entry::change_peers(change), conf_change);
        let proposed = self.proposed(appended)?;
        // raft-rs makes an empty entry of a change that it refuses.
        let pending = self.raw.raft.pending_conf_index;
        assert_eq!(pending, proposed.index, "raft-rs has taken the change of members");
        self.epoch_change_at = proposed.index;
        Ok(proposed)
    }

    /// Whether the voters behind a change of members, of a joint configuration each half of them, have a
    /// majority of which this leader hears. A change that leaves the voters alone may be made in any
    /// case. Only a precaution: who is heard of now may be gone in a moment.
    fn keeps_a_majority(&self, next: &Descriptor, ticks: u64) -> Result<(), NotChanged> {
        let roles = |descriptor: &Descriptor| {
            let voters = descriptor.replicas.iter().filter(|it| it.role.votes());
            voters.map(|it| (it.peer, it.role)).collect::<BTreeSet<_>>()
        };
        if roles(next) == roles(self.descriptor()) {
            return Ok(());
        }
        let peers = self.peers(ticks);
        let is_live =
            |it: &&Member| peers.iter().any(|peer| peer.peer == it.peer && peer.is_active);
        let incoming: fn(&&Member) -> bool = |it| it.role.votes_incoming();
        let outgoing: fn(&&Member) -> bool = |it| it.role.votes_outgoing();
        let halves = if next.is_joint() { &[incoming, outgoing][..] } else { &[incoming] };
        for half in halves {
            let voters = next.replicas.iter().filter(half).count();
            let live = next.replicas.iter().filter(half).filter(is_live).count();
            if 2 * live <= voters {
                return Err(NotChanged::NoMajority { live, voters });
            }
        }
        Ok(())
    }

    /// One change of bounds or members at a time: whatever is proposed behind one is decided by an
    /// epoch that is over by then. And not before all that earlier leaders have left behind is
    /// applied: it may change the epoch, too.
    fn may_change_epoch(&self) -> Result<(), NotProposed> {
        self.leads()?;
        if self.applied().term != self.raw.raft.term {
            return Err(NotProposed::NotReady);
        }
        let is_under_way = self.epoch_change_at > self.applied().index;
        if is_under_way || self.raw.raft.has_pending_conf() {
            return Err(NotProposed::EpochChanging);
        }
        // raft-rs would drop it.
        if self.raw.raft.lead_transferee.is_some() {
            return Err(NotProposed::HandingOver);
        }
        Ok(())
    }

    fn proposed(&self, appended: raft::Result<()>) -> Result<Proposed, NotProposed> {
        let raft = &self.raw.raft;
        appended.map_err(|_| NotProposed::Overloaded)?;
        Ok(Proposed { index: raft.raft_log.last_index(), term: raft.term })
    }

    pub(crate) fn read_index(&mut self, read: ReadId) -> Result<(), NotProposed> {
        self.leads()?;
        // raft-rs would drop it without a word.
        if !self.raw.raft.commit_to_current_term() {
            return Err(NotProposed::NotReady);
        }
        self.raw.read_index(read_context(read, self.raw.raft.term));
        Ok(())
    }

    fn leads(&self) -> Result<(), NotProposed> {
        if self.is_stopped() {
            return Err(NotProposed::Stopped);
        }
        // A follower's raft-rs would forward it to its leader.
        if self.raw.raft.state != StateRole::Leader {
            return Err(NotProposed::NotLeader { leader: self.other_leader() });
        }
        Ok(())
    }
}

fn read_context(read: ReadId, term: u64) -> Vec<u8> {
    [read.0.to_be_bytes(), term.to_be_bytes()].concat()
}

/// The read and the term that [`read_context`] wrote.
pub(super) fn parse_read_context(context: &[u8]) -> Option<(ReadId, u64)> {
    let (read, term) = context.split_first_chunk::<8>()?;
    let term = <[u8; 8]>::try_from(term).ok()?;
    Some((ReadId(u64::from_be_bytes(*read)), u64::from_be_bytes(term)))
}
