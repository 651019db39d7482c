//! The public `LockService`: checks each request and hands it on.

use std::sync::Arc;

use sharklock_proto::v1::{
    AcquireRequest, AcquireResponse, CancelRequest, CancelResponse, CheckTokenRequest,
    CheckTokenResponse, GetClusterRequest, GetClusterResponse, GetLockRequest, GetLockResponse,
    KeepAliveRequest, KeepAliveResponse, ListLocksRequest, ListLocksResponse, ReleaseRequest,
    ReleaseResponse, SessionRequest, lock_service_server::LockService,
};
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument as _;

use super::{
    acquire,
    exchange::{ask, expect_body},
    host::Host,
    listen::Peer,
    metrics::Rpc,
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
    let mut rpc = host.metrics.rpc(Rpc { form: "unary", service, method });
    let result = work.instrument(tracing::debug_span!("rpc", method)).await;
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

fn peer<T>(request: &Request<T>) -> Peer {
    request.extensions().get::<Peer>().expect("every connection is a listen::Connection").clone()
}

const TOO_MANY_WAITS: &str = "too many acquires wait on this connection; nothing was done: use a \
                              Session stream, or another connection";

#[tonic::async_trait]
impl LockService for Locks {
    async fn acquire(
        &self,
        request: Request<AcquireRequest>,
    ) -> Result<Response<AcquireResponse>, Status> {
        let peer = peer(&request);
        let request = request.into_inner();
        unary(&self.host, NAME, "Acquire", async {
            let waits = request.wait_ms != Some(0);
            let frame = Frame::of_call(&request.session_id, request.instance);
            let checked = validate::acquire(&self.host.config.limits, &frame, request)?;
            let _permit = match waits.then(|| peer.waits.clone().try_acquire_owned()).transpose() {
                Ok(permit) => permit,
                Err(_none_left) => return Err(Failure::overloaded(TOO_MANY_WAITS)),
            };
            acquire::acquire(&self.host, peer, checked).await
        })
        .await
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
            expect_body!(ask(&self.host, checked).await, KeepAlive)
        })
        .await
    }

    async fn check_token(
        &self,
        request: Request<CheckTokenRequest>,
    ) -> Result<Response<CheckTokenResponse>, Status> {
        unary(&self.host, NAME, "CheckToken", async {
            let checked = validate::check_token(request.into_inner())?;
            expect_body!(ask(&self.host, checked).await, CheckToken)
        })
        .await
    }

    async fn get_lock(
        &self,
        request: Request<GetLockRequest>,
    ) -> Result<Response<GetLockResponse>, Status> {
        unary(&self.host, NAME, "GetLock", async {
            let checked = validate::get_lock(request.into_inner())?;
            expect_body!(ask(&self.host, checked).await, GetLock)
        })
        .await
    }

    async fn list_locks(
        &self,
        request: Request<ListLocksRequest>,
    ) -> Result<Response<ListLocksResponse>, Status> {
        unary(&self.host, NAME, "ListLocks", async {
            let checked = validate::list_locks(request.into_inner())?;
            expect_body!(ask(&self.host, checked).await, ListLocks)
        })
        .await
    }

    async fn get_cluster(
        &self,
        _request: Request<GetClusterRequest>,
    ) -> Result<Response<GetClusterResponse>, Status> {
        unary(&self.host, NAME, "GetCluster", async {
            let cluster_id = self.host.cluster.id().ok_or_else(no_cluster)?.to_owned();
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
        let rpc = Rpc { form: "bidi_stream", service: NAME, method: "Session" };
        let mut rpc = self.host.metrics.rpc(rpc);
        let address = address.to_string();
        let opened = SessionStream::open(&self.host, address.clone());
        let port = opened.map_err(|failure| {
            self.host.metrics.failed(failure.reason);
            let status = status(failure);
            rpc.set_code(status.code());
            status
        })?;
        let (host, calls) = (self.host.clone(), request.into_inner());
        Ok(Response::new(SessionStream::new(host, port, calls, &address, rpc)))
    }
}
