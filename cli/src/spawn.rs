//! The steps of a child between fork and exec, which need `unsafe`.
//!
//! It does not know what is run, nor why.
#![expect(unsafe_code, reason = "`pre_exec` is unsafe by its contract; see the SAFETY comment")]

use std::{
    io,
    os::unix::process::CommandExt as _,
    process::{Child, Command},
};

use nix::{
    errno::Errno,
    sys::{
        prctl,
        signal::{SigSet, Signal},
    },
    unistd::{Pid, getpid, getppid},
};

/// Starts `command` as the leader of a process group of its own, with `mask` as its blocked
/// signals, that the kernel kills when the calling *thread* ends: call it from the main thread,
/// whose end is the process's.
///
/// The kernel forgets the second promise if the command changes its user or group id on exec, and
/// it covers the first process only, not those that it starts.
pub fn spawn_bound_to_this_thread(command: &mut Command, mask: SigSet) -> io::Result<Child> {
    let parent = getpid();
    command.process_group(0);
    // SAFETY: the closure runs in the forked child, where only async-signal-safe calls are allowed.
    // It makes three system calls (prctl, getppid, rt_sigprocmask), builds errors from plain numbers, and allocates,
    // locks and frees nothing.
    unsafe { command.pre_exec(move || die_with(parent).and_then(|()| unblock(mask))) };
    command.spawn()
}

/// The parent may have died before the kernel was told to watch it: then this process was given to
/// another parent already, and must not start.
fn die_with(parent: Pid) -> io::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from)?;
    if getppid() != parent {
        return Err(Errno::ESRCH.into());
    }
    Ok(())
}

/// The last step, so that a signal which arrives before it finds a process that dies with its
/// parent.
fn unblock(mask: SigSet) -> io::Result<()> {
    mask.thread_set_mask().map_err(io::Error::from)
}
