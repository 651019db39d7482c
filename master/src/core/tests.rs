//! Three masters on a network and on disks of this test's making, in one thread.

use std::collections::VecDeque;

use bytes::Bytes;
use proptest::{collection::vec, prelude::*};
use sharklock_multiraft::{Config, Disk as _, SimDisk, StoreIdent, bootstrap};
use sharklock_proto::{
    ClusterId, Identity,
    internal::v1::{
        AllocateIdsRequest, RaiseLevel, RangeDescriptor, RangeReport, RegisterStoreRequest,
        StoreAddress, StoreHeartbeatRequest, StoreHeartbeatResponse, StoreState,
    },
};
use sharklock_rangemap::{Bounds, Descriptor, Epoch, PeerId, Replica, Role};

use super::*;

mod members;
mod operations;
mod rebalancing;
mod recovering;
mod scheduling;

const TICK: Duration = Duration::from_millis(100);
const CLUSTER: ClusterId = ClusterId::from_bytes([7; 16]);
/// Virtual time in which a group of three that can talk must have a leader again.
const PATIENCE_TICKS: usize = 200;

/// A master's machine.
struct Node {
    disk: SimDisk,
    core: Option<MasterCore>,
}

enum Packet {
    Message(RangeMessage),
    Heartbeats(Heartbeats),
    Snapshot(SnapshotMessage),
}

impl Packet {
    fn ends(&self) -> (u64, u64) {
        match self {
            Self::Message(message) => (message.from_store, message.to_store),
            Self::Heartbeats(beats) => (beats.from_store, beats.to_store),
            Self::Snapshot(snapshot) => (snapshot.from_store, snapshot.to_store),
        }
    }
}

struct World {
    now: Duration,
    nodes: BTreeMap<u64, Node>,
    packets: VecDeque<Packet>,
    replies: BTreeMap<u64, Reply>,
    routes: Vec<RoutesUpdate>,
    asked: u64,
    /// Masters that nothing reaches or leaves.
    cut: BTreeSet<u64>,
    replicas: u32,
    /// So many have formed the cluster.
    founders: u64,
}

fn ident(node: u64) -> StoreIdent {
    StoreIdent {
        cluster_id: CLUSTER,
        store: StoreId(node),
        ident: Identity::from_bytes([node as u8; 16]),
    }
}

fn member(node: u64) -> Member {
    Member { ident: ident(node).ident, address: format!("m{node}:7720") }
}

impl World {
    fn new(members: u64, replicas: u32) -> Self {
        let voter = |id| Replica { peer: PeerId(id), store: StoreId(id), role: Role::Voter };
        let epoch = Epoch { conf_ver: 1, version: 1 };
        let group = Descriptor::new(GROUP, Bounds::ALL, epoch, (1..=members).map(voter).collect());
        let mut nodes = BTreeMap::new();
        for id in 1..=members {
            let mut disk = SimDisk::default();
            disk.write(&bootstrap(&ident(id), &group), true).expect("no fault is planned");
            nodes.insert(id, Node { disk, core: None });
        }
        let mut world = Self {
            now: Duration::ZERO,
            nodes,
            packets: VecDeque::new(),
            replies: BTreeMap::new(),
            routes: Vec::new(),
            asked: 0,
            cut: BTreeSet::new(),
            replicas,
            founders: members,
        };
        (1..=members).for_each(|id| world.start(id));
        world
    }

    fn start(&mut self, id: u64) {
        let members = self.founders;
        let settings = Settings {
            cluster_id: CLUSTER,
            members: (1..=members).map(|id| (StoreId(id), member(id))).collect(),
            replicas: self.replicas,
            limits: SilenceLimits::default(),
            tick: TICK,
            flush: 3 * TICK,
        };
        let node = self.nodes.get_mut(&id).expect("it is a member");
        let store = Store::recover(Config::default(), &node.disk).expect("no crash harms a disk");
        node.core = Some(MasterCore::new(self.now, settings, store));
    }

    /// Power is lost: what was not synced is gone.
    fn crash(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).expect("it is a member");
        node.core = None;
        node.disk.crash_keeping(0);
    }

    fn tick(&mut self) {
        self.now += TICK;
        for _ in 0..20 {
            let ids: Vec<u64> = self.nodes.keys().copied().collect();
            ids.into_iter().for_each(|id| self.turn(id));
            let Some(packets) = Some(std::mem::take(&mut self.packets)).filter(|p| !p.is_empty())
            else {
                return;
            };
            packets.into_iter().for_each(|packet| self.deliver(packet));
        }
    }

    fn turn(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).expect("it is a member");
        let Some(core) = &mut node.core else { return };
        loop {
            let outputs = core.end_turn(self.now);
            self.packets.extend(outputs.messages.into_iter().map(Packet::Message));
            self.packets.extend(outputs.heartbeats.into_iter().map(Packet::Heartbeats));
            self.packets.extend(outputs.snapshots.into_iter().map(Packet::Snapshot));
            self.replies.extend(outputs.replies);
            self.routes.extend(outputs.routes);
            if outputs.batch.is_none() && outputs.chores.is_empty() {
                return;
            }
            for chore in outputs.chores {
                if let Some(done) = chore.run(&node.disk) {
                    core.handle(self.now, Input::ChoreDone(Box::new(done)));
                }
            }
            if let Some(batch) = outputs.batch {
                node.disk.write(&batch.ops, true).expect("no fault is planned");
                core.handle(self.now, Input::Persisted(batch.seq));
            }
        }
    }

    fn deliver(&mut self, packet: Packet) {
        let (from, to) = packet.ends();
        if self.cut.contains(&from) || self.cut.contains(&to) {
            return;
        }
        let Some(Node { core: Some(core), .. }) = self.nodes.get_mut(&to) else { return };
        let input = match packet {
            Packet::Message(message) => Input::Message(Box::new(message)),
            Packet::Heartbeats(beats) => Input::Heartbeats(Box::new(beats)),
            Packet::Snapshot(snapshot) => Input::Snapshots(vec![snapshot]),
        };
        core.handle(self.now, input);
    }

    fn leader(&self) -> Option<u64> {
        let leads = |node: &Node| node.core.as_ref().is_some_and(MasterCore::leads);
        let mut leaders =
            self.nodes.iter().filter(|(id, node)| leads(node) && !self.cut.contains(id));
        leaders.next().map(|(id, _)| *id)
    }

    fn until_led(&mut self) -> u64 {
        for _ in 0..PATIENCE_TICKS {
            if let Some(leader) = self.leader() {
                return leader;
            }
            self.tick();
        }
        panic!("no leader after {PATIENCE_TICKS} ticks");
    }

    /// Asks one master, and gives its answer, if there is one within a few ticks.
    fn ask_at(&mut self, id: u64, request: Request) -> Option<Reply> {
        self.asked += 1;
        let number = self.asked;
        let core = self.nodes.get_mut(&id).expect("it is a member").core.as_mut()?;
        core.handle(self.now, Input::Ask(Box::new(Ask { number, request })));
        for _ in 0..5 {
            self.tick();
            if let Some(reply) = self.replies.remove(&number) {
                return Some(reply);
            }
        }
        None
    }

    fn ask(&mut self, request: Request) -> Reply {
        for _ in 0..20 {
            let leader = self.until_led();
            match self.ask_at(leader, request.clone()) {
                Some(Reply::Refused(refusal)) if refusal.reason.is_retryable() => self.tick(),
                Some(reply) => return reply,
                None => {}
            }
        }
        panic!("no answer");
    }

    fn register(&mut self, request: RegisterStoreRequest) -> Result<u64, Refusal> {
        match self.ask(Request::RegisterStore(request)) {
            Reply::Registered(answer) => Ok(answer.store_id),
            Reply::Refused(refusal) => Err(refusal),
            other => panic!("{other:?}"),
        }
    }

    /// The next one of a store; it begins with everything.
    fn heartbeat(
        &mut self,
        store_id: u64,
        life: u8,
        ranges: Vec<RangeReport>,
    ) -> StoreHeartbeatRequest {
        self.asked += 1;
        StoreHeartbeatRequest {
            cluster_id: CLUSTER.to_wire(),
            store_id,
            start: life.into(),
            life: vec![life; 16].into(),
            seq: self.asked,
            ranges,
            replicas_count: 1,
            ..StoreHeartbeatRequest::default()
        }
    }

    fn beat(&mut self, store: u64, life: u8, ranges: Vec<RangeReport>) -> StoreHeartbeatResponse {
        let beat = self.heartbeat(store, life, ranges);
        match self.ask(Request::StoreHeartbeat(beat)) {
            Reply::Heard(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    fn state(&self) -> &ClusterState {
        let leader = self.leader().expect("somebody leads");
        self.nodes[&leader].core.as_ref().expect("it lives").state()
    }
}

fn registration(dir: u8, life: u8, address: &str) -> RegisterStoreRequest {
    RegisterStoreRequest {
        ident: vec![dir; 16].into(),
        address: address.to_owned(),
        start: life.into(),
        life: vec![life; 16].into(),
        version: "1".to_owned(),
        feature_level: 3,
        ..RegisterStoreRequest::default()
    }
}

fn report(descriptor: &RangeDescriptor, term: u64) -> RangeReport {
    let descriptor = Some(descriptor.clone());
    RangeReport { descriptor, term, feature_level: 3, ..RangeReport::default() }
}

/// A world in which stores 1 to 3 are registered, by life 1 of directories 1 to 3.
fn with_stores(replicas: u32) -> World {
    let mut world = World::new(3, replicas);
    for dir in 1..=3 {
        let address = format!("s{dir}:7710");
        assert_eq!(world.register(registration(dir, 1, &address)), Ok(dir.into()));
    }
    (0..5).for_each(|_| world.tick());
    world
}

#[test]
fn directories_keep_their_ids_and_new_ones_get_new_ones() {
    let mut world = with_stores(3);
    assert_eq!(world.register(registration(2, 2, "s2:7710")), Ok(2), "the same address: a restart");
    assert_eq!(world.register(registration(4, 1, "s4:7710")), Ok(4));
    let old = world.until_led();
    world.crash(old);
    assert_eq!(world.register(registration(2, 3, "s2:7710")), Ok(2), "another leader knows it");
    assert_eq!(world.register(registration(5, 1, "s5:7710")), Ok(5));
}

#[test]
fn a_copy_of_a_live_stores_directory_is_refused_and_names_it() {
    let mut world = with_stores(3);
    world.beat(2, 1, Vec::new());
    let refused = world.register(registration(2, 9, "elsewhere:7710")).expect_err("a copy");
    assert_eq!(refused.reason, Reason::StoreCopied);
    assert!(refused.message.contains("s2:7710"), "{}", refused.message);
    world.now += SilenceLimits::default().disconnected;
    assert_eq!(world.register(registration(2, 9, "moved:7710")), Ok(2), "the first has ended");
    let beat = world.heartbeat(2, 1, Vec::new());
    let refused = world.ask(Request::StoreHeartbeat(beat));
    let Reply::Refused(refused) = refused else { panic!("{refused:?}") };
    assert_eq!(refused.reason, Reason::StoreSuperseded);
}

#[test]
fn of_two_that_register_at_once_the_second_changes_nothing() {
    let mut world = with_stores(3);
    world.now += SilenceLimits::default().disconnected;
    let leader = world.until_led();
    let core = world.nodes.get_mut(&leader).and_then(|node| node.core.as_mut()).expect("it leads");
    let requests = [
        registration(2, 8, "s2:7710"),
        registration(2, 9, "copy:7710"),
        registration(7, 1, "s7:7710"),
        registration(8, 1, "s7:7710"),
    ];
    for (number, request) in (1_000..).zip(requests) {
        core.handle(
            world.now,
            Input::Ask(Box::new(Ask { number, request: Request::RegisterStore(request) })),
        );
    }
    (0..5).for_each(|_| world.tick());
    let refused = |reply: Option<Reply>| match reply {
        Some(Reply::Refused(refusal)) => Some(refusal.reason),
        Some(_) => None,
        None => panic!("no answer"),
    };
    let reasons: Vec<_> = (1_000..1_004).map(|n| refused(world.replies.remove(&n))).collect();
    assert_eq!(reasons, [None, Some(Reason::Undecided), None, Some(Reason::Undecided)]);
    assert_eq!(world.state().stores()[&StoreId(2)].address, "s2:7710");
    assert_eq!(world.state().stores().len(), 4);
}

/// What a store's process is refused with.
fn refused(world: &mut World, request: Request) -> Refusal {
    match world.ask(request) {
        Reply::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_an_ended_process_said_comes_late_and_harms_nobody() {
    let mut world = with_stores(3);
    let late = registration(2, 1, "s2:7710");
    let beat = Request::StoreHeartbeat(world.heartbeat(2, 1, Vec::new()));
    assert_eq!(world.register(registration(2, 2, "s2:7710")), Ok(2));
    for leaders in 0..2 {
        let refusal = world.register(late.clone()).expect_err("its process has ended");
        assert_eq!(refusal.reason, Reason::StoreOlderCopy, "{leaders}: {}", refusal.message);
        assert!(refusal.message.contains("start 2 is known, at s2:7710, and this is start 1"));
        assert_eq!(refused(&mut world, beat.clone()).reason, Reason::StoreSuperseded);
        world.beat(2, 2, Vec::new());
        let old = world.until_led();
        if leaders == 0 {
            world.crash(old);
        }
    }
    let known = &world.state().stores()[&StoreId(2)];
    assert_eq!((known.start.number, known.address.as_str()), (2, "s2:7710"));
}

#[test]
fn a_registration_of_the_living_process_that_comes_twice_is_answered_twice() {
    let mut world = with_stores(3);
    assert_eq!(world.register(registration(2, 1, "s2:7710")), Ok(2));
    let old = world.until_led();
    world.crash(old);
    assert_eq!(world.register(registration(2, 1, "s2:7710")), Ok(2));
    // Once it has said that it ends, it does not come back: the next one need not wait for it.
    let leaving = StoreHeartbeatRequest { is_leaving: true, ..world.heartbeat(2, 1, Vec::new()) };
    world.ask(Request::StoreHeartbeat(leaving));
    let refusal = world.register(registration(2, 1, "s2:7710")).expect_err("it has left");
    assert_eq!(refusal.reason, Reason::StoreSuperseded);
    assert_eq!(world.register(registration(2, 2, "elsewhere:7710")), Ok(2));
}

#[test]
fn a_directory_that_was_put_back_from_an_older_copy_is_refused_by_every_leading_master() {
    let mut world = with_stores(3);
    assert_eq!(world.register(registration(2, 5, "s2:7710")), Ok(2));
    for leaders in 0..2 {
        world.now += SilenceLimits::default().disconnected;
        // The same start by another process; then an older one, at its own address and elsewhere.
        let other = RegisterStoreRequest { start: 5, ..registration(2, 9, "s2:7710") };
        for copy in [other, registration(2, 4, "s2:7710"), registration(2, 3, "elsewhere:7710")] {
            let refusal = world.register(copy).expect_err("an older copy");
            assert_eq!(refusal.reason, Reason::StoreOlderCopy, "{leaders}");
            assert!(refusal.message.contains("Put the original disk back"), "{}", refusal.message);
        }
        world.beat(2, 5, Vec::new());
        let old = world.until_led();
        if leaders == 0 {
            world.crash(old);
        }
    }
    assert_eq!(world.register(registration(2, 6, "s2:7710")), Ok(2), "the original, again");
}

#[test]
fn a_process_that_the_masters_have_forgotten_is_told_and_goes_on() {
    let mut world = with_stores(3);
    let beat = Request::StoreHeartbeat(world.heartbeat(2, 9, Vec::new()));
    let leader = world.until_led();
    let Some(Reply::Refused(refusal)) = world.ask_at(leader, beat) else { panic!("it is told") };
    // A deposed master that has not noticed would say the same: another one is to be asked.
    assert_eq!(refusal.reason, Reason::Behind);
    assert!(refusal.reason.is_retryable());
    assert!(refusal.message.contains("restored from an older state"), "{}", refusal.message);
    let uncounted = RegisterStoreRequest { start: 0, ..registration(2, 2, "s2:7710") };
    assert_eq!(world.register(uncounted).expect_err("no number").reason, Reason::Invalid);
}

#[test]
fn a_store_that_said_good_bye_may_come_back_anywhere_at_once() {
    let mut world = with_stores(3);
    let leaving = StoreHeartbeatRequest { is_leaving: true, ..world.heartbeat(2, 1, Vec::new()) };
    world.ask(Request::StoreHeartbeat(leaving));
    assert_eq!(world.register(registration(2, 2, "elsewhere:7710")), Ok(2));
    let refused = world.register(registration(2, 3, "s2:7710")).expect_err("it lives again");
    assert_eq!(refused.reason, Reason::StoreCopied);
}

#[test]
fn a_new_leader_waits_before_it_believes_that_a_store_has_moved() {
    let mut world = with_stores(3);
    let old = world.until_led();
    world.crash(old);
    let leader = world.until_led();
    let moved = registration(2, 9, "elsewhere:7710");
    let reply = world.ask_at(leader, Request::RegisterStore(moved.clone())).expect("it leads");
    let Reply::Refused(refusal) = reply else { panic!("{reply:?}") };
    assert_eq!(refusal.reason, Reason::Undecided);
    world.beat(2, 1, Vec::new());
    let refused = world.register(moved).expect_err("the first lives");
    assert_eq!(refused.reason, Reason::StoreCopied);
}

#[test]
fn wiped_claimed_and_foreign_directories_are_refused() {
    let mut world = with_stores(3);
    let wiped = world.register(registration(9, 9, "s2:7710")).expect_err("another directory");
    assert_eq!(wiped.reason, Reason::StoreWiped);
    assert!(wiped.message.contains("advertise another address"), "{}", wiped.message);
    let claims = RegisterStoreRequest { store_id: 2, ..registration(9, 9, "s9:7710") };
    assert_eq!(world.register(claims).expect_err("not its").reason, Reason::StoreUnknown);
    let other = RegisterStoreRequest { store_id: 3, ..registration(2, 1, "s2:7710") };
    assert_eq!(world.register(other).expect_err("it is store 2").reason, Reason::StoreUnknown);
    let cluster_id = Bytes::from_static(&[8; 16]);
    let foreign = RegisterStoreRequest { cluster_id, ..registration(2, 1, "s2:7710") };
    assert_eq!(world.register(foreign).expect_err("foreign").reason, Reason::ClusterMismatch);
    let short = RegisterStoreRequest { ident: vec![1].into(), ..registration(2, 1, "s2:7710") };
    let refused = world.register(short).expect_err("no ident");
    assert!(refused.message.contains("16 are expected"), "{}", refused.message);
    assert_eq!(world.state().stores().len(), 3);
}

#[test]
fn the_first_range_is_made_once_on_as_many_stores_as_are_wanted() {
    let mut world = World::new(3, 3);
    for dir in 1..=2 {
        world.register(registration(dir, 1, &format!("s{dir}:7710"))).expect("new");
        assert!(world.state().ranges().is_empty(), "three are wanted");
        assert!(world.beat(dir.into(), 1, Vec::new()).bootstrap.is_empty());
    }
    for dir in 3..=4 {
        world.register(registration(dir, 1, &format!("s{dir}:7710"))).expect("new");
    }
    let first = world.beat(1, 1, Vec::new()).bootstrap;
    assert_eq!(first.len(), 1);
    let stores: Vec<_> = first[0].replicas.iter().map(|replica| replica.store_id).collect();
    assert_eq!(stores, [1, 2, 3]);
    assert_eq!(world.beat(3, 1, Vec::new()).bootstrap, first);
    assert!(world.beat(4, 1, Vec::new()).bootstrap.is_empty(), "it has no replica");
    let old = world.until_led();
    world.crash(old);
    assert_eq!(world.beat(2, 1, Vec::new()).bootstrap, first, "a new leader goes on with it");
    world.beat(2, 1, vec![report(&first[0], 6)]);
    assert!(world.beat(1, 1, Vec::new()).bootstrap.is_empty(), "it lives");
    let next = world.until_led();
    world.start(old);
    world.crash(next);
    assert!(world.beat(1, 1, Vec::new()).bootstrap.is_empty(), "for ever");
}

#[test]
fn a_store_that_missed_the_birth_of_the_first_range_is_left_to_its_leader() {
    let mut world = with_stores(3);
    world.register(registration(4, 1, "s4:7710")).expect("new");
    let first = world.beat(1, 1, Vec::new()).bootstrap;
    // Two of three elect a leader before the third hears of the range, which then ends.
    world.beat(2, 1, vec![report(&first[0], 6)]);
    let old = world.until_led();
    world.crash(old);
    let mut without = |store| {
        let beat = world.heartbeat(store, 1, vec![]);
        let request = StoreHeartbeatRequest { replicas_count: 0, ..beat };
        match world.ask(Request::StoreHeartbeat(request)) {
            Reply::Heard(answer) => answer.bootstrap,
            other => panic!("{other:?}"),
        }
    };
    // Made now, it could be one that has been moved away since, without its votes.
    assert!(without(3).is_empty(), "the range's leader asks it for a replica");
    assert!(without(4).is_empty(), "it was never to have one");
}

#[test]
fn a_range_follows_newer_rules_once_the_programs_of_all_its_replicas_know_them() {
    let mut world = World::new(3, 3);
    let of_level = |dir: u8, life, feature_level| {
        let address = format!("s{dir}:7710");
        RegisterStoreRequest { feature_level, ..registration(dir, life, &address) }
    };
    for (dir, level) in [(1, 4), (2, 3), (3, 2), (4, 9)] {
        assert_eq!(world.register(of_level(dir, 1, level)), Ok(dir.into()));
    }
    let mut heard = world.beat(1, 1, Vec::new());
    assert_eq!(heard.bootstrap_level, 2, "all of its replicas begin alike");
    let first = heard.bootstrap.remove(0);
    let at = |level| vec![RangeReport { feature_level: level, ..report(&first, 6) }];
    assert_eq!(world.beat(1, 1, at(2)).raise, [], "store 3 knows no more");

    assert_eq!(world.register(of_level(3, 2, 5)), Ok(3), "its program was upgraded");
    let (range_id, conf_ver) = (first.range_id, first.conf_ver);
    let raise = [RaiseLevel { range_id, conf_ver, feature_level: 3 }];
    assert_eq!(world.beat(1, 1, Vec::new()).raise, raise);
    assert_eq!(world.beat(1, 1, Vec::new()).raise, raise, "until it is done");
    assert_eq!(world.beat(2, 1, Vec::new()).raise, [], "it does not lead");

    let old = world.until_led();
    world.crash(old);
    assert_eq!(world.beat(1, 1, Vec::new()).raise, [], "a new leader has not heard of the range");
    assert_eq!(world.beat(1, 1, at(2)).raise, raise);
    assert_eq!(world.beat(1, 1, at(3)).raise, []);
}

#[test]
fn a_store_that_does_not_say_which_rules_it_knows_is_refused() {
    let mut world = World::new(1, 1);
    let silent = RegisterStoreRequest { feature_level: 0, ..registration(1, 1, "s1:7710") };
    let refused = world.register(silent).expect_err("it says nothing");
    assert!(refused.message.contains("feature_level"), "{}", refused.message);
}

#[test]
fn leaders_of_ranges_are_known_by_their_terms_and_watchers_hear_of_changes() {
    let mut world = with_stores(3);
    let first = world.beat(1, 1, Vec::new()).bootstrap.remove(0);
    world.routes.clear();
    world.beat(1, 1, vec![report(&first, 6)]);
    let route = world.routes.pop().expect("a change").routes.remove(0);
    assert_eq!((route.leader_store_id, route.term), (1, 6));
    world.beat(2, 1, vec![report(&first, 8)]);
    assert_eq!(world.routes.pop().expect("a change").routes[0].leader_store_id, 2);
    world.beat(1, 1, vec![report(&first, 7)]);
    assert_eq!(world.routes, [], "an older term teaches nothing");
    let nonsense = RangeDescriptor { range_id: 0, ..first };
    world.beat(1, 1, vec![report(&nonsense, 9)]);
    assert_eq!(world.routes, []);
    let Reply::Routes(whole) = world.ask(Request::Routes) else { panic!("routes") };
    assert!(whole.is_whole);
    assert_eq!((whole.routes.len(), whole.stores.len()), (1, 3));
    let addresses: Vec<_> = whole.stores.iter().map(|store| &store.address).collect();
    assert_eq!(addresses, ["s1:7710", "s2:7710", "s3:7710"]);
}

#[test]
fn silent_stores_are_disconnected_then_down_and_a_new_leader_begins_to_count_anew() {
    let mut world = with_stores(3);
    let states = |world: &mut World| {
        let Reply::Cluster(cluster) = world.ask(Request::Cluster) else { panic!("the cluster") };
        cluster.stores.iter().map(|store| store.state()).collect::<Vec<_>>()
    };
    assert_eq!(states(&mut world), [StoreState::Up; 3]);
    world.now += SilenceLimits::default().disconnected;
    world.beat(1, 1, Vec::new());
    assert_eq!(states(&mut world)[..2], [StoreState::Up, StoreState::Disconnected]);
    world.now += SilenceLimits::default().down;
    assert_eq!(states(&mut world), [StoreState::Down; 3]);
    let old = world.until_led();
    world.crash(old);
    assert_eq!(states(&mut world), [StoreState::Up; 3]);
}

/// A heartbeat with the changes from `since` to `upto`; up to where the leading master has heard.
fn hears(world: &mut World, (since, upto): (u64, u64), ranges: Vec<RangeReport>) -> u64 {
    let beat = StoreHeartbeatRequest { since, upto, ..world.heartbeat(1, 1, ranges) };
    match world.ask(Request::StoreHeartbeat(beat)) {
        Reply::Heard(answer) => answer.heard,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_master_says_how_much_it_has_heard_and_takes_in_nothing_behind_a_gap() {
    let mut world = with_stores(3);
    let first = RangeDescriptor::from(world.state().ranges().iter().next().expect("it is made"));
    let elsewhere = RangeDescriptor { conf_ver: 9, ..first.clone() };
    let conf_ver =
        |world: &World| world.state().ranges().range(RangeId(1)).map(|it| it.epoch.conf_ver);
    assert_eq!(hears(&mut world, (0, 1_000), vec![report(&first, 1)]), 1_000);
    assert_eq!(hears(&mut world, (1_000, 1_002), Vec::new()), 1_002);
    assert_eq!(hears(&mut world, (1_000, 1_003), Vec::new()), 1_003, "an answer was lost");
    assert_eq!(hears(&mut world, (1_003, 1_003), Vec::new()), 1_003);
    // A master that was deposed and did not know has answered a heartbeat, up to change 1,010.
    assert_eq!(hears(&mut world, (1_010, 1_011), vec![report(&elsewhere, 2)]), 1_003);
    assert_eq!(conf_ver(&world), Some(1), "the rest is said first");
    assert_eq!(hears(&mut world, (1_003, 1_011), vec![report(&elsewhere, 2)]), 1_011);
    (0..5).for_each(|_| world.tick());
    assert_eq!(conf_ver(&world), Some(9));
    let old = world.until_led();
    world.crash(old);
    assert_eq!(hears(&mut world, (1_011, 1_012), Vec::new()), 0, "a new one has heard nothing");
    assert_eq!(hears(&mut world, (0, 1_000), Vec::new()), 1_000);
    // The store begins anew, in a life of its own.
    assert_eq!(world.register(registration(1, 2, "s1:7710")), Ok(1));
    let beat = StoreHeartbeatRequest { since: 700, upto: 701, ..world.heartbeat(1, 2, Vec::new()) };
    let Reply::Heard(answer) = world.ask(Request::StoreHeartbeat(beat)) else { panic!("heard") };
    assert_eq!(answer.heard, 0, "what its former life said does not count");
}

#[test]
fn a_heartbeat_that_comes_late_takes_nothing_back() {
    let mut world = with_stores(3);
    let first = RangeDescriptor::from(world.state().ranges().iter().next().expect("it is made"));
    let old = RangeReport { feature_level: 2, ..report(&first, 1) };
    let early =
        StoreHeartbeatRequest { since: 0, upto: 1, ..world.heartbeat(1, 1, vec![old.clone()]) };
    assert_eq!(hears(&mut world, (0, 2), vec![report(&first, 1)]), 2);
    let Reply::Heard(answer) = world.ask(Request::StoreHeartbeat(early)) else { panic!("heard") };
    assert_eq!((answer.heard, answer.raise.len()), (2, 0), "its rules are level 3 by now");
}

#[test]
fn what_the_log_has_no_room_for_is_not_heard() {
    let mut world = with_stores(3);
    let leader = world.until_led();
    let first = RangeDescriptor::from(world.state().ranges().iter().next().expect("it is made"));
    let beat = StoreHeartbeatRequest {
        since: 0,
        upto: 1,
        ..world.heartbeat(1, 1, vec![report(&RangeDescriptor { conf_ver: 9, ..first }, 1)])
    };
    let core = world.nodes.get_mut(&leader).and_then(|node| node.core.as_mut()).expect("it leads");
    for _ in 0..WAITING_MAX {
        core.proposals.ask(Command::AllocateIds(Default::default()), Asker::Nobody);
    }
    core.handle(
        world.now,
        Input::Ask(Box::new(Ask { number: 5_000, request: Request::StoreHeartbeat(beat) })),
    );
    world.tick();
    let reply = world.replies.remove(&5_000);
    let Some(Reply::Heard(answer)) = reply else { panic!("{reply:?}") };
    assert_eq!(answer.heard, 0);
}

#[test]
fn a_store_that_has_the_list_of_stores_is_not_sent_it_again() {
    let mut world = with_stores(3);
    let ask = |world: &mut World, stores_hash: u64| {
        let beat = StoreHeartbeatRequest { stores_hash, ..world.heartbeat(1, 1, Vec::new()) };
        match world.ask(Request::StoreHeartbeat(beat)) {
            Reply::Heard(answer) => answer,
            other => panic!("{other:?}"),
        }
    };
    let first = ask(&mut world, 0);
    assert_eq!(first.stores.len(), 3);
    let again = ask(&mut world, first.stores_hash);
    assert_eq!((again.stores.len(), again.stores_hash), (0, first.stores_hash));
    let old = world.until_led();
    world.crash(old);
    assert_eq!(ask(&mut world, first.stores_hash).stores.len(), 0, "every master has this list");
    assert_eq!(world.register(registration(4, 1, "s4:7710")), Ok(4));
    assert_eq!(ask(&mut world, first.stores_hash).stores.len(), 4);
}

#[test]
fn a_follower_names_the_leader_and_a_deposed_leader_answers_nothing() {
    let mut world = with_stores(3);
    let leader = world.until_led();
    let follower = 1 + leader % 3;
    let reply = world.ask_at(follower, Request::Routes).expect("it lives");
    let Reply::Refused(refusal) = reply else { panic!("{reply:?}") };
    assert_eq!(refusal, Refusal::not_leader(Some(format!("m{leader}:7720"))));
    world.cut.insert(leader);
    let next = world.until_led();
    assert_ne!(next, leader);
    let ids = Request::AllocateIds(AllocateIdsRequest { cluster_id: CLUSTER.to_wire(), count: 10 });
    let reply = world.ask_at(leader, ids);
    assert!(matches!(reply, None | Some(Reply::Refused(_))), "{reply:?}");
}

#[test]
fn the_cluster_tells_members_and_what_is_missing() {
    let mut world = World::new(3, 3);
    world.register(registration(1, 1, "s1:7710")).expect("new");
    let leader = world.until_led();
    let down = 1 + leader % 3;
    world.crash(down);
    (0..50).for_each(|_| world.tick());
    let Reply::Cluster(cluster) = world.ask(Request::Cluster) else { panic!("the cluster") };
    assert_eq!((cluster.replicas_wanted, cluster.is_bootstrapped), (3, false));
    let up: Vec<_> = cluster.masters.iter().map(|member| member.is_up).collect();
    let expected: Vec<_> = (1..=3).map(|id| id != down).collect();
    assert_eq!(up, expected);
    let leaders: Vec<_> = cluster.masters.iter().filter(|member| member.is_leader).collect();
    assert_eq!(leaders.len(), 1);
    assert_eq!(cluster.stores[0].address, "s1:7710");
}

/// One thing that happens.
#[derive(Clone, Debug)]
enum Event {
    Tick(u8),
    Crash(u64),
    Start(u64),
    Cut(u64),
    Heal(u64),
    Ids(u32),
    Register(u8),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (1..30u8).prop_map(Event::Tick),
        1 => (1..=3u64).prop_map(Event::Crash),
        2 => (1..=3u64).prop_map(Event::Start),
        1 => (1..=3u64).prop_map(Event::Cut),
        2 => (1..=3u64).prop_map(Event::Heal),
        4 => (1..50u32).prop_map(Event::Ids),
        3 => (1..9u8).prop_map(Event::Register),
    ]
}

/// The ids and stores that were acknowledged.
#[derive(Default)]
struct Given {
    ids: BTreeSet<u64>,
    stores: BTreeMap<u8, u64>,
}

impl Given {
    fn happen(&mut self, world: &mut World, event: Event) {
        match event {
            Event::Tick(ticks) => (0..ticks).for_each(|_| world.tick()),
            Event::Crash(id) => world.crash(id),
            Event::Start(id) if world.nodes[&id].core.is_none() => world.start(id),
            Event::Start(_) => {}
            Event::Cut(id) => _ = world.cut.insert(id),
            Event::Heal(id) => _ = world.cut.remove(&id),
            Event::Ids(count) => {
                let cluster_id = CLUSTER.to_wire();
                let request = Request::AllocateIds(AllocateIdsRequest { cluster_id, count });
                if let Some(Reply::Allocated(answer)) = self.try_ask(world, request) {
                    for id in answer.first..answer.first + u64::from(count) {
                        assert!(self.ids.insert(id), "{id} was given twice");
                    }
                }
            }
            Event::Register(dir) => {
                let request = registration(dir, 1, &format!("s{dir}:7710"));
                let request = Request::RegisterStore(request);
                if let Some(Reply::Registered(answer)) = self.try_ask(world, request) {
                    let id = *self.stores.entry(dir).or_insert(answer.store_id);
                    assert_eq!(id, answer.store_id, "a directory keeps its id");
                }
            }
        }
    }

    fn try_ask(&mut self, world: &mut World, request: Request) -> Option<Reply> {
        let leader = world.leader()?;
        world.ask_at(leader, request)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn ids_are_given_once_whatever_happens_to_three_masters(events in vec(event(), 1..60)) {
        let mut world = World::new(3, 3);
        let mut given = Given::default();
        events.into_iter().for_each(|event| given.happen(&mut world, event));
        world.cut.clear();
        for id in 1..=3 {
            if world.nodes[&id].core.is_none() {
                world.start(id);
            }
        }
        world.until_led();
        (0..100).for_each(|_| world.tick());
        let ids: BTreeSet<_> = given.stores.values().collect();
        prop_assert_eq!(ids.len(), given.stores.len(), "no two directories have one id");
        let hashes: BTreeSet<_> = world.nodes.values().map(|node| {
            let status = node.core.as_ref().expect("all live").store().status(GROUP);
            let status = status.expect("it has its group");
            (status.applied, status.state_hash)
        }).collect();
        prop_assert_eq!(hashes.len(), 1, "all agree once they can talk");
        let addresses: Vec<StoreAddress> = world.state().stores().iter().map(|(id, store)| {
            StoreAddress {
                store_id: id.0,
                ident: store.ident.to_wire(),
                address: store.address.clone(),
            }
        }).collect();
        for (dir, id) in &given.stores {
            let known = addresses.iter().find(|store| store.store_id == *id);
            prop_assert_eq!(known.map(|store| store.ident[0]), Some(*dir), "acknowledged, so kept");
        }
    }
}

#[test]
fn watchers_hear_of_a_range_that_was_not_known_before() {
    let mut world = with_stores(3);
    let first = world.beat(1, 1, Vec::new()).bootstrap.remove(0);
    world.beat(1, 1, vec![report(&first, 6)]);
    world.routes.clear();
    let left = RangeDescriptor { end: b"m".as_slice().into(), version: 2, ..first.clone() };
    let right =
        RangeDescriptor { range_id: 2, start: b"m".as_slice().into(), version: 2, ..first.clone() };
    world.beat(2, 1, vec![report(&left, 7), report(&right, 7)]);
    let told: BTreeMap<u64, u64> = world
        .routes
        .iter()
        .flat_map(|update| &update.routes)
        .filter_map(|route| Some((route.descriptor.as_ref()?, route.leader_store_id)))
        .filter(|(descriptor, _)| descriptor.version == 2)
        .map(|(descriptor, leader)| (descriptor.range_id, leader))
        .collect();
    assert_eq!(told, BTreeMap::from([(1, 2), (2, 2)]));
}
