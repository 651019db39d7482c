//! Unary Acquires whose callers go away: by a deadline, by hanging up, with and without another
//! attempt beside.

use std::time::Duration;

use sharklock_proto::v1::{
    AcquireOutcome, AcquireRequest, AcquireResponse, CancelOutcome, GetLockRequest, GoneReason,
    KeepAliveState, LockInfo, lock_service_client::LockServiceClient,
};
use sharklock_tests::server::Server;
use sharklock_tests::wait;
use sharklock_tests::wire::{Session, locks};
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

type Locks = LockServiceClient<Channel>;

/// Far above what anything here takes, far below the leases.
const SOON: Duration = Duration::from_secs(10);
const TTL_MS: u64 = 60_000;

fn waiting(session: &Session, name: &str) -> AcquireRequest {
    AcquireRequest { wait_ms: Some(60_000), ttl_ms: Some(TTL_MS), ..session.acquire(name) }
}

async fn look(locks: &mut Locks, name: &str) -> LockInfo {
    let request = GetLockRequest { name: name.to_owned(), waiters_max: 0 };
    locks.get_lock(request).await.expect("it is served").into_inner().lock.unwrap_or_default()
}

async fn until_waiters(locks: &Locks, name: &str, count: u32) {
    let mut locks = locks.clone();
    wait::eventually("so many wait", SOON, async || {
        (look(&mut locks, name).await.waiters_count == count).then_some(())
    })
    .await;
}

/// A call that runs beside the test.
fn call(
    locks: &Locks,
    request: Request<AcquireRequest>,
) -> tokio::task::JoinHandle<Result<Response<AcquireResponse>, Status>> {
    let mut locks = locks.clone();
    tokio::spawn(async move { locks.acquire(request).await })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_whose_deadline_passes_or_who_hangs_up_leaves_no_ghost() {
    let server = Server::start().await;
    let mut locks = locks(&server).await;
    let (holder, next) = (Session::default(), Session::default());
    let request = holder.acquire("a");
    let held = locks.acquire(request.clone()).await.expect("it is free").into_inner();

    let late = Session::default();
    let mut in_time = Request::new(waiting(&late, "a"));
    in_time.set_timeout(Duration::from_millis(300));
    let asked = in_time.get_ref().clone();
    let status = locks.acquire(in_time).await.expect_err("the lock is held");
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status}");
    until_waiters(&locks, "a", 0).await;
    let again = AcquireRequest { seq: late.next(), ..asked };
    let again = locks.acquire(again).await.expect("it is answered").into_inner();
    assert_eq!(again.gone_reason(), GoneReason::Cancelled, "its client asks by a new id");

    let hangs_up = call(&locks, Request::new(waiting(&Session::default(), "a")));
    until_waiters(&locks, "a", 1).await;
    hangs_up.abort();
    until_waiters(&locks, "a", 0).await;

    locks.release(holder.release("a", held.token, request.acquisition_id)).await.expect("served");
    let got = locks.acquire(next.acquire("a")).await.expect("it is answered").into_inner();
    assert_eq!(got.outcome(), AcquireOutcome::Granted, "nobody who has gone holds it");
}

/// The client has given up its first call and made another, over another connection, that is
/// answered; when the first one goes away, its hold stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_another_attempt_was_told_of_survives_the_first_ones_end() {
    let server = Server::start().await;
    let (mut one, mut other) = (locks(&server).await, locks(&server).await);
    let (holder, session) = (Session::default(), Session::default());
    let request = holder.acquire("a");
    let held = one.acquire(request.clone()).await.expect("it is free").into_inner();

    let first = waiting(&session, "a");
    let second = AcquireRequest { seq: session.next(), ..first.clone() };
    let id = first.acquisition_id;
    let (first, second) = (call(&one, Request::new(first)), call(&other, Request::new(second)));
    until_waiters(&one, "a", 1).await;
    let asked = r#"grpc_server_started_total{grpc_method="Acquire",grpc_service="sharklock.v1.LockService",grpc_type="unary"} 3"#;
    wait::eventually("the second attempt is there, too", SOON, async || {
        server.get("/metrics").await.1.contains(asked).then_some(())
    })
    .await;
    first.abort();
    other.release(holder.release("a", held.token, request.acquisition_id)).await.expect("served");
    let answered = timeout(SOON, second).await.expect("in time").expect("no panic");
    let got = answered.expect("it is answered").into_inner();
    assert_eq!(got.outcome(), AcquireOutcome::Granted);
    let alive = other.keep_alive(session.keep_alive(&[("a", id)])).await.expect("served");
    assert_eq!(alive.into_inner().answers[0].state(), KeepAliveState::Held);
    let next = one.acquire(Session::default().acquire("a")).await.expect("served").into_inner();
    assert_eq!(next.outcome(), AcquireOutcome::HeldByOther);
    let cancelled = other.cancel(session.cancel("a", id)).await.expect("served").into_inner();
    assert_eq!(cancelled.outcome(), CancelOutcome::Released);
}
