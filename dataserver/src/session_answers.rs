//! What operators hear of sessions: the answers of one range, from its table at one index.

use sharklock_locktable::{
    Change, HoldView, Name, Reply, SessionHandle, SessionLockView, SessionView, SessionWaitView,
    SessionsAsked,
};
use sharklock_proto::{
    internal::v1 as internal,
    v1::{self, RevokedHold},
};

use crate::{
    answers::{ANSWER_BYTES_MAX, Answers, HOLDERS_SHOWN, has_ended, within_budget},
    lease_clock::LeaseClock,
    reads::SHOWN_MAX,
};

impl Answers<'_> {
    /// Sessions in order of their handles. What does not fit is left to the next answer.
    pub fn sessions(
        &self,
        after: Option<SessionHandle>,
        request: &internal::ListRangeSessions,
    ) -> internal::RangeSessions {
        let asked = SessionsAsked {
            after,
            prefix: request.session_prefix.clone(),
            owner: request.owner.clone(),
            sessions_max: request.sessions_max.clamp(1, SHOWN_MAX) as usize,
        };
        let (views, next) = self.table.sessions(&asked);
        let handles: Vec<_> = views.iter().map(|view| view.session).collect();
        let bytes_max = (request.bytes_max as usize).min(ANSWER_BYTES_MAX);
        let sessions = within_budget(views.into_iter().map(summary), bytes_max);
        let next = match sessions.len() {
            shown if shown < handles.len() => handles[..shown].last().copied(),
            _ => next,
        };
        internal::RangeSessions {
            position: Some(self.position),
            sessions,
            next: next.map(|next| next.0.to_vec().into()).unwrap_or_default(),
            end: self.end(),
        }
    }

    /// What one session has open here, from a name on.
    pub fn session(
        &self,
        session: SessionHandle,
        request: &internal::GetRangeSession,
        clock: &LeaseClock,
    ) -> internal::RangeSession {
        let locks_max = request.locks_max.clamp(1, SHOWN_MAX) as usize;
        let bytes_max = (request.bytes_max as usize).min(ANSWER_BYTES_MAX);
        // One more shows whether there is more.
        let views = self.table.session_locks(session, &request.from, locks_max + 1, HOLDERS_SHOWN);
        let found = views.len();
        let views = views.into_iter().take(locks_max);
        let locks = within_budget(views.map(|view| self.session_lock(view, clock)), bytes_max);
        let has_more = locks.len() < found;
        internal::RangeSession { position: Some(self.position), locks, has_more, end: self.end() }
    }

    /// What a revocation would end.
    pub fn would_revoke(
        &self,
        session: SessionHandle,
        request: &internal::RevokeRangeSession,
        clock: &LeaseClock,
    ) -> internal::RangeRevoked {
        let locks = self.table.session_locks(session, "", usize::MAX, usize::MAX);
        let waiters_count = count(locks.iter().map(|lock| lock.waits_count).sum());
        let holds = locks
            .into_iter()
            .flat_map(|lock| lock.holds.into_iter().map(move |hold| (lock.name.clone(), hold)));
        let holds: Vec<_> = holds.collect();
        let bytes_max = request.bytes_max as usize;
        // Of a plan nothing has ended.
        internal::RangeRevoked {
            waiters_count,
            ..self.revoked_holds(holds, &[], bytes_max, Some(clock))
        }
    }

    /// What a revocation has ended.
    pub fn revoked(
        &self,
        reply: Reply,
        changes: &[Change],
        bytes_max: usize,
        clock: Option<&LeaseClock>,
    ) -> internal::RangeRevoked {
        let Reply::Revoked { holds, waiters } = reply else {
            unreachable!("apply does not answer a revocation with {reply:?}")
        };
        internal::RangeRevoked {
            waiters_count: waiters,
            ..self.revoked_holds(holds, changes, bytes_max, clock)
        }
    }

    /// The session had nothing open here.
    pub fn nothing_revoked(&self) -> internal::RangeRevoked {
        self.revoked_holds(Vec::new(), &[], 0, None)
    }

    fn revoked_holds(
        &self,
        holds: Vec<(Name, HoldView)>,
        changes: &[Change],
        bytes_max: usize,
        clock: Option<&LeaseClock>,
    ) -> internal::RangeRevoked {
        let holds_count = count(holds.len());
        let holds = holds.into_iter().map(|(name, hold)| RevokedHold {
            name: name.as_str().to_owned(),
            ended: has_ended(hold.grant.token, changes),
            holder: Some(self.holder(hold, clock)),
        });
        internal::RangeRevoked {
            position: Some(self.position),
            holds: within_budget(holds, bytes_max.min(ANSWER_BYTES_MAX)),
            holds_count,
            waiters_count: 0,
            end: self.end(),
        }
    }

    fn session_lock(&self, view: SessionLockView, clock: &LeaseClock) -> v1::SessionLock {
        let holds = view.holds.into_iter().map(|hold| self.holder(hold, Some(clock)));
        let waits = view.waits.into_iter().map(|wait| self.session_wait(wait, clock));
        v1::SessionLock {
            name: view.name.as_str().to_owned(),
            holds: holds.collect(),
            holds_count: count(view.holds_count),
            waits: waits.collect(),
            waits_count: count(view.waits_count),
        }
    }

    fn session_wait(&self, wait: SessionWaitView, clock: &LeaseClock) -> v1::SessionWait {
        let waiter = Some(self.waiter(wait.waiter, Some(clock)));
        let reclaims = wait.reclaims.is_some();
        v1::SessionWait { waiter, place: wait.place, reclaims }
    }
}

fn summary(view: SessionView) -> v1::SessionSummary {
    v1::SessionSummary {
        session: view.session.to_string(),
        owner_id: view.owner.id.clone(),
        client_address: view.owner.address.clone(),
        holds_count: view.holds,
        ending_count: view.ending,
        orphans_count: view.orphans,
        waiters_count: view.waiters,
        since_unix_ms: view.since_unix_ms.unwrap_or_default(),
    }
}

fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
