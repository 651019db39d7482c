//! A store that was away while a range was split, and has the rest of it by a snapshot: of the child it
//! has nothing, and can help it to a leader all the same.

use sharklock_rangemap::{RangeId, StoreId};

use crate::cluster::{Cluster, Packet};
use crate::node::{RANGE, split_of};
use crate::tally::put;

const CHILD: RangeId = RangeId(RANGE.0 + 1);

/// Until nothing moves, but nothing of the child reaches `store` or comes from there.
fn settle_without_child(cluster: &mut Cluster, store: u64) {
    let arrives = |packet: &Packet| {
        let (from, to) = packet.ends();
        let is_parents = match packet {
            Packet::Message(message) => message.range_id == RANGE.0,
            Packet::Snapshot(piece) => piece.range_id == RANGE.0,
            // They are of all ranges.
            Packet::Heartbeats(_) => false,
        };
        is_parents || (from != store && to != store)
    };
    loop {
        let mut moved = false;
        for store in 1..=3 {
            cluster.turn(store);
            moved |= cluster.write(store).expect("no fault is planned");
        }
        cluster.in_transit.retain(arrives);
        moved |= !cluster.in_transit.is_empty();
        cluster.deliver();
        if !moved {
            return;
        }
    }
}

fn tick_without_child(cluster: &mut Cluster, store: u64) {
    for node in cluster.nodes.values_mut() {
        node.store.tick();
    }
    settle_without_child(cluster, store);
}

/// The child's leader is lost before it could ask for a replica where there is none. Two of three are
/// left: one with all that the child has, and the store that never had any of it (simulator, seed
/// 980000376).
#[test]
fn a_child_finds_a_leader_although_one_of_two_stores_has_skipped_its_split() {
    let mut cluster = Cluster::fresh(3);
    let leader = cluster.elect();
    let away = leader % 3 + 1;
    let other = away % 3 + 1;
    cluster.isolated.insert(away);
    let store = &mut cluster.node(leader).store;
    let parent = store.descriptor(RANGE).expect("it is here").clone();
    store.split(RANGE, &split_of(&parent, "m", CHILD)).expect("it leads");
    cluster.settle();
    assert!(cluster.node(leader).leads_range(CHILD));
    // The parent's log is cut behind the split, so whoever was away needs a snapshot.
    for round in 0..200 {
        cluster.propose(leader, put(&format!("a{round}")));
        cluster.settle();
        for store in [leader, other] {
            cluster.node(store).store.flush();
        }
        cluster.settle();
    }
    cluster.isolated.clear();
    for _ in 0..200 {
        if cluster.node(away).store.descriptor(RANGE).is_some_and(|it| !it.bounds.end.is_empty()) {
            break;
        }
        tick_without_child(&mut cluster, away);
        cluster.propose(leader, put("b"));
    }
    let bounds = &cluster.node(away).store.descriptor(RANGE).expect("it is here").bounds;
    assert_eq!(bounds.end, b"m", "the rest of the parent has come");
    assert!(cluster.node(away).store.descriptor(CHILD).is_none(), "by a snapshot");
    // What it has skipped is on its disk.
    cluster.restart(away);
    cluster.isolated.insert(leader);
    for _ in 0..200 {
        if cluster.node(other).leads_range(CHILD) {
            break;
        }
        cluster.tick();
    }
    assert!(cluster.node(other).leads_range(CHILD), "the two of them are a majority");
    let child = cluster.node(away).store.descriptor(CHILD).cloned();
    assert_eq!(child.and_then(|it| Some(it.on_store(StoreId(away))?.store)), Some(StoreId(away)));
}
