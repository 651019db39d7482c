//! What a run must have done at the least: where nothing happened, nothing could be broken.

use std::collections::BTreeMap;
use std::time::Duration;

use super::fault::Kind;
use super::report::Outcome;

/// Grants of each process of clients, for each minute of the run.
const GRANTS_PER_MINUTE: u64 = 20;
/// A kind of fault that was planned so often is to have been done at least once.
const OFTEN: usize = 3;
/// From this length on a run is to show what issue 15 asks for.
const WHOLE: Duration = Duration::from_secs(3_600);
const WHOLE_FAULTS: usize = 200;
const WHOLE_OPERATIONS: u64 = 1_000_000;
/// The ranges that each run begins with.
const RANGES: usize = super::run::GROUPS as usize;

/// What of this was not done, in words.
pub fn missing(outcome: &Outcome) -> Vec<String> {
    let mut missing = Vec::new();
    for (label, grants) in &outcome.grants {
        let least = outcome.plan.length.as_secs() * GRANTS_PER_MINUTE / 60;
        if *grants < least {
            missing.push(format!("{label} had {grants} grants, and not {least}"));
        }
    }
    let number = |name: &str| outcome.resource[name].as_u64().unwrap_or(0);
    let paused = |it: &&super::report::Done| it.was_done && it.fault.kind == Kind::PauseClient;
    let paused = outcome.done.iter().filter(paused).count();
    if number("writes") == 0 {
        missing.push("no slow holder has written anything".to_owned());
    }
    if paused > 0 && number("refused") == 0 {
        missing.push(format!(
            "slow holders were paused {paused} times, and none was refused a write afterwards"
        ));
    }
    if outcome.counted.done == 0 {
        missing.push("no shell was told that it had counted".to_owned());
    }
    if outcome.ranges < RANGES {
        missing.push(format!("there are {} ranges, and not {RANGES}", outcome.ranges));
    }
    missing.extend(kinds_missing(outcome));
    let faults = outcome.done.iter().filter(|it| it.was_done).count();
    if outcome.plan.length >= WHOLE && faults < WHOLE_FAULTS {
        missing.push(format!("{faults} faults were done, and not {WHOLE_FAULTS}"));
    }
    let operations = outcome.timeline.operations;
    if outcome.plan.length >= WHOLE && operations < WHOLE_OPERATIONS {
        missing.push(format!("{operations} operations, and not {WHOLE_OPERATIONS}"));
    }
    missing
}

/// Kinds of faults of which none was done, however often it was tried.
fn kinds_missing(outcome: &Outcome) -> Vec<String> {
    let mut kinds: BTreeMap<Kind, (usize, usize)> = BTreeMap::new();
    for it in &outcome.done {
        let (tried, done) = kinds.entry(it.fault.kind).or_default();
        *tried += 1;
        *done += usize::from(it.was_done);
    }
    let none = kinds.into_iter().filter(|(_, (tried, done))| *tried >= OFTEN && *done == 0);
    none.map(|(kind, (tried, _))| format!("of {tried} times {} none was done", kind.name()))
        .collect()
}
