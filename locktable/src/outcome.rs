//! What a command did: the answer to whoever asked, and the changes that the leader's soft state
//! (lease clock, pushes) follows.

use crate::{Acquisition, AcquisitionId, Mode, Name, Owner, Token, Wait};

/// The result of applying one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The answer.
    pub reply: Reply,
    /// Every change of a hold or a waiter that the command made, in order.
    pub changes: Vec<Change>,
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To an acquire: it holds (newly, by re-entry, or as a duplicate found it). A duplicate finds
    /// a hold that is ending too, and no answer made of this may renew that one (hole 12).
    Granted(Grant),
    /// To an acquire: it waits.
    Queued {
        /// 1 is next.
        place: u32,
        /// Lease of the waiter, milliseconds.
        ttl_ms: u64,
    },
    /// To an acquire, release or cancel: that acquisition has ended already, or ended by this very
    /// command where `Released` and `Cancelled` do not say so (a refused try, a lost hold).
    Finished(Finished),
    /// To an acquire: a rule forbids it. Deterministic; recorded nowhere.
    Refused(Refusal),
    /// To a release or cancel: the acquisition is closed, and `open` others keep the hold.
    StillHeld {
        /// Acquisitions that remain open on the hold.
        open: u32,
    },
    /// To a release or cancel: the hold has ended.
    Released,
    /// To a cancel: it has left the queue, or is recorded so that it cannot come later.
    Cancelled,
    /// To Ending and an operator's End: what it concerned, as it was before.
    Holds(Vec<HoldView>),
    /// To commands of the leader's clock: see the changes.
    Done,
}

/// A grant as the client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The fencing token.
    pub token: Token,
    /// What a resource compares and raises (D11): `token` itself for an exclusive hold.
    pub fence_floor: Token,
    /// Lease, milliseconds.
    pub ttl_ms: u64,
}

/// How an acquisition ended. Codes are stored: never renumber.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Finished {
    /// Not in the table and not in the ring: never known, or forgotten.
    Unknown = 0,
    /// Released by its client.
    Released = 1,
    /// Cancelled by its client.
    Cancelled = 2,
    /// Its lease ended.
    Expired = 3,
    /// Its wait ended.
    WaitTimedOut = 4,
    /// A try that found the lock taken or others queueing.
    TryRefused = 5,
    /// Ended by an operator.
    ForceReleased = 6,
    /// Re-entry of a hold that was not live.
    HoldLost = 7,
}

impl Finished {
    /// The code under which it is stored.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// Inverse of [`Finished::code`]; nothing for a code that no version has written.
    pub fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            0 => Self::Unknown,
            1 => Self::Released,
            2 => Self::Cancelled,
            3 => Self::Expired,
            4 => Self::WaitTimedOut,
            5 => Self::TryRefused,
            6 => Self::ForceReleased,
            7 => Self::HoldLost,
            _ => return None,
        })
    }
}

/// Why an acquire is not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The lock is live as another kind: rw against permits, or another number of permits.
    ModeMismatch,
    /// Re-entry names a live shared hold and wants it exclusive: two upgraders would wait for each
    /// other for ever, so nobody may upgrade (D8).
    WouldDeadlock,
    /// The queue is full.
    TooManyWaiters,
    /// The session has too many open acquisitions in this range.
    TooManyAcquisitions,
    /// The same acquisition was used for another lock or another mode.
    AcquisitionReused,
    /// Re-entry names a live hold of another session, instance, owner, mode or permits, or one
    /// that is ending.
    NotReenterable,
}

/// A change that the leader's soft state follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// An acquisition waits now: a lease begins.
    Queued {
        /// The waiter.
        acquisition: Acquisition,
        /// The lock.
        name: Name,
        /// Lease, milliseconds.
        ttl_ms: u64,
        /// When its wait ends.
        wait: Wait,
    },
    /// A hold begins. When `from_queue`, the waiter's lease becomes the hold's, deadline unchanged.
    Granted {
        /// The first acquisition of the hold.
        acquisition: Acquisition,
        /// The lock.
        name: Name,
        /// The grant.
        grant: Grant,
        /// It waited before.
        from_queue: bool,
    },
    /// Another acquisition of the same instance joined a hold (re-entry).
    Joined {
        /// The acquisition that joined.
        acquisition: Acquisition,
        /// The lock.
        name: Name,
        /// The hold.
        token: Token,
    },
    /// One acquisition of a hold was closed; the hold lives on.
    Closed {
        /// The closed acquisition.
        acquisition: Acquisition,
        /// The lock.
        name: Name,
        /// The hold.
        token: Token,
    },
    /// A waiter left the queue without a grant: its lease is over.
    WaiterLeft {
        /// The waiter.
        acquisition: Acquisition,
        /// The lock.
        name: Name,
        /// Why.
        how: Finished,
    },
    /// A hold ended: its lease is over.
    HoldEnded {
        /// The hold.
        token: Token,
        /// The lock.
        name: Name,
        /// The acquisitions that were open on it.
        acquisitions: Vec<Acquisition>,
        /// Why.
        how: Finished,
    },
    /// A hold is ending: no renewal from here on; the leader proposes End after the lease time.
    EndingBegan {
        /// The hold.
        token: Token,
        /// The lock.
        name: Name,
        /// Its lease, milliseconds.
        ttl_ms: u64,
        /// The acquisitions open on it.
        acquisitions: Vec<Acquisition>,
        /// The operator's words.
        reason: String,
    },
    /// An Expire found that another acquisition had joined the hold: its deadline starts anew.
    ExpireMissed {
        /// The hold.
        token: Token,
        /// The lock.
        name: Name,
        /// The newest acquisition that ever joined it: what the next Expire must name.
        newest: AcquisitionId,
    },
}

/// The state of one acquisition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// It is open on a live hold.
    Held {
        /// The grant.
        grant: Grant,
        /// Set when the hold is ending: the operator's words.
        ending: Option<String>,
    },
    /// It waits.
    Waiting {
        /// 1 is next.
        place: u32,
    },
    /// It is no more.
    Finished(Finished),
}

/// A hold as others may see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldView {
    /// The session and instance, with the lowest open id.
    pub acquisition: Acquisition,
    /// The newest open id.
    pub newest: AcquisitionId,
    /// How many acquisitions are open.
    pub open: u32,
    /// The grant.
    pub grant: Grant,
    /// How it is held.
    pub mode: Mode,
    /// Who, for people.
    pub owner: Owner,
    /// When, for people.
    pub granted_unix_ms: u64,
    /// Set when ending: the operator's words.
    pub ending: Option<String>,
}

/// A waiter as others may see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaiterView {
    /// The waiter.
    pub acquisition: Acquisition,
    /// How it wants the lock.
    pub mode: Mode,
    /// Lease, milliseconds.
    pub ttl_ms: u64,
    /// When its wait ends.
    pub wait: Wait,
    /// Who, for people.
    pub owner: Owner,
    /// When, for people.
    pub queued_unix_ms: u64,
}

/// A live lock as others may see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockView {
    /// The lock.
    pub name: Name,
    /// Holds in order of their tokens, as many as were asked for.
    pub holds: Vec<HoldView>,
    /// How many hold in all.
    pub holds_count: usize,
    /// Waiters in order, as many as were asked for.
    pub waiters: Vec<WaiterView>,
    /// How many wait in all.
    pub waiters_count: usize,
}

#[cfg(test)]
mod tests {
    use super::Finished;

    #[test]
    fn codes_are_read_as_they_were_stored() {
        for code in 0..=u8::MAX {
            let how = Finished::from_code(code);
            assert_eq!(how.map(Finished::code), (code <= 7).then_some(code));
        }
    }
}
