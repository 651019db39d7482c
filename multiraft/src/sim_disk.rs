//! A disk in memory that can crash: it then loses what was not synced, as a machine does that
//! loses power. Also the model that the RocksDB disk is tested against.
//!
//! A power loss leaves a prefix of the writes, with every synced one in it. There is no
//! half of a batch: RocksDB logs a batch as one record with a checksum, and at the next start drops
//! a torn record as a whole, and nothing comes after it (`tests/rocks` tears a real one at every
//! byte). The effect of a failing write is open: its batch may be on the disk or not, so that the
//! disk refuses everything else until a crash decides. Not simulated is a disk that reports a
//! sync and has not done it: nothing on one machine can be built on that.

use std::cell::Cell;
use std::collections::BTreeMap;

use twox_hash::XxHash3_64;

use crate::disk::{Disk, DiskError, DiskView, Family, Pair, WriteOp};

type Contents = BTreeMap<Family, BTreeMap<Vec<u8>, Vec<u8>>>;

/// The disk. A clone is a copy with the same faults ahead.
///
/// A slow write is a [`Disk::write`] without sync when it begins and a [`SimDisk::sync`] when it
/// ends: a crash in between keeps it or not.
///
/// Invariants:
/// - `current` is `synced` with the writes of `unsynced` that did not fail;
/// - a write that failed is the last of `unsynced`, and nothing follows it.
#[derive(Clone, Debug, Default)]
pub struct SimDisk {
    /// The state that a crash leaves.
    synced: Contents,
    /// The state that reads see.
    current: Contents,
    /// Writes that no sync has followed, in order.
    unsynced: Vec<Vec<WriteOp>>,
    /// Operations until one fails; 0: none will.
    fail_in: Cell<u64>,
    failed: Cell<bool>,
    operations: Cell<u64>,
}

impl SimDisk {
    /// Loses all unsynced writes.
    pub fn crash(&mut self) {
        self.crash_keeping(0);
    }

    /// Loses all unsynced writes but the first `writes_kept`: a crash always leaves a prefix.
    /// Ends the faults, too.
    pub fn crash_keeping(&mut self, writes_kept: usize) {
        for ops in self.unsynced.drain(..).take(writes_kept) {
            apply(&mut self.synced, &ops);
        }
        self.unsynced.clear();
        self.current = self.synced.clone();
        self.fail_in.set(0);
        self.failed.set(false);
    }

    /// Makes all writes so far durable: the end of a slow write.
    pub fn sync(&mut self) -> Result<(), DiskError> {
        self.count_operation()?;
        self.sync_all();
        Ok(())
    }

    /// The `nth` operation from now (write, sync, get or scan) fails, counted from 1, and with it
    /// everything until a crash. 0: none. A batch whose write failed counts as unsynced.
    pub fn fail_nth(&mut self, nth: u64) {
        self.fail_in.set(nth);
    }

    /// Whether an operation has failed since the last crash.
    pub fn has_failed(&self) -> bool {
        self.failed.get()
    }

    /// Operations so far, failed ones too.
    pub fn operations(&self) -> u64 {
        self.operations.get()
    }

    /// Writes that a crash would lose.
    pub fn unsynced_writes(&self) -> usize {
        self.unsynced.len()
    }

    /// Hash of what reads see, for traces: equal contents have equal hashes in every process.
    pub fn contents_hash(&self) -> u64 {
        let pairs = self.current.iter().flat_map(|(family, pairs)| {
            pairs.iter().map(move |(key, value)| (*family, key, value))
        });
        pairs.fold(0, |hash, (family, key, value)| {
            // The lengths keep ("ab", "c") apart from ("a", "bc").
            let lengths = ((family as u64) << 62) ^ ((key.len() as u64) << 40) ^ value.len() as u64;
            let hash = XxHash3_64::oneshot_with_seed(hash ^ lengths, key);
            XxHash3_64::oneshot_with_seed(hash, value)
        })
    }

    fn sync_all(&mut self) {
        for ops in self.unsynced.drain(..) {
            apply(&mut self.synced, &ops);
        }
    }

    fn count_operation(&self) -> Result<(), DiskError> {
        self.operations.set(self.operations.get() + 1);
        if self.failed.get() {
            return Err(DiskError("the simulated disk has failed before".to_owned()));
        }
        match self.fail_in.get() {
            0 => Ok(()),
            1 => {
                self.fail_in.set(0);
                self.failed.set(true);
                Err(DiskError("simulated fault".to_owned()))
            }
            left => {
                self.fail_in.set(left - 1);
                Ok(())
            }
        }
    }
}

fn apply(contents: &mut Contents, ops: &[WriteOp]) {
    for op in ops {
        match op {
            WriteOp::Put(family, key, value) => {
                contents.entry(*family).or_default().insert(key.clone(), value.clone());
            }
            WriteOp::Delete(family, key) => {
                contents.entry(*family).or_default().remove(key);
            }
            WriteOp::DeleteRange(family, start, end) => {
                // A log is cut again and again: what is not cut is not looked at.
                if start < end {
                    let pairs = contents.entry(*family).or_default();
                    pairs.extract_if(start.clone()..end.clone(), |_, _| true).for_each(drop);
                }
            }
        }
    }
}

impl Disk for SimDisk {
    fn write(&mut self, ops: &[WriteOp], sync: bool) -> Result<(), DiskError> {
        let failed_before = self.has_failed();
        let taken = self.count_operation();
        if !failed_before {
            self.unsynced.push(ops.to_vec());
        }
        taken?;
        apply(&mut self.current, ops);
        if sync {
            self.sync_all();
        }
        Ok(())
    }

    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        self.count_operation()?;
        Ok(self.current.get(&family).and_then(|pairs| pairs.get(key)).cloned())
    }

    fn scan(&self, family: Family, start: &[u8], end: &[u8]) -> Result<Vec<Pair>, DiskError> {
        self.count_operation()?;
        let Some(pairs) = self.current.get(&family).filter(|_| start < end) else {
            return Ok(Vec::new());
        };
        let inside = pairs.range(start.to_vec()..end.to_vec());
        Ok(inside.map(|(key, value)| (key.clone(), value.clone())).collect())
    }
}

/// A read beside the owner is none of the disk's operations: no fault that is planned hits it.
impl DiskView for SimDisk {
    fn read(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        Ok(self.current.get(&family).and_then(|pairs| pairs.get(key)).cloned())
    }

    fn visit(
        &self,
        family: Family,
        start: &[u8],
        end: &[u8],
        see: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<(), DiskError> {
        if let Some(pairs) = self.current.get(&family).filter(|_| start < end) {
            let inside = pairs.range(start.to_vec()..end.to_vec());
            inside.for_each(|(key, value)| see(key, value));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: u8) -> Vec<WriteOp> {
        vec![WriteOp::Put(Family::Meta, vec![key], vec![key])]
    }

    fn keys(disk: &SimDisk) -> Vec<u8> {
        let pairs = disk.scan(Family::Meta, &[], &[0xff]).expect("no fault is planned");
        pairs.into_iter().map(|(key, _)| key[0]).collect()
    }

    /// Key 1 synced, then 2 to 4 not.
    fn disk() -> SimDisk {
        let mut disk = SimDisk::default();
        disk.write(&put(1), true).expect("no fault is planned");
        for key in 2..=4 {
            disk.write(&put(key), false).expect("no fault is planned");
        }
        disk
    }

    #[test]
    fn a_crash_leaves_a_prefix_with_all_that_was_synced() {
        for kept in 0..=4 {
            let mut disk = disk();
            assert_eq!(keys(&disk), [1, 2, 3, 4]);
            disk.crash_keeping(kept);
            assert_eq!(keys(&disk), [1, 2, 3, 4][..(1 + kept).min(4)]);
            assert_eq!(disk.unsynced_writes(), 0);
        }
    }

    #[test]
    fn a_sync_makes_durable_what_was_written_before_it() {
        let mut disk = disk();
        disk.sync().expect("no fault is planned");
        disk.write(&put(5), false).expect("no fault is planned");
        disk.crash();
        assert_eq!(keys(&disk), [1, 2, 3, 4]);
    }

    #[test]
    fn nobody_knows_what_a_failed_write_left_and_nothing_follows_it() {
        for (kept, expected) in [(0, vec![1]), (3, vec![1, 2, 3, 4]), (4, vec![1, 2, 3, 4, 5])] {
            let mut disk = disk();
            disk.fail_nth(1);
            disk.write(&put(5), true).expect_err("a fault is planned");
            assert!(disk.has_failed());
            disk.write(&put(6), true).expect_err("it has failed before");
            disk.sync().expect_err("it has failed before");
            disk.get(Family::Meta, &[1]).expect_err("it has failed before");
            disk.crash_keeping(kept);
            assert_eq!(keys(&disk), expected);
            disk.write(&put(7), true).expect("the crash ends the fault");
        }
    }

    #[test]
    fn equal_contents_have_equal_hashes_whatever_led_to_them() {
        let mut other = SimDisk::default();
        other.write(&[put(4), put(2), put(9)].concat(), false).expect("no fault is planned");
        let delete = WriteOp::DeleteRange(Family::Meta, vec![5], vec![0xff]);
        other.write(&[put(1), put(3), vec![delete]].concat(), true).expect("no fault is planned");
        assert_eq!(disk().contents_hash(), other.contents_hash());
        other.write(&put(5), true).expect("no fault is planned");
        assert_ne!(disk().contents_hash(), other.contents_hash());
    }
}
