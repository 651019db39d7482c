//! Looking at masters, and at what depends on them: now and then, and when everything is calm.

use sharklock_master::GROUP;
use sharklock_multiraft::ReplicaStatus;
use sharklock_proto::internal::v1::Route;

use crate::note;
use crate::poll::leader_of;
use crate::world::{S, World};

/// The longest time without a leading master while all are alive, as for a range (L3).
const LEADERLESS_MAX_NS: u64 = 10 * S;

impl World {
    /// S9, S12 and one leader per term, of the masters' own group; and that one leads.
    pub(crate) fn poll_masters(&mut self, looks_closely: bool) {
        if self.masters.is_empty() {
            return;
        }
        if looks_closely {
            self.compare_masters();
        }
        self.watch_balancing();
        if !self.is_calm || self.masters.iter().any(|master| master.leads()) {
            self.masters_led_at = self.now;
        }
        let since = self.masters_led_at;
        if self.now > since + LEADERLESS_MAX_NS {
            self.violated("L3", &[], format_args!("no master leads since {since}, and all live"));
        }
    }

    /// L6, by the operators that any master knows.
    fn watch_balancing(&mut self) {
        let cores = self.masters.iter().filter_map(|master| master.core());
        let mut faults = Vec::new();
        for state in cores.map(|core| core.state()) {
            let (moved, found) = self.checks.balancing.observe(self.now, state);
            self.counters.add("leaders moved to balance", moved);
            // There L2 is measured.
            self.counters
                .add("leaders moved to balance in the calm", if self.is_calm { moved } else { 0 });
            faults.extend(found);
        }
        for what in faults {
            self.violated("L6", &[], format_args!("{what}"));
        }
    }

    fn compare_masters(&mut self) {
        for at in 0..self.masters.len() {
            let number = self.masters[at].number;
            let Some(status) = self.masters[at].status() else { continue };
            if let Err((rule, what)) = self.checks.masters.observe((GROUP, number), &status) {
                self.violated(rule, &[], format_args!("of the masters' group, {what}"));
            }
        }
    }

    /// Calm has lasted long enough: every store serves, every range has all its replicas, and every
    /// gateway hears of routes.
    pub(crate) fn settle_masters(&mut self) {
        if let Some(store) = self
            .stores
            .iter()
            .find(|store| store.process.is_none() && !self.losses.is_lost(store.number))
        {
            let number = store.number;
            return self.violated(
                "settling",
                &[format!("s{number}")],
                format_args!("s{number} is down"),
            );
        }
        for range in self.checks.tiling.ids() {
            let Some(descriptor) = self.checks.tiling.get(range) else { continue };
            let wanted = self.members_left(descriptor);
            let count = self.stores.iter().filter(|store| store.status(range).is_some()).count();
            let changes =
                self.splits.is_young(range, self.now) || self.is_being_changed(descriptor);
            if count != wanted && !changes {
                let what = format!("range {range} has {count} replicas, and is to have {wanted}");
                return self.violated("settling", &[], format_args!("{what}"));
            }
        }
        if self.masters.is_empty() {
            return;
        }
        let stores_count = self.stores.len() - self.losses.known_count();
        for (at, gateway) in self.gateways.iter().enumerate() {
            let Some(process) = &gateway.process else { continue };
            if process.watches.is_none() || process.known.len() != stores_count {
                let (number, known) = (at + 1, &process.known);
                let what = format!("g{number} watches no routes, or not all stores: {known:?}");
                return self.violated("settling", &[format!("g{number}")], format_args!("{what}"));
            }
        }
        note!(self, "stores and gateways are where masters want them");
    }

    /// At rest masters are equal, and the leading one knows who leads each range.
    pub(crate) fn check_masters_at_rest(&mut self) {
        if self.masters.is_empty() {
            return;
        }
        self.compare_masters();
        let statuses: Vec<_> = self.masters.iter().filter_map(|master| master.status()).collect();
        let is_same = |pair: &[ReplicaStatus]| {
            (pair[0].applied, pair[0].state_hash) == (pair[1].applied, pair[1].state_hash)
        };
        if statuses.len() != self.masters.len() || !statuses.windows(2).all(is_same) {
            let what = format!("at rest masters differ: {statuses:?}");
            return self.violated("S9", &[], format_args!("{what}"));
        }
        let leads = self.masters.iter().find(|master| master.leads());
        let Some(Ok(routes)) = leads.and_then(|it| it.core()).map(|core| core.watch()) else {
            return self.violated("L3", &[], format_args!("at rest no master leads"));
        };
        let watchers = leads.and_then(|it| it.process.as_ref()).map(|process| &process.watchers);
        for watcher in watchers.into_iter().flatten() {
            let told = |route: &&Route| {
                let range = route.descriptor.as_ref().map_or(0, |descriptor| descriptor.range_id);
                watcher.told.get(&range) == Some(*route)
            };
            if let Some(route) = routes.routes.iter().find(|route| !told(route)) {
                let what = format!("at rest {} was not told {route:?}", watcher.asker.node);
                return self.violated("routes", &[], format_args!("{what}"));
            }
        }
        for range in self.checks.tiling.ids() {
            let leader = leader_of(&self.stores, range).and_then(|store| store.id);
            let mut routes = routes.routes.iter();
            let of_range =
                |it: &&Route| it.descriptor.as_ref().is_some_and(|it| it.range_id == range.0);
            let known = routes.find(of_range).map(|route| route.leader_store_id);
            if leader.is_none() || known != leader.map(|store| store.0) {
                let what = format!(
                    "at rest {leader:?} leads range {range}, and the leading master knows {known:?}"
                );
                return self.violated("routes", &[], format_args!("{what}"));
            }
        }
    }
}
