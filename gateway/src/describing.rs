//! The stores to ask for descriptors and leaders, and when; what those that answered said; which of
//! them say nothing. It sends nothing: its owner asks, and hands in what comes.

use std::collections::BTreeMap;

use sharklock_proto::internal::v1::StoreDescription;
use sharklock_rangemap::StoreId;

/// Stores are asked this often once the gateway is ready.
pub const DESCRIBE_EVERY_US: u64 = 5_000_000;
/// And this often until it is, or while something is missing that a store may know; then ever more
/// seldom, a quarter of the time for which it has been missing: a leader is found late by a quarter
/// of its election at most, and a cluster that has none for an hour is left in peace.
pub const DESCRIBE_AGAIN_US: u64 = 50_000;
/// But at least this often.
pub const DESCRIBE_AGAIN_MAX_US: u64 = 1_000_000;
/// A store describes itself from memory, at once. One that does not for so long is passed over.
pub const DESCRIBE_WITHIN_US: u64 = 2_000_000;

/// The knowledge of a linked store.
#[derive(Debug, Default)]
struct Store {
    asked_us: Option<u64>,
    /// The question of `asked_us` is under way.
    under_way: bool,
    /// It is asked again soon, not only when everything is asked.
    hurried: bool,
    /// Since when it has been asked again without saying anything new.
    again_since_us: Option<u64>,
    /// Its last description, until it is silent: its ranges, and whether each had a leader.
    ranges: Option<BTreeMap<u64, bool>>,
}

/// The work that is due now.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// Ask these.
    pub ask: Vec<StoreId>,
    /// These did not answer in time.
    pub silent: Vec<StoreId>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Describing {
    stores: BTreeMap<StoreId, Store>,
    ready: bool,
}

impl Describing {
    /// A store is linked: it is asked at once.
    pub fn link_up(&mut self, store: StoreId) {
        self.stores.insert(store, Store::default());
    }

    /// A store's link is lost: what it said does not count any more.
    pub fn link_lost(&mut self, store: StoreId) {
        self.stores.remove(&store);
        self.ready = self.is_led();
    }

    /// Whether calls have a chance: stores answer, and of each of their ranges somebody says that it
    /// has a leader.
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// A store may know more than it has said: it is asked soon, and not more often than that
    /// however many miss something.
    pub fn hurry(&mut self, store: StoreId) {
        if let Some(store) = self.stores.get_mut(&store) {
            store.hurried = true;
        }
    }

    /// As [`hurry`](Self::hurry), for all.
    pub fn hurry_all(&mut self) {
        self.stores.values_mut().for_each(|store| store.hurried = true);
    }

    /// When [`take_due`](Self::take_due) has something; None while no store is linked.
    pub fn due_us(&self) -> Option<u64> {
        self.stores.values().map(|store| self.due_of(store)).min()
    }

    /// Takes what is due; each of `ask` counts as asked.
    pub fn take_due(&mut self, now_us: u64) -> Due {
        let mut due = Due::default();
        let ids: Vec<_> = self.stores.keys().copied().collect();
        for id in ids {
            let store = &self.stores[&id];
            if self.due_of(store) > now_us {
                continue;
            }
            let store = self.stores.get_mut(&id).expect("it has just been there");
            if store.under_way {
                store.ranges = None;
                due.silent.push(id);
            }
            let again = store.hurried || !self.ready;
            *store = Store {
                asked_us: Some(now_us),
                under_way: true,
                hurried: false,
                again_since_us: again.then(|| store.again_since_us.unwrap_or(now_us)),
                ranges: store.ranges.take(),
            };
            due.ask.push(id);
        }
        if !due.silent.is_empty() {
            self.ready = self.is_led();
        }
        due
    }

    /// The question did not fit into the link: the store is not silent, and is asked again.
    pub fn not_asked(&mut self, store: StoreId) {
        if let Some(store) = self.stores.get_mut(&store) {
            (store.under_way, store.hurried) = (false, true);
        }
    }

    /// A store described itself.
    pub fn described(&mut self, from: StoreId, description: &StoreDescription) {
        let Some(store) = self.stores.get_mut(&from) else { return };
        store.under_way = false;
        let led = |range: &sharklock_proto::v1::RangeStatus| range.leader_store_id != 0;
        let ranges = description.ranges.iter().map(|range| (range.range_id, led(range)));
        let known = !description.descriptors.is_empty();
        let ranges = known.then(|| ranges.collect());
        if ranges != store.ranges {
            store.ranges = ranges;
            store.again_since_us = None;
        }
        self.ready = self.is_led();
    }

    fn due_of(&self, store: &Store) -> u64 {
        let Some(asked_us) = store.asked_us else { return 0 };
        let pause_us = match store {
            Store { under_way: true, .. } => DESCRIBE_WITHIN_US,
            Store { hurried: false, .. } if self.ready => DESCRIBE_EVERY_US,
            Store { again_since_us, .. } => {
                let missing_us = asked_us - again_since_us.unwrap_or(asked_us);
                (missing_us / 4).clamp(DESCRIBE_AGAIN_US, DESCRIBE_AGAIN_MAX_US)
            }
        };
        asked_us + pause_us
    }

    /// A follower that is cut off knows no leader: another's word is enough.
    fn is_led(&self) -> bool {
        let mut led: BTreeMap<u64, bool> = BTreeMap::new();
        let mut described = false;
        for ranges in self.stores.values().filter_map(|store| store.ranges.as_ref()) {
            described = true;
            for (range, has_leader) in ranges {
                *led.entry(*range).or_default() |= has_leader;
            }
        }
        described && led.values().all(|led| *led)
    }
}

#[cfg(test)]
mod tests {
    use sharklock_proto::{internal::v1::RangeDescriptor, v1::RangeStatus};

    use super::*;

    const A: StoreId = StoreId(1);
    const B: StoreId = StoreId(2);

    fn description(ranges: &[(u64, u64)]) -> StoreDescription {
        let status = |&(range_id, leader_store_id): &(u64, u64)| RangeStatus {
            range_id,
            leader_store_id,
            ..RangeStatus::default()
        };
        StoreDescription {
            ranges: ranges.iter().map(status).collect(),
            descriptors: ranges.iter().map(|_| RangeDescriptor::default()).collect(),
            ..StoreDescription::default()
        }
    }

    fn ask(stores: &[StoreId]) -> Due {
        Due { ask: stores.to_vec(), silent: Vec::new() }
    }

    #[test]
    fn stores_are_asked_at_once_then_often_until_ready_then_seldom() {
        let mut describing = Describing::default();
        assert_eq!(describing.due_us(), None);
        describing.link_up(A);
        assert_eq!(describing.due_us(), Some(0));
        assert_eq!(describing.take_due(1_000), ask(&[A]));
        assert_eq!(describing.take_due(1_000), ask(&[]), "once");
        describing.described(A, &description(&[(1, 0)]));
        assert!(!describing.is_ready(), "a range without a leader");
        assert_eq!(describing.due_us(), Some(1_000 + DESCRIBE_AGAIN_US));
        assert_eq!(describing.take_due(60_000), ask(&[A]));
        describing.described(A, &description(&[(1, 2)]));
        assert!(describing.is_ready());
        assert_eq!(describing.due_us(), Some(60_000 + DESCRIBE_EVERY_US));
    }

    #[test]
    fn what_stays_missing_is_asked_for_ever_more_seldom_until_there_is_news() {
        let mut describing = Describing::default();
        describing.link_up(A);
        let mut pauses_ms = Vec::new();
        let mut now_us = 0;
        while now_us < 10_000_000 {
            assert_eq!(describing.take_due(now_us), ask(&[A]));
            describing.described(A, &description(&[(1, 0)]));
            let due_us = describing.due_us().expect("it is linked");
            pauses_ms.push((due_us - now_us) / 1_000);
            now_us = due_us;
        }
        assert!(pauses_ms.is_sorted());
        assert_eq!((pauses_ms[0], pauses_ms.last()), (50, Some(&1_000)));
        let in_first_2_s = pauses_ms.iter().scan(0, |at, pause| {
            *at += pause;
            Some(*at)
        });
        assert_eq!(in_first_2_s.filter(|at| *at < 2_000).count(), 15, "{pauses_ms:?}");
        describing.take_due(now_us);
        describing.described(A, &description(&[(1, 0), (2, 0)]));
        assert_eq!(describing.due_us(), Some(now_us + DESCRIBE_AGAIN_US), "news");
    }

    #[test]
    fn what_is_missing_is_asked_for_soon_and_not_once_per_call() {
        let mut describing = Describing::default();
        describing.link_up(A);
        describing.take_due(0);
        describing.described(A, &description(&[(1, 1)]));
        for _ in 0..1_000 {
            describing.hurry(A);
        }
        assert_eq!(describing.due_us(), Some(DESCRIBE_AGAIN_US));
        assert_eq!(describing.take_due(DESCRIBE_AGAIN_US), ask(&[A]));
        describing.described(A, &description(&[(1, 1)]));
        assert_eq!(describing.due_us(), Some(DESCRIBE_AGAIN_US + DESCRIBE_EVERY_US));
    }

    #[test]
    fn a_store_that_does_not_describe_itself_in_time_is_silent_and_its_word_does_not_count() {
        let mut describing = Describing::default();
        describing.link_up(A);
        describing.take_due(0);
        describing.described(A, &description(&[(1, 1)]));
        assert!(describing.is_ready());
        assert_eq!(describing.take_due(DESCRIBE_EVERY_US), ask(&[A]));
        let silent_us = DESCRIBE_EVERY_US + DESCRIBE_WITHIN_US;
        assert_eq!(describing.take_due(silent_us - 1), ask(&[]));
        let due = describing.take_due(silent_us);
        assert_eq!(due, Due { ask: vec![A], silent: vec![A] }, "it is asked on");
        assert!(!describing.is_ready());
        describing.described(A, &description(&[(1, 1)]));
        assert!(describing.is_ready());
    }

    #[test]
    fn a_follower_that_is_cut_off_does_not_make_the_gateway_unready() {
        let mut describing = Describing::default();
        describing.link_up(A);
        describing.link_up(B);
        describing.take_due(0);
        describing.described(A, &description(&[(1, 0)]));
        assert!(!describing.is_ready());
        describing.described(B, &description(&[(1, 2)]));
        assert!(describing.is_ready());
        describing.described(B, &description(&[(1, 2), (7, 0)]));
        assert!(!describing.is_ready(), "of range 7 nobody says that it is led");
        describing.link_lost(B);
        assert!(!describing.is_ready(), "only the follower is left");
    }

    #[test]
    fn a_full_link_does_not_make_a_store_silent() {
        let mut describing = Describing::default();
        describing.link_up(A);
        assert_eq!(describing.take_due(0), ask(&[A]));
        describing.not_asked(A);
        assert_eq!(describing.due_us(), Some(DESCRIBE_AGAIN_US));
        assert_eq!(describing.take_due(2 * DESCRIBE_WITHIN_US), ask(&[A]));
    }
}
