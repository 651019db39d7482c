//! Calls that are no acquisition: looks at locks, and the operator's. Unary gRPC, each retried over
//! the endpoints until its deadline.

use std::{
    future::Future,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use sharklock_proto::v1::{
    self, admin_service_client::AdminServiceClient, lock_service_client::LockServiceClient,
};
use tokio::time::Instant;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use crate::{
    client::Client,
    error::CallError,
    failure::Verdict,
    ids::{FencingToken, Position},
    request::{Holder, LockInfo},
    session::wire,
    status,
};

/// Pauses between tries: doubling from the first to the second.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// How long one of several gateways may take to answer a question: one that looks at a cluster asks
/// others for 2 s.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);

/// A lock as it was at a point of its range's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockSeen {
    /// When and where.
    pub position: Position,
    /// The lock; `None` while it is free.
    pub lock: Option<LockInfo>,
}

/// What became of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenChecked {
    /// When and where.
    pub position: Position,
    /// A hold with this token was live at `position`. A hint: only the resource's own comparison
    /// fences.
    pub live: bool,
    /// That hold's fence floor; `None` when it was not live.
    pub fence_floor: Option<FencingToken>,
}

/// What a force-release did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForceReleased {
    /// When and where.
    pub position: Position,
    /// The holds it ends, as they were.
    pub holders: Vec<Holder>,
    /// They have ended already. Otherwise they end when their holders have stopped, or when their
    /// leases have run out at the latest.
    pub ended: bool,
}

impl Client {
    /// Shows one lock with at most 100 of its waiters. Linearizable.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn get_lock(&self, name: &str) -> Result<LockSeen, CallError> {
        let request = v1::GetLockRequest { name: name.to_owned(), waiters_max: 0 };
        let response = self
            .calls()
            .read(request, |channel, request| async move {
                LockServiceClient::new(channel).get_lock(request).await
            })
            .await?;
        let position = wire::position(response.position);
        Ok(LockSeen { position, lock: response.lock.map(wire::lock_info) })
    }

    /// Lists all locks whose names begin with `prefix` (all when empty) and that are held or waited
    /// for, in byte order of their names. Each page of 1,000 is linearizable, the list is not.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn list_locks(&self, prefix: &str) -> Result<Vec<LockInfo>, CallError> {
        const PAGE_SIZE: u32 = 1000;
        let mut locks = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = v1::ListLocksRequest {
                prefix: prefix.to_owned(),
                page_size: PAGE_SIZE,
                page_token,
            };
            let page = self
                .calls()
                .read(request, |channel, request| async move {
                    LockServiceClient::new(channel).list_locks(request).await
                })
                .await?;
            locks.extend(page.locks.into_iter().map(wire::lock_info));
            if page.next_page_token.is_empty() {
                return Ok(locks);
            }
            page_token = page.next_page_token;
        }
    }

    /// Whether `token` is the live token of the lock `name`. Linearizable, yet only a hint: it may
    /// have changed when the answer arrives.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn check_token(
        &self,
        name: &str,
        token: FencingToken,
    ) -> Result<TokenChecked, CallError> {
        let request = v1::CheckTokenRequest { name: name.to_owned(), token: token.as_u64() };
        let response = self
            .calls()
            .read(request, |channel, request| async move {
                LockServiceClient::new(channel).check_token(request).await
            })
            .await?;
        Ok(TokenChecked {
            position: wire::position(response.position),
            live: response.live,
            fence_floor: response.live.then(|| FencingToken::from_u64(response.fence_floor)),
        })
    }

    /// Shows stores and ranges as the answering gateway sees them.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn status(&self) -> Result<v1::GetStatusResponse, CallError> {
        self.calls()
            .read(v1::GetStatusRequest {}, |channel, request| async move {
                AdminServiceClient::new(channel).get_status(request).await
            })
            .await
    }

    /// Ends the hold of a lock with this token, or every hold of the lock, against its holders'
    /// will. `reason` (1 to 1,024 bytes) is shown to them. Unless `now` is set the cluster waits
    /// until the holders have stopped, or their leases have run out; with `now` it does not wait
    /// and BREAKS THE PROMISE of one holder at a time: only tokens protect the resource then.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn force_release(
        &self,
        name: &str,
        token: Option<FencingToken>,
        reason: &str,
        now: bool,
        operator: &str,
    ) -> Result<ForceReleased, CallError> {
        let request = v1::ForceReleaseRequest {
            name: name.to_owned(),
            token: token.map(FencingToken::as_u64),
            reason: reason.to_owned(),
            now,
            operator: operator.to_owned(),
        };
        let response = self
            .calls()
            .once(request, |channel, request| async move {
                AdminServiceClient::new(channel).force_release(request).await
            })
            .await?;
        Ok(ForceReleased {
            position: wire::position(response.position),
            holders: response.holders.into_iter().map(wire::holder).collect(),
            ended: response.ended,
        })
    }
}

/// The connections for unary calls, one per endpoint, made when first needed.
pub(crate) struct Calls {
    endpoints: Vec<(Endpoint, OnceLock<Channel>)>,
    /// Which endpoint answered last; counts on, modulo their number.
    current: AtomicUsize,
    timeout: Duration,
}

impl Calls {
    pub(crate) fn new(endpoints: Vec<Endpoint>, timeout: Duration) -> Self {
        let endpoints = endpoints.into_iter().map(|endpoint| (endpoint, OnceLock::new())).collect();
        Self { endpoints, current: AtomicUsize::new(0), timeout }
    }

    /// A call without effects: whether it was done does not matter.
    async fn read<Q: Clone, R, F>(
        &self,
        request: Q,
        call: impl Fn(Channel, Q) -> F,
    ) -> Result<R, CallError>
    where
        F: Future<Output = Result<tonic::Response<R>, Status>>,
    {
        self.retry(request, call, true).await
    }

    /// A call that must not be done twice: retried only while it surely has not been done.
    async fn once<Q: Clone, R, F>(
        &self,
        request: Q,
        call: impl Fn(Channel, Q) -> F,
    ) -> Result<R, CallError>
    where
        F: Future<Output = Result<tonic::Response<R>, Status>>,
    {
        self.retry(request, call, false).await
    }

    async fn retry<Q: Clone, R, F>(
        &self,
        request: Q,
        call: impl Fn(Channel, Q) -> F,
        read: bool,
    ) -> Result<R, CallError>
    where
        F: Future<Output = Result<tonic::Response<R>, Status>>,
    {
        let deadline = Instant::now() + self.timeout;
        let mut pause = PAUSE_FIRST;
        loop {
            let at = self.current.load(Ordering::Relaxed);
            let attempt = call(self.channel(at), request.clone());
            // Whoever says nothing may be cut off, and another not.
            let may_ask_another = read && self.endpoints.len() > 1;
            let patience = if may_ask_another { ATTEMPT_TIMEOUT } else { self.timeout };
            let until = deadline.min(Instant::now() + patience);
            let status = match tokio::time::timeout_at(until, attempt).await {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => status,
                Err(_) => Status::new(Code::DeadlineExceeded, "no answer in time"),
            };
            let failure = status::failure(&status);
            let may_retry = match failure.verdict() {
                Verdict::NotDone => true,
                Verdict::NotKnown => read,
                Verdict::Refused => false,
            };
            if failure.verdict() != Verdict::Refused {
                // Also where this call is over: the next one must not meet the same silence. Several
                // callers may fail at once; one step to the next endpoint is enough.
                let (next, order) = (at.wrapping_add(1), Ordering::Relaxed);
                let _ = self.current.compare_exchange(at, next, order, order);
            }
            if !may_retry || Instant::now() + pause >= deadline {
                return Err(failure.into_call_error(read));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn channel(&self, at: usize) -> Channel {
        let (endpoint, channel) = &self.endpoints[at % self.endpoints.len()];
        channel.get_or_init(|| endpoint.connect_lazy()).clone()
    }
}
