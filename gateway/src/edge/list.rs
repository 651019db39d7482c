//! Calls that go over many ranges, a page at a time: asks the ranges that a page needs, for so long as
//! it may take.

use std::{sync::Arc, time::Duration};

use sharklock_proto::{
    internal::v1::{
        GetRangeSession, ListRange, ListRangeSessions, RangeLocks, RangeRevoked, RangeSession,
        RangeSessions, RevokeRangeSession, store_call::Body,
    },
    v1::{GetSessionResponse, ListLocksResponse, ListSessionsResponse, RevokeSessionResponse},
};
use tokio::time::Instant;

use super::{
    exchange::{ask, expect_body},
    fan_out::{Bounds, FanOut},
    host::Host,
};
use crate::{
    failure::Failure,
    listing::{AT_ONCE_MAX, Listing},
    session_walks::{Revocation, SessionList, SessionLook},
    validate::Checked,
};

/// A page is filled up for so long after its first range has answered: what does not answer by then is
/// left to the next page, which waits for it as for any range.
const FILLED_WITHIN: Duration = Duration::from_millis(500);

/// A page that is made of the answers of ranges.
pub(super) trait Paged: Send {
    /// What one range is asked.
    type Question: Clone + Send + Sync + 'static;
    /// What it answers.
    type Part: Clone + Send + 'static;
    /// The page.
    type Page;

    /// What to ask next, in order of names, all at once; nothing once the page is complete.
    fn round(&mut self, host: &Host) -> Vec<Self::Question>;
    /// The answer to a question of the last round. False: it does not join on.
    fn take(&mut self, asked: &Self::Question, part: Self::Part) -> Result<bool, Failure>;
    /// The page as it is.
    fn into_page(self) -> Self::Page;
    /// Asks one range.
    fn part(
        host: Arc<Host>,
        question: Self::Question,
    ) -> impl Future<Output = Result<Self::Part, Failure>> + Send + 'static;
}

macro_rules! paged {
    ($($paged:ident: $question:ident => $call:ident, $part:ident in $reply:ident; $page:ident;)+) => {$(
        impl Paged for $paged {
            type Question = $question;
            type Part = $part;
            type Page = $page;

            fn round(&mut self, host: &Host) -> Vec<$question> {
                Self::round(self, |from, max| host.hub.starts_behind(from, max))
            }

            fn take(&mut self, asked: &$question, part: $part) -> Result<bool, Failure> {
                Self::take(self, asked, part)
            }

            fn into_page(self) -> $page {
                Self::into_page(self)
            }

            async fn part(host: Arc<Host>, question: $question) -> Result<$part, Failure> {
                let checked = Checked::of_range(Body::$call(question));
                expect_body!(ask(&host, checked).await, $reply)
            }
        }
    )+};
}

paged! {
    Listing: ListRange => ListRange, RangeLocks in ListRange; ListLocksResponse;
    SessionList: ListRangeSessions => ListRangeSessions, RangeSessions in ListRangeSessions;
        ListSessionsResponse;
    SessionLook: GetRangeSession => GetRangeSession, RangeSession in GetRangeSession;
        GetSessionResponse;
    Revocation: RevokeRangeSession => RevokeRangeSession, RangeRevoked in RevokeRangeSession;
        RevokeSessionResponse;
}

/// A page of a list.
///
/// # Errors
/// The first range that it is about does not answer within the deadline of a call.
pub(super) async fn list<P: Paged>(host: &Arc<Host>, mut paged: P) -> Result<P::Page, Failure> {
    for question in paged.round(host) {
        let part = P::part(host.clone(), question.clone()).await?;
        paged.take(&question, part)?;
    }
    let all = Instant::now() + FILLED_WITHIN;
    let bounds = Bounds { at_once: AT_ONCE_MAX, each: FILLED_WITHIN, all };
    let mut goes_on = true;
    while goes_on {
        let round = paged.round(host);
        goes_on = !round.is_empty() && fill(host, &mut paged, &round, bounds).await?;
    }
    Ok(paged.into_page())
}

/// Asks the ranges of a round, and puts what they say into the page as far as it joins on. False: the
/// page has to end here.
async fn fill<P: Paged>(
    host: &Arc<Host>,
    paged: &mut P,
    round: &[P::Question],
    bounds: Bounds,
) -> Result<bool, Failure> {
    let questions = round.iter().cloned();
    let mut asking = FanOut::new(questions, bounds, |question| P::part(host.clone(), question));
    let mut parts: Vec<Option<Result<P::Part, Failure>>> = vec![None; round.len()];
    let mut taken = 0;
    while taken < round.len() {
        let Some((number, part)) = asking.next().await else { return Ok(false) };
        parts[number] = Some(part);
        while let Some(part) = parts.get_mut(taken).and_then(Option::take) {
            // The next page meets the same range first, and says what is wrong with it.
            let Ok(part) = part else { return Ok(false) };
            if !paged.take(&round[taken], part)? {
                return Ok(true);
            }
            taken += 1;
        }
    }
    Ok(true)
}
