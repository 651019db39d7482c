//! The tokio runtime of a process.

use std::num::NonZero;

use tokio::runtime::{Builder, Runtime};

use crate::exit::{Failure, INTERNAL};

/// Starts a runtime with `threads` besides the calling one, named so that `top -H` and
/// core dumps tell them apart from the data server's.
pub fn start(threads: usize) -> Result<Runtime, Failure> {
    Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("sharklock-net")
        .enable_all()
        .build()
        .map_err(|why| Failure::new(INTERNAL, "cannot start threads").cause(why))
}

/// One thread per core: they serve connections, and never wait for a disk.
pub fn threads_per_core() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// One thread per core that `busy` other threads leave: on a small machine a second one takes work
/// from the first only to be woken for it.
pub fn threads_beside(busy: usize) -> usize {
    threads_per_core().saturating_sub(busy).max(1)
}
