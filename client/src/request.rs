//! The wish of one acquisition, and how locks and their holders look to people. Plain values: the
//! builder fills a [`Request`], the session core keeps it for retries.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    condition::{Agreement, Condition},
    error::AcquireError,
    ids::{AcquisitionId, FencingToken},
};

/// The lease that a lock gets unless told otherwise (decisions.md, *Defaults*).
pub const TTL_DEFAULT: Duration = Duration::from_secs(10);

/// The longest lease (decisions.md, *Defaults*).
const TTL_MAX: Duration = Duration::from_secs(600);

/// The longest wait with an end (lock.proto).
const WAIT_MAX: Duration = Duration::from_secs(3600);

const NAME_BYTES_MAX: usize = 512;
const OWNER_BYTES_MAX: usize = 256;
const ATTRIBUTES_BYTES_MAX: usize = 4096;
const PERMITS_MAX: u32 = 65_535;

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

/// The wish of one acquisition.
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
    /// Take the hold with this token back from an older life of the session instead of asking for a
    /// grant. Mode, lease and condition are then the hold's.
    pub reclaim: Option<FencingToken>,
    /// What may end the hold.
    pub condition: Condition,
    /// Ask the holders for the lock while it is waited for.
    pub ask: bool,
    /// The owner's name for people: up to 256 bytes.
    pub owner: Arc<str>,
    /// Shown with the lock; keys and values together up to 4,096 bytes.
    pub attributes: BTreeMap<String, String>,
    /// The trace of which it is a part, as the W3C's header of that name has it; empty: of none.
    pub traceparent: String,
}

impl Request {
    /// Refuses what every server would refuse. The shortest lease is the cluster's to decide.
    ///
    /// # Errors
    /// [`AcquireError::Invalid`] with the server's reason.
    pub fn check(&self) -> Result<(), AcquireError> {
        let permits_fit = match self.mode {
            LockMode::Exclusive | LockMode::Shared => true,
            LockMode::Permits { n, of } => 1 <= n && n <= of && of <= PERMITS_MAX,
        };
        let wait_fits = match self.wait {
            Wait::AtMost(wait) => wait <= WAIT_MAX,
            Wait::Try | Wait::Unbounded => true,
        };
        let name_fits = !self.name.is_empty()
            && self.name.len() <= NAME_BYTES_MAX
            && !self.name.contains(char::is_control);
        for (fits, field, reason, message) in [
            (name_fits, "name", "BAD_LOCK_NAME", "1 to 512 bytes without control characters"),
            (
                !self.ttl.is_zero() && self.ttl <= TTL_MAX,
                "ttl_ms",
                "BAD_TTL",
                "at most 10 minutes, and not 0",
            ),
            (wait_fits, "wait_ms", "BAD_WAIT", "at most an hour; without end if not set"),
            (permits_fit, "permits", "BAD_PERMITS", "1 to the lock's number, at most 65,535"),
            (self.owner.len() <= OWNER_BYTES_MAX, "owner_id", "BAD_OWNER", "at most 256 bytes"),
        ] {
            if !fits {
                return Err(invalid(field, reason, message));
            }
        }
        check_attributes(&self.attributes)?;
        if self.reenter.is_some() && !self.condition.is_default() {
            let message = "re-entry joins a hold under the condition that it has: leave it out, or \
                           change it with Guard::set_condition";
            return Err(invalid("condition", "BAD_CONDITION", message));
        }
        self.condition.check(self.ttl)
    }
}

/// Refuses attributes that every server would refuse.
pub(crate) fn check_attributes(attributes: &BTreeMap<String, String>) -> Result<(), AcquireError> {
    let bytes: usize = attributes.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes <= ATTRIBUTES_BYTES_MAX {
        return Ok(());
    }
    let message = "keys and values together at most 4,096 bytes";
    Err(invalid("attributes", "BAD_ATTRIBUTES", message))
}

fn invalid(field: &str, reason: &str, message: &str) -> AcquireError {
    AcquireError::Invalid {
        field: Some(field.to_owned()),
        reason: reason.to_owned(),
        message: message.to_owned(),
    }
}

/// A holder or waiter of a lock, as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The session's handle as hex. It tells sessions apart and opens nothing.
    pub session: String,
    /// The name that the holder gave itself; it may be empty.
    pub owner: String,
    /// The address that the holder's gateway saw.
    pub address: String,
    /// As given by the holder; empty in answers to acquires.
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
    /// What may end the hold, or will be able to once the waiter holds.
    pub agreement: Agreement,
    /// The lease of a claimed hold has ended: it stays, and nobody counts on it.
    pub orphaned: bool,
    /// Somebody who waits has asked for the lock.
    pub asked: Option<AskMark>,
    /// One order over holders and waiters of a lock: who came earlier has the smaller one. 0: from
    /// before servers gave them.
    pub arrival: u64,
    /// The instance of its session.
    pub instance: u64,
}

/// A waiter has asked for the lock of a hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AskMark {
    /// The handle of the session that asked; empty if that is not known.
    pub session: String,
    /// The owner id with which it waits.
    pub owner: String,
    /// Since when, by the leader's wall clock: for people, never for logic.
    pub since: SystemTime,
    /// How long the holder may go on after that.
    pub grace: Duration,
    /// Upper bound of what was left of that when the server told it.
    pub remaining: Duration,
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
    /// Not zero while a lock-delay keeps the place of a hold that has ended taken; so long at most,
    /// unless the range gets another leader.
    pub retry_after: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request {
            name: Arc::from("a"),
            mode: LockMode::Exclusive,
            ttl: TTL_DEFAULT,
            wait: Wait::Unbounded,
            reenter: None,
            reclaim: None,
            condition: Condition::default(),
            ask: false,
            owner: Arc::from(""),
            attributes: BTreeMap::new(),
            traceparent: String::new(),
        }
    }

    #[test]
    fn what_every_server_would_refuse_is_not_sent() {
        let hour = Duration::from_secs(3600);
        let name = |name: &str| Request { name: Arc::from(name), ..request() };
        let permits = |n, of| Request { mode: LockMode::Permits { n, of }, ..request() };
        let ttl = |ttl| Request { ttl, ..request() };
        let wait = |wait| Request { wait: Wait::AtMost(wait), ..request() };
        let attributes = [("k".to_owned(), "v".repeat(4096))].into();
        let max_hold = |most| Condition { max_hold: Some(most), ..Condition::default() };
        for (request, reason) in [
            (request(), None),
            (name(&"n".repeat(512)), None),
            (permits(8, 8), None),
            (wait(hour), None),
            (name(""), Some("BAD_LOCK_NAME")),
            (name(&"n".repeat(513)), Some("BAD_LOCK_NAME")),
            (name("a\nb"), Some("BAD_LOCK_NAME")),
            (permits(0, 8), Some("BAD_PERMITS")),
            (permits(9, 8), Some("BAD_PERMITS")),
            (permits(1, 65_536), Some("BAD_PERMITS")),
            (ttl(Duration::ZERO), Some("BAD_TTL")),
            (ttl(hour), Some("BAD_TTL")),
            (ttl(Duration::MAX), Some("BAD_TTL")),
            (wait(Duration::MAX), Some("BAD_WAIT")),
            (Request { owner: Arc::from("o".repeat(257)), ..request() }, Some("BAD_OWNER")),
            (Request { attributes, ..request() }, Some("BAD_ATTRIBUTES")),
            (Request { condition: max_hold(hour), ..request() }, None),
            (Request { condition: max_hold(Duration::ZERO), ..request() }, Some("BAD_CONDITION")),
            (
                Request {
                    condition: max_hold(hour),
                    reenter: Some(FencingToken::from_u64(5)),
                    ..request()
                },
                Some("BAD_CONDITION"),
            ),
        ] {
            let refused = match request.check() {
                Ok(()) => None,
                Err(AcquireError::Invalid { reason, .. }) => Some(reason),
                Err(other) => panic!("{other}"),
            };
            assert_eq!(refused.as_deref(), reason, "{request:?}");
        }
    }
}
