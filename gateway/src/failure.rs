//! Why a call was not answered with a result: one closed list of reasons, each with its gRPC code.
//!
//! It owns the mapping from what stores say to what clients hear. It does not know tonic: the unary
//! service turns a [`Failure`] into a status with details, a stream into a `Failure` message.

use std::collections::BTreeMap;

use sharklock_proto::{
    CallKind, Unanswered,
    internal::v1::{StoreError, store_error::Kind},
    v1,
};

/// `ErrorInfo.domain` of every error.
pub const DOMAIN: &str = "sharklock";

/// The least pause after an answer that names none, milliseconds.
const RETRY_AFTER_MS: u64 = 100;

/// The gRPC status codes in use, by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Code {
    /// Never retry: the call itself is wrong.
    InvalidArgument = 3,
    /// The call's own deadline passed.
    DeadlineExceeded = 4,
    /// There is no such thing.
    NotFound = 5,
    /// Later.
    ResourceExhausted = 8,
    /// Change something first.
    FailedPrecondition = 9,
    /// A newer client than server.
    Unimplemented = 12,
    /// A server broke its own rules.
    Internal = 13,
    /// Retry this call.
    Unavailable = 14,
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, $code:ident;)+) => {
        /// `ErrorInfo.reason`: a name and its code never change meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Reason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Reason {
            /// All of them, in order of declaration.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// As on the wire.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// The gRPC code that always comes with it.
            pub const fn code(self) -> Code {
                match self {
                    $(Self::$variant => Code::$code,)+
                }
            }
        }
    };
}

reasons! {
    /// A lock name or prefix breaks the rules of names.
    BadLockName = "BAD_LOCK_NAME", InvalidArgument;
    /// The lease is too short or too long.
    BadTtl = "BAD_TTL", InvalidArgument;
    /// The wait is too long.
    BadWait = "BAD_WAIT", InvalidArgument;
    /// The session id or instance is missing, malformed or not the frame's.
    BadSession = "BAD_SESSION", InvalidArgument;
    /// The acquisition id is 0.
    BadAcquisitionId = "BAD_ACQUISITION_ID", InvalidArgument;
    /// The attempt's number is 0.
    BadSeq = "BAD_SEQ", InvalidArgument;
    /// The mode is not said, or not known here.
    BadMode = "BAD_MODE", InvalidArgument;
    /// Permits are out of bounds, or given to a lock mode without permits.
    BadPermits = "BAD_PERMITS", InvalidArgument;
    /// The owner id is too long or has control characters.
    BadOwner = "BAD_OWNER", InvalidArgument;
    /// The attributes are too long or have control characters.
    BadAttributes = "BAD_ATTRIBUTES", InvalidArgument;
    /// Too few, too many, or equal items in one batch.
    BadBatch = "BAD_BATCH", InvalidArgument;
    /// The fencing token is 0, which is none.
    BadToken = "BAD_TOKEN", InvalidArgument;
    /// The operator's reason is missing, too long, or has control characters.
    BadReason = "BAD_REASON", InvalidArgument;
    /// The operator's name is too long or has control characters.
    BadOperator = "BAD_OPERATOR", InvalidArgument;
    /// The page token is none of this list.
    BadPageToken = "BAD_PAGE_TOKEN", InvalidArgument;
    /// The call id of a call on a stream is 0, which marks events.
    BadCallId = "BAD_CALL_ID", InvalidArgument;
    /// A condition has a clause out of bounds, or clauses that contradict each other.
    BadCondition = "BAD_CONDITION", InvalidArgument;
    /// The lock table refuses a condition.
    ConditionRefused = "CONDITION_REFUSED", InvalidArgument;
    /// One acquisition id, two different acquires.
    AcquisitionReused = "ACQUISITION_REUSED", InvalidArgument;
    /// A call that this server does not know.
    UnknownCall = "UNKNOWN_CALL", Unimplemented;
    /// The lock is live in another kind, or with other permits.
    ModeMismatch = "MODE_MISMATCH", FailedPrecondition;
    /// It would wait for itself.
    WouldDeadlock = "WOULD_DEADLOCK", FailedPrecondition;
    /// Re-entry of a hold of another session, instance, owner, mode or permits.
    NotReenterable = "NOT_REENTERABLE", FailedPrecondition;
    /// The hold is ending: it is only to be released.
    HoldEnding = "HOLD_ENDING", FailedPrecondition;
    /// The lease of a hold would become shorter.
    LeaseShortened = "LEASE_SHORTENED", FailedPrecondition;
    /// The hold is another session's, or of a life that is not older.
    NotReclaimable = "NOT_RECLAIMABLE", FailedPrecondition;
    /// Nobody waits for the lock who could ask for it.
    NotWaiting = "NOT_WAITING", FailedPrecondition;
    /// Not every server of the range can do that yet.
    FeatureLevel = "FEATURE_LEVEL", FailedPrecondition;
    /// Every seat of the lock is taken.
    TooManyHolders = "TOO_MANY_HOLDERS", ResourceExhausted;
    /// The lock's queue is full.
    TooManyWaiters = "TOO_MANY_WAITERS", ResourceExhausted;
    /// The session has too many open acquisitions in this range.
    TooManyAcquisitions = "TOO_MANY_ACQUISITIONS", ResourceExhausted;
    /// The store's locks take as much memory as they may.
    StoreFull = "STORE_FULL", ResourceExhausted;
    /// Those of the clients at one address do.
    AddressFull = "ADDRESS_FULL", ResourceExhausted;
    /// The session has as many open acquisitions as this cluster lets it have.
    SessionFull = "SESSION_FULL", ResourceExhausted;
    /// The locks under a prefix take as much memory as they may.
    PrefixFull = "PREFIX_FULL", ResourceExhausted;
    /// The range was split, and the log that is kept until somebody leads the new range is too long.
    SplitUnfinished = "SPLIT_UNFINISHED", ResourceExhausted;
    /// The range was recovered without its majority, and grants nothing for a while.
    Quarantine = "QUARANTINE", ResourceExhausted;
    /// A request says no range, or a page of ranges that cannot be.
    BadRange = "BAD_RANGE", InvalidArgument;
    /// No store that answers has the range.
    RangeUnknown = "RANGE_UNKNOWN", NotFound;
    /// A range is to be split at one of its bounds.
    SplitAtBound = "SPLIT_AT_BOUND", FailedPrecondition;
    /// A range is to be split at a name that it does not have.
    SplitOutside = "SPLIT_OUTSIDE", FailedPrecondition;
    /// A range is to choose where it is split, and has no two names.
    SplitNoMiddle = "SPLIT_NO_MIDDLE", FailedPrecondition;
    /// The range has another epoch than was expected.
    RangeChanged = "RANGE_CHANGED", FailedPrecondition;
    /// Another split of the range is on its way.
    SplitRunning = "SPLIT_RUNNING", FailedPrecondition;
    /// The members of the range are being changed.
    MembersChanging = "MEMBERS_CHANGING", FailedPrecondition;
    /// Too many ranges that were split off the range have never had a leader.
    ChildrenAwaited = "CHILDREN_AWAITED", FailedPrecondition;
    /// The leadership of the range is on its way to another store.
    HandingOver = "HANDING_OVER", Unavailable;
    /// The leader of the range has not applied an entry of its own term.
    LeaderNotReady = "LEADER_NOT_READY", Unavailable;
    /// Too much of the range waits for its log.
    RangeBusy = "RANGE_BUSY", ResourceExhausted;
    /// The store of the leader has as many replicas as it may.
    TooManyRanges = "TOO_MANY_RANGES", ResourceExhausted;
    /// A goal for a range is none.
    BadGoal = "BAD_GOAL", InvalidArgument;
    /// Another operator runs for the range.
    OperatorRunning = "OPERATOR_RUNNING", FailedPrecondition;
    /// The masters know no such operator.
    OperatorUnknown = "OPERATOR_UNKNOWN", NotFound;
    /// The range is already what it was to become.
    NothingToDo = "NOTHING_TO_DO", FailedPrecondition;
    /// The store has a replica of the range.
    ReplicaThere = "REPLICA_THERE", FailedPrecondition;
    /// The store has no replica of the range that could do that.
    NoReplicaThere = "NO_REPLICA_THERE", FailedPrecondition;
    /// Nobody would vote any more.
    LastVoter = "LAST_VOTER", FailedPrecondition;
    /// The masters know no such store.
    StoreUnknown = "STORE_UNKNOWN", NotFound;
    /// The store is not heard of, or is to be emptied.
    StoreUnfit = "STORE_UNFIT", FailedPrecondition;
    /// The schedule is paused.
    SchedulePaused = "SCHEDULE_PAUSED", FailedPrecondition;
    /// Nothing is balanced just now: too many stores are away, or a master has begun to lead.
    ScheduleWaits = "SCHEDULE_WAITS", FailedPrecondition;
    /// There is no such master.
    MasterUnknown = "MASTER_UNKNOWN", NotFound;
    /// A master is at this address.
    MasterThere = "MASTER_THERE", FailedPrecondition;
    /// No master waits at this address, or it has no vote or is not heard of.
    MasterUnfit = "MASTER_UNFIT", FailedPrecondition;
    /// Another change of the masters is on its way.
    MastersChanging = "MASTERS_CHANGING", FailedPrecondition;
    /// There are as many masters as make sense.
    MastersTooMany = "MASTERS_TOO_MANY", FailedPrecondition;
    /// Of the masters that would stay too few are heard of.
    NoMajority = "NO_MAJORITY", FailedPrecondition;
    /// The range has a leader, or may get one: it is not lost.
    QuorumAlive = "QUORUM_ALIVE", FailedPrecondition;
    /// Lost stores are not named, or not said to be stopped.
    NotConfirmed = "NOT_CONFIRMED", FailedPrecondition;
    /// No replica is left of the range that could go on.
    NoSurvivor = "NO_SURVIVOR", FailedPrecondition;
    /// A store that is alive has not said yet what it has of the range.
    SurvivorsUnknown = "SURVIVORS_UNKNOWN", FailedPrecondition;
    /// Other ranges have the names of what is left.
    NamesTaken = "NAMES_TAKEN", FailedPrecondition;
    /// What is left of the range is told to go on already.
    RecoveryRunning = "RECOVERY_RUNNING", FailedPrecondition;
    /// No leading master answers, who would have to give ids. Locks go on.
    NoMaster = "NO_MASTER", Unavailable;
    /// The masters have given ids that cannot be used.
    IdsUnusable = "IDS_UNUSABLE", Internal;
    /// Too much is waiting; nothing was done.
    Overloaded = "OVERLOADED", ResourceExhausted;
    /// The answer is larger than a message may be; nothing was changed.
    AnswerTooLarge = "ANSWER_TOO_LARGE", ResourceExhausted;
    /// The masters have not formed a cluster yet, or none that has has answered; nothing was done.
    NoCluster = "NO_CLUSTER", Unavailable;
    /// No leader answers for the range; nothing was done.
    NoLeader = "NO_LEADER", Unavailable;
    /// The range's bounds have moved; nothing was done, and the new bounds are known now.
    RangeMoved = "RANGE_MOVED", Unavailable;
    /// The call may have waited for too long before it was read; nothing was done.
    TooOld = "TOO_OLD", Unavailable;
    /// It may or may not have been done.
    Indeterminate = "INDETERMINATE", Unavailable;
    /// A Session stream said nothing after it was opened.
    SilentStream = "SILENT_STREAM", DeadlineExceeded;
    /// This gateway is stopping.
    ShuttingDown = "SHUTTING_DOWN", Unavailable;
    /// A call that changes nothing was not answered in time.
    NoAnswer = "NO_ANSWER", DeadlineExceeded;
    /// A store answered something else than was asked.
    BadAnswer = "BAD_ANSWER", Internal;
}

impl Reason {
    /// The reasons that a store's state machine gives.
    fn of_refusal(name: &str) -> Option<Self> {
        let refusals = [
            Self::ModeMismatch,
            Self::WouldDeadlock,
            Self::NotReenterable,
            Self::ConditionRefused,
            Self::HoldEnding,
            Self::LeaseShortened,
            Self::NotReclaimable,
            Self::NotWaiting,
            Self::FeatureLevel,
            Self::TooManyHolders,
            Self::TooManyWaiters,
            Self::TooManyAcquisitions,
            Self::StoreFull,
            Self::AddressFull,
            Self::SessionFull,
            Self::PrefixFull,
            Self::SplitUnfinished,
            Self::Quarantine,
            Self::AcquisitionReused,
            Self::SplitAtBound,
            Self::SplitOutside,
            Self::SplitNoMiddle,
            Self::RangeChanged,
            Self::SplitRunning,
            Self::MembersChanging,
            Self::ChildrenAwaited,
            Self::HandingOver,
            Self::LeaderNotReady,
            Self::RangeBusy,
            Self::TooManyRanges,
            Self::NoMaster,
            Self::IdsUnusable,
        ];
        refusals.into_iter().find(|reason| reason.as_str() == name)
    }

    /// The reasons that masters give operators.
    fn of_master(name: &str) -> Option<Self> {
        let refusals = [
            Self::RangeUnknown,
            Self::OperatorRunning,
            Self::OperatorUnknown,
            Self::NothingToDo,
            Self::ReplicaThere,
            Self::NoReplicaThere,
            Self::LastVoter,
            Self::StoreUnknown,
            Self::StoreUnfit,
            Self::SchedulePaused,
            Self::ScheduleWaits,
            Self::MasterUnknown,
            Self::MasterThere,
            Self::MasterUnfit,
            Self::MastersChanging,
            Self::MastersTooMany,
            Self::NoMajority,
            Self::QuorumAlive,
            Self::NotConfirmed,
            Self::NoSurvivor,
            Self::SurvivorsUnknown,
            Self::NamesTaken,
            Self::RecoveryRunning,
        ];
        match name {
            "INVALID" => Some(Self::BadGoal),
            name => refusals.into_iter().find(|reason| reason.as_str() == name),
        }
    }
}

/// An error as clients hear it. Its texts never repeat raw input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The machine's part.
    pub reason: Reason,
    /// For people: what is wrong, the limit, and what to do.
    pub message: String,
    /// The request's field that is wrong, as a path; empty when it is none.
    pub field: String,
    /// Of `ErrorInfo`: numbers that a program may want.
    pub metadata: BTreeMap<String, String>,
    /// Not 0: do not retry before this many milliseconds.
    pub retry_after_ms: u64,
}

impl Failure {
    /// A failure that is no field's fault.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        let (field, metadata) = (String::new(), BTreeMap::new());
        Self { reason, message: message.into(), field, metadata, retry_after_ms: 0 }
    }

    /// A failure of one field of the request.
    pub fn of_field(reason: Reason, field: &str, message: impl Into<String>) -> Self {
        let mut failure = Self::new(reason, message);
        failure.field = field.to_owned();
        failure.metadata.insert("field".to_owned(), field.to_owned());
        failure
    }

    /// Says in which part of the request the field is.
    pub fn inside(mut self, path: &str) -> Self {
        self.field = format!("{path}.{}", self.field);
        self.metadata.insert("field".to_owned(), self.field.clone());
        self
    }

    /// Adds a number for programs.
    pub fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.metadata.insert(key.to_owned(), value.to_string());
        self
    }

    /// Says when to retry.
    pub fn retry_after(mut self, retry_after_ms: u64) -> Self {
        self.retry_after_ms = retry_after_ms;
        self
    }

    /// Too much is waiting in this gateway, and nothing was done.
    pub fn overloaded(message: &str) -> Self {
        Self::new(Reason::Overloaded, message).retry_after(RETRY_AFTER_MS)
    }

    /// The error of a store, in the words of the API (D15).
    pub fn of_store(error: StoreError) -> Self {
        match error.kind {
            Some(Kind::NotLeader(at)) => Self::no_leader().with("range_id", at.range_id),
            Some(Kind::EpochNotMatch(_)) => Self::new(
                Reason::RangeMoved,
                "the range's bounds have moved; nothing was done: retry",
            ),
            Some(Kind::Overloaded(overloaded)) => {
                Self::overloaded("the store has too much waiting; nothing was done: retry later")
                    .retry_after(overloaded.retry_after_ms.max(1))
            }
            Some(Kind::Refused(refused)) => match Reason::of_refusal(&refused.reason) {
                Some(reason) => {
                    Self::new(reason, refused.message).retry_after(refused.retry_after_ms)
                }
                None => Self::new(
                    Reason::BadAnswer,
                    "the store refused the call for a reason that this gateway does not know",
                ),
            },
            // An error that this gateway cannot read may stand for anything.
            Some(Kind::Indeterminate(_)) | None => Self::indeterminate(),
        }
    }

    /// The refusal of the leading master.
    pub fn of_master(reason: &str, message: &str) -> Self {
        match Reason::of_master(reason) {
            Some(reason) => Self::new(reason, message),
            None => Self::new(
                Reason::BadAnswer,
                "the masters refused the call for a reason that this gateway does not know",
            ),
        }
    }

    /// No leading master answers; nothing is known to have been done.
    pub fn no_master(why: &str) -> Self {
        let message = format!("no leading master answers; locks go on: ask again ({why})");
        Self::new(Reason::NoMaster, message)
    }

    /// Nobody leads the range, as far as can be found out, and nothing was done.
    pub fn no_leader() -> Self {
        Self::new(Reason::NoLeader, "no leader answers for the range; nothing was done: retry")
            .retry_after(RETRY_AFTER_MS)
    }

    /// The call may or may not have been done.
    pub fn indeterminate() -> Self {
        Self::new(
            Reason::Indeterminate,
            "it may or may not have been done: retry with the same acquisition id",
        )
    }

    /// What to say of a sent call that nobody has answered: only what changes something can have been
    /// done or not.
    pub fn unanswered(kind: CallKind) -> Self {
        match kind.unanswered() {
            Unanswered::MayBeDone => Self::indeterminate(),
            Unanswered::AskAgain => {
                Self::new(Reason::NoAnswer, "no store answered in time: ask again")
            }
            Unanswered::Nothing => unreachable!("nobody waits for the answer to {kind:?}"),
        }
    }

    /// As a message of a Session stream.
    pub fn into_message(self) -> v1::Failure {
        v1::Failure {
            code: self.reason.code() as i32,
            reason: self.reason.as_str().to_owned(),
            message: self.message,
            metadata: self.metadata,
            retry_after_ms: self.retry_after_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use sharklock_proto::internal::v1 as internal;

    use super::*;

    #[test]
    fn names_of_reasons_are_distinct_and_in_upper_snake_case() {
        let mut names: Vec<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert!(names.iter().all(|name| name.chars().all(|c| c.is_ascii_uppercase() || c == '_')));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Reason::ALL.len());
    }

    #[test]
    fn every_store_error_has_its_code_and_reason() {
        use Code::{FailedPrecondition, Internal, InvalidArgument, ResourceExhausted, Unavailable};
        let refused = |reason: &str| {
            Some(Kind::Refused(internal::Refused {
                reason: reason.to_owned(),
                message: "because".to_owned(),
                retry_after_ms: 0,
            }))
        };
        let not_leader = internal::NotLeader { range_id: 7, leader_store_id: 0 };
        let overloaded = internal::Overloaded { retry_after_ms: 40 };
        let cases = [
            (Some(Kind::NotLeader(not_leader)), Unavailable, "NO_LEADER"),
            (
                Some(Kind::EpochNotMatch(internal::EpochNotMatch::default())),
                Unavailable,
                "RANGE_MOVED",
            ),
            (Some(Kind::Overloaded(overloaded)), ResourceExhausted, "OVERLOADED"),
            (Some(Kind::Indeterminate(internal::Indeterminate {})), Unavailable, "INDETERMINATE"),
            (None, Unavailable, "INDETERMINATE"),
            (refused("MODE_MISMATCH"), FailedPrecondition, "MODE_MISMATCH"),
            (refused("WOULD_DEADLOCK"), FailedPrecondition, "WOULD_DEADLOCK"),
            (refused("NOT_REENTERABLE"), FailedPrecondition, "NOT_REENTERABLE"),
            (refused("CONDITION_REFUSED"), InvalidArgument, "CONDITION_REFUSED"),
            (refused("HOLD_ENDING"), FailedPrecondition, "HOLD_ENDING"),
            (refused("LEASE_SHORTENED"), FailedPrecondition, "LEASE_SHORTENED"),
            (refused("NOT_RECLAIMABLE"), FailedPrecondition, "NOT_RECLAIMABLE"),
            (refused("NOT_WAITING"), FailedPrecondition, "NOT_WAITING"),
            (refused("FEATURE_LEVEL"), FailedPrecondition, "FEATURE_LEVEL"),
            (refused("TOO_MANY_HOLDERS"), ResourceExhausted, "TOO_MANY_HOLDERS"),
            (refused("STORE_FULL"), ResourceExhausted, "STORE_FULL"),
            (refused("SPLIT_UNFINISHED"), ResourceExhausted, "SPLIT_UNFINISHED"),
            (refused("QUARANTINE"), ResourceExhausted, "QUARANTINE"),
            (refused("ADDRESS_FULL"), ResourceExhausted, "ADDRESS_FULL"),
            (refused("SESSION_FULL"), ResourceExhausted, "SESSION_FULL"),
            (refused("PREFIX_FULL"), ResourceExhausted, "PREFIX_FULL"),
            (refused("TOO_MANY_WAITERS"), ResourceExhausted, "TOO_MANY_WAITERS"),
            (refused("TOO_MANY_ACQUISITIONS"), ResourceExhausted, "TOO_MANY_ACQUISITIONS"),
            (refused("ACQUISITION_REUSED"), InvalidArgument, "ACQUISITION_REUSED"),
            (refused("SPLIT_AT_BOUND"), FailedPrecondition, "SPLIT_AT_BOUND"),
            (refused("SPLIT_OUTSIDE"), FailedPrecondition, "SPLIT_OUTSIDE"),
            (refused("SPLIT_NO_MIDDLE"), FailedPrecondition, "SPLIT_NO_MIDDLE"),
            (refused("RANGE_CHANGED"), FailedPrecondition, "RANGE_CHANGED"),
            (refused("SPLIT_RUNNING"), FailedPrecondition, "SPLIT_RUNNING"),
            (refused("MEMBERS_CHANGING"), FailedPrecondition, "MEMBERS_CHANGING"),
            (refused("CHILDREN_AWAITED"), FailedPrecondition, "CHILDREN_AWAITED"),
            (refused("HANDING_OVER"), Unavailable, "HANDING_OVER"),
            (refused("LEADER_NOT_READY"), Unavailable, "LEADER_NOT_READY"),
            (refused("RANGE_BUSY"), ResourceExhausted, "RANGE_BUSY"),
            (refused("TOO_MANY_RANGES"), ResourceExhausted, "TOO_MANY_RANGES"),
            (refused("NO_MASTER"), Unavailable, "NO_MASTER"),
            (refused("IDS_UNUSABLE"), Internal, "IDS_UNUSABLE"),
            (refused("FROM_THE_FUTURE"), Internal, "BAD_ANSWER"),
            // A store must not be able to speak for the gateway.
            (refused("SHUTTING_DOWN"), Internal, "BAD_ANSWER"),
        ];
        for (kind, code, reason) in cases {
            let failure = Failure::of_store(StoreError { kind: kind.clone() });
            assert_eq!(failure.reason.code(), code, "{kind:?}");
            assert_eq!(failure.reason.as_str(), reason, "{kind:?}");
        }
        let failure = Failure::of_store(StoreError { kind: Some(Kind::Overloaded(overloaded)) });
        assert_eq!(failure.into_message().retry_after_ms, 40);
    }
}
