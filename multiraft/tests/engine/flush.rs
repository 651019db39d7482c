//! The image written behind: what a flush carries, what it must not, and the log behind it.

use sharklock_multiraft::{Batch, Family, WriteOp};

use crate::cluster::Cluster;
use crate::node::{Layout, Node, RANGE};
use crate::tally::put;

/// Proposes and applies `count` entries.
fn write_words(node: &mut Node, count: u64) {
    for word in 0..count {
        node.store.propose(RANGE, put(&format!("w{}", word % 3))).unwrap();
        node.settle();
    }
}

fn hard_states(batch: &Batch) -> usize {
    let is_hard_state = |op: &&WriteOp| matches!(op, WriteOp::Put(Family::Meta, key, _) if key.len() == 9 && key[8] == 1);
    batch.ops.iter().filter(is_hard_state).count()
}

#[test]
fn a_flushed_range_restarts_from_its_image() {
    let mut node = Node::fresh(1, 1);
    node.settle();
    write_words(&mut node, 5);
    node.store.flush();
    node.turn();
    let batch = node.batch.as_ref().unwrap();
    let rows = |batch: &Batch| {
        batch.ops.iter().filter(|op| matches!(op, WriteOp::Put(Family::State, ..))).count()
    };
    assert_eq!(rows(batch), 3, "five writes to three words are three rows");
    node.write().unwrap();
    let status = node.status();
    assert_eq!(status.flushed, status.applied, "an image is durable with its batch");
    write_words(&mut node, 1);

    let before = node.machine().clone();
    let mut node = node.crash();
    assert_eq!(node.status().flushed, status.flushed);
    node.settle();
    assert_eq!(node.machine().tokens, before.tokens);
    assert_eq!(node.applied.len(), 2, "only what the image lacks is replayed");
}

/// Hole 25: with the counter outside the flush, a restart that replays less than the image holds
/// gives a token twice.
#[test]
fn tokens_go_on_after_a_restart_that_replays_nothing() {
    let mut node = Node::fresh(1, 1);
    node.settle();
    write_words(&mut node, 20);
    node.store.flush();
    node.settle();
    write_words(&mut node, 1);
    node.store.flush();
    node.settle();
    let last = node.machine().counter;
    let mut node = node.crash();
    node.settle();
    node.applied.clear();
    write_words(&mut node, 1);
    assert_eq!(node.applied[0].output, Some(last + 1));
}

/// Hole 26: a flush cut at one term and queued behind the vote of the next must not take the vote
/// back.
#[test]
fn a_flush_never_writes_term_or_vote() {
    let mut node = Node::fresh(1, 1);
    node.settle();
    write_words(&mut node, 3);
    node.store.flush();
    node.turn();
    assert_eq!(hard_states(node.batch.as_ref().unwrap()), 0);
    node.write().unwrap();

    // A flush that shares its batch with a `Ready` brings no hard state of its own.
    node.store.propose(RANGE, put("x")).unwrap();
    node.store.flush();
    node.turn();
    assert!(hard_states(node.batch.as_ref().unwrap()) <= 1);
}

/// A batch of its own costs a sync, and somebody's commit may wait behind that.
#[test]
fn an_image_waits_for_a_batch_that_leaves_anyway_until_it_is_asked_for_again() {
    let mut node = Node::fresh(1, 1);
    node.settle();
    write_words(&mut node, 2);
    let rows = |batch: Batch| {
        batch.ops.iter().filter(|op| matches!(op, WriteOp::Put(Family::State, ..))).count()
    };
    node.store.flush_along();
    node.turn();
    assert_eq!(node.batch, None, "nobody writes");
    node.store.propose(RANGE, put("w0")).unwrap();
    node.turn();
    assert_eq!(rows(node.batch.clone().unwrap()), 2);
    node.settle();
    assert_eq!(node.status().flushed, node.status().applied - 1);

    node.store.flush_along();
    node.turn();
    assert_eq!(node.batch, None, "nobody writes");
    node.store.flush_along();
    node.turn();
    assert_eq!(rows(node.batch.clone().unwrap()), 1, "idle, with nothing left unwritten");
    node.settle();
    assert_eq!(node.status().flushed, node.status().applied);
    node.store.flush_along();
    node.store.flush_along();
    node.turn();
    assert_eq!(node.batch, None);

    write_words(&mut node, 1);
    node.store.flush_along();
    node.store.flush();
    node.turn();
    assert!(node.batch.is_some(), "an owner that stops does not wait");
}

#[test]
fn a_flush_waits_for_the_disk_and_then_carries_everything_applied() {
    let mut node = Node::fresh(1, 1);
    node.settle();
    write_words(&mut node, 1);
    node.store.propose(RANGE, put("w1")).unwrap();
    node.turn();
    node.store.flush();
    node.turn();
    node.write().unwrap();
    node.turn();
    node.write().unwrap();
    let status = node.status();
    assert_eq!(status.flushed, status.applied);
}

#[test]
fn an_unchanged_range_flushes_nothing() {
    let mut node = Node::fresh(1, 1);
    node.settle();
    node.store.flush();
    node.settle();
    node.store.flush();
    node.turn();
    assert_eq!(node.batch, None);
}

#[test]
fn the_log_is_cut_behind_the_durable_image_and_keeps_its_floor() {
    let mut node = Node::fresh(1, 1);
    node.settle();
    write_words(&mut node, 10);
    assert_eq!(node.status().log_first, 6, "no image, no cut");
    node.store.flush();
    node.settle();
    assert_eq!(node.status().log_first, 6, "the image is not durable yet");
    write_words(&mut node, 1);
    let flushed = node.status().flushed;
    node.store.flush();
    node.settle();
    let status = node.status();
    assert_eq!(status.log_first, status.log_last - 4 + 1, "the floor of four is kept");
    assert!(status.log_first <= flushed + 1);

    let before = node.machine().clone();
    let mut node = node.crash();
    node.settle();
    assert_eq!(node.machine().tokens, before.tokens);
    assert_eq!(node.machine().counter, before.counter);
}

#[test]
fn a_log_over_its_maximum_flushes_itself() {
    let mut node = Node::fresh(1, 1);
    node.settle();
    write_words(&mut node, 40);
    let status = node.status();
    assert!(status.log_last - status.log_first < 16, "{status:?}");
}

/// raft-rs lists members in the order of its hash sets, which recovery once took for another
/// configuration: a range of five that had flushed could not start any more.
#[test]
fn a_range_of_many_members_starts_again_from_its_image() {
    for (voters, learners) in [(3, 1), (5, 0), (5, 2), (7, 2)] {
        let layout = Layout { learners, ..Layout::of_voters(voters) };
        let mut cluster = Cluster::fresh_in(&layout);
        let leader = cluster.elect();
        cluster.propose(leader, put("a"));
        for _ in 0..3 {
            cluster.tick();
        }
        for store in layout.stores() {
            cluster.node(store).store.flush();
        }
        cluster.settle();
        for store in layout.stores() {
            let node = cluster.nodes.remove(&store).unwrap();
            cluster.start(store, node.crash_keeping(usize::MAX));
            assert_eq!(cluster.node(store).status().flushed, 7, "{layout:?}");
            assert_eq!(cluster.node(store).machine().tokens.len(), 1);
        }
    }
}
