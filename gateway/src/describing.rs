//! The stores to ask for descriptors and leaders, and when; what those that answered said; which of
//! them say nothing. It sends nothing: its owner asks, and hands in what comes.

use std::{collections::BTreeMap, fmt};

use sharklock_proto::internal::v1::StoreDescription;
use sharklock_rangemap::StoreId;

/// Stores are asked this often once the gateway knows who leads each range.
pub const DESCRIBE_EVERY_US: u64 = 5_000_000;
/// And this often until it is, or while something is missing that a store may know; then ever more
/// seldom, a quarter of the time for which it has been missing: a leader is found late by a quarter
/// of its election at most, and a cluster that has none for an hour is left in peace.
pub const DESCRIBE_AGAIN_US: u64 = 50_000;
/// But at least this often.
pub const DESCRIBE_AGAIN_MAX_US: u64 = 1_000_000;
/// A store describes itself from memory, at once. One that does not for so long is passed over.
pub const DESCRIBE_WITHIN_US: u64 = 750_000;
/// The same where no other store is linked that could lead instead: to pass it over would help nobody,
/// and it may only be slow.
pub const DESCRIBE_ALONE_WITHIN_US: u64 = 2_000_000;

/// Who leads a range, as a store has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// The leader; 0: the store knows none.
    pub leader: StoreId,
    /// Its term.
    pub term: u64,
}

/// Leaderless ranges that are named.
const NAMED_MAX: usize = 8;

/// Ranges of which nobody says that they have a leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaderless {
    /// The first of them, by id.
    pub first: Vec<u64>,
    /// Their number.
    pub unled: usize,
    /// The number of all ranges.
    pub all: usize,
}

impl fmt::Display for Leaderless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, unled, all } = self;
        let named: Vec<_> = first.iter().map(u64::to_string).collect();
        let more = if *unled > first.len() { " and others" } else { "" };
        let named = named.join(", ");
        write!(f, "{unled} of {all} ranges have no leader that is known: {named}{more}")
    }
}

/// The knowledge of a linked store.
#[derive(Debug, Default)]
struct Store {
    asked_us: Option<u64>,
    /// The question of `asked_us` is under way.
    under_way: bool,
    /// The change behind which that question asks for changes; 0: for everything.
    asked_since: u64,
    /// The change up to which the store has told what it has.
    heard: u64,
    /// It is telling everything, and has not come to the end.
    is_beginning: bool,
    /// It is asked again soon, not only when everything is asked.
    hurried: bool,
    /// It has said that there is more: it is asked at once.
    has_more: bool,
    /// Since when it has been asked again without saying anything new.
    again_since_us: Option<u64>,
    /// What it has said of its ranges, until it is silent.
    said: BTreeMap<u64, Said>,
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
///
/// Invariants:
/// - `words` counts what is in the `said` of all stores.
#[derive(Debug, Default)]
pub struct Describing {
    stores: BTreeMap<StoreId, Store>,
    words: Words,
}

/// By range, how many stores have said that they have it, and how many of them that it is led.
///
/// Invariants: `unled` is how many ranges nobody says are led.
#[derive(Debug, Default)]
struct Words {
    of_range: BTreeMap<u64, (u32, u32)>,
    unled: usize,
}

impl Words {
    /// A follower that is cut off knows no leader: another's word is enough.
    fn are_all_led(&self) -> bool {
        self.unled == 0 && !self.of_range.is_empty()
    }

    /// A store says this of a range, where it has said that before. True: that is news of whether
    /// the range is led.
    fn change(&mut self, range: u64, before: Option<Said>, now: Option<Said>) -> bool {
        let is_led = |said: Said| said.leader != StoreId(0);
        let (before, now) = (before.map(is_led), now.map(is_led));
        if before == now {
            return false;
        }
        let (have, led) = self.of_range.entry(range).or_default();
        self.unled -= usize::from(*have > 0 && *led == 0);
        *have = *have + u32::from(now.is_some()) - u32::from(before.is_some());
        *led = *led + u32::from(now == Some(true)) - u32::from(before == Some(true));
        self.unled += usize::from(*have > 0 && *led == 0);
        if *have == 0 {
            self.of_range.remove(&range);
        }
        true
    }
}

impl Describing {
    /// A store is linked: it is asked at once.
    pub fn link_up(&mut self, store: StoreId) {
        self.forget(store);
        self.stores.insert(store, Store::default());
    }

    /// A store's link is lost: what it said does not count any more.
    pub fn link_lost(&mut self, store: StoreId) {
        self.forget(store);
        self.stores.remove(&store);
    }

    /// Whether stores answer, and of each of their ranges somebody says that it has a leader.
    pub fn knows_leaders(&self) -> bool {
        self.words.are_all_led()
    }

    /// Whether a store answers that has a range.
    pub fn is_answered(&self) -> bool {
        !self.words.of_range.is_empty()
    }

    /// The ranges of stores that answer of which nobody says that they have a leader.
    pub fn leaderless(&self) -> Leaderless {
        let Words { of_range, unled } = &self.words;
        let unled_ranges = of_range.iter().filter(|(_, (_, led))| *led == 0);
        let first = match unled {
            0 => Vec::new(),
            _ => unled_ranges.map(|(range, _)| *range).take(NAMED_MAX).collect(),
        };
        Leaderless { first, unled: *unled, all: of_range.len() }
    }

    /// The change up to which a store has told what it has, which the question to it names.
    pub fn asked_since(&self, store: StoreId) -> u64 {
        self.stores.get(&store).map_or(0, |store| store.asked_since)
    }

    /// What a store has said of a range.
    pub fn said(&self, store: StoreId, range: u64) -> Option<Said> {
        self.stores.get(&store)?.said.get(&range).copied()
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

    /// As [`hurry_all`](Self::hurry_all), and each is asked for everything: something that was said
    /// is not known here any more.
    pub fn begin_anew(&mut self) {
        for store in self.stores.values_mut() {
            store.hurried = true;
            if !store.is_beginning {
                store.heard = 0;
            }
        }
    }

    /// When [`take_due`](Self::take_due) has something; None while no store is linked.
    pub fn due_us(&self) -> Option<u64> {
        self.stores.values().map(|store| self.due_of(store)).min()
    }

    /// Takes what is due; each of `ask` counts as asked.
    pub fn take_due(&mut self, now_us: u64) -> Due {
        let knows_leaders = self.knows_leaders();
        let is_due = |(_, store): &(&StoreId, &Store)| self.due_of(store) <= now_us;
        let ask: Vec<_> = self.stores.iter().filter(is_due).map(|(id, _)| *id).collect();
        let is_silent = |id: &StoreId| self.stores[id].under_way;
        let silent: Vec<_> = ask.iter().copied().filter(is_silent).collect();
        silent.iter().for_each(|id| self.forget(*id));
        for id in &ask {
            let store = self.stores.get_mut(id).expect("it has just been there");
            let again = store.hurried || !knows_leaders;
            store.again_since_us = again.then(|| store.again_since_us.unwrap_or(now_us));
            store.asked_us = Some(now_us);
            store.asked_since = store.heard;
            store.is_beginning |= store.heard == 0;
            (store.under_way, store.hurried, store.has_more) = (true, false, false);
        }
        Due { ask, silent }
    }

    /// The question did not fit into the link: the store is not silent, and is asked again.
    pub fn not_asked(&mut self, store: StoreId) {
        if let Some(store) = self.stores.get_mut(&store) {
            (store.under_way, store.hurried) = (false, true);
        }
    }

    /// A store described itself. What answers an older question than the last is passed over: the
    /// answer to the last one brings it, too.
    pub fn described(&mut self, from: StoreId, description: &StoreDescription) {
        let Some(store) = self.stores.get_mut(&from) else { return };
        let StoreDescription { since, upto, has_more, ranges, gone, .. } = description;
        if *since != 0 && *since != store.asked_since {
            return;
        }
        store.under_way = false;
        // Somebody has asked for everything meanwhile, if nothing counts as heard.
        if *since == 0 || store.heard != 0 {
            store.heard = *upto;
        }
        store.has_more = *has_more;
        store.is_beginning = *has_more && (store.is_beginning || *since == 0);
        let mut before = match since {
            0 => std::mem::take(&mut store.said),
            _ => BTreeMap::new(),
        };
        let mut is_news = false;
        for range in ranges {
            let now = Said { leader: StoreId(range.leader_store_id), term: range.term };
            let known = store.said.insert(range.range_id, now);
            let known = known.or_else(|| before.remove(&range.range_id));
            is_news |= self.words.change(range.range_id, known, Some(now));
        }
        let gone = gone.iter().filter_map(|range| Some((*range, store.said.remove(range)?)));
        for (range, known) in gone.chain(before).collect::<Vec<_>>() {
            is_news |= self.words.change(range, Some(known), None);
        }
        if is_news {
            store.again_since_us = None;
        }
    }

    /// What a store said does not count any more, and is to be said again.
    fn forget(&mut self, store: StoreId) {
        let Some(store) = self.stores.get_mut(&store) else { return };
        store.heard = 0;
        for (range, said) in std::mem::take(&mut store.said) {
            self.words.change(range, Some(said), None);
        }
    }

    fn due_of(&self, store: &Store) -> u64 {
        let Some(asked_us) = store.asked_us else { return 0 };
        let pause_us = match store {
            Store { under_way: true, .. } if self.stores.len() > 1 => DESCRIBE_WITHIN_US,
            Store { under_way: true, .. } => DESCRIBE_ALONE_WITHIN_US,
            Store { has_more: true, .. } => 0,
            Store { hurried: false, .. } if self.knows_leaders() => DESCRIBE_EVERY_US,
            Store { again_since_us, .. } => {
                let missing_us = asked_us - again_since_us.unwrap_or(asked_us);
                (missing_us / 4).clamp(DESCRIBE_AGAIN_US, DESCRIBE_AGAIN_MAX_US)
            }
        };
        asked_us + pause_us
    }
}

#[cfg(test)]
mod tests {
    use sharklock_proto::v1::RangeStatus;

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
            ..StoreDescription::default()
        }
    }

    fn ask(stores: &[StoreId]) -> Due {
        Due { ask: stores.to_vec(), silent: Vec::new() }
    }

    #[test]
    fn stores_are_asked_at_once_then_often_until_leaders_are_known_then_seldom() {
        let mut describing = Describing::default();
        assert_eq!(describing.due_us(), None);
        describing.link_up(A);
        assert_eq!(describing.due_us(), Some(0));
        assert_eq!(describing.take_due(1_000), ask(&[A]));
        assert_eq!(describing.take_due(1_000), ask(&[]), "once");
        describing.described(A, &description(&[(1, 0)]));
        assert!(!describing.knows_leaders(), "a range without a leader");
        assert_eq!(describing.due_us(), Some(1_000 + DESCRIBE_AGAIN_US));
        assert_eq!(describing.take_due(60_000), ask(&[A]));
        describing.described(A, &description(&[(1, 2)]));
        assert!(describing.knows_leaders());
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
        assert!(describing.knows_leaders());
        assert_eq!(describing.take_due(DESCRIBE_EVERY_US), ask(&[A]));
        let silent_us = DESCRIBE_EVERY_US + DESCRIBE_ALONE_WITHIN_US;
        assert_eq!(describing.take_due(silent_us - 1), ask(&[]));
        let due = describing.take_due(silent_us);
        assert_eq!(due, Due { ask: vec![A], silent: vec![A] }, "it is asked on");
        assert!(!describing.knows_leaders());
        describing.described(A, &description(&[(1, 1)]));
        assert!(describing.knows_leaders());
    }

    #[test]
    fn a_store_beside_another_has_less_time_to_describe_itself() {
        let mut describing = Describing::default();
        describing.link_up(A);
        describing.link_up(B);
        describing.take_due(0);
        describing.described(A, &description(&[(1, 1)]));
        describing.described(B, &description(&[(1, 1)]));
        assert_eq!(describing.take_due(DESCRIBE_EVERY_US), ask(&[A, B]));
        describing.described(B, &description(&[(1, 1)]));
        let silent_us = DESCRIBE_EVERY_US + DESCRIBE_WITHIN_US;
        assert_eq!(describing.take_due(silent_us - 1), ask(&[]));
        assert_eq!(describing.take_due(silent_us), Due { ask: vec![A], silent: vec![A] });
    }

    #[test]
    fn a_follower_that_is_cut_off_makes_no_range_leaderless() {
        let mut describing = Describing::default();
        describing.link_up(A);
        describing.link_up(B);
        describing.take_due(0);
        describing.described(A, &description(&[(1, 0)]));
        assert!(!describing.knows_leaders());
        describing.described(B, &description(&[(1, 2)]));
        assert!(describing.knows_leaders());
        describing.described(B, &description(&[(1, 2), (7, 0)]));
        assert!(!describing.knows_leaders(), "of range 7 nobody says that it is led");
        describing.link_lost(B);
        assert!(!describing.knows_leaders(), "only the follower is left");
    }

    #[test]
    fn ranges_without_a_leader_are_counted_and_the_first_are_named() {
        let mut describing = Describing::default();
        assert!(!describing.is_answered());
        describing.link_up(A);
        describing.take_due(0);
        assert!(!describing.is_answered(), "it has said nothing");
        describing.described(A, &description(&[(1, 1), (2, 0), (3, 0)]));
        assert!(describing.is_answered());
        let said = describing.leaderless().to_string();
        assert_eq!(said, "2 of 3 ranges have no leader that is known: 2, 3");
        let many: Vec<_> = (1..=20).map(|range| (range, 0)).collect();
        describing.described(A, &description(&many));
        let said = describing.leaderless().to_string();
        assert!(said.starts_with("20 of 20 ranges") && said.ends_with("7, 8 and others"), "{said}");
        describing.link_lost(A);
        assert!(!describing.is_answered());
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

    /// What has changed of ranges, from one change to another.
    fn change(since: u64, upto: u64, ranges: &[(u64, u64)], gone: &[u64]) -> StoreDescription {
        StoreDescription { since, upto, gone: gone.to_vec(), ..description(ranges) }
    }

    #[test]
    fn only_what_has_changed_is_asked_for_and_the_rest_still_counts() {
        let mut describing = Describing::default();
        describing.link_up(A);
        describing.take_due(0);
        assert_eq!(describing.asked_since(A), 0);
        describing.described(A, &change(0, 7, &[(1, 2), (2, 2)], &[]));
        assert_eq!(describing.take_due(DESCRIBE_EVERY_US), ask(&[A]));
        assert_eq!(describing.asked_since(A), 7);
        describing.described(A, &change(7, 8, &[(2, 0)], &[]));
        assert!(!describing.knows_leaders(), "range 2 has lost its leader");
        assert_eq!(describing.said(A, 1), Some(Said { leader: B, term: 0 }));
        describing.take_due(2 * DESCRIBE_EVERY_US);
        describing.described(A, &change(8, 9, &[], &[2]));
        assert!(describing.knows_leaders(), "range 2 is gone");
        describing.take_due(3 * DESCRIBE_EVERY_US);
        describing.described(A, &change(0, 3, &[(9, 1)], &[]));
        assert_eq!(describing.said(A, 1), None, "the store has said everything anew");
    }

    #[test]
    fn a_store_that_has_more_to_say_is_asked_at_once() {
        let mut describing = Describing::default();
        describing.link_up(A);
        describing.take_due(0);
        let more = StoreDescription { has_more: true, ..change(0, 7, &[(1, 2)], &[]) };
        describing.described(A, &more);
        assert_eq!(describing.take_due(1), ask(&[A]));
        assert_eq!(describing.asked_since(A), 7);
        describing.described(A, &change(7, 9, &[(2, 2)], &[]));
        assert_eq!(describing.take_due(2), ask(&[]));
    }

    #[test]
    fn whoever_was_silent_says_everything_anew_and_a_late_answer_is_passed_over() {
        let mut describing = Describing::default();
        describing.link_up(A);
        describing.take_due(0);
        describing.described(A, &change(0, 7, &[(1, 2)], &[]));
        describing.take_due(DESCRIBE_EVERY_US);
        let due = describing.take_due(DESCRIBE_EVERY_US + DESCRIBE_ALONE_WITHIN_US);
        assert_eq!(due, Due { ask: vec![A], silent: vec![A] });
        assert_eq!(describing.asked_since(A), 0);
        describing.described(A, &change(7, 8, &[(3, 2)], &[]));
        assert!(!describing.knows_leaders(), "without range 1 it says nothing");
        describing.described(A, &change(0, 8, &[(1, 2), (3, 2)], &[]));
        assert!(describing.knows_leaders());
    }

    #[test]
    fn who_misses_what_was_said_hears_everything_even_if_an_answer_was_under_way() {
        let mut describing = Describing::default();
        describing.link_up(A);
        describing.take_due(0);
        describing.described(A, &change(0, 7, &[(1, 2)], &[]));
        assert_eq!(describing.take_due(DESCRIBE_EVERY_US), ask(&[A]));
        describing.begin_anew();
        describing.described(A, &change(7, 8, &[(1, 3)], &[]));
        assert_eq!(describing.take_due(DESCRIBE_EVERY_US + DESCRIBE_AGAIN_US), ask(&[A]));
        assert_eq!(describing.asked_since(A), 0);
    }
}
