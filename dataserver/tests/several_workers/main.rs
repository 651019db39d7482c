//! Stores whose ranges are shared out over several workers on one disk: births and ends of ranges
//! find their worker, batches are written as one, and a loss of power keeps what was promised,
//! however many workers there were and will be.

mod net;
mod node;

use std::{collections::BTreeSet, time::Duration};

use sharklock_dataserver::{Input, Whereabouts};
use sharklock_locktable::FEATURE_LEVEL;
use sharklock_multiraft::Split;
use sharklock_proto::internal::v1::{
    CreateReplica, MessageType, PeerNotice, RangeDescriptor, RangeMessage, ReplicaRemoved,
    peer_notice::Notice,
};
use sharklock_rangemap::{Bounds, Descriptor, Epoch, PeerId, RangeId, Replica, Role, StoreId};

use net::{Net, first_range};
use node::Node;

const NOW: Duration = Duration::from_secs(1);

/// Turns of all workers, each batch written by itself.
fn settle(node: &mut Node) {
    settle_at(node, NOW);
}

/// The same some seconds later, when images have been written.
fn settle_images(node: &mut Node) {
    (1..=3).for_each(|seconds| settle_at(node, NOW + Duration::from_secs(seconds)));
}

fn settle_at(node: &mut Node, now: Duration) {
    loop {
        for worker in 0..node.workers.len() {
            node.turn(worker, now);
        }
        node.write(1);
        if !node.has_mail() {
            return;
        }
    }
}

/// A range with a replica on store 1 and one elsewhere.
fn range(id: u64, peer: u64, (start, end): (&str, &str), epoch: (u64, u64)) -> Descriptor {
    let member =
        |peer, store| Replica { peer: PeerId(peer), store: StoreId(store), role: Role::Voter };
    let (bounds, (version, conf_ver)) =
        (Bounds { start: start.as_bytes().to_vec(), end: end.as_bytes().to_vec() }, epoch);
    let members = vec![member(peer, 1), member(peer + 50, 2)];
    Descriptor::new(RangeId(id), bounds, Epoch { version, conf_ver }, members)
}

/// Store 2 speaks.
fn notice(descriptor: &Descriptor, notice: Notice) -> Input {
    let here = descriptor.on_store(StoreId(1)).expect("it has a replica here").peer;
    let there = descriptor.on_store(StoreId(2)).expect("it has a replica there").peer;
    Input::Message(Box::new(RangeMessage {
        cluster_id: vec![1; 16].into(),
        range_id: descriptor.range.0,
        from_store: 2,
        to_store: 1,
        from_peer: there.0,
        to_peer: here.0,
        conf_ver: descriptor.epoch.conf_ver,
        version: descriptor.epoch.version,
        notice: Some(PeerNotice { notice: Some(notice) }),
        ..RangeMessage::default()
    }))
}

fn asks_for(descriptor: &Descriptor) -> Input {
    let create = CreateReplica { descriptor: Some(RangeDescriptor::from(descriptor)) };
    notice(descriptor, Notice::Create(create))
}

fn removes(descriptor: &Descriptor) -> Input {
    let mut newer = descriptor.clone();
    newer.epoch.conf_ver += 1;
    notice(&newer, Notice::Removed(ReplicaRemoved {}))
}

fn ids(node: &Node) -> Vec<(u64, usize)> {
    node.ranges().into_iter().map(|(range, worker)| (range.0, worker)).collect()
}

#[test]
fn ranges_of_a_disk_are_shared_out_anew_at_each_start() {
    let mut node = Node::new(1, 3);
    for number in 1..=6 {
        let descriptor = first_range(number, 6);
        node.receive(Input::Create { descriptor, level: FEATURE_LEVEL });
    }
    settle(&mut node);
    assert_eq!(ids(&node), [(1, 0), (2, 1), (3, 2), (4, 0), (5, 1), (6, 2)]);
    node.lose_power(0, false, 2, NOW).expect("all of it is durable");
    assert_eq!(ids(&node), [(1, 0), (2, 1), (3, 0), (4, 1), (5, 0), (6, 1)]);
    node.lose_power(0, false, 8, NOW).expect("all of it is durable");
    assert_eq!(ids(&node), (1..=6).map(|id| (id, id as usize - 1)).collect::<Vec<_>>());
}

/// Batches of several workers are one write: a crash keeps all of it or nothing.
#[test]
fn a_merged_write_is_kept_whole_or_not_at_all() {
    for is_kept in [false, true] {
        let mut node = Node::new(1, 3);
        for number in 1..=3 {
            let descriptor = first_range(number, 3);
            node.receive(Input::Create { descriptor, level: FEATURE_LEVEL });
        }
        (0..3).for_each(|worker| drop(node.turn(worker, NOW)));
        node.lose_power(3, is_kept, 2, NOW).expect("it is whole either way");
        assert_eq!(node.ranges().len(), if is_kept { 3 } else { 0 });
    }
}

/// What one worker has promised to leave dead must not be made by another, not even from a message
/// that was on its way; and a newer replica may come to whichever has less to do.
#[test]
fn a_range_that_has_ended_on_one_worker_comes_back_on_another_only_as_a_newer_one() {
    let mut node = Node::new(1, 2);
    let (other, first) = (range(1, 3, ("m", ""), (1, 1)), range(7, 4, ("a", "c"), (1, 1)));
    node.receive(asks_for(&other));
    node.receive(asks_for(&first));
    settle(&mut node);
    assert_eq!(ids(&node), [(1, 0), (7, 1)]);

    node.receive(removes(&first));
    node.turn(1, NOW);
    assert_eq!(ids(&node), [(1, 0)], "it is gone, but not yet on the disk");
    let late = range(7, 4, ("a", "c"), (1, 1));
    node.receive(asks_for(&late));
    settle(&mut node);
    assert_eq!(ids(&node), [(1, 0)], "its worker knows");

    node.receive(removes(&other));
    settle(&mut node);
    assert!(node.ranges().is_empty());
    assert!(node.told.contains(&(1, Whereabouts::Buried { range: RangeId(7), peer: PeerId(4) })));
    node.receive(asks_for(&late));
    settle(&mut node);
    assert!(node.ranges().is_empty(), "now it goes to the first worker, which was told");
    node.receive(asks_for(&range(7, 9, ("a", "c"), (1, 3))));
    settle(&mut node);
    assert_eq!(ids(&node), [(7, 0)]);

    node.lose_power(0, false, 1, NOW).expect("a replica and an older tombstone");
    node.receive(removes(&range(7, 9, ("a", "c"), (1, 3))));
    settle(&mut node);
    node.lose_power(0, false, 2, NOW).expect("a tombstone");
    node.receive(asks_for(&range(11, 12, ("x", ""), (1, 1))));
    settle(&mut node);
    for descriptor in [late, range(7, 9, ("a", "c"), (1, 3))] {
        node.receive(asks_for(&descriptor));
        settle(&mut node);
    }
    assert_eq!(ids(&node), [(11, 0)], "the second worker knows all tombstones of the disk, too");
}

/// The names of a replica that has ended are another worker's only once the disk has its end: or a
/// crash would find both there, and the store would be refused as damaged.
#[test]
fn names_are_given_to_another_worker_only_once_the_disk_has_that_they_are_free() {
    let mut node = Node::new(1, 2);
    let names = [("a", "c"), ("d", "e"), ("f", "g"), ("h", "i"), ("j", "k"), ("l", "m"), ("n", "")];
    let ranges: Vec<_> =
        (1..).zip(names).map(|(id, names)| range(id, id + 2, names, (1, 1))).collect();
    for range in &ranges {
        node.receive(asks_for(range));
        settle(&mut node);
    }
    [3, 5].iter().for_each(|at| node.receive(removes(&ranges[*at])));
    settle(&mut node);
    assert_eq!(ids(&node), [(1, 0), (2, 1), (3, 0), (5, 0), (7, 0)], "the second has less to do");

    // The end of range 3 is on its way to the disk, and that of range 1 waits behind it.
    node.receive(removes(&ranges[2]));
    node.turn(0, NOW);
    node.receive(removes(&ranges[0]));
    node.turn(0, NOW);
    assert_eq!(ids(&node), [(2, 1), (5, 0), (7, 0)]);
    let child = range(8, 60, ("b", "c"), (2, 5));
    node.receive(asks_for(&child));
    node.turn(0, NOW);
    node.turn(1, NOW);
    node.write(usize::MAX);
    node.lose_power(0, false, 2, NOW)
        .expect("the first is as it was, and nothing else of its names");
    assert_eq!(ids(&node), [(1, 0), (2, 1), (5, 0), (7, 1)]);

    node.receive(removes(&ranges[0]));
    settle(&mut node);
    node.receive(asks_for(&child));
    settle(&mut node);
    node.lose_power(0, false, 2, NOW).expect("no two have a name in common");
    assert_eq!(ids(&node), [(2, 1), (5, 0), (7, 1), (8, 0)]);
}

/// A heartbeat of a leader for a range that has no place: some worker says that it is not here.
#[test]
fn whoever_speaks_to_a_replica_that_is_not_here_is_told_so() {
    let mut node = Node::new(1, 4);
    let unknown = range(9, 3, ("m", ""), (1, 1));
    let Input::Message(message) = removes(&unknown) else { unreachable!("it is a message") };
    let body = sharklock_proto::internal::v1::Message {
        msg_type: MessageType::MsgHeartbeat.into(),
        from: message.from_peer,
        to: message.to_peer,
        term: 6,
        ..Default::default()
    };
    let beat = RangeMessage { notice: None, message: Some(body), ..*message };
    node.receive(Input::Message(Box::new(beat)));
    let said: Vec<_> = (0..4).flat_map(|worker| node.turn(worker, NOW).messages).collect();
    assert_eq!(said.len(), 1);
    let notice = said[0].notice.as_ref().and_then(|notice| notice.notice.as_ref());
    assert!(matches!(notice, Some(Notice::Absent(_))), "{said:?}");
}

/// A child is born where its parent is, whoever has less to do; the next start spreads them.
#[test]
fn a_child_is_on_its_parents_worker_until_the_store_starts_again() {
    let mut node = Node::new(1, 3);
    let member = Replica { peer: PeerId(3), store: StoreId(1), role: Role::Voter };
    let epoch = Epoch { version: 1, conf_ver: 1 };
    let descriptor = Descriptor::new(RangeId(1), Bounds::ALL, epoch, vec![member]);
    node.receive(Input::Create { descriptor, level: FEATURE_LEVEL });
    settle(&mut node);
    for (version, key, child) in [(1, "t", 2), (2, "h", 3)] {
        let epoch = Epoch { version, conf_ver: 1 };
        let (child, child_peers) = (RangeId(child), vec![PeerId(child * 10)]);
        let split = Split { epoch, key: key.to_owned(), child, child_peers };
        node.receive(Input::Split { range: RangeId(1), term: None, split });
        settle(&mut node);
    }
    assert_eq!(ids(&node), [(1, 0), (2, 0), (3, 0)]);
    // Of the names that have left the first, none is free.
    let other = range(9, 90, ("x", "y"), (3, 1));
    node.receive(asks_for(&other));
    settle(&mut node);
    assert_eq!(node.ranges().len(), 3);
    settle_images(&mut node);
    node.lose_power(0, false, 3, NOW).expect("all of it is durable");
    assert_eq!(ids(&node), [(1, 0), (2, 2), (3, 1)]);
}

/// A log is not cut at a split before its child lives, which only the child's own worker knows.
#[test]
fn a_child_that_nobody_has_led_yet_stays_with_its_parent_over_a_start() {
    let mut node = Node::new(1, 3);
    let member = Replica { peer: PeerId(3), store: StoreId(1), role: Role::Voter };
    let epoch = Epoch { version: 1, conf_ver: 1 };
    let descriptor = Descriptor::new(RangeId(1), Bounds::ALL, epoch, vec![member]);
    node.receive(Input::Create { descriptor, level: FEATURE_LEVEL });
    settle(&mut node);
    let child_peers = vec![PeerId(20)];
    let split = Split { epoch, key: "m".to_owned(), child: RangeId(2), child_peers };
    node.receive(Input::Split { range: RangeId(1), term: None, split });
    while node.ranges().len() < 2 {
        node.write(1);
        node.turn(0, NOW);
    }
    node.lose_power(0, false, 3, NOW).expect("both halves are durable");
    assert_eq!(ids(&node), [(1, 0), (2, 0)], "the child has not won an election yet");
    settle_images(&mut node);
    node.lose_power(0, false, 3, NOW).expect("all of it is durable");
    assert_eq!(ids(&node), [(1, 0), (2, 1)]);
}

#[test]
fn whatever_was_granted_stays_through_losses_of_power_and_other_numbers_of_workers() {
    let (mut losses, mut granted, mut most, mut spread) = (0, 0, 0, BTreeSet::new());
    for seed in 0..60 {
        let mut net = Net::new(seed, 1 + seed % 4);
        net.calm(Duration::from_secs(3));
        for _ in 0..4_000 {
            net.step();
        }
        net.calm(Duration::from_secs(12));
        net.check_whole();
        losses += net.power_losses;
        granted += net.granted.len();
        let ranges = net.nodes.values().map(|node| node.ranges().len()).max();
        most = most.max(ranges.unwrap_or_default());
        spread.extend(net.nodes.values().flat_map(|node| node.ranges()).map(|(_, worker)| worker));
    }
    assert!(losses > 40 && granted > 400, "{losses} losses of power, {granted} grants");
    assert!(most > 8, "{most} ranges at most: they are split");
    assert_eq!(spread.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3]);
}
