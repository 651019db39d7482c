//! Stores that talk over a network of the test's making.

use std::collections::{BTreeMap, BTreeSet};

use sharklock_multiraft::{DiskError, Dropped, Proposed, RaftRole, ReadId};
use sharklock_proto::internal::v1::{Heartbeats, RangeMessage, SnapshotMessage};
use sharklock_rangemap::RangeId;

use crate::checks::{Checks, Seen};
use crate::node::{Layout, Node, RANGE};

/// A packet between two stores.
#[derive(Clone, Debug)]
pub enum Packet {
    Message(Box<RangeMessage>),
    Heartbeats(Heartbeats),
    Snapshot(Box<SnapshotMessage>),
}

impl Packet {
    /// The stores it comes from and goes to.
    pub fn ends(&self) -> (u64, u64) {
        match self {
            Self::Message(message) => (message.from_store, message.to_store),
            Self::Heartbeats(beats) => (beats.from_store, beats.to_store),
            Self::Snapshot(piece) => (piece.from_store, piece.to_store),
        }
    }
}

pub struct Cluster {
    /// By store id. A store that is down is absent.
    pub nodes: BTreeMap<u64, Node>,
    /// Stores that no message reaches or leaves.
    pub isolated: BTreeSet<u64>,
    /// A store whose disk is an older copy: it stops when it hears of it, and speaks no more.
    pub lost: Option<u64>,
    pub in_transit: Vec<Packet>,
    /// Replicas come and go: what is on its way may be for one that is gone, or from one.
    pub is_changing: bool,
    pub checks: Checks,
}

impl Cluster {
    pub fn fresh(stores: u64) -> Self {
        Self::fresh_in(&Layout::of_voters(stores))
    }

    pub fn fresh_in(layout: &Layout) -> Self {
        Self {
            nodes: layout.stores().map(|store| (store, Node::fresh_in(store, layout))).collect(),
            isolated: BTreeSet::new(),
            lost: None,
            in_transit: Vec::new(),
            is_changing: false,
            checks: Checks::of_voters(layout.voters),
        }
    }

    /// One turn of one store; its messages go into transit, and what it shows is checked.
    pub fn turn(&mut self, store: u64) {
        let Some(node) = self.nodes.get_mut(&store) else { return };
        let seen = Seen::of(node);
        node.turn();
        let messages = std::mem::take(&mut node.messages);
        let heartbeats = std::mem::take(&mut node.heartbeats);
        let snapshots = std::mem::take(&mut node.snapshots);
        let messages = messages.into_iter().map(Box::new).map(Packet::Message);
        let snapshots = snapshots.into_iter().map(Box::new).map(Packet::Snapshot);
        let heartbeats = heartbeats.into_iter().map(Packet::Heartbeats);
        let is_stopped = self.lost == Some(store) && node.status().role == RaftRole::Stopped;
        for packet in messages.chain(heartbeats).chain(snapshots) {
            assert!(!is_stopped, "{store} is stopped and sends {packet:?}");
            self.checks.sent(&packet);
            self.in_transit.push(packet);
        }
        self.checks.turned(store, node, seen);
    }

    /// The disk of a store takes its batch, if there is one.
    pub fn write(&mut self, store: u64) -> Result<bool, DiskError> {
        let Some(node) = self.nodes.get_mut(&store) else { return Ok(false) };
        let batch = node.batch.clone();
        let written = node.write()?;
        if let Some(batch) = batch {
            self.checks.written(&node.disk, &batch.ops);
        }
        Ok(written)
    }

    /// Delivers what is in transit, in order, but for isolated stores.
    pub fn deliver(&mut self) {
        for packet in std::mem::take(&mut self.in_transit) {
            let (from, to) = packet.ends();
            if !self.isolated.contains(&from) && !self.isolated.contains(&to) {
                self.arrive(packet);
            }
        }
    }

    /// A packet reaches its store, if that is up. The guard must let an honest one in.
    pub fn arrive(&mut self, packet: Packet) {
        let to = packet.ends().1;
        let Some(node) = self.nodes.get_mut(&to) else { return };
        let dropped = match packet {
            Packet::Message(message) => {
                let kind = message.message.as_ref().map(|body| body.msg_type);
                node.store.step(*message).err().map(|dropped| (kind, dropped))
            }
            Packet::Heartbeats(beats) => {
                node.store.step_heartbeats(beats).pop().map(|(_, dropped)| (None, dropped))
            }
            Packet::Snapshot(piece) => {
                node.store.step_snapshot(*piece).err().map(|dropped| (None, dropped))
            }
        };
        // A leadership that is handed over late is not taken: another may lead by then.
        let dropped = dropped.filter(|(_, why)| !matches!(why, Dropped::NotMyLeader(_)));
        let is_lost = |why: &Dropped| matches!(why, Dropped::LostLog { .. } | Dropped::Stopped);
        let dropped = dropped.filter(|(_, why)| self.lost != Some(to) || !is_lost(why));
        // A store that has no replica says so; that is all that such a message leads to.
        let is_gone = |why: &Dropped| match why {
            Dropped::UnknownRange(_) => true,
            Dropped::NotForMe(_) | Dropped::RemovedPeer(_) | Dropped::NotAMember(_) => {
                self.is_changing
            }
            _ => false,
        };
        let dropped = dropped.filter(|(_, why)| !is_gone(why));
        assert_eq!(dropped, None, "an honest message was refused");
    }

    /// Turns, writes and delivers until nothing moves.
    pub fn settle(&mut self) {
        loop {
            let mut moved = false;
            for store in self.nodes.keys().copied().collect::<Vec<_>>() {
                self.turn(store);
                moved |= self.write(store).expect("no fault is planned");
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
        self.try_propose(store, RANGE, data).expect("it leads");
    }

    /// A proposal, if the store takes it.
    pub fn try_propose(&mut self, store: u64, range: RangeId, data: Vec<u8>) -> Option<Proposed> {
        let at = self.node(store).store.propose(range, data).ok()?;
        self.checks.proposed(store, &self.nodes[&store], range, at);
        Some(at)
    }

    /// A read of a range, if the store takes it.
    pub fn read(&mut self, store: u64, range: RangeId) -> Option<ReadId> {
        let read = self.node(store).store.read_index(range).ok()?;
        self.checks.read_begun(store, range, read);
        Some(read)
    }

    /// The store loses power and comes back.
    pub fn restart(&mut self, store: u64) {
        if let Some(node) = self.nodes.remove(&store) {
            self.start(store, node.crash());
        }
    }

    /// A store that was down comes up.
    pub fn start(&mut self, store: u64, node: Node) {
        self.checks.restarted(store);
        self.nodes.insert(store, node);
    }
}
