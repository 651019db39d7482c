//! A scripted run of a sole voter, stopped by a power loss at every point at which a disk can
//! tell one point from another.

use sharklock_multiraft::{Disk as _, EntryAt, SimDisk, StateMachine as _};

use crate::node::{Node, RANGE};
use crate::tally::{Tally, put, remove};

/// How a write was cut off.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cut {
    /// Before the disk took the batch.
    Before,
    /// After it took it, before the engine heard of it.
    Unreported,
    /// After the engine heard of it and acted on it.
    Reported,
}

/// The proposals of the script, in order.
fn commands() -> Vec<Vec<u8>> {
    let words = ["a", "b", "c", "a", "d", "b", "e"];
    let mut commands = Vec::new();
    for round in 0..12 {
        commands.extend(words.iter().map(|word| put(word)));
        commands.push(remove(words[round % words.len()]));
    }
    commands
}

/// Runs the script until its `stop_at`-th write. Returns the node as it then stands, the number
/// of commands that it had reported as applied, and whether the script came to its end before.
fn run(stop_at: usize, cut: Cut) -> (Node, usize, bool) {
    let mut node = Node::fresh(1, 1);
    let commands = commands();
    let mut next = commands.into_iter().enumerate();
    let mut writes = 0;
    loop {
        let mut idle = true;
        for (at, command) in next.by_ref().take(2) {
            node.store.propose(RANGE, command).expect("a recovered sole voter leads at once");
            if at % 5 == 4 {
                node.store.flush();
            }
            idle = false;
        }
        node.turn();
        if node.batch.is_some() {
            writes += 1;
            idle = false;
            if writes == stop_at {
                match cut {
                    Cut::Before => {}
                    Cut::Unreported => {
                        let batch = node.batch.as_ref().unwrap();
                        node.disk.write(&batch.ops, true).unwrap();
                    }
                    Cut::Reported => {
                        node.write().unwrap();
                        node.turn();
                    }
                }
                let reported = reported(&node);
                return (node, reported, false);
            }
            node.write().unwrap();
        }
        let status = node.status();
        assert!(status.applied <= status.commit, "S12");
        assert!(status.log_first <= status.flushed + 1, "the log is cut behind a durable image");
        if idle {
            let reported = reported(&node);
            return (node, reported, true);
        }
    }
}

fn reported(node: &Node) -> usize {
    node.applied.iter().filter(|applied| applied.output.is_some()).count()
}

/// Recovers from what a power loss leaves, and compares with a machine that ran the script's
/// beginning without any engine.
fn check(disk: SimDisk, reported: usize) {
    let mut node = Node::recover(disk).unwrap();
    let status = node.status();
    assert!(status.applied <= status.commit, "S12 after a power loss");
    assert!(status.log_first <= status.flushed + 1);
    node.settle();
    assert!(node.leads());

    let mut machine = Tally::empty();
    let mut states = vec![machine.state_hash()];
    for command in commands() {
        machine.apply(EntryAt { index: 0, term: 0 }, 1, &command);
        states.push(machine.state_hash());
    }
    let found = states.iter().rposition(|hash| *hash == node.status().state_hash);
    let found = found.expect("the state is one that the script went through");
    assert!(found >= reported, "{reported} commands were reported, {found} are left");
}

#[test]
fn no_power_loss_takes_back_what_was_reported() {
    let mut stops = 0;
    for cut in [Cut::Before, Cut::Unreported, Cut::Reported] {
        for stop_at in 1.. {
            let (node, reported, ended) = run(stop_at, cut);
            for kept in 0..=node.disk.unsynced_writes() {
                let mut disk = node.disk.clone();
                disk.crash_keeping(kept);
                check(disk, reported);
                stops += 1;
            }
            if ended {
                assert_eq!(reported, commands().len());
                break;
            }
        }
    }
    assert!(stops > 100, "the script is long enough to mean something: {stops}");
}

#[test]
fn a_disk_fault_leaves_what_was_reported() {
    let mut node = Node::fresh(1, 1);
    node.settle();
    node.store.propose(RANGE, put("a")).unwrap();
    node.settle();
    node.store.propose(RANGE, put("b")).unwrap();
    node.turn();
    node.disk.fail_nth(1);
    node.write().unwrap_err();
    // The process must end here; the next one finds the first word only.
    let mut node = node.crash();
    node.settle();
    assert_eq!(node.machine().tokens.keys().collect::<Vec<_>>(), ["a"]);
}
