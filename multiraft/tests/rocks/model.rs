//! Random work on the RocksDB disk and on the simulated one: they answer alike, also after a
//! restart, and after a power loss that tears the log at any byte.

use std::fs;
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use sharklock_multiraft::{Disk as _, Family, RocksDisk, SimDisk, WriteOp};
use tempfile::TempDir;

use crate::{FAMILIES, contents, directory};

/// Runs seeds `0..SEEDS`; the variable `SHARKLOCK_SEED` names another one to run alone.
const SEEDS: u64 = 40;

struct Pair {
    directory: TempDir,
    rocks: Option<RocksDisk>,
    model: SimDisk,
    /// The end of the log at the last sync or start, then after each write since.
    ends: Vec<(PathBuf, u64)>,
    visited: Visited,
}

#[derive(Debug, Default)]
struct Visited {
    writes: u64,
    reads: u64,
    restarts: u64,
    power_losses: u64,
    /// Power losses that took something away.
    losses: u64,
    /// Power losses in the middle of a record.
    torn: u64,
    tables: usize,
}

impl Pair {
    fn fresh() -> Self {
        let directory = directory();
        let rocks = RocksDisk::open(directory.path()).unwrap();
        let ends = vec![end(directory.path())];
        let (model, visited) = (SimDisk::default(), Visited::default());
        Self { directory, rocks: Some(rocks), model, ends, visited }
    }

    fn rocks(&mut self) -> &mut RocksDisk {
        self.rocks.as_mut().expect("it is closed only within a step")
    }

    fn write(&mut self, ops: &[WriteOp], sync: bool) {
        self.rocks().write(ops, sync).unwrap();
        self.model.write(ops, sync).unwrap();
        if sync {
            self.ends.clear();
        }
        self.ends.push(end(self.directory.path()));
        self.visited.writes += 1;
    }

    fn read(&mut self, rng: &mut StdRng) {
        let (family, start, end) = (family(rng), key(rng), key(rng));
        let found = self.rocks().get(family, &start).unwrap();
        assert_eq!(found, self.model.get(family, &start).unwrap());
        let found = self.rocks().scan(family, &start, &end).unwrap();
        assert_eq!(found, self.model.scan(family, &start, &end).unwrap());
        self.visited.reads += 1;
    }

    /// A start writes what the log holds into tables, so nothing is unsynced any more.
    fn restart(&mut self) {
        self.rocks = None;
        self.rocks = Some(RocksDisk::open(self.directory.path()).unwrap());
        self.model.sync().unwrap();
        self.ends = vec![end(self.directory.path())];
        self.visited.restarts += 1;
        self.compare();
    }

    /// The log loses what no sync has followed, from some byte on.
    fn lose_power(&mut self, rng: &mut StdRng) {
        self.rocks = None;
        let (log, len) = self.ends.last().expect("there is the one of the last sync").clone();
        let synced = self.ends.iter().filter(|(file, _)| *file == log).map(|(_, len)| *len);
        let cut = rng.random_range(synced.min().unwrap_or(0)..=len);
        fs::OpenOptions::new().write(true).open(&log).unwrap().set_len(cut).unwrap();
        let kept = self.ends[1..].iter().filter(|(file, len)| *file != log || *len <= cut).count();
        self.visited.power_losses += 1;
        self.visited.losses += u64::from(kept < self.model.unsynced_writes());
        self.visited.torn += u64::from(!self.ends.iter().any(|(_, len)| *len == cut));
        self.model.crash_keeping(kept);
        self.restart();
    }

    fn compare(&mut self) {
        let found = contents(self.rocks()).unwrap();
        let expected = contents(&self.model).unwrap();
        assert!(found == expected, "the disks differ");
    }
}

/// The newest log and its length.
fn end(directory: &Path) -> (PathBuf, u64) {
    let files = fs::read_dir(directory).unwrap().map(|file| file.unwrap().path());
    let logs = files.filter(|path| path.extension().is_some_and(|it| it == "log"));
    let log = logs.max().expect("an open database has a log");
    let len = fs::metadata(&log).unwrap().len();
    (log, len)
}

fn tables(directory: &Path) -> usize {
    let files = fs::read_dir(directory).unwrap().map(|file| file.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|it| it == "sst")).count()
}

fn family(rng: &mut StdRng) -> Family {
    FAMILIES[rng.random_range(0..3)]
}

fn key(rng: &mut StdRng) -> Vec<u8> {
    (0..rng.random_range(0..4)).map(|_| rng.random_range(0..4)).collect()
}

/// Seldom so large that a few of them fill a buffer, and the log goes on in another file.
fn value(rng: &mut StdRng) -> Vec<u8> {
    let len = match rng.random_range(0..40) {
        0 => rng.random_range(100_000..400_000),
        1..4 => rng.random_range(1_000..40_000),
        _ => rng.random_range(0..9),
    };
    vec![rng.random(); len]
}

fn op(rng: &mut StdRng) -> WriteOp {
    match rng.random_range(0..8) {
        0 => WriteOp::DeleteRange(family(rng), key(rng), key(rng)),
        1 | 2 => WriteOp::Delete(family(rng), key(rng)),
        _ => WriteOp::Put(family(rng), key(rng), value(rng)),
    }
}

fn run(seed: u64) -> Visited {
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut pair = Pair::fresh();
    for _ in 0..rng.random_range(20..160) {
        match rng.random_range(0..40) {
            0 => pair.restart(),
            1 | 2 => pair.lose_power(&mut rng),
            3..10 => pair.read(&mut rng),
            _ => {
                let ops = (0..rng.random_range(0..6)).map(|_| op(&mut rng)).collect::<Vec<_>>();
                let sync = rng.random_range(0..4) == 0;
                pair.write(&ops, sync);
            }
        }
    }
    pair.restart();
    pair.visited.tables = tables(pair.directory.path());
    pair.visited
}

#[test]
fn both_disks_are_equal_through_restarts_and_power_losses() {
    if let Ok(seed) = std::env::var("SHARKLOCK_SEED") {
        println!("{:?}", run(seed.parse().unwrap()));
        return;
    }
    let mut total = Visited::default();
    for seed in 0..SEEDS {
        let visited = run(seed);
        total.writes += visited.writes;
        total.reads += visited.reads;
        total.restarts += visited.restarts;
        total.power_losses += visited.power_losses;
        total.losses += visited.losses;
        total.torn += visited.torn;
        total.tables += visited.tables;
    }
    println!("{SEEDS} seeds, {total:?}");
    assert!(total.writes > 50 * SEEDS && total.reads > 10 * SEEDS, "{total:?}");
    assert!(total.losses > SEEDS && total.torn > SEEDS && total.tables > 0, "{total:?}");
}
