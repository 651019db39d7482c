//! The stateless entry to SharkLock: it checks calls, finds their ranges, merges keepalives, and
//! pushes grants to those who wait.
//!
//! It keeps soft state only: losing a gateway loses no lock and no place in a queue. It knows
//! neither Raft nor the lock table; it reaches stores through [`StoreLinks`]. Without the default
//! feature `edge` only the cores compile, which know neither tokio nor tonic nor the time.

pub mod failure;
pub mod keepalives;
pub mod listing;
pub mod outbox;
pub mod routing;
pub mod session_walks;
pub mod tag;
pub mod validate;

mod describing;
mod hub;
mod link;
mod observer;
mod page_token;
mod port;
mod presence;
mod stream;
mod streams;
mod tracing_calls;
mod walk;

pub use describing::{
    DESCRIBE_AGAIN_MAX_US, DESCRIBE_AGAIN_US, DESCRIBE_EVERY_US, DESCRIBE_WITHIN_US,
};
pub use hub::{CALL_LIFE_US, Hub, HubConfig, SWEEP_EVERY_US};
pub use link::{StoreLink, StoreLinks};
pub use observer::{Observer, RouteMiss};
pub use port::SessionPort;
pub use sharklock_proto::{CallKind, Lane};
pub use sharklock_rangemap::StoreId;
pub use stream::{Numbered, Origin, StreamHandle};
pub use tracing_calls::Tracing;

#[cfg(feature = "edge")]
mod edge;
#[cfg(feature = "edge")]
pub use edge::{Config, Directory, Gateway, Readiness, ServeError, StoreConnection, Stores};
