//! Writing to a store's disk, and the thread that does it under load (D5).

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

/// The disk, and what is measured of it. Whoever has the store's one batch in flight writes it:
/// the disk thread, or the worker when nobody waits for it meanwhile. So the mutex is never
/// contended; it is there because two threads hold the writer.
pub struct Writer<D> {
    disk: Mutex<D>,
    /// False breaks durability; see `DataServerConfig::sync_writes`.
    sync_writes: bool,
    times: Arc<SyncTimes>,
    metrics: Metrics,
}

impl<D: Disk> Writer<D> {
    /// The writer of this disk.
    pub fn new(disk: D, sync_writes: bool, times: Arc<SyncTimes>, metrics: Metrics) -> Self {
        Self { disk: Mutex::new(disk), sync_writes, times, metrics }
    }

    /// Writes a batch; durable, if it asks for that, when this returns. A failed write ends the
    /// process: after it nobody knows what is on the disk (D3).
    #[expect(clippy::disallowed_methods, reason = "an edge: it measures the disk")]
    pub fn write(&self, batch: &Batch) {
        let begin = Instant::now();
        let mut disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = disk.write(&batch.ops, batch.sync && self.sync_writes) {
            tracing::error!(%error, "the disk failed; this process ends");
            std::process::abort();
        }
        if batch.sync {
            let took = begin.elapsed();
            self.times.record(took);
            self.metrics.synced(took);
        }
    }
}

/// Writes batches in order until their channel closes.
pub fn run(writer: &Writer<impl Disk>, batches: &mpsc::Receiver<Batch>, mailbox: &Mailbox) {
    while let Ok(batch) = batches.recv() {
        writer.write(&batch);
        mailbox.persisted(batch.seq);
    }
}
