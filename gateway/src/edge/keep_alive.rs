//! A unary KeepAlive. Its items may lie in several ranges, and each goes its own way: one range that
//! does not answer keeps nobody from hearing of the others.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use sharklock_proto::{
    CallKind,
    internal::v1::{store_call, store_reply::Body},
    v1::{KeepAliveAnswer, KeepAliveItem, KeepAliveRequest, KeepAliveResponse},
};
use sharklock_rangemap::Hops;
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    exchange::{Exchange, RETRY_EVERY},
    host::Host,
};
use crate::{
    failure::{Failure, Reason},
    port::bad_answer,
    tag::StreamNumber,
    validate::Checked,
};

/// The rest is waited for so long once some items are answered: their leases count from the moment at
/// which the caller asked.
const REST_WITHIN: Duration = Duration::from_millis(500);

/// The answers for all items, or for those whose ranges answer in time.
///
/// # Errors
/// Not one of them is answered.
pub(super) async fn keep_alive(
    host: &Arc<Host>,
    checked: Checked,
) -> Result<KeepAliveResponse, Failure> {
    let (Some(session), store_call::Body::KeepAlive(request)) = checked.into_parts() else {
        unreachable!("validate::keep_alive() makes a keepalive of a session")
    };
    let exchange = Exchange::open(host, CallKind::KeepAlive)?;
    let mut renewal = Renewal::new(request.items, Instant::now() + host.config.unary_deadline);
    let mut hops = Hops::default();
    let mut attempt = 0;
    loop {
        attempt += 1;
        // All attempts are the one that the caller has made, under its seq.
        let rest = KeepAliveRequest {
            session_id: Default::default(),
            items: renewal.left.to_vec(),
            ..request
        };
        let checked = Checked::keep_alive(session.clone(), rest);
        exchange.send(attempt, checked, StreamNumber::GATEWAY, "");
        let Err(failure) = renewal.listen(&exchange, attempt).await else { break };
        let again = match failure.reason {
            Reason::RangeMoved => hops.take().is_ok(),
            Reason::NoLeader => true,
            _ => false,
        };
        if again && Instant::now() + RETRY_EVERY < renewal.deadline {
            sleep(RETRY_EVERY).await;
        } else if renewal.answers.is_empty() {
            return Err(failure);
        } else {
            break;
        }
    }
    Ok(KeepAliveResponse { answers: renewal.answers })
}

/// Keeps what is known of the items so far.
struct Renewal {
    left: Vec<KeepAliveItem>,
    answers: Vec<KeepAliveAnswer>,
    deadline: Instant,
}

impl Renewal {
    fn new(items: Vec<KeepAliveItem>, deadline: Instant) -> Self {
        Self { left: items, answers: Vec::new(), deadline }
    }

    /// Takes answers in until there is one for each item, or this attempt has failed for the rest.
    async fn listen(&mut self, exchange: &Exchange, attempt: u64) -> Result<(), Failure> {
        while !self.left.is_empty() {
            let answers = timeout_at(self.deadline, exchange.answers()).await;
            let unanswered = |_elapsed| Failure::unanswered(CallKind::KeepAlive);
            let mut failed = None;
            for answer in answers.map_err(unanswered)?? {
                match answer.reply {
                    // Also of an earlier attempt: it is the same one to the range.
                    Ok(Body::KeepAlive(response)) => self.take(response.answers),
                    Ok(_) => return Err(bad_answer()),
                    Err(failure) => failed = (answer.call_id == attempt).then_some(failure),
                }
            }
            if let Some(failure) = failed {
                return Err(failure);
            }
        }
        Ok(())
    }

    fn take(&mut self, answers: Vec<KeepAliveAnswer>) {
        let told: BTreeSet<_> =
            answers.iter().map(|it| (it.acquisition_id, it.name.clone())).collect();
        let is_told = |it: &mut KeepAliveItem| told.contains(&(it.acquisition_id, it.name.clone()));
        let news: BTreeSet<_> = self
            .left
            .extract_if(.., is_told)
            .map(|item| (item.acquisition_id, item.name))
            .collect();
        let is_news = |it: &KeepAliveAnswer| news.contains(&(it.acquisition_id, it.name.clone()));
        self.answers.extend(answers.into_iter().filter(is_news));
        if !self.answers.is_empty() {
            self.deadline = self.deadline.min(Instant::now() + REST_WITHIN);
        }
    }
}
