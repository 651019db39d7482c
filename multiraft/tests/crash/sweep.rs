//! The loops over all crash points.

use std::collections::BTreeMap;

use crate::script;
use crate::world::{Keep, LOG_MAX, Pace, Plan, World};

const PACES: [Pace; 2] = [Pace::Fast, Pace::Late];

/// A sole voter's log is cut by its length alone.
const LOG_MAX_ALONE: u64 = 12;
/// Too short for a store that was away.
const LOG_MAX_SHORT: u64 = 6;

/// How a script is run.
#[derive(Clone, Copy, Debug)]
struct Way {
    stores: u64,
    pace: Pace,
    /// Out of reach from the crash on.
    shunned: Option<u64>,
    log_max: u64,
}

fn alone(pace: Pace) -> Way {
    Way { stores: 1, pace, shunned: None, log_max: LOG_MAX_ALONE }
}

/// All three reachable behind the crash, and each but one of them: a promise counts most where
/// no other than the one who gave it can keep it.
fn together(pace: Pace) -> impl Iterator<Item = Way> {
    let shunned = [None, Some(1), Some(2), Some(3)];
    shunned.into_iter().map(move |shunned| Way { stores: 3, pace, shunned, log_max: LOG_MAX })
}

struct ShownInPanic(String);

impl Drop for ShownInPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.0);
        }
    }
}

/// Crash points visited, by the piece that they lie behind.
#[derive(Default)]
struct Visited {
    by_kind: BTreeMap<&'static str, usize>,
    runs: usize,
    /// Runs in which a crash kept or lost unsynced writes.
    with_unsynced: usize,
    answered: usize,
    installed: u64,
}

impl Visited {
    /// Runs the script under a plan. Returns how many unsynced writes there were where it struck,
    /// or `None` if it ended without.
    fn run(&mut self, way: Way, plan: Plan, down: usize) -> Option<usize> {
        let Way { stores, pace, shunned, log_max } = way;
        let _shown = ShownInPanic(format!("{way:?}, {plan:?}, down for {down}"));
        let mut world = World::new(stores, plan, pace, log_max);
        world.shunned = shunned;
        script::run(&mut world, down);
        self.installed += world.installed;
        self.answered += world.oracle.answered();
        let (kind, unsynced) = world.struck?;
        *self.by_kind.entry(kind).or_insert(0) += 1;
        self.runs += 1;
        self.with_unsynced += usize::from(unsynced > 0);
        Some(unsynced)
    }

    /// For every N, and every number of unsynced writes that the crash may keep there, until
    /// nothing is struck any more. Returns the last N that was.
    fn sweep(&mut self, way: Way, plan: impl Fn(u64, Keep) -> Plan) -> u64 {
        for at in 1.. {
            // Some come back at once, some after the others went on without them.
            let down = (at % 3) as usize;
            let Some(unsynced) = self.run(way, plan(at, Keep::First(0)), down) else {
                return at - 1;
            };
            for kept in 1..=unsynced {
                self.run(way, plan(at, Keep::First(kept)), down);
            }
            if unsynced > 0 && matches!(plan(at, Keep::First(0)), Plan::CrashAll { .. }) {
                self.run(way, plan(at, Keep::Mixed(at)), down);
            }
        }
        unreachable!("the loop ends with the script")
    }

    #[track_caller]
    fn expect(&self, what: &str, runs_min: usize, kinds: &[&'static str]) {
        let Self { by_kind, runs, with_unsynced, answered, .. } = self;
        println!(
            "SUMMARY {what}: {runs} crashes, {with_unsynced} with unsynced writes: {by_kind:?}"
        );
        assert!(*runs >= runs_min, "{runs} crashes of at least {runs_min}");
        assert!(*with_unsynced * 20 > *runs, "{with_unsynced} of {runs} with unsynced writes");
        assert!(*answered > 10 * runs, "{answered} entries were answered");
        for kind in kinds {
            assert!(by_kind.get(kind).is_some_and(|count| *count >= 2), "no crash at: {kind}");
        }
    }
}

/// The places that every script comes by.
const ALONE: &[&str] = &[
    "entries cut",
    "entries written",
    "entries synced",
    "entries heard of",
    "image cut",
    "image written",
    "image synced",
    "image heard of",
    "truncation cut",
    "truncation written",
    "truncation synced",
    "truncation durable",
    "entry reported",
];

const TOGETHER: &[&str] = &[
    "message sent",
    "heartbeats sent",
    "vote cut",
    "vote written",
    "vote synced",
    "vote heard of",
    "vote released",
    "acknowledgement released",
    "new tail cut",
    "new tail written",
    "new tail synced",
    "new tail heard of",
];

#[test]
fn a_sole_voter_keeps_its_word_wherever_it_crashes() {
    let mut visited = Visited::default();
    for pace in PACES {
        visited.sweep(alone(pace), |at, keep| Plan::CrashOne { store: 1, at, keep });
    }
    visited.expect("a sole voter", 200, ALONE);
}

#[test]
fn a_sole_voter_keeps_its_word_whichever_disk_operation_fails() {
    let mut visited = Visited::default();
    for pace in PACES {
        visited.sweep(alone(pace), |at, keep| Plan::Fail { store: 1, at, keep });
    }
    visited.expect("faults of a sole voter", 100, &["write", "sync", "recovery"]);
}

fn crash_one_of_three(pace: Pace) {
    let mut visited = Visited::default();
    for way in together(pace) {
        // The store that crashes is not the one out of reach, because then the two others are the
        // cluster.
        for store in (1..=3).filter(|store| Some(*store) != way.shunned) {
            visited.sweep(way, |at, keep| Plan::CrashOne { store, at, keep });
        }
    }
    visited.expect("one of three", 2_400, &[ALONE, TOGETHER].concat());
}

#[test]
fn three_keep_their_word_wherever_one_crashes_on_a_fast_disk() {
    crash_one_of_three(Pace::Fast);
}

#[test]
fn three_keep_their_word_wherever_one_crashes_on_a_slow_disk() {
    crash_one_of_three(Pace::Late);
}

#[test]
fn three_keep_their_word_whichever_disk_operation_fails() {
    let mut visited = Visited::default();
    for (store, pace) in (1..=3).flat_map(|store| PACES.map(|pace| (store, pace))) {
        let way = Way { stores: 3, pace, shunned: Some(store % 3 + 1), log_max: LOG_MAX };
        visited.sweep(way, |at, keep| Plan::Fail { store, at, keep });
    }
    visited.expect("faults of one of three", 400, &["write", "sync", "recovery"]);
}

#[test]
fn three_keep_their_word_wherever_one_crashes_while_disks_stall() {
    let mut visited = Visited::default();
    let way = Way { stores: 3, pace: Pace::Stalling, shunned: None, log_max: LOG_MAX };
    for store in 1..=3 {
        visited.sweep(way, |at, keep| Plan::CrashOne { store, at, keep });
    }
    visited.sweep(way, |at, keep| Plan::CrashAll { at, keep });
    visited.expect("while disks stall", 1_000, &[ALONE, TOGETHER].concat());
}

/// The sweeps have one crash each; here they follow each other, and meet stores that have not
/// recovered from the last one.
#[test]
fn crash_upon_crash_takes_back_nothing() {
    let (mut crashes, mut answered) = (0, 0);
    for seed in 0..400 {
        for (stores, pace) in [(1, Pace::Late), (3, PACES[0]), (3, PACES[1])] {
            let plan = Plan::Storm { seed };
            let _shown = ShownInPanic(format!("{stores} stores, {plan:?}, {pace:?}"));
            let log_max = if stores == 1 { LOG_MAX_ALONE } else { LOG_MAX };
            let mut world = World::new(stores, plan, pace, log_max);
            script::run(&mut world, (seed % 3) as usize);
            crashes += world.crashes;
            answered += world.oracle.answered();
        }
    }
    println!("SUMMARY storm: {crashes} crashes, {answered} entries answered");
    assert!(crashes > 4_000 && answered > 10_000, "{crashes} crashes, {answered} answered");
}

fn cut_the_power(pace: Pace) {
    let mut visited = Visited::default();
    for way in together(pace) {
        visited.sweep(way, |at, keep| Plan::CrashAll { at, keep });
    }
    visited.expect("all of three", 3_500, &[ALONE, TOGETHER].concat());
}

#[test]
fn three_keep_their_word_wherever_the_power_is_cut_on_fast_disks() {
    cut_the_power(Pace::Fast);
}

#[test]
fn three_keep_their_word_wherever_the_power_is_cut_on_slow_disks() {
    cut_the_power(Pace::Late);
}

const AWAY: &[&str] = &[
    "piece of a snapshot sent",
    "snapshot cut",
    "snapshot written",
    "snapshot synced",
    "snapshot durable",
];

/// Any store crashes anywhere: before, within and behind the install of a snapshot.
#[test]
fn three_keep_their_word_wherever_one_crashes_while_snapshots_travel() {
    let mut visited = Visited::default();
    for (store, pace) in (1..=3).flat_map(|store| PACES.map(|pace| (store, pace))) {
        let way = Way { stores: 3, pace, shunned: None, log_max: LOG_MAX_SHORT };
        visited.sweep(way, |at, keep| Plan::CrashOne { store, at, keep });
        visited.sweep(way, |at, keep| Plan::Fail { store, at, keep });
    }
    for pace in PACES {
        let way = Way { stores: 3, pace, shunned: None, log_max: LOG_MAX_SHORT };
        visited.sweep(way, |at, keep| Plan::CrashAll { at, keep });
    }
    visited.expect("while snapshots travel", 1_000, AWAY);
    println!("{} snapshots installed", visited.installed);
    assert!(visited.installed > visited.runs as u64, "{}", visited.installed);
}

/// The reason why the sweeps find nothing, seen at its source.
#[test]
fn a_promise_leaves_only_when_the_disk_could_keep_it() {
    for (stores, pace) in [(1, Pace::Fast), (1, Pace::Late), (3, PACES[0]), (3, PACES[1])] {
        let log_max = if stores == 1 { LOG_MAX_ALONE } else { LOG_MAX };
        let mut world = World::new(stores, Plan::Nothing, pace, log_max);
        world.compare_promises = true;
        script::run(&mut world, 0);
        println!("{stores} stores, {pace:?}: {} promises", world.promises);
        assert!(world.promises > 25, "{}", world.promises);
    }
}
