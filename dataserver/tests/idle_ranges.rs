//! A worker with many ranges: what one of them does costs the same whatever the number of the
//! others, and each of the others still wakes when its own time has come.

use std::time::Duration;

use sharklock_dataserver::{Input, LinkId, LockRange, Pace, Worker};
use sharklock_multiraft::{Config, Disk, SimDisk, Store, StoreIdent, bootstrap};
use sharklock_proto::{
    internal::v1::{StoreCall, StoreReply, store_call::Body, store_reply},
    v1,
};
use sharklock_rangemap::{Bounds, Descriptor, Epoch, PeerId, RangeId, Replica, Role, StoreId};

const LINK: LinkId = LinkId(1);
const TICK: Duration = Duration::from_millis(100);

/// One worker whose ranges have one voter each. Range `n` has the names that begin with its number.
struct Rig {
    worker: Worker,
    disk: SimDisk,
    now: Duration,
    next_tag: u64,
    replies: Vec<StoreReply>,
}

impl Rig {
    fn with_ranges(count: u64) -> Self {
        let store = StoreId(1);
        let ident = StoreIdent { cluster_id: [1; 16], store, ident: [2; 16] };
        let mut disk = SimDisk::default();
        for range in 1..=count {
            let end = if range == count { Vec::new() } else { prefix(range + 1).into_bytes() };
            let start = if range == 1 { Vec::new() } else { prefix(range).into_bytes() };
            let descriptor = Descriptor {
                range: RangeId(range),
                bounds: Bounds { start, end },
                epoch: Epoch { version: 1, conf_ver: 1 },
                replicas: vec![Replica { peer: PeerId(range), store, role: Role::Voter }],
            };
            disk.write(&bootstrap(&ident, &descriptor), true).expect("a fresh disk");
        }
        let store = Store::<LockRange>::recover(Config::default(), &disk).expect("its own disk");
        let worker = Worker::new(Duration::ZERO, store, Pace::default());
        let mut rig = Self { worker, disk, now: Duration::ZERO, next_tag: 1, replies: Vec::new() };
        assert!(!rig.worker.knows_leaders());
        rig.settle();
        assert!(rig.worker.leads_all() && rig.worker.knows_leaders(), "single voters lead at once");
        rig
    }

    fn settle(&mut self) {
        loop {
            let outputs = self.worker.end_turn(self.now, 1_700_000_000_000, true);
            self.replies.extend(outputs.replies.into_iter().flat_map(|(_, replies)| replies));
            let Some(batch) = outputs.batch else { return };
            self.disk.write(&batch.ops, true).expect("no fault was asked for");
            self.worker.handle(self.now, Input::Persisted(batch.seq));
        }
    }

    fn call(&mut self, body: Body) -> store_reply::Body {
        let tag = self.next_tag;
        self.next_tag += 1;
        let call = StoreCall {
            tag,
            session: vec![1; 16].into(),
            instance: 1,
            client_address: "127.0.0.1:4000".into(),
            stream: 7,
            body: Some(body),
            ..StoreCall::default()
        };
        let input = Input::Calls { link: LINK, queued: Duration::ZERO, calls: vec![call] };
        self.worker.handle(self.now, input);
        self.settle();
        let is_answer = |reply: &StoreReply| reply.tag == tag;
        let at = self.replies.iter().position(is_answer).expect("it is answered at once");
        self.replies.remove(at).body.expect("an answer says something")
    }

    fn acquire(&mut self, range: u64, id: u64, ttl_ms: u64) -> u64 {
        let request = v1::AcquireRequest {
            name: format!("{}/lock", prefix(range)),
            mode: v1::LockMode::Exclusive.into(),
            ttl_ms: Some(ttl_ms),
            acquisition_id: id,
            ..v1::AcquireRequest::default()
        };
        match self.call(Body::Acquire(request)) {
            store_reply::Body::Acquire(granted) if granted.token > 0 => granted.token,
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
        drop(self.call(Body::Release(request)));
    }

    fn holds(&self, range: u64) -> usize {
        let machine = self.worker.store().machine(RangeId(range)).expect("it is here");
        machine.table().counts().holds
    }
}

fn prefix(range: u64) -> String {
    format!("{range:04}")
}

/// What a second of one busy range costs beside so many that lie idle, each with a lock that is
/// held: ranges looked at.
fn visits_of_a_busy_second(ranges: u64) -> u64 {
    let mut rig = Rig::with_ranges(ranges);
    for range in 2..=ranges {
        rig.acquire(range, range, 600_000);
    }
    rig.now += TICK;
    rig.settle();
    let before = rig.worker.stats().visits;
    for id in 0..200 {
        rig.now += Duration::from_millis(5);
        let id = 10_000 + id;
        let token = rig.acquire(1, id, 10_000);
        rig.release(1, id, token);
    }
    rig.worker.stats().visits - before
}

#[test]
fn a_busy_range_costs_the_same_beside_one_idle_range_and_beside_a_thousand() {
    let (few, many) = (visits_of_a_busy_second(2), visits_of_a_busy_second(1_001));
    assert!(few > 0, "the busy range is looked at");
    assert_eq!(few, many);
}

#[test]
fn each_of_many_ranges_frees_what_expires_in_its_own_time() {
    const RANGES: u64 = 60;
    let mut rig = Rig::with_ranges(RANGES);
    let ttl_ms = |range: u64| 60_000 - range * 700;
    for range in 1..=RANGES {
        rig.acquire(range, range, ttl_ms(range));
    }
    let began = rig.now;
    while (1..=RANGES).any(|range| rig.holds(range) > 0) {
        rig.now = rig.worker.next_wakeup().max(rig.now);
        rig.settle();
        for range in 1..=RANGES {
            let lease = Duration::from_millis(ttl_ms(range) + ttl_ms(range) / 100);
            let is_held = rig.holds(range) > 0;
            assert_eq!(is_held, rig.now - began < lease, "range {range} at {:?}", rig.now);
        }
    }
}

#[test]
fn after_a_stall_every_range_counts_its_leases_from_its_end() {
    const RANGES: u64 = 5;
    let mut rig = Rig::with_ranges(RANGES);
    for range in 1..=RANGES {
        rig.acquire(range, range, 2_000);
    }
    // The loop stands still for a second, which is every lease's.
    rig.now += Duration::from_secs(1);
    rig.settle();
    let lease = Duration::from_millis(2_000 + 20 + 1_000);
    while (1..=RANGES).any(|range| rig.holds(range) > 0) {
        rig.now = rig.worker.next_wakeup().max(rig.now);
        rig.settle();
        let held = (1..=RANGES).filter(|range| rig.holds(*range) > 0).count();
        let expected = if rig.now < lease { RANGES } else { 0 };
        assert_eq!(held as u64, expected, "at {:?}", rig.now);
    }
}

#[test]
fn idle_ranges_forget_what_has_ended_and_then_are_silent() {
    const RANGES: u64 = 5;
    let mut rig = Rig::with_ranges(RANGES);
    for range in 1..=RANGES {
        let token = rig.acquire(range, range, 10_000);
        rig.release(range, range, token);
    }
    let remembers = |rig: &Rig| {
        let bytes = |range| {
            let machine = rig.worker.store().machine(RangeId(range)).expect("it is here");
            machine.table().ended_bytes()
        };
        (1..=RANGES).filter(|range| bytes(*range) > 0).count() as u64
    };
    assert_eq!(remembers(&rig), RANGES);
    for _ in 0..600 {
        rig.now += TICK;
        rig.settle();
    }
    assert_eq!(remembers(&rig), 0);
    let (entries, visits) = (rig.worker.stats().entries, rig.worker.stats().visits);
    for _ in 0..600 {
        rig.now += TICK;
        rig.settle();
    }
    let stats = rig.worker.stats();
    assert_eq!((stats.entries, stats.visits), (entries, visits), "nothing happens any more");
}
