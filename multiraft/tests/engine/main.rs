//! The engine through its public interface, on simulated disks and an in-test network.
#![expect(clippy::unwrap_used, reason = "tests")]

mod cluster;
mod damaged_disk;
mod flush;
mod guard;
mod node;
mod power_loss;
mod random_faults;
mod single_voter;
mod tally;
mod three_stores;
