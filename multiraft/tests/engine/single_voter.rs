//! A range whose only voter is here: what `sharklock dev` runs on.

use sharklock_multiraft::{Disk as _, NotProposed, RoleChange, RoleNow, SimDisk, bootstrap};
use sharklock_rangemap::{Bounds, Descriptor, RangeId};

use crate::node::{Node, RANGE, descriptor, ident};
use crate::tally::put;

#[test]
fn a_sole_voter_leads_after_one_batch() {
    let mut node = Node::fresh(1, 1);
    node.turn();
    assert!(!node.leads(), "not before its first entry is durable");
    node.roles.clear();
    assert!(node.write().unwrap());
    node.turn();
    let role = RoleNow::Leader { term: 6 };
    assert_eq!(node.roles, [RoleChange { range: RANGE, role }]);
    assert_eq!(node.applied.len(), 1, "the leader's empty entry");
    assert_eq!(node.applied[0].output, None);
    assert!(!node.write().unwrap(), "a commit index alone makes no batch");
}

#[test]
fn an_entry_is_applied_only_once_its_batch_is_on_the_disk() {
    let mut node = Node::fresh(1, 1);
    node.settle();
    node.applied.clear();
    let proposed = node.store.propose(RANGE, put("a")).unwrap();
    node.turn();
    assert!(node.batch.is_some(), "the entry goes to the disk");
    node.turn();
    assert!(node.applied.is_empty(), "its batch is in flight");
    node.write().unwrap();
    node.turn();
    assert_eq!(node.applied.len(), 1);
    assert_eq!(
        (node.applied[0].at.index, node.applied[0].at.term),
        (proposed.index, proposed.term)
    );
    assert_eq!(node.applied[0].output, Some(1));
}

#[test]
fn what_comes_while_a_batch_is_in_flight_shares_the_next() {
    let mut node = Node::fresh(1, 1);
    node.settle();
    node.store.propose(RANGE, put("a")).unwrap();
    node.turn();
    for word in ["b", "c", "d"] {
        node.store.propose(RANGE, put(word)).unwrap();
        node.turn();
    }
    assert!(node.write().unwrap());
    node.turn();
    assert!(node.write().unwrap());
    node.turn();
    assert!(node.batch.is_none(), "two batches carried four entries");
    assert_eq!(node.machine().counter, 4);
}

#[test]
fn a_read_waits_for_what_was_committed_before_it() {
    let mut node = Node::fresh(1, 1);
    assert_eq!(node.store.read_index(RANGE), Err(NotProposed::NotReady));
    node.settle();
    node.store.propose(RANGE, put("a")).unwrap();
    let read = node.store.read_index(RANGE).unwrap();
    node.settle();
    assert_eq!(node.reads.len(), 1);
    assert_eq!(node.reads[0].read, read);
    assert!(node.store.read_index(RANGE).unwrap() != read);
}

#[test]
fn unknown_ranges_are_refused() {
    let mut node = Node::fresh(1, 1);
    let other = RangeId(8);
    assert_eq!(node.store.propose(other, put("a")), Err(NotProposed::UnknownRange));
    assert_eq!(node.store.read_index(other), Err(NotProposed::UnknownRange));
    assert_eq!(node.store.status(other), None);
    assert_eq!(node.store.range_at(b"any"), Some(RANGE));
    assert_eq!(node.store.ranges(), [RANGE]);
}

#[test]
fn ranges_share_a_batch() {
    let mut disk = SimDisk::default();
    let names = [("", "m"), ("m", "")];
    for (range, (start, end)) in (7..).map(RangeId).zip(names) {
        let bounds = Bounds { start: start.into(), end: end.into() };
        let descriptor = Descriptor { range, bounds, ..descriptor(1) };
        disk.write(&bootstrap(&ident(1), &descriptor), true).unwrap();
    }
    let mut node = Node::recover(disk).unwrap();
    node.settle();
    assert_eq!(node.store.range_at(b"a"), Some(RangeId(7)));
    assert_eq!(node.store.range_at(b"m"), Some(RangeId(8)));
    assert_eq!(node.store.range_at(b"z"), Some(RangeId(8)));
    node.applied.clear();
    for range in node.store.ranges() {
        node.store.propose(range, put("a")).unwrap();
    }
    node.turn();
    assert!(node.write().unwrap());
    node.turn();
    assert_eq!(node.batch, None);
    let ranges = node.applied.iter().map(|applied| applied.range).collect::<Vec<_>>();
    assert_eq!(ranges, [RangeId(7), RangeId(8)]);

    node.store.flush();
    node.settle();
    let mut node = node.crash();
    node.settle();
    for range in [RangeId(7), RangeId(8)] {
        assert_eq!(node.store.machine(range).unwrap().tokens.len(), 1, "each has its own rows");
    }
}

#[test]
fn a_range_whose_disk_stands_still_says_that_it_is_overloaded() {
    let mut node = Node::fresh(1, 1);
    node.settle();
    let entry = || [put("a"), vec![b'x'; 1 << 20]].concat();
    let mut taken = 0;
    while node.store.propose(RANGE, entry()).is_ok() {
        node.turn();
        taken += 1;
        assert!(taken <= 16, "16 MiB are the bound");
    }
    assert_eq!(node.store.propose(RANGE, entry()), Err(NotProposed::Overloaded));
    node.settle();
    assert_eq!(node.machine().counter, taken);
    node.store.propose(RANGE, entry()).unwrap();
}
