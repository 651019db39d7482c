//! The signals that `sharklock lock` passes on to its command.

use std::{fs, io};

use nix::sys::signal::Signal;
use tokio::signal::unix::{self, SignalKind};

/// Passed on as they come, unless this process was started with the signal ignored.
/// The last two would end this process by default, and the command's own children with nobody to
/// watch them.
const PASSED_ON: [Signal; 7] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGTSTP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// Listens from its creation on. The handlers stay until the process ends.
#[derive(Debug)]
pub struct Signals {
    passed_on: Vec<(Signal, unix::Signal)>,
    child: unix::Signal,
}

/// What arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrived {
    /// Somebody wants this process, or its job, to stop.
    PassOn(Signal),
    /// A child's state has changed, or more than one's.
    Child,
}

impl Signals {
    /// A signal that is ignored already stays so for the command too: nohup(1) and shells that
    /// start a job in the background rely on it.
    pub fn listen() -> io::Result<Self> {
        let ignored = ignored(&fs::read_to_string("/proc/self/status")?);
        let passed_on = PASSED_ON
            .into_iter()
            .filter(|&signal| ignored & (1 << (signal as u64 - 1)) == 0)
            .map(|signal| Ok((signal, unix::signal(SignalKind::from_raw(signal as i32))?)))
            .collect::<io::Result<_>>()?;
        Ok(Self { passed_on, child: unix::signal(SignalKind::child())? })
    }

    /// Waits for the next one. Dropping the future loses none.
    pub async fn next(&mut self) -> Arrived {
        std::future::poll_fn(|context| {
            if self.child.poll_recv(context).is_ready() {
                return std::task::Poll::Ready(Arrived::Child);
            }
            for (signal, stream) in &mut self.passed_on {
                if stream.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(Arrived::PassOn(*signal));
                }
            }
            std::task::Poll::Pending
        })
        .await
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
}
