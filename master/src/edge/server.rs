//! A master: its directory, its port, its thread.

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use prometheus::Registry;
use sharklock_multiraft::{
    Config, Disk, LogLimits, OpenError, RecoverError, RocksDisk, SnapshotLimits, Store, StoreIdent,
    bootstrap, data_dir, election_max, election_seed, read_ident,
};
use sharklock_proto::{
    ClusterId, Identity,
    internal::v1::{
        master_service_server::MasterServiceServer, peer_service_server::PeerServiceServer,
    },
};
use sharklock_rangemap::{Bounds, Descriptor, Epoch, PeerId, Replica, Role, StoreId};
use sharklock_transport::{
    Dialling, Masters, PeerAcceptor, PeerAddress, PeerIdentity, PeerLinks, serve, server,
};
use tokio::{net::TcpListener, sync::watch, task::AbortHandle};
use tokio_util::sync::CancellationToken;

use super::{
    desk::{Desk, POST_MAX},
    files,
    meeting::meet_all,
    metrics::Metrics,
    service::Service,
    thread::Thread,
};
use crate::{
    core::{GROUP, MasterCore, Settings},
    formation::{Formation, FormationError, Formed},
    presence::SilenceLimits,
    state::ClusterState,
};

/// Largest frame of another master, as between data servers.
const FRAME_BYTES_MAX: usize = 32 << 20;

/// How to start a master.
#[derive(Debug)]
pub struct MasterConfig {
    /// The directory of its store; it is made if it does not exist.
    pub data_dir: PathBuf,
    /// The address (`HOST:PORT`) by which the others name it; one of `masters`.
    pub advertise: String,
    /// All masters: 1, 3 or 5, the same list on each.
    pub masters: Vec<String>,
    /// Replicas of the cluster's first range, 1 to 9: it is made once so many stores have registered.
    pub replicas: u32,
    /// How it connects to the others.
    pub dialling: Dialling,
    /// The knobs that operators may turn.
    pub tuning: Tuning,
    /// False breaks durability: acknowledged writes may be lost with the machine. Benchmarks only.
    pub sync_writes: bool,
    /// The registry of its metrics.
    pub registry: Registry,
}

/// The knobs that operators may turn, equal on all masters (decisions.md, *Defaults*).
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// Raft's tick.
    pub tick: Duration,
    /// How often changed rows are written to the image.
    pub flush: Duration,
    /// When silent stores count as what.
    pub limits: SilenceLimits,
    /// How much log is kept.
    pub log: LogLimits,
    /// How snapshots travel.
    pub snapshots: SnapshotLimits,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            tick: Duration::from_millis(100),
            flush: Duration::from_millis(300),
            limits: SilenceLimits::default(),
            log: LogLimits::default(),
            snapshots: SnapshotLimits::default(),
        }
    }
}

/// Why a master does not start. One line each, for people.
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
    /// It does not fit to the other masters.
    #[error(transparent)]
    Formation(#[from] FormationError),
    /// An address is none.
    #[error("{0}")]
    Address(String),
    /// A metric is registered twice.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// A thread cannot be made.
    #[error("thread: {0}")]
    Thread(io::Error),
}

/// A running master. Dropping it without [`stop`](Self::stop) leaves its thread to the end of the
/// process, which loses nothing that was acknowledged.
#[derive(Debug)]
pub struct Master {
    desk: Desk,
    cluster_id: ClusterId,
    ready: watch::Receiver<bool>,
    ailing: watch::Receiver<Option<String>>,
    thread: JoinHandle<()>,
    port: Port,
    stopping: CancellationToken,
}

impl Master {
    /// Opens its store, meets the other masters if it belongs to no cluster yet (for as long as that
    /// takes), and serves on `listener`. To be called inside a tokio runtime.
    ///
    /// # Errors
    /// The directory cannot be used, or this master cannot belong to the others' cluster.
    pub async fn start(config: MasterConfig, listener: TcpListener) -> Result<Self, StartError> {
        let dir = config.data_dir.clone();
        let unusable = |source| StartError::DataDir { path: dir.clone(), source };
        std::fs::create_dir_all(&dir).map_err(unusable)?;
        let disk = RocksDisk::open(&dir)
            .map_err(|source| StartError::Open { path: dir.clone(), source })?;
        let ident = data_dir::identity(&dir).map_err(unusable)?;
        let me = config.advertise.as_str();
        let formation = match files::formed(&dir).map_err(unusable)? {
            Some(formed) => Formation::again(me, ident, &config.masters, formed)?,
            None => Formation::new(me, ident, &config.masters)?,
        };
        let masters =
            Masters::new(config.masters.clone(), config.dialling).map_err(StartError::Address)?;
        let stopping = CancellationToken::new();
        let service = Service::new(formation, stopping.clone());
        let port = port(listener, service.clone(), stopping.clone());
        let port = Port(tokio::spawn(port).abort_handle());
        let formed = meet_all(&service, &masters).await?;
        files::keep_formed(&dir, &formed).map_err(unusable)?;
        let member = Member { ident, formed };
        let store = member.recover(&config, disk)?;
        Self::spawn(&config, store, &member, (service, port, stopping))
    }

    /// True while some master leads, as far as this one knows.
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.clone()
    }

    /// Why it does not follow the others, since its disk counts as lost or its program is too old,
    /// in words for people: it is not ready then.
    pub fn ailing(&self) -> watch::Receiver<Option<String>> {
        self.ailing.clone()
    }

    /// The cluster.
    pub fn cluster_id(&self) -> ClusterId {
        self.cluster_id
    }

    /// Lets another master lead, writes the image, and ends. Blocks for some seconds at most.
    pub fn stop(self) {
        self.desk.stop();
        if self.thread.join().is_err() {
            tracing::error!("a master's thread has panicked");
        }
        self.stopping.cancel();
        drop(self.port);
    }

    fn spawn(
        config: &MasterConfig,
        (disk, store): (RocksDisk, Store<ClusterState>),
        member: &Member,
        (service, port, stopping): (Service, Port, CancellationToken),
    ) -> Result<Self, StartError> {
        let metrics = Metrics::register(&config.registry)?;
        let (posts, post) = mpsc::sync_channel(POST_MAX);
        let desk = Desk(posts);
        let me = member.identity(&config.advertise);
        let inbox = Arc::new(desk.clone());
        let acceptor = PeerAcceptor::new(me.clone(), inbox.clone(), stopping.clone());
        let peers = Arc::new(PeerLinks::start(me, config.dialling, inbox));
        let others = member.peers();
        acceptor.set_peers(&others);
        peers.set_peers(others);
        let (ready_sender, ready) = watch::channel(false);
        let (ailing_sender, ailing) = watch::channel(None);
        let tuning = config.tuning;
        let settings = Settings {
            cluster_id: member.formed.cluster_id(),
            members: member.addresses(),
            replicas: config.replicas,
            limits: tuning.limits,
            tick: tuning.tick,
            flush: tuning.flush,
        };
        let thread = Thread {
            core: MasterCore::new(Duration::ZERO, settings, store),
            disk,
            sync_writes: config.sync_writes,
            post,
            peers,
            metrics,
            ready: ready_sender,
            ailing: ailing_sender,
            started: now(),
            hand_over_within: election_max(tuning.tick),
        };
        let thread = std::thread::Builder::new()
            .name("master-raft".to_owned())
            .spawn(move || thread.run())
            .map_err(StartError::Thread)?;
        service.open(desk.clone(), acceptor);
        let cluster_id = member.formed.cluster_id();
        Ok(Self { desk, cluster_id, ready, ailing, thread, port, stopping })
    }
}

/// This master in its cluster.
struct Member {
    ident: Identity,
    formed: Formed,
}

impl Member {
    /// The store on the disk; a fresh one begins with the group of all members.
    fn recover(
        &self,
        config: &MasterConfig,
        mut disk: RocksDisk,
    ) -> Result<(RocksDisk, Store<ClusterState>), StartError> {
        let path = &config.data_dir;
        let corrupt = |source| StartError::Recover { path: path.clone(), source };
        let unusable = |source| StartError::DataDir { path: path.clone(), source };
        let ident = self.store_ident(&config.advertise);
        match read_ident(&disk).map_err(corrupt)? {
            Some(known) if known == ident => {}
            Some(_) => return Err(FormationError::OtherCluster(config.advertise.clone()).into()),
            // A directory that lost its store must not begin anew: it could vote twice in a term.
            None if files::has_begun(path).map_err(unusable)? => {
                return Err(FormationError::Wiped(config.advertise.clone()).into());
            }
            None => {
                let first = bootstrap(&ident, &self.group());
                disk.write(&first, true).map_err(|error| unusable(io::Error::other(error)))?;
            }
        }
        files::keep_begun(path).map_err(unusable)?;
        let Tuning { log, snapshots, .. } = config.tuning;
        let election_seed = election_seed(self.ident);
        let engine = Config { election_seed, log, snapshots, ..Config::default() };
        let store = Store::recover(engine, &disk).map_err(corrupt)?;
        Ok((disk, store))
    }

    fn store_ident(&self, me: &str) -> StoreIdent {
        let cluster_id = self.formed.cluster_id();
        let member = self.formed.member_id(me).expect("a member is in its formation");
        StoreIdent { cluster_id, store: StoreId(member), ident: self.ident }
    }

    /// The masters' Raft group: every member votes.
    fn group(&self) -> Descriptor {
        let members = 1..=self.formed.members.len() as u64;
        let voter = |id| Replica { peer: PeerId(id), store: StoreId(id), role: Role::Voter };
        let epoch = Epoch { conf_ver: 1, version: 1 };
        Descriptor::new(GROUP, Bounds::ALL, epoch, members.map(voter).collect())
    }

    fn identity(&self, me: &str) -> PeerIdentity {
        let StoreIdent { cluster_id, store, ident } = self.store_ident(me);
        PeerIdentity { cluster_id, store: store.0, ident, worker: 0 }
    }

    fn addresses(&self) -> BTreeMap<StoreId, String> {
        (1..).map(StoreId).zip(self.formed.members.keys().cloned()).collect()
    }

    fn peers(&self) -> BTreeMap<u64, PeerAddress> {
        let peer = |(address, ident): (&String, &Identity)| PeerAddress {
            ident: *ident,
            address: address.clone(),
        };
        (1..).zip(self.formed.members.iter().map(peer)).collect()
    }
}

/// The task that serves the port; ends with this value.
#[derive(Debug)]
struct Port(AbortHandle);

impl Drop for Port {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Serves until `stopping`. A port that fails is a master that nobody hears: the process must not
/// go on as if it were one.
async fn port(listener: TcpListener, service: Service, stopping: CancellationToken) {
    let peers = PeerServiceServer::new(service.clone()).max_decoding_message_size(FRAME_BYTES_MAX);
    let router = server().add_service(MasterServiceServer::new(service)).add_service(peers);
    if let Err(error) = serve(router, listener, stopping).await {
        panic!("the master port has failed: {error}");
    }
}

#[expect(clippy::disallowed_methods, reason = "an edge: the core's clock begins here")]
fn now() -> Instant {
    Instant::now()
}
