//! Lock workloads as a library: what `sharklock bench` runs.
//!
//! A load is a number of workers over a few client connections. Every call is noted, the notes are
//! judged by `sharklock-history`, and all figures are computed from the same notes afterwards, so
//! that measuring adds a push to a vector to the path that is measured. The disk is measured in the
//! same run, because a durable lock can be no faster than its `fdatasync`.
//!
//! With the feature `peers` it also measures etcd, ZooKeeper and Redis beside it (see `peers`), and tells
//! where the time of SharkLock's own cycles goes (see `profile`).
//!
//! It goes through a gateway's port as any client does, and knows nothing of the servers.

mod beside;
mod disk;
#[cfg(feature = "peers")]
pub mod interrupted;
mod intervals;
mod load;
mod measure;
#[cfg(feature = "peers")]
pub mod peers;
#[cfg(feature = "peers")]
pub mod profile;
mod ranges;
mod report;
mod sessions;
mod worker;

pub use beside::{Beside, Told};
pub use load::{Load, LoadError, Workload, run};
pub use report::{
    Disk, Errors, Fairness, Interval, Judged, KeepAlives, Latencies, Report, Slowest, Split, Stood,
};
