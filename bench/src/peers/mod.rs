//! SharkLock beside etcd, ZooKeeper and Redis, on one machine: what `scripts/bench-peers.sh` runs.
//!
//! Every system is started by itself on loopback, in a temporary directory, and killed at the end.
//! One loop loads them all: a system differs only in how it is started and in how one worker
//! acquires and releases. Systems take turns, round after round, because a disk and a machine drift;
//! ratios are taken within a round.

pub(crate) mod args;
mod command;
pub(crate) mod drive;
mod etcd;
mod failover;
mod plan;
mod plot;
mod process;
mod redis;
pub(crate) mod results;
mod round_trip;
pub(crate) mod service;
pub(crate) mod sharklock;
mod summary;
mod table;
mod zookeeper;

pub use args::Args;
pub use command::run;
