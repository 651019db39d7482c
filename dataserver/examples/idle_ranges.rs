//! What a busy range costs beside idle ones: a worker with so many ranges, one of which takes and
//! frees a lock again and again. Each idle range has a lock that is held.
//!
//! `cargo run -p sharklock-dataserver --example idle_ranges -- 1 1000` shows processor time and how
//! many ranges the turns looked at. Instructions are counted by valgrind, which is told what to
//! count by the function's name:
//! `valgrind --tool=callgrind --toggle-collect='*busy_turns*' target/debug/examples/idle_ranges 1000`

use std::{fs, time::Duration};

use sharklock_dataserver::{Input, LinkId, LockRange, Pace, Worker};
use sharklock_multiraft::{Config, Disk, SimDisk, Store, StoreIdent, bootstrap};
use sharklock_proto::{
    internal::v1::{StoreCall, StoreReply, store_call::Body, store_reply},
    v1,
};
use sharklock_rangemap::{Bounds, Descriptor, Epoch, PeerId, RangeId, Replica, Role, StoreId};

/// Locks taken and freed; all between two ticks.
const ROUNDS: u64 = 1_000;
const TICKS: u64 = 30;
const STEP: Duration = Duration::from_micros(10);
const TICK: Duration = Duration::from_millis(100);

fn main() {
    let asked: Vec<u64> = std::env::args().skip(1).filter_map(|it| it.parse().ok()).collect();
    let counts = if asked.is_empty() { vec![1, 10, 100, 1_000] } else { asked };
    println!("idle ranges | CPU of a turn | ranges looked at | CPU of a tick");
    counts.into_iter().for_each(measure);
}

fn measure(idle: u64) {
    let mut machine = Machine::with_ranges(idle + 1);
    (2..=idle + 1).for_each(|range| _ = machine.acquire(range, 1));
    machine.now += TICK;
    machine.settle();
    let (begin, before) = (cpu_ns(), machine.worker.stats().visits);
    let turns = busy_turns(&mut machine);
    let (took, visits) = (cpu_ns() - begin, machine.worker.stats().visits - before);
    let begin = cpu_ns();
    idle_ticks(&mut machine);
    let ticked = cpu_ns() - begin;
    println!(
        "{idle:11} | {:10.1} µs | {:16.2} | {:10.1} µs",
        took as f64 / 1_000.0 / turns as f64,
        visits as f64 / turns as f64,
        ticked as f64 / 1_000.0 / TICKS as f64,
    );
}

#[inline(never)]
fn busy_turns(machine: &mut Machine) -> u64 {
    let before = machine.turns;
    for round in 0..ROUNDS {
        machine.now += STEP;
        let token = machine.acquire(1, 10 + round);
        machine.release(1, 10 + round, token);
    }
    machine.turns - before
}

#[inline(never)]
fn idle_ticks(machine: &mut Machine) {
    for _ in 0..TICKS {
        machine.now += TICK;
        machine.settle();
    }
}

struct Machine {
    worker: Worker,
    now: Duration,
    turns: u64,
    replies: Vec<StoreReply>,
}

impl Machine {
    fn with_ranges(count: u64) -> Self {
        let store = StoreId(1);
        let ident = StoreIdent { cluster_id: [1; 16], store, ident: [2; 16] };
        let border = |range: u64| match range {
            range if range == 1 || range > count => Vec::new(),
            range => prefix(range).into_bytes(),
        };
        let mut disk = SimDisk::default();
        for range in 1..=count {
            let descriptor = Descriptor {
                range: RangeId(range),
                bounds: Bounds { start: border(range), end: border(range + 1) },
                epoch: Epoch { version: 1, conf_ver: 1 },
                replicas: vec![Replica { peer: PeerId(range), store, role: Role::Voter }],
            };
            disk.write(&bootstrap(&ident, &descriptor), true).expect("no fault is planned");
        }
        let store = Store::<LockRange>::recover(Config::default(), &disk).expect("its own disk");
        let worker = Worker::new(Duration::ZERO, store, Pace::default());
        let mut machine = Self { worker, now: Duration::ZERO, turns: 0, replies: Vec::new() };
        machine.settle();
        machine
    }

    /// Turns until nothing is left to write; the disk is at once done.
    fn settle(&mut self) {
        loop {
            self.turns += 1;
            let outputs = self.worker.end_turn(self.now, 1_700_000_000_000, true);
            self.replies.extend(outputs.replies.into_iter().flat_map(|(_, replies)| replies));
            let Some(batch) = outputs.batch else { return };
            self.worker.handle(self.now, Input::Persisted(batch.seq));
        }
    }

    fn call(&mut self, body: Body) -> Option<store_reply::Body> {
        let call = StoreCall {
            tag: 1,
            session: vec![1; 16].into(),
            instance: 1,
            client_address: "127.0.0.1:4000".into(),
            body: Some(body),
            ..StoreCall::default()
        };
        let calls = vec![call];
        let input = Input::Calls { link: LinkId(1), queued: Duration::ZERO, calls };
        self.worker.handle(self.now, input);
        self.settle();
        self.replies.pop()?.body
    }

    fn acquire(&mut self, range: u64, id: u64) -> u64 {
        let request = v1::AcquireRequest {
            name: format!("{}/lock", prefix(range)),
            mode: v1::LockMode::Exclusive.into(),
            ttl_ms: Some(600_000),
            acquisition_id: id,
            ..v1::AcquireRequest::default()
        };
        match self.call(Body::Acquire(request)) {
            Some(store_reply::Body::Acquire(granted)) => granted.token,
            other => panic!("{other:?}"),
        }
    }

    fn release(&mut self, range: u64, id: u64, token: u64) {
        let request = v1::ReleaseRequest {
            name: format!("{}/lock", prefix(range)),
            token,
            acquisition_id: id,
            ..v1::ReleaseRequest::default()
        };
        let released = self.call(Body::Release(request));
        assert!(released.is_some(), "it is answered at once");
    }
}

fn prefix(range: u64) -> String {
    format!("{range:06}")
}

/// Nanoseconds that this thread has run: others on the machine do not count.
fn cpu_ns() -> u64 {
    let line = fs::read_to_string("/proc/self/schedstat").expect("Linux says how long it ran");
    let ns = line.split(' ').next().expect("three numbers");
    ns.parse().expect("a number")
}
