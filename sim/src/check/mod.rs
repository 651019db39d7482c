//! What must hold, whatever happens (invariants.md). Each checker watches from outside, in true
//! time.

use std::collections::BTreeMap;

use sharklock_rangemap::RangeId;

mod agreed;
mod balancing;
mod beliefs;
mod finished;
mod liveness;
mod replicas;
mod tiling;
mod watched;

pub use agreed::{Agreed, CLOCKS};
pub use balancing::Balancing;
pub use beliefs::{Belief, Beliefs, Guard};
pub use finished::Finished;
pub use liveness::{Liveness, Seen};
pub use replicas::Replicas;
pub use tiling::{News, Tiling};
pub use watched::{SHOWN_MAX, Seen as SeenState, Watched};

/// A broken promise.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which: a number of invariants.md, or "panic".
    pub rule: &'static str,
    /// When it was found, true time.
    pub at_ns: u64,
    /// What was found.
    pub what: String,
    /// The last lines of the trace about it.
    pub lines: Vec<String>,
}

/// All checkers.
#[derive(Debug, Default)]
pub struct Checks {
    /// Equal states, one leader per term, nothing applied that is not committed.
    pub replicas: Replicas,
    /// The same of the masters' own group.
    pub masters: Replicas,
    /// Every name has one range.
    pub tiling: Tiling,
    /// What clients believe to hold.
    pub beliefs: Beliefs,
    /// What is over.
    pub finished: Finished,
    /// What ends holds.
    pub agreed: Agreed,
    /// What those who watch locks are told.
    pub watched: Watched,
    /// Balancing leaves leaders alone for a while.
    pub balancing: Balancing,
    /// What must happen in time, of each range.
    pub liveness: BTreeMap<RangeId, Liveness>,
}

impl Checks {
    /// Of a world with these ranges.
    pub fn of(ranges: impl Iterator<Item = RangeId>) -> Self {
        let liveness = ranges.map(|range| (range, Liveness::default())).collect();
        Self { liveness, ..Self::default() }
    }

    /// A range has come into being by the split of another.
    pub fn born(&mut self, range: RangeId, parent: RangeId, now: u64) {
        let inherited = self.liveness.get(&parent).map(|parent| parent.split_off(now));
        self.liveness.insert(range, inherited.unwrap_or_default());
    }

    /// A client's process has ended.
    pub fn died(&mut self, instance: u64, now: u64) {
        self.liveness.values_mut().for_each(|range| range.died(instance, now));
    }

    /// Somebody else repeats a dead client's call, which may renew its lease.
    pub fn died_again(&mut self, instance: u64, now: u64) {
        self.liveness.values_mut().for_each(|range| range.died_again(instance, now));
    }

    /// Faults have ceased.
    pub fn calm(&mut self, now: u64) {
        self.liveness.values_mut().for_each(|range| range.calm(now));
    }

    /// Every connection has noticed by now what is gone.
    pub fn settled(&mut self, now: u64) {
        self.liveness.values_mut().for_each(|range| range.settled(now));
    }
}
