//! The outgoing half of one shared `Session` stream: the sessions that have something to say take
//! turns, a message each, so that none waits for all that another has.

use std::{
    collections::{BTreeMap, VecDeque},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use sharklock_proto::v1;
use tokio_stream::Stream;

use crate::{session::take_message, session_id::SessionId};

/// The head of a session's messages.
#[derive(Clone)]
pub(crate) struct Frame {
    /// The session's secret goes into every message and nowhere else.
    session_id: Bytes,
    instance: u64,
}

/// The calls of all sessions that wait for the stream.
///
/// Invariant: every session that has calls has one turn, or the message of its last turn is being
/// made.
#[derive(Default)]
pub(super) struct Lane {
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// By the number of the session.
    calls: BTreeMap<u32, (Frame, Vec<v1::SessionCall>)>,
    /// May name sessions that have left.
    turns: VecDeque<u32>,
    waker: Option<Waker>,
    closed: bool,
}

impl Frame {
    pub(crate) fn new(id: &SessionId) -> Self {
        Self { session_id: id.secret(), instance: id.instance() }
    }
}

impl Lane {
    /// Takes all of `calls`. The session core bounds them, as those of a connection of its own.
    pub(super) fn put(&self, session: u32, frame: &Frame, calls: &mut Vec<v1::SessionCall>) {
        let mut waiting = self.lock();
        let Waiting { calls: all, turns, .. } = &mut *waiting;
        let (_, known) = all.entry(session).or_insert_with(|| {
            turns.push_back(session);
            (frame.clone(), Vec::new())
        });
        known.append(calls);
        let waker = waiting.waker.take();
        drop(waiting);
        waker.into_iter().for_each(Waker::wake);
    }

    /// The session has left.
    pub(super) fn forget(&self, session: u32) {
        self.lock().calls.remove(&session);
    }

    /// The stream ends.
    pub(super) fn close(&self) {
        let mut waiting = self.lock();
        waiting.closed = true;
        let waker = waiting.waker.take();
        drop(waiting);
        waker.into_iter().for_each(Waker::wake);
    }

    /// A panic cannot leave it half changed.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// The message of whose turn it is.
    fn next(&mut self) -> Option<v1::SessionRequest> {
        while let Some(session) = self.turns.pop_front() {
            let Some((Frame { session_id, instance }, calls)) = self.calls.get_mut(&session) else {
                continue;
            };
            let message = take_message(calls, session_id, *instance);
            if calls.is_empty() {
                self.calls.remove(&session);
            } else {
                self.turns.push_back(session);
            }
            if message.is_some() {
                return message;
            }
        }
        None
    }
}

/// The stream of messages that tonic sends: the other end of a [`Lane`].
pub(super) struct Outgoing {
    lane: Arc<Lane>,
    /// The first message: a server ends streams that say nothing, and this one may have nothing to
    /// say for long.
    greeting: Option<v1::SessionRequest>,
}

impl Outgoing {
    /// Greets in the name of this session.
    pub(super) fn new(lane: &Arc<Lane>, frame: &Frame) -> Self {
        let Frame { session_id, instance } = frame.clone();
        let greeting = Some(v1::SessionRequest { session_id, instance, calls: Vec::new() });
        Self { lane: Arc::clone(lane), greeting }
    }
}

impl Stream for Outgoing {
    type Item = v1::SessionRequest;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { lane, greeting } = self.get_mut();
        let mut waiting = lane.lock();
        if waiting.closed {
            return Poll::Ready(None);
        }
        let message = greeting.take().or_else(|| waiting.next());
        if message.is_none() {
            waiting.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(session: u8) -> Frame {
        Frame { session_id: Bytes::from(vec![session; 16]), instance: 1 }
    }

    fn calls(numbers: std::ops::Range<u64>) -> Vec<v1::SessionCall> {
        numbers.map(|call_id| v1::SessionCall { call_id, body: None }).collect()
    }

    /// Session and calls of the next message.
    fn next(outgoing: &mut Outgoing) -> Option<(u8, usize)> {
        let mut cx = Context::from_waker(Waker::noop());
        match Pin::new(outgoing).poll_next(&mut cx) {
            Poll::Ready(message) => message.map(|it| (it.session_id[0], it.calls.len())),
            Poll::Pending => None,
        }
    }

    #[test]
    fn sessions_take_turns_and_no_message_is_of_two() {
        let lane = Arc::<Lane>::default();
        let mut outgoing = Outgoing::new(&lane, &frame(7));
        lane.put(1, &frame(1), &mut calls(1..2_001));
        lane.put(2, &frame(2), &mut calls(1..3));
        lane.put(2, &frame(2), &mut calls(3..4));
        let taken: Vec<_> = std::iter::from_fn(|| next(&mut outgoing)).collect();
        assert_eq!(taken, [(7, 0), (1, 1_024), (2, 3), (1, 976)]);
    }

    #[test]
    fn who_has_left_says_nothing_more() {
        let lane = Arc::<Lane>::default();
        let mut outgoing = Outgoing::new(&lane, &frame(7));
        lane.put(1, &frame(1), &mut calls(1..2));
        lane.put(2, &frame(2), &mut calls(1..2));
        lane.forget(1);
        let taken: Vec<_> = std::iter::from_fn(|| next(&mut outgoing)).collect();
        assert_eq!(taken, [(7, 0), (2, 1)]);
        lane.put(1, &frame(1), &mut calls(2..3));
        assert_eq!(next(&mut outgoing), Some((1, 1)));
    }
}
