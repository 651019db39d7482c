//! Clients with more than one gateway.

use std::time::Duration;

use sharklock_client::{Client, GuardState};
use sharklock_tests::{proxy::Proxy, server::Server};
use tokio::time::{Instant, sleep};

/// A gateway that says nothing any more costs its clients neither lock nor place, and the lease is
/// never as short as it would be if they waited for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_gateway_is_left_for_another_without_losing_lock_or_place() {
    let server = Server::start().await;
    let (one, other) = (Proxy::start(server.gateway()).await, Proxy::start(server.gateway()).await);
    let endpoints = [one.endpoint(), other.endpoint()];
    let build = || Client::builder().endpoints(endpoints.clone()).build().unwrap();
    let (client, waiting) = (build(), build());
    let guard = client.lock("p").ttl(Duration::from_secs(6)).acquire().await.unwrap();
    let mut waiter = tokio::spawn(async move {
        waiting.lock("p").ttl(Duration::from_secs(6)).acquire().await.unwrap()
    });
    let mut shortest = Duration::MAX;
    // Whichever of the two the clients use, both fall silent one after the other.
    for silent in [&one, &other] {
        silent.silence();
        let until = Instant::now() + Duration::from_secs(8);
        while Instant::now() < until {
            shortest = shortest.min(guard.remaining());
            assert_eq!(guard.state(), GuardState::Safe);
            assert!(!waiter.is_finished());
            sleep(Duration::from_millis(10)).await;
        }
    }
    assert!(shortest > Duration::from_secs(3), "{shortest:?}");
    guard.release().await.unwrap();
    let next = tokio::time::timeout(Duration::from_secs(2), &mut waiter).await.unwrap().unwrap();
    next.release().await.unwrap();
}
