//! The loop that loads every system alike, and the figures of a run.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::task::JoinSet;

use crate::{
    measure,
    peers::{
        results::Kind,
        service::{Failed, Locks},
    },
    report::{Errors, Fairness, Latencies},
    worker::{Window, now},
};

/// Names that a worker with names of its own cycles over.
const NAMES_PER_WORKER: u32 = 16;
/// How long workers may take to end after the time is over: a queue of all of them.
pub const DRAIN_MAX: Duration = Duration::from_secs(15);
/// After a failed call: a cluster that is down is not helped by being asked without a pause, and a
/// longer one would be measured as the cluster's.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(10);

/// One acquire and its release; nanoseconds from the start of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cycle {
    /// The call of acquire.
    pub invoked: u64,
    /// Its answer.
    pub granted: u64,
    /// The answer of release.
    pub released: u64,
}

/// The record of a worker.
#[derive(Debug, Default)]
pub struct Notes {
    /// In order.
    pub cycles: Vec<Cycle>,
    /// Calls that failed.
    pub errors: Errors,
    /// Grants while another worker held the lock.
    pub overlaps: u64,
}

/// A load that runs.
#[derive(Debug)]
pub struct Running {
    workers: JoinSet<Notes>,
    window: Window,
}

/// Starts all workers. `label` makes the names differ from those of other runs.
pub fn start<L: Locks>(workers: Vec<L>, kind: Kind, label: &str, window: Window) -> Running {
    let witness = (kind == Kind::Hot).then(Arc::<AtomicBool>::default);
    let mut running = JoinSet::new();
    for (n, locks) in workers.into_iter().enumerate() {
        let names = match kind {
            Kind::Own => (0..NAMES_PER_WORKER).map(|name| format!("{label}-{n}-{name}")).collect(),
            Kind::Hot => vec![format!("{label}-hot")],
        };
        let worker = Worker { locks, names, window, witness: witness.clone() };
        running.spawn(worker.run());
    }
    Running { workers: running, window }
}

impl Running {
    /// Waits for the end of the time and of the workers; those that do not end are an error.
    pub async fn ended(mut self) -> Vec<Notes> {
        let mut notes = Vec::new();
        let deadline = tokio::time::Instant::from_std(self.window.end() + DRAIN_MAX);
        while let Ok(Some(ended)) =
            tokio::time::timeout_at(deadline, self.workers.join_next()).await
        {
            notes.push(ended.expect("workers do not panic and are not aborted"));
        }
        let stuck = self.workers.len() as u64;
        if stuck > 0 {
            let mut left = Notes::default();
            left.errors.add("did not end in time", stuck);
            notes.push(left);
        }
        self.workers.shutdown().await;
        notes
    }
}

struct Worker<L> {
    locks: L,
    names: Vec<String>,
    window: Window,
    /// Set while a worker holds the hot lock.
    witness: Option<Arc<AtomicBool>>,
}

impl<L: Locks> Worker<L> {
    async fn run(mut self) -> Notes {
        let mut notes = Notes::default();
        let mut turn = 0;
        while now() < self.window.end() {
            match self.cycle(turn, &mut notes.overlaps).await {
                Ok(cycle) => notes.cycles.push(cycle),
                Err(Failed(kind)) => {
                    notes.errors.add(&kind, 1);
                    tokio::time::sleep(PAUSE_AFTER_ERROR).await;
                }
            }
            turn = (turn + 1) % self.names.len();
        }
        notes
    }

    async fn cycle(&mut self, turn: usize, overlaps: &mut u64) -> Result<Cycle, Failed> {
        let invoked = self.window.nanos(now());
        let held = self.locks.acquire(&self.names[turn]).await?;
        let granted = self.window.nanos(now());
        if let Some(witness) = &self.witness {
            *overlaps += u64::from(witness.swap(true, Ordering::AcqRel));
            // Cleared before the release is sent: after it the lock may be another one's.
            witness.store(false, Ordering::Release);
        }
        self.locks.release(held).await?;
        Ok(Cycle { invoked, granted, released: self.window.nanos(now()) })
    }
}

/// The figures of one run.
#[derive(Debug)]
pub struct Figures {
    /// Cycles that ended in the window.
    pub cycles_count: u64,
    /// From the call of acquire to the answer of release.
    pub cycle: Latencies,
    /// From the call of acquire to its answer.
    pub acquire: Latencies,
    /// From its answer to that of release.
    pub release: Latencies,
    /// From the cycles of each worker.
    pub fairness: Fairness,
    /// In the whole run.
    pub errors: Errors,
    /// In the whole run.
    pub overlaps: u64,
}

/// Measures what ended in the window.
pub fn figures(notes: &[Notes], window: Window) -> Figures {
    let measured = |notes: &Notes| -> Vec<Cycle> {
        let measures = |cycle: &&Cycle| window.measures(cycle.released);
        notes.cycles.iter().filter(measures).copied().collect()
    };
    let per_worker: Vec<Vec<Cycle>> = notes.iter().map(measured).collect();
    let counts: Vec<u64> = per_worker.iter().map(|cycles| cycles.len() as u64).collect();
    let latencies = |from: fn(&Cycle) -> u64, to: fn(&Cycle) -> u64| {
        let all = per_worker.iter().flatten();
        measure::latencies(all.map(|cycle| Duration::from_nanos(to(cycle) - from(cycle))))
    };
    Figures {
        cycles_count: counts.iter().sum(),
        cycle: latencies(|cycle| cycle.invoked, |cycle| cycle.released),
        acquire: latencies(|cycle| cycle.invoked, |cycle| cycle.granted),
        release: latencies(|cycle| cycle.granted, |cycle| cycle.released),
        fairness: measure::fairness(&counts),
        errors: measure::errors(notes.iter().map(|notes| &notes.errors)),
        overlaps: notes.iter().map(|notes| notes.overlaps).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::{OwnedSemaphorePermit, Semaphore};

    /// A lock in this process: the loop's counterpart in these tests. With more permits than one
    /// it is a broken lock.
    #[derive(Clone)]
    struct Local {
        permits: Arc<Semaphore>,
        fails: bool,
    }

    impl Locks for Local {
        type Held = OwnedSemaphorePermit;

        async fn acquire(&mut self, _: &str) -> Result<Self::Held, Failed> {
            if self.fails {
                return Err(Failed("down".into()));
            }
            tokio::task::yield_now().await;
            Ok(Arc::clone(&self.permits).acquire_owned().await.expect("it is never closed"))
        }

        async fn release(&mut self, held: Self::Held) -> Result<(), Failed> {
            drop(held);
            Ok(())
        }
    }

    fn window() -> Window {
        Window::starting(now(), Duration::from_millis(20), Duration::from_millis(100))
    }

    fn local(fails: bool) -> Local {
        Local { permits: Arc::new(Semaphore::new(1)), fails }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn workers_cycle_until_the_end_and_only_the_window_counts() {
        let window = window();
        let notes = start(vec![local(false); 4], Kind::Hot, "t", window).ended().await;
        let all: u64 = notes.iter().map(|notes| notes.cycles.len() as u64).sum();
        let figures = figures(&notes, window);
        assert!(figures.cycles_count > 0 && figures.cycles_count < all);
        assert_eq!((figures.errors.count, figures.overlaps), (0, 0));
        assert!(figures.fairness.jain > 0.0);
    }

    #[tokio::test]
    async fn failures_are_counted_by_kind() {
        let window = window();
        let notes = start(vec![local(true); 2], Kind::Own, "t", window).ended().await;
        let figures = figures(&notes, window);
        assert_eq!(figures.cycles_count, 0);
        assert!(figures.errors.kinds["down"] >= 2);
    }

    #[tokio::test]
    async fn a_grant_beside_a_holder_is_an_overlap() {
        let witness = Arc::new(AtomicBool::new(true));
        let (names, window) = (vec!["a".to_owned()], window());
        let mut worker =
            Worker { locks: local(false), names, window, witness: Some(Arc::clone(&witness)) };
        let mut overlaps = 0;
        worker.cycle(0, &mut overlaps).await.expect("it is free");
        assert_eq!(overlaps, 1);
        worker.cycle(0, &mut overlaps).await.expect("it is free");
        assert_eq!(overlaps, 1);
    }
}
