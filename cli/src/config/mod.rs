//! The configuration of a server: a TOML file, `SHARKLOCK_SECTION__KEY` in the environment, and
//! flags, of which the last wins. Everything is checked before anything is opened.

mod checks;
mod keys;
mod machine;
mod settings;
mod sources;
mod value;

use std::{
    net::SocketAddr,
    num::{NonZeroU64, NonZeroUsize},
    path::{Path, PathBuf},
    time::Duration,
};

use sharklock_client::ClusterId;
use sharklock_dataserver::SplitLimits;

pub use self::{
    settings::Settings,
    sources::{Origin, Said},
    value::{Raw, listen},
};
use crate::exit::Failure;

/// The roles of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    /// It keeps the cluster's metadata.
    pub master: bool,
    /// It keeps locks.
    pub data: bool,
    /// It serves clients.
    pub gateway: bool,
}

impl Roles {
    /// The small cluster's: equal machines.
    pub const ALL: Self = Self { master: true, data: true, gateway: true };
    /// Names of roles, in this order everywhere.
    pub const NAMES: [&str; 3] = ["master", "data", "gateway"];

    /// Names of these, for a setting or for people.
    pub fn names(self) -> Vec<&'static str> {
        let on = [self.master, self.data, self.gateway];
        Self::NAMES.into_iter().zip(on).filter(|(_, on)| *on).map(|(name, _)| name).collect()
    }
}

/// The settings of a process, checked.
#[derive(Debug)]
pub struct ServerConfig {
    /// What people call it: the same in every table.
    pub name: String,
    /// What people call its cluster; empty: nothing.
    pub cluster_name: String,
    /// The roles that it runs.
    pub roles: Roles,
    /// The directory of the stores of `master` and `data`; absent for a gateway alone.
    pub data_dir: Option<PathBuf>,
    /// The directory is to be on a volume: in a container everything else goes with it.
    pub data_on_volume: bool,
    /// All masters of the cluster.
    pub masters: Vec<String>,
    /// The master of this process forms no cluster: it waits until it is added to the one of `masters`.
    pub join: bool,
    /// The cluster that its gateway is to serve, if it is to be sure from the start; stores and
    /// masters keep theirs in their directories.
    pub cluster: Option<ClusterId>,
    /// The addresses that it listens on; only those of its roles, and the admin port, are used.
    pub listen: Listen,
    /// Where its store is, from the widest to the narrowest.
    pub labels: Vec<(String, String)>,
    /// The addresses at which others reach its stores, if those are not the ones that it listens
    /// on.
    pub advertise: Advertise,
    /// Writes are durable before they are acknowledged.
    pub sync_writes: bool,
    /// Audit lines have the names of locks, and not their hashes.
    pub logs_lock_names: bool,
    /// The file that has the audit lines, too.
    pub audit_file: Option<PathBuf>,
    /// The settings that somebody has set, as [`Settings::chosen`] tells them.
    pub chosen: String,
    /// What is traced, and where spans go beside this process's memory.
    pub traces: Traces,
    /// How fast, how much.
    pub tunables: Tunables,
    /// All settings as `--print-config` shows them.
    pub printed: String,
}

/// What is traced, and where spans go beside this process's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traces {
    /// The collector, `http://HOST:PORT`, if there is one.
    pub otlp: Option<String>,
    /// Of so many acquires that nobody traces one is traced; absent: none.
    pub every: Option<NonZeroU64>,
}

/// Addresses to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// For clients.
    pub gateway: SocketAddr,
    /// For peers and gateways.
    pub data: SocketAddr,
    /// For masters, stores and gateways.
    pub master: SocketAddr,
    /// For `/metrics`, `/livez`, `/readyz`.
    pub admin: SocketAddr,
}

/// Addresses to tell others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Advertise {
    /// Of the data server.
    pub data: Option<String>,
    /// Of the master: how `masters` names it.
    pub master: Option<String>,
}

/// The knobs that a configuration may turn (decisions.md, *Defaults*).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunables {
    /// Replicas of the cluster's first range.
    pub replicas: u32,
    /// How often a store reports to the master.
    pub store_heartbeat: Duration,
    /// A store that was not heard of for so long is not counted on.
    pub store_disconnected: Duration,
    /// A store that was not heard of for so long is taken for gone.
    pub store_down: Duration,
    /// Raft workers of this store, which share its ranges out.
    pub raft_workers: NonZeroUsize,
    /// Raft's tick; a heartbeat is 2, an election 10 to 20 of it.
    pub tick: Duration,
    /// How often changed rows are written to the image.
    pub image_flush: Duration,
    /// Log that is kept for followers that are a little behind.
    pub log_entries_floor: u64,
    /// Log that is kept at most.
    pub log_entries_max: u64,
    /// The same in bytes.
    pub log_bytes_max: u64,
    /// Bytes of a snapshot in one message.
    pub snapshot_chunk: u64,
    /// Bytes of a snapshot on their way at a time.
    pub snapshot_window: u64,
    /// Bytes of snapshots that a store sends per second, and that it receives; absent: no bound.
    pub snapshot_rate: Option<u64>,
    /// Snapshots that are sent at a time.
    pub snapshots_sending: u32,
    /// Snapshots that are received at a time.
    pub snapshots_receiving: u32,
    /// Bytes of the disk that no snapshot takes; absent: the disk is not looked at.
    pub snapshot_disk_free_min: Option<u64>,
    /// Replicas that a store may have: no range is split beyond that.
    pub ranges_max_per_store: u32,
    /// Beyond which a range is split by itself.
    pub split: SplitLimits,
    /// Shortest lease that a client may ask for.
    pub ttl_min: Duration,
    /// How much memory locks may take.
    pub memory: Memory,
}

/// Bounds on the memory of this process's locks, bytes; absent: none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Of all.
    pub store_max: Option<u64>,
    /// Of the clients at one address.
    pub address_max: Option<u64>,
    /// Acquisitions that a session may have open.
    pub session_acquisitions: u64,
    /// Of the locks under prefixes of their names.
    pub prefix_max: Vec<(String, u64)>,
}

/// Reads everything: `file` is `--config` or `$SHARKLOCK_CONFIG`, `flags` is what the command line
/// says.
pub fn load(file: Option<&Path>, flags: Vec<Said>) -> Result<Settings, Failure> {
    let file = file.map(sources::file).transpose()?.unwrap_or_default();
    Settings::merge([file, sources::variables(utf8_variables())?, flags])
}

/// Checks what belongs together.
pub fn check(settings: &Settings) -> Result<ServerConfig, Failure> {
    checks::check(settings)
}

/// A value that a flag, or a command in its place, sets.
pub fn said(name: &str, raw: Raw, origin: Origin) -> Said {
    let key = keys::find(name).unwrap_or_else(|| unreachable!("{name} is no setting"));
    Said { key, raw, origin }
}

/// None of ours holds anything else.
fn utf8_variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| {
        Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
    })
}
