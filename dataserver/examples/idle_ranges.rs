//! What a busy range costs beside idle ones: a worker with so many ranges, one of which takes and
//! frees a lock again and again. Each idle range has a lock that is held.
//!
//! `cargo run -p sharklock-dataserver --example idle_ranges -- 1 1000` shows processor time and how
//! many ranges the turns looked at. Instructions are counted by valgrind, which is told what to
//! count by the function's name:
//! `valgrind --tool=callgrind --toggle-collect='*busy_turns*' target/debug/examples/idle_ranges 1000`

#[path = "../tests/many_ranges/mod.rs"]
mod many_ranges;

use std::{fs, time::Duration};

use many_ranges::{Rig, TICK};

/// The ttl of every lock here, longer than a run.
const TTL_MS: u64 = 600_000;
/// Locks taken and freed; all between two ticks.
const ROUNDS: u64 = 1_000;
const TICKS: u64 = 30;
const STEP: Duration = Duration::from_micros(10);

fn main() {
    let asked: Vec<u64> = std::env::args().skip(1).filter_map(|it| it.parse().ok()).collect();
    let counts = if asked.is_empty() { vec![1, 10, 100, 1_000] } else { asked };
    println!("idle ranges | CPU of a turn | ranges looked at | CPU of a tick");
    counts.into_iter().for_each(measure);
}

fn measure(idle: u64) {
    let mut rig = Rig::with_ranges(idle + 1);
    (2..=idle + 1).for_each(|range| _ = rig.acquire(range, 1, TTL_MS));
    rig.now += TICK;
    rig.settle();
    let (begin, before) = (cpu_ns(), rig.worker.stats().visits);
    let turns = busy_turns(&mut rig);
    let (took, visits) = (cpu_ns() - begin, rig.worker.stats().visits - before);
    let begin = cpu_ns();
    idle_ticks(&mut rig);
    let ticked = cpu_ns() - begin;
    println!(
        "{idle:11} | {:10.1} µs | {:16.2} | {:10.1} µs",
        took as f64 / 1_000.0 / turns as f64,
        visits as f64 / turns as f64,
        ticked as f64 / 1_000.0 / TICKS as f64,
    );
}

#[inline(never)]
fn busy_turns(rig: &mut Rig) -> u64 {
    let before = rig.turns;
    for round in 0..ROUNDS {
        rig.now += STEP;
        let token = rig.acquire(1, 10 + round, TTL_MS);
        rig.release(1, 10 + round, token);
    }
    rig.turns - before
}

#[inline(never)]
fn idle_ticks(rig: &mut Rig) {
    for _ in 0..TICKS {
        rig.now += TICK;
        rig.settle();
    }
}

/// Nanoseconds that this thread has run: others on the rig do not count.
fn cpu_ns() -> u64 {
    let line = fs::read_to_string("/proc/self/schedstat").expect("Linux says how long it ran");
    let ns = line.split(' ').next().expect("three numbers");
    ns.parse().expect("a number")
}
