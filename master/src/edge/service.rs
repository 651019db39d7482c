//! The gRPC side of a master: it only carries questions to the thread and answers back.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    task::{Context, Poll},
};

use sharklock_proto::{
    internal::v1::{
        AllocateIdsRequest, AllocateIdsResponse, DescribeMasterRequest, DescribeMasterResponse,
        GetClusterRequest, GetClusterResponse, GetRoutesRequest, JoinRequest, JoinResponse,
        MasterView, MeetRequest, MeetResponse, RaftFrame, RegisterStoreRequest,
        RegisterStoreResponse, RoutesUpdate, StoreHeartbeatRequest, StoreHeartbeatResponse,
        WatchRoutesRequest, master_service_server::MasterService, peer_service_server::PeerService,
    },
    v1::{
        CancelOperatorRequest, CancelOperatorResponse, ChangeMastersRequest, ChangeMastersResponse,
        ChangeRangeRequest, ChangeRangeResponse, GetScheduleRequest, GetScheduleResponse,
        ListOperatorsRequest, ListOperatorsResponse, ListRecoveriesRequest, ListRecoveriesResponse,
        PauseScheduleRequest, PauseScheduleResponse, RebalanceRequest, RebalanceResponse,
        RecoverRangeRequest, RecoverRangeResponse, SetScheduleRequest, SetScheduleResponse,
        SetStoreDutyRequest, SetStoreDutyResponse,
    },
};
use sharklock_transport::{PeerAcceptor, Signs, wall_unix_ms};
use tokio::sync::{Notify, mpsc};
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Code, Request as Call, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::desk::{Desk, Watch};
use crate::{
    formation::Formation,
    refusal::{Reason, Refusal},
    request::{Reply, Request},
};

/// Domain of `google.rpc.ErrorInfo`.
const DOMAIN: &str = "sharklock";

/// A master's port, from before it belongs to a cluster.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

/// The master, as those see it who meet it.
#[derive(Debug)]
pub enum Standing {
    /// It forms a cluster with others, or has done so.
    Founder(Formation),
    /// It has joined the cluster of this view.
    Joined(MasterView),
    /// It waits to be added to a cluster.
    Waits,
}

/// What people call a master.
#[derive(Clone, Debug)]
pub struct Names {
    /// Its process.
    pub node: String,
    /// Its cluster; empty: nothing.
    pub cluster: String,
    /// The address by which the others name it.
    pub address: String,
    /// Where its process serves metrics and health.
    pub admin_address: String,
}

struct Inner {
    names: Names,
    standing: Mutex<Standing>,
    /// Something was heard from another master.
    heard: Notify,
    /// There once the cluster is formed.
    desk: OnceLock<Desk>,
    acceptor: OnceLock<PeerAcceptor>,
    stopping: CancellationToken,
}

impl Service {
    /// Of a master that has yet to meet the others.
    pub fn new(names: Names, standing: Standing, stopping: CancellationToken) -> Self {
        Self(Arc::new(Inner {
            names,
            standing: Mutex::new(standing),
            heard: Notify::new(),
            desk: OnceLock::new(),
            acceptor: OnceLock::new(),
            stopping,
        }))
    }

    /// Looks at, or changes, what is known of the others. Only for one that forms a cluster.
    pub fn with_formation<R>(&self, look: impl FnOnce(&mut Formation) -> R) -> R {
        match &mut *self.standing() {
            Standing::Founder(formation) => look(formation),
            other => unreachable!("{other:?} forms no cluster"),
        }
    }

    /// It is a member of this cluster from now on.
    pub fn has_joined(&self, view: MasterView) {
        *self.standing() = Standing::Joined(view);
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        // A panic aborts the process; should a test catch one, the value is whole all the same.
        self.0.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until another master has said something.
    pub async fn heard(&self) {
        self.0.heard.notified().await;
    }

    /// The cluster is formed: from now on everything is answered.
    pub fn open(&self, desk: Desk, acceptor: PeerAcceptor) {
        // Both are set once, by the start.
        drop(self.0.desk.set(desk));
        drop(self.0.acceptor.set(acceptor));
    }

    fn desk(&self) -> Result<&Desk, Status> {
        self.0.desk.get().ok_or_else(|| status(not_formed()))
    }

    /// What a master that is no member yet waits for, in words for people.
    fn waits_for(&self) -> String {
        match &*self.standing() {
            Standing::Founder(formation) => {
                let missing: Vec<_> = formation.missing().into_iter().map(String::as_str).collect();
                match missing[..] {
                    [] => "it has met all other masters, and forms the cluster".to_owned(),
                    _ => format!("it has not met {}", missing.join(", ")),
                }
            }
            Standing::Joined(_) => "it begins to follow the others".to_owned(),
            Standing::Waits => "it waits to be added: `sharklock masters add`".to_owned(),
        }
    }

    async fn ask(&self, request: Request) -> Result<Reply, Status> {
        match self.desk()?.ask(request).await {
            Reply::Refused(refusal) => Err(status(refusal)),
            reply => Ok(reply),
        }
    }
}

fn not_formed() -> Refusal {
    let message = "the masters have not all seen each other yet: there is no cluster";
    Refusal { message: message.to_owned(), ..Refusal::not_leader(None) }
}

/// A refusal as gRPC has it.
#[expect(clippy::disallowed_types, reason = "tonic-types takes metadata as a hash map")]
fn status(refusal: Refusal) -> Status {
    let code = match refusal.reason {
        reason if reason.is_retryable() => Code::Unavailable,
        Reason::Invalid => Code::InvalidArgument,
        _ => Code::FailedPrecondition,
    };
    let leader = refusal.leader.map(|leader| ("leader".to_owned(), leader));
    let metadata: std::collections::HashMap<_, _> = leader.into_iter().collect();
    let mut details = ErrorDetails::new();
    details.set_error_info(refusal.reason.as_str(), DOMAIN, metadata);
    Status::with_error_details(code, refusal.message, details)
}

fn other() -> Status {
    Status::internal("the master answered something else than was asked")
}

#[tonic::async_trait]
impl MasterService for Service {
    async fn meet(&self, call: Call<MeetRequest>) -> Result<Response<MeetResponse>, Status> {
        let view = call.into_inner().view.unwrap_or_default();
        let (heard, view) = match &mut *self.standing() {
            Standing::Founder(formation) => {
                let heard = formation.hear(&view);
                (heard, formation.view())
            }
            Standing::Joined(view) => (Ok(()), view.clone()),
            Standing::Waits => {
                return Err(Status::unavailable("this master waits to be added to a cluster"));
            }
        };
        self.0.heard.notify_one();
        if let Err(why) = heard {
            tracing::debug!(%why, "another master does not fit");
        }
        // A master that does not fit finds that out from the view, and says so where it was
        // started: a refusal would only tell it to ask again.
        Ok(Response::new(MeetResponse { view: Some(view) }))
    }

    async fn register_store(
        &self,
        call: Call<RegisterStoreRequest>,
    ) -> Result<Response<RegisterStoreResponse>, Status> {
        match self.ask(Request::RegisterStore(call.into_inner())).await? {
            Reply::Registered(answer) => Ok(Response::new(answer)),
            _ => Err(other()),
        }
    }

    async fn store_heartbeat(
        &self,
        call: Call<StoreHeartbeatRequest>,
    ) -> Result<Response<StoreHeartbeatResponse>, Status> {
        match self.ask(Request::StoreHeartbeat(call.into_inner())).await? {
            Reply::Heard(answer) => Ok(Response::new(answer)),
            _ => Err(other()),
        }
    }

    async fn allocate_ids(
        &self,
        call: Call<AllocateIdsRequest>,
    ) -> Result<Response<AllocateIdsResponse>, Status> {
        match self.ask(Request::AllocateIds(call.into_inner())).await? {
            Reply::Allocated(answer) => Ok(Response::new(answer)),
            _ => Err(other()),
        }
    }

    async fn get_routes(
        &self,
        _call: Call<GetRoutesRequest>,
    ) -> Result<Response<RoutesUpdate>, Status> {
        match self.ask(Request::Routes).await? {
            Reply::Routes(answer) => Ok(Response::new(answer)),
            _ => Err(other()),
        }
    }

    type WatchRoutesStream = Updates;

    async fn watch_routes(
        &self,
        _call: Call<WatchRoutesRequest>,
    ) -> Result<Response<Updates>, Status> {
        let Watch { whole, changes } = self.desk()?.watch().await.map_err(status)?;
        let stopped = Box::pin(self.0.stopping.clone().cancelled_owned());
        Ok(Response::new(Updates { whole: Some(whole), changes, stopped }))
    }

    async fn change_range(
        &self,
        call: Call<ChangeRangeRequest>,
    ) -> Result<Response<ChangeRangeResponse>, Status> {
        match self.ask(Request::ChangeRange(call.into_inner())).await? {
            Reply::Changing(answer) => Ok(Response::new(answer)),
            _ => Err(other()),
        }
    }

    async fn list_operators(
        &self,
        call: Call<ListOperatorsRequest>,
    ) -> Result<Response<ListOperatorsResponse>, Status> {
        match self.ask(Request::ListOperators(call.into_inner())).await? {
            Reply::Operators(answer) => Ok(Response::new(answer)),
            _ => Err(other()),
        }
    }

    async fn cancel_operator(
        &self,
        call: Call<CancelOperatorRequest>,
    ) -> Result<Response<CancelOperatorResponse>, Status> {
        match self.ask(Request::CancelOperator(call.into_inner())).await? {
            Reply::Cancelled(answer) => Ok(Response::new(answer)),
            _ => Err(other()),
        }
    }

    async fn set_store_duty(
        &self,
        call: Call<SetStoreDutyRequest>,
    ) -> Result<Response<SetStoreDutyResponse>, Status> {
        match self.ask(Request::SetStoreDuty(call.into_inner())).await? {
            Reply::Duty(answer) => Ok(Response::new(answer)),
            _ => Err(other()),
        }
    }

    async fn join(&self, call: Call<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        match self.ask(Request::Join(call.into_inner())).await? {
            Reply::Joined(answer) => Ok(Response::new(answer)),
            _ => Err(other()),
        }
    }

    async fn get_schedule(
        &self,
        _call: Call<GetScheduleRequest>,
    ) -> Result<Response<GetScheduleResponse>, Status> {
        match self.ask(Request::Schedule).await? {
            Reply::Schedule(answer) => Ok(Response::new(answer)),
            _ => Err(other()),
        }
    }

    async fn pause_schedule(
        &self,
        call: Call<PauseScheduleRequest>,
    ) -> Result<Response<PauseScheduleResponse>, Status> {
        match self.ask(Request::PauseSchedule(call.into_inner())).await? {
            Reply::Paused(answer) => Ok(Response::new(answer)),
            _ => Err(other()),
        }
    }

    async fn set_schedule(
        &self,
        call: Call<SetScheduleRequest>,
    ) -> Result<Response<SetScheduleResponse>, Status> {
        match self.ask(Request::SetSchedule(call.into_inner())).await? {
            Reply::Settings(answer) => Ok(Response::new(answer)),
            _ => Err(other()),
        }
    }

    async fn rebalance(
        &self,
        call: Call<RebalanceRequest>,
    ) -> Result<Response<RebalanceResponse>, Status> {
        match self.ask(Request::Rebalance(call.into_inner())).await? {
            Reply::Rebalancing(answer) => Ok(Response::new(answer)),
            _ => Err(other()),
        }
    }

    async fn change_masters(
        &self,
        call: Call<ChangeMastersRequest>,
    ) -> Result<Response<ChangeMastersResponse>, Status> {
        match self.ask(Request::ChangeMasters(call.into_inner())).await? {
            Reply::MastersChanging(answer) => Ok(Response::new(answer)),
            _ => Err(other()),
        }
    }

    async fn list_recoveries(
        &self,
        _call: Call<ListRecoveriesRequest>,
    ) -> Result<Response<ListRecoveriesResponse>, Status> {
        match self.ask(Request::ListRecoveries).await? {
            Reply::Recoveries(answer) => Ok(Response::new(answer)),
            _ => Err(other()),
        }
    }

    async fn recover_range(
        &self,
        call: Call<RecoverRangeRequest>,
    ) -> Result<Response<RecoverRangeResponse>, Status> {
        match self.ask(Request::RecoverRange(call.into_inner())).await? {
            Reply::Recovering(answer) => Ok(Response::new(answer)),
            _ => Err(other()),
        }
    }

    async fn describe_master(
        &self,
        _call: Call<DescribeMasterRequest>,
    ) -> Result<Response<DescribeMasterResponse>, Status> {
        let described = match self.0.desk.get() {
            None => DescribeMasterResponse {
                waits_for: self.waits_for(),
                ..DescribeMasterResponse::default()
            },
            Some(_) => match self.ask(Request::Describe).await? {
                Reply::Described(answer) => *answer,
                _ => return Err(other()),
            },
        };
        let Names { node, cluster, address, admin_address } = self.0.names.clone();
        Ok(Response::new(DescribeMasterResponse {
            cluster_name: cluster,
            node,
            address,
            admin_address,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            unix_ms: wall_unix_ms(),
            ..described
        }))
    }

    async fn get_cluster(
        &self,
        _call: Call<GetClusterRequest>,
    ) -> Result<Response<GetClusterResponse>, Status> {
        match self.ask(Request::Cluster).await? {
            Reply::Cluster(answer) => Ok(Response::new(answer)),
            _ => Err(other()),
        }
    }
}

/// Routes for one watcher, until this master stops or leads no more.
pub struct Updates {
    whole: Option<RoutesUpdate>,
    changes: mpsc::Receiver<RoutesUpdate>,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Stream for Updates {
    type Item = Result<RoutesUpdate, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.stopped.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        match self.whole.take() {
            Some(whole) => Poll::Ready(Some(Ok(whole))),
            None => self.changes.poll_recv(cx).map(|update| update.map(Ok)),
        }
    }
}

#[tonic::async_trait]
impl PeerService for Service {
    type RaftStream = Signs;

    async fn raft(&self, call: Call<Streaming<RaftFrame>>) -> Result<Response<Signs>, Status> {
        match self.0.acceptor.get() {
            Some(acceptor) => acceptor.raft(call).await,
            None => Err(Status::unavailable("this master does not belong to a cluster yet")),
        }
    }
}
