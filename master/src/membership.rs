//! The steps by which the masters' group becomes what the list of its members says. A step has no memory:
//! it follows from the list in the log, the group's descriptor and the leader alone.

use sharklock_proto::internal::v1::ForgetMasterCommand;
use sharklock_rangemap::{Descriptor, PeerId, Role, StoreId};

use crate::{
    operator,
    state::{Leaving, Members},
};

/// No change has more steps.
const STEPS_MAX: usize = 16;

/// A change of the masters' group, or of its leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A joint configuration is left.
    LeaveJoint,
    /// A member gets the log, and does not vote.
    AddLearner(StoreId),
    /// A learner that has caught up votes; of two, the second loses its vote in the same change.
    Promote(StoreId, Option<StoreId>),
    /// Another one leads: this one is to go.
    HandOver(StoreId),
    /// A voter is a learner.
    Demote(StoreId),
    /// A learner is no member of the group any more.
    Remove(StoreId),
    /// It is no member of the cluster any more.
    Forget(StoreId),
}

impl Step {
    /// The member that it is about; of a joint configuration nobody's.
    pub fn member(self) -> Option<StoreId> {
        match self {
            Self::LeaveJoint => None,
            Self::AddLearner(id)
            | Self::Promote(id, _)
            | Self::HandOver(id)
            | Self::Demote(id)
            | Self::Remove(id)
            | Self::Forget(id) => Some(id),
        }
    }

    /// What the leader does with the group; `None`: only the list of members changes.
    pub fn in_the_group(self) -> Option<operator::Step> {
        Some(match self {
            Self::LeaveJoint => operator::Step::LeaveJoint,
            Self::AddLearner(id) => operator::Step::AddLearner { peer: peer(id), store: id },
            Self::Promote(id, old) => {
                operator::Step::Promote { peer: peer(id), instead_of: old.map(peer) }
            }
            Self::HandOver(_) => operator::Step::HandOver { to: None },
            Self::Demote(id) => operator::Step::Demote { peer: peer(id) },
            Self::Remove(id) => operator::Step::Remove { peer: peer(id) },
            Self::Forget(_) => return None,
        })
    }

    /// For people.
    pub fn in_words(self) -> String {
        match self {
            Self::LeaveJoint => "the joint configuration is left".to_owned(),
            Self::AddLearner(id) => format!("master {id} becomes a learner and gets the state"),
            Self::Promote(id, None) => format!("master {id} votes once it has caught up"),
            Self::Promote(id, Some(old)) => {
                format!("master {id} takes over the vote of master {old} once it has caught up")
            }
            Self::HandOver(id) => format!("another master leads instead of master {id}"),
            Self::Demote(id) => format!("master {id} votes no more"),
            Self::Remove(id) => format!("master {id} gets the log no more"),
            Self::Forget(id) => format!("master {id} is forgotten, and ends"),
        }
    }
}

/// The next step from what the group is to what the members are to be.
pub fn next(members: &Members, group: &Descriptor, leader: StoreId) -> Option<Step> {
    if group.is_joint() {
        return Some(Step::LeaveJoint);
    }
    let role = |id| group.on_store(id).map(|replica| replica.role);
    let others_vote = |id| group.voters().any(|voter| voter.store != id);
    let (leave, stay): (Vec<_>, Vec<_>) =
        members.iter().partition(|(_, record)| record.leaving.is_some());
    for (id, _) in stay {
        match role(id) {
            None => return Some(Step::AddLearner(id)),
            Some(Role::Learner) => {
                let goes_for = |record: Option<Leaving>| record == Some(Leaving::For(id));
                let mut old = leave.iter().filter(|(_, record)| goes_for(record.leaving));
                let old = old.find(|(old, _)| role(*old) == Some(Role::Voter)).map(|(id, _)| *id);
                return Some(match old {
                    Some(old) if old == leader && others_vote(old) => Step::HandOver(old),
                    // Nobody else could lead yet.
                    Some(old) if old == leader => Step::Promote(id, None),
                    old => Step::Promote(id, old),
                });
            }
            Some(_) => {}
        }
    }
    leave.into_iter().map(|(id, _)| id).next().map(|id| match role(id) {
        Some(Role::Learner) => Step::Remove(id),
        Some(_) if id == leader => Step::HandOver(id),
        Some(_) => Step::Demote(id),
        None => Step::Forget(id),
    })
}

/// All steps from here on, if each is done.
pub fn path(members: &Members, group: &Descriptor, leader: StoreId) -> Vec<Step> {
    let (mut members, mut group, mut leader) = (members.clone(), group.clone(), Some(leader));
    let mut steps = Vec::new();
    while let Some(leading) = leader
        && let Some(step) = next(&members, &group, leading).filter(|_| steps.len() < STEPS_MAX)
    {
        steps.push(step);
        match step.in_the_group() {
            Some(step) => step.make(&mut group, &mut leader),
            None => {
                let member_id = step.member().map_or(0, |id| id.0);
                members.forget(&ForgetMasterCommand { member_id });
            }
        }
    }
    steps
}

/// A master has one replica in its life, so both have one number.
pub fn peer(id: StoreId) -> PeerId {
    PeerId(id.0)
}

#[cfg(test)]
mod tests {
    use sharklock_proto::{
        Identity,
        internal::v1::{AdmitMasterCommand, DismissMasterCommand, FoundMastersCommand, MasterRow},
    };
    use sharklock_rangemap::{Bounds, Epoch, RangeId, Replica};

    use super::*;

    fn ident(of: u64) -> Vec<u8> {
        Identity::from_bytes([of as u8; 16]).to_wire().to_vec()
    }

    /// So many masters that all vote.
    fn founded(count: u64) -> (Members, Descriptor) {
        let row = |id| MasterRow {
            member_id: id,
            ident: ident(id).into(),
            address: format!("m{id}:7720"),
            ..MasterRow::default()
        };
        let mut members = Members::default();
        members.found(FoundMastersCommand { masters: (1..=count).map(row).collect() });
        let voter = |id| Replica { peer: PeerId(id), store: StoreId(id), role: Role::Voter };
        let replicas = (1..=count).map(voter).collect();
        let epoch = Epoch { conf_ver: 1, version: 1 };
        (members, Descriptor::new(RangeId(1), Bounds::ALL, epoch, replicas))
    }

    fn admitted(members: &mut Members, id: u64, instead_of_member_id: u64) {
        let (ident, address) = (ident(id).into(), format!("m{id}:7720"));
        members.admit(AdmitMasterCommand { ident, address, instead_of_member_id });
    }

    fn paths(members: &Members, group: &Descriptor, leader: u64) -> Vec<String> {
        let steps = path(members, group, StoreId(leader));
        steps.iter().map(|step| format!("{step:?}").replace("StoreId", "")).collect()
    }

    #[test]
    fn masters_come_as_learners_and_go_as_learners_and_never_lead_then() {
        let (mut members, group) = founded(3);
        assert_eq!(paths(&members, &group, 1), [""; 0], "all is as it is to be");
        admitted(&mut members, 4, 0);
        assert_eq!(paths(&members, &group, 1), ["AddLearner((4))", "Promote((4), None)"]);

        let (mut members, group) = founded(3);
        members.dismiss(DismissMasterCommand { member_id: 2, stays: false });
        let goes = ["Demote((2))", "Remove((2))", "Forget((2))"];
        assert_eq!(paths(&members, &group, 1), goes);
        assert_eq!(paths(&members, &group, 2)[0], "HandOver((2))");
        assert_eq!(paths(&members, &group, 2)[1..], goes);
    }

    #[test]
    fn one_takes_the_place_of_another_in_a_joint_configuration() {
        let (mut members, group) = founded(3);
        admitted(&mut members, 4, 2);
        let joint = ["Promote((4), Some((2)))", "LeaveJoint", "Remove((2))", "Forget((2))"];
        assert_eq!(paths(&members, &group, 1)[0], "AddLearner((4))");
        assert_eq!(paths(&members, &group, 1)[1..], joint);
        let of_leader = paths(&members, &group, 2);
        assert_eq!(of_leader[..2], ["AddLearner((4))", "HandOver((2))"]);
        assert_eq!(of_leader[2..], joint);
    }

    /// Nobody else could lead before the new one votes.
    #[test]
    fn the_only_one_is_replaced_after_the_other_votes() {
        let (mut members, group) = founded(1);
        admitted(&mut members, 2, 1);
        let steps = [
            "AddLearner((2))",
            "Promote((2), None)",
            "HandOver((1))",
            "Demote((1))",
            "Remove((1))",
            "Forget((1))",
        ];
        assert_eq!(paths(&members, &group, 1), steps);
    }

    #[test]
    fn a_joint_configuration_that_somebody_left_behind_is_left_first() {
        let (mut members, mut group) = founded(3);
        admitted(&mut members, 4, 2);
        group.replicas[1].role = Role::JointOutgoing;
        let (peer, store) = (PeerId(4), StoreId(4));
        group.replicas.push(Replica { peer, store, role: Role::JointIncoming });
        let steps = ["LeaveJoint", "Remove((2))", "Forget((2))"];
        assert_eq!(paths(&members, &group, 2), steps, "whoever leads");
    }
}
