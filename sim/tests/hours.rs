//! Twenty simulated hours over fixed seeds, and what they must have seen: a swarm that has become
//! tame finds nothing.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use sharklock_sim::{Counters, Options, RunReport, run};

/// Simulated hours; `SHARKLOCK_SIM_HOURS` asks for others.
const HOURS: f64 = 20.0;

/// What must have happened at least so often in twenty hours or more.
const FLOORS: [(&str, u64); 123] = [
    ("grants", 50_000),
    ("grants after a wait", 20_000),
    ("leader changes", 500),
    ("store starts", 1_000),
    ("guards lost", 500),
    ("given up", 200),
    ("refused tries", 1_000),
    ("waits timed out", 1_000),
    ("re-entries asked", 1_000),
    ("re-entries too late", 5),
    ("force-releases", 500),
    ("looks", 10_000),
    ("uses", 10_000),
    ("uses refused", 20),
    ("stalls credited", 100),
    ("records judged", 100_000),
    ("fault: store crash", 100),
    ("fault: power cut", 50),
    ("fault: store pause", 100),
    ("fault: store freeze", 50),
    ("fault: slow disk", 50),
    ("fault: failed write", 10),
    ("fault: partition", 100),
    ("fault: clog", 100),
    ("fault: stalled streams", 100),
    ("fault: cut stream", 500),
    ("fault: gateway crash", 50),
    ("fault: client crash", 100),
    ("fault: hand-over", 50),
    ("snapshots installed", 200),
    ("snapshots installed under load", 50),
    // What is rare in itself, and must not become so rare that nothing is proved by it.
    ("ambushes", 1_000),
    ("answers after a newer attempt", 5_000),
    ("cancels that overtook their acquire", 5_000),
    ("clients leave a silent gateway", 1_000),
    ("clients move to their spare gateway", 1_000),
    ("closes confirmed", 50_000),
    ("closes unconfirmed", 1_000),
    ("closes repeated by another gateway", 1_000),
    ("duplicates that heard how it had ended", 5_000),
    ("endings pushed", 500),
    ("ends told again", 10_000),
    ("grants pushed", 10_000),
    ("hand-overs with waiters", 50),
    ("indeterminate told", 1_000),
    ("keepalives by a spare connection", 2_000),
    ("leader changes with waiters", 200),
    ("leases lost while a renewal was on its way", 50),
    ("fault: isolated client", 200),
    ("fault: switched gateway", 1_000),
    ("fault: replayed call", 1_000),
    ("fault: gateway pause", 50),
    ("old calls that a gateway reads late", 1_000),
    // Several ranges, and masters.
    ("ranges compared with a run without faults", 5),
    ("master starts", 500),
    ("master changes", 300),
    ("watches of routes", 1_000),
    ("routes learnt", 10_000),
    ("heartbeats heard by masters", 50_000),
    ("ranges that masters asked for", 100),
    ("fault: master crash", 200),
    ("fault: master pause", 100),
    ("fault: isolated master", 300),
    ("fault: lost routes", 1_000),
    ("fault: late routes", 1_000),
    ("fault: stale routes", 1_000),
    ("letters of stores that are not known yet", 500),
    // Splits.
    ("splits applied", 400),
    ("splits asked by an epoch that is over", 50),
    ("splits asked of a store that does not lead", 150),
    ("splits asked that cannot be", 200),
    ("commands that met a split", 300),
    ("fault: while a range is split", 60),
    ("children led elsewhere than their parents", 10),
    ("keepalives answered by a range that was split off", 50),
    ("snapshots that cross a split", 8),
    // Splits that are asked for.
    ("splits applied for which leaders wanted ids", 120),
    ("split calls answered again", 12),
    ("split calls answered with a plan", 12),
    ("split calls refused: the range has changed", 20),
    ("split calls whose outcome is not known", 40),
    ("ids of masters for splits", 40),
    ("ids that come when the epoch is over", 5),
    ("splits that get no ids", 5),
    ("splits for too many locks", 12),
    ("splits for too many bytes", 40),
    ("splits for too many waiters", 4),
    ("splits for too many commands", 5),
    // Several workers.
    ("store starts with ranges on several workers", 400),
    ("batches of several workers written as one", 2_000),
    ("workers interrupted behind a turn", 500_000),
    ("letters for a full mailbox", 100),
    // Lists.
    ("lists", 5_000),
    ("lists during which ranges split", 50),
    ("names that lists must have", 2_000),
    ("pages over several ranges", 2_000),
    // Replicas and leaderships move.
    ("orders to masters", 2_000),
    ("leaders moved to balance", 50),
    ("leaders moved to balance in the calm", 5),
    ("operators begun by order", 400),
    ("steps that masters asked for", 20_000),
    ("replicas that masters know to be removed", 100),
    // Machines are lost for good.
    ("fault: store lost for good", 5),
    ("stores that came back when they were gone", 2),
    ("stores that gateways were told to be gone", 8),
    // What clients agree, take back and watch.
    ("conditions asked", 20_000),
    ("conditions agreed anew", 1_000),
    ("downgrades done", 300),
    ("holds that stay", 3_000),
    ("reclaims asked", 200),
    ("holds taken back", 40),
    ("orphans asked back by their own life", 20),
    ("deaths with a lock-delay", 40),
    ("leader changes within a lock-delay", 20),
    ("clients that have closed themselves", 30),
    ("guards that a close did not wait for", 3),
    ("holds that were asked for", 200),
    ("holds that lasted too long", 500),
    ("holds revoked", 100),
    ("waits revoked", 50),
    ("states that watchers were told", 20_000),
    ("watches with news", 10_000),
    ("orphans that an operator ends", 20),
];

fn hours_wanted() -> f64 {
    let asked = std::env::var("SHARKLOCK_SIM_HOURS").ok();
    asked.map_or(HOURS, |hours| hours.parse().expect("SHARKLOCK_SIM_HOURS is a number"))
}

/// Runs seeds from 1 on, on all cores, until there are enough hours.
fn swarm(hours: f64) -> Vec<RunReport> {
    let (next, simulated_ns) = (AtomicU64::new(1), AtomicU64::new(0));
    let reports = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while (simulated_ns.load(Ordering::Relaxed) as f64) < hours * 3.6e12 {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let report = run(seed, Options::draw(seed), None);
                    simulated_ns.fetch_add(report.simulated_ns, Ordering::Relaxed);
                    reports.lock().expect("no thread panics").push(report);
                }
            });
        }
    });
    let mut reports = reports.into_inner().expect("no thread panics");
    reports.sort_by_key(|report| report.seed);
    reports
}

#[test]
fn twenty_simulated_hours_break_nothing_and_see_everything() {
    let wanted = hours_wanted();
    let reports = swarm(wanted);
    let mut counters = Counters::default();
    let mut broken = Vec::new();
    for report in &reports {
        counters.merge(&report.counters);
        for violation in &report.violations {
            let seed = report.seed;
            broken.push(format!("seed {seed}: {}: {}", violation.rule, violation.what));
        }
    }
    let hours = reports.iter().map(|report| report.simulated_ns as f64 / 3.6e12).sum::<f64>();
    println!("{} runs, {hours:.1} h simulated", reports.len());
    counters.iter().for_each(|(name, count)| println!("{count:>10} {name}"));
    assert!(broken.is_empty(), "cargo run -p sharklock-sim -- run --seed N --trace: {broken:#?}");
    assert!(hours >= wanted);
    let is_rare = |(name, least): &&(&str, u64)| wanted >= HOURS && counters.get(name) < *least;
    let rare: Vec<_> = FLOORS.iter().filter(is_rare).collect();
    assert!(rare.is_empty(), "too rare: {rare:?}");
}

/// Seeds that were broken once, too far from 1 for the hours above to reach them.
#[test]
fn seeds_that_were_broken_stay_whole() {
    // A duplicate of an ending hold whose end came in the same turn was told that it holds; a client
    // that stood still for 72 s asked again for what had ended and been forgotten.
    // The third: a client that was woken for the calm dialled only when its pause would have ended. The
    // fourth: a client made calls for a connection that it had just lost. The fifth: a re-entry that was
    // answered after 48 s had joined its hold before, which had ended and been forgotten. The sixth: an old
    // answer in the socket of a client that had stood still was taken for a renewal.
    // The seventh: a deposed master refused for good the heartbeat of a start that it did not know.
    let by_one_worker = [771_312, 771_350, 31_000_968, 60_000_237, 70_000_560, 500_000_122];
    for seed in by_one_worker.into_iter().chain([620_000_215]) {
        let mut options = Options::draw(seed);
        if by_one_worker.contains(&seed) {
            // As stores were then.
            options.raft_workers = 1;
        }
        let report = run(seed, options, None);
        assert!(report.violations.is_empty(), "seed {seed}: {:?}", report.violations);
    }
}
