//! What is not a core: threads, clocks, the disk, and the in-process link of a gateway. Everything
//! here only translates between the world and `Worker`.

mod clock;
mod disk_thread;
mod links;
mod mailbox;
mod metrics;
mod server;
mod worker_thread;

pub use links::LocalLink;
pub use mailbox::Lane;
pub use server::{DataServer, DataServerConfig, StartError};
