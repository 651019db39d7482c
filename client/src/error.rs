//! The errors, one small enum per public operation. The distinctions are those a caller acts
//! on: refused, out of reach, may or may not have happened, lost.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    cluster::{BadClusterId, ClusterMismatch},
    condition::Agreement,
    ids::FencingToken,
    request::Holder,
};

/// The reason of an error where no server could be reached.
pub const NOT_CONNECTED: &str = "NOT_CONNECTED";
/// The reason of an error where servers were reached, and none has answered in time.
pub const NO_ANSWER: &str = "NO_ANSWER";

/// Why a guard does not hold its lock any more. Once lost, a guard stays lost, whatever a server
/// says later.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LostReason {
    /// No renewal was answered before the lease, counted from the sending of the last answered
    /// one, ran out: servers out of reach, or this process was paused.
    Unrenewed,
    /// The cluster says that the lease ended.
    Expired,
    /// An operator took it away. The cluster waits for the release of every guard of the hold
    /// before it grants the lock to another (unless told `--now`): stop, then release.
    ForceReleased {
        /// The operator's words; empty when the cluster has forgotten them.
        reason: String,
    },
    /// The cluster does not know the hold.
    Unknown,
    /// The lease of a claimed hold ended. Nobody else gets the lock: take it back with
    /// [`Client::reclaim`](crate::Client::reclaim), under a new token.
    Orphaned,
    /// A newer instance of the session has taken the hold over: this life of the program is the older
    /// one.
    Reclaimed,
    /// It was held for as long as its condition allows.
    HeldTooLong,
    /// Somebody who waited has asked for the lock, and the time that the condition gives was over.
    AskedFor,
    /// The cluster says that it was released, which this guard did not do: somebody else acts under
    /// the session.
    Released,
    /// The cluster says that it was cancelled, which this guard did not do: somebody else acts under
    /// the session.
    Cancelled,
    /// The cluster says that its wait had timed out: it did not know of the grant any more.
    WaitTimedOut,
    /// The cluster says that it was a try that was refused: it did not know of the grant any more.
    Refused,
    /// The cluster says that the hold which it had re-entered, or taken back, was not live.
    HoldLost,
    /// The client's endpoints turned out to belong to two clusters, and most of them not to the one
    /// that granted the lock: others may hold it there.
    OtherCluster,
    /// The client is being closed: stop, and give the guard back. The cluster keeps the lock until then,
    /// or until the time that was given is over.
    Closed,
    /// The client's session task has ended, with the runtime that it was started on.
    SessionEnded,
}

impl fmt::Display for LostReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unrenewed => f.write_str("no renewal was answered before its lease ran out"),
            Self::Expired => f.write_str("its lease expired"),
            Self::ForceReleased { reason } if reason.is_empty() => {
                f.write_str("an operator released it")
            }
            Self::ForceReleased { reason } => write!(f, "an operator released it: {reason}"),
            Self::Unknown => f.write_str("the cluster does not know it any more"),
            Self::Orphaned => f.write_str(
                "its lease ended, and it stays for its session as its condition says: reclaim it",
            ),
            Self::Reclaimed => f.write_str(
                "a newer instance of its session has taken it over: end this older one",
            ),
            Self::HeldTooLong => f.write_str(
                "it was held for as long as its condition allows: acquire it again to go on",
            ),
            Self::AskedFor => f.write_str(
                "somebody who waited asked for it, as its condition allows: acquire it again to \
                 go on",
            ),
            Self::Released => f.write_str(
                "the cluster says that it was released: see who else uses this session",
            ),
            Self::Cancelled => f.write_str(
                "the cluster says that it was cancelled: see who else uses this session",
            ),
            Self::WaitTimedOut => f.write_str(
                "the cluster has forgotten its grant, and knows only a wait that timed out: \
                 acquire it again",
            ),
            Self::Refused => f.write_str(
                "the cluster has forgotten its grant, and knows only a refused try: acquire it again",
            ),
            Self::HoldLost => f.write_str("the hold that it had joined was not live"),
            Self::OtherCluster => f.write_str("the client's endpoints belong to two clusters"),
            Self::Closed => f.write_str("the client was closed"),
            Self::SessionEnded => f.write_str("the client's session has ended"),
        }
    }
}

/// A lock was lost while it was in use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("lock {name:?} (token {token}) was lost: {reason}")]
pub struct LockLost {
    /// The lock.
    pub name: Arc<str>,
    /// The token under which it was held.
    pub token: FencingToken,
    /// Why.
    pub reason: LostReason,
}

/// Why a lock was not acquired. In every case no guard exists and the place in the queue, if there
/// was one, is given up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AcquireError {
    /// A try found the lock held, or others queueing for it.
    #[error("lock {name:?} is held{}", by(" by ", holders))]
    Held {
        /// The lock.
        name: Arc<str>,
        /// The holders, at most 8; empty when others only queue, or the answer was a late one.
        holders: Vec<Holder>,
        /// How many wait.
        waiters: u32,
    },
    /// The wait ended first.
    #[error("lock {name:?} was not free in time{}", by("; held by ", holders))]
    WaitTimedOut {
        /// The lock.
        name: Arc<str>,
        /// The holders when last heard of, at most 8.
        holders: Vec<Holder>,
        /// The place in the queue when last heard of; 1 is next.
        place: Option<u32>,
    },
    /// Re-entry, or taking back, found that the hold it names is not live.
    #[error("the hold of lock {name:?} to re-enter or take back is not live any more")]
    HoldLost {
        /// The lock.
        name: Arc<str>,
    },
    /// The request is not valid; it never will be.
    #[error("invalid {}: {message}", field.as_deref().unwrap_or("request"))]
    Invalid {
        /// Which part, when known: `name`, `ttl_ms`, …
        field: Option<String>,
        /// Machine-readable, as `BAD_LOCK_NAME`.
        reason: String,
        /// For people.
        message: String,
    },
    /// The lock is live with another kind or another number of permits.
    #[error("lock {name:?} is in use in another mode: {message}")]
    ModeMismatch {
        /// The lock.
        name: Arc<str>,
        /// For people.
        message: String,
    },
    /// A rule of the lock forbids it until something changes, as `WOULD_DEADLOCK` for an upgrade.
    #[error("lock {name:?} refused ({reason}): {message}")]
    Forbidden {
        /// The lock.
        name: Arc<str>,
        /// Machine-readable.
        reason: String,
        /// For people.
        message: String,
    },
    /// A limit is reached: waiters of the lock, or acquisitions of the session.
    #[error("limit reached ({reason}): {message}")]
    LimitReached {
        /// `TOO_MANY_HOLDERS`, `TOO_MANY_WAITERS`, `TOO_MANY_ACQUISITIONS`, …
        reason: String,
        /// For people.
        message: String,
        /// Not before this is a retry of use, when the server said so.
        retry_after: Option<Duration>,
    },
    /// No server could be reached, or none could serve, before the deadline. The lock was not
    /// acquired, for certain.
    #[error("{}: {message}", unavailable(reason))]
    Unavailable {
        /// Machine-readable: `NOT_CONNECTED` if no server could be reached, `NO_ANSWER` if none has
        /// answered, else why those who did could not serve, as `NO_LEADER`.
        reason: String,
        /// The last failure, for people.
        message: String,
    },
    /// An attempt was sent and never answered before the deadline: it may have been granted. It is
    /// withdrawn in the background, and without renewal it ends at its TTL at the latest.
    #[error("the outcome is not known: {message}")]
    Indeterminate {
        /// The last failure, for people.
        message: String,
    },
    /// The acquisition ended before its grant could be handed out: its lease ran out while the
    /// cluster was out of reach, or an operator ended it. A new `acquire()` queues afresh.
    #[error("the place at lock {name:?} was lost: {reason}")]
    Lost {
        /// The lock.
        name: Arc<str>,
        /// Why.
        reason: LostReason,
    },
    /// The server failed in a way that retrying does not heal, or that this client does not know.
    #[error("the server failed ({reason}): {message}")]
    Failed {
        /// Machine-readable, or the gRPC code's name.
        reason: String,
        /// For people.
        message: String,
    },
    /// The endpoints belong to two clusters, or to another than the client was told: a lock of one
    /// says nothing to those who ask the other. A client that was not told its cluster is of no more
    /// use after this.
    #[error(transparent)]
    OtherCluster(ClusterMismatch),
    /// The client is closed: make another.
    #[error("the client is closed: make another to acquire locks")]
    Closed,
    /// The client's session task has ended, with the runtime that it was started on.
    #[error("the client's session has ended")]
    SessionEnded,
}

impl AcquireError {
    /// The same call may succeed later although nothing is changed by the caller.
    pub fn is_retryable(&self) -> bool {
        match self {
            // Contention passes.
            Self::Held { .. } | Self::WaitTimedOut { .. } => true,
            // Others stop queueing; our own guards are released.
            Self::LimitReached { .. } => true,
            // Servers come back, and whatever an unanswered attempt did is withdrawn.
            Self::Unavailable { .. } | Self::Indeterminate { .. } => true,
            // A new acquisition queues afresh.
            Self::Lost { .. } => true,
            // The kind of a lock is open again once it is free, but that is a change by others
            // who disagree about what the lock is: a mistake to show, not to wait for.
            Self::ModeMismatch { .. } => false,
            // The token to re-enter stays dead.
            Self::HoldLost { .. } => false,
            Self::Invalid { .. } | Self::Forbidden { .. } | Self::Failed { .. } => false,
            // A list is to be corrected, or this client is of no more use.
            Self::OtherCluster(_) | Self::Closed | Self::SessionEnded => false,
        }
    }
}

/// What an `Unavailable` means, in words.
fn unavailable(reason: &str) -> &'static str {
    match reason {
        NOT_CONNECTED | NO_ANSWER => "the cluster is out of reach",
        "WRONG_PORT" => "no gateway is there",
        "NO_CLUSTER" => "the cluster is not formed yet",
        "NO_LEADER" => "nobody leads the range of the lock",
        "NO_MASTER" => "no leading master answers",
        _ => "no server could serve it in time",
    }
}

/// Why a release was not confirmed. The guard is gone in every case.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReleaseError {
    /// The lock had been lost before it was released: what was done under it may have met
    /// another holder, unless the resource checks tokens.
    #[error(transparent)]
    Lost(#[from] LockLost),
    /// No answer came while the lease ran. The lock frees itself at the end of its lease.
    #[error(
        "the release of lock {name:?} was not confirmed; it frees itself at the end of its lease"
    )]
    Unconfirmed {
        /// The lock.
        name: Arc<str>,
    },
}

/// Why a change of a hold was not done, or is not known to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// The lock is lost.
    #[error(transparent)]
    Lost(#[from] LockLost),
    /// Nothing was done, since what is agreed had changed meanwhile: see what holds, and decide anew.
    #[error("lock {name:?}: what is agreed had changed meanwhile, to {agreement:?}")]
    Moved {
        /// The lock.
        name: Arc<str>,
        /// What holds.
        agreement: Agreement,
    },
    /// The change is not valid; it never will be.
    #[error("invalid {}: {message}", field.as_deref().unwrap_or("request"))]
    Invalid {
        /// Which part, when known.
        field: Option<String>,
        /// Machine-readable.
        reason: String,
        /// For people.
        message: String,
    },
    /// Other guards of this client share the hold, and their users count on it as it is.
    #[error("lock {name:?} has other guards on the same hold: release them before")]
    Shared {
        /// The lock.
        name: Arc<str>,
    },
    /// A later change came before this one.
    #[error("a later change of lock {name:?} came before this one")]
    Overtaken {
        /// The lock.
        name: Arc<str>,
    },
    /// The server refused it or failed; the hold is as it was.
    #[error("lock {name:?} refused ({reason}): {message}")]
    Refused {
        /// The lock.
        name: Arc<str>,
        /// Machine-readable, or the gRPC code's name.
        reason: String,
        /// For people.
        message: String,
    },
}

impl ChangeError {
    /// The same words as for an acquisition that asks for what is not valid.
    #[cfg(feature = "edge")]
    pub(crate) fn invalid(error: AcquireError) -> Self {
        match error {
            AcquireError::Invalid { field, reason, message } => {
                Self::Invalid { field, reason, message }
            }
            other => unreachable!("what is checked is valid or not: {other}"),
        }
    }
}

/// Why a hold was not taken back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReclaimError {
    /// The hold is no more, or is not one of an older life of this session.
    #[error(
        "the hold of lock {name:?} with token {token} is no more{}",
        by("; now held by ", holders)
    )]
    Gone {
        /// The lock.
        name: Arc<str>,
        /// The token with which it was held.
        token: FencingToken,
        /// Who holds the lock now; empty when nobody does, or it could not be found out.
        holders: Vec<Holder>,
    },
    /// It may still be there: try again.
    #[error(transparent)]
    Acquire(#[from] AcquireError),
    /// What the lock is like now could not be found out.
    #[error(transparent)]
    Look(#[from] CallError),
}

/// Why a guard was not downgraded.
#[cfg(feature = "edge")]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DowngradeError {
    /// It was not done: the hold is exclusive as before.
    #[error("not downgraded: {error}")]
    Kept {
        /// The guard, as it was.
        guard: Box<crate::Guard>,
        /// Why.
        error: ChangeError,
    },
    /// The lock was lost.
    #[error(transparent)]
    Lost(#[from] LockLost),
}

/// Why a look at the cluster or an operator's call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The request is not valid; it never will be.
    #[error("invalid {}: {message}", field.as_deref().unwrap_or("request"))]
    Invalid {
        /// Which part, when known.
        field: Option<String>,
        /// Machine-readable.
        reason: String,
        /// For people.
        message: String,
    },
    /// No server could be reached, or none could serve, before the deadline.
    #[error("{}: {message}", unavailable(reason))]
    Unavailable {
        /// Machine-readable: `NOT_CONNECTED` if no server could be reached, `NO_ANSWER` if none has
        /// answered, else why those who did could not serve, as `NO_LEADER`.
        reason: String,
        /// The last failure, for people.
        message: String,
    },
    /// The call was sent and its answer never came: it may or may not have been done.
    #[error("the outcome is not known: {message}")]
    Indeterminate {
        /// The last failure, for people.
        message: String,
    },
    /// The endpoints belong to two clusters, or to another than the client was told. Nothing was
    /// asked of the other.
    #[error(transparent)]
    OtherCluster(ClusterMismatch),
    /// The server refused it or failed.
    #[error("the server refused ({reason}): {message}")]
    Failed {
        /// Machine-readable, or the gRPC code's name.
        reason: String,
        /// For people.
        message: String,
    },
}

impl CallError {
    /// The same call may succeed later although nothing is changed by the caller.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable { .. } | Self::Indeterminate { .. } => true,
            Self::Invalid { .. } | Self::OtherCluster(_) | Self::Failed { .. } => false,
        }
    }
}

/// Why a client could not be made. Nothing is connected yet: these are mistakes in what was given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// No endpoint was given.
    #[error("no endpoint: give at least one, as http://127.0.0.1:7700")]
    NoEndpoint,
    /// An environment variable is set and names no endpoint.
    #[error(
        "{0} is set and names no endpoint: give at least one, as http://127.0.0.1:7700, or unset it"
    )]
    NoEndpointIn(&'static str),
    /// An endpoint cannot be understood.
    #[error("endpoint {endpoint:?}: {why}; expected something like http://127.0.0.1:7700")]
    Endpoint {
        /// As it was given.
        endpoint: String,
        /// The fault, in words.
        why: String,
    },
    /// An environment variable is not the id of a cluster.
    #[error("environment variable {0}: {BadClusterId}")]
    Cluster(&'static str),
    /// An environment variable is not valid Unicode.
    #[error("environment variable {0} is not valid UTF-8")]
    Environment(&'static str),
    /// The state file cannot be used.
    #[cfg(feature = "edge")]
    #[error(transparent)]
    StateFile(#[from] crate::StateFileError),
    /// A state file has a session of its own.
    #[error("a state file has the session's secret and instance: leave those out, or the file")]
    TwoSessions,
    /// An instance is not 0.
    #[error("the instance must be 1 or more, and larger than those of all lives before")]
    Instance,
    /// The identity is longer than 256 bytes or has control characters.
    #[error("the identity must be at most 256 bytes without control characters")]
    Identity,
}

fn by(words: &str, holders: &[Holder]) -> String {
    match holders {
        [] => String::new(),
        [only] => format!("{words}{}", who(only)),
        [first, rest @ ..] => format!("{words}{} and {} more", who(first), rest.len()),
    }
}

fn who(holder: &Holder) -> String {
    let named = if holder.owner.is_empty() { &holder.session } else { &holder.owner };
    match holder.token {
        Some(token) => format!("{named} (token {token})"),
        None => named.clone(),
    }
}
