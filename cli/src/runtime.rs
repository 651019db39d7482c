//! The tokio runtime of a process.

use tokio::runtime::{Builder, Runtime};

use crate::exit::{Failure, INTERNAL};

/// Starts a runtime with `workers` threads besides the calling one, named so that `top -H` and
/// core dumps tell them apart from the data server's.
pub fn start(workers: usize) -> Result<Runtime, Failure> {
    Builder::new_multi_thread()
        .worker_threads(workers)
        .thread_name("sharklock-net")
        .enable_all()
        .build()
        .map_err(|why| Failure::new(INTERNAL, "cannot start threads").cause(why))
}

/// One worker per core: they serve connections, and never wait for a disk.
pub fn workers_per_core() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
