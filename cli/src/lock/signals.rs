//! The signals that reach `sharklock lock`: none that can be caught may end it while its command
//! runs, since nobody would watch the command then.
//!
//! So every signal is blocked, in every thread, and read from a descriptor, by a thread that does
//! nothing else. A signal that the kernel raises for a fault of this process itself (SIGSEGV and
//! its like) still ends it: that cannot be blocked. Two are treated apart. SIGCHLD has a handler,
//! because it may have been ignored when this process was started, and the kernel keeps no ended
//! children for a process that ignores it. Other signals that were ignored at the start are read
//! and dropped.

use std::{fs, io, thread};

use nix::{
    errno::Errno,
    sys::{
        signal::{self, SigSet, SigmaskHow},
        signalfd::{SfdFlags, SignalFd},
    },
};
use rustix::process::Signal;
use tokio::{
    signal::unix::{self, SignalKind},
    sync::mpsc,
};

use super::signal_number;

/// Signals that were read and not yet heeded. When it is full the kernel keeps the next ones, each
/// kind once and real-time ones up to its own limit.
const QUEUE_LEN_MAX: usize = 16;

/// The request that a signal makes of a process, unless that has agreed on another meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// To end.
    End,
    /// A message on which programs agree; it ends those that have not agreed on anything.
    Message,
    /// To stand still, as by Ctrl-Z.
    Pause,
    /// To go on after that.
    Continue,
    /// Nothing.
    News,
}

/// The meaning of `signal`.
pub fn meaning(signal: Signal) -> Meaning {
    match signal {
        Signal::CONT => Meaning::Continue,
        Signal::TSTP | Signal::TTIN | Signal::TTOU => Meaning::Pause,
        Signal::CHILD | Signal::WINCH | Signal::URG => Meaning::News,
        Signal::USR1 | Signal::USR2 => Meaning::Message,
        other if other.as_raw() > Signal::SYS.as_raw() => Meaning::Message,
        _ => Meaning::End,
    }
}

/// Signals are blocked, and nobody listens yet.
#[derive(Debug)]
pub struct Blocked {
    descriptor: SignalFd,
    /// Bit n−1 stands for signal n. A signal that is ignored stays so for the command too:
    /// nohup(1) and shells that start a job in the background rely on it.
    ignored: u64,
    before: SigSet,
}

impl Blocked {
    /// Call it while the process has one thread: the others get what it has blocked.
    pub fn block() -> io::Result<Self> {
        let ignored = ignored(&fs::read_to_string("/proc/self/status")?);
        let mut all = SigSet::all();
        all.remove(signal::Signal::SIGCHLD);
        let before = all.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        let descriptor = SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC)?;
        Ok(Self { descriptor, ignored, before })
    }

    /// Listens, within a tokio runtime. A signal that came since [`Blocked::block`] is not lost.
    pub fn listen(self) -> io::Result<Signals> {
        let Self { descriptor, ignored, before } = self;
        let child = unix::signal(SignalKind::child())?;
        let (heard, sent) = mpsc::channel(QUEUE_LEN_MAX);
        let read = move || {
            while let Some(number) = next_number(&descriptor) {
                let signal = signal_number::from_number(number);
                let heeded = signal.filter(|_| ignored & (1 << (number - 1)) == 0);
                if heeded.is_some_and(|signal| heard.blocking_send(signal).is_err()) {
                    return;
                }
            }
        };
        thread::Builder::new().name("signals".into()).spawn(read)?;
        Ok(Signals { sent, before, child })
    }
}

/// Waits for the next signal.
fn next_number(descriptor: &SignalFd) -> Option<i32> {
    loop {
        match descriptor.read_signal() {
            Ok(Some(info)) => return i32::try_from(info.ssi_signo).ok(),
            Ok(None) | Err(Errno::EINTR) => {}
            Err(why) => panic!("reading signals failed: {why}"),
        }
    }
}

/// Listens from its creation on. Signals stay blocked until the process ends.
#[derive(Debug)]
pub struct Signals {
    sent: mpsc::Receiver<Signal>,
    before: SigSet,
    child: unix::Signal,
}

/// The kind of an arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrived {
    /// Somebody sent this to the command, or to this process, who stands before it.
    Sent(Signal),
    /// A child's state has changed, or more than one's.
    Child,
}

impl Signals {
    /// The signals that were blocked before this process blocked all: a command starts with that
    /// mask.
    pub fn before(&self) -> SigSet {
        self.before
    }

    /// Waits for the next one. Dropping the future loses none.
    pub async fn next(&mut self) -> Arrived {
        tokio::select! {
            biased;
            Some(signal) = self.sent.recv() => Arrived::Sent(signal),
            _ = self.child.recv() => Arrived::Child,
        }
    }
}

/// The set of ignored signals in /proc/PID/status: bit n−1 stands for signal n.
fn ignored(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_proc() {
        assert_eq!(ignored("Name:\tx\nSigIgn:\t0000000000001001\nSigCgt:\t0\n"), 0x1001);
        assert_eq!(ignored("Name:\tx\n"), 0);
    }

    #[test]
    fn what_ends_a_process_by_default_asks_it_to_end_or_tells_it_something() {
        let meaning = |number| meaning(signal_number::from_number(number).expect("a signal"));
        for end in [1, 2, 3, 4, 5, 6, 7, 8, 11, 13, 14, 15, 16, 24, 25, 26, 27, 29, 30, 31] {
            assert_eq!(meaning(end), Meaning::End, "{end}");
        }
        for message in [10, 12, 34, 50, 64] {
            assert_eq!(meaning(message), Meaning::Message, "{message}");
        }
        for pause in [20, 21, 22] {
            assert_eq!(meaning(pause), Meaning::Pause, "{pause}");
        }
        assert_eq!(meaning(18), Meaning::Continue);
        for news in [17, 23, 28] {
            assert_eq!(meaning(news), Meaning::News, "{news}");
        }
    }
}
