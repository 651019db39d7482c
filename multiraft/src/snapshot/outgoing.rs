//! All snapshots on their way from a store: which replica is sent one, what it is sent, and how
//! each transfer ends.

use std::collections::BTreeMap;

use sharklock_proto::internal::v1::{
    SnapshotAck, SnapshotCancel, SnapshotHeader, SnapshotMessage, SnapshotMetadata,
    snapshot_message::Body,
};
use sharklock_rangemap::{PeerId, RangeId, StoreId};

use super::RESEND_TICKS;
use super::fates::{SnapshotStats, WhyEnded};
use super::limits::{Budget, SnapshotLimits};
use super::outbox::Outbox;
use super::queue::Queue;
use super::reading::{READING_BYTES_MAX, Reading};
use super::reserve::{CatchingUp, Reserve};
use super::rests::Rests;
use super::sending::{self, Sending};
use super::wire::{self, Ends};
use crate::chore::{ReadImage, StoredImage};
use crate::log::LogLimits;
use crate::replica::Replica;
use crate::state_machine::StateMachine;

/// A replica elsewhere, of a range that is led here.
type Key = (RangeId, PeerId);

/// The snapshots that a store sends.
///
/// Invariants:
/// - `reading` and `sending` together are at most `limits.sending_max`;
/// - a transfer in `reading` or `sending` belongs to a term in which this store leads, and no
///   replica has one in both, or waits in `queue` then.
#[derive(Debug)]
pub(super) struct Outgoing {
    limits: SnapshotLimits,
    ticks: u64,
    /// Wishes for an image, and transfers begun.
    begun: u64,
    queue: Queue,
    reading: BTreeMap<Key, Reading>,
    sending: BTreeMap<Key, Sending>,
    /// Replicas that have installed what was sent to them, until they have what came since.
    catching_up: BTreeMap<Key, CatchingUp>,
    rests: Rests,
    budget: Budget,
    pub(super) outbox: Outbox,
    /// Images that are to be read.
    pub(super) to_read: Vec<ReadImage>,
    stats: SnapshotStats,
}

impl Outgoing {
    pub(super) fn new(outbox: Outbox, limits: SnapshotLimits) -> Self {
        Self {
            limits,
            ticks: 0,
            begun: 0,
            queue: Queue::default(),
            reading: BTreeMap::new(),
            sending: BTreeMap::new(),
            catching_up: BTreeMap::new(),
            rests: Rests::default(),
            budget: Budget::new(limits.bytes_per_tick),
            outbox,
            to_read: Vec::new(),
            stats: SnapshotStats::default(),
        }
    }

    pub(super) fn stats(&self) -> SnapshotStats {
        let sending = (self.reading.len() + self.sending.len()) as u64;
        SnapshotStats { sending, waiting: self.queue.len() as u64, ..self.stats }
    }

    pub(super) fn is_sending(&self, range: RangeId, peer: PeerId) -> bool {
        self.sending.contains_key(&(range, peer))
    }

    pub(super) fn log_reserve(&self, range: RangeId) -> Option<Reserve> {
        let of_range = (range, PeerId(0))..=(range, PeerId(u64::MAX));
        let reading = self.reading.range(of_range.clone()).map(|(_, it)| it.reserve);
        let sending = self.sending.range(of_range.clone()).map(|(_, it)| it.log_reserve());
        let catching_up = self.catching_up.range(of_range).map(|(_, it)| it.reserve);
        reading.chain(sending).chain(catching_up).reduce(Reserve::and)
    }

    pub(super) fn tick(&mut self) {
        self.ticks += 1;
        let ticks = self.ticks;
        self.budget.tick();
        self.rests.tick(ticks);
        self.queue.tick(ticks);
        let idle_max = self.limits.idle_ticks_max;
        self.catching_up.retain(|_, it| ticks - it.progress < idle_max);
        let late = self.reading.iter().filter(|(_, it)| ticks - it.since >= idle_max);
        let mut failed: Vec<_> = late.map(|(key, _)| *key).collect();
        for (key, sending) in &mut self.sending {
            match sending.tick(ticks, &self.limits) {
                sending::Due::Nothing => {}
                sending::Due::Failed => failed.push(*key),
                sending::Due::Header => {
                    let header = Body::Header(sending.header.clone());
                    self.outbox.post(sending.ends, sending.transfer, header);
                }
            }
        }
        for key in failed {
            self.cancel(key, WhyEnded::Idle);
        }
    }

    /// Nothing reaches this store: what is on its way there has failed.
    pub(super) fn unreachable(&mut self, store: StoreId) {
        let reading = self.reading.iter().map(|(key, it)| (*key, it.ends));
        let sending = self.sending.iter().map(|(key, it)| (*key, it.ends));
        let there = reading.chain(sending).filter(|(_, ends)| ends.other_store == store);
        for key in there.map(|(key, _)| key).collect::<Vec<_>>() {
            self.fail(key, WhyEnded::LinkLost);
        }
    }

    /// The transfer to this replica, if there is one, has ended without an install. The log says so
    /// unless it has just said the same.
    fn fail(&mut self, key: Key, why: WhyEnded) {
        let sending = self.sending.remove(&key);
        let reading = self.reading.remove(&key);
        let stands =
            sending.as_ref().map_or("whose image is being read".to_owned(), Sending::stands);
        let ends = sending.map(|it| it.ends).or(reading.map(|it| it.ends));
        let Some(ends) = ends else { return };
        self.stats.failed.count(why);
        let is_news = self.rests.failed(key, why, self.ticks);
        let (range, store) = (key.0, ends.other_store);
        match why {
            WhyEnded::Idle | WhyEnded::NoSpace if is_news => {
                tracing::warn!(%range, %store, %why, "a snapshot is given up, {stands}");
            }
            _ if is_news => tracing::info!(%range, %store, %why, "a snapshot has ended, {stands}"),
            _ => tracing::debug!(%range, %store, %why, "a snapshot has ended, {stands}"),
        }
    }

    /// The same, and the receiver is told, if it has heard of it.
    fn cancel(&mut self, key: Key, why: WhyEnded) {
        if let Some(sending) = self.sending.get(&key) {
            let cancel = Body::Cancel(SnapshotCancel {});
            self.outbox.post(sending.ends, sending.transfer, cancel);
        }
        self.fail(key, why);
    }

    /// After a replica had its turn: snapshots that its followers need no more or that it cannot
    /// send any more end, and those that they need begin.
    pub(super) fn follow<M: StateMachine>(&mut self, replica: &Replica<M>, log: &LogLimits) {
        let (range, ticks) = (replica.range(), self.ticks);
        for (key, why) in self.ended(replica) {
            self.cancel(key, why);
        }
        for key in self.arrived(replica) {
            self.delivered(key);
        }
        self.catching_up.retain(|(of, peer), it| {
            *of != range || it.follow(replica, *peer, log.entries_floor, ticks)
        });
        for peer in replica.log().take_wanted() {
            self.begin(replica, PeerId(peer));
        }
    }

    /// Transfers of this replica that are over without an install, as it shows.
    fn ended<M: StateMachine>(&self, replica: &Replica<M>) -> Vec<(Key, WhyEnded)> {
        let range = replica.range();
        let of_range = (range, PeerId(0))..=(range, PeerId(u64::MAX));
        let is_led_in = |term: u64| replica.leads_now() && replica.term() == term;
        let why = |peer: PeerId, term: u64| match is_led_in(term) {
            false => Some(WhyEnded::Deposed),
            true => replica.member_store(peer).is_none().then_some(WhyEnded::NotNeeded),
        };
        let reading = self.reading.range(of_range.clone());
        let reading = reading.filter_map(|(key, it)| Some((*key, why(key.1, it.term)?)));
        let sending = self.sending.range(of_range).filter_map(|(key, it)| {
            let is_there = !it.is_all_sent() && replica.matched(key.1) >= it.index;
            Some((*key, why(key.1, it.term).or(is_there.then_some(WhyEnded::NotNeeded))?))
        });
        reading.chain(sending).collect()
    }

    /// Transfers of this replica whose receivers have acknowledged what the state holds.
    fn arrived<M: StateMachine>(&self, replica: &Replica<M>) -> Vec<Key> {
        let range = replica.range();
        let of_range = self.sending.range((range, PeerId(0))..=(range, PeerId(u64::MAX)));
        let arrived = of_range
            .filter(|(key, it)| it.is_all_sent() && replica.matched(key.1) >= it.index)
            .map(|(key, _)| *key);
        arrived.collect()
    }

    fn begin<M: StateMachine>(&mut self, replica: &Replica<M>, peer: PeerId) {
        let key = (replica.range(), peer);
        let member = replica.member_store(peer).filter(|_| replica.leads_now());
        let Some(store) = member else { return };
        // The replica has acknowledged the installed state to Raft, too, on another stream. If that
        // is lost, the header of the next one brings it again.
        let catching_up = self.catching_up.get(&key);
        let is_here_soon = catching_up.is_some_and(|it| self.ticks - it.progress < RESEND_TICKS);
        let is_begun = self.reading.contains_key(&key) || self.sending.contains_key(&key);
        // Before the first flush there is nothing to send: Raft asks again.
        let has_nothing = !replica.has_image();
        if is_here_soon || is_begun || has_nothing || self.rests.is_resting(key, self.ticks) {
            return self.queue.leave(key);
        }
        let used = self.reading.len() + self.sending.len();
        let free = self.limits.sending_max.saturating_sub(used);
        let repairs = replica.would_repair(peer, self.ticks);
        if !self.queue.ask(key, repairs, free, self.ticks) {
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
        self.reading.insert(key, Reading { ends, term, number, reserve, since, repairs });
        self.to_read.push(ReadImage { range: key.0, peer, number });
    }

    /// The image is there: its header goes out.
    pub(super) fn read<M: StateMachine>(
        &mut self,
        replica: &Replica<M>,
        wish: ReadImage,
        image: Option<StoredImage>,
    ) {
        let key = (wish.range, wish.peer);
        let Some(reading) = self.reading.get(&key).filter(|it| it.number == wish.number) else {
            return;
        };
        let Reading { ends, term, repairs, .. } = *reading;
        let is_led = replica.leads_now() && replica.term() == term;
        // The image may be older than the change that made its receiver a member.
        let names = |image: &StoredImage, peer: PeerId| {
            let descriptor = image.descriptor.iter();
            descriptor.flat_map(|it| &it.replicas).any(|member| member.peer_id == peer.0)
        };
        let is_for_both = |it: &StoredImage| names(it, ends.my_peer) && names(it, ends.other_peer);
        let image = image.filter(|image| is_led && is_for_both(image));
        let Some(image) = image else {
            let why = if is_led { WhyEnded::NoImage } else { WhyEnded::Deposed };
            return self.fail(key, why);
        };
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
            repairs,
        };
        let transfer = wire::transfer(term, wish.number);
        let (range, bytes, index) = (key.0, header.bytes, image.at.index);
        let store = ends.other_store;
        tracing::info!(%range, %store, index, bytes, repairs, "sending a snapshot");
        self.outbox.post(ends, transfer, Body::Header(header.clone()));
        self.sending.insert(key, Sending::new(ends, transfer, header, image.data, self.ticks));
    }

    pub(super) fn acknowledged(&mut self, ends: Ends, transfer: u64, ack: SnapshotAck) {
        let key = (ends.range, ends.other_peer);
        let known = self.sending.get_mut(&key).filter(|it| it.transfer == transfer);
        let Some(sending) = known else { return };
        sending.acknowledged(ack, self.ticks);
        if ack.installed && sending.is_delivered() {
            self.delivered(key);
        }
    }

    fn delivered(&mut self, key: Key) {
        let Some(sent) = self.sending.remove(&key) else { return };
        let (term, reserve, progress) = (sent.term, sent.log_reserve(), self.ticks);
        self.catching_up.insert(key, CatchingUp { term, reserve, progress });
        self.rests.succeeded(key);
        self.stats.delivered += 1;
    }

    pub(super) fn rejected(&mut self, ends: Ends, transfer: u64, why: WhyEnded) {
        let key = (ends.range, ends.other_peer);
        if self.sending.get(&key).is_some_and(|it| it.transfer == transfer) {
            self.fail(key, why);
        }
    }

    /// What is to be said, then chunks as far as receivers and rate allow, one of each transfer in
    /// turn; those that repair go first.
    pub(super) fn hand_out(&mut self, messages: &mut Vec<SnapshotMessage>) {
        self.outbox.hand_out(messages);
        loop {
            let before = messages.len();
            for repairs in [true, false] {
                let of_kind = self.sending.values_mut().filter(|it| it.header.repairs == repairs);
                for sending in of_kind {
                    let chunk = sending.chunk(&self.limits, &mut self.budget, self.ticks);
                    let Some(chunk) = chunk else { continue };
                    self.stats.bytes_sent += chunk.data.len() as u64;
                    self.outbox.post(sending.ends, sending.transfer, Body::Chunk(chunk));
                }
            }
            self.outbox.hand_out(messages);
            if messages.len() == before {
                return;
            }
        }
    }

    /// A replica is not here any more: whatever travels from it ends.
    pub(super) fn forget(&mut self, range: RangeId) {
        let of_range = (range, PeerId(0))..=(range, PeerId(u64::MAX));
        let reading = self.reading.range(of_range.clone()).map(|(key, _)| *key);
        let sending = self.sending.range(of_range).map(|(key, _)| *key);
        for key in reading.chain(sending).collect::<Vec<_>>() {
            self.cancel(key, WhyEnded::Gone);
        }
        self.catching_up.retain(|(of, _), _| *of != range);
        self.rests.forget(range);
        self.queue.forget(range);
        self.to_read.retain(|wish| wish.range != range);
    }
}
