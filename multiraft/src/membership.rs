//! Changes of a range's members: what asks for one, what it makes of a descriptor, and what raft-rs
//! is told. The descriptor is the one truth about members: raft-rs's configuration follows from it.

use raft::eraftpb::{
    ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState,
};
use sharklock_rangemap::{Descriptor, Epoch, PeerId, Replica, Role, StoreId};

use crate::split::NotChanged;

/// Asks for a change of a range's members. One change is made at once. Several, which replace voters,
/// make a joint configuration: what is decided needs a majority of both halves until it is left,
/// which is a change of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangePeers {
    /// The epoch by which it was decided. If the range has another one by the time this is applied,
    /// nothing happens.
    pub epoch: Epoch,
    /// The changes, in order. Empty: the joint configuration is left.
    pub changes: Vec<PeerChange>,
}

/// The change of one replica. A voter comes as a learner, and goes as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerChange {
    /// A learner is added; its replica is made once its store is asked for it.
    AddLearner {
        /// Its id, never given before.
        peer: PeerId,
        /// Its store, which has no replica of the range.
        store: StoreId,
    },
    /// A learner is no member any more.
    RemoveLearner(PeerId),
    /// A learner votes from now on.
    Promote(PeerId),
    /// A voter is a learner from now on.
    Demote(PeerId),
}

impl PeerChange {
    fn changes_voters(self) -> bool {
        matches!(self, Self::Promote(_) | Self::Demote(_))
    }
}

/// The descriptor behind a change.
pub(crate) fn changed(
    descriptor: &Descriptor,
    change: &ChangePeers,
) -> Result<Descriptor, NotChanged> {
    if change.epoch != descriptor.epoch {
        return Err(NotChanged::Epoch(descriptor.epoch));
    }
    let mut next = descriptor.clone();
    next.epoch.conf_ver += 1;
    match (change.changes.is_empty(), descriptor.is_joint()) {
        (true, false) => return Err(NotChanged::NotJoint),
        (false, true) => return Err(NotChanged::Joint),
        (true, true) => next.replicas.iter_mut().for_each(|it| it.role = left(it.role)),
        (false, false) => {
            let is_joint = change.changes.len() > 1;
            if is_joint && !change.changes.iter().any(|it| it.changes_voters()) {
                return Err(NotChanged::NoVoterChanges);
            }
            for one in &change.changes {
                make(&mut next.replicas, *one, is_joint)?;
            }
        }
    }
    next.validate().map_err(NotChanged::Malformed)?;
    Ok(next)
}

/// The role behind a joint configuration.
fn left(role: Role) -> Role {
    match role {
        Role::Voter | Role::JointIncoming => Role::Voter,
        Role::Learner | Role::JointOutgoing => Role::Learner,
    }
}

fn make(replicas: &mut Vec<Replica>, change: PeerChange, is_joint: bool) -> Result<(), NotChanged> {
    let place = |replicas: &[Replica], peer: PeerId, role: Role| {
        let place = replicas.iter().position(|it| it.peer == peer && it.role == role);
        place.ok_or(NotChanged::Role(peer))
    };
    match change {
        PeerChange::AddLearner { peer, store } => {
            replicas.push(Replica { peer, store, role: Role::Learner });
        }
        PeerChange::RemoveLearner(peer) => {
            let place = place(replicas, peer, Role::Learner)?;
            replicas.remove(place);
        }
        PeerChange::Promote(peer) => {
            let role = if is_joint { Role::JointIncoming } else { Role::Voter };
            let place = place(replicas, peer, Role::Learner)?;
            replicas[place].role = role;
        }
        PeerChange::Demote(peer) => {
            let role = if is_joint { Role::JointOutgoing } else { Role::Learner };
            let place = place(replicas, peer, Role::Voter)?;
            replicas[place].role = role;
        }
    }
    Ok(())
}

/// The same change in raft-rs's words. A joint configuration is never left by itself: that can be
/// forgotten when the leader changes (mistake 7).
pub(crate) fn conf_change(change: &ChangePeers) -> ConfChangeV2 {
    let single = |change: &PeerChange| {
        let (change_type, node) = match change {
            PeerChange::AddLearner { peer, .. } | PeerChange::Demote(peer) => {
                (ConfChangeType::AddLearnerNode, peer)
            }
            PeerChange::RemoveLearner(peer) => (ConfChangeType::RemoveNode, peer),
            PeerChange::Promote(peer) => (ConfChangeType::AddNode, peer),
        };
        ConfChangeSingle { change_type, node_id: node.0, ..ConfChangeSingle::default() }
    };
    let transition = match change.changes.len() {
        0 | 1 => ConfChangeTransition::Auto,
        _ => ConfChangeTransition::Explicit,
    };
    ConfChangeV2 {
        transition,
        changes: change.changes.iter().map(single).collect::<Vec<_>>().into(),
        ..ConfChangeV2::default()
    }
}

/// The Raft configuration that a descriptor describes, members in ascending order.
pub(crate) fn conf_state(descriptor: &Descriptor) -> ConfState {
    let peers = |has_role: fn(Role) -> bool| {
        let members = descriptor.replicas.iter().filter(|replica| has_role(replica.role));
        let mut peers: Vec<u64> = members.map(|replica| replica.peer.0).collect();
        peers.sort_unstable();
        peers
    };
    let is_joint = descriptor.is_joint();
    ConfState {
        voters: peers(Role::votes_incoming),
        learners: peers(|role| role == Role::Learner),
        voters_outgoing: if is_joint { peers(Role::votes_outgoing) } else { Vec::new() },
        learners_next: peers(|role| role == Role::JointOutgoing),
        ..ConfState::default()
    }
}

/// The same while this peer has no state yet (it is a shell): whatever the others take it for, it
/// does not campaign, and as a learner cannot.
pub(crate) fn shell_conf_state(descriptor: &Descriptor, peer: PeerId) -> ConfState {
    let mut state = conf_state(descriptor);
    let lists = [
        &mut state.voters,
        &mut state.voters_outgoing,
        &mut state.learners,
        &mut state.learners_next,
    ];
    for list in lists {
        list.retain(|other| *other != peer.0);
    }
    state.learners.push(peer.0);
    state.learners.sort_unstable();
    state
}

/// raft-rs lists members in the order of its hash sets.
pub(crate) fn in_order(mut state: ConfState) -> ConfState {
    let lists = [
        &mut state.voters,
        &mut state.voters_outgoing,
        &mut state.learners,
        &mut state.learners_next,
    ];
    for list in lists {
        list.sort_unstable();
    }
    state
}

#[cfg(test)]
mod tests {
    use raft::eraftpb::HardState;
    use raft::{Config, RawNode};
    use sharklock_rangemap::{Bounds, RangeId};

    use super::*;
    use crate::log::Log;

    fn member(number: u64, role: Role) -> Replica {
        Replica { peer: PeerId(100 + number), store: StoreId(number), role }
    }

    /// Voters on stores 1 to 3, a learner on 4.
    fn descriptor() -> Descriptor {
        let mut replicas: Vec<_> = (1..=3).map(|number| member(number, Role::Voter)).collect();
        replicas.push(member(4, Role::Learner));
        let epoch = Epoch { version: 1, conf_ver: 1 };
        Descriptor { range: RangeId(7), bounds: Bounds::ALL, epoch, replicas }
    }

    fn change(descriptor: &Descriptor, changes: Vec<PeerChange>) -> ChangePeers {
        ChangePeers { epoch: descriptor.epoch, changes }
    }

    fn roles(descriptor: &Descriptor) -> Vec<(u64, Role)> {
        descriptor.replicas.iter().map(|it| (it.peer.0, it.role)).collect()
    }

    /// What raft-rs makes of a change is what the descriptor says, for every change there is and
    /// every one that can follow it.
    #[test]
    fn the_descriptor_and_raft_agree_on_who_decides() {
        let all = |peers: &[u64]| -> Vec<PeerChange> {
            let of_peer = |peer: &u64| {
                let peer = PeerId(*peer);
                let added = PeerChange::AddLearner { peer, store: StoreId(peer.0 - 100) };
                let others = [PeerChange::RemoveLearner(peer), PeerChange::Promote(peer)];
                [added, PeerChange::Demote(peer)].into_iter().chain(others)
            };
            peers.iter().flat_map(of_peer).collect()
        };
        let singles = all(&[101, 102, 103, 104, 105, 106]);
        let mut wanted: Vec<Vec<PeerChange>> = vec![Vec::new()];
        wanted.extend(singles.iter().map(|one| vec![*one]));
        for one in &singles {
            wanted.extend(singles.iter().map(|other| vec![*one, *other]));
        }
        let mut made = 0;
        for first in &wanted {
            let Ok(once) = changed(&descriptor(), &change(&descriptor(), first.clone())) else {
                continue;
            };
            compare(&descriptor(), first, &once);
            for second in &wanted {
                let Ok(twice) = changed(&once, &change(&once, second.clone())) else { continue };
                compare(&once, second, &twice);
                made += 1;
            }
        }
        assert!(made > 200, "{made} pairs of changes");
    }

    fn compare(before: &Descriptor, changes: &[PeerChange], after: &Descriptor) {
        let log = Log::new(HardState::default(), conf_state(before), (5, 5), Vec::new());
        let config = Config { id: 101, applied: 5, ..Config::default() };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let mut node = RawNode::new(&config, log, &logger).expect("a configuration");
        let made = node.apply_conf_change(&conf_change(&change(before, changes.to_vec())));
        let raft = in_order(made.unwrap_or_else(|why| panic!("{changes:?}: {why}")));
        assert_eq!(raft, conf_state(after), "{changes:?} on {:?}", roles(before));
        assert_eq!(after.epoch.conf_ver, before.epoch.conf_ver + 1);
    }

    #[test]
    fn replacing_a_voter_goes_over_a_joint_configuration() {
        let before = descriptor();
        let changes = vec![PeerChange::Promote(PeerId(104)), PeerChange::Demote(PeerId(103))];
        let joint = changed(&before, &change(&before, changes)).expect("it can be made");
        assert_eq!(roles(&joint)[2..], [(103, Role::JointOutgoing), (104, Role::JointIncoming)]);
        let state = conf_state(&joint);
        assert_eq!(
            (state.voters, state.voters_outgoing),
            (vec![101, 102, 104], vec![101, 102, 103])
        );
        let after = changed(&joint, &change(&joint, Vec::new())).expect("it is joint");
        assert_eq!(roles(&after)[2..], [(103, Role::Learner), (104, Role::Voter)]);
        let removal = vec![PeerChange::RemoveLearner(PeerId(103))];
        let last = changed(&after, &change(&after, removal)).expect("it is a learner");
        assert_eq!(last.replicas.len(), 3);
        assert_eq!(last.epoch, Epoch { version: 1, conf_ver: 4 });
    }

    #[test]
    fn what_makes_no_sense_changes_nothing() {
        let before = descriptor();
        let refused = |changes: Vec<PeerChange>| changed(&before, &change(&before, changes));
        let peer = PeerId;
        assert_eq!(refused(Vec::new()), Err(NotChanged::NotJoint));
        assert_eq!(refused(vec![PeerChange::Promote(peer(101))]), Err(NotChanged::Role(peer(101))));
        assert_eq!(
            refused(vec![PeerChange::RemoveLearner(peer(101))]),
            Err(NotChanged::Role(peer(101)))
        );
        let learners =
            (5..=6).map(|it| PeerChange::AddLearner { peer: peer(it), store: StoreId(it) });
        assert_eq!(refused(learners.collect()), Err(NotChanged::NoVoterChanges));
        let twice = PeerChange::AddLearner { peer: peer(9), store: StoreId(1) };
        assert!(matches!(refused(vec![twice]), Err(NotChanged::Malformed(_))));
        let all = (101..=103).map(|it| PeerChange::Demote(peer(it))).collect();
        assert!(matches!(refused(all), Err(NotChanged::Malformed(_))));
        let older = ChangePeers { epoch: Epoch { version: 1, conf_ver: 0 }, changes: Vec::new() };
        assert_eq!(changed(&before, &older), Err(NotChanged::Epoch(before.epoch)));
    }

    #[test]
    fn both_halves_of_a_joint_configuration_stand_in_the_conf_state() {
        let of_roles = |roles: &[Role]| {
            let member = |(number, role): (u64, &Role)| member(number, *role);
            let replicas = (1..).zip(roles).map(member).collect();
            conf_state(&Descriptor { replicas, ..descriptor() })
        };
        use Role::{JointIncoming, JointOutgoing, Learner, Voter};
        let simple = of_roles(&[Voter, Learner, Voter]);
        assert_eq!((simple.voters, simple.learners), (vec![101, 103], vec![102]));
        assert_eq!((simple.voters_outgoing, simple.learners_next), (vec![], vec![]));
        let joint = of_roles(&[Voter, Learner, JointOutgoing, JointIncoming]);
        assert_eq!((joint.voters, joint.voters_outgoing), (vec![101, 104], vec![101, 103]));
        assert_eq!((joint.learners, joint.learners_next), (vec![102], vec![103]));
        assert!(!joint.auto_leave);
    }

    #[test]
    fn a_shell_does_not_campaign_whatever_its_role() {
        for peer in [101, 104] {
            let state = shell_conf_state(&descriptor(), PeerId(peer));
            assert!(!state.voters.contains(&peer) && state.learners.contains(&peer));
        }
    }
}
