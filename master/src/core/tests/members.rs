//! Masters that come and go.

use sharklock_multiraft::{Disk as _, SimDisk, init_store};
use sharklock_proto::{
    internal::v1::{GetClusterResponse, JoinRequest, JoinResponse},
    v1::{
        ChangeMastersRequest, ChangeMastersResponse, MasterGoal, master_goal::Add,
        master_goal::Goal,
    },
};

use super::*;

/// Virtual time in which a change of members is done.
const CHANGED_TICKS: usize = 300;

fn change(goal: Goal, dry_run: bool) -> Request {
    let goal = Some(MasterGoal { goal: Some(goal) });
    Request::ChangeMasters(ChangeMastersRequest { goal, dry_run, operator: "ops@host".to_owned() })
}

fn add(at: u64, instead_of_member_id: u64) -> Goal {
    Goal::Add(Add { address: format!("m{at}:7720"), instead_of_member_id })
}

fn join(of: u64, at: u64) -> JoinRequest {
    JoinRequest {
        ident: ident(of).ident.to_wire(),
        address: format!("m{at}:7720"),
        ..JoinRequest::default()
    }
}

impl World {
    fn knocks(&mut self, of: u64, at: u64) -> JoinResponse {
        match self.ask(Request::Join(join(of, at))) {
            Reply::Joined(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    fn orders(&mut self, goal: Goal) -> ChangeMastersResponse {
        match self.ask(change(goal, false)) {
            Reply::MastersChanging(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    fn refuses_goal(&mut self, goal: Goal) -> Refusal {
        let Reply::Refused(planned) = self.ask(change(goal.clone(), true)) else {
            panic!("a dry run refuses what cannot be done: {goal:?}");
        };
        match self.ask(change(goal, false)) {
            Reply::Refused(refusal) if refusal == planned => refusal,
            other => panic!("{other:?}, and in a dry run {planned:?}"),
        }
    }

    /// A process with a directory of its own knocks, is added, and begins.
    fn grows(&mut self, at: u64, instead_of: u64) -> u64 {
        let of = self.nodes.keys().max().expect("there is one") + 1;
        assert_eq!(self.knocks(of, at).member_id, 0, "nobody has added it");
        let told = self.orders(add(at, instead_of)).member_id;
        let joined = self.knocks(of, at);
        assert_eq!((joined.member_id, told), (of, of), "ids are given in order");
        assert!(joined.members.iter().any(|it| it.member_id == of && it.address.contains(':')));
        let mut disk = SimDisk::default();
        disk.write(&init_store(&ident(of)), true).expect("no fault is planned");
        self.nodes.insert(of, Node { disk, core: None });
        self.start(of);
        of
    }

    fn cluster(&mut self) -> GetClusterResponse {
        match self.ask(Request::Cluster) {
            Reply::Cluster(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    /// Until exactly these vote, nothing is being done, and nobody else is known.
    fn until_voters(&mut self, voters: &[u64]) {
        for _ in 0..CHANGED_TICKS {
            let masters = self.cluster().masters;
            let is_done = masters.iter().all(|it| it.is_voter && !it.is_leaving);
            if is_done && masters.iter().map(|it| it.member_id).eq(voters.iter().copied()) {
                return;
            }
            self.tick();
        }
        panic!("{:?} after {CHANGED_TICKS} ticks", self.cluster().masters);
    }

    fn ids(&mut self) -> u64 {
        let request = AllocateIdsRequest { cluster_id: CLUSTER.to_wire(), count: 1 };
        match self.ask(Request::AllocateIds(request)) {
            Reply::Allocated(answer) => answer.first,
            other => panic!("{other:?}"),
        }
    }

    fn all_agree(&mut self, members: &[u64]) {
        for _ in 0..50 {
            self.tick();
        }
        let state = |id: &u64| self.nodes[id].core.as_ref().expect("it lives").state();
        let first = state(&members[0]);
        for id in members {
            assert_eq!(state(id), first, "master {id}");
        }
    }
}

#[test]
fn one_master_grows_to_three_and_to_five_and_any_two_may_be_lost() {
    let mut world = World::new(1, 1);
    let first = world.ids();
    for at in 2..=5 {
        world.grows(at, 0);
        world.until_voters(&(1..=at).collect::<Vec<_>>());
    }
    world.all_agree(&[1, 2, 3, 4, 5]);
    let leader = world.until_led();
    let other = (1..=5).find(|id| *id != leader).expect("there are five");
    [leader, other].into_iter().for_each(|id| world.crash(id));
    assert!(world.ids() > first, "three of five decide");
    [leader, other].into_iter().for_each(|id| world.start(id));
    world.until_voters(&[1, 2, 3, 4, 5]);
    world.all_agree(&[1, 2, 3, 4, 5]);
}

#[test]
fn the_leader_is_removed_after_it_has_handed_over_and_is_told() {
    let mut world = World::new(3, 1);
    let leader = world.until_led();
    let goal = Goal::RemoveMemberId(leader);
    let Reply::MastersChanging(plan) = world.ask(change(goal.clone(), true)) else { panic!() };
    assert!(plan.steps[0].contains("another master leads"), "{:?}", plan.steps);
    assert_eq!(world.orders(goal.clone()).steps, plan.steps);
    let stay: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    world.until_voters(&stay);
    assert_ne!(world.until_led(), leader);
    let gone = JoinRequest { member_id: leader, ..join(leader, leader) };
    let Reply::Refused(refusal) = world.ask(Request::Join(gone)) else { panic!("it is gone") };
    assert_eq!(refusal.reason, Reason::MasterRemoved);
    assert_eq!(world.refuses_goal(goal).reason, Reason::MasterUnknown);
    world.all_agree(&stay);
}

/// Its votes are gone with its disk, so what comes in its place is another master. Whatever the old one
/// says should its disk turn up again, nobody hears it.
#[test]
fn a_master_that_lost_its_disk_is_replaced_and_the_old_one_never_acts_again() {
    let mut world = World::new(3, 1);
    let leader = world.until_led();
    world.ids();
    let lost = (1..=3).find(|id| *id != leader).expect("there are three");
    world.crash(lost);
    for _ in 0..20 {
        world.tick();
    }
    // At the address of the one that is lost.
    let new = world.grows(lost, lost);
    assert_eq!(new, 4);
    let mut members: Vec<u64> = (1..=4).filter(|id| *id != lost).collect();
    world.until_voters(&members);
    world.all_agree(&members);
    let before = world.nodes[&leader].core.as_ref().and_then(|it| it.store().status(GROUP));
    world.start(lost);
    for _ in 0..100 {
        world.tick();
        assert_eq!(world.leader(), Some(leader), "it disturbs nobody");
    }
    let after = world.nodes[&leader].core.as_ref().and_then(|it| it.store().status(GROUP));
    assert_eq!(after.map(|it| it.term), before.map(|it| it.term));
    // A majority of the new three is enough.
    let other = *members.iter().find(|id| **id != leader).expect("there are two");
    world.crash(other);
    world.ids();
    world.start(other);
    members.retain(|id| *id != leader);
    world.crash(leader);
    world.ids();
}

/// The whole group is replaced, one by one, while somebody asks for ids all the time.
#[test]
fn masters_are_replaced_one_by_one_until_none_of_the_first_is_left() {
    let mut world = World::new(3, 1);
    let mut last = world.ids();
    let mut members = vec![1, 2, 3];
    for old in 1..=3 {
        let new = world.grows(old + 3, old);
        members.retain(|id| *id != old);
        members.push(new);
        world.until_voters(&members);
        let next = world.ids();
        assert!(next > last, "ids only grow");
        last = next;
        world.crash(old);
    }
    assert_eq!(members, [4, 5, 6]);
    world.all_agree(&[4, 5, 6]);
    (4..=6).for_each(|id| world.crash(id));
    (4..=6).for_each(|id| world.start(id));
    assert!(world.ids() > last);
    let told = &world.cluster().masters;
    assert!(told.iter().all(|it| it.is_voter && it.step.is_empty()), "{told:?}");
}

#[test]
fn an_order_outlives_the_master_that_took_it() {
    let mut world = World::new(3, 1);
    let leader = world.until_led();
    let new = world.grows(4, leader);
    world.cut.insert(leader);
    world.cut.insert(new);
    let next = world.until_led();
    assert_ne!(next, leader);
    for _ in 0..30 {
        world.tick();
    }
    let told = world.cluster().masters;
    assert!(told.iter().any(|it| it.step.contains("not heard of")), "{told:?}");
    world.cut.clear();
    let members: Vec<u64> = (1..=4).filter(|id| *id != leader).collect();
    world.until_voters(&members);
    world.all_agree(&members);
}

#[test]
fn orders_may_be_taken_back_before_they_are_done() {
    let mut world = World::new(3, 1);
    let new = world.grows(4, 2);
    world.cut.insert(new);
    let refusal = world.refuses_goal(Goal::RemoveMemberId(1));
    assert_eq!(refusal.reason, Reason::MastersChanging);
    assert!(refusal.message.contains("masters add m2:7720"), "{refusal:?}");
    world.orders(add(4, 2));
    world.orders(Goal::RemoveMemberId(new));
    world.orders(Goal::RemoveMemberId(new));
    world.until_voters(&[1, 2, 3]);
    // A removal that waits for a master which is away.
    let leader = world.until_led();
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    world.orders(Goal::RemoveMemberId(others[0]));
    world.orders(add(others[0], 0));
    world.until_voters(&[1, 2, 3]);
    world.all_agree(&[1, 2, 3]);
}

#[test]
fn what_makes_no_sense_is_refused_with_the_way_out() {
    let mut world = World::new(3, 1);
    world.until_voters(&[1, 2, 3]);
    let leader = world.until_led();
    for (goal, reason, says) in [
        (add(9, 0), Reason::MasterUnfit, "no master waits at m9:7720"),
        (add(2, 0), Reason::MasterThere, "--replace 2"),
        (add(9, 77), Reason::MasterUnknown, "masters ls"),
        (add(9, 2), Reason::MasterUnfit, "--join"),
        (Goal::RemoveMemberId(77), Reason::MasterUnknown, "masters ls"),
        (Goal::RemoveMemberId(0), Reason::MasterUnknown, "master 0"),
        (Goal::LeadMemberId(77), Reason::MasterUnknown, "master 77"),
        (Goal::LeadMemberId(leader), Reason::NothingToDo, "leads already"),
    ] {
        let refusal = world.refuses_goal(goal.clone());
        assert_eq!(refusal.reason, reason, "{goal:?}");
        assert!(refusal.message.contains(says), "{goal:?}: {}", refusal.message);
    }
    let none = ChangeMastersRequest::default();
    let Reply::Refused(refusal) = world.ask(Request::ChangeMasters(none)) else { panic!() };
    assert_eq!(refusal.reason, Reason::Invalid);
    let long = ChangeMastersRequest { operator: "x".repeat(257), ..Default::default() };
    let Reply::Refused(refusal) = world.ask(Request::ChangeMasters(long)) else { panic!() };
    assert!(refusal.message.contains("at most 256"), "{refusal:?}");
    for (request, says) in [
        (JoinRequest { ident: vec![1; 3].into(), ..join(8, 8) }, "ident"),
        (JoinRequest { address: String::new(), ..join(8, 8) }, "address"),
        (JoinRequest { address: "x".repeat(300), ..join(8, 8) }, "address"),
        (join(2, 8), "master 2 is known at m2:7720"),
        (JoinRequest { cluster_id: vec![9; 16].into(), ..join(8, 8) }, "cluster"),
    ] {
        let Reply::Refused(refusal) = world.ask(Request::Join(request)) else { panic!("{says}") };
        assert!(refusal.message.contains(says), "{refusal:?}");
    }
}

#[test]
fn the_last_voter_and_a_majority_stay() {
    let mut world = World::new(1, 1);
    world.until_voters(&[1]);
    let refusal = world.refuses_goal(Goal::RemoveMemberId(1));
    assert_eq!(refusal.reason, Reason::LastVoter);
    assert!(refusal.message.contains("--replace 1"), "{refusal:?}");
    assert_eq!(world.refuses_goal(Goal::LeadMemberId(0)).reason, Reason::MasterUnfit);

    let mut world = World::new(3, 1);
    let leader = world.until_led();
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    world.crash(others[0]);
    for _ in 0..20 {
        world.tick();
    }
    let refusal = world.refuses_goal(Goal::RemoveMemberId(others[1]));
    assert_eq!(refusal.reason, Reason::NoMajority);
    let says = format!("bring master {} back", others[0]);
    assert!(refusal.message.contains(&says), "{refusal:?}");
    assert_eq!(world.refuses_goal(Goal::LeadMemberId(others[0])).reason, Reason::MasterUnfit);
    // The one that is gone may be removed: the others are all there.
    world.orders(Goal::RemoveMemberId(others[0]));
    let mut stay = vec![leader, others[1]];
    stay.sort_unstable();
    world.until_voters(&stay);
}

#[test]
fn another_master_leads_if_somebody_wishes_it() {
    let mut world = World::new(3, 1);
    world.until_voters(&[1, 2, 3]);
    for _ in 0..3 {
        let leader = world.until_led();
        let to = (1..=3).find(|id| *id != leader).expect("there are three");
        let Reply::MastersChanging(_) = world.ask(change(Goal::LeadMemberId(to), true)) else {
            panic!("it can");
        };
        assert_eq!(world.until_led(), leader, "a dry run does nothing");
        world.orders(Goal::LeadMemberId(to));
        for _ in 0..30 {
            world.tick();
        }
        assert_eq!(world.until_led(), to);
    }
    let leader = world.until_led();
    world.orders(Goal::LeadMemberId(0));
    for _ in 0..30 {
        world.tick();
    }
    assert_ne!(world.until_led(), leader);
}

#[test]
fn watchers_and_stores_hear_of_the_masters_of_today() {
    let mut world = with_stores(1);
    world.until_voters(&[1, 2, 3]);
    world.routes.clear();
    world.grows(4, 2);
    world.until_voters(&[1, 3, 4]);
    let told: Vec<_> = world.routes.iter().filter(|it| !it.masters.is_empty()).collect();
    let today = ["m1:7720", "m3:7720", "m4:7720"];
    assert_eq!(told.last().expect("watchers were told").masters, today);
    assert_eq!(world.beat(1, 1, Vec::new()).masters, today);
    let Reply::Routes(whole) = world.ask(Request::Routes) else { panic!() };
    assert_eq!(whole.masters, today);
}

#[derive(Clone, Debug)]
enum Happens {
    Grow { instead_of: u64 },
    Remove(u64),
    Lead(u64),
    Crash(u64),
    Start,
    Cut(u64),
    Calm(usize),
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        2 => (0..8u64).prop_map(|instead_of| Happens::Grow { instead_of }),
        2 => (1..8u64).prop_map(Happens::Remove),
        1 => (1..8u64).prop_map(Happens::Lead),
        1 => (1..8u64).prop_map(Happens::Crash),
        2 => Just(Happens::Start),
        1 => (1..8u64).prop_map(Happens::Cut),
        4 => (1..40usize).prop_map(Happens::Calm),
    ]
}

impl World {
    /// Asks whoever leads, if anybody does.
    fn tries(&mut self, request: Request) -> Option<Reply> {
        let leader = self.leader()?;
        self.ask_at(leader, request)
    }

    fn tries_to_grow(&mut self, instead_of: u64) {
        let of = self.nodes.keys().max().expect("there is one") + 1;
        let joins = Request::Join(join(of, of));
        if self.tries(joins.clone()).is_none() || of > 12 {
            return;
        }
        self.tries(change(add(of, instead_of), false));
        if let Some(Reply::Joined(JoinResponse { member_id: 1.., .. })) = self.tries(joins) {
            let mut disk = SimDisk::default();
            disk.write(&init_store(&ident(of)), true).expect("no fault is planned");
            self.nodes.insert(of, Node { disk, core: None });
            self.start(of);
        }
    }

    fn undergoes(&mut self, what: Happens) {
        match what {
            Happens::Grow { instead_of } => self.tries_to_grow(instead_of),
            Happens::Remove(id) => _ = self.tries(change(Goal::RemoveMemberId(id), false)),
            Happens::Lead(id) => _ = self.tries(change(Goal::LeadMemberId(id), false)),
            Happens::Crash(id) => {
                if self.nodes.get(&id).is_some_and(|node| node.core.is_some()) {
                    self.crash(id);
                }
            }
            Happens::Start => self.all_start(),
            Happens::Cut(id) => _ = self.cut.insert(id),
            Happens::Calm(ticks) => (0..ticks).for_each(|_| self.tick()),
        }
    }

    fn all_start(&mut self) {
        self.cut.clear();
        let down: Vec<u64> =
            self.nodes.iter().filter(|(_, node)| node.core.is_none()).map(|(id, _)| *id).collect();
        down.into_iter().for_each(|id| self.start(id));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever happens to masters that come and go: once all are there again, those that are to be
    /// masters are, all have the same state, and ids that were given are not given again.
    #[test]
    fn members_become_what_was_ordered_whatever_happens(all in vec(happens(), 1..50)) {
        let mut world = World::new(3, 1);
        let mut last = world.ids();
        for what in all {
            world.undergoes(what);
        }
        world.all_start();
        let next = world.ids();
        prop_assert!(next > last);
        last = next;
        let wanted = {
            let leader = world.until_led();
            let state = world.nodes[&leader].core.as_ref().expect("it leads").state();
            let stays = |(id, it): (StoreId, &crate::state::MemberRecord)| {
                it.leaving.is_none().then_some(id.0)
            };
            state.members().iter().filter_map(stays).collect::<Vec<_>>()
        };
        // A member whose directory was never begun, since its answer was lost, begins now.
        for id in &wanted {
            if !world.nodes.contains_key(id) {
                let mut disk = SimDisk::default();
                disk.write(&init_store(&ident(*id)), true).expect("no fault is planned");
                world.nodes.insert(*id, Node { disk, core: None });
                world.start(*id);
            }
        }
        world.until_voters(&wanted);
        world.all_agree(&wanted);
        prop_assert!(world.ids() > last);
    }
}

/// It was away while others came, and now one of those leads: the log that would tell it of them comes
/// from nobody else.
#[test]
fn masters_of_whom_only_others_know_are_connected_until_the_log_has_come() {
    let mut world = World::new(3, 1);
    world.until_voters(&[1, 2, 3]);
    world.all_agree(&[1, 2, 3]);
    let mut core = world.nodes.get_mut(&2).and_then(|it| it.core.take()).expect("it lives");
    let told: BTreeMap<_, _> = [1, 2, 4].map(|id| (StoreId(id), member(id))).into();
    core.handle(world.now, Input::Members(told));
    let ids = |outputs: Outputs| {
        let members = outputs.members.map(|it| it.keys().map(|id| id.0).collect::<Vec<_>>());
        members.unwrap_or_default()
    };
    assert_eq!(ids(core.end_turn(world.now)), [1, 2, 3, 4], "the log alone takes any away");
    assert_eq!(ids(core.end_turn(world.now)), [0; 0], "that is no news");
    let stale = [1, 2, 3].map(|id| (StoreId(id), member(id))).into();
    core.handle(world.now, Input::Members(stale));
    assert_eq!(ids(core.end_turn(world.now)), [1, 2, 3]);
}

/// What it is told when it is back is that its range is gone, not that another one leads.
#[test]
fn a_leader_that_was_removed_while_it_was_cut_off_leads_no_more() {
    let mut world = World::new(3, 1);
    let leader = world.until_led();
    world.until_voters(&[1, 2, 3]);
    world.tries(change(Goal::RemoveMemberId(leader), false));
    world.cut.insert(leader);
    let stay: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    world.until_voters(&stay);
    world.cut.clear();
    for _ in 0..30 {
        world.tick();
    }
    let gone = world.nodes[&leader].core.as_ref().expect("it lives");
    assert!(gone.is_removed() && !gone.leads());
    let Some(Reply::Refused(refusal)) = world.ask_at(leader, Request::Routes) else { panic!() };
    assert_eq!(refusal.reason, Reason::NotLeader);
}
