//! Replies of stores: answers and events go to their streams, routes are learnt, and calls that
//! a store did not do go to the one that can.

use std::{sync::Arc, task::Waker};

use sharklock_proto::{
    Lane,
    internal::v1::{
        StoreCall, StoreError, StoreReply, store_call::Body as Ask, store_error::Kind,
        store_reply::Body,
    },
};
use sharklock_rangemap::{RangeId, StoreId};

use super::{Hub, parked::ParkedCall, wake};
use crate::{
    failure::Failure,
    link::ByStore,
    observer::RouteMiss,
    outbox::Outbox,
    routing::Target,
    streams::OpenStream,
    tag::{CallNumber, StreamNumber, Tag},
};

/// The work that a batch of replies leaves.
#[derive(Default)]
struct After {
    wakers: Vec<Waker>,
    urgent: ByStore,
    ordinary: ByStore,
}

impl Hub {
    /// Hands replies and events of a store to their streams, then wakes each once.
    pub fn dispatch(&self, now_us: u64, from: StoreId, replies: Vec<StoreReply>) {
        self.heard(from);
        let mut after = After::default();
        // Replies of one stream come in runs.
        let mut last: Option<Arc<OpenStream>> = None;
        for StoreReply { tag, stream, body } in replies {
            let Some(body) = body else { continue };
            let to = Tag::from_wire(tag);
            let number = if tag == 0 { StreamNumber(stream as u32) } else { to.stream };
            self.learn(from, &body);
            if number == StreamNumber::GATEWAY {
                self.on_gateway_reply(now_us, from, to, body, &mut after.wakers);
                continue;
            }
            if last.as_ref().is_none_or(|last| last.number != number) {
                last = self.streams.get(number);
            }
            match &last {
                None => self.on_late(tag),
                Some(stream) if tag == 0 => self.on_event(stream, body, &mut after.wakers),
                Some(stream) => self.on_answer(now_us, from, stream, to.call, body, &mut after),
            }
        }
        self.send_again(now_us, after.urgent, Lane::Urgent, &mut after.wakers);
        self.send_again(now_us, after.ordinary, Lane::Ordinary, &mut after.wakers);
        wake(after.wakers);
        self.resume_parked(now_us);
    }

    fn heard(&self, from: StoreId) {
        let silent = {
            let routing = self.routing();
            routing.heard(from);
            routing.is_silent(from)
        };
        if silent {
            tracing::info!(store = %from, "a store speaks again");
            self.routing_mut().speaks(from);
        }
    }

    /// Learns what a reply says about routes, whoever asked.
    fn learn(&self, from: StoreId, body: &Body) {
        match body {
            Body::Error(StoreError { kind: Some(Kind::EpochNotMatch(known)) }) => {
                self.observer.route_missed(RouteMiss::Moved);
                self.routing_mut().moved(known);
                self.describe_differently(|_| {});
            }
            Body::Error(StoreError { kind: Some(Kind::NotLeader(said)) }) => {
                self.observer.route_missed(RouteMiss::NotLeader);
                self.routing_mut().not_leader(from, said);
                self.ask_for_routes();
            }
            Body::Error(_) | Body::Describe(_) | Body::Event(_) => {}
            answer => {
                if self.routing().learns_from_answers()
                    && let Some(position) = answer.position()
                {
                    self.routing_mut().answered(position.range_id, from);
                }
            }
        }
    }

    fn on_event(&self, stream: &OpenStream, event: Body, wakers: &mut Vec<Waker>) {
        self.observer.event();
        if !self.with_outbox(stream, wakers, |outbox| outbox.event(event)) {
            self.observer.event_dropped();
        }
    }

    fn on_answer(
        &self,
        now_us: u64,
        from: StoreId,
        stream: &OpenStream,
        call: CallNumber,
        body: Body,
        after: &mut After,
    ) {
        let mut again = None;
        let mut parks = None;
        let settled = self.with_outbox(stream, &mut after.wakers, |outbox| {
            // A call has one answer, by the store that has it now.
            if outbox.sent_to(call) != Some(from) {
                self.observer.late_reply();
                return None;
            }
            again = self.rerouted(now_us, outbox, from, call, &body);
            if again.is_some() {
                return None;
            }
            parks = self.waits_for_leader(now_us, outbox, from, call, &body);
            if parks.is_some() {
                outbox.park(call);
                return None;
            }
            outbox.answer(call, body)
        });
        if let Some((range, since_us)) = parks {
            self.park(now_us, range, ParkedCall { stream: stream.number, call, since_us });
        }
        if let Some((store, call)) = again {
            self.observer.sent_again();
            match call.body.as_ref().map(Ask::lane) {
                Some(Lane::Urgent) => after.urgent.push(store, call),
                Some(Lane::Ordinary) | None => after.ordinary.push(store, call),
            }
        }
        if let Some(settled) = settled {
            self.observer.settled(settled, now_us);
        }
    }

    /// The call to send again at once: it certainly was not done, and the store that can do it is
    /// known by now. Otherwise its client repeats it, later and later.
    fn rerouted(
        &self,
        now_us: u64,
        outbox: &mut Outbox,
        from: StoreId,
        call: CallNumber,
        body: &Body,
    ) -> Option<(StoreId, StoreCall)> {
        let Body::Error(StoreError { kind: Some(kind) }) = body else { return None };
        let (kept, opened_us) = outbox.kept(call)?;
        let target = self.target(kept.body.as_ref()?)?;
        let is_news = match kind {
            Kind::NotLeader(_) => target.is_leader && target.store != from,
            Kind::EpochNotMatch(_) => {
                let before = (from, kept.range_id, kept.version);
                (target.store, target.range_id, target.version) != before
            }
            Kind::Overloaded(_) | Kind::Indeterminate(_) | Kind::Refused(_) => false,
        };
        if !is_news {
            return None;
        }
        sent_to(target, now_us, outbox, call, opened_us)
    }

    pub(super) fn send_again(
        &self,
        now_us: u64,
        calls: ByStore,
        lane: Lane,
        wakers: &mut Vec<Waker>,
    ) {
        for (store, calls) in calls.into_batches() {
            if let Err(rejected) = self.send(now_us, store, lane, calls) {
                self.rejected(now_us, rejected, wakers);
            }
        }
    }

    /// Calls that a link did not take.
    pub(crate) fn rejected(&self, now_us: u64, calls: Vec<StoreCall>, wakers: &mut Vec<Waker>) {
        for call in calls {
            let to = Tag::from_wire(call.tag);
            let Some(stream) = self.streams.get(to.stream) else { continue };
            let failure = Failure::overloaded("the store has too much waiting: retry later");
            let fail = |outbox: &mut Outbox| outbox.fail(to.call, 1, failure);
            if let Some(settled) = self.with_outbox(&stream, wakers, fail) {
                self.observer.settled(settled, now_us);
            }
        }
    }

    /// A reply to what the gateway itself has asked.
    fn on_gateway_reply(
        &self,
        now_us: u64,
        from: StoreId,
        tag: Tag,
        body: Body,
        wakers: &mut Vec<Waker>,
    ) {
        match body {
            Body::Describe(description) => {
                self.routing_mut().learn(&description);
                self.describe_differently(|describing| describing.described(from, &description));
                self.recall(from);
                if description.has_more {
                    self.observer.due_sooner();
                }
            }
            Body::KeepAlive(response) => {
                let told = self.keepalives().answered(from, tag.call, response.answers);
                for (caller, answers) in told {
                    let answer = |outbox: &mut Outbox| outbox.answer_items(caller.call, answers);
                    self.settle(now_us, caller, wakers, answer);
                }
            }
            Body::Error(error) => {
                let failure = Failure::of_store(error);
                let told = self.keepalives().failed(from, tag.call, &failure);
                self.tell_keepalives(now_us, told, &failure, wakers);
                // Items may wait again, by a new route.
                self.observer.due_sooner();
            }
            _ => self.on_late(tag.to_wire()),
        }
    }

    /// A store that has answered stands by what it said before and has not changed: that counts where
    /// the leader of a range has been lost from sight since.
    fn recall(&self, from: StoreId) {
        let guesses = self.routing().guesses();
        if guesses.is_empty() {
            return;
        }
        let said: Vec<_> = {
            let describing = self.describing();
            let said = |range: RangeId| Some((range, describing.said(from, range.0)?));
            guesses.into_iter().filter_map(said).collect()
        };
        self.routing_mut().recall(&said);
    }

    fn on_late(&self, tag: u64) {
        if tag == 0 {
            self.observer.event();
            self.observer.event_dropped();
        } else {
            self.observer.late_reply();
        }
    }
}

/// An open call, as it goes to `target`.
pub(super) fn sent_to(
    target: Target,
    now_us: u64,
    outbox: &mut Outbox,
    call: CallNumber,
    opened_us: u64,
) -> Option<(StoreId, StoreCall)> {
    let sent = outbox.again(call, target.store, |call| {
        (call.range_id, call.version) = (target.range_id, target.version);
        call.age_ms = now_us.saturating_sub(opened_us).div_ceil(1_000);
    })?;
    Some((target.store, sent))
}
