//! The last batch after a loss of power, which is the only one that was not synced: any of
//! its sectors may be missing, which then read as zeros, and the file may be shorter or longer. It
//! must start again, and with all of the rest.

use std::fs;

use rand::rngs::StdRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};
use sharklock_multiraft::{Disk as _, Family, RocksDisk};

use crate::damaged_files::{Image, Visited, in_log, in_tables, put, records, write};
use crate::{Contents, contents, directory};

const SECTOR: usize = 512;

/// A database before and after its last batch, which holds these values.
struct LastBatch {
    before: Contents,
    image: Image,
    name: String,
    log: Vec<u8>,
    /// The begin of the last batch in the log.
    begin: usize,
}

impl LastBatch {
    fn of(small_batches: u32, last: &[&[u8]]) -> Self {
        let directory = directory();
        let mut disk = RocksDisk::open(directory.path()).unwrap();
        write(&mut disk, 0, small_batches);
        let before = contents(&disk).unwrap();
        let begin = Image::of(directory.path(), &disk).file(".log").1.len();
        let ops = (900..).zip(last).map(|(key, value)| put(Family::Raft, key, value));
        disk.write(&Vec::from_iter(ops), true).unwrap();
        let image = Image::of(directory.path(), &disk);
        let (name, log) = image.file(".log");
        Self { before, image, name, log, begin }
    }

    /// Opens with this log, which must hold what was there before the last batch.
    fn expect_torn(&self, what: &str, log: &[u8]) {
        match self.image.open_with(&self.name, log) {
            Ok(found) => assert!(found == self.before, "{what}: opened with other contents"),
            Err(error) => panic!("{what}: {error}"),
        }
    }
}

fn random_bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// Sizes are journaled before pages are written: the log ends in zeros, from wherever.
#[test]
fn zeros_from_any_byte_of_the_last_record_on_are_a_torn_end() {
    let last = LastBatch::of(12, &[b"one value", b"another"]);
    for from in last.begin..last.log.len() {
        for more in [0, 1, 100, 5_000, 40_000] {
            let mut torn = last.log[..from].to_vec();
            torn.resize(last.log.len() + more, 0);
            last.expect_torn(&format!("zeros from {from} and {more} more"), &torn);
        }
    }
}

/// The last record is all there, and so are the pages of a next one that has no bytes yet.
#[test]
fn zeros_behind_a_whole_record_hide_nothing() {
    let image = in_log(12);
    let (name, log) = image.file(".log");
    let mut visited = Visited::default();
    for more in [1, 6, 7, 511, 512, 4_096, 32_768, 100_000] {
        let mut longer = log.clone();
        longer.resize(log.len() + more, 0);
        image.check(&format!("{more} zeros"), &name, &longer, &mut visited);
    }
    assert_eq!((visited.refused, visited.harmless), (0, 8));
}

/// The first record of the newest log, with or without an older log.
#[test]
fn a_log_of_nothing_but_zeros_is_empty() {
    let image = in_log(12);
    let (name, _) = image.file(".log");
    let number: u64 = name.trim_end_matches(".log").parse().unwrap();
    let directory = image.with("", &[]);
    fs::write(directory.path().join(format!("{:06}.log", number + 1)), [0; 5_000]).unwrap();
    let disk = RocksDisk::open(directory.path()).unwrap();
    assert!(contents(&disk).unwrap() == image.contents);
}

/// Pages reach a disk in any order, and of a page any sectors.
#[test]
fn any_sectors_of_a_large_batch_may_be_missing() {
    for (small_batches, len) in [(3, 300), (3, 5_000), (20, 31_000), (3, 40_000), (3, 100_000)] {
        let value = random_bytes(len as u64, len);
        let last = LastBatch::of(small_batches, &[&value, b"end"]);
        let mut rng = StdRng::seed_from_u64(7);
        let first = last.begin / SECTOR;
        let sectors = last.log.len().div_ceil(SECTOR) - first;
        for round in 0..60 {
            // At times nearly all is there, at times nearly nothing.
            let missing = rng.random_range(1..=sectors);
            let mut torn = last.log.clone();
            for _ in 0..missing {
                let begin = (first + rng.random_range(0..sectors)) * SECTOR;
                let end = (begin + SECTOR).min(torn.len());
                torn[begin.max(last.begin)..end].fill(0);
            }
            if rng.random_range(0..3) == 0 {
                let size = rng.random_range(last.begin..=torn.len());
                torn.truncate(size);
            }
            last.expect_torn(&format!("{len} bytes, round {round}"), &torn);
        }
    }
}

/// A client cannot make its torn entry look like damage: it does not know the database's mark.
#[test]
fn whole_records_inside_a_torn_one_prove_nothing() {
    let (_, other_log) = in_log(40).file(".log");
    let last = LastBatch::of(5, &[&random_bytes(1, 700), &other_log, &other_log]);
    let mut torn = last.log.clone();
    let sector = (last.begin / SECTOR + 1) * SECTOR;
    torn[last.begin..sector].fill(0);
    last.expect_torn("its first sector is missing", &torn);
}

/// Wherever the later record begins: its mark may lie in two blocks.
#[test]
fn a_hole_is_refused_wherever_the_record_behind_it_begins() {
    let mut visited = Visited::default();
    for room in 0..80 {
        let directory = directory();
        let mut disk = RocksDisk::open(directory.path()).unwrap();
        write(&mut disk, 0, 2);
        let begin = Image::of(directory.path(), &disk).file(".log").1.len();
        // Header, sequence number and count, mark, end, and a put with its lengths.
        let other = 7 + 12 + 18 + 3 + 9;
        disk.write(&[put(Family::Raft, 7, &vec![9; 32_768 - begin - other - room])], true).unwrap();
        let end = Image::of(directory.path(), &disk).file(".log").1.len();
        disk.write(&[put(Family::Raft, 8, b"synced")], true).unwrap();
        let image = Image::of(directory.path(), &disk);
        let (name, mut log) = image.file(".log");
        assert!(end.abs_diff(32_768 - room) <= 8, "{end} and {room} to the end of a block");
        log[begin..end].fill(0);
        image.check(&format!("zeros up to {end}"), &name, &log, &mut visited);
        log.truncate(log.len() - 1);
        image.check(&format!("zeros up to {end}, and torn"), &name, &log, &mut visited);
    }
    assert_eq!((visited.refused, visited.harmless), (160, 0));
}

/// RocksDB has replayed the torn log and begun a newer one when power is lost again; the old one's
/// removal is lost with it.
#[test]
fn a_torn_log_that_comes_back_beside_a_newer_one_is_whole() {
    let last = LastBatch::of(5, &[&random_bytes(2, 3_000)]);
    for cut in [1, 700, 2_900] {
        let mut torn = last.log.clone();
        let len = torn.len();
        torn[len - cut..].fill(0);
        let directory = last.image.with(&last.name, &torn);
        let path = directory.path().join(&last.name);
        let kept = directory.path().join("kept");
        fs::hard_link(&path, &kept).unwrap();
        let mut disk = RocksDisk::open(directory.path()).unwrap();
        write(&mut disk, 50, 3);
        let found = contents(&disk).unwrap();
        drop(disk);
        if !path.exists() {
            fs::rename(&kept, &path).unwrap();
        }
        let disk = RocksDisk::open(directory.path()).unwrap();
        assert!(contents(&disk).unwrap() == found);
    }
}

#[test]
fn a_damaged_directory_is_left_as_it_is() {
    let image = in_log(12);
    let (name, mut log) = image.file(".log");
    let at = records(&log)[5].0 + 9;
    log[at] ^= 1;
    log.extend([0; 600]);
    let directory = image.with(&name, &log);
    assert!(RocksDisk::open(directory.path()).is_err());
    assert_eq!(fs::read(directory.path().join(&name)).unwrap(), log);
}

/// The manifest grows by records that are synced one by one, too.
#[test]
fn a_torn_end_of_the_manifest_hides_nothing() {
    let image = in_tables();
    let (name, manifest) = image.file("MANIFEST");
    let (begin, len) = *records(&manifest).last().unwrap();
    let next = manifest[begin..begin + len].to_vec();
    let mut visited = Visited::default();
    for there in 0..next.len() {
        for zeros in [0, 1, 30, 600, 40_000] {
            let torn = [&manifest[..], &next[..there], &vec![0; zeros]].concat();
            let what = format!("{there} bytes of a record and {zeros} zeros");
            image.check(&what, &name, &torn, &mut visited);
        }
    }
    println!("{visited:?}");
    assert_eq!(visited.refused, 0);
}

#[test]
fn zeros_in_the_manifest_are_refused_where_a_record_follows() {
    let image = in_tables();
    let (name, manifest) = image.file("MANIFEST");
    let records = records(&manifest);
    let (last, _) = *records.last().unwrap();
    let mut visited = Visited::default();
    for (begin, _) in &records[..records.len() - 1] {
        let mut zeroed = manifest.clone();
        zeroed[*begin..last].fill(0);
        image.check(&format!("zeros from {begin} to {last}"), &name, &zeroed, &mut visited);
    }
    println!("{visited:?}");
    assert_eq!(visited.harmless, 0);
    assert!(visited.refused >= 5);
}

/// The first start, cut off at any time: what was made so far must not stop the next one.
#[test]
fn what_a_first_start_had_made_stops_no_start() {
    let first = directory();
    drop(RocksDisk::open(first.path()).unwrap());
    let names = || fs::read_dir(first.path()).unwrap().map(|file| file.unwrap().path());
    let early = |name: &str| ["IDENTITY", "MANIFEST-000001", "LOCK", "LOG"].contains(&name);
    for (index, with_manifest) in [(0, None), (1, Some(&[][..])), (2, Some(&[0; 70][..]))] {
        let directory = directory();
        for path in names() {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if early(&name) {
                fs::copy(&path, directory.path().join(name)).unwrap();
            }
        }
        fs::write(directory.path().join("000001.dbtmp"), b"MANI").unwrap();
        if let Some(bytes) = with_manifest {
            fs::write(directory.path().join("MANIFEST-000001"), bytes).unwrap();
        }
        let mut disk = RocksDisk::open(directory.path()).unwrap();
        write(&mut disk, 0, 3);
        assert!(!contents(&disk).unwrap()[0].is_empty(), "case {index}");
    }
}
