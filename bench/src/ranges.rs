//! The ranges of a load: a cluster is split until each has names of its own.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use sharklock_client::{CallError, Client, WhichRange};
use tokio::{sync::Semaphore, task::JoinSet, time::sleep};

use crate::{beside::Told, load::LoadError, report::Split, worker::now};

/// Splits under way at the same time: less than the children that a store may have whose first leader
/// is not known yet.
const SPLITS_AT_ONCE: usize = 32;
/// How long a split that is refused for now is asked for again.
const SPLIT_MAX: Duration = Duration::from_secs(30);
/// Until it is asked for again.
const PAUSE: Duration = Duration::from_millis(50);
/// How often somebody is told how far it is.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// The reasons of refusals that pass: the range that has the name was split meanwhile, or is busy with
/// that, or the store that leads it waits for children of earlier splits.
const PASSING: [&str; 8] = [
    "RANGE_CHANGED",
    "SPLIT_RUNNING",
    "CHILDREN_AWAITED",
    "HANDING_OVER",
    "LEADER_NOT_READY",
    "MEMBERS_CHANGING",
    "RANGE_BUSY",
    "NO_MASTER",
];

/// The first name of a range of the load, counted from 0: their order is that of their numbers.
pub fn first_name(prefix: &str, range: u32) -> String {
    format!("{prefix}{range:06}/")
}

/// The ranges of which a worker has a name: every range has a worker, and every worker a range.
pub fn of_worker(worker: u32, workers: u32, ranges: u32) -> impl Iterator<Item = u32> {
    (worker % ranges..ranges).step_by(workers as usize)
}

/// Splits ranges until so many begin at the first names of a load with this prefix. The halves are
/// split in turn, many at a time, so that none waits for the one before it.
pub async fn split(
    client: &Client,
    prefix: &str,
    count: u32,
    told: Told,
) -> Result<Split, LoadError> {
    let begun = now();
    let starts: BTreeSet<String> =
        client.list_ranges(None).await?.into_iter().map(|range| range.start).collect();
    let missing: Vec<String> = (0..count)
        .map(|range| first_name(prefix, range))
        .filter(|name| !starts.contains(name))
        .collect();
    let wanted = missing.len();
    let slots = Arc::new(Semaphore::new(SPLITS_AT_ONCE));
    let (mut running, mut done, mut last_told) = (JoinSet::new(), 0, begun);
    for name in halves_first(missing) {
        let slot = Arc::clone(&slots).acquire_owned().await.expect("nobody closes it");
        while let Some(ended) = running.try_join_next() {
            ended.expect("splits do not panic and are not aborted")?;
            done += 1;
        }
        if last_told.elapsed() >= TELL_EVERY {
            last_told = now();
            told(&format!("{done} of {wanted} splits are done"));
        }
        let client = client.clone();
        running.spawn(async move {
            let _slot = slot;
            split_at(&client, &name).await
        });
    }
    while let Some(ended) = running.join_next().await {
        ended.expect("splits do not panic and are not aborted")?;
    }
    Ok(Split {
        ranges: count,
        splits: u32::try_from(wanted).expect("no more than ranges"),
        took_s: begun.elapsed().as_secs_f64(),
    })
}

/// Splits whichever range has the name, so that one begins with it.
async fn split_at(client: &Client, name: &str) -> Result<(), LoadError> {
    let which = WhichRange::Named(name.to_owned());
    let begun = now();
    loop {
        match client.split_range(&which, Some(name), "sharklock bench").await {
            Ok(_) => return Ok(()),
            // An earlier try, or somebody else, has done it.
            Err(CallError::Failed { reason, .. }) if reason == "SPLIT_AT_BOUND" => return Ok(()),
            Err(error) if passes(&error) && begun.elapsed() < SPLIT_MAX => sleep(PAUSE).await,
            Err(why) => {
                let (at, why) = (name.to_owned(), Box::new(why));
                return Err(LoadError::NotSplit { at, why });
            }
        }
    }
}

fn passes(error: &CallError) -> bool {
    match error {
        CallError::Failed { reason, .. } | CallError::Invalid { reason, .. } => {
            PASSING.contains(&reason.as_str())
        }
        error => error.is_retryable(),
    }
}

/// The same names in another order: the middle, then the middles of both halves, and so on.
fn halves_first(names: Vec<String>) -> Vec<String> {
    let mut spans = VecDeque::from([(0, names.len())]);
    let mut ordered = Vec::with_capacity(names.len());
    while let Some((begin, end)) = spans.pop_front() {
        if begin == end {
            continue;
        }
        let middle = begin + (end - begin) / 2;
        ordered.push(names[middle].clone());
        spans.extend([(begin, middle), (middle + 1, end)]);
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_a_load_are_in_order_and_each_is_split_at_once() {
        let names: Vec<String> = (0..1_000).map(|range| first_name("bench/", range)).collect();
        assert!(names.is_sorted());
        let mut ordered = halves_first(names.clone());
        assert_eq!(ordered[..3], [&names[500], &names[250], &names[750]].map(String::clone));
        ordered.sort();
        assert_eq!(ordered, names);
    }

    #[test]
    fn every_range_has_a_worker_and_every_worker_a_range() {
        for (workers, ranges) in [(1, 5), (5, 1), (4, 10), (10, 4), (7, 7)] {
            let of_each = |worker| of_worker(worker, workers, ranges).collect::<Vec<_>>();
            assert!((0..workers).all(|worker| !of_each(worker).is_empty()));
            let all: BTreeSet<u32> = (0..workers).flat_map(of_each).collect();
            assert_eq!(all, (0..ranges).collect(), "{workers} workers, {ranges} ranges");
        }
    }

    #[test]
    fn a_refusal_that_passes_is_told_from_one_that_does_not() {
        let failed =
            |reason: &str| CallError::Failed { reason: reason.to_owned(), message: String::new() };
        assert!(passes(&failed("CHILDREN_AWAITED")));
        assert!(!passes(&failed("TOO_MANY_RANGES")));
        assert!(passes(&CallError::Indeterminate { message: String::new() }));
    }
}
