//! Conditions, claims, reclaims, asks, downgrades and watches over raw unary calls: what a client in
//! any language sees.

use std::time::Duration;

use sharklock_proto::v1::{
    AcquireOutcome, AcquireRequest, AcquireResponse, AgreementOutcome, AskRequest, ClaimRequest,
    Condition, DowngradeOutcome, DowngradeRequest, GetLockRequest, GoneReason, KeepAliveAnswer,
    KeepAliveState, LeaseRule, LockInfo, LockMode, ReclaimRequest, ReleaseOutcome,
    SetConditionRequest, WatchLockRequest, WatchLockResponse,
    lock_service_client::LockServiceClient,
};
use sharklock_tests::{
    server::Server,
    wait,
    wire::{Session, locks, reason},
};
use tokio::time::Instant;
use tonic::transport::Channel;

type Locks = LockServiceClient<Channel>;

/// Far above what anything here takes that is not a lease.
const SOON: Duration = Duration::from_secs(20);
const LONG_MS: u64 = 60_000;
/// The shortest that a server takes.
const SHORT_MS: u64 = 2_000;

fn with(session: &Session, name: &str, ttl_ms: u64, condition: Condition) -> AcquireRequest {
    AcquireRequest { ttl_ms: Some(ttl_ms), condition: Some(condition), ..session.acquire(name) }
}

fn hold() -> Condition {
    Condition { lease: LeaseRule::Hold.into(), ..Condition::default() }
}

/// Acquires, which must succeed: the acquisition and its grant.
async fn granted(locks: &mut Locks, request: AcquireRequest) -> (u64, AcquireResponse) {
    let id = request.acquisition_id;
    let got = locks.acquire(request).await.expect("it is served").into_inner();
    assert_eq!(got.outcome(), AcquireOutcome::Granted, "{got:?}");
    (id, got)
}

async fn look(locks: &mut Locks, name: &str) -> LockInfo {
    let request = GetLockRequest { name: name.to_owned(), waiters_max: 0 };
    locks.get_lock(request).await.expect("it is served").into_inner().lock.unwrap_or_default()
}

async fn renewed(locks: &mut Locks, session: &Session, name: &str, id: u64) -> KeepAliveAnswer {
    let answered = locks.keep_alive(session.keep_alive(&[(name, id)])).await;
    answered.expect("it is served").into_inner().answers.remove(0)
}

fn claim(session: &Session, name: &str, token: u64, id: u64, revision: u64) -> ClaimRequest {
    ClaimRequest {
        session_id: session.id.clone(),
        instance: session.instance,
        name: name.to_owned(),
        token,
        acquisition_id: id,
        revision,
    }
}

fn reclaim(session: &Session, instance: u64, name: &str, token: u64) -> ReclaimRequest {
    ReclaimRequest {
        session_id: session.id.clone(),
        instance,
        acquisition_id: session.next(),
        seq: session.next(),
        name: name.to_owned(),
        token,
        ..ReclaimRequest::default()
    }
}

async fn until_orphaned(locks: &mut Locks, name: &str) {
    wait::eventually("the lease ends", SOON, async || {
        let lock = look(&mut locks.clone(), name).await;
        lock.holders.first().is_some_and(|holder| holder.orphaned).then_some(())
    })
    .await;
}

/// Nobody gets what a session has claimed; it, and only it, takes it back, under a larger token.
#[tokio::test(flavor = "multi_thread")]
async fn a_claimed_hold_outlives_its_lease_and_goes_to_its_session_only() {
    let server = Server::start().await;
    let mut locks = locks(&server).await;
    let (mine, other) = (Session::default(), Session::default());
    let (id, got) = granted(&mut locks, with(&mine, "a", SHORT_MS, hold())).await;
    let agreed = got.agreement.expect("a condition was asked for");
    assert_eq!((agreed.claimed, agreed.revision, agreed.ttl_ms), (false, 0, SHORT_MS));

    let claimed = locks.claim(claim(&mine, "a", got.token, id, 0)).await.expect("it is served");
    assert_eq!(claimed.get_ref().outcome(), AgreementOutcome::Agreed);
    assert!(claimed.get_ref().agreement.expect("it says what holds").claimed);
    let late = locks.claim(claim(&mine, "a", got.token, id, 7)).await.expect("it is served");
    assert_eq!(late.get_ref().outcome(), AgreementOutcome::RevisionMoved);

    until_orphaned(&mut locks, "a").await;
    let answer = renewed(&mut locks, &mine, "a", id).await;
    assert_eq!(
        (answer.state(), answer.gone_reason()),
        (KeepAliveState::Gone, GoneReason::Orphaned)
    );
    let tried = locks.acquire(other.acquire("a")).await.expect("it is answered").into_inner();
    assert_eq!(tried.outcome(), AcquireOutcome::HeldByOther);
    let shown = tried.holders[0].agreement.expect("whoever waits sees the condition");
    assert_eq!(shown.condition.expect("it is set").lease(), LeaseRule::Hold);

    let stolen = locks.reclaim(reclaim(&other, 9, "a", got.token)).await.expect_err("not his");
    assert_eq!(reason(&stolen), "NOT_RECLAIMABLE");
    let wrong = locks.reclaim(reclaim(&mine, 2, "a", got.token + 99)).await.expect("answered");
    assert_eq!(wrong.get_ref().outcome(), AcquireOutcome::HoldLost);
    let request = reclaim(&mine, 2, "a", got.token);
    let back = locks.reclaim(request.clone()).await.expect("it is served").into_inner();
    assert_eq!(back.outcome(), AcquireOutcome::Granted);
    assert!(back.token > got.token && back.agreement.expect("it is inherited").claimed);
    let again = locks.reclaim(request).await.expect("it is served").into_inner();
    assert_eq!(again.token, back.token, "a duplicate gets the same");
    let old = locks.reclaim(reclaim(&mine, 1, "a", back.token)).await.expect_err("an older life");
    assert_eq!(reason(&old), "NOT_RECLAIMABLE");
}

/// The older life is told, and its release hands the hold over at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_live_hold_is_reclaimed_when_its_older_life_lets_go() {
    let server = Server::start().await;
    let mut locks = locks(&server).await;
    let (mine, waiting) = (Session::default(), Session::default());
    let request = AcquireRequest { ttl_ms: Some(LONG_MS), ..mine.acquire("a") };
    let (id, got) = granted(&mut locks, request).await;
    let queued = AcquireRequest { wait_ms: None, ..waiting.acquire("a") };
    let mut behind = locks.clone();
    let behind = tokio::spawn(async move { behind.acquire(queued).await });
    wait::eventually("somebody waits", SOON, async || {
        (look(&mut locks.clone(), "a").await.waiters_count == 1).then_some(())
    })
    .await;
    let (mut newer, request) = (locks.clone(), reclaim(&mine, 2, "a", got.token));
    let newer = tokio::spawn(async move { newer.reclaim(request).await });
    wait::eventually("the older life is told", SOON, async || {
        let answer = renewed(&mut locks.clone(), &mine, "a", id).await;
        (answer.state() == KeepAliveState::Ending).then_some(())
    })
    .await;
    locks.release(mine.release("a", got.token, id)).await.expect("it is served");
    let back = newer.await.expect("it ran").expect("it is served").into_inner();
    assert_eq!(back.outcome(), AcquireOutcome::Granted, "before whoever waits");
    let release = mine.next_life().release("a", back.token, back.acquisition_id);
    let released = locks.release(release).await.expect("it is served").into_inner();
    assert_eq!(released.outcome(), ReleaseOutcome::Released);
    let next = behind.await.expect("it ran").expect("it is served").into_inner();
    assert!(next.token > back.token && back.token > got.token);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_ends_with_notice_at_its_bound_and_its_place_stays_taken_for_its_delay() {
    let server = Server::start().await;
    let mut locks = locks(&server).await;
    let (mine, other) = (Session::default(), Session::default());
    let condition =
        Condition { max_hold_ms: Some(200), lock_delay_ms: Some(1_000), ..Condition::default() };
    let (id, got) = granted(&mut locks, with(&mine, "a", SHORT_MS, condition)).await;
    wait::eventually("its bound is over", SOON, async || {
        let answer = renewed(&mut locks.clone(), &mine, "a", id).await;
        (answer.state() == KeepAliveState::Ending).then_some(())
    })
    .await;
    // Its client does not let go, so its lease is waited for.
    let gone = wait::eventually("its lease is over", SOON, async || {
        let answer = renewed(&mut locks.clone(), &mine, "a", id).await;
        (answer.state() == KeepAliveState::Gone).then_some(answer)
    })
    .await;
    assert_eq!(gone.gone_reason(), GoneReason::HeldTooLong);
    let tried = locks.acquire(other.acquire("a")).await.expect("it is answered").into_inner();
    assert_eq!((tried.outcome(), tried.holders.len()), (AcquireOutcome::HeldByOther, 0));
    assert!((1..=1_100).contains(&tried.retry_after_ms), "{}", tried.retry_after_ms);
    let waits = AcquireRequest { wait_ms: Some(LONG_MS), ..other.acquire("a") };
    let (_, next) = granted(&mut locks, waits).await;
    assert!(next.token > got.token);
}

/// An ask marks who has agreed to be asked, and ends nothing while nobody waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_holder_who_is_asked_goes_after_his_grace_and_not_for_nobody() {
    let server = Server::start().await;
    let mut locks = locks(&server).await;
    let (mine, other) = (Session::default(), Session::default());
    let condition = Condition { ask_grace_ms: Some(300), ..Condition::default() };
    let (id, got) = granted(&mut locks, with(&mine, "a", LONG_MS, condition)).await;
    let ask = |acquisition_id| AskRequest {
        session_id: other.id.clone(),
        instance: other.instance,
        name: "a".to_owned(),
        acquisition_id,
    };
    for acquisition_id in [0, 77] {
        let refused = locks.ask(ask(acquisition_id)).await.expect_err("nobody waits");
        assert_eq!(reason(&refused), "NOT_WAITING");
    }
    let request = AcquireRequest { wait_ms: Some(LONG_MS), ..other.acquire("a") };
    let waiting = request.acquisition_id;
    let mut behind = locks.clone();
    let behind = tokio::spawn(async move { behind.acquire(request).await });
    let asked =
        wait::eventually("it waits", SOON, async || locks.clone().ask(ask(waiting)).await.ok());
    let asked = asked.await.into_inner();
    assert_eq!((asked.asked_count, asked.holders[0].token), (1, got.token));
    wait::eventually("his grace is over", SOON, async || {
        let answer = renewed(&mut locks.clone(), &mine, "a", id).await;
        (answer.state() == KeepAliveState::Ending).then_some(())
    })
    .await;
    locks.release(mine.release("a", got.token, id)).await.expect("it is served");
    let next = behind.await.expect("it ran").expect("it is served").into_inner();
    assert_eq!(next.outcome(), AcquireOutcome::Granted);
    // Whoever has not agreed to it is not asked.
    let last = AcquireRequest { wait_ms: Some(LONG_MS), ..mine.acquire("a") };
    let mut behind = locks.clone();
    let behind = tokio::spawn(async move { behind.acquire(last).await });
    let asked = wait::eventually("it waits", SOON, async || locks.clone().ask(ask(0)).await.ok());
    assert_eq!(asked.await.get_ref().asked_count, 0);
    behind.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_downgrade_lets_readers_in_under_a_larger_token() {
    let server = Server::start().await;
    let mut locks = locks(&server).await;
    let (mine, reader) = (Session::default(), Session::default());
    let request = AcquireRequest { ttl_ms: Some(LONG_MS), ..mine.acquire("a") };
    let (id, got) = granted(&mut locks, request).await;
    let shared = AcquireRequest {
        mode: LockMode::Shared.into(),
        wait_ms: Some(LONG_MS),
        ..reader.acquire("a")
    };
    let mut behind = locks.clone();
    let behind = tokio::spawn(async move { behind.acquire(shared).await });
    wait::eventually("a reader waits", SOON, async || {
        (look(&mut locks.clone(), "a").await.waiters_count == 1).then_some(())
    })
    .await;
    let downgrade = DowngradeRequest {
        session_id: mine.id.clone(),
        instance: mine.instance,
        name: "a".to_owned(),
        token: got.token,
        acquisition_id: id,
    };
    let first = locks.downgrade(downgrade.clone()).await.expect("it is served").into_inner();
    assert_eq!(first.outcome(), DowngradeOutcome::Downgraded);
    assert!(first.token > got.token && first.fence_floor == first.token);
    let read = behind.await.expect("it ran").expect("it is served").into_inner();
    assert_eq!((read.outcome(), read.fence_floor), (AcquireOutcome::Granted, first.token));
    let again = locks.downgrade(downgrade).await.expect("it is served").into_inner();
    assert_eq!((again.outcome(), again.token), (first.outcome(), first.token), "a repetition");
    let answer = renewed(&mut locks, &mine, "a", id).await;
    assert_eq!((answer.state(), answer.token), (KeepAliveState::Held, first.token));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_condition_is_agreed_anew_once_whatever_is_repeated() {
    let server = Server::start().await;
    let mut locks = locks(&server).await;
    let mine = Session::default();
    let (id, got) = granted(&mut locks, mine.acquire("a")).await;
    assert_eq!(got.agreement, None, "nothing was asked for");
    let set = |revision, ttl_ms, condition| SetConditionRequest {
        session_id: mine.id.clone(),
        instance: mine.instance,
        name: "a".to_owned(),
        token: got.token,
        acquisition_id: id,
        revision,
        ttl_ms,
        condition,
    };
    let bound = Condition { max_hold_ms: Some(LONG_MS), ..Condition::default() };
    for _ in 0..2 {
        let agreed = locks.set_condition(set(0, 20_000, Some(bound))).await.expect("it is served");
        assert_eq!(agreed.get_ref().outcome(), AgreementOutcome::Agreed);
        let agreed = agreed.into_inner().agreement.expect("it says what holds");
        assert_eq!((agreed.revision, agreed.ttl_ms), (1, 20_000));
    }
    let stale = locks.set_condition(set(0, 20_000, None)).await.expect("it is served");
    assert_eq!(stale.get_ref().outcome(), AgreementOutcome::RevisionMoved);
    let shorter = locks.set_condition(set(1, 10_000, None)).await.expect_err("its client counts");
    assert_eq!(reason(&shorter), "LEASE_SHORTENED");
    let nothing = locks.claim(claim(&mine, "a", got.token, id, 1)).await.expect_err("no hold");
    assert_eq!(reason(&nothing), "CONDITION_REFUSED");
    let plain = locks.set_condition(set(1, 20_000, None)).await.expect("it is served");
    assert_eq!(plain.get_ref().agreement.expect("it says what holds").revision, 2);
    locks.release(mine.release("a", got.token, id)).await.expect("it is served");
    let gone = locks.set_condition(set(2, 20_000, None)).await.expect("it is served").into_inner();
    assert_eq!(gone.outcome(), AgreementOutcome::Gone);
    assert_eq!(gone.gone_reason(), GoneReason::Released);
}

/// A watcher is told of each state that it finds, of the last one always, and hears within seconds that
/// nothing has changed.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_waits_for_another_state_and_ends_with_the_last() {
    let server = Server::start().await;
    let mut locks = locks(&server).await;
    let question = |state_tag| WatchLockRequest { name: "a".to_owned(), shown_max: 0, state_tag };
    let free = locks.watch_lock(question(None)).await.expect("it is served").into_inner();
    assert_eq!(free.lock, None);
    let begun = Instant::now();
    let same = locks.watch_lock(question(Some(free.state_tag))).await.expect("served").into_inner();
    assert_eq!(same.state_tag, free.state_tag);
    assert!(begun.elapsed() > Duration::from_secs(4), "{:?}", begun.elapsed());

    // The last holder keeps the lock, and the watcher goes on until it has seen it.
    let mut watcher = locks.clone();
    let (last, mut seen_last) = tokio::sync::watch::channel(0);
    let known = free.state_tag;
    let watched = tokio::spawn(async move {
        let mut states: Vec<WatchLockResponse> = Vec::new();
        let mut tag = known;
        let token = |state: &WatchLockResponse| Some(state.lock.as_ref()?.holders.first()?.token);
        loop {
            let is_last = |state| token(state).is_some_and(|token| token == *seen_last.borrow());
            if states.last().is_some_and(is_last) {
                return states;
            }
            tokio::select! {
                state = watcher.watch_lock(question(Some(tag))) => {
                    let state = state.expect("it is served").into_inner();
                    // Otherwise it says that nothing has changed.
                    if std::mem::replace(&mut tag, state.state_tag) != tag {
                        states.push(state);
                    }
                }
                // It may have been seen already.
                changed = seen_last.changed() => changed.expect("it is said once"),
            }
        }
    });
    let mine = Session::default();
    let (mut id, mut got) = granted(&mut locks, mine.acquire("a")).await;
    for _ in 0..100 {
        let next = AcquireRequest { wait_ms: None, ..mine.acquire("a") };
        let (mut behind, next_id) = (locks.clone(), next.acquisition_id);
        let behind = tokio::spawn(async move { behind.acquire(next).await });
        locks.release(mine.release("a", got.token, id)).await.expect("it is served");
        got = behind.await.expect("it ran").expect("it is served").into_inner();
        id = next_id;
    }
    last.send(got.token).expect("it is awaited");
    let states = tokio::time::timeout(SOON, watched).await.expect("the last state is told");
    let states = states.expect("it ran");
    let shown = states.iter().filter_map(|state| state.lock.as_ref());
    let shown: Vec<u64> = shown.flat_map(|lock| &lock.holders).map(|it| it.token).collect();
    assert!(shown.is_sorted(), "no state goes back: {shown:?}");
    let at = |state: &WatchLockResponse| state.position.map(|it| (it.version, it.applied_index));
    assert!(states.is_sorted_by(|a, b| at(a) < at(b)), "nor does a position");
}
