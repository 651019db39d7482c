//! The leases of one kind, holds or waiters: when each ends, and what stalls add to it.

use std::{fmt::Debug, time::Duration};

use sharklock_locktable::Name;

use super::{Renewal, with_drift};
use crate::alarms::{Alarms, Moment};

/// One lease, and what the clock knows of whose it is.
///
/// Invariants:
/// - `deadline` is `Some` exactly while its alarm stands; `None` means that its end has been
///   proposed and not yet been applied;
/// - its alarm never stands behind the moment at which the lease ends. It stands before that once a
///   stall has been credited: whoever finds it due looks again;
/// - that moment only moves later, except that Ending sets it anew;
/// - `heard` is set only while the end is pending.
#[derive(Debug)]
pub(super) struct Lease<S> {
    pub name: Name,
    ttl_ms: u64,
    deadline: Option<StoredDeadline>,
    /// The last receipt while the end was pending. It counts if apply refuses that end: the
    /// receipt may have been an acquire, which is answered behind it in the log.
    heard: Option<Moment>,
    pub of: S,
}

/// A [`Deadline`] in half of its bytes.
#[derive(Clone, Copy, Debug)]
struct StoredDeadline {
    plain: Moment,
    credit_before: Moment,
}

impl From<Deadline> for StoredDeadline {
    fn from(Deadline { plain, credit_before }: Deadline) -> Self {
        Self { plain: Moment::at(plain), credit_before: Moment::at(credit_before) }
    }
}

impl From<StoredDeadline> for Deadline {
    fn from(StoredDeadline { plain, credit_before }: StoredDeadline) -> Self {
        Self { plain: plain.time(), credit_before: credit_before.time() }
    }
}

/// When a lease ends, but for the stalls since it was set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    /// As if no stall came.
    pub plain: Duration,
    /// The clock's credit when it was set: all that came since is the lease's, up to its ttl.
    pub credit_before: Duration,
}

impl Deadline {
    pub fn ends_at(self, ttl: Duration, credit: Duration) -> Duration {
        self.plain + ttl.min(credit - self.credit_before)
    }
}

impl<S> Lease<S> {
    pub fn ttl(&self) -> Duration {
        Duration::from_millis(self.ttl_ms)
    }

    pub fn ttl_ms(&self) -> u64 {
        self.ttl_ms
    }

    /// Another ttl, for what is counted from here on.
    pub fn set_ttl(&mut self, ttl_ms: u64) {
        self.ttl_ms = ttl_ms;
    }

    /// When it ends after so much credit in all; none while its end is pending.
    pub fn ends_at(&self, credit: Duration) -> Option<Duration> {
        Some(Deadline::from(self.deadline?).ends_at(self.ttl(), credit))
    }

    /// Its end has been proposed and not been applied yet.
    pub fn is_pending(&self) -> bool {
        self.deadline.is_none()
    }

    /// The deadline with which it goes on at `now`. Where its end was pending, apply has refused that:
    /// it is due at once, unless somebody was heard of meanwhile.
    pub fn carried_on(&self, now: Duration, credit: Duration) -> Deadline {
        let heard = self.heard.map(|heard| heard.time() + with_drift(self.ttl()));
        let refused = Deadline { plain: heard.unwrap_or(now), credit_before: credit };
        self.deadline.map_or(refused, Deadline::from)
    }
}

/// Leases by what has them.
#[derive(Debug)]
pub(super) struct Leases<K, S>(Alarms<K, Lease<S>>);

impl<K, S> Default for Leases<K, S> {
    fn default() -> Self {
        Self(Alarms::default())
    }
}

impl<K: Copy + Debug + Ord, S> Leases<K, S> {
    /// # Panics
    /// `key` has a lease already.
    pub fn start(&mut self, key: K, name: Name, ttl_ms: u64, deadline: Deadline, of: S) {
        assert!(!self.0.contains(key), "{key:?} has two leases");
        let lease = Lease { name, ttl_ms, deadline: Some(deadline.into()), heard: None, of };
        self.0.set(key, deadline.plain, lease);
    }

    pub fn stop(&mut self, key: K) -> Option<Lease<S>> {
        self.0.remove(key)
    }

    pub fn get(&self, key: K) -> Option<&Lease<S>> {
        self.0.get(key)
    }

    pub fn get_mut(&mut self, key: K) -> Option<&mut Lease<S>> {
        self.0.get_mut(key)
    }

    /// Takes the receipt of what renews a lease.
    pub fn renew(&mut self, now: Duration, key: K, credit: Duration) -> Renewal {
        let Some(lease) = self.0.get_mut(key) else { return Renewal::Unknown };
        let Some(ends_at) = lease.ends_at(credit) else {
            lease.heard = Some(Moment::at(now));
            return Renewal::Pending;
        };
        let plain = ends_at.max(now + with_drift(lease.ttl()));
        self.set_deadline(key, Deadline { plain, credit_before: credit });
        Renewal::Renewed
    }

    /// The lease ends in full from `now`, whatever was left of it.
    pub fn begin_anew(&mut self, now: Duration, key: K, credit: Duration) {
        let Some(lease) = self.0.get(key) else { return };
        let plain = now + with_drift(lease.ttl());
        self.set_deadline(key, Deadline { plain, credit_before: credit });
    }

    pub fn set_deadline(&mut self, key: K, deadline: Deadline) {
        let lease = self.0.get_mut(key).expect("the caller has just seen this lease");
        (lease.deadline, lease.heard) = (Some(deadline.into()), None);
        self.0.move_to(key, deadline.plain);
    }

    /// Looks at the alarm that rings next, which has to be due. The lease, if it is over: its end is
    /// pending from here on. One that goes on, as stalls have been credited to it, rings when it ends.
    pub fn ring(&mut self, now: Duration, credit: Duration) -> Option<(K, &mut Lease<S>)> {
        let (key, lease) = self.0.ring(now).expect("the caller has just seen this alarm");
        let ends_at = lease.ends_at(credit).expect("what is pending has no alarm");
        if ends_at > now {
            self.0.move_to(key, ends_at);
            return None;
        }
        let lease = self.0.get_mut(key).expect("its alarm has just rung");
        lease.deadline = None;
        Some((key, lease))
    }

    /// Stops those that are not to be kept.
    pub fn retain(&mut self, keep: impl FnMut(&K, &Lease<S>) -> bool) {
        self.0.retain(keep);
    }

    /// When the next alarm rings. It may be too early, never too late.
    pub fn next(&self) -> Option<Duration> {
        self.0.next()
    }

    pub fn contains(&self, key: K) -> bool {
        self.0.contains(key)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn shed(&mut self, count_max: usize) -> usize {
        self.0.shed(count_max)
    }
}
