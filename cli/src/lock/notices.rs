//! Lines for people on stderr, from a thread of their own.
//!
//! A reader that stops reading must not be able to stop the supervisor, which has signals to send
//! in time. So a line that finds the queue full is dropped.

use std::{
    io::Write as _,
    sync::mpsc::{self, SyncSender},
    thread,
    time::Duration,
};

/// Lines waiting to be written: a run prints fewer.
const QUEUE_LEN_MAX: usize = 64;
/// How long the end of the process may wait for the last line to be written.
const FLUSH_MAX: Duration = Duration::from_millis(200);

/// The way of the lines.
#[derive(Debug)]
pub struct Notices {
    lines: SyncSender<String>,
    written: mpsc::Receiver<()>,
}

impl Notices {
    /// Starts the thread that writes.
    pub fn start() -> Self {
        let (lines, queue) = mpsc::sync_channel::<String>(QUEUE_LEN_MAX);
        let (done, written) = mpsc::sync_channel(1);
        let writer = move || {
            for line in queue {
                let _ = std::io::stderr().write_all(line.as_bytes());
            }
            let _ = done.send(());
        };
        thread::Builder::new()
            .name("notices".into())
            .spawn(writer)
            .expect("the system has room for a thread");
        Self { lines, written }
    }

    /// Queues `sharklock: TEXT`.
    pub fn say(&self, text: impl std::fmt::Display) {
        let text = crate::render::printable(&text.to_string());
        // Full or closed: see the module's head.
        let _ = self.lines.try_send(format!("sharklock: {text}\n"));
    }

    /// Waits a moment until everything is written.
    pub fn finish(self) {
        drop(self.lines);
        let _ = self.written.recv_timeout(FLUSH_MAX);
    }
}
