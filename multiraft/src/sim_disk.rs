//! A disk in memory that can crash: it then loses what was not synced, as a machine does that
//! loses power. Also the model that the RocksDB disk is tested against.

use std::cell::Cell;
use std::collections::BTreeMap;

use crate::disk::{Disk, DiskError, Family, Pair, WriteOp};

type Contents = BTreeMap<Family, BTreeMap<Vec<u8>, Vec<u8>>>;

/// The disk. A clone is a copy of its contents.
#[derive(Clone, Debug, Default)]
pub struct SimDisk {
    /// What a crash leaves.
    synced: Contents,
    /// What reads see.
    current: Contents,
    /// Writes that no sync has followed, in order.
    unsynced: Vec<Vec<WriteOp>>,
    /// Operations until one fails; 0: none will.
    fail_in: Cell<u64>,
}

impl SimDisk {
    /// Loses all unsynced writes.
    pub fn crash(&mut self) {
        self.crash_keeping(0);
    }

    /// Loses all unsynced writes but the first `writes_kept`: a crash always leaves a prefix.
    pub fn crash_keeping(&mut self, writes_kept: usize) {
        for ops in self.unsynced.drain(..).take(writes_kept) {
            apply(&mut self.synced, &ops);
        }
        self.unsynced.clear();
        self.current = self.synced.clone();
        self.fail_in.set(0);
    }

    /// The `nth` operation from now fails, counted from 1; a write then changes nothing. 0: none.
    pub fn fail_nth(&mut self, nth: u64) {
        self.fail_in.set(nth);
    }

    /// Writes that a crash would lose.
    pub fn unsynced_writes(&self) -> usize {
        self.unsynced.len()
    }

    fn count_operation(&self) -> Result<(), DiskError> {
        match self.fail_in.get() {
            0 => Ok(()),
            1 => {
                self.fail_in.set(0);
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
                let pairs = contents.entry(*family).or_default();
                pairs.retain(|key, _| !(start <= key && key < end));
            }
        }
    }
}

impl Disk for SimDisk {
    fn write(&mut self, ops: &[WriteOp], sync: bool) -> Result<(), DiskError> {
        self.count_operation()?;
        apply(&mut self.current, ops);
        self.unsynced.push(ops.to_vec());
        if sync {
            for ops in self.unsynced.drain(..) {
                apply(&mut self.synced, &ops);
            }
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
