//! Measurements, as they are written to `peers.json` and read again.

use std::collections::BTreeMap;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::report::{Disk, Errors, Fairness, Latencies};

/// A system under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum System {
    /// Three processes with all roles.
    Sharklock,
    /// Three nodes, through `v3lock`.
    Etcd,
    /// Three nodes, Curator's lock recipe.
    Zookeeper,
    /// One process that syncs every write.
    RedisAlways,
    /// One process that writes nothing to the disk.
    RedisMemory,
}

impl System {
    /// In the order of the tables and of the turns.
    pub const ALL: [Self; 5] =
        [Self::Sharklock, Self::Etcd, Self::Zookeeper, Self::RedisAlways, Self::RedisMemory];

    /// As the tables show it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Sharklock => "SharkLock, 3 nodes",
            Self::Etcd => "etcd, 3 nodes",
            Self::Zookeeper => "ZooKeeper, 3 nodes",
            Self::RedisAlways => "Redis, 1 node, appendfsync always",
            Self::RedisMemory => "Redis, 1 node, nothing on disk",
        }
    }
}

/// The work of the workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Each worker acquires and releases 16 names of its own.
    Own,
    /// All workers take turns on one name.
    Hot,
}

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Own, Self::Hot];
}

/// One figure's run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// Ratios are taken within one.
    pub round: u32,
    /// The load.
    pub system: System,
    /// With what.
    pub workload: Kind,
    /// By how many.
    pub clients: u32,
    /// Cycles (hand-overs of a hot lock) per second.
    pub cycles_per_s: f64,
    /// From the call of acquire to the answer of release.
    pub cycle: Latencies,
    /// From the call of acquire to its answer; of a hot lock: the wait.
    pub acquire: Latencies,
    /// From the call of release to its answer.
    pub release: Latencies,
    /// How evenly a hot lock went round.
    pub fairness: Option<Fairness>,
    /// Calls that failed.
    pub errors: Errors,
    /// How often a worker was granted the hot lock while another one held it.
    pub overlaps: u64,
    /// `fdatasync` around and during this run.
    pub disk: Disk,
}

/// The time after the leader was killed under load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failover {
    /// The systems take turns here too.
    pub round: u32,
    /// The load.
    pub system: System,
    /// By how many, on names of their own.
    pub clients: u32,
    /// Cycles per second before the kill.
    pub cycles_per_s_before: f64,
    /// From SIGKILL to the first grant of an acquire that began after it; none: there was no such
    /// grant.
    pub first_grant_ms: Option<f64>,
    /// The longest time around or after the kill in which no worker had an answer.
    pub longest_gap_ms: f64,
    /// How long it was watched after the kill.
    pub watched_s: f64,
    /// Calls that failed.
    pub errors: Errors,
    /// `fdatasync` around and during this run.
    pub disk: Disk,
}

/// Everything.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "schema", rename = "sharklock.v1.Peers")]
pub struct Results {
    /// Processors of the machine.
    pub cpus: usize,
    /// The median round trip of one byte over loopback TCP between two threads, microseconds.
    pub round_trip_us: f64,
    /// The version of each system, in its own words.
    pub versions: BTreeMap<System, String>,
    /// Seconds before each run counted.
    pub warmup_s: f64,
    /// Seconds that counted.
    pub measured_s: f64,
    /// How often each system had its turn.
    pub rounds: u32,
    /// In the order in which they were made.
    pub runs: Vec<Run>,
    /// In the order in which they were made.
    pub failovers: Vec<Failover>,
}
