//! The cost of one acquire and release of a free lock, and of finding a place in a long queue.
//! Prints a table; run it with `cargo bench -p sharklock-locktable`.

#![expect(clippy::disallowed_methods, reason = "a benchmark measures time")]

use std::{hint::black_box, time::Instant};

use sharklock_locktable::{
    Acquire, Acquisition, AcquisitionId, At, Cancel, Command, Instance, LockTable, Mode, Name,
    Owner, Release, Reply, SessionHandle, Wait,
};

const AT: At = At { index: 1, term: 1, stamped_unix_ms: 1_700_000_000_000 };
const SESSIONS: u64 = 256;
const CYCLES: u64 = 400_000;

fn acquisition(session: u64, id: u64) -> Acquisition {
    let mut handle = [0; 16];
    // Spread as a hash would be.
    handle[..8].copy_from_slice(&session.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    Acquisition { session: SessionHandle(handle), instance: Instance(7), id: AcquisitionId(id) }
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

fn name(number: u64) -> Name {
    Name::from(format!("tenants/acme/jobs/{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

/// A table with so many live locks, each of a session of its own.
fn table(locks: u64) -> LockTable {
    let mut table = LockTable::new();
    for number in 0..locks {
        table.apply(AT, acquire(1 << 32 | number, 1, name(number)));
    }
    table
}

fn uncontended(locks: u64) {
    let mut table = table(locks);
    let mut windows = vec![];
    // As in life: commands are decoded shortly before, and now and then there is a flush. Windows
    // are shorter than a time slice: even on a busy machine some are not disturbed.
    for first in (1..=CYCLES).step_by(200) {
        let cycles = (first..first + 200).map(|id| {
            let number = locks + id.wrapping_mul(7_919) % 10_000;
            (acquire(id % SESSIONS, id, name(number)), acquisition(id % SESSIONS, id), name(number))
        });
        let cycles: Vec<_> = cycles.collect();
        let start = Instant::now();
        for (command, acquisition, name) in cycles {
            let Reply::Granted(grant) = table.apply(AT, command).reply else { panic!("held") };
            let release = Release { acquisition, name, token: grant.token, all: false };
            black_box(table.apply(AT, Command::Release(release)));
        }
        windows.push(start.elapsed().as_nanos() / 200);
        if first % 10_000 == 1 {
            black_box(table.take_dirty());
        }
    }
    windows.sort();
    let (best, tenth) = (windows[0], windows[windows.len() / 10]);
    println!("{locks:>7} locks live: {best} ns per acquire and release (fastest tenth: < {tenth})");
}

fn handover() {
    let mut table = LockTable::new();
    let name = Name::from("hot");
    let waiters = 10_000;
    for session in 1..=waiters {
        table.apply(AT, acquire(session, 1, name.clone()));
    }
    let last = acquisition(waiters, 1);
    let place = best_of(100, 1_000, |_| drop(black_box(table.status("hot", black_box(last)))));
    let cancel = best_of(49, 100, |number| {
        let acquisition = acquisition(2 + number * 2, 1);
        black_box(table.apply(AT, Command::Cancel(Cancel { acquisition, name: name.clone() })));
    });
    println!("{waiters:>7} waiters: {place} ns per place of the last, {cancel} ns per cancel");
}

/// Nanoseconds per call in the window that was disturbed least.
fn best_of(windows: u64, calls: u64, mut call: impl FnMut(u64)) -> u128 {
    let window = |window: u64| {
        let start = Instant::now();
        (window * calls..(window + 1) * calls).for_each(&mut call);
        start.elapsed().as_nanos() / u128::from(calls)
    };
    (0..windows).map(window).min().unwrap_or(0)
}

fn main() {
    [0, 10_000, 100_000].into_iter().for_each(uncontended);
    handover();
}
