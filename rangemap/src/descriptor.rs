//! A range: its bounds, its epoch, its replicas.

use std::fmt;

/// A range of lock names and the Raft group that serves it. Given once, never reused; 0 is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RangeId(pub u64);

/// A data server's disk identity. Given once, never reused; 0 is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreId(pub u64);

/// One replica of a range, Raft's node id. Given once, never reused; 0 is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u64);

macro_rules! display_as_number {
    ($($id:ident),*) => {$(
        impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}
display_as_number!(RangeId, StoreId, PeerId);

/// Orders the descriptors of one range, and of ranges that overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch {
    /// Counts changes of the bounds.
    pub version: u64,
    /// Counts changes of the membership.
    pub conf_ver: u64,
}

/// What a replica may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Votes and counts for the quorum.
    Voter,
    /// Receives the log only.
    Learner,
}

/// One copy of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Replica {
    /// Its Raft id.
    pub peer: PeerId,
    /// Where it lives.
    pub store: StoreId,
    /// What it may do.
    pub role: Role,
}

/// Half-open interval of lock names in byte order. An empty `end` means no end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bounds {
    /// First name.
    pub start: Vec<u8>,
    /// First name after; empty: no end.
    pub end: Vec<u8>,
}

impl Bounds {
    /// All names.
    pub const ALL: Self = Self { start: Vec::new(), end: Vec::new() };

    /// Whether `name` lies inside.
    pub fn contains(&self, name: &[u8]) -> bool {
        self.start.as_slice() <= name && (self.end.is_empty() || name < self.end.as_slice())
    }

    /// Whether some name lies in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        let begins_before = |a: &Self, b: &Self| b.end.is_empty() || a.start < b.end;
        begins_before(self, other) && begins_before(other, self)
    }
}

/// A range's bounds, epoch and replicas, as of one point of its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// The range.
    pub range: RangeId,
    /// Its names.
    pub bounds: Bounds,
    /// Which of its descriptors this is.
    pub epoch: Epoch,
    /// Its copies.
    pub replicas: Vec<Replica>,
}

impl Descriptor {
    /// The replica on `store`.
    pub fn on_store(&self, store: StoreId) -> Option<&Replica> {
        self.replicas.iter().find(|replica| replica.store == store)
    }
}
