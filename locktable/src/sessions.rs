//! Where every open acquisition stands, by session (D10). Derived from holds and waiters: not part
//! of the image or the hash.

use std::collections::BTreeMap;

use crate::{Acquisition, AcquisitionId, Instance, Name, SessionHandle, Token};

/// Where an open acquisition stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Open {
    pub(crate) name: Name,
    pub(crate) place: Place,
}

/// See [`Open`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// On the hold with this token.
    Held(Token),
    /// In the queue with this ticket.
    Waiting(u64),
    /// It gets the hold with this token when that ends.
    Reclaiming(Token),
}

/// Everything that one session has open.
pub(crate) type Session = BTreeMap<(Instance, AcquisitionId), Open>;

/// Invariants:
/// - an acquisition is here exactly while it waits, is open on a hold or reclaims one, and once
///   only;
/// - no session is empty (R1).
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Sessions {
    // By handles as numbers, of the same order: the comparisons of a look-up then stay inline.
    by_handle: BTreeMap<u128, Session>,
}

impl Sessions {
    /// What the session has open; nothing if it has nothing open.
    pub(crate) fn session(&self, handle: SessionHandle) -> Option<&Session> {
        self.by_handle.get(&number(handle))
    }

    pub(crate) fn get(&self, acquisition: Acquisition) -> Option<&Open> {
        self.session(acquisition.session)?.get(&(acquisition.instance, acquisition.id))
    }

    /// How many acquisitions the session has open.
    pub(crate) fn open_count(&self, session: SessionHandle) -> usize {
        self.session(session).map_or(0, BTreeMap::len)
    }

    /// Notes where the acquisition stands; gives back where it stood.
    pub(crate) fn insert(&mut self, acquisition: Acquisition, open: Open) -> Option<Open> {
        let session = self.by_handle.entry(number(acquisition.session)).or_default();
        session.insert((acquisition.instance, acquisition.id), open)
    }

    pub(crate) fn remove(&mut self, acquisition: Acquisition) {
        use std::collections::btree_map::Entry;
        let Entry::Occupied(mut slot) = self.by_handle.entry(number(acquisition.session)) else {
            return;
        };
        slot.get_mut().remove(&(acquisition.instance, acquisition.id));
        if slot.get().is_empty() {
            slot.remove();
        }
    }
}

/// The handle as a number of the same order.
pub(crate) fn number(handle: SessionHandle) -> u128 {
    u128::from_be_bytes(handle.0)
}
