//! Stores have equally many replicas. Which of them moves is decided by its size: the one that makes
//! the sizes of both stores most equal. A leader stays where it is, for it would have to hand over;
//! and no replica comes nearer to the others than it was.
//!
//! Why this ends: a replica moves only to a store that has at least two less, so each move lowers the
//! sum of the squares.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use super::{
    Class, Plan, Reason, Spot, Uneven, Wanted,
    pass::{Pass, bytes},
    tally::Mean,
};

/// Moves that a pass thinks about. Where labels leave no way to balance, it thinks in vain.
const CHECKS_MAX: usize = 1_000_000;

/// What the stores have on the average.
struct Means {
    all: Mean,
    /// By zone: where labels keep every range's replicas apart, a zone can only be even in itself.
    zones: BTreeMap<u32, Mean>,
}

impl Pass<'_> {
    /// Proposes other stores for replicas.
    pub fn balance_replicas(&mut self) {
        let mut takers = self.tally.takers().collect::<Vec<_>>();
        let count = |pass: &Self, place: usize| u64::from(pass.tally.stores[place].replicas);
        let all = self.mean_of(takers.iter().copied());
        let is_even = |it: &usize| all.above(count(self, *it)).abs() <= all.tolerance;
        if takers.iter().all(is_even) {
            return;
        }
        let mut zones = BTreeMap::new();
        for zone in takers.iter().map(|it| self.places.widest(*it)).collect::<BTreeSet<_>>() {
            let of_zone = takers.iter().copied().filter(|it| self.places.widest(*it) == zone);
            zones.insert(zone, self.mean_of(of_zone));
        }
        let means = Means { all, zones };
        let on = self.movable();
        takers.sort_by_key(|it| (Reverse(count(self, *it)), *it));
        let mut checks = CHECKS_MAX;
        for from in takers.clone() {
            while let Some((at, to)) =
                self.best_move(&means, (from, &takers), &on[from], &mut checks)
            {
                self.replica_moves(at, (from, to), means.all);
            }
        }
    }

    fn mean_of(&self, places: impl Iterator<Item = usize>) -> Mean {
        let counts = places.map(|it| u64::from(self.tally.stores[it].replicas));
        Mean::of(counts, self.view.settings.tolerance, 1)
    }

    /// Whether a replica should go from one store to another: from above the mean to below it, so that
    /// none moves twice, and only where one of them is out of the tolerance.
    fn is_due(&self, means: &Means, from: usize, to: usize) -> bool {
        let count = |place: usize| u64::from(self.tally.stores[place].replicas);
        let (zone, other) = (self.places.widest(from), self.places.widest(to));
        let by = |mean: Mean| {
            let (high, low) = (mean.above(count(from)), mean.above(count(to)));
            high > 0 && low < 0 && mean.is_due(high, low)
        };
        count(to) + 2 <= count(from) && (by(means.all) || (zone == other && by(means.zones[&zone])))
    }

    /// The ranges of which each store has a replica that may move.
    fn movable(&self) -> Vec<Vec<u32>> {
        let mut on = vec![Vec::new(); self.tally.stores.len()];
        for at in 0..self.view.ranges.len() {
            if !self.may_move(at) {
                continue;
            }
            let leader = self.leader(at);
            for (store, _) in self.replicas(at).filter(|(store, _)| Some(*store) != leader) {
                on[store].push(u32::try_from(at).expect("fewer ranges"));
            }
        }
        on
    }

    /// A range with a replica on `from`, and the store that it is to move to.
    fn best_move(
        &self,
        means: &Means,
        (from, takers): (usize, &[usize]),
        on: &[u32],
        checks: &mut usize,
    ) -> Option<(usize, usize)> {
        let settings = &self.view.settings;
        let has_room = |to: usize| self.tally.stores[to].has_room(settings, Class::Balance);
        let due = takers.iter().copied().filter(|to| self.is_due(means, from, *to));
        let mut lower = due.filter(|to| has_room(*to)).collect::<Vec<_>>();
        lower.sort_by_key(|to| (self.tally.stores[*to].replicas, *to));
        // Where one store of a zone is too near for all, so are mostly the others.
        let mut hopeless = Vec::new();
        for to in lower {
            let zone = self.places.widest(to);
            if hopeless.contains(&zone) {
                continue;
            }
            *checks = checks.checked_sub(on.len())?;
            let fits = on.iter().map(|at| *at as usize).filter(|at| self.may_swap(*at, from, to));
            match fits.min_by_key(|at| (self.difference(*at, from, to), *at)) {
                Some(at) => return Some((at, to)),
                None => hopeless.push(zone),
            }
        }
        None
    }

    /// Whether a replica may be on `to` instead of on `from`.
    fn may_swap(&self, at: usize, from: usize, to: usize) -> bool {
        let others = || self.replicas(at).map(|(place, _)| place).filter(|place| *place != from);
        let leader = self.leader(at).expect("such ranges are led");
        !self.is_taken[at]
            && others().all(|place| place != to)
            && self.knows_rules(at, to)
            && self.tally.stores[leader].may_send(&self.view.settings, Class::Balance)
            && self.places.nearness(to, others()) <= self.places.nearness(from, others())
    }

    /// By how much the sizes of two stores differ after a move.
    fn difference(&self, at: usize, from: usize, to: usize) -> u64 {
        let bytes = bytes(&self.view.ranges[at]);
        let stores = &self.tally.stores;
        stores[from].bytes.saturating_sub(bytes).abs_diff(stores[to].bytes + bytes)
    }

    fn replica_moves(&mut self, at: usize, (from, to): (usize, usize), mean: Mean) {
        let (has, other_has) = (&self.tally.stores[from], &self.tally.stores[to]);
        let (from, to) = (has.id, other_has.id);
        let reason = Reason::Replicas(Uneven {
            from,
            has: has.replicas.into(),
            to,
            other_has: other_has.replicas.into(),
            mean: mean.rounded(),
        });
        let range = self.view.ranges[at].descriptor.range;
        let wanted = Wanted::Replace { from, to };
        let spot: Option<Spot> = None;
        self.accept(at, Plan { range, wanted, class: Class::Balance, reason, spot });
    }
}
