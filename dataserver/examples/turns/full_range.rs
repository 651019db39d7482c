//! Splits of ranges that are as large as a range becomes before it is split by itself, each filled in
//! another way.

use std::time::Duration;

use sharklock_proto::{
    internal::v1::{StoreCall, store_call::Body},
    v1,
};
use sharklock_rangemap::RangeId;

use super::trio::Trio;

/// As a table counts them.
const BYTES: u64 = 16 << 20;
/// Ids that have ended, each of a session of its own: nearly as many as are remembered. Were they
/// more, the first would be forgotten, and whatever is asked right then is in doubt.
const ENDED: u64 = 120_000;

const RANGE: RangeId = RangeId(1);

/// What fills a range.
struct Mix {
    what: &'static str,
    call: fn(u64) -> StoreCall,
    at: fn(u64) -> String,
    /// All that it remembers of acquisitions that have ended is full, too.
    has_ended: bool,
}

const MIXES: [Mix; 6] = [
    Mix { what: "holders", call: holder, at: middle, has_ended: false },
    Mix { what: "sharers", call: sharer, at: middle, has_ended: false },
    Mix { what: "waiters on 8 names", call: waiter, at: |_| "d".to_owned(), has_ended: false },
    Mix { what: "one hold in 100 sessions", call: of_few, at: middle, has_ended: false },
    Mix { what: "holders, ended ids full", call: holder, at: middle, has_ended: true },
    Mix { what: "the same, all but one go", call: holder, at: |_| short(2), has_ended: true },
];

pub fn measure() {
    println!("16 MiB of                | what moves | leader's longest turn | follower's | write");
    MIXES.iter().for_each(split);
}

fn split(mix: &Mix) {
    let mut trio = Trio::new(10 * ENDED);
    let leader = trio.elect();
    if mix.has_ended {
        trio.ask(leader, (1..=ENDED).map(cancelled));
    }
    let bytes = |trio: &Trio, range| {
        trio.worker(leader).store().machine(range).map_or(0, |machine| machine.table().bytes())
    };
    let mut count = 0;
    while bytes(&trio, RANGE) < BYTES {
        trio.ask(leader, (count + 1..=count + 1_024).map(mix.call));
        count += 1_024;
    }
    trio.flush();
    trio.reset();
    trio.split(leader, (mix.at)(count));
    let child = RangeId(2);
    let (turn, write) = trio.longest(leader);
    let follows = (1..=3).filter(|store| *store != leader).map(|store| trio.longest(store).0);
    let follows = follows.max().expect("two follow");
    let ms = |time: Duration| time.as_secs_f64() * 1_000.0;
    let moved = bytes(&trio, child) as f64 / (1 << 20) as f64;
    println!(
        "{:24} | {moved:6.1} MiB | {:18.1} ms | {:7.1} ms | {:4.0} ms",
        mix.what,
        ms(turn),
        ms(follows),
        ms(write)
    );
}

/// The shortest names there are of so many locks.
fn short(number: u64) -> String {
    let letter = |place: u32| char::from(b'a' + (number / 26_u64.pow(place) % 26) as u8);
    [3, 2, 1, 0].map(letter).iter().collect()
}

fn middle(count: u64) -> String {
    short(count / 2)
}

fn call(number: u64, session: u64, body: Body) -> StoreCall {
    let mut handle = [0; 16];
    handle[..8].copy_from_slice(&session.to_be_bytes());
    StoreCall {
        tag: number,
        session: handle.to_vec().into(),
        instance: 1,
        client_address: "10.0.0.1:4".into(),
        stream: 7,
        body: Some(body),
        ..StoreCall::default()
    }
}

fn acquire(number: u64, session: u64, name: String, mode: v1::LockMode) -> StoreCall {
    let request = v1::AcquireRequest {
        name,
        mode: mode.into(),
        ttl_ms: Some(600_000),
        acquisition_id: number,
        ..v1::AcquireRequest::default()
    };
    call(number, session, Body::Acquire(request))
}

fn holder(number: u64) -> StoreCall {
    acquire(number, number, short(number), v1::LockMode::Exclusive)
}

fn sharer(number: u64) -> StoreCall {
    acquire(number, number, short(number), v1::LockMode::Shared)
}

fn waiter(number: u64) -> StoreCall {
    let name = ["a", "b", "c", "d", "e", "f", "g", "h"][(number % 8) as usize];
    acquire(number, number, name.to_owned(), v1::LockMode::Exclusive)
}

fn of_few(number: u64) -> StoreCall {
    acquire(number, number % 100, short(number), v1::LockMode::Exclusive)
}

/// It ends before it begins.
fn cancelled(number: u64) -> StoreCall {
    let request = v1::CancelRequest {
        name: short(number),
        acquisition_id: 1,
        ..v1::CancelRequest::default()
    };
    call(number, 1 << 40 | number, Body::Cancel(request))
}
