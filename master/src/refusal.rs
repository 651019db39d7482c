//! Why a master does not do what it is asked.

/// A reason, as in `google.rpc.ErrorInfo`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Another master leads, or none does: ask it, or again. Not done.
    NotLeader,
    /// Leadership was lost while it was on its way: it may be done or not. Ask again.
    Indeterminate,
    /// It is not known yet whether the process that used the directory before still lives. Ask
    /// again.
    Undecided,
    /// The asker knows of something that this master does not: a later master leads by now, or the
    /// masters were restored from an older state. Ask another.
    Behind,
    /// Too much waits. Ask again.
    Overloaded,
    /// The request belongs to another cluster.
    ClusterMismatch,
    /// The data directory is in use by another process, elsewhere: this one is a copy.
    StoreCopied,
    /// The masters know a later start of the data directory, or another process with this one: the
    /// directory was put back from an older copy, or the request comes late.
    StoreOlderCopy,
    /// The store's address belongs to another data directory: this one is new or was emptied.
    StoreWiped,
    /// The store is not known, or not by this data directory.
    StoreUnknown,
    /// A newer process speaks for this store.
    StoreSuperseded,
    /// The store was declared gone for ever.
    StoreGone,
    /// A field is wrong.
    Invalid,
    /// The masters know no such range.
    RangeUnknown,
    /// An operator runs for the range already.
    OperatorRunning,
    /// There is no such operator, or it has ended so long ago that nobody remembers it.
    OperatorUnknown,
    /// The range is already what it was to become.
    NothingToDo,
    /// The store has a replica of the range.
    ReplicaThere,
    /// The store has no replica of the range that could do that.
    NoReplicaThere,
    /// Nobody would vote any more.
    LastVoter,
    /// The store is not heard of, or is to be emptied.
    StoreUnfit,
    /// The schedule is paused.
    SchedulePaused,
    /// Nothing is balanced just now.
    ScheduleWaits,
    /// The range has a leader, or may get one: it is not lost.
    QuorumAlive,
    /// Lost stores are not named, or not said to be stopped.
    NotConfirmed,
    /// No replica is left that could go on.
    NoSurvivor,
    /// A store that is alive has not said yet what it has of the range.
    SurvivorsUnknown,
    /// Other ranges have the names of what is left.
    NamesTaken,
    /// What is left of the range is told to go on already.
    RecoveryRunning,
    /// There is no such master.
    MasterUnknown,
    /// A master is at this address.
    MasterThere,
    /// No master waits at this address, or it has no vote or is not heard of.
    MasterUnfit,
    /// Another change of the masters is on its way.
    MastersChanging,
    /// There are as many masters as make sense.
    MastersTooMany,
    /// Of the masters that would stay too few are heard of.
    NoMajority,
    /// The master that asks was removed.
    MasterRemoved,
}

impl Reason {
    /// As it stands in `ErrorInfo.reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotLeader => "NOT_LEADER",
            Self::Indeterminate => "INDETERMINATE",
            Self::Undecided => "UNDECIDED",
            Self::Behind => "BEHIND",
            Self::Overloaded => "OVERLOADED",
            Self::ClusterMismatch => "CLUSTER_MISMATCH",
            Self::StoreCopied => "STORE_COPIED",
            Self::StoreOlderCopy => "STORE_OLDER_COPY",
            Self::StoreWiped => "STORE_WIPED",
            Self::StoreUnknown => "STORE_UNKNOWN",
            Self::StoreSuperseded => "STORE_SUPERSEDED",
            Self::StoreGone => "STORE_GONE",
            Self::Invalid => "INVALID",
            Self::RangeUnknown => "RANGE_UNKNOWN",
            Self::OperatorRunning => "OPERATOR_RUNNING",
            Self::OperatorUnknown => "OPERATOR_UNKNOWN",
            Self::NothingToDo => "NOTHING_TO_DO",
            Self::ReplicaThere => "REPLICA_THERE",
            Self::NoReplicaThere => "NO_REPLICA_THERE",
            Self::LastVoter => "LAST_VOTER",
            Self::StoreUnfit => "STORE_UNFIT",
            Self::SchedulePaused => "SCHEDULE_PAUSED",
            Self::ScheduleWaits => "SCHEDULE_WAITS",
            Self::QuorumAlive => "QUORUM_ALIVE",
            Self::NotConfirmed => "NOT_CONFIRMED",
            Self::NoSurvivor => "NO_SURVIVOR",
            Self::SurvivorsUnknown => "SURVIVORS_UNKNOWN",
            Self::NamesTaken => "NAMES_TAKEN",
            Self::RecoveryRunning => "RECOVERY_RUNNING",
            Self::MasterUnknown => "MASTER_UNKNOWN",
            Self::MasterThere => "MASTER_THERE",
            Self::MasterUnfit => "MASTER_UNFIT",
            Self::MastersChanging => "MASTERS_CHANGING",
            Self::MastersTooMany => "MASTERS_TOO_MANY",
            Self::NoMajority => "NO_MAJORITY",
            Self::MasterRemoved => "MASTER_REMOVED",
        }
    }

    /// Whether asking again may help.
    pub fn is_retryable(self) -> bool {
        match self {
            Self::NotLeader
            | Self::Indeterminate
            | Self::Undecided
            | Self::Behind
            | Self::Overloaded => true,
            Self::ClusterMismatch
            | Self::StoreCopied
            | Self::StoreOlderCopy
            | Self::StoreWiped
            | Self::StoreUnknown
            | Self::StoreSuperseded
            | Self::StoreGone
            | Self::Invalid
            | Self::RangeUnknown
            | Self::OperatorRunning
            | Self::OperatorUnknown
            | Self::NothingToDo
            | Self::ReplicaThere
            | Self::NoReplicaThere
            | Self::LastVoter
            | Self::StoreUnfit
            | Self::SchedulePaused
            | Self::ScheduleWaits
            | Self::QuorumAlive
            | Self::NotConfirmed
            | Self::NoSurvivor
            | Self::SurvivorsUnknown
            | Self::NamesTaken
            | Self::RecoveryRunning
            | Self::MasterUnknown
            | Self::MasterThere
            | Self::MasterUnfit
            | Self::MastersChanging
            | Self::MastersTooMany
            | Self::NoMajority
            | Self::MasterRemoved => false,
        }
    }
}

/// A refusal, with a sentence for people that names the way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For programs.
    pub reason: Reason,
    /// For people.
    pub message: String,
    /// The leading master's address, with `NotLeader` and where it is known.
    pub leader: Option<String>,
}

impl Refusal {
    /// Without a leader.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), leader: None }
    }

    /// This master does not lead.
    pub fn not_leader(leader: Option<String>) -> Self {
        let message = match &leader {
            Some(leader) => format!("the master at {leader} leads"),
            None => "no master leads as far as this one knows".to_owned(),
        };
        Self { reason: Reason::NotLeader, message, leader }
    }
}
