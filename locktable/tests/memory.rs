//! How many bytes a held lock and a waiter cost, measured by an allocator that counts. The bounds
//! here are those of docs/ARCHITECTURE.md.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
};

use sharklock_locktable::{
    Acquire, Acquisition, AcquisitionId, At, Command, Instance, LockTable, Mode, Name, Owner,
    SessionHandle, Wait,
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

fn acquire(session: u64, id: u64, name: Name) -> Command {
    let mut handle = [0; 16];
    handle[..8].copy_from_slice(&spread(session).to_be_bytes());
    Command::Acquire(Box::new(Acquire {
        acquisition: Acquisition {
            session: SessionHandle(handle),
            instance: Instance(1),
            id: AcquisitionId(id),
        },
        name,
        mode: Mode::Exclusive,
        ttl_ms: 10_000,
        wait: Wait::Unbounded,
        reenter: None,
        owner: Owner { id: "worker".into(), address: "10.0.0.1:4711".into(), attributes: vec![] },
        condition: None,
    }))
}

/// Bytes of a table per command, each of which must leave one hold or one waiter.
fn bytes_each(commands: impl Iterator<Item = Command>) -> usize {
    let mut table = LockTable::new();
    let before = ALLOCATED.load(Ordering::Relaxed);
    for command in commands {
        table.apply(AT, command);
    }
    // What the next flush writes is not a cost of holding.
    table.take_dirty();
    let bytes = ALLOCATED.load(Ordering::Relaxed) - before;
    let counts = table.counts();
    assert_eq!(counts.holds.max(counts.waiters) as u64, COUNT);
    bytes / COUNT as usize
}

/// One test, since the counter is everybody's.
#[test]
fn holds_and_waiters_stay_within_their_bytes() {
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
    assert!(own_sessions <= 520, "{own_sessions}");
    assert!(sessions_of_100 <= 400, "{sessions_of_100}");
    assert!(waiters <= 390, "{waiters}");
}
