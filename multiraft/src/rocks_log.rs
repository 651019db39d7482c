//! Reads RocksDB's log files, write-ahead logs and manifest, before RocksDB does: what it would
//! take for the end of a log is examined here, and refused where it is damage.
//!
//! A crash can leave a log torn: its last record lacks its end. RocksDB must accept that, and it
//! takes more than that for a torn end. Three single flipped bits of a synced log it reads wrongly
//! (`tests/rocks/damaged_files.rs` has them all):
//! - a longer length, anywhere in the last 32 KiB: the rest of the log is dropped without a word;
//! - the type of a file's first record: the whole file counts as another log's remains and is
//!   dropped without a word;
//! - the type of another record: the start never ends.
//!
//! And a stretch of zeros makes it drop the rest of a block of 32 KiB without a word.
//!
//! What nobody can tell is a log cut off between two records from one that was never longer.
//!
//! The format is LevelDB's: blocks of 32 KiB, filled with records {checksum: u32, length: u16,
//! type: u8, payload}. The checksum is a masked CRC-32C of type and payload, but not of the
//! length. A batch that does not fit a block goes on in the next as first, middle and last record.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

const BLOCK_BYTES: usize = 32 << 10;
const HEADER_BYTES: usize = 7;
const CHECKSUM_BYTES: usize = 4;
/// Checksum and length: where what the checksum covers begins.
const TYPE_AT: usize = 6;

/// What is wrong with a log file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadLog {
    /// It cannot be read.
    #[error("{file} cannot be read: {error}")]
    Unreadable { file: String, error: io::Error },
    /// It holds, or held, what is not what was written.
    #[error("{file} is damaged at byte {at}: {why}")]
    Damaged { file: String, at: u64, why: &'static str },
}

/// How an undamaged log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Without a record.
    Empty,
    /// Behind a record.
    Whole,
    /// Within one that begins at this byte.
    Torn(u64),
}

/// Reads all logs of the database in `directory`, which nobody else may have open. Nothing there:
/// nothing wrong.
pub(crate) fn check(directory: &Path) -> Result<(), BadLog> {
    let current = directory.join("CURRENT");
    if !current.exists() {
        return Ok(());
    }
    let manifest = fs::read(&current).map_err(|error| unreadable(&current, error))?;
    check_file(&directory.join(String::from_utf8_lossy(&manifest).trim_end()))?;

    let mut torn: Option<(PathBuf, u64)> = None;
    for log in write_ahead_logs(directory).map_err(|error| unreadable(directory, error))? {
        let end = check_file(&log)?;
        if end == End::Empty {
            continue;
        }
        // A log is synced before its successor is: its lost end leaves a gap in the history.
        if let Some((file, at)) = torn {
            return Err(damaged(&file, at, "it ends within a record, and a later log goes on"));
        }
        if let End::Torn(at) = end {
            torn = Some((log, at));
        }
    }
    Ok(())
}

/// Oldest first.
fn write_ahead_logs(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut logs = Vec::new();
    for file in fs::read_dir(directory)? {
        let path = file?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
        if let Some(number) = number.filter(|_| path.extension().is_some_and(|it| it == "log")) {
            logs.push((number, path));
        }
    }
    logs.sort();
    Ok(logs.into_iter().map(|(_, path)| path).collect())
}

fn check_file(path: &Path) -> Result<End, BadLog> {
    let unreadable = |error| unreadable(path, error);
    let mut file = match File::open(path) {
        // RocksDB knows which files there must be. Some go while another process works on them.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(End::Empty),
        opened => opened.map_err(unreadable)?,
    };
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    let mut reader = Reader { at: 0, begun: None, end: End::Empty };
    loop {
        block.clear();
        let mut part = file.by_ref().take(BLOCK_BYTES as u64);
        part.read_to_end(&mut block).map_err(unreadable)?;
        let bad = |(at, why)| damaged(path, at, why);
        if let Some(end) = reader.read_block(&block).map_err(bad)? {
            return Ok(end);
        }
    }
}

fn unreadable(path: &Path, error: io::Error) -> BadLog {
    BadLog::Unreadable { file: name(path), error }
}

fn damaged(path: &Path, at: u64, why: &'static str) -> BadLog {
    BadLog::Damaged { file: name(path), at, why }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// Where something is wrong, and what.
type Damage = (u64, &'static str);

struct Reader {
    /// Offset of the next block.
    at: u64,
    /// Where a record began that goes on in the next block.
    begun: Option<u64>,
    end: End,
}

impl Reader {
    /// Reads the next block of a file; one that is not full is its last. Says how the file ends
    /// where it ends.
    fn read_block(&mut self, block: &[u8]) -> Result<Option<End>, Damage> {
        let mut rest = block;
        // RocksDB fills what is too short for a header with zeros, and never reads it.
        while rest.len() >= HEADER_BYTES {
            let at = self.at + (block.len() - rest.len()) as u64;
            let room = BLOCK_BYTES - (block.len() - rest.len());
            let Some(record) = Record::parse(rest) else {
                check_torn(rest, room).map_err(|why| (at, why))?;
                return Ok(Some(End::Torn(self.begun.unwrap_or(at))));
            };
            record.check().and_then(|()| self.chain(record.kind, at)).map_err(|why| (at, why))?;
            rest = &rest[HEADER_BYTES + record.payload.len()..];
        }
        self.at += block.len() as u64;
        if block.len() == BLOCK_BYTES {
            return Ok(None);
        }
        let torn = self.begun.or((!rest.is_empty()).then(|| self.at - rest.len() as u64));
        Ok(Some(torn.map_or(self.end, End::Torn)))
    }

    fn chain(&mut self, kind: u8, at: u64) -> Result<(), &'static str> {
        self.end = End::Whole;
        match (kind, self.begun) {
            (FULL, None) => {}
            (FIRST, None) => self.begun = Some(at),
            (MIDDLE, Some(_)) => {}
            (LAST, Some(_)) => self.begun = None,
            (FULL..=LAST, _) => return Err("the parts of a record do not follow each other"),
            // Never written with the options of this program, and RocksDB would read them its
            // own way, whatever they are.
            _ => return Err("a record has an unknown type"),
        }
        Ok(())
    }
}

const FULL: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;

struct Record<'a> {
    checksum: u32,
    kind: u8,
    payload: &'a [u8],
    /// Type and payload.
    covered: &'a [u8],
}

impl<'a> Record<'a> {
    /// The record at the begin of `bytes`; `None`: it is longer than they are.
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (checksum, rest) = bytes.split_first_chunk::<CHECKSUM_BYTES>()?;
        let (length, _) = rest.split_first_chunk::<2>()?;
        let end = HEADER_BYTES + usize::from(u16::from_le_bytes(*length));
        let covered = bytes.get(TYPE_AT..end)?;
        let (kind, payload) = covered.split_first()?;
        Some(Self { checksum: u32::from_le_bytes(*checksum), kind: *kind, payload, covered })
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.checksum == masked(crc32c::crc32c(self.covered)) {
            Ok(())
        } else {
            Err("a record does not match its checksum")
        }
    }
}

/// Whether `bytes`, the last of a file, can be the begin of a record that a crash cut off, in a
/// block that had `room` for it.
fn check_torn(bytes: &[u8], room: usize) -> Result<(), &'static str> {
    let (checksum, rest) = bytes.split_first_chunk::<CHECKSUM_BYTES>().expect("a header is there");
    let length = usize::from(u16::from_le_bytes([rest[0], rest[1]]));
    if HEADER_BYTES + length > room {
        return Err("a record is longer than its block");
    }
    if !(FULL..=LAST).contains(&bytes[TYPE_AT]) {
        return Err("a record has an unknown type");
    }
    // The length is not under the checksum. If a shorter payload fits that, then the record is all
    // there, and perhaps others behind it.
    let mut sum = crc32c::crc32c(&bytes[TYPE_AT..HEADER_BYTES]);
    let mut fits = masked(sum) == u32::from_le_bytes(*checksum);
    for byte in &bytes[HEADER_BYTES..] {
        sum = crc32c::crc32c_append(sum, &[*byte]);
        fits |= masked(sum) == u32::from_le_bytes(*checksum);
    }
    // NB: not looked for are whole records behind it. Only damage that begins just at a length and
    // makes another possible one hides them, and a client could plant some inside its own entry:
    // a crash within that would then cost the store its disk.
    if fits { Err("a record has a wrong length") } else { Ok(()) }
}

/// RocksDB never stores a plain CRC: logs may be stored in logs.
fn masked(sum: u32) -> u32 {
    sum.rotate_right(15).wrapping_add(0xa282_ead8)
}
