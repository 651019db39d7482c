//! The outcome of a command: the answer to its asker, and the changes that the leader's soft state
//! (lease clock, pushes) follows.

use std::sync::Arc;

use crate::{
    Acquisition, AcquisitionId, AskedBy, Condition, ConditionFlaw, Mode, Name, Owner, Token, Wait,
};

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
    /// To an acquire, a reclaim or a downgrade: it holds (newly, by re-entry, or as a duplicate
    /// found it). A duplicate acquire finds
    /// a hold that is ending too, and no answer made of this may renew that one (hole 12).
    Granted(Grant),
    /// To an acquire: it waits. To a reclaim: the hold is ending, and its end hands it over.
    Queued {
        /// 1 is next.
        place: u32,
        /// Lease of the waiter, milliseconds.
        ttl_ms: u64,
    },
    /// To an acquire, release or cancel: that acquisition has ended already, or ended by this very
    /// command where `Released` and `Cancelled` do not say so (a refused try, a lost hold).
    Finished(Finished),
    /// To an acquire or reclaim: nothing was done, since it may be a late copy of one that has
    /// ended and is forgotten. A client that still wants it asks again. It is recorded nowhere.
    Indeterminate,
    /// A rule forbids it. Deterministic; recorded nowhere.
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
    /// To Ending and an operator's End: what it concerned, as it was before. To an ask: the
    /// holds that carry the mark now.
    Holds(Vec<HoldView>),
    /// To Revoke: what the session had open, as it was before.
    Revoked {
        /// Its holds, each with its lock, in order of names and tokens.
        holds: Vec<(Name, HoldView)>,
        /// How many of its acquisitions waited, and have left.
        waiters: u32,
    },
    /// To a claim or a change of the condition: what is agreed now. If the revision is not the
    /// one that the command named (or the next, for a change), the command did nothing.
    Agreed(Agreement),
    /// To a change of attributes: whether they are those of the latest `seq` that came. If not, the
    /// command did nothing.
    AttributesSet {
        /// No change with a later `seq` came before.
        is_newest: bool,
    },
    /// To commands of the leader's clock: see the changes.
    Done,
}

/// The agreement of a client and the table about a hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Agreement {
    /// The condition under which the hold may end.
    pub condition: Condition,
    /// Counts the changes of the condition since the grant.
    pub revision: u64,
    /// Whether the condition `hold` has taken effect.
    pub claimed: bool,
    /// Lease, milliseconds.
    pub ttl_ms: u64,
}

impl Agreement {
    /// Whether nothing was ever agreed but that the hold ends with its lease.
    pub fn is_default(&self) -> bool {
        self.condition.is_default() && self.revision == 0
    }
}

/// A grant as the client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The fencing token.
    pub token: Token,
    /// The number that a resource compares and raises (D11): `token` itself for an exclusive hold.
    pub fence_floor: Token,
    /// Lease, milliseconds.
    pub ttl_ms: u64,
}

/// How an acquisition ended. Codes are stored: never renumber.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Finished {
    /// Not in the table and not in the ring: never known, or forgotten. To an acquire: it has ended, and
    /// how is forgotten.
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
    /// Re-entry or reclaim of a hold that was not live.
    HoldLost = 7,
    /// Open on a hold that is an orphan: gone for its client, though the hold goes on. Never
    /// recorded.
    Orphaned = 8,
    /// Taken over by a newer life of its session.
    Reclaimed = 9,
    /// Held for as long as its condition allows at most.
    HeldTooLong = 10,
    /// Asked for by a waiter, as its condition allows.
    AskedFor = 11,
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
            8 => Self::Orphaned,
            9 => Self::Reclaimed,
            10 => Self::HeldTooLong,
            11 => Self::AskedFor,
            _ => return None,
        })
    }

    /// Whether the ring can have it.
    pub(crate) fn is_recorded(self) -> bool {
        !matches!(self, Self::Unknown | Self::Orphaned)
    }
}

/// Why something is not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The lock is live as another kind: rw against permits, or another number of permits. Or a
    /// downgrade of what is not exclusive.
    ModeMismatch,
    /// Re-entry names a live shared hold and wants it exclusive: two upgraders would wait for each
    /// other for ever, so nobody may upgrade (D8).
    WouldDeadlock,
    /// Re-entry names a live exclusive hold of its owner and wants it shared: it would share what
    /// the other acquisitions on that hold take for theirs alone.
    SharedReentry,
    /// Nobody waits and it would fit, but every seat of the lock is taken.
    TooManyHolders {
        /// Seats of a lock.
        max: usize,
    },
    /// The queue is full.
    TooManyWaiters {
        /// Waiters of a lock.
        max: usize,
    },
    /// The session has too many open acquisitions in this range.
    TooManyAcquisitions {
        /// Open acquisitions of a session.
        max: usize,
    },
    /// The same acquisition was used for another lock or another mode.
    AcquisitionReused,
    /// Re-entry names a live hold of another session, instance, owner, mode or permits, or one
    /// that is ending.
    NotReenterable,
    /// The condition is not one.
    Condition(ConditionFlaw),
    /// The hold is ending, and nothing may give it new life (hole 12).
    HoldEnding,
    /// The new lease of a hold would be shorter than the one its client may count by.
    LeaseShortened,
    /// The live hold is of another session, of a newer instance, or of the same one and no orphan;
    /// or a newer acquisition is reclaiming it already.
    NotReclaimable,
    /// Only who waits may ask.
    NotWaiting,
    /// The range does not follow those rules yet.
    FeatureLevel,
    /// The range was recovered, and grants nothing until the leases are over that its lost entries may
    /// have given.
    Quarantine,
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
        /// The condition under which it may end; none is the default. Its revision is 0.
        condition: Option<Box<Condition>>,
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
        /// The words of the operator who ended it at once; empty where nobody did.
        reason: String,
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
        /// Why, for people.
        reason: String,
        /// How it will end, unless its holder gives it up before.
        how: Finished,
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
    /// The lease of a claimed `hold` ended: the hold goes on without one.
    Orphaned {
        /// The hold.
        token: Token,
        /// The lock.
        name: Name,
        /// The acquisitions open on it.
        acquisitions: Vec<Acquisition>,
    },
    /// A hold goes on as a shared one: its lease and its times go on under another token.
    Downgraded {
        /// The token until now.
        before: Token,
        /// The lock.
        name: Name,
        /// The grant from here on.
        grant: Grant,
        /// The acquisitions open on it.
        acquisitions: Vec<Acquisition>,
    },
    /// The condition of a hold changed: its times begin anew, its lease is at least so long.
    ConditionSet {
        /// The hold.
        token: Token,
        /// The lock.
        name: Name,
        /// The agreement as it is now.
        agreement: Agreement,
        /// Whether it carries a waiter's mark still.
        asked: bool,
    },
    /// The condition `hold` has taken effect.
    Claimed {
        /// The hold.
        token: Token,
        /// The lock.
        name: Name,
    },
    /// A waiter asked for the lock, and the hold carries the mark from here on.
    Asked {
        /// The hold.
        token: Token,
        /// The lock.
        name: Name,
        /// The acquisitions open on it.
        acquisitions: Vec<Acquisition>,
        /// Who asked; none below feature level 4.
        by: Option<AskedBy>,
        /// Since when, for people.
        since_unix_ms: u64,
        /// How long its client may go on, milliseconds.
        grace_ms: u64,
        /// The revision of the condition that allows it.
        revision: u64,
    },
    /// Nobody waited any more when the grace was over: the mark is gone.
    AskDropped {
        /// The hold.
        token: Token,
        /// The lock.
        name: Name,
    },
    /// The attributes of a hold's owner are others now: who looks on sees another hold.
    AttributesSet {
        /// The hold.
        token: Token,
        /// The lock.
        name: Name,
    },
    /// A hold has ended, and its place stays taken for a while.
    DelayBegan {
        /// The hold that has ended.
        token: Token,
        /// The lock.
        name: Name,
        /// How long, milliseconds.
        delay_ms: u64,
    },
    /// That while is over.
    DelayEnded {
        /// The hold that had ended.
        token: Token,
        /// The lock.
        name: Name,
    },
    /// The quarantine ends: some who waited have been served, and all, if it `is_over`.
    QuarantineEnds {
        /// The range grants again.
        is_over: bool,
    },
}

impl Change {
    /// The lock that has changed; none where it concerns all of the range.
    pub fn name(&self) -> Option<&Name> {
        match self {
            Self::Queued { name, .. }
            | Self::Granted { name, .. }
            | Self::Joined { name, .. }
            | Self::Closed { name, .. }
            | Self::WaiterLeft { name, .. }
            | Self::HoldEnded { name, .. }
            | Self::EndingBegan { name, .. }
            | Self::ExpireMissed { name, .. }
            | Self::Orphaned { name, .. }
            | Self::Downgraded { name, .. }
            | Self::ConditionSet { name, .. }
            | Self::Claimed { name, .. }
            | Self::Asked { name, .. }
            | Self::AskDropped { name, .. }
            | Self::AttributesSet { name, .. }
            | Self::DelayBegan { name, .. }
            | Self::DelayEnded { name, .. } => Some(name),
            Self::QuarantineEnds { .. } => None,
        }
    }
}

/// The state of one acquisition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// It is open on a live hold.
    Held {
        /// The grant.
        grant: Grant,
        /// Set when the hold is ending.
        ending: Option<EndingView>,
        /// Set when a waiter has asked for the lock.
        asked: Option<AskView>,
    },
    /// It waits.
    Waiting {
        /// 1 is next.
        place: u32,
    },
    /// It is no more.
    Finished(Finished),
}

/// The notice that a hold ends, as its holder may see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndingView {
    /// Why, for people.
    pub reason: String,
    /// How it will end, unless its holder gives it up before.
    pub how: Finished,
}

/// The mark of a waiter that has asked for a lock, as its holder and others may see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AskView {
    /// Who asked first; none if that was before feature level 4.
    pub by: Option<AskedBy>,
    /// Since when, for people.
    pub since_unix_ms: u64,
    /// How long the holder may go on, milliseconds; the leader's clock knows what is left.
    pub grace_ms: u64,
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
    /// The owner, as people see it. It is shared with the table, so that a look copies no
    /// attributes.
    pub owner: Arc<Owner>,
    /// When, for people.
    pub granted_unix_ms: u64,
    /// Its place in the order in which all that hold or wait for the lock came to it; 0: before feature
    /// level 4, and before all others.
    pub arrival: u64,
    /// Set when ending: why, for people.
    pub ending: Option<String>,
    /// The condition under which it may end.
    pub agreement: Agreement,
    /// It has no lease any more, and its client does not count on it.
    pub orphaned: bool,
    /// Set when a waiter has asked for the lock.
    pub asked: Option<AskView>,
    /// The acquisition that gets it at its end.
    pub reclaimer: Option<Acquisition>,
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
    /// The owner, as people see it. It is shared with the table, so that a look copies no
    /// attributes.
    pub owner: Arc<Owner>,
    /// When, for people.
    pub queued_unix_ms: u64,
    /// See [`HoldView::arrival`]; the hold has it, once it holds.
    pub arrival: u64,
    /// The condition of its hold, once it holds.
    pub condition: Condition,
}

/// The place of an ended hold, taken for a while longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DelayView {
    /// The hold that has ended.
    pub token: Token,
    /// How it was held.
    pub mode: Mode,
    /// For how long, milliseconds; the leader's clock knows what is left.
    pub delay_ms: u64,
    /// Since when, for people.
    pub since_unix_ms: u64,
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
    /// Lock-delays that run, by token; of more than the holds that were asked for, those that end
    /// last.
    pub delays: Vec<DelayView>,
}

#[cfg(test)]
mod tests {
    use super::Finished;

    #[test]
    fn codes_are_read_as_they_were_stored() {
        for code in 0..=u8::MAX {
            let how = Finished::from_code(code);
            assert_eq!(how.map(Finished::code), (code <= 11).then_some(code));
        }
    }
}
