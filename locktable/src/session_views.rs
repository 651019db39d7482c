//! Questions about sessions, which change nothing: for operators. A table knows of a session what it
//! has open in this range, and nothing of one that has nothing open here.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
};

use crate::{
    HoldView, LockTable, Name, Owner, Reclaimer, SessionHandle, Token, Wait, WaiterView,
    holds::Hold,
    sessions::{Open, Place, Session, number},
    views::waiter_view,
};

/// Acquisitions that one list of sessions counts, its first session aside: that one may have as many
/// as the limits of the table allow.
const COUNTED_MAX: usize = 4_096;
/// Sessions that one list looks at, whether they are in it or not.
const LOOKED_AT_MAX: usize = 16_384;

/// Which sessions are asked for.
#[derive(Clone, Debug, Default)]
pub struct SessionsAsked {
    /// Only those with a larger handle.
    pub after: Option<SessionHandle>,
    /// Only those whose handle, as hex, begins with this: lower-case digits, at most 32.
    pub prefix: String,
    /// Only those whose owner's id contains this.
    pub owner: String,
    /// At most so many, at least one.
    pub sessions_max: usize,
}

/// What one session has open in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionView {
    /// The session.
    pub session: SessionHandle,
    /// The owner, as the acquisition said that came first.
    pub owner: Arc<Owner>,
    /// Live holds; several acquisitions on one hold count once.
    pub holds: u32,
    /// Of those the ones that are ending.
    pub ending: u32,
    /// Of those the ones without a lease.
    pub orphans: u32,
    /// Acquisitions that wait, those that reclaim among them.
    pub waiters: u32,
    /// When the oldest of these was granted or queued, for people. None: only reclaims are there, of
    /// which nobody notes it.
    pub since_unix_ms: Option<u64>,
}

/// A lock at which a session has something open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionLockView {
    /// The lock.
    pub name: Name,
    /// The session's holds in order of their tokens, as many as were asked for.
    pub holds: Vec<HoldView>,
    /// How many it has in all.
    pub holds_count: usize,
    /// Its acquisitions that wait, as many as were asked for: in order of the queue, then those that
    /// reclaim.
    pub waits: Vec<SessionWaitView>,
    /// How many it has in all.
    pub waits_count: usize,
}

/// An acquisition of a session that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionWaitView {
    /// The acquisition. Of one that reclaims nobody notes since when it waits: that is 0.
    pub waiter: WaiterView,
    /// 1 is next.
    pub place: u32,
    /// It waits for the end of this hold, of an older instance of its session, and gets it then.
    pub reclaims: Option<Token>,
}

impl LockTable {
    /// Whether the session has anything open here.
    pub fn has_session(&self, session: SessionHandle) -> bool {
        self.ledger.sessions.session(session).is_some()
    }

    /// Sessions in order of their handles. If there may be more of them: the last one that was looked
    /// at, behind which the next list begins.
    pub fn sessions(&self, asked: &SessionsAsked) -> (Vec<SessionView>, Option<SessionHandle>) {
        let mut views = Vec::new();
        let (mut looked_at, mut counted) = (0, 0);
        let mut before = None;
        for (handle, session) in self.ledger.sessions.from(asked.after, &asked.prefix) {
            let is_full = views.len() >= asked.sessions_max.max(1);
            if is_full || looked_at >= LOOKED_AT_MAX || counted >= COUNTED_MAX {
                return (views, before);
            }
            before = Some(handle);
            looked_at += 1;
            if session.owner().id.contains(&asked.owner) {
                counted += session.len();
                views.push(self.session_view(handle, session));
            }
        }
        (views, None)
    }

    /// The locks at which the session has something open, in byte order of their names: from `from` on,
    /// at most so many, and of each at most `shown_max` holds and as many that wait.
    pub fn session_locks(
        &self,
        session: SessionHandle,
        from: &str,
        locks_max: usize,
        shown_max: usize,
    ) -> Vec<SessionLockView> {
        let open = self.ledger.sessions.session(session).into_iter().flat_map(Session::iter);
        let mut by_name = BTreeMap::<&Name, BTreeSet<Place>>::new();
        for (_, Open { name, place }) in open {
            if name.as_str() >= from {
                by_name.entry(name).or_default().insert(*place);
            }
        }
        let locks = by_name.into_iter().take(locks_max);
        locks.map(|(name, places)| self.session_lock(name, &places, shown_max)).collect()
    }

    fn session_lock(
        &self,
        name: &Name,
        places: &BTreeSet<Place>,
        shown_max: usize,
    ) -> SessionLockView {
        let lock = self.locks.get(name).expect("something is open there");
        let is_held = |place: &Place| matches!(place, Place::Held(_));
        let holds_count = places.iter().filter(|place| is_held(place)).count();
        let mut view = SessionLockView {
            name: name.clone(),
            holds: Vec::new(),
            holds_count,
            waits: Vec::new(),
            waits_count: places.len() - holds_count,
        };
        for place in places {
            match *place {
                Place::Held(token) if view.holds.len() < shown_max => {
                    view.holds.extend(lock.holds.get(token).map(|hold| lock.view_of(&hold.row)));
                }
                Place::Waiting(ticket) if view.waits.len() < shown_max => {
                    let waiter = lock.queue.get(ticket).zip(lock.queue.place(ticket));
                    view.waits.extend(waiter.map(|(waiter, place)| {
                        let waiter = waiter_view(&waiter.row);
                        SessionWaitView { waiter, place, reclaims: None }
                    }));
                }
                Place::Reclaiming(token) if view.waits.len() < shown_max => {
                    let hold = lock.holds.get(token);
                    view.waits.extend(hold.and_then(reclaiming));
                }
                Place::Held(_) | Place::Waiting(_) | Place::Reclaiming(_) => {}
            }
        }
        view
    }

    fn session_view(&self, handle: SessionHandle, session: &Session) -> SessionView {
        let mut view = SessionView {
            session: handle,
            owner: session.owner().clone(),
            holds: 0,
            ending: 0,
            orphans: 0,
            waiters: 0,
            since_unix_ms: None,
        };
        let mut note = |since: u64| match &mut view.since_unix_ms {
            Some(oldest) => *oldest = since.min(*oldest),
            none => *none = Some(since),
        };
        for (&(_, id), Open { name, place }) in session.iter() {
            let Some(lock) = self.locks.get(name) else { continue };
            match *place {
                Place::Held(token) => {
                    // One of those that are open on it stands for the hold.
                    let hold = lock.holds.get(token).filter(|hold| hold.row.open_ids[0] == id);
                    let Some(Hold { row, .. }) = hold else { continue };
                    view.holds += 1;
                    view.ending += u32::from(row.ending().is_some());
                    view.orphans += u32::from(row.is_orphan());
                    note(row.granted_unix_ms);
                }
                Place::Waiting(ticket) => {
                    view.waiters += 1;
                    if let Some(waiter) = lock.queue.get(ticket) {
                        note(waiter.row.queued_unix_ms);
                    }
                }
                Place::Reclaiming(_) => view.waiters += 1,
            }
        }
        view
    }
}

/// The bounds of the handles that follow `after` and begin with these hex digits.
pub(crate) fn bounds_of(after: Option<SessionHandle>, prefix: &str) -> (Bound<u128>, Bound<u128>) {
    let whole =
        |fill: &str| format!("{prefix}{}", fill.repeat(32_usize.saturating_sub(prefix.len())));
    let read = |fill: &str| u128::from_str_radix(&whole(fill), 16);
    // What is no such prefix begins no handle.
    let (Ok(first), Ok(last)) = (read("0"), read("f")) else {
        return (Bound::Included(0), Bound::Excluded(0));
    };
    match after.map(number) {
        Some(after) if after >= last => (Bound::Included(0), Bound::Excluded(0)),
        Some(after) if after >= first => (Bound::Excluded(after), Bound::Included(last)),
        _ => (Bound::Included(first), Bound::Included(last)),
    }
}

/// Before everybody in the queue.
fn reclaiming(hold: &Hold) -> Option<SessionWaitView> {
    let Reclaimer { acquisition, owner } = hold.row.reclaimer()?;
    let waiter = WaiterView {
        acquisition: *acquisition,
        mode: hold.row.mode,
        ttl_ms: hold.row.ttl_ms,
        wait: Wait::Unbounded,
        owner: owner.clone(),
        queued_unix_ms: 0,
        condition: hold.row.extras().condition,
        // It takes over the hold's.
        arrival: hold.row.arrival,
    };
    Some(SessionWaitView { waiter, place: 1, reclaims: Some(hold.row.token) })
}

#[cfg(test)]
mod tests;
