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

/// The part that a replica takes in its range. While voters are replaced the configuration is joint: it
/// has two halves, and what is decided needs a majority of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Votes and counts for the quorum; of a joint configuration in both halves.
    Voter,
    /// Receives the log only.
    Learner,
    /// Votes in the half of a joint configuration that stays; a voter when it is left.
    JointIncoming,
    /// Votes in the half of a joint configuration that goes; a learner when it is left.
    JointOutgoing,
}

impl Role {
    /// Whether it votes at all, and so may lead.
    pub fn votes(self) -> bool {
        self.votes_incoming() || self.votes_outgoing()
    }

    /// Whether it votes in the half that stays; outside a joint configuration that is all there is.
    pub fn votes_incoming(self) -> bool {
        matches!(self, Self::Voter | Self::JointIncoming)
    }

    /// Whether it votes in the half of a joint configuration that goes.
    pub fn votes_outgoing(self) -> bool {
        matches!(self, Self::Voter | Self::JointOutgoing)
    }

    /// Whether it exists in joint configurations only.
    pub fn is_joint(self) -> bool {
        matches!(self, Self::JointIncoming | Self::JointOutgoing)
    }
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

    /// Whether all names of `other` lie inside.
    pub fn covers(&self, other: &Self) -> bool {
        let ends = self.end.is_empty() || (!other.end.is_empty() && other.end <= self.end);
        self.start <= other.start && ends
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
    /// no store stands in it twice, and somebody votes, of a joint configuration in each half.
    pub fn validate(&self) -> Result<(), DescriptorError> {
        let range = self.range;
        if range.0 == 0 {
            return Err(DescriptorError::NoRangeId);
        }
        for (field, value) in [("version", self.epoch.version), ("conf_ver", self.epoch.conf_ver)] {
            if value == 0 {
                return Err(DescriptorError::NoEpoch { range, field });
            }
        }
        if !self.bounds.end.is_empty() && self.bounds.start >= self.bounds.end {
            return Err(DescriptorError::NoNames { range });
        }
        self.validate_ids()?;
        self.validate_votes()
    }

    fn validate_ids(&self) -> Result<(), DescriptorError> {
        let range = self.range;
        let mut peers = BTreeSet::new();
        let mut stores = BTreeSet::new();
        for (at, replica) in self.replicas.iter().enumerate() {
            let ids = [("peer_id", replica.peer.0), ("store_id", replica.store.0)];
            if let Some((field, _)) = ids.into_iter().find(|(_, id)| *id == 0) {
                return Err(DescriptorError::NoReplicaId { range, at, field });
            }
            let is_new = [peers.insert(replica.peer), stores.insert(replica.store)];
            if let Some(((field, id), _)) = ids.into_iter().zip(is_new).find(|(_, is_new)| !is_new)
            {
                return Err(DescriptorError::ReplicaTwice { range, at, field, id });
            }
        }
        Ok(())
    }

    fn validate_votes(&self) -> Result<(), DescriptorError> {
        let range = self.range;
        let nobody = |votes: fn(Role) -> bool| !self.replicas.iter().any(|it| votes(it.role));
        if nobody(Role::votes) {
            return Err(DescriptorError::NoVoter { range });
        }
        if self.is_joint() {
            let halves = [
                ("incoming", nobody(Role::votes_incoming)),
                ("outgoing", nobody(Role::votes_outgoing)),
            ];
            if let Some((half, _)) = halves.into_iter().find(|(_, is_empty)| *is_empty) {
                return Err(DescriptorError::HalfWithoutVoter { range, half });
            }
        }
        Ok(())
    }

    /// Whether voters are being replaced: what is decided needs a majority of both halves.
    pub fn is_joint(&self) -> bool {
        self.replicas.iter().any(|replica| replica.role.is_joint())
    }

    /// The replica on `store`.
    pub fn on_store(&self, store: StoreId) -> Option<&Replica> {
        self.replicas.iter().find(|replica| replica.store == store)
    }

    /// The replicas that may lead, in the descriptor's order.
    pub fn voters(&self) -> impl Iterator<Item = &Replica> {
        self.replicas.iter().filter(|replica| replica.role.votes())
    }
}

/// Why a descriptor describes no range. The text names the field as the messages do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DescriptorError {
    /// The range's id is 0.
    NoRangeId,
    /// A component of the epoch is 0: both begin at 1.
    NoEpoch {
        /// The range.
        range: RangeId,
        /// Which of the two.
        field: &'static str,
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
        /// Which of the replicas, from 0.
        at: usize,
        /// Which of the two.
        field: &'static str,
    },
    /// A replica has the peer or store id of one before it.
    ReplicaTwice {
        /// The range.
        range: RangeId,
        /// Which of the replicas, from 0.
        at: usize,
        /// Which of the two.
        field: &'static str,
        /// The id.
        id: u64,
    },
    /// No replica votes.
    NoVoter {
        /// The range.
        range: RangeId,
    },
    /// No replica votes in one half of a joint configuration.
    HalfWithoutVoter {
        /// The range.
        range: RangeId,
        /// Which half.
        half: &'static str,
    },
}

impl fmt::Display for DescriptorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRangeId => write!(f, "range_id is 0, which means none"),
            Self::NoEpoch { range, field } => {
                write!(f, "range {range}: {field} is 0, and it begins at 1")
            }
            Self::NoNames { range } => {
                write!(f, "range {range}: end is not after start, so that it holds no name")
            }
            Self::NoReplicaId { range, at, field } => {
                write!(f, "range {range}: replicas[{at}].{field} is 0, which means none")
            }
            Self::ReplicaTwice { range, at, field, id } => {
                write!(f, "range {range}: replicas[{at}].{field} is {id} as another's is")
            }
            Self::NoVoter { range } => write!(f, "range {range}: replicas: none of them votes"),
            Self::HalfWithoutVoter { range, half } => write!(
                f,
                "range {range}: replicas: none of them votes in the {half} half of the joint \
                 configuration"
            ),
        }
    }
}

impl std::error::Error for DescriptorError {}
