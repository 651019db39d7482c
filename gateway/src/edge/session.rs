//! A Session stream: one task, hyper's own, reads its calls and writes its answers.
//!
//! Reading happens when hyper asks for the next message to write, which it does only while the
//! client takes what was written. So a client that does not read its answers is not read either:
//! its calls stay in its own buffers, and HTTP/2 tells it to wait. No queue here grows by it.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use sharklock_proto::{
    internal::v1::store_reply::Body,
    v1::{SessionAnswer, SessionRequest, SessionResponse, session_answer},
};
use tokio_stream::Stream;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::{Status, Streaming};

use super::{
    metrics::{Metrics, RpcTimer},
    status::status,
    stream_handle::StreamHandle,
};
use crate::{
    failure::{Failure, Reason},
    outbox::Answer,
    validate::{self, Frame, HandleCache},
};

/// Messages read in one go before what has been answered is written.
const MESSAGES_PER_TURN: usize = 16;

/// See the module.
pub(super) struct SessionStream {
    handle: StreamHandle,
    calls: Streaming<SessionRequest>,
    /// The client has said all that it had to say.
    calls_ended: bool,
    ended: bool,
    handles: HandleCache,
    address: String,
    /// Resolves when the gateway stops; None once it has.
    stop: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    rpc: RpcTimer,
    span: tracing::Span,
}

impl SessionStream {
    pub(super) fn new(
        handle: StreamHandle,
        calls: Streaming<SessionRequest>,
        address: String,
        rpc: RpcTimer,
    ) -> Self {
        let stop = Box::pin(handle.hub().stopping.clone().cancelled_owned());
        let span = tracing::debug_span!("session", stream = handle.number().0, %address);
        Self {
            handle,
            calls,
            calls_ended: false,
            ended: false,
            handles: HandleCache::default(),
            address,
            stop: Some(stop),
            rpc,
            span,
        }
    }

    /// Reads and sends what has arrived; an error ends the stream.
    fn take_in(&mut self, cx: &mut Context<'_>) -> Result<(), Status> {
        for _ in 0..MESSAGES_PER_TURN {
            if self.calls_ended || self.stop.is_none() {
                return Ok(());
            }
            match Pin::new(&mut self.calls).poll_next(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(None) => self.calls_ended = true,
                Poll::Ready(Some(message)) => self.submit(message?).map_err(status)?,
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    fn submit(&mut self, message: SessionRequest) -> Result<(), Failure> {
        let SessionRequest { session_id, instance, calls } = message;
        // An answer could not be told from an event, or would not fit: the client library is wrong.
        validate::calls_count(calls.len())?;
        calls.iter().try_for_each(|call| validate::call_id(call.call_id))?;
        let frame = Frame::new(&session_id, instance, &mut self.handles);
        let limits = self.handle.hub().config.limits;
        let calls = calls
            .into_iter()
            .map(|call| (call.call_id, validate::call(&limits, &frame, call.body)));
        self.handle.submit(calls, self.handle.number(), &self.address);
        Ok(())
    }

    fn end(&mut self, end: Result<(), Status>) -> Poll<Option<Result<SessionResponse, Status>>> {
        self.ended = true;
        match end {
            Ok(()) => {
                self.rpc.set_code(tonic::Code::Ok);
                Poll::Ready(None)
            }
            Err(status) => {
                tracing::debug!(code = ?status.code(), "the stream ends");
                self.rpc.set_code(status.code());
                Poll::Ready(Some(Err(status)))
            }
        }
    }
}

impl Stream for SessionStream {
    type Item = Result<SessionResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let span = this.span.clone();
        let _entered = span.enter();
        if this.ended {
            return Poll::Ready(None);
        }
        if let Err(status) = this.take_in(cx) {
            return this.end(Err(status));
        }
        match this.handle.poll_take(cx) {
            Poll::Ready(Ok(answers)) => {
                let metrics = &this.handle.hub().metrics;
                let answers = answers.into_iter().map(|answer| message(answer, metrics)).collect();
                Poll::Ready(Some(Ok(SessionResponse { answers })))
            }
            Poll::Ready(Err(_overrun)) => this.end(Err(status(too_far_behind()))),
            Poll::Pending => {
                if this.stop.as_mut().is_some_and(|stop| stop.as_mut().poll(cx).is_ready()) {
                    this.stop = None;
                }
                // What was asked is answered first, also when the gateway stops.
                match (this.calls_ended, this.stop.is_none()) {
                    (false, false) => Poll::Pending,
                    _ if !this.handle.is_idle() => Poll::Pending,
                    (true, _) => this.end(Ok(())),
                    (false, true) => this.end(Err(status(stopping()))),
                }
            }
        }
    }
}

pub(super) fn too_far_behind() -> Failure {
    Failure::overloaded(
        "too many answers wait to be read: read the stream faster; what was not answered may or \
         may not have been done: ask again with the same names",
    )
}

pub(super) fn stopping() -> Failure {
    Failure::new(
        Reason::ShuttingDown,
        "this gateway is stopping: go on with another one, by the same names",
    )
}

fn message(Answer { call_id, reply }: Answer, metrics: &Metrics) -> SessionAnswer {
    use session_answer::Body as To;
    if let Err(failure) = &reply {
        metrics.failed(failure.reason);
    }
    let body = match reply {
        Ok(Body::Acquire(body)) => To::Acquire(body),
        Ok(Body::Release(body)) => To::Release(body),
        Ok(Body::Cancel(body)) => To::Cancel(body),
        Ok(Body::KeepAlive(body)) => To::KeepAlive(body),
        Ok(Body::CheckToken(body)) => To::CheckToken(body),
        Ok(Body::GetLock(body)) => To::GetLock(body),
        Ok(Body::Event(body)) => To::Event(body),
        Err(failure) => To::Failure(failure.into_message()),
        Ok(Body::ListLocks(_) | Body::ForceRelease(_) | Body::Describe(_) | Body::Error(_)) => {
            To::Failure(bad_answer().into_message())
        }
    };
    SessionAnswer { call_id, body: Some(body) }
}

pub(super) fn bad_answer() -> Failure {
    Failure::new(Reason::BadAnswer, "the store answered something else than was asked")
}
