//! The key of every record on a store's disk.
//!
//! Every key begins with a range id, so that no two replicas ever share key space: destroying or
//! replacing one cannot touch another. Numbers are big-endian, so key order is number order.
//! The tags are on disks and never change their meaning.

use sharklock_rangemap::RangeId;

use crate::disk::Family;

/// The store's own records stand under range id 0, which no range has.
const STORE: RangeId = RangeId(0);

const TAG_IDENT: u8 = 0x01;
const TAG_STARTS: u8 = 0x02;
const TAG_ENTRY: u8 = 0x01;
const TAG_HARD_STATE: u8 = 0x01;
const TAG_TRUNCATED: u8 = 0x02;
const TAG_HEADER: u8 = 0x03;
const TAG_LOST: u8 = 0x04;
const TAG_TOMBSTONE: u8 = 0x05;

/// A record's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key<'a> {
    /// The identity of the store. Written once, by bootstrap.
    /// `Meta`: 0 · 0x01 → `StoreIdentRecord`.
    Ident,
    /// How often a process was started on this disk. Written at each start, before anybody hears of
    /// the process; the first time before the identity.
    /// `Meta`: 0 · 0x02 → `StartsRecord`.
    Starts,
    /// A log entry. Written when appended; overwritten or deleted when a newer leader replaces an
    /// uncommitted tail; deleted by truncation.
    /// `Raft`: range · 0x01 · index → `Entry`.
    Entry(RangeId, u64),
    /// A row of the image. Written and deleted by flushes, and written at the birth of a half.
    /// `State`: range · the machine's key → the machine's value.
    Row(RangeId, &'a [u8]),
    /// Term, vote, commit. Written before any message that depends on it leaves.
    /// `Meta`: range · 0x01 → `HardStateRecord`.
    HardState(RangeId),
    /// The last entry that the log no longer has.
    /// `Meta`: range · 0x02 → `TruncatedRecord`.
    Truncated(RangeId),
    /// Header of the image; with it a range exists. Written at a birth and by flushes.
    /// `Meta`: range · 0x03 → `FlushHeader`.
    Header(RangeId),
    /// That the disk counts as lost to this replica. Written when that is found out, before anything
    /// else of it leaves, and never removed.
    /// `Meta`: range · 0x04 → `LostRecord`.
    Lost(RangeId),
    /// The newest replica of a range that was here and is not any more. Written with the deletion of
    /// all else of it, and never removed.
    /// `Meta`: range · 0x05 → `TombstoneRecord`.
    Tombstone(RangeId),
}

impl Key<'_> {
    /// Which key space holds it.
    pub(crate) fn family(self) -> Family {
        match self {
            Self::Entry(..) => Family::Raft,
            Self::Row(..) => Family::State,
            Self::Ident
            | Self::Starts
            | Self::HardState(_)
            | Self::Truncated(_)
            | Self::Header(_)
            | Self::Lost(_)
            | Self::Tombstone(_) => Family::Meta,
        }
    }

    /// Its bytes.
    pub(crate) fn encode(self) -> Vec<u8> {
        match self {
            Self::Ident => tagged(STORE, TAG_IDENT),
            Self::Starts => tagged(STORE, TAG_STARTS),
            Self::Entry(range, index) => {
                let mut key = Vec::with_capacity(17);
                key.extend_from_slice(&range.0.to_be_bytes());
                key.push(TAG_ENTRY);
                key.extend_from_slice(&index.to_be_bytes());
                key
            }
            Self::Row(range, row) => {
                let mut key = Vec::with_capacity(8 + row.len());
                key.extend_from_slice(&range.0.to_be_bytes());
                key.extend_from_slice(row);
                key
            }
            Self::HardState(range) => tagged(range, TAG_HARD_STATE),
            Self::Truncated(range) => tagged(range, TAG_TRUNCATED),
            Self::Header(range) => tagged(range, TAG_HEADER),
            Self::Lost(range) => tagged(range, TAG_LOST),
            Self::Tombstone(range) => tagged(range, TAG_TOMBSTONE),
        }
    }

    /// The key of a record in `Meta`. `None`: this version knows no such key.
    pub(crate) fn decode_meta(bytes: &[u8]) -> Option<Self> {
        let (range, tag) = bytes.split_first_chunk::<8>()?;
        let range = RangeId(u64::from_be_bytes(*range));
        match (range, tag) {
            (STORE, [TAG_IDENT]) => Some(Self::Ident),
            (STORE, [TAG_STARTS]) => Some(Self::Starts),
            (STORE, _) => None,
            (_, [TAG_HARD_STATE]) => Some(Self::HardState(range)),
            (_, [TAG_TRUNCATED]) => Some(Self::Truncated(range)),
            (_, [TAG_HEADER]) => Some(Self::Header(range)),
            (_, [TAG_LOST]) => Some(Self::Lost(range)),
            (_, [TAG_TOMBSTONE]) => Some(Self::Tombstone(range)),
            _ => None,
        }
    }
}

/// All keys of `Meta`. No key is longer than nine bytes.
pub(crate) fn meta_span() -> (Vec<u8>, Vec<u8>) {
    (Vec::new(), vec![0xff; 10])
}

/// The log entries of `range` with `from <= index < to`.
pub(crate) fn log_span(range: RangeId, from: u64, to: u64) -> (Vec<u8>, Vec<u8>) {
    (Key::Entry(range, from).encode(), Key::Entry(range, to).encode())
}

/// All rows of `range`. The id must not be the largest u64, which recovery refuses.
pub(crate) fn rows_span(range: RangeId) -> (Vec<u8>, Vec<u8>) {
    let after = RangeId(range.0 + 1);
    (Key::Row(range, &[]).encode(), Key::Row(after, &[]).encode())
}

/// The machine's own key of a row that lies in [`rows_span`].
pub(crate) fn row_key(key: &[u8]) -> &[u8] {
    &key[8..]
}

fn tagged(range: RangeId, tag: u8) -> Vec<u8> {
    let mut key = Vec::with_capacity(9);
    key.extend_from_slice(&range.0.to_be_bytes());
    key.push(tag);
    key
}
