//! One run: connect, measure the disk, warm up, measure, judge.

use std::{
    path::PathBuf,
    process,
    time::{Duration, Instant},
};

use serde::Serialize;
use sharklock_client::{CallError, Client, ClientBuilder, ClusterId, ConfigError};
use sharklock_history::{History, check};
use tokio::task::JoinSet;

use crate::{
    disk::{self, Sampler},
    measure,
    report::{Disk, Report},
    worker::{Notes, Window, Worker},
};

/// The work of the workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// Each worker acquires and releases names of its own, one after the other.
    AcquireRelease,
    /// All workers take turns on one name.
    Contend,
}

/// A load to put on a cluster.
#[derive(Clone, Debug)]
pub struct Load {
    /// Gateways, as `http://127.0.0.1:7700`.
    pub endpoints: Vec<String>,
    /// The cluster that is meant, if it is to be sure.
    pub cluster: Option<ClusterId>,
    /// The work of the workers.
    pub workload: Workload,
    /// Workers that run at the same time; at least 1.
    pub clients: u32,
    /// Client connections that the workers share, each a session of its own; at least 1.
    pub connections: u32,
    /// Names that each worker cycles over; at least 1, without meaning for [`Workload::Contend`].
    pub names: u32,
    /// Before measuring.
    pub warmup: Duration,
    /// Of measuring.
    pub duration: Duration,
    /// The directory in which the disk is measured; best the one that the server writes to.
    pub fsync_dir: PathBuf,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// An endpoint makes no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The cluster does not answer.
    #[error(transparent)]
    Unreachable(#[from] CallError),
    /// The disk cannot be measured there.
    #[error("cannot measure fdatasync in {dir}: {why}")]
    Disk {
        /// The directory asked for.
        dir: String,
        /// The system's words.
        why: std::io::Error,
    },
}

/// How long the cluster may take to answer the first call.
const PROBE_MAX: Duration = Duration::from_secs(5);
/// How long workers may take to end after the time is over: a queue of all of them, and a server
/// that comes back. A cycle that is still running then is counted as an error.
const DRAIN_MAX: Duration = Duration::from_secs(30);
/// Cycles that one run keeps notes of: 2 GB.
const CYCLES_MAX: u32 = 20_000_000;

/// Puts the load on the cluster and reports. Call it on a multi-threaded runtime.
pub async fn run(load: &Load) -> Result<Report, LoadError> {
    let clients = connect(load).await?;
    let disk_error = |why| LoadError::Disk { dir: load.fsync_dir.display().to_string(), why };
    let mut idle = disk::sample_idle(load.fsync_dir.clone()).await.map_err(disk_error)?;
    let sampler = Sampler::start(&load.fsync_dir).map_err(disk_error)?;

    let window = Window::starting(now(), load.warmup, load.duration);
    let (notes, stuck) = work(load, &clients, window).await;

    let loaded = sampler.stop();
    idle.extend(disk::sample_idle(load.fsync_dir.clone()).await.map_err(disk_error)?);
    let dir = load.fsync_dir.display().to_string();
    let disk = Disk::new(dir, measure::latencies(idle), measure::latencies(loaded));
    Ok(judge(load, window, notes, stuck, disk))
}

/// One client per connection, each with a session; the first is asked whether anybody is there.
async fn connect(load: &Load) -> Result<Vec<Client>, LoadError> {
    let build = |_| {
        let client = Client::builder().endpoints(&load.endpoints);
        let client = load.cluster.into_iter().fold(client, ClientBuilder::cluster);
        client
            .identity(&format!("sharklock bench pid {}", process::id()))
            .call_timeout(PROBE_MAX)
            .build()
    };
    let clients: Vec<Client> = (0..load.connections).map(build).collect::<Result<_, _>>()?;
    clients[0].status().await?;
    Ok(clients)
}

/// Runs all workers to their end; the second value counts those that did not come to one.
async fn work(load: &Load, clients: &[Client], window: Window) -> (Vec<Notes>, u32) {
    let mut running = JoinSet::new();
    for worker in 0..load.clients {
        let connection = worker % load.connections;
        let names = match load.workload {
            Workload::AcquireRelease => (0..load.names)
                .map(|name| format!("bench-{}/{worker}/{name}", process::id()))
                .collect(),
            Workload::Contend => vec![format!("bench-{}/hot", process::id())],
        };
        let client = clients[connection as usize].clone();
        let cycles_max = CYCLES_MAX / load.clients;
        running.spawn(Worker { client, connection, names, window, cycles_max }.run());
    }
    let mut notes = Vec::new();
    let deadline = tokio::time::Instant::from_std(window.end() + DRAIN_MAX);
    while let Ok(Some(ended)) = tokio::time::timeout_at(deadline, running.join_next()).await {
        // A worker that panicked has ended the process already (the binaries' panic hook); under a
        // test harness its panic is the test's.
        notes.push(ended.expect("workers do not panic and are not aborted"));
    }
    let stuck = u32::try_from(running.len()).expect("there are no more than `clients`");
    running.abort_all();
    (notes, stuck)
}

fn judge(load: &Load, window: Window, notes: Vec<Notes>, stuck: u32, disk: Disk) -> Report {
    let grants_per_worker: Vec<u64> = notes.iter().map(|notes| notes.cycles_measured).collect();
    let mut errors = measure::errors(notes.iter().map(|notes| &notes.errors));
    if stuck > 0 {
        errors.add("did not end in time", u64::from(stuck));
    }
    let truncated = notes.iter().any(|notes| notes.truncated);
    let history = History::merge(notes.into_iter().map(|notes| notes.recorder));
    let cycles = measure::cycles(&history, window);
    let fairness =
        (load.workload == Workload::Contend).then(|| measure::fairness(&grants_per_worker));
    Report {
        workload: load.workload,
        clients: load.clients,
        connections: load.connections,
        names_per_worker: load.names,
        warmup_s: load.warmup.as_secs_f64(),
        measured_s: load.duration.as_secs_f64(),
        truncated,
        cycles_per_s: cycles.whole.count as f64 / load.duration.as_secs_f64(),
        cycle: cycles.whole,
        acquire: cycles.acquire,
        release: cycles.release,
        errors,
        fairness,
        disk,
        history: measure::judged(&history, &check(&history.records)),
    }
}

#[expect(clippy::disallowed_methods, reason = "a load generator measures time")]
fn now() -> Instant {
    Instant::now()
}
