//! Stores that talk over a network of the test's making.

use std::collections::{BTreeMap, BTreeSet};

use sharklock_multiraft::RaftRole;
use sharklock_proto::internal::v1::{Heartbeats, MessageType, RangeMessage};

use crate::node::{Node, RANGE};

/// What travels between two stores.
#[derive(Clone, Debug)]
pub enum Packet {
    Message(Box<RangeMessage>),
    Heartbeats(Heartbeats),
}

impl Packet {
    /// The stores it comes from and goes to.
    pub fn ends(&self) -> (u64, u64) {
        match self {
            Self::Message(message) => (message.from_store, message.to_store),
            Self::Heartbeats(beats) => (beats.from_store, beats.to_store),
        }
    }
}

pub struct Cluster {
    /// By store id. A store that is down is absent.
    pub nodes: BTreeMap<u64, Node>,
    /// Stores that no message reaches or leaves.
    pub isolated: BTreeSet<u64>,
    pub in_transit: Vec<Packet>,
    /// Votes given: (peer, term) to the candidate. A second candidate is the bug.
    votes: BTreeMap<(u64, u64), u64>,
    /// State hash seen at each applied index (S9).
    hashes: BTreeMap<u64, u64>,
    /// Leader seen in each term (S10).
    leaders: BTreeMap<u64, u64>,
}

impl Cluster {
    pub fn fresh(stores: u64) -> Self {
        Self {
            nodes: (1..=stores).map(|store| (store, Node::fresh(store, stores))).collect(),
            isolated: BTreeSet::new(),
            in_transit: Vec::new(),
            votes: BTreeMap::new(),
            hashes: BTreeMap::new(),
            leaders: BTreeMap::new(),
        }
    }

    /// One turn of one store; its messages go into transit, and what it shows is checked.
    pub fn turn(&mut self, store: u64) {
        let Some(node) = self.nodes.get_mut(&store) else { return };
        node.turn();
        let messages = std::mem::take(&mut node.messages);
        for message in &messages {
            let body = message.message.as_ref().expect("the engine sends bodies");
            if body.msg_type == i32::from(MessageType::MsgRequestVoteResponse) && !body.reject {
                let before = *self.votes.entry((body.from, body.term)).or_insert(body.to);
                assert_eq!(before, body.to, "{} voted twice in term {}", body.from, body.term);
            }
        }
        let heartbeats = std::mem::take(&mut node.heartbeats);
        self.in_transit.extend(messages.into_iter().map(Box::new).map(Packet::Message));
        self.in_transit.extend(heartbeats.into_iter().map(Packet::Heartbeats));
        let status = node.status();
        assert!(status.applied <= status.commit, "S12: {status:?}");
        let hash = *self.hashes.entry(status.applied).or_insert(status.state_hash);
        assert_eq!(hash, status.state_hash, "S9 at {}", status.applied);
        if status.role == RaftRole::Leader {
            let leader = *self.leaders.entry(status.term).or_insert(store);
            assert_eq!(leader, store, "two leaders in term {}", status.term);
        }
    }

    /// Delivers what is in transit, in order, but for isolated stores.
    pub fn deliver(&mut self) {
        for packet in std::mem::take(&mut self.in_transit) {
            let (from, to) = packet.ends();
            let cut = self.isolated.contains(&from) || self.isolated.contains(&to);
            let Some(node) = self.nodes.get_mut(&to).filter(|_| !cut) else { continue };
            let shown = format!("{packet:?}");
            let dropped = match packet {
                Packet::Message(message) => node.store.step(*message).err(),
                Packet::Heartbeats(beats) => {
                    node.store.step_heartbeats(beats).pop().map(|(_, dropped)| dropped)
                }
            };
            assert_eq!(dropped, None, "honest, but refused: {shown}");
        }
    }

    /// Turns, writes and delivers until nothing moves.
    pub fn settle(&mut self) {
        loop {
            let mut moved = false;
            for store in self.nodes.keys().copied().collect::<Vec<_>>() {
                self.turn(store);
                let node = self.nodes.get_mut(&store).expect("it is up");
                moved |= node.write().expect("no fault is planned");
            }
            moved |= !self.in_transit.is_empty();
            self.deliver();
            if !moved {
                return;
            }
        }
    }

    pub fn tick(&mut self) {
        for node in self.nodes.values_mut() {
            node.store.tick();
        }
        self.settle();
    }

    /// Ticks until a store that others can reach leads and says so.
    pub fn elect(&mut self) -> u64 {
        self.settle();
        for _ in 0..200 {
            if let Some(leader) = self.leader() {
                return leader;
            }
            self.tick();
        }
        panic!("no leader after 200 ticks");
    }

    pub fn leader(&self) -> Option<u64> {
        let mut nodes = self.nodes.iter().filter(|(store, _)| !self.isolated.contains(store));
        nodes.find(|(_, node)| node.leads()).map(|(store, _)| *store)
    }

    pub fn node(&mut self, store: u64) -> &mut Node {
        self.nodes.get_mut(&store).expect("the store is up")
    }

    pub fn propose(&mut self, store: u64, data: Vec<u8>) {
        self.node(store).store.propose(RANGE, data).expect("it leads");
    }

    /// The store loses power and comes back.
    pub fn restart(&mut self, store: u64) {
        if let Some(node) = self.nodes.remove(&store) {
            self.nodes.insert(store, node.crash());
        }
    }
}
