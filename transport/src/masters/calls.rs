//! The questions and orders that a leading master answers, and the few that each master answers by
//! itself.

use std::time::Duration;

use sharklock_proto::{
    internal::v1::{
        AllocateIdsRequest, AllocateIdsResponse, DescribeMasterRequest, DescribeMasterResponse,
        GetClusterRequest, GetClusterResponse, GetRoutesRequest, JoinRequest, JoinResponse,
        MeetRequest, MeetResponse, RegisterStoreRequest, RegisterStoreResponse, RoutesUpdate,
        StoreHeartbeatRequest, StoreHeartbeatResponse,
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
use tokio::time::timeout;
use tonic::Status;

use super::{ANSWER_WITHIN, Client, Masters, MastersError, boxed};

impl Masters {
    /// See `MasterService.RegisterStore`.
    ///
    /// # Errors
    /// The leading master refuses, or none answers within `within`.
    pub async fn register_store(
        &self,
        request: RegisterStoreRequest,
        within: Duration,
    ) -> Result<RegisterStoreResponse, MastersError> {
        let ask = move |mut client: Client| {
            let request = request.clone();
            boxed(async move { client.register_store(request).await })
        };
        self.ask(within, ask).await
    }

    /// See `MasterService.StoreHeartbeat`.
    ///
    /// # Errors
    /// As [`register_store`](Self::register_store).
    pub async fn store_heartbeat(
        &self,
        request: StoreHeartbeatRequest,
        within: Duration,
    ) -> Result<StoreHeartbeatResponse, MastersError> {
        let ask = move |mut client: Client| {
            let request = request.clone();
            boxed(async move { client.store_heartbeat(request).await })
        };
        self.ask(within, ask).await
    }

    /// See `MasterService.AllocateIds`. A repeated request may leave ids unused.
    ///
    /// # Errors
    /// As [`register_store`](Self::register_store).
    pub async fn allocate_ids(
        &self,
        request: AllocateIdsRequest,
        within: Duration,
    ) -> Result<AllocateIdsResponse, MastersError> {
        let ask = move |mut client: Client| {
            let request = request.clone();
            boxed(async move { client.allocate_ids(request).await })
        };
        self.ask(within, ask).await
    }

    /// See `MasterService.GetRoutes`.
    ///
    /// # Errors
    /// As [`register_store`](Self::register_store).
    pub async fn get_routes(&self, within: Duration) -> Result<RoutesUpdate, MastersError> {
        let ask =
            |mut client: Client| boxed(async move { client.get_routes(GetRoutesRequest {}).await });
        self.ask(within, ask).await
    }

    /// See `MasterService.GetCluster`.
    ///
    /// # Errors
    /// As [`register_store`](Self::register_store).
    pub async fn get_cluster(&self, within: Duration) -> Result<GetClusterResponse, MastersError> {
        let ask = |mut client: Client| {
            boxed(async move { client.get_cluster(GetClusterRequest {}).await })
        };
        self.ask(within, ask).await
    }

    /// See `MasterService.ChangeRange`. A repeated request is answered with the operator that the first
    /// has begun.
    ///
    /// # Errors
    /// As [`register_store`](Self::register_store).
    pub async fn change_range(
        &self,
        request: ChangeRangeRequest,
        within: Duration,
    ) -> Result<ChangeRangeResponse, MastersError> {
        let ask = move |mut client: Client| {
            let request = request.clone();
            boxed(async move { client.change_range(request).await })
        };
        self.ask(within, ask).await
    }

    /// See `MasterService.ListOperators`.
    ///
    /// # Errors
    /// As [`register_store`](Self::register_store).
    pub async fn list_operators(
        &self,
        request: ListOperatorsRequest,
        within: Duration,
    ) -> Result<ListOperatorsResponse, MastersError> {
        let ask =
            move |mut client: Client| boxed(async move { client.list_operators(request).await });
        self.ask(within, ask).await
    }

    /// See `MasterService.CancelOperator`.
    ///
    /// # Errors
    /// As [`register_store`](Self::register_store).
    pub async fn cancel_operator(
        &self,
        request: CancelOperatorRequest,
        within: Duration,
    ) -> Result<CancelOperatorResponse, MastersError> {
        let ask = move |mut client: Client| {
            let request = request.clone();
            boxed(async move { client.cancel_operator(request).await })
        };
        self.ask(within, ask).await
    }

    /// See `MasterService.SetStoreDuty`.
    ///
    /// # Errors
    /// As [`register_store`](Self::register_store).
    pub async fn set_store_duty(
        &self,
        request: SetStoreDutyRequest,
        within: Duration,
    ) -> Result<SetStoreDutyResponse, MastersError> {
        let ask = move |mut client: Client| {
            let request = request.clone();
            boxed(async move { client.set_store_duty(request).await })
        };
        self.ask(within, ask).await
    }

    /// See `MasterService.ListRecoveries`.
    ///
    /// # Errors
    /// As [`register_store`](Self::register_store).
    pub async fn list_recoveries(
        &self,
        within: Duration,
    ) -> Result<ListRecoveriesResponse, MastersError> {
        let ask = |mut client: Client| {
            boxed(async move { client.list_recoveries(ListRecoveriesRequest {}).await })
        };
        self.ask(within, ask).await
    }

    /// See `MasterService.RecoverRange`.
    ///
    /// # Errors
    /// As [`register_store`](Self::register_store).
    pub async fn recover_range(
        &self,
        request: RecoverRangeRequest,
        within: Duration,
    ) -> Result<RecoverRangeResponse, MastersError> {
        let ask = move |mut client: Client| {
            let request = request.clone();
            boxed(async move { client.recover_range(request).await })
        };
        self.ask(within, ask).await
    }

    /// See `MasterService.Join`.
    ///
    /// # Errors
    /// As [`register_store`](Self::register_store).
    pub async fn join(
        &self,
        request: JoinRequest,
        within: Duration,
    ) -> Result<JoinResponse, MastersError> {
        let ask = move |mut client: Client| {
            let request = request.clone();
            boxed(async move { client.join(request).await })
        };
        self.ask(within, ask).await
    }

    /// See `MasterService.GetSchedule`.
    ///
    /// # Errors
    /// As [`register_store`](Self::register_store).
    pub async fn get_schedule(
        &self,
        within: Duration,
    ) -> Result<GetScheduleResponse, MastersError> {
        let ask = |mut client: Client| {
            boxed(async move { client.get_schedule(GetScheduleRequest {}).await })
        };
        self.ask(within, ask).await
    }

    /// See `MasterService.PauseSchedule`.
    ///
    /// # Errors
    /// As [`register_store`](Self::register_store).
    pub async fn pause_schedule(
        &self,
        request: PauseScheduleRequest,
        within: Duration,
    ) -> Result<PauseScheduleResponse, MastersError> {
        let ask = move |mut client: Client| {
            let request = request.clone();
            boxed(async move { client.pause_schedule(request).await })
        };
        self.ask(within, ask).await
    }

    /// See `MasterService.SetSchedule`.
    ///
    /// # Errors
    /// As [`register_store`](Self::register_store).
    pub async fn set_schedule(
        &self,
        request: SetScheduleRequest,
        within: Duration,
    ) -> Result<SetScheduleResponse, MastersError> {
        let ask = move |mut client: Client| {
            let request = request.clone();
            boxed(async move { client.set_schedule(request).await })
        };
        self.ask(within, ask).await
    }

    /// See `MasterService.Rebalance`. A repeated request is the same order.
    ///
    /// # Errors
    /// As [`register_store`](Self::register_store).
    pub async fn rebalance(
        &self,
        request: RebalanceRequest,
        within: Duration,
    ) -> Result<RebalanceResponse, MastersError> {
        let ask = move |mut client: Client| {
            let request = request.clone();
            boxed(async move { client.rebalance(request).await })
        };
        self.ask(within, ask).await
    }

    /// See `MasterService.ChangeMasters`. A repeated request is answered as the first.
    ///
    /// # Errors
    /// As [`register_store`](Self::register_store).
    pub async fn change_masters(
        &self,
        request: ChangeMastersRequest,
        within: Duration,
    ) -> Result<ChangeMastersResponse, MastersError> {
        let ask = move |mut client: Client| {
            let request = request.clone();
            boxed(async move { client.change_masters(request).await })
        };
        self.ask(within, ask).await
    }

    /// See `MasterService.Meet`: asks this very master.
    ///
    /// # Errors
    /// It does not answer, or refuses.
    pub async fn meet(&self, address: &str, request: MeetRequest) -> Result<MeetResponse, Status> {
        let mut client = self.client(address)?;
        match timeout(ANSWER_WITHIN, client.meet(request)).await {
            Ok(answer) => Ok(answer?.into_inner()),
            Err(_elapsed) => Err(Status::unavailable(format!("{address} says nothing"))),
        }
    }

    /// What the master at this address says of itself.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn describe(
        &self,
        address: &str,
        within: Duration,
    ) -> Result<DescribeMasterResponse, Status> {
        let mut client = self.client(address)?;
        match timeout(within, client.describe_master(DescribeMasterRequest {})).await {
            Ok(answer) => Ok(answer?.into_inner()),
            Err(_elapsed) => Err(Status::unavailable(format!("{address} says nothing"))),
        }
    }
}
