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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// On the hold with this token.
    Held(Token),
    /// In the queue with this ticket.
    Waiting(u64),
}

/// Invariants:
/// - an acquisition is here exactly while it waits or is open on a hold, and once only;
/// - no session is empty (R1).
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Sessions {
    by_handle: BTreeMap<SessionHandle, BTreeMap<(Instance, AcquisitionId), Open>>,
}

impl Sessions {
    pub(crate) fn get(&self, acquisition: Acquisition) -> Option<&Open> {
        let session = self.by_handle.get(&acquisition.session)?;
        session.get(&(acquisition.instance, acquisition.id))
    }

    /// How many acquisitions the session has open.
    pub(crate) fn open_count(&self, session: SessionHandle) -> usize {
        self.by_handle.get(&session).map_or(0, BTreeMap::len)
    }

    /// Notes where the acquisition stands; gives back where it stood.
    pub(crate) fn insert(&mut self, acquisition: Acquisition, open: Open) -> Option<Open> {
        let session = self.by_handle.entry(acquisition.session).or_default();
        session.insert((acquisition.instance, acquisition.id), open)
    }

    pub(crate) fn remove(&mut self, acquisition: Acquisition) {
        let Some(session) = self.by_handle.get_mut(&acquisition.session) else { return };
        session.remove(&(acquisition.instance, acquisition.id));
        if session.is_empty() {
            self.by_handle.remove(&acquisition.session);
        }
    }
}
