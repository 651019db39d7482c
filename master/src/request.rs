//! The questions that a master is asked, and its answers.

use sharklock_proto::{
    internal::v1::{
        AllocateIdsRequest, AllocateIdsResponse, DescribeMasterResponse, GetClusterResponse,
        JoinRequest, JoinResponse, RegisterStoreRequest, RegisterStoreResponse, RoutesUpdate,
        StoreHeartbeatRequest, StoreHeartbeatResponse,
    },
    v1::{
        CancelOperatorRequest, CancelOperatorResponse, ChangeMastersRequest, ChangeMastersResponse,
        ChangeRangeRequest, ChangeRangeResponse, GetScheduleResponse, ListOperatorsRequest,
        ListOperatorsResponse, ListRecoveriesResponse, PauseScheduleRequest, PauseScheduleResponse,
        RebalanceRequest, RebalanceResponse, RecoverRangeRequest, RecoverRangeResponse,
        SetScheduleRequest, SetScheduleResponse, SetStoreDutyRequest, SetStoreDutyResponse,
    },
};

use crate::refusal::Refusal;

/// A question; its number is the asker's, echoed.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Unique among the open questions of one master.
    pub number: u64,
    /// The question.
    pub request: Request,
}

/// The question.
#[derive(Clone, Debug)]
pub enum Request {
    /// A data server says who it is.
    RegisterStore(RegisterStoreRequest),
    /// A store says what it is and leads.
    StoreHeartbeat(StoreHeartbeatRequest),
    /// Ids that nobody was ever given.
    AllocateIds(AllocateIdsRequest),
    /// An operator is to begin.
    ChangeRange(ChangeRangeRequest),
    /// Operators, for people.
    ListOperators(ListOperatorsRequest),
    /// An operator is to end.
    CancelOperator(CancelOperatorRequest),
    /// A store is to serve, to become empty, or is lost.
    SetStoreDuty(SetStoreDutyRequest),
    /// What would be done, for people.
    Schedule,
    /// The schedule is to pause, or to go on.
    PauseSchedule(PauseScheduleRequest),
    /// Settings of the schedule are to change.
    SetSchedule(SetScheduleRequest),
    /// Stores are to be balanced now.
    Rebalance(RebalanceRequest),
    /// A master says who it is.
    Join(JoinRequest),
    /// The masters are to be others.
    ChangeMasters(ChangeMastersRequest),
    /// Ranges that have lost their majority, for people.
    ListRecoveries,
    /// What is left of such a range is to go on.
    RecoverRange(RecoverRangeRequest),
    /// All routes.
    Routes,
    /// The cluster, for operators.
    Cluster,
    /// What this master says of itself: the only one that needs no leading one.
    Describe,
}

/// The answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// To [`Request::RegisterStore`].
    Registered(RegisterStoreResponse),
    /// To [`Request::StoreHeartbeat`].
    Heard(StoreHeartbeatResponse),
    /// To [`Request::AllocateIds`].
    Allocated(AllocateIdsResponse),
    /// To [`Request::ChangeRange`].
    Changing(ChangeRangeResponse),
    /// To [`Request::ListOperators`].
    Operators(ListOperatorsResponse),
    /// To [`Request::CancelOperator`].
    Cancelled(CancelOperatorResponse),
    /// To [`Request::SetStoreDuty`].
    Duty(SetStoreDutyResponse),
    /// To [`Request::Schedule`].
    Schedule(GetScheduleResponse),
    /// To [`Request::PauseSchedule`].
    Paused(PauseScheduleResponse),
    /// To [`Request::SetSchedule`].
    Settings(SetScheduleResponse),
    /// To [`Request::Rebalance`].
    Rebalancing(RebalanceResponse),
    /// To [`Request::Join`].
    Joined(JoinResponse),
    /// To [`Request::ChangeMasters`].
    MastersChanging(ChangeMastersResponse),
    /// To [`Request::ListRecoveries`].
    Recoveries(ListRecoveriesResponse),
    /// To [`Request::RecoverRange`].
    Recovering(RecoverRangeResponse),
    /// To [`Request::Routes`].
    Routes(RoutesUpdate),
    /// To [`Request::Cluster`].
    Cluster(GetClusterResponse),
    /// To [`Request::Describe`].
    Described(Box<DescribeMasterResponse>),
    /// To any.
    Refused(Refusal),
}
