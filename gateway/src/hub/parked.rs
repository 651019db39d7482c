//! Calls for ranges that a split has just made. Nobody leads such a range for some milliseconds, and
//! a client that were told so would be back only after a pause several times as long. So its calls
//! wait here: one of them looks every now and then, and once one is answered, all go there. That
//! somebody is said to lead is not enough: he serves only when he has committed in his term.
//!
//! Only for a moment: if that does not happen soon, the range is like any other without a leader,
//! whose calls come back to their clients at once.

use std::collections::{BTreeMap, VecDeque};

use sharklock_proto::{
    Lane,
    internal::v1::{
        NotLeader, StoreCall, StoreError, store_call::Body as Ask, store_error::Kind,
        store_reply::Body,
    },
};
use sharklock_rangemap::{RangeId, StoreId};

use super::{Hub, replies::sent_to, wake};
use crate::{
    failure::Failure,
    keepalives::Caller,
    link::ByStore,
    outbox::Outbox,
    tag::{CallNumber, StreamNumber},
};

/// Between two looks for a leader.
pub(super) const LOOK_EVERY_US: u64 = 5_000;
/// A call waits here until it is so old. Both halves of a split are led within 300 ms where nothing is
/// broken, mostly within 50; and a client that hears nothing for 250 ms looks for another gateway.
pub(super) const WAITS_MAX_US: u64 = 200_000;

/// A call that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ParkedCall {
    pub(super) stream: StreamNumber,
    pub(super) call: CallNumber,
    /// When it was opened.
    pub(super) since_us: u64,
}

/// The calls that wait, by their ranges. They are no more than are open.
#[derive(Default)]
pub(super) struct Parked {
    /// By range, in the order in which they came.
    calls: BTreeMap<RangeId, VecDeque<ParkedCall>>,
    look_at_us: u64,
}

/// What has become of calls that waited.
#[derive(Debug, Default, PartialEq, Eq)]
struct Resumed {
    /// They are sent again.
    go: Vec<ParkedCall>,
    /// They have waited for too long.
    end: Vec<(RangeId, ParkedCall)>,
}

impl Parked {
    fn push(&mut self, now_us: u64, range: RangeId, call: ParkedCall) {
        if self.calls.is_empty() {
            self.look_at_us = now_us + LOOK_EVERY_US;
        }
        self.calls.entry(range).or_default().push_back(call);
    }

    /// When somebody has to look; None while nobody waits.
    pub(super) fn due_us(&self) -> Option<u64> {
        (!self.calls.is_empty()).then_some(self.look_at_us)
    }

    /// Takes out the calls of ranges that are served by now, and of each other one who looks.
    fn resume(&mut self, now_us: u64, awaits_leader: impl Fn(RangeId) -> bool) -> Resumed {
        let mut resumed = Resumed::default();
        let looks = now_us >= self.look_at_us;
        if looks {
            self.look_at_us = now_us + LOOK_EVERY_US;
        }
        self.calls.retain(|range, calls| {
            if !awaits_leader(*range) {
                resumed.go.extend(calls.drain(..));
            } else if looks {
                let is_over = |call: &ParkedCall| now_us >= call.since_us + WAITS_MAX_US;
                let over = calls.iter().copied().filter(is_over);
                resumed.end.extend(over.map(|call| (*range, call)));
                calls.retain(|call| !is_over(call));
                resumed.go.extend(calls.pop_front());
            }
            !calls.is_empty()
        });
        resumed
    }
}

impl Hub {
    /// Some: a call that `from` has refused is for a range that a split has just made. Since when it is
    /// open.
    pub(super) fn waits_for_leader(
        &self,
        now_us: u64,
        outbox: &mut Outbox,
        from: StoreId,
        call: CallNumber,
        body: &Body,
    ) -> Option<(RangeId, u64)> {
        let Body::Error(StoreError { kind: Some(kind) }) = body else { return None };
        if !matches!(kind, Kind::NotLeader(_) | Kind::EpochNotMatch(_)) {
            return None;
        }
        let (kept, since_us) = outbox.kept(call)?;
        let range_id = self.target(kept.body.as_ref()?)?.range_id;
        let range = RangeId(range_id);
        if !self.routing().awaits_leader(range) || now_us >= since_us + WAITS_MAX_US {
            return None;
        }
        // Whoever has not applied the split cannot lead what it has made, and says so by other words.
        if matches!(kind, Kind::EpochNotMatch(_)) && kept.range_id == range_id {
            self.routing_mut().not_leader(from, &NotLeader { range_id, leader_store_id: 0 });
        }
        Some((range, since_us))
    }

    /// A call that has waited goes where its range is led, or may be.
    fn unpark(
        &self,
        now_us: u64,
        outbox: &mut Outbox,
        parked: ParkedCall,
    ) -> Option<(StoreId, StoreCall)> {
        let (kept, opened_us) = outbox.kept(parked.call)?;
        let target = self.target(kept.body.as_ref()?)?;
        sent_to(target, now_us, outbox, parked.call, opened_us)
    }

    pub(super) fn park(&self, now_us: u64, range: RangeId, call: ParkedCall) {
        self.parked().push(now_us, range, call);
        self.observer.due_sooner();
    }

    /// Sends the calls again that have waited for a leader, and ends those that have done so for too
    /// long.
    pub(super) fn resume_parked(&self, now_us: u64) {
        let Resumed { go, end } = {
            let mut parked = self.parked();
            if parked.due_us().is_none() {
                return;
            }
            let routing = self.routing();
            parked.resume(now_us, |range| routing.awaits_leader(range))
        };
        let mut wakers = Vec::new();
        let no_leader = |outbox: &mut Outbox, call| outbox.fail(call, 1, Failure::no_leader());
        for (range, ParkedCall { stream, call, .. }) in end {
            self.routing_mut().await_no_longer(range);
            self.settle(now_us, Caller { stream, call }, &mut wakers, |it| no_leader(it, call));
        }
        let [mut urgent, mut ordinary] = [ByStore::default(), ByStore::default()];
        for parked in go {
            let Some(stream) = self.streams.get(parked.stream) else { continue };
            let reroute = |outbox: &mut Outbox| self.unpark(now_us, outbox, parked);
            match self.with_outbox(&stream, &mut wakers, reroute) {
                Some((store, call)) => {
                    self.observer.sent_again();
                    match call.body.as_ref().map(Ask::lane) {
                        Some(Lane::Urgent) => urgent.push(store, call),
                        Some(Lane::Ordinary) | None => ordinary.push(store, call),
                    }
                }
                None => {
                    let ParkedCall { stream, call, .. } = parked;
                    let fail = |outbox: &mut Outbox| no_leader(outbox, call);
                    self.settle(now_us, Caller { stream, call }, &mut wakers, fail);
                }
            }
        }
        self.send_again(now_us, urgent, Lane::Urgent, &mut wakers);
        self.send_again(now_us, ordinary, Lane::Ordinary, &mut wakers);
        wake(wakers);
    }
}
