//! A store with several workers on one simulated disk, as the edge puts them together: a table that
//! routes, a mailbox for each worker, and one disk that writes what waits as one.

use std::{num::NonZeroUsize, time::Duration};

use sharklock_dataserver::{
    Assignment, Input, LinkId, LockRange, MemoryBounds, Outputs, Pace, Whereabouts, Worker,
};
use sharklock_multiraft::{
    Batch, Config, Disk, LogLimits, RecoverError, SimDisk, Store, StoreIdent, init_store,
};
use sharklock_proto::{
    ClusterId, Identity,
    internal::v1::{StoreCall, StoreReply},
};
use sharklock_rangemap::{RangeId, StoreId};

pub const LINK: LinkId = LinkId(1);

pub struct Node {
    pub disk: SimDisk,
    pub workers: Vec<Worker>,
    pub table: Assignment,
    mail: Vec<Vec<Input>>,
    /// Batches that wait for the disk, of each worker one at most.
    waiting: Vec<(usize, Batch)>,
    pub replies: Vec<StoreReply>,
    /// What the table was told, of all workers.
    pub told: Vec<(usize, Whereabouts)>,
}

impl Node {
    pub fn new(store: u64, workers: usize) -> Self {
        let mut disk = SimDisk::default();
        let ident = StoreIdent {
            cluster_id: ClusterId::from_bytes([1; 16]),
            store: StoreId(store),
            ident: Identity::from_bytes([store as u8; 16]),
        };
        disk.write(&init_store(&ident), true).expect("a fresh disk");
        Self::on(disk, workers, Duration::ZERO).expect("a fresh store")
    }

    /// The store that is on a disk.
    pub fn on(disk: SimDisk, workers: usize, now: Duration) -> Result<Self, RecoverError> {
        let log = LogLimits { entries_floor: 4, entries_max: 32, ..LogLimits::default() };
        let config = Config { log, piece_rows: 1, ..Config::default() };
        let count = NonZeroUsize::new(workers).expect("some");
        let shares = Store::<LockRange>::recover_shares(config, &disk, count)?;
        let mut table = Assignment::new(count);
        shares.iter().enumerate().for_each(|(worker, share)| table.begin(worker, share.held()));
        let worker = |(number, share)| {
            Worker::new(now, share, Pace::default())
                .with_number(number)
                .with_memory_bounds(MemoryBounds::default())
        };
        Ok(Self {
            disk,
            workers: shares.into_iter().enumerate().map(worker).collect(),
            table,
            mail: (0..workers).map(|_| Vec::new()).collect(),
            waiting: Vec::new(),
            replies: Vec::new(),
            told: Vec::new(),
        })
    }

    /// The power is lost while so many of the waiting batches are being written as one, which the disk
    /// then has or not; it comes back with so many workers.
    pub fn lose_power(
        &mut self,
        writing: usize,
        is_kept: bool,
        workers: usize,
        now: Duration,
    ) -> Result<(), RecoverError> {
        let ops = self.waiting.drain(..).take(writing).flat_map(|(_, batch)| batch.ops);
        let ops: Vec<_> = ops.collect();
        let mut disk = std::mem::take(&mut self.disk);
        disk.write(&ops, false).expect("no fault is planned");
        disk.crash_keeping(usize::from(is_kept));
        *self = Self::on(disk, workers, now)?;
        Ok(())
    }

    /// What arrives for the store.
    pub fn receive(&mut self, input: Input) {
        for (worker, input) in self.table.route(input) {
            self.mail[worker].push(input);
        }
    }

    pub fn calls(&mut self, calls: Vec<StoreCall>) {
        self.receive(Input::Calls { link: LINK, queued: Duration::ZERO, calls });
    }

    /// A turn of one worker. What it has for other stores comes back.
    pub fn turn(&mut self, worker: usize, now: Duration) -> Outputs {
        let it = &mut self.workers[worker];
        for input in std::mem::take(&mut self.mail[worker]) {
            it.handle(now, input);
        }
        let mut outputs = it.end_turn(now, 1_700_000_000_000, true);
        for told in std::mem::take(&mut outputs.whereabouts) {
            self.told.push((worker, told.clone()));
            if let Some(Input::Buried { range, peer }) = self.table.follow(worker, told) {
                let others = (0..self.mail.len()).filter(|other| *other != worker);
                others.for_each(|other| self.mail[other].push(Input::Buried { range, peer }));
            }
        }
        self.waiting.extend(outputs.batch.take().map(|batch| (worker, batch)));
        for chore in std::mem::take(&mut outputs.chores) {
            if let Some(done) = chore.run(&self.disk) {
                self.mail[worker].push(Input::ChoreDone(Box::new(done)));
            }
        }
        let replies = std::mem::take(&mut outputs.replies);
        self.replies.extend(replies.into_iter().flat_map(|(_, replies)| replies));
        outputs
    }

    /// The disk writes so many of the batches that wait as one.
    pub fn write(&mut self, count: usize) {
        let mut ops = Vec::new();
        let mut seqs = Vec::new();
        for (worker, mut batch) in self.waiting.drain(..count.min(self.waiting.len())) {
            ops.append(&mut batch.ops);
            seqs.push((worker, batch.seq));
        }
        if seqs.is_empty() {
            return;
        }
        self.disk.write(&ops, true).expect("no fault is planned");
        seqs.into_iter().for_each(|(worker, seq)| self.mail[worker].push(Input::Persisted(seq)));
    }

    pub fn has_mail(&self) -> bool {
        !self.waiting.is_empty() || self.mail.iter().any(|mail| !mail.is_empty())
    }

    pub fn worker_of(&self, range: RangeId) -> Option<&Worker> {
        self.workers.iter().find(|worker| worker.store().descriptor(range).is_some())
    }

    /// The ranges that are here, and whose workers they are.
    pub fn ranges(&self) -> Vec<(RangeId, usize)> {
        let of_worker = |(number, worker): (usize, &Worker)| {
            worker.store().ranges().into_iter().map(move |range| (range, number))
        };
        let mut ranges: Vec<_> = self.workers.iter().enumerate().flat_map(of_worker).collect();
        ranges.sort();
        ranges
    }
}
