//! The words to people about the processes of a command, and how often they come.

use std::{collections::BTreeSet, time::Duration};

use super::{notices::Notices, proc::Process, supervisor::Moment};
use crate::render::short;

/// So many processes are named at a time.
const NAMED_MAX: usize = 8;
/// So many times somebody is reported who cannot be signalled: a command that calls sudo in a loop
/// does not fill the log.
const FOREIGN_TOLD_MAX: usize = 8;
/// A process that still runs so long after the command's end is worth a line: the end of a pipeline
/// is not.
pub const REST_SETTLES: Duration = Duration::from_millis(100);
/// Those that still run are told again after so long.
const REST_TOLD_AGAIN: Duration = Duration::from_secs(60);

/// Remembers what was told.
#[derive(Debug)]
pub struct Report<'a> {
    notices: &'a Notices,
    lock: String,
    foreign: BTreeSet<(i32, u64)>,
    foreign_told: usize,
    rest_at: Option<Moment>,
    lapse_told: bool,
    killed_told: bool,
}

impl<'a> Report<'a> {
    /// Nothing was told yet.
    pub fn new(notices: &'a Notices, lock: &str) -> Self {
        Self {
            notices,
            lock: lock.to_owned(),
            foreign: BTreeSet::new(),
            foreign_told: 0,
            rest_at: None,
            lapse_told: false,
            killed_told: false,
        }
    }

    /// SIGTERM was sent since the lock is being lost for this reason.
    pub fn being_lost(&self, why: &str, until_kill: Duration) {
        self.say(format!(
            "lock {:?} is being lost ({why}): SIGTERM to the command, SIGKILL in {} at most",
            self.lock,
            short(until_kill)
        ));
    }

    /// SIGTERM was sent to what the command left running, as its owner wished.
    pub fn rest_is_ended(&self, running: &[Process], until_kill: Duration) {
        self.say(format!(
            "the command has ended: SIGTERM to what it left running ({}), SIGKILL in {} at most",
            named(running),
            short(until_kill)
        ));
    }

    /// The command has ended at `now`, and others run.
    pub fn rest_begins(&mut self, now: Moment) {
        self.rest_at = Some(Moment(now.0 + REST_SETTLES));
    }

    /// Whether it is time to tell who still runs.
    pub fn rest_is_due(&self, now: Moment) -> bool {
        self.rest_at.is_some_and(|at| now >= at)
    }

    /// Tells who still runs after the command's end.
    pub fn rest(&mut self, now: Moment, running: &[Process]) {
        self.rest_at = Some(Moment(now.0 + REST_TOLD_AGAIN));
        if running.is_empty() {
            return;
        }
        self.say(format!(
            "the command has ended, but it left {} running: lock {:?} is kept until they have \
             ended too. SIGINT and SIGTERM are passed on to them, a second one kills them; see \
             --end-descendants and --leave-descendants",
            named(running),
            self.lock,
        ));
    }

    /// Tells of those among `running` that are new and cannot be signalled; not of what they have
    /// started themselves.
    pub fn foreign(&mut self, running: &[Process]) {
        let found = foreign(running);
        for process in &found {
            if !self.foreign.contains(&process.identity()) {
                self.tell_foreign(process);
            }
        }
        self.foreign = found.iter().map(|process| process.identity()).collect();
    }

    fn tell_foreign(&mut self, process: &Process) {
        self.foreign_told = self.foreign_told.saturating_add(1);
        if self.foreign_told == FOREIGN_TOLD_MAX + 1 {
            self.say("more processes of other users follow, which are not told of".to_owned());
        }
        if self.foreign_told <= FOREIGN_TOLD_MAX {
            self.say(format!(
                "{} runs as another user: it gets no signal from here and cannot be killed. If lock \
                 {:?} is lost, it may run on beside the next holder; only the fencing token \
                 ($SHARKLOCK_TOKEN) protects the resource then",
                one(process),
                self.lock,
            ));
        }
    }

    /// SIGKILL was sent, and these still run.
    pub fn survivors(&mut self, running: &[Process], until_lapse: Duration) {
        if running.is_empty() {
            return;
        }
        if until_lapse.is_zero() && !std::mem::replace(&mut self.lapse_told, true) {
            self.killed_told = true;
            self.say(format!(
                "the lease of lock {:?} has ended and {} could not be killed: somebody else may \
                 hold the lock now, and only the fencing token protects the resource",
                self.lock,
                named(running),
            ));
        } else if !std::mem::replace(&mut self.killed_told, true) {
            self.say(format!(
                "{} cannot be killed: lock {:?} is kept until they have ended, or its lease ends \
                 (in {} unless it is renewed)",
                named(running),
                self.lock,
                short(until_lapse),
            ));
        }
    }

    fn say(&self, text: String) {
        self.notices.say(text);
    }
}

/// Those among `running` that belong to another user, less those that such a one has started.
fn foreign(running: &[Process]) -> Vec<&Process> {
    let all: Vec<&Process> = running.iter().filter(|process| process.is_foreign()).collect();
    let numbers: BTreeSet<i32> = all.iter().map(|process| process.pid.as_raw_pid()).collect();
    all.into_iter().filter(|process| !numbers.contains(&process.parent)).collect()
}

/// `pid 7 (sleep), pid 9 (tee) and 3 more`.
fn named(processes: &[Process]) -> String {
    let shown: Vec<String> = processes.iter().take(NAMED_MAX).map(one).collect();
    let more = match processes.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{}{more}", shown.join(", "))
}

fn one(process: &Process) -> String {
    format!("pid {} ({})", process.pid.as_raw_pid(), process.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_is_named_in_part() {
        let process = |pid| Process { name: "x".to_owned(), ..Process::hidden(pid, 1).unwrap() };
        let crowd: Vec<Process> = (1..=10).map(process).collect();
        assert_eq!(named(&crowd[..2]), "pid 1 (x), pid 2 (x)");
        assert!(named(&crowd).ends_with("pid 8 (x) and 2 more"));
    }
}
