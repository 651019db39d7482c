//! Steps that the masters want done: members come and go, and others lead.

use std::time::Duration;

use sharklock_dataserver::Input;
use sharklock_proto::internal::v1::{
    RangeStep,
    range_step::{AddLearner, LeaveJoint, Promote, Step},
};
use sharklock_rangemap::{Descriptor, Epoch, Role};

use super::rig::{RANGE, Trio};

impl Trio {
    fn members(&self, store: u64) -> &Descriptor {
        self.worker(store).store().descriptor(RANGE).expect("it has the range")
    }

    /// The masters tell a step, as often as they beat, until the range has another epoch.
    fn done(&mut self, leader: u64, step: Step) -> Vec<(u64, Role)> {
        let before = self.members(leader).epoch;
        let told = self.step_of(before, step);
        for _ in 0..50 {
            self.tell(leader, Input::Step(Box::new(told)));
            self.pass(Duration::from_millis(200));
            if self.members(leader).epoch != before {
                let members = self.members(leader).replicas.iter();
                return members.map(|it| (it.store.0, it.role)).collect();
            }
        }
        panic!("{step:?} waits: {:?}", self.worker(leader).waiting_steps());
    }

    fn step_of(&self, Epoch { conf_ver, version }: Epoch, step: Step) -> RangeStep {
        RangeStep { range_id: RANGE.0, conf_ver, version, operator_id: 7, step: Some(step) }
    }

    fn peer(&self, leader: u64, store: u64) -> u64 {
        let mut members = self.members(leader).replicas.iter();
        members.find(|it| it.store.0 == store).expect("it has a replica").peer.0
    }

    /// Why a step is not done, a second after it was told.
    fn step_waits(&mut self, leader: u64, step: Step) -> String {
        let told = self.step_of(self.members(leader).epoch, step);
        self.tell(leader, Input::Step(Box::new(told)));
        self.pass(Duration::from_secs(1));
        let mut waits = self.worker(leader).waiting_steps();
        assert_eq!(waits.len(), 1, "{waits:?}");
        assert_eq!(waits[0].operator_id, 7);
        waits.remove(0).because
    }
}

/// A voter goes, and comes again under another id, with everything that was granted meanwhile.
#[test]
fn a_replica_goes_and_another_one_comes_to_the_same_store() {
    let (mut trio, leader) = Trio::new();
    let token = trio.granted(leader, "a", 1);
    let store = leader % 3 + 1;
    let old = trio.peer(leader, store);
    let learner = trio.done(leader, Step::Demote(old));
    assert!(learner.contains(&(store, Role::Learner)));
    let gone = trio.done(leader, Step::Remove(old));
    assert_eq!(gone.len(), 2);
    trio.pass(Duration::from_secs(1));
    assert!(trio.worker(store).store().descriptor(RANGE).is_none(), "its files go with it");
    let added = Step::AddLearner(AddLearner { peer_id: 900, store_id: store });
    assert!(trio.done(leader, added).contains(&(store, Role::Learner)));
    let promoted = Step::Promote(Promote { peer_id: 900, instead_of: 0 });
    assert!(trio.done(leader, promoted).contains(&(store, Role::Voter)));
    trio.pass(Duration::from_secs(1));
    let applied = trio.worker(store).store().machine(RANGE).expect("it has it").table();
    assert_eq!(applied.hold_of("a", acquisition_of(&trio, leader)).map(|it| it.0), Some(token));
}

fn acquisition_of(trio: &Trio, leader: u64) -> sharklock_locktable::Acquisition {
    let table = trio.worker(leader).store().machine(RANGE).expect("it leads").table();
    table.lock("a", 1, 1).expect("it is held").holds[0].acquisition
}

#[test]
fn a_vote_is_taken_over_in_a_joint_configuration_which_is_left_by_a_step_of_its_own() {
    let (mut trio, leader) = Trio::new();
    let (old, other) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    let (old_peer, other_peer) = (trio.peer(leader, old), trio.peer(leader, other));
    trio.done(leader, Step::Demote(other_peer));
    let promote = Step::Promote(Promote { peer_id: other_peer, instead_of: old_peer });
    let joint = trio.done(leader, promote);
    assert!(joint.contains(&(old, Role::JointOutgoing)), "{joint:?}");
    assert!(joint.contains(&(other, Role::JointIncoming)), "{joint:?}");
    let left = trio.done(leader, Step::LeaveJoint(LeaveJoint {}));
    assert!(left.contains(&(old, Role::Learner)) && left.contains(&(other, Role::Voter)));
}

#[test]
fn another_store_leads_and_the_last_one_gives_no_answers_any_more() {
    let (mut trio, leader) = Trio::new();
    let to = leader % 3 + 1;
    let told = trio.step_of(trio.members(leader).epoch, Step::HandOverTo(to));
    trio.tell(leader, Input::Step(Box::new(told)));
    trio.pass(Duration::from_secs(1));
    assert!(trio.worker(to).leads(RANGE) && !trio.worker(leader).leads(RANGE));
    assert!(trio.worker(leader).waiting_steps().is_empty(), "it is done, or another's");
}

/// Whatever cannot be done says why, and nothing is changed.
#[test]
fn steps_that_would_harm_wait_and_say_for_what() {
    let (mut trio, leader) = Trio::new();
    let (away, other) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    let before = trio.members(leader).epoch;
    let own = trio.peer(leader, leader);
    assert!(trio.step_waits(leader, Step::Demote(own)).contains("handed over first"));
    trio.alone = Some(away);
    trio.pass(Duration::from_secs(2));
    assert!(trio.step_waits(leader, Step::HandOverTo(away)).contains("cannot lead it"));
    // Of the two voters that would be left one is away: nobody could lead.
    let demote = Step::Demote(trio.peer(leader, other));
    let waits = trio.step_waits(leader, demote);
    assert!(waits.contains("only 1 of the 2 voters"), "{waits}");
    assert_eq!(trio.members(leader).epoch, before);
    // To do without the one that is away is no harm.
    let demote = Step::Demote(trio.peer(leader, away));
    trio.done(leader, demote);
    let promote = Step::Promote(Promote { peer_id: trio.peer(leader, away), instead_of: 0 });
    assert!(trio.step_waits(leader, promote).contains("is not heard of"));
}

/// A learner that lags is no voter: the range would wait for it.
#[test]
fn a_learner_is_promoted_once_it_has_caught_up() {
    let (mut trio, leader) = Trio::new();
    let other = (leader + 1) % 3 + 1;
    let peer = trio.peer(leader, other);
    trio.done(leader, Step::Demote(peer));
    trio.parks = Some(other);
    for id in 1..200 {
        trio.granted(leader, &format!("n{id}"), id);
    }
    let promote = Step::Promote(Promote { peer_id: peer, instead_of: 0 });
    let waits = trio.step_waits(leader, promote);
    assert!(waits.contains("lacks") || waits.contains("snapshot"), "{waits}");
    trio.parks = None;
    let parked = std::mem::take(&mut trio.parked);
    trio.deliver(parked);
    assert!(trio.done(leader, promote).contains(&(other, Role::Voter)));
}

#[test]
fn a_step_of_another_epoch_or_that_nobody_repeats_is_not_done() {
    let (mut trio, leader) = Trio::new();
    let other = (leader + 1) % 3 + 1;
    let peer = trio.peer(leader, other);
    let epoch = trio.members(leader).epoch;
    let older = Epoch { conf_ver: epoch.conf_ver - 1, ..epoch };
    let told = trio.step_of(older, Step::Demote(peer));
    trio.tell(leader, Input::Step(Box::new(told)));
    trio.pass(Duration::from_secs(1));
    assert_eq!(trio.members(leader).epoch, epoch);
    // A learner that never catches up, and masters that want it no more.
    trio.done(leader, Step::Demote(peer));
    trio.alone = Some(other);
    trio.pass(Duration::from_secs(2));
    trio.step_waits(leader, Step::Promote(Promote { peer_id: peer, instead_of: 0 }));
    trio.pass(Duration::from_secs(11));
    trio.alone = None;
    let before = trio.members(leader).epoch;
    trio.pass(Duration::from_secs(5));
    assert_eq!(trio.members(leader).epoch, before, "it is wanted no more");
}
