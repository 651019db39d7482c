//! S14: what a client and the cluster have agreed about a hold is what ends it. A claimed hold stays
//! until its session or an operator ends it; a lock-delay keeps the place taken; `max_hold` ends
//! nothing early; and nobody who was asked has to go unless somebody waits.

use std::collections::BTreeMap;

use sharklock_client::LockMode;
use sharklock_locktable::{LockTable, Token};
use sharklock_rangemap::{Bounds, RangeId};

use crate::check::Tiling;
use crate::world::S;

/// An operator's order may take effect so long after it was given: gateways and stores handle nothing
/// that is older than 30 s.
const ORDER_NS: u64 = 35 * S;
/// Whoever is gone without a word waits for so long at most: a few leases.
const DOUBT_NS: u64 = 120 * S;
/// Waits and delays that are over for so long are forgotten.
const REMEMBERED_NS: u64 = 300 * S;
/// Clocks of servers run wrong by at most 1 in 100, and so may what they count: in hundredths.
pub const CLOCKS: u64 = 98;

/// Names an acquisition: instance and id.
pub type Key = (u64, u64);

/// See the module.
#[derive(Debug, Default)]
pub struct Agreed {
    /// Claimed holds, by lock and token.
    stays: BTreeMap<String, BTreeMap<u64, Stay>>,
    /// Until when an operator's order about a lock may take effect.
    freed_until: BTreeMap<String, u64>,
    /// The same for all that a client has.
    revoked_until: BTreeMap<usize, u64>,
    /// Places that stay taken after deaths.
    delays: BTreeMap<String, Vec<Delay>>,
    /// Who waited for a lock, and how long, at most.
    waits: BTreeMap<String, BTreeMap<Key, Waited>>,
}

/// A claimed hold.
#[derive(Clone, Copy, Debug)]
struct Stay {
    client: usize,
    key: Key,
    /// In which range's log it is claimed, and by which index.
    at: (RangeId, u64),
}

/// The place of a hold whose client has died.
#[derive(Clone, Copy, Debug)]
struct Delay {
    token: u64,
    mode: LockMode,
    until_ns: u64,
}

#[derive(Clone, Copy, Debug)]
struct Waited {
    since_ns: u64,
    /// `None`: it may wait still, as far as its client knows.
    until_ns: Option<u64>,
}

impl Agreed {
    /// A client knows that a hold of its is claimed.
    pub fn stays(
        &mut self,
        now: u64,
        name: &str,
        (client, key): (usize, Key),
        token: u64,
        at: (RangeId, u64),
    ) {
        let lasts = |until: Option<&u64>| until.is_some_and(|until| *until > now);
        if lasts(self.freed_until.get(name)) || lasts(self.revoked_until.get(&client)) {
            return;
        }
        let stay = Stay { client, key, at };
        self.stays.entry(name.to_owned()).or_default().insert(token, stay);
    }

    /// The session wants something that may end the hold, or give it another token.
    pub fn changes(&mut self, name: &str, token: u64) {
        if let Some(stays) = self.stays.get_mut(name) {
            stays.remove(&token);
        }
        if let Some(delays) = self.delays.get_mut(name) {
            delays.retain(|delay| delay.token != token);
        }
    }

    /// An operator wants holds of a lock to end.
    pub fn freed(&mut self, now: u64, name: &str) {
        self.stays.remove(name);
        self.freed_until.insert(name.to_owned(), now + ORDER_NS);
    }

    /// An operator wants everything of a client's session to end.
    pub fn revoked(&mut self, now: u64, client: usize) {
        for stays in self.stays.values_mut() {
            stays.retain(|_, stay| stay.client != client);
        }
        self.revoked_until.insert(client, now + ORDER_NS);
    }

    /// Whether a replica of a range, which has these names and has applied so much, has every claimed
    /// hold of which it can know.
    ///
    /// # Errors
    ///
    /// The lock and what the replica lacks.
    pub fn compare(
        &self,
        store: usize,
        (range, bounds, applied): (RangeId, &Bounds, u64),
        (table, tiling): (&LockTable, &Tiling),
    ) -> Result<(), (String, String)> {
        for (name, stays) in &self.stays {
            if !bounds.contains(name.as_bytes()) {
                continue;
            }
            let knows = |stay: &Stay| match stay.at {
                (of, index) if of == range => index <= applied,
                (of, _) => applied > 0 && tiling.descends(range, of),
            };
            for (token, stay) in stays.iter().filter(|(_, stay)| knows(stay)) {
                if table.hold(name, Token(*token)).is_none() {
                    let Stay { client, key: (instance, id), .. } = stay;
                    let what = format!(
                        "the hold of {name} with token {token} is claimed by c{client} \
                         (instance {instance}, acquisition {id}), and s{store} has ended it by \
                         index {applied} although nobody wanted that"
                    );
                    return Err((name.clone(), what));
                }
            }
        }
        Ok(())
    }

    /// A client has died while it held a lock, whose place is taken until then.
    pub fn died_holding(&mut self, name: &str, token: u64, mode: LockMode, until_ns: u64) {
        let delay = Delay { token, mode, until_ns };
        self.delays.entry(name.to_owned()).or_default().push(delay);
    }

    /// A lock is granted.
    ///
    /// # Errors
    ///
    /// The place was to stay taken.
    pub fn granted(
        &mut self,
        now: u64,
        name: &str,
        token: u64,
        mode: LockMode,
    ) -> Result<(), String> {
        let Some(delays) = self.delays.get_mut(name) else { return Ok(()) };
        delays.retain(|delay| delay.until_ns + REMEMBERED_NS > now);
        // Of permits others may be free.
        let go_together = |one: LockMode, other: LockMode| {
            one == LockMode::Shared && other == LockMode::Shared
                || matches!((one, other), (LockMode::Permits { .. }, LockMode::Permits { .. }))
        };
        let broken = delays.iter().find(|delay| {
            delay.token < token && now < delay.until_ns && !go_together(delay.mode, mode)
        });
        match broken {
            None => Ok(()),
            Some(Delay { token: of, until_ns, .. }) => Err(format!(
                "token {token} of {name} is granted by {now}, and the place of token {of}, whose \
                 client died, was to stay taken until {until_ns}"
            )),
        }
    }

    /// Somebody asks for a lock.
    pub fn waits(&mut self, now: u64, name: &str, key: Key) {
        let waits = self.waits.entry(name.to_owned()).or_default();
        waits.retain(|_, wait| wait.until_ns.is_none_or(|until| until + REMEMBERED_NS > now));
        waits.insert(key, Waited { since_ns: now, until_ns: None });
    }

    /// It waits no longer.
    pub fn waits_no_more(&mut self, now: u64, name: &str, key: Key) {
        if let Some(wait) = self.waits.get_mut(name).and_then(|waits| waits.get_mut(&key)) {
            wait.until_ns = Some(wait.until_ns.map_or(now, |until| until.min(now)));
        }
    }

    /// It is gone, and nobody has confirmed that it waits no longer.
    pub fn may_wait_on(&mut self, now: u64, name: &str, key: Key) {
        self.waits_no_more(now + DOUBT_NS, name, key);
    }

    /// Who asked for a lock at `asked_ns`, was asked for it, and gave `grace` at least, has to go:
    /// somebody else must have waited when that was over.
    ///
    /// # Errors
    ///
    /// Nobody can have.
    pub fn had_to_go(
        &self,
        name: &str,
        key: Key,
        (asked_ns, now): (u64, u64),
        grace: u64,
    ) -> Result<(), String> {
        let others = || {
            let waits = self.waits.get(name).into_iter().flatten();
            waits.filter(|(other, _)| **other != key).map(|(_, wait)| wait)
        };
        // Nobody can have asked before the first of them, nor before there was a hold.
        let first_asked = others().map(|wait| wait.since_ns.max(asked_ns)).min();
        let over = first_asked.map(|first| first + grace * CLOCKS / 100);
        let waited = |wait: &Waited| {
            wait.since_ns <= now
                && wait.until_ns.is_none_or(|until| over.is_some_and(|over| until >= over))
        };
        if others().any(waited) {
            return Ok(());
        }
        Err(format!(
            "acquisition {} of instance {} had to give {name} up since somebody had asked, and \
             nobody waited behind the grace of {grace} ns",
            key.1, key.0
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_taken_until_its_delay_is_over_for_those_who_cannot_share_it() {
        let mut agreed = Agreed::default();
        agreed.died_holding("a", 5, LockMode::Shared, 100);
        assert_eq!(agreed.granted(50, "a", 6, LockMode::Shared), Ok(()));
        assert!(agreed.granted(50, "a", 6, LockMode::Exclusive).is_err());
        assert_eq!(agreed.granted(50, "b", 6, LockMode::Exclusive), Ok(()));
        assert_eq!(agreed.granted(100, "a", 6, LockMode::Exclusive), Ok(()));
        agreed.changes("a", 5);
        assert_eq!(agreed.granted(50, "a", 6, LockMode::Exclusive), Ok(()));
    }

    #[test]
    fn who_is_asked_goes_only_for_somebody_who_waits_behind_the_grace() {
        let mut agreed = Agreed::default();
        let had_to = |agreed: &Agreed| agreed.had_to_go("a", (1, 1), (400, 1_000), 100);
        assert!(had_to(&agreed).is_err(), "nobody has ever waited");
        agreed.waits(500, "a", (2, 1));
        assert_eq!(had_to(&agreed), Ok(()));
        agreed.waits_no_more(550, "a", (2, 1));
        assert!(had_to(&agreed).is_err(), "it has left before");
        agreed.waits(590, "a", (3, 1));
        assert_eq!(had_to(&agreed), Ok(()));
        let later = agreed.had_to_go("a", (1, 1), (900, 1_000), 100);
        assert_eq!(later, Ok(()), "one waits still");
        agreed.waits_no_more(600, "a", (3, 1));
        let later = agreed.had_to_go("a", (1, 1), (900, 1_000), 100);
        assert!(later.is_err(), "all had gone before there was a hold");
    }
}
