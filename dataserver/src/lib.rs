//! A data server: ranges of locks on the multi-Raft engine, their lease clocks, and the calls of
//! gateways.
//!
//! The cores (`Worker`, `LeaseClock`, and what they are made of) know neither clock nor thread nor
//! disk; the feature `edge` adds those.

mod admission;
mod agenda;
mod agreement;
mod alarms;
mod answers;
mod assignment;
mod attempts;
mod batching;
mod codec;
mod condition_clock;
#[cfg(feature = "edge")]
mod edge;
mod front;
mod gate;
mod gathering;
mod image;
mod journal;
mod lease_clock;
mod load;
mod load_sample;
mod machine;
mod memory;
mod moved;
mod observed;
mod orphans;
mod ports;
mod range_age;
mod reads;
mod reports;
mod session_answers;
mod splitting;
mod tracing_calls;
mod triggers;
mod watching;
mod wire;
mod worker;

pub use assignment::Assignment;
pub use codec::{BatchHead, DecodeError, LogBatch, decode_batch, encode_batch};
pub use condition_clock::TimeKey;
#[cfg(feature = "edge")]
pub use edge::{DataServer, DataServerConfig, LocalLink, StartError, Tuning, known_masters};
pub use front::LinkId;
pub use gathering::{GATHERING_LINK, Gathering, is_for_all};
pub use lease_clock::{LeaseClock, LeaseKey, Renewal, with_drift};
pub use machine::{LockRange, LockRangeOutput};
pub use memory::{MemoryBounds, MemoryRefusals, SESSION_ACQUISITIONS_MAX, StoreMemory};
pub use observed::Observed;
pub use orphans::removed_by_masters;
pub use ports::{IdsWanted, Input, Outputs, Pace, SplitCounts, Whereabouts, WorkerStats};
pub use reports::Reports;
#[cfg(feature = "edge")]
pub use sharklock_multiraft::{LogLimits, SnapshotLimits};
#[cfg(feature = "edge")]
pub use sharklock_proto::Lane;
pub use splitting::{Cut, NotSplit, RANGES_MAX, Why};
pub use triggers::{Excess, Measure, OneName, SplitLimits};
pub use worker::Worker;
