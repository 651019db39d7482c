//! A range: its bounds, its epoch, its replicas, and what makes a descriptor of it well-formed.

use std::collections::BTreeSet;
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

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "version {}, conf_ver {}", self.version, self.conf_ver)
    }
}

/// The part that a replica takes in its range.
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
    /// The store on which it lives.
    pub store: StoreId,
    /// Its part in the range.
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
    /// A descriptor that is known to be well-formed.
    ///
    /// # Panics
    /// When `validate` refuses it: this is for descriptors that our own code computes. One that
    /// came over a network or from a disk is checked with [`Descriptor::validate`].
    pub fn new(range: RangeId, bounds: Bounds, epoch: Epoch, replicas: Vec<Replica>) -> Self {
        let descriptor = Self { range, bounds, epoch, replicas };
        if let Err(error) = descriptor.validate() {
            panic!("a computed descriptor is malformed: {error}");
        }
        descriptor
    }

    /// Whether this can describe a range at all: ids are not 0, the bounds hold a name, no peer and
    /// no store stands in it twice, and somebody votes.
    pub fn validate(&self) -> Result<(), DescriptorError> {
        let range = self.range;
        if range.0 == 0 {
            return Err(DescriptorError::NoRangeId);
        }
        if self.epoch.version == 0 || self.epoch.conf_ver == 0 {
            return Err(DescriptorError::NoEpoch { range });
        }
        if !self.bounds.end.is_empty() && self.bounds.start >= self.bounds.end {
            return Err(DescriptorError::NoNames { range });
        }
        let mut peers = BTreeSet::new();
        let mut stores = BTreeSet::new();
        for replica in &self.replicas {
            if replica.peer.0 == 0 || replica.store.0 == 0 {
                return Err(DescriptorError::NoReplicaId { range });
            }
            if !peers.insert(replica.peer) {
                return Err(DescriptorError::PeerTwice { range, peer: replica.peer });
            }
            if !stores.insert(replica.store) {
                return Err(DescriptorError::StoreTwice { range, store: replica.store });
            }
        }
        if self.voters().next().is_none() {
            return Err(DescriptorError::NoVoter { range });
        }
        Ok(())
    }

    /// The replica on `store`.
    pub fn on_store(&self, store: StoreId) -> Option<&Replica> {
        self.replicas.iter().find(|replica| replica.store == store)
    }

    /// The replicas that may lead, in the descriptor's order.
    pub fn voters(&self) -> impl Iterator<Item = &Replica> {
        self.replicas.iter().filter(|replica| replica.role == Role::Voter)
    }
}

/// Why a descriptor describes no range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DescriptorError {
    /// The range's id is 0.
    NoRangeId,
    /// A component of the epoch is 0: both begin at 1.
    NoEpoch {
        /// The range.
        range: RangeId,
    },
    /// The bounds hold no name.
    NoNames {
        /// The range.
        range: RangeId,
    },
    /// A peer or store id is 0.
    NoReplicaId {
        /// The range.
        range: RangeId,
    },
    /// One peer id, two replicas.
    PeerTwice {
        /// The range.
        range: RangeId,
        /// The peer.
        peer: PeerId,
    },
    /// One store, two replicas.
    StoreTwice {
        /// The range.
        range: RangeId,
        /// The store.
        store: StoreId,
    },
    /// No replica votes.
    NoVoter {
        /// The range.
        range: RangeId,
    },
}

impl fmt::Display for DescriptorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRangeId => write!(f, "a descriptor has the range id 0, which means none"),
            Self::NoEpoch { range } => {
                write!(f, "the descriptor of range {range} has a 0 in its epoch, which begins at 1")
            }
            Self::NoNames { range } => {
                write!(
                    f,
                    "the bounds of range {range} hold no name: the end is not after the start"
                )
            }
            Self::NoReplicaId { range } => {
                write!(f, "a replica of range {range} has the peer or store id 0, which means none")
            }
            Self::PeerTwice { range, peer } => {
                write!(f, "peer {peer} stands twice in the descriptor of range {range}")
            }
            Self::StoreTwice { range, store } => {
                write!(f, "store {store} stands twice in the descriptor of range {range}")
            }
            Self::NoVoter { range } => write!(f, "no replica of range {range} votes"),
        }
    }
}

impl std::error::Error for DescriptorError {}
