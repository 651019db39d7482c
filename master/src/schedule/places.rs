//! How near stores are to each other, by their labels.
//!
//! A label narrows the one before it: two hosts of the same name in different zones are two hosts.
//! A store without labels is near to nobody.

use std::collections::BTreeMap;

/// Labels that count, from the widest.
const LEVELS: usize = 4;

/// What it costs that two stores share so many labels. One pair that shares more weighs heavier than
/// all pairs of a range together that share less: 7 replicas are 21 pairs.
const COSTS: [u64; LEVELS + 1] = [0, 1, 32, 32 * 32, 32 * 32 * 32];

/// Of all stores, by index.
///
/// Invariant: two paths are equal up to a level if all their labels up to there are; 0 is no label.
pub(super) struct Places {
    paths: Vec<[u32; LEVELS]>,
}

impl Places {
    pub fn new<'a>(labels: impl Iterator<Item = &'a [(String, String)]>) -> Self {
        let mut known = BTreeMap::<&[(String, String)], u32>::new();
        let mut path = |labels: &'a [(String, String)]| {
            let mut path = [0; LEVELS];
            for (level, id) in path.iter_mut().enumerate().take(labels.len()) {
                let next = u32::try_from(known.len()).expect("fewer labels") + 1;
                *id = *known.entry(&labels[..=level]).or_insert(next);
            }
            path
        };
        Self { paths: labels.map(&mut path).collect() }
    }

    /// The labels that two stores share.
    pub fn shared(&self, a: usize, b: usize) -> usize {
        let pairs = self.paths[a].iter().zip(&self.paths[b]);
        pairs.take_while(|(a, b)| a == b && **a != 0).count()
    }

    /// What the widest label of a store says, as a number; 0 is none.
    pub fn widest(&self, store: usize) -> u32 {
        self.paths[store][0]
    }

    /// How near one more would be to these.
    pub fn nearness(&self, store: usize, others: impl Iterator<Item = usize>) -> u64 {
        others.map(|other| COSTS[self.shared(store, other)]).sum()
    }

    /// How near all of these are to each other.
    pub fn crowding(&self, stores: impl Iterator<Item = usize> + Clone) -> u64 {
        let each = stores.clone().enumerate();
        each.map(|(at, store)| self.nearness(store, stores.clone().take(at))).sum()
    }

    /// How near so many replicas must be to each other on these stores. Each next one goes where it is
    /// nearest to nobody; since labels nest, no other way ends better.
    pub fn least_crowding(&self, stores: &[usize], replicas: usize) -> u64 {
        let mut taken = Vec::with_capacity(replicas);
        let mut total = 0;
        for _ in 0..replicas {
            let free = stores.iter().copied().filter(|store| !taken.contains(store));
            let next = free.map(|store| (self.nearness(store, taken.iter().copied()), store)).min();
            let Some((cost, store)) = next else { break };
            total += cost;
            taken.push(store);
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(all: &[&[(&str, &str)]]) -> Vec<Vec<(String, String)>> {
        let owned = |it: &&[(&str, &str)]| {
            it.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        all.iter().map(owned).collect()
    }

    fn places(labels: &[Vec<(String, String)>]) -> Places {
        Places::new(labels.iter().map(Vec::as_slice))
    }

    #[test]
    fn labels_nest_and_none_are_near_to_nobody() {
        let labels = labels(&[
            &[("zone", "a"), ("host", "1")],
            &[("zone", "a"), ("host", "1")],
            &[("zone", "a"), ("host", "2")],
            &[("zone", "b"), ("host", "1")],
            &[],
            &[],
        ]);
        let places = places(&labels);
        let shared = |a, b| places.shared(a, b);
        let crowding = |stores: &[usize]| places.crowding(stores.iter().copied());
        assert_eq!([shared(0, 1), shared(0, 2), shared(0, 3), shared(4, 5)], [2, 1, 0, 0]);
        assert!(crowding(&[0, 1]) > crowding(&[0, 2]));
        assert_eq!(crowding(&[0, 3, 4, 5]), 0);
    }

    #[test]
    fn the_least_crowding_is_that_of_the_best_of_all_choices() {
        let zones = [("zone", "a"), ("zone", "b"), ("zone", "c")];
        let all = labels(&[
            &[zones[0], ("host", "1")],
            &[zones[0], ("host", "1")],
            &[zones[0], ("host", "2")],
            &[zones[1], ("host", "3")],
            &[zones[1], ("host", "3")],
            &[zones[1], ("host", "4")],
            &[zones[2], ("host", "5")],
        ]);
        let places = places(&all);
        let stores = (0..all.len()).collect::<Vec<_>>();
        for replicas in 1..=stores.len() {
            let choices =
                (0u32..1 << stores.len()).filter(|it| it.count_ones() as usize == replicas);
            let crowding = |choice: u32| {
                places.crowding(stores.iter().copied().filter(move |it| choice >> it & 1 == 1))
            };
            let best = choices.map(crowding).min();
            assert_eq!(Some(places.least_crowding(&stores, replicas)), best, "{replicas}");
        }
    }
}
