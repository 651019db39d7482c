//! Snapshots: how a replica gets its state that has been away for longer than its leader's log
//! reaches back (D13).
//!
//! Towards raft-rs this is simple. A leader that lacks the entries a follower needs asks its log
//! for a snapshot, again and again; the log says "not now" and notes who needs one, and the store
//! sends it by messages of its own. When the follower has all of it, it steps a `MsgSnapshot` that
//! nobody sent over the network, and raft-rs answers with an acknowledgement of everything the
//! state holds: with that the leader goes on as after any append. So raft-rs's leader never waits
//! for a snapshot, a failed transfer needs no word to it, and the next one begins when it asks
//! again.

mod hold;
mod image;
mod limits;
mod receiving;
mod sending;
mod wire;

use std::collections::BTreeMap;

use bytes::Bytes;
use raft::StateRole;
use sharklock_proto::internal::v1::{
    SnapshotAck, SnapshotCancel, SnapshotChunk, SnapshotHeader, SnapshotMessage, SnapshotReject,
    snapshot_message::Body, snapshot_reject::Why,
};
use sharklock_rangemap::{PeerId, RangeId, StoreId};

use crate::guard::Dropped;
use crate::install::{Arrived, Outcome};
use crate::log::LogLimits;
use crate::replica::Replica;
use crate::state_machine::StateMachine;
use hold::CatchingUp;
pub(crate) use hold::Hold;
pub(crate) use image::Image;
use limits::Budget;
pub use limits::SnapshotLimits;
use receiving::Receiving;
use sending::Sending;
pub(crate) use wire::Ends;

/// What got no answer for so many ticks is sent again.
const RESEND_TICKS: u64 = 5;
/// Ticks after a failure in which no other snapshot goes to the same replica: making one costs a
/// copy of the range.
const REST_TICKS: u64 = 10;
/// Transfers of a term: the rest of their number is the term, in which this store leads once.
const TRANSFER_BITS: u32 = 20;

/// What became of a store's snapshots since its recovery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotStats {
    /// Begun to send.
    pub begun: u64,
    /// Sent, and installed by the other side.
    pub delivered: u64,
    /// Begun to send, and given up.
    pub failed: u64,
    /// Taken in and durable.
    pub installed: u64,
    /// Taken in at least in part, and given up.
    pub abandoned: u64,
}

/// All snapshots on their way from and to a store.
///
/// Invariants:
/// - `sending.len() <= limits.sending_max` and `receiving.len() <= limits.receiving_max`;
/// - a transfer in `sending` belongs to a term in which this store leads.
#[derive(Debug)]
pub(crate) struct Transfers {
    cluster_id: Bytes,
    limits: SnapshotLimits,
    ticks: u64,
    begun: u64,
    sending: BTreeMap<(RangeId, PeerId), Sending>,
    receiving: BTreeMap<RangeId, Receiving>,
    /// Replicas that have installed what was sent to them, until they have what came since.
    catching_up: BTreeMap<(RangeId, PeerId), CatchingUp>,
    /// Until which tick no snapshot goes to a replica.
    resting: BTreeMap<(RangeId, PeerId), u64>,
    outward: Budget,
    inward: Budget,
    outbox: Vec<SnapshotMessage>,
    pub stats: SnapshotStats,
}

impl Transfers {
    pub(crate) fn new(cluster_id: Bytes, limits: SnapshotLimits) -> Self {
        Self {
            cluster_id,
            limits,
            ticks: 0,
            begun: 0,
            sending: BTreeMap::new(),
            receiving: BTreeMap::new(),
            catching_up: BTreeMap::new(),
            resting: BTreeMap::new(),
            outward: Budget::new(limits.bytes_per_tick),
            inward: Budget::new(limits.bytes_per_tick),
            outbox: Vec::new(),
            stats: SnapshotStats::default(),
        }
    }

    /// Whether a snapshot is on its way to this replica.
    pub(crate) fn is_sending(&self, range: RangeId, peer: PeerId) -> bool {
        self.sending.contains_key(&(range, peer))
    }

    /// What the log of this range is kept for: snapshots on their way, and replicas that catch up
    /// behind one.
    pub(crate) fn hold(&self, range: RangeId) -> Option<Hold> {
        let of_range = (range, PeerId(0))..=(range, PeerId(u64::MAX));
        let sending = self.sending.range(of_range.clone()).map(|(_, it)| it.hold());
        let catching_up = self.catching_up.range(of_range).map(|(_, it)| it.hold);
        sending.chain(catching_up).reduce(Hold::and)
    }

    pub(crate) fn tick(&mut self) {
        self.ticks += 1;
        let ticks = self.ticks;
        self.outward.tick();
        self.inward.tick();
        self.resting.retain(|_, until| *until > ticks);
        let idle_max = self.limits.idle_ticks_max;
        self.catching_up.retain(|_, it| ticks - it.progress < idle_max);
        self.tick_sending();
        self.tick_receiving();
    }

    fn tick_sending(&mut self) {
        let mut failed = Vec::new();
        for (key, sending) in &mut self.sending {
            match sending.tick(self.ticks, &self.limits) {
                sending::Due::Nothing => {}
                sending::Due::Failed => failed.push(*key),
                sending::Due::Header => {
                    let body = Body::Header(sending.header.clone());
                    let message = sending.ends.message(&self.cluster_id, sending.transfer, body);
                    self.outbox.push(message);
                }
            }
        }
        for key in failed {
            self.cancel(key);
        }
    }

    fn tick_receiving(&mut self) {
        let mut failed = Vec::new();
        for (range, receiving) in &mut self.receiving {
            match receiving.tick(self.ticks, &self.limits, &self.inward) {
                receiving::Due::Nothing => {}
                receiving::Due::Failed => failed.push(*range),
                receiving::Due::Ack => {
                    let ack = receiving.ack(&self.limits, &mut self.inward, self.ticks);
                    let (ends, transfer) = (receiving.ends, receiving.transfer);
                    self.outbox.push(ends.message(&self.cluster_id, transfer, Body::Ack(ack)));
                }
            }
        }
        for range in failed {
            self.receiving.remove(&range);
            self.stats.abandoned += 1;
        }
    }

    /// Nothing reaches this store: what is on its way there has failed.
    pub(crate) fn unreachable(&mut self, store: StoreId) {
        let there = self.sending.iter().filter(|(_, it)| it.ends.other_store == store);
        for key in there.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.fail(key);
        }
    }

    fn fail(&mut self, key: (RangeId, PeerId)) {
        if self.sending.remove(&key).is_some() {
            self.stats.failed += 1;
            self.resting.insert(key, self.ticks + REST_TICKS);
        }
    }

    fn cancel(&mut self, key: (RangeId, PeerId)) {
        if let Some(sending) = self.sending.get(&key) {
            let (ends, transfer) = (sending.ends, sending.transfer);
            self.post(ends, transfer, Body::Cancel(SnapshotCancel {}));
            self.fail(key);
        }
    }

    fn post(&mut self, ends: Ends, transfer: u64, body: Body) {
        self.outbox.push(ends.message(&self.cluster_id, transfer, body));
    }

    fn reject(&mut self, ends: Ends, transfer: u64, why: Why) {
        tracing::info!(range = %ends.range, from = %ends.other_store, ?why, "snapshot refused");
        self.post(ends, transfer, Body::Reject(SnapshotReject { why: why.into() }));
    }

    /// After a replica had its turn: snapshots that it needs no more or cannot send any more end,
    /// those that its followers need begin, and what became of one that it took in is answered.
    pub(crate) fn follow<M: StateMachine>(&mut self, replica: &mut Replica<M>, log: &LogLimits) {
        self.end_sending(replica);
        let (range, ticks) = (replica.range(), self.ticks);
        self.catching_up.retain(|(of, peer), it| {
            *of != range || it.follow(replica, *peer, log.entries_floor, ticks)
        });
        for peer in replica.log().take_wanted() {
            self.begin(replica, PeerId(peer));
        }
        self.end_receiving(replica);
        if let Some(outcome) = replica.install.outcome.take() {
            self.installed(replica.range(), outcome);
        }
    }

    fn end_sending<M: StateMachine>(&mut self, replica: &Replica<M>) {
        let (range, raft) = (replica.range(), &replica.raw.raft);
        let of_range = self.sending.range((range, PeerId(0))..=(range, PeerId(u64::MAX)));
        let of_range: Vec<_> =
            of_range.map(|(key, it)| (*key, it.term, it.index, it.is_delivered())).collect();
        for (key, term, index, is_delivered) in of_range {
            let matched = raft.prs().get(key.1.0).map_or(0, |progress| progress.matched);
            if !replica.leads_now() || raft.term != term {
                self.cancel(key);
            } else if matched >= index && is_delivered {
                self.delivered(key);
            } else if matched >= index {
                self.cancel(key);
            }
        }
    }

    fn begin<M: StateMachine>(&mut self, replica: &Replica<M>, peer: PeerId) {
        let key = (replica.range(), peer);
        let member = replica.descriptor.replicas.iter().find(|member| member.peer == peer);
        let Some(store) = member.map(|member| member.store).filter(|_| replica.leads_now()) else {
            return;
        };
        let is_full = self.sending.len() >= self.limits.sending_max;
        // What it has installed it has acknowledged to Raft, too, on another stream. If that is
        // lost, the header of the next one brings it again.
        let catching_up = self.catching_up.get(&key);
        let is_here_soon = catching_up.is_some_and(|it| self.ticks - it.progress < RESEND_TICKS);
        let is_busy = self.sending.contains_key(&key) || self.resting.contains_key(&key);
        if is_full || is_here_soon || is_busy {
            return;
        }
        let ends = Ends {
            range: key.0,
            my_store: replica.address.store,
            my_peer: replica.address.peer,
            other_store: store,
            other_peer: peer,
        };
        let data = image::encode(&replica.machine);
        let term = replica.raw.raft.term;
        let header = SnapshotHeader {
            term,
            metadata: Some(wire::metadata(&replica.descriptor, replica.applied)),
            descriptor: Some(wire::descriptor(&replica.descriptor)),
            bytes: data.len() as u64,
            crc32c: crc32c::crc32c(&data),
            state_hash: replica.machine.state_hash(),
        };
        self.begun = (self.begun + 1) % (1 << TRANSFER_BITS);
        let transfer = term.wrapping_shl(TRANSFER_BITS) | self.begun;
        let (range, bytes, index) = (key.0, header.bytes, replica.applied.index);
        tracing::info!(%range, to = %store, index, bytes, "sending a snapshot");
        self.stats.begun += 1;
        self.post(ends, transfer, Body::Header(header.clone()));
        self.sending.insert(key, Sending::new(ends, transfer, header, data, self.ticks));
    }

    /// What is taken in belongs to one term and its leader; and it is of no use once the log here
    /// reaches as far.
    fn end_receiving<M: StateMachine>(&mut self, replica: &Replica<M>) {
        let Some(receiving) = self.receiving.get(&replica.range()) else { return };
        let is_outdated = !may_install(replica, receiving.header.term)
            || replica.raw.raft.raft_log.committed >= receiving.at.index;
        if is_outdated && !receiving.is_handed_on {
            let (ends, transfer) = (receiving.ends, receiving.transfer);
            self.receiving.remove(&replica.range());
            self.stats.abandoned += 1;
            self.reject(ends, transfer, Why::Stale);
        }
    }

    fn installed(&mut self, range: RangeId, outcome: Outcome) {
        let receiving = self.receiving.remove(&range).expect("who handed a state on waits for it");
        let (ends, transfer, offset) = (receiving.ends, receiving.transfer, receiving.header.bytes);
        match outcome {
            Outcome::Installed => {
                self.stats.installed += 1;
                let ack = SnapshotAck { offset, window: 0, installed: true };
                self.post(ends, transfer, Body::Ack(ack));
            }
            Outcome::NotNeeded => {
                self.stats.abandoned += 1;
                self.reject(ends, transfer, Why::Stale);
            }
        }
    }

    /// A message of a transfer, for a replica that is here.
    pub(crate) fn step<M: StateMachine>(
        &mut self,
        replica: &mut Replica<M>,
        message: SnapshotMessage,
    ) -> Result<(), Dropped> {
        if replica.is_stopped() {
            return Err(Dropped::Stopped);
        }
        let ends = wire::check_envelope(&replica.address, &replica.descriptor, &message)?;
        let transfer = message.transfer;
        match message.body.ok_or(Dropped::Malformed("it has no body"))? {
            Body::Header(header) => return self.offered(replica, ends, transfer, header),
            Body::Chunk(chunk) => self.chunk(replica, ends, transfer, chunk),
            Body::Ack(ack) => self.acknowledged(ends, transfer, ack),
            Body::Reject(reject) => self.rejected(ends, transfer, &reject),
            Body::Cancel(SnapshotCancel {}) => self.cancelled(ends, transfer),
        }
        Ok(())
    }

    fn offered<M: StateMachine>(
        &mut self,
        replica: &mut Replica<M>,
        ends: Ends,
        transfer: u64,
        header: SnapshotHeader,
    ) -> Result<(), Dropped> {
        let Some(at) = wire::applied_at(&header, &replica.descriptor) else {
            return Err(Dropped::Malformed("a snapshot of another range, or of none"));
        };
        let log = &replica.raw.raft.raft_log;
        let is_as_far = at.index <= log.committed;
        if at.index == log.committed && !log.match_term(at.index, at.term) {
            return Err(Dropped::Malformed("a snapshot that contradicts what is committed"));
        }
        if !may_install(replica, header.term) {
            self.reject(ends, transfer, Why::Stale);
            return Ok(());
        }
        match self.receiving.get(&ends.range) {
            Some(known) if known.transfer == transfer && known.ends == ends => {
                self.acknowledge(ends.range);
                return Ok(());
            }
            // Late: its sender has begun another since, and numbers grow. Or the other is whole.
            Some(known) if known.transfer > transfer || known.is_handed_on => {
                self.reject(ends, transfer, Why::Busy);
                return Ok(());
            }
            Some(_) => {
                self.receiving.remove(&ends.range);
                self.stats.abandoned += 1;
            }
            None => {}
        }
        if is_as_far {
            // raft-rs ignores it, but tells the leader how far this replica is: an earlier
            // acknowledgement may be lost.
            replica.step_snapshot(header.term, ends.other_peer, at);
            self.reject(ends, transfer, Why::Stale);
        } else if self.receiving.len() >= self.limits.receiving_max {
            self.reject(ends, transfer, Why::Busy);
        } else {
            let receiving = Receiving::new(ends, transfer, header, at, self.ticks);
            self.receiving.insert(ends.range, receiving);
            self.acknowledge(ends.range);
        }
        Ok(())
    }

    fn acknowledge(&mut self, range: RangeId) {
        let receiving = self.receiving.get_mut(&range).expect("who answers is there");
        let ack = receiving.ack(&self.limits, &mut self.inward, self.ticks);
        let (ends, transfer) = (receiving.ends, receiving.transfer);
        self.post(ends, transfer, Body::Ack(ack));
    }

    fn chunk<M: StateMachine>(
        &mut self,
        replica: &mut Replica<M>,
        ends: Ends,
        transfer: u64,
        chunk: SnapshotChunk,
    ) {
        let known = self.receiving.get_mut(&ends.range);
        let Some(receiving) = known.filter(|it| it.transfer == transfer && it.ends == ends) else {
            // Of a transfer that this store has forgotten, by a restart perhaps.
            return self.reject(ends, transfer, Why::Damaged);
        };
        if receiving.is_handed_on {
            // Late, or twice: all of it is here.
            return self.acknowledge(ends.range);
        }
        let whole = match receiving.take(chunk, self.ticks) {
            Ok(()) => receiving.whole(),
            Err(damaged) => Some(Err(damaged)),
        };
        let arrived = whole.map(|whole| {
            let data = whole.ok()?;
            Arrived::restore(&receiving.header, receiving.at, ends, image::decode(&data)?)
        });
        match arrived {
            None => self.acknowledge(ends.range),
            Some(Some(arrived)) => {
                replica.install.arrived = Some(arrived);
                self.acknowledge(ends.range);
            }
            Some(None) => {
                self.receiving.remove(&ends.range);
                self.stats.abandoned += 1;
                self.reject(ends, transfer, Why::Damaged);
            }
        }
    }

    fn acknowledged(&mut self, ends: Ends, transfer: u64, ack: SnapshotAck) {
        let key = (ends.range, ends.other_peer);
        let known = self.sending.get_mut(&key).filter(|it| it.transfer == transfer);
        let Some(sending) = known else { return };
        sending.acknowledged(ack, self.ticks);
        if ack.installed && sending.is_delivered() {
            self.delivered(key);
        }
    }

    fn delivered(&mut self, key: (RangeId, PeerId)) {
        let Some(sent) = self.sending.remove(&key) else { return };
        let (term, hold, progress) = (sent.term, sent.hold(), self.ticks);
        self.catching_up.insert(key, CatchingUp { term, hold, progress });
        self.stats.delivered += 1;
    }

    fn rejected(&mut self, ends: Ends, transfer: u64, reject: &SnapshotReject) {
        let key = (ends.range, ends.other_peer);
        if self.sending.get(&key).is_some_and(|it| it.transfer == transfer) {
            tracing::info!(range = %ends.range, to = %ends.other_store, why = ?reject.why(),
                "the other store refuses the snapshot");
            self.fail(key);
        }
    }

    fn cancelled(&mut self, ends: Ends, transfer: u64) {
        let known = self.receiving.get(&ends.range);
        let is_it = |it: &&Receiving| it.transfer == transfer && it.ends == ends;
        if known.filter(is_it).is_some_and(|it| !it.is_handed_on) {
            self.receiving.remove(&ends.range);
            self.stats.abandoned += 1;
        }
    }

    /// Chunks as far as receivers and rate allow, one of each transfer in turn; and what else is
    /// to be said.
    pub(crate) fn hand_out(&mut self, messages: &mut Vec<SnapshotMessage>) {
        messages.append(&mut self.outbox);
        loop {
            let before = messages.len();
            for sending in self.sending.values_mut() {
                if let Some(chunk) = sending.chunk(&self.limits, &mut self.outward) {
                    let (ends, body) = (sending.ends, Body::Chunk(chunk));
                    messages.push(ends.message(&self.cluster_id, sending.transfer, body));
                }
            }
            if messages.len() == before {
                return;
            }
        }
    }

    /// The answer to a header for a range that is not here.
    pub(crate) fn unknown_range(&mut self, message: &SnapshotMessage) {
        if matches!(message.body, Some(Body::Header(_))) {
            let ends = Ends {
                range: RangeId(message.range_id),
                my_store: StoreId(message.to_store),
                my_peer: PeerId(message.to_peer),
                other_store: StoreId(message.from_store),
                other_peer: PeerId(message.from_peer),
            };
            self.reject(ends, message.transfer, Why::UnknownRange);
        }
    }
}

/// Whether a replica takes in a state from a leader of this term: it follows in that term. A
/// leader sends one only after an answer of that term, so an honest one is never refused.
pub(crate) fn may_install<M: StateMachine>(replica: &Replica<M>, term: u64) -> bool {
    let raft = &replica.raw.raft;
    !replica.is_stopped() && raft.term == term && raft.state != StateRole::Leader
}
