//! The result of a run, ready to be written as JSON.

use std::{collections::BTreeMap, time::SystemTime};

use serde::{Deserialize, Serialize, Serializer};

use crate::load::Workload;

/// Everything that one run measured.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "schema", rename = "sharklock.v1.Bench")]
pub struct Report {
    /// The work that the workers did.
    pub workload: Workload,
    /// Workers.
    pub clients: u32,
    /// Client connections.
    pub connections: u32,
    /// Names that each worker cycled over.
    pub names_per_worker: u32,
    /// The ranges that the names were spread over; `ranges` only.
    pub split: Option<Split>,
    /// The permits of the name that all workers share; `semaphore` only.
    pub permits: Option<u16>,
    /// How many cycles were to begin per second; only where a rate was asked for.
    pub rate: Option<u32>,
    /// All names begin with it.
    pub prefix: String,
    /// When it began to count, on this machine's clock.
    #[serde(serialize_with = "rfc3339")]
    pub measured_from: SystemTime,
    /// Seconds before it counted.
    pub warmup_s: f64,
    /// Seconds that counted.
    pub measured_s: f64,
    /// The run was told to end before its time was over.
    pub stopped_early: bool,
    /// Workers stopped early, because the notes were full: the rate is too low.
    pub truncated: bool,
    /// Cycles per second; for a contended lock: hand-overs per second.
    pub cycles_per_s: f64,
    /// From the call of acquire to the answer of release.
    pub cycle: Latencies,
    /// With a rate: from the time at which the cycle was to begin to the answer of release. A worker
    /// that is late since it still waits for an answer counts that, so that a cluster which stops
    /// for a second is seen by every cycle of that second, and not only by those under way.
    pub since_due: Option<Latencies>,
    /// From the call of acquire to the guard; for a contended lock: the wait.
    pub acquire: Latencies,
    /// From the call of release to its answer.
    pub release: Latencies,
    /// The call that took longest; none if no cycle ended.
    pub slowest: Option<Slowest>,
    /// Calls that failed, in the whole run.
    pub errors: Errors,
    /// The measured time in equal parts.
    pub intervals: Vec<Interval>,
    /// Locks that were held beside the cycles, if there were to be any.
    pub locks: Option<Stood>,
    /// Waiters that stood in queues beside the cycles, if there were to be any.
    pub waiters: Option<Stood>,
    /// Sessions that stood beside the cycles with a lock each, if there were to be any.
    pub sessions: Option<Stood>,
    /// The keepalives of these sessions.
    pub keepalives: Option<KeepAlives>,
    /// Only where all workers want the same name.
    pub fairness: Option<Fairness>,
    /// The disk in the same run.
    pub disk: Disk,
    /// The judgement of every grant of the run.
    pub history: Judged,
}

/// Percentiles of durations, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latencies {
    /// How many; all others are 0 when this is.
    pub count: u64,
    /// Median.
    pub p50_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// 99.9th percentile.
    pub p999_us: f64,
    /// The longest.
    pub max_us: f64,
}

/// A part of the measured time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// Its begin, seconds after [`Report::measured_from`].
    pub from_s: f64,
    /// Its end.
    pub to_s: f64,
    /// Cycles that ended in it, per second.
    pub cycles_per_s: f64,
    /// Calls that failed in it.
    pub errors: u64,
    /// Of the cycles that ended in it, from the call of acquire to the answer of release.
    pub cycle: Latencies,
}

/// The slowest of the calls that ended well.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Slowest {
    /// `acquire` or `release`.
    pub call: String,
    /// The name of the lock.
    pub lock: String,
    /// Microseconds.
    pub us: f64,
    /// Its begin, seconds after [`Report::measured_from`]; negative: during the warm-up.
    pub began_s: f64,
}

/// Failed calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errors {
    /// How many in all.
    pub count: u64,
    /// How many of each kind.
    pub kinds: BTreeMap<String, u64>,
}

/// Ranges that were made before the run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Split {
    /// How many the names were spread over.
    pub ranges: u32,
    /// How many splits were asked for, since there were fewer.
    pub splits: u32,
    /// Seconds that they took.
    pub took_s: f64,
}

/// What stood beside the cycles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Stood {
    /// How many there were to be.
    pub wanted: u32,
    /// How many there were when the run began.
    pub count: u64,
    /// Of these, how many there were no more when it had ended.
    pub lost: u64,
    /// Seconds that it took to build it up.
    pub built_up_s: f64,
    /// Meanwhile, from the call of acquire to the guard; not for waiters.
    pub acquire: Option<Latencies>,
    /// Seconds that it took to give all of it back.
    pub given_back_s: f64,
}

/// Keepalives of the sessions that stood beside the cycles, from the beginning of the warm-up until
/// the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct KeepAlives {
    /// Connections that all these sessions shared.
    pub connections: u64,
    /// Keepalives sent per second.
    pub per_s: f64,
    /// From a keepalive to its answer; percentiles to a quarter.
    pub answers: Latencies,
}

impl Stood {
    /// Whether all that there was to be was there until the end.
    pub fn is_whole(&self) -> bool {
        self.count >= u64::from(self.wanted) && self.lost == 0
    }
}

impl Errors {
    /// Counts what others have counted.
    pub fn add_all(&mut self, others: &Self) {
        for (kind, count) in &others.kinds {
            self.add(kind, *count);
        }
    }

    /// Counts `count` more of `kind`.
    pub fn add(&mut self, kind: &str, count: u64) {
        self.count += count;
        if let Some(sum) = self.kinds.get_mut(kind) {
            *sum += count;
        } else {
            self.kinds.insert(kind.to_owned(), count);
        }
    }
}

/// How evenly a contended lock went round among its workers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fairness {
    /// Grants of the worker with the fewest.
    pub grants_min: u64,
    /// Grants of the worker with the most.
    pub grants_max: u64,
    /// Jain's index: 1 when all got the same, 1/n when one got all.
    pub jain: f64,
}

/// `fdatasync` of 512 appended bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Disk {
    /// The directory that was measured.
    pub dir: String,
    /// F: the smaller median of the two below, microseconds. Other work on the machine delays the
    /// one, the load itself the other, and neither is the disk's doing.
    pub f_us: f64,
    /// Before and after the load.
    pub idle: Latencies,
    /// During the load, beside the server's own.
    pub loaded: Latencies,
}

impl Disk {
    /// From the samples taken in `dir`.
    pub fn new(dir: String, idle: Latencies, loaded: Latencies) -> Self {
        let medians = [idle, loaded].into_iter().filter(|latencies| latencies.count > 0);
        let f_us = medians.map(|latencies| latencies.p50_us).reduce(f64::min).unwrap_or(0.0);
        Self { dir, f_us, idle, loaded }
    }
}

/// The verdict on the history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Judged {
    /// Grants that were judged, those of the warm-up included.
    pub grants: u64,
    /// Names that the workers used.
    pub names: u64,
    /// Grants of the name that was granted least.
    pub grants_per_name_min: u64,
    /// Calls whose outcome nobody knows; they accuse nobody.
    pub unknown: u64,
    /// Broken promises.
    pub violations: u64,
    /// The first of them in words.
    pub first: Vec<String>,
}

fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_millis(*time))
}
