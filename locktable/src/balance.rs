//! Where a table could be split so that both halves have their share of what it has too much of.

use crate::{LockTable, Name, lock::Lock};

/// What the halves of a table are to have about as much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// Memory, as [`LockTable::bytes`] counts it.
    Bytes,
    /// Waiting acquisitions.
    Waiters,
}

/// The name that comes closest to the middle, by a [`Weight`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balance {
    /// The first name of the upper half, and never the first of all.
    pub at: Name,
    /// The weight of the names before it.
    pub below: u64,
    /// The weight of the others.
    pub above: u64,
    /// The name that weighs most of all. If no name halves the table it is the reason.
    pub heaviest: Name,
}

impl LockTable {
    /// The name at which the halves differ least, the first of them if there are several. `None`: the
    /// table has no two names. Takes time in proportion to the names.
    pub fn balance(&self, weight: Weight) -> Option<Balance> {
        let weigh = |name: &Name, lock: &Lock| match weight {
            Weight::Bytes => lock.bytes(name),
            Weight::Waiters => lock.queue.len() as u64,
        };
        let all: u64 = self.locks.iter().map(|(name, lock)| weigh(name, lock)).sum();
        let mut below = 0;
        let (mut heaviest, mut most) = (None, 0);
        let mut best: Option<(&Name, u64)> = None;
        let distance = |below: u64| below.abs_diff(all - below);
        for (name, lock) in &self.locks {
            let is_first = heaviest.is_none();
            let is_better = best.is_none_or(|(_, at)| distance(below) < distance(at));
            if !is_first && is_better {
                best = Some((name, below));
            }
            let weight = weigh(name, lock);
            if is_first || weight > most {
                (heaviest, most) = (Some(name), weight);
            }
            below += weight;
        }
        let ((at, below), heaviest) = best.zip(heaviest)?;
        Some(Balance { at: at.clone(), below, above: all - below, heaviest: heaviest.clone() })
    }
}
