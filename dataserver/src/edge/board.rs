//! What the workers of a store have to show, as one: whether it is ready, what ails in it, its
//! metrics, and how much memory its locks take.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::watch;

use crate::edge::metrics::{Metrics, Shown};

/// See the module.
#[derive(Debug)]
pub struct Board {
    parts: Mutex<Vec<Part>>,
    /// Bytes of each worker's locks.
    used: Vec<AtomicU64>,
    metrics: Metrics,
    ready: watch::Sender<bool>,
    ailing: watch::Sender<Vec<String>>,
}

/// The last word of one worker.
#[derive(Debug, Default)]
struct Part {
    ready: bool,
    ailing: Vec<String>,
    shown: Shown,
}

impl Board {
    /// For so many workers, who have said nothing yet.
    pub fn new(workers: usize, metrics: Metrics) -> Self {
        Self {
            parts: Mutex::new((0..workers).map(|_| Part::default()).collect()),
            used: (0..workers).map(|_| AtomicU64::new(0)).collect(),
            metrics,
            ready: watch::Sender::new(false),
            ailing: watch::Sender::new(Vec::new()),
        }
    }

    /// True while each range of each worker knows a leader.
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// The replicas that do not follow their ranges, each with why.
    pub fn ailing(&self) -> watch::Receiver<Vec<String>> {
        self.ailing.subscribe()
    }

    /// Whether each range of this worker knows a leader.
    pub fn set_ready(&self, worker: usize, ready: bool) {
        let mut parts = self.parts();
        parts[worker].ready = ready;
        let all = parts.iter().all(|part| part.ready);
        self.ready.send_if_modified(|before| std::mem::replace(before, all) != all);
    }

    /// The replicas of this worker that do not follow their ranges, each with why.
    pub fn set_ailing(&self, worker: usize, ailing: Vec<String>) {
        let mut parts = self.parts();
        parts[worker].ailing = ailing;
        self.ailing.send_replace(parts.iter().flat_map(|part| part.ailing.clone()).collect());
    }

    /// The figures of this worker, as of now: the metrics follow those of all.
    pub fn show(&self, worker: usize, shown: Shown) {
        let mut parts = self.parts();
        parts[worker].shown = shown;
        self.metrics.show(parts.iter().map(|part| &part.shown));
    }

    /// How much memory the locks of this worker take.
    pub fn set_used(&self, worker: usize, bytes: u64) {
        self.used[worker].store(bytes, Ordering::Relaxed);
    }

    /// How much those of all others take.
    pub fn used_elsewhere(&self, worker: usize) -> u64 {
        let others = self.used.iter().enumerate().filter(|(it, _)| *it != worker);
        others.map(|(_, used)| used.load(Ordering::Relaxed)).sum()
    }

    fn parts(&self) -> MutexGuard<'_, Vec<Part>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::WorkerStats;

    fn board(workers: usize) -> (Board, prometheus::Registry) {
        let registry = prometheus::Registry::new();
        let metrics = Metrics::register(&registry).expect("all are new");
        (Board::new(workers, metrics), registry)
    }

    #[test]
    fn a_store_is_ready_when_all_its_workers_are_and_lacks_what_any_of_them_lacks() {
        let (board, _) = board(2);
        let (ready, ailing) = (board.ready(), board.ailing());
        board.set_ready(0, true);
        assert!(!*ready.borrow(), "the other has said nothing yet");
        board.set_ready(1, true);
        assert!(*ready.borrow());
        board.set_ailing(1, vec!["b".to_owned()]);
        board.set_ailing(0, vec!["a".to_owned()]);
        board.set_ready(1, false);
        assert!(!*ready.borrow());
        assert_eq!(*ailing.borrow(), ["a", "b"]);
    }

    #[test]
    fn figures_are_sums_over_the_workers_and_counters_never_go_back() {
        let (board, registry) = board(2);
        let shown = |grants, holds| Shown {
            stats: WorkerStats { grants, ..WorkerStats::default() },
            holds,
            ..Shown::default()
        };
        let figure = |name: &str| {
            let families = registry.gather();
            let family = families.iter().find(|it| it.name() == name).expect("it is registered");
            let metric = &family.get_metric()[0];
            metric.get_counter().get_value() + metric.get_gauge().get_value()
        };
        board.show(0, shown(5, 2));
        board.show(1, shown(7, 1));
        board.show(0, shown(6, 0));
        assert_eq!(figure("sharklock_lock_grants_total"), 13.0);
        assert_eq!(figure("sharklock_holds"), 1.0);
    }

    #[test]
    fn each_worker_hears_what_the_others_use() {
        let (board, _) = board(3);
        board.set_used(0, 10);
        board.set_used(2, 30);
        assert_eq!([0, 1, 2].map(|worker| board.used_elsewhere(worker)), [30, 40, 10]);
    }
}
