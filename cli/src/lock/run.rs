//! Carries out what the supervisor decides: starts the command, watches it, the lock and the
//! signals, and tells the supervisor what happened.

use std::{ffi::OsString, io, process::ExitStatus, time::Duration};

use rustix::process::Signal;
use sharklock_client::{Guard, LostReason};

use super::{
    job::Job,
    kept::{Beginning, Recorder},
    notices::Notices,
    process_tree::{Change, ProcessTree},
    report::{REST_SETTLES, Report},
    signals::{Arrived, Meaning, Signals, meaning},
    supervisor::{Event, Moment, Order, Rest, Terms},
    watch::Watch,
};
use crate::{
    exit::{Failure, INTERNAL, NOT_EXECUTABLE, NOT_FOUND, UNREACHABLE},
    spawn::NotStarted,
};

/// The longest sleep: timers stand still while the machine is suspended, so that the lease's clock
/// is read again this soon after it goes on.
const SLEEP_MAX: Duration = Duration::from_millis(200);
/// The pause after a round of SIGKILL that found somebody new; it doubles while nobody new is
/// found, up to [`SLEEP_MAX`]: who is left then cannot be killed at the moment.
const KILL_AGAIN: Duration = Duration::from_millis(1);
/// A look at all processes costs at most one part in so many of the time.
const LOOK_SHARE: u32 = 100;
/// Two signals that ask for the end, less than this apart, are one wish: timeout(1) sends each to
/// its child and then to its group.
const INSISTS_AFTER: Duration = Duration::from_secs(1);

/// How the command ended.
#[derive(Debug)]
pub enum CommandEnd {
    /// By itself, under a good lease.
    Ended(ExitStatus),
    /// It was stopped, since the lock could not be kept.
    Stopped {
        /// Why, in words.
        why: String,
        /// What the client says of the loss, where it is that.
        lost: Option<LostReason>,
    },
}

/// Runs `command` under `guard` until nothing that descends from it is left, or what is left is
/// to be left alone. What runs under a kept lock is recorded before it begins, and until it is over.
pub async fn supervise(
    guard: &Guard,
    command: &[OsString],
    environment: &[(&str, String)],
    (terms, rest, kept): (Terms, Rest, Option<Beginning>),
    (signals, notices): (&mut Signals, &Notices),
) -> Result<CommandEnd, Failure> {
    let watch = Watch::new(guard, terms, rest);
    if watch.due() {
        return Err(Failure::new(UNREACHABLE, "the lock was granted but cannot be kept")
            .cause("its renewals are not answered"));
    }
    let (tree, recorder) =
        start(command, environment, signals, kept).map_err(|why| not_started(&command[0], &why))?;
    let mut run = Run {
        notices,
        recorder,
        report: Report::new(notices, guard.name()),
        job: Job::of_this_process(),
        next_look: Moment(Duration::ZERO),
        kill_again: KILL_AGAIN,
        asked_at: None,
        ended: false,
        watch,
        tree,
    };
    let status = run.until_gone(signals).await;
    if let Some(Err(error)) = run.recorder.take().map(Recorder::over) {
        // The next start proves it anew.
        notices.say(format_args!("cannot record that nothing runs any more: {error}"));
    }
    Ok(match run.watch.stopped() {
        None => CommandEnd::Ended(status),
        Some(why) => CommandEnd::Stopped { why, lost: run.watch.lost_reason().cloned() },
    })
}

fn start(
    command: &[OsString],
    environment: &[(&str, String)],
    signals: &Signals,
    kept: Option<Beginning>,
) -> Result<(ProcessTree, Option<Recorder>), NotStarted> {
    let mask = signals.before();
    match kept {
        None => {
            let tree = ProcessTree::start(command, environment, mask).map_err(NotStarted::Failed);
            Ok((tree?, None))
        }
        Some(beginning) => {
            let take_in = |first| beginning.take_in(first);
            let started = ProcessTree::start_held_back(command, environment, mask, take_in);
            started.map(|(tree, recorder)| (tree, Some(recorder)))
        }
    }
}

fn not_started(program: &OsString, why: &NotStarted) -> Failure {
    let why = match why {
        NotStarted::Failed(why) => why,
        NotStarted::HeldBack(why) => {
            let error = "the command was not started: its run could not be recorded";
            return Failure::new(INTERNAL, error).cause(why);
        }
    };
    let code = match why.kind() {
        io::ErrorKind::NotFound => NOT_FOUND,
        io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory => INTERNAL,
        _ => NOT_EXECUTABLE,
    };
    Failure::new(code, format!("cannot run {program:?}")).cause(why)
}

/// One command under its lock.
struct Run<'a> {
    watch: Watch<'a>,
    notices: &'a Notices,
    tree: ProcessTree,
    /// Of what runs under a kept lock.
    recorder: Option<Recorder>,
    job: Job,
    report: Report<'a>,
    next_look: Moment,
    kill_again: Duration,
    /// When somebody asked first for the end of all.
    asked_at: Option<Moment>,
    /// The command's first process has ended.
    ended: bool,
}

/// The reason why this process woke.
enum Woken {
    Lost,
    Sent(Signal),
    Otherwise,
}

impl Run<'_> {
    async fn until_gone(&mut self, signals: &mut Signals) -> ExitStatus {
        loop {
            let woken = self.next(signals).await;
            let change = self.tree.poll();
            if let Some(Change::Stopped(signal)) = change {
                self.job.stopped(signal, &self.tree);
            }
            let gone = self.tree.gone();
            if let Some(status) = gone {
                // Their end counts before anything else that has happened.
                self.watch.handle(Event::Gone);
                self.job.end();
                return status;
            }
            let event = self.event(&woken);
            let order = self.watch.handle(event);
            self.carry_out(order);
            // Signals are passed on, and a pause ends, only after the lease was looked at: nobody
            // may go on under a lease that is over.
            if let Woken::Sent(signal) = woken {
                self.pass_on(signal);
            }
            self.job.resume(&self.tree);
            if change == Some(Change::Ended)
                && !std::mem::replace(&mut self.ended, true)
                && let Some(status) = self.command_ended()
            {
                return status;
            }
            self.look_around();
        }
    }

    /// The command's own process has ended, and others run: gives its status if they are left.
    fn command_ended(&mut self) -> Option<ExitStatus> {
        self.job.end();
        let order = self.watch.handle(Event::Ended);
        self.carry_out(order);
        if order == Some(Order::Leave) {
            return Some(self.tree.leave());
        }
        if order.is_none() && self.watch.is_running() {
            self.report.rest_begins(self.watch.now());
        }
        None
    }

    async fn next(&mut self, signals: &mut Signals) -> Woken {
        let longest = match () {
            () if self.watch.is_killing() => self.kill_again,
            () if self.ended => REST_SETTLES,
            () => SLEEP_MAX,
        };
        let sleep = self.watch.until_order().map_or(longest, |until| until.min(longest));
        tokio::select! {
            biased;
            () = self.watch.lost() => Woken::Lost,
            arrived = signals.next() => match arrived {
                Arrived::Sent(signal) => Woken::Sent(signal),
                Arrived::Child => Woken::Otherwise,
            },
            () = tokio::time::sleep(sleep) => Woken::Otherwise,
        }
    }

    fn event(&mut self, woken: &Woken) -> Event {
        match woken {
            Woken::Lost => Event::Lost,
            Woken::Sent(signal) if meaning(*signal) == Meaning::End => {
                let now = self.watch.now();
                let first = *self.asked_at.get_or_insert(now);
                let again = now.0 >= first.0 + INSISTS_AFTER;
                if self.ended && again { Event::Insisted } else { Event::Woke }
            }
            Woken::Sent(_) | Woken::Otherwise => Event::Woke,
        }
    }

    fn carry_out(&mut self, order: Option<Order>) {
        match order {
            Some(Order::Terminate) => {
                self.tree.signal(&[Signal::TERM, Signal::CONT]);
                let until_kill = self.watch.until_order().unwrap_or_default();
                match self.watch.stopped() {
                    Some(why) => self.report.being_lost(&why, until_kill),
                    None => self.report.rest_is_ended(&self.tree.running(), until_kill),
                }
            }
            Some(Order::Kill) => {
                self.tree.kill();
            }
            Some(Order::Leave) | None if self.watch.is_killing() => {
                let new = self.tree.kill();
                self.kill_again =
                    if new > 0 { KILL_AGAIN } else { (self.kill_again * 2).min(SLEEP_MAX) };
            }
            Some(Order::Leave) | None => {}
        }
    }

    fn pass_on(&mut self, signal: Signal) {
        match meaning(signal) {
            _ if self.watch.is_killing() => {}
            Meaning::Continue => self.job.continued(),
            // A stopped process could not heed it.
            Meaning::End => self.tree.signal(&[signal, Signal::CONT]),
            Meaning::Pause => {
                self.tree.signal(&[signal]);
                self.job.pause_passed_on();
                if self.ended {
                    self.job.pause_rest(&self.tree);
                }
            }
            Meaning::Message | Meaning::News => self.tree.signal(&[signal]),
        }
    }

    /// Looks for what people must be told of, at a bounded cost.
    fn look_around(&mut self) {
        let begin = self.watch.now();
        let rest_is_due = self.watch.is_running() && self.report.rest_is_due(begin);
        if begin < self.next_look && !rest_is_due {
            return;
        }
        let running = self.tree.running();
        if let Some(recorder) = &mut self.recorder {
            recorder.seen(&running, self.notices);
        }
        self.report.foreign(&running);
        if rest_is_due {
            self.report.rest(begin, &running);
        }
        // The kernel needs a moment to end somebody.
        let settled = self.kill_again >= SLEEP_MAX || self.watch.until_lapse().is_zero();
        if self.watch.is_killing() && settled {
            self.report.survivors(&running, self.watch.until_lapse());
        }
        let took = self.watch.now().0 - begin.0;
        self.next_look = Moment(self.watch.now().0 + took * LOOK_SHARE);
    }
}
