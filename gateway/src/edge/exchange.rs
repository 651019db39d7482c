//! One unary call: a stream of its own that lives as long as the call, its deadline, and what is
//! worth trying again in between.

use std::{future::poll_fn, sync::Arc, time::Duration};

use sharklock_proto::{
    CallKind, Unanswered, WATCH_WAITS_MAX,
    internal::v1::{store_call, store_reply::Body},
};
use sharklock_rangemap::Hops;
use tokio::time::{Instant, sleep, timeout_at};

use super::host::Host;
use crate::{
    failure::{Failure, Reason},
    outbox::Answer,
    port::too_far_behind,
    stream::{Origin, StreamHandle},
    tag::StreamNumber,
    validate::Checked,
};

/// Between two attempts of a call for which no leader answers.
pub(super) const RETRY_EVERY: Duration = Duration::from_millis(50);

/// A stream for one call.
pub(super) struct Exchange {
    host: Arc<Host>,
    handle: StreamHandle,
}

impl Exchange {
    pub(super) fn open(host: &Arc<Host>, kind: CallKind) -> Result<Self, Failure> {
        let handle = match kind.is_urgent() {
            true => StreamHandle::open_urgent(&host.hub),
            false => StreamHandle::open(&host.hub),
        };
        Ok(Self { handle: handle?, host: host.clone() })
    }

    pub(super) fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// The number of its stream, to which events go if they are to come here.
    pub(super) fn number(&self) -> StreamNumber {
        self.handle.number()
    }

    /// Sends an attempt; its answers come under `call_id`. Only a unary Acquire listens to events.
    pub(super) fn send(
        &self,
        call_id: u64,
        checked: Checked,
        events_to: StreamNumber,
        address: &str,
    ) {
        let call = std::iter::once((call_id, Ok(checked)));
        let is_unary = events_to == self.number();
        let origin = Origin { events_to, is_unary, address };
        self.handle.submit(self.host.now_us(), call, origin);
    }

    /// See [`StreamHandle::withdraw`].
    pub(super) fn withdraw(&self, checked: &Checked, gives_up: bool) {
        if let (Some(session), store_call::Body::Acquire(request)) =
            (checked.session(), checked.body())
        {
            self.handle.withdraw(session, &request.name, request.acquisition_id, gives_up);
        }
    }

    /// The next answers; waits until there are some.
    pub(super) async fn answers(&self) -> Result<Vec<Answer>, Failure> {
        let taken = poll_fn(|cx| self.handle.poll_take(cx)).await;
        taken.map_err(too_far_behind)
    }
}

/// Asks a store or one range and waits for its answer, at most for the deadline of such calls. A call that was
/// certainly not done is tried again until then; one that may have been done is the caller's to
/// repeat.
pub(super) async fn ask(host: &Arc<Host>, checked: Checked) -> Result<Body, Failure> {
    let kind = checked.body().kind();
    // A question that waits for something new may rightly be answered only then.
    let waits = if kind == CallKind::WatchLock { WATCH_WAITS_MAX } else { Duration::ZERO };
    let answered_within = match kind.unanswered() {
        Unanswered::AskAgain => host.config.look_deadline,
        Unanswered::MayBeDone | Unanswered::Nothing => host.config.unary_deadline,
    };
    let deadline = Instant::now() + waits + answered_within;
    let exchange = Exchange::open(host, kind)?;
    let mut hops = Hops::default();
    let mut attempt = 0;
    loop {
        attempt += 1;
        // A unary call listens to no events: they stay with the stream that waits for them.
        exchange.send(attempt, checked.clone(), StreamNumber::GATEWAY, "");
        let reply = timeout_at(deadline, one(&exchange, attempt)).await;
        let reply = reply.unwrap_or_else(|_elapsed| Err(Failure::unanswered(kind)));
        let Err(failure) = reply else { return reply };
        let again = match failure.reason {
            Reason::RangeMoved => hops.take().is_ok(),
            Reason::NoLeader => Instant::now() + RETRY_EVERY < deadline,
            _ => false,
        };
        if !again {
            return Err(failure);
        }
        sleep(RETRY_EVERY).await;
    }
}

/// The answer to one attempt.
async fn one(exchange: &Exchange, attempt: u64) -> Result<Body, Failure> {
    loop {
        let mut answers = exchange.answers().await?.into_iter();
        if let Some(answer) = answers.find(|answer| answer.call_id == attempt) {
            return answer.reply;
        }
    }
}

/// Takes the expected body out of an answer, or says that the store answered something else.
macro_rules! expect_body {
    ($reply:expr, $variant:ident) => {
        match $reply {
            Ok(sharklock_proto::internal::v1::store_reply::Body::$variant(body)) => Ok(body),
            Ok(_) => Err($crate::port::bad_answer()),
            Err(failure) => Err(failure),
        }
    };
}
pub(super) use expect_body;
