//! Holders that die on purpose while a lock-delay is agreed, and leaders that change while the place of
//! a dead holder stays taken: chance alone brings too few of both.

use std::sync::Arc;

use sharklock_dataserver::Input;

use crate::check::CLOCKS;
use crate::client::{Stage, Taken};
use crate::note;
use crate::poll::leader_of;
use crate::world::{Event, MS, World};

/// Who is doomed dies within this time.
const DIES_WITHIN_NS: u64 = 500 * MS;

impl World {
    /// A guard is out: if its place would stay taken behind the death of its client, that may come soon.
    pub(crate) fn may_be_doomed(&mut self, number: usize, ticket: u64) {
        let Some(process) = &self.clients[number - 1].process else { return };
        let (instance, Some(taken)) = (process.instance, process.taken.get(&ticket)) else {
            return;
        };
        let condition = taken.cell.agreement().map(|agreement| agreement.condition);
        let has_delay = condition.is_some_and(|it| it.lock_delay.is_some() && !it.holds());
        if !has_delay || self.is_calm {
            return;
        }
        let dice = &mut self.dice.agreements;
        if dice.below(100) < self.options.doomed_pct {
            let at = self.now + dice.below(DIES_WITHIN_NS);
            self.queue.plan(at, Event::Doomed { client: number, instance, ticket });
        }
    }

    /// The client dies, if it still has the guard, and its lock may get another leader meanwhile.
    pub(crate) fn doomed(&mut self, number: usize, instance: u64, ticket: u64) {
        let client = &self.clients[number - 1];
        let Some(process) = client.process.as_ref().filter(|it| it.instance == instance) else {
            return;
        };
        let Some(taken) = process.taken.get(&ticket) else { return };
        let (Stage::Held(_), Some(agreement)) = (&taken.stage, taken.cell.agreement()) else {
            return;
        };
        let (until, name) = (taken.cell.valid_until(), Arc::clone(&taken.request.name));
        let delay = agreement.condition.lock_delay.unwrap_or_default().as_nanos() as u64;
        if self.is_calm {
            return;
        }
        if let Some(until) = client.clock.when(until)
            && self.dice.agreements.one_in(2)
        {
            let at = until.max(self.now) + self.dice.agreements.below(delay + 1);
            self.queue.plan(at, Event::LeaderLeaves(name));
        }
        let back = self.dice.agreements.around(self.options.fault_mean_ms * MS);
        self.client_ends(number, Some(back));
    }

    /// The range of a lock gets another leader, by a hand-over or by force.
    pub(crate) fn leader_leaves(&mut self, name: &str) {
        if self.is_calm || self.names.is_broken(name) {
            return;
        }
        let Some(leader) = leader_of(&self.stores, self.range_of(name)) else { return };
        let store = leader.number;
        note!(self, "s{store} leaves {name}, whose holder has died");
        self.counters.count("leader changes within a lock-delay");
        if self.dice.agreements.one_in(2) {
            self.store_told(store, Input::HandOver);
        } else {
            let back = self.dice.agreements.around(self.options.fault_mean_ms * MS);
            self.store_ends(store, false, back);
        }
    }

    /// A client dies while it has a guard with a lock-delay: its place stays taken.
    pub(crate) fn dies_holding(&mut self, number: usize, taken: &Taken) {
        let client = &self.clients[number - 1];
        let (Stage::Held(held), Some(agreement)) = (&taken.stage, taken.cell.agreement()) else {
            return;
        };
        let until = taken.cell.valid_until();
        let is_out = taken.cell.lost().is_none() && until > client.now(self.now);
        let joins = taken.request.reenter.is_some() || held.was_reentered;
        let Some(delay) = agreement.condition.lock_delay else { return };
        let name = &taken.request.name;
        // What stays ends by an operator, at any time.
        let stays = agreement.condition.holds();
        if !is_out || joins || held.is_changing || stays || self.names.is_broken(name) {
            return;
        }
        let Some(until) = client.clock.when(until) else { return };
        let until = until + delay.as_nanos() as u64 * CLOCKS / 100;
        let token = held.grant.token.as_u64();
        self.counters.count("deaths with a lock-delay");
        self.checks.agreed.died_holding(name, token, taken.request.mode, until);
    }
}
