//! The tokio runtime of a thread of its own: what it polls there wakes no other thread.

use std::io;

use tokio::runtime::{Builder, Handle, Runtime};

/// A runtime that one thread polls. It may end anywhere, and whatever it still polls ends with it.
pub struct OwnRuntime(Option<Runtime>);

impl OwnRuntime {
    /// Starts one, to be polled by the thread that blocks on something.
    ///
    /// # Errors
    /// The system has no more descriptors.
    pub fn start() -> io::Result<Self> {
        Ok(Self(Some(Builder::new_current_thread().enable_all().build()?)))
    }

    /// Lets others give it tasks.
    pub fn handle(&self) -> Handle {
        self.runtime().handle().clone()
    }

    /// Runs this, and polls all else meanwhile.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime().block_on(future)
    }

    fn runtime(&self) -> &Runtime {
        self.0.as_ref().expect("it is taken by drop only")
    }
}

impl Drop for OwnRuntime {
    /// Waits for nothing: a plain drop would panic inside another runtime.
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(Runtime::shutdown_background);
    }
}
