//! The parts that end-to-end tests share: real `sharklock` processes, clients whose every call is
//! written down, and raw gRPC for what no client would send.
//!
//! Nothing here sleeps and hopes: [`wait::eventually`] looks until a condition holds or its
//! deadline passes. Nothing here knows the product's inside; the verdicts are those of `history`.

pub mod chaos;
pub mod cluster;
pub mod file_system;
pub mod link_proxy;
pub mod load;
pub mod process;
pub mod proxy;
pub mod pty;
pub mod server;
pub mod wait;
pub mod wire;
pub mod witness;
