//! S15: states that a watcher of a lock is told never go back, and each is one that the lock had. L7:
//! the last one is told in time.

use std::collections::BTreeMap;

use sharklock_locktable::LockTable;
use sharklock_proto::v1::LockInfo;
use sharklock_rangemap::RangeId;

/// Holders and waiters that are compared.
pub const SHOWN_MAX: usize = 100;
/// Places in logs of which the states are remembered.
const PLACES_KEPT: usize = 20_000;

/// What is compared of a lock's state: tokens of holds, which of them are orphans, who waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    holds: Vec<(u64, bool)>,
    waiters: Vec<u64>,
}

impl Seen {
    /// As a replica has it.
    pub fn in_table(table: &LockTable, name: &str) -> Self {
        let Some(lock) = table.lock(name, SHOWN_MAX, SHOWN_MAX) else { return Self::default() };
        Self {
            holds: lock.holds.iter().map(|it| (it.grant.token.0, it.orphaned)).collect(),
            waiters: lock.waiters.iter().map(|it| it.acquisition.id.0).collect(),
        }
    }

    /// As a server says.
    pub fn told(lock: Option<&LockInfo>) -> Self {
        let Some(lock) = lock else { return Self::default() };
        Self {
            holds: lock.holders.iter().map(|it| (it.token, it.orphaned)).collect(),
            waiters: lock.waiters.iter().map(|it| it.acquisition_id).collect(),
        }
    }
}

/// The states that locks had at places in logs, as far as replicas stood there.
#[derive(Debug, Default)]
pub struct Watched {
    states: BTreeMap<(RangeId, u64), BTreeMap<String, Seen>>,
}

impl Watched {
    /// A replica stands at this place.
    pub fn stands<'a>(
        &mut self,
        at: (RangeId, u64),
        names: impl Iterator<Item = &'a str>,
        table: &LockTable,
    ) {
        if self.states.len() >= PLACES_KEPT {
            self.states.clear();
        }
        let states = self.states.entry(at).or_default();
        for name in names {
            if !states.contains_key(name) {
                states.insert(name.to_owned(), Seen::in_table(table, name));
            }
        }
    }

    /// Somebody is told the state of a lock at a place.
    ///
    /// # Errors
    ///
    /// It had another one there.
    pub fn told(&self, at: (RangeId, u64), name: &str, told: &Seen) -> Result<(), String> {
        let Some(seen) = self.states.get(&at).and_then(|states| states.get(name)) else {
            return Ok(());
        };
        if seen == told {
            return Ok(());
        }
        let (range, index) = at;
        Err(format!("at {index} of range {range} {name} was {seen:?}, and {told:?} was told"))
    }
}
