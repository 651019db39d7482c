//! One look at everything.

use std::{collections::BTreeMap, time::Duration};

use sharklock_rangemap::{RangeId, Replica};

use super::{
    Class, Hindrance, Outlook, Plan, RangeView, Rebalance, StoreView, Survey, View, Wanted,
    needs::Need,
    places::Places,
    tally::{StoreTally, Tally},
    warnings::Warnings,
};

/// Ranges for which a pass looks for a store. What has to wait for the next pass then would in any
/// case have to wait for stores to get through what they have.
const SEARCHES_MAX: usize = 5_000;

/// Balancing begins after so many times the patience.
const BALANCES_AFTER: u32 = 4;

/// What a store says of a range counts up to here, so that no sum of them overflows.
const LOAD_MAX: u64 = 1 << 36;
/// The same of sizes.
const BYTES_MAX: u64 = 1 << 40;

/// A look that has begun: what it found so far, and what it proposes.
///
/// Invariants:
/// - `places_of` has the places in `tally` of the stores of all replicas, range by range; those of the
///   `r`-th range are from `first[r]` to `first[r + 1]`;
/// - `tally` has all that is under way, and all of `plans`;
/// - `is_taken` has the ranges that have an operator, a plan or a need: balancing leaves them alone.
pub(super) struct Pass<'v> {
    pub view: &'v View<'v>,
    pub tally: Tally,
    pub places: Places,
    places_of: Vec<u32>,
    first: Vec<usize>,
    leaders: Vec<Option<u32>>,
    pub is_taken: Vec<bool>,
    pub plans: Vec<Plan>,
    pub searches_left: usize,
    /// Why nothing at all is done.
    pub halted: Option<Hindrance>,
    least_crowding: BTreeMap<(usize, u64), u64>,
}

impl<'v> Pass<'v> {
    pub fn new(view: &'v View<'v>) -> Self {
        let is_sorted = view.ranges.is_sorted_by_key(|range| range.descriptor.range);
        assert!(is_sorted, "the ranges of a view are in the order of their ids");
        let labels = view.stores.values().map(|store| store.labels);
        let mut pass = Self {
            view,
            tally: Tally::new(view),
            places: Places::new(labels.chain([[].as_slice()])),
            places_of: Vec::with_capacity(3 * view.ranges.len()),
            first: Vec::with_capacity(view.ranges.len() + 1),
            leaders: Vec::with_capacity(view.ranges.len()),
            is_taken: vec![false; view.ranges.len()],
            plans: Vec::new(),
            searches_left: SEARCHES_MAX,
            halted: None,
            least_crowding: BTreeMap::new(),
        };
        pass.count();
        pass.halted = pass.halts();
        for (range, operator) in &view.operators {
            if let Some(at) = pass.position(*range) {
                pass.is_taken[at] = true;
                pass.expect(at, operator.goal.into(), operator.class);
            }
        }
        pass
    }

    /// Counts what each store has.
    fn count(&mut self) {
        for range in &self.view.ranges {
            self.first.push(self.places_of.len());
            let mut leads = None;
            for replica in &range.descriptor.replicas {
                let store = self.tally.index(replica.store);
                let place = u32::try_from(store).expect("fewer stores");
                self.places_of.push(place);
                self.tally.adds(store, bytes(range));
                if range.leader == Some(replica.store) && replica.role.votes() {
                    self.tally.leads(store, load(range));
                    leads = Some(place);
                }
            }
            self.leaders.push(leads);
        }
        self.first.push(self.places_of.len());
    }

    /// From here on it counts as done that this range becomes what is wanted.
    pub fn expect(&mut self, at: usize, wanted: Wanted, class: Option<Class>) {
        let range = &self.view.ranges[at];
        let (descriptor, load, bytes) = (range.descriptor, self.load(at), bytes(range));
        let leader = self.leader(at);
        if let Some(to) = wanted.comes_to() {
            let place = self.tally.index(to);
            match descriptor.on_store(to) {
                None => self.tally.comes(place, leader, bytes, class),
                Some(_) => self.tally.fills(place, leader, class),
            }
        }
        if let Some(from) = wanted.goes_from().filter(|it| descriptor.on_store(*it).is_some()) {
            let place = self.tally.index(from);
            self.tally.goes(place, bytes);
            // It is not known yet who will lead instead.
            if leader == Some(place) {
                self.tally.leads_no_more(place, load);
            }
        }
        if let (Wanted::Lead { to }, Some(from)) = (wanted, leader) {
            self.tally.leader_moves(from, self.tally.index(to), load, class);
        }
    }

    /// Looks at everything.
    pub fn run(mut self) -> Survey {
        let mut warnings = Warnings::new(&self);
        let mut needs = Vec::new();
        for at in 0..self.view.ranges.len() {
            match self.need(at) {
                Ok(None) => {}
                Ok(Some(need)) => needs.push((self.rank(at, need), at, need)),
                Err(why) => warnings.hindered(&self, at, None, why),
            }
        }
        needs.sort_unstable();
        for (_, at, need) in needs {
            self.is_taken[at] = true;
            match self.remedy(at, need) {
                Ok(plan) => self.accept(at, plan),
                Err(why) => warnings.hindered(&self, at, Some(need), why),
            }
        }
        if self.halts_balance().is_none() {
            self.balance_leaders();
            self.balance_replicas();
        }
        Survey { plans: self.plans, warnings: warnings.finish() }
    }

    /// Looks at everything for whoever wants it balanced now.
    pub fn rebalance(self) -> Result<Rebalance, Hindrance> {
        match self.halts_balance() {
            Some(why) => Err(why),
            None => {
                let spreads = self.spreads();
                let plans = self.run().plans.into_iter();
                let plans = plans.filter(|plan| plan.class == Class::Balance).collect();
                Ok(Rebalance { plans, spreads })
            }
        }
    }

    /// Looks at a single range.
    pub fn outlook(mut self, range: RangeId) -> Outlook {
        let Some(at) = self.position(range) else { return Outlook::Unknown };
        if let Some(operator) = self.view.operators.get(&range) {
            let since = self.view.now.saturating_sub(operator.since);
            return Outlook::Hindered(Hindrance::UnderWay { since });
        }
        let need = match self.need(at) {
            Ok(Some(need)) => need,
            Ok(None) => return Outlook::AsWanted,
            Err(why) => return Outlook::Hindered(why),
        };
        match self.remedy(at, need) {
            Ok(plan) => Outlook::Planned(plan),
            Err(why) => Outlook::Hindered(why),
        }
    }

    /// A plan is made.
    pub fn accept(&mut self, at: usize, plan: Plan) {
        self.is_taken[at] = true;
        self.expect(at, plan.wanted, Some(plan.class));
        self.plans.push(plan);
    }

    fn halts(&self) -> Option<Hindrance> {
        let View { now, leads_since, settings, .. } = self.view;
        let leads_for = now.saturating_sub(*leads_since);
        if settings.is_paused {
            return Some(Hindrance::Paused);
        }
        if leads_for < settings.patience {
            return Some(Hindrance::JustBegun { left: settings.patience - leads_for });
        }
        let (down, stores) = (self.down().count(), self.expected().count());
        (3 * down > stores).then_some(Hindrance::TooManyDown { down, stores })
    }

    /// Why it makes no sense to balance: too few stores are heard, or this master has not led for long
    /// enough to know which disks are slow. Whoever has ordered it waits only until all leaders are known.
    fn halts_balance(&self) -> Option<Hindrance> {
        let is_known = self.view.ordered_at.is_some() && self.leaders.iter().all(Option::is_some);
        match &self.halted {
            Some(Hindrance::JustBegun { .. }) if is_known => {}
            Some(why) => return Some(why.clone()),
            None => {}
        }
        let View { now, leads_since, settings, .. } = self.view;
        let leads_for = now.saturating_sub(*leads_since);
        let settled_after = match self.view.ordered_at {
            None => BALANCES_AFTER * settings.patience,
            Some(_) => Duration::ZERO,
        };
        if leads_for < settled_after {
            return Some(Hindrance::JustBegun { left: settled_after - leads_for });
        }
        let silent = self.expected().filter(|(tally, _)| !tally.is_up).count();
        let stores = self.expected().count();
        (3 * silent > stores).then_some(Hindrance::TooManySilent { silent, stores })
    }

    /// The stores that are expected to be there.
    fn expected(&self) -> impl Iterator<Item = (&StoreTally, &StoreView<'v>)> {
        let stores = self.tally.stores.iter().zip(self.view.stores.values());
        stores.filter(|(_, store)| store.duty != super::Duty::Gone)
    }

    /// Those of them that are down.
    pub fn down(&self) -> impl Iterator<Item = &StoreTally> {
        self.expected().map(|(tally, _)| tally).filter(|tally| tally.is_lost)
    }

    /// The place of a range.
    fn position(&self, range: RangeId) -> Option<usize> {
        self.view.ranges.binary_search_by_key(&range, |it| it.descriptor.range).ok()
    }

    /// The replicas of a range with the places of their stores.
    pub fn replicas(&self, at: usize) -> impl Iterator<Item = (usize, &'v Replica)> + Clone {
        let places = self.places_of[self.first[at]..self.first[at + 1]].iter();
        let replicas = &self.view.ranges[at].descriptor.replicas;
        places.map(|store| *store as usize).zip(replicas)
    }

    /// The voters of a range that is not joint.
    pub fn voters(&self, at: usize) -> impl Iterator<Item = (usize, &'v Replica)> + Clone {
        self.replicas(at).filter(|(_, replica)| replica.role.votes())
    }

    /// The store that leads a range. One that has no voter of it led it before its members changed.
    pub fn leader(&self, at: usize) -> Option<usize> {
        self.leaders[at].map(|leader| leader as usize)
    }

    /// The commands per second of a range, as far as they can be true.
    pub fn load(&self, at: usize) -> u64 {
        load(&self.view.ranges[at])
    }

    /// Whether a replica is heard, by the masters and by its leader.
    pub fn is_live(&self, at: usize, (store, replica): (usize, &Replica)) -> bool {
        let unheard = &self.view.ranges[at].unheard;
        self.tally.stores[store].is_up && unheard.iter().all(|it| it.peer != replica.peer)
    }

    /// How long balancing still leaves the leader of a range where it is.
    pub fn cools_down(&self, at: usize) -> Option<Duration> {
        let RangeView { led_for, moved_at, .. } = self.view.ranges[at];
        let View { now, settings, ordered_at, .. } = self.view;
        // An order moves each leader once: the load of what has just moved is not known yet.
        if let Some(ordered_at) = ordered_at
            && moved_at.is_none_or(|at| at < *ordered_at)
        {
            return None;
        }
        let asked_for = moved_at.map(|at| now.saturating_sub(at));
        let quiet_for = asked_for.map_or(led_for, |it| it.min(led_for));
        settings.cool_down.checked_sub(quiet_for).filter(|left| !left.is_zero())
    }

    /// Voters that a range is to have: an odd number.
    pub fn wanted(&self) -> usize {
        odd(self.view.settings.replicas)
    }

    /// Whether a store's program knows the rules that a range follows. One that does not could not
    /// read the range, and the range cannot go back to older rules (D19).
    pub fn knows_rules(&self, at: usize, store: usize) -> bool {
        let known = self.view.stores.get(&self.tally.stores[store].id).map_or(0, |it| it.level);
        known >= self.view.ranges[at].level
    }

    /// The stores to which replicas of a range may come, or may stay on.
    pub fn takers(&self, at: usize) -> impl Iterator<Item = usize> {
        self.tally.takers().filter(move |store| self.knows_rules(at, *store))
    }

    /// How near so many replicas of a range must be to each other.
    pub fn least_crowding(&mut self, at: usize, replicas: usize) -> u64 {
        let key = (replicas, self.view.ranges[at].level);
        if let Some(known) = self.least_crowding.get(&key) {
            return *known;
        }
        let takers = self.takers(at).collect::<Vec<_>>();
        let least = self.places.least_crowding(&takers, replicas);
        self.least_crowding.insert(key, least);
        least
    }

    /// The order in which needs are met: what is worse first, then by ids.
    fn rank(&self, at: usize, need: Need) -> (Class, bool, usize, bool) {
        let voters = self.voters(at).count();
        let live = self.voters(at).filter(|it| self.is_live(at, *it)).count();
        // An even number of voters is left behind as soon as may be.
        let margin = live - majority(voters).min(live);
        (need.class(), need != Need::DrainLeader, margin, voters % 2 == 1)
    }
}

fn load(range: &RangeView<'_>) -> u64 {
    range.load.min(LOAD_MAX)
}

/// The size of a range, as far as it can be true.
pub(super) fn bytes(range: &RangeView<'_>) -> u64 {
    range.bytes.min(BYTES_MAX)
}

/// The largest odd number up to this; at least 1.
pub(super) fn odd(count: usize) -> usize {
    count.saturating_sub(1) / 2 * 2 + 1
}

/// A majority of so many.
pub(super) fn majority(voters: usize) -> usize {
    voters / 2 + 1
}
