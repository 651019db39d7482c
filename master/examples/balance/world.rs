//! A cluster as the scheduler sees it, apart from Raft: stores that live, die and drain, ranges with
//! their members and leaders, and operators that take their steps one by one. Used by the example and by
//! the tests (`tests/schedule.rs`). It draws nothing at random but by its seed.
//!
//! Everything that the scheduler proposes is checked here before it is begun (`obeys`).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use sharklock_master::{
    Goal, Next, Step,
    schedule::{
        Class, Duty, InFlight, Liveness, Plan, RangeView, Settings, SlowDisk, StoreView, Unheard,
        View, Wanted, survey,
    },
};
use sharklock_rangemap::{Bounds, Descriptor, Epoch, PeerId, RangeId, Replica, Role, StoreId};

/// The rules that all programs know and all ranges follow.
const LEVEL: u64 = 1;

/// A leader that died is followed by another one after so many seconds.
const ELECTION: u64 = 3;
/// A step takes so long: it is told by a heartbeat, done, and told by the next one.
const STEP: u64 = 2;
/// A replica is filled and catches up in so long.
const FILL: u64 = 6;
/// An operator that gets no further for so long is given up.
const GIVES_UP: u64 = 60;

/// A whole cluster at one moment. Times are in seconds.
pub struct World {
    pub now: u64,
    pub settings: Settings,
    pub stores: BTreeMap<StoreId, Store>,
    pub ranges: Vec<Range>,
    pub operators: BTreeMap<RangeId, Work>,
    pub moves: Moves,
    silent: BTreeSet<StoreId>,
    leaderless: BTreeMap<RangeId, u64>,
    begins: u64,
    next_peer: u64,
    dice: Dice,
}

/// A store.
pub struct Store {
    pub labels: Vec<(String, String)>,
    pub silent_since: Option<u64>,
    pub duty: Duty,
    pub slow: Option<SlowDisk>,
}

/// A range.
pub struct Range {
    pub descriptor: Descriptor,
    pub leader: Option<StoreId>,
    pub led_since: u64,
    pub moved_at: Option<u64>,
    pub load: u64,
    pub bytes: u64,
}

/// An operator under way.
pub struct Work {
    pub goal: Goal,
    pub class: Class,
    since: u64,
    due: u64,
    stuck_since: u64,
}

/// What has been done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moves {
    /// Replicas that were made.
    pub replicas: u64,
    /// Changes of leaders that were ordered.
    pub leaders: u64,
}

impl Moves {
    /// What was done after that.
    pub fn since(self, before: Self) -> Self {
        let (replicas, leaders) = (self.replicas - before.replicas, self.leaders - before.leaders);
        Self { replicas, leaders }
    }
}

/// Numbers that follow from a seed.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides.max(1)
    }
}

impl World {
    /// Empty, under a master that has led for long.
    pub fn new(settings: Settings, seed: u64) -> Self {
        Self {
            now: 10_000,
            settings,
            stores: BTreeMap::new(),
            ranges: Vec::new(),
            operators: BTreeMap::new(),
            moves: Moves::default(),
            silent: BTreeSet::new(),
            leaderless: BTreeMap::new(),
            begins: 0,
            next_peer: 1,
            dice: Dice(seed),
        }
    }

    /// So many stores join, spread over so many zones; 0: none has labels.
    pub fn join(&mut self, stores: u64, zones: u64) -> Vec<StoreId> {
        let first = self.stores.keys().next_back().map_or(1, |store| store.0 + 1);
        let ids = (first..first + stores).map(StoreId).collect::<Vec<_>>();
        for id in &ids {
            let label = |key: &str, value: u64| (key.to_owned(), value.to_string());
            let labels = match zones {
                0 => Vec::new(),
                zones => vec![label("zone", id.0 % zones), label("host", id.0)],
            };
            let store = Store { labels, silent_since: None, duty: Duty::Serves, slow: None };
            self.stores.insert(*id, store);
        }
        ids
    }

    /// So many ranges, spread evenly and at random, zone by zone.
    pub fn spread(&mut self, ranges: u64, voters: usize) {
        let mut free = BTreeSet::new();
        for (id, store) in &self.stores {
            free.insert((0, self.dice.roll(1 << 32), *id, store.labels.first()));
        }
        let mut leads = BTreeMap::<StoreId, u64>::new();
        let mut chosen = Vec::new();
        for _ in 0..ranges {
            let stores = take_apart(&mut free, voters, &mut self.dice);
            let leader = *stores.iter().min_by_key(|it| leads.get(it)).expect("somebody votes");
            *leads.entry(leader).or_default() += 1;
            chosen.push((stores, leader));
        }
        for (stores, leader) in chosen {
            let (load, bytes) = (20 + self.dice.roll(60), 1 + self.dice.roll(1 << 20));
            self.add(&stores, leader, load, bytes);
        }
    }

    /// A range on these stores.
    pub fn add(&mut self, stores: &[StoreId], leader: StoreId, load: u64, bytes: u64) {
        let mut replicas = Vec::new();
        for store in stores {
            let peer = PeerId(self.next_peer);
            self.next_peer += 1;
            replicas.push(Replica { peer, store: *store, role: Role::Voter });
        }
        let range = RangeId(self.ranges.len() as u64 + 1);
        let epoch = Epoch { version: 1, conf_ver: 1 };
        let descriptor = Descriptor::new(range, Bounds::ALL, epoch, replicas);
        let (leader, led_since) = (Some(leader), 0);
        self.ranges.push(Range { descriptor, leader, led_since, moved_at: None, load, bytes });
    }

    /// A store is not heard any more; what it led is led by others soon.
    pub fn kill(&mut self, store: StoreId) {
        self.stores.get_mut(&store).expect("a store").silent_since = Some(self.now);
        self.silent.insert(store);
        for range in self.ranges.iter_mut().filter(|range| range.leader == Some(store)) {
            range.leader = None;
            self.leaderless.insert(range.descriptor.range, self.now + ELECTION);
        }
    }

    /// It is back.
    pub fn revive(&mut self, store: StoreId) {
        self.stores.get_mut(&store).expect("a store").silent_since = None;
        self.silent.remove(&store);
    }

    /// Operators say something of a store.
    pub fn set_duty(&mut self, store: StoreId, duty: Duty) {
        self.stores.get_mut(&store).expect("a store").duty = duty;
        if duty == Duty::Gone {
            self.kill(store);
        }
    }

    /// Another master leads: what it does not know is given up.
    pub fn change_master(&mut self) {
        self.begins = self.now;
        self.operators.clear();
        self.ranges.iter_mut().for_each(|range| range.moved_at = None);
    }

    fn is_alive(&self, store: StoreId) -> bool {
        self.stores[&store].silent_since.is_none()
    }

    /// Replicas of a range that vote in a half and are heard, and all that vote there.
    fn votes(&self, range: &Descriptor, votes: fn(Role) -> bool) -> (usize, usize) {
        let voters = || range.replicas.iter().filter(|it| votes(it.role));
        (voters().filter(|it| self.is_alive(it.store)).count(), voters().count())
    }

    /// Whether a range can commit.
    pub fn has_quorum(&self, range: &Descriptor) -> bool {
        let halves: [fn(Role) -> bool; 2] = [Role::votes_incoming, Role::votes_outgoing];
        halves.into_iter().all(|half| {
            let (live, voters) = self.votes(range, half);
            2 * live > voters
        })
    }

    /// Voters that are heard, of the range that has fewest.
    pub fn fewest_live(&self) -> usize {
        let live = self.ranges.iter().map(|range| self.votes(&range.descriptor, Role::votes).0);
        live.min().unwrap_or(0)
    }

    /// What the leading master knows.
    pub fn view(&self) -> View<'_> {
        let span = Duration::from_secs;
        let stores = self.stores.iter().map(|(id, store)| {
            let silent_for =
                store.silent_since.map_or(0, |since| self.now - since.max(self.begins));
            let liveness = match silent_for {
                300.. => Liveness::Down,
                10.. => Liveness::Disconnected,
                _ => Liveness::Up,
            };
            let view = StoreView {
                liveness,
                silent_for: span(silent_for),
                duty: store.duty,
                labels: &store.labels,
                slow: store.slow,
                level: LEVEL,
            };
            (*id, view)
        });
        let ranges = self.ranges.iter().map(|range| RangeView {
            descriptor: &range.descriptor,
            leader: range.leader,
            led_for: span(self.now - range.led_since),
            moved_at: range.moved_at.map(span),
            load: range.load,
            bytes: range.bytes,
            level: LEVEL,
            unheard: self.unheard(range),
        });
        let operators = self.operators.iter().map(|(range, work)| {
            let Work { goal, class, since, .. } = *work;
            (*range, InFlight { goal, class: Some(class), since: span(since) })
        });
        View {
            now: span(self.now),
            leads_since: span(self.begins),
            ordered_at: None,
            settings: self.settings,
            stores: stores.collect(),
            ranges: ranges.collect(),
            operators: operators.collect(),
        }
    }

    /// The replicas that the leader of a range misses: it notices before the masters do.
    fn unheard(&self, range: &Range) -> Vec<Unheard> {
        if self.silent.is_empty() || range.leader.is_none() {
            return Vec::new();
        }
        let replicas = range.descriptor.replicas.iter();
        let silent =
            replicas.filter_map(|it| Some((it.peer, self.stores[&it.store].silent_since?)));
        let silent = silent.filter(|(_, since)| self.now - since >= 2);
        let unheard = |(peer, since): (PeerId, u64)| {
            let since = since.max(range.led_since);
            Unheard { peer, silent_for: Duration::from_secs(self.now - since) }
        };
        silent.map(unheard).collect()
    }

    /// Time goes on. What the scheduler has proposed now.
    pub fn tick(&mut self, seconds: u64) -> Vec<Plan> {
        self.now += seconds;
        self.elect();
        self.work();
        let view = self.view();
        let plans = survey(&view).plans;
        drop(view);
        for plan in &plans {
            self.obeys(plan);
            self.begin(plan);
        }
        plans
    }

    /// Nobody is at work, and nobody is awaited.
    pub fn is_quiet(&self) -> bool {
        self.operators.is_empty() && self.leaderless.is_empty()
    }

    /// Whether a store is not heard that is expected to be.
    pub fn has_silent(&self) -> bool {
        !self.silent.is_empty()
    }

    fn elect(&mut self) {
        let due = self.leaderless.iter().filter(|(_, at)| **at <= self.now);
        for range in due.map(|(range, _)| *range).collect::<Vec<_>>() {
            let descriptor = &self.ranges[place(range)].descriptor;
            if !self.has_quorum(descriptor) {
                continue;
            }
            let voters = descriptor.voters().filter(|it| it.role.votes_incoming());
            let live = voters.filter(|it| self.is_alive(it.store)).map(|it| it.store);
            let live = live.collect::<Vec<_>>();
            let leader = live[self.dice.roll(live.len() as u64) as usize];
            self.leaderless.remove(&range);
            self.leads(range, leader);
        }
    }

    fn leads(&mut self, range: RangeId, leader: StoreId) {
        let range = &mut self.ranges[place(range)];
        (range.leader, range.led_since) = (Some(leader), self.now);
    }

    fn work(&mut self) {
        let due = self.operators.iter().filter(|(_, work)| work.due <= self.now);
        for range in due.map(|(range, _)| *range).collect::<Vec<_>>() {
            let (goal, stuck_since) =
                (self.operators[&range].goal, self.operators[&range].stuck_since);
            let Range { descriptor, leader, .. } = &self.ranges[place(range)];
            match goal.next(descriptor, *leader) {
                Next::Done | Next::Off => drop(self.operators.remove(&range)),
                Next::Do(step) if self.can(range, step) => {
                    self.take(range, step);
                    let work = self.operators.get_mut(&range).expect("it is under way");
                    let takes = if matches!(step, Step::AddLearner { .. }) { FILL } else { STEP };
                    (work.due, work.stuck_since) = (self.now + takes, self.now);
                }
                Next::Do(_) if self.now - stuck_since >= GIVES_UP => {
                    self.operators.remove(&range);
                }
                Next::Do(_) => {}
            }
        }
    }

    /// Whether Raft gets it done.
    fn can(&self, range: RangeId, step: Step) -> bool {
        let Range { descriptor, leader, .. } = &self.ranges[place(range)];
        let at = |peer| descriptor.replicas.iter().find(|it| it.peer == peer);
        let alive = match step {
            Step::AddLearner { store, .. } => self.is_alive(store),
            Step::Promote { peer, .. } => at(peer).is_some_and(|it| self.is_alive(it.store)),
            Step::HandOver { to } => to.is_none_or(|to| self.is_alive(to)),
            Step::Demote { .. } | Step::LeaveJoint | Step::Remove { .. } => true,
        };
        alive && leader.is_some() && self.has_quorum(descriptor)
    }

    fn take(&mut self, range: RangeId, step: Step) {
        if let Step::HandOver { to } = step {
            let Range { descriptor, leader, .. } = &self.ranges[place(range)];
            let others = descriptor.voters().map(|it| it.store).filter(|it| Some(*it) != *leader);
            let others = others.filter(|it| self.is_alive(*it)).collect::<Vec<_>>();
            let other = others[self.dice.roll(others.len() as u64) as usize];
            self.moves.leaders += 1;
            self.leads(range, to.unwrap_or(other));
            return;
        }
        let now_member = matches!(step, Step::AddLearner { .. });
        self.moves.replicas += u64::from(now_member);
        let range = &mut self.ranges[place(range)];
        change(&mut range.descriptor, step);
        let left = range.leader.filter(|leader| range.descriptor.on_store(*leader).is_none());
        assert_eq!(left, None, "range {} has lost its leader", range.descriptor.range);
    }

    fn begin(&mut self, plan: &Plan) {
        let peer = PeerId(self.next_peer);
        self.next_peer += 1;
        if let Wanted::Lead { .. } = plan.wanted {
            self.ranges[place(plan.range)].moved_at = Some(self.now);
        }
        let due = self.now + STEP;
        let (goal, class) = (plan.wanted.goal(peer), plan.class);
        let work = Work { goal, class, since: self.now, due, stuck_since: self.now };
        let before = self.operators.insert(plan.range, work);
        assert!(before.is_none(), "two operators on one range: {plan}");
    }

    /// The rules that every plan keeps, whatever it is for.
    fn obeys(&self, plan: &Plan) {
        let Range { descriptor, leader, led_since, .. } = &self.ranges[place(plan.range)];
        assert!(!self.operators.contains_key(&plan.range), "it has an operator: {plan}");
        // What has died less than 10 s ago nobody can know.
        let is_unnoticed =
            |it: &StoreId| self.stores[it].silent_since.is_some_and(|since| self.now - since < 10);
        let is_known = descriptor.replicas.iter().all(|it| !is_unnoticed(&it.store));
        let can_commit = self.has_quorum(descriptor) && leader.is_some();
        assert!(can_commit || !is_known, "nobody can do it: {plan}");
        if let Some(to) = plan.wanted.comes_to() {
            let store = &self.stores[&to];
            assert!(descriptor.on_store(to).is_none(), "it has a replica there: {plan}");
            assert_eq!(store.duty, Duty::Serves, "it takes none: {plan}");
            assert!(self.is_alive(to) || is_unnoticed(&to), "it is not up: {plan}");
        }
        let voters = descriptor.voters().map(|it| it.store);
        let mut voters = voters.collect::<BTreeSet<_>>();
        let before = voters.len();
        plan.wanted.goes_from().map(|from| voters.remove(&from));
        voters.extend(plan.wanted.comes_to());
        let live = voters.iter().filter(|it| self.is_alive(**it)).count();
        let unnoticed = voters.iter().filter(|it| is_unnoticed(it)).count();
        let is_joint = plan.wanted == Wanted::LeaveJoint;
        assert!(is_joint || 2 * (live + unnoticed) > voters.len(), "it loses the quorum: {plan}");
        let wanted = self.settings.replicas;
        assert!(voters.len() >= before.min(wanted) || before % 2 == 0, "fewer voters: {plan}");
        if plan.class == Class::Balance && matches!(plan.wanted, Wanted::Lead { .. }) {
            let led_for = Duration::from_secs(self.now - led_since);
            assert!(led_for >= self.settings.cool_down, "its leader changed lately: {plan}");
        }
    }
}

/// A store to which ranges are spread: how many it has, a number drawn, and its zone.
type Free<'a> = (u64, u64, StoreId, Option<&'a (String, String)>);

/// The stores that have least, in different zones as far as there are enough.
fn take_apart(free: &mut BTreeSet<Free<'_>>, count: usize, dice: &mut Dice) -> Vec<StoreId> {
    let mut chosen = Vec::<Free<'_>>::new();
    while chosen.len() < count {
        let zones = chosen.iter().map(|it| it.3).collect::<Vec<_>>();
        let apart = |it: &&Free<'_>| it.3.is_none() || !zones.contains(&it.3);
        let next = *free.iter().find(apart).or(free.first()).expect("there are enough stores");
        free.remove(&next);
        chosen.push(next);
    }
    for (has, _, store, zone) in &chosen {
        free.insert((has + 1, dice.roll(1 << 32), *store, *zone));
    }
    chosen.into_iter().map(|it| it.2).collect()
}

fn place(range: RangeId) -> usize {
    range.0 as usize - 1
}

/// What the leader of the range does with its members.
fn change(range: &mut Descriptor, step: Step) {
    let mut set = |peer: PeerId, role: Role| {
        let replica = range.replicas.iter_mut().find(|it| it.peer == peer);
        replica.expect("a member").role = role;
    };
    match step {
        Step::AddLearner { peer, store } => {
            range.replicas.push(Replica { peer, store, role: Role::Learner });
        }
        Step::Promote { peer, instead_of: None } => set(peer, Role::Voter),
        Step::Promote { peer, instead_of: Some(old) } => {
            set(peer, Role::JointIncoming);
            set(old, Role::JointOutgoing);
        }
        Step::Demote { peer } => set(peer, Role::Learner),
        Step::LeaveJoint => range.replicas.iter_mut().for_each(|it| {
            it.role = if it.role.votes_incoming() { Role::Voter } else { Role::Learner };
        }),
        Step::Remove { peer } => range.replicas.retain(|it| it.peer != peer),
        Step::HandOver { .. } => {}
    }
    range.epoch.conf_ver += 1;
    range.validate().unwrap_or_else(|why| panic!("{step:?}: {why}"));
}
