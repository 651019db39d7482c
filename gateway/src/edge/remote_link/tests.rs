//! The queue in front of the stream, and its order.

use sharklock_proto::v1::AcquireRequest;

use super::*;

fn calls(tags: std::ops::Range<u64>) -> Vec<StoreCall> {
    tags.map(|tag| StoreCall { tag, ..StoreCall::default() }).collect()
}

fn tags(message: Option<StoreCalls>) -> Vec<u64> {
    message.map(|it| it.calls.iter().map(|call| call.tag).collect()).unwrap_or_default()
}

#[tokio::test]
async fn what_is_urgent_goes_first_and_each_lane_in_order() {
    let link = RemoteLink::default();
    link.send(Lane::Ordinary, calls(1..3)).expect("there is room");
    link.send(Lane::Urgent, calls(3..5)).expect("there is room");
    link.send(Lane::Ordinary, calls(5..6)).expect("there is room");
    let now = Instant::now();
    assert_eq!(tags(link.waiting().take(now)), [3, 4, 1, 2, 5]);
    assert_eq!(tags(link.waiting().take(now)), [0; 0]);
}

#[tokio::test]
async fn ordinary_calls_leave_half_of_the_room() {
    let link = RemoteLink::default();
    let half = WAITING_MAX as u64 / 2;
    link.send(Lane::Ordinary, calls(0..half)).expect("there is room");
    let refused = link.send(Lane::Ordinary, calls(0..2)).expect_err("half is full");
    assert_eq!(refused.len(), 2, "they come back to be answered");
    link.send(Lane::Urgent, calls(0..half)).expect("the other half is theirs");
    assert!(link.send(Lane::Urgent, calls(0..1)).is_err());
}

#[tokio::test]
async fn messages_are_bounded_and_calls_grow_old_while_they_wait() {
    let link = RemoteLink::default();
    let body = Some(Ask::Acquire(AcquireRequest {
        owner_id: "x".repeat(MESSAGE_BYTES / 2),
        ..AcquireRequest::default()
    }));
    let large = StoreCall { tag: 1, age_ms: 3, body, ..StoreCall::default() };
    link.send(Lane::Ordinary, vec![large; 3]).expect("there is room");
    let later = Instant::now() + Duration::from_millis(40);
    let first = link.waiting().take(later).expect("something waits");
    assert_eq!(first.calls.len(), 2, "the second reaches the bound");
    assert!(first.calls[0].age_ms >= 43 && first.calls[0].age_ms < 3 + 40 + 1_000);
    assert_eq!(tags(link.waiting().take(later)), [1]);
}

#[tokio::test]
async fn a_closed_link_takes_nothing() {
    let link = RemoteLink::default();
    link.send(Lane::Urgent, calls(1..2)).expect("there is room");
    link.close();
    assert_eq!(link.send(Lane::Urgent, calls(2..3)), Err(calls(2..3)));
}
