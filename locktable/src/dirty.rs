//! Which rows of the image have changed since the last flush. The ring knows its own. A row that
//! came and went between two flushes leaves nothing to write: most locks are that short (D4).

use std::collections::BTreeMap;

use crate::Name;

/// How the row of a live lock relates to the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowState {
    /// Made by the command that is being applied.
    New,
    /// As in the image.
    Clean,
    /// Noted in [`Dirty`], there.
    Dirty(Slot),
}

/// A place in [`Dirty`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot(u32);

impl Slot {
    fn at(index: usize) -> Self {
        Self(u32::try_from(index).expect("a table that large is split long before"))
    }

    fn index(self) -> usize {
        self.0 as usize
    }
}

/// Whether the image had the row at the last flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InImage {
    Yes,
    No,
}

/// A lock whose row differs from the image.
#[derive(Debug)]
pub(crate) struct DirtyLock {
    pub(crate) name: Name,
    pub(crate) in_image: InImage,
}

/// Locks are in slots, which they know, so that marking one looks nothing up.
///
/// Invariants:
/// - a live lock has a slot exactly if its row differs from the image;
/// - a freed lock has one exactly if the image has its row. If a lock of that name was made anew
///   since, that one has a slot of its own, with `InImage::No`;
/// - a waiter is here exactly if it came, or left and is in the image.
#[derive(Debug, Default)]
pub(crate) struct Dirty {
    locks: Vec<Option<DirtyLock>>,
    vacant: Vec<Slot>,
    waiters: BTreeMap<u64, (Name, InImage)>,
}

impl Dirty {
    /// Notes that the row of a live lock differs from the image.
    pub(crate) fn lock_changed(&mut self, name: &Name, in_image: InImage) -> Slot {
        let lock = Some(DirtyLock { name: name.clone(), in_image });
        let Some(slot) = self.vacant.pop() else {
            self.locks.push(lock);
            return Slot::at(self.locks.len() - 1);
        };
        self.locks[slot.index()] = lock;
        slot
    }

    /// Notes that the lock in this slot is free.
    pub(crate) fn lock_freed(&mut self, slot: Slot) {
        let lock = &mut self.locks[slot.index()];
        if lock.as_ref().is_some_and(|lock| lock.in_image == InImage::No) {
            *lock = None;
            self.vacant.push(slot);
        }
    }

    pub(crate) fn waiter_came(&mut self, name: &Name, ticket: u64) {
        self.waiters.insert(ticket, (name.clone(), InImage::No));
    }

    pub(crate) fn waiter_left(&mut self, name: &Name, ticket: u64) {
        // One that came since the flush is simply forgotten again.
        if self.waiters.remove(&ticket).is_none() {
            self.waiters.insert(ticket, (name.clone(), InImage::Yes));
        }
    }

    pub(crate) fn locks(&self) -> impl Iterator<Item = (Slot, &DirtyLock)> {
        let slots = self.locks.iter().enumerate();
        slots.filter_map(|(slot, lock)| lock.as_ref().map(|lock| (Slot::at(slot), lock)))
    }

    /// Tickets, with their locks.
    pub(crate) fn waiters(&self) -> impl Iterator<Item = (u64, &Name, InImage)> {
        self.waiters.iter().map(|(&ticket, (name, in_image))| (ticket, name, *in_image))
    }
}
