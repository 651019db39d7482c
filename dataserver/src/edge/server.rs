//! A data server: one store, its worker and its disk.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread::JoinHandle,
};

use prometheus::Registry;
use sharklock_multiraft::{
    Config, Disk, OpenError, RecoverError, RocksDisk, Store, StoreIdent, bootstrap, read_ident,
};
use sharklock_proto::internal::v1::StoreReply;
use sharklock_rangemap::{Bounds, Descriptor, Epoch, PeerId, RangeId, Replica, Role, StoreId};
use tokio::sync::{mpsc as tokio_mpsc, watch};

use crate::{
    edge::{
        clock::ServerClock,
        disk_thread::{self, SyncTimes, Writer},
        links::{Links, LocalLink},
        mailbox::Mailbox,
        metrics::Metrics,
        worker_thread::WorkerThread,
    },
    machine::LockRange,
    worker::{Pace, Worker},
};

/// How to start a data server.
#[derive(Debug)]
pub struct DataServerConfig {
    /// Where the store lives; made if it does not exist.
    pub data_dir: PathBuf,
    /// Shown in the status: where this store answers.
    pub address: String,
    /// False breaks durability: acknowledged grants may be lost with the machine. Benchmarks only.
    pub sync_writes: bool,
    /// Where metrics are registered.
    pub registry: Registry,
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
    /// What is on the disk cannot be recovered, or was written by another version.
    #[error("data directory {}: {source}", path.display())]
    Recover {
        /// Which.
        path: PathBuf,
        /// Why.
        source: RecoverError,
    },
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
    mailbox: Arc<Mailbox>,
    links: Arc<Links>,
    ready: watch::Receiver<bool>,
    ident: StoreIdent,
    threads: Vec<JoinHandle<()>>,
}

impl DataServer {
    /// Opens the store (a fresh one gets a new cluster id and one range with all names), recovers
    /// it, and starts its threads.
    pub fn start(config: DataServerConfig) -> Result<Self, StartError> {
        let path = config.data_dir.clone();
        std::fs::create_dir_all(&path)
            .map_err(|source| StartError::DataDir { path: path.clone(), source })?;
        let mut disk = RocksDisk::open(&path)
            .map_err(|source| StartError::Open { path: path.clone(), source })?;
        let recover = |source| StartError::Recover { path: path.clone(), source };
        let ident = match read_ident(&disk).map_err(recover)? {
            Some(ident) => ident,
            None => make_store(&mut disk, &path)?,
        };
        let store = Store::<LockRange>::recover(engine_config(&ident), &disk).map_err(recover)?;
        Self::spawn(config, disk, store, ident)
    }

    /// Connects a gateway of the same process.
    pub fn connect(&self) -> (LocalLink, tokio_mpsc::Receiver<Vec<StoreReply>>) {
        LocalLink::connect(&self.mailbox, &self.links)
    }

    /// Turns true when the store leads its ranges and answers, false when it does not.
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.clone()
    }

    /// The store's identity.
    pub fn ident(&self) -> &StoreIdent {
        &self.ident
    }

    /// Finishes what is on its way, writes the image, and ends the threads.
    pub fn stop(self) {
        self.mailbox.close();
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a store's thread has panicked");
            }
        }
    }

    fn spawn(
        config: DataServerConfig,
        disk: RocksDisk,
        store: Store<LockRange>,
        ident: StoreIdent,
    ) -> Result<Self, StartError> {
        let metrics = Metrics::register(&config.registry)?;
        let mailbox = Arc::new(Mailbox::default());
        let links = Arc::new(Links::default());
        let sync_times = Arc::new(SyncTimes::default());
        let (batch_sender, batch_receiver) = mpsc::sync_channel(1);
        let (ready_sender, ready) = watch::channel(false);
        let mut clock = ServerClock::start();
        let writer =
            Writer::new(disk, config.sync_writes, Arc::clone(&sync_times), metrics.clone());
        let writer = Arc::new(writer);
        let worker_thread = WorkerThread {
            worker: Worker::new(clock.now(), store, Pace::default()),
            clock,
            mailbox: Arc::clone(&mailbox),
            links: Arc::clone(&links),
            batches: batch_sender,
            writer: Arc::clone(&writer),
            sync_times,
            metrics,
            ready: ready_sender,
            address: config.address,
        };
        let disk_mailbox = Arc::clone(&mailbox);
        let threads = vec![
            spawn("store-disk", move || {
                disk_thread::run(&writer, &batch_receiver, &disk_mailbox);
            })?,
            spawn("store-raft", move || worker_thread.run())?,
        ];
        Ok(Self { mailbox, links, ready, ident, threads })
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StartError> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body).map_err(StartError::Thread)
}

/// Writes a fresh store: its identity, and one range with all names and one voter, here.
fn make_store(disk: &mut RocksDisk, path: &Path) -> Result<StoreIdent, StartError> {
    let random = || {
        let mut id = [0; 16];
        let drawn = rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty());
        drawn
            .map(|_| id)
            .map_err(|source| StartError::DataDir { path: path.to_owned(), source: source.into() })
    };
    let store = StoreId(1);
    let ident = StoreIdent { cluster_id: random()?, store, ident: random()? };
    let first = Descriptor {
        range: RangeId(1),
        bounds: Bounds::ALL,
        epoch: Epoch { version: 1, conf_ver: 1 },
        replicas: vec![Replica { peer: PeerId(1), store, role: Role::Voter }],
    };
    disk.write(&bootstrap(&ident, &first), true).map_err(|error| StartError::DataDir {
        path: path.to_owned(),
        source: io::Error::other(error),
    })?;
    Ok(ident)
}

/// Elections of a store's replicas are drawn from its identity: different on every store.
fn engine_config(ident: &StoreIdent) -> Config {
    let (low, _) = ident.ident.split_at(8);
    let election_seed = u64::from_le_bytes(low.try_into().expect("split at 8 bytes"));
    Config { election_seed, ..Config::default() }
}
