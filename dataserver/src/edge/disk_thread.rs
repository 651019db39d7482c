//! The one thread that writes to a store's disk (D5).

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::{Duration, Instant},
};

use sharklock_multiraft::{Batch, Disk};

use crate::edge::{mailbox::Mailbox, metrics::Metrics};

/// Durations kept for the status: enough for a good p99, cheap to sort.
const SAMPLES_MAX: usize = 4_096;

/// Durations of the latest durable writes.
#[derive(Debug, Default)]
pub struct SyncTimes {
    state: Mutex<Samples>,
}

#[derive(Debug, Default)]
struct Samples {
    count: u64,
    latest_us: VecDeque<u32>,
}

impl SyncTimes {
    fn record(&self, took: Duration) {
        let mut samples = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        samples.count += 1;
        if samples.latest_us.len() == SAMPLES_MAX {
            samples.latest_us.pop_front();
        }
        samples.latest_us.push_back(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
    }

    /// Count since start, median and 99th percentile of the latest, in microseconds.
    pub fn summary(&self) -> (u64, u64, u64) {
        let samples = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sorted: Vec<u32> = samples.latest_us.iter().copied().collect();
        let count = samples.count;
        drop(samples);
        sorted.sort_unstable();
        let rank = |percent: usize| {
            let at = sorted.len().saturating_sub(1) * percent / 100;
            sorted.get(at).copied().map_or(0, u64::from)
        };
        (count, rank(50), rank(99))
    }
}

/// What the thread works with.
pub struct DiskThread {
    /// False breaks durability; see `DataServerConfig::sync_writes`.
    pub sync_writes: bool,
    /// Who hears that a batch is durable.
    pub mailbox: Arc<Mailbox>,
    /// Shown in the status.
    pub sync_times: Arc<SyncTimes>,
    /// Shown to Prometheus.
    pub metrics: Metrics,
}

impl DiskThread {
    /// Writes batches in order until their channel closes. A failed write ends the process: after
    /// it nobody knows what is on the disk (D3).
    #[expect(clippy::disallowed_methods, reason = "an edge: it measures the disk")]
    pub fn run(self, mut disk: impl Disk, batches: &mpsc::Receiver<Batch>) {
        while let Ok(batch) = batches.recv() {
            let begin = Instant::now();
            if let Err(error) = disk.write(&batch.ops, batch.sync && self.sync_writes) {
                tracing::error!(%error, "the disk failed; this process ends");
                std::process::abort();
            }
            if batch.sync {
                let took = begin.elapsed();
                self.sync_times.record(took);
                self.metrics.synced(took);
            }
            self.mailbox.persisted(batch.seq);
        }
    }
}
