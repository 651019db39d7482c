//! The effects of a turn: what its owner has to do.

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::Duration;

use sharklock_proto::internal::v1::{Heartbeats, RangeMessage, SnapshotMessage};
use sharklock_rangemap::{PeerId, RangeId, StoreId};

use crate::disk::Batch;
use crate::split::NotChanged;
use crate::state_machine::EntryAt;

/// Names a read of one store; unique within a life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReadId(pub u64);

/// The effects of a turn: what its owner has to do. The owner drains it; the order of the fields is
/// the order in which to do it, but for `messages`, `heartbeats` and `snapshots`, which may leave
/// at any time.
///
/// Within a turn the entries applied come before the roles: who leads is told of its first own
/// entry's application, and only then that it leads.
#[derive(Debug)]
pub struct Effects<O> {
    /// To be written at once, before any later batch, and reported by [`crate::Store::persisted`].
    pub batch: Option<Batch>,
    /// To be sent, each link in order. A lost one is repeated by Raft.
    pub messages: Vec<RangeMessage>,
    /// To be sent as well, on streams of their own (D6): at most one for each store, in store
    /// order. Their order towards `messages` does not matter.
    pub heartbeats: Vec<Heartbeats>,
    /// To be sent as well, on streams of their own (D6): pieces of snapshots, and what answers
    /// them. A lost one costs time: its transfer fails, and Raft asks for another.
    pub snapshots: Vec<SnapshotMessage>,
    /// Ranges of which a replica is here from now on, and was not before.
    pub born: Vec<RangeId>,
    /// Entries applied, per range in the order of its log. The range may be `gone` by now, or have
    /// other bounds.
    pub applied: Vec<Applied<O>>,
    /// Reads that may now be answered from the applied state.
    pub reads: Vec<ReadReady>,
    /// Leadership won and lost.
    pub roles: Vec<RoleChange>,
    /// Ranges whose bounds or members have changed, by an entry or by a snapshot.
    pub changed: Vec<RangeId>,
    /// Ranges of which no replica is here any more: they go on elsewhere, or this store is too late.
    /// Nothing of them can be asked of the store, and whatever waits for them is left open.
    pub gone: Vec<RangeId>,
    /// The tombstones that this turn has left, to be told to the other shares of the store, see
    /// [`crate::Store::buried_elsewhere`].
    pub buried: Vec<(RangeId, PeerId)>,
    /// Whoever measures how long it takes to apply entries; no effect depends on it.
    pub meter: Option<Arc<dyn ApplyMeter>>,
}

/// Measures how long entries take to be applied: the engine reads no clock itself.
pub trait ApplyMeter: Send + Sync + Debug {
    /// Committed entries are about to be applied. What it returns comes back with their end.
    fn begins(&self) -> Duration;
    /// They have been.
    fn ends(&self, begun: Duration);
}

impl<O> Effects<O> {
    /// Calls the meter now, if there is something to apply, and when what this returns is dropped.
    pub(crate) fn measure(&self, entries_count: usize) -> Option<Measured> {
        let meter = self.meter.clone().filter(|_| entries_count > 0)?;
        Some(Measured { begun: meter.begins(), meter })
    }
}

/// See [`Effects::measure`].
pub(crate) struct Measured {
    meter: Arc<dyn ApplyMeter>,
    begun: Duration,
}

impl Drop for Measured {
    fn drop(&mut self) {
        self.meter.ends(self.begun);
    }
}

impl<O> Default for Effects<O> {
    fn default() -> Self {
        Self {
            batch: None,
            messages: Vec::new(),
            heartbeats: Vec::new(),
            snapshots: Vec::new(),
            born: Vec::new(),
            applied: Vec::new(),
            reads: Vec::new(),
            roles: Vec::new(),
            changed: Vec::new(),
            gone: Vec::new(),
            buried: Vec::new(),
            meter: None,
        }
    }
}

/// An entry that was committed and applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied<O> {
    /// The range.
    pub range: RangeId,
    /// Its place in the log. An entry proposed at the same index in another term is lost.
    pub at: EntryAt,
    /// The result of applying it. `None`: the empty entry with which a leader begins its term, or a
    /// change of bounds or members, whether it took effect or came too late.
    pub output: Option<O>,
}

/// A read whose round proved, after the read was asked, that this replica leads, and whose index
/// is applied: the state answers it linearizably.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadReady {
    /// The range.
    pub range: RangeId,
    /// The read.
    pub read: ReadId,
    /// The commit index at the time of the read.
    pub index: u64,
}

/// A range's role on this store changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoleChange {
    /// The range.
    pub range: RangeId,
    /// Its role now.
    pub role: RoleNow,
}

/// Whether a replica leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleNow {
    /// It leads and has applied an entry of its own term, hence everything that was ever
    /// acknowledged.
    Leader {
        /// The term it leads in.
        term: u64,
    },
    /// It does not lead (or does not yet, see `Leader`). All its reads are forgotten; what it
    /// proposed may still be committed, by whom it does not know.
    Follower {
        /// Its term.
        term: u64,
        /// The leader of that term, as far as it knows. Never this store.
        leader: Option<StoreId>,
    },
}

/// The place of a proposal in the log, if it survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proposed {
    /// Its index.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// Why a proposal or a read was not taken. Nothing of it will happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotProposed {
    /// The change of bounds or members does not fit the range as it is.
    #[error(transparent)]
    NotChanged(#[from] NotChanged),
    /// Another change of the range's bounds or members is in the log and not applied. It passes.
    #[error("another change of the range's bounds or members is under way")]
    EpochChanging,
    /// So many children of earlier splits do not live yet: none of them has had a leader. Each that
    /// gets one makes room.
    #[error(
        "nobody has led {count} ranges that were split off this one: none is split off before one of \
         them has a leader"
    )]
    ChildrenAwaited {
        /// So many.
        count: usize,
    },
    /// The store has no replica of the range.
    #[error("this store has no replica of the range")]
    UnknownRange,
    /// Another replica may lead.
    #[error("this replica does not lead its range")]
    NotLeader {
        /// The leader, as far as it is known.
        leader: Option<StoreId>,
    },
    /// A read, or a change of bounds or members, too early in a term: the leader has not committed
    /// (or, for a change, applied) an entry of its own yet, so it does not know what is committed. Ask
    /// again after the next `RoleNow::Leader`.
    #[error("the leader has not committed an entry of its term yet")]
    NotReady,
    /// A change of bounds or members while the leadership is on its way to another replica, which
    /// passes.
    #[error("the leadership of the range is being handed over")]
    HandingOver,
    /// 16 MiB of the range's entries wait to be committed, or its leadership is being handed over.
    /// Both pass: ask again.
    #[error("too much of this range waits to be committed, or it is being handed over")]
    Overloaded,
    /// The replica was stopped by an alarm, see [`crate::Dropped::LostLog`].
    #[error("this replica is stopped because its log lost entries")]
    Stopped,
}

/// Why a disk counts as lost to a replica: what it had acknowledged is not on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostLog {
    /// The leader knew this entry to be on it.
    pub commit: u64,
    /// The index at which its log ended.
    pub last: u64,
}

impl fmt::Display for LostLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { commit, last } = self;
        write!(
            f,
            "its log ended at entry {last}, but its leader knew entry {commit} to be on this disk, so \
             an older copy was put back or writes were lost. This replica takes no part in its range \
             any more, also after a restart, and the others go on without it. Put the original disk \
             back if it still exists; if not, leave this store as it is"
        )
    }
}

/// What a replica cannot take, since a newer program made it: the replica stays behind until such a
/// program runs it. To skip anything would let it diverge (D19).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Behind {
    /// The entry that it does not know, or the last one of a state that it does not know.
    pub index: u64,
    /// The term of that entry.
    pub term: u64,
    /// What is needed and what is known, and the way out, for people.
    pub why: String,
}

impl fmt::Display for Behind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it stays behind at entry {}: {}", self.index, self.why)
    }
}

/// The state of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RaftRole {
    /// It leads its range.
    Leader,
    /// It asks for votes, or asks whether it would get them.
    Candidate,
    /// It follows, or waits for a leader.
    Follower,
    /// It does nothing any more: its log lost entries, see [`crate::Dropped::LostLog`].
    Stopped,
}

/// A replica as an operator sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// Its part in Raft.
    pub role: RaftRole,
    /// Its Raft term.
    pub term: u64,
    /// The store of its leader, as far as known; this store's own while it leads.
    pub leader: Option<StoreId>,
    /// Index up to which it knows entries to be committed.
    pub commit: u64,
    /// Index up to which they are applied. Never above `commit` (S12).
    pub applied: u64,
    /// Index up to which the image on the disk is durable.
    pub flushed: u64,
    /// First index that its log keeps.
    pub log_first: u64,
    /// Last index of its log.
    pub log_last: u64,
    /// Hash of the applied state: equal on all replicas at equal `applied` (S9).
    pub state_hash: u64,
}
