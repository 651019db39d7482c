//! How even the stores are, and how many moves it takes at least to make them so.

use std::collections::BTreeMap;

use sharklock_master::schedule::Duty;
use sharklock_rangemap::StoreId;

use super::world::World;

/// What a store has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Has {
    pub leaders: u64,
    pub replicas: u64,
    pub load: u64,
}

/// The least and the most that any store has, and the mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub least: u64,
    pub most: u64,
    pub mean: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = u64> + Clone) -> Self {
        let count = values.clone().count().max(1) as f64;
        let (least, most) = (values.clone().min().unwrap_or(0), values.clone().max().unwrap_or(0));
        Self { least, most, mean: values.sum::<u64>() as f64 / count }
    }

    /// How far the furthest store is from the mean, in percent.
    pub fn percent(&self) -> f64 {
        let far = (self.most as f64 - self.mean).max(self.mean - self.least as f64);
        if self.mean == 0.0 { 0.0 } else { far / self.mean * 100.0 }
    }

    /// Whether all stores are within 5 % of the mean, or as near as whole numbers can be.
    pub fn is_even(&self, least: f64) -> bool {
        let bound = (self.mean * 0.05).max(least);
        self.most as f64 <= self.mean + bound && self.least as f64 >= self.mean - bound
    }
}

/// How even all is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Balance {
    pub leaders: Spread,
    pub replicas: Spread,
    pub load: Spread,
}

impl Balance {
    /// What is promised: within 5 %. One replica or leader more or less may be; a load that is below
    /// what is worth a change of leaders, too.
    pub fn is_even(&self, load_floor: u64) -> bool {
        self.leaders.is_even(1.0)
            && self.replicas.is_even(1.0)
            && self.load.is_even(load_floor as f64)
    }
}

impl World {
    /// What each store has.
    pub fn has(&self) -> BTreeMap<StoreId, Has> {
        let mut all =
            self.stores.keys().map(|id| (*id, Has::default())).collect::<BTreeMap<_, _>>();
        for range in &self.ranges {
            for replica in &range.descriptor.replicas {
                all.get_mut(&replica.store).expect("a store").replicas += 1;
            }
            if let Some(leader) = range.leader {
                let has = all.get_mut(&leader).expect("a store");
                (has.leaders, has.load) = (has.leaders + 1, has.load + range.load);
            }
        }
        all
    }

    fn serves(&self, store: StoreId) -> bool {
        let store = &self.stores[&store];
        store.silent_since.is_none() && store.duty == Duty::Serves
    }

    /// How even those that serve are; those with slow disks do not count as leaders.
    pub fn balance(&self) -> Balance {
        let serving = self.has().into_iter().filter(|(store, _)| self.serves(*store));
        let serving = serving.collect::<Vec<_>>();
        let leading = serving.iter().filter(|(store, _)| self.stores[store].slow.is_none());
        Balance {
            leaders: Spread::of(leading.clone().map(|(_, has)| has.leaders)),
            replicas: Spread::of(serving.iter().map(|(_, has)| has.replicas)),
            load: Spread::of(leading.map(|(_, has)| has.load)),
        }
    }

    /// The replicas that must be made, and the leaders that must change, so that no store has more
    /// than the mean: those beyond it, and all of the stores that do not serve.
    pub fn minimum(&self) -> (u64, u64) {
        let has = self.has();
        let serving = has.keys().filter(|store| self.serves(**store)).count() as u64;
        let beyond = |value: fn(&Has) -> u64| {
            let mean = has.values().map(value).sum::<u64>().div_ceil(serving.max(1));
            let each = has.iter().map(|(store, has)| {
                value(has) - if self.serves(*store) { value(has).min(mean) } else { 0 }
            });
            each.sum::<u64>()
        };
        (beyond(|has| has.replicas), beyond(|has| has.leaders))
    }

    /// The leaders that must change so that no store has more load than 5 % above the mean: of each
    /// store the heaviest of those ranges first that fit into the one with the least load.
    pub fn minimum_for_load(&self) -> u64 {
        let has = self.has();
        let serving = has.iter().filter(|(store, _)| self.serves(**store));
        let total = has.values().map(|has| has.load).sum::<u64>() as f64;
        let most = total / serving.clone().count() as f64 * 1.05;
        let least = serving.clone().map(|(_, has)| has.load).min().unwrap_or(0) as f64;
        let mut moves = 0;
        for (store, has) in serving {
            let led = self.ranges.iter().filter(|range| range.leader == Some(*store));
            let fit = led.map(|range| range.load).filter(|load| least + *load as f64 <= most);
            let mut loads = fit.collect::<Vec<_>>();
            loads.sort_unstable();
            let mut left = has.load as f64;
            while left > most {
                left -= loads.pop().map_or(left, |load| load as f64);
                moves += 1;
            }
        }
        moves
    }
}
