//! The parts around the core: the thread, the clock, the disk, the port, and meeting the other
//! masters.

mod desk;
mod files;
mod meeting;
mod metrics;
mod server;
mod service;
mod thread;

pub use server::{Master, MasterConfig, StartError, Tuning};
