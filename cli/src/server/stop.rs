//! SIGINT and SIGTERM.

use nix::sys::signal::Signal as UnixSignal;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinHandle,
};

use crate::exit::{Failure, INTERNAL};

/// Listens from its creation on.
#[derive(Debug)]
pub struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    /// From now on these signals are heard and do nothing by themselves.
    pub fn listen() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind)
                .map_err(|why| Failure::new(INTERNAL, "cannot listen to signals").cause(why))
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// The next one's number.
    pub async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => UnixSignal::SIGINT as u8,
            _ = self.terminate.recv() => UnixSignal::SIGTERM as u8,
        }
    }

    /// Somebody who asks twice does not want to wait. Everything acknowledged is on the disk
    /// already.
    pub fn next_ends_the_process(mut self) -> JoinHandle<()> {
        tokio::spawn(async move {
            let number = self.next().await;
            std::process::exit(128 + i32::from(number));
        })
    }
}
