//! What others are told of this store's ranges, numbered by its changes. Whoever says up to which
//! change he has heard is told what has changed since, a bounded part at a time, and nothing else;
//! whoever has heard nothing, or something that is no longer known, is told everything. A core.

use std::collections::BTreeMap;

use sharklock_rangemap::RangeId;

/// Ranges that have gone and of which that is still known. Then that is forgotten, and everybody is
/// told everything once.
const GONE_MAX: usize = 4_096;

/// One word about each range, and when it changed.
///
/// Invariants:
/// - `by_number` has exactly the ranges in `words`, each under the number of its last change;
/// - `gone` counts those that have no word any more;
/// - all numbers lie from `first` to `last`. What has gone before `first` is forgotten, so whoever
///   has heard less than that hears everything. Since nothing that is here has such a number, he
///   comes to an end, in however many parts.
#[derive(Debug)]
pub struct Journal<W> {
    first: u64,
    last: u64,
    words: BTreeMap<RangeId, (u64, Option<W>)>,
    by_number: BTreeMap<u64, RangeId>,
    gone: usize,
}

/// The changes, from the oldest on.
#[derive(Debug, PartialEq, Eq)]
pub struct Page<W> {
    /// The change behind which it begins; 0: it begins with everything, and whatever was heard
    /// before counts no more.
    pub since: u64,
    /// The change with which it ends: what the next question names.
    pub upto: u64,
    /// There is more, which the next question brings.
    pub has_more: bool,
    /// Each range that has changed, with its word now; `None`: it is gone.
    pub changes: Vec<(RangeId, Option<W>)>,
}

impl<W> Default for Journal<W> {
    fn default() -> Self {
        Self { first: 1, last: 0, words: BTreeMap::new(), by_number: BTreeMap::new(), gone: 0 }
    }
}

impl<W: PartialEq + Clone> Journal<W> {
    /// The word about a range now; `None`: it is not here. False: it is as before.
    pub fn note(&mut self, range: RangeId, word: Option<W>) -> bool {
        let before = self.words.get(&range);
        if before.map_or(word.is_none(), |(_, before)| *before == word) {
            return false;
        }
        if let Some((number, before)) = before {
            self.by_number.remove(number);
            self.gone -= usize::from(before.is_none());
        }
        self.last += 1;
        self.gone += usize::from(word.is_none());
        self.by_number.insert(self.last, range);
        self.words.insert(range, (self.last, word));
        if self.gone > GONE_MAX {
            self.forget_gone();
        }
        true
    }

    /// Gives everything that is here a number above all that were heard.
    fn forget_gone(&mut self) {
        self.gone = 0;
        self.first = self.last + 1;
        self.words.retain(|_, (_, word)| word.is_some());
        for (number, _) in self.words.values_mut() {
            self.last += 1;
            *number = self.last;
        }
        self.by_number = self.words.iter().map(|(range, (number, _))| (*number, *range)).collect();
    }

    /// How many ranges have a word.
    pub fn len(&self) -> usize {
        self.words.len() - self.gone
    }

    /// What has changed behind the change that was `heard` last, 0 for nothing: at most so much.
    pub fn since(&self, heard: u64, changes_max: usize) -> Page<W> {
        let is_known = (self.first..=self.last).contains(&heard);
        let since = if is_known { heard } else { 0 };
        let mut newer = self.by_number.range(since + 1..).filter_map(|(number, range)| {
            let (_, word) = &self.words[range];
            (since > 0 || word.is_some()).then(|| (*number, (*range, word.clone())))
        });
        let (mut upto, mut changes) = (self.last, Vec::new());
        for (number, change) in newer.by_ref().take(changes_max) {
            upto = number;
            changes.push(change);
        }
        let has_more = newer.next().is_some();
        Page { since, upto: if has_more { upto } else { self.last }, has_more, changes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(id: u64) -> RangeId {
        RangeId(id)
    }

    /// What somebody knows who asks again and again.
    #[derive(Default)]
    struct Listener {
        heard: u64,
        words: BTreeMap<RangeId, u32>,
    }

    impl Listener {
        /// Asks until there is no more, and counts what was said.
        fn listen(&mut self, journal: &Journal<u32>, changes_max: usize) -> usize {
            let mut said = 0;
            loop {
                let page = journal.since(self.heard, changes_max);
                if page.since == 0 {
                    self.words.clear();
                }
                said += page.changes.len();
                assert!(page.changes.len() <= changes_max);
                for (range, word) in page.changes {
                    match word {
                        Some(word) => _ = self.words.insert(range, word),
                        None => _ = self.words.remove(&range),
                    }
                }
                self.heard = page.upto;
                if !page.has_more {
                    return said;
                }
            }
        }
    }

    #[test]
    fn what_has_not_changed_is_not_said_again() {
        let mut journal = Journal::default();
        (1..=1_000).for_each(|id| _ = journal.note(range(id), Some(7)));
        let mut listener = Listener::default();
        assert_eq!(listener.listen(&journal, 300), 1_000);
        assert_eq!(listener.listen(&journal, 300), 0);
        journal.note(range(5), Some(7));
        assert_eq!(listener.listen(&journal, 300), 0, "it is as before");
        journal.note(range(5), Some(8));
        journal.note(range(6), None);
        assert_eq!(listener.listen(&journal, 300), 2);
        assert_eq!(listener.words.get(&range(5)), Some(&8));
        assert_eq!(listener.words.len(), 999);
    }

    #[test]
    fn whoever_has_heard_something_else_is_told_everything() {
        let mut journal = Journal::default();
        journal.note(range(1), Some(1));
        let page = journal.since(9_999, 10);
        assert_eq!((page.since, page.upto, page.changes.len()), (0, 1, 1));
        for id in 2..2 + GONE_MAX as u64 + 10 {
            journal.note(range(id), Some(1));
        }
        let mut late = Listener::default();
        late.listen(&journal, 500);
        (2..2 + GONE_MAX as u64 + 10).for_each(|id| _ = journal.note(range(id), None));
        assert_eq!(journal.since(late.heard, 10).since, 0, "what has gone is not known any more");
        late.listen(&journal, 500);
        assert_eq!(late.words.into_iter().collect::<Vec<_>>(), [(range(1), 1)]);
        assert!(journal.words.len() <= GONE_MAX + 1, "what is remembered is bounded");
    }

    #[test]
    fn whoever_begins_after_much_was_forgotten_comes_to_an_end() {
        let mut journal = Journal::default();
        (1..=10).for_each(|id| _ = journal.note(range(id), Some(1)));
        for id in 11..=11 + GONE_MAX as u64 {
            journal.note(range(id), Some(1));
            journal.note(range(id), None);
        }
        let mut late = Listener::default();
        assert_eq!(late.listen(&journal, 3), 10);
        assert_eq!(late.listen(&journal, 3), 0);
    }

    #[test]
    fn listeners_who_lose_answers_know_everything_in_the_end() {
        // A small generator of its own: no two steps alike, and each run the same.
        let mut state = 0x9e37_79b9_u64;
        let mut next = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % below
        };
        let mut journal = Journal::default();
        let mut truth = BTreeMap::new();
        let mut listeners: Vec<_> = (0..4).map(|_| Listener::default()).collect();
        for _ in 0..4_000 {
            let (id, word) = (range(next(40)), next(3) as u32);
            let word = (word > 0).then_some(word);
            journal.note(id, word);
            match word {
                Some(word) => _ = truth.insert(id, word),
                None => _ = truth.remove(&id),
            }
            let listener = &mut listeners[next(4) as usize];
            match next(3) {
                // The answer is lost.
                0 => _ = journal.since(listener.heard, 5),
                // It begins anew.
                1 if next(20) == 0 => listener.heard = 0,
                _ => {
                    listener.listen(&journal, 1 + next(6) as usize);
                    assert_eq!(listener.words, truth);
                }
            }
        }
    }
}
