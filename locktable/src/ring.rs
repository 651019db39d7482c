//! The ring of finished acquisitions (D8): the last so many, in commit order, so that a duplicate
//! gets the outcome back. That they have ended is remembered for longer, in `ended`.

use std::{
    collections::{BTreeMap, VecDeque, btree_map},
    ops::Range,
};

use twox_hash::XxHash3_64;

use crate::{
    Acquisition, FinishedRow, RING_ROW_LEN,
    hash::{Digest, StateHash},
};

/// A finished acquisition with its part of the state hash.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) row: FinishedRow,
    pub(crate) digest: Digest,
    /// Its hold may still live, so that the hold must learn when the ring forgets this. Only a
    /// hint that saves looking for dead holds: not part of the image or the hash.
    pub(crate) hold_lived_on: bool,
}

/// The hash of an acquisition: numbers are found four times as fast as what they stand for. Two
/// acquisitions may share one, by chance or because somebody looked for it.
fn key(acquisition: Acquisition) -> u64 {
    let Acquisition { session, instance, id } = acquisition;
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(&session.0);
    bytes[16..24].copy_from_slice(&instance.0.to_le_bytes());
    bytes[24..].copy_from_slice(&id.0.to_le_bytes());
    XxHash3_64::oneshot(&bytes)
}

/// Invariants:
/// - entry number `n` is `entries[n - first]`;
/// - `entries.len() <= len_max`;
/// - no acquisition is in it twice, and none that is open;
/// - `index` has the number of every entry, and nothing else; where two share a key, that of the newer
///   one. The older one is not found then: how it ended counts as forgotten.
#[derive(Debug)]
pub(crate) struct Ring {
    entries: VecDeque<Entry>,
    /// Number of the oldest entry.
    first: u64,
    index: BTreeMap<u64, u64>,
    len_max: usize,
    /// The part that the image has: `first` and `next` as they were at the last flush.
    image: Range<u64>,
}

impl Ring {
    /// An empty ring whose first entry will have this number.
    pub(crate) fn starting_at(first: u64, len_max: usize) -> Self {
        let (entries, index) = (VecDeque::new(), BTreeMap::new());
        Self { entries, first, index, len_max, image: first..first }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Number of the oldest entry.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// Number of the entry that comes next.
    pub(crate) fn next(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &Entry)> {
        (self.first..).zip(&self.entries)
    }

    pub(crate) fn get(&self, acquisition: Acquisition) -> Option<&FinishedRow> {
        let number = self.index.get(&key(acquisition))?;
        let row = &self.entries[(number - self.first) as usize].row;
        (row.acquisition == acquisition).then_some(row)
    }

    /// Adds an entry, and gives back the one that had to leave for it.
    pub(crate) fn push(&mut self, entry: Entry) -> Option<Entry> {
        let acquisition = entry.row.acquisition;
        if let Some(shared) = self.index.insert(key(acquisition), self.next()) {
            let other = &self.entries[(shared - self.first) as usize];
            assert_ne!(other.row.acquisition, acquisition, "finished twice: {entry:?}");
        }
        self.entries.push_back(entry);
        if self.entries.len() <= self.len_max { None } else { self.pop() }
    }

    /// Takes the oldest entry out.
    pub(crate) fn pop(&mut self) -> Option<Entry> {
        let oldest = self.entries.pop_front()?;
        if let btree_map::Entry::Occupied(slot) = self.index.entry(key(oldest.row.acquisition))
            && *slot.get() == self.first
        {
            slot.remove();
        }
        self.first += 1;
        Some(oldest)
    }

    /// Puts the outcomes of another ring into this one, which is empty, that are under names from `at`
    /// on, numbered from the other's next number on. Gives back the numbers that they had.
    pub(crate) fn share(&mut self, other: &Self, at: &str, hash: &mut StateHash) -> Vec<u64> {
        assert!(self.entries.is_empty(), "a ring that shares another's begins with that");
        self.first = other.next();
        self.image = self.first..self.first;
        let shared = other.iter().filter(|(_, entry)| entry.row.name.as_str() >= at);
        let mut taken = Vec::new();
        for ((had, entry), number) in shared.zip(self.first..) {
            let row = entry.row.clone();
            let digest = hash.add_finished(number, &row);
            self.entries.push_back(Entry { row, digest, hold_lived_on: entry.hold_lived_on });
            taken.push(had);
        }
        // All at once: a tree that grows by keys without order costs more than all the rest. Of two
        // that share a key the newer one stays.
        let keys = self.iter().map(|(number, entry)| (key(entry.row.acquisition), number));
        self.index = keys.collect();
        taken
    }

    /// Rows of the image that exist.
    pub(crate) fn row_numbers(&self) -> Range<u64> {
        row_numbers(&(self.first..self.next()))
    }

    /// The entries of one row that are still in the ring, oldest first.
    pub(crate) fn row(&self, row: u64) -> Vec<FinishedRow> {
        let from = (row * RING_ROW_LEN).max(self.first) - self.first;
        let to = ((row + 1) * RING_ROW_LEN).min(self.next()) - self.first;
        self.entries.range(from as usize..to as usize).map(|entry| entry.row.clone()).collect()
    }

    /// Since the last call: the rows that are gone, and the rows that are new or longer. A row
    /// whose oldest entries have left is not rewritten, the header says where the ring begins.
    pub(crate) fn take_dirty(&mut self) -> (Range<u64>, Range<u64>) {
        let now = self.first..self.next();
        let (had, has) = (row_numbers(&self.image), row_numbers(&now));
        let gone = had.start..has.start.min(had.end);
        let grown = row_numbers(&(self.image.end.max(self.first)..now.end));
        self.image = now;
        (gone, grown)
    }

    /// Panics where an invariant of this struct is broken.
    pub(crate) fn check_invariants(&self) {
        assert!(self.entries.len() <= self.len_max);
        let mut index = BTreeMap::new();
        index.extend(self.iter().map(|(number, entry)| (key(entry.row.acquisition), number)));
        assert_eq!(index, self.index);
    }
}

/// The rows that entries with these numbers are in.
fn row_numbers(entries: &Range<u64>) -> Range<u64> {
    if entries.is_empty() {
        let row = entries.end.div_ceil(RING_ROW_LEN);
        return row..row;
    }
    entries.start / RING_ROW_LEN..entries.end.div_ceil(RING_ROW_LEN)
}
