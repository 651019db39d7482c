//! A replica whose range has lost its majority goes on alone, with all that its log has, under another
//! id; whatever crashes on the way. The old one never acts again.

use sharklock_multiraft::{Alone, ChangePeers, Disk as _, Dropped, NotAlone, PeerChange};
use sharklock_proto::internal::v1::{
    Message, MessageType, PeerNotice, RangeMessage, ReplicaRemoved, peer_notice::Notice,
};
use sharklock_rangemap::{Descriptor, Epoch, PeerId, RangeId, Replica, Role, StoreId};

use crate::cluster::Cluster;
use crate::node::{Life, Node, RANGE, split_of};
use crate::tally::put;

const CHILD: RangeId = RangeId(8);
const JUMP: u64 = 1 << 32;
const EPOCH: Epoch = Epoch { version: JUMP, conf_ver: JUMP };

fn order(survivor: u64) -> Alone {
    Alone {
        peer: PeerId(100 + survivor),
        as_peer: PeerId(9_000),
        epoch: EPOCH,
        term: JUMP,
        end: Vec::new(),
        entry: put("alone"),
    }
}

/// The words a, f, m and z are everywhere. Then the leader appends what `act` has it do: the survivor
/// has that in its log, and never hears that it is committed.
fn survivor(act: impl FnOnce(&mut Cluster, u64)) -> (u64, Node) {
    let mut cluster = Cluster::fresh(3);
    let leader = cluster.elect();
    for word in ["a", "f", "m", "z"] {
        cluster.propose(leader, put(word));
        cluster.settle();
    }
    cluster.tick();
    cluster.tick();
    let survivor = if leader == 3 { 2 } else { 3 };
    act(&mut cluster, leader);
    cluster.turn(leader);
    cluster.deliver();
    let mut node = cluster.nodes.remove(&survivor).unwrap();
    node.settle();
    (survivor, node)
}

/// The others are gone: it asks for votes, and hears nobody.
fn orphan(node: &mut Node) {
    for _ in 0..80 {
        node.store.tick();
        node.settle();
    }
    node.messages.clear();
    node.heartbeats.clear();
}

fn words(node: &Node, range: RangeId) -> Vec<String> {
    node.store.machine(range).unwrap().tokens.keys().cloned().collect()
}

fn serves(node: &mut Node, survivor: u64) {
    node.settle();
    let descriptor = node.store.descriptor(RANGE).unwrap().clone();
    let only = Replica { peer: PeerId(9_000), store: StoreId(survivor), role: Role::Voter };
    assert_eq!((descriptor.epoch, descriptor.replicas), (EPOCH, vec![only]));
    assert!(node.leads(), "it votes alone, so it leads");
    assert!(node.status().term > JUMP);
    node.store.propose(RANGE, put("more")).unwrap();
    node.settle();
    assert!(words(node, RANGE).contains(&"more".to_owned()));
    assert_eq!(node.store.tombstone(RANGE), Some(PeerId(100 + survivor)));
    assert!(node.store.orphans().all(|it| it.range() != RANGE));
}

#[test]
fn who_is_left_goes_on_with_all_of_its_log() {
    let (survivor, mut node) = survivor(|cluster, leader| cluster.propose(leader, put("tail")));
    assert_eq!(node.store.go_on_alone(RANGE, order(survivor)), Err(NotAlone::HasLeader));
    orphan(&mut node);
    let seen: Vec<_> = node.store.orphans().collect();
    let (commit, last) = (node.status().commit, node.status().log_last);
    assert_eq!((seen.len(), seen[0].peer), (1, PeerId(100 + survivor)));
    assert!(!seen[0].is_stopped && !seen[0].is_empty);
    assert_eq!((seen[0].commit, seen[0].last.index), (commit, last));
    assert!(commit < last, "the tail is not known to be committed");

    node.lives.clear();
    node.store.go_on_alone(RANGE, order(survivor)).unwrap();
    node.settle();
    assert_eq!(node.lives, [(RANGE, Life::Gone), (RANGE, Life::Born)]);
    assert_eq!(words(&node, RANGE), ["a", "alone", "f", "m", "tail", "z"]);
    serves(&mut node, survivor);
    let again = node.store.go_on_alone(RANGE, order(survivor));
    assert_eq!(again, Err(NotAlone::OtherPeer(PeerId(9_000))), "it is done once");

    let mut node = node.crash();
    serves(&mut node, survivor);
    assert_eq!(words(&node, RANGE), ["a", "alone", "f", "m", "more", "tail", "z"]);
}

/// S11: what was said to it before, or comes from one that was lost, reaches nobody.
#[test]
fn who_was_lost_and_who_it_was_never_act_again() {
    let (survivor, mut node) = survivor(|_, _| {});
    orphan(&mut node);
    node.store.go_on_alone(RANGE, order(survivor)).unwrap();
    node.settle();
    node.settle();
    node.messages.clear();
    let before = (node.status(), words(&node, RANGE));
    for (to_peer, conf_ver) in [(100 + survivor, 1), (9_000, 1), (9_000, 7)] {
        let message = Message {
            msg_type: MessageType::MsgRequestVote.into(),
            from: 101,
            to: to_peer,
            term: 99,
            ..Message::default()
        };
        let message = RangeMessage {
            cluster_id: node.store.ident().cluster_id.to_wire(),
            range_id: RANGE.0,
            from_store: 1,
            to_store: survivor,
            from_peer: 101,
            to_peer,
            conf_ver,
            version: 1,
            message: Some(message),
            notice: None,
        };
        let dropped = node.store.step(message).unwrap_err();
        let expected = [Dropped::NotForMe(PeerId(to_peer)), Dropped::RemovedPeer(PeerId(101))];
        assert!(expected.contains(&dropped), "{dropped:?}");
        node.settle();
        // It is told that it is none any more.
        let told = node.messages.pop().and_then(|it| it.notice).and_then(|it| it.notice);
        assert_eq!(told, Some(Notice::Removed(ReplicaRemoved {})));
    }
    // Nor does somebody's late word about the old one end the new one.
    let late = RangeMessage {
        cluster_id: node.store.ident().cluster_id.to_wire(),
        range_id: RANGE.0,
        from_store: 1,
        to_store: survivor,
        to_peer: 100 + survivor,
        conf_ver: 2 * JUMP,
        notice: Some(PeerNotice { notice: Some(Notice::Removed(ReplicaRemoved {})) }),
        ..RangeMessage::default()
    };
    assert!(node.store.step(late).is_err());
    node.settle();
    assert_eq!((node.status(), words(&node, RANGE)), before);
}

/// A crash at every disk operation of it: the order comes again, and the end is the same.
#[test]
fn a_crash_on_the_way_leaves_one_or_the_other() {
    let mut ends = Vec::new();
    for (cut, keeps) in (0..6).flat_map(|cut| [(cut, false), (cut, true)]) {
        let (survivor, mut node) = survivor(|cluster, leader| cluster.propose(leader, put("tail")));
        orphan(&mut node);
        node.store.flush();
        node.store.go_on_alone(RANGE, order(survivor)).unwrap();
        for step in 0..6 {
            if step == cut {
                if let Some(batch) = node.batch.take().filter(|_| keeps) {
                    node.disk.write(&batch.ops, false).unwrap();
                }
                let kept = if keeps { node.disk.unsynced_writes() } else { 0 };
                node = node.crash_keeping(kept);
                let peer = node.store.descriptor(RANGE).unwrap().on_store(StoreId(survivor));
                let peer = peer.unwrap().peer;
                assert!([PeerId(100 + survivor), PeerId(9_000)].contains(&peer), "{peer}");
                let has_tail = words(&node, RANGE).contains(&"alone".to_owned());
                assert_eq!(has_tail, peer == PeerId(9_000), "cut {cut}, keeps {keeps}");
                ends.push(peer);
            }
            match step % 2 {
                0 => node.turn(),
                _ => _ = node.write().unwrap(),
            }
        }
        orphan(&mut node);
        let done = NotAlone::OtherPeer(PeerId(9_000));
        if node.store.go_on_alone(RANGE, order(survivor)) != Err(done) {
            node.settle();
        }
        serves(&mut node, survivor);
        assert_eq!(words(&node, RANGE), ["a", "alone", "f", "m", "more", "tail", "z"]);
    }
    assert!(ends.contains(&PeerId(9_000)), "some crash comes behind it");
    assert!(ends.iter().any(|peer| *peer != PeerId(9_000)), "and some before");
}

/// The child of a split that only the tail has is a range of its own, and has lost its majority, too.
#[test]
fn a_split_in_the_tail_makes_a_child_that_is_recovered_by_itself() {
    let (survivor, mut node) = survivor(|cluster, leader| {
        let parent = cluster.nodes[&leader].store.descriptor(RANGE).unwrap().clone();
        cluster.node(leader).store.split(RANGE, &split_of(&parent, "m", CHILD)).unwrap();
    });
    orphan(&mut node);
    node.store.go_on_alone(RANGE, order(survivor)).unwrap();
    node.settle();
    assert_eq!(words(&node, RANGE), ["a", "alone", "f"]);
    assert_eq!(words(&node, CHILD), ["m", "z"]);
    serves(&mut node, survivor);
    let mut node = node.crash();
    orphan(&mut node);
    let orphans: Vec<_> = node.store.orphans().map(|it| (it.range(), it.peer)).collect();
    assert_eq!(orphans, [(CHILD, PeerId(200 + survivor))]);
    let child = Alone {
        peer: PeerId(200 + survivor),
        as_peer: PeerId(9_001),
        entry: put("n"),
        ..order(survivor)
    };
    node.store.go_on_alone(CHILD, child).unwrap();
    node.settle();
    assert!(node.leads_range(CHILD));
    assert_eq!(words(&node, CHILD), ["m", "n", "z"]);
}

/// The last word that a replica may have got is that it is to go. Applied, it would end the only one
/// that is left.
#[test]
fn its_own_removal_in_the_tail_is_undone() {
    let (survivor, mut node) = {
        let mut cluster = Cluster::fresh(3);
        cluster.is_changing = true;
        let leader = cluster.elect();
        cluster.propose(leader, put("a"));
        cluster.settle();
        let survivor = if leader == 3 { 2 } else { 3 };
        let change = |cluster: &mut Cluster, change: PeerChange| {
            let epoch = cluster.nodes[&leader].store.descriptor(RANGE).unwrap().epoch;
            let change = ChangePeers { epoch, changes: vec![change] };
            cluster.node(leader).store.change_peers(RANGE, &change).unwrap();
        };
        for _ in 0..3 {
            cluster.tick();
        }
        change(&mut cluster, PeerChange::Demote(PeerId(100 + survivor)));
        cluster.settle();
        cluster.tick();
        change(&mut cluster, PeerChange::RemoveLearner(PeerId(100 + survivor)));
        cluster.propose(leader, put("behind"));
        cluster.turn(leader);
        cluster.deliver();
        let mut node = cluster.nodes.remove(&survivor).unwrap();
        node.settle();
        (survivor, node)
    };
    orphan(&mut node);
    let descriptor = node.store.descriptor(RANGE).unwrap().clone();
    assert_eq!(descriptor.on_store(StoreId(survivor)).unwrap().role, Role::Learner);
    assert!(node.status().commit + 1 < node.status().log_last, "the removal is in its log");
    node.store.go_on_alone(RANGE, order(survivor)).unwrap();
    node.settle();
    assert_eq!(words(&node, RANGE), ["a", "alone"]);
    serves(&mut node, survivor);
}

#[test]
fn names_that_were_split_off_without_it_are_not_its_any_more() {
    let (survivor, mut node) = survivor(|_, _| {});
    orphan(&mut node);
    let refused = |node: &mut Node, change: &dyn Fn(&mut Alone)| {
        let mut alone = order(survivor);
        change(&mut alone);
        assert!(matches!(node.store.go_on_alone(RANGE, alone), Err(NotAlone::Malformed(_))));
    };
    refused(&mut node, &|it| it.as_peer = it.peer);
    refused(&mut node, &|it| it.epoch.version = 1);
    refused(&mut node, &|it| it.epoch.conf_ver = 1);
    refused(&mut node, &|it| it.end = vec![0xff]);
    node.store.go_on_alone(RANGE, Alone { end: b"g".to_vec(), ..order(survivor) }).unwrap();
    node.settle();
    assert_eq!(words(&node, RANGE), ["a", "alone", "f"]);
    let Descriptor { bounds, .. } = node.store.descriptor(RANGE).unwrap().clone();
    assert_eq!(bounds.end, b"g");
    serves(&mut node, survivor);
    let mut node = node.crash();
    serves(&mut node, survivor);
    assert_eq!(words(&node, RANGE), ["a", "alone", "f", "more"]);
}
