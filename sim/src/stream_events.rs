//! What happens to connections: arrivals, breaks, silence.

use crate::node::Node;
use crate::note;
use crate::streams::{ConnId, End, Payload};
use crate::world::{Event, MS, World};

/// Gateways and stores ping each other every 2 s and wait 2 s: half of it is up to the dice.
const STORE_SILENCE_MS: u64 = 2_000;

impl World {
    /// Sends over a connection, from the other end to this one.
    pub(crate) fn send(&mut self, id: ConnId, to: End, payload: Payload) {
        let mut delay = self.stream_delay_ns();
        if self.dice.streams.ppm(self.options.stream_lag_ppm) {
            delay += self.dice.streams.below(self.options.stream_lag_max_ms * MS);
        }
        let Some(conn) = self.streams.get_mut(id) else { return };
        if !conn.is_open(to) {
            return;
        }
        let (from_node, to_node) = (conn.node(to.other()), conn.node(to));
        if self.links.is_blocked(from_node, to_node) || conn.holds(to) {
            return conn.hold(to, payload);
        }
        let at = conn.arrives(to, &payload, self.now, delay);
        let epoch = conn.epoch(to);
        self.queue.plan(at, Event::Arrived { conn: id, to, epoch, payload });
    }

    pub(crate) fn stream_delay_ns(&mut self) -> u64 {
        let mean = self.options.stream_delay_us * 1_000;
        mean / 2 + self.dice.streams.around(mean / 2)
    }

    pub(crate) fn arrived(&mut self, id: ConnId, to: End, epoch: u32, payload: Payload) {
        let Some(conn) = self.streams.get_mut(id) else { return };
        if !conn.is_open(to) || conn.epoch(to) != epoch {
            return;
        }
        let node = conn.node(to);
        if self.links.is_blocked(conn.node(to.other()), node) {
            return conn.hold(to, payload);
        }
        if matches!(payload, Payload::Bye) {
            return self.noticed(id, to);
        }
        self.deliver(node, id, Some(payload));
    }

    /// An end learns that its connection is gone.
    pub(crate) fn noticed(&mut self, id: ConnId, end: End) {
        let Some(conn) = self.streams.get_mut(id) else { return };
        if !conn.is_open(end) {
            return;
        }
        let node = conn.node(end);
        self.streams.close(id, end);
        note!(self, "{node} notices that {id} is gone");
        self.deliver(node, id, None);
    }

    /// `None`: the connection is gone.
    fn deliver(&mut self, node: Node, id: ConnId, payload: Option<Payload>) {
        match node {
            Node::Store(number) => self.store_receives(number, id, payload),
            Node::Gateway(number) => self.gateway_receives(number, id, payload),
            Node::Client(number) => self.client_receives(number, id, payload),
            Node::Master(_) | Node::Operator => unreachable!("masters have no such connections"),
        }
    }

    /// An end hangs up; the other learns of it after what was sent before, or is left to find out
    /// by itself when the machine is gone.
    pub(crate) fn hang_up(&mut self, id: ConnId, end: End, silently: bool) {
        let other = end.other();
        if silently {
            let at = self.now + self.dice.streams.between(MS, self.options.silence_ms * MS);
            self.queue.plan(at, Event::Noticed { conn: id, end: other });
        } else {
            self.send(id, other, Payload::Bye);
        }
        self.streams.close(id, end);
    }

    /// A connection breaks: what is under way is lost, both ends learn of it.
    pub(crate) fn cut_stream(&mut self, id: ConnId) {
        let Some(conn) = self.streams.get_mut(id) else { return };
        let (dialler, listener) = (conn.node(End::Dialler), conn.node(End::Listener));
        for end in [End::Dialler, End::Listener] {
            // Half of the ways deliver what they had; nothing promises that they lose it.
            if self.dice.streams.one_in(2) {
                conn.lose(end);
            }
        }
        note!(self, "{id} between {dialler} and {listener} breaks");
        for end in [End::Dialler, End::Listener] {
            let late = match self.dice.streams.below(3) {
                0 => self.dice.streams.below(self.options.silence_ms * MS),
                _ => self.stream_delay_ns(),
            };
            self.queue.plan(self.now + late, Event::Noticed { conn: id, end });
        }
    }

    /// Ways may be free again: what was held back moves on.
    pub(crate) fn release_held(&mut self) {
        for id in self.streams.ids() {
            for end in [End::Dialler, End::Listener] {
                let Some(conn) = self.streams.get_mut(id) else { continue };
                if conn.holds(end) && !self.links.is_blocked(conn.node(end.other()), conn.node(end))
                {
                    for payload in conn.release(end) {
                        self.send(id, end, payload);
                    }
                }
            }
        }
    }

    /// Connections with a blocked way are given up after a while, by each end on its own.
    pub(crate) fn sweep_streams(&mut self) {
        for id in self.streams.ids() {
            let Some(conn) = self.streams.get_mut(id) else { continue };
            let (dialler, listener) = (conn.node(End::Dialler), conn.node(End::Listener));
            let towards_store =
                [dialler, listener].iter().any(|node| matches!(node, Node::Store(_)));
            let silence_ms = self.options.silence_ms;
            let limit_ms =
                if towards_store { silence_ms.min(STORE_SILENCE_MS) } else { silence_ms };
            let silent = self.links.is_blocked(dialler, listener)
                || self.links.is_blocked(listener, dialler);
            if !silent {
                conn.silent_since = None;
                continue;
            }
            let since = *conn.silent_since.get_or_insert(self.now);
            if self.now - since >= limit_ms * MS {
                conn.silent_since = Some(self.now);
                for end in [End::Dialler, End::Listener] {
                    let at = self.now + self.dice.streams.below(2_000 * MS);
                    self.queue.plan(at, Event::Noticed { conn: id, end });
                }
            }
        }
    }
}
