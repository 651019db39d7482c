//! A unary Acquire or Reclaim: it is answered when the outcome is final, so until then the gateway does what a
//! client on a stream does for itself. It keeps the place in the queue alive, and listens.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sharklock_proto::{
    internal::v1::{store_call, store_reply::Body},
    v1::{
        AcquireOutcome, AcquireResponse, AcquisitionEvent, AcquisitionEventKind, GetLockRequest,
        GoneReason, Holder, KeepAliveAnswer, KeepAliveItem, KeepAliveRequest, KeepAliveState,
        Position,
    },
};
use tokio::time::{Instant, sleep_until, timeout};

use super::{
    exchange::{Exchange, RETRY_EVERY, ask, expect_body},
    host::Host,
    listen::Peer,
    session::stopping,
};
use crate::{
    failure::{Failure, Reason},
    outbox::Answer,
    validate::{self, Checked, Session},
};

/// Between two attempts that no store answers.
const ATTEMPT_EVERY: Duration = Duration::from_secs(1);
/// Longest interval of keepalives (D7).
const KEEPALIVE_EVERY_MAX: Duration = Duration::from_secs(5);
/// How long after its wait a waiter may still hear that the wait is over: an election and a commit.
const WAIT_GRACE: Duration = Duration::from_secs(10);
/// For looking who holds the lock, after a wait that timed out.
const LOOK_DEADLINE: Duration = Duration::from_secs(1);
/// Holders shown to a caller that did not get a lock, as in `AcquireResponse`.
const HOLDERS_MAX: usize = 8;

const ACQUIRE: u64 = 1;
const KEEP_ALIVE: u64 = 2;

/// Acquires, and waits for the final outcome. A caller that goes away before has withdrawn what it
/// asked for, see [`StreamHandle::withdraw`](crate::StreamHandle::withdraw).
pub(super) async fn acquire(
    host: &Arc<Host>,
    peer: Peer,
    checked: Checked,
) -> Result<(AcquireResponse, Undelivered), Failure> {
    let exchange = Exchange::open(host, checked.body().kind())?;
    let mut waiter = Waiter::new(exchange, peer, checked);
    let mut outcome = waiter.outcome().await;
    waiter.has_failed = outcome.is_err();
    if let Ok(response) = &mut outcome
        && response.outcome() == AcquireOutcome::WaitTimedOut
        && response.holders.is_empty()
    {
        let looked = timeout(LOOK_DEADLINE, look(host, waiter.wanted.name.clone())).await;
        // The holders are a courtesy: without them the answer is still right.
        if let Ok(Ok((holders, waiters))) = looked {
            (response.holders, response.waiters) = (holders, waiters);
        }
    }
    Ok((outcome?, Undelivered(Arc::new(waiter))))
}

/// An answer on its way to the caller. Dropped before it is [delivered](Self::delivered), it was
/// never heard: then nobody holds what it granted.
#[derive(Clone)]
pub(super) struct Undelivered(Arc<Waiter>);

impl Undelivered {
    /// The transport has it.
    pub(super) fn delivered(&self) {
        self.0.is_answered.store(true, Ordering::Release);
    }
}

async fn look(host: &Arc<Host>, name: String) -> Result<(Vec<Holder>, u32), Failure> {
    let checked = validate::get_lock(GetLockRequest { name, waiters_max: 1 })?;
    let response = expect_body!(ask(host, checked).await, GetLock)?;
    let lock = response.lock.unwrap_or_default();
    let in_short = |holder| Holder { attributes: Default::default(), ..holder };
    let holders = lock.holders.into_iter().take(HOLDERS_MAX).map(in_short).collect();
    Ok((holders, lock.waiters_count))
}

/// An acquisition as its caller names it.
struct Wanted {
    name: String,
    instance: u64,
    acquisition_id: u64,
    seq: u64,
    /// None of a reclaim, whose hold has one.
    ttl_ms: Option<u64>,
    wait_ms: Option<u64>,
    /// A caller that goes away has withdrawn it. Not a reclaim: if it was granted, to withdraw it would
    /// free what its session wants protected.
    may_be_withdrawn: bool,
}

impl Wanted {
    fn of(body: &store_call::Body) -> Self {
        match body {
            store_call::Body::Acquire(it) => Self {
                name: it.name.clone(),
                instance: it.instance,
                acquisition_id: it.acquisition_id,
                seq: it.seq,
                ttl_ms: it.ttl_ms,
                wait_ms: it.wait_ms,
                may_be_withdrawn: true,
            },
            store_call::Body::Reclaim(it) => Self {
                name: it.name.clone(),
                instance: it.instance,
                acquisition_id: it.acquisition_id,
                seq: it.seq,
                ttl_ms: None,
                wait_ms: None,
                may_be_withdrawn: false,
            },
            other => unreachable!("{:?} does not wait for a grant", other.kind()),
        }
    }
}

/// A caller that waits. If it is dropped before it is answered, its caller has gone away.
struct Waiter {
    exchange: Exchange,
    peer: Peer,
    address: String,
    checked: Checked,
    session: Session,
    wanted: Wanted,
    /// The first answer, once the acquisition is in the queue.
    queued: Option<AcquireResponse>,
    /// Attempts sent and not answered.
    unanswered: u32,
    /// The last attempt that was not done.
    failure: Option<Failure>,
    /// The caller has been told what a store said, or will be.
    is_answered: AtomicBool,
    /// The caller is told that the outcome is not known.
    has_failed: bool,
}

impl Waiter {
    fn new(exchange: Exchange, peer: Peer, checked: Checked) -> Self {
        let session = checked.session().expect("an acquire has a session").clone();
        let wanted = Wanted::of(checked.body());
        let address = peer.address.to_string();
        Self {
            exchange,
            peer,
            address,
            checked,
            session,
            wanted,
            queued: None,
            unanswered: 0,
            failure: None,
            is_answered: AtomicBool::new(false),
            has_failed: false,
        }
    }

    async fn outcome(&mut self) -> Result<AcquireResponse, Failure> {
        let host = self.exchange.host().clone();
        let mut give_up = Some(Instant::now() + host.config.unary_deadline);
        self.send();
        let mut again = Instant::now() + ATTEMPT_EVERY;
        loop {
            let was_queued = self.queued.is_some();
            tokio::select! {
                answers = self.exchange.answers() => {
                    for answer in answers? {
                        if let Some(outcome) = self.on_answer(answer) {
                            return outcome;
                        }
                    }
                    if self.failure.is_some() && self.queued.is_none() {
                        again = again.min(Instant::now() + RETRY_EVERY);
                    }
                }
                () = sleep_until(again) => {
                    self.send();
                    again = Instant::now() + self.interval();
                }
                () = sleep_until(give_up.unwrap_or(again)), if give_up.is_some() => {
                    return Err(self.give_up());
                }
                () = host.stopping.cancelled() => {
                    // Another gateway carries on.
                    return Err(stopping());
                }
            }
            if !was_queued && self.queued.is_some() {
                again = Instant::now() + self.interval();
                let wait = self.wanted.wait_ms.map(Duration::from_millis);
                give_up = wait.map(|wait| Instant::now() + wait + WAIT_GRACE);
            }
        }
    }

    /// Until the next attempt.
    fn interval(&self) -> Duration {
        match &self.queued {
            None => ATTEMPT_EVERY,
            Some(_) => (Duration::from_millis(self.ttl_ms()) / 3).min(KEEPALIVE_EVERY_MAX),
        }
    }

    /// Asks for the lock, or renews the place in the queue. Always the one attempt that the caller
    /// made, under its seq: so that a lease is never counted from later than its caller knows.
    fn send(&mut self) {
        let number = self.exchange.number();
        if self.queued.is_none() {
            self.unanswered += 1;
            self.failure = None;
            self.exchange.send(ACQUIRE, self.checked.clone(), number, &self.address);
            return;
        }
        let item = KeepAliveItem {
            name: self.wanted.name.clone(),
            acquisition_id: self.wanted.acquisition_id,
        };
        let request = KeepAliveRequest {
            seq: self.wanted.seq,
            items: vec![item],
            ..KeepAliveRequest::default()
        };
        let checked = Checked::keep_alive(self.session.clone(), request);
        self.exchange.send(KEEP_ALIVE, checked, number, "");
    }

    /// Some: the outcome is final.
    fn on_answer(&mut self, answer: Answer) -> Option<Result<AcquireResponse, Failure>> {
        let call_id = answer.call_id;
        let outcome = match answer.reply {
            Ok(Body::Acquire(response)) => self.on_acquire(response)?,
            Ok(Body::Event(event)) => self.on_event(event)?,
            Ok(Body::KeepAlive(response)) => {
                let answer = response.answers.into_iter().next()?;
                self.on_keep_alive(answer)?
            }
            Ok(_) => Err(crate::port::bad_answer()),
            Err(failure) if call_id == ACQUIRE && self.queued.is_none() => {
                self.on_failure(failure)?
            }
            // A keepalive that failed is followed by the next one.
            Err(_) => return None,
        };
        Some(outcome)
    }

    fn on_acquire(
        &mut self,
        response: AcquireResponse,
    ) -> Option<Result<AcquireResponse, Failure>> {
        self.unanswered = self.unanswered.saturating_sub(1);
        if response.outcome() == AcquireOutcome::Queued {
            self.queued.get_or_insert(response);
            return None;
        }
        Some(Ok(response))
    }

    fn on_event(&mut self, event: AcquisitionEvent) -> Option<Result<AcquireResponse, Failure>> {
        let mine = (event.instance, event.acquisition_id)
            == (self.wanted.instance, self.wanted.acquisition_id);
        if !mine {
            return None;
        }
        match event.kind() {
            AcquisitionEventKind::Granted => {
                Some(self.granted(event.position, event.token, event.fence_floor))
            }
            AcquisitionEventKind::Gone => Some(self.gone(event.position, event.gone_reason())),
            AcquisitionEventKind::Ending => {
                Some(self.gone(event.position, GoneReason::ForceReleased))
            }
            AcquisitionEventKind::Asked | AcquisitionEventKind::Unspecified => None,
        }
    }

    fn on_keep_alive(
        &mut self,
        answer: KeepAliveAnswer,
    ) -> Option<Result<AcquireResponse, Failure>> {
        match answer.state() {
            KeepAliveState::Held => {
                Some(self.granted(answer.position, answer.token, answer.fence_floor))
            }
            KeepAliveState::Gone => Some(self.gone(answer.position, answer.gone_reason())),
            KeepAliveState::Ending => Some(self.gone(answer.position, GoneReason::ForceReleased)),
            KeepAliveState::Waiting | KeepAliveState::Unspecified => None,
        }
    }

    fn on_failure(&mut self, failure: Failure) -> Option<Result<AcquireResponse, Failure>> {
        match failure.reason {
            Reason::NoLeader | Reason::RangeMoved => {
                self.unanswered = self.unanswered.saturating_sub(1);
                self.failure = Some(failure);
                None
            }
            // It stays among the unanswered: what it did is not known.
            Reason::Indeterminate => {
                self.failure = Some(failure);
                None
            }
            _ => Some(Err(failure)),
        }
    }

    /// No outcome in time: its caller asks for it again.
    fn give_up(&mut self) -> Failure {
        match self.failure.take() {
            Some(failure) if self.unanswered == 0 && self.queued.is_none() => failure,
            _ => Failure::indeterminate(),
        }
    }

    fn granted(
        &mut self,
        position: Option<Position>,
        token: u64,
        fence_floor: u64,
    ) -> Result<AcquireResponse, Failure> {
        let response = AcquireResponse { position, token, fence_floor, ..self.response() };
        Ok(with_outcome(response, AcquireOutcome::Granted))
    }

    fn gone(
        &mut self,
        position: Option<Position>,
        reason: GoneReason,
    ) -> Result<AcquireResponse, Failure> {
        let response = AcquireResponse { position, ..self.response() };
        Ok(match reason {
            GoneReason::WaitTimedOut => with_outcome(response, AcquireOutcome::WaitTimedOut),
            GoneReason::HoldLost => with_outcome(response, AcquireOutcome::HoldLost),
            reason => {
                let mut response = with_outcome(response, AcquireOutcome::Gone);
                response.set_gone_reason(reason);
                response
            }
        })
    }

    fn response(&self) -> AcquireResponse {
        AcquireResponse {
            seq: self.wanted.seq,
            acquisition_id: self.wanted.acquisition_id,
            ttl_ms: self.ttl_ms(),
            agreement: self.queued.as_ref().and_then(|queued| queued.agreement),
            ..AcquireResponse::default()
        }
    }

    fn ttl_ms(&self) -> u64 {
        let queued = self.queued.as_ref().map(|queued| queued.ttl_ms);
        queued.or(self.wanted.ttl_ms).unwrap_or(validate::TTL_MS_DEFAULT)
    }
}

impl Drop for Waiter {
    /// A caller that hung up, or let the deadline pass, gives up. One whose connection broke, or
    /// that is told that the outcome is not known, may ask again. A gateway that stops speaks for
    /// nobody.
    fn drop(&mut self) {
        let is_answered = self.is_answered.load(Ordering::Acquire);
        if !self.wanted.may_be_withdrawn
            || is_answered
            || self.exchange.host().stopping.is_cancelled()
        {
            return;
        }
        let gives_up = !self.has_failed && !self.peer.is_lost();
        self.exchange.withdraw(&self.checked, gives_up);
    }
}

fn with_outcome(mut response: AcquireResponse, outcome: AcquireOutcome) -> AcquireResponse {
    response.set_outcome(outcome);
    response
}
