//! A Session stream without its transport: messages of a client go in, messages for it come out.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use sharklock_proto::{
    internal::v1::store_reply::Body,
    v1::{SessionAnswer, SessionRequest, SessionResponse, session_answer},
};

use crate::{
    failure::{Failure, Reason},
    hub::Hub,
    observer::Observer,
    outbox::{Answer, Overrun},
    stream::{Origin, StreamHandle},
    tag::StreamNumber,
    validate::{self, Frame, HandleCache},
};

/// See the module. The stream is closed when this is dropped; what it asked goes on.
pub struct SessionPort {
    handle: StreamHandle,
    handles: HandleCache,
    /// The client's, shown with its locks.
    address: String,
}

impl SessionPort {
    /// Opens a stream. Fails when too many are open.
    pub fn open(hub: &Arc<Hub>, address: String) -> Result<Self, Failure> {
        Ok(Self { handle: StreamHandle::open(hub)?, handles: HandleCache::default(), address })
    }

    /// The gateway's number of this stream.
    pub fn number(&self) -> StreamNumber {
        self.handle.number()
    }

    /// Takes a message of the client in. Calls that are wrong are answered each for itself; a
    /// message whose answers could not be told apart, or would not fit, ends the stream.
    ///
    /// # Errors
    /// The failure with which the stream ends: the client library is wrong.
    pub fn take_in(&mut self, now_us: u64, message: SessionRequest) -> Result<(), Failure> {
        let SessionRequest { session_id, instance, calls } = message;
        validate::calls_count(calls.len())?;
        calls.iter().try_for_each(|call| validate::call_id(call.call_id))?;
        let frame = Frame::new(&session_id, instance, &mut self.handles);
        let limits = self.handle.hub().config.limits;
        let calls = calls
            .into_iter()
            .map(|call| (call.call_id, validate::call(&limits, &frame, call.body)));
        let events_to = self.handle.number();
        let origin = Origin { events_to, is_unary: false, address: &self.address };
        self.handle.submit(now_us, calls, origin);
        Ok(())
    }

    /// The next message for the client; None while nothing waits for it.
    ///
    /// # Errors
    /// The failure with which the stream ends: the client is too far behind.
    pub fn take_out(&mut self) -> Result<Option<SessionResponse>, Failure> {
        let taken = self.handle.take().map_err(too_far_behind)?;
        Ok(taken.map(|answers| self.message(answers)))
    }

    /// As [`take_out`](Self::take_out), and wakes when there is something.
    pub fn poll_take_out(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<SessionResponse, Failure>> {
        let taken = std::task::ready!(self.handle.poll_take(cx)).map_err(too_far_behind)?;
        Poll::Ready(Ok(self.message(taken)))
    }

    /// Whether every call has been answered.
    pub fn is_idle(&self) -> bool {
        self.handle.is_idle()
    }

    fn message(&self, answers: Vec<Answer>) -> SessionResponse {
        let observer = &*self.handle.hub().observer;
        let answers = answers.into_iter().map(|answer| session_answer(answer, observer)).collect();
        SessionResponse { answers }
    }
}

/// Why a stream ends whose client does not read.
pub(crate) fn too_far_behind(_: Overrun) -> Failure {
    Failure::overloaded(
        "too many answers wait to be read: read the stream faster; what was not answered may or \
         may not have been done: ask again with the same names",
    )
}

/// A store that answers something else than was asked.
pub(crate) fn bad_answer() -> Failure {
    Failure::new(Reason::BadAnswer, "the store answered something else than was asked")
}

fn session_answer(Answer { call_id, reply }: Answer, observer: &dyn Observer) -> SessionAnswer {
    use session_answer::Body as To;
    let failed = |failure: Failure| {
        observer.failed(failure.reason);
        To::Failure(failure.into_message())
    };
    let body = match reply {
        Ok(Body::Acquire(body)) => To::Acquire(body),
        Ok(Body::Release(body)) => To::Release(body),
        Ok(Body::Cancel(body)) => To::Cancel(body),
        Ok(Body::KeepAlive(body)) => To::KeepAlive(body),
        Ok(Body::CheckToken(body)) => To::CheckToken(body),
        Ok(Body::GetLock(body)) => To::GetLock(body),
        Ok(Body::Event(body)) => To::Event(body),
        Ok(Body::Agreement(body)) => To::Agreement(body),
        Ok(Body::Ask(body)) => To::Ask(body),
        Ok(Body::Downgrade(body)) => To::Downgrade(body),
        Ok(Body::SetAttributes(body)) => To::SetAttributes(body),
        Ok(Body::WatchLock(body)) => To::WatchLock(body),
        Err(failure) => failed(failure),
        Ok(
            Body::ListRange(_)
            | Body::ListRangeSessions(_)
            | Body::GetRangeSession(_)
            | Body::RevokeRangeSession(_)
            | Body::ForceRelease(_)
            | Body::SplitRange(_)
            | Body::Describe(_)
            | Body::Error(_),
        ) => failed(bad_answer()),
    };
    SessionAnswer { call_id, body: Some(body) }
}
