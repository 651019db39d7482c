//! A master: its directory, its port, its thread.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use prometheus::Registry;
use sharklock_multiraft::{
    LogLimits, OpenError, RecoverError, RocksDisk, SnapshotLimits, Store, data_dir, election_max,
};
use sharklock_proto::{
    ClusterId, Identity,
    internal::v1::{
        master_service_server::MasterServiceServer, peer_service_server::PeerServiceServer,
    },
};
use sharklock_transport::{
    AdminApi, Dialling, LockApi, Masters, PeerAcceptor, PeerLinks, WrongPort, serve, server,
    wrong_port,
};
use tokio::{net::TcpListener, runtime::Handle, sync::watch, task::AbortHandle};
use tokio_util::sync::CancellationToken;

use super::{
    desk::{Desk, POST_MAX},
    files,
    joining::Applicant,
    meeting::meet_all,
    member::{Member, Others},
    metrics::Metrics,
    service::{Names, Service, Standing},
    thread::Thread,
};
use crate::{
    core::{MasterCore, Settings},
    formation::{Formation, FormationError},
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
    /// The address (`HOST:PORT`) by which the others name it; one of `masters`, unless it joins them.
    pub advertise: String,
    /// All masters: 1, 3 or 5, the same list on each. They form a cluster. For one that joins: where it
    /// asks. Of no account once the directory belongs to a cluster, but to find the others.
    pub masters: Vec<String>,
    /// Masters that others of this process have heard of in an earlier life: if those are gone that this one
    /// knows, they tell it who the others are.
    pub remembered: Vec<String>,
    /// It forms no cluster: it waits until somebody adds it to the cluster of `masters`.
    pub join: bool,
    /// What people call its process.
    pub node: String,
    /// Where its process serves metrics and health, for those who ask the cluster; empty: nowhere.
    pub admin_address: String,
    /// What people call the cluster; empty: nothing.
    pub cluster_name: String,
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
    /// The masters that it is to join refuse it.
    #[error("{0}")]
    Refused(String),
    /// It was removed from its cluster.
    #[error(
        "this master was removed from its cluster: take the role master from this process; or, to make \
         it a master again, empty its directory, start it with --join, and add it: `sharklock masters \
         add ADDRESS`"
    )]
    Removed,
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
    removed: watch::Receiver<bool>,
    thread: JoinHandle<()>,
    /// Asks whether it is still a member.
    _look: Task,
    port: Task,
    stopping: CancellationToken,
}

impl Master {
    /// Opens its store, meets the other masters if it belongs to no cluster yet, or waits until it is added
    /// to theirs (for as long as that takes), and serves on `listener`. To be called inside a tokio runtime.
    ///
    /// # Errors
    /// The directory cannot be used, this master cannot belong to the others' cluster, or does no more.
    pub async fn start(config: MasterConfig, listener: TcpListener) -> Result<Self, StartError> {
        let dir = config.data_dir.clone();
        let unusable = |source| StartError::DataDir { path: dir.clone(), source };
        std::fs::create_dir_all(&dir).map_err(unusable)?;
        let disk = RocksDisk::open(&dir)
            .map_err(|source| StartError::Open { path: dir.clone(), source })?;
        let ident = data_dir::identity(&dir).map_err(unusable)?;
        if files::is_removed(&dir).map_err(unusable)? {
            return Err(StartError::Removed);
        }
        let masters =
            Masters::new(config.masters.clone(), config.dialling).map_err(StartError::Address)?;
        masters.ask_also(&config.remembered);
        let stopping = CancellationToken::new();
        let names = Names {
            node: config.node.clone(),
            cluster: config.cluster_name.clone(),
            address: config.advertise.clone(),
            admin_address: config.admin_address.clone(),
        };
        let service = Service::new(names, standing(&config, &dir, ident)?, stopping.clone());
        let wrong = wrong_port("master", &config.node);
        let port = port(listener, service.clone(), stopping.clone(), wrong);
        let port = Task(tokio::spawn(port).abort_handle());
        let member = belong(&config, &dir, ident, (&service, &masters)).await?;
        let (disk, store) = member.recover(&config, disk)?;
        Self::spawn(&config, (disk, store), &member, (service, masters, port, stopping))
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

    /// True once it was removed from its cluster: it has ended then, and only its port is open.
    pub fn removed(&self) -> watch::Receiver<bool> {
        self.removed.clone()
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
        (service, masters, port, stopping): (Service, Masters, Task, CancellationToken),
    ) -> Result<Self, StartError> {
        let metrics = Metrics::register(&config.registry)?;
        let (posts, post) = mpsc::sync_channel(POST_MAX);
        let desk = Desk(posts);
        let me = member.identity();
        let inbox = Arc::new(desk.clone());
        let acceptor = PeerAcceptor::new(me.clone(), inbox.clone(), stopping.clone());
        let peers = Arc::new(PeerLinks::start(me, config.dialling, inbox));
        let runtime = Handle::current();
        let others =
            Others { peers, acceptor: acceptor.clone(), masters: masters.clone(), runtime };
        others.are(&member.members);
        let (ready_sender, ready) = watch::channel(false);
        let (ailing_sender, ailing) = watch::channel(None);
        let (removed_sender, removed) = watch::channel(false);
        let tuning = config.tuning;
        let settings = Settings {
            cluster_id: member.cluster_id,
            members: member.members.clone(),
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
            others,
            metrics,
            ready: ready_sender,
            ailing: ailing_sender,
            removed: removed_sender,
            started: now(),
            hand_over_within: election_max(tuning.tick),
        };
        let thread = std::thread::Builder::new()
            .name("master-raft".to_owned())
            .spawn(move || thread.run())
            .map_err(StartError::Thread)?;
        service.open(desk.clone(), acceptor);
        let look = member.applicant().look(masters, config.data_dir.clone(), desk.clone());
        let _look = Task(tokio::spawn(look).abort_handle());
        let cluster_id = member.cluster_id;
        Ok(Self { desk, cluster_id, ready, ailing, removed, thread, _look, port, stopping })
    }
}

/// What the directory says of the master; a fresh one is to form a cluster, or to join one.
fn standing(config: &MasterConfig, dir: &Path, ident: Identity) -> Result<Standing, StartError> {
    let unusable = |source| StartError::DataDir { path: dir.to_owned(), source };
    let me = config.advertise.as_str();
    if let Some(joined) = files::joined(dir).map_err(unusable)? {
        return Ok(Standing::Joined(Member::joined(ident, joined, me)?.view()));
    }
    let formation = match files::formed(dir).map_err(unusable)? {
        Some(formed) => Formation::again(me, ident, formed)?,
        None if config.join => return Ok(Standing::Waits),
        None => Formation::new(me, ident, &config.masters)?,
    };
    Ok(Standing::Founder(formation))
}

/// Belongs to a cluster, or waits until it does. That is on the disk before anything follows from it.
async fn belong(
    config: &MasterConfig,
    dir: &Path,
    ident: Identity,
    (service, masters): (&Service, &Masters),
) -> Result<Member, StartError> {
    let unusable = |source| StartError::DataDir { path: dir.to_owned(), source };
    let me = config.advertise.as_str();
    if let Some(joined) = files::joined(dir).map_err(unusable)? {
        return Member::joined(ident, joined, me);
    }
    if config.join && files::formed(dir).map_err(unusable)?.is_none() {
        // A directory that lost its store, and with it its votes, must not come back as anybody.
        if files::has_begun(dir).map_err(unusable)? {
            return Err(FormationError::Wiped(me.to_owned()).into());
        }
        let applicant = Applicant { ident, address: me.to_owned(), known: None };
        let joined = applicant.join(masters).await?;
        files::keep_joined(dir, &joined).map_err(unusable)?;
        tracing::info!(master = %joined.id, cluster = %joined.cluster_id, "this master has joined");
        let member = Member::joined(ident, joined, me)?;
        service.has_joined(member.view());
        return Ok(member);
    }
    let formed = meet_all(service, masters).await?;
    files::keep_formed(dir, &formed).map_err(unusable)?;
    Ok(Member::founder(ident, &formed, me))
}

/// A task that ends with this value.
#[derive(Debug)]
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Serves until `stopping`. A port that fails is a master that nobody hears: the process must not
/// go on as if it were one.
async fn port(listener: TcpListener, service: Service, stopping: CancellationToken, wrong: String) {
    let peers = PeerServiceServer::new(service.clone()).max_decoding_message_size(FRAME_BYTES_MAX);
    let router = server()
        .add_service(MasterServiceServer::new(service))
        .add_service(peers)
        .add_service(WrongPort::<LockApi>::new(wrong.clone()))
        .add_service(WrongPort::<AdminApi>::new(wrong));
    if let Err(error) = serve(router, listener, None, stopping).await {
        panic!("the master port has failed: {error}");
    }
}

#[expect(clippy::disallowed_methods, reason = "an edge: the core's clock begins here")]
fn now() -> Instant {
    Instant::now()
}
