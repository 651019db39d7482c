//! What a held lock costs the process of the leader beside RocksDB, by an allocator that counts: its
//! row in the lock table, its lease, who listens to it. What operators are told of it, and bound by
//! `memory.store_max`, may be more and never less.
//!
//! `SHARKLOCK_HELD_LOCKS=1000000 cargo test -p sharklock-dataserver --test held_locks -- --nocapture`
//! shows the same of a million locks, and how long a restart and the beginning of leading take.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    env,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use sharklock_dataserver::{Input, LinkId, LockRange, Pace, Worker};
use sharklock_multiraft::{Config, Disk as _, LogLimits, RocksDisk, Store, StoreIdent, bootstrap};
use sharklock_proto::{
    ClusterId, Identity,
    internal::v1::{StoreCall, store_call, store_reply},
    v1,
};
use sharklock_rangemap::{Bounds, Descriptor, Epoch, PeerId, RangeId, Replica, Role, StoreId};

struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);
/// How many allocations there are of each size up to 64 KiB, by 8 bytes.
static BY_SIZE: [AtomicUsize; 8_192] = [const { AtomicUsize::new(0) }; 8_192];

/// The bytes that the product's allocator gives for so many: it has four sizes between two powers of
/// two, and 8 and multiples of 16 up to 128.
fn size_class(size: usize) -> usize {
    let step = match size {
        0..=8 => 8,
        9..=128 => 16,
        _ => size.next_power_of_two() / 8,
    };
    size.next_multiple_of(step)
}

#[expect(unsafe_code, reason = "the trait is unsafe; every call goes to the system's allocator")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(size_class(layout.size()), Ordering::Relaxed);
        if let Some(count) = BY_SIZE.get(layout.size().div_ceil(8)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(size_class(layout.size()), Ordering::Relaxed);
        if let Some(count) = BY_SIZE.get(layout.size().div_ceil(8)) {
            count.fetch_sub(1, Ordering::Relaxed);
        }
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const LOCKS_VARIABLE: &str = "SHARKLOCK_HELD_LOCKS";
/// Acquires in one message of a gateway.
const CALLS: u64 = 4_096;
const TICK: Duration = Duration::from_millis(100);

/// One worker, which leads a range alone.
struct Leader {
    worker: Worker,
    disk: RocksDisk,
    now: Duration,
    longest_turn: Duration,
}

impl Leader {
    fn on(disk: RocksDisk, now: Duration) -> Self {
        let store = Store::<LockRange>::recover(config(), &disk).expect("its own disk");
        let pace = Pace { flush: Duration::from_secs(600), ..Pace::default() };
        let worker = Worker::new(now, store, pace);
        let mut leader = Self { worker, disk, now, longest_turn: Duration::ZERO };
        leader.settle();
        assert!(leader.worker.leads_all(), "a single voter leads at once");
        leader
    }

    /// Turns until nothing is left to write; how many acquires were granted.
    fn settle(&mut self) -> u64 {
        let mut granted = 0;
        loop {
            let begin = instant();
            let outputs = self.worker.end_turn(self.now, 1_700_000_000_000, true);
            self.longest_turn = self.longest_turn.max(begin.elapsed());
            let replies = outputs.replies.into_iter().flat_map(|(_, replies)| replies);
            granted += replies.filter(|reply| is_grant(reply.body.as_ref())).count() as u64;
            let Some(batch) = outputs.batch else {
                match self.worker.commands_due() {
                    Some(Duration::ZERO) => continue,
                    _ => return granted,
                }
            };
            self.disk.write(&batch.ops, false).expect("the disk works");
            self.worker.handle(self.now, Input::Persisted(batch.seq));
        }
    }

    /// An entry of one acquire, so that those of many leave the log.
    fn acquire_one(&mut self, number: u64) {
        let input = Input::Calls {
            link: LinkId(1),
            queued: Duration::ZERO,
            calls: vec![acquire(number, u64::MAX)],
        };
        self.worker.handle(self.now, input);
        self.settle();
    }

    fn acquire(&mut self, locks: u64, per_session: u64) {
        let mut granted = 0;
        for first in (0..locks).step_by(CALLS as usize) {
            let numbers = first..locks.min(first + CALLS);
            let calls = numbers.map(|number| acquire(number, per_session)).collect();
            let input = Input::Calls { link: LinkId(1), queued: Duration::ZERO, calls };
            self.worker.handle(self.now, input);
            granted += self.settle();
        }
        assert_eq!(granted, locks);
    }
}

/// The log behind the image is short, since it is no cost of holding.
fn config() -> Config {
    let log = LogLimits { entries_floor: 1, entries_max: 2, bytes_max: u64::MAX };
    Config { log, ..Config::default() }
}

#[expect(clippy::disallowed_methods, reason = "it measures how long something takes")]
fn instant() -> Instant {
    Instant::now()
}

fn is_grant(reply: Option<&store_reply::Body>) -> bool {
    match reply {
        Some(store_reply::Body::Acquire(it)) => it.outcome() == v1::AcquireOutcome::Granted,
        _ => false,
    }
}

/// Spread over the tree as a hash would spread it.
fn spread(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// A name of 32 bytes.
fn acquire(number: u64, per_session: u64) -> StoreCall {
    let mut session = [0; 16];
    session[..8].copy_from_slice(&spread(number / per_session).to_be_bytes());
    StoreCall {
        tag: number,
        session: session.to_vec().into(),
        instance: 1,
        client_address: "10.0.0.1:4711".into(),
        stream: 7,
        body: Some(store_call::Body::Acquire(v1::AcquireRequest {
            name: format!("tenants/acme/job{:016x}", spread(number)),
            mode: v1::LockMode::Exclusive.into(),
            ttl_ms: Some(3_600_000),
            wait_ms: Some(0),
            acquisition_id: 1 + number,
            seq: 1 + number,
            owner_id: "worker".into(),
            ..v1::AcquireRequest::default()
        })),
        ..StoreCall::default()
    }
}

fn bootstrapped(path: &std::path::Path) -> RocksDisk {
    let store = StoreId(1);
    let ident = StoreIdent {
        cluster_id: ClusterId::from_bytes([1; 16]),
        store,
        ident: Identity::from_bytes([2; 16]),
    };
    let first = Descriptor {
        range: RangeId(1),
        bounds: Bounds::ALL,
        epoch: Epoch { version: 1, conf_ver: 1 },
        replicas: vec![Replica { peer: PeerId(1), store, role: Role::Voter }],
    };
    let mut disk = RocksDisk::open(path).expect("a fresh directory");
    disk.write(&bootstrap(&ident, &first), true).expect("a fresh disk");
    disk
}

/// Shows of what sizes the bytes of each lock are: what has a size of its own has a line of its own.
fn show_sizes(locks: u64) {
    for (of_8, count) in BY_SIZE.iter().enumerate() {
        let count = count.load(Ordering::Relaxed) as u64;
        let size = size_class(of_8 * 8) as u64;
        let tenths = count * size * 10 / locks;
        if tenths >= 20 {
            println!("{:9} x {:5} bytes: {}.{} a lock", count, of_8 * 8, tenths / 10, tenths % 10);
        }
    }
}

/// Bytes of a held lock in a leader that has granted them, in one that has inherited them, and as
/// operators are told.
fn measure(locks: u64, per_session: u64) -> [u64; 3] {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let disk = bootstrapped(dir.path());
    let mut leader = Leader::on(disk, Duration::ZERO);
    let before = ALLOCATED.load(Ordering::Relaxed);
    leader.acquire(locks, per_session);
    // The next flush's rows, and the log behind it, are no cost of holding.
    for number in 0..3 {
        leader.worker.flush();
        leader.settle();
        leader.now += TICK;
        leader.acquire_one(locks + number);
    }
    let bytes = |before| (ALLOCATED.load(Ordering::Relaxed) - before) as u64 / locks;
    let (granted, told) = (bytes(before), leader.worker.memory().used() / locks);
    show_sizes(locks);
    let Leader { worker, disk, now, .. } = leader;
    drop(worker);
    let (before, begin) = (ALLOCATED.load(Ordering::Relaxed), instant());
    let mut leader = Leader::on(disk, now);
    let (restart, first_turn) = (begin.elapsed(), leader.longest_turn);
    // An inheritance is taken up in turns.
    for _ in 0..locks / 1_024 {
        leader.now += Duration::from_millis(1);
        leader.settle();
    }
    let inherited = bytes(before);
    println!(
        "{per_session:3} of a session: {granted} bytes each, {inherited} inherited, {told} told; \
         leads {restart:.1?} after its start, longest turn {first_turn:.1?}, then {:.1?}",
        leader.longest_turn
    );
    [granted, inherited, told]
}

#[test]
fn a_held_lock_costs_no_more_than_operators_are_told() {
    let locks = env::var(LOCKS_VARIABLE).ok().map(|it| it.parse().expect("a number of locks"));
    let locks = locks.unwrap_or(100_000);
    for (per_session, bound) in [(1, 640), (100, 450)] {
        let [granted, inherited, told] = measure(locks, per_session);
        assert!(granted <= bound && inherited <= bound, "{granted} and {inherited}");
        assert!(granted.max(inherited) <= told, "{granted}, {inherited}, and {told} are told");
    }
}
