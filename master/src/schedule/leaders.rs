//! Stores lead equally much: first by the load of what they lead, then by its number. Each change of
//! a leader starts all leases of its range anew, so it is asked for only where it brings two
//! stores nearer to the mean, and of a range whose leader has been the same for long.
//!
//! Why this ends: a move for the load takes at least as much off the distances of two stores from the
//! mean as the load that it moves; a move for the number takes two off the number's, and takes no
//! store further out of the tolerance of the load than it is.

use std::cmp::Reverse;

use super::{
    Class, Plan, Reason, Uneven, Wanted,
    pass::Pass,
    tally::{Mean, UNIT, scaled},
};

/// What leaders are balanced by.
#[derive(Clone, Copy, Debug)]
enum By {
    Load,
    Leaders,
}

#[derive(Clone, Copy, Debug)]
struct Means {
    load: Mean,
    leaders: Mean,
}

impl Means {
    fn of(self, by: By) -> Mean {
        match by {
            By::Load => self.load,
            By::Leaders => self.leaders,
        }
    }
}

impl Pass<'_> {
    /// Proposes other leaders.
    pub fn balance_leaders(&mut self) {
        let settings = self.view.settings;
        let stores = || self.tally.stores.iter().filter(|store| store.leads());
        if stores().nth(1).is_none() {
            return;
        }
        let means = Means {
            load: Mean::of(
                stores().map(|store| store.load),
                // What single ranges have differs widely: numbers alone would leave no room.
                settings.tolerance / 2 * 3,
                settings.load_floor,
            ),
            leaders: Mean::of(
                stores().map(|store| u64::from(store.leaders)),
                settings.tolerance,
                1,
            ),
        };
        let is_even = |store: &super::tally::StoreTally| {
            means.load.above(store.load).abs() <= means.load.tolerance
                && means.leaders.above(store.leaders.into()).abs() <= means.leaders.tolerance
        };
        if stores().all(is_even) {
            return;
        }
        let (by_load, by_number) = (self.open(By::Load, means), self.open(By::Leaders, means));
        let open = by_load.into_iter().zip(by_number).map(|(load, number)| load || number);
        let led = self.led(&open.collect::<Vec<_>>());
        self.even_out(By::Load, means, &led);
        self.even_out(By::Leaders, means, &led);
    }

    /// The ranges that each store leads and may give up to one of these.
    fn led(&self, open: &[bool]) -> Vec<Vec<u32>> {
        let mut led = vec![Vec::new(); self.tally.stores.len()];
        for at in 0..self.view.ranges.len() {
            let Some(leader) = self.leader(at) else { continue };
            if self.heirs(at, leader, open).next().is_some()
                && self.tally.stores[leader].leads()
                && self.cools_down(at).is_none()
                && self.may_move(at)
            {
                led[leader].push(u32::try_from(at).expect("fewer ranges"));
            }
        }
        led
    }

    /// Whether nothing else is to be done for a range, and all its replicas are heard.
    pub fn may_move(&self, at: usize) -> bool {
        let replicas = self.view.ranges[at].descriptor.replicas.len();
        !self.is_taken[at]
            && self.leader(at).is_some()
            && self.reach(at, replicas) <= replicas
            && self.replicas(at).all(|it| self.is_live(at, it))
    }

    /// Whether a store may get leaderships now, and has little enough to get them.
    fn is_open(&self, by: By, means: Means, place: usize) -> bool {
        let store = &self.tally.stores[place];
        let above = means.of(by).above(self.amount(by, place));
        let has_little = match by {
            By::Load => above < 0,
            // Else it would have to give it away again.
            By::Leaders => above + UNIT <= means.leaders.tolerance,
        };
        has_little && store.leads() && store.may_gain(&self.view.settings, Class::Balance)
    }

    /// Which stores are.
    fn open(&self, by: By, means: Means) -> Vec<bool> {
        (0..self.tally.stores.len()).map(|place| self.is_open(by, means, place)).collect()
    }

    /// The other voters of a range, as far as their stores are open.
    fn heirs(&self, at: usize, from: usize, open: &[bool]) -> impl Iterator<Item = usize> {
        let voters = self.voters(at).map(|(place, _)| place);
        voters.filter(move |place| open[*place] && *place != from)
    }

    /// Stores give up leaderships until all have equally much. Those within the tolerance do so only
    /// when none above it can: else they would have to get back what they gave.
    fn even_out(&mut self, by: By, means: Means, led: &[Vec<u32>]) {
        let mean = means.of(by);
        let above = |it: usize| mean.above(self.amount(by, it));
        let leading = (0..self.tally.stores.len()).filter(|it| self.tally.stores[*it].leads());
        let mut high = leading.collect::<Vec<_>>();
        high.sort_by_key(|it| (Reverse(self.amount(by, *it)), *it));
        let is_some_low = high.iter().any(|it| above(*it) < -mean.tolerance);
        let too_high = high.iter().copied().take_while(|it| above(*it) > mean.tolerance);
        let too_high = too_high.collect::<Vec<_>>();
        if !self.give(by, means, (&too_high, mean.tolerance), led) && is_some_low {
            self.give(by, means, (&high, 0), led);
        }
    }

    /// Stores give until they have less than this above the mean. Whether one of them gives something
    /// up, or is about to.
    fn give(
        &mut self,
        by: By,
        means: Means,
        (givers, floor): (&[usize], i64),
        led: &[Vec<u32>],
    ) -> bool {
        let (mean, mut gives) = (means.of(by), false);
        let mut open = self.open(by, means);
        for from in givers.iter().copied() {
            if !open.contains(&true) {
                break;
            }
            while mean.above(self.amount(by, from)) > floor {
                if !self.tally.stores[from].may_give(&self.view.settings, Class::Balance) {
                    gives = true;
                    break;
                }
                let best = match by {
                    By::Load => self.best_for_load(means, from, &led[from], &open),
                    By::Leaders => self.best_for_count(means, from, &led[from], &open),
                };
                let Some((at, to)) = best else { break };
                self.leader_moves(at, (from, to), by, mean);
                open[to] = self.is_open(by, means, to);
                gives = true;
            }
        }
        gives
    }

    fn amount(&self, by: By, store: usize) -> u64 {
        let store = &self.tally.stores[store];
        match by {
            By::Load => store.load,
            By::Leaders => store.leaders.into(),
        }
    }

    /// The range whose load, led from elsewhere, brings two stores nearest to the mean.
    fn best_for_load(
        &self,
        means: Means,
        from: usize,
        led: &[u32],
        open: &[bool],
    ) -> Option<(usize, usize)> {
        let above = |store: usize| means.load.above(self.tally.stores[store].load);
        let mut best = None;
        for at in led.iter().map(|at| *at as usize).filter(|at| !self.is_taken[*at]) {
            let load = scaled(self.load(at));
            for to in self.heirs(at, from, open) {
                let (high, low) = (above(from), above(to));
                let gain = high.abs() + low.abs() - (high - load).abs() - (low + load).abs();
                // At least half of what moves must be of use.
                if !means.load.is_due(high, low) || load == 0 || gain < load {
                    continue;
                }
                let worth = gain - 4 * self.too_heavy(means, to, load);
                let key = (Reverse(worth), self.tally.stores[to].leaders, at, to);
                if best.is_none_or(|known| key < known) {
                    best = Some(key);
                }
            }
        }
        best.map(|(_, _, at, to)| (at, to))
    }

    /// By how much a range is heavier than those that a store needs, which leads too few: with heavier
    /// ones it would have its load before it has its number.
    fn too_heavy(&self, means: Means, store: usize, load: i64) -> i64 {
        let store = &self.tally.stores[store];
        let lacks = -means.leaders.above(store.leaders.into());
        if lacks <= means.leaders.tolerance {
            return 0;
        }
        (load - -means.load.above(store.load) / (lacks / UNIT).max(1)).max(0)
    }

    /// The range with which the number of leaders becomes most equal, and then their load.
    fn best_for_count(
        &self,
        means: Means,
        from: usize,
        led: &[u32],
        open: &[bool],
    ) -> Option<(usize, usize)> {
        let leaders = |store: usize| u64::from(self.tally.stores[store].leaders);
        let above = |store: usize| means.leaders.above(leaders(store));
        let mut best = None;
        for at in led.iter().map(|at| *at as usize).filter(|at| !self.is_taken[*at]) {
            let load = self.load(at);
            for to in self.heirs(at, from, open) {
                let is_due = means.leaders.is_due(above(from), above(to));
                let is_lower = leaders(to) + 2 <= leaders(from);
                if !is_due || !is_lower || !self.keeps_load(means.load, (from, to), load) {
                    continue;
                }
                let key = (leaders(to), self.unevenness(means.load, (from, to), load), at, to);
                if best.is_none_or(|known| key < known) {
                    best = Some(key);
                }
            }
        }
        best.map(|(_, _, at, to)| (at, to))
    }

    /// How far two stores would be from the mean of the load.
    fn unevenness(&self, mean: Mean, (from, to): (usize, usize), load: u64) -> i64 {
        let stores = &self.tally.stores;
        let left = mean.above(stores[from].load.saturating_sub(load));
        left.abs() + mean.above(stores[to].load + load).abs()
    }

    /// Whether no store gets further out of the tolerance of the load than it is.
    fn keeps_load(&self, mean: Mean, (from, to): (usize, usize), load: u64) -> bool {
        let stores = &self.tally.stores;
        let keeps = |before: u64, after: u64| {
            mean.above(after).abs() <= mean.above(before).abs().max(mean.tolerance)
        };
        keeps(stores[from].load, stores[from].load.saturating_sub(load))
            && keeps(stores[to].load, stores[to].load + load)
    }

    fn leader_moves(&mut self, at: usize, (from, to): (usize, usize), by: By, mean: Mean) {
        let id = |place: usize| self.tally.stores[place].id;
        let uneven = Uneven {
            from: id(from),
            has: self.amount(by, from),
            to: id(to),
            other_has: self.amount(by, to),
            mean: mean.rounded(),
        };
        let reason = match by {
            By::Load => Reason::Load(uneven),
            By::Leaders => Reason::Leaders(uneven),
        };
        let (range, wanted) = (self.view.ranges[at].descriptor.range, Wanted::Lead { to: id(to) });
        self.accept(at, Plan { range, wanted, class: Class::Balance, reason, spot: None });
    }
}
