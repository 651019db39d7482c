//! Merging, sending, and the callers that are told.

use bytes::Bytes;
use sharklock_proto::{
    internal::v1::{EpochNotMatch, StoreError, store_error::Kind},
    v1::KeepAliveState,
};

use super::*;
use crate::validate::Frame;

const NOBODY: StreamNumber = StreamNumber::GATEWAY;

fn session(of: u8) -> Session {
    let frame = Frame::of_call(&Bytes::copy_from_slice(&[of; 16]), 1);
    let request = sharklock_proto::v1::CancelRequest {
        name: "any".to_owned(),
        acquisition_id: 1,
        ..Default::default()
    };
    let checked = crate::validate::cancel(&frame, request).expect("it is good");
    checked.session().expect("a cancel has a session").clone()
}

fn caller(stream: u32, call: u32) -> Caller {
    Caller { stream: StreamNumber(stream), call: CallNumber(call) }
}

fn keepalive(seq: u64, items: &[(&str, u64)]) -> KeepAliveRequest {
    let items = items
        .iter()
        .map(|&(name, acquisition_id)| KeepAliveItem { name: name.to_owned(), acquisition_id })
        .collect();
    KeepAliveRequest { seq, items, ..KeepAliveRequest::default() }
}

#[track_caller]
fn add(keepalives: &mut KeepAlives, now_us: u64, from: Caller, seq: u64, items: &[(&str, u64)]) {
    keepalives
        .add(now_us, &session(1), keepalive(seq, items), from, from.stream, NOBODY)
        .expect("there is room");
}

const A: StoreId = StoreId(1);
const B: StoreId = StoreId(2);

fn target(store: StoreId, range_id: u64, version: u64) -> Option<Target> {
    Some(Target { store, range_id, version, is_leader: true, has_others: true })
}

fn flush(keepalives: &mut KeepAlives, now_us: u64) -> Vec<StoreCall> {
    flush_to(keepalives, now_us, A)
}

/// All of it goes to one store.
fn flush_to(keepalives: &mut KeepAlives, now_us: u64, store: StoreId) -> Vec<StoreCall> {
    let flushed = keepalives.flush(now_us, |_| target(store, 1, 1));
    assert_eq!(flushed.told, []);
    let sent = |(to, call)| {
        assert_eq!(to, store);
        call
    };
    flushed.calls.into_iter().map(sent).collect()
}

/// (seq, items) of each call, in order.
fn shape(calls: &[StoreCall]) -> Vec<(u64, Vec<(String, u64)>)> {
    calls
        .iter()
        .map(|call| {
            let request = body(call);
            (request.seq, named(request))
        })
        .collect()
}

fn body(call: &StoreCall) -> &KeepAliveRequest {
    match &call.body {
        Some(Body::KeepAlive(request)) => request,
        other => panic!("a keepalive is sent, not {other:?}"),
    }
}

fn named(request: &KeepAliveRequest) -> Vec<(String, u64)> {
    request.items.iter().map(|item| (item.name.clone(), item.acquisition_id)).collect()
}

/// A store's answers to some items of a call, under the seq that it was sent.
fn answers(call: &StoreCall, which: impl Fn(u64) -> bool) -> Vec<KeepAliveAnswer> {
    let request = body(call);
    let answer = |item: &KeepAliveItem| KeepAliveAnswer {
        name: item.name.clone(),
        acquisition_id: item.acquisition_id,
        seq: request.seq,
        state: KeepAliveState::Held as i32,
        ..KeepAliveAnswer::default()
    };
    request.items.iter().filter(|item| which(item.acquisition_id)).map(answer).collect()
}

fn number(call: &StoreCall) -> CallNumber {
    let tag = Tag::from_wire(call.tag);
    assert_eq!(tag.stream, StreamNumber::GATEWAY);
    tag.call
}

/// The answers by caller: (caller, [(id, seq)]).
fn told(answers: Vec<(Caller, Vec<KeepAliveAnswer>)>) -> Vec<(Caller, Vec<(u64, u64)>)> {
    let pair = |answer: &KeepAliveAnswer| (answer.acquisition_id, answer.seq);
    answers.into_iter().map(|(to, answers)| (to, answers.iter().map(pair).collect())).collect()
}

fn items(named: &[(&str, u64)]) -> Vec<(String, u64)> {
    named.iter().map(|&(name, id)| (name.to_owned(), id)).collect()
}

/// Hole 10: highest-seq deduplication of whole messages would drop seq 5, and with it a1, a2.
#[test]
fn a_later_keepalive_for_other_items_takes_nothing_away_from_an_earlier_one() {
    let mut keepalives = KeepAlives::default();
    add(&mut keepalives, 0, caller(1, 1), 5, &[("a", 1), ("a", 2)]);
    add(&mut keepalives, 0, caller(1, 2), 6, &[("a", 3)]);
    let calls = flush(&mut keepalives, 0);
    let want = [(5, items(&[("a", 1), ("a", 2)])), (6, items(&[("a", 3)]))];
    assert_eq!(shape(&calls), want);
    let first = keepalives.answered(A, number(&calls[0]), answers(&calls[0], |_| true));
    assert_eq!(told(first), [(caller(1, 1), vec![(1, 5), (2, 5)])]);
    let second = keepalives.answered(A, number(&calls[1]), answers(&calls[1], |_| true));
    assert_eq!(told(second), [(caller(1, 2), vec![(3, 6)])]);
    assert_eq!(keepalives.named(), 0);
}

#[test]
fn of_one_item_the_highest_seq_is_sent_and_everybody_is_told_that_seq() {
    // Both orders of arrival.
    for [first, second] in [[5, 6], [6, 5]] {
        let mut keepalives = KeepAlives::default();
        add(&mut keepalives, 0, caller(1, 1), first, &[("a", 1)]);
        add(&mut keepalives, 0, caller(2, 1), second, &[("a", 1)]);
        let calls = flush(&mut keepalives, 0);
        assert_eq!(shape(&calls), [(6, items(&[("a", 1)]))]);
        let told = told(keepalives.answered(A, number(&calls[0]), answers(&calls[0], |_| true)));
        assert_eq!(told, [(caller(1, 1), vec![(1, 6)]), (caller(2, 1), vec![(1, 6)])]);
        assert_eq!(keepalives.named(), 0);
    }
}

#[test]
fn sessions_instances_names_and_ids_are_apart() {
    let mut keepalives = KeepAlives::default();
    let mut add = |of, instance, items: &[(&str, u64)], call| {
        let frame = Frame::of_call(&Bytes::copy_from_slice(&[of; 16]), instance);
        let checked = crate::validate::keep_alive(&frame, keepalive(5, items)).expect("good");
        let session = checked.session().expect("a keepalive has one");
        let from = caller(1, call);
        keepalives.add(0, session, keepalive(5, items), from, from.stream, NOBODY).expect("room");
    };
    add(1, 1, &[("a", 1)], 1);
    add(2, 1, &[("a", 1)], 2);
    add(1, 2, &[("a", 1)], 3);
    add(1, 1, &[("b", 1)], 4);
    let calls = flush(&mut keepalives, 0);
    assert_eq!(calls.len(), 3, "one per session and instance");
    assert_eq!(calls.iter().map(|call| body(call).items.len()).sum::<usize>(), 4);
    let told: Vec<_> = calls
        .iter()
        .flat_map(|call| keepalives.answered(A, number(call), answers(call, |_| true)))
        .map(|(to, _)| to.call.0)
        .collect();
    assert_eq!(
        {
            let mut told = told;
            told.sort_unstable();
            told
        },
        [1, 2, 3, 4]
    );
}

#[test]
fn answers_that_come_apart_reach_their_callers_apart() {
    let mut keepalives = KeepAlives::default();
    add(&mut keepalives, 0, caller(1, 1), 5, &[("a", 1), ("a", 2)]);
    let calls = flush(&mut keepalives, 0);
    let call = number(&calls[0]);
    let first = keepalives.answered(A, call, answers(&calls[0], |id| id == 2));
    assert_eq!(told(first), [(caller(1, 1), vec![(2, 5)])]);
    // A store that says it again, or of something that was not asked, is not repeated.
    assert_eq!(keepalives.answered(A, call, answers(&calls[0], |id| id == 2)), []);
    let second = keepalives.answered(A, call, answers(&calls[0], |id| id == 1));
    assert_eq!(told(second), [(caller(1, 1), vec![(1, 5)])]);
    assert_eq!(keepalives.answered(A, call, answers(&calls[0], |_| true)), []);
    assert_eq!(keepalives.named(), 0);
}

#[test]
fn an_item_under_way_is_sent_again_for_a_later_attempt() {
    let mut keepalives = KeepAlives::default();
    add(&mut keepalives, 0, caller(1, 1), 5, &[("a", 1)]);
    let first = flush(&mut keepalives, 0);
    add(&mut keepalives, 30_000, caller(1, 2), 6, &[("a", 1)]);
    let second = flush(&mut keepalives, 30_000);
    // Each attempt hears the seq that the leader received, never another's.
    let of_second = keepalives.answered(A, number(&second[0]), answers(&second[0], |_| true));
    assert_eq!(told(of_second), [(caller(1, 2), vec![(1, 6)])]);
    let of_first = keepalives.answered(A, number(&first[0]), answers(&first[0], |_| true));
    assert_eq!(told(of_first), [(caller(1, 1), vec![(1, 5)])]);
}

#[test]
fn batches_keep_their_distance_and_the_first_goes_at_once() {
    let mut keepalives = KeepAlives::default();
    assert_eq!(keepalives.due_us(), None);
    add(&mut keepalives, 7, caller(1, 1), 5, &[("a", 1)]);
    assert_eq!(keepalives.due_us(), Some(0));
    flush(&mut keepalives, 7);
    assert_eq!(keepalives.due_us(), None, "nothing waits");
    add(&mut keepalives, 9, caller(1, 2), 6, &[("a", 1)]);
    assert_eq!(keepalives.due_us(), Some(7 + FLUSH_EVERY_US));
}

#[test]
fn a_call_is_as_old_as_its_oldest_item() {
    let mut keepalives = KeepAlives::default();
    add(&mut keepalives, 1_000, caller(1, 1), 5, &[("a", 1)]);
    add(&mut keepalives, 9_500, caller(2, 1), 5, &[("a", 1), ("a", 2)]);
    let calls = flush(&mut keepalives, 11_000);
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].age_ms, 10);
    // A newer attempt of the item is as old as itself.
    add(&mut keepalives, 20_000, caller(1, 2), 6, &[("a", 1)]);
    add(&mut keepalives, 29_000, caller(1, 3), 7, &[("a", 1)]);
    assert_eq!(flush(&mut keepalives, 30_000)[0].age_ms, 1);
}

#[test]
fn events_go_to_the_stream_that_named_an_item_last_and_stay_for_who_wants_none() {
    let mut keepalives = KeepAlives::default();
    let mut add = |stream, events_to, seq| {
        let request = keepalive(seq, &[("a", 1)]);
        let events_to = StreamNumber(events_to);
        keepalives
            .add(0, &session(1), request, caller(stream, 1), events_to, NOBODY)
            .expect("room");
    };
    add(1, 1, 9);
    add(2, 2, 8);
    add(3, 0, 10);
    let calls = flush(&mut keepalives, 0);
    assert_eq!(calls.len(), 1);
    assert_eq!((calls[0].stream, body(&calls[0]).seq), (2, 10));
}

/// The store must know whether anybody but the waiting call itself hears the answer.
#[test]
fn the_keepalive_of_a_unary_acquire_says_so_unless_somebody_else_named_the_item_too() {
    let asker = |others: &[(u32, u32)]| {
        let mut keepalives = KeepAlives::default();
        for (stream, asker) in [(3, 3)].iter().chain(others) {
            let (request, from) = (keepalive(5, &[("a", 1)]), caller(*stream, 1));
            let (stream, asker) = (StreamNumber(*stream), StreamNumber(*asker));
            keepalives.add(0, &session(1), request, from, stream, asker).expect("room");
        }
        let calls = flush(&mut keepalives, 0);
        assert_eq!(calls.len(), 1);
        calls[0].asker
    };
    assert_eq!(asker(&[]), 3);
    assert_eq!(asker(&[(3, 3)]), 3);
    for others in [&[(4, 4)][..], &[(4, 0)], &[(4, 0), (3, 3)]] {
        assert_eq!(asker(others), 0, "{others:?}");
    }
}

#[test]
fn a_call_goes_to_one_range_and_names_at_most_64_items() {
    let mut keepalives = KeepAlives::default();
    let many: Vec<_> = (1..=100).map(|id| ("a", id)).collect();
    let (first, second) = many.split_at(50);
    add(&mut keepalives, 0, caller(1, 1), 5, first);
    add(&mut keepalives, 0, caller(1, 2), 5, second);
    add(&mut keepalives, 0, caller(1, 3), 5, &[("z", 1)]);
    let flushed =
        keepalives.flush(0, |name| if name == "a" { target(A, 1, 4) } else { target(A, 2, 5) });
    let calls: Vec<_> = flushed.calls.into_iter().map(|(_, call)| call).collect();
    let shape: Vec<_> =
        calls.iter().map(|call| (call.range_id, call.version, body(call).items.len())).collect();
    assert_eq!(shape, [(1, 4, 64), (1, 4, 36), (2, 5, 1)]);
    assert_eq!(body(&calls[2]).items[0].name, "z");
}

#[test]
fn a_failed_call_is_told_to_its_callers_item_by_item() {
    let mut keepalives = KeepAlives::default();
    let mut add = |from, named: &[(&str, u64)]| {
        let request = keepalive(5, named);
        keepalives.add(0, &session(1), request, from, StreamNumber::GATEWAY, NOBODY).expect("room");
    };
    add(caller(1, 1), &[("a", 1), ("a", 2)]);
    add(caller(2, 1), &[("a", 2)]);
    let calls = flush(&mut keepalives, 0);
    let call = number(&calls[0]);
    keepalives.answered(A, call, answers(&calls[0], |id| id == 1));
    let failure = Failure::overloaded("full");
    assert_eq!(keepalives.failed(A, call, &failure), [(caller(1, 1), 1), (caller(2, 1), 1)]);
    assert_eq!(keepalives.failed(A, call, &failure), [], "it is told once");
    assert_eq!(keepalives.named(), 0);
}

#[test]
fn items_of_a_moved_range_go_out_again_until_it_is_no_use() {
    let mut keepalives = KeepAlives::default();
    add(&mut keepalives, 0, caller(1, 1), 5, &[("a", 1)]);
    let kind = Some(Kind::EpochNotMatch(EpochNotMatch::default()));
    let moved = Failure::of_store(StoreError { kind });
    let mut sent = 0;
    loop {
        let calls = flush(&mut keepalives, 0);
        assert_eq!(shape(&calls), [(5, items(&[("a", 1)]))]);
        sent += 1;
        let told = keepalives.failed(A, number(&calls[0]), &moved);
        if !told.is_empty() {
            assert_eq!(told, [(caller(1, 1), 1)]);
            break;
        }
        assert!(keepalives.due_us().is_some(), "it waits to be sent");
    }
    assert_eq!(sent, 1 + sharklock_rangemap::HOPS_MAX);
    assert_eq!(keepalives.named(), 0);
}

#[test]
fn what_nobody_answers_is_forgotten() {
    let mut keepalives = KeepAlives::default();
    add(&mut keepalives, 0, caller(1, 1), 5, &[("a", 1)]);
    let calls = flush(&mut keepalives, 10);
    keepalives.sweep(10);
    assert_eq!(keepalives.named(), 1);
    keepalives.sweep(11);
    assert_eq!(keepalives.named(), 0);
    assert_eq!(keepalives.answered(A, number(&calls[0]), answers(&calls[0], |_| true)), []);
}

#[test]
fn there_is_a_bound_and_what_is_over_it_leaves_nothing_behind() {
    let mut keepalives = KeepAlives::default();
    let many: Vec<_> = (1..=64).map(|id| ("a", id)).collect();
    let full = NAMED_MAX / many.len();
    for call in 0..full as u32 {
        add(&mut keepalives, 0, caller(1, call), 5, &many);
    }
    assert_eq!(keepalives.named(), NAMED_MAX);
    let over = keepalives.add(
        0,
        &session(1),
        keepalive(6, &[("b", 1)]),
        caller(2, 1),
        StreamNumber(2),
        NOBODY,
    );
    assert_eq!(over.expect_err("it is full").reason, Reason::Overloaded);
    assert_eq!(keepalives.named(), NAMED_MAX);
    let calls = flush(&mut keepalives, 0);
    assert_eq!(shape(&calls).len(), 1, "64 items, however often they were named");
    keepalives.answered(A, number(&calls[0]), answers(&calls[0], |_| true));
    assert_eq!(keepalives.named(), 0);
}

#[test]
fn each_store_gets_a_batch_of_its_own() {
    let mut keepalives = KeepAlives::default();
    add(&mut keepalives, 0, caller(1, 1), 5, &[("a", 1), ("z", 2)]);
    let flushed =
        keepalives.flush(0, |name| if name == "a" { target(A, 1, 4) } else { target(B, 2, 4) });
    let sent: Vec<_> = flushed.calls.iter().map(|(to, call)| (*to, named(body(call)))).collect();
    assert_eq!(sent, [(A, items(&[("a", 1)])), (B, items(&[("z", 2)]))]);
    // Only who was asked can answer.
    let (to_a, to_b) = (&flushed.calls[0].1, &flushed.calls[1].1);
    assert_eq!(keepalives.answered(B, number(to_a), answers(to_a, |_| true)), []);
    assert_eq!(keepalives.failed(A, number(to_b), &Failure::overloaded("full")), []);
    assert_eq!(keepalives.named(), 2);
}

#[test]
fn items_that_another_store_leads_go_there_under_their_seq_and_age() {
    let mut keepalives = KeepAlives::default();
    add(&mut keepalives, 1_000, caller(1, 1), 5, &[("a", 1)]);
    let first = flush(&mut keepalives, 2_000);
    assert_eq!(keepalives.failed(A, number(&first[0]), &Failure::no_leader()), []);
    assert!(keepalives.due_us().is_some());
    let second = flush_to(&mut keepalives, 41_000, B);
    assert_eq!(shape(&second), [(5, items(&[("a", 1)]))]);
    assert_eq!((second[0].age_ms, second[0].stream), (40, 1));
    let told = told(keepalives.answered(B, number(&second[0]), answers(&second[0], |_| true)));
    assert_eq!(told, [(caller(1, 1), vec![(1, 5)])]);
    assert_eq!(keepalives.named(), 0);
}

#[test]
fn an_item_on_its_way_elsewhere_joins_a_later_attempt_and_not_the_other_way_round() {
    for (later, seq, age_ms) in [(6, 6, 10), (4, 5, 40), (5, 5, 40)] {
        let mut keepalives = KeepAlives::default();
        add(&mut keepalives, 0, caller(1, 1), 5, &[("a", 1)]);
        let first = flush(&mut keepalives, 0);
        add(&mut keepalives, 30_000, caller(1, 2), later, &[("a", 1)]);
        assert_eq!(keepalives.link_lost(A), []);
        let calls = flush_to(&mut keepalives, 40_000, B);
        assert_eq!(shape(&calls), [(seq, items(&[("a", 1)]))]);
        assert_eq!(calls[0].age_ms, age_ms);
        // The lost store's word comes too late.
        assert_eq!(keepalives.answered(A, number(&first[0]), answers(&first[0], |_| true)), []);
        let told = told(keepalives.answered(B, number(&calls[0]), answers(&calls[0], |_| true)));
        assert_eq!(told, [(caller(1, 1), vec![(1, seq)]), (caller(1, 2), vec![(1, seq)])]);
        assert_eq!(keepalives.named(), 0);
    }
}

#[test]
fn a_lost_link_takes_nothing_from_other_stores_and_ends_in_a_word_to_the_callers() {
    let mut keepalives = KeepAlives::default();
    add(&mut keepalives, 0, caller(1, 1), 5, &[("a", 1)]);
    let kept = flush_to(&mut keepalives, 0, B);
    add(&mut keepalives, 0, caller(2, 1), 5, &[("z", 1)]);
    let mut sent = 0;
    let told_of_loss = loop {
        flush(&mut keepalives, 0);
        sent += 1;
        let told = keepalives.link_lost(A);
        if !told.is_empty() {
            break told;
        }
    };
    assert_eq!((sent, told_of_loss), (1 + sharklock_rangemap::HOPS_MAX, vec![(caller(2, 1), 1)]));
    assert_eq!(keepalives.named(), 1);
    let of_b = keepalives.answered(B, number(&kept[0]), answers(&kept[0], |_| true));
    assert_eq!(told(of_b), [(caller(1, 1), vec![(1, 5)])]);
}

#[test]
fn callers_are_told_when_nobody_can_be_asked() {
    let mut keepalives = KeepAlives::default();
    add(&mut keepalives, 0, caller(1, 1), 5, &[("a", 1), ("z", 2)]);
    let flushed = keepalives.flush(0, |name| if name == "a" { target(A, 1, 4) } else { None });
    assert_eq!(flushed.calls.len(), 1);
    assert_eq!(flushed.told, [(caller(1, 1), 1)]);
    assert_eq!(keepalives.named(), 1);
}

#[test]
fn names_of_which_no_range_is_known_go_out_apart() {
    let mut keepalives = KeepAlives::default();
    add(&mut keepalives, 0, caller(1, 1), 5, &[("a", 1), ("m", 2), ("m", 3)]);
    let flushed = keepalives.flush(0, |_| target(A, 0, 0));
    let calls: Vec<_> = flushed.calls.into_iter().map(|(_, call)| call).collect();
    let item = |name: &str, id| (name.to_owned(), id);
    let apart = vec![(5, vec![item("a", 1)]), (5, vec![item("m", 2), item("m", 3)])];
    assert_eq!(shape(&calls), apart);
}
