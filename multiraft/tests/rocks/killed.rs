//! Processes killed while they write. Writes that they reported are there at the next start,
//! and what else is there is the beginning of what they were about to write.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use sharklock_multiraft::{Disk as _, Family, RocksDisk, Store, WriteOp, bootstrap};

use crate::node::{RANGE, descriptor, ident, small_log};
use crate::tally::{Tally, put};
use crate::{contents, directory, settle};

/// Tell the child what to do; unset in everybody else's life.
const DIRECTORY: &str = "SHARKLOCK_TEST_KILLED_DIRECTORY";
const WRITER: &str = "SHARKLOCK_TEST_KILLED_WRITER";

const ROUNDS: usize = 60;

/// The contents of the database after the writer's batch `last`.
fn expected(last: u64) -> [Vec<(Vec<u8>, Vec<u8>)>; 3] {
    let pair = |number: u64| (number.to_be_bytes().to_vec(), value(number));
    let live = last.saturating_sub(9)..=last;
    let logged = live.filter(|number| *number > 0).map(pair).collect();
    let marks = (1..=last).filter(|number| number % 50 == 0).map(pair).collect();
    let latest = (last > 0).then(|| (b"last".to_vec(), [value(last), vec![0; 8_000]].concat()));
    [logged, marks, latest.into_iter().collect()]
}

fn value(number: u64) -> Vec<u8> {
    number.to_be_bytes().repeat(1 + (number % 90) as usize)
}

fn batch(number: u64) -> Vec<WriteOp> {
    let key = |number: u64| number.to_be_bytes().to_vec();
    // The long value fills a buffer every 130 batches, so that tables are written meanwhile.
    let latest = [value(number), vec![0; 8_000]].concat();
    let mut ops = vec![
        WriteOp::Put(Family::Raft, key(number), value(number)),
        WriteOp::Put(Family::Meta, b"last".to_vec(), latest),
        WriteOp::DeleteRange(Family::Raft, key(0), key(number.saturating_sub(9))),
    ];
    if number.is_multiple_of(50) {
        ops.push(WriteOp::Put(Family::State, key(number), value(number)));
    }
    ops
}

/// The number of the last batch of a disk's writer. Panics if anything else is missing or too many.
fn last_on(disk: &RocksDisk) -> u64 {
    let found = contents(disk).unwrap();
    let last = found[0].last().map_or(0, |(key, _)| {
        u64::from_be_bytes(key.as_slice().try_into().expect("keys are numbers"))
    });
    assert!(found == expected(last), "{last} is the last batch, and not all is as it left it");
    last
}

/// The number of words of a store's writer. Panics if its machine holds anything else.
fn last_in(directory: &Path) -> u64 {
    let mut disk = RocksDisk::open(directory).unwrap();
    let mut store: Store<Tally> = Store::recover(small_log(), &disk).unwrap();
    settle(&mut store, &mut disk);
    let machine = store.machine(RANGE).unwrap();
    for (word, token) in &machine.tokens {
        let newer = (token + 1..=machine.counter).find(|number| word_of(*number) == *word);
        assert_eq!((word_of(*token), newer), (word.clone(), None));
    }
    assert_eq!(machine.tokens.len() as u64, machine.counter.min(37));
    machine.counter
}

fn word_of(number: u64) -> String {
    format!("w{}", number % 37)
}

/// Writes numbered batches, and calls `report` for each that is durable, until that says no.
fn write_batches(directory: &Path, mut report: impl FnMut(u64) -> bool) {
    let mut disk = RocksDisk::open(directory).unwrap();
    let mut number = last_on(&disk);
    loop {
        number += 1;
        // An unsynced one is reported by the sync after it.
        let sync = number % 7 != 3;
        disk.write(&batch(number), sync).unwrap();
        if sync && !report(number) {
            return;
        }
    }
}

/// Proposes numbered words, and calls `report` for each that is applied, until that says no.
fn write_words(directory: &Path, mut report: impl FnMut(u64) -> bool) {
    let mut disk = RocksDisk::open(directory).unwrap();
    let mut store: Store<Tally> = Store::recover(small_log(), &disk).unwrap();
    settle(&mut store, &mut disk);
    let mut number = store.machine(RANGE).unwrap().counter;
    loop {
        number += 1;
        store.propose(RANGE, put(&word_of(number))).unwrap();
        if number.is_multiple_of(7) {
            store.flush();
        }
        let applied = settle(&mut store, &mut disk);
        let outputs = applied.iter().filter_map(|applied| applied.output).collect::<Vec<_>>();
        assert_eq!(outputs, [number]);
        if !report(number) {
            return;
        }
    }
}

fn make_store(directory: &Path) {
    let mut disk = RocksDisk::open(directory).unwrap();
    disk.write(&bootstrap(&ident(1), &descriptor(1)), true).unwrap();
}

/// Is the child of the other tests here, if it finds its orders. Else it shows that its writers
/// and what judges them agree when nobody is killed.
#[test]
fn writers_that_live_leave_all_that_they_reported() {
    if let (Ok(directory), Ok(writer)) = (std::env::var(DIRECTORY), std::env::var(WRITER)) {
        let mut pipe = std::io::stdout().lock();
        writeln!(pipe).unwrap();
        let report = |number| writeln!(pipe, "wrote {number}").is_ok();
        match writer.as_str() {
            "batches" => write_batches(Path::new(&directory), report),
            "words" => write_words(Path::new(&directory), report),
            writer => panic!("{writer} is no writer"),
        }
        return;
    }
    let directory = directory();
    write_batches(directory.path(), |number| number < 200);
    assert_eq!(last_on(&RocksDisk::open(directory.path()).unwrap()), 200);

    let directory = crate::directory();
    make_store(directory.path());
    write_words(directory.path(), |number| number < 200);
    assert_eq!(last_in(directory.path()), 200);
}

fn spawn(directory: &Path, writer: &str) -> Child {
    let this = std::env::current_exe().unwrap();
    Command::new(this)
        .args(["--exact", "killed::writers_that_live_leave_all_that_they_reported", "--nocapture"])
        .env(DIRECTORY, directory)
        .env(WRITER, writer)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Lets a child report `reports` writes, or none at all, then kills it. Returns the last one that
/// it reported, also while it was being killed.
fn kill_after(mut child: Child, reports: usize) -> Option<u64> {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut last = None;
    let mut read = |last: &mut Option<u64>| {
        let Some(line) = lines.next() else { return false };
        // The last line may lack its end.
        if let Some(number) = line.unwrap().strip_prefix("wrote ").and_then(|it| it.parse().ok()) {
            *last = Some(last.map_or(number, |last: u64| last.max(number)));
            return true;
        }
        true
    };
    let mut seen = 0;
    while seen < reports {
        let before = last;
        assert!(read(&mut last), "the child ended by itself");
        seen += usize::from(last != before);
    }
    child.kill().unwrap();
    while read(&mut last) {}
    assert!(!child.wait().unwrap().success());
    last
}

/// Kills a writer again and again on one directory, `last` telling what it left.
fn kill_loop(directory: &Path, writer: &str, seed: u64, last: impl Fn() -> u64) {
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut before, mut reported_in_all, mut beyond) = (0, 0, 0);
    for round in 0..ROUNDS {
        // Every fourth one dies while it opens, or soon after.
        let reports = if round % 4 == 0 { round / 4 % 2 } else { rng.random_range(1..300) };
        let reported = kill_after(spawn(directory, writer), reports);
        let found = last();
        if let Some(reported) = reported {
            assert!(found >= reported, "{reported} was reported, {found} is the last there");
            reported_in_all += reported - before;
            beyond += u64::from(found > reported);
        }
        assert!(found >= before, "{before} was there, {found} is left");
        before = found;
    }
    println!(
        "{ROUNDS} kills of {writer}, {reported_in_all} writes reported, {before} there, {beyond} times more than reported"
    );
    assert!(reported_in_all > 60 * ROUNDS as u64, "{reported_in_all}");
}

#[test]
fn a_killed_writer_leaves_every_batch_that_it_reported() {
    let directory = directory();
    let last = || last_on(&RocksDisk::open(directory.path()).unwrap());
    kill_loop(directory.path(), "batches", 1, last);
}

#[test]
fn a_killed_store_recovers_every_entry_that_it_reported() {
    let directory = directory();
    make_store(directory.path());
    kill_loop(directory.path(), "words", 2, || last_in(directory.path()));
}
