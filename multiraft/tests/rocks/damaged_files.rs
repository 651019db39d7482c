//! The next start of a database with a damaged or torn file. Nothing that was synced may
//! be missing without an error.

use std::fs;
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use sharklock_multiraft::{Disk as _, Family, OpenError, RocksDisk, WriteOp};
use tempfile::TempDir;

use crate::{Contents, contents, directory};

/// The files of a database, as a power loss just after its last sync leaves them.
pub(crate) struct Image {
    files: Vec<(String, Vec<u8>)>,
    pub(crate) contents: Contents,
}

impl Image {
    /// Copies the files while they are open: a clean close may tidy.
    pub(crate) fn of(directory: &Path, disk: &RocksDisk) -> Self {
        let files = fs::read_dir(directory).unwrap().map(|file| file.unwrap().path());
        let read = |path: PathBuf| {
            (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap())
        };
        let wanted = files.filter(|path| path.file_name().is_some_and(|it| it != "LOG"));
        Self { files: wanted.map(read).collect(), contents: contents(disk).unwrap() }
    }

    /// The longest file whose name has this in it.
    pub(crate) fn file(&self, part: &str) -> (String, Vec<u8>) {
        let files = self.files.iter().filter(|(name, _)| name.contains(part));
        files.max_by_key(|(_, bytes)| bytes.len()).expect("there is such a file").clone()
    }

    /// A database of these files, but for one.
    pub(crate) fn with(&self, changed: &str, bytes: &[u8]) -> TempDir {
        let directory = directory();
        for (name, original) in &self.files {
            let bytes = if name == changed { bytes } else { original };
            fs::write(directory.path().join(name), bytes).unwrap();
        }
        directory
    }

    /// The result of opening those files: their contents, or why there are none.
    pub(crate) fn open_with(&self, changed: &str, bytes: &[u8]) -> Result<Contents, String> {
        let directory = self.with(changed, bytes);
        match RocksDisk::open(directory.path()) {
            Ok(disk) => contents(&disk),
            Err(error) => {
                let text = error.to_string();
                assert_eq!(text.lines().count(), 1, "{text}");
                Err(text)
            }
        }
    }

    /// Opens with one file changed. Panics if that is taken and anything is missing.
    pub(crate) fn check(&self, what: &str, name: &str, bytes: &[u8], visited: &mut Visited) {
        match self.open_with(name, bytes) {
            Ok(found) => {
                assert!(found == self.contents, "{what} of {name}: opened without all of its data");
                visited.harmless += 1;
            }
            Err(_) => visited.refused += 1,
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Visited {
    pub(crate) refused: usize,
    pub(crate) harmless: usize,
}

pub(crate) fn put(family: Family, key: u32, value: &[u8]) -> WriteOp {
    WriteOp::Put(family, key.to_be_bytes().to_vec(), value.to_vec())
}

/// Synced batches of all kinds of change over all families, `count` of them.
pub(crate) fn write(disk: &mut RocksDisk, from: u32, count: u32) {
    for number in from..from + count {
        let mut ops = vec![
            put(Family::Raft, number, &[number as u8; 9]),
            put(Family::Meta, 1, &number.to_be_bytes()),
        ];
        if number % 3 == 0 {
            ops.push(put(Family::State, number, &[number as u8; 5]));
        }
        if number % 5 == 4 {
            let key = |key: u32| key.to_be_bytes().to_vec();
            ops.push(WriteOp::DeleteRange(Family::Raft, key(number - 3), key(number - 1)));
            ops.push(WriteOp::Delete(Family::State, key(number - 4)));
        }
        disk.write(&ops, true).unwrap();
    }
}

/// A database with everything in its write-ahead log.
pub(crate) fn in_log(count: u32) -> Image {
    let directory = directory();
    let mut disk = RocksDisk::open(directory.path()).unwrap();
    write(&mut disk, 0, count);
    Image::of(directory.path(), &disk)
}

/// A database with tables, and a manifest that has grown with them: each start makes some of the
/// log of the life before.
pub(crate) fn in_tables() -> Image {
    let directory = directory();
    for life in 0..3 {
        let mut disk = RocksDisk::open(directory.path()).unwrap();
        write(&mut disk, life * 10, 10);
    }
    let mut disk = RocksDisk::open(directory.path()).unwrap();
    write(&mut disk, 30, 2);
    Image::of(directory.path(), &disk)
}

fn flip(bytes: &[u8], at: usize, bit: u8) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 1 << bit;
    bytes
}

/// The begins of a log's records, and how long each is with its header.
pub(crate) fn records(log: &[u8]) -> Vec<(usize, usize)> {
    let mut records = Vec::new();
    let mut at = 0;
    while at + 7 <= log.len() {
        let len = 7 + usize::from(u16::from_le_bytes([log[at + 4], log[at + 5]]));
        if len > 7 {
            records.push((at, len));
            at += len;
        } else {
            // The rest of a block.
            at = (at / 32_768 + 1) * 32_768;
        }
        if 32_768 - at % 32_768 < 7 {
            at = (at / 32_768 + 1) * 32_768;
        }
    }
    records
}

/// RocksDB alone drops the rest of the log for a longer length, all of it for another type of the
/// first record, and hangs for another type of a later one.
#[test]
fn every_flipped_bit_of_a_records_header_is_refused() {
    let image = in_log(12);
    let (name, log) = image.file(".log");
    let records = records(&log);
    assert!(records.len() >= 12, "{}", records.len());
    let mut visited = Visited::default();
    for (begin, _) in &records {
        for at in *begin..begin + 7 {
            for bit in 0..8 {
                let flipped = flip(&log, at, bit);
                image.check(&format!("bit {bit} of byte {at}"), &name, &flipped, &mut visited);
            }
        }
    }
    println!("{} records, {visited:?}", records.len());
    assert_eq!(visited.harmless, 0);
    assert!(visited.refused >= 12 * 56);
}

#[test]
fn every_flipped_byte_of_the_log_is_refused() {
    let image = in_log(12);
    let (name, log) = image.file(".log");
    let mut visited = Visited::default();
    let mut rng = StdRng::seed_from_u64(1);
    for at in 0..log.len() {
        let flipped = flip(&log, at, rng.random_range(0..8));
        image.check(&format!("byte {at}"), &name, &flipped, &mut visited);
    }
    println!("{} bytes, {visited:?}", log.len());
    assert_eq!(visited.harmless, 0);
    assert!(visited.refused >= 500);
}

/// In a log of several blocks, among them records that go on in the next.
#[test]
fn flips_in_a_log_of_many_blocks_are_refused() {
    let directory = directory();
    let mut disk = RocksDisk::open(directory.path()).unwrap();
    for number in 0..40 {
        let value = vec![number as u8; 1 + (number as usize % 7) * 1_999];
        disk.write(&[put(Family::Raft, number, &value)], true).unwrap();
    }
    // One of three parts.
    disk.write(&[put(Family::State, 1, &vec![1; 70_000])], true).unwrap();
    disk.write(&[put(Family::State, 2, b"end")], true).unwrap();
    let image = Image::of(directory.path(), &disk);
    let (name, log) = image.file(".log");
    let records = records(&log);
    let kinds = records.iter().map(|(at, _)| log[at + 6]).collect::<Vec<_>>();
    assert!((1..=4).all(|kind| kinds.contains(&kind)), "{kinds:?}");
    let mut visited = Visited::default();
    let mut rng = StdRng::seed_from_u64(2);
    for (begin, len) in &records {
        for at in [4, 5, 6, rng.random_range(0..4), rng.random_range(7..*len)] {
            let bit = rng.random_range(0..8);
            let flipped = flip(&log, begin + at, bit);
            image.check(
                &format!("bit {bit} of byte {}", begin + at),
                &name,
                &flipped,
                &mut visited,
            );
        }
    }
    println!("{} records, {visited:?}", records.len());
    assert_eq!(visited.harmless, 0);
    assert!(visited.refused >= 200);
}

/// Cut at every byte of the last record, the log holds everything before it, which is what was
/// synced before the write that the crash cut off.
#[test]
fn a_log_torn_anywhere_in_its_last_record_opens_without_just_that() {
    let before = in_log(12);
    let image = in_log(13);
    let (name, log) = image.file(".log");
    let (begin, len) = *records(&log).last().unwrap();
    assert_eq!(begin + len, log.len());
    for cut in begin..log.len() {
        let found = image.open_with(&name, &log[..cut]).unwrap();
        assert!(found == before.contents, "cut at {cut} of {begin}..{}", log.len());
    }
    println!("{len} cuts");
    assert!(len > 40);
}

/// A record of several parts, cut in each of them.
#[test]
fn a_large_record_torn_in_any_of_its_parts_is_gone_as_a_whole() {
    let directory = directory();
    let mut disk = RocksDisk::open(directory.path()).unwrap();
    write(&mut disk, 0, 3);
    let before = contents(&disk).unwrap();
    let small = Image::of(directory.path(), &disk).file(".log").1.len();
    let large = [put(Family::Raft, 7, &vec![7; 80_000]), put(Family::Meta, 7, b"with it")];
    disk.write(&large, true).unwrap();
    let image = Image::of(directory.path(), &disk);
    let (name, log) = image.file(".log");
    let mut cuts = Vec::from_iter((small..log.len()).step_by(997));
    cuts.extend([32_767, 32_768, 32_769, 32_774, 32_775, 65_535, 65_536, 65_540, log.len() - 1]);
    for cut in &cuts {
        let found = image.open_with(&name, &log[..*cut]).unwrap();
        assert!(found == before, "cut at {cut} of {small}..{}", log.len());
    }
    println!("{} cuts", cuts.len());
    assert!(cuts.len() > 80);
}

/// A lost write leaves zeros; RocksDB alone then drops the rest of the block. A record that follows
/// them was written after they were synced.
#[test]
fn zeros_in_front_of_another_record_are_refused() {
    let image = in_log(40);
    let (name, log) = image.file(".log");
    let records = records(&log);
    let (last, _) = *records.last().unwrap();
    let mut visited = Visited::default();
    for (begin, len) in &records[..records.len() - 1] {
        for end in [begin + 8, begin + len, begin + 64, begin + 512, last] {
            let end = end.min(last);
            let mut zeroed = log.clone();
            zeroed[*begin..end].fill(0);
            image.check(&format!("zeros at {begin}..{end}"), &name, &zeroed, &mut visited);
        }
    }
    println!("{visited:?}");
    assert_eq!(visited.harmless, 0);
    assert!(visited.refused >= 39 * 5);
}

/// Every byte of every other file that the data hang on. A flip in anything else may go unnoticed.
#[test]
fn flips_in_tables_manifest_and_current_never_hide_data() {
    let image = in_tables();
    let mut rng = StdRng::seed_from_u64(3);
    for (part, refused_min) in [(".sst", 500), ("MANIFEST", 500), ("CURRENT", 10)] {
        let (name, bytes) = image.file(part);
        let mut visited = Visited::default();
        for at in 0..bytes.len() {
            let flipped = flip(&bytes, at, rng.random_range(0..8));
            image.check(&format!("byte {at}"), &name, &flipped, &mut visited);
        }
        println!("{name}: {} bytes, {visited:?}", bytes.len());
        assert!(visited.refused >= refused_min, "{name}: {visited:?}");
    }
}

#[test]
fn every_flipped_bit_of_the_manifests_headers_is_refused() {
    let image = in_tables();
    let (name, bytes) = image.file("MANIFEST");
    let mut visited = Visited::default();
    for (begin, _) in records(&bytes) {
        for at in begin..begin + 7 {
            for bit in 0..8 {
                let flipped = flip(&bytes, at, bit);
                image.check(&format!("bit {bit} of byte {at}"), &name, &flipped, &mut visited);
            }
        }
    }
    println!("{visited:?}");
    assert_eq!(visited.harmless, 0);
    assert!(visited.refused >= 300);
}

/// Not the log's: one that is gone as a whole looks like one that nothing was ever synced to.
#[test]
fn a_missing_table_manifest_or_current_is_an_error() {
    let image = in_tables();
    let mut refused = 0;
    for (missing, _) in &image.files {
        if !["CURRENT", "MANIFEST", ".sst"].iter().any(|part| missing.contains(part)) {
            continue;
        }
        let directory = image.with("", &[]);
        fs::remove_file(directory.path().join(missing)).unwrap();
        let found = RocksDisk::open(directory.path())
            .map_err(|error| error.to_string())
            .and_then(|disk| contents(&disk));
        assert!(found.is_err(), "opened without {missing}");
        refused += 1;
    }
    assert!(refused >= 4, "{refused}");
}

/// A flipped length could claim the bytes of a torn record behind it.
#[test]
fn a_torn_end_hides_no_flipped_bit_before_it() {
    let image = in_log(8);
    let (name, log) = image.file(".log");
    let records = records(&log);
    let (last, len) = *records.last().unwrap();
    let mut visited = Visited::default();
    for (begin, _) in &records[4..records.len() - 1] {
        for (at, bit) in (begin + 4..begin + 7).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let torn = flip(&log[..last + len / 2], at, bit);
            image.check(&format!("bit {bit} of byte {at}"), &name, &torn, &mut visited);
        }
    }
    println!("{visited:?}");
    assert_eq!(visited.harmless, 0);
    assert!(visited.refused >= 72);
}

/// Two logs are alive at a time: the older one's torn end would be a hole, not an end.
#[test]
fn a_torn_log_is_refused_where_a_later_one_goes_on() {
    let image = in_log(12);
    let (name, log) = image.file(".log");
    let number: u64 = name.trim_end_matches(".log").parse().unwrap();
    let later = format!("{:06}.log", number + 1);
    let directory = image.with(&name, &log[..log.len() - 3]);
    fs::write(directory.path().join(&later), []).unwrap();
    RocksDisk::open(directory.path()).unwrap();

    let directory = image.with(&name, &log[..log.len() - 3]);
    fs::write(directory.path().join(&later), &log).unwrap();
    let Err(error) = RocksDisk::open(directory.path()) else { panic!("opened with a hole") };
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("and a later log goes on"), "{error}");
}
