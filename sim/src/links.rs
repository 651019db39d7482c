//! Messages between stores, and between masters: each may be lost, late, doubled, or overtaken. Links can be blocked in
//! one direction, and clogged: what is sent then arrives late and all at once.

use std::collections::BTreeMap;

use sharklock_proto::internal::v1::{
    Heartbeats, MessageType, RangeMessage, SnapshotMessage, snapshot_message::Body,
};

use sharklock_rangemap::StoreId;

use crate::dice::Dice;
use crate::node::Node;
use crate::options::Options;

/// What travels between stores, or between masters. The kinds have streams of their own (D6).
#[derive(Clone, Debug)]
pub enum Letter {
    /// Of one range.
    Message(Box<RangeMessage>),
    /// Of all ranges.
    Heartbeats(Box<Heartbeats>),
    /// A piece of a snapshot, or an answer to one.
    Snapshot(Box<SnapshotMessage>),
}

impl Letter {
    /// Who is to have it.
    pub fn to(&self) -> StoreId {
        StoreId(match self {
            Self::Message(message) => message.to_store,
            Self::Heartbeats(beats) => beats.to_store,
            Self::Snapshot(piece) => piece.to_store,
        })
    }

    fn class(&self) -> u8 {
        match self {
            Self::Heartbeats(_) => 0,
            Self::Snapshot(_) => 3,
            Self::Message(message) => {
                let kind = message.message.as_ref().map(|body| body.msg_type());
                match kind {
                    Some(MessageType::MsgAppend | MessageType::MsgAppendResponse) => 1,
                    _ => 2,
                }
            }
        }
    }

    /// One word or two for the trace.
    pub fn describe(&self) -> String {
        match self {
            Self::Heartbeats(beats) => {
                let beat = beats.beats.first();
                let (term, commit) = beat.map_or((0, 0), |beat| (beat.term, beat.commit));
                let kind =
                    if beat.is_some_and(|beat| beat.is_response) { "beat-ok" } else { "beat" };
                format!("{kind} t{term} c{commit} of {}", beats.beats.len())
            }
            Self::Snapshot(piece) => describe_piece(piece),
            Self::Message(message) => {
                let Some(body) = &message.message else { return "nothing".to_owned() };
                let kind = body.msg_type().as_str_name().trim_start_matches("MSG_").to_lowercase();
                let (term, index, commit) = (body.term, body.index, body.commit);
                let (entries, reject) = (body.entries.len(), if body.reject { " no" } else { "" });
                let range = message.range_id;
                format!("r{range} {kind}{reject} t{term} i{index} c{commit} +{entries}")
            }
        }
    }
}

fn describe_piece(piece: &SnapshotMessage) -> String {
    match &piece.body {
        None => "nothing".to_owned(),
        Some(Body::Header(header)) => {
            let index = header.metadata.as_ref().map_or(0, |metadata| metadata.index);
            format!("snapshot t{} i{index} {} bytes", header.term, header.bytes)
        }
        Some(Body::Chunk(chunk)) => format!("chunk {} +{}", chunk.offset, chunk.data.len()),
        Some(Body::Ack(ack)) if ack.installed => "snapshot-installed".to_owned(),
        Some(Body::Ack(ack)) => format!("chunk-ok {} +{}", ack.offset, ack.window),
        Some(Body::Reject(reject)) => format!("snapshot-no {:?}", reject.why()),
        Some(Body::Cancel(_)) => "snapshot-cancelled".to_owned(),
    }
}

/// The links between all stores, and between all masters.
#[derive(Debug, Default)]
pub struct Links {
    /// How many faults block a direction.
    blocked: BTreeMap<(Node, Node), u32>,
    /// What a clogged direction holds back.
    clogged: BTreeMap<(Node, Node), Vec<Letter>>,
    /// The last arrival per direction and class: without overtaking, nothing arrives before it.
    last: BTreeMap<(Node, Node, u8), u64>,
}

impl Links {
    /// Whether nothing gets from one node to the other.
    pub fn is_blocked(&self, from: Node, to: Node) -> bool {
        self.blocked.get(&(from, to)).is_some_and(|count| *count > 0)
    }

    /// Blocks directions; once for each call they must be unblocked again.
    pub fn block(&mut self, ways: &[(Node, Node)]) {
        for way in ways {
            *self.blocked.entry(*way).or_default() += 1;
        }
    }

    /// Takes one blockade away.
    pub fn unblock(&mut self, ways: &[(Node, Node)]) {
        for way in ways {
            if let Some(count) = self.blocked.get_mut(way) {
                *count = count.saturating_sub(1);
            }
        }
    }

    /// Takes all blockades away.
    pub fn unblock_all(&mut self) {
        self.blocked.clear();
    }

    /// Holds back what is sent one way.
    pub fn clog(&mut self, way: (Node, Node)) {
        self.clogged.entry(way).or_default();
    }

    /// Gives out what a direction has held back, marked as late, as the stream that brings it would.
    pub fn unclog(&mut self, way: (Node, Node)) -> Vec<Letter> {
        let mut held = self.clogged.remove(&way).unwrap_or_default();
        for letter in &mut held {
            if let Letter::Heartbeats(beats) = letter {
                beats.is_late = true;
            }
        }
        held
    }

    /// Every clogged direction.
    pub fn clogs(&self) -> Vec<(Node, Node)> {
        self.clogged.keys().copied().collect()
    }

    /// When a letter arrives: never, once, or twice. A clogged direction keeps it.
    pub fn send(
        &mut self,
        now_ns: u64,
        (from, to): (Node, Node),
        letter: Letter,
        options: &Options,
        dice: &mut Dice,
    ) -> Vec<(u64, Letter)> {
        let class = letter.class();
        // A way between two nodes that are spared is slow, and nothing worse.
        let may_fail = options.may_fail(from) || options.may_fail(to);
        let ppm = |parts: u64| if may_fail { parts } else { 0 };
        if self.is_blocked(from, to) || dice.ppm(ppm(options.raft_loss_ppm)) {
            return Vec::new();
        }
        if let Some(held) = self.clogged.get_mut(&(from, to)) {
            held.push(letter);
            return Vec::new();
        }
        let base = options.raft_delay_us * 1_000;
        let arrives = now_ns + base / 2 + dice.around(base / 2);
        let last = self.last.entry((from, to, class)).or_default();
        let arrives = if dice.ppm(ppm(options.raft_reorder_ppm)) {
            arrives + dice.around(base * 8)
        } else {
            *last = arrives.max(*last + 1);
            *last
        };
        let mut arrivals = Vec::with_capacity(1);
        if dice.ppm(ppm(options.raft_twice_ppm)) {
            arrivals.push((arrives + dice.around(base * 16), letter.clone()));
        }
        arrivals.push((arrives, letter));
        arrivals
    }
}
