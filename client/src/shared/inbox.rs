//! What has come in for one of the sessions of a shared connection, and which of its keepalives have
//! not been answered.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use sharklock_proto::v1::{SessionAnswer, SessionResponse, session_answer::Body};

/// Answers that may wait for their session. It takes them whenever it runs; more than that, and it
/// has to come back over another connection.
const ANSWERS_MAX: usize = 65_536;

/// Answers that wait for their session to take them.
#[derive(Default)]
pub(super) struct Inbox(Mutex<State>);

#[derive(Default)]
struct State {
    messages: VecDeque<SessionResponse>,
    answers_count: usize,
    /// When they were sent, by the number of the call.
    keepalives: BTreeMap<u64, Instant>,
    /// Nothing more comes, and why.
    ended: Option<String>,
    taker: Option<Waker>,
}

impl Inbox {
    /// A keepalive is on its way.
    pub(super) fn asked(&self, call: u64, now: Instant) {
        self.lock().keepalives.insert(call, now);
    }

    /// Takes answers in; `heard` is told how long those to keepalives have taken.
    pub(super) fn put(
        &self,
        answers: Vec<SessionAnswer>,
        now: Instant,
        mut heard: impl FnMut(Duration),
    ) {
        let mut state = self.lock();
        for answer in &answers {
            // Items of one keepalive may be answered apart; the first tells how long it took.
            if matches!(answer.body, Some(Body::KeepAlive(_) | Body::Failure(_)))
                && let Some(sent) = state.keepalives.remove(&answer.call_id)
            {
                heard(now.saturating_duration_since(sent));
            }
        }
        state.answers_count += answers.len();
        if state.answers_count > ANSWERS_MAX {
            state.messages.clear();
            state.ended = Some("the session does not take its answers".to_owned());
        } else {
            state.messages.push_back(SessionResponse { answers });
        }
        let taker = state.taker.take();
        drop(state);
        taker.into_iter().for_each(Waker::wake);
    }

    /// Nothing more comes.
    pub(super) fn end(&self, why: &str) {
        let mut state = self.lock();
        state.ended.get_or_insert_with(|| why.to_owned());
        let taker = state.taker.take();
        drop(state);
        taker.into_iter().for_each(Waker::wake);
    }

    /// Takes messages until the list has `max` of them. Ready when no more come, with the reason.
    pub(super) fn poll(
        &self,
        cx: &mut Context<'_>,
        messages: &mut Vec<SessionResponse>,
        max: usize,
    ) -> Poll<String> {
        let mut state = self.lock();
        while messages.len() < max
            && let Some(message) = state.messages.pop_front()
        {
            state.answers_count -= message.answers.len();
            messages.push(message);
        }
        match &state.ended {
            Some(why) if messages.is_empty() => Poll::Ready(why.clone()),
            _ => {
                if !state.taker.as_ref().is_some_and(|taker| taker.will_wake(cx.waker())) {
                    state.taker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }

    /// A panic cannot leave it half changed.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use sharklock_proto::v1::KeepAliveResponse;

    use super::*;

    fn answers(count: usize) -> Vec<SessionAnswer> {
        let body = Some(Body::KeepAlive(KeepAliveResponse::default()));
        (0..count).map(|_| SessionAnswer { call_id: 3, body: body.clone() }).collect()
    }

    #[test]
    fn what_has_come_is_taken_before_the_end_is_told() {
        let (inbox, begun) = (Inbox::default(), now());
        let mut cx = Context::from_waker(Waker::noop());
        let (mut messages, mut delays) = (Vec::new(), Vec::new());
        inbox.asked(3, begun);
        let later = begun + Duration::from_millis(5);
        inbox.put(answers(2), later, |delay| delays.push(delay));
        inbox.end("over");
        assert_eq!(delays, [Duration::from_millis(5)]);
        assert_eq!(inbox.poll(&mut cx, &mut messages, 32), Poll::Pending);
        assert_eq!(messages.len(), 1);
        messages.clear();
        assert_eq!(inbox.poll(&mut cx, &mut messages, 32), Poll::Ready("over".to_owned()));
    }

    #[test]
    fn a_session_that_takes_nothing_is_let_go() {
        let inbox = Inbox::default();
        let mut cx = Context::from_waker(Waker::noop());
        inbox.put(answers(ANSWERS_MAX), now(), |_| {});
        inbox.put(answers(1), now(), |_| {});
        let ended = inbox.poll(&mut cx, &mut Vec::new(), 32);
        assert_eq!(ended, Poll::Ready("the session does not take its answers".to_owned()));
    }

    #[expect(clippy::disallowed_methods, reason = "a test of how delays are told")]
    fn now() -> Instant {
        Instant::now()
    }
}
