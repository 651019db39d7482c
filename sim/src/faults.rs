//! What goes wrong, when, and to whom. Leaders are hit more often than their share: what breaks a
//! lock service breaks at its leader.

use sharklock_dataserver::Input;

use crate::links::Letter;
use crate::node::Node;
use crate::note;
use crate::world::{Event, MS, S, World};

/// What has ended is remembered for 35 s, and up to 5 s more.
const MEMORY_NS: u64 = 40 * S;

/// A kind of fault. The options of the same names say what each is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    CrashStore,
    PowerCut,
    PauseStore,
    FreezeStore,
    SlowDisk,
    Partition,
    Clog,
    StallStreams,
    CutStream,
    CrashGateway,
    PauseGateway,
    CrashClient,
    PauseClient,
    IsolateClient,
    SwitchGateway,
    Replay,
    HandOver,
    Impostor,
    CrashMaster,
    PauseMaster,
    IsolateMaster,
    StaleRoutes,
    LoseStore,
}

/// The end of what a fault did.
#[derive(Clone, Debug)]
pub enum Ease {
    /// Ways are free again.
    Unblock(Vec<(Node, Node)>),
    /// Held letters arrive.
    Unclog(Vec<(Node, Node)>),
    /// A machine thaws.
    Thaw(usize),
    /// A process goes on.
    Resume(Node),
}

impl Fault {
    /// Every kind.
    pub const ALL: [Self; 23] = [
        Self::CrashStore,
        Self::PowerCut,
        Self::PauseStore,
        Self::FreezeStore,
        Self::SlowDisk,
        Self::Partition,
        Self::Clog,
        Self::StallStreams,
        Self::CutStream,
        Self::CrashGateway,
        Self::PauseGateway,
        Self::CrashClient,
        Self::PauseClient,
        Self::IsolateClient,
        Self::SwitchGateway,
        Self::Replay,
        Self::HandOver,
        Self::Impostor,
        Self::CrashMaster,
        Self::PauseMaster,
        Self::IsolateMaster,
        Self::StaleRoutes,
        Self::LoseStore,
    ];

    /// Its counter's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::CrashStore => "fault: store crash",
            Self::PowerCut => "fault: power cut",
            Self::PauseStore => "fault: store pause",
            Self::FreezeStore => "fault: store freeze",
            Self::SlowDisk => "fault: slow disk",
            Self::Partition => "fault: partition",
            Self::Clog => "fault: clog",
            Self::StallStreams => "fault: stalled streams",
            Self::CutStream => "fault: cut stream",
            Self::CrashGateway => "fault: gateway crash",
            Self::PauseGateway => "fault: gateway pause",
            Self::CrashClient => "fault: client crash",
            Self::PauseClient => "fault: client pause",
            Self::IsolateClient => "fault: isolated client",
            Self::SwitchGateway => "fault: switched gateway",
            Self::Replay => "fault: replayed call",
            Self::HandOver => "fault: hand-over",
            Self::Impostor => "fault: another cluster at an address",
            Self::CrashMaster => "fault: master crash",
            Self::PauseMaster => "fault: master pause",
            Self::IsolateMaster => "fault: isolated master",
            Self::StaleRoutes => "fault: stale routes",
            Self::LoseStore => "fault: store lost for good",
        }
    }
}

impl World {
    fn mean_ms(&self, fault: Fault) -> u64 {
        let options = &self.options;
        match fault {
            Fault::CrashMaster | Fault::PauseMaster | Fault::IsolateMaster | Fault::LoseStore
                if self.masters.is_empty() =>
            {
                0
            }
            Fault::CrashStore => options.crash_store_mean_ms,
            Fault::PowerCut => options.power_cut_mean_ms,
            Fault::PauseStore => options.pause_store_mean_ms,
            Fault::FreezeStore => options.freeze_store_mean_ms,
            Fault::SlowDisk => options.slow_disk_mean_ms,
            Fault::Partition => options.partition_mean_ms,
            Fault::Clog => options.clog_mean_ms,
            Fault::StallStreams => options.stall_streams_mean_ms,
            Fault::CutStream => options.cut_stream_mean_ms,
            Fault::CrashGateway => options.crash_gateway_mean_ms,
            Fault::PauseGateway => options.pause_gateway_mean_ms,
            Fault::CrashClient => options.crash_client_mean_ms,
            Fault::PauseClient => options.pause_client_mean_ms,
            Fault::IsolateClient => options.isolate_client_mean_ms,
            Fault::SwitchGateway => options.switch_gateway_mean_ms,
            Fault::Replay => options.replay_mean_ms,
            Fault::HandOver => options.hand_over_mean_ms,
            Fault::Impostor => options.impostor_mean_ms,
            Fault::CrashMaster => options.crash_master_mean_ms,
            Fault::PauseMaster => options.pause_master_mean_ms,
            Fault::IsolateMaster => options.isolate_master_mean_ms,
            Fault::StaleRoutes => options.stale_routes_mean_ms,
            Fault::LoseStore => options.lose_store_mean_ms,
        }
    }

    pub(crate) fn plan_faults(&mut self) {
        for fault in Fault::ALL {
            self.plan_fault(fault);
        }
        self.plan_drift();
    }

    fn plan_fault(&mut self, fault: Fault) {
        let mean = self.mean_ms(fault);
        if mean > 0 {
            // What is new leaves the other choices of a seed as they were.
            let dice = match fault {
                Fault::LoseStore => &mut self.dice.losses,
                _ => &mut self.dice.faults,
            };
            let at = self.now + dice.around(mean * MS) + MS;
            self.queue.plan(at, Event::Fault(fault));
        }
    }

    pub(crate) fn fault(&mut self, fault: Fault) {
        if self.is_calm {
            return;
        }
        if fault == Fault::LoseStore {
            self.lose_store();
            return self.plan_fault(fault);
        }
        self.counters.count(fault.name());
        let length = self.dice.faults.around(self.options.fault_mean_ms * MS).clamp(MS, 40 * S);
        match fault {
            Fault::CrashStore => {
                let (store, power) = (self.some_store(2), self.dice.faults.one_in(2));
                self.store_ends(store, power, length);
            }
            Fault::PowerCut => {
                for store in 1..=self.faulty_stores() {
                    let back = self.dice.faults.below(2 * S) + length / 8;
                    self.store_ends(store, true, back);
                }
                self.masters_lose_power(length);
            }
            Fault::PauseStore => {
                let store = self.some_store(3);
                self.pause(Node::Store(store), length);
            }
            Fault::FreezeStore => self.freeze(length),
            Fault::SlowDisk => {
                let (store, until) = (self.some_store(2), self.now + length);
                note!(self, "s{store}: slow disk for {length}");
                let store = self.store(store);
                store.slow_until = store.slow_until.max(until);
            }
            Fault::Partition => self.partition(length),
            Fault::Clog => self.clog(length),
            Fault::StallStreams => self.stall_streams(length),
            Fault::CutStream => {
                let ids = self.streams.ids();
                if !ids.is_empty() {
                    let id = *self.dice.faults.pick(&ids);
                    self.cut_stream(id);
                }
            }
            Fault::CrashGateway => {
                let number = 1 + self.dice.faults.below(self.options.gateways) as usize;
                self.gateway_ends(number, length);
            }
            Fault::PauseGateway => {
                let number = 1 + self.dice.faults.below(self.options.gateways) as usize;
                // Some are paused for longer than anything is remembered.
                let longer = if self.dice.faults.one_in(4) { MEMORY_NS } else { 0 };
                self.pause(Node::Gateway(number), length + longer);
            }
            Fault::CrashClient => {
                let number = 1 + self.dice.faults.below(self.options.clients) as usize;
                match self.dice.agreements.below(100) < self.options.close_pct {
                    true => self.client_closes(number, length),
                    false => self.client_ends(number, Some(length)),
                }
            }
            Fault::PauseClient => {
                let number = 1 + self.dice.faults.below(self.options.clients) as usize;
                // Half of the pauses are about as long as leases.
                let length = match self.dice.faults.below(2) {
                    0 => length,
                    _ => self.about_a_lease_ns(),
                };
                self.pause(Node::Client(number), length);
            }
            Fault::IsolateClient => {
                let number = 1 + self.dice.faults.below(self.options.clients) as usize;
                self.isolate_client(number);
            }
            Fault::SwitchGateway => {
                let number = 1 + self.dice.faults.below(self.options.clients) as usize;
                self.switch_gateway(number);
            }
            Fault::CrashMaster => {
                let (master, power) = (self.some_master(), self.dice.faults.one_in(2));
                self.master_ends(master, power, length);
            }
            Fault::PauseMaster => {
                let master = self.some_master();
                self.pause(Node::Master(master), length);
            }
            Fault::IsolateMaster => self.isolate_master(length),
            Fault::StaleRoutes => self.stale_routes(),
            Fault::LoseStore => unreachable!("it is handled above"),
            Fault::Replay => self.replay(),
            Fault::Impostor => {
                let number = 1 + self.dice.faults.below(self.options.gateways) as usize;
                self.impostor_comes(number, length);
            }
            Fault::HandOver => {
                let store = self.some_store(4);
                let store_now = self.store(store);
                let tables = store_now.led().filter_map(|range| store_now.table(range));
                if tables.map(|table| table.counts().waiters).sum::<usize>() > 0 {
                    self.counters.count("hand-overs with waiters");
                }
                note!(self, "s{store} hands over");
                self.store_told(store, Input::HandOver);
            }
        }
        self.plan_fault(fault);
    }

    /// How many stores may have faults: the first.
    fn faulty_stores(&self) -> usize {
        let may_fail = |number: &usize| self.options.may_fail(Node::Store(*number));
        (1..=self.stores.len()).filter(may_fail).count()
    }

    /// A store: a leader in so many minus one of so many cases.
    fn some_store(&mut self, leader_of: u64) -> usize {
        let leaders: Vec<usize> = self
            .stores
            .iter()
            .take(self.faulty_stores())
            .filter(|store| store.is_leader())
            .map(|store| store.number)
            .collect();
        if leaders.is_empty() || self.dice.faults.one_in(leader_of) {
            1 + self.dice.faults.below(self.faulty_stores() as u64) as usize
        } else {
            *self.dice.faults.pick(&leaders)
        }
    }

    pub(crate) fn pause(&mut self, node: Node, length: u64) {
        let until = self.now + length;
        note!(self, "{node} is paused for {length}");
        match node {
            Node::Store(number) => {
                let store = self.store(number);
                store.paused_until = store.paused_until.max(until);
            }
            Node::Gateway(number) => self.gateway_pauses(number, until),
            Node::Client(number) => self.client_pauses(number, until),
            Node::Master(number) => {
                let master = &mut self.masters[number - 1];
                master.paused_until = master.paused_until.max(until);
            }
            Node::Operator => unreachable!("nobody pauses an operator"),
        }
        self.queue.plan(until, Event::Ease(Ease::Resume(node)));
    }

    fn freeze(&mut self, length: u64) {
        let (number, now) = (self.some_store(3), self.now);
        self.pause(Node::Store(number), length);
        let store = self.store(number);
        store.clock.freeze(now);
        store.frozen_until = store.frozen_until.max(now + length);
        self.queue.plan(now + length, Event::Ease(Ease::Thaw(number)));
    }

    /// Some ways between stores are blocked; sometimes with gateways on either side.
    fn partition(&mut self, length: u64) {
        let alone = self.some_store(2);
        let others: Vec<usize> = (1..=self.stores.len()).filter(|it| *it != alone).collect();
        let mut ways = Vec::new();
        let kind = self.dice.faults.below(6);
        for other in others.iter().copied() {
            let (a, b) = (Node::Store(alone), Node::Store(other));
            match kind {
                0 | 1 => ways.extend([(a, b), (b, a)]),
                2 => ways.push((a, b)),
                3 => ways.push((b, a)),
                // One link of three: the graph of who reaches whom is not transitive.
                4 if other == others[0] => ways.extend([(a, b), (b, a)]),
                4 => {}
                _ => {
                    ways.extend([(a, b), (b, a)]);
                    let (c, d) = (Node::Store(others[0]), Node::Store(others[1]));
                    if self.options.may_fail(c) && self.options.may_fail(d) {
                        ways.extend([(c, d), (d, c)]);
                    }
                }
            }
        }
        if self.dice.faults.one_in(3) {
            for gateway in 1..=self.options.gateways as usize {
                let gateway = Node::Gateway(gateway);
                if self.dice.faults.one_in(2) && self.options.faulty_stores == 0 {
                    for other in &others {
                        ways.extend(both(gateway, Node::Store(*other)));
                    }
                } else {
                    ways.extend(both(gateway, Node::Store(alone)));
                }
            }
        }
        self.block(ways, length);
    }

    fn stall_streams(&mut self, length: u64) {
        let gateway = Node::Gateway(1 + self.dice.faults.below(self.options.gateways) as usize);
        let other = if self.dice.faults.one_in(2) {
            Node::Store(self.some_store(2))
        } else {
            Node::Client(1 + self.dice.faults.below(self.options.clients) as usize)
        };
        let ways = match self.dice.faults.below(4) {
            0 => vec![(gateway, other)],
            1 => vec![(other, gateway)],
            _ => both(gateway, other).to_vec(),
        };
        self.block(ways, length);
    }

    pub(crate) fn block(&mut self, ways: Vec<(Node, Node)>, length: u64) {
        let named: Vec<String> = ways.iter().map(|(from, to)| format!("{from}>{to}")).collect();
        note!(self, "blocked for {length}: {}", named.join(" "));
        self.links.block(&ways);
        // The links of stores find out and say so.
        for (from, to) in &ways {
            if let (Node::Store(from), Node::Store(to)) = (from, to)
                && let Some(to) = self.store(*to).id
            {
                self.store_told(*from, Input::Unreachable(to));
            }
        }
        self.queue.plan(self.now + length, Event::Ease(Ease::Unblock(ways)));
    }

    fn clog(&mut self, length: u64) {
        let store = self.some_store(2);
        let mut ways = Vec::new();
        for other in (1..=self.stores.len()).filter(|other| *other != store) {
            let (a, b) = (Node::Store(store), Node::Store(other));
            if self.dice.faults.one_in(2) {
                ways.push((a, b));
            } else if self.dice.faults.one_in(2) {
                ways.push((b, a));
            }
        }
        note!(self, "clogged for {length}: {ways:?}");
        ways.iter().for_each(|way| self.links.clog(*way));
        self.queue.plan(self.now + length, Event::Ease(Ease::Unclog(ways)));
    }

    pub(crate) fn ease(&mut self, ease: Ease) {
        match ease {
            Ease::Unblock(ways) => {
                self.links.unblock(&ways);
                self.release_held();
            }
            Ease::Unclog(ways) => self.unclog(ways),
            Ease::Thaw(number) => self.thaw(number),
            Ease::Resume(Node::Store(number)) => self.store_resumes(number),
            Ease::Resume(Node::Gateway(number)) => self.gateway_resumes(number),
            Ease::Resume(Node::Client(number)) => self.client_resumes(number),
            Ease::Resume(Node::Master(number)) => self.master_resumes(number),
            Ease::Resume(Node::Operator) => unreachable!("nobody pauses an operator"),
        }
    }

    /// What was held back arrives within a second, in any order, some of it twice.
    fn unclog(&mut self, ways: Vec<(Node, Node)>) {
        for way in ways {
            for letter in self.links.unclog(way) {
                if self.dice.letters.one_in(8) {
                    self.release_letter(way, letter.clone());
                }
                self.release_letter(way, letter);
            }
        }
    }

    fn release_letter(&mut self, way: (Node, Node), letter: Letter) {
        let at = self.now + self.dice.letters.below(S);
        self.queue.plan(at, Event::Letter { way, letter });
    }

    fn thaw(&mut self, number: usize) {
        let now = self.now;
        let drift = crate::world::draw_drift(self.options.drift_ppm, &mut self.dice.clocks);
        let store = self.store(number);
        if store.frozen_until <= now {
            store.clock.drift(now, drift);
            self.store_resumes(number);
        }
    }

    /// Everything that faults did ends; what is down comes back.
    pub(crate) fn heal(&mut self) {
        note!(self, "calm");
        self.is_calm = true;
        let options = &mut self.options;
        options.raft_loss_ppm = 0;
        options.raft_twice_ppm = 0;
        options.raft_reorder_ppm = 0;
        options.stream_lag_ppm = 0;
        options.disk_stall_ppm = 0;
        options.disk_fail_ppm = 0;
        options.routes_lost_ppm = 0;
        options.routes_late_ppm = 0;
        options.asked_twice_ppm = 0;
        self.links.unblock_all();
        self.release_held();
        let clogs = self.links.clogs();
        self.unclog(clogs);
        for number in 1..=self.stores.len() {
            let now = self.now;
            let store = self.store(number);
            store.paused_until = now;
            store.slow_until = now;
            store.frozen_until = now;
            self.thaw(number);
            if self.store(number).process.is_none() {
                self.queue.plan(now, Event::StoreStarts(number));
            }
        }
        self.heal_masters();
        self.heal_gateways();
        self.heal_clients();
    }
}

pub(crate) fn both(a: Node, b: Node) -> [(Node, Node); 2] {
    [(a, b), (b, a)]
}
