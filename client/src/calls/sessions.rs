//! An operator's calls about sessions, over all ranges.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    time::{Duration, SystemTime},
};

use sharklock_proto::v1::{self, admin_service_client::AdminServiceClient};

use super::{Repeat, check_words};
use crate::{client::Client, error::CallError, request::Holder, session::wire};

/// Locks or sessions asked for at a time.
const PAGE_SIZE: u32 = 1_000;

/// Which sessions are asked for: those that meet all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionsAsked {
    /// The owner contains this; every one does if it is empty.
    pub owner: String,
    /// The handle begins with these hex digits; every one does if it is empty.
    pub session_prefix: String,
}

/// What a session has open, over all ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionSummary {
    /// Its handle as hex. It tells sessions apart and opens nothing.
    pub session: String,
    /// The owner of an acquisition of the first range that has one; it may be empty.
    pub owner: String,
    /// The address that a gateway saw for that one.
    pub address: String,
    /// Live holds.
    pub holds_count: u64,
    /// Of those the ones that are ending.
    pub ending_count: u64,
    /// Of those the ones whose lease has ended, and which stay.
    pub orphans_count: u64,
    /// Acquisitions that wait.
    pub waiters_count: u64,
    /// When the oldest of these was granted or queued, by a leader's wall clock: for people, never for
    /// logic. None: not known.
    pub since: Option<SystemTime>,
}

/// A lock at which a session has something open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionLock {
    /// The lock.
    pub name: String,
    /// Its holds, at most 8.
    pub holds: Vec<Holder>,
    /// How many it has in all.
    pub holds_count: u32,
    /// Its acquisitions that wait, at most 8.
    pub waits: Vec<SessionWait>,
    /// How many it has in all.
    pub waits_count: u32,
}

/// An acquisition that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionWait {
    /// The acquisition.
    pub waiter: Holder,
    /// 1 is next.
    pub place: u32,
    /// It waits for the end of a hold of an older instance of its own session.
    pub reclaims: bool,
}

/// What a revocation has ended, or would end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionRevoked {
    /// Holds as they were, not necessarily all.
    pub holds: Vec<RevokedHold>,
    /// How many they are in all.
    pub holds_count: u64,
    /// Acquisitions that waited, and have left.
    pub waiters_count: u64,
    /// Ranges that were asked.
    pub ranges_count: u64,
}

/// A hold that was ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokedHold {
    /// The lock.
    pub name: String,
    /// The hold, as it was.
    pub holder: Holder,
    /// It has ended already. Otherwise it ends when its holder has stopped, or when its lease has run
    /// out at the latest.
    pub ended: bool,
}

/// The sessions of all ranges, by handle.
///
/// Invariant: each name was counted once for a session: what a range says of names up to `told` is
/// there, and what another one says of those again, after a split, is not.
#[derive(Debug, Default)]
struct Merged {
    by_handle: BTreeMap<String, Sum>,
}

#[derive(Debug)]
struct Sum {
    summary: SessionSummary,
    /// None: up to the end of all names.
    told: Option<String>,
}

impl Merged {
    fn take(&mut self, range: v1::SessionsOfRange) {
        let v1::SessionsOfRange { start, end, sessions, .. } = range;
        let told = (!end.is_empty()).then_some(end);
        for session in sessions {
            match self.by_handle.entry(session.session.clone()) {
                Entry::Vacant(slot) => {
                    slot.insert(Sum { summary: summary(session), told: told.clone() });
                }
                Entry::Occupied(mut slot) => {
                    let sum = slot.get_mut();
                    if sum.told.as_ref().is_some_and(|told| start >= *told) {
                        sum.summary.add(&summary(session));
                        sum.told.clone_from(&told);
                    }
                }
            }
        }
    }
}

impl SessionSummary {
    fn add(&mut self, other: &Self) {
        self.holds_count += other.holds_count;
        self.ending_count += other.ending_count;
        self.orphans_count += other.orphans_count;
        self.waiters_count += other.waiters_count;
        self.since = self.since.into_iter().chain(other.since).min();
    }
}

impl Client {
    /// Lists the sessions that hold or wait for something, in order of their handles. A session is there
    /// once, with what it has in all ranges. The list is no snapshot: it is made range by range.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn list_sessions(
        &self,
        asked: &SessionsAsked,
    ) -> Result<Vec<SessionSummary>, CallError> {
        let mut merged = Merged::default();
        let mut page_token = String::new();
        loop {
            let request = v1::ListSessionsRequest {
                owner: asked.owner.clone(),
                session_prefix: asked.session_prefix.clone(),
                page_size: PAGE_SIZE,
                page_token,
            };
            let page = self
                .calls()
                .read(request, |channel, request| async move {
                    AdminServiceClient::new(channel).list_sessions(request).await
                })
                .await?;
            page.ranges.into_iter().for_each(|range| merged.take(range));
            if page.next_page_token.is_empty() {
                return Ok(merged.by_handle.into_values().map(|sum| sum.summary).collect());
            }
            page_token = page.next_page_token;
        }
    }

    /// What one session holds and waits for, in byte order of the locks' names; nothing where it has
    /// nothing open, or never was. `session` is its handle, 32 hex digits.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn get_session(&self, session: &str) -> Result<Vec<SessionLock>, CallError> {
        let mut locks = Vec::new();
        let mut page_token = String::new();
        loop {
            let session = session.to_owned();
            let request = v1::GetSessionRequest { session, page_size: PAGE_SIZE, page_token };
            let page = self
                .calls()
                .read(request, |channel, request| async move {
                    AdminServiceClient::new(channel).get_session(request).await
                })
                .await?;
            locks.extend(page.locks.into_iter().map(session_lock));
            if page.next_page_token.is_empty() {
                return Ok(locks);
            }
            page_token = page.next_page_token;
        }
    }

    /// Says what [`revoke_session`](Self::revoke_session) would end.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn plan_revocation(&self, session: &str) -> Result<SessionRevoked, CallError> {
        self.revoke(session, "a dry run", "", true).await
    }

    /// Ends all that a session has open, against its client's will: its holds end when their holders
    /// have stopped, or when their leases have run out at the latest; what waits leaves at once.
    /// `session` is its handle, 32 hex digits; `reason` (1 to 1,024 bytes) is shown to its client.
    ///
    /// It is no ban: the client may acquire again at once. Asked again it is the same order.
    ///
    /// # Errors
    /// See [`CallError`]. Some ranges may have revoked it, and others not: ask again.
    pub async fn revoke_session(
        &self,
        session: &str,
        reason: &str,
        operator: &str,
    ) -> Result<SessionRevoked, CallError> {
        check_words("reason", "BAD_REASON", reason, 1..=1_024)?;
        check_words("operator", "BAD_OPERATOR", operator, 0..=256)?;
        self.revoke(session, reason, operator, false).await
    }

    async fn revoke(
        &self,
        session: &str,
        reason: &str,
        operator: &str,
        dry_run: bool,
    ) -> Result<SessionRevoked, CallError> {
        let mut revoked = SessionRevoked::default();
        let mut page_token = String::new();
        loop {
            let request = v1::RevokeSessionRequest {
                session: session.to_owned(),
                reason: reason.to_owned(),
                operator: operator.to_owned(),
                dry_run,
                page_token,
            };
            let revoke = |channel, request| async move {
                AdminServiceClient::new(channel).revoke_session(request).await
            };
            let page = self.calls().ask(request, Repeat::Freely, revoke).await?.response;
            revoked.holds.extend(page.holds.into_iter().map(revoked_hold));
            revoked.holds_count += page.holds_count;
            revoked.waiters_count += page.waiters_count;
            revoked.ranges_count += page.positions.len() as u64;
            if page.next_page_token.is_empty() {
                return Ok(revoked);
            }
            page_token = page.next_page_token;
        }
    }
}

fn summary(session: v1::SessionSummary) -> SessionSummary {
    let since = Duration::from_millis(session.since_unix_ms);
    SessionSummary {
        session: session.session,
        owner: session.owner_id,
        address: session.client_address,
        holds_count: session.holds_count.into(),
        ending_count: session.ending_count.into(),
        orphans_count: session.orphans_count.into(),
        waiters_count: session.waiters_count.into(),
        since: (session.since_unix_ms != 0).then(|| SystemTime::UNIX_EPOCH + since),
    }
}

fn session_lock(lock: v1::SessionLock) -> SessionLock {
    let wait = |wait: v1::SessionWait| SessionWait {
        waiter: wire::holder(wait.waiter.unwrap_or_default()),
        place: wait.place,
        reclaims: wait.reclaims,
    };
    SessionLock {
        name: lock.name,
        holds: lock.holds.into_iter().map(wire::holder).collect(),
        holds_count: lock.holds_count,
        waits: lock.waits.into_iter().map(wait).collect(),
        waits_count: lock.waits_count,
    }
}

fn revoked_hold(hold: v1::RevokedHold) -> RevokedHold {
    let holder = wire::holder(hold.holder.unwrap_or_default());
    RevokedHold { name: hold.name, holder, ended: hold.ended }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: &str, end: &str, holds: &[(&str, u32, u64)]) -> v1::SessionsOfRange {
        let session = |&(session, holds_count, since_unix_ms): &(&str, u32, u64)| {
            let session = session.to_owned();
            v1::SessionSummary { session, holds_count, since_unix_ms, ..Default::default() }
        };
        let sessions = holds.iter().map(session).collect();
        let (start, end) = (start.to_owned(), end.to_owned());
        v1::SessionsOfRange { position: None, start, end, sessions }
    }

    fn merged(ranges: Vec<v1::SessionsOfRange>) -> Vec<(String, u64, Option<SystemTime>)> {
        let mut merged = Merged::default();
        ranges.into_iter().for_each(|range| merged.take(range));
        let all = merged.by_handle.into_values().map(|sum| sum.summary);
        all.map(|it| (it.session, it.holds_count, it.since)).collect()
    }

    fn at(ms: u64) -> Option<SystemTime> {
        Some(SystemTime::UNIX_EPOCH + Duration::from_millis(ms))
    }

    #[test]
    fn a_session_of_several_ranges_is_one_with_the_oldest_of_all_times() {
        let ranges = vec![
            range("", "m", &[("a", 1, 700), ("b", 2, 0)]),
            range("m", "", &[("a", 3, 500), ("b", 1, 900)]),
        ];
        let want = [("a".to_owned(), 4, at(500)), ("b".to_owned(), 3, at(900))];
        assert_eq!(merged(ranges), want);
    }

    /// The range was asked in two parts, and has split between them.
    #[test]
    fn what_a_range_has_told_of_is_not_counted_again_when_its_upper_half_tells_of_it() {
        let ranges = vec![
            range("", "z", &[("a", 5, 1)]),
            range("", "m", &[("b", 1, 1)]),
            range("m", "z", &[("a", 2, 1), ("b", 1, 1)]),
            range("z", "", &[("a", 1, 1), ("b", 1, 1)]),
            range("zz", "", &[("a", 1, 1)]),
        ];
        let want = [("a".to_owned(), 6, at(1)), ("b".to_owned(), 3, at(1))];
        assert_eq!(merged(ranges), want);
    }
}
