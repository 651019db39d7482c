//! The replicas that wait for a place to be sent a snapshot: those whose ranges it repairs first,
//! then those that have waited longest. Raft asks for each again and again, so nothing is begun
//! from here; it only says whose turn it is.

use std::collections::{BTreeMap, BTreeSet};

use sharklock_rangemap::{PeerId, RangeId};

/// Who was not asked for within so many ticks does not wait any more. Raft asks at each heartbeat
/// that is answered, and one or two may be lost.
const ASKED_WITHIN: u64 = 10;

/// In the order of turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// False sorts first.
    only_moves: bool,
    since: u64,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    place: Place,
    asked: u64,
}

/// The replicas that wait, in the order of their turns.
///
/// Invariants: `order` has exactly the replicas of `waiting`, each with its place.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: BTreeMap<(RangeId, PeerId), Waiting>,
    order: BTreeSet<(Place, (RangeId, PeerId))>,
}

impl Queue {
    /// A replica needs a snapshot. True: it is its turn, with so many places free; then it waits no
    /// more.
    pub(super) fn ask(
        &mut self,
        key: (RangeId, PeerId),
        repairs: bool,
        free: usize,
        ticks: u64,
    ) -> bool {
        let before = self.waiting.get(&key).copied();
        self.leave(key);
        let since = before.map_or(ticks, |waiting| waiting.place.since);
        let place = Place { only_moves: !repairs, since };
        // At most so many are looked at as there are places.
        if self.order.range(..(place, key)).take(free).count() < free {
            return true;
        }
        self.waiting.insert(key, Waiting { place, asked: ticks });
        self.order.insert((place, key));
        false
    }

    /// It does not wait any more.
    pub(super) fn leave(&mut self, key: (RangeId, PeerId)) {
        if let Some(waiting) = self.waiting.remove(&key) {
            self.order.remove(&(waiting.place, key));
        }
    }

    pub(super) fn forget(&mut self, range: RangeId) {
        let of_range = (range, PeerId(0))..=(range, PeerId(u64::MAX));
        let gone: Vec<_> = self.waiting.range(of_range).map(|(key, _)| *key).collect();
        gone.into_iter().for_each(|key| self.leave(key));
    }

    pub(super) fn tick(&mut self, ticks: u64) {
        let is_old = |waiting: &Waiting| waiting.asked + ASKED_WITHIN <= ticks;
        let old = self.waiting.iter().filter(|(_, it)| is_old(it)).map(|(key, _)| *key);
        old.collect::<Vec<_>>().into_iter().for_each(|key| self.leave(key));
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(range: u64) -> (RangeId, PeerId) {
        (RangeId(range), PeerId(range))
    }

    #[test]
    fn repairs_go_before_moves_and_then_who_has_waited_longest() {
        let mut queue = Queue::default();
        assert!(!queue.ask(key(1), false, 0, 1), "no place is free");
        assert!(!queue.ask(key(3), false, 0, 2));
        assert!(!queue.ask(key(2), false, 0, 3));
        assert!(!queue.ask(key(9), true, 0, 4));
        assert_eq!(queue.len(), 4);
        // A place is free; they ask in the order of their ranges.
        assert!(!queue.ask(key(1), false, 1, 5), "a repair waits");
        assert!(!queue.ask(key(2), false, 1, 5));
        assert!(queue.ask(key(9), true, 1, 5));
        assert!(!queue.ask(key(2), false, 1, 6), "two have waited longer");
        assert!(queue.ask(key(3), false, 2, 6), "one has, and two places are free");
        assert!(queue.ask(key(1), false, 1, 6));
        assert!(queue.ask(key(2), false, 1, 6));
        assert_eq!(queue.len(), 0);
        assert!(queue.ask(key(4), false, 1, 7), "nobody waits");
    }

    #[test]
    fn who_is_not_asked_for_any_more_holds_nobody_up() {
        let mut queue = Queue::default();
        assert!(!queue.ask(key(1), true, 0, 1));
        assert!(!queue.ask(key(2), true, 0, 1));
        assert!(!queue.ask(key(3), false, 1, 5));
        queue.leave(key(2));
        queue.tick(10);
        assert!(!queue.ask(key(3), false, 1, 10));
        queue.tick(11);
        assert!(queue.ask(key(3), false, 1, 11));
    }
}
