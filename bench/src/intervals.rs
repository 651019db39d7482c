//! The measured time in equal parts: what a sum over the whole run hides, as a pause of a second.

use std::time::Duration;

use sharklock_history::{End, History, What};

use crate::{
    measure,
    report::{Interval, Slowest},
    worker::Window,
};

/// The figures of each part of the measured time, `every` long; the last one may be shorter. A cycle
/// belongs to the part in which it ended. `failures` are the nanoseconds at which calls failed.
pub fn intervals(
    history: &History,
    failures: impl IntoIterator<Item = u64>,
    window: Window,
    every: Duration,
) -> Vec<Interval> {
    let parts = window.parts(every);
    let mut cycles: Vec<Vec<Duration>> = vec![Vec::new(); parts];
    for record in &history.records {
        let What::Granted(hold) = record.what else { continue };
        if hold.end == End::Released
            && let Some(part) = window.part_of(hold.end_returned, every)
        {
            cycles[part].push(Duration::from_nanos(hold.end_returned - record.invoked));
        }
    }
    let mut errors = vec![0; parts];
    for part in failures.into_iter().filter_map(|at| window.part_of(at, every)) {
        errors[part] += 1;
    }
    let one = |(part, (cycles, errors)): (usize, (Vec<Duration>, u64))| {
        let part = u32::try_from(part).expect("there are fewer parts than nanoseconds in a u32");
        let (from, to) = (every * part, (every * (part + 1)).min(window.duration()));
        let (from_s, to_s) = (from.as_secs_f64(), to.as_secs_f64());
        let cycles_per_s = cycles.len() as f64 / (to - from).as_secs_f64();
        Interval { from_s, to_s, cycles_per_s, errors, cycle: measure::latencies(cycles) }
    };
    cycles.into_iter().zip(errors).enumerate().map(one).collect()
}

/// The call that took longest of all that ended well in the measured time.
pub fn slowest(history: &History, window: Window) -> Option<Slowest> {
    let mut slowest: Option<(u64, &'static str, _, u64)> = None;
    for record in &history.records {
        let What::Granted(hold) = record.what else { continue };
        if hold.end != End::Released || !window.measures(hold.end_returned) {
            continue;
        }
        let calls = [
            ("acquire", record.invoked, record.returned),
            ("release", hold.end_invoked, hold.end_returned),
        ];
        for (call, began, ended) in calls {
            if slowest.is_none_or(|(longest, ..)| ended - began > longest) {
                slowest = Some((ended - began, call, record.lock, began));
            }
        }
    }
    slowest.map(|(nanos, call, lock, began)| Slowest {
        call: call.to_owned(),
        lock: history.name(lock),
        us: nanos as f64 / 1e3,
        began_s: began as f64 / 1e9 - window.warmup().as_secs_f64(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sharklock_history::{Hold, Mode, Position, Record, Recorder};
    use std::time::Instant;

    const MS: u64 = 1_000_000;

    /// Warm-up of 100 ms, and 250 ms that count.
    #[expect(clippy::disallowed_methods, reason = "a window needs a start")]
    fn window() -> Window {
        Window::starting(Instant::now(), Duration::from_millis(100), Duration::from_millis(250))
    }

    /// Cycles by when they end and how long their two calls take, ms.
    fn history(cycles: &[(u64, u64, u64)]) -> History {
        let mut recorder = Recorder::default();
        for (token, &(ends, acquire, release)) in (1..).zip(cycles) {
            let lock = recorder.lock(&format!("lock-{token}"));
            let invoked = (ends - acquire - release) * MS;
            let hold = Hold {
                token,
                fence_floor: token,
                valid_until: invoked + 10_000 * MS,
                end_invoked: invoked + acquire * MS,
                end_returned: ends * MS,
                mode: Mode::Exclusive,
                reentered: false,
                end: End::Released,
            };
            recorder.push(Record {
                lock,
                session: 0,
                acquisition: token,
                invoked,
                returned: invoked + acquire * MS,
                position: Position::UNKNOWN,
                what: What::Granted(hold),
            });
        }
        History::merge([recorder])
    }

    #[test]
    fn a_cycle_counts_where_it_ends_and_the_last_part_may_be_shorter() {
        let history = history(&[(99, 1, 1), (100, 1, 1), (199, 1, 1), (200, 50, 50), (349, 2, 2)]);
        let failures = [50, 120, 120, 349, 350].map(|ms| ms * MS);
        let parts = intervals(&history, failures, window(), Duration::from_millis(100));
        let shape: Vec<_> = parts.iter().map(|it| (it.cycle.count, it.errors)).collect();
        assert_eq!(shape, [(2, 2), (1, 0), (1, 1)]);
        let near = |value: f64, expected: f64| (value - expected).abs() < expected / 100.0 + 1e-9;
        assert!(near(parts[1].cycle.max_us, 100_000.0), "{parts:?}");
        assert!(near(parts[2].from_s, 0.2) && near(parts[2].to_s, 0.25), "{parts:?}");
        assert!(near(parts[0].cycles_per_s, 20.0) && near(parts[2].cycles_per_s, 20.0));
        let whole = intervals(&history, [], window(), Duration::from_secs(1));
        assert_eq!((whole.len(), whole[0].cycle.count), (1, 4));
        assert!(near(whole[0].to_s, 0.25));
    }

    #[test]
    fn the_slowest_call_is_named_with_its_lock_and_its_time() {
        let history = history(&[(90, 40, 40), (150, 20, 1), (180, 1, 30), (300, 5, 5)]);
        let slowest = slowest(&history, window()).expect("there are calls");
        let call = (slowest.call.as_str(), slowest.lock.as_str(), slowest.us);
        assert_eq!(call, ("release", "lock-3", 30_000.0), "that of the warm-up does not count");
        assert!((slowest.began_s - 0.05).abs() < 1e-9, "{slowest:?}");
        assert_eq!(super::slowest(&History::default(), window()), None);
    }
}
