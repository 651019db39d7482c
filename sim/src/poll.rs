//! Looking at the whole world: now and then, and at its end.

use sharklock_history::{History, check};
use sharklock_locktable::LockTable;

use crate::check::Seen;
use crate::client::Stage;
use crate::note;
use crate::store::{STORES, StoreNode};
use crate::world::{MS, World};

/// One in so many polls checks the tables' own invariants, which takes longer.
const INVARIANTS_EVERY: u64 = 25;

impl World {
    pub(crate) fn poll(&mut self) {
        self.polls_count += 1;
        self.poll_replicas();
        self.poll_liveness();
    }

    /// S5, S6 and S11 on every replica; now and then S1 in its own terms.
    fn poll_replicas(&mut self) {
        for number in 1..=STORES {
            self.compare_replica(number);
        }
        if self.polls_count.is_multiple_of(INVARIANTS_EVERY) {
            self.stores.iter().filter_map(StoreNode::table).for_each(LockTable::check_invariants);
        }
    }

    /// S5, S6 and S11 on one replica: nothing has ended there that somebody believes in, and nothing
    /// is open that somebody was told to be over.
    pub(crate) fn compare_replica(&mut self, number: usize) {
        let (now, clients) = (self.now, &self.clients);
        let read = |client: usize| clients[client - 1].now(now);
        let store = &self.stores[number - 1];
        let (Some(status), Some(table)) = (store.status(), store.table()) else { return };
        let applied = status.applied;
        let held = self.checks.beliefs.held_by(number, applied, table, &read);
        let over = self.checks.finished.compare(number, applied, table);
        let found = [("S5", held), ("S11", over)].into_iter();
        for (rule, (name, what)) in found.filter_map(|(rule, it)| Some((rule, it.err()?))) {
            self.violated(rule, &[name], format_args!("{what}"));
        }
    }

    fn poll_liveness(&mut self) {
        self.count_stalls();
        let leaders = self.stores.iter().filter(|store| store.answers());
        let leader = leaders.max_by_key(|store| store.status().map(|status| status.term));
        let options = &self.options;
        let delays = options.stream_delay_us + options.raft_delay_us + options.disk_mean_us;
        let seen = Seen {
            now: self.now,
            leader: leader.and_then(|store| store.table()),
            leader_changes: self.counters.get("leader changes"),
            stalls: self.counters.get("stalls credited"),
            slack_ns: 500 * MS + 100 * delays * 1_000,
            asking: self.asking(),
        };
        if let Err((rule, name, what)) = self.checks.liveness.poll(&seen) {
            let about = if name.is_empty() { Vec::new() } else { vec![name] };
            self.violated(rule, &about, format_args!("{what}"));
        }
    }

    /// What clients wait for.
    fn asking(&self) -> Vec<((u64, u64), u64)> {
        let processes = self.clients.iter().filter_map(|client| client.process.as_ref());
        let mut asking = Vec::new();
        for process in processes {
            for (ticket, taken) in &process.taken {
                if matches!(taken.stage, Stage::Acquiring { .. }) {
                    asking.push(((process.instance, *ticket), taken.asked_ns));
                }
            }
        }
        asking
    }

    fn count_stalls(&mut self) {
        for at in 0..STORES {
            let store = &self.stores[at];
            let Some(process) = &store.process else { continue };
            let (life, stalls) = (store.life, process.worker.stats().stalls);
            let (known_life, known) = self.stalls_known[at];
            let known = if known_life == life { known } else { 0 };
            self.stalls_known[at] = (life, stalls);
            self.counters.add("stalls credited", stalls - known);
        }
    }

    /// Faults cease, and what they did.
    pub fn calm_down(&mut self) {
        self.heal();
        self.checks.liveness.calm(self.now);
    }

    /// Every connection has noticed by now what is gone: calls must be answered in time.
    pub fn settle(&mut self) {
        note!(self, "settled");
        self.checks.liveness.settled(self.now);
    }

    /// Half of the clients end with what they hold, the others give everything back.
    pub fn wind_down(&mut self) {
        note!(self, "winding down");
        self.is_winding_down = true;
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
        let statuses: Vec<_> = self.stores.iter().filter_map(|store| store.status()).collect();
        let same = |of: fn(&sharklock_multiraft::ReplicaStatus) -> u64| {
            statuses.windows(2).all(|pair| of(&pair[0]) == of(&pair[1]))
        };
        if statuses.len() < STORES || !same(|it| it.applied) || !same(|it| it.state_hash) {
            found.push(("S9", format!("at rest the replicas differ: {statuses:?}")));
        }
        for store in &self.stores {
            let Some(table) = store.table() else { continue };
            table.check_invariants();
            let leases = table.leases();
            if !leases.is_empty() {
                found.push(("R1", format!("s{} still has {leases:?}", store.number)));
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
