//! Three such stores, in an order of events that a seed decides, with losses of power.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use sharklock_dataserver::{Input, Outputs};
use sharklock_locktable::FEATURE_LEVEL;
use sharklock_multiraft::Split;
use sharklock_proto::{
    internal::v1::{StoreCall, store_call::Body, store_error::Kind, store_reply},
    v1,
};
use sharklock_rangemap::{Bounds, Descriptor, Epoch, PeerId, RangeId, Replica, Role, StoreId};

use crate::node::Node;

const STORES: u64 = 3;
/// The largest id of a child.
const RANGES_MAX: u64 = 130;

/// Numbers that follow from a seed.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % end
    }
}

pub struct Net {
    pub nodes: BTreeMap<u64, Node>,
    pub dice: Dice,
    pub now: Duration,
    /// In the order of each way.
    wires: BTreeMap<(u64, u64), VecDeque<Input>>,
    next_tag: u64,
    next_range: u64,
    /// Acquires without an answer, by tag, and granted ones with their tokens.
    asked: BTreeMap<u64, u64>,
    pub granted: BTreeMap<u64, u64>,
    /// How often the power was lost.
    pub power_losses: u64,
}

/// The name of lock `number`: spread over the ranges.
fn name(number: u64) -> String {
    let letter = char::from(b'a' + (number * 7 % 26) as u8);
    format!("{letter}/{number}")
}

/// Range `number` of so many, on all stores.
pub fn first_range(number: u64, count: u64) -> Descriptor {
    let letter = |number: u64| vec![b'a' + (number * 26 / count) as u8];
    let start = if number == 1 { Vec::new() } else { letter(number - 1) };
    let end = if number == count { Vec::new() } else { letter(number) };
    let member = |store| Replica {
        peer: PeerId(number * 10 + store),
        store: StoreId(store),
        role: Role::Voter,
    };
    let epoch = Epoch { version: 1, conf_ver: 1 };
    let members = (1..=STORES).map(member).collect();
    Descriptor::new(RangeId(number), Bounds { start, end }, epoch, members)
}

impl Net {
    pub fn new(seed: u64, ranges: u64) -> Self {
        let mut dice = Dice::new(seed);
        let node = |store| (store, Node::new(store, 1 + dice.below(4) as usize));
        let nodes = (1..=STORES).map(node).collect();
        let mut net = Self {
            nodes,
            dice,
            now: Duration::ZERO,
            wires: BTreeMap::new(),
            next_tag: 1,
            next_range: 100,
            asked: BTreeMap::new(),
            granted: BTreeMap::new(),
            power_losses: 0,
        };
        for number in 1..=ranges {
            let descriptor = first_range(number, ranges);
            for node in net.nodes.values_mut() {
                node.receive(Input::Create {
                    descriptor: descriptor.clone(),
                    level: FEATURE_LEVEL,
                });
            }
        }
        net
    }

    fn node(&mut self, store: u64) -> &mut Node {
        self.nodes.get_mut(&store).expect("one of three")
    }

    fn some_store(&mut self) -> u64 {
        1 + self.dice.below(STORES)
    }

    /// One event.
    pub fn step(&mut self) {
        let store = self.some_store();
        match self.dice.below(100) {
            0..30 => {
                let worker = self.dice.below(self.nodes[&store].workers.len() as u64) as usize;
                self.turn(store, worker);
            }
            30..55 => {
                let count = 1 + self.dice.below(4) as usize;
                self.node(store).write(count);
            }
            55..85 => self.deliver(),
            85..90 => self.now += Duration::from_millis(100),
            90..95 => self.acquire(),
            95..99 => self.split(store),
            _ if self.dice.below(10) == 0 => self.lose_power(store),
            _ => {}
        }
    }

    fn turn(&mut self, store: u64, worker: usize) {
        let now = self.now;
        let outputs = self.node(store).turn(worker, now);
        self.send(store, outputs);
        self.hear(store);
    }

    fn send(&mut self, from: u64, outputs: Outputs) {
        let messages = outputs.messages.into_iter();
        let messages = messages.map(|it| (it.to_store, Input::Message(Box::new(it))));
        let beats = outputs.heartbeats.into_iter();
        let beats = beats.map(|it| (it.to_store, Input::Heartbeats(Box::new(it))));
        let pieces = outputs.snapshots.into_iter();
        let pieces = pieces.map(|it| (it.to_store, Input::Snapshots(vec![it])));
        for (to, input) in messages.chain(beats).chain(pieces) {
            self.wires.entry((from, to)).or_default().push_back(input);
        }
    }

    fn deliver(&mut self) {
        let ways = self.wires.len() as u64;
        if ways == 0 {
            return;
        }
        let at = self.dice.below(ways) as usize;
        let (&(_, to), wire) = self.wires.iter_mut().nth(at).expect("it is below their number");
        if let Some(input) = wire.pop_front() {
            self.node(to).receive(input);
        }
    }

    fn acquire(&mut self) {
        let number = 1 + self.dice.below(200);
        let store = self.some_store();
        self.ask(store, number);
    }

    fn ask(&mut self, store: u64, number: u64) {
        let request = v1::AcquireRequest {
            name: name(number),
            mode: v1::LockMode::Exclusive.into(),
            ttl_ms: Some(600_000),
            acquisition_id: number,
            seq: self.next_tag,
            ..v1::AcquireRequest::default()
        };
        let call = StoreCall {
            tag: self.next_tag,
            session: vec![1; 16].into(),
            instance: 1,
            client_address: "127.0.0.1:4000".into(),
            stream: 7,
            body: Some(Body::Acquire(request)),
            ..StoreCall::default()
        };
        self.asked.insert(self.next_tag, number);
        self.next_tag += 1;
        self.node(store).calls(vec![call]);
    }

    /// Who holds a lock holds it for ever, under one token.
    fn hear(&mut self, store: u64) {
        for reply in std::mem::take(&mut self.node(store).replies) {
            let Some(number) = self.asked.remove(&reply.tag) else { continue };
            match reply.body {
                Some(store_reply::Body::Acquire(granted)) => {
                    let before = self.granted.insert(number, granted.token);
                    assert!(granted.token > 0, "{granted:?}");
                    assert!(before.is_none_or(|it| it == granted.token), "lock {number}");
                }
                Some(store_reply::Body::Error(error)) => match error.kind {
                    // Its range may be on its way here, as a first one or out of a split.
                    Some(Kind::NotLeader(_) | Kind::Indeterminate(_) | Kind::EpochNotMatch(_)) => {}
                    other => panic!("lock {number}: {other:?}"),
                },
                other => panic!("lock {number}: {other:?}"),
            }
        }
    }

    /// A range is to become two, if that store leads it.
    fn split(&mut self, store: u64) {
        let ranges = self.nodes[&store].ranges();
        if ranges.is_empty() || self.next_range > RANGES_MAX {
            return;
        }
        let (range, worker) = ranges[self.dice.below(ranges.len() as u64) as usize];
        let store_of = self.nodes[&store].workers[worker].store();
        let Descriptor { bounds, epoch, replicas, .. } =
            store_of.descriptor(range).expect("it is here").clone();
        let key = vec![b'a' + self.dice.below(26) as u8];
        if !bounds.contains(&key) || bounds.start == key {
            return;
        }
        let child = RangeId(self.next_range);
        self.next_range += 1;
        let split = Split {
            epoch,
            key: String::from_utf8(key).expect("a letter"),
            child,
            child_peers: replicas.iter().map(|it| PeerId(child.0 * 10 + it.store.0)).collect(),
        };
        self.node(store).receive(Input::Split { range, term: None, split });
    }

    fn lose_power(&mut self, store: u64) {
        let (writing, is_kept) = (self.dice.below(5) as usize, self.dice.below(2) == 0);
        let (workers, now) = (1 + self.dice.below(4) as usize, self.now);
        self.power_losses += 1;
        self.wires.retain(|(from, to), _| *from != store && *to != store);
        let node = self.node(store);
        node.lose_power(writing, is_kept, workers, now).expect("what a loss of power leaves");
    }

    /// Time passes, and nothing is lost.
    pub fn calm(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now += Duration::from_millis(100);
            let mut moves = true;
            while moves {
                moves = false;
                for store in 1..=STORES {
                    for worker in 0..self.nodes[&store].workers.len() {
                        self.turn(store, worker);
                    }
                    self.node(store).write(usize::MAX);
                    moves |= self.nodes[&store].has_mail();
                }
                for ((_, to), wire) in std::mem::take(&mut self.wires) {
                    moves |= !wire.is_empty();
                    wire.into_iter().for_each(|input| self.node(to).receive(input));
                }
            }
        }
    }

    /// Everything that was granted is held still, by the same token; all replicas of a range are equal.
    pub fn check_whole(&mut self) {
        let promised = self.granted.clone();
        for number in promised.keys() {
            (1..=STORES).for_each(|store| self.ask(store, *number));
        }
        self.granted.clear();
        self.calm(Duration::from_secs(1));
        for (number, token) in promised {
            assert_eq!(self.granted.get(&number), Some(&token), "lock {number}");
        }
        let ranges: BTreeSet<_> =
            self.nodes.values().flat_map(|node| node.ranges()).map(|(range, _)| range).collect();
        for range in ranges {
            let status = |node: &Node| {
                let status = node.worker_of(range).and_then(|worker| worker.store().status(range));
                status.map(|status| (status.applied, status.state_hash))
            };
            let all: BTreeSet<_> = self.nodes.values().map(status).collect();
            assert_eq!(all.len(), 1, "range {range}: {all:?}");
        }
    }
}
