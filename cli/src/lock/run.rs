//! Carries out what the supervisor decides: starts the command, watches it, the lock and the
//! signals, and tells the supervisor the time.

use std::{ffi::OsString, io, process::ExitStatus, time::Duration};

use nix::{
    sys::signal::{Signal, raise},
    time::{ClockId, clock_gettime},
};
use sharklock_client::{Guard, LostReason};

use super::{
    notices::Notices,
    process_group::{Change, ProcessGroup},
    signals::{Arrived, Signals},
    supervisor::{Event, Moment, Order, Stopped, Supervisor, Terms},
    terminal::Terminal,
};
use crate::{
    exit::{Failure, INTERNAL, NOT_EXECUTABLE, NOT_FOUND, UNREACHABLE},
    render::short,
};

/// The longest sleep: timers stand still while the machine is suspended, so that the lease's clock
/// is read again this soon after it goes on.
const SLEEP_MAX: Duration = Duration::from_millis(200);

/// How the command ended.
#[derive(Debug)]
pub enum Outcome {
    /// By itself, under a good lease.
    Ended(ExitStatus),
    /// The lock was lost, for this reason, and it was stopped.
    Stopped(String),
}

/// Runs `command` under `guard` until nothing of its process group is left.
pub async fn supervise(
    guard: &Guard,
    command: &[OsString],
    environment: &[(&str, String)],
    terms: Terms,
    (signals, notices): (&mut Signals, &Notices),
) -> Result<Outcome, Failure> {
    let mut watch = Watch::new(guard, terms);
    if watch.due() {
        return Err(Failure::new(UNREACHABLE, "the lock was granted but cannot be kept")
            .cause("its renewals are not answered"));
    }
    let mut group =
        ProcessGroup::start(command, environment).map_err(|why| cannot_start(&command[0], &why))?;
    let mut job = Job { terminal: Terminal::of_this_process(), was_lent: false, suspended: false };
    loop {
        let event = watch.next(&mut group, signals, &mut job).await;
        let order = watch.handle(event);
        match order {
            Some(Order::Terminate) => {
                group.signal(Signal::SIGTERM);
                group.signal(Signal::SIGCONT);
                notices.say(format_args!(
                    "lock {:?} is being lost ({}): SIGTERM to the command, SIGKILL in {} at most",
                    guard.name(),
                    watch.why(),
                    short(watch.until_kill()),
                ));
            }
            Some(Order::Kill) => group.signal(Signal::SIGKILL),
            None => job.resume(&group),
        }
        if event == Event::Ended {
            break;
        }
    }
    let status = loop {
        match group.reap() {
            Some(status) => break status,
            // Every end of a child is a signal; the sleep is for one that was told together with
            // an earlier one.
            None => {
                tokio::select! {
                    _ = signals.next() => {}
                    () = tokio::time::sleep(SLEEP_MAX) => {}
                }
            }
        }
    };
    job.end();
    Ok(match watch.supervisor.stopped() {
        None => Outcome::Ended(status),
        Some(_) => Outcome::Stopped(watch.why()),
    })
}

fn cannot_start(program: &OsString, why: &io::Error) -> Failure {
    let code = match why.kind() {
        io::ErrorKind::NotFound => NOT_FOUND,
        io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory => INTERNAL,
        _ => NOT_EXECUTABLE,
    };
    Failure::new(code, format!("cannot run {program:?}")).cause(why)
}

/// The lease, the time, and what follows from them.
struct Watch<'a> {
    guard: &'a Guard,
    supervisor: Supervisor,
    start: Duration,
    /// As the guard said last while it was valid: a lost guard says that nothing remains, but how
    /// long nobody else can hold the lock does not change by the loss.
    valid_until: Moment,
    lost: Option<LostReason>,
}

impl<'a> Watch<'a> {
    fn new(guard: &'a Guard, terms: Terms) -> Self {
        let valid_until = Moment(guard.remaining());
        Self {
            guard,
            supervisor: Supervisor::new(terms),
            start: boottime(),
            valid_until,
            lost: None,
        }
    }

    fn now(&self) -> Moment {
        Moment(boottime().saturating_sub(self.start))
    }

    fn refresh(&mut self, now: Moment) {
        let remaining = self.guard.remaining();
        if !remaining.is_zero() {
            self.valid_until = Moment(now.0 + remaining);
        }
    }

    /// Whether the command would have to be stopped already.
    fn due(&self) -> bool {
        self.supervisor.wake_at(self.valid_until).is_some_and(|at| at <= self.now())
    }

    fn handle(&mut self, event: Event) -> Option<Order> {
        let now = self.now();
        self.refresh(now);
        self.supervisor.handle(now, self.valid_until, event)
    }

    fn why(&self) -> String {
        match (&self.lost, self.supervisor.stopped()) {
            (Some(reason), Some(Stopped::Lost)) => reason.to_string(),
            _ => "no renewal was answered in time".to_owned(),
        }
    }

    fn until_kill(&self) -> Duration {
        let at = self.supervisor.wake_at(self.valid_until).unwrap_or(Moment(Duration::ZERO));
        at.0.saturating_sub(self.now().0)
    }

    async fn next(
        &mut self,
        group: &mut ProcessGroup,
        signals: &mut Signals,
        job: &mut Job,
    ) -> Event {
        let now = self.now();
        let wake_at = self.supervisor.wake_at(self.valid_until);
        let sleep = wake_at.map_or(SLEEP_MAX, |at| at.0.saturating_sub(now.0).min(SLEEP_MAX));
        tokio::select! {
            biased;
            reason = self.guard.lost(), if self.lost.is_none() => {
                self.lost = Some(reason);
                Event::Lost
            }
            arrived = signals.next() => match arrived {
                Arrived::PassOn(signal) => {
                    group.signal(signal);
                    Event::Woke
                }
                Arrived::Child => match group.poll() {
                    Some(Change::Ended) => Event::Ended,
                    Some(Change::Stopped(signal)) => {
                        job.stopped(signal, group);
                        Event::Woke
                    }
                    None => Event::Woke,
                },
            },
            () = tokio::time::sleep(sleep) => Event::Woke,
        }
    }
}

/// Job control: the command stops and goes on together with this process, and has the terminal
/// when it asks for it.
struct Job {
    terminal: Option<Terminal>,
    was_lent: bool,
    suspended: bool,
}

impl Job {
    /// The command was stopped. If it wants the terminal and can have it, it gets it. If it was
    /// Ctrl-Z, this process stops too, so that the shell gets its prompt back; it returns from
    /// here when the shell lets the job go on. A SIGSTOP from elsewhere is left alone.
    fn stopped(&mut self, signal: Signal, group: &ProcessGroup) {
        let Some(terminal) = &mut self.terminal else { return };
        let wants_terminal = matches!(signal, Signal::SIGTTIN | Signal::SIGTTOU);
        if wants_terminal && terminal.lend(group.id()) {
            group.signal(Signal::SIGCONT);
        } else if wants_terminal || signal == Signal::SIGTSTP {
            self.was_lent = terminal.take_back() || wants_terminal;
            // Nothing is renewed while this process stands still, so nobody in the group may go
            // on, whatever it does with SIGTSTP.
            group.signal(Signal::SIGSTOP);
            let _ = raise(Signal::SIGSTOP);
            self.suspended = true;
        }
    }

    /// After a pause, once the supervisor has found the lease still good.
    fn resume(&mut self, group: &ProcessGroup) {
        if std::mem::take(&mut self.suspended) {
            if let Some(terminal) = self.terminal.as_mut().filter(|_| self.was_lent) {
                terminal.lend(group.id());
            }
            group.signal(Signal::SIGCONT);
        }
    }

    fn end(&mut self) {
        if let Some(terminal) = &mut self.terminal {
            terminal.take_back();
        }
    }
}

/// Goes on while the machine is suspended, as leases do.
fn boottime() -> Duration {
    let now =
        clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has had this clock since 2.6.39");
    Duration::from(now)
}
