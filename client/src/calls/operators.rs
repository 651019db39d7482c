//! An operator's calls about what the masters carry out: replicas that move, leaderships, and how far
//! that is.

use sharklock_proto::v1::{self, admin_service_client::AdminServiceClient};

use super::Repeat;
use crate::{client::Client, error::CallError};

impl Client {
    /// Says what [`change_range`](Self::change_range) would do: the steps, in order.
    ///
    /// # Errors
    /// See [`CallError`]; the refusals are those of the change.
    pub async fn plan_change(
        &self,
        range_id: u64,
        goal: v1::RangeGoal,
        operator: &str,
    ) -> Result<v1::ChangeRangeResponse, CallError> {
        let request = change(range_id, goal, operator, true);
        self.calls().ask(request, Repeat::Freely, send).await.map(|done| done.response)
    }

    /// Begins an operator, which the masters carry out: a replica moves, comes or goes, or another store
    /// leads. Answered once it is in the masters' log; [`operator`](Self::operator) tells how far it is.
    /// `operator` is who asks, for the log. Asked again while it runs, it is the same operator.
    ///
    /// # Errors
    /// See [`CallError`]. Nothing was begun unless it is [`CallError::Indeterminate`].
    pub async fn change_range(
        &self,
        range_id: u64,
        goal: v1::RangeGoal,
        operator: &str,
    ) -> Result<v1::ChangeRangeResponse, CallError> {
        let request = change(range_id, goal, operator, false);
        self.calls().ask(request, Repeat::Freely, send).await.map(|done| done.response)
    }

    /// Operators in order of their ids: those that run, and the last that have ended.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn operators(&self) -> Result<Vec<v1::Operator>, CallError> {
        self.list_operators(0).await
    }

    /// One operator.
    ///
    /// # Errors
    /// See [`CallError`]; `OPERATOR_UNKNOWN` if there is none of this id, or it ended long ago.
    pub async fn operator(&self, operator_id: u64) -> Result<v1::Operator, CallError> {
        let operators = self.list_operators(operator_id).await?;
        Ok(operators.into_iter().next().unwrap_or_default())
    }

    async fn list_operators(&self, operator_id: u64) -> Result<Vec<v1::Operator>, CallError> {
        let request = v1::ListOperatorsRequest { operator_id };
        let answer = self
            .calls()
            .read(request, |channel, request| async move {
                AdminServiceClient::new(channel).list_operators(request).await
            })
            .await?;
        Ok(answer.operators)
    }

    /// Says what a store is for: it becomes empty, serves again, or is lost for ever. `dry_run`: only what
    /// would follow.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn set_store_duty(
        &self,
        store_id: u64,
        duty: v1::StoreDuty,
        dry_run: bool,
        operator: &str,
    ) -> Result<v1::SetStoreDutyResponse, CallError> {
        let (duty, operator) = (duty.into(), operator.to_owned());
        let request = v1::SetStoreDutyRequest { store_id, duty, dry_run, operator };
        let set = |channel, request| async move {
            AdminServiceClient::new(channel).set_store_duty(request).await
        };
        self.calls().ask(request, Repeat::Freely, set).await.map(|done| done.response)
    }

    /// What the masters would do next by themselves, and what is in the way.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn schedule(&self) -> Result<v1::GetScheduleResponse, CallError> {
        let get = |channel, request| async move {
            AdminServiceClient::new(channel).get_schedule(request).await
        };
        self.calls().read(v1::GetScheduleRequest {}, get).await
    }

    /// Changes settings of the schedule: those in `settings` get their values, and those in `reset` are as
    /// nobody has set them. `dry_run`: only checks.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn set_schedule(
        &self,
        settings: Vec<v1::ScheduleSetting>,
        reset: Vec<String>,
        dry_run: bool,
        operator: &str,
    ) -> Result<v1::SetScheduleResponse, CallError> {
        let operator = operator.to_owned();
        let request = v1::SetScheduleRequest { settings, reset, dry_run, operator };
        let set = |channel, request| async move {
            AdminServiceClient::new(channel).set_schedule(request).await
        };
        self.calls().ask(request, Repeat::Freely, set).await.map(|done| done.response)
    }

    /// Balances leaders and replicas now, without waiting for leaders to cool down. Asked again while that
    /// goes on, it is the same order, and the answer tells what is left. `dry_run`: only what would be done.
    ///
    /// # Errors
    /// See [`CallError`]; `SCHEDULE_PAUSED`, and `SCHEDULE_WAITS` if too many stores are away or a master
    /// has just begun to lead.
    pub async fn rebalance(
        &self,
        dry_run: bool,
        operator: &str,
    ) -> Result<v1::RebalanceResponse, CallError> {
        let request = v1::RebalanceRequest { dry_run, operator: operator.to_owned() };
        let order = |channel, request| async move {
            AdminServiceClient::new(channel).rebalance(request).await
        };
        self.calls().ask(request, Repeat::Freely, order).await.map(|done| done.response)
    }

    /// Lets the masters do nothing by themselves, or do so again. Operators that run go on.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn pause_schedule(&self, is_paused: bool, operator: &str) -> Result<(), CallError> {
        let request = v1::PauseScheduleRequest { is_paused, operator: operator.to_owned() };
        let pause = |channel, request| async move {
            AdminServiceClient::new(channel).pause_schedule(request).await
        };
        self.calls().ask(request, Repeat::Freely, pause).await.map(|_done| ())
    }

    /// The masters as the leading one sees them, and those that wait to be added.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn masters(&self) -> Result<v1::ListMastersResponse, CallError> {
        let request = v1::ListMastersRequest {};
        self.calls()
            .read(request, |channel, request| async move {
                AdminServiceClient::new(channel).list_masters(request).await
            })
            .await
    }

    /// Adds a master, removes one, or makes another one lead; with `dry_run` it only says how. Answered
    /// once it is ordered; [`masters`](Self::masters) tells how far it is. `operator` is who asks, for the
    /// log. Asked again while it is on its way, it is the same change.
    ///
    /// # Errors
    /// See [`CallError`]. Nothing was begun unless it is [`CallError::Indeterminate`].
    pub async fn change_masters(
        &self,
        goal: v1::master_goal::Goal,
        dry_run: bool,
        operator: &str,
    ) -> Result<v1::ChangeMastersResponse, CallError> {
        let goal = Some(v1::MasterGoal { goal: Some(goal) });
        let request = v1::ChangeMastersRequest { goal, dry_run, operator: operator.to_owned() };
        let send = |channel, request| async move {
            AdminServiceClient::new(channel).change_masters(request).await
        };
        self.calls().ask(request, Repeat::Freely, send).await.map(|done| done.response)
    }

    /// Ranges that have lost their majority, and the recoveries that were ordered.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn recoveries(&self) -> Result<v1::ListRecoveriesResponse, CallError> {
        let list = |channel, request| async move {
            AdminServiceClient::new(channel).list_recoveries(request).await
        };
        self.calls().read(v1::ListRecoveriesRequest {}, list).await
    }

    /// Lets what is left of a range go on without its majority, which is lost for good. What that majority
    /// had decided alone is lost with it. Answered once it is ordered;
    /// [`recoveries`](Self::recoveries) tells how far it is. Asked again while it is on its way, it is the
    /// same.
    ///
    /// # Errors
    /// See [`CallError`]. Nothing was done unless it is [`CallError::Indeterminate`].
    pub async fn recover_range(
        &self,
        request: v1::RecoverRangeRequest,
    ) -> Result<v1::RecoverRangeResponse, CallError> {
        let send = |channel, request| async move {
            AdminServiceClient::new(channel).recover_range(request).await
        };
        self.calls().ask(request, Repeat::Freely, send).await.map(|done| done.response)
    }

    /// Ends an operator before it is done. What it has done stays done. One that has ended already stays
    /// as it is.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn cancel_operator(
        &self,
        operator_id: u64,
        operator: &str,
    ) -> Result<v1::Operator, CallError> {
        let request = v1::CancelOperatorRequest { operator_id, operator: operator.to_owned() };
        let cancel = |channel, request| async move {
            AdminServiceClient::new(channel).cancel_operator(request).await
        };
        let done = self.calls().ask(request, Repeat::Freely, cancel).await?;
        Ok(done.response.operator.unwrap_or_default())
    }
}

fn change(
    range_id: u64,
    goal: v1::RangeGoal,
    operator: &str,
    dry_run: bool,
) -> v1::ChangeRangeRequest {
    let (goal, operator) = (Some(goal), operator.to_owned());
    v1::ChangeRangeRequest { range_id, goal, dry_run, operator }
}

async fn send(
    channel: tonic::transport::Channel,
    request: v1::ChangeRangeRequest,
) -> Result<tonic::Response<v1::ChangeRangeResponse>, tonic::Status> {
    AdminServiceClient::new(channel).change_range(request).await
}
