//! An ordered map for keys that mostly come in ascending order: tokens, ids of acquisitions, times. A
//! B-tree that is filled in that order stays half empty; this one is full, and iterates alike.
//!
//! Entries stand in blocks. With a million of them a look-up is a search among 16,000 blocks and one
//! within a block, and an insertion or a removal moves part of a block; one in some dozens also moves
//! what stands for the blocks behind it, 24 bytes each.

/// Bounds what an insertion or a removal moves.
const BLOCK_BYTES_MAX: usize = 4_096;
/// A block grows by so much, so that little of its room is empty. It is a size that the allocator has.
const STEP_BYTES: usize = 1_024;

/// A map in the order of its keys.
///
/// Invariants:
/// - keys ascend strictly over all blocks;
/// - no block is empty, and none is longer than `LEN_MAX`;
/// - `len` is the sum of the blocks' lengths.
#[derive(Clone, Debug)]
pub struct Ascending<K, V> {
    blocks: Vec<Vec<(K, V)>>,
    len: usize,
}

impl<K, V> Default for Ascending<K, V> {
    fn default() -> Self {
        Self { blocks: Vec::new(), len: 0 }
    }
}

impl<K: Ord, V> Ascending<K, V> {
    /// Entries of the longest block.
    const LEN_MAX: usize = Self::fit_into(BLOCK_BYTES_MAX, 8);
    /// Neighbours that have no more than this together are joined, so that the number of blocks follows
    /// the number of entries down.
    const JOINED_LEN_MAX: usize = Self::LEN_MAX * 3 / 4;

    const fn fit_into(bytes: usize, len_min: usize) -> usize {
        let len = bytes / size_of::<(K, V)>();
        if len < len_min { len_min } else { len }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether there is an entry of this key.
    pub fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    /// The value of this key.
    pub fn get(&self, key: &K) -> Option<&V> {
        let (block, index) = self.find(key).ok()?;
        Some(&self.blocks[block][index].1)
    }

    /// The value of this key, to be changed.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let (block, index) = self.find(key).ok()?;
        Some(&mut self.blocks[block][index].1)
    }

    /// The entry of the smallest key.
    pub fn first(&self) -> Option<&(K, V)> {
        self.blocks.first()?.first()
    }

    /// Puts a value under this key; gives back the one that it had.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self.find(&key) {
            Ok((block, index)) => Some(std::mem::replace(&mut self.blocks[block][index].1, value)),
            Err(place) => {
                self.insert_at(place, (key, value));
                None
            }
        }
    }

    fn insert_at(&mut self, (block, index): (usize, usize), entry: (K, V)) {
        self.len += 1;
        let Some(entries) = self.blocks.get_mut(block) else {
            return self.blocks.push(vec![entry]);
        };
        if entries.len() < Self::LEN_MAX {
            put_in(entries, index, entry);
        } else if index == entries.len() {
            self.insert_after(block, entry);
        } else {
            let mut upper = entries.split_off(Self::LEN_MAX / 2);
            entries.shrink_to_fit();
            match index.checked_sub(entries.len()) {
                Some(index) => put_in(&mut upper, index, entry),
                None => put_in(entries, index, entry),
            }
            self.blocks.insert(block + 1, upper);
        }
    }

    /// Puts in an entry that comes just after a full block.
    fn insert_after(&mut self, block: usize, entry: (K, V)) {
        match self.blocks.get_mut(block + 1) {
            // Keys that descend towards the full block would open a block each otherwise.
            Some(next) if next.len() < Self::LEN_MAX => put_in(next, 0, entry),
            // The next ones are likely to follow it: the full block stays full.
            _ => self.blocks.insert(block + 1, vec![entry]),
        }
    }

    /// Takes out the value of this key.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let (block, index) = self.find(key).ok()?;
        Some(self.remove_at(block, index).1)
    }

    /// Takes out the entry of the smallest key.
    pub fn pop_first(&mut self) -> Option<(K, V)> {
        (!self.is_empty()).then(|| self.remove_at(0, 0))
    }

    fn remove_at(&mut self, block: usize, index: usize) -> (K, V) {
        let entry = self.blocks[block].remove(index);
        self.len -= 1;
        self.tidy(block);
        entry
    }

    /// Drops the block if it is empty, and joins it with a neighbour when both are short.
    fn tidy(&mut self, block: usize) {
        let len = self.blocks[block].len();
        if len == 0 {
            self.blocks.remove(block);
            return;
        }
        if len > Self::JOINED_LEN_MAX / 2 {
            return;
        }
        let fits = |it: &Vec<(K, V)>| len + it.len() <= Self::JOINED_LEN_MAX;
        let before = block.checked_sub(1).filter(|&before| fits(&self.blocks[before]));
        let after = || self.blocks.get(block + 1).filter(|it| fits(it)).map(|_| block);
        if let Some(first) = before.or_else(after) {
            let mut second = self.blocks.remove(first + 1);
            self.blocks[first].append(&mut second);
        }
    }

    /// The entries in order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.blocks.iter().flatten().map(|(key, value)| (key, value))
    }

    /// Drops the entries that are not to be kept.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        self.len = 0;
        // What stays is packed anew: it may be little of each block, and stay for long.
        for (key, mut value) in std::mem::take(&mut self.blocks).into_iter().flatten() {
            if keep(&key, &mut value) {
                let end = self.blocks.last().map_or(0, Vec::len);
                self.insert_at((self.blocks.len().saturating_sub(1), end), (key, value));
            }
        }
    }

    /// Where the key is, or, where it is not, its place.
    fn find(&self, key: &K) -> Result<(usize, usize), (usize, usize)> {
        let Some(last) = self.blocks.last() else { return Err((0, 0)) };
        // Newcomers are the largest as a rule.
        let block = match last[0].0 <= *key {
            true => self.blocks.len() - 1,
            false => self.blocks.partition_point(|it| it[0].0 <= *key).saturating_sub(1),
        };
        let entries = &self.blocks[block];
        if entries[entries.len() - 1].0 < *key {
            return Err((block, entries.len()));
        }
        let found = entries.binary_search_by(|(it, _)| it.cmp(key));
        found.map(|index| (block, index)).map_err(|index| (block, index))
    }

    /// Panics where an invariant of this struct is broken.
    #[cfg(test)]
    fn check_invariants(&self) {
        assert!(self.blocks.iter().all(|it| (1..=Self::LEN_MAX).contains(&it.len())));
        assert!(self.blocks.iter().flatten().map(|(key, _)| key).is_sorted_by(|a, b| a < b));
        assert_eq!(self.len, self.blocks.iter().map(Vec::len).sum::<usize>());
    }
}

/// Puts in one more, with room for it. A small block doubles, as it may stay small; a larger one grows
/// by steps.
fn put_in<T>(entries: &mut Vec<T>, index: usize, entry: T) {
    let (len, size) = (entries.len(), size_of::<T>());
    if len == entries.capacity() {
        let wanted = match 2 * len * size <= STEP_BYTES {
            true => 2 * len,
            false => ((len + 1) * size).next_multiple_of(STEP_BYTES) / size,
        };
        entries.reserve_exact(wanted.max(len + 1) - len);
    }
    entries.insert(index, entry);
}

impl<K, V> IntoIterator for Ascending<K, V> {
    type Item = (K, V);
    type IntoIter = std::iter::Flatten<std::vec::IntoIter<Vec<(K, V)>>>;

    fn into_iter(self) -> Self::IntoIter {
        self.blocks.into_iter().flatten()
    }
}

impl<K: Ord, V> Extend<(K, V)> for Ascending<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

impl<K: Ord, V> FromIterator<(K, V)> for Ascending<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Self::default();
        map.extend(entries);
        map
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Compares every step with a tree. `next` gives a key and whether it comes.
    fn check(steps: u64, mut next: impl FnMut(u64) -> (u64, bool)) {
        let (mut map, mut tree) = (Ascending::default(), BTreeMap::new());
        for step in 0..steps {
            let (key, comes) = next(step);
            if comes {
                assert_eq!(map.insert(key, step), tree.insert(key, step));
            } else {
                assert_eq!(map.remove(&key), tree.remove(&key));
            }
            assert_eq!(map.get(&key), tree.get(&key));
            assert_eq!(map.get(&(key + 1)), tree.get(&(key + 1)));
            assert_eq!(map.first().map(|(key, _)| key), tree.keys().next());
            assert_eq!(map.len(), tree.len());
            map.check_invariants();
        }
        assert!(map.iter().eq(&tree));
        map.retain(|key, _| key % 3 == 0);
        tree.retain(|key, _| key % 3 == 0);
        map.check_invariants();
        assert!(map.iter().eq(&tree));
        while let Some(entry) = map.pop_first() {
            assert_eq!(Some(entry), tree.pop_first());
            map.check_invariants();
        }
        assert!(tree.is_empty() && map.blocks.is_empty());
    }

    #[test]
    fn it_is_a_map_in_whatever_order_keys_come_and_go() {
        check(2_000, |step| (step, true));
        check(2_000, |step| (2_000 - step, true));
        // The oldest go while new ones come.
        check(4_000, |step| (if step % 2 == 0 { step } else { step / 3 }, step % 2 == 0));
        for keys in [40, 300, 4_000] {
            let mut state = 1_u64;
            check(6_000, |step| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                // It grows, and shrinks again.
                ((state >> 33) % keys, (state >> 20) % 6_000 > step)
            });
        }
    }

    #[test]
    fn keys_that_descend_above_a_full_block_share_blocks() {
        let mut map: Ascending<u64, ()> = (0..256).map(|key| (key, ())).collect();
        for key in (1_000..11_000).rev() {
            map.insert(key, ());
        }
        map.check_invariants();
        let (blocks, full) = (map.blocks.len(), map.len() / Ascending::<u64, ()>::LEN_MAX);
        assert!(blocks <= 3 * full, "{blocks} blocks of {full} that are needed");
    }

    #[test]
    fn what_stays_of_many_takes_no_more_room_than_it_needs() {
        let mut map: Ascending<u64, ()> = (0..10_000).map(|key| (key, ())).collect();
        map.retain(|key, ()| key % 10 == 0);
        let room: usize = map.blocks.iter().map(Vec::capacity).sum();
        assert!(room < 1_000 + Ascending::<u64, ()>::LEN_MAX / 4, "{room}");
    }

    #[test]
    fn keys_that_ascend_leave_no_room() {
        let map: Ascending<u64, ()> = (0..1_000).map(|key| (key, ())).collect();
        let room: usize = map.blocks.iter().map(Vec::capacity).sum();
        assert!(room < 1_000 + Ascending::<u64, ()>::LEN_MAX / 4, "{room}");
    }
}
