//! The public `LockService`: checks each request and hands it on.

use std::sync::Arc;

use sharklock_proto::trace::{TRACEPARENT, TraceContext};
use sharklock_proto::v1::{
    AcquireRequest, AcquireResponse, AgreementResponse, AskRequest, AskResponse, CancelRequest,
    CancelResponse, CheckTokenRequest, CheckTokenResponse, ClaimRequest, DowngradeRequest,
    DowngradeResponse, GetClusterRequest, GetClusterResponse, GetLockRequest, GetLockResponse,
    KeepAliveRequest, KeepAliveResponse, ListLocksRequest, ListLocksResponse, ReclaimRequest,
    ReleaseRequest, ReleaseResponse, SessionRequest, SetAttributesRequest, SetAttributesResponse,
    SetConditionRequest, WatchLockRequest, WatchLockResponse, lock_service_server::LockService,
};
use tokio::{sync::OwnedSemaphorePermit, time::timeout};
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument as _;

use super::{
    acquire,
    exchange::{ask, expect_body},
    host::Host,
    keep_alive, list,
    listen::Peer,
    metrics::Rpc,
    quota::{Full, Taken},
    session::{SessionStream, no_cluster},
    status::status,
};
use crate::{
    failure::Failure,
    validate::{self, Frame},
};

/// Its full name, also for health checks and metrics.
pub(super) const NAME: &str = "sharklock.v1.LockService";

/// See the module.
pub(super) struct Locks {
    host: Arc<Host>,
}

impl Locks {
    pub(super) fn new(host: Arc<Host>) -> Self {
        Self { host }
    }
}

/// Answers a unary call, and counts it.
pub(super) async fn unary<T>(
    host: &Arc<Host>,
    service: &'static str,
    method: &'static str,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<Response<T>, Status> {
    answered(host, Rpc::unary(service, method), work).await
}

/// The same with a call that takes as long as its caller likes: nobody measures how long that is.
async fn waiting<T>(
    host: &Arc<Host>,
    method: &'static str,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<Response<T>, Status> {
    answered(host, Rpc::unary(NAME, method).may_wait(true), work).await
}

async fn answered<T>(
    host: &Arc<Host>,
    rpc: Rpc,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<Response<T>, Status> {
    let span = tracing::debug_span!("rpc", method = rpc.method);
    let mut rpc = host.metrics.rpc(rpc);
    let result = work.instrument(span).await;
    match result {
        Ok(response) => {
            rpc.set_code(tonic::Code::Ok);
            Ok(Response::new(response))
        }
        Err(failure) => {
            host.metrics.failed(failure.reason);
            let status = status(failure);
            rpc.set_code(status.code());
            Err(status)
        }
    }
}

pub(super) fn peer<T>(request: &Request<T>) -> Peer {
    request.extensions().get::<Peer>().expect("every connection is a listen::Connection").clone()
}

/// The trace of which the caller says that the call is a part; empty: of none.
fn traceparent<T>(request: &Request<T>) -> String {
    let said = request.metadata().get(TRACEPARENT).and_then(|value| value.to_str().ok());
    let context = said.and_then(|said| said.parse::<TraceContext>().ok());
    context.map(|it| it.to_string()).unwrap_or_default()
}

/// Takes a call that can wait, as long as its client, its address and all together leave room. The
/// place that it gives is kept until the call is answered.
pub(super) fn admit(host: &Host, peer: &Peer) -> Result<Taken, Failure> {
    let refused = |full: Full, what: &str| {
        host.metrics.call_refused(full.of);
        let Full { of, max } = full;
        let message = format!("the {of} {what}, which is its bound; nothing was done");
        Failure::overloaded(&message).with("limit", of).with("max", max)
    };
    let unread = |full: Full| {
        let what = format!("leaves {} bytes of answers unread", full.max);
        refused(full, &what)
    };
    peer.unread.check().map_err(unread)?;
    let too_many = |full: Full| {
        let what = format!("has {} unary calls open", full.max);
        refused(full, &what)
    };
    peer.calls.take(1).map_err(too_many)
}

/// As [`admit`], for a call whose answer may be large: waits until few enough are on their way.
pub(super) async fn admit_look(
    host: &Host,
    peer: &Peer,
) -> Result<(Taken, [OwnedSemaphorePermit; 2]), Failure> {
    let call = admit(host, peer)?;
    let permits = async {
        let of_connection = peer.looks.clone().acquire_owned().await;
        [of_connection, host.looks.clone().acquire_owned().await]
    };
    let too_many = "too many looks at locks are on their way; nothing was done: retry later";
    let permits = timeout(host.config.unary_deadline, permits).await;
    let permits = permits.map_err(|_elapsed| Failure::overloaded(too_many))?;
    // Others may have been answered meanwhile, and not been read.
    drop(admit(host, peer)?);
    Ok((call, permits.map(|permit| permit.expect("no semaphore is closed"))))
}

const TOO_MANY_WAITS: &str = "too many acquires wait on this connection; nothing was done: use a \
                              Session stream, or another connection";

/// Room for a call that may wait for as long as its caller likes.
fn wait_permit(peer: &Peer) -> Result<OwnedSemaphorePermit, Failure> {
    let permit = peer.waits.clone().try_acquire_owned();
    permit.map_err(|_none_left| Failure::overloaded(TOO_MANY_WAITS))
}

#[tonic::async_trait]
impl LockService for Locks {
    async fn acquire(
        &self,
        request: Request<AcquireRequest>,
    ) -> Result<Response<AcquireResponse>, Status> {
        let peer = peer(&request);
        let above = traceparent(&request);
        let mut request = request.into_inner();
        if request.traceparent.is_empty() {
            request.traceparent = above;
        }
        let mut undelivered = None;
        let waits = request.wait_ms != Some(0);
        let rpc = Rpc::unary(NAME, "Acquire").may_wait(waits);
        let answered = answered(&self.host, rpc, async {
            let _call = admit(&self.host, &peer)?;
            let frame = Frame::of_call(&request.session_id, request.instance);
            let checked = validate::acquire(&self.host.config.limits, &frame, request)?;
            let _permit = waits.then(|| wait_permit(&peer)).transpose()?;
            let (response, answer) = acquire::acquire(&self.host, peer, checked).await?;
            undelivered = Some(answer);
            Ok(response)
        });
        let mut answered = answered.await?;
        answered.extensions_mut().insert(undelivered.expect("it comes with every answer"));
        Ok(answered)
    }

    async fn release(
        &self,
        request: Request<ReleaseRequest>,
    ) -> Result<Response<ReleaseResponse>, Status> {
        let request = request.into_inner();
        unary(&self.host, NAME, "Release", async {
            let frame = Frame::of_call(&request.session_id, request.instance);
            let checked = validate::release(&frame, request)?;
            expect_body!(ask(&self.host, checked).await, Release)
        })
        .await
    }

    async fn cancel(
        &self,
        request: Request<CancelRequest>,
    ) -> Result<Response<CancelResponse>, Status> {
        let request = request.into_inner();
        unary(&self.host, NAME, "Cancel", async {
            let frame = Frame::of_call(&request.session_id, request.instance);
            let checked = validate::cancel(&frame, request)?;
            expect_body!(ask(&self.host, checked).await, Cancel)
        })
        .await
    }

    async fn keep_alive(
        &self,
        request: Request<KeepAliveRequest>,
    ) -> Result<Response<KeepAliveResponse>, Status> {
        let request = request.into_inner();
        unary(&self.host, NAME, "KeepAlive", async {
            let frame = Frame::of_call(&request.session_id, request.instance);
            let checked = validate::keep_alive(&frame, request)?;
            keep_alive::keep_alive(&self.host, checked).await
        })
        .await
    }

    async fn claim(
        &self,
        request: Request<ClaimRequest>,
    ) -> Result<Response<AgreementResponse>, Status> {
        let peer = peer(&request);
        let request = request.into_inner();
        unary(&self.host, NAME, "Claim", async {
            let _call = admit(&self.host, &peer)?;
            let frame = Frame::of_call(&request.session_id, request.instance);
            let checked = validate::claim(&frame, request)?;
            expect_body!(ask(&self.host, checked).await, Agreement)
        })
        .await
    }

    async fn set_condition(
        &self,
        request: Request<SetConditionRequest>,
    ) -> Result<Response<AgreementResponse>, Status> {
        let peer = peer(&request);
        let request = request.into_inner();
        unary(&self.host, NAME, "SetCondition", async {
            let _call = admit(&self.host, &peer)?;
            let frame = Frame::of_call(&request.session_id, request.instance);
            let checked = validate::set_condition(&self.host.config.limits, &frame, request)?;
            expect_body!(ask(&self.host, checked).await, Agreement)
        })
        .await
    }

    async fn reclaim(
        &self,
        request: Request<ReclaimRequest>,
    ) -> Result<Response<AcquireResponse>, Status> {
        let peer = peer(&request);
        let request = request.into_inner();
        waiting(&self.host, "Reclaim", async {
            let _call = admit(&self.host, &peer)?;
            let frame = Frame::of_call(&request.session_id, request.instance);
            let checked = validate::reclaim(&frame, request)?;
            let _permit = wait_permit(&peer)?;
            let (response, _) = acquire::acquire(&self.host, peer, checked).await?;
            Ok(response)
        })
        .await
    }

    async fn ask(&self, request: Request<AskRequest>) -> Result<Response<AskResponse>, Status> {
        let peer = peer(&request);
        let request = request.into_inner();
        unary(&self.host, NAME, "Ask", async {
            let _call = admit(&self.host, &peer)?;
            let frame = Frame::of_call(&request.session_id, request.instance);
            let checked = validate::ask(&frame, request)?;
            expect_body!(ask(&self.host, checked).await, Ask)
        })
        .await
    }

    async fn downgrade(
        &self,
        request: Request<DowngradeRequest>,
    ) -> Result<Response<DowngradeResponse>, Status> {
        let peer = peer(&request);
        let request = request.into_inner();
        unary(&self.host, NAME, "Downgrade", async {
            let _call = admit(&self.host, &peer)?;
            let frame = Frame::of_call(&request.session_id, request.instance);
            let checked = validate::downgrade(&frame, request)?;
            expect_body!(ask(&self.host, checked).await, Downgrade)
        })
        .await
    }

    async fn set_attributes(
        &self,
        request: Request<SetAttributesRequest>,
    ) -> Result<Response<SetAttributesResponse>, Status> {
        let peer = peer(&request);
        let request = request.into_inner();
        unary(&self.host, NAME, "SetAttributes", async {
            let _call = admit(&self.host, &peer)?;
            let frame = Frame::of_call(&request.session_id, request.instance);
            let checked = validate::set_attributes(&frame, request)?;
            expect_body!(ask(&self.host, checked).await, SetAttributes)
        })
        .await
    }

    async fn check_token(
        &self,
        request: Request<CheckTokenRequest>,
    ) -> Result<Response<CheckTokenResponse>, Status> {
        let peer = peer(&request);
        unary(&self.host, NAME, "CheckToken", async {
            let _call = admit(&self.host, &peer)?;
            let checked = validate::check_token(request.into_inner())?;
            expect_body!(ask(&self.host, checked).await, CheckToken)
        })
        .await
    }

    async fn get_lock(
        &self,
        request: Request<GetLockRequest>,
    ) -> Result<Response<GetLockResponse>, Status> {
        let peer = peer(&request);
        unary(&self.host, NAME, "GetLock", async {
            let _look = admit_look(&self.host, &peer).await?;
            let checked = validate::get_lock(request.into_inner())?;
            expect_body!(ask(&self.host, checked).await, GetLock)
        })
        .await
    }

    async fn list_locks(
        &self,
        request: Request<ListLocksRequest>,
    ) -> Result<Response<ListLocksResponse>, Status> {
        let peer = peer(&request);
        unary(&self.host, NAME, "ListLocks", async {
            let _look = admit_look(&self.host, &peer).await?;
            let listing = validate::list_locks(request.into_inner())?;
            list::list(&self.host, listing).await
        })
        .await
    }

    async fn watch_lock(
        &self,
        request: Request<WatchLockRequest>,
    ) -> Result<Response<WatchLockResponse>, Status> {
        let peer = peer(&request);
        waiting(&self.host, "WatchLock", async {
            let _call = admit(&self.host, &peer)?;
            let checked = validate::watch_lock(request.into_inner())?;
            let _permit = wait_permit(&peer)?;
            expect_body!(ask(&self.host, checked).await, WatchLock)
        })
        .await
    }

    async fn get_cluster(
        &self,
        _request: Request<GetClusterRequest>,
    ) -> Result<Response<GetClusterResponse>, Status> {
        unary(&self.host, NAME, "GetCluster", async {
            let cluster_id =
                self.host.cluster.id().ok_or_else(|| no_cluster(&self.host))?.to_owned();
            Ok(GetClusterResponse { cluster_id })
        })
        .await
    }

    type SessionStream = SessionStream;

    async fn session(
        &self,
        request: Request<Streaming<SessionRequest>>,
    ) -> Result<Response<SessionStream>, Status> {
        let address = peer(&request).address;
        let mut rpc = self.host.metrics.rpc(Rpc::stream(NAME, "Session"));
        let ip = address.ip().to_canonical();
        let address = address.to_string();
        let opened = SessionStream::open(&self.host, ip, address.clone());
        let (port, seat) = opened.map_err(|failure| {
            self.host.metrics.failed(failure.reason);
            let status = status(failure);
            rpc.set_code(status.code());
            status
        })?;
        let (host, calls) = (self.host.clone(), request.into_inner());
        Ok(Response::new(SessionStream::new(host, (port, seat), calls, &address, rpc)))
    }
}
