//! The judges are judged: what a correct service does is never flagged, and every kind of fault is
//! found wherever it is planted.

mod plant;
mod service;

use super::*;
use crate::record::{Hold, LockId, Mode, Position, Record, What};
use service::{Rng, Service};

/// Steps of the simulated service per history.
const STEPS: u64 = 250;

#[test]
fn what_a_correct_service_does_is_never_flagged() {
    let mut all = Counts::default();
    for seed in 0..2_000 {
        let records = Service::history(seed, STEPS);
        let report = check(&records);
        assert!(report.is_clean(), "seed {seed}: {report}");
        all.granted += report.counts.granted;
        all.reentered += report.counts.reentered;
        all.queued += report.counts.queued;
        all.refused += report.counts.refused;
        all.timed_out += report.counts.timed_out;
        all.unknown += report.counts.unknown;
        all.looked += report.counts.looked;
    }
    let Counts { granted, reentered, queued, refused, timed_out, unknown, looked, .. } = all;
    let least = [granted, reentered, queued, refused, timed_out, unknown, looked];
    assert!(least.iter().all(|count| *count > 1_000), "the histories are too tame: {all:?}");
}

#[test]
fn every_planted_fault_is_found() {
    const PLANTINGS: u32 = 500;
    for (kind, plant) in plant::ALL {
        let mut found = 0;
        let mut planted = 0;
        let mut seed = 0;
        while planted < PLANTINGS {
            seed += 1;
            assert!(seed < 20_000, "{kind:?} can hardly be planted: {planted} times");
            let mut records = Service::history(seed, STEPS);
            let mut rng = Rng::new(seed ^ 0xfau64);
            if plant(&mut records, &mut rng).is_none() {
                continue;
            }
            planted += 1;
            let report = check(&records);
            assert!(report.found(kind), "seed {seed}: a planted {kind:?} is missed: {report}");
            found += 1;
        }
        println!("{kind:?}: {found} of {planted} found");
    }
}

#[test]
fn the_order_of_the_records_does_not_matter() {
    for seed in 0..50 {
        let mut records = Service::history(seed, STEPS);
        let mut rng = Rng::new(seed);
        plant::overlap(&mut records, &mut rng);
        let before = check(&records);
        for at in (1..records.len()).rev() {
            records.swap(at, rng.below(at as u64 + 1) as usize);
        }
        let after = check(&records);
        let told = |report: &Report| {
            let mut told: Vec<String> =
                report.violations.iter().map(Violation::to_string).collect();
            told.sort();
            told
        };
        assert_eq!(told(&before), told(&after));
    }
}

fn granted(session: u32, times: (u64, u64), token: u64, valid_until: u64) -> Record {
    let hold = Hold {
        token,
        fence_floor: token,
        valid_until,
        end_invoked: 0,
        end_returned: 0,
        mode: Mode::Exclusive,
        reentered: false,
        end: crate::End::Open,
    };
    Record {
        lock: LockId(0),
        session,
        acquisition: 1,
        invoked: times.0,
        returned: times.1,
        position: Position::UNKNOWN,
        what: What::Granted(hold),
    }
}

#[test]
fn a_report_reads_as_sentences() {
    let report = check(&[granted(1, (10, 20), 5, 100), granted(2, (30, 40), 6, 120)]);
    assert_eq!(
        report.to_string(),
        "2 violations; 2 records: 2 grants (0 re-entries), 0 releases, 0 queued, 0 refused, \
         0 timed out, 0 unknown, 0 looks\n  \
         Overlap, lock #0: token 5 (Exclusive) was held until 100, and 6 (Exclusive) granted by \
         40\n  \
         EarlyExpiry, lock #0: token 5 was promised until 100, and 6 granted by 40\n"
    );
}

#[test]
fn an_expired_hold_may_be_passed_on_at_the_promised_moment_but_not_before() {
    let pair = |answered| [granted(1, (10, 20), 5, 100), granted(2, (30, answered), 6, 200)];
    assert!(check(&pair(100)).is_clean());
    assert!(check(&pair(99)).found(Kind::EarlyExpiry));
}

#[test]
fn records_that_cannot_be_are_told_apart_from_faults_of_the_service() {
    let report = check(&[granted(1, (30, 20), 5, 100), granted(2, (30, 40), 6, 120)]);
    assert_eq!(report.violations_count, 1);
    assert!(report.found(Kind::Malformed));
}

#[test]
fn a_report_is_bounded() {
    let count = VIOLATIONS_TOLD_MAX as u64 + 500;
    let records: Vec<_> = (0..count).map(|i| granted(i as u32 + 1, (30, 20), i, 0)).collect();
    let report = check(&records);
    assert_eq!((report.violations.len(), report.violations_count), (VIOLATIONS_TOLD_MAX, count));
}

/// Tells how long it takes; asserts only that it is right.
#[test]
fn a_million_grants() {
    let mut records = Vec::with_capacity(1_000_000);
    let mut clock: u64 = 1;
    for token in 1..=1_000_000_u64 {
        let mut record = granted((token % 256) as u32, (clock, clock + 40), token, clock + 9_000);
        record.acquisition = token;
        record.lock = LockId((token % 1_009) as u32);
        record.position = Position { range: 1, version: 1, applied_index: token };
        if let What::Granted(hold) = &mut record.what {
            hold.end = crate::End::Released;
            (hold.end_invoked, hold.end_returned) = (clock + 60, clock + 90);
        }
        records.push(record);
        clock += 10;
    }
    let begin = cpu_seconds();
    let report = check(&records);
    println!("1,000,000 grants judged in {:.2} s of CPU time", cpu_seconds() - begin);
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.counts.released, 1_000_000);
}

/// This thread's CPU time: fair to a test that shares its cores with others.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos: f64 = stat.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(f64::NAN);
    nanos / 1e9
}
