//! What happens to clients on purpose: they are cut off from every gateway, or change gateways, by
//! chance; and when something rare has just happened to one of them, the worst may follow at once. A
//! wrong answer breaks a promise only if nothing sets it right soon after: two rare things in a row,
//! of which chance alone brings too few.

use crate::client::Link;
use crate::node::Node;
use crate::note;
use crate::store::StoreNode;
use crate::streams::End;
use crate::world::{Event, MS, World};

/// An ambush strikes within this time: what is on its way then may arrive or not.
const STRIKES_WITHIN_NS: u64 = 100 * MS;

impl World {
    /// Something rare happened to a client: it is counted, and may be followed by an ambush.
    pub(crate) fn mark(&mut self, what: &'static str, client: usize) {
        self.counters.count(what);
        if !self.is_calm && self.dice.faults.ppm(self.options.ambush_ppm) {
            let after = match self.dice.faults.below(3) {
                0 => 0,
                _ => self.dice.faults.below(STRIKES_WITHIN_NS),
            };
            self.queue.plan(self.now + after, Event::Ambush { client });
        }
    }

    /// The worst for a client that has just heard, or sent, something rare.
    pub(crate) fn ambush(&mut self, client: usize) {
        if self.is_calm {
            return;
        }
        self.counters.count("ambushes");
        note!(self, "c{client} is ambushed");
        match self.dice.faults.below(8) {
            0 | 1 => self.isolate_client(client),
            2 => {
                let length = self.about_a_lease_ns();
                self.pause(Node::Client(client), length);
            }
            3 | 4 => self.switch_gateway(client),
            5 => {
                let Some(gateway) = self.gateway_of(client) else { return };
                let back = self.dice.faults.below(2_000 * MS);
                self.gateway_ends(gateway, back);
            }
            6 => {
                let Some(gateway) = self.gateway_of(client) else { return };
                let length = self.dice.faults.below(2_000 * MS);
                self.pause(Node::Gateway(gateway), length);
            }
            _ => {
                let leads = |store: &&StoreNode| store.led().next().is_some();
                let leaders = self.stores.iter().filter(leads).map(|store| store.number);
                let leaders: Vec<usize> = leaders.collect();
                let leader = match &leaders[..] {
                    [] => return,
                    [leader] => *leader,
                    several => *self.dice.faults.pick(several),
                };
                let (power, back) =
                    (self.dice.faults.one_in(2), self.dice.faults.below(4_000 * MS));
                self.store_ends(leader, power, back);
            }
        }
    }

    /// A client and all gateways do not hear each other for about as long as its leases last.
    pub(crate) fn isolate_client(&mut self, client: usize) {
        let length = self.about_a_lease_ns();
        let client = Node::Client(client);
        let gateways = (1..=self.gateways.len()).map(Node::Gateway);
        let ways = match self.dice.faults.below(4) {
            0 => gateways.map(|gateway| (client, gateway)).collect(),
            1 => gateways.map(|gateway| (gateway, client)).collect(),
            _ => gateways.flat_map(|it| [(client, it), (it, client)]).collect(),
        };
        self.block(ways, length);
    }

    /// A client's connection breaks, and it notices at once: it goes to the next gateway.
    pub(crate) fn switch_gateway(&mut self, client: usize) {
        let Some(process) = &self.clients[client - 1].process else { return };
        let Link::Up(conn) = process.link else { return };
        self.cut_stream(conn);
        self.noticed(conn, End::Dialler);
    }

    /// The gateway that a client is connected to.
    fn gateway_of(&mut self, client: usize) -> Option<usize> {
        let process = self.clients[client - 1].process.as_ref()?;
        let Link::Up(conn) = process.link else { return None };
        match self.streams.get_mut(conn)?.node(End::Listener) {
            Node::Gateway(number) => Some(number),
            Node::Store(_) | Node::Client(_) | Node::Master(_) | Node::Operator => None,
        }
    }

    pub(crate) fn about_a_lease_ns(&mut self) -> u64 {
        let leases = self.options.ttl_max_ms * MS;
        self.dice.faults.between(leases / 2, leases * 2)
    }
}
