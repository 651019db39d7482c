//! What can happen to a lock table. Commands come out of the range's Raft log, in order; nothing
//! else changes a table.

use crate::{Acquisition, AcquisitionId, Name, Token};

/// Where in the log a command stands, and when its leader proposed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// Raft index of the entry. Several commands of one entry share it.
    pub index: u64,
    /// Raft term of the entry.
    pub term: u64,
    /// The proposing leader's wall clock, Unix milliseconds. Shown to people, never compared.
    pub stamped_unix_ms: u64,
}

/// How a lock is wanted or held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// One holder.
    Exclusive,
    /// Any number of sharers.
    Shared,
    /// `n` of `of` units. The edge has checked 1 <= n <= of.
    Permits {
        /// Units wanted.
        n: u32,
        /// Units the lock has.
        of: u32,
    },
}

/// How long an acquisition may queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all: granted at once or refused.
    Try,
    /// Up to so many milliseconds; the leader's clock ends it by [`WaitTimeout`].
    AtMost(u64),
    /// Until granted.
    Unbounded,
}

/// Who acquires, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// Given by the client.
    pub id: String,
    /// The client's address as its gateway saw it.
    pub address: String,
    /// Given by the client; sorted by key.
    pub attributes: Vec<(String, String)>,
}

/// A command of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Grant, queue or refuse.
    Acquire(Box<Acquire>),
    /// Close one acquisition of a hold, or all.
    Release(Release),
    /// Withdraw an acquisition in whatever state.
    Cancel(Cancel),
    /// End what the leader's lease clock found unrenewed.
    Expire(Expire),
    /// End a wait.
    WaitTimeout(WaitTimeout),
    /// Stop renewal of holds that an operator wants ended.
    Ending(Ending),
    /// End a hold after its Ending, or at once by an operator's explicit wish.
    End(End),
}

/// See [`Command::Acquire`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acquire {
    /// Names it; a duplicate finds its first outcome.
    pub acquisition: Acquisition,
    /// The lock.
    pub name: Name,
    /// How it is wanted.
    pub mode: Mode,
    /// Lease, milliseconds.
    pub ttl_ms: u64,
    /// How long it may queue.
    pub wait: Wait,
    /// Join the live hold with this token instead of asking for a grant.
    pub reenter: Option<Token>,
    /// Who, for people; re-entry also demands the same `id`.
    pub owner: Owner,
}

/// See [`Command::Release`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// The acquisition to close.
    pub acquisition: Acquisition,
    /// The lock.
    pub name: Name,
    /// The hold.
    pub token: Token,
    /// Close every acquisition of the hold.
    pub all: bool,
}

/// See [`Command::Cancel`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cancel {
    /// The acquisition to withdraw.
    pub acquisition: Acquisition,
    /// The lock.
    pub name: Name,
}

/// See [`Command::Expire`]. Nothing happens unless the entry's term is `proposer_term` (D7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expire {
    /// What the leader saw unrenewed.
    pub items: Vec<ExpireItem>,
    /// Term of the leader that decided.
    pub proposer_term: u64,
}

/// One lease to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExpireItem {
    /// A hold, unless another acquisition has joined since.
    Hold {
        /// The lock.
        name: Name,
        /// The hold.
        token: Token,
        /// The newest acquisition that had ever joined it when the leader decided, whether still
        /// open or not: a joiner that has been closed again had its lease renewed too (hole 6).
        newest: AcquisitionId,
    },
    /// A waiter, unless it has been granted since.
    Waiter {
        /// The lock.
        name: Name,
        /// The waiter.
        acquisition: Acquisition,
    },
}

/// See [`Command::WaitTimeout`]. Nothing happens unless the entry's term is `proposer_term` and
/// the acquisition still waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitTimeout {
    /// The waiter.
    pub acquisition: Acquisition,
    /// The lock.
    pub name: Name,
    /// Term of the leader that decided.
    pub proposer_term: u64,
}

/// See [`Command::Ending`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// The lock.
    pub name: Name,
    /// The hold; every live hold of the lock when absent.
    pub token: Option<Token>,
    /// Why, shown to the holder.
    pub reason: String,
    /// Who asked, for the record.
    pub operator: String,
}

/// See [`Command::End`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// The lock.
    pub name: Name,
    /// The hold; absent only in `Cause::Operator`: every live hold of the lock.
    pub token: Option<Token>,
    /// On whose word.
    pub cause: EndCause,
}

/// On whose word a hold ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndCause {
    /// The leader of this term waited out the lease after Ending. Nothing happens in an entry of
    /// another term, nor to a hold that is not Ending.
    WaitedOut {
        /// Term of the leader that decided.
        proposer_term: u64,
    },
    /// An operator wants it now and accepts that the promise is broken.
    Operator {
        /// Why, for the record.
        reason: String,
        /// Who asked, for the record.
        operator: String,
    },
}
