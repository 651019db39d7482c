//! Ticks and heartbeats by which nothing changes but counts, as nearly all are that a range sees. On
//! raft-rs's own way each of them is a few messages made and thrown away, a `Ready`, and a visit of
//! the store's turn: some microseconds, in which a few thousand idle ranges would use up a core. So
//! what raft-rs does with them is done here where it is all that raft-rs would do; everything else
//! goes to raft-rs.

use raft::eraftpb::{Message, MessageType};
use raft::{INVALID_INDEX, ProgressState, StateRole};
use sharklock_proto::internal::v1::{Heartbeat, Heartbeats};
use sharklock_rangemap::{PeerId, StoreId};

use super::Replica;
use crate::election::{self, HEARTBEAT_TICKS, TIMEOUT_TICKS_MIN};
use crate::heartbeats;
use crate::state_machine::StateMachine;

impl<M: StateMachine> Replica<M> {
    /// Takes a beat that `from` has sent to this store, as [`step`](Self::step) would; `ticks` and
    /// `is_late` as there. `outgoing` gets the answer. False: it is to be stepped, and nothing has
    /// happened.
    pub(crate) fn heed(
        &mut self,
        beat: &Heartbeat,
        from: StoreId,
        (ticks, is_late): (u64, bool),
        outgoing: &mut Vec<Heartbeats>,
    ) -> bool {
        let peer = PeerId(beat.from_peer);
        // Nothing that the guard would refuse, or that `Ready`s wait for. A replica whose image lacks
        // something has its turn with each beat: its log may have become too long meanwhile.
        let is_plain = beat.context.is_empty()
            && beat.term == self.raw.raft.term
            && beat.to_peer == self.address.peer.0
            && self.member_store(peer) == Some(from)
            && !(self.is_stopped() || self.is_removed() || self.install.is_writing())
            && !(self.is_shell() || self.needs_flush());
        let is_heeded = is_plain
            && match beat.is_response {
                true => self.heed_answer(beat),
                false => self.heed_leader(beat, from, is_late, outgoing),
            };
        if is_heeded {
            self.heard.note(peer, ticks);
            self.pin_timeout();
        }
        is_heeded
    }

    /// A heartbeat of the leader that this replica follows, which says nothing new.
    fn heed_leader(
        &mut self,
        beat: &Heartbeat,
        from: StoreId,
        is_late: bool,
        outgoing: &mut Vec<Heartbeats>,
    ) -> bool {
        let raft = &mut self.raw.raft;
        let says_nothing_new = raft.state == StateRole::Follower
            && raft.leader_id == beat.from_peer
            && beat.commit <= raft.raft_log.committed
            && raft.pending_request_snapshot == INVALID_INDEX;
        // The answer waits for term and vote, see `ready.rs`.
        if !says_nothing_new || !self.saving.is_vote_durable() {
            return false;
        }
        if !is_late {
            raft.election_elapsed = 0;
        }
        let (commit, sender) = (raft.raft_log.committed, self.beat_sender());
        let answer = Heartbeat {
            range_id: sender.range.0,
            from_peer: beat.to_peer,
            to_peer: beat.from_peer,
            conf_ver: sender.epoch.conf_ver,
            version: sender.epoch.version,
            term: beat.term,
            commit,
            context: bytes::Bytes::new(),
            is_response: true,
        };
        heartbeats::add(outgoing, &sender, from, answer);
        true
    }

    /// An answer to this leader, by a replica to which nothing is to be sent.
    fn heed_answer(&mut self, beat: &Heartbeat) -> bool {
        let raft = &mut self.raw.raft;
        if raft.state != StateRole::Leader {
            return false;
        }
        let last = raft.raft_log.last_index();
        let Some(progress) = raft.mut_prs().get_mut(beat.from_peer) else { return false };
        let lacks_nothing = progress.matched >= last
            && beat.commit <= last
            && progress.pending_request_snapshot == INVALID_INDEX
            && progress.state != ProgressState::Snapshot
            && !progress.ins.full();
        if lacks_nothing {
            progress.update_committed(beat.commit);
            progress.recent_active = true;
            progress.resume();
        }
        lacks_nothing
    }

    /// A tick of a follower that hears its leader, if that is what it is and its patience does not end
    /// with it. False: nothing has happened.
    pub(super) fn tick_quietly(&mut self) -> bool {
        let raft = &mut self.raw.raft;
        let is_quiet = raft.state == StateRole::Follower
            && raft.leader_id != raft::INVALID_ID
            && raft.election_elapsed + 1 < raft.randomized_election_timeout()
            && raft.raft_log.persisted == raft.raft_log.last_index()
            && self.eager_campaigns == 0
            && self.lost.is_none()
            && !self.install.is_writing();
        if is_quiet {
            raft.election_elapsed += 1;
            self.pin_timeout();
        }
        is_quiet
    }

    /// A tick of a leader, as raft-rs has it, but that heartbeats fall on the multiples of
    /// [`HEARTBEAT_TICKS`] of the store, so that those of all its leaders share messages. True: there
    /// is more to do.
    pub(super) fn tick_as_leader(
        &mut self,
        store_ticks: u64,
        outgoing: &mut Vec<Heartbeats>,
    ) -> bool {
        let is_beat = store_ticks.is_multiple_of(HEARTBEAT_TICKS as u64);
        let raft = &mut self.raw.raft;
        if self.in_step_since.is_none_or(|(term, _)| term != raft.term) {
            self.in_step_since = Some((raft.term, store_ticks));
            // raft-rs counts the ticks of a leader from its election: it was elected at one that
            // counts for those since the last heartbeat of the store.
            raft.election_elapsed += election::ticks_behind(store_ticks);
        }
        raft.election_elapsed += 1;
        let counts_quorum = raft.election_elapsed >= TIMEOUT_TICKS_MIN;
        if counts_quorum {
            raft.election_elapsed = 0;
            let (msg_type, from) = (MessageType::MsgCheckQuorum, raft.id);
            // It steps down where it has heard of no majority.
            drop(raft.step(Message { msg_type, from, ..Message::default() }));
            if raft.state == StateRole::Leader && raft.lead_transferee.is_some() {
                raft.abort_leader_transfer();
            }
        }
        if raft.state != StateRole::Leader || !is_beat {
            return counts_quorum;
        }
        if raft.read_only.pending_read_count() > 0 {
            // They are heartbeats of the last round, too.
            raft.ping();
            return true;
        }
        self.beat(outgoing);
        counts_quorum || self.needs_flush()
    }

    fn beat(&self, outgoing: &mut Vec<Heartbeats>) {
        let (raft, sender) = (&self.raw.raft, self.beat_sender());
        for member in self.descriptor().replicas.iter().filter(|it| it.peer != self.address.peer) {
            let Some(progress) = raft.prs().get(member.peer.0) else { continue };
            let beat = Heartbeat {
                range_id: sender.range.0,
                from_peer: raft.id,
                to_peer: member.peer.0,
                conf_ver: sender.epoch.conf_ver,
                version: sender.epoch.version,
                term: raft.term,
                // It may lack what is committed.
                commit: progress.matched.min(raft.raft_log.committed),
                context: bytes::Bytes::new(),
                is_response: false,
            };
            heartbeats::add(outgoing, &sender, member.store, beat);
        }
    }
}
