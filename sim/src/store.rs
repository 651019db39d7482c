//! A data server as shipped: the workers over its store, driven as the edge's threads drive them:
//! mail is drained whole, a turn ends, one batch of a worker is in flight, a small one is written in
//! place, and those that wait for the disk are written as one.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use sharklock_dataserver::{LockRange, Outputs, Pace, RANGES_MAX, SplitCounts, Worker};
use sharklock_locktable::{FEATURE_LEVEL, LockTable, Token};
use sharklock_multiraft::{
    Config, Disk, Effects, LogLimits, RaftRole, ReplicaStatus, SimDisk, SnapshotLimits, Store,
    StoreIdent, WriteOp, init_store,
};
use sharklock_proto::{ClusterId, Identity};
use sharklock_rangemap::{Descriptor, RangeId, StoreId};

use crate::clock::DriftingClock;
use crate::dice::Dice;
use crate::heart::Heart;
use crate::options::Options;
use crate::process::Process;

/// A data server's machine.
pub struct StoreNode {
    /// Counted from 1.
    pub number: usize,
    /// Its id in the cluster, once it has one.
    pub id: Option<StoreId>,
    /// The random identity of its directory.
    pub ident: Identity,
    /// What its disk says of itself, once it belongs to a cluster.
    pub known: Option<StoreIdent>,
    /// What it says to masters; there from the start of its process on, where there are masters.
    pub heart: Option<Heart>,
    /// Its clock.
    pub clock: DriftingClock,
    /// Its disk.
    pub disk: SimDisk,
    /// Which life of its process this is.
    pub life: u32,
    /// The process, while it lives.
    pub process: Option<Process>,
    /// Until when the process stands still.
    pub paused_until: u64,
    /// Until when its machine, with its clock, stands still.
    pub frozen_until: u64,
    /// Until when every write stalls.
    pub slow_until: u64,
    /// What its wall clock reads, beside what it should.
    pub wall_error_ms: u64,
    /// What was last seen of each of its replicas, and whether it answered.
    pub seen: BTreeMap<RangeId, (ReplicaStatus, bool)>,
    /// The version of each of its ranges, as last seen.
    pub versions: BTreeMap<RangeId, u64>,
    /// Stalls of this life that were counted.
    pub stalls_known: u64,
    /// Stalls of all lives.
    pub stalls: u64,
    /// Commands of this life that met a split and were counted.
    pub moved_known: u64,
    /// Splits of this life that were counted.
    pub splits_known: SplitCounts,
}

impl StoreNode {
    /// A store on a fresh disk, which belongs to no cluster yet.
    pub fn new(number: usize, clock: DriftingClock) -> Self {
        Self {
            number,
            id: None,
            ident: Identity::from_bytes([number as u8; 16]),
            known: None,
            heart: None,
            clock,
            disk: SimDisk::default(),
            life: 0,
            process: None,
            paused_until: 0,
            frozen_until: 0,
            slow_until: 0,
            wall_error_ms: 0,
            seen: BTreeMap::new(),
            versions: BTreeMap::new(),
            stalls_known: 0,
            stalls: 0,
            moved_known: 0,
            splits_known: SplitCounts::default(),
        }
    }

    /// From now on it is this store; a fresh disk gets its replicas of these ranges.
    pub fn is_founded(&mut self, ident: StoreIdent, ranges: &[Descriptor]) {
        self.id = Some(ident.store);
        if self.known.replace(ident).is_none() {
            let has_replica = |range: &&Descriptor| range.on_store(ident.store).is_some();
            found(&mut self.disk, &ident, ranges.iter().filter(has_replica));
        }
    }

    /// A life of the process begins. It does not serve yet.
    pub fn begin(&mut self) {
        self.paused_until = 0;
        self.life += 1;
        self.seen.clear();
        self.versions.clear();
        self.stalls_known = 0;
        self.moved_known = 0;
        self.splits_known = SplitCounts::default();
    }

    /// Serves what the disk has.
    ///
    /// # Errors
    ///
    /// If the disk cannot be recovered, which no crash may cause.
    pub fn start(
        &mut self,
        now_ns: u64,
        workers: NonZeroUsize,
        options: &Options,
    ) -> Result<(), String> {
        let config = engine_config(options);
        let shares = Store::<LockRange>::recover_shares(config, &self.disk, workers)
            .map_err(|error| format!("s{} does not recover: {error}", self.number))?;
        let pace = Pace {
            flush: Duration::from_millis(options.flush_ms),
            leases_per_turn: options.leases_per_turn as usize,
            ..Pace::default()
        };
        let ranges_max = match options.ranges_max {
            0 => RANGES_MAX,
            max => max as usize,
        };
        let worker = |(number, share)| {
            Worker::new(Duration::ZERO, share, pace)
                .with_number(number)
                .with_ranges_max(ranges_max)
                .with_split_limits(options.split_limits())
        };
        let workers = shares.into_iter().enumerate().map(worker).collect();
        self.process = Some(Process::new(self.clock.read(now_ns), workers));
        Ok(())
    }

    /// The process ends. A machine that loses power loses what was not synced, all or a part of
    /// it; a process that is killed loses nothing that was written. The batch on its way may have
    /// been written or not, never in part (its record in the log has a checksum).
    pub fn end(&mut self, power_lost: bool, dice: &mut Dice) -> Option<Process> {
        self.heart = None;
        let process = self.process.take()?;
        let writing = process.writing.as_ref().map(|writing| writing.ops());
        end_disk(&mut self.disk, writing.as_deref(), power_lost, dice);
        Some(process)
    }

    /// What the process's clock reads.
    pub fn now(&self, now_ns: u64) -> Duration {
        let born = self.process.as_ref().map_or(Duration::ZERO, |process| process.born);
        self.clock.read(now_ns) - born
    }

    /// When a worker wants its next turn: at once where there is mail. `None`: something else has to
    /// happen first.
    pub fn wakes_at(&self, worker: usize, now_ns: u64, turn_ns: u64) -> Option<u64> {
        let process = self.process.as_ref().filter(|it| it.may_take_turn(worker))?;
        let due = match process.wakes_at(worker) {
            Some(at) => self.clock.when(process.born + at)?,
            None => now_ns,
        };
        Some(due.max(now_ns + turn_ns))
    }

    /// The ranges of which it has a replica; none while it is down.
    pub fn ranges(&self) -> Vec<RangeId> {
        let cores = self.process.iter().flat_map(Process::cores);
        let mut ranges: Vec<_> = cores.flat_map(|core| core.store().ranges()).collect();
        ranges.sort();
        ranges
    }

    /// The worker that has a replica of a range.
    fn core(&self, range: RangeId) -> Option<&Worker> {
        let mut cores = self.process.as_ref()?.cores();
        cores.find(|core| core.store().descriptor(range).is_some())
    }

    /// How its replica of a range stands.
    pub fn status(&self, range: RangeId) -> Option<ReplicaStatus> {
        self.core(range)?.store().status(range)
    }

    /// What a range is, as far as its replica here has applied.
    pub fn descriptor(&self, range: RangeId) -> Option<&Descriptor> {
        self.core(range)?.store().descriptor(range)
    }

    /// Whether it leads some range as Raft sees it, answering or not.
    pub fn is_leader(&self) -> bool {
        let leads = |range| self.status(range).is_some_and(|it| it.role == RaftRole::Leader);
        self.ranges().into_iter().any(leads)
    }

    /// Whether it leads a range and answers for it.
    pub fn answers(&self, range: RangeId) -> bool {
        self.core(range).is_some_and(|core| core.leads(range))
    }

    /// The ranges for which it answers.
    pub fn led(&self) -> impl Iterator<Item = RangeId> {
        self.ranges().into_iter().filter(|range| self.answers(*range))
    }

    /// When the lease of a hold ends as this store counts, true time; `None` where it does not count,
    /// or stands still.
    pub fn lease_ends(&self, now_ns: u64, range: RangeId, hold: Token) -> Option<u64> {
        let process = self.process.as_ref()?;
        let now = self.now(now_ns);
        let left = self.core(range)?.lease_left(now, range, hold)?;
        self.clock.when(process.born + now + left)
    }

    /// Snapshots installed since the last call.
    pub fn take_installed(&mut self) -> u64 {
        let Some(process) = &mut self.process else { return 0 };
        let installed = process.cores().map(|core| core.store().snapshot_stats().installed).sum();
        installed - std::mem::replace(&mut process.installed, installed)
    }

    /// The locks of a range as its replica here has applied them.
    pub fn table(&self, range: RangeId) -> Option<&LockTable> {
        Some(self.core(range)?.store().machine(range)?.table())
    }

    /// Counts the stalls that its worker has credited since the last call.
    pub fn take_stalls(&mut self) -> u64 {
        let Some(process) = &self.process else { return 0 };
        let stalls = process.stats().stalls;
        let more = stalls - std::mem::replace(&mut self.stalls_known, stalls);
        self.stalls += more;
        more
    }

    /// Counts the commands of entries whose range was split in front of them since the last call.
    pub fn take_moved(&mut self) -> u64 {
        let Some(process) = &self.process else { return 0 };
        let moved = process.stats().moved;
        moved - std::mem::replace(&mut self.moved_known, moved)
    }

    /// What splits were made for, as far as was known at the last call, and as far as is known now.
    pub fn take_splits(&mut self) -> (SplitCounts, SplitCounts) {
        let Some(process) = &self.process else { return Default::default() };
        let splits = process.stats().splits;
        (std::mem::replace(&mut self.splits_known, splits), splits)
    }

    /// One turn of a worker.
    pub fn take_turn(&mut self, worker: usize, now_ns: u64, wall_ms: u64) -> Outputs {
        let now = self.now(now_ns);
        let Some(process) = &mut self.process else { return Outputs::default() };
        process.take_turn(worker, now, wall_ms)
    }

    /// The disk has what was being written. A worker that has waited for it goes on at once and hands
    /// out what it then wants.
    ///
    /// # Errors
    ///
    /// If the write fails: the process must end.
    pub fn written(
        &mut self,
        now_ns: u64,
        wall_ms: u64,
    ) -> Result<Option<(usize, Outputs)>, String> {
        let now = self.now(now_ns);
        let process = self.process.as_mut().expect("something is written only while it lives");
        let writing = process.writing.take().expect("the disk writes what it was given");
        if let Err(error) = self.disk.write(&writing.ops(), true) {
            process.writing = Some(writing);
            return Err(error.to_string());
        }
        Ok(process.persisted(writing, now, wall_ms))
    }
}

/// The engine's bounds as the options say.
pub fn engine_config(options: &Options) -> Config {
    let shipped = LogLimits::default();
    let entries_max = match options.log_max {
        0 => shipped.entries_max,
        max => max,
    };
    let entries_floor = options.log_floor.min(entries_max);
    let (chunk_bytes, slots) = (options.snapshot_chunk_bytes, options.snapshot_slots as usize);
    let snapshots = SnapshotLimits {
        chunk_bytes,
        window_bytes: chunk_bytes * options.snapshot_window_chunks,
        bytes_per_tick: Some(options.snapshot_tick_bytes).filter(|bytes| *bytes > 0),
        sending_max: slots,
        receiving_max: slots,
        ..SnapshotLimits::default()
    };
    let log = LogLimits { entries_floor, entries_max, ..shipped };
    // So few that splits take several turns.
    Config { log, snapshots, piece_rows: 16 }
}

/// Whose the disk of a store is that was made by hand.
pub fn ident_by_hand(number: usize) -> StoreIdent {
    StoreIdent {
        cluster_id: ClusterId::from_bytes([7; 16]),
        store: StoreId(number as u64),
        ident: Identity::from_bytes([number as u8; 16]),
    }
}

/// The process on a disk ends. A batch that is `in_flight` may have been written, and what was not
/// synced is lost with the power, as far as the dice say.
pub fn end_disk(
    disk: &mut SimDisk,
    in_flight: Option<&[WriteOp]>,
    power_lost: bool,
    dice: &mut Dice,
) {
    // A batch whose write failed counts as unsynced already.
    let torn = in_flight.filter(|_| !disk.has_failed());
    if let Some(ops) = torn.filter(|_| dice.one_in(2)) {
        disk.write(ops, false).expect("no fault is planned");
    }
    let unsynced = disk.unsynced_writes();
    let open = power_lost || disk.has_failed();
    let kept = if open { dice.below(unsynced as u64 + 1) as usize } else { unsynced };
    disk.crash_keeping(kept);
}

/// Turns a fresh disk into a store that has replicas of these ranges, made out of nothing.
fn found<'a>(disk: &mut SimDisk, ident: &StoreIdent, ranges: impl Iterator<Item = &'a Descriptor>) {
    let fresh = "no fault is planned on a fresh disk";
    disk.write(&init_store(ident), true).expect(fresh);
    let mut store = Store::<LockRange>::recover(Config::default(), disk).expect(fresh);
    for descriptor in ranges {
        let machine = LockRange::at_level(FEATURE_LEVEL).expect("this program's own");
        store.create(descriptor.clone(), machine).expect("ranges do not overlap");
    }
    let mut effects = Effects::default();
    store.turn(&mut effects);
    if let Some(batch) = effects.batch {
        disk.write(&batch.ops, true).expect(fresh);
    }
}
