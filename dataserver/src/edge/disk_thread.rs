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

/// How long after a slow write the worker leaves all writing to the disk thread.
const DISTRUST: Duration = Duration::from_secs(10);

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

/// The disk, and what is measured of it. The thread that has the store's one batch in flight writes
/// it: the disk thread, or the worker when nobody waits for it meanwhile. So the mutex is never
/// contended; it is there because two threads hold the writer.
pub struct Writer<D> {
    disk: Mutex<D>,
    /// False breaks durability; see `DataServerConfig::sync_writes`.
    sync_writes: bool,
    times: Arc<SyncTimes>,
    metrics: Metrics,
    /// A write that takes longer is slow.
    slow: Duration,
    /// When the last slow write ended.
    slow_at: Mutex<Option<Instant>>,
}

impl<D: Disk> Writer<D> {
    /// The writer of this disk, for a worker with this tick.
    pub fn new(
        disk: D,
        sync_writes: bool,
        tick: Duration,
        times: Arc<SyncTimes>,
        metrics: Metrics,
    ) -> Self {
        let (disk, slow, slow_at) = (Mutex::new(disk), tick / 2, Mutex::default());
        Self { disk, sync_writes, times, metrics, slow, slow_at }
    }

    /// Writes a batch; durable, if it asks for that, when this returns. A failed write ends the
    /// process: after it nobody knows what is on the disk (D3).
    #[expect(clippy::disallowed_methods, reason = "an edge: it measures the disk")]
    pub fn write(&self, batch: &Batch) {
        let begin = Instant::now();
        let mut disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = disk.write(&batch.ops, self.sync_writes) {
            tracing::error!(%error, "the disk failed; this process ends");
            std::process::abort();
        }
        drop(disk);
        let took = begin.elapsed();
        self.times.record(took);
        self.metrics.synced(took);
        if took > self.slow {
            *self.slow_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(begin + took);
        }
    }

    /// Whether no write was slow of late. Only then the worker writes itself: while it does, it
    /// hears nobody, and no heartbeat leaves.
    pub fn is_quick(&self) -> bool {
        let slow_at = *self.slow_at.lock().unwrap_or_else(PoisonError::into_inner);
        slow_at.is_none_or(|at| at.elapsed() > DISTRUST)
    }
}

/// Writes batches in order until their channel closes.
pub fn run(writer: &Writer<impl Disk>, batches: &mpsc::Receiver<Batch>, mailbox: &Mailbox) {
    while let Ok(batch) = batches.recv() {
        writer.write(&batch);
        mailbox.persisted(batch.seq);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::{Command, Stdio};

    use sharklock_multiraft::{BatchSeq, Family, SimDisk, WriteOp};

    use super::*;
    use crate::ports::Input;

    /// Set in the child only.
    const FAILING_OPERATION: &str = "SHARKLOCK_TEST_FAILING_OPERATION";
    const PATIENCE: Duration = Duration::from_secs(30);

    /// Three batches for the disk thread, one by one. Writes the number of each that is reported
    /// as persisted.
    fn write_three(failing_operation: u64, mut reported: impl FnMut(u64)) {
        let mut disk = SimDisk::default();
        disk.fail_nth(failing_operation);
        let metrics = Metrics::register(&prometheus::Registry::new()).expect("all are new");
        let writer = Writer::new(disk, true, Duration::from_millis(100), Arc::default(), metrics);
        let mailbox = Mailbox::default();
        let (batches, queue) = mpsc::channel();
        std::thread::scope(|scope| {
            let (writer, mailbox) = (&writer, &mailbox);
            scope.spawn(move || run(writer, &queue, mailbox));
            for number in 1..=3 {
                let op = WriteOp::Put(Family::Raft, vec![1], vec![2]);
                let batch = Batch { seq: BatchSeq(number), ops: vec![op] };
                batches.send(batch).expect("the thread waits for it");
                for input in mailbox.take(PATIENCE).inputs {
                    let Input::Persisted(seq) = input else { panic!("the disk says {input:?}") };
                    reported(seq.0);
                }
            }
            drop(batches);
        });
    }

    /// Is its own child where it finds its orders.
    #[test]
    fn a_failing_write_ends_the_process_and_is_never_reported() {
        if let Ok(nth) = std::env::var(FAILING_OPERATION) {
            let mut pipe = std::io::stdout().lock();
            return write_three(nth.parse().expect("a number"), |number| {
                writeln!(pipe, "\npersisted {number}").expect("the parent reads");
            });
        }
        let mut reported = Vec::new();
        write_three(0, |number| reported.push(number));
        assert_eq!(reported, [1, 2, 3], "a disk without faults");

        let name = "edge::disk_thread::tests::\
                    a_failing_write_ends_the_process_and_is_never_reported";
        for failing in 1..=3 {
            let this = std::env::current_exe().expect("a running program has a file");
            let mut child = Command::new(this)
                .args(["--exact", name, "--nocapture"])
                .env(FAILING_OPERATION, failing.to_string())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .expect("this program starts");
            let mut text = String::new();
            let pipe = child.stdout.as_mut().expect("it is piped");
            pipe.read_to_string(&mut text).expect("it is text");
            let status = child.wait().expect("it is our child");
            assert_eq!(status.signal(), Some(6), "SIGABRT, not {status}");
            let lines = text.lines().filter(|line| line.starts_with("persisted")).count();
            assert_eq!(lines, failing - 1, "{text}");
        }
    }
}
