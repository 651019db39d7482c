//! A store does by itself what raft-rs would do with the message that a heartbeat stands for.

use proptest::{collection::vec, prelude::*, sample::select};
use sharklock_multiraft::RaftRole;
use sharklock_proto::internal::v1::{Heartbeat, Heartbeats, Message, MessageType, RangeMessage};
use sharklock_rangemap::StoreId;

use crate::cluster::Cluster;
use crate::node::{Node, RANGE, ident};

/// A beat, as it differs from one that is honest and says nothing new.
#[derive(Clone, Debug)]
struct Odd {
    /// Ticks that pass before it.
    ticks: u64,
    is_response: bool,
    term_by: i64,
    commit_by: i64,
    /// Another peer than the one who should say it.
    from: Option<u64>,
    from_store: Option<u64>,
    to_peer: Option<u64>,
    is_of_a_round: bool,
    is_late: bool,
}

fn odd() -> impl Strategy<Value = Odd> {
    let mostly_none = |peers: [u64; 3]| select([[None; 9].as_slice(), &peers.map(Some)].concat());
    let numbers = || select(vec![0, 0, 0, 0, 0, 0, -1, 1, 40]);
    let flags = (prop::bool::weighted(0.4), prop::bool::weighted(0.1), prop::bool::weighted(0.2));
    let peers = (mostly_none([101, 102, 199]), mostly_none([1, 2, 9]), mostly_none([101, 103, 0]));
    (0..5_u64, numbers(), numbers(), flags, peers).prop_map(
        |(ticks, term_by, commit_by, flags, (from, from_store, to_peer))| {
            let (is_response, is_of_a_round, is_late) = flags;
            Odd {
                ticks,
                is_response,
                term_by,
                commit_by,
                from,
                from_store,
                to_peer,
                is_of_a_round,
                is_late,
            }
        },
    )
}

/// Three stores with one range, led and idle.
fn idle() -> Cluster {
    let mut cluster = Cluster::fresh(3);
    (0..45).for_each(|_| cluster.tick());
    assert!(cluster.nodes.values().any(Node::leads));
    cluster
}

/// The stores of a cluster by what they are: the leader's, and one that follows.
fn ends(cluster: &Cluster) -> (u64, u64) {
    let of = |leads| *cluster.nodes.iter().find(|(_, it)| it.leads() == leads).unwrap().0;
    (of(true), of(false))
}

impl Odd {
    /// The same for all twins.
    fn beat(&self, to: &Node, (from_store, to_store): (u64, u64)) -> Heartbeats {
        let status = to.status();
        let by = |number: u64, by: i64| number.saturating_add_signed(by);
        let beat = Heartbeat {
            range_id: RANGE.0,
            from_peer: self.from.unwrap_or(100 + from_store),
            to_peer: self.to_peer.unwrap_or(100 + to_store),
            conf_ver: 1,
            version: 1,
            term: by(status.term, self.term_by),
            commit: by(status.commit, self.commit_by),
            context: if self.is_of_a_round { vec![7; 16].into() } else { Vec::new().into() },
            is_response: self.is_response,
        };
        Heartbeats {
            cluster_id: ident(1).cluster_id.to_wire(),
            from_store: self.from_store.unwrap_or(from_store),
            to_store,
            beats: vec![beat],
            sent_ms: 0,
            is_late: self.is_late,
        }
    }
}

fn single(mut heartbeats: Heartbeats) -> RangeMessage {
    let beat = heartbeats.beats.pop().unwrap();
    let msg_type = match beat.is_response {
        true => MessageType::MsgHeartbeatResponse,
        false => MessageType::MsgHeartbeat,
    };
    RangeMessage {
        cluster_id: heartbeats.cluster_id,
        range_id: beat.range_id,
        from_store: heartbeats.from_store,
        to_store: heartbeats.to_store,
        from_peer: beat.from_peer,
        to_peer: beat.to_peer,
        conf_ver: beat.conf_ver,
        version: beat.version,
        message: Some(Message {
            msg_type: msg_type.into(),
            from: beat.from_peer,
            to: beat.to_peer,
            term: beat.term,
            commit: beat.commit,
            context: beat.context,
            ..Message::default()
        }),
        notice: None,
    }
}

/// Everything that a store says and shows after a turn.
fn told(node: &mut Node) -> String {
    loop {
        node.turn();
        if !node.write().expect("no fault is planned") {
            break;
        }
    }
    let said = (std::mem::take(&mut node.messages), std::mem::take(&mut node.heartbeats));
    let roles = std::mem::take(&mut node.roles);
    format!("{:?} {:?} {said:?} {roles:?}", node.status(), node.store.peers(RANGE))
}

/// The same in the next ticks, while nobody reaches it: when it gives up, or campaigns.
fn told_when_alone(node: &mut Node) -> Vec<String> {
    let tick = |_| {
        node.store.tick();
        told(node)
    };
    (0..25).map(tick).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_beat_does_what_its_message_does(odds in vec(odd(), 1..8), is_to_leader in any::<bool>()) {
        let (mut one, mut other) = (idle(), idle());
        let (leader, follower) = ends(&one);
        let (from, to) = if is_to_leader { (follower, leader) } else { (leader, follower) };
        let mut twins = [one.nodes.remove(&to).unwrap(), other.nodes.remove(&to).unwrap()];
        for odd in odds {
            let heartbeats = odd.beat(&twins[0], (from, to));
            let mut dropped = Vec::new();
            for (node, is_single) in twins.iter_mut().zip([false, true]) {
                for _ in 0..odd.ticks {
                    node.store.tick();
                    told(node);
                }
                dropped.push(match is_single {
                    false => node.store.step_heartbeats(heartbeats.clone()).pop().map(|it| it.1),
                    true => {
                        let none = Heartbeats { beats: Vec::new(), ..heartbeats.clone() };
                        node.store.step_heartbeats(none);
                        node.store.step(single(heartbeats.clone())).err()
                    }
                });
            }
            prop_assert_eq!(&dropped[0], &dropped[1], "{:?}", &odd);
            let [one, other] = &mut twins;
            prop_assert_eq!(told(one), told(other), "{:?}", &odd);
        }
        let [one, other] = &mut twins;
        prop_assert_eq!(told_when_alone(one), told_when_alone(other));
    }
}

/// A follower that hears its leader does not campaign, and a leader that is answered does not step down.
#[test]
fn what_is_heeded_counts() {
    let mut cluster = idle();
    let (leader, follower) = ends(&cluster);
    let term = cluster.nodes[&leader].status().term;
    let plain = Odd {
        ticks: 0,
        is_response: false,
        term_by: 0,
        commit_by: 0,
        from: None,
        from_store: None,
        to_peer: None,
        is_of_a_round: false,
        is_late: false,
    };
    for tick in 0..60 {
        for (from, to, is_response) in [(leader, follower, false), (follower, leader, true)] {
            let node = cluster.nodes.get_mut(&to).unwrap();
            node.store.tick();
            told(node);
            let beat = Odd { is_response, ..plain.clone() }.beat(node, (from, to));
            // Every other tick, as a leader beats.
            if tick % 2 == 0 {
                assert_eq!(node.store.step_heartbeats(beat), []);
            }
            told(node);
        }
    }
    assert_eq!(cluster.nodes[&leader].status().role, RaftRole::Leader);
    let status = cluster.nodes[&follower].status();
    let leads = (status.role, status.term, status.leader);
    assert_eq!(leads, (RaftRole::Follower, term, Some(StoreId(leader))));
}
