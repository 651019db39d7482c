//! Stores on a network in virtual time, with everything that may happen to links, disks, clocks
//! and processes, out of one seed. After every event all of [`crate::checks`] is checked.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use rand::Rng as _;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use sharklock_multiraft::{ChangePeers, Chore, PeerChange, RaftRole, ReplicaStatus};
use sharklock_proto::internal::v1::snapshot_message::Body;
use sharklock_rangemap::{PeerId, RangeId, Replica, Role, StoreId};

use crate::cluster::{Cluster, Packet};
use crate::node::{Life, Node, RANGE, split_of};
use crate::tally::{Tally, put, remove};
use crate::weather::{Counts, MS, Micros, SECOND, Weather};
use crate::wording;

#[derive(Debug)]
enum Event {
    Tick(u64),
    Arrive(Packet),
    /// The disk of a store, in one of its lives, has its batch.
    Written(u64, u64),
    /// Work beside the turns of a store, in one of its lives.
    Chore(u64, u64, Chore<Tally>),
    Start(u64),
    Reconnect,
    Crash,
    Cut,
    Mend,
    Pause,
    Propose,
    Read,
    Flush(u64),
    HandOver,
    Split,
    Members,
}

/// Ranges beyond which none is split.
const RANGES_MAX: u64 = 8;
/// Voters below which none is demoted without another in its place.
const VOTERS_MIN: usize = 3;

pub struct Network {
    pub weather: Weather,
    pub cluster: Cluster,
    pub counts: Counts,
    /// Everything that happened, a line each.
    pub trace: String,
    pub now: Micros,
    dice: ChaCha8Rng,
    queue: BTreeMap<(Micros, u64), Event>,
    queued: u64,
    /// Stores that are down, with what their disks have.
    down: BTreeMap<u64, Node>,
    /// Directions in which nothing passes.
    cuts: BTreeSet<(u64, u64)>,
    paused_until: BTreeMap<u64, Micros>,
    /// When the last packet of a stream (from, to, class) arrives.
    streams: BTreeMap<(u64, u64, u8), Micros>,
    /// Snapshots that each (store, life) has installed.
    installed: BTreeMap<(u64, u64), u64>,
    ticks: BTreeMap<u64, Micros>,
    shown: BTreeMap<(u64, RangeId), ReplicaStatus>,
    /// Given to ranges and to replicas, each once.
    last_range: u64,
    last_peer: u64,
}

impl Network {
    pub fn new(seed: u64, weather: Weather) -> Self {
        let mut dice = ChaCha8Rng::seed_from_u64(seed);
        let mut cluster = Cluster::fresh_in(&weather.layout);
        cluster.is_changing = weather.members > 0;
        let last_range = RANGE.0 + weather.layout.ranges - 1;
        let stores = weather.layout.stores();
        let ticks = stores.map(|store| (store, dice.random_range(weather.tick.clone()))).collect();
        let mut network = Self {
            weather,
            cluster,
            counts: Counts::default(),
            trace: String::new(),
            now: 0,
            dice,
            queue: BTreeMap::new(),
            queued: 0,
            down: BTreeMap::new(),
            cuts: BTreeSet::new(),
            paused_until: BTreeMap::new(),
            streams: BTreeMap::new(),
            installed: BTreeMap::new(),
            ticks,
            shown: BTreeMap::new(),
            last_range,
            last_peer: 1_000,
        };
        for store in network.weather.layout.stores() {
            let first = network.dice.random_range(0..100 * MS);
            network.at(first, Event::Tick(store));
            network.at(first, Event::Flush(store));
            network.turn(store);
        }
        let weather = &network.weather;
        let rates = [
            (weather.reconnect, Event::Reconnect),
            (weather.crash, Event::Crash),
            (weather.cut, Event::Cut),
            (weather.pause, Event::Pause),
            (weather.propose, Event::Propose),
            (weather.read, Event::Read),
            (weather.hand_over, Event::HandOver),
            (weather.split, Event::Split),
            (weather.members, Event::Members),
        ];
        for (every, event) in rates {
            network.again(every, event);
        }
        network
    }

    /// All that anybody has ever made.
    pub fn ranges(&self) -> Vec<RangeId> {
        self.cluster.checks.ranges()
    }

    /// Lets time pass.
    pub fn run_for(&mut self, time: Micros) {
        let end = self.now + time;
        while let Some(next) = self.queue.first_entry().filter(|next| next.key().0 <= end) {
            let ((at, _), event) = next.remove_entry();
            self.now = at;
            self.counts.events += 1;
            self.happen(event);
        }
        self.now = end;
    }

    /// Lets time pass until something holds; false: it does not within `time`.
    pub fn run_until(&mut self, time: Micros, holds: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + time;
        while !holds(self) {
            if self.now >= end {
                return false;
            }
            self.run_for(10 * MS);
        }
        true
    }

    /// The store that was told that it leads a range in the newest term, if it still is.
    pub fn leader(&self, range: RangeId) -> Option<u64> {
        let nodes = self.cluster.nodes.iter();
        let mut leading = nodes.filter(|(_, node)| node.leads_range(range));
        leading.next().map(|(store, _)| *store)
    }

    /// All faults end; what is on its way stays on its way.
    pub fn heal(&mut self) {
        self.note("heal");
        let weather = &mut self.weather;
        (weather.reconnect, weather.crash, weather.cut, weather.pause) = (0, 0, 0, 0);
        (weather.propose, weather.read, weather.hand_over) = (0, 0, 0);
        (weather.split, weather.members) = (0, 0);
        (weather.loss, weather.twice, weather.delay) = (0.0, 0.0, 100..2 * MS);
        weather.damage = 0.0;
        weather.disk = 100..5 * MS;
        self.cuts.clear();
        self.paused_until.clear();
        for store in self.down.keys().copied().collect::<Vec<_>>() {
            self.start(store);
        }
    }

    pub fn cut(&mut self, from: u64, to: u64) {
        self.note(&format!("cut {from}>{to}"));
        self.cuts.insert((from, to));
    }

    pub fn mend_all(&mut self) {
        self.note("mend");
        self.cuts.clear();
    }

    pub fn crash(&mut self, store: u64) {
        let Some(mut node) = self.cluster.nodes.remove(&store) else { return };
        self.counts.crashes += 1;
        // The batch in flight may be on the disk although nobody was told so.
        if let Some(batch) = node.batch.take().filter(|_| self.dice.random_bool(0.5)) {
            use sharklock_multiraft::Disk as _;
            node.disk.write(&batch.ops, false).expect("no fault is planned");
            self.cluster.checks.written(&node.disk, &batch.ops);
        }
        let kept = self.dice.random_range(0..=node.disk.unsynced_writes());
        self.note(&format!("crash {store}, keeping {kept}"));
        self.down.insert(store, node.crash_keeping(kept));
    }

    pub fn start(&mut self, store: u64) {
        let Some(node) = self.down.remove(&store) else { return };
        let hash = node.disk.contents_hash();
        self.note(&format!("start {store} with disk {hash:016x}"));
        self.cluster.start(store, node);
        self.turn(store);
    }

    pub fn propose(&mut self, range: RangeId) -> bool {
        let word = format!("w{}", self.dice.random_range(0..9));
        let data = if self.dice.random_bool(0.8) { put(&word) } else { remove(&word) };
        let mut taken = false;
        // A store that believes to lead takes it: there may be two for a while.
        for store in self.up() {
            if let Some(at) = self.cluster.try_propose(store, range, data.clone()) {
                self.note(&format!("{store} r{range} proposes {}@{}", at.index, at.term));
                self.counts.proposals += 1;
                taken = true;
                self.turn(store);
            }
        }
        taken
    }

    fn up(&self) -> Vec<u64> {
        let now = self.now;
        let awake = |store: &u64| self.paused_until.get(store).is_none_or(|until| *until <= now);
        self.cluster.nodes.keys().copied().filter(awake).collect()
    }

    fn at(&mut self, time: Micros, event: Event) {
        self.queued += 1;
        self.queue.insert((time, self.queued), event);
    }

    /// The next event of a kind that comes about every so often.
    fn again(&mut self, every: Micros, event: Event) {
        if every > 0 {
            let next = self.now + self.dice.random_range(1..2 * every);
            self.at(next, event);
        }
    }

    fn any_store(&mut self) -> u64 {
        self.dice.random_range(self.weather.layout.stores())
    }

    fn any_range(&mut self) -> RangeId {
        let ranges = self.ranges();
        ranges[self.dice.random_range(0..ranges.len())]
    }

    fn happen(&mut self, event: Event) {
        let touches = match &event {
            Event::Tick(store) | Event::Flush(store) => Some(*store),
            Event::Written(store, _) | Event::Chore(store, ..) => Some(*store),
            Event::Arrive(packet) => Some(packet.ends().1),
            _ => None,
        };
        let pause = touches.and_then(|store| self.paused_until.get(&store).copied());
        if let Some(until) = pause.filter(|until| *until > self.now) {
            return self.at(until, event);
        }
        match event {
            Event::Tick(store) => {
                self.at(self.now + self.ticks[&store], Event::Tick(store));
                if let Some(node) = self.cluster.nodes.get_mut(&store) {
                    node.store.tick();
                    self.turn(store);
                }
            }
            Event::Arrive(packet) => {
                let (from, to) = packet.ends();
                self.note(&format!("{from}>{to} {}", wording::packet(&packet)));
                self.cluster.arrive(packet);
                self.turn(to);
            }
            Event::Written(store, life) => {
                if self.life(store) == life && self.cluster.nodes.contains_key(&store) {
                    self.cluster.write(store).expect("no fault is planned");
                    self.note(&format!("{store} written"));
                    self.turn(store);
                }
            }
            Event::Chore(store, life, chore) => {
                if life == self.life(store)
                    && let Some(node) = self.cluster.nodes.get_mut(&store)
                {
                    node.run(chore);
                    self.turn(store);
                }
            }
            Event::Flush(store) => {
                self.at(self.now + self.weather.flush, Event::Flush(store));
                if let Some(node) = self.cluster.nodes.get_mut(&store) {
                    node.store.flush();
                    self.turn(store);
                }
            }
            Event::Start(store) => self.start(store),
            Event::Mend => self.mend_all(),
            Event::Propose => {
                self.again(self.weather.propose, Event::Propose);
                let range = self.any_range();
                self.propose(range);
            }
            Event::Read => self.read(),
            Event::HandOver => self.hand_over(),
            Event::Split => self.split(),
            Event::Members => self.members(),
            fault @ (Event::Reconnect | Event::Crash | Event::Cut | Event::Pause) => {
                self.fault(fault);
            }
        }
    }

    fn read(&mut self) {
        self.again(self.weather.read, Event::Read);
        let range = self.any_range();
        for store in self.up() {
            if let Some(read) = self.cluster.read(store, range) {
                self.note(&format!("{store} r{range} reads {}", read.0));
                self.counts.reads += 1;
                self.turn(store);
            }
        }
    }

    /// A store hands its leaderships over, and is told that another is out of reach.
    fn hand_over(&mut self) {
        if self.weather.hand_over == 0 {
            return;
        }
        self.again(self.weather.hand_over, Event::HandOver);
        let (store, other) = (self.any_store(), self.any_store());
        if !self.up().contains(&store) {
            return;
        }
        self.note(&format!("{store} hands over, {other} is out of its reach"));
        let node = self.cluster.node(store);
        node.store.unreachable(StoreId(other));
        node.store.hand_over();
        let told = node.store.ranges().iter().any(|range| node.leads_range(*range));
        self.counts.handed_over += u64::from(told);
        self.turn(store);
    }

    /// Some range becomes two, if somebody leads it and takes that.
    fn split(&mut self) {
        if self.weather.split == 0 {
            return;
        }
        self.again(self.weather.split, Event::Split);
        let (range, key) = (self.any_range(), format!("w{}", self.dice.random_range(0..9)));
        if self.last_range >= RANGE.0 + RANGES_MAX {
            return;
        }
        for store in self.up() {
            let descriptor = self.cluster.nodes[&store].store.descriptor(range).cloned();
            let Some(descriptor) = descriptor else { continue };
            let child = RangeId(self.last_range + 1);
            let mut split = split_of(&descriptor, &key, child);
            for (peer, number) in split.child_peers.iter_mut().zip(self.last_peer + 1..) {
                *peer = PeerId(number);
            }
            if let Ok(at) = self.cluster.node(store).store.split(range, &split) {
                self.note(&format!("{store} r{range} splits at {key}, {}@{}", at.index, at.term));
                self.last_peer += split.child_peers.len() as u64;
                self.last_range += 1;
                self.counts.splits += 1;
                self.turn(store);
            }
        }
    }

    /// Some range gets other members, a step at a time: somebody learns, votes in another's place,
    /// goes.
    fn members(&mut self) {
        if self.weather.members == 0 {
            return;
        }
        self.again(self.weather.members, Event::Members);
        let range = self.any_range();
        for store in self.up() {
            let Some(changes) = self.next_change(store, range) else { continue };
            let node = self.cluster.node(store);
            let epoch = node.store.descriptor(range).expect("it has a next change").epoch;
            let change = ChangePeers { epoch, changes };
            if let Ok(at) = node.store.change_peers(range, &change) {
                self.note(&format!("{store} r{range} {change:?}, {}@{}", at.index, at.term));
                self.counts.members += 1;
                self.turn(store);
            }
        }
    }

    /// The work of a master, only faster.
    fn next_change(&mut self, store: u64, range: RangeId) -> Option<Vec<PeerChange>> {
        let node = &self.cluster.nodes[&store];
        let descriptor = node.store.descriptor(range)?.clone();
        let progress = node.store.peers(range);
        if progress.is_empty() {
            return None;
        }
        if descriptor.is_joint() {
            return Some(Vec::new());
        }
        let is_here = |peer: PeerId| progress.iter().any(|it| it.peer == peer && it.matched > 5);
        let of_role = |role| descriptor.replicas.iter().filter(move |it| it.role == role);
        let learner = of_role(Role::Learner).next();
        let voters: Vec<_> = of_role(Role::Voter).filter(|it| it.store.0 != store).collect();
        let Some(learner) = learner else {
            let mut stores = self.weather.layout.stores();
            let free = stores.find(|it| descriptor.on_store(StoreId(*it)).is_none())?;
            self.last_peer += 1;
            let (peer, store) = (PeerId(self.last_peer), StoreId(free));
            return Some(vec![PeerChange::AddLearner { peer, store }]);
        };
        let promote = PeerChange::Promote(learner.peer);
        let goes = voters[self.dice.random_range(0..voters.len())].peer;
        // A child may have replicas on a mere majority of its stores. Whoever took one of these away
        // would leave a range that nobody can lead, nor ask for the missing ones.
        let stay = of_role(Role::Voter).filter(|it| it.peer != goes);
        let (here, missing): (Vec<&Replica>, Vec<&Replica>) = stay.partition(|it| is_here(it.peer));
        let may_go = here.len() > missing.len();
        match self.dice.random_range(0..6) {
            0..=2 if is_here(learner.peer) && may_go => {
                Some(vec![promote, PeerChange::Demote(goes)])
            }
            3 if is_here(learner.peer) => Some(vec![promote]),
            4 if voters.len() >= VOTERS_MIN && may_go => Some(vec![PeerChange::Demote(goes)]),
            _ => Some(vec![PeerChange::RemoveLearner(learner.peer)]),
        }
    }

    fn fault(&mut self, fault: Event) {
        let weather = &self.weather;
        match fault {
            Event::Reconnect if weather.reconnect > 0 => {
                self.again(self.weather.reconnect, Event::Reconnect);
                let (one, other) = (self.any_store(), self.any_store());
                self.streams.retain(|(from, to, _), _| (*from, *to) != (one, other));
                self.counts.reconnects += 1;
            }
            Event::Crash if weather.crash > 0 => {
                self.again(self.weather.crash, Event::Crash);
                let store = self.any_store();
                self.crash(store);
                let back = self.now + self.dice.random_range(self.weather.down.clone());
                self.at(back, Event::Start(store));
            }
            Event::Cut if weather.cut > 0 => {
                self.again(self.weather.cut, Event::Cut);
                self.cut_something();
                self.again(self.weather.mend, Event::Mend);
            }
            Event::Pause if weather.pause > 0 => {
                self.again(self.weather.pause, Event::Pause);
                let store = self.any_store();
                let until = self.now + self.dice.random_range(100 * MS..4 * SECOND);
                self.note(&format!("pause {store} until {until}"));
                self.paused_until.insert(store, until);
                self.counts.pauses += 1;
            }
            _ => {}
        }
    }

    /// A direction between two stores, both, or all that a store says or hears.
    fn cut_something(&mut self) {
        let (one, other) = (self.any_store(), self.any_store());
        let others: Vec<u64> = self.weather.layout.stores().filter(|it| *it != one).collect();
        let kind = self.dice.random_range(0..5);
        match kind {
            0 => self.cut(one, other),
            1 => others.iter().for_each(|other| self.cut(one, *other)),
            2 => others.iter().for_each(|other| self.cut(*other, one)),
            _ => {
                let others = if kind == 3 { vec![other] } else { others };
                for other in others {
                    self.cut(one, other);
                    self.cut(other, one);
                }
            }
        }
        match kind {
            0..=2 => self.counts.one_way_cuts += 1,
            _ => self.counts.two_way_cuts += 1,
        }
    }

    fn life(&self, store: u64) -> u64 {
        self.cluster.checks.life(store)
    }

    /// One turn of a store, as after every event that it sees.
    fn turn(&mut self, store: u64) {
        let wrote_before = self.cluster.nodes.get(&store).is_some_and(|it| it.batch.is_some());
        if let Some(node) = self.cluster.nodes.get_mut(&store) {
            node.has_late_chores = true;
        }
        self.cluster.turn(store);
        self.plan_chores(store);
        for packet in std::mem::take(&mut self.cluster.in_transit) {
            self.send(packet);
        }
        let Some(node) = self.cluster.nodes.get(&store) else { return };
        if node.batch.is_some() && !wrote_before {
            let done = self.now + self.dice.random_range(self.weather.disk.clone());
            self.at(done, Event::Written(store, self.life(store)));
        }
        self.note_standing(store);
    }

    /// Each takes as long as two writes or so, and others overtake it.
    fn plan_chores(&mut self, store: u64) {
        let Some(node) = self.cluster.nodes.get_mut(&store) else { return };
        for chore in std::mem::take(&mut node.chores) {
            let took = 2 * self.dice.random_range(self.weather.disk.clone());
            self.at(self.now + took, Event::Chore(store, self.life(store), chore));
        }
    }

    fn send(&mut self, mut packet: Packet) {
        let (from, to) = packet.ends();
        if self.cuts.contains(&(from, to)) {
            return;
        }
        if self.dice.random_bool(self.weather.loss) {
            self.counts.lost += 1;
            return;
        }
        if self.dice.random_bool(self.weather.twice) {
            // A copy that comes late, over another connection.
            self.counts.repeated += 1;
            let late = self.now + self.dice.random_range(0..3 * SECOND);
            self.at(late, Event::Arrive(packet.clone()));
        }
        self.damage(&mut packet);
        let mut arrival = self.now + self.dice.random_range(self.weather.delay.clone());
        let class = match packet {
            Packet::Message(_) => 0,
            Packet::Heartbeats(_) => 1,
            Packet::Snapshot(_) => 2,
        };
        let stream = (from, to, class);
        let last = self.streams.entry(stream).or_default();
        if self.weather.orderly {
            arrival = arrival.max(*last);
        }
        if arrival < *last {
            self.counts.overtaken += 1;
        }
        *last = arrival.max(*last);
        self.at(arrival, Event::Arrive(packet));
    }

    /// Changes a byte of a chunk, now and then.
    fn damage(&mut self, packet: &mut Packet) {
        let Packet::Snapshot(piece) = packet else { return };
        let Some(Body::Chunk(chunk)) = &mut piece.body else { return };
        if self.weather.damage > 0.0 && self.dice.random_bool(self.weather.damage) {
            let mut data = chunk.data.to_vec();
            data[0] ^= 1;
            chunk.data = data.into();
            self.counts.damaged += 1;
        }
    }

    fn note(&mut self, what: &str) {
        let (seconds, micros) = (self.now / SECOND, self.now % SECOND);
        writeln!(self.trace, "{seconds:>3}.{micros:06} {what}").expect("memory");
    }

    /// Notes how a store's replicas stand, where that changed.
    fn note_standing(&mut self, store: u64) {
        let installed = self.cluster.nodes[&store].store.snapshot_stats().installed;
        let before = self.installed.insert((store, self.life(store)), installed).unwrap_or(0);
        self.counts.installed += installed - before;
        for (range, life) in std::mem::take(&mut self.cluster.node(store).lives) {
            self.note(&format!("  {store} r{range} {life:?}"));
            self.counts.born += u64::from(life == Life::Born);
            self.counts.gone += u64::from(life == Life::Gone);
        }
        for range in self.ranges() {
            let Some(status) = self.cluster.nodes[&store].store.status(range) else { continue };
            let before = self.shown.insert((store, range), status);
            if before == Some(status) {
                continue;
            }
            if status.role == RaftRole::Leader && before.is_none_or(|it| it.role != status.role) {
                self.counts.leaders += 1;
            }
            let ReplicaStatus { role, term, commit, applied, state_hash, log_last, .. } = status;
            self.note(&format!(
                "  {store} r{range} {role:?} t{term} log {log_last} c{commit} a{applied} {state_hash:x}"
            ));
        }
    }
}
