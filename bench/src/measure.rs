//! Figures from notes: percentiles, fairness, the judges' verdict.

use std::time::Duration;

use hdrhistogram::Histogram;
use sharklock_history::{End, History, Report as Verdict, What};

use crate::{
    report::{Errors, Fairness, Judged, Latencies},
    worker::Window,
};

/// Latencies are told apart up to here; longer ones count as this long.
const LATENCY_MAX: Duration = Duration::from_secs(3_600);
/// Violations that a report tells in words.
const VIOLATIONS_TOLD_MAX: usize = 10;

/// The latencies of whole cycles and of their two calls.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cycles {
    /// From the call of acquire to the answer of release.
    pub whole: Latencies,
    /// From the call of acquire to the guard.
    pub acquire: Latencies,
    /// From the call of release to its answer.
    pub release: Latencies,
}

/// Measures the cycles that were released while it counted.
pub fn cycles(history: &History, window: Window) -> Cycles {
    let [mut whole, mut acquire, mut release] = [histogram(), histogram(), histogram()];
    for record in &history.records {
        let What::Granted(hold) = record.what else { continue };
        if hold.end == End::Released && window.measures(hold.end_returned) {
            whole.saturating_record(hold.end_returned - record.invoked);
            acquire.saturating_record(record.returned - record.invoked);
            release.saturating_record(hold.end_returned - hold.end_invoked);
        }
    }
    Cycles { whole: summary(&whole), acquire: summary(&acquire), release: summary(&release) }
}

/// Measures plain samples.
pub fn latencies(samples: impl IntoIterator<Item = Duration>) -> Latencies {
    let mut histogram = histogram();
    for sample in samples {
        histogram.saturating_record(u64::try_from(sample.as_nanos()).unwrap_or(u64::MAX));
    }
    summary(&histogram)
}

/// How evenly the lock went round, from the grants of each worker.
pub fn fairness(grants: &[u64]) -> Fairness {
    let sum: f64 = grants.iter().map(|&n| n as f64).sum();
    let squares: f64 = grants.iter().map(|&n| n as f64 * n as f64).sum();
    // Jain's index: (Σx)² / (n·Σx²). If nobody got anything, nobody got more than another.
    let jain = if squares == 0.0 { 1.0 } else { sum * sum / (grants.len() as f64 * squares) };
    Fairness {
        grants_min: grants.iter().copied().min().unwrap_or(0),
        grants_max: grants.iter().copied().max().unwrap_or(0),
        jain,
    }
}

/// Adds up the workers' errors.
pub fn errors<'a>(all: impl IntoIterator<Item = &'a Errors>) -> Errors {
    let mut sum = Errors::default();
    for errors in all {
        sum.add_all(errors);
    }
    sum
}

/// The judges' verdict, with lock names.
pub fn judged(history: &History, verdict: &Verdict) -> Judged {
    let told = verdict.violations.iter().take(VIOLATIONS_TOLD_MAX);
    let mut grants_per_name = vec![0_u64; history.names.len()];
    for record in &history.records {
        if matches!(record.what, What::Granted(_)) {
            grants_per_name[record.lock.0 as usize] += 1;
        }
    }
    Judged {
        grants: verdict.counts.granted,
        names: history.names.len() as u64,
        grants_per_name_min: grants_per_name.into_iter().min().unwrap_or(0),
        unknown: verdict.counts.unknown,
        violations: verdict.violations_count,
        first: told
            .map(|v| format!("{:?}, lock {}: {}", v.kind, history.name(v.lock), v.message))
            .collect(),
    }
}

/// Three digits of every latency from a nanosecond up.
fn histogram() -> Histogram<u64> {
    let max = u64::try_from(LATENCY_MAX.as_nanos()).expect("an hour of nanoseconds fits");
    Histogram::new_with_bounds(1, max, 3).expect("the bounds and digits are valid")
}

fn summary(histogram: &Histogram<u64>) -> Latencies {
    let us = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
    if histogram.is_empty() {
        return Latencies::default();
    }
    Latencies {
        count: histogram.len(),
        p50_us: us(0.5),
        p99_us: us(0.99),
        p999_us: us(0.999),
        max_us: histogram.max() as f64 / 1e3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Disk;
    use sharklock_history::{Hold, Mode, Position, Record, Recorder, check};
    use std::time::Instant;

    const MS: u64 = 1_000_000;

    /// A cycle of 1 ms acquire, 1 ms hold and 2 ms release.
    fn cycle(recorder: &mut Recorder, name: &str, token: u64, at_ms: u64) {
        let lock = recorder.lock(name);
        let invoked = at_ms * MS;
        let hold = Hold {
            token,
            fence_floor: token,
            valid_until: invoked + 10_000 * MS,
            end_invoked: invoked + 2 * MS,
            end_returned: invoked + 4 * MS,
            mode: Mode::Exclusive,
            reentered: false,
            end: End::Released,
        };
        recorder.push(Record {
            lock,
            session: 0,
            acquisition: token,
            invoked,
            returned: invoked + MS,
            position: Position::UNKNOWN,
            what: What::Granted(hold),
        });
    }

    #[expect(clippy::disallowed_methods, reason = "a window needs a start")]
    fn window() -> Window {
        Window::starting(Instant::now(), Duration::from_millis(100), Duration::from_millis(100))
    }

    fn near(value: f64, expected: f64) -> bool {
        (value - expected).abs() <= expected / 500.0
    }

    #[test]
    fn cycles_of_the_warmup_are_judged_but_not_measured() {
        let mut recorder = Recorder::default();
        for n in 0..30 {
            cycle(&mut recorder, "a", n + 1, n * 10);
        }
        let history = History::merge([recorder]);
        let cycles = cycles(&history, window());
        assert_eq!(cycles.whole.count, 10);
        let Latencies { p50_us, p99_us, p999_us, max_us, .. } = cycles.whole;
        assert!([p50_us, p99_us, p999_us, max_us].iter().all(|&us| near(us, 4_000.0)));
        assert!(near(cycles.acquire.p50_us, 1_000.0) && near(cycles.release.p50_us, 2_000.0));
        let judged = judged(&history, &check(&history.records));
        assert_eq!((judged.grants, judged.violations), (30, 0));
        assert_eq!((judged.names, judged.grants_per_name_min), (1, 30));
    }

    #[test]
    fn a_violation_is_told_with_the_locks_name() {
        let mut recorder = Recorder::default();
        cycle(&mut recorder, "a", 2, 0);
        cycle(&mut recorder, "a", 1, 50);
        let history = History::merge([recorder]);
        let judged = judged(&history, &check(&history.records));
        assert!(judged.violations > 0);
        assert!(judged.first[0].starts_with("TokenBackwards, lock a: "), "{:?}", judged.first);
    }

    #[test]
    fn percentiles_keep_three_digits() {
        let latencies = latencies((1..=1_000).map(Duration::from_micros));
        assert_eq!(latencies.count, 1_000);
        assert!(near(latencies.p50_us, 500.0), "{latencies:?}");
        assert!(near(latencies.p99_us, 990.0), "{latencies:?}");
        assert!(near(latencies.p999_us, 999.0), "{latencies:?}");
        assert!(near(latencies.max_us, 1_000.0), "{latencies:?}");
        assert_eq!(super::latencies([]), Latencies::default());
        let hours = super::latencies([Duration::from_secs(7_200)]);
        assert!(near(hours.max_us, 3_600e6), "{hours:?}");
    }

    #[test]
    fn f_is_the_smaller_median_of_those_that_were_measured() {
        let median = |us| latencies([Duration::from_micros(us)]);
        let f = |idle, loaded| Disk::new(".".into(), idle, loaded).f_us;
        assert!(near(f(median(4_000), median(400)), 400.0));
        assert!(near(f(median(130), median(400)), 130.0));
        assert!(near(f(median(130), Latencies::default()), 130.0));
    }

    #[test]
    fn fairness_is_one_for_equals_and_one_nth_for_a_monopoly() {
        assert_eq!(fairness(&[7, 7, 7]), Fairness { grants_min: 7, grants_max: 7, jain: 1.0 });
        assert_eq!(fairness(&[8, 0, 0, 0]).jain, 0.25);
        assert_eq!(fairness(&[0, 0]).jain, 1.0);
    }

    #[test]
    fn errors_add_up_by_kind() {
        let (mut a, mut b) = (Errors::default(), Errors::default());
        a.add("unavailable", 2);
        b.add("unavailable", 1);
        b.add("refused", 1);
        let sum = errors([&a, &b]);
        assert_eq!(sum.count, 4);
        assert_eq!(sum.kinds["unavailable"], 3);
    }
}
