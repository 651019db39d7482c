//! Three replicas: elections, replication, losses.

use sharklock_multiraft::{NotProposed, RaftRole, RoleNow};
use sharklock_rangemap::StoreId;

use crate::cluster::Cluster;
use crate::node::RANGE;
use crate::tally::put;

#[test]
fn three_stores_elect_one_leader_and_the_others_know_it() {
    let mut cluster = Cluster::fresh(3);
    let leader = cluster.elect();
    cluster.tick();
    cluster.tick();
    for (store, node) in &mut cluster.nodes {
        let status = node.status();
        assert_eq!(status.leader, Some(StoreId(leader)));
        if *store != leader {
            assert_eq!(status.role, RaftRole::Follower);
            let refused = node.store.propose(RANGE, put("a"));
            assert_eq!(refused, Err(NotProposed::NotLeader { leader: Some(StoreId(leader)) }));
            let last = node.roles.last().unwrap().role;
            let leader = Some(StoreId(leader));
            assert_eq!(last, RoleNow::Follower { term: status.term, leader });
        }
    }
}

#[test]
fn an_entry_reaches_every_machine() {
    let mut cluster = Cluster::fresh(3);
    let leader = cluster.elect();
    for word in ["a", "b", "c"] {
        cluster.propose(leader, put(word));
    }
    cluster.settle();
    // Followers learn of the commit with the next heartbeat.
    cluster.tick();
    cluster.tick();
    for node in cluster.nodes.values() {
        assert_eq!(node.machine().tokens.len(), 3);
    }
}

#[test]
fn a_leaders_entry_is_sent_before_its_own_disk_has_it_and_applied_after() {
    let mut cluster = Cluster::fresh(3);
    let leader = cluster.elect();
    cluster.propose(leader, put("a"));
    cluster.turn(leader);
    assert_eq!(cluster.in_transit.len(), 2, "appends leave at once");
    // The followers' disks answer, the leader's does not.
    for _ in 0..4 {
        cluster.deliver();
        for store in (1..=3).filter(|store| *store != leader) {
            cluster.turn(store);
            cluster.write(store).unwrap();
        }
    }
    cluster.deliver();
    cluster.turn(leader);
    assert!(cluster.node(leader).machine().tokens.is_empty());
    cluster.settle();
    assert_eq!(cluster.node(leader).machine().tokens.len(), 1);
}

#[test]
fn a_follower_acknowledges_only_what_its_disk_has() {
    let mut cluster = Cluster::fresh(3);
    let leader = cluster.elect();
    let follower = leader % 3 + 1;
    cluster.propose(leader, put("a"));
    cluster.turn(leader);
    cluster.deliver();
    cluster.turn(follower);
    assert!(cluster.in_transit.is_empty(), "the acknowledgement waits for the sync");
    cluster.write(follower).unwrap();
    cluster.turn(follower);
    assert_eq!(cluster.in_transit.len(), 1);
}

#[test]
fn what_was_acknowledged_survives_the_leader() {
    let mut cluster = Cluster::fresh(3);
    let first = cluster.elect();
    for word in ["a", "b"] {
        cluster.propose(first, put(word));
    }
    cluster.settle();
    assert_eq!(cluster.node(first).machine().tokens.len(), 2);
    let down = cluster.nodes.remove(&first).unwrap();
    let second = cluster.elect();
    assert_eq!(cluster.node(second).machine().tokens.len(), 2);
    cluster.propose(second, put("c"));
    cluster.settle();
    cluster.start(first, down.crash());
    cluster.tick();
    cluster.tick();
    cluster.tick();
    assert_eq!(cluster.node(first).machine().tokens.len(), 3);
    assert_eq!(cluster.node(first).status().role, RaftRole::Follower);
}

#[test]
fn a_cut_off_leader_steps_down_and_loses_its_tail_for_good() {
    let mut cluster = Cluster::fresh(3);
    let old = cluster.elect();
    cluster.isolated.insert(old);
    for word in ["lost1", "lost2", "lost3"] {
        cluster.propose(old, put(word));
    }
    cluster.settle();
    let new = cluster.elect();
    for _ in 0..20 {
        cluster.tick();
    }
    assert!(!cluster.node(old).leads(), "check_quorum: it steps down by itself");
    cluster.propose(new, put("kept"));
    cluster.settle();
    cluster.isolated.clear();
    for _ in 0..5 {
        cluster.tick();
    }
    // Its log was longer than what replaced it; nothing of the tail may come back.
    cluster.restart(old);
    for _ in 0..30 {
        cluster.tick();
    }
    for node in cluster.nodes.values() {
        assert_eq!(node.machine().tokens.keys().collect::<Vec<_>>(), ["kept"]);
    }
}

#[test]
fn a_read_needs_a_majority_and_is_forgotten_with_leadership() {
    let mut cluster = Cluster::fresh(3);
    let leader = cluster.elect();
    let read = cluster.read(leader, RANGE).unwrap();
    cluster.settle();
    assert_eq!(cluster.node(leader).reads.pop().unwrap().read, read);

    cluster.isolated.insert(leader);
    cluster.read(leader, RANGE).unwrap();
    cluster.settle();
    assert!(cluster.node(leader).reads.is_empty(), "alone it proves nothing");
    cluster.elect();
    cluster.isolated.clear();
    for _ in 0..5 {
        cluster.tick();
    }
    assert!(cluster.node(leader).reads.is_empty());
    let last = cluster.node(leader).roles.last().unwrap().role;
    assert!(matches!(last, RoleNow::Follower { .. }));
}

/// Its round succeeded and only its own disk is late: the answer would be right, but its owner
/// was told to forget it.
#[test]
fn a_confirmed_read_is_forgotten_with_leadership_too() {
    let mut cluster = Cluster::fresh(3);
    let leader = cluster.elect();
    cluster.propose(leader, put("a"));
    let others = (1..=3).filter(|store| *store != leader).collect::<Vec<_>>();
    let round = |cluster: &mut Cluster| {
        for _ in 0..4 {
            cluster.turn(leader);
            cluster.deliver();
            for store in &others {
                cluster.turn(*store);
                cluster.write(*store).unwrap();
            }
        }
    };
    round(&mut cluster);
    cluster.read(leader, RANGE).unwrap();
    round(&mut cluster);
    let status = cluster.node(leader).status();
    assert!(status.applied < status.commit, "committed by the others' disks alone");
    assert!(cluster.node(leader).reads.is_empty());

    // The others move on to a new term without it.
    let late = cluster.nodes.remove(&leader).unwrap();
    cluster.elect();
    cluster.start(leader, late);
    for store in others {
        let node = cluster.node(store);
        (0..2).for_each(|_| node.store.tick());
        cluster.turn(store);
    }
    // It hears of them before its disk answers.
    cluster.deliver();
    cluster.settle();
    let node = cluster.node(leader);
    assert_eq!(node.machine().tokens.len(), 1);
    assert!(node.reads.is_empty());
}

#[test]
fn a_replica_that_was_away_catches_up_from_the_log() {
    let mut cluster = Cluster::fresh(3);
    let leader = cluster.elect();
    let away = leader % 3 + 1;
    cluster.isolated.insert(away);
    for round in 0..8 {
        cluster.propose(leader, put(&format!("w{round}")));
        cluster.node(leader).store.flush();
        cluster.settle();
    }
    cluster.isolated.clear();
    for _ in 0..10 {
        cluster.tick();
    }
    assert_eq!(cluster.node(away).machine().tokens.len(), 8);
}

#[test]
fn equal_seeds_make_equal_runs() {
    let run = || {
        let mut cluster = Cluster::fresh(3);
        let mut trace = Vec::new();
        for round in 0..120 {
            cluster.tick();
            if round % 40 == 20
                && let Some(leader) = cluster.leader()
            {
                cluster.restart(leader);
            }
            let states = cluster.nodes.values().map(|node| node.status());
            trace.extend(states);
        }
        trace
    };
    assert_eq!(run(), run());
}
