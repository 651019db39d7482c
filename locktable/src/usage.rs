//! The weight of a range's state in memory, in all and for each host and prefix. A function of the
//! rows alone, kept by differences, so replicas of equal state agree on it and asking costs
//! nothing. It is neither in the image nor in the hash, and no command looks at it: bounds differ
//! from server to server, so it is the leader's admission that refuses (never apply).
//!
//! The weights are what a hold or a waiter costs the process that leads its range: the table, the
//! lease clock, the row in RocksDB's memory, the allocator's rounding. Owners are counted whole,
//! though a session's holds mostly share one: what is counted is never too little. Finished
//! acquisitions do not count; they have bounds of their own.

use std::collections::BTreeMap;

use crate::{Acquire, HoldRow, LockTable, Name, Owner, SessionHandle, WaiterRow};

/// A hold without its texts, with the one acquisition that is open on nearly every hold.
const HOLD_BYTES: u64 = 900;
/// A waiter without its texts.
const WAITER_BYTES: u64 = 800;
/// Each further acquisition that is open on a hold, or that reclaims it.
const OPEN_BYTES: u64 = 160;
/// The extras that few holds have.
const EXTRAS_BYTES: u64 = 250;
/// A waiter's mark, without its text.
const ASK_BYTES: u64 = 120;
/// A lock-delay without its name.
const DELAY_BYTES: u64 = 400;
/// A fence floor without its name.
const FLOOR_BYTES: u64 = 200;
/// Each attribute of an owner without its texts.
const ATTRIBUTE_BYTES: u64 = 64;
/// A name or an attribute is in the table and, as part of a row, in RocksDB's memory.
const COPIES: u64 = 2;

/// Invariants:
/// - `bytes` is the sum of the weights of all holds, waiters, delays and fence floors;
/// - `by_host` has those of holds and waiters by the host of their owner, and no zero;
/// - `by_prefix` has those whose names begin with the prefix.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Usage {
    bytes: u64,
    by_host: BTreeMap<Box<str>, u64>,
    by_prefix: Vec<(Name, u64)>,
}

impl Usage {
    /// An empty one that counts the same prefixes.
    pub(crate) fn like(&self) -> Self {
        let by_prefix = self.by_prefix.iter().map(|(prefix, _)| (prefix.clone(), 0)).collect();
        Self { by_prefix, ..Self::default() }
    }

    pub(crate) fn add(&mut self, name: &Name, owner: Option<&Owner>, bytes: u64) {
        self.bytes += bytes;
        for (_, under) in self.prefixes_of(name) {
            *under += bytes;
        }
        let Some(owner) = owner else { return };
        let host = host_of(&owner.address);
        match self.by_host.get_mut(host) {
            Some(of_host) => *of_host += bytes,
            None => _ = self.by_host.insert(host.into(), bytes),
        }
    }

    /// Panics if that was never added: a count that is wrong would grow into a bound that is.
    pub(crate) fn remove(&mut self, name: &Name, owner: Option<&Owner>, bytes: u64) {
        let take = |from: &mut u64, of: &dyn std::fmt::Debug| {
            let left = from.checked_sub(bytes);
            *from = left.unwrap_or_else(|| panic!("{bytes} bytes of {from} that {of:?} has"));
        };
        take(&mut self.bytes, &"the range");
        for (prefix, under) in self.prefixes_of(name) {
            take(under, prefix);
        }
        let Some(owner) = owner else { return };
        let host = host_of(&owner.address);
        let of_host = self.by_host.get_mut(host);
        let of_host = of_host.unwrap_or_else(|| panic!("{bytes} bytes of {host}, which has none"));
        take(of_host, &host);
        if *of_host == 0 {
            self.by_host.remove(host);
        }
    }

    /// Removes something here that the other adds.
    pub(crate) fn hand_over(
        &mut self,
        to: &mut Self,
        name: &Name,
        owner: Option<&Owner>,
        bytes: u64,
    ) {
        self.remove(name, owner, bytes);
        to.add(name, owner, bytes);
    }

    fn prefixes_of(&mut self, name: &Name) -> impl Iterator<Item = (&Name, &mut u64)> {
        let prefixes = self.by_prefix.iter_mut().map(|(prefix, under)| (&*prefix, under));
        prefixes.filter(|(prefix, _)| name.as_str().starts_with(prefix.as_str()))
    }
}

impl LockTable {
    /// The weight of the live locks of this range in memory, in bytes.
    pub fn bytes(&self) -> u64 {
        self.ledger.usage.bytes
    }

    /// How many acquisitions the session has open in this range.
    pub fn open_acquisitions(&self, session: SessionHandle) -> usize {
        self.ledger.sessions.open_count(session)
    }

    /// Those of the clients on one host; see [`host_of`].
    pub fn bytes_of_host(&self, host: &str) -> u64 {
        self.ledger.usage.by_host.get(host).copied().unwrap_or(0)
    }

    /// Those of the locks whose names begin with a prefix that is counted; 0 for another.
    pub fn bytes_under(&self, prefix: &str) -> u64 {
        let mut counted = self.ledger.usage.by_prefix.iter();
        counted.find(|(it, _)| it.as_str() == prefix).map_or(0, |&(_, bytes)| bytes)
    }

    /// Whether exactly these prefixes are counted.
    pub fn counts_prefixes(&self, prefixes: &[Name]) -> bool {
        self.ledger.usage.by_prefix.iter().map(|(prefix, _)| prefix).eq(prefixes)
    }

    /// Counts these prefixes from here on, and no other. Takes time in proportion to the locks whose
    /// names begin with one.
    pub fn count_prefixes(&mut self, prefixes: &[Name]) {
        let weigh = |prefix: &Name| {
            let locks = self.locks.range(prefix.clone()..);
            let locks = locks.take_while(|(name, _)| name.as_str().starts_with(prefix.as_str()));
            (prefix.clone(), locks.map(|(name, lock)| lock.bytes(name)).sum())
        };
        self.ledger.usage.by_prefix = prefixes.iter().map(weigh).collect();
    }
}

impl Acquire {
    /// The weight that it adds to a range if it holds or waits, in bytes.
    pub fn bytes(&self) -> u64 {
        if self.reenter.is_some() {
            return OPEN_BYTES;
        }
        let condition = self.condition.as_ref().map_or(0, |_| EXTRAS_BYTES);
        HOLD_BYTES.max(WAITER_BYTES) + FLOOR_BYTES + texts(&self.name, &self.owner) + condition
    }
}

/// The part of a client's address by which its memory is counted: all of it but the port.
pub fn host_of(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host)
}

pub(crate) fn hold_bytes(name: &Name, hold: &HoldRow) -> u64 {
    let further = hold.open_ids.len().saturating_sub(1) as u64 * OPEN_BYTES;
    let extras = hold.extras.as_ref().map_or(0, |extras| {
        let reason = extras.ending.as_ref().map_or(0, |mark| mark.reason.len() as u64);
        let asked = extras.asked.as_ref().map_or(0, |mark| {
            let owner_id = mark.by.as_ref().map_or(0, |by| by.owner_id.len() as u64);
            ASK_BYTES + COPIES * owner_id
        });
        EXTRAS_BYTES + COPIES * reason + asked
    });
    let reclaimer =
        hold.reclaimer().map_or(0, |reclaimer| OPEN_BYTES + owner_bytes(&reclaimer.owner));
    HOLD_BYTES + texts(name, &hold.owner) + further + extras + reclaimer
}

pub(crate) fn waiter_bytes(name: &Name, waiter: &WaiterRow) -> u64 {
    let condition = waiter.condition.as_ref().map_or(0, |_| EXTRAS_BYTES);
    WAITER_BYTES + texts(name, &waiter.owner) + condition
}

pub(crate) fn delay_bytes(name: &Name) -> u64 {
    DELAY_BYTES + name_bytes(name)
}

pub(crate) fn floor_bytes(name: &Name) -> u64 {
    FLOOR_BYTES + name_bytes(name)
}

fn texts(name: &Name, owner: &Owner) -> u64 {
    name_bytes(name) + owner_bytes(owner)
}

fn name_bytes(name: &Name) -> u64 {
    COPIES * name.as_str().len() as u64
}

fn owner_bytes(owner: &Owner) -> u64 {
    let attributes = owner.attributes.iter();
    let attributes = attributes
        .map(|(key, value)| ATTRIBUTE_BYTES + COPIES * (key.len() as u64 + value.len() as u64));
    COPIES * (owner.id.len() + owner.address.len()) as u64 + attributes.sum::<u64>()
}
