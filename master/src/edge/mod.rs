//! The parts around the core: the thread, the clock, the disk, the port, and meeting the other
//! masters.

mod desk;
mod files;
mod joining;
mod meeting;
mod member;
mod metrics;
mod server;
mod service;
mod thread;

pub use files::belongs_to_a_cluster;
pub use server::{Master, MasterConfig, StartError, Tuning};
