//! Where streams and stores meet: calls of all streams go down, replies find their stream.
//!
//! It owns the table of open streams and the gateway's bounds. It has no task per call and no timer
//! per call: whoever has calls sends them itself, one task hands out the replies of a link.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use dashmap::{DashMap, mapref::entry::Entry};
use sharklock_proto::{
    internal::v1::{
        StoreCall, StoreReply, store_call::Body as Ask, store_error::Kind, store_reply::Body,
    },
    v1::KeepAliveRequest,
};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{Config, metrics::Metrics, stream_handle::StreamHandle};
use crate::{
    Lane, StoreLink,
    failure::Failure,
    keepalives::{Caller, KeepAlives},
    outbox::{Answer, Outbox, Overrun, Settled},
    routing::Routing,
    tag::{StreamNumber, Tag},
    validate::Session,
};

/// A call is given up after this long: stores drop what is older (D5).
pub(super) const CALL_LIFE: Duration = Duration::from_secs(30);
/// A stream that is further behind than this is cut off while all streams together have used up
/// half of their bound.
const FAIR_BYTES: usize = 64 << 10;

/// See the module.
pub(super) struct Hub {
    pub(super) config: Config,
    pub(super) metrics: Arc<Metrics>,
    pub(super) routing: RwLock<Routing>,
    /// A name without a range was asked for.
    pub(super) route_missing: Notify,
    /// Set when the gateway stops.
    pub(super) stopping: CancellationToken,
    link: Arc<dyn StoreLink>,
    streams: DashMap<u32, Arc<OpenStream>>,
    last_stream: AtomicU32,
    calls_open: AtomicUsize,
    outbox_bytes: AtomicUsize,
    keepalives: Mutex<KeepAlives>,
    /// A keepalive waits for the next batch.
    keepalive_waits: Notify,
    started: Instant,
}

/// A stream's place in the table.
pub(super) struct OpenStream {
    pub(super) number: StreamNumber,
    outbox: Mutex<Outbox>,
}

impl OpenStream {
    pub(super) fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hub {
    pub(super) fn new(config: Config, link: Arc<dyn StoreLink>, metrics: Arc<Metrics>) -> Self {
        Self {
            config,
            metrics,
            routing: RwLock::default(),
            route_missing: Notify::new(),
            stopping: CancellationToken::new(),
            link,
            streams: DashMap::new(),
            last_stream: AtomicU32::new(0),
            calls_open: AtomicUsize::new(0),
            outbox_bytes: AtomicUsize::new(0),
            keepalives: Mutex::default(),
            keepalive_waits: Notify::new(),
            started: Instant::now(),
        }
    }

    /// Opens a stream; it is closed when the returned handle is dropped.
    pub(super) fn open(self: &Arc<Self>) -> Result<StreamHandle, Failure> {
        if self.streams.len() >= self.config.streams_max {
            let message = "too many streams are open in this gateway: retry, or use another one";
            return Err(Failure::overloaded(message));
        }
        loop {
            let number = self.last_stream.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
            if StreamNumber(number) == StreamNumber::GATEWAY {
                continue;
            }
            let Entry::Vacant(entry) = self.streams.entry(number) else { continue };
            let number = StreamNumber(number);
            let stream = Arc::new(OpenStream { number, outbox: Mutex::default() });
            entry.insert(stream.clone());
            self.metrics.streams.inc();
            return Ok(StreamHandle::new(self.clone(), stream));
        }
    }

    /// Closes a stream.
    pub(super) fn close(&self, stream: &OpenStream) {
        self.streams.remove(&stream.number.0);
        let mut outbox = stream.outbox();
        add_difference(&self.calls_open, outbox.calls_open(), 0);
        add_difference(&self.outbox_bytes, outbox.bytes(), 0);
        // Whoever has just looked this stream up must not count anything in it any more.
        outbox.cut_off();
        self.metrics.streams.dec();
    }

    /// How many more calls may be open.
    pub(super) fn room(&self) -> usize {
        self.config.calls_open_max.saturating_sub(self.calls_open.load(Ordering::Relaxed))
    }

    /// Hands a batch to the store; what did not fit comes back.
    pub(super) fn send(&self, lane: Lane, calls: Vec<StoreCall>) -> Result<(), Vec<StoreCall>> {
        self.link.send(lane, calls)
    }

    /// Takes a keepalive of a stream into the next batch.
    pub(super) fn add_keepalive(
        &self,
        session: &Session,
        request: KeepAliveRequest,
        caller: Caller,
        events_to: StreamNumber,
    ) {
        let items = request.items.len();
        let added = self.keepalives().add(self.now_us(), session, request, caller, events_to);
        if let Err(failure) = added {
            let mut wakers = Vec::new();
            self.settle(caller, &mut wakers, |outbox| outbox.fail(caller.call, items, failure));
            wakers.into_iter().for_each(Waker::wake);
        }
    }

    /// Sends the keepalives that wait, or leaves it to the task that sends them when they are due.
    pub(super) fn send_keepalives_or_wait(&self) {
        if self.flush_keepalives().is_some() {
            self.keepalive_waits.notify_one();
        }
    }

    /// Takes what waits in a stream's outbox.
    pub(super) fn poll_take(
        &self,
        stream: &OpenStream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Vec<Answer>, Overrun>> {
        let mut outbox = stream.outbox();
        let bytes = outbox.bytes();
        let taken = outbox.poll_take(cx);
        add_difference(&self.outbox_bytes, bytes, outbox.bytes());
        taken
    }

    /// Hands replies and events to their streams, then wakes each once.
    pub(super) fn dispatch(&self, replies: Vec<StoreReply>) {
        let now_us = self.now_us();
        let mut wakers = Vec::new();
        // Replies of one stream come in runs.
        let mut last: Option<Arc<OpenStream>> = None;
        for StoreReply { tag, stream, body } in replies {
            let Some(body) = body else { continue };
            let to = Tag::from_wire(tag);
            let number = if tag == 0 { StreamNumber(stream as u32) } else { to.stream };
            if let Body::Error(error) = &body
                && let Some(Kind::EpochNotMatch(known)) = &error.kind
            {
                self.routing.write().unwrap_or_else(PoisonError::into_inner).moved(known);
            }
            if number == StreamNumber::GATEWAY {
                self.on_gateway_reply(to, body, &mut wakers);
                continue;
            }
            if last.as_ref().is_none_or(|last| last.number != number) {
                last = self.streams.get(&number.0).map(|found| found.clone());
            }
            let Some(stream) = &last else {
                self.on_late(tag);
                continue;
            };
            let settled = self.with_outbox(stream, &mut wakers, |outbox| {
                if tag != 0 {
                    return outbox.answer(to.call, body);
                }
                self.metrics.events.inc();
                if !outbox.event(body) {
                    self.metrics.events_dropped.inc();
                }
                None
            });
            if let Some(settled) = settled {
                self.metrics.settled(settled, now_us);
            }
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Sends the keepalives that wait when they are due; returns when to come again.
    pub(super) fn flush_keepalives(&self) -> Option<Instant> {
        let now_us = self.now_us();
        let calls = {
            let mut keepalives = self.keepalives();
            let due_us = keepalives.due_us()?;
            if due_us > now_us {
                return Some(self.started + Duration::from_micros(due_us));
            }
            let routing = self.routing.read().unwrap_or_else(PoisonError::into_inner);
            keepalives.flush(now_us, |name| routing.route(name.as_bytes()))
        };
        self.metrics.keepalive_batches.inc();
        if let Err(rejected) = self.link.send(Lane::Urgent, calls) {
            let mut wakers = Vec::new();
            let failure = Failure::overloaded("the store has too much waiting: retry");
            for call in rejected {
                self.fail_keepalives(Tag::from_wire(call.tag), &failure, &mut wakers);
            }
            wakers.into_iter().for_each(Waker::wake);
        }
        None
    }

    /// Waits until a keepalive has to be sent later.
    pub(super) async fn keepalive_waits(&self) {
        self.keepalive_waits.notified().await;
    }

    /// Gives up on calls that no store has answered for [`CALL_LIFE`].
    pub(super) fn sweep(&self) {
        let now_us = self.now_us();
        let before_us = now_us.saturating_sub(CALL_LIFE.as_micros() as u64);
        let streams: Vec<_> = self.streams.iter().map(|entry| entry.value().clone()).collect();
        let mut wakers = Vec::new();
        for stream in streams {
            let settled = self.with_outbox(&stream, &mut wakers, |outbox| outbox.sweep(before_us));
            settled.into_iter().for_each(|settled| self.metrics.settled(settled, now_us));
        }
        self.keepalives().sweep(before_us);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Publishes what is counted elsewhere.
    pub(super) fn publish(&self) {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.calls_open.set(gauge(self.calls_open.load(Ordering::Relaxed)));
        self.metrics.outbox_bytes.set(gauge(self.outbox_bytes.load(Ordering::Relaxed)));
        self.metrics.keepalive_items.set(gauge(self.keepalives().named()));
    }

    pub(super) fn now_us(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }

    fn keepalives(&self) -> MutexGuard<'_, KeepAlives> {
        self.keepalives.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A reply to what the gateway itself has asked.
    fn on_gateway_reply(&self, tag: Tag, body: Body, wakers: &mut Vec<Waker>) {
        match body {
            Body::KeepAlive(response) => {
                let told = self.keepalives().answered(tag.call, response.answers);
                for (caller, answers) in told {
                    self.settle(caller, wakers, |outbox| outbox.answer_items(caller.call, answers));
                }
            }
            Body::Error(error) => self.fail_keepalives(tag, &Failure::of_store(error), wakers),
            _ => self.on_late(tag.to_wire()),
        }
    }

    fn fail_keepalives(&self, tag: Tag, failure: &Failure, wakers: &mut Vec<Waker>) {
        let told = self.keepalives().failed(tag.call, failure);
        for (caller, items) in told {
            let failure = failure.clone();
            self.settle(caller, wakers, |outbox| outbox.fail(caller.call, items, failure));
        }
        // Items may wait again, by a new route.
        self.keepalive_waits.notify_one();
    }

    fn settle(
        &self,
        caller: Caller,
        wakers: &mut Vec<Waker>,
        settle: impl FnOnce(&mut Outbox) -> Option<Settled>,
    ) {
        let Some(stream) = self.streams.get(&caller.stream.0).map(|found| found.clone()) else {
            return;
        };
        if let Some(settled) = self.with_outbox(&stream, wakers, settle) {
            self.metrics.settled(settled, self.now_us());
        }
    }

    fn on_late(&self, tag: u64) {
        if tag == 0 {
            self.metrics.events.inc();
            self.metrics.events_dropped.inc();
        } else {
            self.metrics.late_replies.inc();
        }
    }

    /// The only way to an outbox: keeps the gateway's sums right, and collects whom to wake.
    pub(super) fn with_outbox<R>(
        &self,
        stream: &OpenStream,
        wakers: &mut Vec<Waker>,
        change: impl FnOnce(&mut Outbox) -> R,
    ) -> R {
        let mut outbox = stream.outbox();
        let (calls, bytes) = (outbox.calls_open(), outbox.bytes());
        let was_cut_off = outbox.is_cut_off();
        let result = change(&mut outbox);
        let all = self.outbox_bytes.load(Ordering::Relaxed);
        if all > self.config.outbox_bytes_max / 2 && outbox.bytes() > FAIR_BYTES.max(bytes) {
            outbox.cut_off();
        }
        if outbox.is_cut_off() && !was_cut_off {
            self.metrics.overruns.inc();
        }
        if outbox.wants_taker() {
            wakers.extend(outbox.taker());
        }
        add_difference(&self.calls_open, calls, outbox.calls_open());
        add_difference(&self.outbox_bytes, bytes, outbox.bytes());
        result
    }

    pub(super) fn store_call(
        &self,
        tag: u64,
        session: Option<Session>,
        body: Ask,
        events_to: StreamNumber,
        address: &str,
    ) -> StoreCall {
        let (range_id, version) = name_of(&body).map_or((0, 0), |name| self.route(name));
        // Only a new hold or waiter is shown with its client's address.
        let address = if matches!(body, Ask::Acquire(_)) { address } else { "" };
        let (handle, instance) =
            session.map_or_else(Default::default, |session| session.into_parts());
        StoreCall {
            tag,
            range_id,
            version,
            age_ms: 0,
            session: handle,
            instance,
            client_address: address.to_owned(),
            stream: u64::from(events_to.0),
            body: Some(body),
        }
    }

    fn route(&self, name: &str) -> (u64, u64) {
        let routing = self.routing.read().unwrap_or_else(PoisonError::into_inner);
        let route = routing.route(name.as_bytes());
        if route == (0, 0) {
            self.route_missing.notify_one();
        }
        route
    }
}

/// The name by which a call is routed.
fn name_of(body: &Ask) -> Option<&str> {
    match body {
        Ask::Acquire(request) => Some(&request.name),
        Ask::Release(request) => Some(&request.name),
        Ask::Cancel(request) => Some(&request.name),
        Ask::CheckToken(request) => Some(&request.name),
        Ask::GetLock(request) => Some(&request.name),
        Ask::ForceRelease(request) => Some(&request.name),
        // A page begins after its token.
        Ask::ListLocks(request) => Some((&request.page_token).max(&request.prefix)),
        // Merged keepalives are routed item by item.
        Ask::KeepAlive(_) | Ask::Describe(_) => None,
    }
}

fn add_difference(sum: &AtomicUsize, before: usize, after: usize) {
    if after > before {
        sum.fetch_add(after - before, Ordering::Relaxed);
    } else if before > after {
        sum.fetch_sub(before - after, Ordering::Relaxed);
    }
}
