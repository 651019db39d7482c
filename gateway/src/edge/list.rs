//! `ListLocks`: asks the ranges that a page needs, for so long as it may take.

use std::{sync::Arc, time::Duration};

use sharklock_proto::{
    internal::v1::{ListRange, RangeLocks},
    v1::ListLocksResponse,
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
    validate::Checked,
};

/// A page is filled up for so long after its first range has answered: what does not answer by then is
/// left to the next page, which waits for it as for any range.
const FILLED_WITHIN: Duration = Duration::from_millis(500);

/// A page of a list.
///
/// # Errors
/// The first range that it is about does not answer within the deadline of a call.
pub(super) async fn list(
    host: &Arc<Host>,
    mut listing: Listing,
) -> Result<ListLocksResponse, Failure> {
    for question in listing.round(|_, _| Vec::new()) {
        let part = part(host.clone(), question.clone()).await?;
        listing.take(&question, part)?;
    }
    let all = Instant::now() + FILLED_WITHIN;
    let bounds = Bounds { at_once: AT_ONCE_MAX, each: FILLED_WITHIN, all };
    let mut goes_on = true;
    while goes_on {
        let round = listing.round(|from, max| host.hub.starts_behind(from, max));
        goes_on = !round.is_empty() && fill(host, &mut listing, &round, bounds).await?;
    }
    Ok(listing.into_page())
}

/// Asks the ranges of a round, and puts what they say into the page as far as it joins on. False: the
/// page has to end here.
async fn fill(
    host: &Arc<Host>,
    listing: &mut Listing,
    round: &[ListRange],
    bounds: Bounds,
) -> Result<bool, Failure> {
    let questions = round.iter().cloned();
    let mut asking = FanOut::new(questions, bounds, |question| part(host.clone(), question));
    let mut parts: Vec<Option<Result<RangeLocks, Failure>>> = vec![None; round.len()];
    let mut taken = 0;
    while taken < round.len() {
        let Some((number, part)) = asking.next().await else { return Ok(false) };
        parts[number] = Some(part);
        while let Some(part) = parts.get_mut(taken).and_then(Option::take) {
            // The next page meets the same range first, and says what is wrong with it.
            let Ok(part) = part else { return Ok(false) };
            if !listing.take(&round[taken], part)? {
                return Ok(true);
            }
            taken += 1;
        }
    }
    Ok(true)
}

async fn part(host: Arc<Host>, question: ListRange) -> Result<RangeLocks, Failure> {
    expect_body!(ask(&host, Checked::list_range(question)).await, ListRange)
}
