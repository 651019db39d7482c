//! One call and its answer, as its client saw them.
//!
//! Times are nanoseconds on one machine's monotonic clock, so that the records of several processes
//! there can be compared.

/// A lock's number in a history: see [`crate::History::names`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockId(pub u32);

/// The point of a range's log at which an answer holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The range that answered.
    pub range: u32,
    /// Its descriptor's version.
    pub version: u32,
    /// The answer reflects the range's log up to this index; 0: not known.
    pub applied_index: u64,
}

impl Position {
    /// The client was not told, or did not keep it.
    pub const UNKNOWN: Self = Self { range: 0, version: 0, applied_index: 0 };
}

/// A call and its answer. Kept small (96 bytes), since a load generator records every one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The lock that the call names.
    pub lock: LockId,
    /// The recorder's own label of a (session, instance): one per life of a client process.
    pub session: u32,
    /// The acquisition's id within (session, instance); 0 where the call has none.
    pub acquisition: u64,
    /// When the call was made.
    pub invoked: u64,
    /// When its answer was there; where there is none, when the client gave up.
    pub returned: u64,
    /// The position at which the answer holds.
    pub position: Position,
    /// The answer.
    pub what: What,
}

/// The content of an answer. A waiting acquisition has a `Queued` record for each time that it was
/// told its place, with the times of the call that was answered, and another for what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The lock was granted; with everything that happened to the hold afterwards.
    Granted(Hold),
    /// In the queue.
    Queued {
        /// 1 is next.
        place: u32,
    },
    /// A try was refused.
    Refused {
        /// The token of a hold that stood in the way; 0: none was named.
        holder: u64,
    },
    /// The wait ended before a grant.
    TimedOut {
        /// As in `Refused`.
        holder: u64,
    },
    /// Nobody knows: it may have happened, and may even happen later.
    Unknown {
        /// The token of the hold that the call asked to join; 0: it asked for a grant of its own.
        reenter: u64,
    },
    /// Somebody looked whether a token is live.
    Looked {
        /// The token.
        token: u64,
        /// The answer.
        live: bool,
    },
}

/// A grant and its end, as far as its client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The fencing token.
    pub token: u64,
    /// The number that a resource compares and raises.
    pub fence_floor: u64,
    /// Until when the client may rely on the hold: the moment at which it sent the last call that
    /// was answered, plus the lease, less the clocks' share.
    pub valid_until: u64,
    /// When the client began to end it (release sent, loss noticed); 0 for `Open`.
    pub end_invoked: u64,
    /// When that was acknowledged or known; 0 for `Open` and `ReleaseUnknown`.
    pub end_returned: u64,
    /// How it is held.
    pub mode: Mode,
    /// It joined a live hold of its own session, and shares that one's token.
    pub reentered: bool,
    /// How it ended.
    pub end: End,
}

/// How a lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// Alone.
    Exclusive,
    /// With other sharers.
    Shared,
    /// `units` of `units_max`.
    Permits {
        /// Units held.
        units: u16,
        /// Units that the lock has.
        units_max: u16,
    },
}

/// How a hold ended, to its client's knowledge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// It has not, or its client was stopped first.
    Open,
    /// Released, and acknowledged.
    Released,
    /// A release was sent; what it did is not known.
    ReleaseUnknown,
    /// The client let it go by itself: it had no answer in time.
    Lapsed,
    /// A server said that it is gone, without the client's doing.
    ToldGone,
    /// An operator asked for its end; the client stopped and said so.
    Acknowledged,
    /// An operator ended it without waiting for the client, which breaks the promise: nothing is
    /// expected of such a hold.
    Revoked,
}

impl End {
    /// Whether the client gave the hold up: the service may pass the lock on from then on.
    pub(crate) fn by_client(self) -> bool {
        matches!(self, Self::Released | Self::ReleaseUnknown | Self::Acknowledged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_stays_small() {
        assert!(size_of::<Record>() <= 96, "{} bytes", size_of::<Record>());
    }
}
