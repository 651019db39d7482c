//! The news of a client's guards, and what its close has done. Plain values.

use std::sync::Arc;

use crate::{
    error::LostReason,
    ids::{AcquisitionId, FencingToken},
    request::AskMark,
};

/// Something has happened to a guard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardEvent {
    /// Whose.
    pub hold: GuardName,
    /// What.
    pub kind: GuardEventKind,
}

/// Names a guard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardName {
    /// The lock.
    pub name: Arc<str>,
    /// The token that its guard has.
    pub token: FencingToken,
    /// The acquisition within the client's session.
    pub acquisition: AcquisitionId,
}

/// See [`GuardEvent`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GuardEventKind {
    /// The guard was handed out, or its renewals are answered again.
    Safe,
    /// Half of its lease has passed without an answered renewal.
    Jeopardy,
    /// The lock is lost, for ever.
    Lost(LostReason),
    /// Somebody who waits has asked for the lock.
    Asked(AskMark),
    /// The guard was given back, and the cluster has confirmed it.
    Released,
    /// The guard was given back, and no answer came while the lease ran.
    ReleaseUnconfirmed,
}

/// What the close of a client has given back. What was lost before is in none of the lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Closed {
    /// The cluster has confirmed these.
    pub released: Vec<GuardName>,
    /// No answer came for these while their leases ran. They free themselves at the end of their
    /// leases, unless their condition is `hold`.
    pub unconfirmed: Vec<GuardName>,
}
