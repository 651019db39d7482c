//! A store loses power at every moment of a split, with and without what its disk had not synced: it
//! comes back with both halves or with the parent whole, and in the end both ranges are everywhere.

use sharklock_rangemap::{Bounds, RangeId};

use crate::cluster::Cluster;
use crate::node::{RANGE, descriptor, split_of};
use crate::tally::put;

const CHILD: RangeId = RangeId(8);
/// Turns of every store around the split, whose half is written in two pieces.
const ROUNDS: usize = 9;

/// The step at which the power goes.
#[derive(Clone, Copy, Debug)]
struct Cut {
    /// Behind so many pieces of work.
    at: usize,
    store: u64,
    /// The disk happens to have what it had not synced.
    keeps: bool,
}

/// False: the run was over before.
fn run(cut: Cut) -> bool {
    let mut cluster = Cluster::fresh(3);
    let leader = cluster.elect();
    for word in ["a", "f", "m", "z"] {
        cluster.propose(leader, put(word));
        cluster.settle();
    }
    let split = split_of(&descriptor(3), "m", CHILD);
    cluster.node(leader).store.split(RANGE, &split).unwrap();
    let is_cut = split_with_cut(&mut cluster, cut);
    for _ in 0..60 {
        cluster.tick();
    }
    // The leader's own power loss may take the entry away before anybody else had it.
    let leader = cluster.leader().expect("a majority is up");
    let parent = cluster.nodes[&leader].store.descriptor(RANGE).unwrap().clone();
    if parent.bounds == Bounds::ALL {
        cluster.node(leader).store.split(RANGE, &split_of(&parent, "m", CHILD)).unwrap();
        for _ in 0..30 {
            cluster.tick();
        }
    }
    check(&mut cluster, cut);
    is_cut
}

fn split_with_cut(cluster: &mut Cluster, cut: Cut) -> bool {
    let mut pieces = 0;
    let mut down = None;
    for round in 0..ROUNDS {
        for store in 1..=3 {
            if let Some(node) = cluster.nodes.get_mut(&store) {
                if round % 2 == 1 {
                    node.store.tick();
                }
                // Images fall due all the while: none may come before the half is whole.
                node.store.flush();
            }
            for is_write in [false, true] {
                match is_write {
                    false => cluster.turn(store),
                    true => _ = cluster.write(store).unwrap(),
                }
                pieces += 1;
                if pieces == cut.at {
                    down = Some(crash(cluster, cut));
                }
            }
        }
        cluster.deliver();
    }
    let is_cut = down.is_some();
    if let Some(node) = down {
        cluster.start(cut.store, node);
    }
    is_cut
}

fn crash(cluster: &mut Cluster, cut: Cut) -> crate::node::Node {
    use sharklock_multiraft::Disk as _;
    let mut node = cluster.nodes.remove(&cut.store).unwrap();
    if let Some(batch) = node.batch.take().filter(|_| cut.keeps) {
        node.disk.write(&batch.ops, false).unwrap();
    }
    let kept = if cut.keeps { node.disk.unsynced_writes() } else { 0 };
    let node = node.crash_keeping(kept);
    // Both halves or neither.
    let parent = node.store.descriptor(RANGE).unwrap();
    let has_child = node.store.descriptor(CHILD).is_some();
    let is_replayed = node.store.batch_is_due();
    let is_split = parent.bounds != Bounds::ALL;
    assert!(!has_child || is_split, "{cut:?}: a child beside its whole parent");
    assert!(!is_split || has_child || is_replayed, "{cut:?}: the child is lost");
    node
}

fn check(cluster: &mut Cluster, cut: Cut) {
    let words = |cluster: &Cluster, store, range| {
        let machine = cluster.nodes[&store].store.machine(range);
        let machine = machine.unwrap_or_else(|| panic!("{cut:?}: no range {range} on {store}"));
        machine.tokens.keys().cloned().collect::<Vec<_>>()
    };
    for store in 1..=3 {
        assert_eq!(words(cluster, store, RANGE), ["a", "f"], "{cut:?}");
        assert_eq!(words(cluster, store, CHILD), ["m", "z"], "{cut:?}");
    }
    for range in [RANGE, CHILD] {
        let leader = (1..=3).find(|store| cluster.nodes[store].leads_range(range));
        let leader = leader.unwrap_or_else(|| panic!("{cut:?}: nobody leads range {range}"));
        cluster.try_propose(leader, range, put("more")).unwrap();
    }
    cluster.settle();
    cluster.tick();
    cluster.tick();
    let hash = |store, range| cluster.nodes[&store].status_of(range).state_hash;
    for range in [RANGE, CHILD] {
        assert_eq!([hash(1, range), hash(2, range)], [hash(2, range), hash(3, range)], "{cut:?}");
    }
}

#[test]
fn no_power_loss_tears_a_split() {
    let mut cuts = 0;
    for store in 1..=3 {
        for keeps in [false, true] {
            cuts += (1..).take_while(|at| run(Cut { at: *at, store, keeps })).count();
        }
    }
    assert!(cuts > 200, "{cuts} cuts are too few to mean something");
}
