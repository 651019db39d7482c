//! The meeting place of streams and stores: calls of all streams go down, replies find their
//! stream.
//!
//! It owns the table of open streams, what is known of stores and ranges, and the gateway's bounds.
//! It has no task and no timer per call, and reads no clock: `now_us` counts microseconds of the
//! gateway's own clock and never falls from call to call of one thread. Its owner carries batches
//! between it and the stores, and comes back when something is due.
//!
//! Any thread may call it. Equal sequences of calls have equal results.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Waker,
    time::Duration,
};

use sharklock_proto::{
    CALL_AGE_MAX, CallKind, Lane,
    internal::v1::{DescribeStore, RoutesUpdate, StoreCall, store_call::Body as Ask},
    trace::Begun,
};
use sharklock_rangemap::StoreId;

use crate::{
    describing::{Describing, Due},
    failure::{Failure, Reason},
    keepalives::{Caller, Flushed, KeepAlives},
    link::StoreLinks,
    observer::{Observer, RouteMiss},
    outbox::{Outbox, Settled},
    presence::{Presence, SHOWN_EVERY_US},
    routing::{Routing, Target},
    stream::Origin,
    streams::{OpenStream, Streams},
    tag::{CallNumber, StreamNumber, Tag},
    tracing_calls::Tracing,
    validate::RequestLimits,
};

mod parked;
mod replies;

use self::parked::Parked;

/// A call that is not answered is given up after this long.
pub const CALL_LIFE_US: u64 = 30_000_000;
/// How often unanswered calls are looked for.
pub const SWEEP_EVERY_US: u64 = 5_000_000;
/// How often stores that say nothing are looked for.
const LISTEN_EVERY_US: u64 = SHOWN_EVERY_US / 2;
/// A store that owes an answer for so long is asked to describe itself, which shows whether the
/// store is silent or only the range: a leader that hears and is not heard is left within 1.5 s.
const OWED_MAX_US: u64 = 500_000;

/// Bounds of a gateway.
#[derive(Clone, Copy, Debug)]
pub struct HubConfig {
    /// Limits of requests.
    pub limits: RequestLimits,
    /// Calls that wait for stores; acquires stop at half of it (D16).
    pub calls_open_max: usize,
    /// Session streams and unary calls open at a time. A quarter is kept for unary keepalives,
    /// releases and cancels (D16).
    pub streams_max: usize,
    /// Bytes of answers that wait for clients to read; from half of it on, streams that are more
    /// than 64 KiB behind are ended.
    pub outbox_bytes_max: usize,
    /// Which calls it traces; `None`: nobody listens.
    pub tracing: Option<Tracing>,
}

impl Default for HubConfig {
    /// Those of decisions.md, *Defaults*.
    fn default() -> Self {
        Self {
            limits: RequestLimits::default(),
            calls_open_max: 65_536,
            streams_max: 65_536,
            outbox_bytes_max: 256 << 20,
            tracing: None,
        }
    }
}

/// See the module.
///
/// Lock order, each held only shortly: an outbox, then `routing`, then `describing`; `keepalives`
/// and `parked` before `routing`. Links are called under none of them. Observers are called under an
/// outbox, and of readiness under `routing` and `describing`, so that what they hear of it last is
/// how it is.
pub struct Hub {
    pub(crate) config: HubConfig,
    pub(crate) observer: Arc<dyn Observer>,
    links: Arc<dyn StoreLinks>,
    streams: Streams,
    routing: RwLock<Routing>,
    describing: Mutex<Describing>,
    keepalives: Mutex<KeepAlives>,
    parked: Mutex<Parked>,
    presence: Presence,
    /// What the observer was told last. Changed under `describing`.
    told_ready: AtomicBool,
    next_sweep_us: AtomicU64,
    next_listen_us: AtomicU64,
    /// Acquires so far of which one in so many is traced.
    sampled_from: AtomicU64,
}

impl Hub {
    /// A gateway without streams and links.
    pub fn new(
        config: HubConfig,
        links: Arc<dyn StoreLinks>,
        observer: Arc<dyn Observer>,
    ) -> Arc<Self> {
        Arc::new(Self {
            config,
            observer,
            links,
            streams: Streams::default(),
            routing: RwLock::default(),
            describing: Mutex::default(),
            keepalives: Mutex::default(),
            parked: Mutex::default(),
            presence: Presence::default(),
            told_ready: AtomicBool::new(false),
            next_sweep_us: AtomicU64::new(SWEEP_EVERY_US),
            next_listen_us: AtomicU64::new(LISTEN_EVERY_US),
            sampled_from: AtomicU64::new(0),
        })
    }

    /// A store is connected, for the first time or again.
    pub fn link_up(&self, now_us: u64, store: StoreId) {
        self.routing_mut().link_up(store);
        self.describing().link_up(store);
        self.describe_due(now_us);
        self.observer.due_sooner();
    }

    /// The connection to a store is lost, and with it every answer that had not arrived. Its calls
    /// may have been done or not, and say so; keepalives are asked elsewhere.
    pub fn link_lost(&self, now_us: u64, store: StoreId) {
        self.routing_mut().link_lost(store);
        self.describe_differently(|describing| {
            describing.link_lost(store);
            describing.hurry_all();
        });
        let mut wakers = Vec::new();
        for stream in self.streams.all() {
            let settled = self.with_outbox(&stream, &mut wakers, |outbox| outbox.lost(store));
            settled.into_iter().for_each(|settled| self.observer.settled(settled, now_us));
        }
        let told = self.keepalives().link_lost(store);
        let failure = Failure::unanswered(CallKind::KeepAlive);
        self.tell_keepalives(now_us, told, &failure, &mut wakers);
        wake(wakers);
    }

    /// The masters say where ranges are, and who leads them.
    pub fn learn_routes(&self, update: &RoutesUpdate) {
        self.routing_mut().learn_routes(&update.routes);
        self.describe_differently(|_| {});
    }

    /// Does what is due at `now_us`: keepalives that wait, questions to stores, calls to give up. That
    /// it is called late shows that the gateway stood still.
    pub fn tick(&self, now_us: u64) {
        if let Some(still_us) = self.presence.show(now_us) {
            let still_ms = still_us / 1_000;
            tracing::warn!(still_ms, "this gateway stood still: calls that waited count as old");
            self.observer.stood_still();
        }
        self.flush_keepalives(now_us);
        self.resume_parked(now_us);
        if self.next_listen_us.load(Ordering::Relaxed) <= now_us {
            self.next_listen_us.store(now_us + LISTEN_EVERY_US, Ordering::Relaxed);
            let owing = self.routing().owing(now_us.saturating_sub(OWED_MAX_US));
            let mut describing = self.describing();
            owing.into_iter().for_each(|store| describing.hurry(store));
        }
        self.describe_due(now_us);
        if self.next_sweep_us.load(Ordering::Relaxed) <= now_us {
            self.next_sweep_us.store(now_us + SWEEP_EVERY_US, Ordering::Relaxed);
            self.sweep(now_us);
        }
    }

    /// When [`tick`](Self::tick) is due. Any other call may make it earlier.
    pub fn next_due_us(&self) -> u64 {
        let keepalives = self.keepalives().due_us();
        let describing = self.describing().due_us();
        let sweep = self.next_sweep_us.load(Ordering::Relaxed);
        let listen = self.next_listen_us.load(Ordering::Relaxed);
        let parked = self.parked().due_us();
        [keepalives, describing, parked].into_iter().flatten().fold(sweep.min(listen), u64::min)
    }

    /// Whether the gateway can serve: it has known the range of every name, and a store answers.
    /// Ranges may lack leaders, about which no gateway can do anything, and a split may have left a
    /// gap, which the next call fills.
    pub fn is_ready(&self) -> bool {
        self.lacks().is_none()
    }

    /// What it lacks to be ready, in words.
    pub fn lacks(&self) -> Option<String> {
        if !self.describing().is_answered() {
            return Some("no store answers that has a range".to_owned());
        }
        let routing = self.routing();
        if routing.was_whole() { None } else { routing.gap() }
    }

    /// What calls may meet all the same, in words.
    pub fn remark(&self) -> Option<String> {
        let leaderless = self.describing().leaderless();
        let leaderless = (leaderless.unled > 0).then(|| leaderless.to_string());
        let remarks: Vec<_> = leaderless.into_iter().chain(self.routing().gap()).collect();
        (!remarks.is_empty()).then(|| remarks.join("; "))
    }

    /// The stores that are connected, in order.
    pub fn stores(&self) -> Vec<StoreId> {
        self.routing().linked()
    }

    /// Where the ranges begin that follow the one of `name`, as far as they are known, at most so many.
    pub fn starts_behind(&self, name: &str, max: usize) -> Vec<String> {
        self.routing().starts_behind(name, max)
    }

    /// Limits of requests.
    pub fn limits(&self) -> RequestLimits {
        self.config.limits
    }

    /// How many streams are open.
    pub fn streams_open(&self) -> usize {
        self.streams.len()
    }

    /// How many calls wait for stores.
    pub fn calls_open(&self) -> usize {
        self.streams.sums.calls_open()
    }

    /// Bytes of answers that wait until their clients read.
    pub fn outbox_bytes(&self) -> usize {
        self.streams.sums.bytes()
    }

    /// Keepalive items, counted once per call that names them, that wait or are under way.
    pub fn keepalive_items(&self) -> usize {
        self.keepalives().named()
    }

    /// Keepalive items that were sent again, since a store did not do them or its link was lost.
    pub fn keepalive_items_repeated(&self) -> u64 {
        self.keepalives().repeated()
    }

    /// Begins the span of a call, if it is traced.
    pub(crate) fn trace(&self, call: &mut StoreCall, arrived_us: u64) -> Option<Begun> {
        self.config.tracing?.begin(&self.sampled_from, call, arrived_us)
    }

    /// `is_urgent`: for a unary call that must find room when nothing else does.
    pub(crate) fn open_stream(&self, is_urgent: bool) -> Result<Arc<OpenStream>, Failure> {
        let max = self.config.streams_max;
        let bound = if is_urgent { max } else { max - max / 4 };
        if self.streams.len() >= bound {
            let message = "too many streams are open in this gateway: retry, or use another one";
            return Err(Failure::overloaded(message));
        }
        let stream = self.streams.open();
        self.observer.stream_opened();
        Ok(stream)
    }

    pub(crate) fn close_stream(&self, stream: &OpenStream) {
        self.streams.close(stream);
        self.observer.stream_closed();
    }

    /// Since when a call may have waited that is read at `now_us`.
    ///
    /// # Errors
    /// It may be so old that what it was about has been forgotten: its client asks again.
    pub(crate) fn arrived_us(&self, now_us: u64) -> Result<u64, Failure> {
        let arrived_us = self.presence.arrived_us(now_us);
        if Duration::from_micros(now_us - arrived_us) <= CALL_AGE_MAX {
            return Ok(arrived_us);
        }
        let message = "this gateway stood still, and the call may have waited for too long; nothing \
                       was done: retry";
        let retry_us = self.presence.catching_up_us(now_us);
        Err(Failure::new(Reason::TooOld, message).retry_after(retry_us.div_ceil(1_000).max(1)))
    }

    /// How many more calls may be open.
    pub(crate) fn room(&self) -> usize {
        self.config.calls_open_max.saturating_sub(self.calls_open())
    }

    /// Hands a batch to a store; what did not fit comes back.
    pub(crate) fn send(
        &self,
        now_us: u64,
        store: StoreId,
        lane: Lane,
        calls: Vec<StoreCall>,
    ) -> Result<(), Vec<StoreCall>> {
        self.routing().sent(now_us, store);
        self.links.send(store, lane, calls)
    }

    /// Tells a store what it does not answer. If it does not fit, it is lost.
    pub(crate) fn tell(&self, store: StoreId, call: StoreCall) {
        if self.links.send(store, Lane::Ordinary, vec![call]).is_err() {
            tracing::debug!(%store, "a link is full: a withdrawal is left to the lease");
        }
    }

    /// Takes a keepalive of a stream into the next batch.
    pub(crate) fn add_keepalive(
        &self,
        now_us: u64,
        arrived_us: u64,
        session: &crate::validate::Session,
        request: sharklock_proto::v1::KeepAliveRequest,
        caller: Caller,
        origin: Origin<'_>,
    ) {
        let items = request.items.len();
        let asker = if origin.is_unary { caller.stream } else { StreamNumber::GATEWAY };
        let events_to = origin.events_to;
        let added = self.keepalives().add(arrived_us, session, request, caller, events_to, asker);
        if let Err(failure) = added {
            let mut wakers = Vec::new();
            self.tell_keepalives(now_us, vec![(caller, items)], &failure, &mut wakers);
            wake(wakers);
        }
    }

    /// Sends the keepalives that wait, or leaves it to the next tick.
    pub(crate) fn send_keepalives_or_wait(&self, now_us: u64) {
        self.flush_keepalives(now_us);
        if self.keepalives().due_us().is_some() {
            self.observer.due_sooner();
        }
    }

    /// The target of a call. It is `None`, and stores are asked what they know, while nobody can be
    /// asked.
    pub(crate) fn target(&self, body: &Ask) -> Option<Target> {
        let target = match body.routed_by() {
            Some(name) => self.routing().route(name.as_bytes()),
            None => self.routing().anywhere(),
        };
        match target {
            Some(target) if target.range_id != 0 => {}
            Some(_) if body.routed_by().is_some() => self.ask_for_all_routes(),
            _ => self.ask_for_routes(),
        }
        target
    }

    /// The target of a call that has just come: see [`target`](Self::target). Only here it counts as a
    /// miss that no route is known: a call that waits for a leader looks again every few milliseconds.
    pub(crate) fn first_target(&self, body: &Ask) -> Option<Target> {
        let target = self.target(body);
        if target.is_none_or(|target| target.range_id == 0) {
            self.observer.route_missed(RouteMiss::Unknown);
        }
        target
    }

    /// The only way to an outbox: keeps the gateway's sums right, and collects whom to wake.
    pub(crate) fn with_outbox<R>(
        &self,
        stream: &OpenStream,
        wakers: &mut Vec<Waker>,
        change: impl FnOnce(&mut Outbox) -> R,
    ) -> R {
        let changed = self.streams.sums.with_outbox(stream, self.config.outbox_bytes_max, change);
        if changed.overrun {
            self.observer.overrun();
        }
        wakers.extend(changed.taker);
        changed.result
    }

    fn flush_keepalives(&self, now_us: u64) {
        let Flushed { calls, told } = {
            let mut keepalives = self.keepalives();
            if keepalives.due_us().is_none_or(|due_us| due_us > now_us) {
                return;
            }
            let routing = self.routing();
            keepalives.flush(now_us, |name| routing.route(name.as_bytes()))
        };
        let mut wakers = Vec::new();
        if !told.is_empty() {
            self.ask_for_routes();
            self.tell_keepalives(now_us, told, &Failure::no_leader(), &mut wakers);
        }
        if !calls.is_empty() {
            self.observer.keepalive_batch();
        }
        if calls.iter().any(|(_, call)| call.range_id == 0) {
            self.ask_for_all_routes();
        }
        let mut by_store = crate::link::ByStore::default();
        calls.into_iter().for_each(|(store, call)| by_store.push(store, call));
        for (store, calls) in by_store.into_batches() {
            let Err(rejected) = self.send(now_us, store, Lane::Urgent, calls) else { continue };
            let failure = Failure::overloaded("the store has too much waiting: retry");
            for call in rejected {
                let call = Tag::from_wire(call.tag).call;
                let told = self.keepalives().failed(store, call, &failure);
                self.tell_keepalives(now_us, told, &failure, &mut wakers);
            }
        }
        wake(wakers);
    }

    /// Asks stores to describe themselves, and leads around those that did not.
    fn describe_due(&self, now_us: u64) {
        let mut due = Due::default();
        self.describe_differently(|describing| due = describing.take_due(now_us));
        for store in due.silent {
            tracing::warn!(%store, "a store says nothing: calls go elsewhere");
            self.routing_mut().silent(store);
        }
        for store in due.ask {
            let tag = Tag { stream: StreamNumber::GATEWAY, call: CallNumber::DESCRIBE };
            let heard = Some(self.describing().asked_since(store));
            let body = Some(Ask::Describe(DescribeStore { heard, only: None }));
            let call = StoreCall { tag: tag.to_wire(), body, ..StoreCall::default() };
            if self.send(now_us, store, Lane::Ordinary, vec![call]).is_err() {
                self.describing().not_asked(store);
            }
        }
    }

    /// Changes what is known of stores, and tells if that, or what has become of routes, makes the
    /// gateway ready, or unready.
    fn describe_differently(&self, change: impl FnOnce(&mut Describing)) {
        // Both stay as they are until it is told.
        let routing = self.routing();
        let mut describing = self.describing();
        change(&mut describing);
        let ready = describing.is_answered() && routing.was_whole();
        if self.told_ready.swap(ready, Ordering::Relaxed) != ready {
            self.observer.ready_changed(ready);
        }
    }

    fn ask_for_routes(&self) {
        self.describing().hurry_all();
        self.observer.due_sooner();
    }

    /// Of some name nothing is known: what stores have said is not all here any more.
    fn ask_for_all_routes(&self) {
        self.describing().begin_anew();
        self.observer.due_sooner();
    }

    /// Gives up on calls that no store has answered for [`CALL_LIFE_US`].
    fn sweep(&self, now_us: u64) {
        let before_us = now_us.saturating_sub(CALL_LIFE_US);
        let mut wakers = Vec::new();
        for stream in self.streams.all() {
            let settled = self.with_outbox(&stream, &mut wakers, |outbox| outbox.sweep(before_us));
            settled.into_iter().for_each(|settled| self.observer.settled(settled, now_us));
        }
        self.keepalives().sweep(before_us);
        wake(wakers);
    }

    /// Tells callers that items of their keepalives will not be answered.
    fn tell_keepalives(
        &self,
        now_us: u64,
        told: Vec<(Caller, usize)>,
        failure: &Failure,
        wakers: &mut Vec<Waker>,
    ) {
        for (caller, items) in told {
            let failure = failure.clone();
            let fail = |outbox: &mut Outbox| outbox.fail(caller.call, items, failure);
            self.settle(now_us, caller, wakers, fail);
        }
    }

    fn settle(
        &self,
        now_us: u64,
        caller: Caller,
        wakers: &mut Vec<Waker>,
        settle: impl FnOnce(&mut Outbox) -> Option<Settled>,
    ) {
        let Some(stream) = self.streams.get(caller.stream) else { return };
        if let Some(settled) = self.with_outbox(&stream, wakers, settle) {
            self.observer.settled(settled, now_us);
        }
    }

    fn keepalives(&self) -> MutexGuard<'_, KeepAlives> {
        self.keepalives.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn parked(&self) -> MutexGuard<'_, Parked> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn describing(&self) -> MutexGuard<'_, Describing> {
        self.describing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn routing(&self) -> RwLockReadGuard<'_, Routing> {
        self.routing.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn routing_mut(&self) -> RwLockWriteGuard<'_, Routing> {
        self.routing.write().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn wake(wakers: Vec<Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}

#[cfg(test)]
mod tests;
