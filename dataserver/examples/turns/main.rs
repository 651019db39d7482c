//! The longest turn of a worker, by the number of locks: while a table is flushed whole, while a
//! stall is credited, while a snapshot is sent and taken in, and at a change of the leader. Three
//! workers in one thread, each on a RocksDB of its own; the chores that a store runs in a thread of
//! its own are timed apart. `cargo run --example turns -p sharklock-dataserver -- 100000 300000`.
//! With `full` it splits ranges of 16 MiB instead, each filled in another way (`full_range.rs`).
//! The figures are time of the thread on a processor: other work on the machine does not count.

mod full_range;
mod trio;

use std::time::Duration;

use trio::Trio;

fn main() {
    if std::env::args().any(|it| it == "full") {
        return full_range::measure();
    }
    let asked: Vec<u64> = std::env::args().skip(1).filter_map(|it| it.parse().ok()).collect();
    let sizes = if asked.is_empty() { vec![100_000, 300_000, 700_000] } else { asked };
    println!("   locks | what                          | longest turn | turns | write    | chore");
    sizes.into_iter().for_each(measure);
}

fn measure(locks: u64) {
    let mut trio = Trio::new(locks);
    let leader = trio.elect();
    let away = leader % 3 + 1;
    trio.alone = Some(away);
    trio.acquire(leader, locks);
    trio.show(locks, "acquire, in messages of 4,096", leader);

    trio.flush();
    trio.show(locks, "flush all at once", leader);

    trio.now += Duration::from_millis(600);
    trio.settle();
    trio.show(locks, "credit a stall", leader);

    trio.split(leader, trio::name(locks / 2));
    trio.pass(Duration::from_secs(1));
    trio.show_one(locks, "split, where it leads", leader);
    trio.show(locks, "split, where it follows", 6 - leader - away);

    // A few more entries, so that the log no longer reaches back to the replica that was away.
    for _ in 0..3 {
        (0..40).for_each(|_| trio.acquire(leader, 1));
        trio.flush();
    }
    trio.reset();
    trio.alone = None;
    trio.pass(Duration::from_secs(20));
    let installed = trio.worker(away).store().snapshot_stats().installed;
    assert_eq!(installed, 1, "the snapshot is there");
    trio.show_one(locks, "send a snapshot", leader);
    trio.show(locks, "take a snapshot in", away);

    trio.alone = Some(leader);
    let next = trio.elect_other(leader);
    trio.pass(Duration::from_secs(3));
    trio.show_one(locks, "begin to lead", next);
    trio.alone = None;
    trio.reset();
    trio.pass(Duration::from_secs(3));
    trio.show(locks, "hear that another leads", leader);
}
