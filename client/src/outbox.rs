//! The outgoing half of one `Session` stream: whatever waits when the stream is free goes out as one
//! message (D16). No delay is added to gather more.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use prost::Message as _;
use sharklock_proto::v1;
use tokio_stream::Stream;

/// Calls of one message (lock.proto).
const CALLS_MAX: usize = 1024;

/// Bytes of one message. A server refuses more than 64 KiB; one call is below 34 KiB (a KeepAlive
/// of 64 names of 512 bytes), and the last call that begins below this mark still fits.
const MESSAGE_BYTES_MAX: usize = 24 * 1024;

/// Calls waiting for the stream. The session core bounds them: it repeats a call only when its
/// answer is overdue, and leaves a connection that answers nothing.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    calls: Vec<v1::SessionCall>,
    waker: Option<Waker>,
    /// The session has left this connection.
    closed: bool,
}

impl Outbox {
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

/// The stream of messages that tonic sends: the other end of an [`Outbox`].
pub(crate) struct Outgoing {
    pub(crate) outbox: Arc<Outbox>,
    /// The session's secret goes into every frame and nowhere else.
    pub(crate) session_id: Bytes,
    pub(crate) instance: u64,
}

impl Stream for Outgoing {
    type Item = v1::SessionRequest;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut waiting = self.outbox.lock();
        if waiting.closed {
            return Poll::Ready(None);
        }
        if waiting.calls.is_empty() {
            waiting.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let count = fitting_count(&waiting.calls);
        let rest = waiting.calls.split_off(count);
        let calls = std::mem::replace(&mut waiting.calls, rest);
        drop(waiting);
        let session_id = self.session_id.clone();
        Poll::Ready(Some(v1::SessionRequest { session_id, instance: self.instance, calls }))
    }
}

/// How many of the calls go into one message: at least one.
fn fitting_count(calls: &[v1::SessionCall]) -> usize {
    let mut bytes = 0;
    let fitting = calls.iter().take(CALLS_MAX).take_while(|call| {
        let fits = bytes < MESSAGE_BYTES_MAX;
        bytes += call.encoded_len();
        fits
    });
    fitting.count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(name_bytes: usize) -> v1::SessionCall {
        let name = "n".repeat(name_bytes);
        let release = v1::ReleaseRequest { name, ..Default::default() };
        v1::SessionCall { call_id: 1, body: Some(v1::session_call::Body::Release(release)) }
    }

    #[test]
    fn messages_keep_within_the_limits_of_servers() {
        assert_eq!(fitting_count(&vec![release(1); 5000]), CALLS_MAX);
        let large = vec![release(512); 5000];
        let message = large[..fitting_count(&large)].to_vec();
        let message = v1::SessionRequest { calls: message, ..Default::default() };
        assert!(message.encoded_len() < 64 * 1024);
        // A call larger than the mark goes alone.
        assert_eq!(fitting_count(&[release(33_000), release(1)]), 1);
    }
}
