//! The inputs of a session: wishes of its handles, answers and events of servers, its connection.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    cluster::ClusterMismatch,
    condition::{Agreement, Condition},
    error::LostReason,
    failure::{Down, Failure},
    ids::{AcquisitionId, FencingToken, Position, Seq},
    request::{AskMark, Holder, Request},
};

/// One input of the session core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Both streams are open. Nothing sent before is under way any more.
    Connected,
    /// The streams are gone, and with them every answer that had not arrived.
    Disconnected {
        /// Why.
        why: Down,
    },
    /// Both streams of the spare connection are open.
    SpareConnected,
    /// They are gone, and with them every answer that had not arrived.
    SpareLost,
    /// The client's endpoints belong to two clusters, and nobody has said which is meant. Nothing is
    /// asked for any more.
    Refused {
        /// Why.
        mismatch: ClusterMismatch,
        /// Guards that are out may be used on.
        keeps_guards: bool,
    },
    /// All endpoints belong to other clusters than the client's: nobody can be asked now.
    Nowhere {
        /// Why.
        mismatch: ClusterMismatch,
    },
    /// Somebody wants a lock. Ids grow from one to the next.
    Acquire {
        /// The new acquisition.
        id: AcquisitionId,
        /// Its wish.
        request: Arc<Request>,
    },
    /// The acquire future or the guard was given back.
    Close {
        /// The acquisition.
        id: AcquisitionId,
    },
    /// A guard found at its use that its lease had lapsed, before a timer did. It is lost.
    LapsedAtUse {
        /// The acquisition.
        id: AcquisitionId,
    },
    /// The user of a guard wants its hold changed.
    Change {
        /// The acquisition.
        id: AcquisitionId,
        /// Names the change within it.
        number: u64,
        /// The wish.
        change: Change,
    },
    /// A server answered a call.
    Answered {
        /// The call.
        seq: Seq,
        /// The answer.
        answer: Answer,
    },
    /// A server told about an acquisition without being asked.
    Pushed(Pushed),
    /// Time has passed: [`SessionCore::next_due`](super::SessionCore::next_due) is due.
    Tick,
}

/// A change of a hold that the user of its guard wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Agree anew about what may end it. Where the new condition is `hold` it is claimed, too.
    SetCondition {
        /// From here on.
        condition: Condition,
        /// From here on; not shorter than before.
        ttl: Duration,
    },
    /// Turn an exclusive hold into a shared one.
    Downgrade,
    /// Show others something else.
    SetAttributes {
        /// All of them.
        attributes: BTreeMap<String, String>,
    },
}

/// An answer to one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To an Acquire.
    Acquire(AcquireAnswer),
    /// To a Release: `None` when the acquisition was closed by it.
    Released {
        /// It had ended already.
        gone: Option<GoneReason>,
    },
    /// To a Cancel, whatever it did.
    Cancelled,
    /// To a KeepAlive: one or more of its items.
    KeepAlive(Vec<KeepAliveAnswer>),
    /// To a call that changes a hold.
    Changed(ChangeAnswer),
    /// To an Ask: so many holds are marked now.
    Asked {
        /// None: nobody who holds the lock has agreed to be asked.
        asked_count: u32,
    },
    /// To any: it was refused, or its outcome is not known.
    Failed(Failure),
}

/// The answer to a call that changes a hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeAnswer {
    /// What was asked for is agreed.
    Agreed(Agreement),
    /// Nothing was done, since the revision is another.
    RevisionMoved(Agreement),
    /// It is shared now.
    Downgraded {
        /// The fencing token from here on.
        token: FencingToken,
        /// The number that a resource compares.
        fence_floor: FencingToken,
        /// When and where.
        position: Position,
    },
    /// The attributes are set.
    AttributesSet,
    /// Later attributes came before.
    Overtaken,
    /// The hold is no more.
    Gone(GoneReason),
}

/// The answer to an Acquire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcquireAnswer {
    /// The acquisition.
    pub id: AcquisitionId,
    /// The attempt that the range's leader received.
    pub echoed: Seq,
    /// The outcome.
    pub outcome: AcquireOutcome,
    /// The effective lease; `None` where the answer does not say.
    pub ttl: Option<Duration>,
    /// What is agreed; `None` where that is nothing but the lease, or the server knows no conditions.
    pub agreement: Option<Agreement>,
    /// When and where.
    pub position: Position,
}

/// The outcome of an Acquire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AcquireOutcome {
    /// Held.
    Granted {
        /// The fencing token.
        token: FencingToken,
        /// The number that a resource compares.
        fence_floor: FencingToken,
    },
    /// In the queue.
    Queued {
        /// 1 is next.
        place: u32,
        /// The holders.
        holders: Vec<Holder>,
    },
    /// A try found it held, or others queueing.
    HeldByOther {
        /// The holders.
        holders: Vec<Holder>,
        /// How many wait.
        waiters: u32,
    },
    /// The wait ended first.
    WaitTimedOut {
        /// The holders.
        holders: Vec<Holder>,
    },
    /// Re-entry found its hold not live.
    HoldLost,
    /// It had ended already.
    Gone(GoneReason),
}

/// The answer for one item of a KeepAlive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeepAliveAnswer {
    /// The lock.
    pub name: String,
    /// The acquisition.
    pub id: AcquisitionId,
    /// The attempt that the range's leader received.
    pub echoed: Seq,
    /// Its state.
    pub state: KeepAliveState,
    /// When and where.
    pub position: Position,
}

/// The state of an acquisition as its range's leader knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeepAliveState {
    /// Held and renewed.
    Held {
        /// The fencing token.
        token: FencingToken,
        /// The number that a resource compares.
        fence_floor: FencingToken,
        /// A waiter has asked for the lock.
        asked: Option<AskMark>,
    },
    /// In the queue and renewed.
    Waiting {
        /// 1 is next.
        place: u32,
    },
    /// Held, not renewed: it is to end.
    Ending {
        /// The fencing token.
        token: FencingToken,
        /// What the hold is lost for.
        why: LostReason,
    },
    /// No more.
    Gone(GoneReason),
}

/// Something that a server told without being asked. It carries no time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// The lock.
    pub name: String,
    /// The acquisition.
    pub id: AcquisitionId,
    /// The event.
    pub what: PushedKind,
    /// When and where.
    pub position: Position,
}

/// See [`Pushed`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PushedKind {
    /// A waiter was granted the lock.
    Granted {
        /// The fencing token.
        token: FencingToken,
        /// The number that a resource compares.
        fence_floor: FencingToken,
    },
    /// It is no more.
    Gone {
        /// How it ended.
        how: GoneReason,
        /// The same for its holder, with the words of an operator who ended it.
        why: LostReason,
    },
    /// It is to end.
    Ending {
        /// The fencing token.
        token: FencingToken,
        /// What the hold is lost for.
        why: LostReason,
    },
    /// A waiter has asked for the lock.
    Asked(AskMark),
}

/// Why an acquisition is no more. Best effort: a server may have forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoneReason {
    /// Not known, or forgotten.
    Unknown,
    /// Released.
    Released,
    /// Cancelled.
    Cancelled,
    /// Its lease ended.
    Expired,
    /// Its wait timed out.
    WaitTimedOut,
    /// A try that was refused.
    Refused,
    /// An operator released it.
    ForceReleased,
    /// Re-entry, or taking back, of a hold that was not live.
    HoldLost,
    /// Its lease ended, and its hold goes on without it.
    Orphaned,
    /// A newer instance of the session has taken the hold over.
    Reclaimed,
    /// Held for as long as its condition allows.
    HeldTooLong,
    /// A waiter asked for the lock.
    AskedFor,
}
