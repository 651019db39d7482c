//! Bounds on the memory of a store's locks, and who may still acquire within them. The leader's
//! admission asks before a command is queued, and nothing else does: apply never refuses for memory,
//! since servers may have different bounds, and releases, cancels and keepalives are never refused.
//!
//! The count is what the tables hold as applied (`LockTable::bytes`), on all ranges of the store,
//! led or followed, and what this leader has let in since and not seen applied.

use std::{collections::BTreeMap, ops::AddAssign};

use sharklock_locktable::{Acquire, LockTable, Name, SessionHandle, SetAttributes, host_of};
use sharklock_proto::internal::v1::store_error::Kind;

use crate::{front::Front, wire};

/// The alarm is raised when so much of the store's bound is used, percent.
const ALARM_PERCENT: u64 = 80;
/// It ends below this, so that a store near the line does not raise it again and again.
const ALARM_ENDS_PERCENT: u64 = 70;
/// How long somebody who found no room is asked to wait.
const RETRY_AFTER_MS: u64 = 1_000;

/// Acquisitions that the state machine lets one session have open in one range, whatever is
/// configured.
pub const SESSION_ACQUISITIONS_MAX: u64 = 10_000;

/// The bounds on memory; nothing is bounded by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryBounds {
    /// Bytes of all locks of this store.
    pub store: Option<u64>,
    /// Bytes of the locks of the clients at one address, in one range.
    pub address: Option<u64>,
    /// Acquisitions that one session may have open, in one range.
    pub session_acquisitions: Option<u64>,
    /// Bytes of the locks under a prefix of their names, in one range.
    pub prefixes: Vec<(Name, u64)>,
}

/// How often which bound has refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryRefusals {
    /// The store's.
    pub store: u64,
    /// An address's.
    pub address: u64,
    /// A session's.
    pub session: u64,
    /// A prefix's.
    pub prefix: u64,
}

impl AddAssign for MemoryRefusals {
    /// How often they have refused at several workers.
    fn add_assign(&mut self, other: Self) {
        let Self { store, address, session, prefix } = other;
        self.store += store;
        self.address += address;
        self.session += session;
        self.prefix += prefix;
    }
}

/// The memory that a call takes until it is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    bytes: u64,
    /// One for an acquire, none for what only makes a hold larger.
    acquisitions: u64,
    session: SessionHandle,
    host: Box<str>,
    name: Name,
}

/// The acquires that were let in to one range and are not applied yet.
///
/// Invariants:
/// - each count is the sum of the charges that were added and not removed, and none is 0.
#[derive(Debug, Default)]
pub struct Pending {
    bytes: u64,
    by_host: BTreeMap<Box<str>, u64>,
    by_session: BTreeMap<SessionHandle, u64>,
    by_prefix: BTreeMap<Name, u64>,
}

/// The memory of a store: its bounds, and how much of them is used.
///
/// Invariants:
/// - `used` is the sum of what was last told of each range;
/// - the store's bound is compared with `used` and `elsewhere` together.
#[derive(Debug, Default)]
pub struct StoreMemory {
    bounds: MemoryBounds,
    /// Those of `bounds`.
    prefixes: Vec<Name>,
    used: u64,
    /// The bytes that the store's other workers have said their ranges use.
    elsewhere: u64,
    alarm: bool,
    refusals: MemoryRefusals,
}

impl Charge {
    /// The memory that this acquire will take.
    pub fn of(acquire: &Acquire) -> Self {
        Self {
            bytes: acquire.bytes(),
            acquisitions: 1,
            session: acquire.acquisition.session,
            host: host_of(&acquire.owner.address).into(),
            name: acquire.name.clone(),
        }
    }

    /// The memory that attributes will take at most, of a hold whose client is at `address`.
    pub fn of_attributes(set: &SetAttributes, address: &str) -> Self {
        let bytes = set.attributes.iter().map(|(key, value)| key.len() + value.len());
        Self {
            bytes: bytes.sum::<usize>() as u64,
            acquisitions: 0,
            session: set.acquisition.session,
            host: host_of(address).into(),
            name: set.name.clone(),
        }
    }
}

impl Pending {
    /// Bytes in all.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// An acquire has been let in.
    pub fn add(&mut self, charge: &Charge, bounds: &MemoryBounds) {
        self.bytes += charge.bytes;
        *self.by_host.entry(charge.host.clone()).or_default() += charge.bytes;
        *self.by_session.entry(charge.session).or_default() += charge.acquisitions;
        for (prefix, _) in bounds.of_name(&charge.name) {
            *self.by_prefix.entry(prefix.clone()).or_default() += charge.bytes;
        }
    }

    /// It has been applied, or never will be.
    pub fn remove(&mut self, charge: &Charge) {
        self.bytes -= charge.bytes;
        take(&mut self.by_host, &charge.host, charge.bytes);
        take(&mut self.by_session, &charge.session, charge.acquisitions);
        let name = charge.name.as_str();
        let prefixes = self.by_prefix.iter_mut().filter(|(it, _)| name.starts_with(it.as_str()));
        prefixes.for_each(|(_, bytes)| *bytes -= charge.bytes);
        self.by_prefix.retain(|_, bytes| *bytes > 0);
    }

    fn of_host(&self, host: &str) -> u64 {
        self.by_host.get(host).copied().unwrap_or(0)
    }
}

fn take<K: Ord>(from: &mut BTreeMap<K, u64>, key: &K, amount: u64) {
    let Some(left) = from.get_mut(key) else { return };
    *left -= amount;
    if *left == 0 {
        from.remove(key);
    }
}

impl MemoryBounds {
    fn of_name(&self, name: &Name) -> impl Iterator<Item = &(Name, u64)> {
        self.prefixes.iter().filter(|(prefix, _)| name.as_str().starts_with(prefix.as_str()))
    }
}

impl StoreMemory {
    /// Nothing used yet.
    pub fn under(bounds: MemoryBounds) -> Self {
        let prefixes = bounds.prefixes.iter().map(|(prefix, _)| prefix.clone()).collect();
        Self { bounds, prefixes, ..Self::default() }
    }

    /// The bounds.
    pub fn bounds(&self) -> &MemoryBounds {
        &self.bounds
    }

    /// The prefixes that tables are to count.
    pub fn prefixes(&self) -> &[Name] {
        &self.prefixes
    }

    /// Bytes of all ranges of this worker.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Bytes of all ranges of the store, as far as this worker knows.
    pub fn used_in_all(&self) -> u64 {
        self.used.saturating_add(self.elsewhere)
    }

    /// What the store's other workers use. A little late: they may let in, meanwhile, what their own
    /// next turns let in.
    pub fn set_elsewhere(&mut self, bytes: u64) {
        self.elsewhere = bytes;
    }

    /// Whether so much is used that somebody should know.
    pub fn alarm(&self) -> bool {
        self.alarm
    }

    /// How often what has refused.
    pub fn refusals(&self) -> MemoryRefusals {
        self.refusals
    }

    /// Follows what a range uses.
    pub fn weigh(&mut self, front: &mut Front, table: &LockTable) {
        let now = table.bytes() + front.pending.bytes();
        self.tell(std::mem::replace(&mut front.weighed, now), now);
    }

    /// A range is not here any more.
    pub fn forget(&mut self, front: &Front) {
        self.tell(front.weighed, 0);
    }

    /// A range that used `before` uses `now`.
    fn tell(&mut self, before: u64, now: u64) {
        self.used = self.used - before + now;
    }

    /// Raises the alarm or ends it; whether it is another than before.
    pub fn look(&mut self) -> bool {
        let Some(bound) = self.bounds.store else { return false };
        let percent = if self.alarm { ALARM_ENDS_PERCENT } else { ALARM_PERCENT };
        let above = u128::from(self.used_in_all()) * 100 >= u128::from(bound) * u128::from(percent);
        std::mem::replace(&mut self.alarm, above) != above
    }

    /// Whether there is room for an acquire in a range, or why not. An acquisition that the range
    /// knows already may always come again: it takes nothing, and its client must hear how it went.
    pub fn admit(
        &mut self,
        acquire: &Acquire,
        charge: &Charge,
        table: &LockTable,
        pending: &Pending,
    ) -> Result<(), Kind> {
        match table.knows(acquire.acquisition) {
            true => Ok(()),
            false => self.has_room(charge, table, pending),
        }
    }

    /// Whether there is room for so much in a range, or why not.
    pub fn has_room(
        &mut self,
        charge: &Charge,
        table: &LockTable,
        pending: &Pending,
    ) -> Result<(), Kind> {
        let Some(full) = self.full(charge, table, pending) else { return Ok(()) };
        let refusals = &mut self.refusals;
        match full {
            Full::Store { .. } => refusals.store += 1,
            Full::Address { .. } => refusals.address += 1,
            Full::Session { .. } => refusals.session += 1,
            Full::Prefix { .. } => refusals.prefix += 1,
        }
        Err(wire::refused_for_now(full.reason(), &full.to_string(), RETRY_AFTER_MS))
    }

    fn full(&self, charge: &Charge, table: &LockTable, pending: &Pending) -> Option<Full> {
        let MemoryBounds { store, address, session_acquisitions, .. } = self.bounds;
        let is_over = |used: u64, max: &u64| used + charge.bytes > *max;
        let used = self.used_in_all();
        if let Some(max) = store.filter(|max| is_over(used, max)) {
            return Some(Full::Store { used, max });
        }
        let of_host = |_: &u64| table.bytes_of_host(&charge.host) + pending.of_host(&charge.host);
        if let Some(max) = address.filter(|max| is_over(of_host(max), max)) {
            return Some(Full::Address { used: of_host(&max), max });
        }
        let waiting = pending.by_session.get(&charge.session).copied().unwrap_or(0);
        let open = |_: &u64| table.open_acquisitions(charge.session) as u64 + waiting;
        let exceeds = |max: &u64| open(max) + charge.acquisitions > *max;
        if let Some(max) = session_acquisitions.filter(exceeds) {
            return Some(Full::Session { max });
        }
        let mut prefixes = self.bounds.of_name(&charge.name);
        let (prefix, max) = prefixes.find(|(prefix, max)| {
            let waiting = pending.by_prefix.get(prefix).copied().unwrap_or(0);
            is_over(table.bytes_under(prefix.as_str()) + waiting, max)
        })?;
        Some(Full::Prefix { prefix: prefix.clone(), max: *max })
    }
}

/// The bound that has no room.
#[derive(Debug, thiserror::Error)]
enum Full {
    #[error(
        "the locks of this store take {used} bytes of memory, and it may use {max} for them \
         (memory.store_max); release some, or give it more"
    )]
    Store { used: u64, max: u64 },
    #[error(
        "the locks of the clients at this address take {used} bytes of memory in this range, and \
         they may use {max} (memory.address_max); release some"
    )]
    Address { used: u64, max: u64 },
    #[error(
        "the session has {max} open acquisitions in this range, as many as it may \
         (memory.session_acquisitions); release some first"
    )]
    Session { max: u64 },
    #[error(
        "the locks whose names begin with {prefix:?} may take {max} bytes of memory in this range \
         (memory.prefix_max), and have no room for another; release some"
    )]
    Prefix { prefix: Name, max: u64 },
}

impl Full {
    /// The API's reason.
    fn reason(&self) -> &'static str {
        match self {
            Self::Store { .. } => "STORE_FULL",
            Self::Address { .. } => "ADDRESS_FULL",
            Self::Session { .. } => "SESSION_FULL",
            Self::Prefix { .. } => "PREFIX_FULL",
        }
    }
}

#[cfg(test)]
mod tests {
    use sharklock_locktable::TableLimits;

    use super::*;

    #[test]
    fn the_state_machine_has_that_bound() {
        let max = TableLimits::default().acquisitions_per_session_max;
        assert_eq!(max as u64, SESSION_ACQUISITIONS_MAX);
    }

    #[test]
    fn the_alarm_is_raised_once_and_ends_well_below() {
        let bounds = MemoryBounds { store: Some(1_000), ..MemoryBounds::default() };
        let mut memory = StoreMemory::under(bounds);
        let mut used = 0;
        for (now, changes, alarm) in [
            (799, false, false),
            (800, true, true),
            (1_200, false, true),
            (799, false, true),
            (700, false, true),
            (699, true, false),
            (799, false, false),
        ] {
            memory.tell(std::mem::replace(&mut used, now), now);
            assert_eq!((memory.look(), memory.alarm()), (changes, alarm), "{now}");
        }
        let mut unbounded = StoreMemory::default();
        unbounded.tell(0, u64::MAX);
        assert!(!unbounded.look());
    }
}
