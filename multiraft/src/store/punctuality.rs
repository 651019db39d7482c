//! Which stores are heard in time. Their streams say so with each of their heartbeats.

use std::collections::BTreeMap;

use sharklock_rangemap::StoreId;

use crate::election::TIMEOUT_TICKS_END;

/// Invariants:
/// - there is at most one place per store that has ever sent heartbeats here.
#[derive(Debug, Default)]
pub(super) struct Punctuality {
    /// The store's tick of the last heartbeats from each, and whether they were late.
    last: BTreeMap<StoreId, (u64, bool)>,
}

impl Punctuality {
    /// Heartbeats have come from a store.
    pub(super) fn heard(&mut self, from: StoreId, ticks: u64, is_late: bool) {
        self.last.insert(from, (ticks, is_late));
    }

    /// Whether what comes from a store is no sign of life, since its last heartbeats came late. Where
    /// several stores are late and most of those that are heard, the slow one is this store, or all are:
    /// nothing would be better under another leader, which would be heard as late.
    pub(super) fn is_late(&self, from: StoreId, ticks: u64) -> bool {
        let is_heard = |(at, _): &&(u64, bool)| ticks < at + TIMEOUT_TICKS_END as u64;
        if !self.last.get(&from).filter(is_heard).is_some_and(|(_, is_late)| *is_late) {
            return false;
        }
        let heard = self.last.values().filter(is_heard);
        let (all, late) =
            heard.fold((0, 0), |(all, late), (_, is_late)| (all + 1, late + usize::from(*is_late)));
        late == 1 || 2 * late <= all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which of the stores 1, 2, … are late at tick 100, if these had their last heartbeats then.
    fn late(last: &[(u64, bool)]) -> Vec<u64> {
        let mut punctuality = Punctuality::default();
        for (store, (ticks, is_late)) in (1..).zip(last) {
            punctuality.heard(StoreId(store), *ticks, *is_late);
        }
        (1..=4).filter(|store| punctuality.is_late(StoreId(*store), 100)).collect()
    }

    #[test]
    fn one_or_a_few_can_be_late_and_most_cannot() {
        assert_eq!(late(&[(100, false), (99, false)]), [0_u64; 0]);
        assert_eq!(late(&[(100, true)]), [1], "nobody else is heard");
        assert_eq!(late(&[(100, true), (99, false)]), [1]);
        assert_eq!(late(&[(100, true), (99, true)]), [0_u64; 0]);
        assert_eq!(late(&[(100, true), (99, true), (98, false)]), [0_u64; 0]);
        assert_eq!(late(&[(100, true), (99, true), (98, false), (97, false)]), [1, 2]);
    }

    #[test]
    fn who_sends_no_heartbeats_any_more_counts_for_nothing() {
        assert_eq!(late(&[(100, true), (80, true), (80, true)]), [1]);
        assert_eq!(late(&[(80, true)]), [0_u64; 0], "it is marked, and says nothing");
    }
}
