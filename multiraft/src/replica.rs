//! One replica: a raft-rs `RawNode` over the in-memory log, the state machine it feeds, and what
//! raft-rs does not keep for us. Everything here is synchronous; `ready.rs` moves its output.

use std::collections::BTreeMap;

use bytes::Bytes;
use raft::eraftpb::Message;
use raft::{Config, RawNode, ReadOnlyOption, StateRole};
use sharklock_proto::internal::v1::RangeMessage;
use sharklock_rangemap::{Descriptor, PeerId, RangeId, StoreId};

use crate::effects::{
    Effects, LostLog, NotProposed, Proposed, RaftRole, ReadId, ReadReady, ReplicaStatus,
    RoleChange, RoleNow,
};
use crate::election::{self, HEARTBEAT_TICKS, TIMEOUT_TICKS_END, TIMEOUT_TICKS_MIN, Timeout};
use crate::guard::{self, Dropped, Standing};
use crate::install::Install;
use crate::log::Log;
use crate::ready::Saving;
use crate::staging::Incarnation;
use crate::state_machine::{EntryAt, StateMachine};
use crate::{heartbeats, mirror, rejection};

/// Senders remembered beside the descriptor's. Members change one by one and an answer goes out
/// in the turn of its question, so a few would do.
const SENDERS_MAX: usize = 32;

/// A read that waits for its index to be applied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PendingRead {
    pub read: ReadId,
    /// The term in which it was asked; another term forgets it.
    pub term: u64,
    pub index: u64,
}

/// Where a replica stands: whose it is and from where it speaks.
pub(crate) struct Address {
    pub cluster_id: Bytes,
    pub store: StoreId,
    pub peer: PeerId,
    pub incarnation: Incarnation,
    pub election_seed: u64,
}

/// What recovery loads of a replica.
pub(crate) struct Loaded<M> {
    pub descriptor: Descriptor,
    pub log: Log,
    pub machine: M,
    /// Up to where `machine` has the log applied.
    pub applied: EntryAt,
    /// Up to where the image on the disk has it.
    pub flushed: u64,
    /// It was stopped in an earlier life.
    pub lost: Option<LostLog>,
}

/// Invariants:
/// - `flushed <= flush_staged <= applied.index <= commit` (S12);
/// - `machine` has exactly the entries up to `applied` applied;
/// - nothing leaves that depends on what is not durable (`saving`);
/// - once it is `lost`, nothing leaves at all: it neither votes, acknowledges, campaigns nor leads.
pub(crate) struct Replica<M> {
    pub address: Address,
    /// As applied.
    pub descriptor: Descriptor,
    pub raw: RawNode<Log>,
    pub machine: M,
    pub applied: EntryAt,
    /// Up to where the image is durable.
    pub flushed: u64,
    /// Up to where an image was put into a batch.
    pub flush_staged: u64,
    pub saving: Saving,
    pub install: Install<M>,
    pub reads: Vec<PendingRead>,
    /// What the owner was last told.
    announced: RoleNow,
    /// The disk counts as lost: it is stopped, for ever.
    lost: Option<LostLog>,
    /// That is in no batch yet.
    loss_is_new: bool,
    campaigns: u64,
    /// The term since whose election it leads in step with the ticks of its store.
    in_step_since: Option<u64>,
    /// Stores of peers that wrote to us and do not stand in `descriptor`.
    senders: BTreeMap<PeerId, StoreId>,
    /// The store's tick at which each member last wrote to us.
    pub heard: BTreeMap<PeerId, u64>,
}

impl<M: StateMachine> Replica<M> {
    pub(crate) fn new(address: Address, loaded: Loaded<M>) -> raft::Result<Self> {
        let Loaded { descriptor, log, machine, applied, flushed, lost } = loaded;
        let config = Config {
            id: address.peer.0,
            election_tick: TIMEOUT_TICKS_MIN,
            heartbeat_tick: HEARTBEAT_TICKS,
            min_election_tick: TIMEOUT_TICKS_MIN,
            max_election_tick: TIMEOUT_TICKS_END,
            applied: applied.index,
            // The default of 0 would put one entry into each message.
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 256,
            check_quorum: true,
            pre_vote: true,
            read_only_option: ReadOnlyOption::Safe,
            // Followers learn the commit index with the next append or heartbeat.
            skip_bcast_commit: true,
            // raft-rs adds entries to any append that waits for the same peer, also to an empty
            // one of another index: the entries then do not connect to it, and a follower
            // panics on them (found by tests/engine/random_faults.rs). One proposal per range
            // and turn leaves nothing to batch.
            batch_append: false,
            // Over it proposals are dropped: the range is overloaded.
            max_uncommitted_size: 16 << 20,
            max_committed_size_per_ready: 4 << 20,
            ..Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&config, log, &logger)?;
        let announced = RoleNow::Follower { term: raw.raft.term, leader: None };
        let mut replica = Self {
            address,
            descriptor,
            raw,
            machine,
            applied,
            flushed,
            flush_staged: flushed,
            saving: Saving::default(),
            install: Install::default(),
            reads: Vec::new(),
            announced,
            lost,
            loss_is_new: false,
            campaigns: 0,
            in_step_since: None,
            senders: BTreeMap::new(),
            heard: BTreeMap::new(),
        };
        replica.pin_timeout();
        Ok(replica)
    }

    pub(crate) fn range(&self) -> RangeId {
        self.descriptor.range
    }

    pub(crate) fn log(&self) -> &Log {
        self.raw.raft.store()
    }

    /// Whether the image lacks something that is applied. While a snapshot is on its way to the
    /// disk it does not: the old state must not follow the new one.
    pub(crate) fn needs_flush(&self) -> bool {
        self.flush_staged < self.applied.index && self.install.writing.is_none()
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.lost.is_some()
    }

    /// Why the disk counts as lost, if it does.
    pub(crate) fn lost(&self) -> Option<LostLog> {
        self.lost
    }

    /// The same, once, when it has just been found out.
    pub(crate) fn take_new_loss(&mut self) -> Option<LostLog> {
        self.lost.filter(|_| std::mem::take(&mut self.loss_is_new))
    }

    /// Whether nobody else votes.
    pub(crate) fn votes_alone(&self) -> bool {
        let mut voters = self.descriptor.voters();
        voters.next().is_some_and(|voter| voter.peer == self.address.peer)
            && voters.next().is_none()
    }

    /// Asks for votes now, without waiting for a timeout.
    pub(crate) fn campaign(&mut self) -> raft::Result<()> {
        self.campaigns += 1;
        let result = self.raw.campaign();
        self.pin_timeout();
        result
    }

    /// One tick; `store_ticks` counts those of the store, this one included. False: there is
    /// nothing to do, as nearly always in a follower.
    pub(crate) fn tick(&mut self, store_ticks: u64) -> bool {
        // A sole voter wins at once, and raft-rs asserts that a new leader's log is durable. So
        // it waits for its disk first.
        let waits = self.votes_alone()
            && self.raw.raft.state != StateRole::Leader
            && self.raw.raft.raft_log.persisted != self.raw.raft.raft_log.last_index();
        if self.is_stopped() || waits || self.install.writing.is_some() {
            return false;
        }
        let led = self.raw.raft.state == StateRole::Leader;
        let mut acted = false;
        if led && self.in_step_since != Some(self.raw.raft.term) {
            self.in_step_since = Some(self.raw.raft.term);
            // A leader counts its ticks from its election. The missing ones here, at most one
            // heartbeat's worth, put it in step with the other leaders of the store, so that
            // their heartbeats share messages.
            for _ in 0..election::ticks_behind(store_ticks) {
                acted |= self.raw.tick();
            }
        }
        acted |= self.raw.tick();
        if acted && !led {
            self.campaigns += 1;
        }
        self.pin_timeout();
        acted
    }

    /// A message from a peer; `ticks` counts those of the store.
    pub(crate) fn step(&mut self, message: RangeMessage, ticks: u64) -> Result<(), Dropped> {
        if self.is_stopped() {
            return Err(Dropped::Stopped);
        }
        let sender = (PeerId(message.from_peer), StoreId(message.from_store));
        let log = &self.raw.raft.raft_log;
        let standing = Standing {
            cluster_id: &self.address.cluster_id,
            store: self.address.store,
            peer: self.address.peer,
            descriptor: &self.descriptor,
            role: self.raw.raft.state,
            term: self.raw.raft.term,
            last_index: log.last_index(),
            persisted: log.persisted,
            leader: PeerId(self.raw.raft.leader_id),
        };
        let mut message = match guard::admit(&standing, message) {
            Ok(message) => message,
            Err(dropped) => {
                if let Dropped::LostLog { commit, last } = dropped {
                    let (range, peer, why) = (self.range(), sender.0, LostLog { commit, last });
                    tracing::error!(%range, %peer, "a replica's disk counts as lost: {why}");
                    self.lost = Some(why);
                    self.loss_is_new = true;
                }
                return Err(dropped);
            }
        };
        if self.raw.raft.prs().get(sender.0.0).is_some() {
            self.heard.insert(sender.0, ticks);
        }
        if !rejection::heed(&self.raw, &mut message) {
            return Ok(());
        }
        let result = self.raw.step(message);
        self.pin_timeout();
        match result {
            Ok(()) => {
                self.remember(sender);
                Ok(())
            }
            Err(raft::Error::StepPeerNotFound) => Err(Dropped::NotAMember(sender.0)),
            Err(_) => Err(Dropped::Malformed("raft refuses it")),
        }
    }

    pub(crate) fn propose(&mut self, data: Vec<u8>) -> Result<Proposed, NotProposed> {
        assert!(!data.is_empty(), "empty entries are Raft's own");
        self.leads()?;
        match self.raw.propose(Vec::new(), data) {
            Ok(()) => {
                let raft = &self.raw.raft;
                Ok(Proposed { index: raft.raft_log.last_index(), term: raft.term })
            }
            Err(_) => Err(NotProposed::Overloaded),
        }
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

    /// Tells who leads where that changed, after everything applied so far was told.
    pub(crate) fn announce<O>(&mut self, effects: &mut Effects<O>) {
        let range = self.range();
        let term = self.raw.raft.term;
        let follower = RoleNow::Follower { term, leader: self.other_leader() };
        let leads = !self.is_stopped() && self.raw.raft.state == StateRole::Leader;
        let now = match leads && self.applied.term == term {
            true => RoleNow::Leader { term },
            false => follower,
        };
        if now == self.announced {
            return;
        }
        // Lost and won again between two turns: the owner must still forget the first term.
        if matches!((self.announced, now), (RoleNow::Leader { .. }, RoleNow::Leader { .. })) {
            effects.roles.push(RoleChange { range, role: follower });
        }
        effects.roles.push(RoleChange { range, role: now });
        self.announced = now;
    }

    /// Hands out the reads whose index is applied, and forgets those of another leadership.
    pub(crate) fn answer_reads<O>(&mut self, effects: &mut Effects<O>) {
        let (range, applied) = (self.range(), self.applied.index);
        let leads = !self.is_stopped() && self.raw.raft.state == StateRole::Leader;
        let term = self.raw.raft.term;
        self.reads.retain(|pending| {
            if !leads || pending.term != term {
                return false;
            }
            let due = pending.index <= applied;
            if due {
                let PendingRead { read, index, .. } = *pending;
                effects.reads.push(ReadReady { range, read, index });
            }
            !due
        });
    }

    /// Puts Raft's messages into envelopes. One to a peer whose store is unknown is lost, as on a
    /// bad link.
    pub(crate) fn send<O>(&self, messages: Vec<Message>, effects: &mut Effects<O>) {
        for message in messages {
            let to = PeerId(message.to);
            let Some(store) = self.store_of(to) else {
                tracing::debug!(range = %self.range(), peer = %to, "no store known for a peer");
                continue;
            };
            if heartbeats::is_beat(&message) {
                heartbeats::add(&mut effects.heartbeats, self.beat_sender(), store, message);
                continue;
            }
            effects.messages.push(RangeMessage {
                cluster_id: self.address.cluster_id.clone(),
                range_id: self.range().0,
                from_store: self.address.store.0,
                to_store: store.0,
                from_peer: self.address.peer.0,
                to_peer: to.0,
                conf_ver: self.descriptor.epoch.conf_ver,
                version: self.descriptor.epoch.version,
                message: Some(mirror::message_record(message)),
            });
        }
    }

    fn beat_sender(&self) -> heartbeats::Sender {
        heartbeats::Sender {
            cluster_id: self.address.cluster_id.clone(),
            store: self.address.store,
            range: self.range(),
            epoch: self.descriptor.epoch,
        }
    }

    pub(crate) fn status(&self) -> ReplicaStatus {
        let raft = &self.raw.raft;
        let role = match raft.state {
            _ if self.is_stopped() => RaftRole::Stopped,
            StateRole::Leader => RaftRole::Leader,
            StateRole::Candidate | StateRole::PreCandidate => RaftRole::Candidate,
            StateRole::Follower => RaftRole::Follower,
        };
        let leader = self.leader();
        if let Some(writing) = &self.install.writing {
            return ReplicaStatus { role, term: raft.term, leader, ..writing.before };
        }
        ReplicaStatus {
            role,
            term: raft.term,
            leader,
            commit: raft.raft_log.committed,
            applied: self.applied.index,
            flushed: self.flushed,
            log_first: self.log().first(),
            log_last: self.log().last(),
            state_hash: self.machine.state_hash(),
        }
    }

    /// The store of its leader, as far as known.
    pub(crate) fn leader(&self) -> Option<StoreId> {
        self.store_of(PeerId(self.raw.raft.leader_id))
    }

    fn other_leader(&self) -> Option<StoreId> {
        let leader = PeerId(self.raw.raft.leader_id);
        if leader == self.address.peer { None } else { self.store_of(leader) }
    }

    fn store_of(&self, peer: PeerId) -> Option<StoreId> {
        let mut members = self.descriptor.replicas.iter();
        match members.find(|member| member.peer == peer) {
            Some(member) => Some(member.store),
            None => self.senders.get(&peer).copied(),
        }
    }

    /// A member that was away must be able to answer a leader that it does not know yet.
    fn remember(&mut self, (peer, store): (PeerId, StoreId)) {
        if self.store_of(peer).is_some() {
            return;
        }
        if self.senders.len() == SENDERS_MAX {
            // Peer ids grow, so the smallest is the one that was removed first.
            self.senders.pop_first();
        }
        self.senders.insert(peer, store);
    }

    /// raft-rs draws a random timeout wherever it resets one. This replaces it after everything
    /// that may have, so that a seed determines a run.
    pub(crate) fn pin_timeout(&mut self) {
        let timeout = Timeout {
            seed: self.address.election_seed,
            range: self.range(),
            peer: self.address.peer,
            term: self.raw.raft.term,
            campaigns: self.campaigns,
        };
        self.raw.raft.set_randomized_election_timeout(timeout.ticks());
    }
}

fn read_context(read: ReadId, term: u64) -> Vec<u8> {
    [read.0.to_be_bytes(), term.to_be_bytes()].concat()
}

/// The read and the term that [`read_context`] wrote.
pub(crate) fn parse_read_context(context: &[u8]) -> Option<(ReadId, u64)> {
    let (read, term) = context.split_first_chunk::<8>()?;
    let term = <[u8; 8]>::try_from(term).ok()?;
    Some((ReadId(u64::from_be_bytes(*read)), u64::from_be_bytes(term)))
}
