//! What a range remembers of its splits: all whose children may not live, and no others.

use prost::Message as _;
use sharklock_multiraft::{ChangePeers, Disk as _, Family, NotProposed, PeerChange, RaftRole};
use sharklock_proto::internal::v1::{FlushHeader, MessageType};
use sharklock_rangemap::{RangeId, StoreId};

use crate::cluster::{Cluster, Packet};
use crate::node::{RANGE, split_of};
use crate::tally::put;

/// Names that one split after the other takes from the end of the range.
fn key(number: u64) -> String {
    format!("k{:03}", 999 - number)
}

fn child(number: u64) -> RangeId {
    RangeId(RANGE.0 + number)
}

/// As [`Cluster::settle`], but nothing of other ranges arrives: their replicas are never led.
fn settle_parent(cluster: &mut Cluster) {
    let is_parents = |packet: &Packet| match packet {
        Packet::Message(message) => message.range_id == RANGE.0,
        Packet::Heartbeats(_) | Packet::Snapshot(_) => true,
    };
    loop {
        let mut moved = false;
        for store in 1..=3 {
            cluster.turn(store);
            moved |= cluster.write(store).expect("no fault is planned");
        }
        cluster.in_transit.retain(is_parents);
        moved |= !cluster.in_transit.is_empty();
        cluster.deliver();
        if !moved {
            return;
        }
    }
}

fn split(cluster: &mut Cluster, leader: u64, number: u64) -> Result<(), NotProposed> {
    let store = &mut cluster.node(leader).store;
    let parent = store.descriptor(RANGE).expect("it is here").clone();
    store.split(RANGE, &split_of(&parent, &key(number), child(number))).map(drop)
}

/// The children that the image on the disk of a store remembers.
fn remembered(cluster: &mut Cluster, store: u64) -> Vec<u64> {
    let node = cluster.node(store);
    node.store.flush();
    node.settle();
    let key = [&RANGE.0.to_be_bytes()[..], &[3]].concat();
    let value =
        node.disk.get(Family::Meta, &key).expect("no fault is planned").expect("it is here");
    let header = FlushHeader::decode(&value[5..]).expect("a header");
    header.splits.iter().map(|split| split.child_range_id).collect()
}

/// Were one dropped, the log would be cut at its split and snapshots would not name it: a store that
/// has the entry and does not know that it is committed would skip it, and the child could end up on
/// one store only.
#[test]
fn no_child_is_forgotten_before_it_lives_however_many_there_are() {
    let mut cluster = Cluster::fresh(3);
    let leader = cluster.elect();
    let away = leader % 3 + 1;
    cluster.isolated.insert(away);
    let expected: Vec<u64> = (1..=64).map(|number| child(number).0).collect();
    for number in 1..=64 {
        split(&mut cluster, leader, number).expect("it leads, and nothing is under way");
        settle_parent(&mut cluster);
    }
    assert_eq!(remembered(&mut cluster, leader), expected);
    let begins = cluster.node(leader).status().log_first;
    assert!(begins <= 7, "the first split is in the log, which begins at {begins}");
    let refused = split(&mut cluster, leader, 65);
    assert_eq!(refused, Err(NotProposed::ChildrenAwaited { count: 64 }));

    cluster.isolated.clear();
    for _ in 0..60 {
        cluster.tick();
    }
    let leader = cluster.elect();
    assert!(cluster.node(leader).store.awaited_child(RANGE).is_none(), "all of them live");
    split(&mut cluster, leader, 65).expect("there is room");
    cluster.settle();
    assert_eq!(
        cluster.node(leader).store.descriptor(child(65)).map(|it| it.range),
        Some(child(65))
    );
    for store in 1..=3 {
        let children: Vec<u64> = (1..=64).map(|number| child(number).0).collect();
        let here = cluster.node(store).store.ranges();
        assert!(children.iter().all(|it| here.contains(&RangeId(*it))), "{store}: {here:?}");
    }
}

#[test]
fn a_child_that_has_gone_on_without_the_store_is_not_waited_for() {
    let mut cluster = Cluster::fresh(3);
    cluster.is_changing = true;
    let leader = cluster.elect();
    split(&mut cluster, leader, 1).expect("it leads");
    cluster.settle();
    for _ in 0..5 {
        cluster.tick();
    }
    let leads = |cluster: &Cluster| {
        let mut nodes = cluster.nodes.iter();
        nodes.find(|(_, node)| node.leads_range(child(1))).map(|(store, _)| *store)
    };
    let leader = leads(&cluster).expect("somebody leads the child");
    let leaves = leader % 3 + 1;
    let members = cluster.node(leader).store.descriptor(child(1)).expect("it is here");
    let peer = members.on_store(StoreId(leaves)).expect("a member").peer;
    for change in [PeerChange::Demote(peer), PeerChange::RemoveLearner(peer)] {
        let store = &mut cluster.node(leader).store;
        let epoch = store.descriptor(child(1)).expect("it is here").epoch;
        let change = ChangePeers { epoch, changes: vec![change] };
        store.change_peers(child(1), &change).expect("it leads");
        cluster.settle();
        cluster.tick();
        cluster.tick();
    }
    assert!(cluster.node(leaves).store.tombstone(child(1)).is_some(), "it has ended there");
    let parents = cluster.leader().expect("the parent has kept its leader");
    cluster.propose(parents, put("a"));
    cluster.settle();
    cluster.tick();
    cluster.tick();
    assert_eq!(remembered(&mut cluster, leaves), [0; 0]);
}

/// A child that was split off for load is handed on at once. Its first leader asks for votes early, so
/// that the child is led soon; it must not do so again against whoever has its vote (simulator, seed
/// 980001072).
#[test]
fn whoever_hands_a_child_on_leaves_it_alone() {
    let mut cluster = Cluster::fresh(3);
    let first = cluster.elect();
    split(&mut cluster, first, 1).expect("it leads");
    cluster.settle();
    let child = child(1);
    assert!(cluster.node(first).leads_range(child), "it asked for votes early");
    let next = (1..=3).find(|store| *store != first).expect("there are three");
    assert!(cluster.node(first).store.hand_over_one(child, Some(StoreId(next))));
    // What the new leader says once it is elected does not arrive yet.
    for _ in 0..6 {
        for store in 1..=3 {
            cluster.turn(store);
            cluster.write(store).expect("no fault is planned");
        }
        let is_early = |packet: &Packet| match packet {
            Packet::Message(message) => {
                let kind = message.message.as_ref().map(|body| body.msg_type);
                message.range_id != child.0 || kind != Some(i32::from(MessageType::MsgAppend))
            }
            Packet::Heartbeats(_) | Packet::Snapshot(_) => false,
        };
        cluster.in_transit.retain(is_early);
        cluster.deliver();
    }
    assert_eq!(cluster.node(next).status_of(child).role, RaftRole::Leader);
    for _ in 0..4 {
        cluster.node(first).store.tick();
        cluster.turn(first);
    }
    let campaigns = |packet: &Packet| match packet {
        Packet::Message(message) => {
            let kind = message.message.as_ref().map(|body| body.msg_type);
            message.range_id == child.0 && kind == Some(i32::from(MessageType::MsgRequestPreVote))
        }
        Packet::Heartbeats(_) | Packet::Snapshot(_) => false,
    };
    assert!(!cluster.in_transit.iter().any(campaigns), "{:?}", cluster.in_transit);
}
