//! The talk of idle ranges: one message per pair of stores and heartbeat (D6).

use std::collections::BTreeMap;

use sharklock_multiraft::Dropped;
use sharklock_rangemap::{PeerId, RangeId};

use crate::cluster::{Cluster, Packet};
use crate::node::{Layout, RANGE};

const RANGES: u64 = 20;

/// Three stores with twenty ranges, all led, and nothing to do.
fn idle() -> Cluster {
    let layout = Layout { ranges: RANGES, ..Layout::of_voters(3) };
    let mut cluster = Cluster::fresh_in(&layout);
    for _ in 0..60 {
        cluster.tick();
    }
    let led = |range| cluster.nodes.values().filter(|node| node.leads_range(range)).count();
    assert!((0..RANGES).all(|place| led(RangeId(RANGE.0 + place)) == 1));
    cluster
}

/// Lets one tick pass and delivers one round; says which packets left.
fn one_tick(cluster: &mut Cluster) -> Vec<Packet> {
    for node in cluster.nodes.values_mut() {
        node.store.tick();
    }
    for store in 1..=3 {
        cluster.turn(store);
    }
    let sent = cluster.in_transit.clone();
    cluster.settle();
    sent
}

#[test]
fn all_leaders_of_a_store_beat_together_in_one_message_to_each_store() {
    let mut cluster = idle();
    let mut leaders: BTreeMap<u64, usize> = BTreeMap::new();
    for (store, node) in &cluster.nodes {
        let led = (0..RANGES).filter(|place| node.leads_range(RangeId(RANGE.0 + place)));
        leaders.insert(*store, led.count());
    }
    assert!(leaders.values().filter(|led| **led > 0).count() > 1, "{leaders:?}");
    let mut silent = 0;
    for _ in 0..10 {
        let sent = one_tick(&mut cluster);
        silent += usize::from(sent.is_empty());
        for packet in &sent {
            let Packet::Heartbeats(beats) = packet else { panic!("{packet:?} on idle ranges") };
            assert_eq!(beats.beats.len(), leaders[&beats.from_store], "all its ranges");
            assert!(beats.beats.is_sorted_by_key(|beat| beat.range_id));
        }
        let ends: Vec<_> = sent.iter().map(Packet::ends).collect();
        assert!(ends.is_sorted_by(|one, other| one < other), "one for each pair: {ends:?}");
    }
    assert_eq!(silent, 5, "every other tick is a heartbeat");
}

#[test]
fn answers_are_one_message_too() {
    let mut cluster = idle();
    while one_tick(&mut cluster).is_empty() {}
    (0..2).for_each(|_| cluster.nodes.values_mut().for_each(|node| node.store.tick()));
    (1..=3).for_each(|store| cluster.turn(store));
    cluster.deliver();
    (1..=3).for_each(|store| cluster.turn(store));
    let answers: Vec<_> = cluster
        .in_transit
        .iter()
        .map(|packet| match packet {
            Packet::Heartbeats(beats) => (packet.ends(), beats.beats.len()),
            Packet::Message(_) | Packet::Snapshot(_) => panic!("{packet:?} on idle ranges"),
        })
        .collect();
    let beats: usize = answers.iter().map(|(_, beats)| beats).sum();
    assert_eq!(beats as u64, 2 * RANGES, "two followers answer for each range");
    assert!(answers.len() <= 6, "{answers:?}");
}

/// One forged beat does not take the others down with it.
#[test]
fn each_beat_passes_the_guard_for_itself() {
    let mut cluster = idle();
    let mut bundle = loop {
        let sent = one_tick(&mut cluster);
        let found = sent.into_iter().find_map(|packet| match packet {
            Packet::Heartbeats(beats) if beats.beats.len() > 3 => Some(beats),
            _ => None,
        });
        if let Some(beats) = found {
            break beats;
        }
    };
    let to = bundle.to_store;
    let [first, second, third, ..] = &mut bundle.beats[..] else { panic!("more than three") };
    first.to_peer = 99;
    second.range_id = 1_000;
    third.commit = 1_000;
    let third = RangeId(third.range_id);
    let expected = [
        (RangeId(first.range_id), Dropped::NotForMe(PeerId(99))),
        (RangeId(1_000), Dropped::UnknownRange(RangeId(1_000))),
        (third, Dropped::LostLog { commit: 1_000, last: 6 }),
    ];
    let node = cluster.node(to);
    assert_eq!(node.store.step_heartbeats(bundle.clone()), expected);

    let mut foreign = bundle;
    foreign.cluster_id = vec![8; 16].into();
    let dropped = node.store.step_heartbeats(foreign.clone());
    assert_eq!(dropped.len(), foreign.beats.len(), "none of another cluster's");
}
