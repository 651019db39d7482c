//! Looking at the whole world: now and then, and at its end.

use std::collections::BTreeMap;

use sharklock_history::{History, check};
use sharklock_locktable::LockTable;
use sharklock_multiraft::ReplicaStatus;
use sharklock_rangemap::RangeId;

use crate::check::Seen;
use crate::client::Stage;
use crate::note;
use crate::store::StoreNode;
use crate::world::{MS, World};

/// Acquisitions that clients wait for: (instance, id), with the time of asking.
type Asking = Vec<((u64, u64), u64)>;

/// One in so many polls checks the tables' own invariants, which takes longer.
const INVARIANTS_EVERY: u64 = 25;

impl World {
    pub(crate) fn poll(&mut self) {
        self.polls_count += 1;
        self.poll_replicas();
        self.poll_masters(self.polls_count.is_multiple_of(INVARIANTS_EVERY));
        self.poll_liveness();
        self.poll_losses();
        self.poll_watches();
        self.poll_agreements();
    }

    /// S5, S6 and S11 on every replica; now and then S1 in its own terms.
    fn poll_replicas(&mut self) {
        for number in 1..=self.stores.len() {
            for range in self.stores[number - 1].ranges() {
                self.compare_replica(number, range);
            }
        }
        if self.polls_count.is_multiple_of(INVARIANTS_EVERY) {
            self.tables().for_each(|(_, table)| table.check_invariants());
        }
    }

    /// The tables of all replicas, each with its store.
    fn tables(&self) -> impl Iterator<Item = (usize, &LockTable)> {
        let of = |store| StoreNode::ranges(store).into_iter().map(move |range| (store, range));
        let all = self.stores.iter().flat_map(of);
        all.filter_map(|(store, range)| Some((store.number, store.table(range)?)))
    }

    /// S5, S6 and S11 on one replica: nothing has ended there that somebody believes in, and nothing
    /// is open that somebody was told to be over.
    pub(crate) fn compare_replica(&mut self, number: usize, range: RangeId) {
        let (now, clients) = (self.now, &self.clients);
        let read = |client: usize| clients[client - 1].now(now);
        let store = &self.stores[number - 1];
        let (Some(status), Some(table)) = (store.status(range), store.table(range)) else { return };
        let (applied, bounds) =
            (status.applied, &store.descriptor(range).expect("as above").bounds);
        let tiling = &self.checks.tiling;
        let here = (range, bounds, applied);
        let held = self.checks.beliefs.held_by(number, here, (table, tiling), &read);
        let over = self.checks.finished.compare(number, (range, applied), table, tiling);
        let stay = self.checks.agreed.compare(number, here, (table, tiling));
        let stay = stay.and_then(|()| self.checks.beliefs.agreed_by(number, bounds, table));
        let names =
            self.watchers.iter().map(|it| it.name()).filter(|it| bounds.contains(it.as_bytes()));
        self.checks.watched.stands((range, applied), names, table);
        let found = [("S5", held), ("S11", over), ("S14", stay)].into_iter();
        for (rule, (name, what)) in found.filter_map(|(rule, it)| Some((rule, it.err()?))) {
            self.violated(rule, &[name], format_args!("{what}"));
        }
    }

    fn poll_liveness(&mut self) {
        for store in &mut self.stores {
            let stalls = store.take_stalls();
            self.counters.add("stalls credited", stalls);
            self.counters.add("commands that met a split", store.take_moved());
            let (before, now) = store.take_splits();
            for (what, more) in [
                ("splits for too many locks", now.locks - before.locks),
                ("splits for too many bytes", now.bytes - before.bytes),
                ("splits for too many waiters", now.waiters - before.waiters),
                ("splits for too many commands", now.commands - before.commands),
            ] {
                self.counters.add(what, more);
            }
        }
        let mut asking = self.asking();
        let ranges: Vec<_> = self.checks.liveness.keys().copied().collect();
        for range in ranges {
            let asking = asking.remove(&range).unwrap_or_default();
            let descriptor = self.checks.tiling.get(range);
            if descriptor.is_some_and(|descriptor| self.is_being_changed(descriptor)) {
                let liveness = self.checks.liveness.get_mut(&range);
                liveness.expect("every range is watched").may_be_handed_on();
            }
            self.poll_range(range, asking);
        }
    }

    fn poll_range(&mut self, range: RangeId, asking: Asking) {
        let tiling = &self.checks.tiling;
        let has_replica = |store: &&StoreNode| tiling.is_on(range, store.id);
        let seen = Seen {
            now: self.now,
            serves: self
                .stores
                .iter()
                .all(|store| store.process.is_some() || self.losses.is_lost(store.number)),
            leader: leader_of(&self.stores, range).and_then(|store| store.table(range)),
            leader_changes: self.checks.replicas.leader_changes(range),
            stalls: self.stores.iter().filter(has_replica).map(|store| store.stalls).sum(),
            slack_ns: self.slack_ns(),
            asking,
        };
        let liveness = self.checks.liveness.get_mut(&range).expect("every range is watched");
        if let Err((rule, name, what)) = liveness.poll(&seen) {
            let about = if name.is_empty() { Vec::new() } else { vec![name] };
            self.violated(rule, &about, format_args!("range {range}: {what}"));
        }
    }

    /// What it takes to get anything through: delays and writes.
    pub(crate) fn slack_ns(&self) -> u64 {
        let options = &self.options;
        let delays = options.stream_delay_us + options.raft_delay_us + options.disk_mean_us;
        500 * MS + 100 * delays * 1_000
    }

    /// Every connection has noticed what is gone, and calls must be answered in time.
    pub(crate) fn is_settled(&self) -> bool {
        self.splits.is_settled
    }

    /// What clients wait for, by range.
    fn asking(&self) -> BTreeMap<RangeId, Asking> {
        let processes = self.clients.iter().filter_map(|client| client.process.as_ref());
        let mut asking: BTreeMap<_, Asking> = BTreeMap::new();
        for process in processes {
            for (ticket, taken) in &process.taken {
                if matches!(taken.stage, Stage::Acquiring { .. }) {
                    let range = self.range_of(&taken.request.name);
                    let asked = ((process.instance, *ticket), taken.asked_ns);
                    asking.entry(range).or_default().push(asked);
                }
            }
        }
        asking
    }

    /// The range that has a name, as far as replicas have shown.
    pub(crate) fn range_of(&self, name: &str) -> RangeId {
        self.checks.tiling.of(name).unwrap_or_else(|| self.ranges.of(name))
    }

    /// Faults cease, and what they did.
    pub fn calm_down(&mut self) {
        self.heal();
        self.begin_splits();
        match self.options.balances_s {
            0 => self.cease_orders(),
            _ => self.balance_on(),
        }
        self.checks.calm(self.now);
    }

    /// Every connection has noticed by now what is gone: calls must be answered in time.
    pub fn settle(&mut self) {
        note!(self, "settled");
        self.checks.settled(self.now);
        self.splits.is_settled = true;
        self.settle_masters();
    }

    /// Half of the clients end with what they hold, the others give everything back.
    pub fn wind_down(&mut self) {
        note!(self, "winding down");
        self.is_winding_down = true;
        self.cease_repairs();
        self.begin_splits();
        for number in 1..=self.clients.len() {
            if number % 2 == 0 {
                self.client_ends(number, None);
            } else {
                self.client_turn(number);
            }
        }
    }

    /// The clients that are left go.
    pub fn close_clients(&mut self) {
        self.watches_are_over = true;
        self.splits.end();
        for number in 1..=self.clients.len() {
            if let Some(process) = &self.clients[number - 1].process {
                let (open, taken) = (process.driver.acquisitions_count(), process.taken.len());
                if open > 0 || taken > 0 {
                    let what = format!("c{number} still has {open} acquisitions, {taken} wishes");
                    return self.violated("R1", &[format!("c{number}")], format_args!("{what}"));
                }
            }
            self.client_ends(number, None);
        }
    }

    /// R1, S9 at rest, and what the history's judges say.
    pub fn end_checks(&mut self) {
        if self.violations.is_empty() {
            self.check_rest();
        }
        if self.violations.is_empty() {
            self.judge_history();
        }
        self.trace.flush();
    }

    fn check_rest(&mut self) {
        let mut found = Vec::new();
        if let Err(what) = self.checks.tiling.check_whole() {
            found.push(("S10", what));
        }
        for range in self.checks.tiling.all() {
            let (range, members) = (range.range, self.members_left(range));
            let of = |store: &StoreNode| store.status(range);
            let statuses: Vec<_> = self.stores.iter().filter_map(of).collect();
            let same = |of: fn(&ReplicaStatus) -> u64| {
                statuses.windows(2).all(|pair| of(&pair[0]) == of(&pair[1]))
            };
            let are_all = statuses.len() == members;
            if !are_all || !same(|it| it.applied) || !same(|it| it.state_hash) {
                let what = format!("at rest the replicas of range {range} differ: {statuses:?}");
                found.push(("S9", what));
            }
        }
        for (number, table) in self.tables() {
            table.check_invariants();
            let leases = table.leases();
            let locks = table.locks("", "", 8, 8, 8);
            if !leases.is_empty() || !locks.is_empty() {
                found.push(("R1", format!("s{number} still has {leases:?}, {locks:?}")));
            }
        }
        for (at, gateway) in self.gateways.iter().enumerate() {
            let Some(process) = &gateway.process else { continue };
            let hub = &process.hub;
            // The operator's stream stays.
            let (streams, calls) = (hub.streams_open().saturating_sub(1), hub.calls_open());
            let items = hub.keepalive_items();
            if streams + calls + items > 0 {
                let what = format!(
                    "g{} still has {streams} streams, {calls} calls, {items} keepalive items",
                    at + 1
                );
                found.push(("R1", what));
            }
        }
        if self.checks.beliefs.count() > 0 {
            found.push(("R1", "somebody who is gone still believes".to_owned()));
        }
        for (rule, what) in found {
            self.violated(rule, &[], format_args!("{what}"));
        }
        self.check_masters_at_rest();
        self.check_operators_at_rest();
        self.check_split_calls_at_rest();
    }

    fn judge_history(&mut self) {
        let history = History::merge([std::mem::take(&mut self.recorder)]);
        let report = check(&history.records);
        self.counters.add("records judged", report.counts.records);
        if let Some(first) = report.violations.first() {
            let (name, count) = (history.name(first.lock), report.violations_count);
            let what = format!("{count} in the history; the first on {name}: {first}");
            self.violated("history", &[name], format_args!("{what}"));
        }
    }
}

/// The store that answers for a range, in the latest term if there are several.
pub(crate) fn leader_of(stores: &[StoreNode], range: RangeId) -> Option<&StoreNode> {
    let leaders = stores.iter().filter(|store| store.answers(range));
    leaders.max_by_key(|store| store.status(range).map(|status| status.term))
}
