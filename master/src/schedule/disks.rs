//! Which disks are too slow to lead. A leader's every commit waits for its own sync or those of a
//! majority, and its keepalives for its thread; a follower with a slow disk holds up nobody.
//!
//! A disk is compared with those of the others: where all are slow there is nowhere to go. It has to
//! be slow, and then quick, many times in a row, so one hiccup moves nobody, and one good
//! second brings nobody back.

use std::{collections::BTreeMap, time::Duration};

use sharklock_rangemap::StoreId;

use super::SlowDisk;

/// When a disk counts as slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskLimits {
    /// Never while the slowest of a hundred syncs takes less.
    pub floor: Duration,
    /// When it takes more than so many times the median over all stores.
    pub factor: u32,
    /// After so many rounds of heartbeats in a row.
    pub slow_after: u32,
    /// Until it was below half of both for so many rounds in a row.
    pub quick_after: u32,
}

impl Default for DiskLimits {
    fn default() -> Self {
        Self {
            // A tenth of the tolerance of a heartbeat of Raft: below this nobody notices.
            floor: Duration::from_millis(50),
            // Disks of one cluster differ by two or three; a dying one by a hundred.
            factor: 8,
            // The figure is that of a minute, so a single slow second is in sixty rounds of it.
            slow_after: 90,
            // As long as a cool-down: then leaderships may come back, and not before.
            quick_after: 600,
        }
    }
}

impl DiskLimits {
    pub(super) fn check(&self) -> Result<(), String> {
        if self.factor < 2 {
            return Err(format!("disks.factor is {}: it must be at least 2", self.factor));
        }
        if self.slow_after == 0 || self.quick_after == 0 {
            return Err("disks.slow_after and disks.quick_after must be at least 1".to_owned());
        }
        Ok(())
    }
}

/// Remembers how each disk was.
///
/// Invariant: of the stores of the last round at most a third is slow, but one may always be.
#[derive(Clone, Debug, Default)]
pub struct DiskWatch {
    stores: BTreeMap<StoreId, Watched>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Watched {
    slow: Option<SlowDisk>,
    /// Rounds in a row that speak for the other.
    streak: u32,
}

impl DiskWatch {
    /// A round of heartbeats: the slowest of a hundred syncs of the last minute, by store. What was
    /// known of a store that is not among them is forgotten.
    pub fn observe(&mut self, limits: &DiskLimits, p99s: &BTreeMap<StoreId, Duration>) {
        self.stores.retain(|store, _| p99s.contains_key(store));
        let mut sorted = p99s.values().copied().collect::<Vec<_>>();
        sorted.sort_unstable();
        let Some(median) = sorted.get(sorted.len().saturating_sub(1) / 2).copied() else { return };
        let bound = limits.floor.max(median.saturating_mul(limits.factor));
        let may_be_slow = (p99s.len() / 3).max(1);
        let mut slow = self.stores.values().filter(|it| it.slow.is_some()).count();
        for (&store, &p99) in p99s {
            let watched = self.stores.entry(store).or_default();
            let (was_slow, differs) = match watched.slow {
                None => (false, p99 > bound),
                Some(_) => (true, p99 <= bound / 2),
            };
            watched.streak = if differs { watched.streak + 1 } else { 0 };
            if was_slow {
                watched.slow = Some(SlowDisk { p99, median });
                if watched.streak >= limits.quick_after {
                    *watched = Watched::default();
                    slow -= 1;
                }
            } else if watched.streak >= limits.slow_after && slow < may_be_slow {
                *watched = Watched { slow: Some(SlowDisk { p99, median }), streak: 0 };
                slow += 1;
            }
        }
    }

    /// Whether a disk counts as slow, and why.
    pub fn slow(&self, store: StoreId) -> Option<SlowDisk> {
        self.stores.get(&store)?.slow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: DiskLimits =
        DiskLimits { floor: Duration::from_millis(50), factor: 8, slow_after: 3, quick_after: 5 };

    fn round(ms: &[u64]) -> BTreeMap<StoreId, Duration> {
        let p99s = (1..).map(StoreId).zip(ms.iter().copied().map(Duration::from_millis));
        p99s.collect()
    }

    fn rounds(watch: &mut DiskWatch, count: usize, ms: &[u64]) {
        for _ in 0..count {
            watch.observe(&LIMITS, &round(ms));
        }
    }

    fn slow(watch: &DiskWatch) -> Vec<u64> {
        (1..10).filter(|store| watch.slow(StoreId(*store)).is_some()).collect()
    }

    #[test]
    fn a_disk_is_slow_when_it_has_been_for_long_and_quick_when_it_has_been_for_longer() {
        let mut watch = DiskWatch::default();
        rounds(&mut watch, 2, &[5, 5, 400]);
        rounds(&mut watch, 1, &[5, 5, 20]);
        rounds(&mut watch, 2, &[5, 5, 400]);
        assert_eq!(slow(&watch), [0; 0], "never three rounds in a row");
        rounds(&mut watch, 1, &[5, 5, 400]);
        assert_eq!(slow(&watch), [3]);
        rounds(&mut watch, 4, &[5, 5, 20]);
        rounds(&mut watch, 9, &[5, 5, 45]);
        assert_eq!(slow(&watch), [3], "45 ms is not slow, and not quick either");
        rounds(&mut watch, 5, &[5, 5, 20]);
        assert_eq!(slow(&watch), [0; 0]);
    }

    #[test]
    fn where_all_are_slow_none_is_and_never_more_than_a_third() {
        let mut watch = DiskWatch::default();
        rounds(&mut watch, 9, &[400, 500, 600]);
        rounds(&mut watch, 9, &[1, 1, 40]);
        assert_eq!(slow(&watch), [0; 0], "below the floor");
        rounds(&mut watch, 9, &[1, 1, 1, 400, 400, 400]);
        assert_eq!(slow(&watch), [4, 5]);
        rounds(&mut watch, 1, &[1, 1, 1]);
        assert_eq!(slow(&watch), [0; 0], "who is gone is forgotten");
        rounds(&mut watch, 9, &[400]);
        rounds(&mut watch, 9, &[]);
        assert_eq!(slow(&watch), [0; 0]);
    }
}
