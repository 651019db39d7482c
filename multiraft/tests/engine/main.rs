//! The engine through its public interface, on simulated disks and an in-test network.

mod node;
mod single_voter;
mod tally;
