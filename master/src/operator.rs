//! What is to become of a range's replicas, and the next step towards it. The masters decide, and the
//! leader of the range acts: a step carries the epoch by which it was decided, so it is done once,
//! however often it is told, and not at all if the range has become another meanwhile.
//!
//! A goal keeps no memory of its steps. The next one follows from the descriptor alone, so whichever
//! master leads goes on where the last one was, and a step that was done by an earlier telling is not
//! told again.

use std::fmt;

use sharklock_rangemap::{Descriptor, PeerId, Replica, Role, StoreId};

/// What is to become of a range's members or of its leadership. Each is safe by itself: between its
/// steps the range has at least the voters that it had before, or a joint configuration of the voters
/// before and after (D13: add, then remove, has a window of four voters).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Goal {
    /// One voter more: a learner comes, catches up, and votes.
    Add {
        /// Its id, never given before.
        peer: PeerId,
        /// Its store, which has no replica of the range.
        to: StoreId,
    },
    /// The replica on this store goes, whatever its role.
    Remove {
        /// Its store.
        from: StoreId,
    },
    /// A voter on `from` is replaced by one on `to`, which comes as a learner, catches up, and takes its
    /// vote over in a joint configuration.
    Replace {
        /// The store of the voter that goes.
        from: StoreId,
        /// The id of the voter that comes, never given before.
        peer: PeerId,
        /// Its store, which has no replica of the range.
        to: StoreId,
    },
    /// Another voter leads.
    Lead {
        /// Its store.
        to: StoreId,
    },
    /// A joint configuration that somebody has left behind ends.
    LeaveJoint,
}

/// A step, done by the leader of the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A learner is added.
    AddLearner {
        /// Its id.
        peer: PeerId,
        /// Its store.
        store: StoreId,
    },
    /// A learner that has caught up votes from now on. It waits until it has.
    Promote {
        /// The learner.
        peer: PeerId,
        /// The voter whose vote it takes over, in a joint configuration.
        instead_of: Option<PeerId>,
    },
    /// A voter is a learner from now on.
    Demote {
        /// The voter, which does not lead.
        peer: PeerId,
    },
    /// The joint configuration is left.
    LeaveJoint,
    /// A learner is no member any more.
    Remove {
        /// The learner.
        peer: PeerId,
    },
    /// Another voter is to lead: this one, or whichever has most of the log.
    HandOver {
        /// Its store.
        to: Option<StoreId>,
    },
}

/// The way of a goal from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// This is to be done now.
    Do(Step),
    /// The range is as it was to become.
    Done,
    /// The range has become another meanwhile, and no step leads from there to the goal.
    Off,
}

impl Goal {
    /// The next step for a range that is like this, and is led from this store, if anybody leads it.
    pub fn next(self, range: &Descriptor, leader: Option<StoreId>) -> Next {
        let at = |store| range.on_store(store).copied();
        let others_vote = |than: StoreId| {
            let mut others = range.replicas.iter().filter(|it| it.store != than);
            others.any(|it| it.role.votes_incoming())
        };
        match self {
            Self::Lead { to } => match at(to) {
                Some(_) if leader == Some(to) => Next::Done,
                Some(replica) if replica.role.votes_incoming() => {
                    Next::Do(Step::HandOver { to: Some(to) })
                }
                Some(_) | None => Next::Off,
            },
            // Members change one after the other. Somebody may have left it behind, too.
            _ if range.is_joint() => Next::Do(Step::LeaveJoint),
            Self::LeaveJoint => Next::Done,
            Self::Add { peer, to } => add(at(to), peer, to),
            Self::Remove { from } if others_vote(from) => remove(at(from), leader),
            // Nobody else votes any more: it cannot go.
            Self::Remove { from } => match at(from).map(|it| it.role) {
                Some(Role::Learner) | None => remove(at(from), leader),
                Some(_) => Next::Off,
            },
            Self::Replace { from, peer, to } => {
                let leads = match leader == Some(from) {
                    false => Leads::No,
                    true if others_vote(from) => Leads::AmongOthers,
                    true => Leads::Alone,
                };
                replace((at(from), leads), (at(to), peer, to))
            }
        }
    }

    /// The replica that comes.
    pub fn peer(self) -> Option<PeerId> {
        match self {
            Self::Add { peer, .. } | Self::Replace { peer, .. } => Some(peer),
            Self::Remove { .. } | Self::Lead { .. } | Self::LeaveJoint => None,
        }
    }

    /// The store that gets a replica.
    pub fn comes_to(self) -> Option<StoreId> {
        match self {
            Self::Add { to, .. } | Self::Replace { to, .. } => Some(to),
            Self::Remove { .. } | Self::Lead { .. } | Self::LeaveJoint => None,
        }
    }

    /// The store that loses one.
    pub fn goes_from(self) -> Option<StoreId> {
        match self {
            Self::Remove { from } | Self::Replace { from, .. } => Some(from),
            Self::Add { .. } | Self::Lead { .. } | Self::LeaveJoint => None,
        }
    }
}

/// Steps that lead from a range to a goal, if the leader does nothing but them. `None`: no steps do.
pub fn path(goal: Goal, range: &Descriptor, leader: Option<StoreId>) -> Option<Vec<Step>> {
    /// More than any goal takes.
    const STEPS_MAX: usize = 8;
    let (mut range, mut leader) = (range.clone(), leader);
    let mut steps = Vec::new();
    while steps.len() < STEPS_MAX {
        match goal.next(&range, leader) {
            Next::Done => return Some(steps),
            Next::Off => return None,
            Next::Do(step) => {
                step.make(&mut range, &mut leader);
                steps.push(step);
            }
        }
    }
    None
}

impl Step {
    /// Makes of a range what its leader would make of it.
    pub(crate) fn make(self, range: &mut Descriptor, leader: &mut Option<StoreId>) {
        let mut of = |peer: PeerId, role: Role| {
            let mut replicas = range.replicas.iter_mut();
            if let Some(replica) = replicas.find(|it| it.peer == peer) {
                replica.role = role;
            }
        };
        match self {
            Self::AddLearner { peer, store } => {
                range.replicas.push(Replica { peer, store, role: Role::Learner });
            }
            Self::Promote { peer, instead_of: None } => of(peer, Role::Voter),
            Self::Promote { peer, instead_of: Some(old) } => {
                of(peer, Role::JointIncoming);
                of(old, Role::JointOutgoing);
            }
            Self::Demote { peer } => of(peer, Role::Learner),
            Self::LeaveJoint => range.replicas.iter_mut().for_each(|it| {
                it.role = if it.role.votes_incoming() { Role::Voter } else { Role::Learner };
            }),
            Self::Remove { peer } => range.replicas.retain(|it| it.peer != peer),
            Self::HandOver { to } => {
                let mut others = range.replicas.iter().filter(|it| it.role.votes_incoming());
                let other = others.find(|it| Some(it.store) != *leader).map(|it| it.store);
                *leader = to.or(other);
                return;
            }
        }
        range.epoch.conf_ver += 1;
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddLearner { peer, store } => {
                write!(f, "store {store} gets a learner, peer {peer}")
            }
            Self::Promote { peer, instead_of: None } => {
                write!(f, "peer {peer} votes, once it has caught up")
            }
            Self::Promote { peer, instead_of: Some(old) } => {
                write!(f, "peer {peer} takes over the vote of peer {old}, once it has caught up")
            }
            Self::Demote { peer } => write!(f, "peer {peer} votes no more"),
            Self::LeaveJoint => write!(f, "the joint configuration is left"),
            Self::Remove { peer } => write!(f, "peer {peer} goes"),
            Self::HandOver { to: Some(store) } => write!(f, "store {store} leads"),
            Self::HandOver { to: None } => write!(f, "another voter leads"),
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Add { to, .. } => write!(f, "a replica comes to store {to}"),
            Self::Remove { from } => write!(f, "the replica on store {from} goes"),
            Self::Replace { from, to, .. } => {
                write!(f, "the replica on store {from} moves to store {to}")
            }
            Self::Lead { to } => write!(f, "store {to} leads"),
            Self::LeaveJoint => write!(f, "a joint configuration is left"),
        }
    }
}

fn add(there: Option<Replica>, peer: PeerId, store: StoreId) -> Next {
    match there {
        None => Next::Do(Step::AddLearner { peer, store }),
        Some(replica) if replica.peer != peer => Next::Off,
        Some(Replica { role: Role::Learner, .. }) => {
            Next::Do(Step::Promote { peer, instead_of: None })
        }
        Some(_) => Next::Done,
    }
}

fn remove(there: Option<Replica>, leader: Option<StoreId>) -> Next {
    let Some(Replica { peer, store, role }) = there else { return Next::Done };
    match role {
        Role::Learner => Next::Do(Step::Remove { peer }),
        _ if leader == Some(store) => Next::Do(Step::HandOver { to: None }),
        _ => Next::Do(Step::Demote { peer }),
    }
}

/// Whether a replica that is to go leads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leads {
    No,
    /// Others vote, and can take over.
    AmongOthers,
    /// Nobody else votes.
    Alone,
}

fn replace(
    (old, leads): (Option<Replica>, Leads),
    (new, peer, to): (Option<Replica>, PeerId, StoreId),
) -> Next {
    if new.is_some_and(|new| new.peer != peer) {
        return Next::Off;
    }
    let role = |replica: Option<Replica>| replica.map(|replica| replica.role);
    match (old, role(old), role(new)) {
        (_, Some(Role::Voter), None) => Next::Do(Step::AddLearner { peer, store: to }),
        // A leader cannot demote itself: nobody would lead for a whole timeout.
        (_, Some(Role::Voter), Some(Role::Learner)) if leads == Leads::AmongOthers => {
            Next::Do(Step::HandOver { to: None })
        }
        // Who votes alone needs a second voter before another can lead.
        (_, Some(Role::Voter), Some(Role::Learner)) if leads == Leads::Alone => {
            Next::Do(Step::Promote { peer, instead_of: None })
        }
        (Some(old), Some(Role::Voter), Some(Role::Learner)) => {
            Next::Do(Step::Promote { peer, instead_of: Some(old.peer) })
        }
        (_, Some(Role::Voter), Some(Role::Voter)) if leads != Leads::No => {
            Next::Do(Step::HandOver { to: Some(to) })
        }
        (Some(old), Some(Role::Voter), Some(Role::Voter)) => {
            Next::Do(Step::Demote { peer: old.peer })
        }
        (Some(old), Some(Role::Learner), Some(Role::Voter)) => {
            Next::Do(Step::Remove { peer: old.peer })
        }
        (None, None, Some(Role::Voter)) => Next::Done,
        _ => Next::Off,
    }
}

#[cfg(test)]
mod tests {
    use sharklock_rangemap::{Bounds, Epoch, RangeId};

    use super::*;

    fn range(replicas: &[(u64, u64, Role)]) -> Descriptor {
        let replica = |&(peer, store, role): &(u64, u64, Role)| Replica {
            peer: PeerId(peer),
            store: StoreId(store),
            role,
        };
        let epoch = Epoch { version: 1, conf_ver: 1 };
        let replicas = replicas.iter().map(replica).collect();
        Descriptor::new(RangeId(1), Bounds::ALL, epoch, replicas)
    }

    fn steps(goal: Goal, range: Descriptor, leader: StoreId) -> (Vec<Step>, Descriptor) {
        let steps = path(goal, &range, Some(leader)).expect("it can be reached");
        let (mut after, mut leader) = (range, Some(leader));
        for step in &steps {
            step.make(&mut after, &mut leader);
            after.validate().unwrap_or_else(|why| panic!("{step:?}: {why}"));
        }
        (steps, after)
    }

    fn three() -> Descriptor {
        range(&[(11, 1, Role::Voter), (12, 2, Role::Voter), (13, 3, Role::Voter)])
    }

    fn stores(range: &Descriptor) -> Vec<u64> {
        range.replicas.iter().map(|it| it.store.0).collect()
    }

    #[test]
    fn a_leader_is_replaced_in_five_steps_and_never_by_fewer_than_three_voters() {
        let goal = Goal::Replace { from: StoreId(1), peer: PeerId(14), to: StoreId(4) };
        let (taken, after) = steps(goal, three(), StoreId(1));
        let (peer, old) = (PeerId(14), PeerId(11));
        let expected = [
            Step::AddLearner { peer, store: StoreId(4) },
            Step::HandOver { to: None },
            Step::Promote { peer, instead_of: Some(old) },
            Step::LeaveJoint,
            Step::Remove { peer: old },
        ];
        assert_eq!(taken, expected);
        assert_eq!(stores(&after), [2, 3, 4]);
        assert!(after.replicas.iter().all(|it| it.role == Role::Voter));
    }

    #[test]
    fn a_replica_that_votes_alone_is_replaced_by_way_of_two_voters() {
        let goal = Goal::Replace { from: StoreId(1), peer: PeerId(14), to: StoreId(4) };
        let (taken, after) = steps(goal, range(&[(11, 1, Role::Voter)]), StoreId(1));
        let (peer, old) = (PeerId(14), PeerId(11));
        let expected = [
            Step::AddLearner { peer, store: StoreId(4) },
            Step::Promote { peer, instead_of: None },
            Step::HandOver { to: Some(StoreId(4)) },
            Step::Demote { peer: old },
            Step::Remove { peer: old },
        ];
        assert_eq!(taken, expected);
        assert_eq!(stores(&after), [4]);
    }

    #[test]
    fn replicas_come_and_go_and_others_lead() {
        let add = Goal::Add { peer: PeerId(14), to: StoreId(4) };
        let (taken, four) = steps(add, three(), StoreId(1));
        assert_eq!((taken.len(), stores(&four)), (2, vec![1, 2, 3, 4]));
        let (taken, left) = steps(Goal::Remove { from: StoreId(1) }, four, StoreId(1));
        assert_eq!((taken[0], taken.len()), (Step::HandOver { to: None }, 3));
        assert_eq!(stores(&left), [2, 3, 4]);
        let (taken, _) = steps(Goal::Lead { to: StoreId(3) }, left, StoreId(2));
        assert_eq!(taken, [Step::HandOver { to: Some(StoreId(3)) }]);
    }

    #[test]
    fn a_joint_configuration_is_left_and_a_goal_begins_in_the_middle() {
        let joint = range(&[
            (11, 1, Role::JointOutgoing),
            (12, 2, Role::Voter),
            (13, 3, Role::Voter),
            (14, 4, Role::JointIncoming),
        ]);
        let (taken, after) = steps(Goal::LeaveJoint, joint.clone(), StoreId(2));
        assert_eq!((taken, after.is_joint()), (vec![Step::LeaveJoint], false));
        let goal = Goal::Replace { from: StoreId(1), peer: PeerId(14), to: StoreId(4) };
        let (taken, after) = steps(goal, joint.clone(), StoreId(2));
        assert_eq!((taken.len(), stores(&after)), (2, vec![2, 3, 4]));
        // Of another operator, which was cancelled.
        let (taken, after) = steps(Goal::Remove { from: StoreId(3) }, joint.clone(), StoreId(2));
        assert_eq!((taken[0], stores(&after)), (Step::LeaveJoint, vec![1, 2, 4]));
        let add = Goal::Add { peer: PeerId(15), to: StoreId(5) };
        assert_eq!(steps(add, joint, StoreId(2)).0[0], Step::LeaveJoint);
    }

    #[test]
    fn a_goal_is_off_where_the_range_has_become_another() {
        let range = three();
        for goal in [
            Goal::Replace { from: StoreId(1), peer: PeerId(14), to: StoreId(2) },
            Goal::Replace { from: StoreId(9), peer: PeerId(14), to: StoreId(4) },
            Goal::Add { peer: PeerId(14), to: StoreId(2) },
            Goal::Lead { to: StoreId(4) },
        ] {
            assert_eq!(goal.next(&range, Some(StoreId(2))), Next::Off, "{goal:?}");
        }
        let last = self::range(&[(11, 1, Role::Voter), (12, 2, Role::Learner)]);
        let goal = Goal::Remove { from: StoreId(1) };
        assert_eq!(goal.next(&last, Some(StoreId(1))), Next::Off, "nobody else votes");
        assert_eq!(
            path(Goal::Remove { from: StoreId(2) }, &last, None).map(|it| it.len()),
            Some(1)
        );
        let gone = Goal::Remove { from: StoreId(9) };
        assert_eq!(gone.next(&range, Some(StoreId(2))), Next::Done);
        assert_eq!(Goal::LeaveJoint.next(&range, None), Next::Done);
    }
}
