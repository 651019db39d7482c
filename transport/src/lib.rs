//! Connections between the processes of a cluster: who dials whom, one ordered stream per class,
//! bounded queues in front of them, and what is done when they break.
//!
//! It carries messages and understands none: Raft belongs to `multiraft`, calls of gateways to
//! `dataserver` and `gateway`, the cluster's state to `master`.

mod acceptor;
mod backoff;
mod dialling;
mod frames;
mod keeper;
mod lateness;
mod masters;
mod outage;
mod peer_queue;
mod peers;
mod server;
mod wall_clock;
mod watching;
mod wrong_port;

pub use acceptor::{PeerAcceptor, Signs};
pub use backoff::Backoff;
pub use dialling::{DIAL_WITHIN, Dialling, PING_EVERY, PONG_WITHIN, innermost};
pub use masters::{Masters, MastersError, NOT_LEADER};
pub use outage::{Outage, OutageNews};
pub use peers::{PeerAddress, PeerIdentity, PeerInbox, PeerLinks};
pub use server::{FramePeers, ServeError, serve, server};
pub use wall_clock::{wall_unix_ms, wall_unix_ns};
pub use wrong_port::{AdminApi, LockApi, PublicService, WRONG_PORT, WrongPort, wrong_port};
