//! Three workers on simulated disks whose messages arrive at once: replicas made at runtime,
//! leadership handed over, and a follower whose table a snapshot replaces.

use std::{collections::BTreeMap, time::Duration};

use sharklock_dataserver::{Input, LinkId, LockRange, Outputs, Pace, Worker};
use sharklock_locktable::FEATURE_LEVEL;
use sharklock_multiraft::{Config, Disk, LogLimits, SimDisk, Store, StoreIdent, init_store};
use sharklock_proto::{
    internal::v1::{StoreCall, StoreDescription, StoreReply, store_call, store_error, store_reply},
    v1,
};
use sharklock_rangemap::{Bounds, Descriptor, Epoch, PeerId, RangeId, Replica, Role, StoreId};

const LINK: LinkId = LinkId(1);
const RANGE: RangeId = RangeId(1);

struct Machine {
    worker: Worker,
    disk: SimDisk,
    replies: Vec<StoreReply>,
}

struct Trio {
    machines: BTreeMap<u64, Machine>,
    /// A store that nothing reaches.
    alone: Option<u64>,
    now: Duration,
    next_tag: u64,
}

fn create() -> Input {
    Input::Create { descriptor: descriptor(), level: FEATURE_LEVEL }
}

fn descriptor() -> Descriptor {
    let replica =
        |store| Replica { peer: PeerId(100 + store), store: StoreId(store), role: Role::Voter };
    Descriptor {
        range: RANGE,
        bounds: Bounds::ALL,
        epoch: Epoch { version: 1, conf_ver: 1 },
        replicas: (1..=3).map(replica).collect(),
    }
}

impl Trio {
    /// Three stores without a range.
    fn empty() -> Self {
        let machine = |store: u64| {
            let ident =
                StoreIdent { cluster_id: [1; 16], store: StoreId(store), ident: [store as u8; 16] };
            let mut disk = SimDisk::default();
            disk.write(&init_store(&ident), true).expect("a fresh disk");
            let log = LogLimits { entries_floor: 4, entries_max: 8, ..LogLimits::default() };
            let config = Config { log, ..Config::default() };
            let recovered = Store::<LockRange>::recover(config, &disk).expect("its own disk");
            let worker = Worker::new(Duration::ZERO, recovered, Pace::default());
            (store, Machine { worker, disk, replies: Vec::new() })
        };
        let machines = (1..=3).map(machine).collect();
        Self { machines, alone: None, now: Duration::ZERO, next_tag: 1 }
    }

    /// Three stores with one range, which one of them leads.
    fn new() -> (Self, u64) {
        let mut trio = Self::empty();
        for store in 1..=3 {
            trio.tell(store, create());
        }
        let leader = trio.elected();
        (trio, leader)
    }

    fn worker(&self, store: u64) -> &Worker {
        &self.machines[&store].worker
    }

    fn tell(&mut self, store: u64, input: Input) {
        let machine = self.machines.get_mut(&store).expect("one of three");
        machine.worker.handle(self.now, input);
    }

    /// Turns, writes and deliveries until nothing moves.
    fn settle(&mut self) {
        let mut moves = true;
        while moves {
            moves = false;
            for store in 1..=3 {
                let machine = self.machines.get_mut(&store).expect("one of three");
                let outputs = machine.worker.end_turn(self.now, 1_700_000_000_000, true);
                moves |= self.carry(store, outputs);
            }
        }
    }

    fn carry(&mut self, from: u64, outputs: Outputs) -> bool {
        let machine = self.machines.get_mut(&from).expect("one of three");
        let mut moves = outputs.batch.is_some();
        if let Some(batch) = outputs.batch {
            machine.disk.write(&batch.ops, true).expect("no fault was asked for");
            machine.worker.handle(self.now, Input::Persisted(batch.seq));
        }
        for chore in outputs.chores {
            if let Some(done) = chore.run(&machine.disk) {
                moves = true;
                machine.worker.handle(self.now, Input::ChoreDone(Box::new(done)));
            }
        }
        machine.replies.extend(outputs.replies.into_iter().flat_map(|(_, replies)| replies));
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

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now += Duration::from_millis(100);
            self.settle();
        }
    }

    fn leader(&self) -> Option<u64> {
        let mut machines = self.machines.iter();
        machines.find(|(_, it)| !it.worker.reports().is_empty()).map(|(store, _)| *store)
    }

    fn elected(&mut self) -> u64 {
        for _ in 0..100 {
            self.pass(Duration::from_millis(100));
            if let Some(leader) = self.leader()
                && (1..=3).all(|store| self.worker(store).knows_leaders())
            {
                return leader;
            }
        }
        panic!("nobody leads after ten seconds");
    }

    fn call(&mut self, store: u64, body: store_call::Body) -> Option<store_reply::Body> {
        let tag = self.next_tag;
        self.next_tag += 1;
        let call = StoreCall {
            tag,
            session: vec![9; 16].into(),
            instance: 1,
            client_address: "127.0.0.1:4000".into(),
            stream: 7,
            body: Some(body),
            ..StoreCall::default()
        };
        let calls = vec![call];
        self.tell(store, Input::Calls { link: LINK, queued: Duration::ZERO, calls });
        self.settle();
        let replies = &mut self.machines.get_mut(&store).expect("one of three").replies;
        let at = replies.iter().position(|reply| reply.tag == tag)?;
        replies.remove(at).body
    }

    fn acquire(&mut self, store: u64, name: &str, id: u64) -> Option<store_reply::Body> {
        self.call(
            store,
            store_call::Body::Acquire(v1::AcquireRequest {
                name: name.into(),
                mode: v1::LockMode::Exclusive.into(),
                ttl_ms: Some(60_000),
                wait_ms: Some(0),
                acquisition_id: id,
                ..v1::AcquireRequest::default()
            }),
        )
    }

    fn describe(&mut self, store: u64) -> StoreDescription {
        match self.call(store, store_call::Body::Describe(Default::default())) {
            Some(store_reply::Body::Describe(description)) => description,
            other => panic!("{other:?}"),
        }
    }

    fn granted(&mut self, store: u64, name: &str, id: u64) -> u64 {
        match self.acquire(store, name, id) {
            Some(store_reply::Body::Acquire(response)) => {
                assert_eq!(response.outcome(), v1::AcquireOutcome::Granted, "{response:?}");
                response.token
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn ranges_appear_at_runtime_and_are_served() {
    let mut trio = Trio::empty();
    trio.pass(Duration::from_secs(1));
    for store in 1..=3 {
        assert!(trio.worker(store).knows_leaders(), "a store without ranges is ready");
        assert!(trio.worker(store).reports().is_empty());
    }
    trio.tell(1, create());
    trio.pass(Duration::from_millis(100));
    assert!(!trio.worker(1).knows_leaders(), "nobody leads yet");
    for store in 1..=3 {
        trio.tell(store, create());
        trio.tell(store, create());
    }
    let leader = trio.elected();
    assert_eq!(trio.granted(leader, "a", 1), 1);
    let report = trio.worker(leader).reports().remove(0);
    let described = report.descriptor.expect("a report has its descriptor");
    assert_eq!((described.range_id, described.replicas.len(), report.locks), (RANGE.0, 3, 1));
    for store in 1..=3 {
        let range = trio.describe(store).ranges.remove(0);
        let active = range.replicas.iter().filter(|it| it.is_active && it.is_voter).count();
        assert_eq!(active, if store == leader { 3 } else { 0 }, "only the leader knows");
    }
}

#[test]
fn a_store_that_stops_hands_its_ranges_over_at_once() {
    let (mut trio, leader) = Trio::new();
    let token = trio.granted(leader, "a", 1);
    trio.tell(leader, Input::HandOver);
    trio.settle();
    let next = trio.leader().expect("no time has passed, and another leads");
    assert_ne!(next, leader);
    assert!(!trio.worker(leader).leads_all());
    let refused = trio.acquire(leader, "b", 2);
    let Some(store_reply::Body::Error(error)) = refused else { panic!("{refused:?}") };
    assert!(matches!(error.kind, Some(store_error::Kind::NotLeader(_))), "{error:?}");
    assert_eq!(trio.granted(next, "b", 2), token + 1, "the state went with it");
}

#[test]
fn a_follower_leads_from_the_table_that_a_snapshot_brought() {
    let (mut trio, leader) = Trio::new();
    trio.granted(leader, "before", 1);
    trio.pass(Duration::from_secs(1));
    let away = leader % 3 + 1;
    trio.alone = Some(away);
    let mut last = 0;
    for id in 2..40 {
        last = trio.granted(leader, &format!("name-{id}"), id);
        trio.pass(Duration::from_millis(100));
    }
    trio.alone = None;
    trio.pass(Duration::from_secs(5));
    assert_eq!(trio.worker(away).store().snapshot_stats().installed, 1);
    let (stands, led) = (trio.worker(away).store(), trio.worker(leader).store());
    let hash = |store: &Store<LockRange>| store.status(RANGE).map(|it| it.state_hash);
    assert_eq!(hash(stands), hash(led));

    // Nobody else can take it: the third is cut off.
    let third = 6 - leader - away;
    trio.alone = Some(third);
    trio.pass(Duration::from_secs(2));
    let leader = trio.leader().expect("two of three go on");
    if leader != away {
        trio.tell(leader, Input::HandOver);
        trio.settle();
    }
    assert_eq!(trio.leader(), Some(away));
    assert_eq!(trio.granted(away, "after", 90), last + 1);
    let held = trio.acquire(away, "before", 91);
    let Some(store_reply::Body::Acquire(response)) = held else { panic!("{held:?}") };
    assert_ne!(response.outcome(), v1::AcquireOutcome::Granted, "it is held still");
}
