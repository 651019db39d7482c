//! The outgoing half of one `Session` stream: whatever waits when the stream is free goes out. No
//! delay is added to gather more.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use sharklock_proto::v1;
use tokio_stream::Stream;

use crate::session::take_message;

/// Calls waiting for the stream. The session core bounds them: it repeats a call only when its
/// answer is overdue, and leaves a connection that answers nothing.
#[derive(Debug, Default)]
pub(crate) struct Unsent {
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    calls: Vec<v1::SessionCall>,
    waker: Option<Waker>,
    /// The session has left this connection.
    closed: bool,
}

impl Unsent {
    /// Takes all of `calls`.
    pub(crate) fn put(&self, calls: &mut Vec<v1::SessionCall>) {
        let mut waiting = self.lock();
        if waiting.calls.is_empty() {
            std::mem::swap(&mut waiting.calls, calls);
        } else {
            waiting.calls.append(calls);
        }
        let waker = waiting.waker.take();
        drop(waiting);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(crate) fn close(&self) {
        let mut waiting = self.lock();
        waiting.closed = true;
        if let Some(waker) = waiting.waker.take() {
            waker.wake();
        }
    }

    /// A panic cannot leave the queue half changed.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The stream of messages that tonic sends: the other end of an [`Unsent`].
pub(crate) struct Outgoing {
    pub(crate) unsent: Arc<Unsent>,
    /// The session's secret goes into every frame and nowhere else.
    pub(crate) session_id: Bytes,
    pub(crate) instance: u64,
    /// The first message has gone: a server ends streams that say nothing, and this one may have
    /// nothing to say for long.
    pub(crate) has_greeted: bool,
}

impl Stream for Outgoing {
    type Item = v1::SessionRequest;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { unsent, session_id, instance, has_greeted } = self.get_mut();
        let mut waiting = unsent.lock();
        if waiting.closed {
            return Poll::Ready(None);
        }
        let mut message = take_message(&mut waiting.calls, session_id, *instance);
        if !std::mem::replace(has_greeted, true) {
            let session_id = session_id.clone();
            let nothing = v1::SessionRequest { session_id, instance: *instance, calls: Vec::new() };
            message.get_or_insert(nothing);
        }
        if message.is_none() {
            waiting.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(message)
    }
}
