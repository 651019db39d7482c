//! Keepalives of many streams, merged into one batch per store and interval (D7, D16).
//!
//! It owns what waits to be sent and what was sent and is not answered. Keepalives merge, they never
//! replace each other: what is deduplicated is the single item, whose highest seq wins, so that a
//! later keepalive for other items takes nothing away from an earlier one. It reads no clock and
//! sends nothing.

use std::collections::BTreeMap;

use bytes::Bytes;
use sharklock_proto::{
    internal::v1::{StoreCall, store_call::Body},
    v1::{KeepAliveAnswer, KeepAliveItem, KeepAliveRequest},
};
use sharklock_rangemap::{Hops, StoreId};

use crate::{
    failure::{Failure, Reason},
    routing::Target,
    tag::{CallNumber, StreamNumber, Tag},
    validate::{ITEMS_MAX, Session},
};

/// Batches are at least this far apart; the first after a pause goes out at once. Far below every
/// keepalive interval, far above what a store needs for a batch.
pub const FLUSH_EVERY_US: u64 = 25_000;
/// Items, counted once per call that names them, that wait or are under way.
pub const NAMED_MAX: usize = 262_144;

/// A call that named an item, to be told its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Caller {
    /// Its stream.
    pub stream: StreamNumber,
    /// Its call.
    pub call: CallNumber,
}

/// An acquisition to renew.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Item {
    handle: Bytes,
    instance: u64,
    acquisition_id: u64,
    name: String,
}

/// An item that is to be sent.
#[derive(Debug)]
struct Waiting {
    /// The newest attempt.
    attempt: Attempt,
    callers: Vec<Caller>,
    hops: Hops,
}

/// Which attempt an item goes out under: the one with the highest seq.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    seq: u64,
    /// When it came to this gateway: an attempt that is too old must not renew.
    arrived_us: u64,
    /// The stream to which events go: the one that named the item last. The gateway's own number,
    /// which is no stream, leaves them where they go now.
    events_to: StreamNumber,
    /// The unary Acquire whose caller alone hears the answer; the gateway's own where another does.
    asker: StreamNumber,
}

/// An item that was sent and is not answered.
#[derive(Debug)]
struct Sent {
    acquisition_id: u64,
    name: String,
    callers: Vec<Caller>,
    hops: Hops,
}

/// A call to a store.
#[derive(Debug)]
struct Batch {
    store: StoreId,
    handle: Bytes,
    instance: u64,
    attempt: Attempt,
    sent_us: u64,
    items: Vec<Sent>,
}

/// The outcome of a flush for the items that waited.
#[derive(Debug, Default)]
pub struct Flushed {
    /// To be sent: one batch per store.
    pub calls: Vec<(StoreId, StoreCall)>,
    /// Items that no store can be asked about: the caller to tell, and how many of its items they
    /// are.
    pub told: Vec<(Caller, usize)>,
}

/// See the module.
///
/// Invariants:
/// - `named` is the number of callers of all items, waiting and sent, at most `NAMED_MAX`;
/// - no batch is empty.
#[derive(Debug, Default)]
pub struct KeepAlives {
    waiting: BTreeMap<Item, Waiting>,
    /// By the call number of its tag; the stream of these tags is the gateway.
    sent: BTreeMap<CallNumber, Batch>,
    last_call: u32,
    named: usize,
    /// Items that went elsewhere, or will, since nobody has done them where they were sent.
    repeated: u64,
    flushed_us: Option<u64>,
}

impl KeepAlives {
    /// Takes in the items of a call that came at `arrived_us`. Events of what it names go to
    /// `events_to` from then on, unless that is [`StreamNumber::GATEWAY`]. `asker` is the caller's
    /// stream if that is a unary Acquire, and the gateway's own otherwise.
    pub fn add(
        &mut self,
        arrived_us: u64,
        session: &Session,
        request: KeepAliveRequest,
        caller: Caller,
        events_to: StreamNumber,
        asker: StreamNumber,
    ) -> Result<(), Failure> {
        if self.named + request.items.len() > NAMED_MAX {
            return Err(Failure::overloaded("too many keepalives wait in this gateway"));
        }
        self.named += request.items.len();
        let attempt = Attempt { seq: request.seq, arrived_us, events_to, asker };
        for KeepAliveItem { name, acquisition_id } in request.items {
            let (handle, instance) = (session.handle().clone(), session.instance());
            let item = Item { handle, instance, acquisition_id, name };
            self.merge(item, Waiting { attempt, callers: vec![caller], hops: Hops::default() });
        }
        Ok(())
    }

    /// When the next batch has to go out: None while nothing waits.
    pub fn due_us(&self) -> Option<u64> {
        if self.waiting.is_empty() {
            return None;
        }
        Some(self.flushed_us.map_or(0, |flushed_us| flushed_us + FLUSH_EVERY_US))
    }

    /// Everything that waits, as calls of one batch per store. `route` says where a name goes.
    pub fn flush(&mut self, now_us: u64, route: impl Fn(&str) -> Option<Target>) -> Flushed {
        self.flushed_us = Some(now_us);
        type Group = (Target, Option<String>, Bytes, u64, u64, StreamNumber, StreamNumber);
        let mut groups: BTreeMap<Group, Vec<(Item, Waiting)>> = BTreeMap::new();
        let mut told: BTreeMap<Caller, usize> = BTreeMap::new();
        for (item, waiting) in std::mem::take(&mut self.waiting) {
            let Some(target) = route(&item.name) else {
                self.tell(waiting.callers, &mut told);
                continue;
            };
            let Attempt { seq, events_to, asker, .. } = waiting.attempt;
            // A store that is asked without a range goes by the first name, and says nothing of others:
            // names of which no range is known may be of different ones.
            let alone = (target.range_id == 0).then(|| item.name.clone());
            let handle = item.handle.clone();
            let group = (target, alone, handle, item.instance, seq, events_to, asker);
            groups.entry(group).or_default().push((item, waiting));
        }
        let mut calls = Vec::with_capacity(groups.len());
        for ((target, ..), mut items) in groups {
            while !items.is_empty() {
                let rest = items.split_off(items.len().min(ITEMS_MAX));
                let items = std::mem::replace(&mut items, rest);
                calls.push((target.store, self.send(now_us, target, items)));
            }
        }
        Flushed { calls, told: told.into_iter().collect() }
    }

    /// Answers of a store: who is to be told what. An answer to an item that is not under way in
    /// this call, or by a store that was not sent it, is dropped.
    pub fn answered(
        &mut self,
        from: StoreId,
        call: CallNumber,
        answers: Vec<KeepAliveAnswer>,
    ) -> Vec<(Caller, Vec<KeepAliveAnswer>)> {
        let Some(batch) = self.sent.get_mut(&call).filter(|batch| batch.store == from) else {
            return Vec::new();
        };
        let mut told: BTreeMap<Caller, Vec<KeepAliveAnswer>> = BTreeMap::new();
        for answer in answers {
            let same = |item: &Sent| {
                (item.acquisition_id, &item.name) == (answer.acquisition_id, &answer.name)
            };
            let Some(at) = batch.items.iter().position(same) else { continue };
            let item = batch.items.swap_remove(at);
            self.named -= item.callers.len();
            for caller in item.callers {
                told.entry(caller).or_default().push(answer.clone());
            }
        }
        if batch.items.is_empty() {
            self.sent.remove(&call);
        }
        told.into_iter().collect()
    }

    /// A store did not do what the call asked: who is to be told of how many items. When the range
    /// has moved or is led by another store, its items wait again instead, to be sent by what is
    /// known then.
    pub fn failed(
        &mut self,
        from: StoreId,
        call: CallNumber,
        failure: &Failure,
    ) -> Vec<(Caller, usize)> {
        if self.sent.get(&call).is_none_or(|batch| batch.store != from) {
            return Vec::new();
        }
        let batch = self.sent.remove(&call).expect("it has just been there");
        let elsewhere = matches!(failure.reason, Reason::RangeMoved | Reason::NoLeader);
        let mut told = BTreeMap::new();
        self.end(batch, elsewhere, &mut told);
        told.into_iter().collect()
    }

    /// The link to a store is lost: what was under way there waits again, to be sent elsewhere. An
    /// item may be renewed twice by that, which is one renewal under one seq.
    pub fn link_lost(&mut self, store: StoreId) -> Vec<(Caller, usize)> {
        let lost: Vec<_> = self.sent.extract_if(.., |_, batch| batch.store == store).collect();
        let mut told = BTreeMap::new();
        for (_, batch) in lost {
            self.end(batch, true, &mut told);
        }
        told.into_iter().collect()
    }

    /// Ends a batch: its items wait again if they may go elsewhere, or their callers are told.
    fn end(&mut self, batch: Batch, elsewhere: bool, told: &mut BTreeMap<Caller, usize>) {
        let Batch { handle, instance, attempt, items, .. } = batch;
        for Sent { acquisition_id, name, callers, mut hops } in items {
            if elsewhere && hops.take().is_ok() {
                self.repeated += 1;
                let item = Item { handle: handle.clone(), instance, acquisition_id, name };
                self.merge(item, Waiting { attempt, callers, hops });
            } else {
                self.tell(callers, told);
            }
        }
    }

    fn tell(&mut self, callers: Vec<Caller>, told: &mut BTreeMap<Caller, usize>) {
        self.named -= callers.len();
        for caller in callers {
            *told.entry(caller).or_default() += 1;
        }
    }

    /// Forgets what was sent before `before_us`: its callers have given up, too.
    pub fn sweep(&mut self, before_us: u64) {
        self.sent.retain(|_, batch| {
            let keep = batch.sent_us >= before_us;
            if !keep {
                self.named -= batch.items.iter().map(|item| item.callers.len()).sum::<usize>();
            }
            keep
        });
    }

    /// Items that were sent again so far, or wait for it.
    pub fn repeated(&self) -> u64 {
        self.repeated
    }

    /// Items, counted once per call that names them, that wait or are under way.
    pub fn named(&self) -> usize {
        self.named
    }

    fn merge(&mut self, item: Item, newer: Waiting) {
        use std::collections::btree_map::Entry;
        match self.waiting.entry(item) {
            Entry::Vacant(entry) => {
                entry.insert(newer);
            }
            Entry::Occupied(mut entry) => {
                let waiting = entry.get_mut();
                let attempt = &mut waiting.attempt;
                if newer.attempt.seq > attempt.seq {
                    (attempt.seq, attempt.arrived_us) =
                        (newer.attempt.seq, newer.attempt.arrived_us);
                } else if newer.attempt.seq == attempt.seq {
                    // One attempt by two ways: it is as old as its first arrival.
                    attempt.arrived_us = attempt.arrived_us.min(newer.attempt.arrived_us);
                }
                if newer.attempt.asker != attempt.asker {
                    attempt.asker = StreamNumber::GATEWAY;
                }
                if newer.attempt.events_to != StreamNumber::GATEWAY {
                    attempt.events_to = newer.attempt.events_to;
                }
                waiting.callers.extend(newer.callers);
            }
        }
    }

    fn send(
        &mut self,
        now_us: u64,
        Target { store, range_id, version, .. }: Target,
        items: Vec<(Item, Waiting)>,
    ) -> StoreCall {
        let call = self.next_call();
        let (first, Waiting { attempt, .. }) = items.first().expect("a group is not empty");
        let (handle, instance) = (first.handle.clone(), first.instance);
        // One age for the call: that of its oldest item.
        let arrived_us =
            items.iter().map(|(_, waiting)| waiting.attempt.arrived_us).min().unwrap_or(now_us);
        let attempt = Attempt { arrived_us, ..*attempt };
        let mut named = Vec::with_capacity(items.len());
        let mut sent = Vec::with_capacity(items.len());
        for (Item { acquisition_id, name, .. }, Waiting { callers, hops, .. }) in items {
            named.push(KeepAliveItem { name: name.clone(), acquisition_id });
            sent.push(Sent { acquisition_id, name, callers, hops });
        }
        let batch = Batch {
            store,
            handle: handle.clone(),
            instance,
            attempt,
            sent_us: now_us,
            items: sent,
        };
        self.sent.insert(call, batch);
        let request =
            KeepAliveRequest { session_id: Bytes::new(), instance, seq: attempt.seq, items: named };
        StoreCall {
            tag: Tag { stream: StreamNumber::GATEWAY, call }.to_wire(),
            range_id,
            version,
            age_ms: now_us.saturating_sub(arrived_us).div_ceil(1_000),
            session: handle,
            instance,
            client_address: String::new(),
            stream: u64::from(attempt.events_to.0),
            asker: u64::from(attempt.asker.0),
            body: Some(Body::KeepAlive(request)),
        }
    }

    /// Never 0: with the gateway's stream that would be an event's tag. And below the number of the
    /// gateway's other question.
    fn next_call(&mut self) -> CallNumber {
        loop {
            self.last_call = self.last_call % (CallNumber::DESCRIBE.0 - 1) + 1;
            let call = CallNumber(self.last_call);
            if !self.sent.contains_key(&call) {
                return call;
            }
        }
    }
}

#[cfg(test)]
mod tests;
