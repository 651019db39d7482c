//! A data server as shipped: the worker over its store, driven as the edge's worker thread drives
//! it: mail is drained whole, a turn ends, one batch is in flight, a small one is written in place.

use std::collections::BTreeMap;
use std::time::Duration;

use sharklock_dataserver::{Input, LinkId, LockRange, Outputs, Pace, Worker};
use sharklock_gateway::Lane;
use sharklock_locktable::{FEATURE_LEVEL, LockTable, Token};
use sharklock_multiraft::{
    Batch, Config, Disk, Effects, LogLimits, RaftRole, ReplicaStatus, SimDisk, SnapshotLimits,
    Store, StoreIdent, init_store,
};
use sharklock_proto::{ClusterId, Identity, internal::v1::StoreCall};
use sharklock_rangemap::{Descriptor, RangeId, StoreId};

use crate::clock::DriftingClock;
use crate::dice::Dice;
use crate::heart::Heart;
use crate::options::Options;
use crate::streams::ConnId;

/// As in the edge's worker thread: a batch of so many operations is written in place.
const INLINE_OPS_MAX: usize = 2;

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
}

/// A life of a data server.
pub struct Process {
    /// The core.
    pub worker: Worker,
    /// The clock's reading at the start.
    born: Duration,
    internal: Vec<Input>,
    urgent: Vec<Waiting>,
    ordinary: Vec<Waiting>,
    /// On its way to the disk, and whether the worker itself waits for it.
    pub in_flight: Option<(Batch, bool)>,
    /// That batch is on the disk, and the worker that waited for it stands still.
    pub written_in_pause: bool,
    /// The next turn: only the event with this number counts.
    pub turn: u64,
    /// When it is planned.
    pub turn_at: Option<u64>,
    /// Snapshots that it has been seen to install.
    pub installed: u64,
    /// Gateways that are connected.
    pub links: BTreeMap<LinkId, ConnId>,
    last_link: u64,
}

/// Calls in the mailbox.
struct Waiting {
    link: LinkId,
    arrived: Duration,
    calls: Vec<StoreCall>,
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
    }

    /// Serves what the disk has.
    ///
    /// # Errors
    ///
    /// If the disk cannot be recovered, which no crash may cause.
    pub fn start(&mut self, now_ns: u64, options: &Options, seed: u64) -> Result<(), String> {
        let config = engine_config(options, seed ^ self.number as u64);
        let store = Store::<LockRange>::recover(config, &self.disk)
            .map_err(|error| format!("s{} does not recover: {error}", self.number))?;
        let pace = Pace {
            flush: Duration::from_millis(options.flush_ms),
            leases_per_turn: options.leases_per_turn as usize,
            ..Pace::default()
        };
        self.process = Some(Process {
            worker: Worker::new(Duration::ZERO, store, pace),
            born: self.clock.read(now_ns),
            internal: Vec::new(),
            urgent: Vec::new(),
            ordinary: Vec::new(),
            in_flight: None,
            written_in_pause: false,
            turn: 0,
            turn_at: None,
            installed: 0,
            links: BTreeMap::new(),
            last_link: 0,
        });
        Ok(())
    }

    /// The process ends. A machine that loses power loses what was not synced, all or a part of
    /// it; a process that is killed loses nothing that was written. The batch on its way may have
    /// been written or not, never in part (its record in the log has a checksum).
    pub fn end(&mut self, power_lost: bool, dice: &mut Dice) -> Option<Process> {
        self.heart = None;
        let process = self.process.take()?;
        let in_flight = process.in_flight.as_ref().map(|(batch, _)| batch);
        end_disk(&mut self.disk, in_flight, power_lost, dice);
        Some(process)
    }

    /// What the process's clock reads.
    pub fn now(&self, now_ns: u64) -> Duration {
        let born = self.process.as_ref().map_or(Duration::ZERO, |process| process.born);
        self.clock.read(now_ns) - born
    }

    /// When the worker wants its next turn: at once where there is mail.
    pub fn wakes_at(&self, now_ns: u64, turn_ns: u64) -> Option<u64> {
        let process = self.process.as_ref()?;
        if process.in_flight.as_ref().is_some_and(|(_, inline)| *inline) {
            return None;
        }
        if process.has_mail() {
            return Some(now_ns + turn_ns);
        }
        let due = self.clock.when(process.born + process.worker.next_wakeup());
        due.map(|due| due.max(now_ns + turn_ns))
    }

    /// The ranges of which it has a replica; none while it is down.
    pub fn ranges(&self) -> Vec<RangeId> {
        self.process.as_ref().map_or(Vec::new(), |process| process.worker.store().ranges())
    }

    /// How its replica of a range stands.
    pub fn status(&self, range: RangeId) -> Option<ReplicaStatus> {
        self.process.as_ref()?.worker.store().status(range)
    }

    /// What a range is, as far as its replica here has applied.
    pub fn descriptor(&self, range: RangeId) -> Option<&Descriptor> {
        self.process.as_ref()?.worker.store().descriptor(range)
    }

    /// Whether it leads some range as Raft sees it, answering or not.
    pub fn is_leader(&self) -> bool {
        let leads = |range| self.status(range).is_some_and(|it| it.role == RaftRole::Leader);
        self.ranges().into_iter().any(leads)
    }

    /// Whether it leads a range and answers for it.
    pub fn answers(&self, range: RangeId) -> bool {
        self.process.as_ref().is_some_and(|process| process.worker.leads(range))
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
        let left = process.worker.lease_left(now, range, hold)?;
        self.clock.when(process.born + now + left)
    }

    /// Snapshots installed since the last call.
    pub fn take_installed(&mut self) -> u64 {
        let Some(process) = &mut self.process else { return 0 };
        let installed = process.worker.store().snapshot_stats().installed;
        installed - std::mem::replace(&mut process.installed, installed)
    }

    /// The locks of a range as its replica here has applied them.
    pub fn table(&self, range: RangeId) -> Option<&LockTable> {
        Some(self.process.as_ref()?.worker.store().machine(range)?.table())
    }

    /// Counts the stalls that its worker has credited since the last call.
    pub fn take_stalls(&mut self) -> u64 {
        let Some(process) = &self.process else { return 0 };
        let stalls = process.worker.stats().stalls;
        let more = stalls - std::mem::replace(&mut self.stalls_known, stalls);
        self.stalls += more;
        more
    }

    /// Counts the commands of entries whose range was split in front of them since the last call.
    pub fn take_moved(&mut self) -> u64 {
        let Some(process) = &self.process else { return 0 };
        let moved = process.worker.stats().moved;
        moved - std::mem::replace(&mut self.moved_known, moved)
    }

    /// One turn of the worker.
    pub fn take_turn(&mut self, now_ns: u64, wall_ms: u64) -> Outputs {
        let now = self.now(now_ns);
        let Some(process) = &mut self.process else { return Outputs::default() };
        for input in process.take_mail(now) {
            process.worker.handle(now, input);
        }
        process.worker.end_turn(now, wall_ms, true)
    }

    /// The disk has the batch in flight. The worker that has waited for it goes on at once and
    /// hands out what it then wants.
    ///
    /// # Errors
    ///
    /// If the write fails: the process must end.
    pub fn written(&mut self, now_ns: u64, wall_ms: u64) -> Result<Option<Outputs>, String> {
        let now = self.now(now_ns);
        let process = self.process.as_mut().expect("a batch is in flight only while it lives");
        let (batch, inline) = process.in_flight.take().expect("the disk writes what it was given");
        if let Err(error) = self.disk.write(&batch.ops, true) {
            process.in_flight = Some((batch, inline));
            return Err(error.to_string());
        }
        if !inline {
            process.internal.push(Input::Persisted(batch.seq));
            return Ok(None);
        }
        process.worker.handle(now, Input::Persisted(batch.seq));
        Ok(Some(process.worker.end_turn(now, wall_ms, false)))
    }
}

impl Process {
    /// A gateway connects.
    pub fn connect(&mut self, conn: ConnId) {
        self.last_link += 1;
        self.links.insert(LinkId(self.last_link), conn);
    }

    /// A gateway's connection is gone.
    pub fn disconnect(&mut self, conn: ConnId) {
        let Some((&link, _)) = self.links.iter().find(|(_, known)| **known == conn) else { return };
        self.links.remove(&link);
        self.internal.push(Input::LinkClosed(link));
    }

    /// Something for the worker beside calls.
    pub fn post_internal(&mut self, input: Input) {
        self.internal.push(input);
    }

    /// Calls of a gateway.
    pub fn post(&mut self, arrived: Duration, conn: ConnId, lane: Lane, calls: Vec<StoreCall>) {
        let Some((&link, _)) = self.links.iter().find(|(_, known)| **known == conn) else { return };
        let waiting = Waiting { link, arrived, calls };
        match lane {
            Lane::Urgent => self.urgent.push(waiting),
            Lane::Ordinary => self.ordinary.push(waiting),
        }
    }

    /// The calls in the mailbox, in the order in which the worker will take them.
    pub fn calls(&self) -> impl Iterator<Item = &StoreCall> {
        self.urgent.iter().chain(&self.ordinary).flat_map(|waiting| &waiting.calls)
    }

    /// Whether a batch of this size is written by the worker itself: nobody waits behind it.
    pub fn writes_in_place(&self, batch: &Batch) -> bool {
        batch.ops.len() <= INLINE_OPS_MAX && !self.has_mail()
    }

    fn has_mail(&self) -> bool {
        !(self.internal.is_empty() && self.urgent.is_empty() && self.ordinary.is_empty())
    }

    fn take_mail(&mut self, now: Duration) -> Vec<Input> {
        let mut inputs = std::mem::take(&mut self.internal);
        let urgent = std::mem::take(&mut self.urgent);
        let ordinary = std::mem::take(&mut self.ordinary);
        inputs.extend(urgent.into_iter().chain(ordinary).map(|waiting| Input::Calls {
            link: waiting.link,
            queued: now.saturating_sub(waiting.arrived),
            calls: waiting.calls,
        }));
        inputs
    }
}

/// The engine's bounds as the options say.
pub fn engine_config(options: &Options, election_seed: u64) -> Config {
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
    Config { election_seed, log: LogLimits { entries_floor, entries_max, ..shipped }, snapshots }
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
pub fn end_disk(disk: &mut SimDisk, in_flight: Option<&Batch>, power_lost: bool, dice: &mut Dice) {
    // A batch whose write failed counts as unsynced already.
    let torn = in_flight.filter(|_| !disk.has_failed());
    if let Some(batch) = torn.filter(|_| dice.one_in(2)) {
        disk.write(&batch.ops, false).expect("no fault is planned");
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
