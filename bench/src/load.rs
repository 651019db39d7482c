//! One run: connect, measure the disk, warm up, measure, judge.

use std::{
    iter,
    net::IpAddr,
    path::PathBuf,
    pin::{Pin, pin},
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use serde::Serialize;
use sharklock_client::{CallError, Client, ClientBuilder, ClusterId, ConfigError};
use sharklock_history::{History, Mode, check};
use tokio::task::JoinSet;

use crate::{
    beside::{AllStood, Beside, Standing, Told},
    disk::{self, Sampler},
    intervals, measure, ranges,
    report::{Disk, Report},
    worker::{Notes, Pace, Window, Worker, now},
};

/// The work of the workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// Each worker acquires and releases names of its own, one after the other.
    AcquireRelease,
    /// All workers take turns on one name.
    Contend,
    /// All workers share the permits of one name, and each takes one at a time.
    Semaphore,
    /// Each worker acquires and releases names of its own, each in another range, so that all of them
    /// together go through all ranges.
    Ranges,
}

impl Workload {
    /// Whether all workers want the same name.
    fn is_shared(self) -> bool {
        match self {
            Self::AcquireRelease | Self::Ranges => false,
            Self::Contend | Self::Semaphore => true,
        }
    }
}

/// A load to put on a cluster.
#[derive(Clone, Debug)]
pub struct Load {
    /// Gateways, as `http://127.0.0.1:7700`.
    pub endpoints: Vec<String>,
    /// Addresses of this machine from which clients connect in turn; empty: the system chooses.
    pub local_addresses: Vec<IpAddr>,
    /// The cluster that is meant, if it is to be sure.
    pub cluster: Option<ClusterId>,
    /// The work of the workers.
    pub workload: Workload,
    /// Workers that run at the same time; at least 1.
    pub clients: u32,
    /// Client connections that the workers share, each a session of its own; at least 1.
    pub connections: u32,
    /// Names that each worker cycles over; at least 1, for [`Workload::AcquireRelease`] alone.
    pub names: u32,
    /// Ranges that the names are spread over; at least 1, for [`Workload::Ranges`] alone. Where there
    /// are fewer, ranges are split before anything else.
    pub ranges: u32,
    /// Permits of the name; at least 1, for [`Workload::Semaphore`] alone.
    pub permits: u16,
    /// Cycles that all workers together begin per second; more than 0. Without it each begins the next
    /// when it has ended one.
    pub rate: Option<u32>,
    /// What stands beside the cycles.
    pub beside: Beside,
    /// Hears how far that is.
    pub told: Told,
    /// All names begin with it; such of two runs at once should differ. Ranges are never put together
    /// again, so runs that are to go through the same ones say the same.
    pub prefix: String,
    /// Before measuring.
    pub warmup: Duration,
    /// Of measuring.
    pub duration: Duration,
    /// The length of an [`crate::Interval`]; more than 0.
    pub every: Duration,
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
    /// A range was not split.
    #[error("no range was made that begins with {at}: {why}")]
    NotSplit {
        /// The first name that it was to have.
        at: String,
        /// The answer.
        why: Box<CallError>,
    },
    /// It was told to end before what is to stand beside the cycles did.
    #[error("stopped while it built up what was to stand before the cycles: nothing was measured")]
    Stopped,
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

/// Puts the load on the cluster and reports. It ends early with what it has when `stop` is ready.
/// Call it on a multi-threaded runtime.
pub async fn run(load: &Load, stop: impl Future<Output = ()>) -> Result<Report, LoadError> {
    let mut stop = pin!(stop);
    let clients = connect(load).await?;
    let client = || client(load);
    let building = async {
        let split = match load.workload {
            Workload::Ranges => {
                Some(ranges::split(&clients[0], &load.prefix, load.ranges, load.told).await?)
            }
            _ => None,
        };
        let (beside, prefix) = (load.beside, &load.prefix);
        let standing = Standing::build(beside, prefix, client, &clients[0], load.told).await?;
        Ok::<_, LoadError>((split, standing))
    };
    let (split, mut standing) = tokio::select! {
        biased;
        built = building => built?,
        // What stands already ends with its leases.
        () = &mut stop => return Err(LoadError::Stopped),
    };
    let disk_error = |why| LoadError::Disk { dir: load.fsync_dir.display().to_string(), why };
    let mut idle = disk::sample_idle(load.fsync_dir.clone()).await.map_err(disk_error)?;
    let sampler = Sampler::start(&load.fsync_dir).map_err(disk_error)?;

    let window = Window::starting(now(), load.warmup, load.duration);
    let measured_from = wall_clock() + load.warmup;
    standing.begin();
    let ended = work(load, &clients, window, stop.as_mut()).await;

    let loaded = sampler.stop();
    idle.extend(disk::sample_idle(load.fsync_dir.clone()).await.map_err(disk_error)?);
    let dir = load.fsync_dir.display().to_string();
    let disk = Disk::new(dir, measure::latencies(idle), measure::latencies(loaded));
    let mut ending = pin!(standing.end());
    let stood = tokio::select! {
        stood = &mut ending => stood,
        // It has nothing to cut short here, but it is heard, so that whoever asks twice is not kept.
        () = stop, if !ended.stopped_early => ending.await,
    };
    Ok(Report { split, ..judge(load, measured_from, ended, stood, disk) })
}

/// One client per connection, each with a session; the first is asked whether anybody is there.
async fn connect(load: &Load) -> Result<Vec<Client>, LoadError> {
    let from = load.local_addresses.iter().cycle();
    let from = from.map(Some).chain(iter::repeat(None)).take(load.connections as usize);
    let clients: Vec<Client> = from
        .map(|from| from.copied().into_iter().fold(client(load), ClientBuilder::local_address))
        .map(ClientBuilder::build)
        .collect::<Result<_, _>>()?;
    clients[0].status().await?;
    Ok(clients)
}

fn client(load: &Load) -> ClientBuilder {
    let client = Client::builder().endpoints(&load.endpoints);
    let client = load.cluster.into_iter().fold(client, ClientBuilder::cluster);
    let identity = format!("sharklock bench pid {}", process::id());
    client.identity(&identity).call_timeout(PROBE_MAX)
}

/// What the workers leave behind.
struct Ended {
    notes: Vec<Notes>,
    /// Workers that did not come to an end.
    stuck: u32,
    /// The time that counts.
    window: Window,
    stopped_early: bool,
}

/// Runs all workers to their end.
async fn work(
    load: &Load,
    clients: &[Client],
    mut window: Window,
    mut stop: Pin<&mut impl Future<Output = ()>>,
) -> Ended {
    let stopped = Arc::new(AtomicBool::new(false));
    let mut running = start(load, clients, window, &stopped);
    let mut notes = Vec::new();
    let mut stopped_early = false;
    loop {
        let deadline = tokio::time::Instant::from_std(window.end() + DRAIN_MAX);
        tokio::select! {
            ended = running.join_next() => match ended {
                // A worker that panicked has ended the process already (the binaries' panic hook);
                // under a test harness its panic is the test's.
                Some(ended) => notes.push(ended.expect("workers do not panic and are not aborted")),
                None => break,
            },
            () = stop.as_mut(), if !stopped_early => {
                stopped_early = true;
                stopped.store(true, Ordering::Relaxed);
                window = window.cut(now());
            }
            () = tokio::time::sleep_until(deadline) => break,
        }
    }
    let stuck = u32::try_from(running.len()).expect("there are no more than `clients`");
    running.abort_all();
    Ended { notes, stuck, window, stopped_early }
}

fn start(
    load: &Load,
    clients: &[Client],
    window: Window,
    stopped: &Arc<AtomicBool>,
) -> JoinSet<Notes> {
    let mut running = JoinSet::new();
    for worker in 0..load.clients {
        let connection = worker % load.connections;
        let names = match load.workload {
            Workload::AcquireRelease => {
                (0..load.names).map(|name| format!("{}{worker}/{name}", load.prefix)).collect()
            }
            Workload::Contend | Workload::Semaphore => vec![format!("{}hot", load.prefix)],
            Workload::Ranges => ranges::of_worker(worker, load.clients, load.ranges)
                .map(|range| format!("{}{worker}", ranges::first_name(&load.prefix, range)))
                .collect(),
        };
        let mode = match load.workload {
            Workload::AcquireRelease | Workload::Contend | Workload::Ranges => Mode::Exclusive,
            Workload::Semaphore => Mode::Permits { units: 1, units_max: load.permits },
        };
        let pace = load.rate.map(|rate| Pace::of(worker, load.clients, rate));
        let client = clients[connection as usize].clone();
        let cycles_max = CYCLES_MAX / load.clients;
        let stopped = Arc::clone(stopped);
        let worker = Worker { client, connection, names, mode, pace, window, stopped, cycles_max };
        running.spawn(worker.run());
    }
    running
}

fn judge(
    load: &Load,
    measured_from: SystemTime,
    ended: Ended,
    stood: AllStood,
    disk: Disk,
) -> Report {
    let Ended { notes, stuck, window, stopped_early } = ended;
    let grants_per_worker: Vec<u64> = notes.iter().map(|notes| notes.cycles_measured).collect();
    let mut errors = measure::errors(notes.iter().map(|notes| &notes.errors));
    errors.add_all(&stood.errors);
    if stuck > 0 {
        errors.add("did not end in time", u64::from(stuck));
    }
    let failures: Vec<u64> = notes.iter().flat_map(|notes| &notes.failures).copied().collect();
    let truncated = notes.iter().any(|notes| notes.truncated);
    let since_due = notes.iter().flat_map(|notes| &notes.since_due).copied();
    let since_due = load.rate.map(|_rate| measure::latencies(since_due));
    let history = History::merge(notes.into_iter().map(|notes| notes.recorder));
    let cycles = measure::cycles(&history, window);
    let measured_s = window.duration().as_secs_f64();
    let fairness = load.workload.is_shared().then(|| measure::fairness(&grants_per_worker));
    Report {
        workload: load.workload,
        clients: load.clients,
        connections: load.connections,
        names_per_worker: match load.workload {
            Workload::Ranges => load.ranges.div_ceil(load.clients),
            _ => load.names,
        },
        split: None,
        permits: (load.workload == Workload::Semaphore).then_some(load.permits),
        rate: load.rate,
        prefix: load.prefix.clone(),
        measured_from,
        warmup_s: load.warmup.as_secs_f64(),
        measured_s,
        stopped_early,
        truncated,
        // A run that was stopped during its warm-up has measured nothing, in no time.
        cycles_per_s: cycles.whole.count as f64 / measured_s.max(f64::MIN_POSITIVE),
        cycle: cycles.whole,
        since_due,
        acquire: cycles.acquire,
        release: cycles.release,
        slowest: intervals::slowest(&history, window),
        errors,
        intervals: intervals::intervals(&history, failures, window, load.every),
        locks: stood.locks,
        waiters: stood.waiters,
        sessions: stood.sessions,
        keepalives: stood.keepalives,
        fairness,
        disk,
        history: measure::judged(&history, &check(&history.records)),
    }
}

#[expect(clippy::disallowed_methods, reason = "shown to people, decides nothing")]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}
