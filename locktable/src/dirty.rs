//! Which rows of the image have changed since the last flush. The ring knows its own. A row that
//! came and went between two flushes leaves nothing to write: most locks are that short (D4).

use std::collections::BTreeMap;

use crate::Name;

/// How a row of memory relates to the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowState {
    /// Made by the command that is being applied.
    New,
    /// As in the image.
    Clean,
    /// Noted in [`Dirty`].
    Dirty,
}

/// Whether the image had the row at the last flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InImage {
    Yes,
    No,
}

/// Invariants:
/// - a lock or waiter is here exactly if its row differs from the image, but for locks that came
///   and went, which may be here with `InImage::No`.
#[derive(Debug, Default)]
pub(crate) struct Dirty {
    pub(crate) locks: BTreeMap<Name, InImage>,
    pub(crate) waiters: BTreeMap<(Name, u64), InImage>,
}

impl Dirty {
    /// Notes a lock. `in_image` counts only when it is not noted yet: a lock that was freed and
    /// made anew since the flush is new in memory and old in the image.
    pub(crate) fn lock(&mut self, name: &Name, in_image: InImage) {
        if !self.locks.contains_key(name) {
            self.locks.insert(name.clone(), in_image);
        }
    }

    pub(crate) fn waiter_came(&mut self, name: &Name, ticket: u64) {
        self.waiters.insert((name.clone(), ticket), InImage::No);
    }

    pub(crate) fn waiter_left(&mut self, name: &Name, ticket: u64) {
        let key = (name.clone(), ticket);
        if self.waiters.remove(&key).is_none() {
            self.waiters.insert(key, InImage::Yes);
        }
    }
}
