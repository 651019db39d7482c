//! Bounds, late replies, and keepalives that are answered in parts.

use sharklock_proto::{
    Unanswered,
    internal::v1::{Indeterminate, StoreError, store_error},
    v1::{
        AcquireResponse, AcquisitionEvent, GetLockResponse, Holder, KeepAliveResponse, LockInfo,
        ReleaseResponse,
    },
};

use super::*;

const NOW: u64 = 1_000;

fn take(outbox: &mut Outbox) -> Option<Result<Vec<Answer>, Overrun>> {
    match outbox.poll_take(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(taken) => Some(taken),
        Poll::Pending => None,
    }
}

fn take_all(outbox: &mut Outbox) -> Vec<Answer> {
    let mut all = Vec::new();
    while let Some(taken) = take(outbox) {
        all.extend(taken.expect("it is not cut off"));
    }
    all
}

fn granted() -> Body {
    Body::Acquire(AcquireResponse { token: 3, ..AcquireResponse::default() })
}

fn event() -> Body {
    Body::Event(AcquisitionEvent { name: "a".to_owned(), ..AcquisitionEvent::default() })
}

fn kept(ids: &[u64]) -> Vec<KeepAliveAnswer> {
    let answer =
        |&acquisition_id: &u64| KeepAliveAnswer { acquisition_id, ..KeepAliveAnswer::default() };
    ids.iter().map(answer).collect()
}

/// A lock whose description has about this many bytes.
fn large(bytes: usize) -> Body {
    let holder = Holder { owner_id: "x".repeat(bytes), ..Holder::default() };
    let lock = LockInfo { holders: vec![holder], ..LockInfo::default() };
    Body::GetLock(GetLockResponse { position: None, lock: Some(lock) })
}

#[test]
fn an_answer_carries_the_clients_number_and_closes_the_call() {
    let mut outbox = Outbox::default();
    let a = outbox.open(41, CallKind::Acquire, 1, NOW).expect("there is room");
    let b = outbox.open(42, CallKind::Release, 1, NOW).expect("there is room");
    assert_eq!(outbox.calls_open(), 2);
    let released = Body::Release(ReleaseResponse::default());
    let settled = outbox.answer(b, released.clone()).expect("it was open");
    let (kind, span, has_failed) = (CallKind::Release, None, false);
    assert_eq!(settled, Settled { kind, opened_us: NOW, span, has_failed });
    outbox.answer(a, granted()).expect("it was open");
    assert_eq!(outbox.calls_open(), 0);
    let answers = take_all(&mut outbox);
    let want =
        [Answer { call_id: 42, reply: Ok(released) }, Answer { call_id: 41, reply: Ok(granted()) }];
    assert_eq!(answers, want);
    assert_eq!(outbox.bytes(), 0);
}

#[test]
fn a_late_reply_never_answers_the_call_that_has_its_slot_now() {
    let mut outbox = Outbox::default();
    let old = outbox.open(1, CallKind::Acquire, 1, NOW).expect("there is room");
    assert_eq!(outbox.sweep(NOW + 1).len(), 1);
    let new = outbox.open(2, CallKind::Acquire, 1, NOW).expect("there is room");
    assert_eq!(slot_of(old), slot_of(new), "the slot is used again");
    assert_eq!(outbox.answer(old, granted()), None);
    assert_eq!(outbox.calls_open(), 1);
    assert_eq!(outbox.answer(CallNumber(u32::MAX), granted()), None);
    assert!(outbox.answer(new, granted()).is_some());
    assert_eq!(outbox.answer(new, granted()), None, "a second answer");
}

#[test]
fn generations_begin_again_without_meeting_zero() {
    let mut outbox = Outbox::default();
    for _ in 0..=GENERATION_MAX {
        let call = outbox.open(1, CallKind::Release, 1, NOW).expect("there is room");
        assert_ne!(call.0, 0);
        outbox.fail(call, 1, Failure::indeterminate()).expect("it was open");
        take_all(&mut outbox);
    }
}

#[test]
fn acquires_stop_at_half_and_the_rest_at_the_bound() {
    let mut outbox = Outbox::default();
    let open =
        |outbox: &mut Outbox, kind| (1..).map_while(|id| outbox.open(id, kind, 1, 0)).count();
    assert_eq!(open(&mut outbox, CallKind::Acquire), CALLS_OPEN_MAX / 2);
    assert_eq!(open(&mut outbox, CallKind::Release), CALLS_OPEN_MAX / 2);
    assert_eq!(outbox.open(1, CallKind::KeepAlive, 1, 0), None);
    assert_eq!(outbox.calls_open(), CALLS_OPEN_MAX);
}

#[test]
fn a_keepalive_ends_with_its_last_item_and_tells_a_failure_after_the_answers() {
    let mut outbox = Outbox::default();
    let call = outbox.open(7, CallKind::KeepAlive, 3, NOW).expect("there is room");
    assert_eq!(outbox.answer_items(call, kept(&[1])), None);
    let failure = Failure::new(Reason::NoLeader, "nobody leads");
    assert_eq!(outbox.fail(call, 1, failure), None, "one item is still to come");
    assert!(outbox.answer_items(call, kept(&[3])).is_some(), "that was the last");
    let answers = take_all(&mut outbox);
    let ids = |answer: &Answer| match &answer.reply {
        Ok(Body::KeepAlive(KeepAliveResponse { answers })) => {
            answers.iter().map(|answer| answer.acquisition_id).collect()
        }
        Err(failure) => {
            assert_eq!(failure.reason, Reason::NoLeader);
            vec![]
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(answers.iter().map(ids).collect::<Vec<_>>(), [vec![1], vec![3], vec![]]);
}

#[test]
fn a_store_error_comes_out_as_a_failure() {
    let mut outbox = Outbox::default();
    let call = outbox.open(7, CallKind::Acquire, 1, NOW).expect("there is room");
    let kind = Some(store_error::Kind::Indeterminate(Indeterminate {}));
    assert!(outbox.answer(call, Body::Error(StoreError { kind })).is_some());
    let answers = take_all(&mut outbox);
    assert_eq!(answers, [Answer { call_id: 7, reply: Err(Failure::indeterminate()) }]);
}

#[test]
fn what_is_not_answered_in_time_may_have_been_done_only_if_it_changes_something() {
    let awaited = |kind: &&CallKind| kind.unanswered() != Unanswered::Nothing;
    for &kind in CallKind::ALL.iter().filter(awaited) {
        let mut outbox = Outbox::default();
        let old = outbox.open(1, kind, 2, NOW).expect("there is room");
        let young = outbox.open(2, kind, 1, NOW + 1).expect("there is room");
        let settled = outbox.sweep(NOW + 1);
        let looks = [
            CallKind::KeepAlive,
            CallKind::CheckToken,
            CallKind::GetLock,
            CallKind::ListRange,
            CallKind::WatchLock,
            CallKind::ListRangeSessions,
            CallKind::GetRangeSession,
            CallKind::Describe,
        ];
        let changes = !looks.contains(&kind);
        let want = if changes { Reason::Indeterminate } else { Reason::NoAnswer };
        let (span, has_failed) = (None, true);
        assert_eq!(settled, [Settled { kind, opened_us: NOW, span, has_failed }]);
        let reasons = |answer: Answer| answer.reply.expect_err("nobody answered").reason;
        assert_eq!(take_all(&mut outbox).into_iter().map(reasons).collect::<Vec<_>>(), [want]);
        assert_eq!(outbox.answer(old, granted()), None);
        assert!(outbox.answer(young, granted()).is_some(), "the young one waits on");
    }
}

#[test]
fn events_over_their_bound_are_dropped_and_answers_are_not() {
    let mut outbox = Outbox::default();
    let call = outbox.open(1, CallKind::Acquire, 1, NOW).expect("there is room");
    assert_eq!((0..EVENTS_MAX + 10).filter(|_| outbox.event(event())).count(), EVENTS_MAX);
    assert!(outbox.answer(call, granted()).is_some());
    let answers = take_all(&mut outbox);
    assert_eq!(answers.len(), EVENTS_MAX + 1);
    assert!(outbox.event(event()), "there is room again");
}

#[test]
fn a_client_that_does_not_read_is_cut_off_and_nothing_is_kept_for_it() {
    let mut outbox = Outbox::default();
    let calls: Vec<_> =
        (1..=9).map(|id| outbox.open(id, CallKind::GetLock, 1, NOW).expect("room")).collect();
    for call in calls {
        outbox.answer(call, large(1 << 20));
        assert!(outbox.bytes() <= BYTES_MAX);
    }
    assert!(outbox.is_cut_off() && outbox.wants_taker());
    assert_eq!((outbox.bytes(), outbox.calls_open()), (0, 0));
    assert_eq!(outbox.open(1, CallKind::Acquire, 1, NOW), None);
    assert!(!outbox.event(event()));
    assert_eq!(take(&mut outbox), Some(Err(Overrun)));
}

#[test]
fn messages_are_bounded_and_an_answer_that_fits_none_is_an_error() {
    let mut outbox = Outbox::default();
    for (call_id, bytes) in [(1, 600 << 10), (2, 600 << 10), (3, 2 << 20), (4, 5 << 20), (5, 10)] {
        let call = outbox.open(call_id, CallKind::GetLock, 1, NOW).expect("there is room");
        outbox.answer(call, large(bytes));
    }
    let ids = |answers: Vec<Answer>| answers.iter().map(|a| a.call_id).collect::<Vec<_>>();
    let mut messages = Vec::new();
    while let Some(taken) = take(&mut outbox) {
        messages.push(taken.expect("it is not cut off"));
    }
    let Err(failure) = &messages[3][0].reply else { panic!("5 MiB do not fit") };
    assert_eq!(failure.reason, Reason::AnswerTooLarge);
    let messages: Vec<_> = messages.into_iter().map(ids).collect();
    assert_eq!(messages, [vec![1], vec![2], vec![3], vec![4, 5]]);
}

#[test]
fn whoever_waits_is_woken_once() {
    let mut outbox = Outbox::default();
    assert!(outbox.taker().is_none());
    assert_eq!(take(&mut outbox), None);
    outbox.event(event());
    assert!(outbox.wants_taker());
    assert!(outbox.taker().is_some());
    assert!(outbox.taker().is_none());
}
