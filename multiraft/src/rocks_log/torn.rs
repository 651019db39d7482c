//! Whether a log that cannot be read on is torn there, or damaged. The rule and its reasons stand in
//! [the module above](super).

use twox_hash::XxHash3_64;

use super::format::{
    BLOCK_BYTES, CHECKSUM_BYTES, Damage, End, FIRST, FULL, HEADER_BYTES, LAST, Part, TYPE_AT,
    masked,
};

/// The bytes that disks write whole, at least.
const SECTOR_BYTES: usize = 512;
/// Before a batch's first change stand its sequence number, its count, and type and length of the mark.
const MARK_AT: usize = 8 + 4 + 2;

/// Begins every batch of a database, and is known to nobody outside of it. Stored as data for the
/// log alone: RocksDB reads over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark([u8; 16]);

/// Ends every batch, in the same way: if the last byte of a log is zero, it is not what was written.
pub(crate) const BATCH_END: [u8; 1] = [0xff];

impl Mark {
    /// The mark of the database with this identity, which RocksDB draws at random.
    pub(crate) fn of(identity: &[u8]) -> Self {
        let mut mark = [0; 16];
        for (seed, half) in (1..).zip(mark.chunks_exact_mut(8)) {
            let hash = XxHash3_64::oneshot_with_seed(seed, identity.trim_ascii_end());
            half.copy_from_slice(&hash.to_be_bytes());
        }
        Self(mark)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A place at which a log cannot be read on.
pub(super) struct Hole<'a> {
    /// The begin of the record.
    pub begin: u64,
    /// The begin of the part that cannot be read.
    pub at: u64,
    /// The fault, in words.
    pub why: &'static str,
    /// The file from `begin` on.
    pub rest: &'a [u8],
}

/// How the log ends there, or what is damaged. `mark` begins its records, if it has any.
pub(super) fn judge(hole: &Hole<'_>, mark: Option<&Mark>) -> Result<End, Damage> {
    hole.check_lost().map_err(|why| (hole.at, why))?;
    let goes_on = match mark {
        Some(mark) => hole.holds(mark),
        None => hole.holds_a_record(),
    };
    if goes_on {
        return Err((hole.at, "part of a record is lost, and others follow it"));
    }
    Ok(End::Torn(hole.begin))
}

impl Hole<'_> {
    /// The bytes of the block from the unreadable part on.
    fn block(&self) -> &[u8] {
        let rest = &self.rest[(self.at - self.begin) as usize..];
        &rest[..rest.len().min(self.room())]
    }

    /// The bytes that the block had room for.
    fn room(&self) -> usize {
        BLOCK_BYTES - self.at as usize % BLOCK_BYTES
    }

    /// Whether a crash can have made it: the rest of the part is missing, or zeros up to the end of
    /// the file, or whole sectors of it are zeros.
    fn check_lost(&self) -> Result<(), &'static str> {
        let block = self.block();
        if Part::parse(block).is_some_and(|part| part.check().is_ok()) {
            return Err(self.why);
        }
        if self.has_lost_sector(block, HEADER_BYTES) || self.is_zero_from(TYPE_AT) {
            return Ok(());
        }
        // The header is what was written.
        let end = HEADER_BYTES + usize::from(u16::from_le_bytes([block[4], block[5]]));
        if end > self.room() {
            return Err("a record is longer than its block");
        }
        if !(FULL..=LAST).contains(&block[TYPE_AT]) {
            return Err("a record has an unknown type");
        }
        match block.get(..end) {
            None => check_cut(block),
            Some(part) if self.is_zero_from(end - 1) || self.has_lost_sector(part, end) => {
                check_cut(part)
            }
            Some(_) => Err(self.why),
        }
    }

    /// Whether the file is zeros from this byte of the part on.
    fn is_zero_from(&self, byte: usize) -> bool {
        let from = (self.at - self.begin) as usize + byte;
        self.rest[from..].iter().all(|byte| *byte == 0)
    }

    /// Whether a sector is zeros as far as it belongs to `part`, which begins at the hole. Looks at
    /// the sectors in which the part's first `len` bytes are.
    fn has_lost_sector(&self, part: &[u8], len: usize) -> bool {
        let mut begin = 0;
        let mut end = SECTOR_BYTES - self.at as usize % SECTOR_BYTES;
        while begin < len {
            if part[begin..end.min(part.len())].iter().all(|byte| *byte == 0) {
                return true;
            }
            (begin, end) = (end, end + SECTOR_BYTES);
        }
        false
    }

    /// Whether another record than this one, or what is left of one, is in the rest.
    fn holds(&self, mark: &Mark) -> bool {
        // A record that begins near the end of a block goes on behind the next block's first header.
        let in_first_block = BLOCK_BYTES - self.begin as usize % BLOCK_BYTES;
        let (first, others) = self.rest.split_at(in_first_block.min(self.rest.len()));
        let mut payloads = first.get(HEADER_BYTES..).unwrap_or_default().to_vec();
        for block in others.chunks(BLOCK_BYTES) {
            payloads.extend_from_slice(block.get(HEADER_BYTES..).unwrap_or_default());
        }
        let behind_own = payloads.get(MARK_AT + 1..).unwrap_or_default();
        behind_own.windows(mark.0.len()).any(|bytes| bytes == mark.0)
    }

    /// Whether a record begins, with a whole part, anywhere behind the begin of the unreadable part.
    fn holds_a_record(&self) -> bool {
        let first = self.block();
        let others = &self.rest[(self.at - self.begin) as usize + first.len()..];
        let begins = |bytes: &[u8]| {
            matches!(bytes.get(TYPE_AT), Some(&(FULL | FIRST)))
                && Part::parse(bytes).is_some_and(|part| part.check().is_ok())
        };
        let any = |block: &[u8], from| (from..block.len()).any(|at| begins(&block[at..]));
        any(first, 1) || others.chunks(BLOCK_BYTES).any(|block| any(block, 0))
    }
}

/// Whether `bytes` can be the begin of a part that is cut off, or zeros from some byte on.
fn check_cut(bytes: &[u8]) -> Result<(), &'static str> {
    let (checksum, _) = bytes.split_first_chunk::<CHECKSUM_BYTES>().expect("a header is there");
    // The length is not under the checksum. If a shorter payload fits that, then the part is all
    // there, and perhaps others behind it.
    let mut sum = crc32c::crc32c(&bytes[TYPE_AT..HEADER_BYTES]);
    let mut fits = masked(sum) == u32::from_le_bytes(*checksum);
    for byte in &bytes[HEADER_BYTES..] {
        sum = crc32c::crc32c_append(sum, &[*byte]);
        fits |= masked(sum) == u32::from_le_bytes(*checksum);
    }
    if fits { Err("a record has a wrong length") } else { Ok(()) }
}
