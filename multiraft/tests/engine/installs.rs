//! Single pieces of snapshots by hand, at moments that a network seldom hits.

use bytes::Bytes;
use sharklock_proto::internal::v1::{
    self as proto, ConfState, Entry, MessageType, RangeDescriptor, RangeMessage, Replica,
    SnapshotChunk, SnapshotHeader, SnapshotMessage, SnapshotMetadata, snapshot_message::Body,
};

use crate::node::{Node, RANGE};
use crate::tally::put;

/// The whole state of a tally without words: its header's length and its header.
pub fn image(counter: u64) -> Vec<u8> {
    [&8_u32.to_be_bytes()[..], &counter.to_be_bytes()[..]].concat()
}

/// Of a state with the counter 3; `voters` on the stores from 1 on.
pub fn header_of((term, index, log_term): (u64, u64, u64), voters: u64) -> SnapshotHeader {
    let members = ConfState { voters: (101..=100 + voters).collect(), ..ConfState::default() };
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
        metadata: Some(SnapshotMetadata { conf_state: Some(members), index, term: log_term }),
        descriptor: Some(descriptor),
        bytes: 12,
        crc32c: crc32c::crc32c(&image(3)),
        state_hash: 3,
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

/// What the leader on store 2 sends to store 1 in term 6.
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
    }
}

/// Entries 6 and 7, of which 6 is committed.
fn append() -> RangeMessage {
    let entry = |index| Entry { term: 6, index, data: put("x").into(), ..Entry::default() };
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
