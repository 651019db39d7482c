//! How many bytes a held lock and a waiter cost, and what has ended at 25,000 operations in a second,
//! measured by an allocator that counts. The bounds here are those of docs/ARCHITECTURE.md.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
};

use sharklock_locktable::{
    Acquire, Acquisition, AcquisitionId, At, Cancel, Command, Instance, LockTable, Mode, Name,
    Owner, SessionHandle, TableLimits, Wait,
};

struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

#[expect(unsafe_code, reason = "the trait is unsafe; every call goes to the system's allocator")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const AT: At = At { index: 1, term: 1, stamped_unix_ms: 1_700_000_000_000 };
const COUNT: u64 = 20_000;

/// Spread over the tree as a hash would spread it.
fn spread(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// 32 bytes.
fn name(number: u64) -> Name {
    let name = format!("tenants/acme/job{:016x}", spread(number));
    assert_eq!(name.len(), 32);
    name.into()
}

fn acquisition(session: u64, id: u64) -> Acquisition {
    let mut handle = [0; 16];
    handle[..8].copy_from_slice(&spread(session).to_be_bytes());
    let (instance, id) = (Instance(1), AcquisitionId(id));
    Acquisition { session: SessionHandle(handle), instance, id }
}

fn acquire(session: u64, id: u64, name: Name) -> Command {
    Command::Acquire(Box::new(Acquire {
        acquisition: acquisition(session, id),
        name,
        mode: Mode::Exclusive,
        ttl_ms: 10_000,
        wait: Wait::Unbounded,
        reenter: None,
        owner: Owner { id: "worker".into(), address: "10.0.0.1:4711".into(), attributes: vec![] },
        condition: None,
        asked_ms: u64::MAX,
    }))
}

/// Bytes of a table per command, each of which must leave one hold or one waiter.
fn bytes_each(commands: impl Iterator<Item = Command>) -> usize {
    let mut table = LockTable::new();
    let before = ALLOCATED.load(Ordering::Relaxed);
    for command in commands {
        table.apply(AT, command);
    }
    // The rows of the next flush are no cost of holding.
    table.take_dirty();
    let bytes = ALLOCATED.load(Ordering::Relaxed) - before;
    let counts = table.counts();
    assert_eq!(counts.holds.max(counts.waiters) as u64, COUNT);
    bytes / COUNT as usize
}

/// One test, since the counter is everybody's.
#[test]
fn everything_stays_within_its_bytes() {
    holds_and_waiters();
    what_has_ended();
}

const PER_SECOND: u64 = 25_000;

/// The most bytes at any moment while for so many seconds as much ends, the `number`th of all being
/// `ended`, and how far back everything was remembered at least, milliseconds.
fn bytes_of_ended(what: &str, seconds: u64, ended: impl Fn(u64) -> (u64, u64)) -> (usize, u64) {
    // Outcomes have their own bound, by their number: here it is about the ids.
    let limits = TableLimits { ring_len_max: 1, ..TableLimits::default() };
    let mut table = LockTable::with_limits(limits);
    let before = ALLOCATED.load(Ordering::Relaxed);
    let (mut bytes_max, mut reach_ms) = (0, u64::MAX);
    let name = Name::from("x");
    for number in 0..seconds * PER_SECOND {
        let (session, id) = ended(number);
        let acquisition = acquisition(session, id);
        table.apply(AT, Command::Cancel(Cancel { acquisition, name: name.clone() }));
        if number % 25 == 0 {
            table.pass(1_000 * 25 / PER_SECOND);
            bytes_max = bytes_max.max(ALLOCATED.load(Ordering::Relaxed) - before);
            let header = table.header();
            if header.lost_ms > 0 {
                reach_ms = reach_ms.min(header.age_ms - header.lost_ms);
            }
        }
        if number % (PER_SECOND * 3 / 10) == 0 {
            table.take_dirty();
        }
    }
    println!("{what}: {bytes_max} bytes, whole for {reach_ms} ms");
    (bytes_max, reach_ms)
}

fn what_has_ended() {
    const MAX: usize = 16 << 20;
    let all = [
        bytes_of_ended("256 sessions, all ids", 42, |it| (it % 256, 1 + it / 256)),
        bytes_of_ended("256 sessions, few ids", 42, |it| (it % 256, 1 + it / 256 * 1_000)),
        bytes_of_ended("10,000 sessions, all ids", 42, |it| (it % 10_000, 1 + it / 10_000)),
    ];
    assert!(all.iter().all(|it| it.0 <= MAX && it.1 >= 35_000), "{all:?}");
    // A client that does not count up, or lives once per acquisition, costs more memory of what has
    // ended.
    let wild = [
        bytes_of_ended("a session for each", 9, |it| (it, 1)),
        bytes_of_ended("a page for each", 9, |it| (1, it << 37)),
        bytes_of_ended("random ids", 9, |it| (1, spread(it))),
    ];
    assert!(wild.iter().all(|it| it.0 <= MAX && it.1 >= 4_000), "{wild:?}");
}

fn holds_and_waiters() {
    let own_sessions = bytes_each((1..=COUNT).map(|it| acquire(it, 1, name(it))));
    let sessions_of_100 =
        bytes_each((1..=COUNT).map(|it| acquire(it % (COUNT / 100), it, name(it))));
    // Ten locks with 2,000 waiters each, and their holders.
    let locks = || (1..=10).map(|it| acquire(1 << 32, it, name(it)));
    let waiter = |session: u64| acquire(session, 1, name(1 + session % 10));
    let waiters = bytes_each(locks().chain((1..=COUNT).map(waiter)));
    println!("a held lock of a session of its own: {own_sessions} bytes");
    println!("a held lock of a session with 100:   {sessions_of_100} bytes");
    println!("a waiter of a session of its own:    {waiters} bytes");
    assert!(own_sessions <= 420, "{own_sessions}");
    assert!(sessions_of_100 <= 255, "{sessions_of_100}");
    assert!(waiters <= 385, "{waiters}");
}
