//! Clients with more than one gateway.

use std::time::Duration;

use sharklock_client::{AcquireError, CallError, Client, ClusterId, GuardState, LostReason};
use sharklock_tests::cluster::{CHAOS, Cluster, SOON, client};
use sharklock_tests::process::{Process, command};
use sharklock_tests::{proxy::Proxy, server::Server};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout};

use crate::alone;

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

/// A frozen process takes connections, and calls, for ever. It is asked first here, or by chance.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_gateway_costs_only_a_moment() {
    let _alone = alone().await;
    let cluster = Cluster::start(3, CHAOS).await;
    let leader = cluster.leader(&[0, 1, 2]).await;
    let frozen = (leader + 1) % 3;
    let endpoints = [frozen, leader, (leader + 2) % 3].map(|node| cluster.endpoint(node));
    let holder = client([cluster.endpoint(leader)]);
    let held = holder.lock("held").acquire().await.unwrap();
    // Each has a connection to some gateway, a third of them to the one that will be frozen.
    let mut busy = Vec::new();
    for number in 0..12 {
        let client = client(endpoints.clone());
        busy.push((client.lock(&format!("busy/{number}")).acquire().await.unwrap(), client));
    }
    cluster.pause(frozen);
    for (attempt, (guard, client)) in busy.into_iter().enumerate() {
        let wait = Duration::from_millis(1_500);
        let second = client.lock("free").wait(wait).acquire().await;
        let second = second.unwrap_or_else(|why| panic!("connected, attempt {attempt}: {why}"));
        second.release().await.unwrap();
        guard.release().await.unwrap();
    }
    for attempt in 0..12 {
        let client = client(endpoints.clone());
        let wait = Duration::from_millis(1_500);
        let guard = client.lock("free").wait(wait).acquire().await;
        let guard = guard.unwrap_or_else(|why| panic!("attempt {attempt}: {why}"));
        guard.release().await.unwrap();
    }
    let operator = Client::builder().endpoints(endpoints).call_timeout(SOON / 2).build().unwrap();
    let done = operator.force_release("held", None, "gone", false, "ops").await.unwrap();
    assert_eq!(done.holders[0].token, Some(held.token()));
    assert!(matches!(held.lost().await, LostReason::ForceReleased { .. }));
    cluster.resume(frozen);
}

/// A caller that gives a time-out gets it, wherever nobody answers: the clean-up is part of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_time_out_is_kept_where_nothing_answers() {
    // If the kernel has no room for connections it drops what would begin one, as a firewall may.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = socket.listen(0).unwrap();
    let address = full.local_addr().unwrap();
    let mut seats = Vec::new();
    while let Ok(seat) = timeout(Duration::from_millis(500), TcpStream::connect(address)).await {
        seats.push(seat.expect("somebody listens"));
    }
    let endpoint = format!("http://{address}");
    let args = ["lock", "n", "--timeout", "2s", "--endpoints", &endpoint, "--", "true"];
    let begin = Instant::now();
    let mut lock = Process::spawn(&mut command(args));
    let status = lock.ends(SOON).await;
    let took = begin.elapsed();
    assert_eq!(status.code(), Some(69), "{}", lock.stderr());
    // The promise is 100 ms; to start a process on a machine that is busy takes longer.
    assert!(took < Duration::from_millis(2_500), "{took:?}");
}

/// The cluster's id, as `sharklock status` shows it.
async fn cluster_of(server: &Server) -> ClusterId {
    let status = server.client().status().await.expect("it answers");
    status.cluster_id.parse().expect("it is an id")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_names_two_clusters_is_refused() {
    let (one, other) = (Server::start().await, Server::start().await);
    let ids = [cluster_of(&one).await.to_string(), cluster_of(&other).await.to_string()];
    let endpoints = [one.endpoint(), other.endpoint()];
    for _ in 0..4 {
        let client = client(endpoints.clone());
        let refused = client.lock("n").acquire().await.expect_err("it is refused");
        assert!(matches!(refused, AcquireError::OtherCluster(_)), "{refused}");
        let text = refused.to_string();
        assert!(ids.iter().chain(&endpoints).all(|part| text.contains(part)), "{text}");
        let refused = client.get_lock("n").await.expect_err("it is refused");
        assert!(matches!(refused, CallError::OtherCluster(_)), "{refused}");
    }
    let list = endpoints.join(",");
    let lock = ["lock", "n", "--", "true"].as_slice();
    let status = ["status"].as_slice();
    let force = ["locks", "force-release", "n", "--reason", "test"].as_slice();
    for args in [lock, status, force] {
        let mut run = Process::spawn(command(args).env("SHARKLOCK_ENDPOINTS", &list));
        let code = run.ends(SOON).await.code();
        let text = run.stderr();
        assert_eq!(code, Some(78), "{args:?}: {text}");
        assert!(text.contains("belong to two clusters"), "{text}");
        assert!(ids.iter().all(|id| text.contains(id)), "{text}");
    }
    for server in [&one, &other] {
        let free = server.client().get_lock("n").await.unwrap().lock;
        assert_eq!(free, None, "nothing was asked of either");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_told_its_cluster_uses_no_other() {
    let (meant, other) = (Server::start().await, Server::start().await);
    let cluster = cluster_of(&meant).await;
    let endpoints = [other.endpoint(), meant.endpoint()];
    for _ in 0..4 {
        let client = Client::builder().endpoints(endpoints.clone()).cluster(cluster);
        let client = client.build().unwrap();
        let guard = client.lock("n").acquire().await.unwrap();
        assert_eq!(client.get_lock("n").await.unwrap().lock.unwrap().holders_count, 1);
        assert_eq!(other.client().get_lock("n").await.unwrap().lock, None);
        assert_eq!(meant.client().get_lock("n").await.unwrap().lock.unwrap().holders_count, 1);
        guard.release().await.unwrap();
    }
    let elsewhere = Client::builder().endpoints([other.endpoint()]).cluster(cluster);
    let elsewhere = elsewhere.build().unwrap();
    let refused = timeout(SOON, elsewhere.lock("n").acquire()).await.expect("nobody waits for it");
    assert!(matches!(refused, Err(AcquireError::OtherCluster(_))), "{refused:?}");
    let refused = elsewhere.status().await.expect_err("it is another cluster");
    assert!(matches!(refused, CallError::OtherCluster(_)), "{refused}");
    let list = endpoints.join(" , ") + ",";
    let mut lock = command(["lock", "n", "--", "true"]);
    let lock = lock.env("SHARKLOCK_ENDPOINTS", list).env("SHARKLOCK_CLUSTER", cluster.to_string());
    let mut lock = Process::spawn(lock);
    assert_eq!(lock.ends(SOON).await.code(), Some(0), "{}", lock.stderr());
}

/// Its locks are none of the new cluster's business, and the new one's are none of its own.
#[tokio::test(flavor = "multi_thread")]
async fn an_empty_cluster_at_an_old_ones_address_is_not_taken_for_it() {
    let (old, new) = (Server::start().await, Server::start().await);
    let proxy = Proxy::start(old.gateway()).await;
    let client = client([proxy.endpoint()]);
    let guard = client.lock("n").ttl(Duration::from_secs(60)).acquire().await.unwrap();
    client.get_lock("n").await.unwrap();
    proxy.move_to(new.gateway());
    let lost = timeout(SOON, guard.lost()).await.expect("it is told at once");
    assert_eq!(lost, LostReason::OtherCluster);
    let refused = client.lock("n").acquire().await.expect_err("it is another cluster");
    let ids = [cluster_of(&old).await.to_string(), cluster_of(&new).await.to_string()];
    let text = refused.to_string();
    assert!(ids.iter().all(|id| text.contains(id)), "{text}");
    client.get_lock("n").await.expect_err("it is another cluster");
    assert_eq!(new.client().get_lock("n").await.unwrap().lock, None);
}
