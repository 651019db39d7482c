//! Questions for the next state of a lock. Such a question says which state its asker knows, and waits
//! here until the lock has another one, or for a few seconds. So a watcher gets states and not changes:
//! what it misses between two questions is merged, a slow one costs no more than its one question, and
//! after a change of the leader or a split it asks whoever leads then.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use sharklock_locktable::Name;
use sharklock_proto::WATCH_WAITS_MAX;
use sharklock_rangemap::Bounds;

use crate::front::ReplyTo;

/// Questions of one range that may wait.
pub const WATCHES_MAX: usize = 16_384;

/// Names a question that waits: when it has waited for long enough, and a number.
pub type WatchKey = (Duration, u64);

/// A question that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// The way of the answer.
    pub to: ReplyTo,
    /// How much it is to show.
    pub shown_max: u32,
    /// The state that its asker knows.
    pub known: u64,
}

/// The questions of one range that wait, while its replica leads.
///
/// Invariants:
/// - `over` has the key of each of `waiting` once, and nothing else: a key is the time at which the
///   question has waited for long enough, and a number that was not used before;
/// - `changed` has only names for which somebody waits;
/// - no more than [`WATCHES_MAX`] wait.
#[derive(Debug, Default)]
pub struct Watches {
    waiting: BTreeMap<Name, BTreeMap<WatchKey, Watch>>,
    over: BTreeMap<WatchKey, Name>,
    changed: BTreeSet<Name>,
    next: u64,
}

impl Watches {
    /// Whether another question may wait.
    pub fn has_room(&self) -> bool {
        self.over.len() < WATCHES_MAX
    }

    /// A question waits from `now` on.
    pub fn wait(&mut self, now: Duration, name: Name, watch: Watch) {
        let key = (now + WATCH_WAITS_MAX, self.next);
        self.next += 1;
        self.over.insert(key, name.clone());
        self.waiting.entry(name).or_default().insert(key, watch);
    }

    /// A lock may have another state now.
    pub fn changed(&mut self, name: &Name) {
        if self.waiting.contains_key(name) {
            self.changed.insert(name.clone());
        }
    }

    /// The locks that have changed, and for which somebody waits.
    pub fn take_changed(&mut self) -> BTreeSet<Name> {
        std::mem::take(&mut self.changed)
    }

    /// Takes out the questions for a lock that `are_answered` now; the others wait on.
    pub fn take_answered(
        &mut self,
        name: &Name,
        mut are_answered: impl FnMut(&Watch) -> bool,
    ) -> Vec<Watch> {
        let Some(waiting) = self.waiting.get_mut(name) else { return Vec::new() };
        let taken: Vec<_> = waiting.extract_if(.., |_, watch| are_answered(watch)).collect();
        if waiting.is_empty() {
            self.waiting.remove(name);
        }
        for (key, _) in &taken {
            self.over.remove(key);
        }
        taken.into_iter().map(|(_, watch)| watch).collect()
    }

    /// Takes out the questions that have waited for long enough.
    pub fn take_over(&mut self, now: Duration) -> Vec<(Name, Watch)> {
        let mut taken = Vec::new();
        while let Some((key, name)) = self.over.pop_first() {
            if key.0 > now {
                self.over.insert(key, name);
                break;
            }
            let Some(waiting) = self.waiting.get_mut(&name) else { continue };
            let watch = waiting.remove(&key);
            if waiting.is_empty() {
                self.waiting.remove(&name);
                self.changed.remove(&name);
            }
            taken.extend(watch.map(|watch| (name, watch)));
        }
        taken
    }

    /// Takes out the questions for names outside the bounds.
    pub fn take_outside(&mut self, bounds: &Bounds) -> Vec<(Name, ReplyTo)> {
        let left = |name: &Name| !bounds.contains(name.as_str().as_bytes());
        self.over.retain(|_, name| !left(name));
        self.changed.retain(|name| !left(name));
        let gone = self.waiting.extract_if(.., |name, _| left(name));
        let each = |(name, watches): (Name, BTreeMap<WatchKey, Watch>)| {
            watches.into_values().map(move |watch| (name.clone(), watch.to)).collect::<Vec<_>>()
        };
        gone.flat_map(each).collect()
    }

    /// Takes out all of them.
    pub fn take_all(&mut self) -> Vec<ReplyTo> {
        let all = std::mem::take(self);
        all.waiting.into_values().flat_map(BTreeMap::into_values).map(|watch| watch.to).collect()
    }

    /// When the first has waited for long enough.
    pub fn next_alarm(&self) -> Option<Duration> {
        self.over.first_key_value().map(|((at, _), _)| *at)
    }
}

#[cfg(test)]
mod tests;
