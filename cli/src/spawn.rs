//! The one place of `sharklock` that needs `unsafe`: what a child does between fork and exec.
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
    sys::{prctl, signal::Signal},
    unistd::{Pid, getpid, getppid},
};

/// Starts `command` as the leader of a process group of its own that the kernel kills when the
/// calling *thread* ends: call it from the main thread, whose end is the process's.
///
/// The kernel forgets the second promise if the command changes its user or group id on exec, and
/// it covers the first process only, not those that it starts.
pub fn spawn_bound_to_this_thread(command: &mut Command) -> io::Result<Child> {
    let parent = getpid();
    command.process_group(0);
    // SAFETY: the closure runs in the forked child, where only async-signal-safe calls are allowed.
    // It makes two system calls (prctl, getppid), builds errors from plain numbers, and allocates,
    // locks and frees nothing.
    unsafe { command.pre_exec(move || die_with(parent)) };
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
