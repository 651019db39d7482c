//! The engine through its public interface, on simulated disks and an in-test network.
#![expect(clippy::unwrap_used, reason = "tests")]

mod alone;
mod checks;
mod cluster;
mod coalescing;
mod damaged_disk;
mod flush;
mod guard;
mod heeding;
mod installs;
mod lost_disk;
mod marks;
mod network;
mod node;
mod places;
mod power_loss;
mod random_faults;
mod random_network;
mod scripts;
mod single_voter;
mod skipped;
mod slow_link;
mod split_crashes;
mod stability;
mod tally;
mod three_stores;
mod under_load;
mod weather;
mod wording;
