//! The effects of the session core: calls to send, news for handles.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    condition::{Agreement, Condition},
    error::{AcquireError, ChangeError, LostReason},
    grant::Grant,
    ids::{AcquisitionId, FencingToken, Position, Seq},
    request::{AskMark, Request, Wait},
};

/// Items of one KeepAlive (lock.proto).
pub const KEEP_ALIVE_ITEMS_MAX: usize = 64;

/// The effects of one turn of the session core. The owner drains them.
#[derive(Debug, Default)]
pub struct Effects {
    /// Acquires, for the stream of acquires.
    pub acquires: Vec<Call>,
    /// KeepAlives, Releases, Cancels and changes, for the stream that no queue of acquires can hold up.
    pub urgent: Vec<Call>,
    /// KeepAlives, Releases and Cancels for the spare connection's stream of urgent calls. Only while that is up.
    pub spare: Vec<Call>,
    /// News for handles, in order.
    pub notices: Vec<Notice>,
    /// The connection answers nothing: leave it and dial another. The core counts itself
    /// disconnected from here on.
    pub reconnect: bool,
    /// The connection has been silent for a while: find out whether its gateway answers at all, and
    /// count it as lost if it does not.
    pub check: bool,
    /// The spare connection takes the main one's place, which is left. The calls in `spare` were
    /// sent before, the rest goes over it.
    pub move_to_spare: bool,
    /// The spare connection answers nothing, or is not needed any more: leave it, and dial another
    /// gateway if one is still wanted. The core counts it as lost from here on.
    pub leave_spare: bool,
}

/// One call to send. Every sending has its own number, which is also its call id on the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Ask for a lock, or take a hold back if its wish says so.
    Acquire {
        /// This attempt.
        seq: Seq,
        /// The acquisition; the same for all attempts.
        id: AcquisitionId,
        /// Its wish.
        request: Arc<Request>,
        /// How long it may queue from now on.
        wait: Wait,
    },
    /// Give a hold back.
    Release {
        /// This attempt.
        seq: Seq,
        /// The acquisition to close.
        id: AcquisitionId,
        /// The lock.
        name: Arc<str>,
        /// The hold.
        token: FencingToken,
    },
    /// Withdraw an acquisition in whatever state.
    Cancel {
        /// This attempt.
        seq: Seq,
        /// The acquisition.
        id: AcquisitionId,
        /// The lock.
        name: Arc<str>,
    },
    /// Renew leases.
    KeepAlive {
        /// This attempt.
        seq: Seq,
        /// At most [`KEEP_ALIVE_ITEMS_MAX`] acquisitions with their locks.
        items: Vec<(Arc<str>, AcquisitionId)>,
    },
    /// Change a hold.
    Change {
        /// This attempt.
        seq: Seq,
        /// An acquisition of the hold.
        id: AcquisitionId,
        /// The lock.
        name: Arc<str>,
        /// The hold.
        token: FencingToken,
        /// The change.
        what: ChangeCall,
    },
    /// Ask the holders for the lock.
    Ask {
        /// This attempt.
        seq: Seq,
        /// The waiter.
        id: AcquisitionId,
        /// The lock.
        name: Arc<str>,
    },
}

/// One step of a change of a hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeCall {
    /// Put the condition `hold` into force.
    Claim {
        /// Of the agreement that is known.
        revision: u64,
    },
    /// Agree anew.
    SetCondition {
        /// Of the agreement that is known.
        revision: u64,
        /// From here on.
        condition: Condition,
        /// From here on.
        ttl: Duration,
    },
    /// Exclusive becomes shared.
    Downgrade,
    /// Show others something else.
    SetAttributes {
        /// Orders the changes of one hold; the same for all attempts.
        order: Seq,
        /// All of them.
        attributes: Arc<BTreeMap<String, String>>,
    },
}

/// News for the handle of one acquisition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The acquire future ends.
    Decided {
        /// The acquisition.
        id: AcquisitionId,
        /// With a guard or not.
        result: Result<Grant, AcquireError>,
    },
    /// The guard's lease runs longer.
    Renewed {
        /// The acquisition.
        id: AcquisitionId,
        /// End of the lease on the client's clock.
        valid_until: Duration,
        /// The answer was so slow that half of the lease has passed already.
        in_jeopardy: bool,
    },
    /// Half of the guard's lease has passed without an answer.
    Jeopardy {
        /// The acquisition.
        id: AcquisitionId,
    },
    /// Something else is agreed about the hold.
    Agreed {
        /// The acquisition.
        id: AcquisitionId,
        /// What holds.
        agreement: Agreement,
    },
    /// A waiter has asked for the lock, or does not any more.
    Asked {
        /// The acquisition.
        id: AcquisitionId,
        /// Who, and until when on the client's clock the holder may go on.
        mark: Option<(AskMark, Duration)>,
    },
    /// A change that was wanted is over.
    Changed {
        /// The acquisition.
        id: AcquisitionId,
        /// Names the change.
        number: u64,
        /// Done or not.
        result: Result<Changed, ChangeError>,
    },
    /// The guard's lock is lost, for ever.
    Lost {
        /// The acquisition.
        id: AcquisitionId,
        /// Why.
        reason: LostReason,
    },
    /// The return has been dealt with. It is the acquisition's last news.
    Closed {
        /// The acquisition.
        id: AcquisitionId,
        /// How it ended.
        end: CloseEnd,
    },
}

/// What a change has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// This is agreed.
    Agreed(Agreement),
    /// The hold is shared now.
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
}

/// How the closing of an acquisition ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseEnd {
    /// The cluster knows it closed, or it never was open.
    Confirmed,
    /// It had been lost before.
    Lost(LostReason),
    /// No answer came while the lease ran.
    Unconfirmed,
}
