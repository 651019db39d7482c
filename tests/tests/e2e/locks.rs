//! The promises of locks, through the public client, judged by the history of what clients saw.

use std::time::Duration;

use sharklock_client::{AcquireError, LockInfo, LostReason};
use sharklock_history::FencingOracle;
use sharklock_tests::server::Server;
use sharklock_tests::wait::eventually;
use sharklock_tests::witness::{Held, Want, Witness, increment, judge};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// For what is over in milliseconds on an idle machine.
const SOON: Duration = Duration::from_secs(10);

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

async fn seen(server: &Server, name: &str) -> Option<LockInfo> {
    server.client().get_lock(name).await.expect("a look succeeds").lock
}

async fn waiters_are(server: &Server, name: &str, count: u32) {
    let client = server.client();
    eventually(&format!("{count} waiters of {name}"), SOON, async || {
        let lock = client.get_lock(name).await.expect("a look succeeds").lock;
        (lock.map_or(0, |lock| lock.waiters_count) == count).then_some(())
    })
    .await;
}

/// Acquires in a task of its own, and gives the witness back with what it got.
fn acquire_later(
    tasks: &mut JoinSet<(Witness, Result<Held, AcquireError>)>,
    mut witness: Witness,
    want: Want,
) {
    tasks.spawn(async move {
        let result = witness.acquire(&want).await;
        (witness, result)
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exclusive_lock_has_one_holder_at_a_time() {
    const WORKERS: usize = 12;
    const CYCLES: usize = 25;
    let server = Server::start().await;
    let resources: &[Mutex<FencingOracle>; 3] = Box::leak(Box::default());
    let mut tasks = JoinSet::new();
    for worker in 0..WORKERS {
        let mut witness = Witness::new(server.client());
        tasks.spawn(async move {
            for cycle in 0..CYCLES {
                let which = (worker + cycle) % resources.len();
                let name = format!("resource/{which}");
                // Far more than the queue takes: a lock that stays held is a release undone.
                let want = Want::exclusive(&name).within(secs(30));
                let held = witness.acquire(&want).await.expect("a released lock can be taken");
                let token = held.token();
                assert!(increment(&resources[which], &held).await, "a live token passes the fence");
                assert!(cycle % 5 != 0 || witness.look(&name, token).await, "it is shown as held");
                witness.release(held).await.expect("a held lock is released");
                assert!(cycle % 5 != 1 || !witness.look(&name, token).await, "it is released");
            }
            witness.into_recorder()
        });
    }
    let report = judge(tasks.join_all().await);
    assert_eq!(report.counts.granted, (WORKERS * CYCLES) as u64);
    let mut sum = 0;
    for resource in resources {
        let resource = resource.lock().await;
        assert_eq!(resource.faults(), []);
        sum += resource.value();
    }
    assert_eq!(sum, (WORKERS * CYCLES) as u64, "no update is lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn sharers_hold_together_and_keep_writers_out() {
    let server = Server::start().await;
    let (mut a, mut b) = (Witness::new(server.client()), Witness::new(server.client()));
    let mut writer = Witness::new(server.client());
    let (shared, exclusive) = (Want::shared("s"), Want::exclusive("s"));
    let first = a.acquire(&shared).await.unwrap();
    let second = b.acquire(&shared).await.unwrap();
    assert!(second.token() > first.token());
    assert_eq!(second.guard.fence_floor(), first.guard.token());
    let refused = writer.acquire(&exclusive.clone().within(Duration::ZERO)).await.unwrap_err();
    assert!(matches!(refused, AcquireError::Held { .. }), "{refused}");

    // A writer that waits is not overtaken by sharers that come later.
    let mut tasks = JoinSet::new();
    acquire_later(&mut tasks, writer, exclusive);
    waiters_are(&server, "s", 1).await;
    let mut late = Witness::new(server.client());
    let refused = late.acquire(&shared.clone().within(Duration::ZERO)).await.unwrap_err();
    assert!(matches!(refused, AcquireError::Held { waiters: 1, .. }), "{refused:?}");
    a.release(first).await.unwrap();
    b.release(second).await.unwrap();
    let (mut writer, held) = tasks.join_next().await.unwrap().unwrap();
    writer.release(held.unwrap()).await.unwrap();
    judge([a, b, writer, late].map(Witness::into_recorder));
}

#[tokio::test(flavor = "multi_thread")]
async fn permits_are_never_more_than_there_are() {
    let server = Server::start().await;
    let (mut a, mut b) = (Witness::new(server.client()), Witness::new(server.client()));
    let at_once = |units| Want::permits("p", units, 5).within(Duration::ZERO);
    let three = a.acquire(&at_once(3)).await.unwrap();
    let two = b.acquire(&at_once(2)).await.unwrap();
    let refused = a.acquire(&at_once(1)).await.unwrap_err();
    assert!(matches!(refused, AcquireError::Held { .. }), "{refused}");
    b.release(two).await.unwrap();
    let one = b.acquire(&at_once(1)).await.unwrap();
    let refused = b.acquire(&at_once(2)).await.unwrap_err();
    assert!(matches!(refused, AcquireError::Held { .. }), "{refused}");
    let other_kind = b.acquire(&Want::exclusive("p").within(Duration::ZERO)).await.unwrap_err();
    assert!(matches!(other_kind, AcquireError::ModeMismatch { .. }), "{other_kind}");
    let other_count = b.acquire(&Want::permits("p", 1, 6)).await.unwrap_err();
    assert!(matches!(other_count, AcquireError::ModeMismatch { .. }), "{other_count}");
    a.release(three).await.unwrap();
    b.release(one).await.unwrap();
    judge([a, b].map(Witness::into_recorder));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_and_a_time_out_name_the_holder() {
    let server = Server::start().await;
    let (mut holder, mut other) = (Witness::new(server.client()), Witness::new(server.client()));
    let held = holder.acquire(&Want::exclusive("n")).await.unwrap();
    let token = held.guard.token();

    let refused = other.acquire(&Want::exclusive("n").within(Duration::ZERO)).await.unwrap_err();
    let AcquireError::Held { holders, waiters, .. } = refused else { panic!("{refused}") };
    assert_eq!((holders[0].token, holders[0].owner.as_str()), (Some(token), "tests"));
    assert_eq!((holders[0].session.as_str(), waiters), (holder.client().session_handle(), 0));

    let wait = Duration::from_millis(300);
    let begin = Instant::now();
    let late = other.acquire(&Want::exclusive("n").within(wait)).await.unwrap_err();
    let AcquireError::WaitTimedOut { holders, .. } = late else { panic!("{late}") };
    assert!(begin.elapsed() >= wait, "it gave up after {:?}", begin.elapsed());
    assert_eq!(holders[0].token, Some(token));
    assert_eq!(seen(&server, "n").await.unwrap().waiters_count, 0, "the place is given up");

    holder.release(held).await.unwrap();
    assert_eq!(seen(&server, "n").await, None, "a free lock leaves nothing behind");
    judge([holder, other].map(Witness::into_recorder));
}

#[tokio::test(flavor = "multi_thread")]
async fn waiters_are_served_in_the_order_in_which_they_queued() {
    const WAITERS: u32 = 12;
    let server = Server::start().await;
    let mut holder = Witness::new(server.client());
    let held = holder.acquire(&Want::exclusive("q")).await.unwrap();
    let (granted, mut order) = tokio::sync::mpsc::channel(WAITERS as usize);
    let mut tasks = JoinSet::new();
    for place in 1..=WAITERS {
        let mut witness = Witness::new(server.client());
        let granted = granted.clone();
        tasks.spawn(async move {
            let held = witness.acquire(&Want::exclusive("q")).await.unwrap();
            granted.send((held.token(), place)).await.unwrap();
            witness.release(held).await.unwrap();
            witness.into_recorder()
        });
        waiters_are(&server, "q", place).await;
    }
    drop(granted);
    let queue = seen(&server, "q").await.unwrap().waiters;
    assert_eq!(queue.len() as u32, WAITERS);
    holder.release(held).await.unwrap();
    let mut recorders = tasks.join_all().await;
    let mut served = Vec::new();
    while let Some(next) = order.recv().await {
        served.push(next);
    }
    served.sort_unstable();
    let places: Vec<u32> = served.into_iter().map(|(_, place)| place).collect();
    assert_eq!(places, (1..=WAITERS).collect::<Vec<_>>(), "places in order of tokens");
    recorders.push(holder.into_recorder());
    judge(recorders);
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_a_wait_gives_up_its_place_and_dropping_a_guard_its_lock() {
    let server = Server::start().await;
    let (holder, other) = (server.client(), server.client());
    let guard = holder.lock("d").acquire().await.unwrap();
    let waiting = tokio::spawn(other.lock("d").acquire());
    waiters_are(&server, "d", 1).await;
    waiting.abort();
    waiters_are(&server, "d", 0).await;
    drop(guard);
    eventually("the lock to be free", SOON, async || {
        seen(&server, "d").await.is_none().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_is_dropped_while_the_grant_is_on_its_way_leaves_no_hold() {
    let server = Server::start().await;
    let (holder, other) = (server.client(), server.client());
    for _ in 0..20 {
        let guard = holder.lock("d").acquire().await.unwrap();
        let waiting = tokio::spawn(other.lock("d").acquire());
        waiters_are(&server, "d", 1).await;
        // The grant and the withdrawal cross each other.
        let release = tokio::spawn(guard.release());
        waiting.abort();
        release.await.unwrap().unwrap();
        eventually("the lock to be free", SOON, async || {
            seen(&server, "d").await.is_none().then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_force_release_waits_until_the_holder_has_stopped() {
    let server = Server::start().await;
    let (mut holder, waiter) = (Witness::new(server.client()), Witness::new(server.client()));
    let held = holder.acquire(&Want::exclusive("f")).await.unwrap();
    let token = held.token();
    let mut tasks = JoinSet::new();
    acquire_later(&mut tasks, waiter, Want::exclusive("f"));
    waiters_are(&server, "f", 1).await;

    let operator = server.client();
    let done = operator.force_release("f", None, "wrong job", false, "ops").await.unwrap();
    assert!(!done.ended, "the holder has not stopped yet");
    assert_eq!(done.holders[0].token.map(|token| token.as_u64()), Some(token));
    let signal = held.guard.lost_signal();
    let why = tokio::time::timeout(SOON, signal.wait()).await.expect("the holder is told");
    assert_eq!(why, LostReason::ForceReleased { reason: "wrong job".to_owned() });
    let lock = seen(&server, "f").await.unwrap();
    assert_eq!(lock.holders[0].token.map(|token| token.as_u64()), Some(token), "not handed over");
    assert_eq!(lock.holders[0].ending_reason.as_deref(), Some("wrong job"));

    holder.lose(held).await;
    let begin = Instant::now();
    let (mut waiter, next) = tasks.join_next().await.unwrap().unwrap();
    let next = next.unwrap();
    assert!(next.token() > token);
    assert!(begin.elapsed() < secs(5), "handed over at the word of the holder, not at its ttl");
    waiter.release(next).await.unwrap();
    judge([holder, waiter].map(Witness::into_recorder));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_force_release_with_now_hands_over_at_once() {
    let server = Server::start().await;
    let (mut holder, mut next) = (Witness::new(server.client()), Witness::new(server.client()));
    let held = holder.acquire(&Want::exclusive("f")).await.unwrap();
    let token = held.token();
    let done = server.client().force_release("f", None, "host gone", true, "ops").await.unwrap();
    assert!(done.ended);
    holder.revoke(held);
    let at_once = next.acquire(&Want::exclusive("f").within(Duration::ZERO)).await.unwrap();
    assert!(at_once.token() > token);
    next.release(at_once).await.unwrap();
    judge([holder, next].map(Witness::into_recorder));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_not_held_cannot_be_force_released() {
    let server = Server::start().await;
    let done = server.client().force_release("none", None, "tidy", false, "ops").await.unwrap();
    assert_eq!(done.holders, []);
    server.client().force_release("none", None, "", false, "ops").await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_are_listed_in_order_of_their_names() {
    let server = Server::start().await;
    let client = server.client();
    let mut guards = Vec::new();
    for name in ["b/2", "a", "b/1", "c", "b/10"] {
        guards.push(client.lock(name).attribute("why", "test").acquire().await.unwrap());
    }
    let names = |locks: Vec<LockInfo>| locks.into_iter().map(|lock| lock.name).collect::<Vec<_>>();
    let all = client.list_locks("").await.unwrap();
    assert_eq!(all[0].holders[0].attributes["why"], "test");
    assert_eq!(names(all), ["a", "b/1", "b/10", "b/2", "c"]);
    assert_eq!(names(client.list_locks("b/").await.unwrap()), ["b/1", "b/10", "b/2"]);
    assert_eq!(names(client.list_locks("z").await.unwrap()), Vec::<String>::new());
}
