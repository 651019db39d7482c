//! Operators: begun by people, told to leaders of ranges step by step, ended by what those report.

use sharklock_proto::{
    internal::v1::{RangeStep, StepWaits, range_step},
    v1::{self, OperatorState, RangeGoal, range_goal::Goal as Wire},
};

use super::*;
use crate::refusal::Reason;

/// Four stores, of which the first three have range 1, which store 1 leads in term 6.
pub(super) fn with_range() -> (World, RangeDescriptor) {
    let mut world = with_stores(3);
    assert_eq!(world.register(registration(4, 1, "s4:7710")), Ok(4));
    let first = world.state().ranges().range(RangeId(1)).expect("it was made").clone();
    let first = RangeDescriptor::from(&first);
    world.beat(1, 1, vec![report(&first, 6)]);
    for store in 2..=4 {
        world.beat(store, 1, Vec::new());
    }
    (world, first)
}

pub(super) fn moves(from: u64, to: u64) -> Wire {
    Wire::Move(v1::range_goal::Move { from_store_id: from, to_store_id: to })
}

pub(super) fn wanted(range_id: u64, goal: Wire, dry_run: bool) -> Request {
    let goal = Some(RangeGoal { goal: Some(goal) });
    Request::ChangeRange(v1::ChangeRangeRequest {
        range_id,
        goal,
        dry_run,
        operator: "ops@host".to_owned(),
    })
}

impl World {
    fn begin(&mut self, goal: Wire) -> (u64, Vec<String>) {
        match self.ask(wanted(1, goal, false)) {
            Reply::Changing(v1::ChangeRangeResponse { operator, steps }) => {
                (operator.expect("it has begun").operator_id, steps)
            }
            other => panic!("{other:?}"),
        }
    }

    fn refuses(&mut self, range: u64, goal: Wire) -> Refusal {
        let dry = refused(self, wanted(range, goal, true));
        let real = refused(self, wanted(range, goal, false));
        assert_eq!(dry, real, "a dry run is refused for the same reason");
        real
    }

    fn operator(&mut self, operator_id: u64) -> v1::Operator {
        match self.ask(Request::ListOperators(v1::ListOperatorsRequest { operator_id })) {
            Reply::Operators(mut list) => list.operators.remove(0),
            other => panic!("{other:?}"),
        }
    }

    fn steps(&mut self, store: u64) -> Vec<RangeStep> {
        self.beat(store, 1, Vec::new()).steps
    }

    /// The leader of range 1 does what it is told until the operator has ended, and reports it.
    fn carried_out(
        &mut self,
        id: u64,
        mut range: RangeDescriptor,
        mut leader: u64,
    ) -> (Vec<u64>, u64) {
        for term in 7..40 {
            let operator = self.operator(id);
            if operator.state() != OperatorState::Running {
                assert_eq!((operator.state(), operator.step.as_str()), (OperatorState::Done, ""));
                return (range.replicas.iter().map(|it| it.store_id).collect(), leader);
            }
            for other in (1..=4).filter(|store| *store != leader) {
                assert_eq!(self.steps(other), [], "only a leader is told");
            }
            let Some(told) = self.steps(leader).pop() else { continue };
            let epoch = &range;
            assert_eq!((told.conf_ver, told.version), (epoch.conf_ver, epoch.version));
            match told.step.expect("it is set") {
                range_step::Step::HandOverTo(to) => {
                    let others = range.replicas.iter().map(|it| it.store_id);
                    leader = match to {
                        0 => others.filter(|it| *it != leader).min().expect("there is one"),
                        store => store,
                    };
                }
                step => made(&mut range, step),
            }
            self.beat(leader, 1, vec![report(&range, term)]);
            (0..3).for_each(|_| self.tick());
        }
        panic!("it has no end");
    }
}

/// What a range becomes by a step.
pub(super) fn made(range: &mut RangeDescriptor, step: range_step::Step) {
    let mut it = Descriptor::try_from(&*range).expect("it is well-formed");
    let of = |it: &mut Descriptor, peer: u64, role: Role| {
        it.replicas.iter_mut().find(|it| it.peer.0 == peer).expect("a member").role = role;
    };
    match step {
        range_step::Step::AddLearner(range_step::AddLearner { peer_id, store_id }) => {
            let (peer, store) = (PeerId(peer_id), StoreId(store_id));
            it.replicas.push(Replica { peer, store, role: Role::Learner });
        }
        range_step::Step::Promote(range_step::Promote { peer_id, instead_of: 0 }) => {
            of(&mut it, peer_id, Role::Voter);
        }
        range_step::Step::Promote(range_step::Promote { peer_id, instead_of }) => {
            of(&mut it, peer_id, Role::JointIncoming);
            of(&mut it, instead_of, Role::JointOutgoing);
        }
        range_step::Step::Demote(peer) => of(&mut it, peer, Role::Learner),
        range_step::Step::LeaveJoint(_) => it.replicas.iter_mut().for_each(|it| {
            it.role = if it.role.votes_incoming() { Role::Voter } else { Role::Learner };
        }),
        range_step::Step::Remove(peer) => it.replicas.retain(|it| it.peer.0 != peer),
        range_step::Step::HandOverTo(_) => unreachable!("no change of members"),
    }
    it.epoch.conf_ver += 1;
    *range = RangeDescriptor::from(&it);
}

#[test]
fn a_replica_moves_step_by_step_and_each_is_told_to_whoever_leads() {
    let (mut world, range) = with_range();
    let Reply::Changing(plan) = world.ask(wanted(1, moves(1, 4), true)) else { panic!("a plan") };
    assert_eq!(plan.operator.as_ref().map(|it| it.operator_id), Some(0));
    assert_eq!(plan.steps.len(), 5, "{:?}", plan.steps);
    assert!(world.steps(1).is_empty(), "a dry run does nothing");
    let (id, steps) = world.begin(moves(1, 4));
    assert_eq!(steps, plan.steps);
    assert_eq!(world.begin(moves(1, 4)).0, id, "asked again it is the same");
    let (stores, leader) = world.carried_out(id, range, 1);
    assert_eq!((stores, leader), (vec![2, 3, 4], 2));
}

#[test]
fn leaderships_move_and_replicas_come_and_go() {
    let (mut world, range) = with_range();
    let (id, _) = world.begin(Wire::LeadStoreId(3));
    assert_eq!(world.carried_out(id, range, 1).1, 3);
    let (mut world, range) = with_range();
    let (id, _) = world.begin(Wire::AddStoreId(4));
    assert_eq!(world.carried_out(id, range.clone(), 1).0, [1, 2, 3, 4]);
    let (mut world, range) = with_range();
    let (id, _) = world.begin(Wire::RemoveStoreId(2));
    assert_eq!(world.carried_out(id, range, 1).0, [1, 3]);
}

#[test]
fn an_operator_outlives_the_master_that_began_it() {
    let (mut world, range) = with_range();
    let (id, _) = world.begin(moves(2, 4));
    let step = world.steps(1);
    let old = world.until_led();
    world.crash(old);
    world.until_led();
    world.beat(1, 1, vec![report(&range, 6)]);
    assert_eq!(world.steps(1), step, "the next one goes on");
    assert_eq!(world.carried_out(id, range, 1).0, [1, 3, 4]);
}

#[test]
fn whoever_cancels_ends_it_and_what_is_done_stays() {
    let (mut world, mut range) = with_range();
    let (id, _) = world.begin(moves(2, 4));
    let step = world.steps(1).pop().expect("a learner").step.expect("it is set");
    made(&mut range, step);
    world.beat(1, 1, vec![report(&range, 6)]);
    let cancel = v1::CancelOperatorRequest { operator_id: id, operator: "ops@host".to_owned() };
    for _ in 0..2 {
        let Reply::Cancelled(answer) = world.ask(Request::CancelOperator(cancel.clone())) else {
            panic!("it runs")
        };
        assert_eq!(answer.operator.map(|it| it.state()), Some(OperatorState::Cancelled));
    }
    assert!(world.steps(1).is_empty());
    let shown = world.operator(id);
    assert!(shown.reason.contains("cancelled by ops@host"), "{shown:?}");
    assert_eq!(world.state().ranges().range(RangeId(1)).expect("it is").replicas.len(), 4);
    assert_ne!(world.begin(Wire::LeadStoreId(2)).0, id, "the range has room for another");
}

#[test]
fn an_operator_ends_where_it_takes_too_long_or_its_range_becomes_another() {
    let (mut world, range) = with_range();
    let (id, _) = world.begin(Wire::LeadStoreId(3));
    world.tick();
    let waits = vec![StepWaits { operator_id: id, because: "store 3 lacks 9 entries".to_owned() }];
    let beat = StoreHeartbeatRequest { waits, ..world.heartbeat(1, 1, Vec::new()) };
    world.ask(Request::StoreHeartbeat(beat));
    assert_eq!(world.operator(id).step, "store 3 leads: store 3 lacks 9 entries");
    world.now += Duration::from_secs(61);
    (0..5).for_each(|_| world.tick());
    let late = world.operator(id);
    assert_eq!(late.state(), OperatorState::TimedOut);
    assert!(late.reason.contains("store 3 lacks 9 entries"), "{late:?}");
    (1..=4).for_each(|store| _ = world.beat(store, 1, Vec::new()));
    let (id, _) = world.begin(moves(2, 4));
    let mut other = range;
    made(&mut other, range_step::Step::Demote(2));
    made(&mut other, range_step::Step::Remove(2));
    world.beat(1, 1, vec![report(&other, 6)]);
    (0..5).for_each(|_| world.tick());
    assert_eq!(world.operator(id).state(), OperatorState::Off);
}

#[test]
fn no_replica_is_ordered_to_a_store_that_could_not_read_its_range() {
    let (mut world, first) = with_range();
    let raised = RangeReport { feature_level: 4, ..report(&first, 6) };
    world.beat(1, 1, vec![raised]);
    let refusal = world.refuses(1, moves(1, 4));
    assert_eq!(refusal.reason, Reason::StoreUnfit);
    assert!(refusal.message.contains("upgrade that store"), "{}", refusal.message);
    world.beat(1, 1, vec![report(&first, 6)]);
    world.begin(moves(1, 4));
}

#[test]
fn whatever_makes_no_sense_is_refused_with_the_way_out() {
    let (mut world, _) = with_range();
    for (range, goal, reason, says) in [
        (9, moves(1, 4), Reason::RangeUnknown, "ranges ls"),
        (1, moves(1, 9), Reason::StoreUnknown, "store 9 is not known"),
        (1, moves(1, 1), Reason::ReplicaThere, "store 1 has a replica of range 1 already"),
        (1, moves(1, 3), Reason::ReplicaThere, "store 3 has a replica"),
        (1, moves(4, 4), Reason::NoReplicaThere, "stores 1, 2, 3 have"),
        (1, Wire::RemoveStoreId(4), Reason::NoReplicaThere, "store 4 has no replica"),
        (1, Wire::LeadStoreId(4), Reason::NoReplicaThere, "store 4 has no voter"),
        (1, Wire::LeadStoreId(1), Reason::NothingToDo, "store 1 leads"),
        (1, Wire::LeadStoreId(0), Reason::Invalid, "goal.lead_store_id: 0 is no store"),
        (1, Wire::LeaveJoint(v1::range_goal::LeaveJoint {}), Reason::NothingToDo, "so already"),
    ] {
        let refusal = world.refuses(range, goal);
        assert_eq!(refusal.reason, reason, "{goal:?}: {}", refusal.message);
        assert!(refusal.message.contains(says), "{goal:?}: {}", refusal.message);
    }
    world.now += SilenceLimits::default().disconnected;
    (1..=3).for_each(|store| _ = world.beat(store, 1, Vec::new()));
    assert_eq!(world.refuses(1, moves(1, 4)).reason, Reason::StoreUnfit, "it is silent");
    world.beat(4, 1, Vec::new());
    let (id, _) = world.begin(moves(1, 4));
    let refusal = world.refuses(1, Wire::LeadStoreId(2));
    assert_eq!(refusal.reason, Reason::OperatorRunning);
    assert!(refusal.message.contains(&format!("sharklock ops wait {id}")), "{}", refusal.message);
    let unknown = Request::ListOperators(v1::ListOperatorsRequest { operator_id: 77 });
    assert_eq!(refused(&mut world, unknown).reason, Reason::OperatorUnknown);
}

#[test]
fn a_range_keeps_a_majority_that_is_heard_of() {
    let (mut world, range) = with_range();
    let beats = |world: &mut World, stores: &[u64]| {
        stores.iter().for_each(|store| _ = world.beat(*store, 1, Vec::new()));
    };
    let (id, _) = world.begin(Wire::RemoveStoreId(3));
    // Its leader has not taken the replica away before another store falls silent.
    world.now += SilenceLimits::default().disconnected;
    beats(&mut world, &[1, 3, 4]);
    world.tick();
    assert_eq!(world.operator(id).state(), OperatorState::Running, "it may be back at once");
    let other = world.refuses(1, Wire::RemoveStoreId(1));
    assert_eq!(other.reason, Reason::OperatorRunning);
    while world.operator(id).state() == OperatorState::Running {
        world.now += Duration::from_secs(5);
        beats(&mut world, &[1, 3, 4]);
        (0..3).for_each(|_| world.tick());
        assert!(world.now < Duration::from_secs(3_600), "{:?}", world.operator(id));
    }
    let ended = world.operator(id);
    assert_eq!(ended.state(), OperatorState::Off);
    assert!(ended.reason.contains("of the 2 voters that would stay 1 are heard of"), "{ended:?}");
    let refusal = world.refuses(1, Wire::RemoveStoreId(3));
    assert_eq!(refusal.reason, Reason::NoMajority);
    assert!(refusal.message.contains("bring store 2 back"), "{}", refusal.message);
    assert_eq!(range.replicas.len(), 3);
    let (id, _) = world.begin(Wire::RemoveStoreId(2));
    assert_eq!(world.operator(id).state(), OperatorState::Running, "the silent one may go");
}

#[test]
fn a_replica_that_was_to_come_to_a_store_that_is_lost_does_not() {
    let (mut world, _) = with_range();
    let (id, _) = world.begin(moves(2, 4));
    for _ in 0..70 {
        world.now += Duration::from_secs(5);
        (1..=3).for_each(|store| _ = world.beat(store, 1, Vec::new()));
        (0..3).for_each(|_| world.tick());
    }
    let ended = world.operator(id);
    assert_eq!(ended.state(), OperatorState::Off);
    assert!(ended.reason.contains("store 4, where a replica was to come, is down"), "{ended:?}");
}

#[test]
fn the_last_voter_stays() {
    let mut world = World::new(1, 1);
    assert_eq!(world.register(registration(1, 1, "s1:7710")), Ok(1));
    (0..5).for_each(|_| world.tick());
    let first = world.state().ranges().range(RangeId(1)).expect("it was made").clone();
    world.beat(1, 1, vec![report(&RangeDescriptor::from(&first), 6)]);
    let refusal = world.refuses(1, Wire::RemoveStoreId(1));
    assert_eq!(refusal.reason, Reason::LastVoter);
    assert!(refusal.message.contains("add another one first"), "{}", refusal.message);
}
