//! The observations of a load, and the figures that follow from them.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use crate::{
    measure,
    peers::drive::{Cycle, Notes},
    profile::{
        budget::Budget,
        counters::{Loopback, Metrics},
        threads::{ByKind, Threads, Totals, all},
    },
    report::Latencies,
};

/// Everything that is counted, at one moment.
#[derive(Clone, Debug)]
pub struct Counted {
    /// Nanoseconds from the start of the run.
    pub at: u64,
    /// Threads of the servers.
    pub servers: Threads,
    /// Threads of the load.
    pub load: Threads,
    /// Of all servers together.
    pub metrics: Metrics,
    /// Of the machine.
    pub loopback: Loopback,
    /// Bytes that the servers have had written to disks.
    pub written: u64,
}

/// What was counted between two moments.
#[derive(Clone, Debug)]
pub struct Part {
    /// From and until, in nanoseconds from the start of the run.
    pub time: (u64, u64),
    servers: ByKind,
    load: ByKind,
    metrics: Metrics,
    loopback: Loopback,
    written: u64,
}

impl Part {
    /// What lies between two moments.
    pub fn between(from: &Counted, until: &Counted) -> Self {
        Self {
            time: (from.at, until.at),
            servers: until.servers.since(&from.servers),
            load: until.load.since(&from.load),
            metrics: until.metrics.since(&from.metrics),
            loopback: Loopback {
                bytes: until.loopback.bytes - from.loopback.bytes,
                packets: until.loopback.packets - from.loopback.packets,
            },
            written: until.written - from.written,
        }
    }

    fn seconds(&self) -> f64 {
        let (from, until) = self.time;
        Duration::from_nanos(until - from).as_secs_f64()
    }

    /// Cycles that ended in it.
    fn cycles<'a>(&self, notes: &'a [Notes]) -> impl Iterator<Item = &'a Cycle> + Clone {
        let (from, until) = self.time;
        let ended = move |it: &&Cycle| from < it.released && it.released <= until;
        notes.iter().flat_map(|notes| &notes.cycles).filter(ended)
    }

    /// Entries that leaders have proposed in it.
    fn commits(&self) -> f64 {
        self.metrics.get("sharklock_range_entries_total")
    }
}

/// A part in which `perf` looked, and what it saw, or why it did not.
pub type Looked<T> = (Part, Result<T, String>);

/// The three parts of a load's time, and what was seen in them.
#[derive(Debug)]
pub struct Seen {
    /// Nobody but the counters looked.
    pub quiet: Part,
    /// Functions were sampled: their shares, or why not.
    pub sampled: Looked<Vec<(String, f64)>>,
    /// System calls were counted, by name and per second, or why not.
    pub traced: Looked<BTreeMap<String, f64>>,
    /// The way of some acquires of the quiet part.
    pub budget: Budget,
    /// What the workers did.
    pub notes: Vec<Notes>,
    /// F in microseconds: before and after the run, and in the quiet part.
    pub f_us: [f64; 2],
}

/// The threads of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct OfThreads {
    /// Processor time per cycle.
    pub us_per_cycle: f64,
    /// Wake-ups per commit.
    pub wakeups_per_commit: f64,
}

/// Everything that one run has measured.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "schema", rename = "sharklock.v1.Profile")]
pub struct Profile {
    /// Of the servers.
    pub version: String,
    /// Which servers and load share.
    pub cpus: usize,
    /// How long each of the three parts of a load lasts, in seconds.
    pub part_s: f64,
    /// Of so many acquires one was traced.
    pub trace_every: u32,
    /// The loads, in order.
    pub loads: Vec<Figures>,
}

/// The figures of a load; all but the last three are of the part that was only counted.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// The load, for people.
    pub load: String,
    /// Cycles per second.
    pub cycles_per_s: f64,
    /// From the call of acquire to the answer of release.
    pub cycle: Latencies,
    /// From the call of acquire to its answer.
    pub acquire: Latencies,
    /// Calls that failed, in the whole run.
    pub failed_calls: u64,
    /// F: the median `fdatasync` of 512 bytes on the quiet disk of this run, in microseconds.
    pub f_us: f64,
    /// The same under the load.
    pub f_loaded_us: f64,
    /// Raft entries, of all ranges.
    pub commits_per_s: f64,
    /// Commands in an entry.
    pub commands_per_commit: f64,
    /// Threads of the servers that were woken.
    pub wakeups_per_commit: f64,
    /// Durable writes of all stores.
    pub syncs_per_commit: f64,
    /// Messages between stores, heartbeats left out.
    pub messages_per_commit: f64,
    /// Packets over loopback, of clients and servers.
    pub packets_per_cycle: f64,
    /// Their bytes.
    pub bytes_per_cycle: f64,
    /// Bytes to disks.
    pub written_per_cycle: f64,
    /// Processor time of the servers.
    pub servers_us_per_cycle: f64,
    /// And of the load.
    pub load_us_per_cycle: f64,
    /// The servers' threads by kind.
    pub threads: BTreeMap<String, OfThreads>,
    /// The sync of a store, in microseconds.
    pub sync_us: f64,
    /// The way of an acquire.
    pub budget: Budget,
    /// System calls of the servers per commit, by name; none if they were not counted.
    pub calls_per_commit: Option<BTreeMap<String, f64>>,
    /// The functions that take most, of servers and load: processor time per cycle in microseconds; none if
    /// they were not sampled.
    pub functions: Option<Vec<(String, f64)>>,
    /// Why something was not measured.
    pub not_measured: Vec<String>,
}

impl Figures {
    /// What follows from what was seen.
    pub fn new(load: String, seen: Seen) -> Self {
        let Seen { quiet, sampled, traced, budget, notes, f_us: [f_us, f_loaded_us] } = seen;
        let cycles = at_least_one(quiet.cycles(&notes).count() as f64);
        let commits = at_least_one(quiet.commits());
        let latencies = |of: fn(&Cycle) -> u64| {
            measure::latencies(quiet.cycles(&notes).map(|it| Duration::from_nanos(of(it))))
        };
        let us_per_cycle = |run_ns: u64| run_ns as f64 / 1e3 / cycles;
        let of_kind = |(name, it): (&String, &Totals)| {
            let us_per_cycle = us_per_cycle(it.run_ns);
            let wakeups_per_commit = it.sleeps as f64 / commits;
            (name.clone(), OfThreads { us_per_cycle, wakeups_per_commit })
        };
        let mut not_measured = Vec::new();
        let metrics = &quiet.metrics;
        Self {
            load,
            cycles_per_s: cycles / quiet.seconds(),
            cycle: latencies(|it| it.released - it.invoked),
            acquire: latencies(|it| it.granted - it.invoked),
            failed_calls: measure::errors(notes.iter().map(|notes| &notes.errors)).count,
            f_us,
            f_loaded_us,
            commits_per_s: quiet.commits() / quiet.seconds(),
            commands_per_commit: metrics.get("sharklock_range_commands_total") / commits,
            wakeups_per_commit: all(&quiet.servers).sleeps as f64 / commits,
            syncs_per_commit: metrics.get("sharklock_store_sync_seconds_count") / commits,
            messages_per_commit: metrics.get("sharklock_peer_messages_total") / commits,
            packets_per_cycle: quiet.loopback.packets as f64 / cycles,
            bytes_per_cycle: quiet.loopback.bytes as f64 / cycles,
            written_per_cycle: quiet.written as f64 / cycles,
            servers_us_per_cycle: us_per_cycle(all(&quiet.servers).run_ns),
            load_us_per_cycle: us_per_cycle(all(&quiet.load).run_ns),
            threads: quiet.servers.iter().map(of_kind).collect(),
            sync_us: metrics.median("sharklock_store_sync_seconds").unwrap_or_default() * 1e6,
            budget,
            calls_per_commit: calls_per_commit(&traced, &mut not_measured),
            functions: functions(&sampled, &notes, &mut not_measured),
            not_measured,
        }
    }
}

/// What was counted, over the commits of the part in which it was.
fn calls_per_commit(
    (part, calls): &Looked<BTreeMap<String, f64>>,
    not_measured: &mut Vec<String>,
) -> Option<BTreeMap<String, f64>> {
    match calls {
        Ok(calls) => {
            let commits_per_s = at_least_one(part.commits()) / part.seconds();
            let per_commit = |(name, per_s): (&String, &f64)| (name.clone(), per_s / commits_per_s);
            Some(calls.iter().map(per_commit).collect())
        }
        Err(why) => {
            not_measured.push(format!("system calls: {why}"));
            None
        }
    }
}

/// Shares of functions, as times of a cycle of the part in which they were sampled.
fn functions(
    (part, shares): &Looked<Vec<(String, f64)>>,
    notes: &[Notes],
    not_measured: &mut Vec<String>,
) -> Option<Vec<(String, f64)>> {
    match shares {
        Ok(shares) => {
            let run_us = (all(&part.servers).run_ns + all(&part.load).run_ns) as f64 / 1e3;
            let us_per_cycle = run_us / at_least_one(part.cycles(notes).count() as f64);
            let times = shares.iter().map(|(name, share)| (name.clone(), share * us_per_cycle));
            Some(times.collect())
        }
        Err(why) => {
            not_measured.push(format!("functions: {why}"));
            None
        }
    }
}

/// Nothing can be divided by nothing: a load that did not come to anything shows its sums.
fn at_least_one(count: f64) -> f64 {
    count.max(1.0)
}
