//! All that descend from this process, found and signalled without mistaking a stranger for them.
//!
//! This process adopts whoever among them loses its parent (it is a child subreaper), so the chain
//! of parents of each leads here for as long as it lives, whatever group or session it has moved
//! to. A look at a moving tree may miss some: one that is born, or loses its parent, behind the
//! look. A caller that must not miss any looks again until nothing is new.
//!
//! It does not decide what is signalled, nor when.

use std::{collections::BTreeSet, fs, os::unix::fs::MetadataExt as _};

use rustix::{
    io::Errno,
    process::{self, PidfdFlags, Signal},
};

use super::proc::{Children, Process};

/// A look ends after so many processes. The kernel's own limit is higher, a machine's memory is
/// not; a next look begins with those that are left.
const LOOK_MAX: usize = 100_000;
/// So many looks at most until two agree, when a signal is to reach everybody who is there.
const LOOKS_MAX: usize = 4;

/// The direction of a look after a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// To its children.
    Below,
    /// Past them.
    Past,
}

/// The descendants of this process, less those that it had at the start and theirs.
#[derive(Debug)]
pub struct Descendants {
    own: i32,
    /// Children from before, as a shell leaves them when it executes this program in its place:
    /// they are no part of the command. Only this process can end their numbers' meaning.
    earlier: BTreeSet<i32>,
}

impl Descendants {
    /// To be called before the command is started.
    pub fn to_come() -> Self {
        let own = std::process::id().cast_signed();
        Self { own, earlier: Children::read().of(own).into_iter().collect() }
    }

    /// The children of this process, ended ones among them. Complete: nobody but this process ends
    /// a child's number, and whoever is adopted during the look has a parent in the list.
    pub fn children(&self) -> Vec<i32> {
        let mut children = Children::read().of(self.own);
        children.retain(|pid| !self.earlier.contains(pid));
        children
    }

    /// Whether children from before the command are left.
    pub fn has_earlier(&self) -> bool {
        !self.earlier.is_empty()
    }

    /// Calls `reap` for each child from before the command. Those that it has reaped are forgotten:
    /// their numbers may be given to somebody new.
    pub fn reap_earlier(&mut self, reap: impl Fn(process::Pid) -> bool) {
        self.earlier.retain(|&pid| !process::Pid::from_raw(pid).is_some_and(&reap));
    }

    /// Shows each to `visit` before its children are looked for.
    pub fn look(&self, mut visit: impl FnMut(&Process) -> Next) {
        let children = Children::read();
        let mut seen: BTreeSet<i32> = self.earlier.clone();
        let mut parents = vec![None];
        while let Some(parent) = parents.pop() {
            for process in self.below(parent.as_ref(), &children) {
                let new = seen.insert(process.pid.as_raw_pid());
                if new && visit(&process) == Next::Below {
                    parents.push(Some(process));
                }
            }
            if seen.len() > LOOK_MAX {
                return;
            }
        }
    }

    /// Those who are there now, for a signal that each of them is to get once. What another
    /// `sharklock` has started is left to it: it passes on what it gets.
    pub fn audience(&self) -> Vec<Process> {
        let own = program("self");
        let mut audience = Vec::<Process>::new();
        let mut seen = BTreeSet::new();
        for _ in 0..LOOKS_MAX {
            let known = audience.len();
            self.look(|process| {
                if !process.ended && seen.insert(process.identity()) {
                    audience.push(process.clone());
                }
                let theirs = program(&process.pid.as_raw_pid().to_string());
                let same = own.is_some() && own == theirs;
                if same { Next::Past } else { Next::Below }
            });
            if audience.len() == known {
                break;
            }
        }
        audience
    }

    /// The children of `parent`, or of this process. Their parent is looked at after them: if it
    /// is still the one that was known to be a descendant, so are they.
    fn below(&self, parent: Option<&Process>, children: &Children) -> Vec<Process> {
        let Some(parent) = parent else {
            // A child's number is its own until it is reaped here, so what is not shown of it
            // (hidepid) need not be known.
            let found = children.of(self.own).into_iter();
            return found
                .filter_map(|pid| Process::look(pid).or_else(|| Process::hidden(pid, self.own)))
                .filter(|process| process.parent == self.own)
                .collect();
        };
        let number = parent.pid.as_raw_pid();
        let found = children.of(number).into_iter().filter_map(Process::look);
        let found: Vec<Process> = found.filter(|process| process.parent == number).collect();
        let unchanged =
            Process::look(number).is_some_and(|now| now.identity() == parent.identity());
        if unchanged { found } else { Vec::new() }
    }

    /// Sends `signal` to a process that was found, unless its number has another meaning by now.
    ///
    /// # Errors
    /// `PERM` when it belongs to somebody else, `SRCH` when it is gone.
    pub fn send(&self, process: &Process, signal: Signal) -> Result<(), Errno> {
        // The process of the descriptor stays the same, whatever becomes of the number after the
        // comparison.
        let descriptor = process::pidfd_open(process.pid, PidfdFlags::empty());
        let same = match Process::look(process.pid.as_raw_pid()) {
            Some(now) => now.identity() == process.identity(),
            None => process.is_hidden(),
        };
        match descriptor {
            _ if !same => Err(Errno::SRCH),
            Ok(descriptor) => process::pidfd_send_signal(descriptor, signal),
            Err(Errno::SRCH) => Err(Errno::SRCH),
            // Kernels before 5.3 and some sandboxes have no such descriptors; this process may have
            // too many open.
            Err(_) => process::kill_process(process.pid, signal),
        }
    }
}

/// The file of a process's program, which tells it from others.
fn program(process: &str) -> Option<(u64, u64)> {
    let file = fs::metadata(format!("/proc/{process}/exe")).ok()?;
    Some((file.dev(), file.ino()))
}
