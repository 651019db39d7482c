//! A split of a range: what asks for one, and what it makes of a descriptor.

use sharklock_rangemap::{Bounds, Descriptor, DescriptorError, Epoch, PeerId, RangeId, Replica};

use crate::state_machine::EntryAt;

/// Asks that the names of a range from `key` on become a range of their own, on the same stores and
/// in the same roles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// The epoch by which it was decided. If the range has another one by the time this is applied,
    /// nothing happens.
    pub epoch: Epoch,
    /// First name of the child. It lies inside the range's bounds and is not their first.
    pub key: String,
    /// The child's id, never given before.
    pub child: RangeId,
    /// The ids of the child's replicas, one for each replica of the range, in the order of its
    /// descriptor. Never given before.
    pub child_peers: Vec<PeerId>,
}

/// Why a descriptor stays as it is. Whoever asked for the change has to decide anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotChanged {
    /// The range has changed since the change was decided.
    #[error("the range has another epoch by now: {0}")]
    Epoch(Epoch),
    /// Voters are being replaced.
    #[error("the range's configuration is joint, and has to be left first")]
    Joint,
    /// There is nothing to leave.
    #[error("the range's configuration is not joint, so there is nothing to leave")]
    NotJoint,
    /// Both halves of a split must hold a name.
    #[error("the key of the split does not lie inside the range behind its first name")]
    Key,
    /// The largest u64 is no range id, and a child has one that was never given before.
    #[error("{0} cannot be the id of the child: it is taken, or no range id")]
    Child(RangeId),
    /// A child has as many replicas as its parent.
    #[error("the child has {found} peer ids, and the range has {expected} replicas")]
    Peers {
        /// So many are needed.
        expected: usize,
        /// So many were given.
        found: usize,
    },
    /// Only learners are promoted or removed, only voters demoted.
    #[error("peer {0} has no role in the range from which it could be changed so")]
    Role(PeerId),
    /// Several changes at once are a joint configuration, which is about voters.
    #[error("several changes at once must change who votes")]
    NoVoterChanges,
    /// The leader that is asked would lose its vote.
    #[error("peer {0} leads the range: its leadership has to be handed over first")]
    OwnVote(PeerId),
    /// Behind the change there would be no majority of voters that the leader hears of, and so no
    /// leader.
    #[error(
        "only {live} of the {voters} voters that it would have are heard of: it would have no leader. \
         Bring one of the others back first"
    )]
    NoMajority {
        /// So many are heard of.
        live: usize,
        /// Of so many.
        voters: usize,
    },
    /// The descriptor that would come out describes no range.
    #[error("the change would make a malformed descriptor: {0}")]
    Malformed(DescriptorError),
}

/// A split that a state contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SplitMark {
    /// The place of its entry.
    pub at: EntryAt,
    pub child: RangeId,
}

/// Whether a range can be split at a key, if that was decided by this epoch.
pub(crate) fn fits(parent: &Descriptor, epoch: Epoch, key: &str) -> Result<(), NotChanged> {
    if epoch != parent.epoch {
        return Err(NotChanged::Epoch(parent.epoch));
    }
    if parent.is_joint() {
        return Err(NotChanged::Joint);
    }
    let key = key.as_bytes();
    if !parent.bounds.contains(key) || key == parent.bounds.start {
        return Err(NotChanged::Key);
    }
    Ok(())
}

/// The descriptors of parent and child behind a split. Both have the parent's next version, so that
/// whoever knows the parent's old bounds sees that either is newer.
pub(crate) fn halves(
    parent: &Descriptor,
    split: &Split,
) -> Result<(Descriptor, Descriptor), NotChanged> {
    fits(parent, split.epoch, &split.key)?;
    let key = split.key.as_bytes();
    if split.child == parent.range || split.child.0 == u64::MAX {
        return Err(NotChanged::Child(split.child));
    }
    let (expected, found) = (parent.replicas.len(), split.child_peers.len());
    if expected != found {
        return Err(NotChanged::Peers { expected, found });
    }
    let epoch = Epoch { version: parent.epoch.version + 1, ..parent.epoch };
    let bounds = |start: &[u8], end: &[u8]| Bounds { start: start.to_vec(), end: end.to_vec() };
    let replicas = parent.replicas.iter().zip(&split.child_peers);
    let child = Descriptor {
        range: split.child,
        bounds: bounds(key, &parent.bounds.end),
        epoch,
        replicas: replicas.map(|(member, &peer)| Replica { peer, ..*member }).collect(),
    };
    child.validate().map_err(NotChanged::Malformed)?;
    let parent = Descriptor { bounds: bounds(&parent.bounds.start, key), epoch, ..parent.clone() };
    Ok((parent, child))
}

#[cfg(test)]
mod tests {
    use sharklock_rangemap::{Role, StoreId};

    use super::*;

    fn parent() -> Descriptor {
        let member =
            |number, role| Replica { peer: PeerId(100 + number), store: StoreId(number), role };
        let replicas =
            vec![member(1, Role::Voter), member(2, Role::Voter), member(3, Role::Learner)];
        let bounds = Bounds { start: b"b".to_vec(), end: b"m".to_vec() };
        let epoch = Epoch { version: 4, conf_ver: 2 };
        Descriptor { range: RangeId(7), bounds, epoch, replicas }
    }

    fn split(key: &str) -> Split {
        let child_peers = vec![PeerId(201), PeerId(202), PeerId(203)];
        Split { epoch: parent().epoch, key: key.to_owned(), child: RangeId(8), child_peers }
    }

    #[test]
    fn both_halves_have_the_next_version_and_the_same_members() {
        let (left, right) = halves(&parent(), &split("f")).expect("it lies inside");
        let epoch = Epoch { version: 5, conf_ver: 2 };
        assert_eq!((left.range, left.epoch, left.replicas), (RangeId(7), epoch, parent().replicas));
        assert_eq!((left.bounds.start, left.bounds.end), (b"b".to_vec(), b"f".to_vec()));
        assert_eq!((right.range, right.epoch), (RangeId(8), epoch));
        assert_eq!((right.bounds.start, right.bounds.end), (b"f".to_vec(), b"m".to_vec()));
        let members: Vec<_> =
            right.replicas.iter().map(|it| (it.peer.0, it.store.0, it.role)).collect();
        let (voter, learner) = (Role::Voter, Role::Learner);
        assert_eq!(members, [(201, 1, voter), (202, 2, voter), (203, 3, learner)]);
    }

    #[test]
    fn what_would_not_make_two_ranges_changes_nothing() {
        let refused = |spoil: &dyn Fn(&mut Descriptor, &mut Split)| {
            let (mut parent, mut split) = (parent(), split("f"));
            spoil(&mut parent, &mut split);
            halves(&parent, &split).expect_err("it was spoilt")
        };
        for key in ["a", "b", "m", "z", ""] {
            assert_eq!(refused(&|_, split| split.key = key.to_owned()), NotChanged::Key, "{key}");
        }
        let older = refused(&|parent, _| parent.epoch.version = 5);
        assert_eq!(older, NotChanged::Epoch(Epoch { version: 5, conf_ver: 2 }));
        let older = refused(&|parent, _| parent.epoch.conf_ver = 3);
        assert_eq!(older, NotChanged::Epoch(Epoch { version: 4, conf_ver: 3 }));
        let joint = |parent: &mut Descriptor| parent.replicas[2].role = Role::JointIncoming;
        assert_eq!(refused(&|parent, _| joint(parent)), NotChanged::Joint);
        for child in [RangeId(7), RangeId(u64::MAX)] {
            assert_eq!(refused(&|_, split| split.child = child), NotChanged::Child(child));
        }
        let few = refused(&|_, split| split.child_peers.truncate(2));
        assert_eq!(few, NotChanged::Peers { expected: 3, found: 2 });
        let twice = refused(&|_, split| split.child_peers[1] = PeerId(201));
        assert!(matches!(twice, NotChanged::Malformed(_)), "{twice}");
        let none = refused(&|_, split| split.child = RangeId(0));
        assert!(matches!(none, NotChanged::Malformed(_)), "{none}");
    }
}
