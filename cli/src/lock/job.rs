//! Job control: the command stops and goes on together with this process, and has the terminal
//! when it asks for it.

use nix::{
    sys::signal::{self, raise},
    unistd::Pid,
};
use rustix::process::Signal;

use super::{process_tree::ProcessTree, terminal::Terminal};

/// The command as a job of the shell that started this process.
#[derive(Debug)]
pub struct Job {
    terminal: Option<Terminal>,
    was_lent: bool,
    /// Ctrl-Z was passed on, and nothing has gone on since.
    pause_asked: bool,
    paused: bool,
    /// SIGCONT arrived.
    continued: bool,
}

impl Job {
    /// A job that runs, with the terminal of this process, if it has one.
    pub fn of_this_process() -> Self {
        Self {
            terminal: Terminal::of_this_process(),
            was_lent: false,
            pause_asked: false,
            paused: false,
            continued: false,
        }
    }

    /// A signal that asks to pause was passed on.
    pub fn pause_passed_on(&mut self) {
        self.pause_asked = true;
    }

    /// SIGCONT arrived: [`Job::resume`] passes it on.
    pub fn continued(&mut self) {
        self.continued = true;
    }

    /// The command was stopped. If it wants the terminal and can have it, it gets it. If it was
    /// Ctrl-Z, this process pauses too, so that the shell gets its prompt back. A SIGSTOP from
    /// elsewhere is left alone; one that answers a Ctrl-Z comes from another `sharklock lock` that
    /// this one runs.
    pub fn stopped(&mut self, signal: Signal, tree: &ProcessTree) {
        let Some(terminal) = &mut self.terminal else { return };
        let wants_terminal = matches!(signal, Signal::TTIN | Signal::TTOU);
        let pauses = signal == Signal::TSTP || (signal == Signal::STOP && self.pause_asked);
        if wants_terminal && terminal.lend(group(tree)) {
            tree.signal(&[Signal::CONT]);
        } else if wants_terminal || pauses {
            self.was_lent = terminal.take_back() || wants_terminal;
            self.pause(tree);
        }
    }

    /// Ctrl-Z when the command itself has ended, and only what it left running is to be paused.
    pub fn pause_rest(&mut self, tree: &ProcessTree) {
        if self.terminal.is_some() {
            self.pause(tree);
        }
    }

    /// Nothing is renewed while this process stands still, so nobody may go on, whatever he does
    /// with SIGTSTP. It returns when the shell lets the job go on.
    fn pause(&mut self, tree: &ProcessTree) {
        tree.stop();
        let _ = raise(signal::Signal::SIGSTOP);
        self.paused = true;
    }

    /// After a pause or a SIGCONT, once the supervisor has found the lease still good.
    pub fn resume(&mut self, tree: &ProcessTree) {
        let continued = std::mem::take(&mut self.continued);
        let paused = std::mem::take(&mut self.paused);
        if !continued && !paused {
            return;
        }
        self.pause_asked = false;
        if let Some(terminal) = self.terminal.as_mut().filter(|_| paused && self.was_lent) {
            terminal.lend(group(tree));
        }
        tree.signal(&[Signal::CONT]);
    }

    /// The command has ended: the terminal is this process's again.
    pub fn end(&mut self) {
        self.was_lent = false;
        if let Some(terminal) = &mut self.terminal {
            terminal.take_back();
        }
    }
}

fn group(tree: &ProcessTree) -> Pid {
    Pid::from_raw(tree.group().as_raw_pid())
}
