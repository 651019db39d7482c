//! One run: faults while clients work, then calm, in which what must happen in time is measured,
//! then an end at which nothing may be left.

use std::io;
use std::panic::{self, AssertUnwindSafe};

use crate::check::Violation;
use crate::elsewhere;
use crate::options::Options;
use crate::trace::Trace;
use crate::world::{Counters, MS, S, World};

/// After so long in calm every broken connection has been noticed.
const SETTLE_NS: u64 = 25 * S;
/// How long calls must be answered in time after that.
const STEADY_NS: u64 = 40 * S;

/// What came out of a run.
#[derive(Clone, Debug)]
pub struct RunReport {
    /// The seed.
    pub seed: u64,
    /// What it was like.
    pub options: Options,
    /// Simulated time, nanoseconds.
    pub simulated_ns: u64,
    /// How often what happened.
    pub counters: Counters,
    /// What was broken.
    pub violations: Vec<Violation>,
    /// Hash of the trace.
    pub trace_hash: u64,
    /// Lines of the trace.
    pub trace_lines: u64,
}

/// Runs a seed. Every line of its trace goes to `sink` as well, if there is one.
pub fn run(seed: u64, options: Options, sink: Option<Box<dyn io::Write>>) -> RunReport {
    let drawn = options.clone();
    let mut world = World::new(seed, options, Trace::new(sink));
    happen(&mut world);
    compare_with_calm(&mut world, &drawn);
    let World { now, counters, violations, trace, .. } = world;
    RunReport {
        seed,
        options: drawn,
        simulated_ns: now,
        counters,
        violations,
        trace_hash: trace.hash(),
        trace_lines: trace.lines_count(),
    }
}

fn happen(world: &mut World) {
    // The product's cores panic on a broken invariant: here that is a finding like another.
    let ran = panic::catch_unwind(AssertUnwindSafe(|| phases(world)));
    if let Err(payload) = ran {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("a panic");
        world.violated("panic", &[], format_args!("{text}"));
    }
}

/// L4, where the run has ranges that its faults cannot touch.
fn compare_with_calm(world: &mut World, options: &Options) {
    let untouched = elsewhere::untouched(&world.ranges, options);
    if untouched.is_empty() || !world.violations.is_empty() {
        return;
    }
    let mut calm = World::new(world.seed, options.without_faults(), Trace::new(None));
    happen(&mut calm);
    if let Some(first) = calm.violations.into_iter().next() {
        let what = first.what;
        return world.violated(first.rule, &[], format_args!("without faults: {what}"));
    }
    let compared = elsewhere::compare(&untouched, &world.answers, &calm.answers);
    world.counters.add("ranges compared with a run without faults", compared.count);
    for slower in compared.slower {
        world.violated("L4", &[], format_args!("{slower}"));
    }
}

fn phases(world: &mut World) {
    let options = world.options.clone();
    let mut until = options.duration_s * S;
    world.run_until(until);
    world.calm_down();
    if options.balances_s > 0 {
        until += options.balances_s * S;
        world.run_until(until);
        world.cease_orders();
    }
    until += SETTLE_NS;
    world.run_until(until);
    world.settle();
    until += STEADY_NS;
    world.run_until(until);
    world.wind_down();
    // The longest lease, with its credit, and what it takes to end it.
    let delays = options.stream_delay_us + options.raft_delay_us + options.disk_mean_us;
    // What stays is ended by an operator, and a lock-delay may follow.
    let ends_ms = if options.stays_pct > 0 { 20_000 } else { 0 };
    until += (options.ttl_max_ms * 3 + 20_000 + ends_ms) * MS + 100 * delays * 1_000;
    world.run_until(until);
    if world.violations.is_empty() {
        world.close_clients();
    }
    // Calls without an answer are given up after 30 s, and swept every 5 s.
    until += 40 * S;
    world.run_until(until);
    world.end_checks();
}
