//! What the workers of a store have to show, as one: whether it is ready, what ails in it, its
//! metrics, how much memory its locks take, how many replicas it has, and how much room its disk.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use tokio::sync::watch;

use crate::edge::metrics::{Metrics, Shown};

/// See the module.
#[derive(Debug)]
pub struct Board {
    parts: Mutex<Vec<Part>>,
    /// Bytes of each worker's locks.
    used: Vec<AtomicU64>,
    /// Replicas of each worker.
    ranges: Vec<AtomicUsize>,
    /// Bytes; [`u64::MAX`]: nobody knows.
    disk_free: AtomicU64,
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
            ranges: (0..workers).map(|_| AtomicUsize::new(0)).collect(),
            disk_free: AtomicU64::new(u64::MAX),
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

    /// The number of replicas that this worker has.
    pub fn set_ranges(&self, worker: usize, ranges: usize) {
        self.ranges[worker].store(ranges, Ordering::Relaxed);
    }

    /// The number of replicas that all others have.
    pub fn ranges_elsewhere(&self, worker: usize) -> usize {
        let others = self.ranges.iter().enumerate().filter(|(it, _)| *it != worker);
        others.map(|(_, ranges)| ranges.load(Ordering::Relaxed)).sum()
    }

    /// How much room the disk has; `None`: nobody knows.
    pub fn set_disk_free(&self, bytes: Option<u64>) {
        self.disk_free.store(bytes.unwrap_or(u64::MAX), Ordering::Relaxed);
        self.metrics.disk_has(bytes);
    }

    /// The same, for the workers.
    pub fn disk_free(&self) -> Option<u64> {
        let bytes = self.disk_free.load(Ordering::Relaxed);
        (bytes < u64::MAX).then_some(bytes)
    }

    fn parts(&self) -> MutexGuard<'_, Vec<Part>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use sharklock_rangemap::RangeId;

    use super::*;
    use crate::{ports::WorkerStats, worker::Busy};

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
    fn the_busiest_ranges_of_all_workers_have_figures_of_their_own_and_no_others() {
        let (board, registry) = board(2);
        let busy = |range: u64| Busy {
            range: RangeId(range),
            commands_per_second: range,
            locks: 1,
            waiters: 0,
        };
        let shown = |ranges: std::ops::Range<u64>| Shown {
            busiest: ranges.map(busy).collect(),
            ..Shown::default()
        };
        let labels = || {
            let families = registry.gather();
            let name = "sharklock_busy_range_commands_per_second";
            let family = families.iter().find(|it| it.name() == name);
            let metrics = family.map(|it| it.get_metric()).unwrap_or_default();
            let label = |metric: &prometheus::proto::Metric| {
                metric.get_label()[0].value().parse::<u64>().expect("an id")
            };
            let mut labels: Vec<_> = metrics.iter().map(label).collect();
            labels.sort_unstable();
            labels
        };
        board.show(0, shown(1..11));
        board.show(1, shown(11..21));
        assert_eq!(labels(), (5..21).collect::<Vec<_>>());
        board.show(0, shown(30..31));
        board.show(1, shown(7..8));
        assert_eq!(labels(), [7, 30]);
    }

    #[test]
    fn the_room_of_the_disk_is_told_once_it_is_known() {
        let (board, _) = board(1);
        assert_eq!(board.disk_free(), None);
        board.set_disk_free(Some(7));
        assert_eq!(board.disk_free(), Some(7));
        board.set_disk_free(None);
        assert_eq!(board.disk_free(), None);
    }

    #[test]
    fn each_worker_hears_what_the_others_use_and_have() {
        let (board, _) = board(3);
        board.set_used(0, 10);
        board.set_used(2, 30);
        assert_eq!([0, 1, 2].map(|worker| board.used_elsewhere(worker)), [30, 40, 10]);
        board.set_ranges(1, 5);
        board.set_ranges(2, 6);
        assert_eq!([0, 1, 2].map(|worker| board.ranges_elsewhere(worker)), [11, 6, 5]);
    }
}
