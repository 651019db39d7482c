//! The world: all nodes, what is between them, and the one queue of what will happen. Everything
//! that is not decided by the product's cores is decided by the options and the seed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use sharklock_dataserver::LockRange;
use sharklock_history::{FencingOracle, Recorder};
use sharklock_multiraft::Chore;
use sharklock_proto::{
    ClusterId,
    internal::v1::{MasterView, RoutesUpdate},
};

use crate::asking::{Asker, Heard, Question};
use crate::check::{Checks, Violation};
use crate::client::ClientNode;
use crate::clock::DriftingClock;
use crate::dice::Dice;
use crate::elsewhere::Answers;
use crate::faults::{Ease, Fault};
use crate::gateway::GatewayNode;
use crate::impostor::Impostors;
use crate::in_time::Dues;
use crate::links::{Letter, Links};
use crate::lists::{ListStep, Lists};
use crate::losses::Losses;
use crate::master::MasterNode;
use crate::names::Names;
use crate::node::Node;
use crate::options::Options;
use crate::orders::Orders;
use crate::overtaking::Overtaking;
use crate::queue::Queue;
use crate::ranges::{REPLICAS, Ranges};
use crate::replay::Replays;
use crate::revoking::Revoking;
use crate::route_events::OldRoutes;
use crate::split_calls::SplitCalls;
use crate::split_faults::SplitFault;
use crate::split_ids::IdsStep;
use crate::splits::{Asked, Splits};
use crate::state_file::Key;
use crate::store::{StoreNode, ident_by_hand};
use crate::streams::{ConnId, End, Payload, Streams};
use crate::tasks::Use;
use crate::trace::Trace;
use crate::watchers::Watcher;

/// Nanoseconds of a millisecond.
pub const MS: u64 = 1_000_000;
/// Nanoseconds of a second.
pub const S: u64 = 1_000_000_000;

/// How often states are compared and bounds are checked.
const POLL_NS: u64 = 200 * MS;
/// How often silent connections are looked for.
const SWEEP_NS: u64 = 500 * MS;

/// Something that happens.
#[derive(Debug)]
pub enum Event {
    /// A worker's turn, if it is still the one that was planned last.
    Turn {
        /// Which store.
        store: usize,
        /// In which life.
        life: u32,
        /// Which of its workers.
        worker: usize,
        /// Which plan.
        turn: u64,
    },
    /// A worker that was interrupted behind its turn does what that wants.
    GoesOn {
        /// Which store.
        store: usize,
        /// In which life.
        life: u32,
        /// Which of its workers.
        worker: usize,
    },
    /// A disk has finished the batch in flight.
    Written {
        /// Which store.
        store: usize,
        /// In which life.
        life: u32,
    },
    /// A thread beside a store's worker has come to an end with a chore.
    Chore {
        /// Which store.
        store: usize,
        /// In which life.
        life: u32,
        /// Which of its workers has ordered it.
        worker: usize,
        /// What it does.
        chore: Box<Chore<LockRange>>,
    },
    /// A store's process begins.
    StoreStarts(usize),
    /// A master's process begins.
    MasterStarts(usize),
    /// A master that belongs to no cluster looks for the others.
    MasterMeets {
        /// Which master.
        master: usize,
        /// In which life.
        life: u32,
    },
    /// A master hears what another knows of all.
    MasterMet {
        /// Who knows it.
        from: usize,
        /// Who hears it.
        to: usize,
        /// What.
        view: Box<MasterView>,
        /// The other wants to know, too.
        asks: bool,
    },
    /// A master's turn, if it is still the one that was planned last.
    MasterTurn {
        /// Which master.
        master: usize,
        /// In which life.
        life: u32,
        /// Which plan.
        turn: u64,
    },
    /// A master's disk has finished the batch in flight.
    MasterWritten {
        /// Which master.
        master: usize,
        /// In which life.
        life: u32,
    },
    /// A question reaches a master.
    Asked {
        /// Which master.
        master: usize,
        /// Who asks.
        asker: Asker,
        /// What.
        question: Question,
    },
    /// An answer reaches who has asked, or the time for it is over.
    Answered {
        /// Who answers; None: nobody did.
        from: Option<Node>,
        /// Who has asked.
        asker: Asker,
        /// What it hears.
        heard: Heard,
    },
    /// A store asks the masters again.
    StoreAsks {
        /// Which store.
        store: usize,
        /// In which life.
        life: u32,
    },
    /// A store's heartbeat for the masters, if it is still the one that was planned last.
    Beat {
        /// Which store.
        store: usize,
        /// In which life.
        life: u32,
        /// Which plan.
        beat: u64,
    },
    /// A gateway looks for a master that tells it routes.
    GatewayWatches {
        /// Which gateway.
        gateway: usize,
        /// In which life.
        life: u32,
    },
    /// Changes of routes reach a gateway.
    Routes {
        /// By which watch.
        watcher: Asker,
        /// What has changed.
        update: Box<RoutesUpdate>,
    },
    /// A gateway notices that its watch has ended.
    WatchEnds(Asker),
    /// A letter arrives.
    Letter {
        /// From whom, at whom.
        way: (Node, Node),
        /// What.
        letter: Letter,
    },
    /// Something arrives at an end of a connection.
    Arrived {
        /// Which connection.
        conn: ConnId,
        /// Which end.
        to: End,
        /// What was under way when it was sent.
        epoch: u32,
        /// What.
        payload: Payload,
    },
    /// A gateway's process begins.
    GatewayStarts(usize),
    /// A gateway dials a store.
    GatewayDials {
        /// Which gateway.
        gateway: usize,
        /// In which life.
        life: u32,
        /// Which store.
        store: usize,
    },
    /// A hub's tick, if it is still the one that was planned last.
    GatewayTicks {
        /// Which gateway.
        gateway: usize,
        /// In which life.
        life: u32,
        /// Which plan.
        tick: u64,
    },
    /// An operator does something.
    Operator {
        /// At which gateway.
        gateway: usize,
        /// In which life.
        life: u32,
        /// Ends a hold, or looks.
        force: bool,
    },
    /// A client's process begins.
    ClientStarts(usize),
    /// A client's dial comes to its end.
    ClientDials {
        /// Which client.
        client: usize,
        /// In which life.
        life: u32,
        /// Which dial.
        dial: u64,
        /// When it began.
        since: u64,
    },
    /// A client's turn, if it is still the one that was planned last.
    ClientWakes {
        /// Which client.
        client: usize,
        /// In which life.
        life: u32,
        /// Which plan.
        wake: u64,
    },
    /// A use reaches the resource behind a lock.
    Used(Box<Use>),
    /// An end notices that its connection is gone.
    Noticed {
        /// Which connection.
        conn: ConnId,
        /// Which end.
        end: End,
    },
    /// A fault of this kind happens.
    Fault(Fault),
    /// What a fault did ends.
    Ease(Ease),
    /// The worst happens to a client.
    Ambush {
        /// Which.
        client: usize,
    },
    /// A client dies, if it still has this guard.
    Doomed {
        /// Which client.
        client: usize,
        /// In which life.
        instance: u64,
        /// Which guard.
        ticket: u64,
    },
    /// The range of this lock gets another leader.
    LeaderLeaves(Arc<str>),
    /// Something happens with a list of locks.
    List(ListStep),
    /// Somebody wants a range to be split.
    Split,
    /// An operator wants something of the masters,
    Order,
    /// or says it once more.
    OrderAgain(u64),
    /// That reaches a store.
    SplitAsked(Box<Asked>),
    /// A client looks whether a hold of an older life is there.
    TakeBack {
        /// Which client.
        client: usize,
        /// In which life.
        life: u32,
        /// Which entry of its file.
        entry: Key,
    },
    /// An operator takes away what a session has.
    Revoke,
    /// A watcher asks.
    Watch {
        /// Which.
        watcher: usize,
        /// Only the last that was planned counts.
        turn: u64,
    },
    /// Another moment at which a machine may be lost for good.
    StoreLost,
    /// Somebody misses a machine that is lost.
    StoreMissed(usize),
    /// A machine that is gone is switched on.
    StoreBack(usize),
    /// An operator calls for a split that he has wished, by its number.
    SplitCalled(usize),
    /// Something happens with a store's request for ids.
    Ids {
        /// Which store.
        store: usize,
        /// In which life.
        life: u32,
        /// What.
        step: IdsStep,
    },
    /// Something goes wrong with the stores of a range that is being split.
    SplitFault(SplitFault),
    /// Clocks get other rates.
    Drift,
    /// States are compared.
    Poll,
    /// Silent connections are closed.
    Sweep,
}

/// The streams of choices of a world.
#[derive(Debug)]
pub struct DiceBox {
    /// Turns of workers.
    pub turns: Dice,
    /// The order in which the workers of a store take turns.
    pub workers: Dice,
    /// Disks.
    pub disks: Dice,
    /// Letters.
    pub letters: Dice,
    /// Connections.
    pub streams: Dice,
    /// Which faults happen when and to whom.
    pub faults: Dice,
    /// Clocks.
    pub clocks: Dice,
    /// What tasks of clients want.
    pub tasks: Dice,
    /// What operators want.
    pub operators: Dice,
    /// Splits.
    pub splits: Dice,
    /// Splits that operators ask for, and ids for them.
    pub asked_splits: Dice,
    /// Lists.
    pub lists: Dice,
    /// Orders to the masters.
    pub orders: Dice,
    /// Machines that are lost for good.
    pub losses: Dice,
    /// Conditions and what belongs to them, and watchers.
    pub agreements: Dice,
}

/// What is counted, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters(BTreeMap<&'static str, u64>);

impl Counters {
    /// Counts one more.
    pub fn count(&mut self, what: &'static str) {
        self.add(what, 1);
    }

    /// Counts so many more.
    pub fn add(&mut self, what: &'static str, count: u64) {
        *self.0.entry(what).or_default() += count;
    }

    /// How many.
    pub fn get(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }

    /// All names with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.0.iter().map(|(name, count)| (*name, *count))
    }

    /// Adds another's numbers.
    pub fn merge(&mut self, other: &Self) {
        for (name, count) in other.iter() {
            self.add(name, count);
        }
    }
}

/// See the module.
pub struct World {
    /// The seed.
    pub seed: u64,
    /// True time, nanoseconds.
    pub now: u64,
    /// What the run is like; the end of a run makes it calmer.
    pub options: Options,
    /// What happened.
    pub trace: Trace,
    /// How often.
    pub counters: Counters,
    /// What must hold.
    pub checks: Checks,
    /// What was broken.
    pub violations: Vec<Violation>,
    pub(crate) dice: DiceBox,
    pub(crate) queue: Queue<Event>,
    pub(crate) stores: Vec<StoreNode>,
    pub(crate) masters: Vec<MasterNode>,
    /// The cluster that the masters have formed.
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) questions_count: u64,
    pub(crate) old_routes: OldRoutes,
    /// When a master was last seen to lead.
    pub(crate) masters_led_at: u64,
    pub(crate) links: Links,
    pub(crate) streams: Streams,
    pub(crate) gateways: Vec<GatewayNode>,
    pub(crate) clients: Vec<ClientNode>,
    pub(crate) names: Names,
    /// The ranges with which the world began.
    pub(crate) ranges: Ranges,
    pub(crate) splits: Splits,
    pub(crate) split_calls: SplitCalls,
    pub(crate) lists: Lists,
    pub(crate) orders: Orders,
    pub(crate) losses: Losses,
    pub(crate) watchers: Vec<Watcher>,
    pub(crate) revoking: Option<Revoking>,
    /// What must come about in time.
    pub(crate) dues: Dues,
    /// Nobody watches any more.
    pub(crate) watches_are_over: bool,
    /// The resources behind exclusive locks.
    pub(crate) resources: BTreeMap<String, FencingOracle>,
    pub(crate) recorder: Recorder,
    /// Calls that others may repeat.
    pub(crate) replays: Replays,
    pub(crate) overtaking: Overtaking,
    pub(crate) impostors: Impostors,
    pub(crate) last_instance: u64,
    /// No fault happens any more.
    pub(crate) is_calm: bool,
    /// Nobody asks for locks any more.
    pub(crate) is_winding_down: bool,
    pub(crate) polls_count: u64,
    /// How long first answers to acquires took while there were faults, by range.
    pub(crate) answers: Answers,
}

/// Adds a line to a world's trace.
#[macro_export]
macro_rules! note {
    ($world:expr, $($words:tt)*) => {
        $world.trace.line($world.now, format_args!($($words)*))
    };
}

impl World {
    /// A world that begins: all stores start on fresh disks.
    pub fn new(seed: u64, options: Options, trace: Trace) -> Self {
        let mut dice = DiceBox {
            turns: Dice::new(seed, "turns"),
            workers: Dice::new(seed, "workers"),
            disks: Dice::new(seed, "disks"),
            letters: Dice::new(seed, "letters"),
            streams: Dice::new(seed, "streams"),
            faults: Dice::new(seed, "faults"),
            clocks: Dice::new(seed, "clocks"),
            tasks: Dice::new(seed, "tasks"),
            operators: Dice::new(seed, "operators"),
            splits: Dice::new(seed, "splits"),
            asked_splits: Dice::new(seed, "asked splits"),
            lists: Dice::new(seed, "lists"),
            orders: Dice::new(seed, "orders"),
            losses: Dice::new(seed, "losses"),
            agreements: Dice::new(seed, "agreements"),
        };
        let clocks: Vec<_> = (0..options.stores.max(REPLICAS as u64))
            .map(|_| draw_clock(&options, &mut dice.clocks))
            .collect();
        let gateways = (0..options.gateways.max(1))
            .map(|_| GatewayNode::new(draw_clock(&options, &mut dice.clocks)))
            .collect();
        let clients = (0..options.clients.max(1))
            .map(|_| {
                let secret = [dice.tasks.number().to_le_bytes(); 2].concat();
                ClientNode::new(draw_clock(&options, &mut dice.clocks), secret.into())
            })
            .collect();
        let names = Names::draw_all(&options, &mut dice.tasks);
        let ranges = Ranges::draw_all(&options, &names, &mut Dice::new(seed, "ranges"));
        let stores =
            (1..).zip(clocks).map(|(number, clock)| StoreNode::new(number, clock)).collect();
        // Two masters are worth less than one, and not taken.
        let masters = (1..=if options.masters == 2 { 3 } else { options.masters } as usize)
            .map(|number| MasterNode::new(number, draw_clock(&options, &mut dice.clocks)))
            .collect();
        let has_masters = options.masters > 0;
        let mut world = Self {
            seed,
            now: 0,
            options,
            trace,
            counters: Counters::default(),
            checks: Checks::of(ranges.ids()),
            violations: Vec::new(),
            dice,
            queue: Queue::default(),
            stores,
            masters,
            cluster: None,
            questions_count: 0,
            old_routes: OldRoutes::new(),
            masters_led_at: 0,
            links: Links::default(),
            streams: Streams::default(),
            gateways,
            clients,
            names,
            ranges,
            splits: Splits::new(has_masters),
            split_calls: SplitCalls::default(),
            lists: Lists::default(),
            orders: Orders::default(),
            losses: Losses::default(),
            watchers: Vec::new(),
            revoking: None,
            dues: Dues::default(),
            watches_are_over: false,
            resources: BTreeMap::new(),
            recorder: Recorder::default(),
            replays: Replays::default(),
            overtaking: Overtaking::default(),
            impostors: Impostors::default(),
            last_instance: 0,
            is_calm: false,
            is_winding_down: false,
            polls_count: 0,
            answers: Answers::new(),
        };
        world.is_made_by_hand();
        for store in 1..=world.stores.len() {
            let at = world.dice.faults.below(S);
            world.queue.plan(at, Event::StoreStarts(store));
        }
        for gateway in 1..=world.gateways.len() {
            world.queue.plan(world.dice.faults.below(S), Event::GatewayStarts(gateway));
        }
        for client in 1..=world.clients.len() {
            world.queue.plan(world.dice.faults.below(2 * S), Event::ClientStarts(client));
        }
        for master in 1..=world.masters.len() {
            let at = world.dice.faults.below(S);
            world.queue.plan(at, Event::MasterStarts(master));
        }
        world.plan_faults();
        world.begin_splits();
        world.plan_split();
        world.begin_orders();
        world.plan_list();
        world.begin_agreements();
        world.queue.plan(POLL_NS, Event::Poll);
        world.queue.plan(SWEEP_NS, Event::Sweep);
        world
    }

    /// What nobody but the simulator makes: the ranges that are there from the beginning, and where
    /// there are no masters the stores' identities.
    fn is_made_by_hand(&mut self) {
        if !self.ranges.are_made_by_hand() {
            return;
        }
        for descriptor in self.ranges.all() {
            let made = self.checks.tiling.applied(descriptor, 0);
            made.expect("each has an epoch of its own");
        }
        if self.masters.is_empty() {
            for store in &mut self.stores {
                store.is_founded(ident_by_hand(store.number), self.ranges.all());
            }
        }
    }

    /// Lets everything happen until then, or until something is broken.
    pub fn run_until(&mut self, until_ns: u64) {
        while self.violations.is_empty()
            && let Some(at) = self.queue.next_ns()
            && at <= until_ns
        {
            let (at, event) = self.queue.pop().expect("there is a next one");
            assert!(at >= self.now, "time does not go back");
            self.now = at;
            self.counters.count("events");
            self.happen(event);
        }
        if self.violations.is_empty() {
            self.now = until_ns;
        }
    }

    /// Something must not be as it is.
    pub fn violated(&mut self, rule: &'static str, about: &[String], what: fmt::Arguments<'_>) {
        let what = what.to_string();
        note!(self, "VIOLATION {rule}: {what}");
        let lines = if about.is_empty() { vec![" s".to_owned()] } else { about.to_vec() };
        let lines = self.trace.latest_about(&lines, 60);
        self.violations.push(Violation { rule, at_ns: self.now, what, lines });
    }

    /// What reaches a process that stands still comes up when it goes on, which may be sooner than
    /// planned.
    pub(crate) fn plan_after_pause(&mut self, paused_until: u64, event: Event) {
        self.queue.plan(paused_until.min(self.now + S / 2), event);
    }

    pub(crate) fn store(&mut self, number: usize) -> &mut StoreNode {
        &mut self.stores[number - 1]
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Turn { store, life, worker, turn } => {
                self.store_turn(store, life, worker, turn);
            }
            Event::GoesOn { store, life, worker } => self.store_goes_on(store, life, worker),
            Event::Written { store, life } => self.store_written(store, life),
            Event::Chore { store, life, worker, chore } => {
                self.store_chore(store, life, worker, chore);
            }
            Event::StoreStarts(store) => self.store_starts(store),
            Event::MasterStarts(number) => self.master_starts(number),
            Event::MasterMeets { master, life } => self.master_meets(master, life),
            Event::MasterMet { from, to, view, asks } => self.master_met((from, to), view, asks),
            Event::MasterTurn { master, life, turn } => self.master_turn(master, life, turn),
            Event::MasterWritten { master, life } => self.master_written(master, life),
            Event::Asked { master, asker, question } => self.asked(master, asker, question),
            Event::Answered { from, asker, heard } => self.answered(from, asker, heard),
            Event::StoreAsks { store, life } => self.store_asks(store, life),
            Event::Beat { store, life, beat } => self.beat(store, life, beat),
            Event::GatewayWatches { gateway, life } => self.gateway_watches(gateway, life),
            Event::Routes { watcher, update } => self.routes_arrive(watcher, update),
            Event::WatchEnds(watcher) => self.watch_ends(watcher),
            Event::Letter { way, letter } => self.letter_arrived(way, letter),
            Event::Arrived { conn, to, epoch, payload } => self.arrived(conn, to, epoch, payload),
            Event::Noticed { conn, end } => self.noticed(conn, end),
            Event::GatewayStarts(number) => self.gateway_starts(number),
            Event::GatewayDials { gateway, life, store } => {
                self.gateway_dials(gateway, life, store);
            }
            Event::GatewayTicks { gateway, life, tick } => self.gateway_ticks(gateway, life, tick),
            Event::Operator { gateway, life, force } => self.operator(gateway, life, force),
            Event::ClientStarts(number) => self.client_starts(number),
            Event::ClientDials { client, life, dial, since } => {
                self.client_dials(client, life, dial, since);
            }
            Event::ClientWakes { client, life, wake } => self.client_wakes(client, life, wake),
            Event::Used(used) => self.used(*used),
            Event::Fault(fault) => self.fault(fault),
            Event::Ease(ease) => self.ease(ease),
            Event::Ambush { client } => self.ambush(client),
            Event::Doomed { client, instance, ticket } => self.doomed(client, instance, ticket),
            Event::LeaderLeaves(name) => self.leader_leaves(&name),
            Event::List(step) => self.list_step(step),
            Event::Split => self.split(),
            Event::Order => self.order_something(),
            Event::OrderAgain(number) => self.order_again(number),
            Event::SplitAsked(asked) => self.split_asked(*asked),
            Event::TakeBack { client, life, entry } => self.take_back(client, life, entry),
            Event::Revoke => self.revoke(),
            Event::Watch { watcher, turn } => self.watch(watcher, turn),
            Event::StoreLost => self.lose_store(),
            Event::StoreMissed(store) => self.store_missed(store),
            Event::StoreBack(store) => self.store_is_back(store),
            Event::SplitCalled(wish) => self.call_for_split(wish),
            Event::Ids { store, life, step } => self.ids_step(store, life, step),
            Event::SplitFault(fault) => self.split_fault(fault),
            Event::Drift => self.drift(),
            Event::Poll => {
                self.poll();
                self.queue.plan(self.now + POLL_NS, Event::Poll);
            }
            Event::Sweep => {
                self.sweep_streams();
                self.queue.plan(self.now + SWEEP_NS, Event::Sweep);
            }
        }
    }

    /// Every node's clock gets another rate.
    fn drift(&mut self) {
        let bound = self.options.drift_ppm;
        for store in &mut self.stores {
            let drift = draw_drift(bound, &mut self.dice.clocks);
            // A frozen machine's clock goes on with the machine.
            if store.frozen_until <= self.now {
                store.clock.drift(self.now, drift);
            }
        }
        for master in &mut self.masters {
            let drift = draw_drift(bound, &mut self.dice.clocks);
            master.clock.drift(self.now, drift);
        }
        self.plan_drift();
    }

    pub(crate) fn plan_drift(&mut self) {
        let mean = self.options.drift_mean_ms;
        if mean > 0 && !self.is_calm {
            let at = self.now + self.dice.clocks.around(mean * MS) + MS;
            self.queue.plan(at, Event::Drift);
        }
    }
}

/// A clock's error, either way.
pub(crate) fn draw_drift(bound_ppm: u64, dice: &mut Dice) -> i64 {
    let bound = bound_ppm.min(crate::clock::DRIFT_PPM_MAX as u64) as i64;
    match dice.below(4) {
        // The ends of what is allowed are where off-by-one errors live.
        0 => bound,
        1 => -bound,
        _ => dice.between(0, 2 * bound as u64) as i64 - bound,
    }
}

pub(crate) fn draw_clock(options: &Options, dice: &mut Dice) -> DriftingClock {
    let reading = dice.below(1_000_000 * S);
    DriftingClock::new(reading, draw_drift(options.drift_ppm, dice))
}
