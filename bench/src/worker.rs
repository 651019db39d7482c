//! One worker: acquires, releases, and notes what it saw.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use sharklock_client::{AcquireError, Client, Guard, LostReason, ReleaseError};
use sharklock_history::{End, Hold, LockId, Mode, Position, Record, Recorder, What};

use crate::report::Errors;

/// After a failed call: a cluster that is down is not helped by being asked without a pause.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(50);
/// A worker that waits for its next cycle looks whether the run is over at least this often.
const NAP_MAX: Duration = Duration::from_millis(500);

/// The time of a run. Notes count nanoseconds from its start.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    start: Instant,
    warmup: Duration,
    duration: Duration,
}

impl Window {
    /// A run that starts at `start`, and counts after `warmup`, for `duration`.
    pub fn starting(start: Instant, warmup: Duration, duration: Duration) -> Self {
        Self { start, warmup, duration }
    }

    /// Before it counts.
    pub fn warmup(&self) -> Duration {
        self.warmup
    }

    /// How long it counts.
    pub fn duration(&self) -> Duration {
        self.duration
    }

    /// When workers begin no more cycles.
    pub fn end(&self) -> Instant {
        self.start + self.warmup + self.duration
    }

    /// The same, ended at `at` if that comes before its end.
    #[must_use]
    pub fn cut(self, at: Instant) -> Self {
        let counts = at.saturating_duration_since(self.start).saturating_sub(self.warmup);
        Self { duration: self.duration.min(counts), ..self }
    }

    /// Nanoseconds from the start of the run until `at`.
    pub fn nanos(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Whether something that ended so many nanoseconds after the start counts.
    pub fn measures(&self, end_nanos: u64) -> bool {
        let end = Duration::from_nanos(end_nanos);
        (self.warmup..self.warmup + self.duration).contains(&end)
    }

    /// How many parts, `every` long, the measured time has.
    pub fn parts(&self, every: Duration) -> usize {
        let parts = self.duration.as_nanos().div_ceil(every.as_nanos());
        usize::try_from(parts).expect("the number of parts is bounded by the options")
    }

    /// The part in which something ended that ended so many nanoseconds after the start, if that
    /// counts.
    pub fn part_of(&self, end_nanos: u64, every: Duration) -> Option<usize> {
        let since = Duration::from_nanos(end_nanos).checked_sub(self.warmup)?;
        let part = usize::try_from(since.as_nanos() / every.as_nanos()).ok()?;
        self.measures(end_nanos).then_some(part)
    }
}

/// When the cycles of a worker are to begin, whether or not those before have ended (open loop).
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    first: Duration,
    every: Duration,
}

impl Pace {
    /// One worker's share of so many cycles per second: the workers begin theirs one after the other.
    pub fn of(worker: u32, workers: u32, rate: u32) -> Self {
        let each = Duration::from_secs(1) / rate;
        Self { first: each * worker, every: each * workers }
    }

    /// When cycle number `cycle` is to begin, after the start of the run.
    fn due(self, cycle: u32) -> Duration {
        self.first + self.every * cycle
    }
}

/// The needs of a worker.
#[derive(Debug)]
pub struct Worker {
    /// Shared with the other workers of its connection.
    pub client: Client,
    /// The connection's number: the label of its session in the history.
    pub connection: u32,
    /// Cycled over in this order.
    pub names: Vec<String>,
    /// It takes each of them in this mode.
    pub mode: Mode,
    /// When its cycles are to begin. None: each when the one before has ended.
    pub pace: Option<Pace>,
    /// When to begin no more cycles.
    pub window: Window,
    /// Begins no more cycles from when this is set.
    pub stopped: Arc<AtomicBool>,
    /// Stops after so many cycles, to bound the notes.
    pub cycles_max: u32,
}

/// The record of a worker.
#[derive(Debug, Default)]
pub struct Notes {
    /// Every call whose outcome matters.
    pub recorder: Recorder,
    /// Cycles that ended while it counted.
    pub cycles_measured: u64,
    /// The time of each of these from when it was to begin; empty without a pace.
    pub since_due: Vec<Duration>,
    /// Calls that failed.
    pub errors: Errors,
    /// When each of them did, in nanoseconds.
    pub failures: Vec<u64>,
    /// It stopped early, to bound these notes.
    pub truncated: bool,
}

impl Worker {
    /// Cycles until the time is over.
    pub async fn run(self) -> Notes {
        let mut notes = Notes::default();
        let locks: Vec<LockId> = self.names.iter().map(|name| notes.recorder.lock(name)).collect();
        let mut cycle = 0_u32;
        while now() < self.window.end() && !self.stopped.load(Ordering::Relaxed) {
            if cycle == self.cycles_max {
                notes.truncated = true;
                break;
            }
            let Some(due) = self.wait_for_turn(cycle).await else { break };
            let turn = cycle as usize % locks.len();
            self.cycle((&self.names[turn], locks[turn]), due, &mut notes).await;
            cycle += 1;
        }
        notes
    }

    /// When the cycle was to begin, once that is over; None: not while the run lasts. A worker that
    /// has slept until then is not late: its timer is exact to a millisecond only.
    async fn wait_for_turn(&self, cycle: u32) -> Option<Instant> {
        let Some(pace) = self.pace else { return Some(now()) };
        let due = self.window.start + pace.due(cycle);
        if due <= now() {
            return Some(due);
        }
        // Short naps: a run that is stopped does not wait for a slow pace.
        while due > now() && !self.stopped.load(Ordering::Relaxed) && now() < self.window.end() {
            let nap = due.saturating_duration_since(now()).min(NAP_MAX);
            tokio::time::sleep(nap).await;
        }
        (due <= now()).then(now)
    }

    async fn cycle(&self, (name, lock): (&str, LockId), due: Instant, notes: &mut Notes) {
        let invoked = now();
        let wanted = match self.mode {
            Mode::Exclusive => self.client.lock(name),
            Mode::Shared => self.client.lock(name).shared(),
            Mode::Permits { units, units_max } => {
                self.client.lock(name).permits(units.into(), units_max.into())
            }
        };
        let acquired = wanted.acquire().await;
        let returned = now();
        let mut record = Record {
            lock,
            session: self.connection,
            acquisition: 0,
            invoked: self.window.nanos(invoked),
            returned: self.window.nanos(returned),
            position: Position::UNKNOWN,
            what: What::Unknown { reenter: 0 },
        };
        match acquired {
            Ok(guard) => {
                record.acquisition = guard.acquisition().0;
                record.position = position(&guard);
                let hold = self.release(guard, returned, notes).await;
                if hold.end == End::Released && self.window.measures(hold.end_returned) {
                    notes.cycles_measured += 1;
                    if self.pace.is_some() {
                        let late = hold.end_returned.saturating_sub(self.window.nanos(due));
                        notes.since_due.push(Duration::from_nanos(late));
                    }
                }
                record.what = What::Granted(hold);
                notes.recorder.push(record);
            }
            Err(error) => {
                self.failed(notes, error_kind(&error));
                if matches!(error, AcquireError::Indeterminate { .. }) {
                    notes.recorder.push(record);
                }
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            }
        }
    }

    fn failed(&self, notes: &mut Notes, kind: &str) {
        notes.errors.add(kind, 1);
        notes.failures.push(self.window.nanos(now()));
    }

    async fn release(&self, guard: Guard, granted: Instant, notes: &mut Notes) -> Hold {
        let mut hold = Hold {
            token: guard.token().as_u64(),
            fence_floor: guard.fence_floor().as_u64(),
            // Read right after the grant; a renewal before the release would only move it on.
            valid_until: self.window.nanos(granted + guard.remaining()),
            end_invoked: self.window.nanos(now()),
            end_returned: 0,
            mode: self.mode,
            reentered: false,
            end: End::ReleaseUnknown,
        };
        let (end, kind) = match guard.release().await {
            Ok(()) => (End::Released, None),
            Err(ReleaseError::Lost(lost)) => match lost.reason {
                LostReason::Unrenewed => (End::Lapsed, Some("lost: not renewed in time")),
                LostReason::ForceReleased { .. } => {
                    (End::Acknowledged, Some("lost: force-released"))
                }
                LostReason::SessionEnded => (End::Open, Some("lost: session ended")),
                _ => (End::ToldGone, Some("lost: gone")),
            },
            Err(_) => (End::ReleaseUnknown, Some("release not confirmed")),
        };
        hold.end = end;
        if end == End::Open {
            hold.end_invoked = 0;
        } else if end != End::ReleaseUnknown {
            hold.end_returned = self.window.nanos(now());
        }
        if let Some(kind) = kind {
            self.failed(notes, kind);
        }
        hold
    }
}

fn position(guard: &Guard) -> Position {
    let at = guard.position();
    // The checker keeps 32 bits of both: a bench never sees a cluster that has split that often.
    let short = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    Position { range: short(at.range), version: short(at.version), applied_index: at.applied_index }
}

/// The kind of a failed acquire, for counting.
pub fn error_kind(error: &AcquireError) -> &'static str {
    match error {
        AcquireError::Unavailable { .. } => "unavailable",
        AcquireError::Indeterminate { .. } => "indeterminate",
        AcquireError::LimitReached { .. } => "limit reached",
        AcquireError::Lost { .. } => "place in the queue lost",
        _ => "refused",
    }
}

/// The time, of which a load generator is made to take note.
#[expect(clippy::disallowed_methods, reason = "a load generator measures time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_share_a_rate_and_begin_one_after_the_other() {
        let due = |worker: u32, cycle: u32| Pace::of(worker, 4, 100).due(cycle).as_millis();
        assert_eq!([due(0, 0), due(1, 0), due(3, 0)], [0, 10, 30]);
        assert_eq!([due(0, 1), due(1, 1), due(0, 25)], [40, 50, 1_000]);
    }

    #[test]
    fn only_what_ends_after_the_warmup_and_before_the_end_counts() {
        let second = Duration::from_secs(1);
        let window = Window::starting(now(), second, 2 * second);
        let counted: Vec<bool> =
            [0, 999, 1_000, 2_999, 3_000].map(|ms| window.measures(ms * 1_000_000)).into();
        assert_eq!(counted, [false, false, true, true, false]);
        let cut = window.cut(window.start + second + second / 2);
        assert_eq!((cut.duration(), cut.measures(1_500_000_000)), (second / 2, false));
        assert_eq!(window.cut(window.start + second / 2).duration(), Duration::ZERO);
        assert_eq!(window.cut(window.end() + second).duration(), 2 * second);
    }
}
