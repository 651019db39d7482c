//! The owner's side of an open stream: it sends calls, and takes answers and events.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use sharklock_proto::{
    CallKind, Lane,
    internal::v1::{StoreCall, WithdrawAcquire, store_call::Body as Ask},
    v1::KeepAliveRequest,
};
use sharklock_rangemap::StoreId;

use crate::{
    failure::Failure,
    hub::{Hub, wake},
    keepalives::Caller,
    link::ByStore,
    outbox::{Answer, Outbox, Overrun},
    routing::Target,
    streams::OpenStream,
    tag::{CallNumber, StreamNumber, Tag},
    validate::{Checked, Session},
};

/// A call of a stream: the client's number of it, and the call or why it is none.
pub type Numbered = (u64, Result<Checked, Failure>);

/// The origin of a stream's calls, and the stream that hears of them.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// Events of what they name go there.
    pub events_to: StreamNumber,
    /// The stream is that of one unary Acquire, whose caller alone hears of it: it may be
    /// [withdrawn](StreamHandle::withdraw).
    pub is_unary: bool,
    /// The client's address, for people.
    pub address: &'a str,
}

/// The owner's side of an open stream.
pub struct StreamHandle {
    hub: Arc<Hub>,
    stream: Arc<OpenStream>,
}

impl StreamHandle {
    /// Opens a stream; it is closed when this is dropped. Fails when too many are open.
    pub fn open(hub: &Arc<Hub>) -> Result<Self, Failure> {
        Ok(Self { hub: Arc::clone(hub), stream: hub.open_stream(false)? })
    }

    /// As [`open`](Self::open), for one keepalive, release or cancel: they find room when nothing else
    /// does.
    pub fn open_urgent(hub: &Arc<Hub>) -> Result<Self, Failure> {
        Ok(Self { hub: Arc::clone(hub), stream: hub.open_stream(true)? })
    }

    /// The gateway's number of this stream.
    pub fn number(&self) -> StreamNumber {
        self.stream.number
    }

    /// The hub at which it is open.
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Sends calls, one batch per store and lane, and answers at once those that cannot be sent.
    pub fn submit(&self, now_us: u64, calls: impl Iterator<Item = Numbered>, origin: Origin<'_>) {
        let asker = if origin.is_unary { self.stream.number } else { StreamNumber::GATEWAY };
        let mut batch = Batch::default();
        let arrived = self.hub.arrived_us(now_us);
        let arrived_us = *arrived.as_ref().unwrap_or(&now_us);
        for (call_id, checked) in calls {
            match arrived.as_ref().map_err(Clone::clone).and(checked) {
                Err(failure) => batch.refused.push((call_id, failure)),
                Ok(checked) => {
                    let to = checked.store();
                    match checked.into_parts() {
                        (Some(session), Ask::KeepAlive(request)) => {
                            batch.keepalives.push(KeepAlive { tag: call_id, session, request });
                        }
                        (session, body) => {
                            let made = StoreCall {
                                tag: call_id,
                                age_ms: (now_us - arrived_us).div_ceil(1_000),
                                client_address: shown_address(&body, origin.address),
                                stream: u64::from(origin.events_to.0),
                                asker: u64::from(asker.0),
                                ..addressed(session, body)
                            };
                            self.route(made, to, &mut batch);
                        }
                    }
                }
            }
        }
        self.open_calls(arrived_us, &mut batch);
        self.send(now_us, Lane::Urgent, batch.urgent);
        self.send(now_us, Lane::Ordinary, batch.ordinary);
        self.keep_alive(now_us, arrived_us, batch.keepalives, origin);
    }

    /// The caller of the unary Acquire whose stream this is has gone away unanswered. If it `gives_up`,
    /// the acquisition is cancelled, unless its leader cannot rule out that somebody else has been told
    /// of it, by another attempt; otherwise it may ask again by another way. Nothing is answered, and
    /// what gets lost is left to the lease.
    pub fn withdraw(&self, session: &Session, name: &str, acquisition_id: u64, gives_up: bool) {
        let name = name.to_owned();
        let body = Ask::Withdraw(WithdrawAcquire { name, acquisition_id, gives_up });
        let Some(target) = self.hub.target(&body) else { return };
        // Under a number that no call has: an error that comes back finds nobody.
        let tag = Tag { stream: self.stream.number, call: CallNumber(0) };
        let call = StoreCall {
            tag: tag.to_wire(),
            range_id: target.range_id,
            version: target.version,
            asker: u64::from(self.stream.number.0),
            ..addressed(Some(session.clone()), body)
        };
        self.hub.tell(target.store, call);
    }

    /// Takes answers and events, at most a message full; None when there are none.
    pub fn take(&self) -> Result<Option<Vec<Answer>>, Overrun> {
        self.hub.with_outbox(&self.stream, &mut Vec::new(), Outbox::take)
    }

    /// Takes answers and events, or waits for some.
    pub fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Result<Vec<Answer>, Overrun>> {
        let mut woken = Vec::new();
        let taken = self.hub.with_outbox(&self.stream, &mut woken, |outbox| outbox.poll_take(cx));
        // More than a message may wait: who has just taken one comes again by itself.
        drop(woken);
        taken
    }

    /// Whether every call has been answered.
    pub fn is_idle(&self) -> bool {
        self.stream.outbox().calls_open() == 0
    }

    /// Puts a call where it goes, or among the refused while nobody can be asked.
    fn route(&self, mut call: StoreCall, to: Option<StoreId>, batch: &mut Batch) {
        let body = call.body.as_ref().expect("addressed() sets it");
        let lane = body.lane();
        let target = match to {
            Some(store) => Some(Target::of_store(store)),
            None => self.hub.first_target(body),
        };
        let Some(target) = target else {
            batch.refused.push((call.tag, Failure::no_leader()));
            return;
        };
        (call.range_id, call.version) = (target.range_id, target.version);
        batch.keep |= target.has_others;
        match lane {
            Lane::Urgent => batch.urgent.push(target.store, call),
            Lane::Ordinary => batch.ordinary.push(target.store, call),
        }
    }

    /// Gives every call its tag, and answers those that find no room.
    fn open_calls(&self, arrived_us: u64, batch: &mut Batch) {
        let hub = &*self.hub;
        let number = self.stream.number;
        let max = hub.config.calls_open_max;
        let mut room = hub.room();
        let mut open = |outbox: &mut Outbox, tag: &mut u64, kind: CallKind, items: usize| {
            // Acquires and looks stop at half of the bound (D16).
            let kept_free = if kind.is_urgent() { 0 } else { max / 2 };
            let opened =
                (room > kept_free).then(|| outbox.open(*tag, kind, items, arrived_us)).flatten();
            match opened {
                Some(call) => {
                    room -= 1;
                    *tag = Tag { stream: number, call }.to_wire();
                }
                None => {
                    outbox.refuse(*tag, Failure::overloaded(TOO_MANY_CALLS));
                }
            }
            opened
        };
        let mut wakers = Vec::new();
        let Batch { urgent, ordinary, keepalives, refused, keep } = batch;
        hub.with_outbox(&self.stream, &mut wakers, |outbox| {
            for (call_id, failure) in refused.drain(..) {
                outbox.refuse(call_id, failure);
            }
            keepalives.retain_mut(|call| {
                let items = call.request.items.len();
                open(outbox, &mut call.tag, CallKind::KeepAlive, items).is_some()
            });
            for (store, calls) in urgent.iter_mut().chain(ordinary.iter_mut()) {
                calls.retain_mut(|call| {
                    let kind = call.body.as_ref().expect("addressed() sets it").kind();
                    let Some(opened) = open(outbox, &mut call.tag, kind, 1) else { return false };
                    if let Some(span) = hub.trace(call, arrived_us) {
                        outbox.trace(opened, span);
                    }
                    outbox.sent(opened, store, keep.then(|| call.clone()));
                    true
                });
            }
        });
        wake(wakers);
    }

    fn send(&self, now_us: u64, lane: Lane, calls: ByStore) {
        for (store, calls) in calls.into_batches() {
            let Err(rejected) = self.hub.send(now_us, store, lane, calls) else { continue };
            let mut wakers = Vec::new();
            self.hub.rejected(now_us, rejected, &mut wakers);
            wake(wakers);
        }
    }

    fn keep_alive(&self, now_us: u64, arrived_us: u64, calls: Vec<KeepAlive>, origin: Origin<'_>) {
        if calls.is_empty() {
            return;
        }
        for KeepAlive { tag, session, request } in calls {
            let call = Tag::from_wire(tag).call;
            let caller = Caller { stream: self.stream.number, call };
            self.hub.add_keepalive(now_us, arrived_us, &session, request, caller, origin);
        }
        self.hub.send_keepalives_or_wait(now_us);
    }
}

impl Drop for StreamHandle {
    /// Its calls go on: only their answers are not awaited any more. Everything that it holds or
    /// waits for stays too, since another stream or gateway may carry on.
    fn drop(&mut self) {
        self.hub.close_stream(&self.stream);
    }
}

const TOO_MANY_CALLS: &str = "too many calls are open: wait for answers before asking more";

/// The calls of one message, sorted by where they go. Until a call is opened its tag is the
/// client's number of it.
#[derive(Default)]
struct Batch {
    urgent: ByStore,
    ordinary: ByStore,
    keepalives: Vec<KeepAlive>,
    refused: Vec<(u64, Failure)>,
    /// Some call may have to go to another store. Nothing is kept of a call to a range with one
    /// voter.
    keep: bool,
}

/// A keepalive on its way into the next batch.
struct KeepAlive {
    tag: u64,
    session: Session,
    request: KeepAliveRequest,
}

fn addressed(session: Option<Session>, body: Ask) -> StoreCall {
    let (handle, instance) = session.map_or_else(Default::default, Session::into_parts);
    StoreCall { session: handle, instance, body: Some(body), ..StoreCall::default() }
}

/// Only a new hold or waiter is shown with its client's address.
fn shown_address(body: &Ask, address: &str) -> String {
    if matches!(body, Ask::Acquire(_) | Ask::Reclaim(_)) {
        address.to_owned()
    } else {
        String::new()
    }
}
