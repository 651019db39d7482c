//! L1, L2, L3 and L5 of one range: what must happen in time once faults have ceased. While they go on
//! nothing of it is promised; what they leave behind must be gone by these bounds all the same.

use std::collections::{BTreeMap, BTreeSet};

use sharklock_dataserver::Pace;
use sharklock_locktable::{Lease, LockTable};

use crate::check::finished::open;
use crate::world::{MS, S};

/// The longest time without a leader (L3).
const LEADERLESS_MAX_NS: u64 = 10 * S;

/// What workers count with.
fn election_max_ns() -> u64 {
    Pace::default().election_max().as_nanos() as u64
}

/// What is known of a range's leaders and of those that died.
#[derive(Clone, Debug, Default)]
pub struct Liveness {
    calm_since: Option<u64>,
    /// Calls must be answered in time from here on: every connection has noticed what is gone.
    settled_since: Option<u64>,
    answered_at: u64,
    last_poll: u64,
    leaderless_ns: u64,
    /// How many leaders have begun to answer, of this range or of one that it was split off.
    leader_changes: u64,
    /// Those of this range that are counted, or that are no change: the first of a range that was split
    /// off belongs to the split.
    leaders_seen: u64,
    /// It may have been split off for load: then its first leader hands it on.
    may_be_handed_on: bool,
    /// The splits behind its names.
    splits: u64,
    stalls: u64,
    dead: BTreeMap<u64, Death>,
    /// Acquisitions that nothing stands in the way of, by (instance, id).
    stuck: BTreeMap<(u64, u64), u64>,
}

/// The state of affairs at the death of a client's process.
#[derive(Clone, Copy, Debug)]
struct Death {
    at: u64,
    leaderless_ns: u64,
    leader_changes: u64,
    splits: u64,
    stalls: u64,
}

/// What a poll saw.
#[derive(Debug)]
pub struct Seen<'a> {
    /// True time.
    pub now: u64,
    /// Whether all stores serve: one that waits for a master to take it in does not.
    pub serves: bool,
    /// The table of the leader that answers, if there is one.
    pub leader: Option<&'a LockTable>,
    /// How many leaders of the range have begun to answer.
    pub leader_changes: u64,
    /// How often stores have credited stalls.
    pub stalls: u64,
    /// What it takes to get anything through: delays and writes.
    pub slack_ns: u64,
    /// Acquisitions that clients wait for: (instance, id), with the time of asking.
    pub asking: Vec<((u64, u64), u64)>,
}

impl Liveness {
    /// Of a range that has just been split off this one: what has happened to its names is the same.
    pub fn split_off(&self, now: u64) -> Self {
        Self {
            answered_at: self.answered_at.max(now),
            last_poll: now,
            leaders_seen: 1,
            may_be_handed_on: false,
            splits: self.splits + 1,
            stuck: BTreeMap::new(),
            ..self.clone()
        }
    }

    /// Its leader may hand it on: the range was perhaps split off for load, or masters have said so.
    pub fn may_be_handed_on(&mut self) {
        self.may_be_handed_on = true;
    }

    /// Faults have ceased.
    pub fn calm(&mut self, now: u64) {
        self.calm_since = Some(now);
        self.answered_at = self.answered_at.max(now);
    }

    /// Every connection has noticed by now what is gone.
    pub fn settled(&mut self, now: u64) {
        self.settled_since = Some(now);
    }

    /// A client's process has ended.
    pub fn died(&mut self, instance: u64, now: u64) {
        let Self { leaderless_ns, leader_changes, splits, stalls, .. } = *self;
        let death = Death { at: now, leaderless_ns, leader_changes, splits, stalls };
        self.dead.insert(instance, death);
    }

    /// Somebody else repeats a dead client's call, which may renew its lease.
    pub fn died_again(&mut self, instance: u64, now: u64) {
        if self.dead.contains_key(&instance) {
            self.died(instance, now);
        }
    }

    /// Compares with the bounds.
    ///
    /// # Errors
    ///
    /// The broken rule, the lock if there is one, and what is late.
    pub fn poll(&mut self, seen: &Seen<'_>) -> Result<(), (&'static str, String, String)> {
        let passed = seen.now - self.last_poll;
        self.last_poll = seen.now;
        self.stalls = seen.stalls;
        let more = seen.leader_changes.saturating_sub(self.leaders_seen);
        let is_expected = more == 1 && std::mem::take(&mut self.may_be_handed_on);
        if self.settled_since.is_some() && more > 0 && !is_expected {
            let what = "a leader changed although nothing happened".to_owned();
            return Err(("L5", String::new(), what));
        }
        self.leaders_seen += more;
        self.leader_changes += more;
        let Some(leader) = seen.leader else {
            self.leaderless_ns += passed;
            self.stuck.clear();
            if !seen.serves {
                self.answered_at = self.answered_at.max(seen.now);
            }
            let since = self.answered_at;
            if self.calm_since.is_some() && seen.now > since + LEADERLESS_MAX_NS {
                let what = format!("no leader answers since {since}, and all are alive");
                return Err(("L3", String::new(), what));
            }
            return Ok(());
        };
        self.answered_at = seen.now;
        if let Some(calm) = self.calm_since {
            self.dead_holders(seen, leader, calm)?;
        }
        if self.settled_since.is_some() {
            self.free_locks(seen, leader)?;
        }
        Ok(())
    }

    /// L2 by D7's bound: (leader changes + splits + notices + 1) full leases with an election each, the time without
    /// a leader, what stalls have credited, and a commit. A dead client's last keepalive may have
    /// waited an interval in its gateway.
    fn dead_holders(
        &self,
        seen: &Seen<'_>,
        leader: &LockTable,
        calm: u64,
    ) -> Result<(), (&'static str, String, String)> {
        for lease in leader.leases() {
            let (Lease::Hold { ttl_ms, .. } | Lease::Waiter { ttl_ms, .. }) = lease else {
                continue;
            };
            let (name, open) = open(&lease);
            let mut deaths = open.iter().map(|it| self.dead.get(&it.instance.0));
            let Some(death) = deaths.next().flatten().filter(|_| deaths.next().is_none()) else {
                continue;
            };
            let ttl = ttl_ms * MS;
            // Clocks of servers may be slow by ρ, and wait for ρ more than the ttl.
            let full = (ttl + ttl / 100 + election_max_ns()) * 101 / 99;
            let changes = self.leader_changes - death.leader_changes;
            // Each has given the names a leader that knows nothing of who was heard of when.
            let splits = self.splits - death.splits;
            let stalled = death.at < calm || self.stalls > death.stalls;
            let credit = if stalled { ttl + election_max_ns() } else { 0 };
            let interval = (ttl / 3).min(5 * S);
            // Whatever gives notice has the lease waited out in full from there (D9; seed 120).
            let endings = u64::from(matches!(lease, Lease::Hold { ending: true, .. }));
            let bound = (changes + splits + endings + 1) * full
                + (self.leaderless_ns - death.leaderless_ns)
                + credit
                + interval
                + 100 * MS
                + seen.slack_ns;
            // Faults may have kept leaders from committing although they led: the bound counts
            // from the calm on at the latest.
            let since = death.at.max(calm);
            if seen.now > since + bound {
                let instance = open[0].instance.0;
                let what = format!(
                    "{name} is still held or waited for by instance {instance}, which died at {}",
                    death.at
                );
                return Err(("L2", name, what));
            }
        }
        Ok(())
    }

    /// L1: who asks for a free lock has it, and knows it, within two elections and a second.
    fn free_locks(
        &mut self,
        seen: &Seen<'_>,
        leader: &LockTable,
    ) -> Result<(), (&'static str, String, String)> {
        let mut behind = BTreeSet::new();
        let mut held = BTreeSet::new();
        // An orphan has no lease.
        let locks = leader.locks("", "", usize::MAX, 1, 0);
        held.extend(locks.iter().filter(|it| it.holds_count > 0).map(|it| it.name.clone()));
        for lease in leader.leases() {
            match lease {
                Lease::Hold { .. } => {}
                Lease::Delay { name, .. } => {
                    held.insert(name);
                }
                Lease::Waiter { name, acquisition, .. } => {
                    if held.contains(&name) {
                        behind.insert((acquisition.instance.0, acquisition.id.0));
                    }
                }
            }
        }
        let bound = 2 * election_max_ns() + S + seen.slack_ns;
        let asking: BTreeMap<(u64, u64), u64> = seen.asking.iter().copied().collect();
        self.stuck.retain(|key, _| asking.contains_key(key) && !behind.contains(key));
        for (key, asked) in asking {
            if behind.contains(&key) {
                continue;
            }
            let since = *self.stuck.entry(key).or_insert(asked.max(seen.now));
            if seen.now > since + bound {
                let (instance, id) = key;
                let what = format!(
                    "instance {instance} asks for acquisition {id}; nobody stands in its way \
                     since {since}, and it is not granted"
                );
                return Err(("L1", String::new(), what));
            }
        }
        Ok(())
    }
}
