//! The place of every open acquisition, by session (D10). Derived from holds and waiters: not part
//! of the image or the hash.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use crate::{
    Acquisition, AcquisitionId, Ascending, HoldRow, Instance, Name, Owner, SessionHandle, Token,
    session_views::bounds_of,
};

/// The place of an open acquisition.
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
#[derive(Debug)]
pub(crate) struct Session {
    /// As the acquisition said that came first: what others say alike shares it.
    owner: Arc<Owner>,
    all_open: AllOpen,
}

/// Most sessions have one thing at a time, for which a tree of its own would cost more than the lock.
#[derive(Debug)]
enum AllOpen {
    One(Key, Open),
    // Ids ascend.
    Many(Ascending<Key, Open>),
}

/// Names an acquisition within its session.
type Key = (Instance, AcquisitionId);

impl Session {
    pub(crate) fn get(&self, key: Key) -> Option<&Open> {
        match &self.all_open {
            AllOpen::One(only, open) => (*only == key).then_some(open),
            AllOpen::Many(all) => all.get(&key),
        }
    }

    /// What it has open under names below `at`, and what from there on.
    fn split(self, at: &str) -> [Option<Self>; 2] {
        let Self { owner, all_open } = self;
        let is_lower = |open: &Open| open.name.as_str() < at;
        let halves = match all_open {
            AllOpen::One(key, open) if is_lower(&open) => [Some(AllOpen::One(key, open)), None],
            AllOpen::One(key, open) => [None, Some(AllOpen::One(key, open))],
            AllOpen::Many(all) => {
                let (lower, upper): (Vec<_>, Vec<_>) =
                    all.into_iter().partition(|(_, open)| is_lower(open));
                [lower, upper].map(|half| {
                    let is_some = !half.is_empty();
                    is_some.then(|| AllOpen::Many(half.into_iter().collect()))
                })
            }
        };
        halves.map(|half| Some(Self { owner: owner.clone(), all_open: half? }))
    }

    /// As the acquisition said that came first.
    pub(crate) fn owner(&self) -> &Arc<Owner> {
        &self.owner
    }

    pub(crate) fn len(&self) -> usize {
        match &self.all_open {
            AllOpen::One(..) => 1,
            AllOpen::Many(all) => all.len(),
        }
    }

    /// In order of instances and ids.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Key, &Open)> {
        let (only, all) = match &self.all_open {
            AllOpen::One(key, open) => (Some((key, open)), None),
            AllOpen::Many(all) => (None, Some(all)),
        };
        only.into_iter().chain(all.into_iter().flat_map(Ascending::iter))
    }
}

impl AllOpen {
    fn insert(&mut self, key: Key, open: Open) -> Option<Open> {
        match self {
            Self::One(only, stood) if *only == key => Some(std::mem::replace(stood, open)),
            Self::One(only, stood) => {
                let first = (*only, stood.clone());
                *self = Self::Many([first, (key, open)].into_iter().collect());
                None
            }
            Self::Many(all) => all.insert(key, open),
        }
    }

    /// Whether nothing is left.
    fn remove(&mut self, key: Key) -> bool {
        match self {
            Self::One(only, _) => *only == key,
            // A tree of one is not turned back: it would be grown anew a moment later.
            Self::Many(all) => {
                all.remove(&key);
                all.is_empty()
            }
        }
    }
}

impl PartialEq for Session {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

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
    /// The open acquisitions of a session; `None` if it has none.
    pub(crate) fn session(&self, handle: SessionHandle) -> Option<&Session> {
        self.by_handle.get(&number(handle))
    }

    /// The sessions whose handles follow `after` and begin with these hex digits, in order.
    pub(crate) fn from(
        &self,
        after: Option<SessionHandle>,
        prefix: &str,
    ) -> impl Iterator<Item = (SessionHandle, &Session)> {
        let sessions = self.by_handle.range(bounds_of(after, prefix));
        sessions.map(|(handle, session)| (SessionHandle(handle.to_be_bytes()), session))
    }

    pub(crate) fn get(&self, acquisition: Acquisition) -> Option<&Open> {
        self.session(acquisition.session)?.get((acquisition.instance, acquisition.id))
    }

    /// How many acquisitions the session has open.
    pub(crate) fn open_count(&self, session: SessionHandle) -> usize {
        self.session(session).map_or(0, Session::len)
    }

    /// Notes where the acquisition stands, and for whom; gives back where it stood.
    pub(crate) fn insert(
        &mut self,
        acquisition: Acquisition,
        owner: &Arc<Owner>,
        open: Open,
    ) -> Option<Open> {
        let key = (acquisition.instance, acquisition.id);
        match self.by_handle.entry(number(acquisition.session)) {
            Entry::Occupied(mut slot) => slot.get_mut().all_open.insert(key, open),
            Entry::Vacant(slot) => {
                let (owner, all_open) = (owner.clone(), AllOpen::One(key, open));
                slot.insert(Session { owner, all_open });
                None
            }
        }
    }

    /// The owner, in the memory of the session's others if they say the same.
    pub(crate) fn share(&self, session: SessionHandle, owner: Owner) -> Arc<Owner> {
        let shared = self.session(session).map(|session| &session.owner);
        shared.filter(|shared| ***shared == owner).cloned().unwrap_or_else(|| owner.into())
    }

    /// As [`Sessions::share`], of an owner that is in memory already.
    pub(crate) fn share_again(&self, session: SessionHandle, owner: Arc<Owner>) -> Arc<Owner> {
        let shared = self.session(session).map(|session| &session.owner);
        shared.filter(|shared| **shared == owner).cloned().unwrap_or(owner)
    }

    /// As [`Sessions::share`], for a hold that had the owner `before`. If nobody else has that one, it is
    /// not kept for others to share: memory that no hold has is not counted.
    pub(crate) fn share_instead(
        &mut self,
        session: SessionHandle,
        before: &Arc<Owner>,
        owner: Owner,
    ) -> Arc<Owner> {
        let owner = self.share(session, owner);
        if let Some(session) = self.by_handle.get_mut(&number(session))
            && Arc::ptr_eq(&session.owner, before)
            && Arc::strong_count(before) == 2
        {
            session.owner = owner.clone();
        }
        owner
    }

    /// Takes out what is open under names from `at` on. Trees are built anew, which for half of all is
    /// much less than to take each out by itself.
    pub(crate) fn split_off(&mut self, at: &str) -> Self {
        let (mut lower, mut upper) = (Vec::new(), Vec::new());
        for (handle, session) in std::mem::take(&mut self.by_handle) {
            let [below, above] = session.split(at);
            lower.extend(below.map(|it| (handle, it)));
            upper.extend(above.map(|it| (handle, it)));
        }
        self.by_handle = lower.into_iter().collect();
        Self { by_handle: upper.into_iter().collect() }
    }

    pub(crate) fn remove(&mut self, acquisition: Acquisition) {
        let Entry::Occupied(mut slot) = self.by_handle.entry(number(acquisition.session)) else {
            return;
        };
        if slot.get_mut().all_open.remove((acquisition.instance, acquisition.id)) {
            slot.remove();
        }
    }
}

/// The places of a hold's acquisitions, each with its owner: those open on it, and its reclaimer.
pub(crate) fn places_on(hold: &HoldRow) -> impl Iterator<Item = (Acquisition, &Arc<Owner>, Place)> {
    let held = hold.acquisitions().into_iter();
    let held = held.map(|acquisition| (acquisition, &hold.owner, Place::Held(hold.token)));
    let reclaimer = hold
        .reclaimer()
        .map(|reclaimer| (reclaimer.acquisition, &reclaimer.owner, Place::Reclaiming(hold.token)));
    held.chain(reclaimer)
}

/// The handle as a number of the same order.
pub(crate) fn number(handle: SessionHandle) -> u128 {
    u128::from_be_bytes(handle.0)
}
