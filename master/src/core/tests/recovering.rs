//! Ranges that have lost their majority: who is refused, what is recorded, and who is told.

use sharklock_proto::{
    internal::v1::{GoOnAlone, OrphanReplica},
    v1::{
        ListRecoveriesResponse, LostRange, OperatorState, RecoverRangeRequest,
        RecoverRangeResponse, Recovery, RecoveryState,
    },
};

use super::{
    operations::{moves, wanted, with_range},
    *,
};
use crate::{refusal::Reason, schedule::Duty};

const JUMP: u64 = 1 << 32;

/// Five stores; range 1 is on the first three, and store 1 led it in term 6.
struct Disaster {
    world: World,
    range: RangeDescriptor,
    /// What each living store says of replicas without a leader.
    orphans: BTreeMap<u64, Vec<OrphanReplica>>,
}

fn recover(lost: &[u64]) -> RecoverRangeRequest {
    RecoverRangeRequest {
        range_id: 1,
        lost_store_ids: lost.to_vec(),
        are_stopped: true,
        operator: "ops@host".to_owned(),
        at_unix_ms: 7,
        ..RecoverRangeRequest::default()
    }
}

impl Disaster {
    /// All live, and nobody hears of a leader.
    fn new() -> Self {
        let (mut world, range) = with_range();
        assert_eq!(world.register(registration(5, 1, "s5:7710")), Ok(5));
        world.beat(5, 1, Vec::new());
        Self { world, range, orphans: BTreeMap::new() }
    }

    /// Stores 1 and 2 are gone; store 3 says what it has.
    fn of_two() -> Self {
        let mut it = Self::new();
        let orphan = it.orphan(3, (6, 120));
        it.orphans.insert(3, vec![orphan]);
        it.lives(&[3, 4, 5]);
        it
    }

    /// So many of them beat for long enough that the others count as silent.
    fn lives(&mut self, alive: &[u64]) {
        for _ in 0..6 {
            self.world.now += Duration::from_secs(2);
            alive.iter().for_each(|store| drop(self.beat(*store)));
        }
    }

    fn beat(&mut self, store: u64) -> StoreHeartbeatResponse {
        let orphans = self.orphans.get(&store).cloned().unwrap_or_default();
        let beat = self.world.heartbeat(store, 1, Vec::new());
        match self.world.ask(Request::StoreHeartbeat(StoreHeartbeatRequest { orphans, ..beat })) {
            Reply::Heard(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    fn orphan(&self, store: u64, (last_term, last_index): (u64, u64)) -> OrphanReplica {
        let here = self.range.replicas.iter().find(|it| it.store_id == store).expect("it has one");
        OrphanReplica {
            range_id: 1,
            peer_id: here.peer_id,
            conf_ver: self.range.conf_ver,
            descriptor: Some(self.range.clone()),
            last_term,
            last_index,
            commit_index: last_index - 1,
            ..OrphanReplica::default()
        }
    }

    fn ask(&mut self, request: RecoverRangeRequest) -> Result<RecoverRangeResponse, Refusal> {
        match self.world.ask(Request::RecoverRange(request)) {
            Reply::Recovering(answer) => Ok(answer),
            Reply::Refused(refusal) => Err(refusal),
            other => panic!("{other:?}"),
        }
    }

    fn recovers(&mut self, request: RecoverRangeRequest) -> Recovery {
        let answer = self.ask(request).unwrap_or_else(|why| panic!("{why:?}"));
        answer.recovery.expect("it is recorded")
    }

    fn refuses(&mut self, request: RecoverRangeRequest, reason: Reason, says: &str) {
        let refusal = self.ask(request).expect_err("it is refused");
        assert_eq!(refusal.reason, reason, "{}", refusal.message);
        assert!(refusal.message.contains(says), "{}", refusal.message);
    }

    fn list(&mut self) -> (Vec<LostRange>, Vec<Recovery>) {
        match self.world.ask(Request::ListRecoveries) {
            Reply::Recoveries(ListRecoveriesResponse { lost, recoveries }) => (lost, recoveries),
            other => panic!("{other:?}"),
        }
    }

    /// As the store reports the range that went on.
    fn after(&self, recovery: &Recovery) -> RangeDescriptor {
        let voter = |store| Replica { peer: PeerId(recovery.as_peer_id), store, role: Role::Voter };
        let mut range = Descriptor::try_from(&self.range).expect("it is one");
        range.epoch = Epoch { version: recovery.version, conf_ver: recovery.conf_ver };
        range.replicas = vec![voter(StoreId(recovery.store_id))];
        RangeDescriptor::from(&range)
    }
}

#[test]
fn a_range_that_is_not_lost_is_left_alone() {
    let mut it = Disaster::new();
    it.lives(&[1, 2, 3, 4, 5]);
    let orders = recover(&[1, 2]);
    it.refuses(orders.clone(), Reason::QuorumAlive, "store 1 leads range 1, or did");
    assert_eq!(it.list().0, []);
    // Its leader is silent, but two of three could elect another.
    it.lives(&[2, 3, 4, 5]);
    it.refuses(recover(&[1]), Reason::QuorumAlive, "a majority of range 1 is heard of");
    assert_eq!(it.list().0, []);
    let unknown = RecoverRangeRequest { range_id: 9, ..orders };
    it.refuses(unknown, Reason::RangeUnknown, "`sharklock ranges ls` lists them");
}

#[test]
fn what_only_people_can_know_must_be_said() {
    let mut it = Disaster::of_two();
    it.refuses(recover(&[1]), Reason::NotConfirmed, "on store 2, too, not heard of");
    it.refuses(recover(&[1]), Reason::NotConfirmed, "--lost 1,2");
    it.refuses(recover(&[1, 2, 3]), Reason::StoreUnfit, "store 3 is alive");
    it.refuses(recover(&[1, 2, 4]), Reason::NoReplicaThere, "store 4 has no replica");
    it.refuses(recover(&[1, 2, 9]), Reason::StoreUnknown, "store 9 is not known");
    let unconfirmed = RecoverRangeRequest { are_stopped: false, ..recover(&[1, 2]) };
    it.refuses(unconfirmed.clone(), Reason::NotConfirmed, "stores 1 and 2 are stopped for good");
    // A dry run says what would be; that they are stopped, or which they are, can be said later.
    for lost in [vec![], vec![1, 2]] {
        let dry =
            RecoverRangeRequest { dry_run: true, lost_store_ids: lost, ..unconfirmed.clone() };
        let plan = it.ask(dry).expect("it could be done");
        assert!(plan.steps[0].contains("stores 1 and 2 are gone"), "{:?}", plan.steps);
        assert!(plan.losses[0].contains("behind entry 120 (term 6)"), "{:?}", plan.losses);
        let now = plan.recovery.expect("it would be");
        assert_eq!((now.recovery_id, now.as_peer_id), (0, 0));
    }
    assert_eq!(it.list().1, [], "nothing was done");
    assert!(it.world.state().stores().values().all(|store| store.duty == Duty::Serves));
}

#[test]
fn everything_is_recorded_at_once_and_told_until_it_is_done() {
    let mut it = Disaster::of_two();
    let begun = it.world.ask(wanted(1, moves(2, 4), false));
    let Reply::Changing(begun) = begun else { panic!("{begun:?}") };
    let (lost, _) = it.list();
    assert_eq!((lost.len(), &lost[0].missing_store_ids), (1, &vec![1, 2]));
    assert_eq!((lost[0].hindrance.as_str(), lost[0].survivors.len()), ("", 1));

    it.world.routes.clear();
    let recovery = it.recovers(recover(&[1, 2]));
    assert_eq!((recovery.store_id, recovery.generation, recovery.at_unix_ms), (3, 1, 7));
    let left = it.world.routes.iter().flat_map(|update| &update.gone_store_ids);
    assert_eq!(left.copied().collect::<Vec<_>>(), [1, 2], "gateways leave them");
    assert!(recovery.conf_ver > JUMP && recovery.version > JUMP && recovery.as_peer_id >= 1_000);
    let duty = |it: &Disaster, store: u64| it.world.state().stores()[&StoreId(store)].duty;
    assert_eq!([1, 2, 3].map(|store| duty(&it, store)), [Duty::Gone, Duty::Gone, Duty::Serves]);
    let operator = begun.operator.expect("it began").operator_id;
    let operator = it.world.state().operators().get(operator).expect("it is remembered").clone();
    assert_eq!(operator.state, OperatorState::Off, "{}", operator.because);

    // Asked again, since the answer may be lost, it is the same; otherwise it is in the way.
    assert_eq!(it.recovers(recover(&[1, 2])), recovery);
    let other = RecoverRangeRequest { now: true, ..recover(&[1, 2]) };
    it.refuses(other, Reason::RecoveryRunning, "store 3 go on with range 1");

    let order = GoOnAlone {
        range_id: 1,
        peer_id: it.range.replicas[2].peer_id,
        as_peer_id: recovery.as_peer_id,
        conf_ver: recovery.conf_ver,
        version: recovery.version,
        term: 6 + JUMP,
        generation: 1,
        waits: true,
        ..GoOnAlone::default()
    };
    for leaders in 0..2 {
        assert_eq!(it.beat(3).alone, std::slice::from_ref(&order), "{leaders}");
        let answer = it.beat(4);
        assert_eq!((answer.alone, answer.removed), (vec![], vec![]), "it is nobody else's");
        if leaders == 0 {
            let old = it.world.until_led();
            it.world.crash(old);
        }
    }
    assert_eq!(it.beat(3).removed, [], "it is to go on, and is told so only");

    let after = it.after(&recovery);
    it.orphans.clear();
    it.world.beat(3, 1, vec![report(&after, 7 + JUMP)]);
    assert_eq!(it.beat(3).alone, []);
    let (lost, recoveries) = it.list();
    assert_eq!(lost, []);
    assert_eq!(recoveries.len(), 1);
    assert_eq!(recoveries[0].state(), RecoveryState::Done);
    assert_eq!(recoveries[0].by, "ops@host");
    let known = it.world.state().ranges().range(RangeId(1)).expect("it is known");
    assert_eq!(RangeDescriptor::from(known), after);
    assert_eq!(it.world.leads(1), Some(3), "whoever led before is forgotten");
    it.refuses(recover(&[]), Reason::QuorumAlive, "leads range 1");
    // The lost ones are refused, and so is what they would report.
    let beat = Request::StoreHeartbeat(it.world.heartbeat(1, 1, Vec::new()));
    assert_eq!(refused(&mut it.world, beat).reason, Reason::StoreGone);
    let again = it.world.register(registration(1, 2, "s1:7710")).expect_err("for ever");
    assert_eq!(again.reason, Reason::StoreGone);
}

impl World {
    fn leads(&self, range: u64) -> Option<u64> {
        let leader = self.leader().expect("somebody leads");
        let core = self.nodes[&leader].core.as_ref().expect("it lives");
        core.leader_of(RangeId(range)).map(|leader| leader.store.0)
    }
}

/// The one that was to go on is lost, too, whether or not it has.
#[test]
fn a_second_recovery_is_above_the_first() {
    let mut it = Disaster::of_two();
    // Store 4 has an older replica: by an earlier configuration it was a learner.
    it.range.replicas.push(sharklock_proto::internal::v1::Replica {
        peer_id: 44,
        store_id: 4,
        role: sharklock_proto::internal::v1::ReplicaRole::Learner.into(),
    });
    it.range.conf_ver += 1;
    let (third, fourth) = (it.orphan(3, (6, 120)), it.orphan(4, (6, 90)));
    it.orphans = BTreeMap::from([(3, vec![third]), (4, vec![fourth])]);
    it.lives(&[3, 4, 5]);
    let first = it.recovers(recover(&[1, 2]));
    assert_eq!(first.store_id, 3, "it has more of the log, whoever votes");
    it.lives(&[4, 5]);
    let other = RecoverRangeRequest { now: true, ..recover(&[1, 2]) };
    it.refuses(other, Reason::RecoveryRunning, "is lost, too");
    it.refuses(recover(&[3]), Reason::NotConfirmed, "--lost 1,2,3");
    let second = it.recovers(recover(&[1, 2, 3]));
    assert_eq!((second.store_id, second.generation), (4, 2));
    assert!(second.conf_ver >= first.conf_ver + JUMP && second.version >= first.version + JUMP);
    assert_ne!(second.as_peer_id, first.as_peer_id);
    let order = it.beat(4).alone.remove(0);
    assert_eq!((order.term, order.peer_id), (6 + 2 * JUMP, 44));
    let states: Vec<_> = it.list().1.iter().map(Recovery::state).collect();
    assert_eq!(states, [RecoveryState::Overtaken, RecoveryState::Running]);
}

#[test]
fn who_has_most_goes_on_and_only_once_all_have_said_what_they_have() {
    let mut it = Disaster::new();
    for (store_id, peer_id) in [(4, 44), (5, 55)] {
        let role = sharklock_proto::internal::v1::ReplicaRole::Voter.into();
        let new = sharklock_proto::internal::v1::Replica { peer_id, store_id, role };
        it.range.replicas.push(new);
    }
    it.range.conf_ver += 2;
    it.world.beat(1, 1, vec![report(&it.range, 6)]);
    let third = it.orphan(3, (6, 500));
    it.orphans.insert(3, vec![third]);
    // Two of five are left, and two have not said a word.
    it.lives(&[3, 4]);
    it.refuses(recover(&[1, 2, 5]), Reason::SurvivorsUnknown, "store 4 is alive, and not all");
    let asked = it.beat(4);
    assert_eq!((asked.asked_about, it.beat(3).asked_about), (vec![1], vec![]));
    let fourth = it.orphan(4, (7, 90));
    it.orphans.insert(4, vec![OrphanReplica { generation: 3, ..fourth.clone() }]);
    it.beat(4);
    let plan = it.ask(RecoverRangeRequest { dry_run: true, ..recover(&[1, 2, 5]) });
    let recovery = plan.expect("it could be done").recovery.expect("a plan");
    assert_eq!((recovery.store_id, recovery.last_term, recovery.last_index), (4, 7, 90));
    assert_eq!(recovery.generation, 4, "above that of any");
    // One that is stopped, or has nothing, does not go on.
    for (is_stopped, is_empty) in [(true, false), (false, true)] {
        it.orphans.insert(4, vec![OrphanReplica { is_stopped, is_empty, ..fourth.clone() }]);
        it.beat(4);
        let dry = RecoverRangeRequest { dry_run: true, ..recover(&[1, 2, 5]) };
        assert_eq!(it.recovers(dry.clone()).store_id, 3);
        let third = it.orphan(3, (6, 500));
        it.orphans.insert(3, vec![OrphanReplica { is_stopped, is_empty, ..third.clone() }]);
        it.beat(3);
        it.refuses(dry, Reason::NoSurvivor, "start one of its stores again");
        it.orphans.insert(3, vec![third]);
        it.beat(3);
    }
    // Or has no replica at all, and says so.
    it.orphans.remove(&4);
    let beat = it.world.heartbeat(4, 1, Vec::new());
    let beat = StoreHeartbeatRequest { absent: vec![1], ..beat };
    it.world.ask(Request::StoreHeartbeat(beat));
    assert_eq!(it.recovers(recover(&[1, 2, 5])).store_id, 3);
}

/// Two disks that were put back from older copies: their stores live, and their replicas never vote.
#[test]
fn a_majority_of_stopped_replicas_is_lost_without_a_lost_store() {
    let mut it = Disaster::new();
    for store in 1..=3 {
        let orphan = OrphanReplica { is_stopped: store != 2, ..it.orphan(store, (6, 100 + store)) };
        it.orphans.insert(store, vec![orphan]);
    }
    it.lives(&[1, 2, 3, 4, 5]);
    assert_eq!(it.recovers(recover(&[])).store_id, 2);
    assert!(it.world.state().stores().values().all(|store| store.duty == Duty::Serves));
}

#[test]
fn both_halves_of_a_joint_configuration_must_live() {
    use sharklock_proto::internal::v1::{Replica, ReplicaRole};
    let mut it = Disaster::new();
    for (at, role) in [(1, ReplicaRole::JointOutgoing), (2, ReplicaRole::JointOutgoing)] {
        it.range.replicas[at].role = role.into();
    }
    for (store_id, peer_id) in [(4, 44), (5, 55)] {
        let role = ReplicaRole::JointIncoming.into();
        it.range.replicas.push(Replica { peer_id, store_id, role });
    }
    it.range.conf_ver += 1;
    it.world.beat(1, 1, vec![report(&it.range, 6)]);
    // Of the old half 1, 2 and 3, of the new one 1, 4 and 5.
    for (alive, lost) in [([1, 4, 5].as_slice(), vec![2, 3]), (&[1, 2, 3], vec![4, 5])] {
        for store in alive {
            let orphan = it.orphan(*store, (6, 100));
            it.orphans.insert(*store, vec![orphan]);
        }
        it.lives(alive);
        let dry = RecoverRangeRequest { dry_run: true, ..recover(&lost) };
        assert_eq!(it.recovers(dry).lost_store_ids, lost);
    }
    it.lives(&[1, 2, 4]);
    let message = "a majority of range 1 is heard of";
    it.refuses(recover(&[3, 5]), Reason::QuorumAlive, message);
}

/// What was split off without the replica that is left is another range's: it may live elsewhere.
#[test]
fn names_that_are_another_ranges_by_now_are_not_taken_back() {
    let mut it = Disaster::of_two();
    let child = |start: &str, version: u64| RangeDescriptor {
        range_id: 70,
        start: start.to_owned().into(),
        version,
        ..it.range.clone()
    };
    let (child, whole) = (child("m", 2), child("", 3));
    it.world.beat(4, 1, vec![report(&child, 9)]);
    let dry = RecoverRangeRequest { dry_run: true, ..recover(&[1, 2]) };
    let plan = it.ask(dry.clone()).expect("it could be done");
    assert!(plan.losses.iter().any(|it| it.contains("names from \"m\" on")), "{:?}", plan.losses);
    it.recovers(recover(&[1, 2]));
    let order = it.beat(3).alone.remove(0);
    assert_eq!((order.end.as_ref(), order.version), (b"m".as_slice(), 2 + JUMP));

    // So are those of a range that goes on, and that only a store knows which may be away by now.
    let mut it = Disaster::of_two();
    let third = it.orphan(3, (6, 120));
    let known = OrphanReplica { range_id: 70, descriptor: Some(child.clone()), ..third.clone() };
    it.orphans.insert(3, vec![third.clone(), known]);
    it.beat(3);
    let first = it.recovers(RecoverRangeRequest { range_id: 70, ..recover(&[1, 2]) });
    it.orphans.insert(3, vec![third]);
    it.beat(3);
    it.recovers(recover(&[1, 2]));
    let orders = it.beat(3).alone;
    let order = orders.iter().find(|it| it.range_id == 1).expect("both are told");
    assert_eq!((order.end.as_ref(), order.version), (b"m".as_slice(), first.version + JUMP));

    let mut it = Disaster::of_two();
    it.world.beat(4, 1, vec![report(&whole, 9)]);
    it.refuses(dry, Reason::NamesTaken, "belong to range 70 by now");
}

/// A command that was decided by what is not so any more does nothing.
#[test]
fn a_range_that_changes_meanwhile_is_not_recovered() {
    let mut it = Disaster::of_two();
    let leader = it.world.until_led();
    let now = it.world.now;
    let mut moved = it.range.clone();
    moved.conf_ver += 1;
    let beat = it.world.heartbeat(4, 1, vec![report(&moved, 9)]);
    let core = it.world.nodes.get_mut(&leader).and_then(|it| it.core.as_mut()).expect("it leads");
    let asks = [Request::StoreHeartbeat(beat), Request::RecoverRange(recover(&[1, 2]))];
    for (number, request) in (9_000..).zip(asks) {
        core.handle(now, Input::Ask(Box::new(Ask { number, request })));
    }
    (0..5).for_each(|_| it.world.tick());
    let Some(Reply::Refused(refusal)) = it.world.replies.remove(&9_001) else { panic!("refused") };
    assert_eq!(refusal.reason, Reason::QuorumAlive, "{}", refusal.message);
    assert!(it.world.state().stores().values().all(|store| store.duty == Duty::Serves));
    assert_eq!(it.list().1, []);
}
