//! Clients that take and release locks while something happens to the cluster, for the judges.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use sharklock_client::Client;
use sharklock_history::{FencingOracle, Recorder, Report};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::wait::{eventually, now};
use crate::witness::{Want, Witness, increment, judge};

/// A gap that is worth telling.
pub const SILENCE: Duration = Duration::from_millis(300);

/// The work of every worker.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many at once.
    pub workers: usize,
    /// Names that they share; each worker has one of its own beside.
    pub shared_names: usize,
    /// The lease.
    pub ttl: Duration,
    /// How long one waits for a shared name before it gives up.
    pub patience: Duration,
    /// Between two cycles of one worker.
    pub pause: Duration,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            workers: 10,
            shared_names: 2,
            ttl: Duration::from_secs(6),
            patience: Duration::from_secs(30),
            pause: Duration::from_millis(2),
        }
    }
}

/// Workers at work.
#[derive(Debug)]
pub struct Load {
    tasks: JoinSet<Worker>,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    last: Arc<AtomicU64>,
    resources: Arc<Vec<Mutex<FencingOracle>>>,
    began: u64,
}

/// The record that a worker leaves behind.
#[derive(Debug)]
struct Worker {
    recorder: Recorder,
    /// When each of its cycles had ended.
    ends: Vec<u64>,
}

/// The verdict on a load.
#[derive(Debug)]
pub struct Verdict {
    /// Of `history`.
    pub report: Report,
    /// Cycles that were acknowledged: each is an acquire and a release.
    pub cycles: u64,
    /// The longest time without an acknowledged cycle.
    pub longest_gap: Duration,
    /// All such times of more than [`SILENCE`], and when each began.
    pub silences: Vec<(Duration, Duration)>,
    /// Of all tenths of a second, the share in which a cycle ended.
    pub busy_share: f64,
    /// How long it ran.
    pub took: Duration,
}

impl Load {
    /// Begins, with a client for each worker.
    pub fn start(plan: &Plan, client: impl Fn() -> Client) -> Self {
        let names = plan.shared_names + plan.workers;
        let resources: Vec<_> = (0..names).map(|_| Mutex::default()).collect();
        let mut load = Self {
            tasks: JoinSet::new(),
            stop: Arc::default(),
            done: Arc::default(),
            last: Arc::new(AtomicU64::new(now())),
            resources: Arc::new(resources),
            began: now(),
        };
        for worker in 0..plan.workers {
            load.add(plan.clone(), worker, Witness::new(client()));
        }
        load
    }

    fn add(&mut self, plan: Plan, worker: usize, mut witness: Witness) {
        let (stop, done, last) = (self.stop.clone(), self.done.clone(), self.last.clone());
        let resources = Arc::clone(&self.resources);
        self.tasks.spawn(async move {
            let mut ends = Vec::new();
            for cycle in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                // Every fourth is about a name that others want, too.
                let place = match (cycle + worker) % 4 {
                    0 if plan.shared_names > 0 => (cycle / 4 + worker) % plan.shared_names,
                    _ => plan.shared_names + worker,
                };
                let want = Want::exclusive(&format!("load/{place}"));
                let want = want.ttl(plan.ttl).within(plan.patience);
                if one(&mut witness, &want, &resources[place]).await {
                    ends.push(now());
                    done.fetch_add(1, Ordering::Relaxed);
                    last.store(now(), Ordering::Relaxed);
                }
                sleep(plan.pause).await;
            }
            Worker { recorder: witness.into_recorder(), ends }
        });
    }

    /// Cycles that have been acknowledged.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Waits until so many more have been acknowledged.
    pub async fn progress(&self, more: u64, within: Duration) {
        let goal = self.done() + more;
        let reached = async || (self.done() >= goal).then_some(());
        eventually(&format!("{more} more cycles"), within, reached).await;
    }

    /// Ends, and lets the judges look.
    ///
    /// # Panics
    /// When a promise is broken.
    pub async fn end(mut self) -> Verdict {
        self.stop.store(true, Ordering::Relaxed);
        let until = now();
        let mut workers = Vec::new();
        while let Some(worker) = self.tasks.join_next().await {
            workers.push(worker.expect("no worker panics"));
        }
        let mut ends: Vec<u64> = workers.iter().flat_map(|it| it.ends.iter().copied()).collect();
        ends.retain(|end| *end <= until);
        ends.sort_unstable();
        let report = judge(workers.into_iter().map(|worker| worker.recorder));
        for (place, resource) in self.resources.iter().enumerate() {
            assert_eq!(resource.lock().await.faults(), [], "the resource of load/{place}");
        }
        let cycles = self.done.load(Ordering::Relaxed);
        let (longest_gap, busy_share) = shape(self.began, until, &ends);
        let silences = silences(self.began, &ends);
        let took = Duration::from_nanos(until - self.began);
        Verdict { report, cycles, longest_gap, silences, busy_share, took }
    }
}

/// One cycle; true if both halves were acknowledged.
async fn one(witness: &mut Witness, want: &Want, resource: &Mutex<FencingOracle>) -> bool {
    match witness.acquire(want).await {
        Ok(held) => {
            // A worker that has been fenced off has lost its hold, and will be told.
            increment(resource, &held).await;
            witness.release(held).await.is_ok()
        }
        Err(error) => {
            assert!(error.is_retryable() || is_an_outcome(&error), "{error}");
            false
        }
    }
}

fn is_an_outcome(error: &sharklock_client::AcquireError) -> bool {
    use sharklock_client::AcquireError;
    matches!(error, AcquireError::WaitTimedOut { .. } | AcquireError::Held { .. })
}

fn silences(began: u64, ends: &[u64]) -> Vec<(Duration, Duration)> {
    let gaps = ends.windows(2).map(|pair| (pair[0], pair[1]));
    let gaps = gaps.map(|(from, to)| [from - began, to - from].map(Duration::from_nanos));
    gaps.filter(|[_, long]| *long > SILENCE).map(|[from, long]| (from, long)).collect()
}

/// The longest gap, and the share of tenths of seconds that are not empty.
fn shape(began: u64, until: u64, ends: &[u64]) -> (Duration, f64) {
    const SLOT_NS: u64 = 100_000_000;
    let before = [began].into_iter().chain(ends.iter().copied());
    let after = ends.iter().copied().chain([until]);
    let gaps = before.zip(after).map(|(before, after)| after.saturating_sub(before));
    let longest = Duration::from_nanos(gaps.max().unwrap_or_default());
    let slots = (until.saturating_sub(began) / SLOT_NS).max(1);
    let busy: std::collections::BTreeSet<_> =
        ends.iter().map(|end| end.saturating_sub(began) / SLOT_NS).collect();
    let busy = busy.range(..slots).count();
    (longest, busy as f64 / slots as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_and_empty_slots_are_counted_from_begin_to_end() {
        let tenth = 100_000_000;
        let ends = [tenth / 2, tenth / 2 + 1, 3 * tenth + 1];
        let (gap, share) = shape(0, 10 * tenth, &ends);
        assert_eq!(gap, Duration::from_nanos(7 * tenth - 1));
        assert!((share - 0.2).abs() < 1e-9, "{share}");
        let (gap, share) = shape(5, 5 + tenth, &[]);
        assert_eq!((gap, share), (Duration::from_nanos(tenth), 0.0));
    }
}
