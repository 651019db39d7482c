//! The border of a worker: what happens to it, what it wants done, at which pace, and what
//! it has counted.

use std::{ops::AddAssign, time::Duration};

use sharklock_multiraft::{Batch, BatchSeq, Chore, ChoreDone, Split, election_max};
use sharklock_proto::internal::v1::{
    GoOnAlone, Heartbeats, RangeMessage, RangeStep, SnapshotMessage, StoreCall, StoreReply,
};
use sharklock_rangemap::{Bounds, Descriptor, Epoch, PeerId, RangeId, StoreId};

use crate::{front::LinkId, machine::LockRange, observed::Observed, triggers::Measure};

/// Something that happened.
#[derive(Debug)]
pub enum Input {
    /// A gateway's calls, and how long they stood in the mailbox.
    Calls {
        /// Which gateway.
        link: LinkId,
        /// Time since they entered the mailbox.
        queued: Duration,
        /// The calls.
        calls: Vec<StoreCall>,
    },
    /// A gateway's connection is gone.
    LinkClosed(LinkId),
    /// The disk has this batch.
    Persisted(BatchSeq),
    /// From another store.
    Message(Box<RangeMessage>),
    /// The heartbeats of all ranges, from another store.
    Heartbeats(Box<Heartbeats>),
    /// Pieces of snapshots, or what answers them, from another store.
    Snapshots(Vec<SnapshotMessage>),
    /// The result of a chore.
    ChoreDone(Box<ChoreDone<LockRange>>),
    /// Messages that were sent to this store of late may be lost: its link broke, or was full.
    Unreachable(StoreId),
    /// The master wants a replica of a first range here, made out of nothing.
    Create {
        /// The range.
        descriptor: Descriptor,
        /// The rules that it begins with, on all of its replicas alike.
        level: u64,
    },
    /// The masters say that the programs of all replicas of a range, as of this `conf_ver`, know the
    /// rules of this feature level.
    RaiseLevel {
        /// The range.
        range: RangeId,
        /// Of the descriptor whose replicas they have asked about.
        conf_ver: u64,
        /// The level that all know.
        level: u64,
    },
    /// The masters want a step done for a range, if this store leads it and it still has the epoch by
    /// which that was decided. They say so again as long as they want it.
    Step(Box<RangeStep>),
    /// The masters say that the majority of a range is lost for good, and that its replica here is to go
    /// on alone. They say so again until it has.
    GoOnAlone(Box<GoOnAlone>),
    /// The masters want to hear that there is no replica of this range here, if there is none. They say so
    /// again until they have.
    AskedAbout(RangeId),
    /// A range is to become two, if this store leads it and it still has the epoch by which that was
    /// decided: there are ids for it ([`IdsWanted`]). Whoever waits for this split is told what comes of
    /// it.
    Split {
        /// The range.
        range: RangeId,
        /// The term in which it was wanted, if its leader has wanted it: in another one nothing is done,
        /// since whoever has asked was told so.
        term: Option<u64>,
        /// The key, and the ids of the upper half.
        split: Split,
    },
    /// There are no ids for a split that was wanted: whoever waits for it is told.
    NoIds {
        /// As it was wanted.
        wanted: IdsWanted,
        /// Why, for people.
        why: String,
    },
    /// The process is about to stop: leadership goes to other stores where one can take it.
    HandOver,
    /// Another worker of the store has ended a replica that must not come back.
    Buried {
        /// The range.
        range: RangeId,
        /// Its newest replica that was on this store.
        peer: PeerId,
    },
}

/// A split that waits for ids: one for the new range, and one for each of its replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdsWanted {
    /// The range that is to become two.
    pub range: RangeId,
    /// The epoch by which that was decided.
    pub epoch: Epoch,
    /// First name of the upper half.
    pub key: String,
    /// The number of replicas of the new range.
    pub replicas: usize,
    /// The term of the leader that wants it.
    pub term: u64,
}

/// What one worker's ranges mean for the table of all ([`Assignment`](crate::Assignment)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whereabouts {
    /// A replica is here from now on.
    Born {
        /// The range.
        range: RangeId,
        /// Its names.
        bounds: Bounds,
    },
    /// A replica has ended here and must not come back: the other workers are to be told, before
    /// anything else is done about its range or its names.
    Buried {
        /// The range.
        range: RangeId,
        /// Its newest replica that was on this store.
        peer: PeerId,
    },
    /// Everything that has happened to the range here is durable.
    Settled {
        /// The range.
        range: RangeId,
        /// The names of its replica; `None`: there is none.
        bounds: Option<Bounds>,
        /// How many inputs have been handled that can make or end a replica of it
        /// ([`Assignment::is_about_life`](crate::Assignment::is_about_life)).
        handled: u32,
    },
}

/// The work that a turn leaves to its owner.
#[derive(Debug, Default)]
pub struct Outputs {
    /// For the disk; its `Persisted` comes back as input.
    pub batch: Option<Batch>,
    /// For gateways, in order per link.
    pub replies: Vec<(LinkId, Vec<StoreReply>)>,
    /// For other stores.
    pub messages: Vec<RangeMessage>,
    /// For other stores, at most one for each, on streams of their own.
    pub heartbeats: Vec<Heartbeats>,
    /// For other stores, on streams of their own.
    pub snapshots: Vec<SnapshotMessage>,
    /// To be run beside the worker; what comes of each comes back as input.
    pub chores: Vec<Chore<LockRange>>,
    /// For the table of all workers, in this order, before anything else is routed by it.
    pub whereabouts: Vec<Whereabouts>,
    /// For the masters; each is answered by [`Input::Split`] or [`Input::NoIds`].
    pub ids_wanted: Vec<IdsWanted>,
    /// For whoever counts and traces; nothing depends on it.
    pub observed: Observed,
}

/// The pace of a worker (decisions.md, *Defaults*).
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Raft's tick.
    pub tick: Duration,
    /// How often changed rows are written to the image.
    pub flush: Duration,
    /// How many leases a turn takes up of those that a new leader has found, in all ranges together.
    pub leases_per_turn: usize,
}

impl Pace {
    /// The longest time after which followers of a silent leader elect another.
    pub fn election_max(&self) -> Duration {
        election_max(self.tick)
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            tick: Duration::from_millis(100),
            flush: Duration::from_millis(300),
            // Some 2 ms.
            leases_per_turn: 2_048,
        }
    }
}

/// Counters of what a worker has done, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerStats {
    /// Raft entries proposed.
    pub entries: u64,
    /// Commands in them.
    pub commands: u64,
    /// Grants, at once or from the queue.
    pub grants: u64,
    /// Holds and waiters that their leader's clock ended.
    pub expiries: ExpiryCounts,
    /// Waits that timed out.
    pub wait_timeouts: u64,
    /// Keepalive items received.
    pub keepalive_items: u64,
    /// Acquisitions cancelled since all their callers had gone away.
    pub withdrawals: u64,
    /// Requests dropped for their age.
    pub stale_requests: u64,
    /// Commands that were not applied since their range's bounds had changed on the way.
    pub moved: u64,
    /// Acquires refused because too much was waiting.
    pub overloads: u64,
    /// Stalls of the loop or the disk that were credited to leases.
    pub stalls: u64,
    /// Times this store began to lead a range.
    pub promotions: u64,
    /// Changes of bounds or members of ranges that this store leads.
    pub changes: u64,
    /// Ranges that turns have looked at, one by one. A range that lies idle is not looked at.
    pub visits: u64,
    /// Splits that this store has proposed as a leader, and that were applied.
    pub splits: SplitCounts,
    /// Splits that somebody has asked for in vain.
    pub split_refusals: u64,
}

/// Ends by a leader's clock, by what ran out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExpiryCounts {
    /// The lease of a hold.
    pub hold: u64,
    /// The lease of a waiter.
    pub waiter: u64,
    /// The longest time that a hold's condition allows.
    pub max_hold: u64,
    /// The grace of a holder who was asked for the lock.
    pub asked: u64,
    /// The lease of a hold that stays without one.
    pub orphaned: u64,
}

impl AddAssign for ExpiryCounts {
    /// Adds up the counts of several workers.
    fn add_assign(&mut self, other: Self) {
        let Self { hold, waiter, max_hold, asked, orphaned } = other;
        self.hold += hold;
        self.waiter += waiter;
        self.max_hold += max_hold;
        self.asked += asked;
        self.orphaned += orphaned;
    }
}

/// Splits, by what they were made for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SplitCounts {
    /// An operator has asked.
    pub operator: u64,
    /// The range had too many locks.
    pub locks: u64,
    /// Its locks took too much memory.
    pub bytes: u64,
    /// It had too many waiters.
    pub waiters: u64,
    /// It got too many commands.
    pub commands: u64,
}

impl SplitCounts {
    /// Counts one more; `None`: an operator has asked.
    pub fn count(&mut self, excess_of: Option<Measure>) {
        *match excess_of {
            None => &mut self.operator,
            Some(Measure::Locks) => &mut self.locks,
            Some(Measure::Bytes) => &mut self.bytes,
            Some(Measure::Waiters) => &mut self.waiters,
            Some(Measure::Commands) => &mut self.commands,
        } += 1;
    }
}

impl AddAssign for SplitCounts {
    /// Adds up the counts of several workers.
    fn add_assign(&mut self, other: Self) {
        let Self { operator, locks, bytes, waiters, commands } = other;
        self.operator += operator;
        self.locks += locks;
        self.bytes += bytes;
        self.waiters += waiters;
        self.commands += commands;
    }
}

impl AddAssign for WorkerStats {
    /// Adds up the counts of several workers.
    fn add_assign(&mut self, other: Self) {
        let Self { entries, commands, grants, expiries, wait_timeouts, keepalive_items, .. } =
            other;
        let Self { withdrawals, stale_requests, moved, overloads, stalls, .. } = other;
        let Self { promotions, changes, visits, splits, split_refusals, .. } = other;
        self.entries += entries;
        self.commands += commands;
        self.grants += grants;
        self.expiries += expiries;
        self.wait_timeouts += wait_timeouts;
        self.keepalive_items += keepalive_items;
        self.withdrawals += withdrawals;
        self.stale_requests += stale_requests;
        self.moved += moved;
        self.overloads += overloads;
        self.stalls += stalls;
        self.promotions += promotions;
        self.changes += changes;
        self.visits += visits;
        self.splits += splits;
        self.split_refusals += split_refusals;
    }
}
