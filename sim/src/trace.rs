//! The events of a run, line by line. Equal runs have equal traces: the hash of all lines is what
//! the meta test compares, and the last lines are what a report shows.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::io::{self, Write as _};

use twox_hash::XxHash3_64;

/// Lines kept for reports.
const LINES_KEPT: usize = 20_000;

/// The trace of a run.
pub struct Trace {
    /// Of all lines, each hashed with that of those before.
    hash: u64,
    lines_count: u64,
    latest: VecDeque<String>,
    /// The second receiver of lines.
    sink: Option<Box<dyn io::Write>>,
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trace").field("lines_count", &self.lines_count).finish_non_exhaustive()
    }
}

impl Trace {
    /// An empty trace. Its lines are written to `sink`, too.
    pub fn new(sink: Option<Box<dyn io::Write>>) -> Self {
        Self { hash: 0, lines_count: 0, latest: VecDeque::with_capacity(LINES_KEPT), sink }
    }

    /// Adds a line.
    pub fn line(&mut self, at_ns: u64, what: fmt::Arguments<'_>) {
        // The memory of the oldest line serves the newest: a run has millions of them.
        let mut line = match self.latest.len() {
            LINES_KEPT => self.latest.pop_front().expect("it is full"),
            _ => String::with_capacity(96),
        };
        line.clear();
        let (seconds, nanos) = (at_ns / 1_000_000_000, at_ns % 1_000_000_000);
        writeln!(line, "{seconds:4}.{nanos:09} {what}").expect("a string takes everything");
        self.hash = XxHash3_64::oneshot_with_seed(self.hash, line.as_bytes());
        self.lines_count += 1;
        if let Some(sink) = &mut self.sink {
            // A reader that has gone away (`| head`) ends the output, not the run.
            if sink.write_all(line.as_bytes()).is_err() {
                self.sink = None;
            }
        }
        self.latest.push_back(line);
    }

    /// Hash of all lines.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How many lines.
    pub fn lines_count(&self) -> u64 {
        self.lines_count
    }

    /// The last lines that speak of any of `words`, at most `count`, in order.
    pub fn latest_about(&self, words: &[String], count: usize) -> Vec<String> {
        let speaks = |line: &&String| words.iter().any(|word| line.contains(word.as_str()));
        let mut lines: Vec<String> =
            self.latest.iter().rev().filter(speaks).take(count).cloned().collect();
        lines.reverse();
        lines
    }

    /// Writes out what waits in the sink.
    pub fn flush(&mut self) {
        if let Some(sink) = &mut self.sink {
            // As above: nobody reads it any more.
            let _gone = sink.flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_lines_have_equal_hashes_and_others_have_not() {
        let hash = |lines: &[&str]| {
            let mut trace = Trace::new(None);
            lines.iter().for_each(|line| trace.line(1, format_args!("{line}")));
            trace.hash()
        };
        assert_eq!(hash(&["a", "b"]), hash(&["a", "b"]));
        assert_ne!(hash(&["a", "b"]), hash(&["b", "a"]));
    }

    #[test]
    fn a_report_shows_the_last_lines_of_its_lock() {
        let mut trace = Trace::new(None);
        for n in 0..30_000 {
            trace.line(n, format_args!("lock {} moved", ["x", "y"][n as usize % 2]));
        }
        let lines = trace.latest_about(&["lock x".to_owned()], 2);
        assert_eq!(lines.len(), 2);
        assert!(lines[1].contains("29998") && trace.lines_count() == 30_000);
    }
}
