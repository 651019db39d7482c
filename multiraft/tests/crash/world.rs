//! Stores that run piece by piece, so that they can be stopped between any two.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use sharklock_multiraft::{
    Batch, Chore, Config, Disk as _, Effects, Family, LogLimits, ReplicaStatus, RoleChange,
    RoleNow, SimDisk, SnapshotLimits, Store, StoreIdent, WriteOp, bootstrap,
};
use sharklock_proto::{
    ClusterId, Identity,
    internal::v1::{Heartbeats, RangeMessage, SnapshotMessage},
};
use sharklock_rangemap::{Bounds, Descriptor, Epoch, PeerId, RangeId, Replica, Role, StoreId};

use twox_hash::XxHash3_64;

use crate::oracle::{self, Oracle, Promise};
use crate::tally::Tally;

pub const RANGE: RangeId = RangeId(7);
/// A log that reaches back as far as anybody is ever away.
pub const LOG_MAX: u64 = 64;

/// The crash that is planned, and how much of the unsynced writes is left.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Plan {
    Nothing,
    /// The store dies behind its piece number `at`.
    CrashOne {
        store: u64,
        at: u64,
        keep: Keep,
    },
    /// All lose power behind the piece number `at` of them all.
    CrashAll {
        at: u64,
        keep: Keep,
    },
    /// The store's disk operation number `at` fails, and it dies of that.
    Fail {
        store: u64,
        at: u64,
        keep: Keep,
    },
    /// Behind about one in 40 pieces the store dies, or all do.
    Storm {
        seed: u64,
    },
}

/// How many of its unsynced writes a disk keeps in a crash.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Keep {
    First(usize),
    /// Another number for each store and number.
    Mixed(u64),
}

/// When disks are done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// Before anything leaves that the same turn handed out.
    Fast,
    /// Behind it, and after a further turn with what came meanwhile.
    Late,
    /// As late, and one disk after the other does nothing at all for a second.
    Stalling,
}

#[derive(Clone, Debug)]
enum Packet {
    Message(Box<RangeMessage>),
    Heartbeats(Heartbeats),
    Snapshot(Box<SnapshotMessage>),
}

struct Life {
    store: Store<Tally>,
    leads: bool,
    batch: Option<Batch>,
    /// Run before its next turn.
    chores: Vec<Chore<Tally>>,
}

impl Life {
    fn status(&self) -> ReplicaStatus {
        self.store.status(RANGE).expect("the range is there")
    }

    fn machine(&self) -> &Tally {
        self.store.machine(RANGE).expect("the range is there")
    }
}

pub struct World {
    lives: BTreeMap<u64, Life>,
    disks: BTreeMap<u64, SimDisk>,
    /// Stores that no message reaches or leaves.
    pub isolated: BTreeSet<u64>,
    /// Isolated, too, from the crash on: the others must do with what those have that crashed.
    pub shunned: Option<u64>,
    transit: VecDeque<Packet>,
    pub oracle: Oracle,
    plan: Plan,
    pace: Pace,
    ticks: u64,
    /// The length from which logs are cut whoever still needs them.
    log_max: u64,
    /// Snapshots that stores have installed.
    pub installed: u64,
    /// Pieces so far, by store; 0 for all.
    pieces: BTreeMap<u64, u64>,
    /// Behind which kind of piece the plan struck, and how many unsynced writes there were.
    pub struck: Option<(&'static str, usize)>,
    /// How often a storm has struck a store.
    pub crashes: usize,
    /// Every promise is compared with the disk when it leaves.
    pub compare_promises: bool,
    pub promises: usize,
}

/// The store, or another with it, is gone.
pub struct Crashed;

impl World {
    pub fn new(stores: u64, plan: Plan, pace: Pace, log_max: u64) -> Self {
        let mut world = Self {
            lives: BTreeMap::new(),
            disks: BTreeMap::new(),
            isolated: BTreeSet::new(),
            shunned: None,
            transit: VecDeque::new(),
            oracle: Oracle::default(),
            plan,
            pace,
            ticks: 0,
            log_max,
            installed: 0,
            pieces: BTreeMap::new(),
            struck: None,
            crashes: 0,
            compare_promises: false,
            promises: 0,
        };
        for store in 1..=stores {
            let mut disk = SimDisk::default();
            disk.write(&bootstrap(&ident(store), &descriptor(stores)), true).unwrap();
            world.disks.insert(store, disk);
            world.arm(store);
            world.recover(store);
        }
        world
    }

    pub fn stores(&self) -> Vec<u64> {
        self.disks.keys().copied().collect()
    }

    /// Plans the failure of an operation, which a crash forgets.
    fn arm(&mut self, store: u64) {
        let disk = self.disks.get_mut(&store).expect("every store has a disk");
        if let Plan::Fail { store: failing, at, .. } = self.plan
            && failing == store
            && self.struck.is_none()
        {
            // The bootstrap was the first operation.
            disk.fail_nth((at + 1).saturating_sub(disk.operations()));
        }
    }

    /// The storm is over.
    pub fn calm(&mut self) {
        if let Plan::Storm { .. } = self.plan {
            self.plan = Plan::Nothing;
        }
    }

    /// Starts a store that is down. Its disk may fail, and it stays down.
    pub fn recover(&mut self, store: u64) {
        let log = LogLimits { entries_floor: 4, entries_max: self.log_max, bytes_max: 1 << 20 };
        let snapshots =
            SnapshotLimits { chunk_bytes: 24, window_bytes: 48, ..SnapshotLimits::default() };
        let disk = &self.disks[&store];
        match Store::recover(Config { log, snapshots, piece_rows: 1 }, disk) {
            Ok(recovered) => {
                let life = Life { store: recovered, leads: false, batch: None, chores: Vec::new() };
                // The disk is read with nothing planned.
                let mut quiet = disk.clone();
                quiet.crash();
                self.oracle.recovered(100 + store, &life.status(), life.machine(), &quiet);
                self.lives.insert(store, life);
            }
            Err(error) => {
                assert!(disk.has_failed(), "a crash leaves a store that recovers: {error}");
                self.failed(store, "recovery");
            }
        }
    }

    /// The process has ended; what its disk kept is there at the next start.
    fn crash(&mut self, store: u64, keep: Keep) {
        self.lives.remove(&store);
        let disk = self.disks.get_mut(&store).expect("every store has a disk");
        let kept = match keep {
            Keep::First(kept) => kept,
            Keep::Mixed(seed) => (seed ^ (store * 7)) as usize % (disk.unsynced_writes() + 1),
        };
        disk.crash_keeping(kept);
        self.arm(store);
    }

    /// A power loss of the script.
    pub fn restart(&mut self, store: u64) {
        if self.lives.contains_key(&store) {
            self.crash(store, Keep::First(0));
            self.recover(store);
        }
    }

    pub fn recover_all(&mut self) {
        for store in self.stores() {
            if !self.lives.contains_key(&store) {
                self.recover(store);
            }
        }
    }

    fn failed(&mut self, store: u64, kind: &'static str) {
        let Plan::Fail { keep, .. } = self.plan else { panic!("no fault was planned") };
        let unsynced = self.disks[&store].unsynced_writes();
        assert_eq!(self.struck.replace((kind, unsynced)), None, "one fault was planned");
        self.crash(store, keep);
    }

    /// A piece of the store's work is done: here the plan may strike.
    fn piece(&mut self, store: u64, kind: &'static str) -> Result<(), Crashed> {
        let count = |pieces: &mut BTreeMap<u64, u64>, of: u64| {
            let count = pieces.entry(of).or_insert(0);
            *count += 1;
            *count
        };
        let (own, all) = (count(&mut self.pieces, store), count(&mut self.pieces, 0));
        match self.plan {
            Plan::CrashOne { store: victim, at, keep } if victim == store && at == own => {
                self.struck = Some((kind, self.disks[&store].unsynced_writes()));
                self.crash(store, keep);
                Err(Crashed)
            }
            Plan::CrashAll { at, keep } if at == all => {
                let unsynced = self.disks.values().map(SimDisk::unsynced_writes).max();
                self.struck = Some((kind, unsynced.unwrap_or(0)));
                for victim in self.stores() {
                    self.crash(victim, keep);
                }
                Err(Crashed)
            }
            Plan::Storm { seed } if hash(seed, all).is_multiple_of(40) => {
                let draw = hash(seed, all) / 40;
                let victims = if draw.is_multiple_of(4) { self.stores() } else { vec![store] };
                let unsynced = |victim: &u64| self.disks[victim].unsynced_writes();
                self.struck = Some((kind, victims.iter().map(unsynced).sum()));
                self.crashes += victims.len();
                victims.into_iter().for_each(|victim| self.crash(victim, Keep::Mixed(draw)));
                Err(Crashed)
            }
            _ => Ok(()),
        }
    }

    fn turn(&mut self, store: u64) -> Result<(), Crashed> {
        let Some(life) = self.lives.get_mut(&store) else { return Ok(()) };
        for chore in std::mem::take(&mut life.chores) {
            if let Some(done) = chore.run(&self.disks[&store]) {
                life.store.chore_done(done);
            }
        }
        let mut effects = Effects::default();
        life.store.turn(&mut effects);
        life.chores = life.store.take_chores();
        if let Some(batch) = effects.batch.take() {
            let kind = kind_of(&batch).0;
            assert!(life.batch.replace(batch).is_none(), "one batch at a time");
            self.piece(store, kind)?;
            if self.pace == Pace::Fast {
                self.write(store)?;
            }
        }
        for message in std::mem::take(&mut effects.messages) {
            self.send(store, message)?;
        }
        for beats in std::mem::take(&mut effects.heartbeats) {
            self.transit.push_back(Packet::Heartbeats(beats));
            self.piece(store, "heartbeats sent")?;
        }
        for piece in std::mem::take(&mut effects.snapshots) {
            self.transit.push_back(Packet::Snapshot(Box::new(piece)));
            self.piece(store, "piece of a snapshot sent")?;
        }
        self.report(store, &effects)
    }

    fn send(&mut self, store: u64, message: RangeMessage) -> Result<(), Crashed> {
        let promise = oracle::promise(&message);
        if let Some(promise) = promise.as_ref().filter(|_| self.compare_promises) {
            self.promises += 1;
            let mut disk = self.disks[&store].clone();
            disk.crash();
            oracle::check_promise(promise, &disk);
        }
        self.oracle.sent(&message);
        self.transit.push_back(Packet::Message(Box::new(message)));
        self.piece(
            store,
            match promise {
                None => "message sent",
                Some(Promise::Vote { .. }) => "vote released",
                Some(Promise::Log { .. }) => "acknowledgement released",
            },
        )
    }

    fn report(&mut self, store: u64, effects: &Effects<u64>) -> Result<(), Crashed> {
        for applied in &effects.applied {
            let leads = self.lives[&store].leads;
            if self.compare_promises {
                self.promises += 1;
                self.check_majority(applied.at.index, applied.at.term);
            }
            self.oracle.applied(applied, leads);
            self.piece(store, "entry reported")?;
        }
        let life = self.lives.get_mut(&store).expect("it was not struck");
        if let Some(RoleChange { role, .. }) = effects.roles.last() {
            life.leads = matches!(role, RoleNow::Leader { .. });
        }
        self.oracle.stands(100 + store, &life.status(), life.machine());
        Ok(())
    }

    /// An entry is reported only if most disks have it for good.
    fn check_majority(&self, index: u64, term: u64) {
        let has = |disk: &&SimDisk| {
            let mut disk = (*disk).clone();
            disk.crash();
            let log = oracle::log(&disk);
            let first = log.first().map_or(u64::MAX, |entry| entry.index);
            index < first || log.iter().any(|entry| (entry.index, entry.term) == (index, term))
        };
        let having = self.disks.values().filter(has).count();
        assert!(2 * having > self.disks.len(), "entry {index} is on {having} disks");
    }

    /// The disk takes the batch of the store, if there is one.
    fn write(&mut self, store: u64) -> Result<(), Crashed> {
        let Some(batch) = self.lives.get_mut(&store).and_then(|life| life.batch.take()) else {
            return Ok(());
        };
        let (_, written, synced, persisted) = kind_of(&batch);
        let disk = self.disks.get_mut(&store).expect("every store has a disk");
        if disk.write(&batch.ops, false).is_err() {
            return self.dies_of(store, "write");
        }
        self.piece(store, written)?;
        let disk = self.disks.get_mut(&store).expect("every store has a disk");
        if disk.sync().is_err() {
            return self.dies_of(store, "sync");
        }
        self.piece(store, synced)?;
        let life = self.lives.get_mut(&store).expect("it was not struck");
        life.store.persisted(batch.seq);
        self.installed += u64::from(persisted == "snapshot durable");
        self.piece(store, persisted)
    }

    /// A write has failed. Its owner ends the process; but if it went on for a while, nothing
    /// would come that the failed batch was to carry.
    fn dies_of(&mut self, store: u64, kind: &'static str) -> Result<(), Crashed> {
        let mut disk = self.disks[&store].clone();
        disk.crash();
        let durable = oracle::log(&disk).last().map_or(u64::MAX, |entry| entry.index);
        let mut life = self.lives.remove(&store).expect("it was writing");
        for _ in 0..30 {
            let mut effects = Effects::default();
            life.store.turn(&mut effects);
            assert_eq!(effects.batch, None, "a batch after one that failed");
            for applied in &effects.applied {
                assert!(applied.at.index <= durable, "reported, but not durable: {applied:?}");
            }
            for promise in effects.messages.iter().filter_map(oracle::promise) {
                oracle::check_promise(&promise, &disk);
            }
            life.store.tick();
        }
        self.failed(store, kind);
        Err(Crashed)
    }

    fn is_cut_off(&self, store: u64) -> bool {
        let shunned = self.shunned.filter(|_| self.struck.is_some());
        self.isolated.contains(&store) || shunned == Some(store)
    }

    fn deliver(&mut self) {
        for packet in std::mem::take(&mut self.transit) {
            let (from, to) = match &packet {
                Packet::Message(message) => (message.from_store, message.to_store),
                Packet::Heartbeats(beats) => (beats.from_store, beats.to_store),
                Packet::Snapshot(piece) => (piece.from_store, piece.to_store),
            };
            if self.is_cut_off(from) || self.is_cut_off(to) {
                continue;
            }
            let Some(life) = self.lives.get_mut(&to) else { continue };
            match packet {
                Packet::Message(message) => {
                    life.store.step(*message).expect("an honest message is taken");
                }
                Packet::Heartbeats(beats) => {
                    let dropped = life.store.step_heartbeats(beats);
                    assert!(dropped.is_empty(), "honest heartbeats are taken: {dropped:?}");
                }
                Packet::Snapshot(piece) => {
                    life.store.step_snapshot(*piece).expect("an honest piece is taken");
                }
            }
        }
    }

    fn stalls(&self, store: u64) -> bool {
        self.pace == Pace::Stalling && self.ticks / 10 % (self.disks.len() as u64 + 1) == store
    }

    /// Turns, delivers and writes until nothing moves.
    pub fn settle(&mut self) {
        loop {
            for store in self.stores() {
                let _crashed = self.turn(store);
            }
            let moved = !self.transit.is_empty();
            self.deliver();
            if self.pace != Pace::Fast {
                for store in self.stores() {
                    let _crashed = self.turn(store);
                }
            }
            let mut writing = false;
            for store in self.stores() {
                if self.stalls(store) {
                    continue;
                }
                writing |= self.lives.get(&store).is_some_and(|life| life.batch.is_some());
                let _crashed = self.write(store);
            }
            if !moved && !writing && self.transit.is_empty() {
                return;
            }
        }
    }

    pub fn tick(&mut self) {
        self.ticks += 1;
        self.lives.values_mut().for_each(|life| life.store.tick());
        self.settle();
    }

    /// The store that leads and that others reach.
    pub fn leader(&self) -> Option<u64> {
        let mut lives = self.lives.iter().filter(|(store, _)| !self.is_cut_off(**store));
        lives.find(|(_, life)| life.leads).map(|(store, _)| *store)
    }

    /// One that does not lead.
    pub fn follower(&self) -> Option<u64> {
        let leader = self.leader();
        self.stores().into_iter().find(|it| Some(*it) != leader)
    }

    pub fn has_short_logs(&self) -> bool {
        self.log_max < LOG_MAX
    }

    /// Proposes without waiting for anything. Nobody there who leads: nothing happens.
    pub fn propose(&mut self, store: Option<u64>, data: Vec<u8>) -> bool {
        let Some(life) = store.and_then(|store| self.lives.get_mut(&store)) else { return false };
        let Ok(proposed) = life.store.propose(RANGE, data.clone()) else { return false };
        self.oracle.proposed(proposed.index, proposed.term, data);
        true
    }

    pub fn flush(&mut self) {
        self.lives.values_mut().for_each(|life| life.store.flush());
    }

    /// Heals everything, and waits until all have all that was ever committed and one entry more.
    pub fn converge(&mut self) {
        self.isolated.clear();
        self.shunned = None;
        self.recover_all();
        self.settle();
        let mut proposed = false;
        for _ in 0..300 {
            self.tick();
            self.recover_all();
            proposed = proposed || self.propose(self.leader(), b"+end".to_vec());
            self.settle();
            let last = self.oracle.last_committed();
            if proposed && self.lives.len() == self.disks.len() {
                let mut applied = self.lives.values().map(|life| life.status().applied);
                if applied.all(|applied| applied >= last) {
                    return;
                }
            }
        }
        panic!("the stores did not converge");
    }
}

/// Any number, the same for the same two.
fn hash(seed: u64, number: u64) -> u64 {
    XxHash3_64::oneshot_with_seed(seed, &number.to_be_bytes())
}

/// The contents of a batch, by the names of its pieces: cut, written, synced, heard of.
fn kind_of(batch: &Batch) -> (&'static str, &'static str, &'static str, &'static str) {
    let meta = |tag: u8| {
        let is = |op: &WriteOp| matches!(op, WriteOp::Put(Family::Meta, key, _) if key[8] == tag);
        batch.ops.iter().any(is)
    };
    let entries = |op: &WriteOp| matches!(op, WriteOp::Put(Family::Raft, ..));
    let cut_off = |op: &WriteOp| matches!(op, WriteOp::DeleteRange(Family::Raft, ..));
    let truncation = meta(2);
    let rows_go = |op: &WriteOp| matches!(op, WriteOp::DeleteRange(Family::State, ..));
    match () {
        () if batch.ops.iter().any(rows_go) => {
            ("snapshot cut", "snapshot written", "snapshot synced", "snapshot durable")
        }
        () if truncation => {
            ("truncation cut", "truncation written", "truncation synced", "truncation durable")
        }
        () if meta(3) => ("image cut", "image written", "image synced", "image heard of"),
        () if batch.ops.iter().any(cut_off) => {
            ("new tail cut", "new tail written", "new tail synced", "new tail heard of")
        }
        () if batch.ops.iter().any(entries) => {
            ("entries cut", "entries written", "entries synced", "entries heard of")
        }
        () => ("vote cut", "vote written", "vote synced", "vote heard of"),
    }
}

fn ident(store: u64) -> StoreIdent {
    StoreIdent {
        cluster_id: ClusterId::from_bytes([9; 16]),
        store: StoreId(store),
        ident: Identity::from_bytes([store as u8; 16]),
    }
}

/// All names; peer `100 + n` lives on store `n`.
fn descriptor(stores: u64) -> Descriptor {
    let replica =
        |store| Replica { peer: PeerId(100 + store), store: StoreId(store), role: Role::Voter };
    Descriptor {
        range: RANGE,
        bounds: Bounds::ALL,
        epoch: Epoch { version: 1, conf_ver: 1 },
        replicas: (1..=stores).map(replica).collect(),
    }
}
