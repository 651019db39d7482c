//! A command and everything it starts: one process group that is signalled, and reaped, as one.
//!
//! It does not decide when; see `lock/supervisor.rs`.
//!
//! The group's id is its first process's id. Signals go to the group only while that process is
//! not reaped, since the kernel may give the id to somebody else afterwards.

use std::{
    ffi::OsString,
    io,
    os::unix::process::ExitStatusExt as _,
    process::{Command, ExitStatus},
};

use nix::{
    errno::Errno,
    sys::{
        prctl,
        signal::{Signal, killpg},
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
    unistd::Pid,
};

use crate::spawn::spawn_bound_to_this_thread;

/// What became of the first process of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It has ended, and waits to be reaped.
    Ended,
    /// It was stopped by this signal, for example by Ctrl-Z.
    Stopped(Signal),
}

/// A running command.
#[derive(Debug)]
pub struct ProcessGroup {
    leader: Pid,
    /// Set once the leader is reaped: from then on the id may be anybody's.
    status: Option<ExitStatus>,
}

impl ProcessGroup {
    /// Starts `command` with `environment` added to this process's own. Call it from the main
    /// thread: the command is killed when the calling thread ends.
    ///
    /// From then on this process adopts descendants whose parents have died, so that
    /// [`ProcessGroup::reap`] can tell when the last of them is gone.
    pub fn start(command: &[OsString], environment: &[(&str, String)]) -> io::Result<Self> {
        let (program, args) = command.split_first().expect("callers pass at least a program");
        prctl::set_child_subreaper(true).map_err(io::Error::from)?;
        let child = spawn_bound_to_this_thread(
            Command::new(program).args(args).envs(environment.iter().map(|(k, v)| (k, v))),
        )?;
        let leader = Pid::from_raw(i32::try_from(child.id()).expect("Linux pids are below 2^22"));
        // `Child` is dropped: waiting is done here, where the group is seen as a whole.
        Ok(Self { leader, status: None })
    }

    /// The group's id.
    pub fn id(&self) -> Pid {
        self.leader
    }

    /// Sends `signal` to every process of the group. A group that is gone needs none.
    pub fn signal(&self, signal: Signal) {
        if self.status.is_none() {
            // The other error, EPERM, means that the command has changed its user: nothing that
            // this process could do about it, and the lease is not renewed any more.
            let _ = killpg(self.leader, signal);
        }
    }

    /// Tells whether the first process ended or was stopped since the last call. Call it after each
    /// SIGCHLD. It leaves an ended process unreaped, so that the group can still be signalled.
    pub fn poll(&mut self) -> Option<Change> {
        self.reap_strays();
        let leader = Id::Pid(self.leader);
        let look = WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        if let Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) =
            waitid(leader, look | WaitPidFlag::WEXITED)
        {
            return Some(Change::Ended);
        }
        let take = WaitPidFlag::WNOHANG | WaitPidFlag::WSTOPPED;
        match waitid(Id::Pid(self.leader), take) {
            Ok(WaitStatus::Stopped(_, signal)) => Some(Change::Stopped(signal)),
            Ok(_) | Err(_) => None,
        }
    }

    /// After the group was killed: reaps what has ended, and gives the first process's status once
    /// nothing of the group is left. Call it again after each SIGCHLD until it does.
    pub fn reap(&mut self) -> Option<ExitStatus> {
        loop {
            let end = WaitPidFlag::WNOHANG | WaitPidFlag::WEXITED;
            match waitid(Id::PGid(self.leader), end) {
                Ok(ended @ (WaitStatus::Exited(..) | WaitStatus::Signaled(..))) => {
                    if ended.pid() == Some(self.leader) {
                        self.status = Some(exit_status(ended));
                    }
                }
                Err(Errno::EINTR) => {}
                // Some are still ending.
                Ok(_) => return None,
                // No child of ours is in the group any more.
                Err(_) => return self.status,
            }
        }
    }

    /// Reaps adopted processes that left the group, so that a command which runs long and starts
    /// many daemons does not fill the process table.
    fn reap_strays(&self) {
        let look = WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT | WaitPidFlag::WEXITED;
        while let Ok(ended) = waitid(Id::All, look) {
            let Some(pid) = ended.pid().filter(|&pid| pid != self.leader) else { return };
            if waitid(Id::Pid(pid), WaitPidFlag::WNOHANG | WaitPidFlag::WEXITED).is_err() {
                return;
            }
        }
    }
}

fn exit_status(ended: WaitStatus) -> ExitStatus {
    // The encoding of wait(2), which `ExitStatus` takes.
    ExitStatus::from_raw(match ended {
        WaitStatus::Exited(_, code) => (code & 0xff) << 8,
        WaitStatus::Signaled(_, signal, _) => signal as i32,
        other => unreachable!("only called for an ended process: {other:?}"),
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
    use super::*;
    use std::{
        io::Read as _,
        os::fd::AsFd as _,
        sync::{Mutex, PoisonError},
        time::{Duration, Instant},
    };

    /// The tests adopt each other's children if they run at the same time.
    static ALONE: Mutex<()> = Mutex::new(());

    fn start(script: &str) -> ProcessGroup {
        let command = ["sh", "-c", script].map(OsString::from);
        ProcessGroup::start(&command, &[("GREETING", "hello".to_owned())]).expect("sh starts")
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

    fn end_of(mut group: ProcessGroup) -> u8 {
        until("the command's end", || group.poll().filter(|&change| change == Change::Ended));
        group.signal(Signal::SIGKILL);
        shell_code(until("the group's end", || group.reap()))
    }

    #[test]
    fn the_commands_own_code_comes_back() {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(end_of(start("exit 7")), 7);
        assert_eq!(end_of(start("test $GREETING = hello")), 0);
        assert_eq!(end_of(start("kill -TERM $$")), 128 + 15);
    }

    #[test]
    fn what_the_command_leaves_behind_is_killed_and_waited_for() {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        // The pipe's write end is held by the background process only, so that end-of-file proves
        // its end.
        let (mut read, write) = io::pipe().expect("a pipe");
        let write_fd = nix::unistd::dup(write.as_fd()).expect("a duplicate without CLOEXEC");
        let number = std::os::fd::AsRawFd::as_raw_fd(&write_fd);
        let group = start(&format!("(trap '' TERM; exec sleep 600 >&{number}) & exit 3"));
        drop((write, write_fd));
        assert_eq!(end_of(group), 3);
        let mut rest = Vec::new();
        read.read_to_end(&mut rest).expect("the pipe closes");
    }

    #[test]
    fn a_signal_reaches_the_whole_group() {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut group = start("sleep 600 & wait");
        group.signal(Signal::SIGSTOP);
        let stopped = until("the stop", || group.poll());
        assert_eq!(stopped, Change::Stopped(Signal::SIGSTOP));
        assert_eq!(group.poll(), None, "a stop is told once");
        group.signal(Signal::SIGTERM);
        group.signal(Signal::SIGCONT);
        assert_eq!(end_of(group), 128 + 15);
    }

    #[test]
    fn a_missing_and_an_unexecutable_command_are_told_apart() {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let start = |program: &str| ProcessGroup::start(&[program.into()], &[]).map(|_| ());
        assert_eq!(start("/no/such/file").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(start("/etc/passwd").unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }
}
