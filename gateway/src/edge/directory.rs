//! The questions of a gateway to the masters.

use std::{sync::Arc, time::Duration};

use sharklock_proto::{
    internal::v1::{DescribeMasterResponse, GetClusterResponse, RoutesUpdate},
    v1::{
        CancelOperatorRequest, CancelOperatorResponse, ChangeMastersRequest, ChangeMastersResponse,
        ChangeRangeRequest, ChangeRangeResponse, GetScheduleResponse, ListOperatorsRequest,
        ListOperatorsResponse, ListRecoveriesResponse, PauseScheduleRequest, PauseScheduleResponse,
        RebalanceRequest, RebalanceResponse, RecoverRangeRequest, RecoverRangeResponse,
        SetScheduleRequest, SetScheduleResponse, SetStoreDutyRequest, SetStoreDutyResponse,
    },
};
use sharklock_transport::MastersError;
use tokio::sync::mpsc;
use tonic::Status;

/// The time that the masters have to say who they are: for a look at a cluster that may not be
/// well.
const CLUSTER_WITHIN: Duration = Duration::from_secs(2);

/// An order to the masters finds the leading one within this time, or none: longer than one that is
/// frozen is waited for, so that the next one is asked as well.
const ORDER_WITHIN: Duration = Duration::from_millis(2_500);

/// The masters, as a gateway sees them: where ranges and stores are. Never on the path of a call:
/// a gateway works on with what it knows while no master answers.
#[tonic::async_trait]
pub trait Directory: Send + Sync + 'static {
    /// Starts a watch: where ranges and stores are, and every change. An update is whole where it
    /// says so: the first, and the first after a change of the leading master. It looks for a
    /// leading master by itself for as long as the receiver is there, with back-off.
    fn watch_routes(&self) -> mpsc::Receiver<RoutesUpdate>;

    /// These are the masters of today: they are asked from now on. For one that asks others.
    fn learn_masters(&self, _masters: &[String]) {}

    /// The addresses of the masters, as far as they are known.
    fn addresses(&self) -> Vec<String> {
        Vec::new()
    }

    /// What the master at this address says of itself, leading or not.
    ///
    /// # Errors
    /// It does not answer within the directory's own deadline.
    async fn describe_master(&self, _address: &str) -> Result<DescribeMasterResponse, Status> {
        Err(Status::unimplemented("this directory asks no single master"))
    }

    /// The cluster as the leading master sees it.
    ///
    /// # Errors
    /// No leading master answers within the directory's own deadline.
    async fn cluster(&self) -> Result<GetClusterResponse, Status>;

    /// Begins an operator. A directory takes no orders unless it says otherwise.
    ///
    /// # Errors
    /// The masters refuse, or none answers.
    async fn change_range(
        &self,
        _request: ChangeRangeRequest,
    ) -> Result<ChangeRangeResponse, MastersError> {
        Err(takes_no_orders())
    }

    /// Shows operators.
    ///
    /// # Errors
    /// As [`change_range`](Self::change_range).
    async fn list_operators(
        &self,
        _request: ListOperatorsRequest,
    ) -> Result<ListOperatorsResponse, MastersError> {
        Err(takes_no_orders())
    }

    /// Ends an operator.
    ///
    /// # Errors
    /// As [`change_range`](Self::change_range).
    async fn cancel_operator(
        &self,
        _request: CancelOperatorRequest,
    ) -> Result<CancelOperatorResponse, MastersError> {
        Err(takes_no_orders())
    }

    /// Says what a store is for.
    ///
    /// # Errors
    /// As [`change_range`](Self::change_range).
    async fn set_store_duty(
        &self,
        _request: SetStoreDutyRequest,
    ) -> Result<SetStoreDutyResponse, MastersError> {
        Err(takes_no_orders())
    }

    /// Shows what would be done next.
    ///
    /// # Errors
    /// As [`change_range`](Self::change_range).
    async fn schedule(&self) -> Result<GetScheduleResponse, MastersError> {
        Err(takes_no_orders())
    }

    /// Changes settings of the schedule.
    ///
    /// # Errors
    /// As [`change_range`](Self::change_range).
    async fn set_schedule(
        &self,
        _request: SetScheduleRequest,
    ) -> Result<SetScheduleResponse, MastersError> {
        Err(takes_no_orders())
    }

    /// Balances leaders and replicas now.
    ///
    /// # Errors
    /// As [`change_range`](Self::change_range).
    async fn rebalance(
        &self,
        _request: RebalanceRequest,
    ) -> Result<RebalanceResponse, MastersError> {
        Err(takes_no_orders())
    }

    /// Pauses what the masters do by themselves, or lets it go on.
    ///
    /// # Errors
    /// As [`change_range`](Self::change_range).
    async fn pause_schedule(
        &self,
        _request: PauseScheduleRequest,
    ) -> Result<PauseScheduleResponse, MastersError> {
        Err(takes_no_orders())
    }

    /// Changes the masters.
    ///
    /// # Errors
    /// As [`change_range`](Self::change_range).
    async fn change_masters(
        &self,
        _request: ChangeMastersRequest,
    ) -> Result<ChangeMastersResponse, MastersError> {
        Err(takes_no_orders())
    }

    /// Ranges that have lost their majority, and recoveries.
    ///
    /// # Errors
    /// As [`change_range`](Self::change_range).
    async fn list_recoveries(&self) -> Result<ListRecoveriesResponse, MastersError> {
        Err(takes_no_orders())
    }

    /// Lets what is left of such a range go on.
    ///
    /// # Errors
    /// As [`change_range`](Self::change_range).
    async fn recover_range(
        &self,
        _request: RecoverRangeRequest,
    ) -> Result<RecoverRangeResponse, MastersError> {
        Err(takes_no_orders())
    }
}

fn takes_no_orders() -> MastersError {
    MastersError::Unavailable("it takes no orders".to_owned())
}

#[tonic::async_trait]
impl Directory for sharklock_transport::Masters {
    fn watch_routes(&self) -> mpsc::Receiver<RoutesUpdate> {
        Self::watch_routes(self)
    }

    fn learn_masters(&self, masters: &[String]) {
        Self::learn(self, masters);
    }

    fn addresses(&self) -> Vec<String> {
        Self::addresses(self)
    }

    async fn describe_master(&self, address: &str) -> Result<DescribeMasterResponse, Status> {
        self.describe(address, CLUSTER_WITHIN).await
    }

    async fn cluster(&self) -> Result<GetClusterResponse, Status> {
        let answer = self.get_cluster(CLUSTER_WITHIN).await;
        answer.map_err(|error| Status::unavailable(error.to_string()))
    }

    async fn change_range(
        &self,
        request: ChangeRangeRequest,
    ) -> Result<ChangeRangeResponse, MastersError> {
        Self::change_range(self, request, ORDER_WITHIN).await
    }

    async fn list_operators(
        &self,
        request: ListOperatorsRequest,
    ) -> Result<ListOperatorsResponse, MastersError> {
        Self::list_operators(self, request, ORDER_WITHIN).await
    }

    async fn cancel_operator(
        &self,
        request: CancelOperatorRequest,
    ) -> Result<CancelOperatorResponse, MastersError> {
        Self::cancel_operator(self, request, ORDER_WITHIN).await
    }

    async fn set_store_duty(
        &self,
        request: SetStoreDutyRequest,
    ) -> Result<SetStoreDutyResponse, MastersError> {
        Self::set_store_duty(self, request, ORDER_WITHIN).await
    }

    async fn schedule(&self) -> Result<GetScheduleResponse, MastersError> {
        self.get_schedule(ORDER_WITHIN).await
    }

    async fn pause_schedule(
        &self,
        request: PauseScheduleRequest,
    ) -> Result<PauseScheduleResponse, MastersError> {
        Self::pause_schedule(self, request, ORDER_WITHIN).await
    }

    async fn set_schedule(
        &self,
        request: SetScheduleRequest,
    ) -> Result<SetScheduleResponse, MastersError> {
        Self::set_schedule(self, request, ORDER_WITHIN).await
    }

    async fn rebalance(
        &self,
        request: RebalanceRequest,
    ) -> Result<RebalanceResponse, MastersError> {
        Self::rebalance(self, request, ORDER_WITHIN).await
    }

    async fn change_masters(
        &self,
        request: ChangeMastersRequest,
    ) -> Result<ChangeMastersResponse, MastersError> {
        Self::change_masters(self, request, ORDER_WITHIN).await
    }

    async fn list_recoveries(&self) -> Result<ListRecoveriesResponse, MastersError> {
        Self::list_recoveries(self, ORDER_WITHIN).await
    }

    async fn recover_range(
        &self,
        request: RecoverRangeRequest,
    ) -> Result<RecoverRangeResponse, MastersError> {
        Self::recover_range(self, request, ORDER_WITHIN).await
    }
}

/// The directory of a gateway; None where all its stores are connected by hand.
pub(super) type Masters = Option<Arc<dyn Directory>>;
