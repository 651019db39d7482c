//! What SharkLock is known for, one test for each line of the list, named after it.

use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;
use sharklock_client::{
    AcquireError, ChangeError, Client, Condition, FencingToken, Guard, GuardEventKind, GuardState,
    Holder, LeaseRule, LockInfo, LostReason, SessionsAsked,
};
use sharklock_history::FencingOracle;
use sharklock_proto::v1::{
    AcquireOutcome, AcquireRequest, AgreementOutcome, ClaimRequest, DowngradeOutcome,
    DowngradeRequest, KeepAliveState, ReleaseOutcome, SetConditionRequest,
};
use sharklock_tests::process::Process;
use sharklock_tests::proxy::Proxy;
use sharklock_tests::server::Server;
use sharklock_tests::wait::eventually;
use sharklock_tests::wire::{Session, locks};
use sharklock_tests::witness::{Want, Witness, judge};
use tempfile::TempDir;
use tokio::time::{Instant, timeout};

use crate::killed_keeper::Keeper;
use crate::ranges::{cli, cli_json};

/// For what is over in milliseconds on an idle machine, beside a lease of two seconds.
const SOON: Duration = Duration::from_secs(20);
/// The shortest lease that a server takes.
const SHORT: Duration = Duration::from_secs(2);
/// So long that nothing here ends by it.
const LONG: Duration = Duration::from_secs(60);
/// An address at which nobody answers.
const NOBODY: &str = "127.0.0.1:1";

/// By then a lock that has no live holder is free: the bound of SEMANTICS.md with one leader, and a
/// second for one commit on a busy machine.
fn free_by(ttl: Duration) -> Duration {
    ttl.mul_f64(1.01) + Duration::from_secs(1)
}

async fn seen(client: &Client, name: &str) -> LockInfo {
    let seen = client.get_lock(name).await.expect("a look succeeds");
    seen.lock.expect("somebody has it")
}

async fn until_waiters_are(client: &Client, name: &str, count: u32) {
    eventually(&format!("{count} waiters of {name}"), SOON, async || {
        let lock = client.get_lock(name).await.expect("a look succeeds").lock;
        (lock.map_or(0, |lock| lock.waiters_count) == count).then_some(())
    })
    .await;
}

/// Who holds the lock, as a try is told that finds it held.
async fn refused_by(client: &Client, name: &str) -> Vec<Holder> {
    match client.lock(name).try_once().acquire().await {
        Err(AcquireError::Held { holders, .. }) => holders,
        other => panic!("it is held by another: {other:?}"),
    }
}

/// Queues behind the holder: what comes is the guard, and when it came.
async fn behind(client: &Client, name: &str) -> tokio::task::JoinHandle<(Guard, Instant)> {
    let lock = client.lock(name).ttl(LONG);
    let waiting = tokio::spawn(async move {
        let guard = lock.acquire().await.expect("its turn comes");
        (guard, Instant::now())
    });
    until_waiters_are(client, name, 1).await;
    waiting
}

/// Waits until the holder's lease is renewed: a moment shortly before that.
async fn before_a_renewal(client: &Client, name: &str) -> Instant {
    let mut last = None;
    eventually("a renewal", SOON, async || {
        let asked = Instant::now();
        let left = seen(client, name).await.holders[0].remaining;
        let (before, had) = last.replace((asked, left))?;
        (left > had).then_some(before)
    })
    .await
}

/// The last moment until which a guard is promised, once it is lost, and why it was.
async fn promised_until(guard: &Guard) -> (std::time::Instant, LostReason) {
    let mut until = guard.valid_until();
    let lost = eventually("the loss of the guard", SOON, async || {
        let promised = guard.valid_until();
        if guard.is_valid() {
            until = until.max(promised);
        }
        timeout(Duration::ZERO, guard.lost()).await.ok()
    });
    let lost = lost.await;
    (until, lost)
}

/// The first row under a header of a table, by column.
fn cell<'t>(table: &'t str, column: &str) -> &'t str {
    let mut lines = table.lines().skip_while(|line| !line.contains(column));
    let (header, row) = (lines.next().expect("a header"), lines.next().expect("a row"));
    let at = header.find(column).expect("the column");
    row[at..].split("  ").next().expect("a cell").trim()
}

#[expect(clippy::disallowed_methods, reason = "the time that people are shown is compared with it")]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}

/// lockBy, condition, lockTime, txID and lease, as D10 has them: to people, as JSON, to a client, and
/// to whoever is refused.
#[tokio::test(flavor = "multi_thread")]
async fn metadata_is_shown_for_a_holder() {
    let name = "invoices/42";
    let (hour, ttl) = (Duration::from_secs(3_600), Duration::from_secs(20));
    let server = Server::start().await;
    let endpoints = [server.endpoint()];
    let client = Client::builder().endpoints(&endpoints).identity("billing@host-3").build();
    let (client, other) = (client.expect("the endpoint is an address"), server.client());
    let before = wall_clock();
    let lock = client.lock(name).ttl(ttl).max_hold(hour).attribute("job", "7");
    let guard = lock.acquire().await.expect("the lock is free");
    let after = wall_clock();
    let session = client.session_handle();
    let token = guard.token().to_string();
    let condition = Condition { max_hold: Some(hour), ..Condition::default() };

    let looked = seen(&other, name).await.holders.remove(0);
    assert_eq!(looked.attributes["job"], "7");
    // The leader's clock is this machine's, and is told in whole milliseconds.
    let between = before - Duration::from_millis(1)..=after;
    for shown in [looked, refused_by(&other, name).await.remove(0)] {
        assert_eq!((&*shown.owner, &*shown.session), ("billing@host-3", session), "lockBy");
        assert!(shown.address.starts_with("127.0.0.1:"), "lockBy: {}", shown.address);
        assert_eq!(shown.agreement.condition, condition);
        assert!(between.contains(&shown.since), "lockTime: {:?}", shown.since);
        let id = (shown.token, shown.acquisition);
        assert_eq!(id, (Some(guard.token()), guard.acquisition()), "txID");
        assert_eq!(shown.ttl, ttl, "lease");
        assert!(!shown.remaining.is_zero() && shown.remaining <= ttl.mul_f64(1.01), "{shown:?}");
    }

    let shown = cli_json(&endpoints, &["locks", "show", name]).await;
    let holder = &shown["lock"]["holders"][0];
    let text = |field: &str| holder[field].as_str().unwrap_or_else(|| panic!("{field}: {shown}"));
    assert_eq!((text("owner_id"), text("session")), ("billing@host-3", session), "lockBy");
    assert!(text("client_address").starts_with("127.0.0.1:"), "lockBy: {shown}");
    assert_eq!(holder["attributes"]["job"], "7", "lockBy");
    assert_eq!(holder["agreement"]["max_hold_ms"], "3600000", "condition");
    let since: prost_types::Timestamp = text("since").parse().expect("lockTime is RFC 3339");
    assert!(between.contains(&SystemTime::try_from(since).expect("it is after 1970")), "{since}");
    assert_eq!(text("token"), token, "txID");
    assert_eq!(text("ttl_ms"), "20000", "lease");
    let left: u64 = text("remaining_ms").parse().expect("a number");
    assert!((1..=20_200).contains(&left), "lease: {left}");

    let (code, table, err) = cli(&endpoints, &["locks", "show", name]).await;
    assert_eq!(code, Some(0), "{err}");
    assert_eq!((cell(&table, "HOLDER"), cell(&table, "SESSION")), ("billing@host-3", session));
    assert!(cell(&table, "ADDRESS").starts_with("127.0.0.1:"), "{table}");
    assert_eq!((cell(&table, "TOKEN"), cell(&table, "CONDITION")), (&*token, "max-hold 1h"));
    assert!(
        cell(&table, "SINCE").ends_with('s') && cell(&table, "LEASE").ends_with('s'),
        "{table}"
    );
    guard.release().await.expect("it is held");
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_keep_a_session_alive_and_their_end_frees_its_locks() {
    const NAMES: [&str; 2] = ["v/1", "v/2"];
    let server = Server::start().await;
    let other = server.client();
    let mut ghost = Witness::new(server.client());
    let session = ghost.client().session_handle().to_owned();
    let sessions = async || {
        let all = other.list_sessions(&SessionsAsked::default()).await.expect("a look succeeds");
        all.into_iter().map(|one| one.session).collect::<Vec<_>>()
    };
    // Its session lives on a runtime of its own, which ends without a word to the server.
    let (holds, mut held) = tokio::sync::mpsc::channel(1);
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let life = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
        let mut held = runtime.block_on(async {
            let mut held = Vec::new();
            for name in NAMES {
                let want = Want::exclusive(name).ttl(SHORT);
                held.push(ghost.acquire(&want).await.expect("the lock is free"));
            }
            held
        });
        let first = held[0].guard.valid_until();
        let tokens: Vec<_> = held.iter().map(|held| held.guard.token()).collect();
        holds.blocking_send((first, tokens)).expect("it is awaited");
        ended.recv().expect("it is said");
        for held in &mut held {
            held.note_promise();
        }
        runtime.shutdown_background();
        let ended = Instant::now();
        held.into_iter().for_each(|held| ghost.abandon(held));
        (ghost, ended)
    });
    let (first, tokens) = held.recv().await.expect("it holds");
    eventually("two leases more", SOON, async || {
        for (name, token) in NAMES.iter().zip(&tokens) {
            assert_eq!(refused_by(&other, name).await[0].token, Some(*token), "{name} is kept");
        }
        (Instant::now().into_std() > first + 2 * SHORT).then_some(())
    })
    .await;
    assert_eq!(sessions().await, std::slice::from_ref(&session), "it is alive");

    end.send(()).expect("it lives");
    let (ghost, ended) = tokio::task::block_in_place(|| life.join()).expect("no panic");
    let mut next = Witness::new(server.client());
    for name in NAMES {
        let held = next.acquire(&Want::exclusive(name)).await.expect("its turn comes");
        let after = ended.elapsed();
        assert!(after < free_by(SHORT), "{name} was freed {after:?} after the last heartbeat");
        next.release(held).await.expect("it is held");
    }
    assert_eq!(sessions().await, Vec::<String>::new(), "nothing is left of it");
    judge([ghost, next].map(Witness::into_recorder));
}

/// One missed beat costs nothing, three in a row the lock: never before the guard knows, and in time.
#[tokio::test(flavor = "multi_thread")]
async fn a_condition_by_missed_beats() {
    let interval = Duration::from_secs(1);
    let server = Server::start().await;
    let endpoints = [server.endpoint()];
    let (proxy, other) = (Proxy::start(server.gateway()).await, server.client());
    let client = Client::builder().endpoints([proxy.endpoint()]).build().expect("an address");
    let guard = client.lock("a").after_missed(3, interval).acquire().await.expect("it is free");
    let lease = LeaseRule::AfterMissed { missed: 3, interval };
    assert_eq!((guard.ttl(), guard.agreement().condition.lease), (3 * interval, lease));
    let (_, table, _) = cli(&endpoints, &["locks", "show", "a"]).await;
    assert_eq!(cell(&table, "CONDITION"), "after 3 missed, each 1s");

    proxy.move_to(NOBODY);
    eventually("a beat that is missed", SOON, async || {
        (guard.remaining() < interval.mul_f64(1.9)).then_some(())
    })
    .await;
    proxy.move_to(server.gateway());
    eventually("the next beat", SOON, async || {
        (guard.remaining() > interval.mul_f64(2.5)).then_some(())
    })
    .await;
    assert!(guard.is_valid());
    assert_eq!(refused_by(&other, "a").await[0].token, Some(guard.token()));

    let next = behind(&other, "a").await;
    proxy.move_to(NOBODY);
    let cut = Instant::now();
    let (until, lost) = promised_until(&guard).await;
    assert_eq!(lost, LostReason::Unrenewed);
    let (next, granted) = timeout(SOON, next).await.expect("it is free").expect("no panic");
    assert!(granted.into_std() >= until, "{:?} early", until - granted.into_std());
    assert!(granted - cut < free_by(3 * interval), "freed after {:?}", granted - cut);
    assert!(next.token() > guard.token());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_condition_is_changed_while_held() {
    let server = Server::start().await;
    let (client, other) = (server.client(), server.client());
    let guard = client.lock("a").ttl(SHORT).acquire().await.expect("the lock is free");
    assert_eq!(guard.agreement().condition, Condition::default());
    let limit = Condition { max_hold: Some(SOON * 3), ..Condition::default() };
    let agreed = guard.set_condition(limit, SHORT * 2).await.expect("it is held");
    assert_eq!((agreed.condition, agreed.ttl), (limit, SHORT * 2));
    assert_eq!(guard.ttl(), SHORT * 2);
    let stays = Condition { lease: LeaseRule::Hold, ..Condition::default() };
    let agreed = guard.set_condition(stays, SHORT * 2).await.expect("it is held");
    assert!(agreed.claimed && agreed.condition.holds());
    let shown = &seen(&client, "a").await.holders[0];
    assert_eq!((shown.agreement, shown.ttl), (agreed, SHORT * 2));
    guard.set_attributes([("job".to_owned(), "7".to_owned())].into()).await.expect("it is held");
    assert_eq!(seen(&client, "a").await.holders[0].attributes["job"], "7");
    let shorter = guard.set_condition(stays, SHORT).await;
    assert!(matches!(shorter, Err(ChangeError::Invalid { .. } | ChangeError::Refused { .. })));

    // Others see what is agreed now, and it takes effect.
    let bound = Condition { max_hold: Some(SHORT / 4), ..Condition::default() };
    let next = behind(&other, "a").await;
    let agreed = guard.set_condition(bound, SHORT * 2).await.expect("it is held");
    assert_eq!((agreed.condition, agreed.revision, agreed.claimed), (bound, 3, false));
    assert_eq!(refused_by(&other, "a").await[0].agreement, agreed);
    assert_eq!(timeout(SOON, guard.lost()).await, Ok(LostReason::HeldTooLong));
    let token = guard.token();
    drop(guard);
    let (next, _) = timeout(SOON, next).await.expect("it is free").expect("no panic");
    assert!(next.token() > token);
}

/// `Client::close`: users hear of the end, the lock is kept until they have stopped, and only then the
/// next holder begins.
#[tokio::test(flavor = "multi_thread")]
async fn the_shutdown_hook_ends_users_before_it_releases_their_locks() {
    let server = Server::start().await;
    let (client, other) = (server.client(), server.client());
    let mut events = client.events();
    let held = client.lock("a").ttl(SHORT).acquire().await.expect("the lock is free");
    let next = behind(&other, "a").await;
    let waiting = client.lock("b");
    let blocker = other.lock("b").acquire().await.expect("the lock is free");
    let waiting = tokio::spawn(async move { waiting.acquire().await });
    until_waiters_are(&other, "b", 1).await;
    let user = tokio::spawn(async move {
        let lost = held.run(std::future::pending::<()>()).await.expect_err("it has no end");
        assert_eq!(lost.reason, LostReason::Closed);
        assert!(!held.is_valid());
        // It takes longer to stop than its lease is long.
        let (begin, token) = (Instant::now(), held.token());
        while begin.elapsed() < SHORT.mul_f64(1.3) {
            let holder = refused_by(&other, "a").await.remove(0);
            assert_eq!(holder.token, Some(token), "it is kept until its user has stopped");
        }
        let stopped = Instant::now();
        drop(held);
        stopped
    });
    let closed = timeout(SOON, client.close(SOON)).await.expect("its user stops in time");
    let stopped = user.await.expect("no panic");
    assert_eq!((closed.released.len(), closed.unconfirmed.len()), (1, 0));
    let (next, begun) = timeout(SOON, next).await.expect("it is free").expect("no panic");
    assert!(begun >= stopped, "the next holder began {:?} too early", stopped - begun);
    assert!(matches!(waiting.await.expect("no panic"), Err(AcquireError::Closed)));
    assert!(matches!(client.lock("c").acquire().await, Err(AcquireError::Closed)));
    drop((client, blocker, next));
    let mut kinds = Vec::new();
    while let Some(event) = timeout(SOON, events.next()).await.expect("it ends") {
        kinds.push(event.expect("nothing is missed").kind);
    }
    let lost = GuardEventKind::Lost(LostReason::Closed);
    assert_eq!(kinds, [GuardEventKind::Safe, lost, GuardEventKind::Released]);
}

/// What a process had released in order is not taken back by its next life; what it had not is.
#[tokio::test(flavor = "multi_thread")]
async fn unreleased_locks_are_reclaimed_after_a_restart() {
    let server = Server::start().await;
    let dir = TempDir::new().expect("a temporary directory can be made");
    let names = ["kept/1", "kept/2"];
    let other = server.client();
    let mut first = Keeper::start(&server, &dir, SHORT, &names);
    let released = first.until_ready().await;
    first.ends_in_order().await;
    for name in names {
        let lock = other.get_lock(name).await.expect("a look succeeds").lock;
        assert_eq!(lock, None, "{name} was released");
    }

    let mut second = Keeper::start(&server, &dir, SHORT, &names);
    let unreleased = second.until_ready().await;
    assert!(unreleased.reclaimed.is_empty(), "{unreleased:?} after {released:?}");
    second.kill();
    let mut third = Keeper::start(&server, &dir, SHORT, &names);
    let back = third.until_ready().await;
    assert!(back.acquired.is_empty() && back.gone.is_empty(), "{back:?}");
    for name in names {
        let (old, new) = back.reclaimed[name];
        assert_eq!(old, unreleased.acquired[name]);
        assert!(released.acquired[name] < old && old < new, "{released:?} {back:?}");
        assert_eq!(refused_by(&other, name).await[0].token, Some(FencingToken::from_u64(new)));
    }
    third.ends_in_order().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn renewal_goes_on_for_ten_times_the_ttl() {
    let server = Server::start().await;
    let mut holder = Witness::new(server.client());
    let (other, want) = (server.client(), Want::exclusive("k").ttl(SHORT));
    let mut held = holder.acquire(&want).await.expect("the lock is free");
    let (first, token) = (held.guard.valid_until(), held.guard.token());
    let next = behind(&other, "k").await;
    let within = 11 * SHORT + SOON;
    eventually("a promise ten leases later", within, async || {
        assert!(held.guard.is_valid(), "there is no gap");
        assert!(!next.is_finished(), "nobody else gets it");
        held.note_promise();
        (held.guard.valid_until() > first + 10 * SHORT).then_some(())
    })
    .await;
    let shown = &seen(&other, "k").await.holders[0];
    assert_eq!((shown.token, held.guard.token()), (Some(token), token), "it is the same hold");
    holder.release(held).await.expect("it is held");
    let (next, _) = timeout(SOON, next).await.expect("it is free").expect("no panic");
    assert!(next.token() > token);
    judge([holder.into_recorder()]);
}

/// The owner of a hold that is over is refused with all that it may try, by the cluster and by a
/// resource that compares tokens, and the next owner does not notice.
#[tokio::test(flavor = "multi_thread")]
async fn the_version_check_refuses_a_stale_owner() {
    let server = Server::start().await;
    let (mut locks, client) = (locks(&server).await, server.client());
    let stale = Session::default();
    let ttl_ms = u64::try_from(SHORT.as_millis()).expect("it is short");
    let request = AcquireRequest { ttl_ms: Some(ttl_ms), ..stale.acquire("a") };
    let acquisition_id = request.acquisition_id;
    let got = locks.acquire(request).await.expect("it is served").into_inner();
    assert_eq!(got.outcome(), AcquireOutcome::Granted);
    let token = FencingToken::from_u64(got.token);
    let checked = client.check_token("a", token).await.expect("a look succeeds");
    assert_eq!((checked.live, checked.fence_floor), (true, Some(token)));

    // It never renews, as one that is paused.
    let guard = timeout(SOON, client.lock("a").acquire()).await.expect("its lease ends");
    let guard = guard.expect("it is free");
    let checked = client.check_token("a", token).await.expect("a look succeeds");
    assert_eq!((checked.live, checked.fence_floor), (false, None), "the old version is over");
    let checked = client.check_token("a", guard.token()).await.expect("a look succeeds");
    assert_eq!((checked.live, checked.fence_floor), (true, Some(guard.token())));

    let (id, instance, name) = (stale.id.clone(), stale.instance, "a".to_owned());
    let beat = locks.keep_alive(stale.keep_alive(&[("a", acquisition_id)])).await;
    assert_eq!(beat.expect("it is served").get_ref().answers[0].state(), KeepAliveState::Gone);
    let claim = ClaimRequest {
        session_id: id.clone(),
        instance,
        name: name.clone(),
        token: got.token,
        acquisition_id,
        revision: 0,
    };
    let claimed = locks.claim(claim).await.expect("it is served");
    assert_eq!(claimed.get_ref().outcome(), AgreementOutcome::Gone);
    let set = SetConditionRequest {
        session_id: id.clone(),
        instance,
        name: name.clone(),
        token: got.token,
        acquisition_id,
        revision: 0,
        ttl_ms,
        condition: None,
    };
    let set = locks.set_condition(set).await.expect("it is served");
    assert_eq!(set.get_ref().outcome(), AgreementOutcome::Gone);
    let downgrade =
        DowngradeRequest { session_id: id, instance, name, token: got.token, acquisition_id };
    let downgraded = locks.downgrade(downgrade).await.expect("it is served");
    assert_eq!(downgraded.get_ref().outcome(), DowngradeOutcome::Gone);
    let joins = AcquireRequest { reenter_token: Some(got.token), ..stale.acquire("a") };
    let joined = locks.acquire(joins).await.expect("it is served");
    assert_eq!(joined.get_ref().outcome(), AcquireOutcome::HoldLost);
    // Also with the next owner's token, which it may have seen.
    for token in [got.token, guard.token().as_u64()] {
        let released = locks.release(stale.release("a", token, acquisition_id)).await;
        let released = released.expect("it is served").into_inner();
        assert_eq!(released.outcome(), ReleaseOutcome::Gone, "{token}");
    }

    let mut resource = FencingOracle::default();
    let read = resource.read(token.as_u64(), 1).expect("nobody came later");
    let fresh = resource.read(guard.fence_floor().as_u64(), 2).expect("it is larger");
    resource.write(guard.fence_floor().as_u64(), 2, fresh, 7).expect("it is the largest");
    assert!(resource.write(token.as_u64(), 1, read, 8).is_err(), "the late write is refused");
    assert!(resource.read(token.as_u64(), 1).is_err(), "and so is a late read");
    assert_eq!(resource.value(), 7);

    assert!(guard.is_valid());
    assert_eq!(seen(&client, "a").await.holders[0].token, Some(guard.token()));
    guard.release().await.expect("it is held");
}

/// A waiter begins when the holder lets go, and not when a lease ends or a poll comes round (L1: a free
/// lock with a leader is granted within 1 s).
#[tokio::test(flavor = "multi_thread")]
async fn blocking_with_a_timely_wake_up() {
    const WAITERS: u32 = 10;
    let server = Server::start().await;
    let looks = server.client();
    let first = looks.lock("q").ttl(LONG).acquire().await.expect("the lock is free");
    let mut waiting = tokio::task::JoinSet::new();
    let (granted, mut grants) = tokio::sync::mpsc::channel(WAITERS as usize);
    for place in 1..=WAITERS {
        let (client, granted) = (server.client(), granted.clone());
        waiting.spawn(async move {
            let guard = client.lock("q").ttl(LONG).acquire().await.expect("its turn comes");
            granted.send((guard, Instant::now())).await.expect("it is awaited");
        });
        until_waiters_are(&looks, "q", place).await;
    }
    let mut holds = first;
    for place in 1..=WAITERS {
        let released = Instant::now();
        holds.release().await.expect("it is held");
        let (next, woken) = timeout(SOON, grants.recv()).await.expect("it is woken").expect("one");
        let took = woken - released;
        assert!(took < Duration::from_secs(1), "waiter {place} was woken after {took:?}");
        holds = next;
    }
    waiting.join_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn re_entry_has_the_same_token_and_the_hold_ends_with_the_last() {
    let server = Server::start().await;
    let (mut a, mut b) = (Witness::new(server.client()), Witness::new(server.client()));
    let want = Want::exclusive("r");
    let outer = a.acquire(&want).await.expect("the lock is free");

    // Somebody queues: a re-entry goes past the queue, or it would wait for itself.
    let (mut waiter, wanted) = (Witness::new(server.client()), want.clone());
    let waiting = tokio::spawn(async move {
        let held = waiter.acquire(&wanted).await;
        (waiter, held)
    });
    until_waiters_are(a.client(), "r", 1).await;
    let inner = a.reenter(&want, &outer).await.expect("it is held");
    assert_eq!(inner.token(), outer.token());
    assert_eq!(seen(a.client(), "r").await.holders[0].open_acquisitions, 2);

    let token = outer.token();
    a.release(outer).await.expect("it is held");
    assert!(b.look("r", token).await, "the inner acquisition keeps the hold");
    let refused = b.acquire(&want.clone().within(Duration::ZERO)).await.expect_err("it is held");
    assert!(matches!(refused, AcquireError::Held { .. }), "{refused}");
    assert!(!waiting.is_finished(), "the next holder does not begin");

    // Joining once the hold has ended is no fresh grant.
    let late = a.client().lock("r").reenter(&inner.guard);
    a.release(inner).await.expect("it is held");
    let late = late.acquire().await.expect_err("it has ended");
    assert!(matches!(late, AcquireError::HoldLost { .. }), "{late}");
    let (mut waiter, held) = timeout(SOON, waiting).await.expect("it is free").expect("no panic");
    let held = held.expect("its turn has come");
    assert!(held.token() > token);
    assert!(!b.look("r", token).await);
    waiter.release(held).await.expect("it is held");
    judge([a, b, waiter].map(Witness::into_recorder));
}

/// A frozen process can do nothing about its lock: the server ends the lease, after its time and not
/// before, and the process finds its loss when it wakes.
#[tokio::test(flavor = "multi_thread")]
async fn expiry_on_the_servers_side() {
    let server = Server::start().await;
    let other = server.client();
    let mut frozen = Process::spawn(&mut server.cli(&["lock", "n", "--ttl", "2s"]));
    eventually("its lock", SOON, async || frozen.stdout().contains("acquired n").then_some(()))
        .await;
    let next = behind(&other, "n").await;
    // The last heartbeat that is heard comes after this.
    let heard = before_a_renewal(&other, "n").await;
    frozen.signal(Signal::SIGSTOP);
    let stopped = Instant::now();
    let token = seen(&other, "n").await.holders[0].token.expect("a holder has one");
    let (next, granted) = timeout(SOON, next).await.expect("it is free").expect("no panic");
    let lasted = granted - heard;
    assert!(lasted >= SHORT.mul_f64(0.99), "freed {lasted:?} after its last heartbeat");
    let after = granted - stopped;
    assert!(after < free_by(SHORT), "freed {after:?} after the last heartbeat");
    assert_eq!(frozen.ended(), None, "nobody has asked its holder");
    assert!(next.token() > token);
    assert!(!other.check_token("n", token).await.expect("a look succeeds").live);
    frozen.signal(Signal::SIGCONT);
    assert_eq!(frozen.ends(SOON).await.code(), Some(79), "{}", frozen.stderr());
    assert!(next.is_valid(), "it does not disturb the next holder");
}

/// Dropping a guard releases; and a guard whose lease is over is lost by itself, without a word from
/// anybody, so that its user stops.
#[tokio::test(flavor = "multi_thread")]
async fn the_guard_closes_itself() {
    let server = Server::start().await;
    let (client, other) = (server.client(), server.client());
    let next = {
        let guard = client.lock("a").ttl(LONG).acquire().await.expect("the lock is free");
        let next = behind(&other, "a").await;
        assert!(guard.is_valid() && !next.is_finished());
        next
    };
    // Far less than the lease that the guard had.
    let (next, _) = timeout(SOON, next).await.expect("it is free").expect("no panic");
    drop(next);

    let proxy = Proxy::start(server.gateway()).await;
    let client = Client::builder().endpoints([proxy.endpoint()]).build().expect("an address");
    let guard = client.lock("b").ttl(SHORT).acquire().await.expect("the lock is free");
    let next = behind(&other, "b").await;
    proxy.move_to(NOBODY);
    let (works, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let work = guard.run(async {
        let _works = works;
        std::future::pending::<()>().await
    });
    let (lost, (until, reason)) = tokio::join!(work, promised_until(&guard));
    let found = Instant::now().into_std();
    assert_eq!(lost.expect_err("it has no end").reason, LostReason::Unrenewed);
    assert_eq!(reason, LostReason::Unrenewed);
    assert!(stopped.try_recv().is_err(), "the work was dropped");
    assert!(found >= until, "it was promised for {:?} more", until - found);
    assert!(!guard.is_valid() && guard.remaining().is_zero());
    assert_eq!(guard.state(), GuardState::Lost);
    let (next, granted) = timeout(SOON, next).await.expect("it is free").expect("no panic");
    assert!(granted.into_std() >= until, "the next holder began before");
    // A guard that is lost stays lost, also when its client is heard again.
    proxy.move_to(server.gateway());
    let again = client.lock("c").acquire().await.expect("the client goes on");
    assert!(!guard.is_valid());
    drop((guard, again));
    assert!(other.check_token("b", next.token()).await.expect("a look succeeds").live);
}
