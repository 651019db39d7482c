//! Lends the terminal to the command, as a shell does for a job.
//!
//! The command has a process group of its own, which the kernel stops (SIGTTIN, SIGTTOU) when it
//! reads from the terminal or configures it. Only then the terminal is handed over: a command that
//! never asks leaves Ctrl-C with this process, and a pipeline around it undisturbed.

use std::fs::File;

use nix::{
    sys::signal::{SigSet, SigmaskHow, Signal},
    unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp},
};

/// The terminal that controls this process, if there is one.
#[derive(Debug)]
pub struct Terminal {
    tty: File,
    lent: bool,
}

impl Terminal {
    /// None when this process has no terminal, as under cron.
    pub fn of_this_process() -> Option<Self> {
        let tty = File::options().read(true).write(true).open("/dev/tty").ok()?;
        Some(Self { tty, lent: false })
    }

    /// Hands the terminal to `group`; false if this process is in the background and has nothing
    /// to hand over.
    pub fn lend(&mut self, group: Pid) -> bool {
        if tcgetpgrp(&self.tty) != Ok(getpgrp()) {
            return false;
        }
        self.lent = set_foreground(&self.tty, group);
        self.lent
    }

    /// Takes the terminal back, and tells whether it was lent.
    pub fn take_back(&mut self) -> bool {
        let lent = std::mem::take(&mut self.lent);
        if lent {
            set_foreground(&self.tty, getpgrp());
        }
        lent
    }
}

/// A process in the background that sets the foreground group is stopped with SIGTTOU unless it
/// blocks that signal.
fn set_foreground(tty: &File, group: Pid) -> bool {
    let mut ttou = SigSet::empty();
    ttou.add(Signal::SIGTTOU);
    let Ok(before) = ttou.thread_swap_mask(SigmaskHow::SIG_BLOCK) else {
        return false;
    };
    let set = tcsetpgrp(tty, group).is_ok();
    let _ = before.thread_set_mask();
    set
}
