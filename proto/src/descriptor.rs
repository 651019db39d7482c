//! Descriptors of ranges as messages and back: the one codec of them, for rows, logs, snapshots and
//! all processes. What comes in is checked here, so that nobody holds a malformed descriptor.

use std::fmt;

use bytes::Bytes;
use sharklock_rangemap::{
    Bounds, Descriptor, DescriptorError, Epoch, PeerId, RangeId, Replica, Role, StoreId,
};

use crate::internal::v1::{self as wire, ReplicaRole};

/// Why a message describes no range. The text names the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadDescriptor {
    /// A replica has a role that this version does not know.
    UnknownRole {
        /// The range.
        range: RangeId,
        /// Which of the replicas, from 0.
        at: usize,
        /// The role's number.
        role: i32,
    },
    /// It decodes, but no range can be so.
    Malformed(DescriptorError),
}

impl fmt::Display for BadDescriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownRole { range, at, role } => write!(
                f,
                "range {range}: replicas[{at}].role is {role}, which this version does not know"
            ),
            Self::Malformed(why) => why.fmt(f),
        }
    }
}

impl std::error::Error for BadDescriptor {}

impl From<&Descriptor> for wire::RangeDescriptor {
    fn from(descriptor: &Descriptor) -> Self {
        let replica = |replica: &Replica| wire::Replica {
            peer_id: replica.peer.0,
            store_id: replica.store.0,
            role: ReplicaRole::from(replica.role).into(),
        };
        Self {
            range_id: descriptor.range.0,
            start: Bytes::copy_from_slice(&descriptor.bounds.start),
            end: Bytes::copy_from_slice(&descriptor.bounds.end),
            conf_ver: descriptor.epoch.conf_ver,
            version: descriptor.epoch.version,
            replicas: descriptor.replicas.iter().map(replica).collect(),
        }
    }
}

impl TryFrom<&wire::RangeDescriptor> for Descriptor {
    type Error = BadDescriptor;

    fn try_from(wire: &wire::RangeDescriptor) -> Result<Self, BadDescriptor> {
        let range = RangeId(wire.range_id);
        let replica = |(at, replica): (usize, &wire::Replica)| {
            let role = role_of(replica.role).ok_or(BadDescriptor::UnknownRole {
                range,
                at,
                role: replica.role,
            })?;
            Ok(Replica { peer: PeerId(replica.peer_id), store: StoreId(replica.store_id), role })
        };
        let descriptor = Self {
            range,
            bounds: Bounds { start: wire.start.to_vec(), end: wire.end.to_vec() },
            epoch: Epoch { version: wire.version, conf_ver: wire.conf_ver },
            replicas: wire.replicas.iter().enumerate().map(replica).collect::<Result<_, _>>()?,
        };
        descriptor.validate().map_err(BadDescriptor::Malformed)?;
        Ok(descriptor)
    }
}

impl From<Role> for ReplicaRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Voter => Self::Voter,
            Role::Learner => Self::Learner,
            Role::JointIncoming => Self::JointIncoming,
            Role::JointOutgoing => Self::JointOutgoing,
        }
    }
}

fn role_of(number: i32) -> Option<Role> {
    match ReplicaRole::try_from(number).ok()? {
        ReplicaRole::Unspecified => None,
        ReplicaRole::Voter => Some(Role::Voter),
        ReplicaRole::Learner => Some(Role::Learner),
        ReplicaRole::JointIncoming => Some(Role::JointIncoming),
        ReplicaRole::JointOutgoing => Some(Role::JointOutgoing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every role once, and no field that could be taken for another.
    fn joint() -> Descriptor {
        let replica =
            |number, role| Replica { peer: PeerId(10 + number), store: StoreId(number), role };
        Descriptor {
            range: RangeId(7),
            bounds: Bounds { start: b"k".to_vec(), end: b"m\xff".to_vec() },
            epoch: Epoch { version: 3, conf_ver: 4 },
            replicas: vec![
                replica(1, Role::Voter),
                replica(2, Role::Learner),
                replica(3, Role::JointIncoming),
                replica(4, Role::JointOutgoing),
            ],
        }
    }

    #[test]
    fn a_descriptor_comes_back_as_it_was() {
        let wire = wire::RangeDescriptor::from(&joint());
        assert_eq!(Descriptor::try_from(&wire), Ok(joint()));
        let numbers: Vec<_> = wire.replicas.iter().map(|it| (it.peer_id, it.role)).collect();
        assert_eq!(numbers, [(11, 1), (12, 2), (13, 3), (14, 4)], "the numbers are the format");
        assert_eq!((wire.version, wire.conf_ver), (3, 4));
    }

    #[test]
    fn what_describes_no_range_is_refused_by_the_name_of_its_field() {
        let check = |spoil: &dyn Fn(&mut wire::RangeDescriptor), expected: &str| {
            let mut bad = wire::RangeDescriptor::from(&joint());
            spoil(&mut bad);
            let why = Descriptor::try_from(&bad).expect_err(expected);
            assert_eq!(why.to_string(), expected);
        };
        check(&|d| *d = wire::RangeDescriptor::default(), "range_id is 0, which means none");
        check(&|d| d.version = 0, "range 7: version is 0, and it begins at 1");
        check(&|d| d.conf_ver = 0, "range 7: conf_ver is 0, and it begins at 1");
        check(
            &|d| d.end = Bytes::from_static(b"k"),
            "range 7: end is not after start, so that it holds no name",
        );
        for role in [0, 5, -1] {
            check(
                &|d| d.replicas[2].role = role,
                &format!("range 7: replicas[2].role is {role}, which this version does not know"),
            );
        }
        check(
            &|d| d.replicas[1].peer_id = 0,
            "range 7: replicas[1].peer_id is 0, which means none",
        );
        check(
            &|d| d.replicas[3].store_id = 1,
            "range 7: replicas[3].store_id is 1 as another's is",
        );
        check(&|d| d.replicas.clear(), "range 7: replicas: none of them votes");
    }
}
