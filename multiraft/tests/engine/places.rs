//! The places of snapshots at both ends: who gets one, and that each is given back on every way
//! out.

use sharklock_multiraft::{
    ChangePeers, Config, PeerChange, SnapshotLimits, SnapshotStats, WhyEnded,
};
use sharklock_proto::internal::v1::{
    RangeDescriptor, SnapshotCancel, SnapshotHeader, SnapshotMessage, snapshot_message::Body,
    snapshot_reject::Why,
};
use sharklock_rangemap::{RangeId, StoreId};

use crate::cluster::{Cluster, Packet};
use crate::installs::{header_of, piece};
use crate::node::{Layout, Node, RANGE, small_log, small_snapshots};
use crate::tally::put;

/// A leader and a follower that was away for longer than the log reaches, in all ranges. The pieces
/// of snapshots wait for the test.
struct World {
    cluster: Cluster,
    leader: u64,
    away: u64,
    pieces: Vec<SnapshotMessage>,
}

impl World {
    fn of_ranges(ranges: u64, snapshots: SnapshotLimits) -> Self {
        let config = Config { snapshots, ..small_log() };
        Self::with(Layout { ranges, config, ..Layout::of_voters(3) })
    }

    /// Learners were away, too.
    fn with(mut layout: Layout) -> Self {
        layout.config.log.entries_floor = 4;
        layout.config.log.entries_max = 8;
        let ranges = layout.ranges;
        let mut cluster = Cluster::fresh_in(&layout);
        cluster.is_changing = true;
        let leader = cluster.elect();
        let all: Vec<_> = (0..ranges).map(|place| RangeId(RANGE.0 + place)).collect();
        for _ in 0..100 {
            let leads = |it: &RangeId| cluster.nodes[&leader].leads_range(*it);
            if all.iter().all(leads) {
                break;
            }
            for store in 1..=3 {
                for range in &all {
                    cluster.node(store).store.hand_over_one(*range, Some(StoreId(leader)));
                }
            }
            cluster.tick();
        }
        let away = leader % 3 + 1;
        cluster.isolated.extend([away].into_iter().chain(4..4 + layout.learners));
        for word in 0..20 {
            for range in &all {
                cluster.try_propose(leader, *range, put(&format!("word-{word}"))).expect("leads");
            }
            cluster.settle();
            cluster.node(leader).store.flush();
            cluster.settle();
        }
        cluster.isolated.clear();
        Self { cluster, leader, away, pieces: Vec::new() }
    }

    fn new() -> Self {
        Self::of_ranges(1, small_snapshots())
    }

    /// Everything moves until nothing does, but for pieces of snapshots.
    fn settle(&mut self) {
        loop {
            let mut moved = false;
            for store in self.cluster.nodes.keys().copied().collect::<Vec<_>>() {
                self.cluster.turn(store);
                moved |= self.cluster.write(store).expect("no fault is planned");
            }
            for packet in std::mem::take(&mut self.cluster.in_transit) {
                match packet {
                    Packet::Snapshot(piece) => self.pieces.push(*piece),
                    packet => {
                        moved = true;
                        let (from, to) = packet.ends();
                        let isolated = &self.cluster.isolated;
                        if !isolated.contains(&from) && !isolated.contains(&to) {
                            self.cluster.arrive(packet);
                        }
                    }
                }
            }
            if !moved {
                return;
            }
        }
    }

    fn tick(&mut self) {
        self.cluster.nodes.values_mut().for_each(|node| node.store.tick());
        self.settle();
    }

    /// The pieces that wait arrive, and not what they lead to.
    fn deliver(&mut self) {
        for piece in std::mem::take(&mut self.pieces) {
            // Who has just ended says so by its answer.
            let Some(node) = self.cluster.nodes.get_mut(&piece.to_store) else { continue };
            drop(node.store.step_snapshot(piece));
        }
        self.settle();
    }

    /// Until both ends are in the middle of a transfer.
    fn half_way() -> Self {
        let mut world = Self::new();
        for _ in 0..40 {
            let is_chunk = |it: &SnapshotMessage| matches!(it.body, Some(Body::Chunk(_)));
            if world.pieces.iter().any(is_chunk) {
                assert_eq!((world.sender().sending, world.receiver().receiving), (1, 1));
                return world;
            }
            world.deliver();
            world.tick();
        }
        panic!("no chunk within 40 ticks");
    }

    fn sender(&self) -> SnapshotStats {
        self.cluster.nodes[&self.leader].store.snapshot_stats()
    }

    fn receiver(&self) -> SnapshotStats {
        self.cluster.nodes[&self.away].store.snapshot_stats()
    }

    /// Time passes, and everything arrives at once.
    fn run(&mut self, ticks: u64) {
        for _ in 0..ticks {
            self.tick();
            while !self.pieces.is_empty() {
                self.deliver();
            }
        }
    }
}

#[test]
fn when_the_leader_changes_both_ends_give_their_places_back() {
    let mut world = World::half_way();
    let other = (1..=3).find(|it| *it != world.leader && *it != world.away);
    world.cluster.node(world.leader).store.hand_over_one(RANGE, other.map(StoreId));
    world.settle();
    assert_eq!((world.sender().sending, world.receiver().receiving), (0, 0));
    assert_eq!(world.sender().failed.of(WhyEnded::Deposed), 1);
    assert_eq!(world.receiver().abandoned.of(WhyEnded::Stale), 1);
    world.run(30);
    assert_eq!(world.receiver().installed, 1, "by the next leader");
}

#[test]
fn a_sender_that_gives_up_says_so() {
    let mut world = World::half_way();
    // Nothing of it arrives for longer than the sender waits.
    for _ in 0..120 {
        world.pieces.retain(|it| matches!(it.body, Some(Body::Cancel(_))));
        if !world.pieces.is_empty() {
            break;
        }
        world.tick();
    }
    assert_eq!((world.sender().sending, world.sender().failed.of(WhyEnded::Idle)), (0, 1));
    world.deliver();
    assert_eq!(world.receiver().receiving, 0);
}

#[test]
fn a_receiver_that_hears_nothing_more_gives_the_place_back_and_so_does_its_sender() {
    let mut world = World::half_way();
    world.pieces.clear();
    for _ in 0..100 {
        world.tick();
        world.pieces.clear();
    }
    assert_eq!((world.sender().sending, world.receiver().receiving), (0, 0));
    assert_eq!(world.receiver().abandoned.of(WhyEnded::Idle), 1);
}

#[test]
fn a_broken_link_ends_the_transfer_at_each_end_that_hears_of_it() {
    let mut world = World::half_way();
    let (leader, away) = (world.leader, world.away);
    world.pieces.clear();
    world.cluster.node(away).store.unreachable(StoreId(leader));
    world.cluster.node(leader).store.unreachable(StoreId(away));
    assert_eq!((world.sender().sending, world.receiver().receiving), (0, 0));
    assert_eq!(world.sender().failed.of(WhyEnded::LinkLost), 1);
    assert_eq!(world.receiver().abandoned.of(WhyEnded::LinkLost), 1);
    world.run(15);
    assert_eq!(world.receiver().installed, 1);
}

#[test]
fn a_receiver_that_restarts_tells_its_sender_with_the_first_piece_that_it_cannot_place() {
    let mut world = World::half_way();
    world.cluster.restart(world.away);
    world.deliver();
    world.deliver();
    assert_eq!(world.sender().failed.of(WhyEnded::Damaged), 1);
    assert_eq!(world.sender().sending, 0);
    world.run(15);
    assert_eq!(world.receiver().installed, 1);
}

#[test]
fn a_sender_that_restarts_leaves_a_place_that_the_next_leader_or_time_gives_back() {
    let mut world = World::half_way();
    world.pieces.clear();
    world.cluster.restart(world.leader);
    world.run(60);
    assert_eq!(world.receiver().receiving, 0);
    assert_eq!(world.receiver().installed, 1, "from whoever leads now");
}

/// The members of the range: those that stay, in a newer epoch.
fn without_the_receiver(world: &mut World) {
    let (leader, away) = (world.leader, world.away);
    for demotes in [true, false] {
        let descriptor = world.cluster.nodes[&leader].store.descriptor(RANGE).expect("it is there");
        let peer = descriptor.on_store(StoreId(away)).expect("it is a member").peer;
        let epoch = descriptor.epoch;
        let change =
            if demotes { PeerChange::Demote(peer) } else { PeerChange::RemoveLearner(peer) };
        let change = ChangePeers { epoch, changes: vec![change] };
        world.cluster.node(leader).store.change_peers(RANGE, &change).expect("it leads");
        world.settle();
    }
}

#[test]
fn a_receiver_that_is_removed_needs_none_and_its_store_takes_in_no_piece_of_it() {
    let mut world = World::half_way();
    without_the_receiver(&mut world);
    assert_eq!(world.sender().sending, 0, "it is no member");
    assert_eq!(world.sender().failed.of(WhyEnded::NotNeeded), 1);
    world.run(20);
    assert_eq!(world.receiver().receiving, 0);
    assert_eq!(world.receiver().installed, 0);
    let tombstone = world.cluster.nodes[&world.away].store.tombstone(RANGE);
    assert!(tombstone.is_some(), "it has ended");
}

/// The sender would wait in vain: an answer costs nothing.
#[test]
fn whoever_cannot_take_a_snapshot_says_so() {
    let mut node = Node::fresh(1, 3);
    let offer = |transfer, header| piece(2, transfer, Body::Header(header));
    let right = header_of((6, 9, 6), 3);
    let other_range =
        RangeDescriptor { range_id: 99, ..right.descriptor.clone().expect("has one") };
    let cases = [
        (SnapshotMessage { range_id: 99, ..offer(1, right.clone()) }, Why::UnknownRange),
        (SnapshotMessage { to_peer: 999, ..offer(2, right.clone()) }, Why::UnknownRange),
        (offer(3, SnapshotHeader { descriptor: Some(other_range), ..right.clone() }), Why::Refused),
        (offer(4, SnapshotHeader { bytes: 0, ..right.clone() }), Why::Refused),
        (offer(5, header_of((6, 5, 4), 3)), Why::Refused),
        (offer(6, right), Why::Stale),
    ];
    for (message, expected) in cases {
        let transfer = message.transfer;
        drop(node.store.step_snapshot(message));
        node.turn();
        let answers = std::mem::take(&mut node.snapshots);
        let [answer] = answers.as_slice() else { panic!("{transfer}: {answers:?}") };
        assert_eq!((answer.transfer, answer.to_store, answer.to_peer), (transfer, 2, 102));
        let Some(Body::Reject(reject)) = &answer.body else { panic!("{answer:?}") };
        assert_eq!(reject.why(), expected, "{transfer}");
    }
    assert_eq!(node.store.snapshot_stats().refused.sum(), 6);
}

#[test]
fn no_snapshot_takes_the_last_of_the_disk() {
    let limits = SnapshotLimits { disk_free_min: 1_000, ..small_snapshots() };
    let mut world = World::of_ranges(1, limits);
    let away = world.away;
    world.cluster.node(away).store.set_disk_free(Some(1_100));
    world.run(60);
    let sender = world.sender();
    assert_eq!((world.receiver().installed, sender.bytes_sent), (0, 0), "nothing of the body");
    let refused = world.receiver().refused.of(WhyEnded::NoSpace);
    assert_eq!(sender.failed.of(WhyEnded::NoSpace), refused);
    // After 10, 20 and 40 ticks.
    assert!((2..=4).contains(&refused), "{refused} offers within 60 ticks");
    world.cluster.node(away).store.set_disk_free(Some(100_000));
    world.run(100);
    assert_eq!(world.receiver().installed, 1);
    assert_eq!(world.receiver().bytes_received, world.sender().bytes_sent);
}

/// Three slow transfers at a time, of which each waits for the others: whoever may send nothing
/// since the rate is used up is not given up.
#[test]
fn a_low_rate_slows_transfers_down_and_ends_none() {
    let limits = SnapshotLimits {
        chunk_bytes: 128,
        window_bytes: 512,
        bytes_per_tick: Some(3),
        sending_max: 3,
        receiving_max: 3,
        ..small_snapshots()
    };
    let mut world = World::of_ranges(3, limits);
    let mut ticks = 0;
    while world.receiver().installed < 3 {
        assert!(ticks < 1_500, "{:?}", world.sender());
        world.run(1);
        ticks += 1;
        // In debt by one chunk at most.
        let bytes = world.sender().bytes_sent;
        assert!(bytes <= 3 * ticks + 128 + 3, "{bytes} bytes in {ticks} ticks");
    }
    assert_eq!((world.sender().failed.sum(), world.receiver().abandoned.sum()), (0, 0));
    assert_eq!(world.sender().delivered, 3);
}

/// What is under way, and so what each end keeps of it, has a bound.
#[test]
fn what_is_on_its_way_is_bounded_at_both_ends() {
    let limits = SnapshotLimits { sending_max: 2, receiving_max: 2, ..small_snapshots() };
    let mut world = World::of_ranges(4, limits);
    let mut most = (0, 0);
    for _ in 0..200 {
        world.tick();
        let bytes = |it: &SnapshotMessage| match &it.body {
            Some(Body::Chunk(chunk)) => chunk.data.len() as u64,
            _ => 0,
        };
        let under_way: u64 = world.pieces.iter().map(bytes).sum();
        most = (most.0.max(under_way), most.1.max(world.receiver().receiving));
        assert!(under_way <= 2 * limits.window_bytes, "{under_way} bytes");
        assert!(world.sender().sending <= 2 && world.receiver().receiving <= 2);
        world.deliver();
    }
    assert_eq!(most, (2 * limits.window_bytes, 2), "both are made use of");
    assert_eq!(world.receiver().installed, 4);
    assert_eq!(world.sender().waiting, 0);
}

/// Offers a snapshot of one of several ranges to store 1, and says what came back.
fn offer(node: &mut Node, range: u64, transfer: u64, repairs: bool) -> Option<Why> {
    let mut header = SnapshotHeader { repairs, ..header_of((6, 9, 6), 3) };
    let range = RangeId(RANGE.0 + range);
    let here = node.store.descriptor(range).expect("it is here").clone();
    let peer = |store| here.on_store(StoreId(store)).expect("it is a member").peer.0;
    header.descriptor = Some(RangeDescriptor::from(&here));
    let (from_peer, to_peer) = (peer(2), peer(1));
    let message = piece(2, transfer, Body::Header(header));
    let message = SnapshotMessage { range_id: range.0, from_peer, to_peer, ..message };
    drop(node.store.step_snapshot(message));
    node.settle();
    match std::mem::take(&mut node.snapshots).pop().expect("an answer").body {
        Some(Body::Reject(reject)) => Some(reject.why()),
        Some(Body::Ack(_)) => None,
        other => panic!("{other:?}"),
    }
}

fn cancel(node: &mut Node, range: u64, transfer: u64) {
    let here = node.store.descriptor(RangeId(RANGE.0 + range)).expect("it is here").clone();
    let peer = |store| here.on_store(StoreId(store)).expect("it is a member").peer.0;
    let (from_peer, to_peer, range_id) = (peer(2), peer(1), here.range.0);
    let message = piece(2, transfer, Body::Cancel(SnapshotCancel {}));
    let message = SnapshotMessage { range_id, from_peer, to_peer, ..message };
    node.store.step_snapshot(message).expect("it is honest");
    node.settle();
}

#[test]
fn a_free_place_is_kept_for_a_repair_that_was_refused() {
    let layout = Layout { ranges: 3, ..Layout::of_voters(3) };
    let mut node = Node::fresh_in(1, &layout);
    // All three are followers in term 6.
    for range in 0..3 {
        crate::installs::follow_in_term_6(&mut node, RangeId(RANGE.0 + range));
    }
    assert_eq!(offer(&mut node, 0, 1, false), None);
    assert_eq!(offer(&mut node, 1, 2, true), Some(Why::Busy), "the one place is taken");
    cancel(&mut node, 0, 1);
    assert_eq!(offer(&mut node, 2, 3, false), Some(Why::Busy), "it is kept");
    assert_eq!(offer(&mut node, 1, 4, true), None);
    cancel(&mut node, 1, 4);
    assert_eq!(offer(&mut node, 2, 5, false), None, "nobody waits");
    assert_eq!(offer(&mut node, 1, 6, true), Some(Why::Busy));
    cancel(&mut node, 2, 5);
    // The repair does not come back.
    (0..50).for_each(|_| node.store.tick());
    crate::installs::follow_in_term_6(&mut node, RangeId(RANGE.0 + 2));
    assert_eq!(offer(&mut node, 2, 7, false), None);
    assert_eq!(node.store.snapshot_stats().refused.of(WhyEnded::Busy), 3);
}

/// All ranges have a learner on store 4. It and a voter come back at the same time, and there is
/// one place: whatever has the first one, the voter's ranges get the next ones.
#[test]
fn a_sender_repairs_before_it_moves() {
    let mut world = World::with(Layout {
        learners: 1,
        ranges: 3,
        config: Config { snapshots: small_snapshots(), ..small_log() },
        ..Layout::of_voters(3)
    });
    let mut order = Vec::new();
    for _ in 0..200 {
        world.tick();
        while !world.pieces.is_empty() {
            let offers = world.pieces.iter().filter_map(|it| match &it.body {
                Some(Body::Header(header)) => Some((it.to_store == 4, header.repairs)),
                _ => None,
            });
            order.extend(offers);
            world.deliver();
        }
    }
    assert_eq!(order.len(), 6, "each once: {order:?}");
    assert!(order.iter().all(|(moves, repairs)| moves != repairs), "{order:?}");
    let last_repair = order.iter().rposition(|(_, repairs)| *repairs);
    assert!(last_repair <= Some(3), "one learner may have had the first place: {order:?}");
}
