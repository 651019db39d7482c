//! What one acquisition asks for, and how locks and their holders look to people. Plain values: the
//! builder fills a [`Request`], the session core keeps it for retries.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::ids::{AcquisitionId, FencingToken};

/// The lease that a lock gets unless told otherwise (DESIGN §5).
pub const TTL_DEFAULT: Duration = Duration::from_secs(10);

/// How a lock is wanted or held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockMode {
    /// One holder.
    Exclusive,
    /// Any number of sharers, and no exclusive holder.
    Shared,
    /// `n` of the lock's `of` units.
    Permits {
        /// Units wanted, 1 to `of`.
        n: u32,
        /// Units the lock has, 1 to 65,535; all live users of the lock must agree.
        of: u32,
    },
}

/// How long an acquisition may queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all: granted at once or refused.
    Try,
    /// At most this long, one hour at the most.
    AtMost(Duration),
    /// Until granted.
    Unbounded,
}

/// What one acquisition asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The lock: 1 to 512 bytes without control characters.
    pub name: Arc<str>,
    /// Exclusive, shared or permits.
    pub mode: LockMode,
    /// Lease, 2 s to 10 min.
    pub ttl: Duration,
    /// How long to queue.
    pub wait: Wait,
    /// Join the live hold with this token instead of asking for a grant.
    pub reenter: Option<FencingToken>,
    /// Who holds it, for people: up to 256 bytes.
    pub owner: Arc<str>,
    /// Shown with the lock; keys and values together up to 4,096 bytes.
    pub attributes: BTreeMap<String, String>,
}

/// A holder or waiter of a lock, as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The session's handle as hex. It tells sessions apart and opens nothing.
    pub session: String,
    /// Who, as the holder named itself; may be empty.
    pub owner: String,
    /// The address that the holder's gateway saw.
    pub address: String,
    /// As given by the holder.
    pub attributes: BTreeMap<String, String>,
    /// How it is held or wanted.
    pub mode: HeldMode,
    /// The fencing token; `None` for a waiter.
    pub token: Option<FencingToken>,
    /// The number that a resource compares and raises; `None` for a waiter.
    pub fence_floor: Option<FencingToken>,
    /// When it was granted or queued, by the leader's wall clock: for people, never for logic.
    pub since: SystemTime,
    /// Length of its lease.
    pub ttl: Duration,
    /// Upper bound of what is left of its lease, as the leader knows.
    pub remaining: Duration,
    /// How many acquisitions are open on the hold (more than 1 after re-entry); 0 for a waiter.
    pub open_acquisitions: u32,
    /// An operator has asked for its end, for this reason.
    pub ending_reason: Option<String>,
    /// Names the acquisition within its session (of a hold: the lowest open).
    pub acquisition: AcquisitionId,
}

/// How a holder of a lock has it. The number of units the lock has stands in [`LockInfo`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldMode {
    /// Alone.
    Exclusive,
    /// With other sharers.
    Shared,
    /// So many units.
    Permits(u32),
}

/// One lock that is held or waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockInfo {
    /// Its name.
    pub name: String,
    /// A lock of permits: how many units it has.
    pub permits_max: Option<u32>,
    /// Live holds in order of their tokens, cut at the limit of the call.
    pub holders: Vec<Holder>,
    /// Waiters in order, cut at the limit of the call.
    pub waiters: Vec<Holder>,
    /// How many hold in all.
    pub holders_count: u32,
    /// How many wait in all.
    pub waiters_count: u32,
}
