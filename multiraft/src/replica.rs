//! One replica: a raft-rs `RawNode` over the in-memory log, the state it feeds, and what raft-rs does
//! not keep for us. Everything here is synchronous.
//!
//! The files below this one see its fields, everybody else its methods: `ready` moves what raft-rs
//! puts out, `install` puts a snapshot in the place of the state, `image` writes the state behind,
//! `propose` has what a leader puts into its log, `peers` what it knows of the others.

mod alone;
mod beats;
mod heard;
mod image;
mod install;
mod peers;
mod propose;
mod ready;
mod rejection;
mod stalled;

use std::collections::BTreeMap;

use bytes::Bytes;
use raft::eraftpb::{HardState, Message, MessageType};
use raft::{Config, INVALID_ID, RawNode, ReadOnlyOption, StateRole};
use sharklock_proto::internal::v1::{Heartbeats, RangeMessage};
use sharklock_rangemap::{Bounds, Descriptor, PeerId, RangeId, StoreId};

use crate::alone::Alone;
use crate::effects::{
    Behind, Effects, LostLog, RaftRole, ReadId, ReadReady, ReplicaStatus, RoleChange, RoleNow,
};
use crate::election::{self, HEARTBEAT_TICKS, Order, TIMEOUT_TICKS_END, TIMEOUT_TICKS_MIN};
use crate::guard::{self, Dropped, Standing};
use crate::log::Log;
use crate::range_state::{Half, RangeState};
use crate::split::SplitMark;
use crate::staging::Incarnation;
use crate::state_machine::{EntryAt, StateMachine};
use crate::{heartbeats, mirror};
use heard::Heard;
use install::Install;
pub(crate) use install::{Arrived, InstallEnd};
pub use peers::PeerProgress;
use ready::Saving;
use stalled::Decisions;

/// Senders remembered beside the descriptor's. Members change one by one and an answer goes out
/// in the turn of its question, so a few would do.
const SENDERS_MAX: usize = 32;

/// Heartbeats for which the first replica of a child asks for votes again and again: the others may
/// be born a moment later, and do not hear of it before. Nobody waits for a whole timeout then.
const EAGER_CAMPAIGNS: u32 = 5;

/// A read that waits for its index to be applied.
#[derive(Clone, Copy, Debug)]
struct PendingRead {
    read: ReadId,
    /// The term in which it was asked; another term forgets it.
    term: u64,
    index: u64,
}

/// An election timeout, and all that it follows from beside the peer itself.
#[derive(Clone, Copy, Debug)]
struct Timeout {
    order: Order,
    /// Of the descriptor whose voters are in the order.
    conf_ver: u64,
    ticks: usize,
}

/// The address of a replica: its store, its peer id, its life.
pub(crate) struct Address {
    pub cluster_id: Bytes,
    pub store: StoreId,
    pub peer: PeerId,
    pub incarnation: Incarnation,
}

/// The first state of a replica, as recovery loads it.
pub(crate) struct Loaded<M> {
    pub state: RangeState<M>,
    pub hard_state: HardState,
    /// Index and term of the last entry that the log does not have any more.
    pub truncated: (u64, u64),
    /// All behind it.
    pub entries: Vec<raft::eraftpb::Entry>,
    /// Up to where the image on the disk has the log applied.
    pub flushed: u64,
    /// The image has a state of the machine, and not just that there is none.
    pub has_image: bool,
    /// It was stopped in an earlier life.
    pub lost: Option<LostLog>,
}

/// Invariants:
/// - `flushed <= flush_staged <= state.applied <= commit` (S12);
/// - raft-rs has the configuration that the descriptor of `state` describes, once it is not a shell
///   and nothing is being installed;
/// - nothing leaves that depends on what is not durable (`saving`);
/// - once it is `lost`, nothing leaves at all: it neither votes, acknowledges, campaigns nor leads;
/// - a shell never campaigns.
pub(crate) struct Replica<M> {
    address: Address,
    raw: RawNode<Log>,
    state: RangeState<M>,
    /// Up to where the image is durable.
    flushed: u64,
    /// See [`Loaded::has_image`].
    has_image: bool,
    /// Up to where an image was put into a batch.
    flush_staged: u64,
    saving: Saving,
    install: Install<M>,
    reads: Vec<PendingRead>,
    /// Split off since the store looked last.
    halves: Vec<Half<M>>,
    /// See [`Self::set_dividing`].
    is_dividing: bool,
    /// The descriptor has changed since the store looked last.
    is_changed: bool,
    /// See [`Self::mark_removed`].
    is_removed: bool,
    /// See [`Self::set_alone`].
    alone: Option<Alone>,
    /// The place of its last own entry that changes the epoch, if it is applied.
    epoch_change_at: u64,
    /// The role that the owner was last told.
    announced: RoleNow,
    /// The disk counts as lost: it is stopped, for ever.
    lost: Option<LostLog>,
    /// That is in no batch yet.
    loss_is_new: bool,
    /// What came last that this program does not know.
    beyond: Option<Behind>,
    /// What [`Self::pin_timeout`] computed last.
    timeout: Option<Timeout>,
    /// See [`EAGER_CAMPAIGNS`].
    eager_campaigns: u32,
    /// The term since whose election it leads in step with the ticks of its store, and the first of them.
    in_step_since: Option<(u64, u64)>,
    /// Stores of peers that wrote to us and do not stand in the descriptor.
    senders: BTreeMap<PeerId, StoreId>,
    heard: Heard,
    /// The store's tick at which it last asked whether it is a member.
    asked_at: u64,
    decisions: Decisions,
}

impl<M: StateMachine> Replica<M> {
    pub(crate) fn new(address: Address, loaded: Loaded<M>) -> raft::Result<Self> {
        let Loaded { state, hard_state, truncated, entries, flushed, has_image, lost } = loaded;
        let log = Log::new(hard_state, state.conf_state(address.peer), truncated, entries);
        let config = Config {
            id: address.peer.0,
            election_tick: TIMEOUT_TICKS_MIN,
            heartbeat_tick: HEARTBEAT_TICKS,
            min_election_tick: TIMEOUT_TICKS_MIN,
            max_election_tick: TIMEOUT_TICKS_END,
            applied: state.applied().index,
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
            raw,
            state,
            flushed,
            has_image,
            flush_staged: flushed,
            saving: Saving::default(),
            install: Install::default(),
            reads: Vec::new(),
            halves: Vec::new(),
            is_dividing: false,
            is_changed: false,
            is_removed: false,
            alone: None,
            epoch_change_at: 0,
            announced,
            lost,
            loss_is_new: false,
            beyond: None,
            timeout: None,
            eager_campaigns: 0,
            in_step_since: None,
            senders: BTreeMap::new(),
            heard: Heard::default(),
            asked_at: 0,
            decisions: Decisions::default(),
        };
        replica.pin_timeout();
        Ok(replica)
    }

    pub(crate) fn range(&self) -> RangeId {
        self.descriptor().range
    }

    /// As applied.
    pub(crate) fn descriptor(&self) -> &Descriptor {
        self.state.descriptor()
    }

    pub(crate) fn machine(&self) -> &M {
        self.state.machine()
    }

    /// For what is derived from the state.
    pub(crate) fn machine_mut(&mut self) -> &mut M {
        self.state.machine_mut()
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    pub(crate) fn peer(&self) -> PeerId {
        self.address.peer
    }

    pub(crate) fn incarnation(&self) -> Incarnation {
        self.address.incarnation
    }

    #[cfg(test)]
    pub(crate) fn set_incarnation(&mut self, incarnation: Incarnation) {
        self.address.incarnation = incarnation;
    }

    pub(crate) fn term(&self) -> u64 {
        self.raw.raft.term
    }

    pub(crate) fn applied(&self) -> EntryAt {
        self.state.applied()
    }

    pub(crate) fn commit(&self) -> u64 {
        self.raw.raft.raft_log.committed
    }

    /// Up to where the image is durable.
    pub(crate) fn flushed(&self) -> u64 {
        self.flushed
    }

    /// Whether the disk has a state of it that could be sent.
    pub(crate) fn has_image(&self) -> bool {
        self.has_image
    }

    /// Whether nothing of its state is here yet.
    pub(crate) fn is_shell(&self) -> bool {
        self.state.is_shell()
    }

    /// Names that left by snapshots, see [`RangeState::skipped`].
    pub(crate) fn skipped(&self) -> Option<&Bounds> {
        self.state.skipped()
    }

    /// Whether it wants to lead, as far as a replica with a state can that hears of no leader.
    pub(crate) fn wants_to_lead(&self) -> bool {
        let raft = &self.raw.raft;
        let is_campaigning = matches!(raft.state, StateRole::PreCandidate | StateRole::Candidate);
        !self.is_stopped() && !self.is_shell() && is_campaigning
    }

    pub(crate) fn log(&self) -> &Log {
        self.raw.raft.store()
    }

    /// Whether its log has this entry.
    pub(crate) fn has(&self, at: EntryAt) -> bool {
        self.raw.raft.raft_log.match_term(at.index, at.term)
    }

    /// Splits in its state whose children may not live yet.
    pub(crate) fn splits(&self) -> &[SplitMark] {
        self.state.splits()
    }

    /// See [`RangeState::forget_splits`].
    pub(crate) fn forget_splits(&mut self, lives: impl Fn(RangeId) -> bool) {
        self.state.forget_splits(lives);
    }

    /// What was split off since the last call. Its records and an image of what is left must go into
    /// one batch.
    pub(crate) fn take_halves(&mut self) -> Vec<Half<M>> {
        std::mem::take(&mut self.halves)
    }

    /// Whether its split is in no batch, since the records of a half are not whole. Until they are, no
    /// image of it goes into a batch, and no snapshot takes its place: either would take the split
    /// out of its log, and a crash the half.
    pub(crate) fn set_dividing(&mut self, is_dividing: bool) {
        self.is_dividing = is_dividing;
    }

    /// Whether its descriptor has changed, it has split, or it is to end or to go on alone.
    pub(crate) fn has_life_to_follow(&self) -> bool {
        self.is_changed || !self.halves.is_empty() || self.is_removed() || self.alone.is_some()
    }

    /// Whether the descriptor has changed since the last call.
    pub(crate) fn take_change(&mut self) -> bool {
        std::mem::take(&mut self.is_changed)
    }

    /// A configuration that is newer than the one here does not have it. It ends with its next turn.
    pub(crate) fn mark_removed(&mut self) {
        self.is_removed = true;
    }

    /// Whether the range goes on without it.
    pub(crate) fn is_removed(&self) -> bool {
        self.is_removed || self.descriptor().on_store(self.address.store).is_none()
    }

    /// Its states, at its end.
    pub(crate) fn into_machines(mut self) -> Vec<M> {
        let mut machines = self.install.take_all();
        machines.extend(self.halves.drain(..).map(|half| half.machine));
        machines.push(self.state.into_machine());
        machines
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.lost.is_some()
    }

    /// Why the disk counts as lost, if it does.
    pub(crate) fn lost(&self) -> Option<LostLog> {
        self.lost
    }

    /// The same, once, when it has just been found out.
    fn take_new_loss(&mut self) -> Option<LostLog> {
        self.lost.filter(|_| std::mem::take(&mut self.loss_is_new))
    }

    /// This has come, and cannot be taken.
    pub(crate) fn stays_behind(&mut self, behind: Behind) {
        if self.beyond.as_ref() != Some(&behind) {
            tracing::error!(range = %self.range(), why = %behind, "a replica stays behind");
            self.beyond = Some(behind);
        }
    }

    /// What it lacks since this program does not know it. A log that ends behind it has it, or has
    /// what took its place, since terms never fall from entry to entry.
    pub(crate) fn behind(&self) -> Option<&Behind> {
        let log = &self.raw.raft.raft_log;
        let ends = (log.last_term(), log.last_index());
        self.beyond.as_ref().filter(|beyond| ends < (beyond.term, beyond.index))
    }

    /// Whether nobody else votes.
    pub(crate) fn votes_alone(&self) -> bool {
        let mut voters = self.descriptor().voters();
        let is_me = voters.next().is_some_and(|voter| voter.peer == self.address.peer);
        is_me && voters.next().is_none() && !self.state.is_shell()
    }

    /// It is the child of a range that is led here: it asks for votes now and a few times more.
    pub(crate) fn campaign_eagerly(&mut self) -> raft::Result<()> {
        self.eager_campaigns = EAGER_CAMPAIGNS;
        self.campaign()
    }

    /// Asks for votes now, without waiting for a timeout.
    pub(crate) fn campaign(&mut self) -> raft::Result<()> {
        let result = self.raw.campaign();
        self.pin_timeout();
        result
    }

    /// One tick; `store_ticks` counts those of the store, this one included. `outgoing` gets heartbeats.
    /// False: there is nothing else to do, as nearly always.
    pub(crate) fn tick(&mut self, store_ticks: u64, outgoing: &mut Vec<Heartbeats>) -> bool {
        if self.tick_quietly() {
            return false;
        }
        // A sole voter wins at once, and raft-rs asserts that a new leader's log is durable. So
        // it waits for its disk first.
        let waits = self.votes_alone()
            && self.raw.raft.state != StateRole::Leader
            && self.raw.raft.raft_log.persisted != self.raw.raft.raft_log.last_index();
        if self.is_stopped() || waits || self.install.is_writing() {
            return false;
        }
        let led = self.raw.raft.state == StateRole::Leader;
        let mut acted = self.tick_eagerly(store_ticks);
        acted |= match led {
            true => self.tick_as_leader(store_ticks, outgoing),
            false => self.raw.tick(),
        };
        acted |= self.look_at_decisions(store_ticks);
        self.pin_timeout();
        acted
    }

    /// Whether it hears nobody for a whole election timeout and asks nobody for votes: its range may go
    /// on without it. True once for each such time.
    pub(crate) fn is_lonely(&mut self, ticks: u64) -> bool {
        let me = self.address.peer;
        let campaigns = || self.descriptor().voters().any(|voter| voter.peer == me);
        let heard = self.heard.last().max(self.asked_at);
        if ticks < heard + TIMEOUT_TICKS_END as u64 || self.is_stopped() {
            return false;
        }
        let is_lonely = self.state.is_shell() || !campaigns();
        if is_lonely {
            self.asked_at = ticks;
        }
        is_lonely
    }

    /// Whether it follows nobody, or has not heard of whom it follows for several election timeouts.
    pub(crate) fn is_orphaned(&self, ticks: u64) -> bool {
        let is_silent = ticks >= self.heard.last() + 3 * TIMEOUT_TICKS_END as u64;
        let follows = !self.is_stopped() && self.raw.raft.leader_id != 0 && !is_silent;
        !self.leads_now() && !follows
    }

    fn tick_eagerly(&mut self, store_ticks: u64) -> bool {
        let raft = &self.raw.raft;
        // It has led already, perhaps, and handed on: whoever has its vote is to lead now (simulator,
        // seed 980001072).
        let votes_for_another = raft.vote != 0 && raft.vote != raft.id;
        if raft.leader_id != 0 || votes_for_another {
            self.eager_campaigns = 0;
        }
        let is_due = self.eager_campaigns > 0 && store_ticks.is_multiple_of(HEARTBEAT_TICKS as u64);
        if is_due {
            self.eager_campaigns -= 1;
            // raft-rs refuses while a change of members is committed and not applied.
            drop(self.campaign());
        }
        is_due
    }

    /// A message from a peer; `ticks` counts those of the store. `is_late`: it is no sign of life.
    pub(crate) fn step(
        &mut self,
        message: RangeMessage,
        ticks: u64,
        is_late: bool,
    ) -> Result<(), Dropped> {
        if self.is_stopped() {
            return Err(Dropped::Stopped);
        }
        let sender = (PeerId(message.from_peer), StoreId(message.from_store));
        let log = &self.raw.raft.raft_log;
        let standing = Standing {
            cluster_id: &self.address.cluster_id,
            store: self.address.store,
            peer: self.address.peer,
            descriptor: self.descriptor(),
            role: self.raw.raft.state,
            term: self.raw.raft.term,
            last_index: log.last_index(),
            persisted: log.persisted,
            leader: PeerId(self.raw.raft.leader_id),
            knows: M::knows,
        };
        let mut message = match guard::admit(&standing, message) {
            Ok(message) => message,
            Err(dropped) => {
                if let Dropped::LostLog { commit, last } = dropped {
                    let (range, peer, why) = (self.range(), sender.0, LostLog { commit, last });
                    tracing::error!(%range, %peer, %why, "a replica's disk counts as lost");
                    self.lost = Some(why);
                    self.loss_is_new = true;
                }
                if let Dropped::Beyond(behind) = &dropped {
                    self.stays_behind(behind.clone());
                }
                return Err(dropped);
            }
        };
        if self.raw.raft.prs().get(sender.0.0).is_some() {
            self.heard.note(sender.0, ticks);
        }
        if !rejection::heed(&self.raw, &mut message) {
            return Ok(());
        }
        let matched_before = self.matched(sender.0);
        if is_late && self.is_outrun_by_vote(&message) {
            return Ok(());
        }
        let raft = &self.raw.raft;
        let (followed, unheard_for) = ((raft.term, raft.leader_id), raft.election_elapsed);
        let is_late = is_late && says_a_leader(&message) && message.from == raft.leader_id;
        let result = self.raw.step(message);
        let raft = &mut self.raw.raft;
        if is_late && raft.state == StateRole::Follower && (raft.term, raft.leader_id) == followed {
            // raft-rs counts anew from whatever it hears of its leader.
            raft.election_elapsed = unheard_for;
        }
        self.pin_timeout();
        self.tell_of_split(sender.0, matched_before);
        match result {
            Ok(()) => {
                self.remember(sender);
                Ok(())
            }
            Err(raft::Error::StepPeerNotFound) => Err(Dropped::NotAMember(sender.0)),
            Err(_) => Err(Dropped::Malformed("raft refuses it")),
        }
    }

    /// Whether a leader says something right after this replica has asked who would vote for it. raft-rs
    /// would follow that leader again, and forget the answers. Soon it may: if nobody else hears the
    /// leader late, a slow link is better than none.
    fn is_outrun_by_vote(&self, message: &Message) -> bool {
        let raft = &self.raw.raft;
        let has_just_asked = raft.election_elapsed < election::GAP_MAX_TICKS;
        let asks = raft.state == StateRole::PreCandidate && has_just_asked;
        asks && message.term == raft.term && says_a_leader(message)
    }

    /// Tells who leads where that changed, after everything applied so far was told.
    fn announce<O>(&mut self, effects: &mut Effects<O>) {
        let range = self.range();
        let term = self.raw.raft.term;
        let follower = RoleNow::Follower { term, leader: self.other_leader() };
        let leads = !self.is_stopped() && self.raw.raft.state == StateRole::Leader;
        let now = match leads && self.applied().term == term {
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
    fn answer_reads<O>(&mut self, effects: &mut Effects<O>) {
        let (range, applied) = (self.range(), self.applied().index);
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
    fn send<O>(&self, messages: Vec<Message>, effects: &mut Effects<O>) {
        for message in messages {
            let to = PeerId(message.to);
            let Some(store) = self.store_of(to) else {
                tracing::debug!(range = %self.range(), peer = %to, "no store known for a peer");
                continue;
            };
            if heartbeats::is_beat(&message) {
                let sender = self.beat_sender();
                let beat = heartbeats::beat(&sender, message);
                heartbeats::add(&mut effects.heartbeats, &sender, store, beat);
                continue;
            }
            effects.messages.push(RangeMessage {
                cluster_id: self.address.cluster_id.clone(),
                range_id: self.range().0,
                from_store: self.address.store.0,
                to_store: store.0,
                from_peer: self.address.peer.0,
                to_peer: to.0,
                conf_ver: self.descriptor().epoch.conf_ver,
                version: self.descriptor().epoch.version,
                message: Some(mirror::message_record(message)),
                notice: None,
            });
        }
    }

    fn beat_sender(&self) -> heartbeats::Sender<'_> {
        heartbeats::Sender {
            cluster_id: &self.address.cluster_id,
            store: self.address.store,
            range: self.range(),
            epoch: self.descriptor().epoch,
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
        if let Some(before) = self.install.before() {
            return ReplicaStatus { role, term: raft.term, leader, ..before };
        }
        ReplicaStatus {
            role,
            term: raft.term,
            leader,
            commit: raft.raft_log.committed,
            applied: self.applied().index,
            flushed: self.flushed,
            log_first: self.log().first(),
            log_last: self.log().last(),
            state_hash: self.machine().state_hash(),
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
        let mut members = self.descriptor().replicas.iter();
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
    /// that may have, so that voters do not campaign together and a seed determines a run.
    fn pin_timeout(&mut self) {
        let raft = &self.raw.raft;
        let leader = (raft.leader_id != INVALID_ID).then_some(PeerId(raft.leader_id));
        let order = Order { range: self.range(), term: raft.term, leader };
        let conf_ver = self.descriptor().epoch.conf_ver;
        if self.timeout.is_none_or(|known| (known.order, known.conf_ver) != (order, conf_ver)) {
            let voters = self.descriptor().voters().map(|voter| voter.peer);
            let ticks = order.timeout_ticks(self.address.peer, voters);
            self.timeout = Some(Timeout { order, conf_ver, ticks });
        }
        let ticks = self.timeout.expect("it was just drawn").ticks;
        self.raw.raft.set_randomized_election_timeout(ticks);
    }
}

fn says_a_leader(message: &Message) -> bool {
    matches!(message.msg_type, MessageType::MsgHeartbeat | MessageType::MsgAppend)
}
