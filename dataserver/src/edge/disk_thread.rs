//! Writing to a store's disk, and the thread that does it under load (D5): whatever batches of the
//! store's workers wait there become one write and one sync.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, mpsc},
    time::{Duration, Instant},
};

use sharklock_multiraft::{Batch, BatchSeq, Disk, WriteOp};

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

/// The disk, and what is measured of it. Who has the disk writes: the disk thread, or a worker when
/// nobody waits for it meanwhile and nobody else writes. One write is durable before the next begins,
/// whoever makes them.
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
    /// The writer of this disk, for workers with this tick.
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

    /// Writes the operations of a batch if nobody else writes just now; durable, if it asks for that,
    /// when this returns true.
    pub fn try_write(&self, ops: &[WriteOp]) -> bool {
        match self.disk.try_lock() {
            Ok(disk) => self.write(disk, ops),
            Err(TryLockError::Poisoned(poisoned)) => self.write(poisoned.into_inner(), ops),
            Err(TryLockError::WouldBlock) => return false,
        }
        true
    }

    /// A failed write ends the process: after it nobody knows what is on the disk (D3).
    #[expect(clippy::disallowed_methods, reason = "an edge: it measures the disk")]
    fn write(&self, mut disk: MutexGuard<'_, D>, ops: &[WriteOp]) {
        let begin = Instant::now();
        if let Err(error) = disk.write(ops, self.sync_writes) {
            tracing::error!(why = %error, "the disk failed; this process ends");
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

/// A batch on its way to the disk thread. A worker has one at most.
pub struct Handed {
    /// The number of the worker.
    pub worker: usize,
    /// Its batch.
    pub batch: Batch,
}

/// Batches that are written as one: a crash keeps all of them or none.
#[derive(Default)]
struct Merged {
    ops: Vec<WriteOp>,
    seqs: Vec<(usize, BatchSeq)>,
}

impl Merged {
    fn add(&mut self, handed: Handed) {
        let Handed { worker, batch: Batch { seq, mut ops } } = handed;
        self.seqs.push((worker, seq));
        match self.ops.is_empty() {
            true => self.ops = ops,
            false => self.ops.append(&mut ops),
        }
    }
}

/// Writes batches, each worker's in order, until their channel closes. Each worker hears of its own in
/// the mailbox with its number.
pub fn run(
    writer: &Writer<impl Disk>,
    batches: &mpsc::Receiver<Handed>,
    mailboxes: &[Arc<Mailbox>],
) {
    while let Ok(first) = batches.recv() {
        // A worker may be writing: what comes until it has done so goes along.
        let disk = writer.disk.lock().unwrap_or_else(PoisonError::into_inner);
        let mut merged = Merged::default();
        merged.add(first);
        batches.try_iter().for_each(|next| merged.add(next));
        writer.write(disk, &merged.ops);
        for (worker, seq) in merged.seqs {
            mailboxes[worker].persisted(seq);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::{Command, Stdio};

    use sharklock_multiraft::{DiskError, Family, Pair, SimDisk};
    use tokio::runtime::Builder;

    use super::*;
    use crate::ports::Input;

    /// Set in the child only.
    const FAILING_OPERATION: &str = "SHARKLOCK_TEST_FAILING_OPERATION";
    const PATIENCE: Duration = Duration::from_secs(30);

    fn writer<D: Disk>(disk: D) -> Writer<D> {
        let metrics = Metrics::register(&prometheus::Registry::new()).expect("all are new");
        Writer::new(disk, true, Duration::from_millis(100), Arc::default(), metrics)
    }

    fn put(key: u8) -> WriteOp {
        WriteOp::Put(Family::Raft, vec![key], vec![key])
    }

    fn handed(worker: usize, seq: u64, key: u8) -> Handed {
        Handed { worker, batch: Batch { seq: BatchSeq(seq), ops: vec![put(key)] } }
    }

    fn taken(mailbox: &Mailbox) -> Vec<Input> {
        let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(mailbox.take(PATIENCE)).inputs
    }

    /// The batches that a worker is told of, once it is told something.
    fn persisted(mailbox: &Mailbox) -> Vec<u64> {
        let inputs = taken(mailbox).into_iter();
        let seq = |input| match input {
            Input::Persisted(seq) => seq.0,
            other => panic!("the disk says {other:?}"),
        };
        inputs.map(seq).collect()
    }

    /// A disk that keeps count of its writes.
    #[derive(Clone, Default)]
    struct Counting(Arc<Mutex<Vec<Vec<WriteOp>>>>);

    impl Disk for Counting {
        fn write(&mut self, ops: &[WriteOp], sync: bool) -> Result<(), DiskError> {
            assert!(sync, "each write is synced");
            self.0.lock().expect("no test panics here").push(ops.to_vec());
            Ok(())
        }

        fn get(&self, _: Family, _: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
            unreachable!("it is only written")
        }

        fn scan(&self, _: Family, _: &[u8], _: &[u8]) -> Result<Vec<Pair>, DiskError> {
            unreachable!("it is only written")
        }
    }

    /// A worker writes, and holds the disk up: whatever the others hand over meanwhile is written once,
    /// synced once, and each hears of its own.
    #[test]
    fn batches_that_wait_are_written_as_one_and_each_worker_hears_of_its_own() {
        let disk = Counting::default();
        let writer = writer(disk.clone());
        let mailboxes: Vec<_> = (0..3).map(|_| Arc::new(Mailbox::default())).collect();
        let (batches, queue) = mpsc::channel();
        std::thread::scope(|scope| {
            let writing = writer.disk.lock().expect("nobody else has it");
            assert!(!writer.try_write(&[put(9)]), "another worker writes");
            batches.send(handed(2, 7, 1)).expect("the queue is there");
            batches.send(handed(0, 4, 2)).expect("the queue is there");
            batches.send(handed(1, 7, 3)).expect("the queue is there");
            let (writer, mailboxes) = (&writer, &mailboxes);
            scope.spawn(move || run(writer, &queue, mailboxes));
            assert!(mailboxes.iter().all(|mailbox| mailbox.is_empty()), "nothing is durable yet");
            writer.write(writing, &[put(8)]);
            let heard: Vec<_> = mailboxes.iter().map(|mailbox| persisted(mailbox)).collect();
            assert_eq!(heard, [vec![4], vec![7], vec![7]]);
            assert!(writer.try_write(&[put(9)]), "nobody writes");
            batches.send(handed(0, 5, 4)).expect("the queue is there");
            assert_eq!(persisted(&mailboxes[0]), [5]);
            drop(batches);
        });
        let written = disk.0.lock().expect("no test panics here");
        let expected = [vec![put(8)], vec![put(1), put(2), put(3)], vec![put(9)], vec![put(4)]];
        assert_eq!(*written, expected);
    }

    /// Three batches for the disk thread, one by one. Writes the number of each that is reported
    /// as persisted.
    fn write_three(failing_operation: u64, mut reported: impl FnMut(u64)) {
        let mut disk = SimDisk::default();
        disk.fail_nth(failing_operation);
        let writer = writer(disk);
        let mailboxes = [Arc::new(Mailbox::default())];
        let (batches, queue) = mpsc::channel();
        std::thread::scope(|scope| {
            let (writer, mailboxes) = (&writer, &mailboxes);
            scope.spawn(move || run(writer, &queue, mailboxes));
            for number in 1..=3 {
                let op = WriteOp::Put(Family::Raft, vec![1], vec![2]);
                let batch = Batch { seq: BatchSeq(number), ops: vec![op] };
                batches.send(Handed { worker: 0, batch }).expect("the thread waits for it");
                for input in taken(&mailboxes[0]) {
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
