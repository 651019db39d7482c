//! The gRPC server around the cores: its parts, its settings, and the tasks that live as long as it.

mod acquire;
mod admin_service;
mod audit;
mod cluster;
mod cluster_view;
mod directory;
mod exchange;
mod fan_out;
mod host;
mod keep_alive;
mod links;
mod list;
mod listen;
mod lock_service;
#[cfg(test)]
mod many_ranges;
mod master_words;
mod metered;
mod metrics;
mod operator_words;
mod quota;
mod range_view;
mod remote_link;
mod seats;
mod session;
mod status;
mod stores;
mod unread;
mod verdict;
mod warnings;

use std::{
    num::NonZeroU64,
    sync::{Arc, Weak},
    time::Duration,
};

use prometheus::Registry;
use sharklock_proto::{
    ClusterId, DESCRIPTOR_SET,
    internal::v1::StoreReply,
    trace::Spans,
    v1::{admin_service_server::AdminServiceServer, lock_service_server::LockServiceServer},
};
use sharklock_transport::Dialling;
use tokio::{
    net::TcpListener,
    sync::mpsc,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, server::Router};
use tonic_health::{
    ServingStatus,
    pb::health_server::{Health, HealthServer},
    server::HealthReporter,
};
use tower::layer::util::{Identity, Stack};

use self::{
    cluster::NameCluster,
    host::{Host, News},
    listen::{Bounds, Shares},
    metered::Meter,
    metrics::Metrics,
};
pub use self::{directory::Directory, stores::Stores};
use crate::{Hub, StoreId, StoreLink, validate::RequestLimits};

/// Largest message that a client may send, also one of a Session stream.
const RECEIVED_BYTES_MAX: usize = 64 << 10;
/// Largest message that is sent.
const SENT_BYTES_MAX: usize = 4 << 20;
/// Calls of a connection at a time; a stream counts as one. tonic's default is no limit.
const STREAMS_PER_CONNECTION: u32 = 256;
/// Streams that a peer may have reset before they were taken (RUSTSEC-2023-0034); h2's default,
/// which tonic would keep, but a default is not a decision.
const PENDING_RESETS_MAX: usize = 20;
/// Streams that we may have reset for a peer's errors (RUSTSEC-2024-0003); tonic switches it off.
const ERROR_RESETS_MAX: usize = 1_024;
const HEADERS_BYTES_MAX: u32 = 16 << 10;
/// A peer that does not answer a ping is gone 15 s after its last word.
const PING_EVERY: Duration = Duration::from_secs(10);
const PONG_WITHIN: Duration = Duration::from_secs(5);
/// Bytes that a client may have sent on one stream, and on all of one connection, before they are
/// read: a stream that does not read its answers must leave room for the others' keepalives.
const STREAM_WINDOW_BYTES: u32 = 64 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 256 << 10;

/// How often gauges are published.
const PUBLISH_EVERY: Duration = Duration::from_secs(1);
/// How long calls may take to end when the gateway stops.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// Settings of a gateway.
#[derive(Clone, Debug)]
pub struct Config {
    /// Of this process, shown by `GetStatus`.
    pub version: String,
    /// What people call this process, shown by `GetStatus`.
    pub node: String,
    /// What people call the cluster; empty: nothing.
    pub cluster_name: String,
    /// Where this process serves metrics and health, shown by `GetStatus`.
    pub admin_address: String,
    /// The commit that the program was built from; empty: that was not recorded.
    pub commit: String,
    /// The cluster to serve; None: the first that masters or a store of this process name.
    pub cluster: Option<ClusterId>,
    /// Limits of requests.
    pub limits: RequestLimits,
    /// How long a unary call waits for a store's answer. A queued Acquire waits as long as it says.
    pub unary_deadline: Duration,
    /// The same for one without effects, which its caller may repeat: short enough that whoever asks for
    /// some seconds hears why there is no answer.
    pub look_deadline: Duration,
    /// Calls that wait for stores; acquires stop at half of it (D16).
    pub calls_open_max: usize,
    /// Session streams and unary calls open at a time: Session streams may use half of it, and unary
    /// calls that can wait a quarter, of which one address has a quarter.
    pub streams_max: usize,
    /// Session streams from one IP address. Beyond it a newcomer takes the place of one that holds
    /// nothing.
    pub streams_per_ip_max: usize,
    /// Until a new Session stream must have said something.
    pub first_word_within: Duration,
    /// Bytes of answers that wait for clients to read; from half of it on, streams that are more
    /// than 64 KiB behind are ended.
    pub outbox_bytes_max: usize,
    /// Bytes of answers handed to HTTP/2 that clients have not taken; one address may have a quarter
    /// of it. Beyond that, calls that can wait are refused.
    pub unread_bytes_max: usize,
    /// A connection is closed when nothing of an answer was taken for so long.
    pub read_within: Duration,
    /// Open connections; more are closed at once.
    pub connections_max: usize,
    /// Open connections from one IP address.
    pub connections_per_ip_max: usize,
    /// Until a new connection must have shown to be HTTP/2.
    pub preface_within: Duration,
    /// How stores are connected.
    pub dialling: Dialling,
    /// Audit lines have the names of locks, and not their hashes.
    pub logs_lock_names: bool,
    /// Where it hands the spans of traced calls.
    pub spans: Spans,
    /// Every acquire is traced whose caller keeps its trace.
    pub traces_callers: bool,
    /// Of so many other acquires one is traced; `None`: none is.
    pub traces_every: Option<NonZeroU64>,
}

impl Default for Config {
    /// Those of decisions.md, *Defaults*.
    fn default() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: String::new(),
            cluster_name: String::new(),
            admin_address: String::new(),
            commit: String::new(),
            cluster: None,
            limits: RequestLimits::default(),
            unary_deadline: Duration::from_secs(5),
            look_deadline: Duration::from_millis(2_500),
            calls_open_max: 65_536,
            streams_max: 65_536,
            streams_per_ip_max: 8_192,
            first_word_within: Duration::from_secs(10),
            outbox_bytes_max: 256 << 20,
            unread_bytes_max: 256 << 20,
            read_within: Duration::from_secs(30),
            connections_max: 10_000,
            connections_per_ip_max: 1_000,
            preface_within: Duration::from_secs(5),
            dialling: Dialling::default(),
            logs_lock_names: false,
            spans: Spans::default(),
            traces_callers: true,
            traces_every: None,
        }
    }
}

/// Whether the gateway can serve: it knows the range of every name, and a store answers. For
/// `/readyz`.
#[derive(Clone)]
pub struct Readiness {
    news: Arc<News>,
    /// Whoever asks keeps no links open.
    hub: Weak<Hub>,
    cluster: Arc<cluster::Served>,
}

impl Readiness {
    /// As of now; false before the gateway serves and once it stops.
    pub fn is_ready(&self) -> bool {
        self.news.is_ready()
    }

    /// The id of the cluster that it serves, as hex; None: it has heard of none yet.
    pub fn cluster_id(&self) -> Option<String> {
        self.cluster.id().map(str::to_owned)
    }

    /// What it lacks, in words; None: it is ready.
    pub fn lacks(&self) -> Option<String> {
        let lacks = || self.hub.upgrade()?.lacks();
        (!self.is_ready()).then(|| lacks().unwrap_or_else(|| "it starts or stops".to_owned()))
    }

    /// What calls may meet although it is ready, in words: ranges without leaders, which no gateway
    /// can do anything about.
    pub fn remark(&self) -> Option<String> {
        self.hub.upgrade()?.remark()
    }
}

/// Why a gateway stopped before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The transport failed.
    #[error("the gRPC server failed")]
    Transport(#[from] tonic::transport::Error),
    /// The public API's descriptors cannot be served: a build went wrong.
    #[error("the API's descriptors are malformed")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The links to all stores have ended, and there are no masters to name others.
    #[error("the stores have gone")]
    StoresGone,
}

/// A connection to a store.
pub struct StoreConnection {
    /// The store's cluster.
    pub cluster_id: ClusterId,
    /// The store.
    pub store: StoreId,
    /// The way of calls.
    pub link: Arc<dyn StoreLink>,
    /// The source of replies and events. Its end is the end of the connection.
    pub replies: mpsc::Receiver<Vec<StoreReply>>,
}

/// A gateway that is ready to serve.
pub struct Gateway {
    host: Arc<Host>,
    stores: Stores,
    by_hand: mpsc::Receiver<StoreConnection>,
}

impl Gateway {
    /// A gateway that reaches the stores that the masters name, and those that [`stores`] is given.
    /// Without masters it serves until the last of the latter is gone.
    ///
    /// # Errors
    /// The registry has metrics of these names.
    ///
    /// [`stores`]: Self::stores
    pub fn new(
        config: Config,
        masters: Option<Arc<dyn Directory>>,
        registry: &Registry,
    ) -> Result<Self, prometheus::Error> {
        let metrics = Arc::new(Metrics::new(registry)?);
        let (stores, by_hand) = Stores::new();
        Ok(Self { host: Arc::new(Host::new(config, masters, metrics)), stores, by_hand })
    }

    /// The door at which stores of the same process are connected, before the gateway serves or
    /// meanwhile.
    pub fn stores(&self) -> Stores {
        self.stores.clone()
    }

    /// To be asked while the gateway serves.
    pub fn readiness(&self) -> Readiness {
        let (news, hub) = (self.host.news.clone(), Arc::downgrade(&self.host.hub));
        Readiness { news, hub, cluster: self.host.cluster.clone() }
    }

    /// Serves until `shutdown`: then health says so, nothing new is accepted, what was asked is still
    /// answered, and streams and waits end with `SHUTTING_DOWN`; within 5 s in all. Nothing is
    /// cancelled or released.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: CancellationToken,
    ) -> Result<(), ServeError> {
        let Self { host, stores, by_hand } = self;
        // Only others may still connect stores.
        drop(stores);
        let (health, health_service) = tonic_health::server::health_reporter();
        let mut tasks = JoinSet::new();
        let dispatching = tasks.spawn(stores::keep_all(host.clone(), by_hand));
        tasks.spawn(publish(host.clone()));
        tasks.spawn(master_words::keep_asking(host.clone()));

        let (accepted, connections) = mpsc::channel(listen::ACCEPTED_MAX);
        let bounds = Bounds {
            connections_max: host.config.connections_max,
            connections_per_ip_max: host.config.connections_per_ip_max,
            waits_per_connection: STREAMS_PER_CONNECTION as usize / 2,
            preface_within: host.config.preface_within,
            read_within: host.config.read_within,
        };
        let shares = Shares { unread: host.unread.clone(), calls: host.calls.clone() };
        let stopping = host.stopping.clone();
        tasks.spawn(listen::accept(
            listener,
            (bounds, shares),
            host.metrics.clone(),
            stopping.clone(),
            accepted,
        ));
        for name in ["", lock_service::NAME] {
            health.set_service_status(name, ServingStatus::Serving).await;
        }
        health.set_service_status(READINESS, ServingStatus::NotServing).await;
        tasks.spawn(tick(host.clone()));
        let reporting = tasks.spawn(report_readiness(host.clone(), health.clone()));
        let server = services(&host, health_service)?.serve_with_incoming_shutdown(
            ReceiverStream::new(connections),
            stopping.clone().cancelled_owned(),
        );
        let mut server = std::pin::pin!(server);
        let mut gone = false;
        let early = tokio::select! {
            served = &mut server => Some(served),
            () = shutdown.cancelled() => None,
            _ = tasks.join_next() => {
                // Every other task lives until it is aborted.
                gone = dispatching.is_finished();
                None
            }
        };
        // Calls that were asked are still answered, but nothing makes the gateway ready any more.
        reporting.abort();
        host.news.stop();
        for name in ["", lock_service::NAME, READINESS] {
            health.set_service_status(name, ServingStatus::NotServing).await;
        }
        stopping.cancel();
        let served = match early {
            Some(served) => served,
            // A client that still reads slowly has had its time; its wishes are done or in the log.
            None => timeout(STOP_WITHIN, server).await.unwrap_or(Ok(())),
        };
        tasks.shutdown().await;
        served?;
        if gone { Err(ServeError::StoresGone) } else { Ok(()) }
    }
}

/// The health service's name for [`Readiness`].
const READINESS: &str = "readiness";

/// Around all services, from the inside out.
type Layers = Stack<NameCluster, Stack<Meter, Identity>>;

/// Every limit that tonic would leave open, set (gateway.md, *Limits of the server*). No
/// server-wide timeout, load shedding or rate limit: they would hit waits, keepalives and releases.
fn server() -> Server<Stack<Meter, Identity>> {
    Server::builder()
        .layer(Meter)
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS_MAX))
        .http2_max_local_error_reset_streams(Some(ERROR_RESETS_MAX))
        .http2_max_header_list_size(HEADERS_BYTES_MAX)
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PONG_WITHIN))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
}

/// Everything that answers on the gateway's port.
fn services(
    host: &Arc<Host>,
    health: HealthServer<impl Health>,
) -> Result<Router<Layers>, tonic_reflection::server::Error> {
    let locks = LockServiceServer::new(lock_service::Locks::new(host.clone()))
        .max_decoding_message_size(RECEIVED_BYTES_MAX)
        .max_encoding_message_size(SENT_BYTES_MAX);
    let admin = AdminServiceServer::new(admin_service::Admin::new(host.clone()))
        .max_decoding_message_size(RECEIVED_BYTES_MAX)
        .max_encoding_message_size(SENT_BYTES_MAX);
    Ok(server()
        .layer(NameCluster(host.cluster.clone()))
        .add_service(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .add_service(locks)
        .add_service(admin))
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

/// Lets the core do what is due.
async fn tick(host: Arc<Host>) {
    loop {
        host.hub.tick(host.now_us());
        let due = host.instant(host.hub.next_due_us());
        tokio::select! {
            () = sleep_until(due) => {}
            () = host.news.due_sooner.notified() => {}
        }
    }
}

async fn publish(host: Arc<Host>) {
    let mut ticks = interval(PUBLISH_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        host.publish();
    }
}

/// Keeps the health service's word about readiness true.
async fn report_readiness(host: Arc<Host>, health: HealthReporter) {
    loop {
        let ready = host.news.is_ready();
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        health.set_service_status(READINESS, status).await;
        host.news.ready_changed.notified().await;
    }
}
