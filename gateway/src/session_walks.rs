//! The walks of operators' calls about sessions: what ranges are asked, and the page that their answers
//! make. They send nothing and wait for nothing, as a [`Listing`](crate::listing::Listing).

use bytes::Bytes;
use prost::Message as _;
use sharklock_proto::{
    internal::v1::{
        GetRangeSession, ListRangeSessions, RangeRevoked, RangeSession, RangeSessions,
        RevokeRangeSession,
    },
    v1::{
        GetSessionResponse, ListSessionsResponse, RevokeSessionResponse, SessionSummary,
        SessionsOfRange,
    },
};

use crate::{
    failure::Failure,
    listing::behind_name,
    port::bad_answer,
    walk::{Place, Step, Walk},
};

/// A page of sessions, range by range.
#[derive(Clone, Debug)]
pub struct SessionList {
    pub(crate) walk: Walk,
    /// Only those whose handles begin with these digits.
    pub(crate) session_prefix: String,
    /// Only those whose owner's id contains this.
    pub(crate) owner: String,
    pub(crate) page: ListSessionsResponse,
}

/// A page of what one session has open.
#[derive(Clone, Debug)]
pub struct SessionLook {
    pub(crate) walk: Walk,
    pub(crate) handle: Bytes,
    pub(crate) page: GetSessionResponse,
}

/// A revocation, as far as one call carries it.
#[derive(Clone, Debug)]
pub struct Revocation {
    pub(crate) walk: Walk,
    pub(crate) handle: Bytes,
    pub(crate) reason: String,
    pub(crate) operator: String,
    pub(crate) dry_run: bool,
    pub(crate) page: RevokeSessionResponse,
}

impl SessionList {
    /// See [`Walk::round`].
    pub fn round(
        &mut self,
        behind: impl FnOnce(&str, usize) -> Vec<String>,
    ) -> Vec<ListRangeSessions> {
        let question = |step: Step| ListRangeSessions {
            from: step.at.from,
            after: step.at.after,
            session_prefix: self.session_prefix.clone(),
            owner: self.owner.clone(),
            sessions_max: step.rows_max,
            bytes_max: step.bytes_max,
        };
        self.walk.round(behind).into_iter().map(question).collect()
    }

    /// The answer to a question of the last round. False: it does not join on to what the page has, or
    /// has no room in it.
    ///
    /// # Errors
    /// It is no answer to the question.
    pub fn take(
        &mut self,
        asked: &ListRangeSessions,
        part: RangeSessions,
    ) -> Result<bool, Failure> {
        let at = Place { from: asked.from.clone(), after: asked.after.clone() };
        if !self.walk.joins(&at) {
            return Ok(false);
        }
        let RangeSessions { position, sessions, next, end } = part;
        let behind = Place::behind(&at.from, end.clone()).ok_or_else(bad_answer)?;
        let goes_on = next.is_empty() || next > at.after;
        if sessions.len() > asked.sessions_max as usize || !goes_on {
            return Err(bad_answer());
        }
        let to = if next.is_empty() { behind } else { Some(Place { after: next, ..at.clone() }) };
        let bytes = sessions.iter().map(SessionSummary::encoded_len).sum();
        self.walk.goes_to(to, sessions.len(), bytes);
        if !sessions.is_empty() {
            self.page.ranges.push(SessionsOfRange { position, start: at.from, end, sessions });
        }
        Ok(true)
    }

    /// The page as it is.
    pub fn into_page(self) -> ListSessionsResponse {
        ListSessionsResponse { next_page_token: self.walk.token(), ..self.page }
    }
}

impl SessionLook {
    /// See [`Walk::round`].
    pub fn round(
        &mut self,
        behind: impl FnOnce(&str, usize) -> Vec<String>,
    ) -> Vec<GetRangeSession> {
        let question = |step: Step| GetRangeSession {
            session: self.handle.clone(),
            from: step.at.from,
            locks_max: step.rows_max,
            bytes_max: step.bytes_max,
        };
        self.walk.round(behind).into_iter().map(question).collect()
    }

    /// As [`SessionList::take`].
    ///
    /// # Errors
    /// It is no answer to the question.
    pub fn take(&mut self, asked: &GetRangeSession, part: RangeSession) -> Result<bool, Failure> {
        let at = Place { from: asked.from.clone(), after: Bytes::new() };
        if !self.walk.joins(&at) {
            return Ok(false);
        }
        let RangeSession { position, locks, has_more, end } = part;
        let is_inside =
            |name: &str| name >= asked.from.as_str() && (end.is_empty() || name < end.as_str());
        let names = locks.iter().map(|lock| lock.name.as_str());
        let is_answer = names.clone().all(is_inside)
            && names.is_sorted_by(|a, b| a < b)
            && locks.len() <= asked.locks_max as usize;
        let behind = Place::behind(&at.from, end.clone()).filter(|_| is_answer);
        let behind = behind.ok_or_else(bad_answer)?;
        let to = match (has_more, locks.last()) {
            (true, None) => return Err(bad_answer()),
            (true, Some(last)) => {
                Some(Place { from: behind_name(&last.name), after: Bytes::new() })
            }
            (false, _) => behind,
        };
        let bytes = locks.iter().map(|lock| lock.encoded_len()).sum();
        self.walk.goes_to(to, locks.len(), bytes);
        self.page.locks.extend(locks);
        self.page.positions.extend(position);
        Ok(true)
    }

    /// The page as it is.
    pub fn into_page(self) -> GetSessionResponse {
        GetSessionResponse { next_page_token: self.walk.token(), ..self.page }
    }
}

impl Revocation {
    /// It only says what it would end.
    pub fn dry_run(&self) -> bool {
        self.dry_run
    }

    /// Why, as its operator says.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Who asks.
    pub fn operator(&self) -> &str {
        &self.operator
    }

    /// See [`Walk::round`].
    pub fn round(
        &mut self,
        behind: impl FnOnce(&str, usize) -> Vec<String>,
    ) -> Vec<RevokeRangeSession> {
        let order = |step: Step| RevokeRangeSession {
            session: self.handle.clone(),
            from: step.at.from,
            reason: self.reason.clone(),
            operator: self.operator.clone(),
            dry_run: self.dry_run,
            bytes_max: step.bytes_max,
        };
        self.walk.round(behind).into_iter().map(order).collect()
    }

    /// As [`SessionList::take`].
    ///
    /// # Errors
    /// It is no answer to the order.
    pub fn take(
        &mut self,
        asked: &RevokeRangeSession,
        part: RangeRevoked,
    ) -> Result<bool, Failure> {
        if !self.walk.joins(&Place { from: asked.from.clone(), after: Bytes::new() }) {
            return Ok(false);
        }
        let RangeRevoked { position, holds, holds_count, waiters_count, end } = part;
        let to = Place::behind(&asked.from, end).ok_or_else(bad_answer)?;
        let bytes = holds.iter().map(|hold| hold.encoded_len()).sum();
        // Holds that do not fit are ended all the same, and counted: rows bound nothing here.
        self.walk.goes_to(to, 0, bytes);
        self.page.holds.extend(holds);
        self.page.holds_count += u64::from(holds_count);
        self.page.waiters_count += u64::from(waiters_count);
        self.page.positions.extend(position);
        Ok(true)
    }

    /// What it did so far.
    pub fn into_page(self) -> RevokeSessionResponse {
        RevokeSessionResponse { next_page_token: self.walk.token(), ..self.page }
    }
}

#[cfg(test)]
mod tests;
