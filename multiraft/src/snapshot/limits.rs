//! How fast and how many: what snapshots may take from everything else (decisions.md, *Defaults*).

use std::num::NonZeroUsize;

/// Limits of a store's snapshots, each way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotLimits {
    /// Bytes of one chunk.
    pub chunk_bytes: u64,
    /// Bytes that may be on their way to a receiver without its answer.
    pub window_bytes: u64,
    /// Bytes per tick that the store sends, and that it takes in, all transfers together. None:
    /// as fast as the links are.
    pub bytes_per_tick: Option<u64>,
    /// Snapshots that it sends at the same time.
    pub sending_max: usize,
    /// Snapshots that it takes in at the same time.
    pub receiving_max: usize,
    /// A transfer without progress for so many ticks has failed.
    pub idle_ticks_max: u64,
    /// So many bytes of the disk stay free whatever is taken in; 0: it is not looked at.
    pub disk_free_min: u64,
}

impl SnapshotLimits {
    /// Of one share of a store, counted from 0, of so many: together they have what the store has,
    /// but at least one slot each.
    pub(crate) fn share(self, number: usize, count: NonZeroUsize) -> Self {
        let count = count.get();
        let slots = |all: usize| (all / count + usize::from(number < all % count)).max(1);
        Self {
            bytes_per_tick: self.bytes_per_tick.map(|all| all.div_ceil(count as u64)),
            sending_max: slots(self.sending_max),
            receiving_max: slots(self.receiving_max),
            ..self
        }
    }
}

impl Default for SnapshotLimits {
    /// For ticks of 100 ms: 32 MiB/s each way, and 10 s without progress. The masters' stores do
    /// not know their disks, and look at none.
    fn default() -> Self {
        Self {
            chunk_bytes: 256 << 10,
            window_bytes: 2 << 20,
            bytes_per_tick: Some((32 << 20) / 10),
            sending_max: 3,
            receiving_max: 3,
            idle_ticks_max: 100,
            disk_free_min: 0,
        }
    }
}

/// A token bucket of one tick's bytes. It may go into debt by one piece, so that a piece larger
/// than a tick's share passes at all; the debt is paid before the next one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    per_tick: Option<u64>,
    left: i128,
}

impl Budget {
    pub(crate) fn new(per_tick: Option<u64>) -> Self {
        Self { per_tick, left: i128::from(per_tick.unwrap_or(0)) }
    }

    pub(crate) fn tick(&mut self) {
        if let Some(per_tick) = self.per_tick.map(i128::from) {
            self.left = (self.left + per_tick).min(per_tick);
        }
    }

    /// Whether another piece may go.
    pub(crate) fn is_open(&self) -> bool {
        self.per_tick.is_none() || self.left > 0
    }

    pub(crate) fn spend(&mut self, bytes: u64) {
        self.left -= i128::from(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_debt_is_paid_before_the_next_piece() {
        let mut budget = Budget::new(Some(10));
        budget.spend(25);
        assert!(!budget.is_open());
        budget.tick();
        assert!(!budget.is_open(), "5 are owed");
        budget.tick();
        assert!(budget.is_open());
        budget.tick();
        budget.tick();
        budget.spend(10);
        assert!(!budget.is_open(), "what was not used is not saved up");
    }

    #[test]
    fn without_a_rate_everything_passes() {
        let mut budget = Budget::new(None);
        budget.spend(u64::MAX);
        assert!(budget.is_open());
    }
}
