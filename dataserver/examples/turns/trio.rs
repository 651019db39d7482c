//! Three workers in one thread, each on a RocksDB of its own, and the time that each takes.

use std::{collections::BTreeMap, time::Duration};

use rustix::time::{ClockId, clock_gettime};

use sharklock_dataserver::{Input, LinkId, LockRange, Outputs, Pace, Worker};
use sharklock_locktable::FEATURE_LEVEL;
use sharklock_multiraft::{
    Config, Disk as _, LogLimits, RocksDisk, SnapshotLimits, Split, Store, StoreIdent, init_store,
};
use sharklock_proto::{
    ClusterId, Identity,
    internal::v1::{StoreCall, store_call},
    v1,
};
use sharklock_rangemap::{Bounds, Descriptor, Epoch, PeerId, RangeId, Replica, Role, StoreId};
use tempfile::TempDir;

/// Acquires in one message of a gateway.
const CALLS: usize = 4_096;
const TICK: Duration = Duration::from_millis(100);

struct Machine {
    worker: Worker,
    disk: RocksDisk,
    _dir: TempDir,
    /// Since the last look.
    longest_turn: Duration,
    longest_write: Duration,
    longest_chore: Duration,
    turns: u64,
}

/// Three of them.
pub struct Trio {
    machines: BTreeMap<u64, Machine>,
    /// A store that nothing reaches.
    pub alone: Option<u64>,
    pub now: Duration,
}

impl Trio {
    pub fn new(locks: u64) -> Self {
        let machines = (1..=3).map(|store| (store, Machine::fresh(store, locks))).collect();
        let mut trio = Self { machines, alone: None, now: Duration::ZERO };
        (1..=3).for_each(|store| trio.tell(store, create()));
        trio
    }

    pub fn tell(&mut self, store: u64, input: Input) {
        let now = self.now;
        self.machines.get_mut(&store).expect("one of three").timed(|it| it.handle(now, input));
    }

    /// Turns, writes and deliveries until nothing moves.
    pub fn settle(&mut self) {
        let mut moves = true;
        while moves {
            moves = false;
            for store in 1..=3 {
                let now = self.now;
                let machine = self.machines.get_mut(&store).expect("one of three");
                let outputs = machine.timed(|it| it.end_turn(now, 1_700_000_000_000, true));
                machine.turns += 1;
                let is_busy = machine.worker.next_wakeup() <= now;
                moves |= self.carry(store, outputs) || is_busy;
            }
        }
    }

    fn carry(&mut self, from: u64, outputs: Outputs) -> bool {
        let now = self.now;
        let machine = self.machines.get_mut(&from).expect("one of three");
        let mut moves = outputs.batch.is_some() || !outputs.chores.is_empty();
        if let Some(batch) = outputs.batch {
            let begin = cpu();
            machine.disk.write(&batch.ops, true).expect("the disk works");
            machine.longest_write = machine.longest_write.max(cpu() - begin);
            machine.timed(|it| it.handle(now, Input::Persisted(batch.seq)));
        }
        for chore in outputs.chores {
            let begin = cpu();
            let done = chore.run(&machine.disk);
            machine.longest_chore = machine.longest_chore.max(cpu() - begin);
            if let Some(done) = done {
                machine.timed(|it| it.handle(now, Input::ChoreDone(Box::new(done))));
            }
        }
        let messages = outputs.messages.into_iter();
        let messages = messages.map(|it| (it.to_store, Input::Message(Box::new(it))));
        let beats = outputs.heartbeats.into_iter();
        let beats = beats.map(|it| (it.to_store, Input::Heartbeats(Box::new(it))));
        let pieces = outputs.snapshots.into_iter();
        let pieces = pieces.map(|it| (it.to_store, Input::Snapshots(vec![it])));
        for (to, input) in messages.chain(beats).chain(pieces).collect::<Vec<_>>() {
            if self.alone != Some(from) && self.alone != Some(to) {
                moves = true;
                self.tell(to, input);
            }
        }
        moves
    }

    pub fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now += TICK;
            self.settle();
        }
    }

    pub fn elect(&mut self) -> u64 {
        self.elect_other(0)
    }

    pub fn elect_other(&mut self, than: u64) -> u64 {
        for _ in 0..100 {
            self.pass(TICK);
            let leads = |it: &Machine| !it.worker.reports().is_empty();
            let mut leading =
                self.machines.iter().filter(|(store, it)| **store != than && leads(it));
            if let Some((store, _)) = leading.next() {
                return *store;
            }
        }
        panic!("nobody leads after ten seconds");
    }

    /// As many locks, each of a session of its own. Their leases outlast everything here.
    pub fn acquire(&mut self, store: u64, locks: u64) {
        let first = 1 + self.machines[&store].worker.stats().commands;
        let numbers: Vec<u64> = (first..first + locks).collect();
        self.ask(store, numbers.into_iter().map(acquire));
    }

    /// Hands calls to a store, and lets it answer.
    pub fn ask(&mut self, store: u64, calls: impl Iterator<Item = StoreCall>) {
        let calls: Vec<_> = calls.collect();
        for calls in calls.chunks(CALLS) {
            let calls = calls.to_vec();
            let input = Input::Calls { link: LinkId(1), queued: Duration::ZERO, calls };
            self.tell(store, input);
            self.settle();
        }
    }

    pub fn worker(&self, store: u64) -> &Worker {
        &self.machines[&store].worker
    }

    /// The names from one on become a range of their own.
    pub fn split(&mut self, leader: u64, at: String) {
        let split = Split {
            epoch: descriptor().epoch,
            key: at,
            child: RangeId(2),
            child_peers: (201..=203).map(PeerId).collect(),
        };
        self.tell(leader, Input::Split { range: RangeId(1), term: None, split });
        self.settle();
    }

    pub fn flush(&mut self) {
        self.machines.values_mut().for_each(|it| it.worker.flush());
        self.settle();
    }

    pub fn reset(&mut self) {
        for machine in self.machines.values_mut() {
            machine.longest_turn = Duration::ZERO;
            machine.longest_write = Duration::ZERO;
            machine.longest_chore = Duration::ZERO;
            machine.turns = 0;
        }
    }

    /// The longest turn of a store since the last [`reset`](Self::reset).
    pub fn longest(&self, store: u64) -> (Duration, Duration) {
        let machine = &self.machines[&store];
        (machine.longest_turn, machine.longest_write)
    }

    pub fn show(&mut self, locks: u64, what: &str, store: u64) {
        self.show_one(locks, what, store);
        self.reset();
    }

    pub fn show_one(&self, locks: u64, what: &str, store: u64) {
        let it = &self.machines[&store];
        let ms = |time: Duration| time.as_secs_f64() * 1_000.0;
        let (turn, write) = (ms(it.longest_turn), ms(it.longest_write));
        let (chore, turns) = (ms(it.longest_chore), it.turns);
        println!(
            "{locks:8} | {what:29} | {turn:9.1} ms | {turns:5} | {write:5.0} ms | {chore:5.0} ms"
        );
    }
}

impl Machine {
    fn fresh(store: u64, locks: u64) -> Self {
        let dir = TempDir::new().expect("there is room");
        let mut disk = RocksDisk::open(dir.path()).expect("a fresh directory");
        let ident = StoreIdent {
            cluster_id: ClusterId::from_bytes([1; 16]),
            store: StoreId(store),
            ident: Identity::from_bytes([store as u8; 16]),
        };
        disk.write(&init_store(&ident), true).expect("a fresh disk");
        let entries_max = locks / CALLS as u64 + 40;
        let log = LogLimits { entries_floor: 4, entries_max, bytes_max: u64::MAX };
        let snapshots = SnapshotLimits { bytes_per_tick: None, ..SnapshotLimits::default() };
        let config = Config { log, snapshots, ..Config::default() };
        let store = Store::<LockRange>::recover(config, &disk).expect("its own disk");
        let pace = Pace { flush: Duration::from_secs(600), ..Pace::default() };
        Self {
            worker: Worker::new(Duration::ZERO, store, pace),
            disk,
            _dir: dir,
            longest_turn: Duration::ZERO,
            longest_write: Duration::ZERO,
            longest_chore: Duration::ZERO,
            turns: 0,
        }
    }

    fn timed<R>(&mut self, act: impl FnOnce(&mut Worker) -> R) -> R {
        let begin = cpu();
        let result = act(&mut self.worker);
        self.longest_turn = self.longest_turn.max(cpu() - begin);
        result
    }
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let (secs, nanos) = (time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs());
    Duration::from_secs(secs) + Duration::from_nanos(nanos)
}

fn acquire(number: u64) -> StoreCall {
    let mut session = [0; 16];
    session[..8].copy_from_slice(&number.to_be_bytes());
    StoreCall {
        tag: number,
        session: session.to_vec().into(),
        instance: 1,
        client_address: "127.0.0.1:4000".into(),
        stream: 7,
        body: Some(store_call::Body::Acquire(v1::AcquireRequest {
            name: name(number),
            mode: v1::LockMode::Exclusive.into(),
            ttl_ms: Some(600_000),
            wait_ms: Some(0),
            acquisition_id: 1,
            ..v1::AcquireRequest::default()
        })),
        ..StoreCall::default()
    }
}

pub fn name(number: u64) -> String {
    format!("some/name/of/thirty-two/bytes/{number:07}")
}

fn create() -> Input {
    Input::Create { descriptor: descriptor(), level: FEATURE_LEVEL }
}

fn descriptor() -> Descriptor {
    let replica =
        |store| Replica { peer: PeerId(100 + store), store: StoreId(store), role: Role::Voter };
    Descriptor {
        range: RangeId(1),
        bounds: Bounds::ALL,
        epoch: Epoch { version: 1, conf_ver: 1 },
        replicas: (1..=3).map(replica).collect(),
    }
}
