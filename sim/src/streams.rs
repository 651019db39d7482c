//! Connections: each carries several streams each way. Letters that go one way in one stream stay
//! in order, are late, and are lost only with the connection; streams overtake each other. Both ends
//! learn of a broken one, sooner or later; over a blocked way nothing moves, and only silence
//! tells.

use std::collections::BTreeMap;
use std::fmt;

use sharklock_gateway::Lane;
use sharklock_proto::internal::v1::{StoreCall, StoreReply};
use sharklock_proto::v1::{SessionRequest, SessionResponse};

use crate::node::Node;

/// Names a connection; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnId(pub u64);

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// One of the two streams of a client's connection (D16).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Half {
    /// Acquires.
    Acquires,
    /// Letters that must never wait.
    Urgent,
}

/// The letter.
#[derive(Clone, Debug)]
pub enum Payload {
    /// From a gateway to a store.
    Calls(Lane, Vec<StoreCall>),
    /// From a store to a gateway.
    Replies(Vec<StoreReply>),
    /// From a client to a gateway.
    Request(Half, Box<SessionRequest>),
    /// From a gateway to a client, by the stream that it has opened for this half.
    Response(Half, Box<SessionResponse>),
    /// The other end has closed.
    Bye,
}

impl Payload {
    /// Which of a connection's streams carries it; the last word comes behind all of them.
    fn stream(&self) -> Option<usize> {
        match self {
            Self::Calls(Lane::Urgent, _)
            | Self::Request(Half::Urgent, _)
            | Self::Response(Half::Urgent, _) => Some(0),
            Self::Calls(Lane::Ordinary, _)
            | Self::Request(Half::Acquires, _)
            | Self::Response(Half::Acquires, _)
            | Self::Replies(_) => Some(1),
            Self::Bye => None,
        }
    }
}

/// One of the two ends of a connection: who dialled, or who was dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// The end that dialled.
    Dialler,
    /// The end that was dialled.
    Listener,
}

impl End {
    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::Dialler => Self::Listener,
            Self::Listener => Self::Dialler,
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// A connection.
#[derive(Debug)]
pub struct Conn {
    nodes: [Node; 2],
    open: [bool; 2],
    /// Towards each end: the last planned arrival of each stream, what a blocked way holds back,
    /// and how often what was under way has been lost.
    last: [[u64; 2]; 2],
    held: [Vec<Payload>; 2],
    epoch: [u32; 2],
    /// Since when a way of it has been blocked.
    pub silent_since: Option<u64>,
}

/// All connections.
#[derive(Debug, Default)]
pub struct Streams {
    conns: BTreeMap<ConnId, Conn>,
    opened_count: u64,
}

impl Streams {
    /// A connection is made.
    pub fn open(&mut self, dialler: Node, listener: Node) -> ConnId {
        self.opened_count += 1;
        let id = ConnId(self.opened_count);
        let conn = Conn {
            nodes: [dialler, listener],
            open: [true; 2],
            last: [[0; 2]; 2],
            held: [Vec::new(), Vec::new()],
            epoch: [0; 2],
            silent_since: None,
        };
        self.conns.insert(id, conn);
        id
    }

    /// A connection that is open at some end.
    pub fn get_mut(&mut self, id: ConnId) -> Option<&mut Conn> {
        self.conns.get_mut(&id)
    }

    /// Every connection that is open at some end.
    pub fn ids(&self) -> Vec<ConnId> {
        self.conns.keys().copied().collect()
    }

    /// Every end that is open at this node.
    pub fn of(&self, node: Node) -> Vec<(ConnId, End)> {
        let ends = [End::Dialler, End::Listener];
        let all = self.conns.iter().flat_map(|(id, conn)| ends.map(|end| (*id, end, conn)));
        all.filter(|(_, end, conn)| conn.node(*end) == node && conn.is_open(*end))
            .map(|(id, end, _)| (id, end))
            .collect()
    }

    /// One end is closed. The connection is forgotten with the second.
    pub fn close(&mut self, id: ConnId, end: End) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        conn.open[end.index()] = false;
        conn.held[end.index()].clear();
        if !conn.open[end.other().index()] {
            self.conns.remove(&id);
        }
    }
}

impl Conn {
    /// The node at an end.
    pub fn node(&self, end: End) -> Node {
        self.nodes[end.index()]
    }

    /// Whether an end is open.
    pub fn is_open(&self, end: End) -> bool {
        self.open[end.index()]
    }

    /// When something arrives that takes `delay_ns`: not before what was sent earlier in the same
    /// stream.
    pub fn arrives(&mut self, to: End, payload: &Payload, now_ns: u64, delay_ns: u64) -> u64 {
        let last = &mut self.last[to.index()];
        let behind = match payload.stream() {
            Some(stream) => &mut last[stream..=stream],
            None => &mut last[..],
        };
        let latest = behind.iter().copied().max().expect("there are streams");
        let arrives = (now_ns + delay_ns).max(latest + 1);
        behind.fill(arrives);
        arrives
    }

    /// Holds something back until its way is free. Letters that are under way arrive before.
    pub fn hold(&mut self, to: End, payload: Payload) {
        self.held[to.index()].push(payload);
    }

    /// Whether something is held back.
    pub fn holds(&self, to: End) -> bool {
        !self.held[to.index()].is_empty()
    }

    /// The letters that were held back, in order.
    pub fn release(&mut self, to: End) -> Vec<Payload> {
        std::mem::take(&mut self.held[to.index()])
    }

    /// Names what is under way now; another name later tells that it is lost.
    pub fn epoch(&self, to: End) -> u32 {
        self.epoch[to.index()]
    }

    /// Loses what is under way.
    pub fn lose(&mut self, to: End) {
        self.epoch[to.index()] += 1;
        self.held[to.index()].clear();
    }
}
