//! An older copy of a disk is put back: what its replica had acknowledged is gone, and its votes may
//! be, too. Once its leader has told it, it takes no part any more, over any number of restarts.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use sharklock_multiraft::{NotProposed, RaftRole};

use crate::cluster::Cluster;
use crate::node::{Node, RANGE};
use crate::tally::put;

/// Three stores, of which a follower has an older copy of its disk and has just been told so; its
/// batch has not been written. Returns the leader and that follower.
fn told(words: u64) -> (Cluster, u64, u64) {
    let mut cluster = Cluster::fresh(3);
    let leader = cluster.elect();
    let follower = leader % 3 + 1;
    cluster.propose(leader, put("before"));
    cluster.settle();
    let copy = cluster.node(follower).disk.clone();
    for word in 0..words {
        cluster.propose(leader, put(&format!("acknowledged {word}")));
        cluster.settle();
    }
    cluster.start(follower, Node::recover(copy).unwrap());
    cluster.lost = Some(follower);
    // Heartbeats, one every three ticks, say what the leader knows to be there.
    for _ in 0..4 {
        cluster.node(leader).store.tick();
        cluster.turn(leader);
        cluster.write(leader).unwrap();
        cluster.deliver();
    }
    cluster.turn(follower);
    assert_eq!(cluster.node(follower).status().role, RaftRole::Stopped);
    (cluster, leader, follower)
}

#[test]
fn a_replica_that_lost_its_log_stays_stopped_over_restarts() {
    let (mut cluster, leader, lost) = told(3);
    cluster.settle();
    for life in 0..5 {
        cluster.restart(lost);
        let node = cluster.node(lost);
        assert_eq!(node.status().role, RaftRole::Stopped, "life {life}");
        let why = node.store.lost().next().expect("it is known why").1;
        assert!(why.last < why.commit, "{why}");
        assert_eq!(node.store.propose(RANGE, put("a")), Err(NotProposed::Stopped));
        assert_eq!(node.store.read_index(RANGE), Err(NotProposed::Stopped));
        for _ in 0..60 {
            cluster.tick();
        }
    }
    cluster.propose(leader, put("after"));
    cluster.settle();
    assert!(cluster.node(leader).machine().tokens.contains_key("after"));
    assert!(!cluster.node(lost).machine().tokens.contains_key("after"));
}

/// Alone with one other it would make a majority that has not seen what was acknowledged.
#[test]
fn it_votes_for_nobody_after_a_restart() {
    let (mut cluster, leader, lost) = told(3);
    cluster.settle();
    cluster.restart(lost);
    cluster.nodes.remove(&leader);
    for _ in 0..300 {
        cluster.tick();
    }
    assert_eq!(cluster.leader(), None, "a vote of the lost replica made a leader");
}

/// Nothing of it leaves before its loss is on the disk; when power goes before that, nothing had.
#[test]
fn its_loss_is_on_the_disk_before_anything_else_of_it_leaves() {
    for written in [false, true] {
        let (mut cluster, _, lost) = told(2);
        assert!(cluster.node(lost).batch.is_some(), "the loss is to be written");
        if written {
            assert!(cluster.write(lost).unwrap());
        }
        cluster.restart(lost);
        let role = cluster.node(lost).status().role;
        assert_eq!(role == RaftRole::Stopped, written, "{role:?}");
    }
}

/// Everybody restarts at random, never more than one other being away: the range lives on, and
/// everything that was acknowledged with it.
#[test]
fn the_others_go_on_whatever_restarts() {
    for seed in 0..30 {
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut cluster, _, lost) = told(1 + seed % 9);
        cluster.settle();
        let mut proposed = 0;
        for _ in 0..40 {
            cluster.restart(rng.random_range(1..=3));
            for _ in 0..rng.random_range(0..40) {
                cluster.tick();
            }
            if rng.random_range(0..3) == 0 {
                cluster.node(rng.random_range(1..=3)).store.flush();
            }
            let leader = cluster.elect();
            assert_ne!(leader, lost);
            if cluster.try_propose(leader, RANGE, put(&format!("w{proposed}"))).is_some() {
                proposed += 1;
                cluster.settle();
                let seen = cluster.node(leader).machine().tokens.len() as u64;
                assert_eq!(seen, 1 + (1 + seed % 9) + proposed, "seed {seed}");
            }
        }
        assert!(proposed > 20, "{proposed} of seed {seed}");
        assert_eq!(cluster.node(lost).status().role, RaftRole::Stopped);
    }
}
