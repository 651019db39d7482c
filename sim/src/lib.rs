//! A whole SharkLock cluster in one thread: ranges on three and more stores, gateways and clients as
//! shipped (their cores, without sockets, threads and disks), on a network, disks and clocks of the
//! simulator's making. One seed decides everything, so that every run can be repeated.
//!
//! A run has a phase with faults, in which only safety is checked; then everything heals, and what
//! must happen in time has to; then the clients go, and nothing may be left.

mod agreements;
mod ambush;
mod asking;
mod check;
mod client;
mod client_events;
mod client_hears;
mod client_spare;
mod clock;
mod closing;
mod dice;
mod doomed;
mod elsewhere;
mod faults;
mod gateway;
mod gateway_events;
mod heart;
mod impostor;
mod in_time;
mod links;
mod lists;
mod losses;
mod master;
mod master_events;
mod master_faults;
mod master_poll;
mod names;
mod node;
mod options;
mod orders;
mod overtaking;
mod poll;
mod process;
mod queue;
mod ranges;
mod recording;
mod replay;
mod revoking;
mod route_events;
mod run;
mod split_calls;
mod split_faults;
mod split_ids;
mod splits;
mod state_file;
mod store;
mod store_events;
mod stream_events;
mod streams;
mod tasks;
mod trace;
mod turns;
mod watchers;
mod world;

pub use check::Violation;
pub use options::Options;
pub use run::{RunReport, run};
pub use world::Counters;
