//! The parts around the core: threads, clocks, the disk, the links of gateways and of other stores,
//! and what the masters are told. Everything here only translates between the world and the workers:
//! the porter takes in what is for them, and the board shows what they say as one.

mod board;
mod chores;
mod clock;
mod disk_space;
mod disk_thread;
mod exchange;
mod heartbeat;
mod inbox;
mod known_masters;
mod links;
mod lock_metrics;
mod mailbox;
mod metrics;
mod own_runtime;
mod porter;
mod registration;
mod server;
mod snapshot_metrics;
mod split_ids;
mod worker_thread;

pub use known_masters::known_masters;
pub use links::LocalLink;
pub use server::{DataServer, DataServerConfig, StartError, Tuning};
