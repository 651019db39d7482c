//! Which rows of the image have changed since the last flush. The ring knows its own. A row that
//! came and went between two flushes leaves nothing to write: most locks are that short (D4).

use std::{collections::BTreeMap, num::NonZeroU32};

use crate::{Name, RowKey, Token};

/// How the row of a live hold relates to the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowState {
    /// As in the image.
    Clean,
    /// Noted in [`Dirty`], there.
    Dirty(Slot),
}

/// A place in [`Dirty`], counted from 1: a hold then has room for none of them in the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot(NonZeroU32);

impl Slot {
    fn at(index: usize) -> Self {
        let number = u32::try_from(index + 1).ok().and_then(NonZeroU32::new);
        Self(number.expect("a table that large is split long before"))
    }

    fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// Whether the image had the row at the last flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InImage {
    Yes,
    No,
}

/// A hold whose row differs from the image.
#[derive(Debug)]
pub(crate) struct DirtyHold {
    pub(crate) name: Name,
    pub(crate) token: Token,
    pub(crate) in_image: InImage,
}

/// Holds are in slots, which they know, so that marking one looks nothing up.
///
/// Invariants:
/// - a live hold has a slot exactly if its row differs from the image;
/// - an ended hold has one exactly if the image has its row;
/// - a waiter is here exactly if it came, or left and is in the image;
/// - a fence floor or a delay likewise. A floor that left the image and came again is one that is
///   in the image.
#[derive(Debug, Default)]
pub(crate) struct Dirty {
    holds: Vec<Option<DirtyHold>>,
    vacant: Vec<Slot>,
    waiters: BTreeMap<u64, (Name, InImage)>,
    /// Fence floors and delays, which most locks never have.
    others: BTreeMap<RowKey, InImage>,
}

impl Dirty {
    /// Notes a hold that the image does not have.
    pub(crate) fn hold_came(&mut self, name: &Name, token: Token) -> RowState {
        RowState::Dirty(self.note_hold(name, token, InImage::No))
    }

    /// Notes that the row of a live hold, which was in this state, differs from the image.
    pub(crate) fn hold_changed(&mut self, name: &Name, token: Token, was: RowState) -> RowState {
        match was {
            RowState::Clean => RowState::Dirty(self.note_hold(name, token, InImage::Yes)),
            RowState::Dirty(_) => was,
        }
    }

    /// Notes that a hold, whose row was in this state, has ended.
    pub(crate) fn hold_left(&mut self, name: &Name, token: Token, was: RowState) {
        let RowState::Dirty(slot) = was else {
            self.note_hold(name, token, InImage::Yes);
            return;
        };
        let hold = &mut self.holds[slot.index()];
        if hold.as_ref().is_some_and(|hold| hold.in_image == InImage::No) {
            *hold = None;
            self.vacant.push(slot);
        }
    }

    fn note_hold(&mut self, name: &Name, token: Token, in_image: InImage) -> Slot {
        let hold = Some(DirtyHold { name: name.clone(), token, in_image });
        let Some(slot) = self.vacant.pop() else {
            self.holds.push(hold);
            return Slot::at(self.holds.len() - 1);
        };
        self.holds[slot.index()] = hold;
        slot
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

    pub(crate) fn floor_came(&mut self, name: &Name) {
        self.other_came(RowKey::Lock(name.clone()));
    }

    pub(crate) fn floor_left(&mut self, name: &Name) {
        self.other_left(RowKey::Lock(name.clone()));
    }

    pub(crate) fn delay_came(&mut self, name: &Name, token: Token) {
        self.other_came(RowKey::Delay(name.clone(), token));
    }

    pub(crate) fn delay_left(&mut self, name: &Name, token: Token) {
        self.other_left(RowKey::Delay(name.clone(), token));
    }

    fn other_came(&mut self, key: RowKey) {
        self.others.entry(key).or_insert(InImage::No);
    }

    fn other_left(&mut self, key: RowKey) {
        if self.others.get(&key) == Some(&InImage::No) {
            self.others.remove(&key);
        } else {
            self.others.insert(key, InImage::Yes);
        }
    }

    pub(crate) fn holds(&self) -> impl Iterator<Item = (Slot, &DirtyHold)> {
        let slots = self.holds.iter().enumerate();
        slots.filter_map(|(slot, hold)| hold.as_ref().map(|hold| (Slot::at(slot), hold)))
    }

    pub(crate) fn len(&self) -> usize {
        self.holds.len() - self.vacant.len() + self.waiters.len() + self.others.len()
    }

    /// Tickets, with their locks.
    pub(crate) fn waiters(&self) -> impl Iterator<Item = (u64, &Name, InImage)> {
        self.waiters.iter().map(|(&ticket, (name, in_image))| (ticket, name, *in_image))
    }

    /// Fence floors and delays.
    pub(crate) fn others(&self) -> impl Iterator<Item = (&RowKey, InImage)> {
        self.others.iter().map(|(key, &in_image)| (key, in_image))
    }
}
