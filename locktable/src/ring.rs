//! The ring of finished acquisitions (D8): the last so many, in commit order, so that a duplicate
//! gets the outcome back. That they have ended is remembered for longer, in `ended`.

use std::{collections::VecDeque, ops::Range};

use hashbrown::HashTable;
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

/// The hash of an acquisition, which says where the index has it.
fn place(acquisition: Acquisition) -> u64 {
    let Acquisition { session, instance, id } = acquisition;
    // Each word that a client chooses stands beside one that it does not, a half of its handle: the hash
    // multiplies the two, and whoever chose both, or the one that makes the product 0, would have all of
    // the others in one place.
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&session.0[..8]);
    bytes[8..16].copy_from_slice(&instance.0.to_le_bytes());
    bytes[16..24].copy_from_slice(&session.0[8..]);
    bytes[24..].copy_from_slice(&id.0.to_le_bytes());
    XxHash3_64::oneshot(&bytes)
}

/// What the index has of an entry. Somebody may look for ids whose hashes share the bits by which the
/// index goes; by the others they are told apart without a look at their entries.
#[derive(Clone, Copy, Debug)]
struct Slot {
    /// The upper half of the acquisition's hash.
    upper: u32,
    /// The lower half of the entry's number.
    number: u32,
}

impl Slot {
    fn new(place: u64, number: u64) -> Self {
        Self { upper: (place >> u32::BITS) as u32, number: number as u32 }
    }
}

/// Invariants:
/// - entry number `n` is `entries[n - first]`;
/// - `entries.len() <= len_max`;
/// - no acquisition is in it twice, and none that is open;
/// - `index` has a slot of every entry, and nothing else. Its order, which depends on how it came about,
///   is never seen.
#[derive(Debug)]
pub(crate) struct Ring {
    entries: VecDeque<Entry>,
    /// Number of the oldest entry.
    first: u64,
    index: HashTable<Slot>,
    len_max: usize,
    /// The part that the image has: `first` and `next` as they were at the last flush.
    image: Range<u64>,
}

impl Ring {
    /// An empty ring whose first entry will have this number.
    pub(crate) fn starting_at(first: u64, len_max: usize) -> Self {
        assert!(len_max < 1 << 32, "{len_max} outcomes are more than the index can tell apart");
        let (entries, index) = (VecDeque::new(), HashTable::new());
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
        self.find(place(acquisition), acquisition)
    }

    fn find(&self, place: u64, acquisition: Acquisition) -> Option<&FinishedRow> {
        let upper = Slot::new(place, 0).upper;
        let row = |slot: &Slot| &entry(&self.entries, self.first, *slot).row;
        let is_it = |slot: &Slot| slot.upper == upper && row(slot).acquisition == acquisition;
        self.index.find(place, is_it).map(row)
    }

    /// Adds an entry, and gives back the one that had to leave for it.
    pub(crate) fn push(&mut self, new: Entry) -> Option<Entry> {
        let acquisition = new.row.acquisition;
        let place = place(acquisition);
        assert!(self.find(place, acquisition).is_none(), "finished twice: {new:?}");
        self.append(place, new);
        if self.entries.len() <= self.len_max { None } else { self.pop() }
    }

    /// Adds an entry whose acquisition has this place.
    fn append(&mut self, place_of_new: u64, new: Entry) {
        let slot = Slot::new(place_of_new, self.next());
        self.entries.push_back(new);
        let (entries, first) = (&self.entries, self.first);
        let place_of = |slot: &Slot| place(entry(entries, first, *slot).row.acquisition);
        self.index.insert_unique(place_of_new, slot, place_of);
    }

    /// Takes the oldest entry out.
    pub(crate) fn pop(&mut self) -> Option<Entry> {
        let oldest = self.entries.pop_front()?;
        let number = self.first as u32;
        match self.index.find_entry(place(oldest.row.acquisition), |slot| slot.number == number) {
            Ok(found) => drop(found.remove()),
            Err(_) => panic!("entry {} is not in the index: {oldest:?}", self.first),
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
            let place = place(row.acquisition);
            self.append(place, Entry { row, digest, hold_lived_on: entry.hold_lived_on });
            taken.push(had);
        }
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
        assert_eq!(self.entries.len(), self.index.len());
        for (number, entry) in self.iter() {
            let found =
                self.index.find(place(entry.row.acquisition), |slot| slot.number == number as u32);
            assert!(found.is_some(), "entry {number} is not in the index: {entry:?}");
            assert_eq!(self.get(entry.row.acquisition), Some(&entry.row));
        }
    }
}

/// The entry of a slot, of those that begin with number `first`.
fn entry(entries: &VecDeque<Entry>, first: u64, slot: Slot) -> &Entry {
    &entries[slot.number.wrapping_sub(first as u32) as usize]
}

/// The rows that entries with these numbers are in.
fn row_numbers(entries: &Range<u64>) -> Range<u64> {
    if entries.is_empty() {
        let row = entries.end.div_ceil(RING_ROW_LEN);
        return row..row;
    }
    entries.start / RING_ROW_LEN..entries.end.div_ceil(RING_ROW_LEN)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{AcquisitionId, Instance, SessionHandle};

    #[test]
    fn no_instance_has_all_its_acquisitions_in_one_place() {
        // XXH3 takes the words of 32 bytes in pairs, and multiplies each with a part of its default
        // secret applied. What makes a factor 0 is that part itself.
        let secret = [0xbe4b_a423_396c_feb8, 0x1cad_21f7_2c81_017c];
        let secret = secret.into_iter().chain([0xdb97_9083_e96d_d4de, 0x1f67_b3b7_a4a4_4072]);
        for instance in secret.chain([0, 1, u64::MAX]) {
            let places = (1..=10_000).map(|id| {
                let (session, id) = (SessionHandle([7; 16]), AcquisitionId(id));
                place(Acquisition { session, instance: Instance(instance), id })
            });
            assert_eq!(places.collect::<BTreeSet<_>>().len(), 10_000, "instance {instance:x}");
        }
    }
}
