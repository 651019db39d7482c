//! The format of RocksDB's logs, which is LevelDB's: blocks of 32 KiB, filled with parts {checksum:
//! u32, length: u16, type: u8, payload}. The checksum is a masked CRC-32C of type and payload, but
//! not of the length. A record that does not fit a block goes on in the next: a first, middle and a
//! last part.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use super::torn::{self, Hole, Mark};
use super::{BadLog, damaged, unusable};

pub(super) const BLOCK_BYTES: usize = 32 << 10;
pub(super) const HEADER_BYTES: usize = 7;
pub(super) const CHECKSUM_BYTES: usize = 4;
/// Checksum and length: where what the checksum covers begins.
pub(super) const TYPE_AT: usize = 6;

pub(super) const FULL: u8 = 1;
pub(super) const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
pub(super) const LAST: u8 = 4;

/// How an undamaged log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Without a record.
    Empty,
    /// Behind a record.
    Whole,
    /// Within one that begins at this byte.
    Torn(u64),
}

/// The place of a fault, and what it is.
pub(super) type Damage = (u64, &'static str);

/// Reads a log. `mark` begins each of its records, if it has any.
pub(super) fn read(path: &Path, mark: Option<&Mark>) -> Result<End, BadLog> {
    let mut file = match File::open(path) {
        // RocksDB knows which files there must be.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(End::Empty),
        opened => opened.map_err(|error| unusable(path, error))?,
    };
    let end = read_blocks(&mut file, mark).map_err(|error| unusable(path, error))?;
    end.map_err(|(at, why)| damaged(path, at, why))
}

fn read_blocks(file: &mut File, mark: Option<&Mark>) -> io::Result<Result<End, Damage>> {
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    let mut reader = Reader { at: 0, begun: None, end: End::Empty };
    loop {
        block.clear();
        file.by_ref().take(BLOCK_BYTES as u64).read_to_end(&mut block)?;
        match reader.read_block(&block) {
            Ok(None) => {}
            Ok(Some(end)) => return Ok(Ok(end)),
            Err(bad) => {
                let begin = reader.begun.unwrap_or(bad.0);
                let mut rest = Vec::new();
                file.seek(SeekFrom::Start(begin))?;
                file.read_to_end(&mut rest)?;
                return Ok(torn::judge(&Hole { begin, at: bad.0, why: bad.1, rest: &rest }, mark));
            }
        }
    }
}

struct Reader {
    /// Offset of the next block.
    at: u64,
    /// The begin of a record that goes on in the next block.
    begun: Option<u64>,
    end: End,
}

impl Reader {
    /// Reads the next block of a file; one that is not full is its last. Says how the file ends
    /// where it ends, and where a part cannot be read.
    fn read_block(&mut self, block: &[u8]) -> Result<Option<End>, Damage> {
        let mut rest = block;
        // RocksDB fills what is too short for a header with zeros, and never reads it.
        while rest.len() >= HEADER_BYTES {
            let at = self.at + (block.len() - rest.len()) as u64;
            let part = Part::parse(rest).ok_or((at, "a record is longer than its block"))?;
            part.check().and_then(|()| self.chain(part.kind, at)).map_err(|why| (at, why))?;
            rest = &rest[HEADER_BYTES + part.payload.len()..];
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

/// A record, or the part of one that is in this block.
pub(super) struct Part<'a> {
    pub checksum: u32,
    pub kind: u8,
    pub payload: &'a [u8],
    /// Type and payload.
    covered: &'a [u8],
}

impl<'a> Part<'a> {
    /// The part at the begin of `bytes`; `None`: it is longer than they are.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (checksum, rest) = bytes.split_first_chunk::<CHECKSUM_BYTES>()?;
        let (length, _) = rest.split_first_chunk::<2>()?;
        let end = HEADER_BYTES + usize::from(u16::from_le_bytes(*length));
        let covered = bytes.get(TYPE_AT..end)?;
        let (kind, payload) = covered.split_first()?;
        Some(Self { checksum: u32::from_le_bytes(*checksum), kind: *kind, payload, covered })
    }

    pub(super) fn check(&self) -> Result<(), &'static str> {
        if self.checksum == masked(crc32c::crc32c(self.covered)) {
            Ok(())
        } else {
            Err("a record does not match its checksum")
        }
    }
}

/// RocksDB never stores a plain CRC: logs may be stored in logs.
pub(super) fn masked(sum: u32) -> u32 {
    sum.rotate_right(15).wrapping_add(0xa282_ead8)
}
