//! Conditions through the public client: holds that outlive their client, asks and downgrades.

use std::time::Duration;

use sharklock_client::{
    ChangeError, Client, ConfigError, DowngradeError, FencingToken, LockInfo, ReclaimError,
    StateFileError,
};
use sharklock_tests::server::Server;
use sharklock_tests::wait::eventually;
use tokio::time::timeout;

/// For what is over in milliseconds on an idle machine, beside a lease of two seconds.
const SOON: Duration = Duration::from_secs(20);
/// The shortest that a server takes.
const SHORT: Duration = Duration::from_secs(2);
const SECRET: [u8; 16] = *b"one older secret";

fn life(server: &Server, instance: u64) -> Client {
    let builder = Client::builder().endpoints([server.endpoint()]);
    builder.session_secret(SECRET).instance(instance).build().expect("the endpoint is one")
}

async fn seen(client: &Client, name: &str) -> LockInfo {
    let seen = client.get_lock(name).await.expect("a look succeeds");
    seen.lock.expect("somebody has it")
}

/// A life of a client that acquires a lock and ends without a word: its token.
fn crashed_with(client: Client, name: &'static str, stays: bool) -> FencingToken {
    let crash = move || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
        let guard = runtime.block_on(async {
            let lock = client.lock(name).ttl(SHORT);
            let lock = if stays { lock.hold() } else { lock };
            lock.acquire().await.expect("the lock is free")
        });
        // Nobody is left who could send a release.
        runtime.shutdown_timeout(SOON);
        guard.token()
    };
    std::thread::spawn(crash).join().expect("no panic")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_stays_is_taken_back_by_the_next_life_of_its_client() {
    let server = Server::start().await;
    let older = life(&server, 1);
    let token = tokio::task::block_in_place(|| crashed_with(older, "kept", true));
    let other = server.client();
    eventually("the lease ends", SOON, async || {
        seen(&other, "kept").await.holders[0].orphaned.then_some(())
    })
    .await;
    assert!(other.try_lock("kept").await.expect("it is answered").is_none(), "it stays");
    let newer = life(&server, 2);
    let guard = newer.reclaim("kept", token).await.expect("it is an orphan of this session");
    assert!(guard.token() > token && guard.is_valid());
    assert!(guard.agreement().claimed && guard.agreement().condition.holds());
    let again = newer.reclaim("kept", token).await;
    assert!(matches!(&again, Err(ReclaimError::Gone { holders, .. }) if holders.len() == 1));
    guard.release().await.expect("it is held");
    assert!(other.try_lock("kept").await.expect("it is answered").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_hold_is_taken_back_when_its_lease_would_have_ended() {
    let server = Server::start().await;
    let older = life(&server, 1);
    let token = tokio::task::block_in_place(|| crashed_with(older, "kept", true));
    let newer = life(&server, 2);
    let guard = timeout(SOON, newer.reclaim("kept", token)).await.expect("it takes a lease");
    let guard = guard.expect("the older life does not answer");
    assert!(guard.token() > token && guard.agreement().claimed);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_life_hears_that_a_newer_one_has_taken_its_lock() {
    let server = Server::start().await;
    let (older, newer) = (life(&server, 1), life(&server, 2));
    let guard = older.lock("kept").ttl(SHORT).acquire().await.expect("the lock is free");
    let token = guard.token();
    let taking = tokio::spawn(async move { newer.reclaim("kept", token).await });
    timeout(SOON, guard.lost()).await.expect("it is told");
    assert!(!guard.is_valid());
    // It lets go, and the newer one need not wait for the end of the lease.
    drop(guard);
    let taken = timeout(SOON, taking).await.expect("in time").expect("no panic");
    assert!(taken.expect("the older one has let go").token() > token);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_is_asked_may_go_on_for_its_grace() {
    let server = Server::start().await;
    let (client, other) = (server.client(), server.client());
    let grace = Duration::from_secs(1);
    let held = client.lock("a").ttl(SHORT).ask_grace(grace);
    let held = held.acquire().await.expect("the lock is free");
    assert_eq!(held.asked(), None);
    let waiting = other.lock("a").owner("bob").ask();
    let waiting = tokio::spawn(async move { waiting.acquire().await });
    let asked = timeout(SOON, held.wait_asked()).await.expect("it is told").expect("it is held");
    assert_eq!((&*asked.owner, asked.grace), ("bob", grace));
    assert!(asked.remaining <= grace);
    timeout(SOON, held.lost()).await.expect("its time is over");
    drop(held);
    let taken = timeout(SOON, waiting).await.expect("it is free").expect("no panic");
    drop(taken.expect("it is free"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_downgraded_hold_lets_sharers_in() {
    let server = Server::start().await;
    let (client, other) = (server.client(), server.client());
    let guard = client.lock("a").acquire().await.expect("the lock is free");
    let token = guard.token();
    let inner = client.lock("a").reenter(&guard).acquire().await.expect("it is held");
    let refused = guard.downgrade().await;
    let Err(DowngradeError::Kept { guard, error: ChangeError::Shared { .. } }) = refused else {
        panic!("another guard counts on it: {refused:?}");
    };
    drop(inner);
    let guard = guard.downgrade().await.expect("it is alone");
    assert!(guard.token() > token);
    let sharer = other.lock("a").shared().try_acquire().await.expect("it is answered");
    assert!(sharer.is_some() && other.try_lock("a").await.expect("it is answered").is_none());
    guard.release().await.expect("it is held under its new token");
}

/// A client with a state file, once the one before has let go of it.
async fn with_state(server: &Server, path: &std::path::Path) -> Client {
    eventually("the state file is free", SOON, async || {
        let builder = Client::builder().endpoints([server.endpoint()]).ttl(SHORT);
        match builder.state_file(path).build() {
            Ok(client) => Some(client),
            Err(ConfigError::StateFile(StateFileError::InUse { .. })) => None,
            Err(error) => panic!("{error}"),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn unreleased_locks_are_taken_back_after_a_restart() {
    let server = Server::start().await;
    let folder = tempfile::TempDir::new().expect("a temporary folder can be made");
    let path = folder.path().join("client.state");
    let older = with_state(&server, &path).await;
    let session = older.session_handle().to_owned();
    let crash = move || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
        let guards = runtime.block_on(async {
            let mut guards = Vec::new();
            for name in ["kept/1", "kept/2", "kept/3"] {
                let guard = older.lock(name).hold().acquire().await.expect("the lock is free");
                guards.push(guard);
            }
            let released = older.lock("released").hold().acquire().await.expect("it is free");
            released.release().await.expect("it is held");
            let tried = older.lock("kept/1").hold().try_acquire().await;
            assert!(tried.expect("it is answered").is_none(), "it is held already");
            guards
        });
        // Nobody is left who could send a release.
        runtime.shutdown_timeout(SOON);
        guards.iter().map(sharklock_client::Guard::token).collect::<Vec<_>>()
    };
    let tokens = std::thread::spawn(crash).join().expect("no panic");
    let other = server.client();
    for name in ["kept/1", "kept/2", "kept/3"] {
        eventually("the lease ends", SOON, async || {
            seen(&other, name).await.holders[0].orphaned.then_some(())
        })
        .await;
    }
    // An operator has ended one of them, and another holds it now.
    let ended = other.force_release("kept/2", None, "not needed", false, "op").await;
    let ended = ended.expect("it is answered");
    assert_eq!((ended.holders.len(), ended.ended), (1, true), "an orphan has no lease to wait for");
    let theirs = timeout(SOON, other.lock("kept/2").acquire()).await.expect("it is ended");
    let theirs = theirs.expect("it is free");
    let newer = with_state(&server, &path).await;
    assert_eq!(newer.session_handle(), session);
    let mut reclaimed = newer.reclaim_all().await;
    let names: Vec<_> = reclaimed.iter().map(|one| one.name.to_string()).collect();
    assert_eq!(names, ["kept/1", "kept/2", "kept/3"]);
    assert_eq!(reclaimed.iter().map(|one| one.token).collect::<Vec<_>>(), tokens);
    let gone = reclaimed.remove(1).result.expect_err("an operator has ended it");
    let ReclaimError::Gone { holders, .. } = gone else { panic!("{gone}") };
    assert_eq!(holders[0].token, Some(theirs.token()));
    for (one, token) in reclaimed.into_iter().zip([tokens[0], tokens[2]]) {
        let guard = one.result.expect("it is an orphan of this session");
        assert!(guard.token() > token && guard.agreement().claimed);
        guard.release().await.expect("it is held");
    }
    assert!(newer.reclaim_all().await.is_empty(), "nothing is left");
    newer.close(Duration::ZERO).await;
    drop(newer);
    let last = with_state(&server, &path).await;
    assert!(last.reclaim_all().await.is_empty(), "nothing was left in the file");
}
