//! A command and all that descends from it: signalled, waited for and reaped as one.
//!
//! It does not decide when; see `lock/supervisor.rs`.
//!
//! The command's first process leads a process group of its own. It is not reaped before all others
//! are gone, since the kernel may give the group's id to somebody else afterwards.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    io,
    os::unix::process::ExitStatusExt as _,
    process::{Child, Command, ExitStatus},
};

use nix::sys::{prctl, signal::SigSet};
use rustix::{
    io::Errno,
    process::{
        Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus, getpgid, kill_process,
        kill_process_group, waitid,
    },
};

use super::{
    descendants::{Descendants, Next},
    proc::Process,
};
use crate::spawn::{NotStarted, spawn_bound_to_this_thread, spawn_held_back};

/// So many looks follow one another at once while each finds somebody who must be ended or
/// stopped. Then others get the processor, and [`ProcessTree::kill`] is called again.
const LOOKS_MAX: usize = 64;

/// A change of the command's first process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It has ended.
    Ended,
    /// It was stopped by this signal, for example by Ctrl-Z.
    Stopped(Signal),
}

/// A running command.
#[derive(Debug)]
pub struct ProcessTree {
    leader: Pid,
    /// Set once the first process is reaped: from then on its number may be anybody's.
    status: Option<ExitStatus>,
    descendants: Descendants,
    /// The processes that the last [`ProcessTree::kill`] found.
    killed: BTreeSet<(i32, u64)>,
}

impl ProcessTree {
    /// Starts `command` with `environment` added to this process's own, and with `mask` as its
    /// blocked signals. Call it from the main thread: the command is killed when the calling
    /// thread ends.
    ///
    /// From then on this process adopts descendants whose parents have died, so that
    /// [`ProcessTree::gone`] can tell when the last of them is.
    pub fn start(
        command: &[OsString],
        environment: &[(&str, String)],
        mask: SigSet,
    ) -> io::Result<Self> {
        let (descendants, mut command) = prepare(command, environment)?;
        let child = spawn_bound_to_this_thread(&mut command, mask)?;
        Ok(Self::of(&child, descendants))
    }

    /// As [`ProcessTree::start`]; the first process becomes the command only when `let_go` succeeds
    /// with its number.
    pub fn start_held_back<T: Send>(
        command: &[OsString],
        environment: &[(&str, String)],
        mask: SigSet,
        let_go: impl FnOnce(Pid) -> io::Result<T> + Send,
    ) -> Result<(Self, T), NotStarted> {
        let (descendants, mut command) =
            prepare(command, environment).map_err(NotStarted::Failed)?;
        let let_go = |pid: nix::unistd::Pid| {
            let_go(Pid::from_raw(pid.as_raw()).expect("a process has a number above 0"))
        };
        let (child, gone) = spawn_held_back(&mut command, mask, let_go)?;
        Ok((Self::of(&child, descendants), gone))
    }

    /// Waiting is not done by `Child`, but here, where the tree is seen as a whole.
    fn of(leader: &Child, descendants: Descendants) -> Self {
        let leader = leader.id().cast_signed();
        let leader = Pid::from_raw(leader).expect("a process has a number above 0");
        Self { leader, status: None, descendants, killed: BTreeSet::new() }
    }

    /// The command's process group.
    pub fn group(&self) -> Pid {
        self.leader
    }

    /// Sends `signals`, each once, to everybody who is there now. Somebody who is born meanwhile
    /// may get none, except in the command's own group: a command that starts something to clean
    /// up, having been told to stop, must be able to.
    pub fn signal(&self, signals: &[Signal]) {
        let in_group = |process: &Process| {
            self.status.is_none() && getpgid(Some(process.pid)) == Ok(self.leader)
        };
        let mut others = self.descendants.audience();
        others.retain(|process| !in_group(process));
        for &signal in signals {
            self.signal_group(signal);
            for process in &others {
                // It may have ended meanwhile, or belong to somebody else: `running` tells.
                let _ = self.descendants.send(process, signal);
            }
        }
    }

    /// Kills everybody that it finds, until nobody new turns up or it has looked very often. Call
    /// it again until [`ProcessTree::gone`]. It tells how many were killed whom the last call had
    /// not found.
    pub fn kill(&mut self) -> usize {
        let mut found = BTreeSet::new();
        for _ in 0..LOOKS_MAX {
            let known = found.len();
            self.kill_children();
            self.signal_new(Signal::KILL, &mut found);
            self.reap();
            if found.len() == known {
                break;
            }
        }
        let new = found.difference(&self.killed).count();
        self.killed = found;
        new
    }

    /// Kills the children of this process until no new one turns up. A process that loses its
    /// parent becomes one: a chain in which each process starts the next and ends is caught here,
    /// if at all, by being faster. So nothing is read about a child, whose number is its own until
    /// it is reaped here, and ended ones are not left to be read again.
    fn kill_children(&mut self) {
        let mut last = BTreeSet::new();
        for _ in 0..LOOKS_MAX {
            let children = self.descendants.children();
            for pid in children.iter().filter_map(|&pid| Pid::from_raw(pid)) {
                // It may belong to somebody else: `running` tells.
                let _ = kill_process(pid, Signal::KILL);
            }
            let new = children.iter().any(|pid| !last.contains(pid));
            last = children.into_iter().collect();
            self.reap();
            if !new {
                return;
            }
        }
    }

    /// Stops everybody, until nobody new turns up.
    pub fn stop(&self) {
        let mut found = BTreeSet::new();
        for _ in 0..LOOKS_MAX {
            let known = found.len();
            self.signal_new(Signal::STOP, &mut found);
            if found.len() == known {
                return;
            }
        }
    }

    /// Sends `signal` to everybody who is not in `found`, and adds whom it has reached. A process
    /// with a pending signal starts no other before it has taken the signal, so that each look
    /// leaves fewer who can.
    fn signal_new(&self, signal: Signal, found: &mut BTreeSet<(i32, u64)>) {
        // One call reaches the whole group, and who is being born in it.
        self.signal_group(signal);
        self.descendants.look(|process| {
            let new = !process.ended && !found.contains(&process.identity());
            if new && self.descendants.send(process, signal).is_ok() {
                found.insert(process.identity());
            }
            // A process of another user may have started one of ours.
            Next::Below
        });
    }

    fn signal_group(&self, signal: Signal) {
        if self.status.is_none() {
            // It fails when nobody is left in it, or everybody in it belongs to somebody else.
            let _ = kill_process_group(self.leader, signal);
        }
    }

    /// Tells whether the first process has ended, or was stopped since the last call.
    pub fn poll(&self) -> Option<Change> {
        let look = WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT | WaitIdOptions::EXITED;
        if self.status.is_some() || !matches!(waitid(WaitId::Pid(self.leader), look), Ok(None)) {
            return Some(Change::Ended);
        }
        let take = WaitIdOptions::NOHANG | WaitIdOptions::STOPPED;
        let stopped = waitid(WaitId::Pid(self.leader), take).ok().flatten()?;
        let signal = Signal::from_named_raw(stopped.stopping_signal()?)?;
        Some(Change::Stopped(signal))
    }

    /// Reaps what has ended, and gives the first process's status once nobody is left. Call it
    /// again after each SIGCHLD until it does.
    pub fn gone(&mut self) -> Option<ExitStatus> {
        self.reap();
        let is_leader = |pid: i32| self.status.is_none() && pid == self.leader.as_raw_pid();
        let others = self.descendants.children().into_iter().any(|pid| !is_leader(pid));
        if others || self.poll() != Some(Change::Ended) {
            return None;
        }
        self.reap_leader();
        // The kernel has the last word, unless there is somebody whom it must not count.
        let look = WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT | WaitIdOptions::EXITED;
        let sure = self.descendants.has_earlier()
            || matches!(waitid(WaitId::All, look), Err(Errno::CHILD));
        self.status.filter(|_| sure)
    }

    /// Gives the status of the first process, which has ended, and leaves the others alone.
    pub fn leave(&mut self) -> ExitStatus {
        self.reap_leader();
        self.status.expect("the first process has ended, so it has a status")
    }

    /// Everybody who runs, as far as one look can tell.
    pub fn running(&self) -> Vec<Process> {
        let mut running = Vec::new();
        self.descendants.look(|process| {
            if !process.ended {
                running.push(process.clone());
            }
            Next::Below
        });
        running
    }

    fn reap_leader(&mut self) {
        if self.status.is_none() {
            self.status = reap(self.leader).map(exit_status);
        }
    }

    /// Reaps what has ended, except the first process, so that a command which runs long and starts
    /// many daemons does not fill the process table.
    fn reap(&mut self) {
        let mut children = self.descendants.children();
        if self.status.is_none() {
            children.retain(|&pid| pid != self.leader.as_raw_pid());
        }
        for pid in children.into_iter().filter_map(Pid::from_raw) {
            reap(pid);
        }
        self.descendants.reap_earlier(|pid| reap(pid).is_some());
    }
}

fn prepare(
    command: &[OsString],
    environment: &[(&str, String)],
) -> io::Result<(Descendants, Command)> {
    let (program, args) = command.split_first().expect("callers pass at least a program");
    let descendants = Descendants::to_come();
    prctl::set_child_subreaper(true).map_err(io::Error::from)?;
    let mut command = Command::new(program);
    command.args(args).envs(environment.iter().map(|(k, v)| (k, v)));
    Ok((descendants, command))
}

/// Reaps a child if it has ended.
fn reap(pid: Pid) -> Option<WaitIdStatus> {
    waitid(WaitId::Pid(pid), WaitIdOptions::NOHANG | WaitIdOptions::EXITED).ok().flatten()
}

fn exit_status(ended: WaitIdStatus) -> ExitStatus {
    // The encoding of wait(2), which `ExitStatus` takes.
    ExitStatus::from_raw(match (ended.exit_status(), ended.terminating_signal()) {
        (Some(code), _) => (code & 0xff) << 8,
        (None, Some(signal)) => signal,
        (None, None) => unreachable!("only called for an ended process: {ended:?}"),
    })
}

/// The exit code that a shell gives to this status: the process's own, or 128 + its fatal signal.
pub fn shell_code(status: ExitStatus) -> u8 {
    let code = match (status.code(), status.signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => unreachable!("an ended process has a code or a signal"),
    };
    u8::try_from(code).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::{super::children::alone, *};
    use std::{
        io::Read as _,
        os::fd::AsFd as _,
        time::{Duration, Instant},
    };

    fn start(script: &str) -> ProcessTree {
        let command = ["sh", "-c", script].map(OsString::from);
        let mask = SigSet::thread_get_mask().expect("a thread has a mask");
        let environment = [("GREETING", "hello".to_owned())];
        ProcessTree::start(&command, &environment, mask).expect("sh starts")
    }

    #[expect(clippy::disallowed_methods, reason = "a deadline for a real process")]
    fn until<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(value) = ready() {
                return value;
            }
            assert!(Instant::now() < deadline, "waited 20 s for {what}");
            std::thread::yield_now();
        }
    }

    fn end_of(mut tree: ProcessTree) -> u8 {
        until("the command's end", || tree.poll().filter(|&change| change == Change::Ended));
        let status = until("the end of all", || {
            tree.kill();
            tree.gone()
        });
        shell_code(status)
    }

    /// A pipe, and the number of its write end for scripts: end-of-file proves the end of all that
    /// hold it.
    fn held_pipe() -> (io::PipeReader, std::os::fd::OwnedFd, i32) {
        let (read, write) = io::pipe().expect("a pipe");
        let write = nix::unistd::dup(write.as_fd()).expect("a duplicate without CLOEXEC");
        let number = std::os::fd::AsRawFd::as_raw_fd(&write);
        (read, write, number)
    }

    fn comes_to_its_end(mut read: io::PipeReader) {
        let mut rest = Vec::new();
        read.read_to_end(&mut rest).expect("the pipe closes");
    }

    #[test]
    fn the_commands_own_code_comes_back() {
        let _alone = alone();
        assert_eq!(end_of(start("exit 7")), 7);
        assert_eq!(end_of(start("test $GREETING = hello")), 0);
        assert_eq!(end_of(start("kill -TERM $$")), 128 + 15);
        assert_eq!(end_of(start("kill -40 $$")), 128 + 40);
    }

    #[test]
    fn whoever_is_left_is_killed_and_waited_for_wherever_he_went() {
        let _alone = alone();
        for left in [
            "(trap '' TERM; exec sleep 600 >&FD) & exit 3",
            "setsid sleep 600 >&FD & exit 3",
            "(setsid sh -c '(setsid sleep 600 >&FD &)' &); sleep 0.1; exit 3",
            "timeout 600 sh -c 'sleep 600; true' >&FD & exit 3",
        ] {
            let (read, write, number) = held_pipe();
            let tree = start(&left.replace("FD", &number.to_string()));
            drop(write);
            assert_eq!(end_of(tree), 3, "{left}");
            comes_to_its_end(read);
        }
    }

    #[test]
    fn nobody_is_gone_before_everybody_is() {
        let _alone = alone();
        let mut tree = start("setsid sh -c 'kill -STOP $$; exit 9' & exit 3");
        until("the command's end", || tree.poll().filter(|&change| change == Change::Ended));
        let left = until("the one who is left", || {
            let running = tree.running();
            (running.len() == 1).then_some(running)
        });
        assert_eq!(tree.gone(), None, "{left:?}");
        tree.signal(&[Signal::CONT]);
        let status = until("the end of all", || {
            tree.signal(&[Signal::CONT]);
            tree.gone()
        });
        assert_eq!(shell_code(status), 3);
    }

    #[test]
    fn a_signal_reaches_other_groups_and_sessions_once() {
        let _alone = alone();
        let dir = tempfile::tempdir().expect("a directory");
        let log = dir.path().join("log");
        let told = || std::fs::read_to_string(&log).unwrap_or_default();
        let who = "trap 'echo usr1 >> LOG' USR1; echo ready >> LOG; while :; do sleep 0.02; done";
        let script = format!("setsid sh -c \"{who}\" & {who}");
        let mut tree = start(&script.replace("LOG", log.to_str().expect("a plain path")));
        until("both", || (told().matches("ready").count() == 2).then_some(()));
        tree.signal(&[Signal::USR1]);
        until("both answers", || (told().matches("usr1").count() == 2).then_some(()));
        tree.kill();
        until("the end of all", || tree.gone());
        assert_eq!(told().matches("usr1").count(), 2, "{}", told());
    }

    #[test]
    fn a_stop_is_told_once() {
        let _alone = alone();
        let tree = start("sleep 600 & wait");
        tree.stop();
        let stopped = until("the stop", || tree.poll());
        assert_eq!(stopped, Change::Stopped(Signal::STOP));
        assert_eq!(tree.poll(), None);
        tree.signal(&[Signal::TERM, Signal::CONT]);
        assert_eq!(end_of(tree), 128 + 15);
    }

    /// A process from before the command is neither waited for nor killed: `exec sharklock lock …`
    /// in a script inherits the script's children.
    #[test]
    fn earlier_children_are_no_part_of_the_command() {
        let _alone = alone();
        let mut earlier = Command::new("sleep").arg("600").spawn().expect("sleep starts");
        let tree = start("exit 4");
        assert_eq!(end_of(tree), 4);
        assert_eq!(earlier.try_wait().expect("it is ours"), None, "it runs on");
        earlier.kill().expect("it is ours");
        earlier.wait().expect("it is ours");
    }

    #[test]
    fn the_command_begins_with_the_signals_blocked_that_it_is_given() {
        let _alone = alone();
        let mut usr2 = SigSet::empty();
        usr2.add(nix::sys::signal::Signal::SIGUSR2);
        // No shell: some unblock all when they begin.
        let command = ["grep", "-q", "SigBlk:.0000000000000800", "/proc/self/status"];
        let command = command.map(OsString::from);
        let tree = ProcessTree::start(&command, &[], usr2).expect("grep starts");
        assert_eq!(end_of(tree), 0);
    }

    #[test]
    fn a_missing_and_an_unexecutable_command_are_told_apart() {
        let _alone = alone();
        let start =
            |program: &str| ProcessTree::start(&[program.into()], &[], SigSet::empty()).map(|_| ());
        assert_eq!(start("/no/such/file").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(start("/etc/passwd").unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }
}
