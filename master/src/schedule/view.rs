//! What the scheduler decides from: plain values, put together by the leading master for one pass.
//! What follows from others is not here, so that nothing can contradict itself: how many replicas,
//! leaders, bytes and commands a store has is counted from the ranges.

use std::{collections::BTreeMap, fmt, time::Duration};

use sharklock_rangemap::{Descriptor, PeerId, RangeId, StoreId};

use super::{Class, Settings};
use crate::operator::Goal;

/// Everything that one pass knows.
///
/// Invariant: `ranges` are in ascending order of their ids.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// Now, by the clock of which all other points in time are.
    pub now: Duration,
    /// When this master began to lead.
    pub leads_since: Duration,
    /// Since when somebody wants stores to be balanced now (`rebalance.rs`), if anybody does.
    pub ordered_at: Option<Duration>,
    /// What operators have set.
    pub settings: Settings,
    /// All stores that the masters have on record.
    pub stores: BTreeMap<StoreId, StoreView<'a>>,
    /// All ranges.
    pub ranges: Vec<RangeView<'a>>,
    /// The operators that are under way, whoever has ordered them.
    pub operators: BTreeMap<RangeId, InFlight>,
}

/// A store.
#[derive(Clone, Debug)]
pub struct StoreView<'a> {
    /// Whether it is heard of.
    pub liveness: Liveness,
    /// How long it has not been heard.
    pub silent_for: Duration,
    /// What operators have said of it.
    pub duty: Duty,
    /// Where it is, from the widest to the narrowest: its zone, its host. Those beyond the first four
    /// do not count.
    pub labels: &'a [(String, String)],
    /// Its disk is too slow to lead, as [`DiskWatch`](super::DiskWatch) says.
    pub slow: Option<SlowDisk>,
    /// The newest rules of lock ranges that its program knows.
    pub level: u64,
}

/// Whether a store is heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Liveness {
    /// It is.
    Up,
    /// Not lately: it may be on its way back, and nothing is done yet.
    Disconnected,
    /// Not for so long that its replicas are replaced.
    Down,
}

/// What operators have said of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Duty {
    /// It serves.
    Serves,
    /// It is to become empty.
    Drains,
    /// It is lost for ever, and is not waited for.
    Gone,
}

impl fmt::Display for Duty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Serves => "serves",
            Self::Drains => "drains",
            Self::Gone => "gone",
        })
    }
}

/// Why a disk counts as slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowDisk {
    /// Of a hundred syncs of the last minute the slowest takes so long.
    pub p99: Duration,
    /// The median of this over all stores.
    pub median: Duration,
}

/// A range.
#[derive(Clone, Debug)]
pub struct RangeView<'a> {
    /// The newest that is known.
    pub descriptor: &'a Descriptor,
    /// The store that leads it, as far as it is known.
    pub leader: Option<StoreId>,
    /// For how long it has.
    pub led_for: Duration,
    /// When the scheduler last asked for another leader, whether or not that came about.
    pub moved_at: Option<Duration>,
    /// Commands per second, over about a minute: what varies faster is not balanced.
    pub load: u64,
    /// The size of its state.
    pub bytes: u64,
    /// The rules that it follows, as its leader has said; 0: nobody has yet.
    pub level: u64,
    /// The replicas that its leader does not hear of.
    pub unheard: Vec<Unheard>,
}

/// A replica that the leader of its range does not hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unheard {
    /// The replica.
    pub peer: PeerId,
    /// For so long.
    pub silent_for: Duration,
}

/// An operator under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InFlight {
    /// What it is to bring about.
    pub goal: Goal,
    /// What it is for. None: somebody has ordered it, and it is within no limit.
    pub class: Option<Class>,
    /// When it began.
    pub since: Duration,
}
