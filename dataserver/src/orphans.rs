//! Replicas of which nobody takes any notice. One that was away while all members of its range were
//! replaced knows nobody who could tell it that it is none: the masters can, who have the newest
//! descriptor that a leader has reported.

use std::collections::BTreeMap;

use sharklock_multiraft::StoreIdent;
use sharklock_proto::internal::v1::{
    OrphanReplica, PeerNotice, RangeMessage, ReplicaRemoved, peer_notice::Notice,
};
use sharklock_rangemap::RangeId;

use crate::ports::Input;

/// Looks in a row in which a replica had no leader: one alone may have met an election.
const LOOKS_IN_A_ROW: u32 = 2;
/// Orphans that a worker names at a time; others follow when these have gone.
const NAMED_MAX: usize = 512;

/// The replicas of a worker that had no leader when it looked last, and in how many looks.
#[derive(Debug, Default)]
pub(crate) struct Orphans {
    seen: BTreeMap<RangeId, (OrphanReplica, u32)>,
}

impl Orphans {
    /// Looks at those that have none.
    pub fn look(&mut self, orphans: impl Iterator<Item = OrphanReplica>) {
        let before = std::mem::take(&mut self.seen);
        self.seen = orphans
            .map(|orphan| {
                let range = RangeId(orphan.range_id);
                let same = before.get(&range).filter(|(it, _)| it.peer_id == orphan.peer_id);
                (range, (orphan, same.map_or(0, |(_, looks)| *looks) + 1))
            })
            .collect();
    }

    /// Those that the masters are asked about.
    pub fn named(&self) -> Vec<OrphanReplica> {
        let named = self.seen.values().filter(|(_, looks)| *looks >= LOOKS_IN_A_ROW);
        named.map(|(orphan, _)| orphan.clone()).take(NAMED_MAX).collect()
    }
}

/// The masters know a newer configuration that does not have a replica here: as if a member had said
/// so.
pub fn removed_by_masters(here: &StoreIdent, removed: OrphanReplica) -> Input {
    let OrphanReplica { range_id, peer_id, conf_ver, .. } = removed;
    Input::Message(Box::new(RangeMessage {
        cluster_id: here.cluster_id.to_wire(),
        range_id,
        to_store: here.store.0,
        to_peer: peer_id,
        conf_ver,
        notice: Some(PeerNotice { notice: Some(Notice::Removed(ReplicaRemoved {})) }),
        ..RangeMessage::default()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_has_no_leader_for_two_looks_is_named() {
        let orphan = |range_id, peer_id| OrphanReplica {
            range_id,
            peer_id,
            conf_ver: 4,
            ..OrphanReplica::default()
        };
        let mut orphans = Orphans::default();
        orphans.look([orphan(1, 11), orphan(2, 21)].into_iter());
        assert_eq!(orphans.named(), []);
        orphans.look([orphan(1, 12), orphan(2, 21), orphan(3, 31)].into_iter());
        assert_eq!(orphans.named(), [orphan(2, 21)], "range 1 has another replica here now");
        orphans.look([orphan(1, 12)].into_iter());
        assert_eq!(orphans.named(), [orphan(1, 12)]);
        orphans.look(std::iter::empty());
        assert_eq!(orphans.named(), []);
    }
}
