//! The profile that `scripts/profile.sh` makes: it tells where the time of a cycle goes on this machine.
//!
//! Three servers and a load as in [`crate::peers`]. In the first part of a load's time things are only
//! counted: by `/proc`, by the servers' metrics, and by the spans of some acquires. In the second part
//! `perf` samples functions, in the third it counts system calls: its costs are in none of the other
//! figures.

mod args;
mod budget;
mod command;
mod counters;
mod figures;
mod perf;
mod table;
mod threads;

pub use args::Args;
pub use command::run;
