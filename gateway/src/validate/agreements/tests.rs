//! Both sides of each limit of a condition, and of the calls about what is agreed.

use super::*;
use crate::validate::TTL_MS_MAX;

const TTL_MS: u64 = 30_000;
const ID: [u8; 16] = *b"0123456789abcdef";

fn frame() -> Frame {
    Frame::of_call(&Bytes::from_static(&ID), 1)
}

fn of(lease: LeaseRule) -> Condition {
    Condition { lease: lease.into(), ..Condition::default() }
}

fn missed(missed: u32, interval_ms: u64) -> Condition {
    Condition { missed, interval_ms, ..of(LeaseRule::AfterMissed) }
}

#[track_caller]
fn check(got: Result<impl Sized, Failure>, field: &str) {
    let failure = got.err();
    let got = failure.as_ref().map_or("", |failure| &failure.field);
    assert_eq!(got, field);
    if let Some(failure) = failure {
        assert_eq!(failure.reason, Reason::BadCondition, "{failure:?}");
        assert!((30..300).contains(&failure.message.len()), "it says what to do: {failure:?}");
    }
}

#[test]
fn each_clause_has_its_bounds_and_contradictions_are_named() {
    let delay = |ms| Condition { lock_delay_ms: Some(ms), ..Condition::default() };
    let grace = |ms| Condition { ask_grace_ms: Some(ms), ..Condition::default() };
    let bound = |ms| Condition { max_hold_ms: Some(ms), ..Condition::default() };
    let all = Condition { lock_delay_ms: Some(1), max_hold_ms: Some(1), ..grace(1) };
    let cases = [
        (Condition::default(), ""),
        (of(LeaseRule::OnExpiry), ""),
        (of(LeaseRule::Hold), ""),
        (Condition { lease: 77, ..Condition::default() }, "condition.lease"),
        (missed(3, 10_000), ""),
        (missed(100, 300), ""),
        (missed(2, 15_000), "condition.missed"),
        (missed(101, 1), "condition.missed"),
        (missed(3, 9_999), "condition.interval_ms"),
        (missed(3, 0), "condition.interval_ms"),
        (missed(100, u64::MAX), "condition.interval_ms"),
        (Condition { missed: 3, ..of(LeaseRule::OnExpiry) }, "condition.missed"),
        (Condition { interval_ms: 3, ..of(LeaseRule::Hold) }, "condition.interval_ms"),
        (delay(1), ""),
        (delay(DELAY_MS_MAX), ""),
        (delay(0), "condition.lock_delay_ms"),
        (delay(DELAY_MS_MAX + 1), "condition.lock_delay_ms"),
        (bound(MAX_HOLD_MS_MAX), ""),
        (bound(0), "condition.max_hold_ms"),
        (bound(MAX_HOLD_MS_MAX + 1), "condition.max_hold_ms"),
        (grace(DELAY_MS_MAX), ""),
        (grace(0), "condition.ask_grace_ms"),
        (grace(DELAY_MS_MAX + 1), "condition.ask_grace_ms"),
        (all, ""),
        (Condition { lock_delay_ms: Some(5), ..of(LeaseRule::Hold) }, ""),
        (Condition { max_hold_ms: Some(5), ..of(LeaseRule::Hold) }, "condition.max_hold_ms"),
        (Condition { ask_grace_ms: Some(5), ..of(LeaseRule::Hold) }, "condition.ask_grace_ms"),
    ];
    for (condition, field) in cases {
        check(check_condition(&condition, TTL_MS), field);
    }
}

#[test]
fn a_condition_is_checked_wherever_it_is_set() {
    let set = |condition, ttl_ms| {
        let (name, token, acquisition_id) = ("a".to_owned(), 1, 1);
        let condition = Some(condition);
        let request = SetConditionRequest {
            session_id: Bytes::from_static(&ID),
            instance: 1,
            name,
            token,
            acquisition_id,
            ttl_ms,
            condition,
            revision: 0,
        };
        set_condition(&RequestLimits::default(), &frame(), request)
    };
    check(set(missed(3, 10_000), TTL_MS), "");
    check(set(missed(3, 10_000), TTL_MS - 1), "condition.interval_ms");
    let failure = set(of(LeaseRule::Hold), TTL_MS_MAX + 1).expect_err("the lease is too long");
    assert_eq!((failure.reason, &*failure.field), (Reason::BadTtl, "ttl_ms"));
    let acquire = |reenter_token| {
        let request = sharklock_proto::v1::AcquireRequest {
            session_id: Bytes::from_static(&ID),
            instance: 1,
            acquisition_id: 1,
            seq: 1,
            name: "a".to_owned(),
            mode: sharklock_proto::v1::LockMode::Exclusive.into(),
            ttl_ms: Some(TTL_MS),
            reenter_token,
            condition: Some(missed(3, 10_000)),
            ..Default::default()
        };
        crate::validate::acquire(&RequestLimits::default(), &frame(), request)
    };
    check(acquire(None), "");
    check(acquire(Some(7)), "condition");
}

#[test]
fn who_asks_for_the_first_in_the_queue_needs_no_session() {
    let request = AskRequest { name: "a".to_owned(), ..AskRequest::default() };
    let nobody = Frame::of_call(&Bytes::new(), 0);
    assert!(ask(&nobody, request.clone()).expect("it is whole").session().is_none());
    let mine = AskRequest { acquisition_id: 3, ..request };
    assert_eq!(ask(&nobody, mine.clone()).expect_err("whose is it?").field, "session_id");
    let mine = ask(&frame(), mine).expect("it is whole");
    assert_eq!(mine.session().map(super::super::Session::instance), Some(1));
}
