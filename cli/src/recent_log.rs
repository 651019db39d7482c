//! The last lines of this process's log, kept in memory for whoever looks for the cause of trouble:
//! `debug collect` asks each process for them, wherever its stderr goes.

use std::{
    collections::VecDeque,
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tracing_subscriber::fmt::MakeWriter;

/// Bytes that are kept: an hour of a quiet cluster, minutes of one in trouble.
const BYTES_MAX: usize = 1 << 20;

/// The lines of this process.
pub static RECENT: RecentLog = RecentLog(Mutex::new(Lines { lines: VecDeque::new(), bytes: 0 }));

/// Lines in the order in which they came, one event each.
pub struct RecentLog(Mutex<Lines>);

/// Invariant: `bytes` is the sum of the lengths of `lines`, and at most [`BYTES_MAX`] unless there is
/// only one.
struct Lines {
    lines: VecDeque<Box<[u8]>>,
    bytes: usize,
}

impl RecentLog {
    /// All that is kept, each line ended.
    pub fn text(&self) -> String {
        let lines = self.lines();
        let mut text = String::with_capacity(lines.bytes);
        for line in &lines.lines {
            text.push_str(&String::from_utf8_lossy(line));
        }
        text
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        // A panic cannot leave a line half kept, and what came before it is wanted most of all.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    fn push(&mut self, line: &[u8]) {
        self.bytes += line.len();
        self.lines.push_back(line.into());
        while self.bytes > BYTES_MAX && self.lines.len() > 1 {
            let oldest = self.lines.pop_front().expect("there are several");
            self.bytes -= oldest.len();
        }
    }
}

/// Takes an event at a time, as the layer of `tracing_subscriber` writes it.
pub struct Writer<'a>(&'a RecentLog);

impl io::Write for Writer<'_> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.0.lines().push(event);
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for &'static RecentLog {
    type Writer = Writer<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Writer(self)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn the_oldest_lines_go_first() {
        static LOG: RecentLog = RecentLog(Mutex::new(Lines { lines: VecDeque::new(), bytes: 0 }));
        let log: &'static RecentLog = &LOG;
        let long = "x".repeat(BYTES_MAX / 4 - 2);
        for number in 0..9 {
            writeln!(log.make_writer()).expect("memory takes it");
            log.lines().push(format!("{number}{long}\n").as_bytes());
        }
        let text = log.text();
        let kept: Vec<_> = text.lines().filter_map(|line| line.chars().next()).collect();
        assert_eq!(kept.iter().filter(|c| c.is_ascii_digit()).count(), 3, "{kept:?}");
        assert!(text.contains("8x") && !text.contains("5x") && text.len() <= BYTES_MAX);
    }
}
