//! The steps of a child between fork and exec, which need `unsafe`.
//!
//! It does not know what is run, nor why.
#![expect(unsafe_code, reason = "`pre_exec` is unsafe by its contract; see the SAFETY comment")]

use std::{
    io::{self, PipeReader, PipeWriter, Read as _, Write as _},
    os::unix::process::CommandExt as _,
    process::{Child, Command},
    thread,
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

/// Why a command was not started.
#[derive(Debug)]
pub enum NotStarted {
    /// It could not be executed.
    Failed(io::Error),
    /// It was not let go.
    HeldBack(io::Error),
}

/// As [`spawn_bound_to_this_thread`], and the child becomes the command only when `let_go` has taken
/// its number and succeeded. It runs on a thread of its own, while the child waits and has started
/// nothing.
pub fn spawn_held_back<T: Send>(
    command: &mut Command,
    mask: SigSet,
    let_go: impl FnOnce(Pid) -> io::Result<T> + Send,
) -> Result<(Child, T), NotStarted> {
    let parent = getpid();
    let pipes = || Ok((io::pipe()?, io::pipe()?));
    let ((number, mut tells), (go, goes)) = pipes().map_err(NotStarted::Failed)?;
    let childs = tells.try_clone().map_err(NotStarted::Failed)?;
    command.process_group(0);
    // SAFETY: as above; it also makes the system calls getpid, write and read, on descriptors that the
    // closure owns.
    unsafe {
        command.pre_exec(move || {
            die_with(parent).and_then(|()| wait_for_go(&childs, &go)).and_then(|()| unblock(mask))
        })
    };
    thread::scope(|scope| {
        let gate = scope.spawn(move || open_gate(number, goes, let_go));
        let child = command.spawn();
        // Where no child has told its number, the gate waits for one.
        let _ = tells.write_all(&0_i32.to_ne_bytes());
        let gone = gate.join().unwrap_or_else(|_| Err(io::Error::other("the gate has failed")));
        match (child, gone) {
            (Ok(child), Ok(Some(gone))) => Ok((child, gone)),
            (_, Err(why)) => Err(NotStarted::HeldBack(why)),
            (Err(why), Ok(_)) => Err(NotStarted::Failed(why)),
            (Ok(_), Ok(None)) => unreachable!("a child becomes its command only when it is let go"),
        }
    })
}

/// In the parent: none where no child came.
fn open_gate<T>(
    mut number: PipeReader,
    mut goes: PipeWriter,
    let_go: impl FnOnce(Pid) -> io::Result<T>,
) -> io::Result<Option<T>> {
    let mut bytes = [0; 4];
    number.read_exact(&mut bytes)?;
    let child = i32::from_ne_bytes(bytes);
    if child == 0 {
        return Ok(None);
    }
    let gone = let_go(Pid::from_raw(child));
    goes.write_all(&[u8::from(gone.is_ok())])?;
    gone.map(Some)
}

/// In the child. When the parent dies, the kernel ends the wait with the child.
fn wait_for_go(mut tells: &PipeWriter, mut go: &PipeReader) -> io::Result<()> {
    tells.write_all(&getpid().as_raw().to_ne_bytes())?;
    let mut answer = [0];
    go.read_exact(&mut answer)?;
    if answer == [1] { Ok(()) } else { Err(Errno::ECANCELED.into()) }
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
