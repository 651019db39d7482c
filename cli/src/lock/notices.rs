//! Lines for people on stderr, from a thread of their own.
//!
//! A reader that stops reading must not be able to stop the supervisor, which has signals to send
//! in time. So a line that finds the queue full is dropped.
//!
//! On a terminal there may be a live line: one that is painted over and over, until it is erased. A
//! process in the background paints none, since the terminal is somebody else's then.

use std::{
    io::{self, IsTerminal as _, Write as _},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, SyncSender},
    },
    thread,
    time::Duration,
};

use nix::unistd::{getpgrp, tcgetpgrp};

use crate::render::{cut, printable};

/// Lines waiting to be written: a run prints fewer.
const QUEUE_LEN_MAX: usize = 64;
/// How long the end of the process, or the begin of the command, may wait for the last line to be
/// written.
const FLUSH_MAX: Duration = Duration::from_millis(200);
/// Back to the begin of the line, which is then empty.
const ERASE: &str = "\r\x1b[K";
/// The width of a terminal that does not tell its own.
const COLUMNS_DEFAULT: usize = 80;

/// The way of the lines.
#[derive(Debug)]
pub struct Notices {
    orders: SyncSender<Order>,
    written: mpsc::Receiver<()>,
    /// A live line is on its way or stands there.
    has_live: AtomicBool,
    /// The last live line has been painted: at most one is in the queue, so that they cannot fill it.
    is_painted: Arc<AtomicBool>,
}

/// What the thread is to do.
enum Order {
    /// Write a line that stays.
    Line(String),
    /// Paint the live line anew.
    Live(String),
    /// Erase it, and say so.
    Erase(SyncSender<()>),
}

impl Notices {
    /// Starts the thread that writes.
    pub fn start() -> Self {
        let (orders, queue) = mpsc::sync_channel::<Order>(QUEUE_LEN_MAX);
        let (done, written) = mpsc::sync_channel(1);
        let is_painted = Arc::new(AtomicBool::new(true));
        let painted = Arc::clone(&is_painted);
        let writer = move || {
            let mut page = Page::default();
            for order in queue {
                let text = page.text(&order, is_foreground());
                let _ = io::stderr().write_all(text.as_bytes());
                match order {
                    Order::Line(_) => {}
                    Order::Live(_) => painted.store(true, Ordering::Relaxed),
                    Order::Erase(erased) => _ = erased.try_send(()),
                }
            }
            let _ = done.send(());
        };
        thread::Builder::new()
            .name("notices".into())
            .spawn(writer)
            .expect("the system has room for a thread");
        Self { orders, written, has_live: AtomicBool::new(false), is_painted }
    }

    /// Queues `sharklock: TEXT`.
    pub fn say(&self, text: impl std::fmt::Display) {
        // Full or closed: see the module's head.
        let _ = self.orders.try_send(Order::Line(line(text)));
    }

    /// Paints the live line `sharklock: TEXT`, as much of it as the terminal's width takes. False:
    /// there is no terminal for one.
    pub fn paint(&self, text: impl std::fmt::Display) -> bool {
        if !is_foreground() {
            return false;
        }
        // While nobody reads, the old one stands.
        if self.is_painted.swap(false, Ordering::Relaxed) {
            self.has_live.store(true, Ordering::Relaxed);
            if self.orders.try_send(Order::Live(line(text))).is_err() {
                self.is_painted.store(true, Ordering::Relaxed);
            }
        }
        true
    }

    /// Erases the live line, if there is one, and waits a moment until that is done.
    pub fn erase(&self) {
        if !self.has_live.swap(false, Ordering::Relaxed) {
            return;
        }
        let (erased, wait) = mpsc::sync_channel(1);
        if self.orders.try_send(Order::Erase(erased)).is_ok() {
            let _ = wait.recv_timeout(FLUSH_MAX);
        }
    }

    /// Waits a moment until everything is written.
    pub fn finish(self) {
        self.erase();
        drop(self.orders);
        let _ = self.written.recv_timeout(FLUSH_MAX);
    }
}

fn line(text: impl std::fmt::Display) -> String {
    format!("sharklock: {}", printable(&text.to_string()))
}

/// Whether stderr is a terminal, and this process has it.
fn is_foreground() -> bool {
    io::stderr().is_terminal() && tcgetpgrp(io::stderr()) == Ok(getpgrp())
}

/// What stands on the terminal's current line.
#[derive(Debug, Default)]
struct Page {
    live: Option<String>,
}

impl Page {
    /// What has to be written.
    fn text(&mut self, order: &Order, is_foreground: bool) -> String {
        if !is_foreground {
            // Whatever stands there now, it is not the live line that is to be erased.
            self.live = None;
        }
        let erase = if self.live.is_some() { ERASE } else { "" };
        match order {
            Order::Line(line) => {
                let live = self.live.as_deref().unwrap_or_default();
                format!("{erase}{line}\n{live}")
            }
            Order::Live(_) if !is_foreground => String::new(),
            Order::Live(line) => {
                // In the last column a terminal would begin the next line.
                let live = cut(line, columns().saturating_sub(1));
                let text = format!("{ERASE}{live}");
                self.live = Some(live);
                text
            }
            Order::Erase(_) => {
                self.live = None;
                erase.to_owned()
            }
        }
    }
}

fn columns() -> usize {
    let size = terminal_size::terminal_size_of(io::stderr());
    size.map_or(COLUMNS_DEFAULT, |(columns, _)| columns.0.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live(text: &str) -> Order {
        Order::Live(line(text))
    }

    #[test]
    fn lines_that_stay_are_written_above_the_live_line() {
        let mut page = Page::default();
        assert_eq!(page.text(&live("1"), true), "\r\x1b[Ksharklock: 1");
        assert_eq!(page.text(&live("2"), true), "\r\x1b[Ksharklock: 2");
        let stays = Order::Line(line("a"));
        assert_eq!(page.text(&stays, true), "\r\x1b[Ksharklock: a\nsharklock: 2");
        let erase = || Order::Erase(mpsc::sync_channel(1).0);
        assert_eq!(page.text(&erase(), true), "\r\x1b[K");
        assert_eq!(page.text(&stays, true), "sharklock: a\n");
        assert_eq!(page.text(&erase(), true), "");
    }

    #[test]
    fn in_the_background_nothing_is_painted_or_erased() {
        let mut page = Page::default();
        assert_eq!(page.text(&live("1"), false), "");
        page.text(&live("2"), true);
        assert_eq!(page.text(&Order::Line(line("a")), false), "sharklock: a\n");
        assert_eq!(page.text(&Order::Erase(mpsc::sync_channel(1).0), true), "");
    }
}
