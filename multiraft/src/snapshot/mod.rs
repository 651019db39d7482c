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
//!
//! Reading the image that is sent, and making a state of one that has come, are chores: they grow
//! with the range, and no turn may.

pub(crate) mod image;
mod limits;
mod reading;
mod receiving;
mod reserve;
mod sending;
mod wire;

use std::collections::BTreeMap;

use bytes::Bytes;
use sharklock_proto::internal::v1::{
    SnapshotAck, SnapshotCancel, SnapshotChunk, SnapshotHeader, SnapshotMessage, SnapshotMetadata,
    SnapshotReject, snapshot_message::Body, snapshot_reject::Why,
};
use sharklock_rangemap::{PeerId, RangeId, StoreId};

use crate::chore::{Done, NotRestored, ReadImage, Restore, StoredImage};
use crate::guard::Dropped;
use crate::log::LogLimits;
use crate::replica::{InstallEnd, Replica};
use crate::state_machine::StateMachine;
use limits::Budget;
pub use limits::SnapshotLimits;
use reading::{READING_BYTES_MAX, Reading};
use receiving::Receiving;
use reserve::CatchingUp;
pub(crate) use reserve::Reserve;
use sending::Sending;
pub(crate) use wire::{Announced, Ends};

/// A piece that got no answer for so many ticks is sent again.
const RESEND_TICKS: u64 = 5;
/// Ticks after a failure in which no other snapshot goes to the same replica: making one costs a
/// copy of the range.
const REST_TICKS: u64 = 10;

/// The fates of a store's snapshots since its recovery.
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
/// - `reading` and `sending` together are at most `limits.sending_max`, `receiving` at most
///   `limits.receiving_max`;
/// - a transfer in `reading` or `sending` belongs to a term in which this store leads, and no
///   replica has one in both.
#[derive(Debug)]
pub(crate) struct Transfers {
    cluster_id: Bytes,
    limits: SnapshotLimits,
    ticks: u64,
    /// Wishes for an image, and transfers begun.
    begun: u64,
    reading: BTreeMap<(RangeId, PeerId), Reading>,
    sending: BTreeMap<(RangeId, PeerId), Sending>,
    receiving: BTreeMap<RangeId, Receiving>,
    /// Replicas that have installed what was sent to them, until they have what came since.
    catching_up: BTreeMap<(RangeId, PeerId), CatchingUp>,
    /// Until which tick no snapshot goes to a replica.
    resting: BTreeMap<(RangeId, PeerId), u64>,
    outward: Budget,
    inward: Budget,
    to_send: Vec<SnapshotMessage>,
    /// Images that are to be read.
    pub to_read: Vec<ReadImage>,
    /// States that are to be made of what has come.
    pub to_restore: Vec<Restore>,
    pub stats: SnapshotStats,
}

impl Transfers {
    pub(crate) fn new(cluster_id: Bytes, limits: SnapshotLimits) -> Self {
        Self {
            cluster_id,
            limits,
            ticks: 0,
            begun: 0,
            reading: BTreeMap::new(),
            sending: BTreeMap::new(),
            receiving: BTreeMap::new(),
            catching_up: BTreeMap::new(),
            resting: BTreeMap::new(),
            outward: Budget::new(limits.bytes_per_tick),
            inward: Budget::new(limits.bytes_per_tick),
            to_send: Vec::new(),
            to_read: Vec::new(),
            to_restore: Vec::new(),
            stats: SnapshotStats::default(),
        }
    }

    /// Whether a snapshot is on its way to this replica.
    pub(crate) fn is_sending(&self, range: RangeId, peer: PeerId) -> bool {
        self.sending.contains_key(&(range, peer))
    }

    /// The part of this range's log that is kept: for snapshots on their way, and for replicas that
    /// catch up behind one.
    pub(crate) fn log_reserve(&self, range: RangeId) -> Option<Reserve> {
        let of_range = (range, PeerId(0))..=(range, PeerId(u64::MAX));
        let reading = self.reading.range(of_range.clone()).map(|(_, it)| it.reserve);
        let sending = self.sending.range(of_range.clone()).map(|(_, it)| it.log_reserve());
        let catching_up = self.catching_up.range(of_range).map(|(_, it)| it.reserve);
        reading.chain(sending).chain(catching_up).reduce(Reserve::and)
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
        let late = |reading: &Reading| self.ticks - reading.since >= self.limits.idle_ticks_max;
        let late = self.reading.iter().filter(|(_, it)| late(it)).map(|(key, _)| *key);
        for key in late.collect::<Vec<_>>() {
            self.fail(key);
        }
        let mut failed = Vec::new();
        for (key, sending) in &mut self.sending {
            match sending.tick(self.ticks, &self.limits) {
                sending::Due::Nothing => {}
                sending::Due::Failed => failed.push(*key),
                sending::Due::Header => {
                    let body = Body::Header(sending.header.clone());
                    let message = sending.ends.message(&self.cluster_id, sending.transfer, body);
                    self.to_send.push(message);
                }
            }
        }
        for key in failed {
            let sending = &self.sending[&key];
            tracing::warn!(range = %key.0, to = %sending.ends.other_store, "{}", sending.stands());
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
                    self.to_send.push(ends.message(&self.cluster_id, transfer, Body::Ack(ack)));
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
        let reading = self.reading.iter().map(|(key, it)| (*key, it.ends));
        let sending = self.sending.iter().map(|(key, it)| (*key, it.ends));
        let there = reading.chain(sending).filter(|(_, ends)| ends.other_store == store);
        for key in there.map(|(key, _)| key).collect::<Vec<_>>() {
            self.fail(key);
        }
    }

    fn fail(&mut self, key: (RangeId, PeerId)) {
        if self.reading.remove(&key).is_some() || self.sending.remove(&key).is_some() {
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
        self.to_send.push(ends.message(&self.cluster_id, transfer, body));
    }

    fn reject(&mut self, ends: Ends, transfer: u64, why: Why) {
        tracing::info!(range = %ends.range, from = %ends.other_store, ?why, "snapshot refused");
        self.post(ends, transfer, Body::Reject(SnapshotReject { why: why.into() }));
    }

    /// After a replica had its turn: snapshots that it needs no more or cannot send any more end,
    /// those that its followers need begin, and what became of one that it took in is answered.
    pub(crate) fn follow<M: StateMachine>(&mut self, replica: &mut Replica<M>, log: &LogLimits) {
        self.end_reading(replica);
        self.end_sending(replica);
        let (range, ticks) = (replica.range(), self.ticks);
        self.catching_up.retain(|(of, peer), it| {
            *of != range || it.follow(replica, *peer, log.entries_floor, ticks)
        });
        for peer in replica.log().take_wanted() {
            self.begin(replica, PeerId(peer));
        }
        self.end_receiving(replica);
        if let Some(end) = replica.take_install_end() {
            self.installed(replica.range(), end);
        }
    }

    /// A leadership that is over sends nothing.
    fn end_reading<M: StateMachine>(&mut self, replica: &Replica<M>) {
        let (range, term) = (replica.range(), replica.term());
        let leads = replica.leads_now();
        let is_over = |it: &Reading| !leads || it.term != term;
        let of_range = self.reading.range((range, PeerId(0))..=(range, PeerId(u64::MAX)));
        let over = of_range.filter(|(_, it)| is_over(it)).map(|(key, _)| *key);
        for key in over.collect::<Vec<_>>() {
            self.fail(key);
        }
    }

    fn end_sending<M: StateMachine>(&mut self, replica: &Replica<M>) {
        let range = replica.range();
        let of_range = self.sending.range((range, PeerId(0))..=(range, PeerId(u64::MAX)));
        let of_range: Vec<_> =
            of_range.map(|(key, it)| (*key, it.term, it.index, it.is_delivered())).collect();
        for (key, term, index, is_delivered) in of_range {
            let matched = replica.matched(key.1);
            if !replica.leads_now() || replica.term() != term {
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
        let member = replica.member_store(peer).filter(|_| replica.leads_now());
        let Some(store) = member else { return };
        let is_full = self.reading.len() + self.sending.len() >= self.limits.sending_max;
        // The replica has acknowledged the installed state to Raft, too, on another stream. If that
        // is lost, the header of the next one brings it again.
        let catching_up = self.catching_up.get(&key);
        let is_here_soon = catching_up.is_some_and(|it| self.ticks - it.progress < RESEND_TICKS);
        let is_begun = self.reading.contains_key(&key) || self.sending.contains_key(&key);
        // Before the first flush there is nothing to send: Raft asks again.
        let has_nothing = !replica.has_image();
        let is_resting = self.resting.contains_key(&key);
        if is_full || is_here_soon || is_begun || is_resting || has_nothing {
            return;
        }
        let ends = Ends {
            range: key.0,
            my_store: replica.address().store,
            my_peer: replica.peer(),
            other_store: store,
            other_peer: peer,
        };
        self.begun += 1;
        self.stats.begun += 1;
        let (term, number, since) = (replica.term(), self.begun, self.ticks);
        let reserve = Reserve { from: replica.flushed(), bytes: READING_BYTES_MAX };
        self.reading.insert(key, Reading { ends, term, number, reserve, since });
        self.to_read.push(ReadImage { range: key.0, peer, number });
    }

    /// Takes the result of a chore, for a replica that is here. A state that nobody wants any more
    /// comes back.
    pub(crate) fn chore_done<M: StateMachine>(
        &mut self,
        replica: &mut Replica<M>,
        done: Done<M>,
    ) -> Option<M> {
        match done {
            Done::Read(wish, image) => {
                self.read(replica, wish, image);
                None
            }
            Done::Restored { ends, transfer, arrived } => {
                let known = self.receiving.get(&ends.range);
                let is_it = |it: &&Receiving| it.transfer == transfer && it.ends == ends;
                if known.filter(is_it).is_none() {
                    return arrived.ok().map(|arrived| arrived.state.into_machine());
                }
                match arrived {
                    Ok(arrived) => replica.arrived(*arrived),
                    Err(why) => {
                        if let NotRestored::Beyond(behind) = why {
                            replica.stays_behind(behind);
                        }
                        self.damaged(ends, transfer);
                    }
                }
                None
            }
        }
    }

    /// The image is there: its header goes out.
    fn read<M: StateMachine>(
        &mut self,
        replica: &Replica<M>,
        wish: ReadImage,
        image: Option<StoredImage>,
    ) {
        let key = (wish.range, wish.peer);
        let Some(reading) = self.reading.get(&key).filter(|it| it.number == wish.number) else {
            return;
        };
        let (ends, term) = (reading.ends, reading.term);
        let is_led = replica.leads_now() && replica.term() == term;
        // The image may be older than the change that made its receiver a member.
        let names = |image: &StoredImage, peer: PeerId| {
            let descriptor = image.descriptor.iter();
            descriptor.flat_map(|it| &it.replicas).any(|member| member.peer_id == peer.0)
        };
        let is_for_both = |it: &StoredImage| names(it, ends.my_peer) && names(it, ends.other_peer);
        let image = image.filter(|image| is_led && is_for_both(image));
        let Some(image) = image else { return self.fail(key) };
        self.reading.remove(&key);
        assert!(
            replica.log().first() <= image.at.index + 1,
            "the log begins at {}, and was to be kept from {} on",
            replica.log().first(),
            image.at.index + 1
        );
        let header = SnapshotHeader {
            term,
            metadata: Some(SnapshotMetadata {
                index: image.at.index,
                term: image.at.term,
                conf_state: None,
            }),
            descriptor: image.descriptor,
            splits: image.splits,
            bytes: image.data.len() as u64,
            crc32c: image.crc32c,
            state_hash: image.state_hash,
        };
        let transfer = wire::transfer(term, wish.number);
        let (range, bytes, index) = (key.0, header.bytes, image.at.index);
        tracing::info!(%range, to = %ends.other_store, index, bytes, "sending a snapshot");
        self.post(ends, transfer, Body::Header(header.clone()));
        self.sending.insert(key, Sending::new(ends, transfer, header, image.data, self.ticks));
    }

    fn damaged(&mut self, ends: Ends, transfer: u64) {
        self.receiving.remove(&ends.range);
        self.stats.abandoned += 1;
        self.reject(ends, transfer, Why::Damaged);
    }

    /// A snapshot that is taken in belongs to one term and its leader; and it is of no use once the
    /// log here reaches as far.
    fn end_receiving<M: StateMachine>(&mut self, replica: &Replica<M>) {
        let Some(receiving) = self.receiving.get(&replica.range()) else { return };
        let is_outdated = !may_install(replica, receiving.header.term)
            || replica.commit() >= receiving.announced.at.index;
        if is_outdated && !receiving.is_handed_on {
            let (ends, transfer) = (receiving.ends, receiving.transfer);
            self.receiving.remove(&replica.range());
            self.stats.abandoned += 1;
            self.reject(ends, transfer, Why::Stale);
        }
    }

    fn installed(&mut self, range: RangeId, end: InstallEnd) {
        let receiving = self.receiving.remove(&range).expect("who handed a state on waits for it");
        let (ends, transfer, offset) = (receiving.ends, receiving.transfer, receiving.header.bytes);
        match end {
            InstallEnd::Installed => {
                self.stats.installed += 1;
                let ack = SnapshotAck { offset, window: 0, installed: true };
                self.post(ends, transfer, Body::Ack(ack));
            }
            InstallEnd::NotNeeded => {
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
        let ends = wire::check_envelope(replica.address(), replica.descriptor(), &message)?;
        let transfer = message.transfer;
        match message.body.ok_or(Dropped::Malformed("it has no body"))? {
            Body::Header(header) => return self.offered(replica, ends, transfer, header),
            Body::Chunk(chunk) => self.chunk(ends, transfer, chunk),
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
        let Some(announced) = wire::announced(&header, ends) else {
            return Err(Dropped::Malformed("a snapshot of another range, or of none"));
        };
        let at = announced.at;
        let is_as_far = at.index <= replica.commit();
        if at.index == replica.commit() && !replica.has(at) {
            return Err(Dropped::Malformed("a snapshot that contradicts what is committed"));
        }
        if !may_install(replica, header.term) {
            self.reject(ends, transfer, Why::Stale);
            return Ok(());
        }
        if !is_as_far && !replica.can_become(&announced.descriptor) {
            self.reject(ends, transfer, Why::Stale);
            return Ok(());
        }
        replica.learn_of_splits(&announced.splits);
        match self.receiving.get(&ends.range) {
            Some(known) if known.transfer == transfer && known.ends == ends => {
                self.acknowledge(ends.range);
                return Ok(());
            }
            // Late: its sender has begun another since. Or the other is whole.
            Some(known) if known.is_newer_than(&header, transfer) || known.is_handed_on => {
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
            replica.acknowledge_snapshot(header.term, ends.other_peer, at);
            self.reject(ends, transfer, Why::Stale);
        } else if self.receiving.len() >= self.limits.receiving_max {
            self.reject(ends, transfer, Why::Busy);
        } else {
            let receiving = Receiving::new(ends, transfer, header, announced, self.ticks);
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

    fn chunk(&mut self, ends: Ends, transfer: u64, chunk: SnapshotChunk) {
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
            Ok(()) => receiving.whole().transpose(),
            Err(damaged) => Err(damaged),
        };
        let Ok(whole) = whole else { return self.damaged(ends, transfer) };
        self.to_restore.extend(whole);
        self.acknowledge(ends.range);
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
        let (term, reserve, progress) = (sent.term, sent.log_reserve(), self.ticks);
        self.catching_up.insert(key, CatchingUp { term, reserve, progress });
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
        messages.append(&mut self.to_send);
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

    /// A replica is not here any more: whatever travels from and to it ends.
    pub(crate) fn forget(&mut self, range: RangeId) {
        let of_range = (range, PeerId(0))..=(range, PeerId(u64::MAX));
        let reading = self.reading.range(of_range.clone()).map(|(key, _)| *key);
        let sending = self.sending.range(of_range.clone()).map(|(key, _)| *key);
        for key in reading.chain(sending).collect::<Vec<_>>() {
            self.cancel(key);
            self.fail(key);
        }
        if let Some(receiving) = self.receiving.remove(&range) {
            self.stats.abandoned += 1;
            self.reject(receiving.ends, receiving.transfer, Why::UnknownRange);
        }
        self.catching_up.retain(|(of, _), _| *of != range);
        self.resting.retain(|(of, _), _| *of != range);
        self.to_read.retain(|wish| wish.range != range);
        self.to_restore.retain(|restore| restore.ends.range != range);
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
    !replica.is_stopped() && replica.term() == term && !replica.leads_now()
}
