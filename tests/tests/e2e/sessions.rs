//! `sharklock sessions` and `sharklock locks why`: who holds and waits for what over two ranges, and an
//! end to it.

use std::time::Duration;

use serde_json::Value;
use sharklock_client::{AcquireError, Client, LostReason, SessionsAsked};
use sharklock_tests::cluster::SOON;
use sharklock_tests::server::Server;
use sharklock_tests::wait::eventually;

use crate::ranges::{cli, cli_json};

const TTL: Duration = Duration::from_secs(4);

/// A server with the ranges `..m` and `m..`.
async fn two_ranges() -> (Server, Vec<String>) {
    let server = Server::start().await;
    let endpoints = vec![server.endpoint()];
    cli_json(&endpoints, &["ranges", "split", "1", "--at", "m", "--wait"]).await;
    (server, endpoints)
}

async fn json_and_code(endpoints: &[String], args: &[&str], code: i32) -> Value {
    let args = [args, &["--output", "json"]].concat();
    let (ended, out, err) = cli(endpoints, &args).await;
    assert_eq!(ended, Some(code), "{args:?}: {err}{out}");
    serde_json::from_str(&out).unwrap_or_else(|why| panic!("{args:?}: {why}: {out}"))
}

async fn holder_of(client: &Client, name: &str) -> String {
    let lock = client.get_lock(name).await.expect("a look").lock.expect("it is held");
    lock.holders[0].session.clone()
}

async fn until_somebody_waits(client: &Client, name: &str) {
    eventually(&format!("a waiter of {name}"), SOON, async || {
        let lock = client.get_lock(name).await.ok()?.lock?;
        (lock.waiters_count == 1).then_some(())
    })
    .await;
}

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field].as_str().unwrap_or_else(|| panic!("no {field} in {value}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_two_ranges_is_found_shown_and_revoked() {
    let (server, endpoints) = two_ranges().await;
    let owner = |name: &str| {
        let client = Client::builder().endpoints(&endpoints).identity(name);
        client.build().expect("the endpoint is an address")
    };
    let (holder, other, waiting) = (owner("holder"), owner("other"), server.client());
    let low = holder.lock("a/1").ttl(TTL).acquire().await.expect("free");
    let high = holder.lock("z/1").ttl(TTL).acquire().await.expect("free");
    let others = other.lock("z/2").ttl(TTL).acquire().await.expect("free");
    let held_up = {
        let holder = holder.clone();
        tokio::spawn(async move { holder.lock("z/2").ttl(TTL).acquire().await.map(|_| ()) })
    };
    until_somebody_waits(&other, "z/2").await;
    let behind =
        tokio::spawn(async move { waiting.lock("a/1").acquire().await.map(|it| it.token()) });
    until_somebody_waits(&other, "a/1").await;
    let handle = holder_of(&other, "a/1").await;

    let list = cli_json(&endpoints, &["sessions", "ls", "--owner", "holde"]).await;
    assert_eq!(
        (text(&list, "schema"), text(&list, "sessions_count")),
        ("sharklock.v1.SessionList", "1")
    );
    let session = &list["sessions"][0];
    assert_eq!((text(session, "session"), text(session, "owner_id")), (&*handle, "holder"));
    assert_eq!((text(session, "holds_count"), text(session, "waiters_count")), ("2", "1"));
    let all = cli_json(&endpoints, &["sessions", "ls", "--limit", "1"]).await;
    assert_eq!(
        (text(&all, "sessions_count"), all["sessions"].as_array().map(Vec::len)),
        ("3", Some(1))
    );

    // By the first digits of its handle.
    let shown = cli_json(&endpoints, &["sessions", "show", &handle[..8]]).await;
    let locks = shown["locks"].as_array().expect("a list");
    assert_eq!(
        locks.iter().map(|lock| text(lock, "name")).collect::<Vec<_>>(),
        ["a/1", "z/1", "z/2"]
    );
    assert_eq!(text(&locks[0]["holds"][0], "token"), low.token().as_u64().to_string());
    assert_eq!((&locks[2]["waits"][0]["place"], &locks[2]["holds_count"]), (&1.into(), &0.into()));
    let none = json_and_code(&endpoints, &["sessions", "show", &"0".repeat(32)], 4).await;
    assert_eq!((text(&none, "schema"), &none["found"]), ("sharklock.v1.Session", &false.into()));
    let (code, _, err) = cli(&endpoints, &["sessions", "show", "00000000"]).await;
    assert_eq!(
        (code, err.contains("no session whose handle begins with 00000000")),
        (Some(4), true),
        "{err}"
    );

    // A dry run does nothing; an order to end nothing is no success.
    let revoke = ["sessions", "revoke", &handle, "--reason", "host-3 is gone"];
    let plan = cli_json(&endpoints, &[&revoke[..], &["--dry-run"]].concat()).await;
    assert_eq!((text(&plan, "holds_count"), text(&plan, "waiters_count")), ("2", "1"));
    assert_eq!((&plan["dry_run"], text(&plan, "ranges_count")), (&true.into(), "2"));
    assert!(other.check_token("a/1", low.token()).await.expect("a look").live);
    let nobody = ["sessions", "revoke", &"f".repeat(32), "--reason", "a test"];
    assert_eq!(json_and_code(&endpoints, &nobody, 4).await["found"], Value::from(false));

    // Its client hears it, its waiter leaves, and whoever is behind it gets the lock.
    let order = [&revoke[..], &["--wait"]].concat();
    let heard = async {
        for guard in [&low, &high] {
            let lost = guard.lost().await;
            let LostReason::ForceReleased { reason } = &lost else { panic!("{lost:?}") };
            assert!(reason.contains("host-3 is gone"), "{lost:?}");
        }
        let refused = held_up.await.expect("no panic").expect_err("it has left the queue");
        assert!(matches!(refused, AcquireError::Lost { .. }), "{refused:?}");
        let next = behind.await.expect("no panic").expect("its turn has come");
        assert!(next > low.token());
    };
    let (done, ()) = tokio::join!(cli_json(&endpoints, &order), heard);
    assert_eq!((&done["ended"], &done["found"]), (&true.into(), &true.into()), "{done}");
    assert_eq!((text(&done, "holds_count"), text(&done, "waiters_count")), ("2", "1"));
    assert!(
        other.check_token("z/2", others.token()).await.expect("a look").live,
        "others keep theirs"
    );
    let left = other.get_session(&handle).await.expect("a look");
    assert!(left.is_empty(), "{left:?}");

    // It is no ban.
    holder
        .lock("z/1")
        .ttl(TTL)
        .acquire()
        .await
        .expect("free")
        .release()
        .await
        .expect("it was held");
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_why_follows_a_chain_over_two_ranges_and_names_a_circle() {
    let (server, endpoints) = two_ranges().await;
    let why =
        async |name: &str, code| json_and_code(&endpoints, &["locks", "why", name], code).await;
    let free = why("a", 4).await;
    assert_eq!((text(&free, "schema"), &free["free"]), ("sharklock.v1.LockWhy", &true.into()));

    let [one, two, three] = [server.client(), server.client(), server.client()];
    let take = async |client: &Client, name: &str| {
        client.lock(name).ttl(TTL).acquire().await.expect("free")
    };
    let wait = |client: &Client, name: &'static str| {
        let client = client.clone();
        tokio::spawn(async move { client.lock(name).ttl(TTL).acquire().await.map(|_| ()) })
    };
    let (_a, _n, _b) = (take(&one, "a").await, take(&two, "n").await, take(&three, "b").await);
    let first = wait(&one, "n");
    until_somebody_waits(&one, "n").await;
    let second = wait(&two, "b");
    until_somebody_waits(&one, "b").await;

    let chain = why("a", 0).await;
    let next = |link: &Value| link["holders"][0]["waits_for"][0].clone();
    let (n, b) = (next(&chain["lock"]), next(&next(&chain["lock"])));
    assert_eq!((text(&n, "name"), text(&b, "name")), ("n", "b"));
    assert_eq!((&chain["circle"], &chain["is_cut"]), (&Value::Array(vec![]), &false.into()));
    assert_eq!(b["holders"][0]["waits_for"], Value::Array(vec![]), "{chain}");

    let third = wait(&three, "a");
    until_somebody_waits(&one, "a").await;
    let circle = why("n", 5).await;
    assert_eq!(circle["circle"], serde_json::json!(["n", "b", "a", "n"]));
    let (code, told, err) = cli(&endpoints, &["locks", "why", "a"]).await;
    assert_eq!(code, Some(5), "{err}");
    assert!(told.contains("a circle: a -> n -> b -> a"), "{told}");

    // The way out that it tells.
    let asked = SessionsAsked::default();
    assert_eq!(one.list_sessions(&asked).await.expect("a list").len(), 3);
    let handle = holder_of(&one, "a").await;
    assert!(told.contains(&format!("sharklock sessions revoke {handle}")), "{told}");
    let (code, _, err) =
        cli(&endpoints, &["sessions", "revoke", &handle[..12], "--reason", "a circle"]).await;
    assert_eq!(code, Some(0), "{err}");
    first.await.expect("no panic").expect_err("it was revoked");
    third.await.expect("no panic").expect("its turn has come");
    second.abort();
}
