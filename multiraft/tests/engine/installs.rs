//! Single pieces of snapshots by hand, at moments that a network seldom hits.

use bytes::Bytes;
use prost::Message as _;
use sharklock_proto::internal::v1::{
    self as proto, Entry, MessageType, PeerNotice, RangeDescriptor, RangeMessage, Replica,
    ReplicaRemoved, SnapshotChunk, SnapshotHeader, SnapshotMessage, SnapshotMetadata,
    peer_notice::Notice, snapshot_message::Body,
};
use sharklock_rangemap::{PeerId, RangeId, StoreId};

use crate::node::{Node, RANGE, machine_entry};

/// The whole state of a tally without words: its header's length and its header.
pub fn image(counter: u64) -> Vec<u8> {
    [&8_u32.to_be_bytes()[..], &counter.to_be_bytes()[..]].concat()
}

/// Of a state with the counter 3; `voters` on the stores from 1 on.
pub fn header_of((term, index, log_term): (u64, u64, u64), voters: u64) -> SnapshotHeader {
    let replica = |store| Replica { peer_id: 100 + store, store_id: store, role: 1 };
    let descriptor = RangeDescriptor {
        range_id: RANGE.0,
        conf_ver: 1,
        version: 1,
        replicas: (1..=voters).map(replica).collect(),
        ..RangeDescriptor::default()
    };
    SnapshotHeader {
        term,
        metadata: Some(SnapshotMetadata { conf_state: None, index, term: log_term }),
        descriptor: Some(descriptor),
        bytes: 12,
        crc32c: crc32c::crc32c(&image(3)),
        state_hash: 3,
        splits: Vec::new(),
        repairs: false,
    }
}

/// To store 1.
pub fn piece(from: u64, transfer: u64, body: Body) -> SnapshotMessage {
    SnapshotMessage {
        cluster_id: Bytes::from_static(&[9; 16]),
        range_id: RANGE.0,
        from_store: from,
        to_store: 1,
        from_peer: 100 + from,
        to_peer: 101,
        transfer,
        body: Some(body),
    }
}

/// The messages of the leader on store 2 to store 1 in term 6.
fn from_leader(body: proto::Message) -> RangeMessage {
    RangeMessage {
        cluster_id: Bytes::from_static(&[9; 16]),
        range_id: RANGE.0,
        from_store: 2,
        to_store: 1,
        from_peer: 102,
        to_peer: 101,
        conf_ver: 1,
        version: 1,
        message: Some(proto::Message { from: 102, to: 101, term: 6, ..body }),
        notice: None,
    }
}

/// Entries 6 and 7, of which 6 is committed.
fn append() -> RangeMessage {
    let entry = |index| machine_entry(index, 6, "x");
    from_leader(proto::Message {
        msg_type: MessageType::MsgAppend.into(),
        index: 5,
        log_term: 5,
        entries: vec![entry(6), entry(7)],
        commit: 6,
        ..proto::Message::default()
    })
}

fn heartbeat(commit: u64) -> RangeMessage {
    let msg_type = MessageType::MsgHeartbeat.into();
    from_leader(proto::Message { msg_type, commit, ..proto::Message::default() })
}

/// Store 1 hears that store 2 leads this range in term 6.
pub fn follow_in_term_6(node: &mut Node, range: RangeId) {
    let here = node.store.descriptor(range).expect("it is here");
    let peer = |store| here.on_store(StoreId(store)).expect("it is a member").peer.0;
    let (from_peer, to_peer) = (peer(2), peer(1));
    let mut message = heartbeat(5);
    let body =
        message.message.take().map(|it| proto::Message { from: from_peer, to: to_peer, ..it });
    let message = RangeMessage { range_id: range.0, from_peer, to_peer, message: body, ..message };
    node.store.step(message).expect("it is honest");
    node.settle();
    node.snapshots.clear();
}

/// Store 1 gets a snapshot of term 6 at index 9, in one chunk.
fn send(node: &mut Node, header: SnapshotHeader) {
    node.store.step_snapshot(piece(2, 1, Body::Header(header))).expect("it is honest");
    let (data, crc32c) = (image(3).into(), crc32c::crc32c(&image(3)));
    let chunk = Body::Chunk(SnapshotChunk { offset: 0, data, crc32c });
    node.store.step_snapshot(piece(2, 1, chunk)).expect("it is honest");
}

#[test]
fn what_is_not_the_announced_state_is_not_installed() {
    let right = header_of((6, 9, 6), 3);
    let headers = [
        (SnapshotHeader { state_hash: 4, ..right.clone() }, 0),
        (SnapshotHeader { crc32c: right.crc32c + 1, ..right.clone() }, 0),
        (right, 1),
    ];
    for (header, installed) in headers {
        let mut node = Node::fresh(1, 3);
        node.store.step(heartbeat(5)).expect("it is honest");
        node.settle();
        send(&mut node, header);
        node.settle();
        assert_eq!(node.store.snapshot_stats().installed, installed);
        assert_eq!(node.status().applied, if installed == 1 { 9 } else { 5 });
    }
}

/// Its sums are right, so a newer program has made it.
#[test]
fn a_replica_that_cannot_read_a_snapshot_stays_behind_until_it_gets_one_that_it_can_read() {
    let mut node = Node::fresh(1, 3);
    node.store.step(heartbeat(5)).expect("it is honest");
    node.settle();
    let newer = [&4_u32.to_be_bytes()[..], &[0; 4]].concat();
    let (bytes, crc32c) = (newer.len() as u64, crc32c::crc32c(&newer));
    let header = SnapshotHeader { bytes, crc32c, ..header_of((6, 9, 6), 3) };
    node.store.step_snapshot(piece(2, 1, Body::Header(header))).expect("it is honest");
    let chunk = Body::Chunk(SnapshotChunk { offset: 0, data: newer.into(), crc32c });
    node.store.step_snapshot(piece(2, 1, chunk)).expect("it is honest");
    node.settle();
    let behind = node.store.behind().next().map(|(range, it)| (range, it.index, it.why.clone()));
    assert_eq!(behind, Some((RANGE, 9, "not a number".to_owned())));
    let right = header_of((6, 9, 6), 3);
    node.store.step_snapshot(piece(2, 2, Body::Header(right))).expect("it is honest");
    let (data, crc32c) = (image(3).into(), crc32c::crc32c(&image(3)));
    let chunk = Body::Chunk(SnapshotChunk { offset: 0, data, crc32c });
    node.store.step_snapshot(piece(2, 2, chunk)).expect("it is honest");
    node.settle();
    assert_eq!(node.status().applied, 9);
    assert_eq!(node.store.behind().next(), None);
}

/// Of a replica, nothing else may be on its way to the disk.
#[test]
fn an_install_waits_until_the_disk_has_the_log() {
    let mut node = Node::fresh(1, 3);
    node.store.step(append()).expect("it is honest");
    node.turn();
    let entries = node.batch.clone().expect("the entries go to the disk");
    send(&mut node, header_of((6, 9, 6), 3));
    node.turn();
    assert_eq!(node.batch.as_ref(), Some(&entries), "the disk is busy");
    node.settle();
    assert_eq!((node.status().applied, node.machine().counter), (9, 3));
    let node = node.crash();
    assert_eq!((node.status().applied, node.machine().counter), (9, 3));
}

/// An image that falls due while the snapshot is staged would put the old rows over the new ones.
#[test]
fn the_old_image_does_not_follow_the_new_one() {
    let mut node = Node::fresh(1, 3);
    node.store.step(append()).expect("it is honest");
    node.settle();
    assert_eq!(node.status().applied, 6);
    node.store.flush();
    node.turn();
    assert!(node.batch.is_some(), "the image is on its way");
    // Entry 7 is applied meanwhile, so that the image falls due again.
    node.store.step(heartbeat(7)).expect("it is honest");
    node.turn();
    assert_eq!(node.status().applied, 7);
    node.store.flush();
    send(&mut node, header_of((6, 9, 6), 3));
    node.settle();
    assert_eq!((node.status().applied, node.machine().counter), (9, 3));
    let node = node.crash();
    assert_eq!((node.status().flushed, node.machine().counter), (9, 3));
    assert!(node.machine().tokens.is_empty(), "the snapshot has no words");
}

/// A leader's first entry, and a split at `m` into range 8, decided by this version and `conf_ver`.
fn append_with_split_of((version, conf_ver): (u64, u64)) -> RangeMessage {
    let first = Entry { term: 6, index: 6, ..Entry::default() };
    let record = proto::SplitEntry {
        version,
        conf_ver,
        key: "m".to_owned(),
        child_range_id: 8,
        child_peer_ids: vec![201, 202, 203],
    };
    let context = [&[2], record.encode_to_vec().as_slice()].concat();
    let split = Entry { term: 6, index: 7, context: context.into(), ..Entry::default() };
    from_leader(proto::Message {
        msg_type: MessageType::MsgAppend.into(),
        index: 5,
        log_term: 5,
        entries: vec![first, split],
        commit: 6,
        ..proto::Message::default()
    })
}

fn append_with_split() -> RangeMessage {
    append_with_split_of((1, 1))
}

/// Whatever has changed since it was decided, the bounds or who would have the child: it is void.
#[test]
fn a_split_that_was_decided_by_another_epoch_changes_nothing() {
    for epoch in [(2, 1), (1, 2), (0, 1), (1, 0)] {
        let mut node = Node::fresh(1, 3);
        node.store.step(append_with_split_of(epoch)).expect("it is honest");
        node.settle();
        node.store.step(heartbeat(7)).expect("it is honest");
        node.settle();
        assert_eq!((node.status().applied, node.store.ranges()), (7, vec![RANGE]), "{epoch:?}");
        let descriptor = node.store.descriptor(RANGE).expect("it is there");
        assert_eq!(*descriptor, crate::node::descriptor(3), "{epoch:?}");
    }
}

/// Of the parent, from behind the split.
fn header_behind_split() -> SnapshotHeader {
    let mut header = header_of((6, 9, 6), 3);
    let descriptor = header.descriptor.as_mut().expect("it has one");
    (descriptor.version, descriptor.end) = (2, Bytes::from_static(b"m"));
    header
}

/// A snapshot proves that the splits in it are committed. Whoever skipped them would not have the
/// child, and neither may the others.
#[test]
fn a_split_in_the_log_is_applied_before_a_snapshot_that_contains_it() {
    let contained = proto::ContainedSplit { index: 7, term: 6, child_range_id: 8 };
    let elsewhere = proto::ContainedSplit { term: 7, ..contained };
    for (splits, has_child) in [(vec![contained], true), (vec![], false), (vec![elsewhere], false)]
    {
        let mut node = Node::fresh(1, 3);
        node.store.step(append_with_split()).expect("it is honest");
        node.settle();
        assert_eq!((node.status().applied, node.store.ranges()), (6, vec![RANGE]));
        // The other term could be a split that another leader had put there: the header is refused.
        let header = SnapshotHeader { splits, ..header_behind_split() };
        if header.splits.first().is_some_and(|split| split.term > 6) {
            let refused = node.store.step_snapshot(piece(2, 1, Body::Header(header)));
            assert!(refused.is_err(), "a split of a later term than the state");
            continue;
        }
        send(&mut node, header);
        node.settle();
        assert_eq!(node.status().applied, 9);
        let bounds = &node.store.descriptor(RANGE).expect("it is there").bounds;
        assert_eq!(bounds.end, b"m");
        assert_eq!(node.store.descriptor(RangeId(8)).is_some(), has_child);
        let node = node.crash();
        assert_eq!(node.store.descriptor(RangeId(8)).is_some(), has_child, "also on the disk");
    }
}

/// Hole 32: the store has had a replica of the child that is as new, and it is gone.
#[test]
fn a_split_that_comes_after_the_end_of_its_child_makes_nothing() {
    for (buried, has_child) in [(200, true), (201, false), (301, false)] {
        let mut node = Node::fresh(1, 3);
        let removed = RangeMessage {
            range_id: 8,
            conf_ver: 5,
            to_peer: buried,
            message: None,
            notice: Some(PeerNotice { notice: Some(Notice::Removed(ReplicaRemoved {})) }),
            ..append()
        };
        node.store.step(removed).expect("it is honest");
        node.settle();
        assert_eq!(node.store.tombstone(RangeId(8)), Some(PeerId(buried)));
        let mut node = node.crash();
        node.store.step(append_with_split()).expect("it is honest");
        node.settle();
        node.store.step(heartbeat(7)).expect("it is honest");
        node.settle();
        assert_eq!(node.store.descriptor(RANGE).expect("it is there").bounds.end, b"m");
        assert_eq!(node.store.descriptor(RangeId(8)).is_some(), has_child, "{buried}");
        let node = node.crash();
        assert_eq!(node.store.descriptor(RangeId(8)).is_some(), has_child, "{buried}");
    }
}

/// A leader's entries: three words, and a split that takes two of them along. All but the split are
/// known to be committed.
fn append_with_words_and_split() -> RangeMessage {
    let mut message = append_with_split();
    let body = message.message.as_mut().expect("an append has a body");
    let split = body.entries.pop().expect("it has a split");
    body.entries =
        ["a", "m", "z"].iter().zip(6..).map(|(it, at)| machine_entry(at, 6, it)).collect();
    body.entries.push(Entry { index: 9, ..split });
    body.commit = 8;
    message
}

/// The rows of the child are taken piece by piece, and a snapshot of the parent comes meanwhile. Were
/// it on the disk before them, nothing there would know of the child.
#[test]
fn a_snapshot_waits_until_the_halves_of_a_split_are_in_a_batch() {
    let mut seen = Vec::new();
    for steps in 0..12 {
        let mut node = Node::fresh(1, 3);
        node.store.step(append_with_words_and_split()).expect("it is honest");
        node.settle();
        let splits = vec![proto::ContainedSplit { index: 9, term: 6, child_range_id: 8 }];
        let metadata = SnapshotMetadata { conf_state: None, index: 11, term: 6 };
        let metadata = Some(metadata);
        send(&mut node, SnapshotHeader { splits, metadata, ..header_behind_split() });
        for _ in 0..steps {
            node.turn();
            node.write().expect("no fault is planned");
        }
        let mut node = node.crash();
        let on_disk = node.status().flushed;
        node.settle();
        let is_split = node.store.descriptor(RANGE).expect("it is there").bounds.end == b"m";
        assert_eq!(node.store.descriptor(RangeId(8)).is_some(), is_split, "after {steps} steps");
        seen.push((is_split, on_disk));
    }
    seen.dedup();
    assert_eq!(seen.first(), Some(&(false, 5)), "{seen:?}");
    assert_eq!(seen.last(), Some(&(true, 11)), "{seen:?}");
}
