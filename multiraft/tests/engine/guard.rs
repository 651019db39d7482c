//! Messages that the guard lets in, and that none of them kills the process.

use bytes::Bytes;
use proptest::prelude::*;
use sharklock_multiraft::{Behind, Dropped, NotProposed, RaftRole};
use sharklock_proto::internal::v1::{
    self as proto, Entry, EntryType, MessageType, RangeMessage, SnapshotAck, SnapshotCancel,
    SnapshotChunk, SnapshotHeader, SnapshotMessage, SnapshotReject, snapshot_message::Body,
};
use sharklock_rangemap::{PeerId, RangeId, StoreId};

use crate::cluster::Cluster;
use crate::installs::{header_of, image, piece};
use crate::node::{Node, RANGE, machine_entry};
use crate::tally::put;

/// A heartbeat from peer 102 on store 2 to peer 101 on store 1, as a new leader sends it.
fn heartbeat() -> RangeMessage {
    RangeMessage {
        cluster_id: Bytes::from_static(&[9; 16]),
        range_id: RANGE.0,
        from_store: 2,
        to_store: 1,
        from_peer: 102,
        to_peer: 101,
        conf_ver: 1,
        version: 1,
        message: Some(proto::Message {
            msg_type: MessageType::MsgHeartbeat.into(),
            from: 102,
            to: 101,
            term: 6,
            commit: 5,
            ..proto::Message::default()
        }),
        notice: None,
    }
}

/// An append of two entries behind the initial one.
fn append() -> RangeMessage {
    let entry = |index| machine_entry(index, 6, "x");
    with_body(|body| {
        body.msg_type = MessageType::MsgAppend.into();
        (body.index, body.log_term) = (5, 5);
        body.entries = vec![entry(6), entry(7)];
    })
}

fn with(change: impl FnOnce(&mut RangeMessage)) -> RangeMessage {
    let mut message = heartbeat();
    change(&mut message);
    message
}

fn with_body(change: impl FnOnce(&mut proto::Message)) -> RangeMessage {
    with(|message| change(message.message.as_mut().unwrap()))
}

fn append_with(change: impl FnOnce(&mut proto::Message)) -> RangeMessage {
    let mut message = append();
    change(message.message.as_mut().unwrap());
    message
}

fn from(peer: u64, store: u64, mut message: RangeMessage) -> RangeMessage {
    (message.from_peer, message.from_store) = (peer, store);
    message.message.as_mut().unwrap().from = peer;
    message
}

fn answer(message: RangeMessage) -> Result<(), Dropped> {
    let mut node = Node::fresh(1, 3);
    node.settle();
    let answer = node.store.step(message);
    node.settle();
    answer
}

#[test]
fn honest_messages_pass() {
    assert_eq!(answer(heartbeat()), Ok(()));
    assert_eq!(answer(append()), Ok(()));
}

#[test]
fn envelopes_are_checked() {
    let wrong = |peer, store| Dropped::WrongSender { peer: PeerId(peer), store: StoreId(store) };
    let cases = [
        (with(|it| it.cluster_id = Bytes::from_static(&[8; 16])), Dropped::OtherCluster),
        (with(|it| it.range_id = 8), Dropped::UnknownRange(RangeId(8))),
        (with(|it| it.to_store = 2), Dropped::NotForMe(PeerId(101))),
        (with(|it| it.to_peer = 201), Dropped::NotForMe(PeerId(201))),
        (from(102, 3, heartbeat()), wrong(102, 3)),
        (from(101, 1, heartbeat()), wrong(101, 1)),
        (from(999, 1, heartbeat()), wrong(999, 1)),
        (from(0, 2, heartbeat()), wrong(0, 2)),
        (with(|it| it.message = None), Dropped::Malformed("it has no body")),
        (
            with_body(|body| body.from = 103),
            Dropped::Malformed("its body names other peers than its envelope"),
        ),
    ];
    for (message, expected) in cases {
        assert_eq!(answer(message), Err(expected));
    }
}

#[test]
fn only_what_a_peer_may_send_passes() {
    use MessageType as Kind;
    let never = [
        Kind::MsgHup,
        Kind::MsgBeat,
        Kind::MsgPropose,
        Kind::MsgSnapshot,
        Kind::MsgUnreachable,
        Kind::MsgSnapStatus,
        Kind::MsgCheckQuorum,
        Kind::MsgTransferLeader,
        Kind::MsgReadIndex,
        Kind::MsgReadIndexResp,
    ];
    for kind in never {
        let message = with_body(|body| body.msg_type = kind.into());
        assert_eq!(answer(message), Err(Dropped::NeverSent(kind.into())), "{kind:?}");
    }
    assert_eq!(answer(with_body(|body| body.msg_type = 99)), Err(Dropped::NeverSent(99)));
    let handed_over = with_body(|body| body.msg_type = Kind::MsgTimeoutNow.into());
    assert!(matches!(answer(handed_over), Err(Dropped::NotMyLeader(_))));
}

#[test]
fn bodies_are_checked() {
    let malformed = [
        with_body(|body| body.term = 0),
        with_body(|body| body.term = u64::MAX),
        with_body(|body| body.request_snapshot = 3),
        append_with(|body| body.index = u64::MAX),
        // raft-rs answers term 0 for entries it does not have: this one it would take for a match
        // far behind its log, and panic.
        append_with(|body| (body.index, body.log_term, body.entries) = (1_000_000, 0, vec![])),
        append_with(|body| body.entries[1].index = 9),
        append_with(|body| body.entries[0].index = 3),
        append_with(|body| body.entries[1].term = 7),
        append_with(|body| body.entries[1].term = 5),
        append_with(|body| body.entries[0].entry_type = EntryType::EntryConfChange.into()),
    ];
    for message in malformed {
        let answer = answer(message.clone());
        assert!(matches!(answer, Err(Dropped::Malformed(_))), "{answer:?} to {message:?}");
    }
}

/// One such message aborted any raft-rs process (raft.md, *The guard*).
/// An older program where a newer one leads: the replica stays as it is, and says what it lacks.
#[test]
fn an_entry_that_this_program_does_not_know_stays_outside() {
    let newer = append_with(|body| body.entries[1].data = Bytes::from_static(b"!new"));
    let why = "it needs a newer tally".to_owned();
    assert_eq!(answer(newer), Err(Dropped::Beyond(Behind { index: 7, term: 6, why })));
    // So does one whose kind is new to the engine itself.
    let newer = append_with(|body| body.entries[1].context = Bytes::from_static(&[77]));
    let Err(Dropped::Beyond(behind)) = answer(newer) else { panic!("it is no damage") };
    assert!(behind.why.ends_with("upgrade this server"), "{behind}");
}

#[test]
fn a_replica_stays_behind_until_its_log_has_what_took_the_place_of_the_newer_entry() {
    let mut node = Node::fresh(1, 3);
    // An older leader's entries, which nobody has committed: they are no sign that it caught up.
    let older = append_with(|body| {
        body.entries = (6..=9).map(|index| machine_entry(index, 6, "x")).collect();
    });
    node.store.step(older).expect("it is honest");
    node.settle();
    let of_term_8 = |index: u64, log_term, data: &'static [u8]| {
        let entry = Entry { data: data.into(), ..machine_entry(index + 1, 8, "x") };
        append_with(|body| {
            (body.term, body.index, body.log_term) = (8, index, log_term);
            body.entries = vec![entry];
        })
    };
    let behind = |node: &Node| node.store.behind().next().map(|(range, it)| (range, it.index));
    assert_eq!(behind(&node), None);
    node.store.step(of_term_8(5, 5, b"!new")).expect_err("this program is too old");
    node.settle();
    assert_eq!(behind(&node), Some((RANGE, 6)));
    // The leader asks how far the log goes: that brings nothing.
    node.store.step(with_body(|body| body.term = 8)).expect("it is honest");
    node.settle();
    assert_eq!(behind(&node), Some((RANGE, 6)));
    // Another one leads, with this program, and the newer entry is lost.
    let mut message = of_term_8(5, 5, b"+y");
    let body = message.message.as_mut().unwrap();
    (body.term, body.entries[0].term) = (9, 9);
    node.store.step(message).expect("it is honest");
    node.settle();
    assert_eq!(behind(&node), None);
}

#[test]
fn a_forged_heartbeat_stops_its_replica_and_not_the_process() {
    for forger in [from(102, 2, heartbeat()), from(999, 4, heartbeat())] {
        let mut node = Node::fresh(1, 3);
        node.settle();
        let mut message = forger;
        let body = message.message.as_mut().unwrap();
        (body.term, body.commit) = (99, 1_000_000);
        let lost = Dropped::LostLog { commit: 1_000_000, last: 5 };
        assert_eq!(node.store.step(message), Err(lost));
        assert_eq!(node.store.step(heartbeat()), Err(Dropped::Stopped));
        assert_eq!(node.store.propose(RANGE, put("a")), Err(NotProposed::Stopped));
        for _ in 0..50 {
            node.store.tick();
            node.settle();
        }
        assert_eq!(node.status().role, RaftRole::Stopped);
        assert!(node.messages.is_empty(), "a stopped replica says nothing");
    }
}

#[test]
fn a_late_heartbeat_of_an_older_term_stops_nothing() {
    let mut node = Node::fresh(1, 3);
    node.settle();
    node.store.step(with_body(|body| body.term = 8)).unwrap();
    node.settle();
    node.store.step(with_body(|body| (body.term, body.commit) = (7, 40))).unwrap();
    assert_eq!(node.status().role, RaftRole::Follower);
}

/// Hole 29: a replica that was away must take its new leader although it never heard of it.
#[test]
fn an_unknown_leader_with_a_newer_configuration_is_followed_and_answered() {
    let mut node = Node::fresh(1, 3);
    node.settle();
    let mut message = from(104, 4, append());
    message.conf_ver = 3;
    node.store.step(message).unwrap();
    node.settle();
    assert_eq!(node.status().leader, Some(StoreId(4)));
    let answer = node.messages.last().unwrap();
    assert_eq!((answer.to_store, answer.to_peer), (4, 104));
    let body = answer.message.as_ref().unwrap();
    assert_eq!(body.msg_type, i32::from(MessageType::MsgAppendResponse));
    assert!(!body.reject);
}

#[test]
fn a_removed_peer_is_told_so() {
    let mut message = from(104, 4, heartbeat());
    message.conf_ver = 0;
    assert_eq!(answer(message), Err(Dropped::RemovedPeer(PeerId(104))));
}

/// Hole 30: an append carries the leader's commit, which may be far above a follower's log.
#[test]
fn an_append_with_a_high_commit_passes() {
    assert_eq!(answer(append_with(|body| body.commit = 1_000_000)), Ok(()));
}

#[test]
fn a_leader_takes_no_acknowledgement_of_what_it_never_sent() {
    let mut cluster = Cluster::fresh(3);
    let leader = cluster.elect();
    let node = cluster.node(leader);
    let (term, peer) = (node.status().term, if leader == 1 { 2 } else { 1 });
    let mut message = from(100 + peer, peer, heartbeat());
    (message.to_store, message.to_peer) = (leader, 100 + leader);
    let body = message.message.as_mut().unwrap();
    body.msg_type = MessageType::MsgAppendResponse.into();
    (body.to, body.term, body.index) = (100 + leader, term, 1_000);
    assert!(matches!(node.store.step(message), Err(Dropped::Malformed(_))));
}

/// A sole voter that a forged message deposes must not win its election before its disk has what
/// it wrote as a leader: raft-rs asserts that.
#[test]
fn a_deposed_sole_voter_waits_for_its_disk() {
    let mut node = Node::fresh(1, 1);
    node.settle();
    node.store.propose(RANGE, put("a")).unwrap();
    node.turn();
    let mut message = heartbeat();
    message.message.as_mut().unwrap().term = 9;
    node.store.step(message).unwrap();
    for _ in 0..60 {
        node.store.tick();
        node.turn();
    }
    assert_eq!(node.status().role, RaftRole::Follower);
    node.settle();
    for _ in 0..60 {
        node.store.tick();
        node.settle();
    }
    assert!(node.leads());
    assert_eq!(node.machine().tokens.len(), 1);
}

/// A candidate asks for votes once its log is durable; raft-rs asserts that it is when it wins.
#[test]
fn a_vote_that_was_not_asked_for_elects_nobody() {
    let mut node = Node::fresh(1, 3);
    node.settle();
    node.store.step(append()).unwrap();
    node.turn();
    assert!(node.batch.is_some(), "its disk does not have the entries yet");
    while node.status().role != RaftRole::Candidate {
        node.store.tick();
    }
    let term = node.status().term + 1;
    let vote =
        |kind: MessageType| with_body(|body| (body.msg_type, body.term) = (kind.into(), term));
    node.store.step(vote(MessageType::MsgRequestPreVoteResponse)).unwrap();
    assert_eq!(node.status().term, term, "it stands for election");
    let refused = Dropped::Malformed("a vote before it was asked for");
    assert_eq!(node.store.step(vote(MessageType::MsgRequestVoteResponse)), Err(refused));
    node.settle();
    node.store.step(vote(MessageType::MsgRequestVoteResponse)).unwrap();
    assert_eq!(node.status().role, RaftRole::Leader);
}

/// The events of a replica between two hostile messages.
#[derive(Clone, Debug)]
enum Step {
    Message(Box<RangeMessage>),
    Piece(Box<SnapshotMessage>),
    Tick(u8),
    Turn,
    Write,
    Propose,
    Read,
    Flush,
    Restart,
}

fn hostile_message() -> impl Strategy<Value = RangeMessage> {
    let number = || prop_oneof![8 => 0..12_u64, 1 => Just(1_000_000), 1 => Just(u64::MAX)];
    let entry = (number(), number(), 0..4_i32).prop_map(|(term, index, kind)| Entry {
        entry_type: if kind == 3 { 1 } else { 0 },
        term,
        index,
        data: put("x").into(),
        context: vec![1].into(),
    });
    // Mostly well-formed runs of entries, so that the guard is passed and raft-rs reached.
    let entries = prop_oneof![
        3 => (5..12_u64, 5..9_u64, 0..4_u64).prop_map(|(index, term, count)| {
            let entry = |index| machine_entry(index, term, "y");
            (index + 1..=index + count).map(entry).collect()
        }),
        1 => prop::collection::vec(entry, 0..3),
    ];
    let sender = prop_oneof![4 => Just((102, 2)), 4 => Just((103, 3)), 1 => Just((999, 4))];
    let body = (0..20_i32, number(), number(), number(), number(), entries);
    let rest = (any::<bool>(), number(), number(), prop_oneof![9 => Just(0_u64), 1 => Just(1)]);
    (sender, body, rest).prop_map(|((peer, store), body, rest)| {
        let (msg_type, term, log_term, index, commit, entries) = body;
        let (reject, reject_hint, commit_term, request_snapshot) = rest;
        let index = entries.first().map_or(index, |entry: &Entry| entry.index.wrapping_sub(1));
        from(
            peer,
            store,
            with_body(|it| {
                *it = proto::Message {
                    msg_type,
                    to: 101,
                    term,
                    log_term,
                    index,
                    entries,
                    commit,
                    reject,
                    reject_hint,
                    commit_term,
                    request_snapshot,
                    ..proto::Message::default()
                };
            }),
        )
    })
}

/// Mostly what passes, so that snapshots are installed in every state of the replica.
fn hostile_piece() -> impl Strategy<Value = SnapshotMessage> {
    let number = || prop_oneof![12 => 5..12_u64, 1 => Just(0), 1 => Just(u64::MAX)];
    let sum = |bytes: &[u8]| crc32c::crc32c(bytes);
    let voters = prop_oneof![1 => Just(1_u64), 4 => Just(3)];
    let header = (number(), number(), number(), voters, 0..9_u8).prop_map(
        move |(term, index, log_term, voters, odd)| {
            let whole = image(if odd == 1 { 4 } else { 3 });
            Body::Header(SnapshotHeader {
                bytes: if odd == 2 { u64::MAX } else { whole.len() as u64 },
                crc32c: sum(&whole),
                repairs: odd == 3,
                ..header_of((term, index, log_term), voters)
            })
        },
    );
    let chunk = (0..14_usize, 0..14_usize, 0..9_u8).prop_map(move |(from, len, odd)| {
        let whole = image(3);
        let (from, len) = if odd < 6 { (0, 12) } else { (from, len) };
        let data = whole[from.min(12)..(from + len).min(12)].to_vec();
        let offset = if odd == 8 { u64::MAX } else { from as u64 };
        Body::Chunk(SnapshotChunk { offset, crc32c: sum(&data), data: data.into() })
    });
    let flags = (any::<bool>(), any::<bool>());
    let ack = (0..20_u64, number(), flags).prop_map(|(offset, window, (installed, has_gap))| {
        Body::Ack(SnapshotAck { offset, window, installed, has_gap })
    });
    let other = prop_oneof![
        Just(Body::Cancel(SnapshotCancel {})),
        (0..9_i32).prop_map(|why| Body::Reject(SnapshotReject { why })),
    ];
    let body = prop_oneof![6 => header, 6 => chunk, 2 => ack, 1 => other];
    (body, 1..3_u64, 1..5_u64).prop_map(|(body, transfer, from)| piece(from, transfer, body))
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => hostile_message().prop_map(|message| Step::Message(Box::new(message))),
        8 => hostile_piece().prop_map(|piece| Step::Piece(Box::new(piece))),
        2 => (1..25_u8).prop_map(Step::Tick),
        6 => Just(Step::Turn),
        4 => Just(Step::Write),
        2 => Just(Step::Propose),
        1 => Just(Step::Read),
        1 => Just(Step::Flush),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, ..ProptestConfig::default() })]

    /// The process lives, whatever arrives in whatever state of replica and disk.
    #[test]
    fn no_message_kills_the_process(voters in prop_oneof![Just(1_u64), Just(3)], steps in steps()) {
        let mut node = Node::fresh(1, voters);
        for step in steps {
            match step {
                Step::Message(message) => drop(node.store.step(*message)),
                Step::Piece(piece) => drop(node.store.step_snapshot(*piece)),
                Step::Tick(ticks) => (0..ticks).for_each(|_| node.store.tick()),
                Step::Turn => node.turn(),
                Step::Write => _ = node.write().unwrap(),
                Step::Propose => _ = node.store.propose(RANGE, put("z")),
                Step::Read => _ = node.store.read_index(RANGE),
                Step::Flush => node.store.flush(),
                Step::Restart => node = node.crash(),
            }
        }
        node.settle();
    }
}
