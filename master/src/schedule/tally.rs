//! What each store has, and what is on its way to it. Everything that is under way or was proposed in
//! this pass counts as done here: so two passes, or two ranges, never fill one hole twice.

use sharklock_rangemap::StoreId;

use super::{Class, Duty, Liveness, Settings, View};

/// A store in numbers.
#[derive(Clone, Debug)]
pub(super) struct StoreTally {
    pub id: StoreId,
    /// It is heard.
    pub is_up: bool,
    /// Its replicas are to be replaced: it is down, or gone.
    pub is_lost: bool,
    /// It is to become empty.
    pub drains: bool,
    /// Its disk is slow.
    pub is_slow: bool,
    /// Replicas that it will have.
    pub replicas: u32,
    /// Their size.
    pub bytes: u64,
    /// Ranges that it will lead.
    pub leaders: u32,
    /// Their commands per second.
    pub load: u64,
    urgent: Flow,
    leisurely: Flow,
}

/// What is under way at a store.
#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    coming: u32,
    sending: u32,
    leaders_in: u32,
    leaders_out: u32,
}

impl StoreTally {
    /// Replicas may come to it.
    pub fn takes(&self) -> bool {
        self.is_up && !self.drains && !self.is_lost
    }

    /// It may be made a leader, but for a slow disk.
    pub fn leads(&self) -> bool {
        self.takes() && !self.is_slow
    }

    fn flow(&mut self, class: Class) -> &mut Flow {
        if class.is_urgent() { &mut self.urgent } else { &mut self.leisurely }
    }

    fn flow_of(&self, class: Class) -> Flow {
        if class.is_urgent() { self.urgent } else { self.leisurely }
    }

    /// One more replica may be on its way to it.
    pub fn has_room(&self, settings: &Settings, class: Class) -> bool {
        self.flow_of(class).coming < settings.limits(class).coming
    }

    /// It may fill one more replica.
    pub fn may_send(&self, settings: &Settings, class: Class) -> bool {
        self.flow_of(class).sending < settings.limits(class).sending
    }

    /// One more leadership may come to it.
    pub fn may_gain(&self, settings: &Settings, class: Class) -> bool {
        self.flow_of(class).leaders_in < settings.limits(class).leaders
    }

    /// One more leadership may leave it.
    pub fn may_give(&self, settings: &Settings, class: Class) -> bool {
        self.flow_of(class).leaders_out < settings.limits(class).leaders
    }
}

/// All stores, by index.
///
/// Invariants:
/// - `stores` are in the order of their ids; behind them stands one for all that are not on record,
///   which counts as gone.
pub(super) struct Tally {
    pub stores: Vec<StoreTally>,
    ids: Vec<StoreId>,
}

impl Tally {
    pub fn new(view: &View<'_>) -> Self {
        let known = view.stores.iter().map(|(id, store)| StoreTally {
            is_up: store.liveness == Liveness::Up && store.duty != Duty::Gone,
            is_lost: store.liveness == Liveness::Down || store.duty == Duty::Gone,
            drains: store.duty == Duty::Drains,
            is_slow: store.slow.is_some(),
            ..unknown(*id)
        });
        let stores = known.chain([unknown(StoreId(0))]).collect();
        Self { stores, ids: view.stores.keys().copied().collect() }
    }

    /// The place of a store.
    pub fn index(&self, store: StoreId) -> usize {
        // Ids are given from 1, one after the other: mostly that is the place.
        let guess = store.0.wrapping_sub(1) as usize;
        if self.ids.get(guess) == Some(&store) {
            return guess;
        }
        self.ids.binary_search(&store).unwrap_or(self.ids.len())
    }

    /// The stores to which replicas may come.
    pub fn takers(&self) -> impl Iterator<Item = usize> {
        (0..self.stores.len()).filter(|store| self.stores[*store].takes())
    }

    /// A replica of a class comes to a store, filled by the leader of its range.
    pub fn comes(&mut self, to: usize, leader: Option<usize>, bytes: u64, class: Option<Class>) {
        self.adds(to, bytes);
        self.fills(to, leader, class);
    }

    /// A replica that counts already is being filled.
    pub fn fills(&mut self, to: usize, leader: Option<usize>, class: Option<Class>) {
        let Some(class) = class else { return };
        self.stores[to].flow(class).coming += 1;
        if let Some(leader) = leader {
            self.stores[leader].flow(class).sending += 1;
        }
    }

    /// A store has one replica more.
    pub fn adds(&mut self, to: usize, bytes: u64) {
        let store = &mut self.stores[to];
        (store.replicas, store.bytes) = (store.replicas + 1, store.bytes + bytes);
    }

    /// A store has one replica less.
    pub fn goes(&mut self, from: usize, bytes: u64) {
        let store = &mut self.stores[from];
        (store.replicas, store.bytes) = (store.replicas - 1, store.bytes.saturating_sub(bytes));
    }

    /// A store leads one range more.
    pub fn leads(&mut self, to: usize, load: u64) {
        let store = &mut self.stores[to];
        (store.leaders, store.load) = (store.leaders + 1, store.load + load);
    }

    /// A store leads one range less.
    pub fn leads_no_more(&mut self, from: usize, load: u64) {
        let store = &mut self.stores[from];
        (store.leaders, store.load) = (store.leaders - 1, store.load.saturating_sub(load));
    }

    /// A leadership goes from one store to another.
    pub fn leader_moves(&mut self, from: usize, to: usize, load: u64, class: Option<Class>) {
        self.leads_no_more(from, load);
        self.leads(to, load);
        if let Some(class) = class {
            self.stores[from].flow(class).leaders_out += 1;
            self.stores[to].flow(class).leaders_in += 1;
        }
    }
}

/// A store that is not on record: nobody will hear of it again.
fn unknown(id: StoreId) -> StoreTally {
    StoreTally {
        id,
        is_up: false,
        is_lost: true,
        drains: false,
        is_slow: false,
        replicas: 0,
        bytes: 0,
        leaders: 0,
        load: 0,
        urgent: Flow::default(),
        leisurely: Flow::default(),
    }
}

/// A thousandth: means of counts are fractions, and no pass may depend on how they are rounded.
pub(super) const UNIT: i64 = 1_000;

/// The mean over stores of something that each has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mean {
    /// In thousandths.
    pub mean: i64,
    /// A store may differ by so much, in thousandths.
    pub tolerance: i64,
}

impl Mean {
    /// Stores may differ from it by so many thousandths of it, and by `least` in any case.
    pub fn of(all: impl Iterator<Item = u64>, per_mille: u32, least: u64) -> Self {
        let (total, count) = all.fold((0, 0), |(total, count), it| (total + it, count + 1));
        let mean = scaled(total) / i64::max(count, 1);
        let tolerance = (mean / UNIT * i64::from(per_mille)).max(scaled(least));
        Self { mean, tolerance }
    }

    /// How far above the mean this is; below it is negative.
    pub fn above(self, value: u64) -> i64 {
        scaled(value) - self.mean
    }

    /// Whether one of two stores is out of the tolerance, the higher or the lower one.
    pub fn is_due(self, high: i64, low: i64) -> bool {
        high > self.tolerance || low < -self.tolerance
    }

    /// The mean, rounded.
    pub fn rounded(self) -> u64 {
        u64::try_from((self.mean + UNIT / 2) / UNIT).unwrap_or(0)
    }
}

/// In thousandths. What is beyond all that a cluster could do counts as that much.
pub(super) fn scaled(value: u64) -> i64 {
    const MOST: i64 = 1 << 48;
    i64::try_from(value).unwrap_or(MOST).min(MOST) * UNIT
}
