//! A worker with many ranges: what one of them does costs the same whatever the number of the
//! others, and each of the others still wakes when its own time has come.

mod many_ranges;

use std::time::Duration;

use many_ranges::{Rig, TICK};
use sharklock_rangemap::RangeId;

fn holds(rig: &Rig, range: u64) -> usize {
    let machine = rig.worker.store().machine(RangeId(range)).expect("it is here");
    machine.table().counts().holds
}

/// What a second of one busy range costs beside so many that lie idle, each with a lock that is
/// held: ranges looked at.
fn visits_of_a_busy_second(ranges: u64) -> u64 {
    let mut rig = Rig::with_ranges(ranges);
    for range in 2..=ranges {
        rig.acquire(range, range, 600_000);
    }
    rig.now += TICK;
    rig.settle();
    let before = rig.worker.stats().visits;
    for id in 0..200 {
        rig.now += Duration::from_millis(5);
        let id = 10_000 + id;
        let token = rig.acquire(1, id, 10_000);
        rig.release(1, id, token);
    }
    rig.worker.stats().visits - before
}

#[test]
fn a_busy_range_costs_the_same_beside_one_idle_range_and_beside_a_thousand() {
    let (few, many) = (visits_of_a_busy_second(2), visits_of_a_busy_second(1_001));
    assert!(few > 0, "the busy range is looked at");
    assert_eq!(few, many);
}

#[test]
fn each_of_many_ranges_frees_what_expires_in_its_own_time() {
    const RANGES: u64 = 60;
    let mut rig = Rig::with_ranges(RANGES);
    let ttl_ms = |range: u64| 60_000 - range * 700;
    for range in 1..=RANGES {
        rig.acquire(range, range, ttl_ms(range));
    }
    let began = rig.now;
    while (1..=RANGES).any(|range| holds(&rig, range) > 0) {
        rig.now = rig.worker.next_wakeup().max(rig.now);
        rig.settle();
        for range in 1..=RANGES {
            let lease = Duration::from_millis(ttl_ms(range) + ttl_ms(range) / 100);
            let is_held = holds(&rig, range) > 0;
            assert_eq!(is_held, rig.now - began < lease, "range {range} at {:?}", rig.now);
        }
    }
}

#[test]
fn after_a_stall_every_range_counts_its_leases_from_its_end() {
    const RANGES: u64 = 5;
    let mut rig = Rig::with_ranges(RANGES);
    for range in 1..=RANGES {
        rig.acquire(range, range, 2_000);
    }
    // The loop stands still for a second, which is every lease's.
    rig.now += Duration::from_secs(1);
    rig.settle();
    let lease = Duration::from_millis(2_000 + 20 + 1_000);
    while (1..=RANGES).any(|range| holds(&rig, range) > 0) {
        rig.now = rig.worker.next_wakeup().max(rig.now);
        rig.settle();
        let held = (1..=RANGES).filter(|range| holds(&rig, *range) > 0).count();
        let expected = if rig.now < lease { RANGES } else { 0 };
        assert_eq!(held as u64, expected, "at {:?}", rig.now);
    }
}

#[test]
fn idle_ranges_forget_what_has_ended_and_then_are_silent() {
    const RANGES: u64 = 5;
    let mut rig = Rig::with_ranges(RANGES);
    for range in 1..=RANGES {
        let token = rig.acquire(range, range, 10_000);
        rig.release(range, range, token);
    }
    let remembers = |rig: &Rig| {
        let bytes = |range| {
            let machine = rig.worker.store().machine(RangeId(range)).expect("it is here");
            machine.table().ended_bytes()
        };
        (1..=RANGES).filter(|range| bytes(*range) > 0).count() as u64
    };
    assert_eq!(remembers(&rig), RANGES);
    for _ in 0..600 {
        rig.now += TICK;
        rig.settle();
    }
    assert_eq!(remembers(&rig), 0);
    let (entries, visits) = (rig.worker.stats().entries, rig.worker.stats().visits);
    for _ in 0..600 {
        rig.now += TICK;
        rig.settle();
    }
    let stats = rig.worker.stats();
    assert_eq!((stats.entries, stats.visits), (entries, visits), "nothing happens any more");
}
