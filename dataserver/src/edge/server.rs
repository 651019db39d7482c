//! A data server: one store, its workers, its disk, its port.

use std::{
    io,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread::JoinHandle,
    time::Duration,
};

use prometheus::Registry;
use sharklock_multiraft::{
    Config, Disk, LogLimits, OpenError, RecoverError, RocksDisk, SnapshotLimits, Store, StoreIdent,
    count_start, data_dir, give_back_start, init_store, read_ident,
};
use sharklock_proto::{
    Life, Start,
    internal::v1::{StoreAddress, StoreReply},
    trace::Spans,
};
use sharklock_transport::{
    AdminApi, Dialling, FramePeers, LockApi, Masters, PeerAcceptor, PeerIdentity, PeerInbox,
    PeerLinks, WrongPort, serve, server, wrong_port,
};
use tokio::{
    net::TcpListener,
    runtime::Handle,
    sync::{mpsc as tokio_mpsc, watch},
    task::AbortHandle,
};
use tokio_util::sync::CancellationToken;

use crate::{
    assignment::Assignment,
    edge::{
        board::Board,
        chores,
        clock::ServerClock,
        disk_space,
        disk_thread::{self, SyncTimes, Writer},
        exchange::Exchanges,
        heartbeat::{Bulletin, Heart},
        inbox::Inbox,
        known_masters::{KnownMasters, known_masters},
        links::{Links, LocalLink},
        metrics::Metrics,
        own_runtime::OwnRuntime,
        porter::Porter,
        registration::{self, Applicant, Registered},
        split_ids::IdsClerk,
        worker_thread::{Shared, WorkerThread},
    },
    machine::LockRange,
    memory::MemoryBounds,
    ports::Pace,
    triggers::SplitLimits,
    worker::Worker,
};

/// How long a stopping store waits for its port to close and for its good-bye.
const TASKS_END_WITHIN: Duration = Duration::from_secs(2);
/// The speaker on the streams to other stores, which all workers of a store share: their ranges are
/// others' at the other end, and one stream keeps the order of each range.
const WORKER: u32 = 0;

/// How to start a data server.
#[derive(Debug)]
pub struct DataServerConfig {
    /// The directory of the store; it is made if it does not exist.
    pub data_dir: PathBuf,
    /// The listener at which peers and gateways connect.
    pub listener: TcpListener,
    /// The address (`HOST:PORT`) at which they find it.
    pub advertise: String,
    /// Where it is, from the widest to the narrowest: `zone` `b`, `host` `h7`. The masters keep the
    /// replicas of a range apart by them.
    pub labels: Vec<(String, String)>,
    /// What people call its process.
    pub node: String,
    /// Where its process serves metrics and health, for those who ask the cluster; empty: nowhere.
    pub admin_address: String,
    /// The masters, who give the store its id and know the others.
    pub masters: Masters,
    /// How it connects to the others.
    pub dialling: Dialling,
    /// The knobs that operators may turn.
    pub tuning: Tuning,
    /// How many raft workers share its ranges out. It may differ from start to start.
    pub raft_workers: NonZeroUsize,
    /// How much memory its locks may take, on this server.
    pub memory: MemoryBounds,
    /// Replicas that it may have: no range that it leads is split beyond that.
    pub ranges_max: usize,
    /// Beyond these the ranges that it leads are split.
    pub split_limits: SplitLimits,
    /// False breaks durability: acknowledged grants may be lost with the machine. Benchmarks only.
    pub sync_writes: bool,
    /// The registry of its metrics.
    pub registry: Registry,
    /// Where it hands the spans of traced calls.
    pub spans: Spans,
}

/// The knobs that operators may turn, equal on all stores of a cluster (decisions.md, *Defaults*).
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// Ticks, elections, flushes.
    pub pace: Pace,
    /// How much log each range keeps.
    pub log: LogLimits,
    /// How snapshots travel.
    pub snapshots: SnapshotLimits,
    /// How often the masters hear of this store if nothing changes.
    pub heartbeat_every: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            pace: Pace::default(),
            log: LogLimits::default(),
            snapshots: SnapshotLimits::default(),
            heartbeat_every: Duration::from_secs(1),
        }
    }
}

/// Why a data server does not start. One line each, for people.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The directory cannot be made or used.
    #[error("data directory {}: {source}", path.display())]
    DataDir {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The store cannot be opened: in use, or not a store.
    #[error("data directory {}: {source}", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        source: OpenError,
    },
    /// The records on the disk cannot be recovered, or were written by another version.
    #[error("data directory {}: {source}", path.display())]
    Recover {
        /// Which.
        path: PathBuf,
        /// Why.
        source: RecoverError,
    },
    /// The masters know this start of the directory, or a later one: it was put back from an older
    /// copy, or is a copy.
    #[error("{0}")]
    OlderCopy(String),
    /// The masters do not take this store in: a copied or wiped directory, another cluster.
    #[error("{0}")]
    Refused(String),
    /// A metric is registered twice.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// A thread cannot be made.
    #[error("thread: {0}")]
    Thread(io::Error),
}

/// A running data server. Dropping it without [`stop`](Self::stop) leaves its threads to the end
/// of the process, which loses nothing that was acknowledged.
#[derive(Debug)]
pub struct DataServer {
    porter: Arc<Porter>,
    links: Arc<Links>,
    ready: watch::Receiver<bool>,
    ailing: watch::Receiver<Vec<String>>,
    ident: StoreIdent,
    address: String,
    threads: Vec<JoinHandle<()>>,
    tasks: Vec<AbortHandle>,
    /// Closed with the last of them.
    tasks_end: mpsc::Receiver<()>,
    stopping: CancellationToken,
}

impl DataServer {
    /// Opens the store, registers it at the masters (a fresh one gets its id from them), recovers
    /// it, and serves. Asks for as long as no leading master answers; to be called inside a tokio
    /// runtime.
    ///
    /// # Errors
    /// The directory cannot be used, or the masters refuse the store.
    pub async fn start(config: DataServerConfig) -> Result<Self, StartError> {
        let (mut disk, mut applicant) = Opened::open(&config)?.into_applicant(&config)?;
        let Registered { ident, stores } = register(&config, &mut disk, &applicant).await?;
        if applicant.known.replace(ident).is_none() {
            disk.write(&init_store(&ident), true).map_err(|error| StartError::DataDir {
                path: config.data_dir.clone(),
                source: io::Error::other(error),
            })?;
        }
        let path = config.data_dir.clone();
        data_dir::forget_identity(&path)
            .map_err(|source| StartError::DataDir { path: path.clone(), source })?;
        let engine = engine_config(&config.tuning);
        let shares = Store::<LockRange>::recover_shares(engine, &disk, config.raft_workers)
            .map_err(|source| StartError::Recover { path, source })?;
        Self::spawn(config, disk, shares, (ident, applicant.start), &stores)
    }

    /// Connects a gateway of the same process.
    pub fn connect(&self) -> (LocalLink, tokio_mpsc::Receiver<Vec<StoreReply>>) {
        LocalLink::connect(&self.porter, &self.links)
    }

    /// True while every range here knows a leader, which a store without ranges fulfils.
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.clone()
    }

    /// The replicas that do not follow their ranges, since its disk counts as lost to them or this
    /// program is too old for them, each with why, in words for people: with one it is not ready.
    pub fn ailing(&self) -> watch::Receiver<Vec<String>> {
        self.ailing.clone()
    }

    /// The address at which peers and gateways find it.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The store's identity.
    pub fn ident(&self) -> &StoreIdent {
        &self.ident
    }

    /// Hands leadership over, finishes what is on its way, writes the image, and ends. Blocks for
    /// some seconds at most.
    pub fn stop(self) {
        self.porter.close();
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a store's thread has panicked");
            }
        }
        self.stopping.cancel();
        // The tasks end by themselves, within a second or so: the port is free then, and the
        // masters know that the next process need not wait.
        if self.tasks_end.recv_timeout(TASKS_END_WITHIN) == Err(RecvTimeoutError::Timeout) {
            self.tasks.iter().for_each(AbortHandle::abort);
        }
    }

    fn spawn(
        config: DataServerConfig,
        disk: RocksDisk,
        shares: Vec<Store<LockRange>>,
        (ident, start): (StoreIdent, Start),
        stores: &[StoreAddress],
    ) -> Result<Self, StartError> {
        let metrics = Metrics::register(&config.registry)?;
        let address = config.advertise.clone();
        let porter = Arc::new(Porter::new(table_of(&shares, config.raft_workers)));
        let links = Arc::new(Links::default());
        let stopping = CancellationToken::new();
        let runtimes = shares.iter().map(|_| OwnRuntime::start()).collect::<Result<Vec<_>, _>>();
        let runtimes = runtimes.map_err(StartError::Thread)?;
        let appends_on = appends_on(&runtimes);
        let (peers, acceptor) = peers(&config, &ident, &porter, stopping.clone());
        let peers = Arc::new(peers.with_appends_on(appends_on.clone()));
        let known = registration::peers(stores);
        acceptor.set_peers(&known);
        peers.set_peers(known);
        let frames = FramePeers { acceptor: acceptor.clone(), runtime: appends_on };
        let bulletin = Arc::new(Bulletin::new(shares.len()));
        let board = Arc::new(Board::new(shares.len(), metrics.clone()));
        disk_space::look(&config.data_dir, &board);
        let space = disk_space::watch(config.data_dir.clone(), board.clone(), stopping.clone());
        let (ready, ailing) = (board.ready(), board.ailing());
        let sync_times = Arc::new(SyncTimes::default());
        let (batch_sender, batch_receiver) = mpsc::sync_channel(shares.len());
        let (chore_sender, chore_receiver) = mpsc::channel();
        let reader = disk.reader();
        let tick = config.tuning.pace.tick;
        let times = Arc::clone(&sync_times);
        let writer = Writer::new(disk, config.sync_writes, tick, times, metrics.clone());
        let writer = Arc::new(writer);
        let (ids, clerk) =
            IdsClerk::new(ident.cluster_id, config.masters.clone(), Arc::clone(&porter));
        let shared = Shared {
            porter: Arc::clone(&porter),
            links: Arc::clone(&links),
            peers: Arc::clone(&peers),
            bulletin: Arc::clone(&bulletin),
            board,
            batches: batch_sender,
            chores: chore_sender,
            ids,
            writer: Arc::clone(&writer),
            sync_times,
            metrics,
            spans: config.spans,
            hand_over_within: config.tuning.pace.election_max(),
            address: config.advertise,
            node: config.node,
            admin_address: config.admin_address,
        };
        let wrong = wrong_port("data", &shared.node);
        let (disk_porter, chore_porter) = (Arc::clone(&porter), Arc::clone(&porter));
        let mut threads = vec![
            spawn("store-chores", move || {
                chores::run(&reader, &chore_receiver, chore_porter.mailboxes());
            })?,
            spawn("store-disk", move || {
                disk_thread::run(&writer, &batch_receiver, disk_porter.mailboxes());
            })?,
        ];
        for (number, (share, runtime)) in shares.into_iter().zip(runtimes).enumerate() {
            let mut clock = ServerClock::start();
            let worker = Worker::new(clock.now(), share, config.tuning.pace)
                .with_number(number)
                .with_memory_bounds(config.memory.clone())
                .with_ranges_max(config.ranges_max)
                .with_split_limits(config.split_limits)
                .with_traces(shared.spans.are_wanted())
                .with_apply_meter(Arc::new(shared.metrics.locks_observed.apply_meter()));
            let worker_thread = WorkerThread {
                number,
                worker,
                clock,
                mailbox: Arc::clone(&porter.mailboxes()[number]),
                shared: shared.clone(),
                was_ready: false,
                ailing: Vec::new(),
            };
            threads
                .push(spawn(&format!("store-raft-{number}"), move || worker_thread.run(&runtime))?);
        }
        let exchanges = Exchanges::new(Arc::clone(&porter), Arc::clone(&links), stopping.clone());
        let heart = Heart {
            ident,
            start,
            masters: config.masters,
            known_masters: KnownMasters::of(&config.data_dir),
            bulletin,
            every: config.tuning.heartbeat_every,
            porter: Arc::clone(&porter),
            links: peers,
            acceptor: acceptor.clone(),
        };
        let port = port(config.listener, frames, exchanges, stopping.clone(), wrong);
        let (alive, tasks_end) = mpsc::channel::<()>();
        let tasks = vec![
            spawn_counted(port, alive.clone()),
            spawn_counted(clerk.serve(stopping.clone()), alive.clone()),
            spawn_counted(space, alive.clone()),
            spawn_counted(heart.beat(stopping.clone()), alive),
        ];
        Ok(Self {
            porter,
            links,
            ready,
            ailing,
            ident,
            address,
            threads,
            tasks,
            tasks_end,
            stopping,
        })
    }
}

/// Asks the masters to take the store in. A start that they refuse for its number does not count.
async fn register(
    config: &DataServerConfig,
    disk: &mut RocksDisk,
    applicant: &Applicant,
) -> Result<Registered, StartError> {
    let remembered = known_masters(&config.data_dir);
    let registered = registration::register(&config.masters, applicant, &remembered).await;
    if let Err(StartError::OlderCopy(_)) = &registered {
        let path = config.data_dir.clone();
        give_back_start(disk, applicant.start.number)
            .map_err(|source| StartError::Recover { path, source })?;
    }
    registered
}

/// The table of ranges at the start.
fn table_of(shares: &[Store<LockRange>], workers: NonZeroUsize) -> Assignment {
    let mut table = Assignment::new(workers);
    shares.iter().enumerate().for_each(|(worker, share)| table.begin(worker, share.held()));
    table
}

/// A task that holds `alive` for as long as it runs.
fn spawn_counted(
    task: impl Future<Output = ()> + Send + 'static,
    alive: mpsc::Sender<()>,
) -> AbortHandle {
    let counted = async move {
        task.await;
        drop(alive);
    };
    tokio::spawn(counted).abort_handle()
}

/// Serves peers and gateways until `stopping`. A port that fails is a store that nobody hears: the
/// process must not go on as if it were one.
async fn port(
    listener: TcpListener,
    frames: FramePeers,
    exchanges: Exchanges,
    stopping: CancellationToken,
    wrong: String,
) {
    let router = server()
        .add_service(frames.acceptor.clone().into_service())
        .add_service(exchanges.into_service())
        .add_service(WrongPort::<LockApi>::new(wrong.clone()))
        .add_service(WrongPort::<AdminApi>::new(wrong));
    if let Err(error) = serve(router, listener, Some(frames), stopping).await {
        panic!("the data port has failed: {error}");
    }
}

/// The streams to and from other stores.
fn peers(
    config: &DataServerConfig,
    ident: &StoreIdent,
    porter: &Arc<Porter>,
    stopping: CancellationToken,
) -> (PeerLinks, PeerAcceptor) {
    let me = PeerIdentity {
        cluster_id: ident.cluster_id,
        store: ident.store.0,
        ident: ident.ident,
        worker: WORKER,
        role: "data",
    };
    let inbox: Arc<dyn PeerInbox> = Arc::new(Inbox(Arc::clone(porter)));
    let acceptor = PeerAcceptor::new(me.clone(), Arc::clone(&inbox), stopping);
    let links = PeerLinks::start(me, config.dialling, inbox);
    (links, acceptor)
}

/// A directory, and whose it is.
struct Opened {
    disk: RocksDisk,
    known: Option<StoreIdent>,
}

impl Opened {
    fn open(config: &DataServerConfig) -> Result<Self, StartError> {
        let path = &config.data_dir;
        std::fs::create_dir_all(path)
            .map_err(|source| StartError::DataDir { path: path.clone(), source })?;
        let disk = RocksDisk::open(path)
            .map_err(|source| StartError::Open { path: path.clone(), source })?;
        let known = read_ident(&disk)
            .map_err(|source| StartError::Recover { path: path.clone(), source })?;
        Ok(Self { disk, known })
    }

    /// Counts this start, before anybody hears of it.
    fn into_applicant(
        mut self,
        config: &DataServerConfig,
    ) -> Result<(RocksDisk, Applicant), StartError> {
        let dir: &Path = &config.data_dir;
        let unusable = |source| StartError::DataDir { path: dir.to_owned(), source };
        let ident = match self.known {
            Some(known) => known.ident,
            None => data_dir::identity(dir).map_err(unusable)?,
        };
        let life = Life::from_bytes(data_dir::random().map_err(unusable)?);
        let number = count_start(&mut self.disk)
            .map_err(|source| StartError::Recover { path: dir.to_owned(), source })?;
        let start = Start { number, life };
        let applicant = Applicant {
            ident,
            known: self.known,
            advertise: config.advertise.clone(),
            start,
            labels: config.labels.clone(),
            node: config.node.clone(),
        };
        Ok((self.disk, applicant))
    }
}

/// Where appends are sent and read: on the thread of the only worker, which needs no other for them
/// then. Several workers would wait for the one that has them, so the process's runtime does it.
fn appends_on(workers: &[OwnRuntime]) -> Handle {
    match workers {
        [only] => only.handle(),
        _ => Handle::current(),
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StartError> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body).map_err(StartError::Thread)
}

fn engine_config(tuning: &Tuning) -> Config {
    let (log, snapshots) = (tuning.log, tuning.snapshots);
    Config { log, snapshots, ..Config::default() }
}
