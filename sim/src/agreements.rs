//! What clients agree with the cluster beside their leases: conditions, at the acquire and anew while
//! the lock is held; downgrades; attributes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sharklock_client::session::{Change, Changed};
use sharklock_client::{
    AcquireError, ChangeError, Condition, LeaseRule, LockMode, LostReason, Request,
};
use sharklock_history::End;
use sharklock_rangemap::RangeId;

use crate::client::{Held, Stage, Taken};
use crate::dice::Dice;
use crate::note;
use crate::options::Options;
use crate::state_file::StateFile;
use crate::world::{MS, World};

impl Options {
    /// Drawn last, as whatever is new. In two of three runs clients agree on conditions, change them,
    /// keep files of what they hold, and close themselves; and locks are watched.
    pub(crate) fn draw_agreements(&mut self, dice: &mut Dice) {
        let on = !dice.one_in(3);
        let (condition, stays) = (*dice.pick(&[30, 60, 100]), *dice.pick(&[20, 50, 80]));
        let (ask, change) = (*dice.pick(&[0, 30, 100]), dice.scale(200, 4_000));
        let (file, close) = (*dice.pick(&[0, 50, 100, 100]), *dice.pick(&[0, 30, 60]));
        let (revoke, revokes) = (dice.scale(2_000, 60_000), dice.one_in(2));
        let watchers = dice.between(2, 6);
        let (crashes, crash) = (!dice.one_in(4), dice.scale(4_000, 60_000));
        let doomed = *dice.pick(&[0, 10, 40]);
        // L4 compares how fast ranges answer.
        if !on || self.faulty_stores > 0 {
            return;
        }
        (self.condition_pct, self.stays_pct) = (condition, stays);
        (self.ask_pct, self.change_mean_ms) = (ask, change);
        (self.state_file_pct, self.close_pct) = (file, close);
        self.revoke_mean_ms = if revokes && self.force_mean_ms > 0 { revoke } else { 0 };
        self.watchers = watchers;
        // Nothing is taken back, or closed, where no client ends.
        if crashes && self.crash_client_mean_ms == 0 && self.has_faults() {
            self.crash_client_mean_ms = crash;
        }
        self.doomed_pct = if self.crash_client_mean_ms > 0 { doomed } else { 0 };
    }

    /// A condition in order, and the lease that goes with it: the given one, or a little more.
    fn condition(&self, ttl: Duration, dice: &mut Dice) -> (Condition, Duration) {
        let clause = |on: bool, dice: &mut Dice, most: u64| {
            let length = Duration::from_millis(dice.scale(10, most));
            on.then_some(length)
        };
        let stays = dice.below(100) < self.stays_pct;
        let mut condition = Condition::default();
        let mut lease = ttl;
        if stays {
            condition.lease = LeaseRule::Hold;
        } else if dice.one_in(3) {
            let missed = dice.between(3, 6) as u32;
            let interval = Duration::from_millis((ttl.as_millis() as u64).div_ceil(missed.into()));
            condition.lease = LeaseRule::AfterMissed { missed, interval };
            lease = interval * missed;
        }
        let [delays, is_bounded, yields] = [(); 3].map(|()| dice.one_in(2));
        condition.lock_delay = clause(delays, dice, 4_000);
        condition.max_hold = clause(is_bounded && !stays, dice, 15_000);
        condition.ask_grace = clause(yields && !stays, dice, 4_000);
        (condition, lease)
    }
}

impl World {
    /// Files, watchers and revocations of the run.
    pub(crate) fn begin_agreements(&mut self) {
        for client in &mut self.clients {
            if self.dice.agreements.below(100) < self.options.state_file_pct {
                client.file = Some(StateFile::default());
            }
        }
        self.begin_watches();
        self.plan_revocation();
    }

    /// The condition that an acquire with this lease asks for, if any, and the lease then.
    pub(crate) fn wanted_condition(&mut self, ttl: Duration) -> (Condition, Duration) {
        let dice = &mut self.dice.agreements;
        if dice.below(100) >= self.options.condition_pct {
            return (Condition::default(), ttl);
        }
        self.counters.count("conditions asked");
        self.options.condition(ttl, dice)
    }

    /// When a hold that has just begun, or was just changed, is changed next.
    pub(crate) fn next_change_ns(&mut self) -> Option<u64> {
        let mean = self.options.change_mean_ms;
        (mean > 0).then(|| self.now + self.dice.agreements.around(mean * MS))
    }

    /// A task changes what it holds.
    pub(crate) fn change_hold(&mut self, number: usize, ticket: u64) {
        let now_ns = self.now;
        let client = &mut self.clients[number - 1];
        let now = client.now(now_ns);
        let Some(process) = &mut client.process else { return };
        let instance = process.instance;
        let Some(taken) = process.taken.get_mut(&ticket) else { return };
        let (name, mode) = (Arc::clone(&taken.request.name), taken.request.mode);
        let cell = Arc::clone(&taken.cell);
        let ttl = cell.agreement().map_or(taken.request.ttl, |agreement| agreement.ttl);
        let Stage::Held(held) = &mut taken.stage else { return };
        held.change_ns = None;
        let token = held.grant.token.as_u64();
        let change = match self.dice.agreements.below(4) {
            0 | 1 => {
                let (condition, ttl) = self.options.condition(ttl, &mut self.dice.agreements);
                held.bounded_from(now_ns, condition.max_hold);
                client.file_agrees((instance, ticket), condition.holds());
                Change::SetCondition { condition, ttl }
            }
            2 if mode == LockMode::Exclusive && self.dice.agreements.one_in(2) => {
                held.downgrade_ns = Some(now_ns);
                (held.use_ns, held.read) = (None, None);
                self.checks.beliefs.shares(&name, instance, ticket);
                Change::Downgrade
            }
            _ => {
                let value = self.dice.agreements.below(1_000).to_string();
                Change::SetAttributes { attributes: BTreeMap::from([("n".to_owned(), value)]) }
            }
        };
        note!(self, "c{number} changes {name} {ticket}: {change:?}");
        self.counters.count(match &change {
            Change::SetCondition { .. } => "conditions changed",
            Change::Downgrade => "downgrades",
            Change::SetAttributes { .. } => "attributes changed",
        });
        // What was agreed before counts until the answer is there, or does not any more.
        if !matches!(change, Change::SetAttributes { .. }) {
            self.checks.agreed.changes(&name, token);
            self.checks.beliefs.may_change(&name, (instance, ticket), true);
        }
        let client = &mut self.clients[number - 1];
        let process = client.process.as_mut().expect("as above");
        if let Some(Stage::Held(held)) = process.taken.get_mut(&ticket).map(|it| &mut it.stage) {
            held.is_changing = true;
        }
        process.driver.change(now, &cell, change, ticket);
    }

    /// A change has come to its end.
    pub(crate) fn changed(
        &mut self,
        number: usize,
        ticket: u64,
        result: Result<Changed, ChangeError>,
    ) {
        let next = self.next_change_ns();
        let Some(process) = &mut self.clients[number - 1].process else { return };
        let Some(taken) = process.taken.get_mut(&ticket) else { return };
        let (name, key) = (Arc::clone(&taken.request.name), (process.instance, ticket));
        let Stage::Held(held) = &mut taken.stage else { return };
        (held.is_changing, held.change_ns) = (false, next);
        match result {
            Ok(Changed::Agreed(agreement)) => {
                note!(self, "c{number} has agreed on {name} {ticket}: {agreement:?}");
                self.counters.count("conditions agreed anew");
                self.checks.beliefs.may_change(&name, key, false);
                self.agreed(number, ticket);
            }
            Ok(Changed::Downgraded { token, fence_floor, position }) => {
                note!(self, "c{number} shares {name} {ticket} now, token {token}");
                self.counters.count("downgrades done");
                let mut held = held.clone();
                (held.grant.token, held.grant.fence_floor) = (token, fence_floor);
                held.grant.position = position;
                self.downgraded(number, ticket, held);
                self.agreed(number, ticket);
            }
            Ok(Changed::AttributesSet) => {}
            Err(error) => {
                note!(self, "c{number} does not change {name} {ticket}: {error}");
                self.counters.count("changes refused");
            }
        }
    }

    /// The exclusive hold has ended, and a shared one of the same acquisition has begun.
    fn downgraded(&mut self, number: usize, ticket: u64, shared: Held) {
        let now = self.now;
        let Some(process) = &mut self.clients[number - 1].process else { return };
        let instance = process.instance;
        let Some(mut taken) = process.taken.remove(&ticket) else { return };
        let Some(asked) = taken.held().and_then(|held| held.downgrade_ns) else { return };
        self.record_held(number, instance, ticket, &taken, (End::Released, asked, now));
        let name = Arc::clone(&taken.request.name);
        let request = Request { mode: LockMode::Shared, ..Request::clone(&taken.request) };
        (taken.request, taken.asked_ns) = (Arc::new(request), asked);
        (taken.passes_queue, taken.is_second_part) = (true, true);
        let position = shared.grant.position;
        let token = shared.grant.token.as_u64();
        taken.stage = Stage::Held(Held { since_ns: now, downgrade_ns: None, ..shared });
        let client = &mut self.clients[number - 1];
        client.process.as_mut().expect("as above").taken.insert(ticket, taken);
        client.file_granted((instance, ticket), token, None);
        let seen_at = (RangeId(position.range), position.applied_index);
        self.checks.beliefs.has_downgraded(&name, (instance, ticket), token, seen_at);
    }

    /// What a guard has agreed is known: from here on it is what ends the hold.
    pub(crate) fn agreed(&mut self, number: usize, ticket: u64) {
        let Some(process) = &self.clients[number - 1].process else { return };
        let Some(taken) = process.taken.get(&ticket) else { return };
        let (Some(held), Some(agreement)) = (taken.held(), taken.cell.agreement()) else { return };
        let name = &taken.request.name;
        // Another guard of the hold may have wished for something else.
        let joins = taken.request.reenter.is_some();
        if !agreement.claimed || joins || self.names.is_broken(name) {
            return;
        }
        let range = self.range_of(name);
        let at = (range, self.checks.replicas.applied_max(range));
        let key = (process.instance, ticket);
        self.counters.count("holds that stay");
        self.checks.agreed.stays(self.now, name, (number, key), held.grant.token.as_u64(), at);
    }

    /// A guard is handed out: what is agreed about it counts from here on.
    pub(crate) fn begins_to_hold(&mut self, number: usize, ticket: u64) {
        let change_ns = self.next_change_ns();
        let now = self.now;
        let client = &mut self.clients[number - 1];
        let Some(process) = &mut client.process else { return };
        let key = (process.instance, ticket);
        let Some(taken) = process.taken.get_mut(&ticket) else { return };
        let (name, max_hold) = (Arc::clone(&taken.request.name), taken.request.condition.max_hold);
        let ttl = taken.request.ttl;
        let (asked_ns, joins) = (taken.asked_ns, taken.request.reenter.is_some());
        let stays = taken.cell.agreement().is_some_and(|it| it.condition.holds());
        let takes_back = taken.takes_back.clone();
        let Stage::Held(held) = &mut taken.stage else { return };
        held.bounded_from(asked_ns, max_hold);
        if stays && self.dice.agreements.one_in(2) {
            // So long that much may happen to its client meanwhile.
            let longer = 2 * ttl.as_nanos() as u64;
            held.until_ns = held.until_ns.max(now + self.dice.agreements.around(longer));
        }
        // Whoever joins a hold leaves it as it is.
        held.change_ns = change_ns.filter(|_| !joins);
        let token = held.grant.token.as_u64();
        client.file_granted(key, token, Some(stays));
        self.checks.agreed.waits_no_more(now, &name, key);
        if let Some(takes_back) = takes_back {
            self.counters.count("holds taken back");
            self.taken_back(number, &takes_back, true);
        }
        self.agreed(number, ticket);
        self.may_be_doomed(number, ticket);
    }

    /// S14: no lock-delay stood in the way of a grant.
    pub(crate) fn place_was_free(&mut self, number: usize, ticket: u64) -> Result<(), String> {
        let Some(process) = &self.clients[number - 1].process else { return Ok(()) };
        let Some(taken) = process.taken.get(&ticket) else { return Ok(()) };
        let Some(held) = taken.held() else { return Ok(()) };
        let Request { name, mode, reenter, reclaim, .. } = &*taken.request;
        if reenter.is_some() || reclaim.is_some() || self.names.is_broken(name) {
            return Ok(());
        }
        self.checks.agreed.granted(self.now, name, held.grant.token.as_u64(), *mode)
    }

    /// An acquire ends without a guard.
    pub(crate) fn does_not_get(
        &mut self,
        number: usize,
        ticket: u64,
        taken: &Taken,
        error: &AcquireError,
    ) {
        let Some(process) = &self.clients[number - 1].process else { return };
        let key = (process.instance, ticket);
        let is_certain = matches!(
            error,
            AcquireError::Held { .. }
                | AcquireError::WaitTimedOut { .. }
                | AcquireError::HoldLost { .. }
        );
        if is_certain {
            self.checks.agreed.waits_no_more(self.now, &taken.request.name, key);
            self.clients[number - 1].file_forgets(key);
        } else {
            self.checks.agreed.may_wait_on(self.now, &taken.request.name, key);
        }
        if let Some(takes_back) = &taken.takes_back {
            let is_gone = matches!(error, AcquireError::HoldLost { .. });
            self.counters.count(if is_gone { "reclaims of nothing" } else { "reclaims that fail" });
            self.taken_back(number, takes_back, is_gone);
        }
    }

    /// A lost guard goes back.
    pub(crate) fn lets_go(&mut self, number: usize, ticket: u64, taken: &Taken, now: Duration) {
        if let Some(held) = taken.held() {
            self.checks.agreed.changes(&taken.request.name, held.grant.token.as_u64());
        }
        if let Some(process) = &mut self.clients[number - 1].process {
            process.driver.give_back(now, &taken.cell, Some(ticket));
        }
    }

    /// S14: a guard may be lost for this reason, by what was agreed.
    pub(crate) fn may_lose(
        &mut self,
        number: usize,
        ticket: u64,
        taken: &Taken,
        reason: &LostReason,
    ) -> Result<(), String> {
        let Some(process) = &self.clients[number - 1].process else { return Ok(()) };
        let key = (process.instance, ticket);
        let (Some(held), Some(agreement)) = (taken.held(), taken.cell.agreement()) else {
            return Ok(());
        };
        let is_own = taken.request.reenter.is_none() && taken.takes_back.is_none();
        match reason {
            LostReason::Expired if agreement.claimed && !held.is_changing => {
                Err(format!("c{number} is told that its claimed hold {ticket} expired"))
            }
            LostReason::HeldTooLong => {
                self.counters.count("holds that lasted too long");
                match held.bounded_ns {
                    Some(until) if until > self.now && is_own => {
                        Err(format!("c{number} holds {ticket} too long before {until}"))
                    }
                    None if is_own => Err(format!("c{number} has no bound on {ticket}")),
                    Some(_) | None => Ok(()),
                }
            }
            LostReason::AskedFor => {
                self.counters.count("holds that were asked for");
                let grace = agreement.condition.ask_grace.unwrap_or_default();
                let grace = if held.is_changing { 0 } else { grace.as_nanos() as u64 };
                if taken.is_second_part {
                    // It may have been asked for before it was shared.
                    return Ok(());
                }
                let times = (taken.asked_ns, self.now);
                self.checks.agreed.had_to_go(&taken.request.name, key, times, grace)
            }
            LostReason::Orphaned => {
                self.counters.count("holds orphaned under their clients");
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
