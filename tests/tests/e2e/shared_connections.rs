//! Sessions of many clients over connections that they share: each is for itself, whatever becomes of
//! the others and of the connection.

use std::time::Duration;

use sharklock_client::{Client, Connections, LostReason};
use sharklock_tests::cluster::SOON;
use sharklock_tests::server::Server;
use sharklock_tests::wait::eventually;

const TTL: Duration = Duration::from_secs(10);

/// So many clients that share these connections.
fn clients(server: &Server, connections: &Connections, count: usize) -> Vec<Client> {
    let client = || Client::builder().endpoints([server.endpoint()]).ttl(TTL).share(connections);
    (0..count).map(|_| client().build().expect("the endpoint is an address")).collect()
}

/// Open connections, as the gateway counts them.
async fn connections_at(server: &Server) -> f64 {
    let (_, text) = server.get("/metrics").await;
    let line = text.lines().find_map(|line| line.strip_prefix("sharklock_gateway_connections "));
    line.expect("it is a metric").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_goes_to_the_session_that_waits() {
    let (server, connections) = (Server::start().await, Connections::new());
    let clients = clients(&server, &connections, 8);
    // All number their acquisitions in the same way: only the session tells them apart.
    let first = clients[0].lock("one").acquire().await.expect("free");
    let mut waiting = Vec::new();
    for (place, client) in clients.iter().enumerate().skip(1) {
        let lock = client.lock("one");
        waiting.push(tokio::spawn(async move { (place, lock.acquire().await) }));
        eventually("it waits", SOON, async || {
            let lock = clients[0].get_lock("one").await.ok()?.lock?;
            (lock.waiters_count as usize == place).then_some(())
        })
        .await;
    }
    let mut token = first.token();
    first.release().await.expect("held");
    for (expected, waiter) in (1..).zip(waiting) {
        let (place, granted) = waiter.await.expect("it does not panic");
        let guard = granted.expect("it is its turn");
        assert!(place == expected && guard.token() > token, "in the order in which they came");
        let holder = clients[0].get_lock("one").await.expect("a look").lock.expect("held");
        assert_eq!(holder.holders[0].session, clients[place].session_handle());
        token = guard.token();
        guard.release().await.expect("held");
    }
    assert_eq!((connections.count(), connections.sessions_count()), (1, 8));
    // One for the sessions, and one for the looks of all of them.
    assert_eq!(connections_at(&server).await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_come_and_go_and_the_last_ends_the_connection() {
    let (server, connections) = (Server::start().await, Connections::new());
    // The second round has the numbers of the first again.
    for round in 0..2 {
        let clients = clients(&server, &connections, 20);
        let mut guards = Vec::new();
        for (number, client) in clients.iter().enumerate() {
            let name = format!("{round}/{number}");
            guards.push(client.lock(&name).acquire().await.expect("free"));
        }
        assert_eq!((connections.count(), connections.sessions_count()), (1, 20));
        // Half of them go: nothing of the others does.
        let rest = guards.split_off(10);
        drop(guards);
        let ends: Vec<_> = clients.iter().take(10).map(Client::ended).collect();
        drop(clients);
        for end in ends {
            end.await;
        }
        assert_eq!(connections.sessions_count(), 10);
        assert!(rest.iter().all(sharklock_client::Guard::is_valid));
        for guard in rest {
            guard.release().await.expect("held");
        }
        let gone = async || (connections.count() == 0).then_some(());
        eventually("the connection ends", SOON, gone).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_to_one_session_is_not_told_to_another() {
    let (server, connections) = (Server::start().await, Connections::new());
    let clients = clients(&server, &connections, 2);
    let one = clients[0].lock("one").acquire().await.expect("free");
    let other = clients[1].lock("other").acquire().await.expect("free");
    let operator = server.client();
    let (token, why) = (Some(one.token()), "a test");
    operator.force_release("one", token, why, true, "tests").await.expect("it is held");
    assert!(matches!(one.lost().await, LostReason::ForceReleased { .. }));
    assert!(other.is_valid());
    other.release().await.expect("held");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_sessions_go_on_after_the_connection_was_lost() {
    let (mut server, connections) = (Server::start().await, Connections::new());
    let clients = clients(&server, &connections, 30);
    let mut guards = Vec::new();
    for (number, client) in clients.iter().enumerate() {
        guards.push(client.lock(&format!("{number}")).acquire().await.expect("free"));
    }
    server.kill();
    server.start_again().await;
    // Every session names what it holds as soon as it is back.
    drop(connections.take_keepalive_delays());
    let mut answered = 0;
    eventually("all are renewed", SOON, async || {
        let delays = connections.take_keepalive_delays();
        assert!(delays.within(0.5) <= delays.longest(), "{delays:?}");
        answered += delays.answered();
        (answered >= 30).then_some(())
    })
    .await;
    assert!(guards.iter().all(sharklock_client::Guard::is_valid));
    assert_eq!((connections.count(), connections.sessions_count()), (1, 30));
    for guard in guards {
        guard.release().await.expect("held");
    }
}
