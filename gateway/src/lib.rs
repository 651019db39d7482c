//! The stateless front of SharkLock: it checks calls, finds their ranges, merges keepalives, and
//! pushes grants to those who wait.
//!
//! It keeps soft state only: losing a gateway loses no lock and no place in a queue. It knows
//! neither Raft nor the lock table; it reaches stores through [`StoreLink`]. Without the default
//! feature `edge` only the cores compile, which know neither tokio nor tonic nor the time.

pub mod failure;
pub mod keepalives;
pub mod outbox;
pub mod routing;
pub mod tag;
pub mod validate;

mod link;

pub use link::{Lane, StoreLink};

#[cfg(feature = "edge")]
mod edge;
#[cfg(feature = "edge")]
pub use edge::{Config, Gateway, Readiness, ServeError};
