//! The core with what the edge adds to it: its clock, its links, its metrics, and the order to stop.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};
use sharklock_proto::{
    internal::v1::StoreAddress,
    trace::{SpanKind, Spans},
};
use sharklock_transport::wall_unix_ns;
use tokio::{
    sync::{Notify, Semaphore},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    Config, cluster::Served, directory::Masters, links::Links, master_words::MasterWords,
    metrics::Metrics, quota::Quota, seats::Seats,
};
use crate::{
    Hub, HubConfig, Observer, RouteMiss, StoreId, StoreLink, Tracing, failure::Reason,
    outbox::Settled,
};

/// Looks on their way at a time.
const LOOKS_MAX: usize = 64;

/// See the module.
pub(super) struct Host {
    pub(super) hub: Arc<Hub>,
    pub(super) config: Config,
    pub(super) metrics: Arc<Metrics>,
    pub(super) news: Arc<News>,
    /// Answers that clients have not taken, bytes.
    pub(super) unread: Arc<Quota>,
    /// Unary calls that are not keepalives, releases or cancels.
    pub(super) calls: Arc<Quota>,
    pub(super) seats: Arc<Seats>,
    /// Looks on their way: each may become an answer of a megabyte.
    pub(super) looks: Arc<Semaphore>,
    /// Set when the gateway stops.
    pub(super) stopping: CancellationToken,
    /// Asked for `GetStatus`, and watched for routes.
    pub(super) masters: Masters,
    /// Which one this gateway serves.
    pub(super) cluster: Arc<Served>,
    links: Arc<Links>,
    /// The words of each master by itself.
    pub(super) master_words: MasterWords,
    /// Since when a store that was connected is not, by id.
    lost: Mutex<BTreeMap<StoreId, Instant>>,
    /// The stores that the masters have named, by id. Behind a lock of its own, held only to copy.
    named: Mutex<BTreeMap<StoreId, StoreAddress>>,
    /// A reading of `boottime`.
    started: Duration,
}

impl Host {
    pub(super) fn new(config: Config, masters: Masters, metrics: Arc<Metrics>) -> Self {
        let links = Arc::new(Links::default());
        let started = boottime();
        let news = Arc::new(News {
            metrics: metrics.clone(),
            spans: config.spans.clone(),
            started,
            ready: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            ready_changed: Notify::new(),
            due_sooner: Notify::new(),
        });
        let bounds = HubConfig {
            limits: config.limits,
            calls_open_max: config.calls_open_max,
            streams_max: config.streams_max,
            outbox_bytes_max: config.outbox_bytes_max,
            tracing: config.spans.are_wanted().then(|| Tracing {
                salt: wall_unix_ns(),
                every: config.traces_every,
                all_of_callers: config.traces_callers,
            }),
        };
        let cluster = Arc::<Served>::default();
        if let Some(told) = &config.cluster {
            cluster.take(&told.to_bytes()).expect("it is the first");
        }
        cluster.call(&config.cluster_name);
        let streams_max = config.streams_max;
        Self {
            unread: Quota::whole(config.unread_bytes_max),
            // A quarter for them, a half for Session streams; the rest is for what may not wait.
            calls: Quota::whole(streams_max / 4),
            seats: Seats::new(streams_max / 2, config.streams_per_ip_max, metrics.clone()),
            looks: Arc::new(Semaphore::new(LOOKS_MAX)),
            hub: Hub::new(bounds, links.clone(), news.clone()),
            config,
            metrics,
            news,
            stopping: CancellationToken::new(),
            masters,
            cluster,
            links,
            master_words: MasterWords::default(),
            lost: Mutex::default(),
            named: Mutex::default(),
            started,
        }
    }

    /// The gateway's clock. It goes on while the machine is suspended, as time does for what waits in
    /// its sockets.
    pub(super) fn now_us(&self) -> u64 {
        boottime().saturating_sub(self.started).as_micros() as u64
    }

    /// When the gateway's clock will read `at_us`, as tokio's timers take it.
    pub(super) fn instant(&self, at_us: u64) -> Instant {
        Instant::now() + Duration::from_micros(at_us.saturating_sub(self.now_us()))
    }

    /// A store is connected: calls go to it.
    pub(super) fn link_up(&self, store: StoreId, link: Arc<dyn StoreLink>) {
        self.links.insert(store, link);
        self.lost_stores().remove(&store);
        self.hub.link_up(self.now_us(), store);
    }

    /// The connection to a store has ended.
    pub(super) fn link_lost(&self, store: StoreId) {
        self.links.remove(store);
        // One that the masters do not name any more is missed by nobody.
        if self.named().contains_key(&store) {
            self.lost_stores().insert(store, Instant::now());
        }
        self.hub.link_lost(self.now_us(), store);
    }

    /// The masters have named a store.
    pub(super) fn store_named(&self, address: &StoreAddress) {
        self.named().insert(StoreId(address.store_id), address.clone());
    }

    /// They do not name it any more.
    pub(super) fn store_left(&self, store: StoreId) {
        self.named().remove(&store);
        self.lost_stores().remove(&store);
    }

    /// For how long stores that were connected are not, by id.
    pub(super) fn lost_for(&self) -> BTreeMap<u64, Duration> {
        self.lost_stores().iter().map(|(store, since)| (store.0, since.elapsed())).collect()
    }

    fn lost_stores(&self) -> MutexGuard<'_, BTreeMap<StoreId, Instant>> {
        // A panic cannot leave the map half changed.
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stores that the masters have named, in order of their ids.
    pub(super) fn named_stores(&self) -> Vec<StoreAddress> {
        self.named().values().cloned().collect()
    }

    fn named(&self) -> MutexGuard<'_, BTreeMap<StoreId, StoreAddress>> {
        // A panic cannot leave the map half changed.
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes what is counted in the core.
    pub(super) fn publish(&self) {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.calls_open.set(gauge(self.hub.calls_open()));
        self.metrics.outbox_bytes.set(gauge(self.hub.outbox_bytes()));
        self.metrics.unread_bytes.set(gauge(self.unread.used()));
        self.metrics.keepalive_items.set(gauge(self.hub.keepalive_items()));
        self.metrics.repeated_so_far(self.hub.keepalive_items_repeated());
    }
}

/// Time since the machine was started, suspension included.
fn boottime() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// The news of the core, counted and handed to the tasks that wait for them.
pub(super) struct News {
    metrics: Arc<Metrics>,
    spans: Spans,
    /// What `boottime` read when the gateway's clock began.
    started: Duration,
    ready: AtomicBool,
    /// The gateway stops: whatever is learnt meanwhile.
    stopped: AtomicBool,
    pub(super) ready_changed: Notify,
    pub(super) due_sooner: Notify,
}

impl News {
    /// Whether the gateway can serve; false before it does and once it stops.
    pub(super) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire) && !self.stopped.load(Ordering::Acquire)
    }

    /// It stops, and nothing makes it ready any more.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.metrics.ready.set(0);
    }
}

impl Observer for News {
    fn settled(&self, settled: Settled, now_us: u64) {
        self.metrics.settled(settled, now_us);
        if let Some(begun) = settled.span {
            let now = Some(Duration::from_micros(now_us));
            let mut span = begun.ended("gateway.acquire", SpanKind::Server, now);
            span.has_failed = settled.has_failed;
            let clock = || boottime().saturating_sub(self.started);
            self.spans.hand_on(vec![span], clock, wall_unix_ns);
        }
    }

    fn failed(&self, reason: Reason) {
        self.metrics.failed(reason);
    }

    fn stream_opened(&self) {
        self.metrics.streams.inc();
    }

    fn stream_closed(&self) {
        self.metrics.streams.dec();
    }

    fn event(&self) {
        self.metrics.events.inc();
    }

    fn event_dropped(&self) {
        self.metrics.events_dropped.inc();
    }

    fn overrun(&self) {
        self.metrics.overruns.inc();
    }

    fn late_reply(&self) {
        self.metrics.late_replies.inc();
    }

    fn stood_still(&self) {
        self.metrics.stalls.inc();
    }

    fn keepalive_batch(&self) {
        self.metrics.keepalive_batches.inc();
    }

    fn route_missed(&self, why: RouteMiss) {
        self.metrics.route_missed(why);
    }

    fn sent_again(&self) {
        self.metrics.sent_again.inc();
    }

    fn ready_changed(&self, ready: bool) {
        tracing::info!(ready, "the readiness of this gateway has changed");
        self.ready.store(ready, Ordering::Release);
        self.metrics.ready.set(i64::from(self.is_ready()));
        self.ready_changed.notify_one();
    }

    fn due_sooner(&self) {
        self.due_sooner.notify_one();
    }
}
