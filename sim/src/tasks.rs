//! What clients' tasks do with locks: take them, use what they protect, re-enter, give them back,
//! give up, or hear of their loss.

use std::sync::Arc;
use std::time::Duration;

use sharklock_client::session::{LeaseCell, Told};
use sharklock_client::{
    AcquireError, Condition, Grant, Holder, LockMode, LostReason, ReleaseError, Request, Wait,
};
use sharklock_history::{End, Position, Versioned, What};
use sharklock_rangemap::RangeId;

use crate::check::{Belief, Checks};
use crate::client::{Held, Stage, Taken};
use crate::client_hears::ENDED_KNOWN_NS;
use crate::names::{Names, PERMITS};
use crate::note;
use crate::recording::end_of;
use crate::state_file::TakesBack;
use crate::world::{Event, MS, World};

/// Something that reaches the resource behind a lock.
#[derive(Clone, Debug)]
pub struct Use {
    client: usize,
    instance: u64,
    ticket: u64,
    name: Arc<str>,
    token: u64,
    /// What to write; `None`: it reads.
    write: Option<Versioned>,
}

impl World {
    /// Everything that the tasks of a client are due to do.
    pub(crate) fn tasks_act(&mut self, number: usize) {
        let Some(process) = &self.clients[number - 1].process else { return };
        let (now, instance, is_closing) = (self.now, process.instance, process.is_closing);
        let idle: Vec<usize> = process
            .tasks
            .iter()
            .enumerate()
            .filter(|(_, task)| task.ticket.is_none() && task.next_ns <= now)
            .map(|(at, _)| at)
            .collect();
        let open: Vec<u64> = process.taken.keys().copied().collect();
        for ticket in open {
            self.task_goes_on(number, ticket);
        }
        for task in idle {
            if self.is_winding_down || is_closing {
                let process = self.clients[number - 1].process.as_mut().expect("as above");
                process.tasks[task].next_ns = u64::MAX;
            } else {
                self.take_lock(number, instance, task);
            }
        }
    }

    /// A task asks for a lock.
    fn take_lock(&mut self, number: usize, instance: u64, task: usize) {
        let dice = &mut self.dice.tasks;
        let options = &self.options;
        let name = self.names.draw(dice).to_owned();
        let mode = if Names::has_permits(&name) {
            LockMode::Permits { n: dice.between(1, PERMITS.into()) as u32, of: PERMITS }
        } else if dice.below(100) < options.shared_pct {
            LockMode::Shared
        } else {
            LockMode::Exclusive
        };
        let ttl = Duration::from_millis(dice.between(options.ttl_min_ms, options.ttl_max_ms));
        let kind = dice.below(100);
        let wait = if kind < options.try_pct {
            Wait::Try
        } else if kind < options.try_pct + options.bounded_wait_pct {
            Wait::AtMost(Duration::from_millis(dice.scale(10, 20_000)))
        } else {
            Wait::Unbounded
        };
        let gives_up = dice.below(100) < options.give_up_pct;
        let give_up_ns =
            gives_up.then(|| self.now + dice.scale(1, options.give_up_max_ms * 1_000) * 1_000);
        let (condition, ttl) = self.wanted_condition(ttl);
        let asks = wait != Wait::Try && self.dice.agreements.below(100) < self.options.ask_pct;
        let request = Request {
            name: Arc::from(name),
            mode,
            ttl,
            wait,
            reenter: None,
            reclaim: None,
            condition,
            ask: asks,
            owner: Arc::from(format!("c{number}/{instance}/{task}")),
            attributes: Default::default(),
            traceparent: String::new(),
        };
        self.ask(number, Some(task), request, (give_up_ns, None));
    }

    /// A session asks for a hold back, which belongs to no task.
    pub(crate) fn ask_back(&mut self, number: usize, request: Request, takes_back: TakesBack) {
        self.ask(number, None, request, (None, Some(takes_back)));
    }

    fn ask(
        &mut self,
        number: usize,
        task: Option<usize>,
        request: Request,
        (give_up_ns, takes_back): (Option<u64>, Option<TakesBack>),
    ) {
        let client = &mut self.clients[number - 1];
        let now = client.now(self.now);
        let Some(process) = &mut client.process else { return };
        process.last_ticket += 1;
        let ticket = process.last_ticket;
        let (request, cell) = (Arc::new(request), Arc::new(LeaseCell::default()));
        let key = (process.instance, ticket);
        process.driver.acquire(now, Arc::clone(&request), Arc::clone(&cell), ticket);
        if let Some(task) = task {
            process.tasks[task].ticket = Some(ticket);
        }
        note!(
            self,
            "c{number} wants {} as {ticket}: {:?} {:?} ttl {:?} again {:?} back {:?} {:?}",
            request.name,
            request.mode,
            request.wait,
            request.ttl,
            request.reenter,
            request.reclaim,
            request.condition
        );
        self.counters.count("acquires");
        let stage = Stage::Acquiring { give_up_ns };
        let (asked_ns, wishes) = (self.now, 0);
        let passes_queue = takes_back.is_some();
        self.checks.agreed.waits(asked_ns, &request.name, key);
        let taken = Taken {
            task,
            request: Arc::clone(&request),
            cell,
            asked_ns,
            stage,
            wishes,
            takes_back,
            passes_queue,
            is_second_part: false,
        };
        process.taken.insert(ticket, taken);
        client.file_intends(key, &request);
    }

    /// One acquisition goes on, if something is due.
    fn task_goes_on(&mut self, number: usize, ticket: u64) {
        let now = self.now;
        let Some(process) = &mut self.clients[number - 1].process else { return };
        let Some(taken) = process.taken.get_mut(&ticket) else { return };
        match &mut taken.stage {
            Stage::Acquiring { give_up_ns } => {
                let winding = self.is_winding_down;
                if winding || give_up_ns.is_some_and(|at| at <= now) {
                    self.give_up(number, ticket);
                }
            }
            Stage::Held(held) => {
                if self.is_winding_down || held.until_ns <= now {
                    return self.give_back(number, ticket);
                }
                if held.change_ns.is_some_and(|at| at <= now) {
                    return self.change_hold(number, ticket);
                }
                if held.reenter_ns.is_some_and(|at| at <= now) {
                    (held.reenter_ns, held.was_reentered) = (None, true);
                    self.reenter(number, ticket);
                }
                self.use_lock(number, ticket);
            }
            Stage::Releasing { .. } => {}
        }
    }

    /// The acquire future is dropped.
    fn give_up(&mut self, number: usize, ticket: u64) {
        let client = &mut self.clients[number - 1];
        let now = client.now(self.now);
        let Some(process) = &mut client.process else { return };
        let Some(taken) = process.taken.remove(&ticket) else { return };
        taken.cell.abandon();
        process.driver.give_back(now, &taken.cell, Some(ticket));
        note!(self, "c{number} gives up {} {ticket}", taken.request.name);
        self.counters.count("given up");
        if let Some(takes_back) = &taken.takes_back {
            self.taken_back(number, takes_back, false);
        }
        self.record_unknown(number, ticket, &taken);
        self.task_is_free(number, &taken);
    }

    /// A guard is released or dropped.
    fn give_back(&mut self, number: usize, ticket: u64) {
        let dropped = self.dice.tasks.below(100) < self.options.drop_guard_pct;
        let now_ns = self.now;
        let client = &mut self.clients[number - 1];
        let now = client.now(now_ns);
        let Some(process) = &mut client.process else { return };
        let instance = process.instance;
        let Some(taken) = process.taken.get_mut(&ticket) else { return };
        let Stage::Held(held) = &taken.stage else { return };
        let (held, name) = (held.clone(), Arc::clone(&taken.request.name));
        // A lease that has lapsed by now counts as lost even if its renewal is on the way.
        let lapsed = if dropped {
            taken.cell.close();
            None
        } else {
            // Who closes its client gives back what it has.
            taken.cell.give_back(now).err().filter(|lost| *lost != LostReason::Closed)
        };
        let waits = lapsed.is_none() && !dropped;
        let cell = Arc::clone(&taken.cell);
        process.driver.give_back(now, &cell, Some(ticket));
        note!(self, "c{number} gives back {name} {ticket} token {}", held.grant.token);
        self.checks.beliefs.end(&name, instance, ticket);
        self.checks.agreed.changes(&name, held.grant.token.as_u64());
        if waits {
            let process = self.clients[number - 1].process.as_mut().expect("as above");
            let taken = process.taken.get_mut(&ticket).expect("as above");
            taken.stage = Stage::Releasing { held, since_ns: now_ns };
            return;
        }
        let process = self.clients[number - 1].process.as_mut().expect("as above");
        let taken = process.taken.remove(&ticket).expect("as above");
        let end = lapsed.as_ref().map_or(End::ReleaseUnknown, end_of);
        self.record_held(number, instance, ticket, &taken, (end, now_ns, now_ns));
        self.task_is_free(number, &taken);
    }

    /// The same session asks for what it holds.
    fn reenter(&mut self, number: usize, ticket: u64) {
        let Some(process) = &self.clients[number - 1].process else { return };
        let Some(taken) = process.taken.get(&ticket) else { return };
        let Some(held) = taken.held() else { return };
        let request = Request {
            reenter: Some(held.grant.token),
            reclaim: None,
            condition: Condition::default(),
            ask: false,
            ..Request::clone(&taken.request)
        };
        self.counters.count("re-entries asked");
        self.ask(number, None, request, (None, None));
    }

    /// The lock's holder reads or writes what it protects, as long as it believes that it holds.
    fn use_lock(&mut self, number: usize, ticket: u64) {
        let now_ns = self.now;
        let client = &mut self.clients[number - 1];
        let now = client.now(now_ns);
        let Some(process) = &mut client.process else { return };
        let instance = process.instance;
        let Some(taken) = process.taken.get_mut(&ticket) else { return };
        let cell = Arc::clone(&taken.cell);
        let Stage::Held(held) = &mut taken.stage else { return };
        if held.use_ns.is_none_or(|at| at > now_ns) {
            return;
        }
        held.use_ns = None;
        if cell.check(now).is_err() {
            // `hear_of_losses` gives it back.
            return;
        }
        let (token, write) = (held.grant.token.as_u64(), held.read.take());
        let name = Arc::clone(&taken.request.name);
        // Most come at once, a few so late that another holder may have been there.
        let late = match self.dice.tasks.below(20) {
            0 => self.dice.tasks.below(15_000) * MS,
            _ => self.stream_delay_ns(),
        };
        let used = Use { client: number, instance, ticket, name, token, write };
        self.queue.plan(now_ns + late, Event::Used(Box::new(used)));
    }

    /// Something reaches the resource: it compares tokens, on reads and on writes (S2).
    pub(crate) fn used(&mut self, used: Use) {
        let Use { client, instance, ticket, name, token, write } = used;
        let resource = self.resources.entry(name.to_string()).or_default();
        let owner = (instance << 32) | ticket;
        let (read, refused) = match write {
            None => match resource.read(token, owner) {
                Ok(read) => (Some(read), false),
                Err(_) => (None, true),
            },
            Some(read) => (None, resource.write(token, owner, read, owner).is_err()),
        };
        self.counters.count(if refused { "uses refused" } else { "uses" });
        if let Some(fault) = resource.faults().first().copied() {
            return self.violated("S2", &[name.to_string()], format_args!("{name}: {fault}"));
        }
        let think = self.dice.tasks.around(self.options.use_mean_ms * MS);
        let Some(process) = &mut self.clients[client - 1].process else { return };
        if process.instance != instance {
            return;
        }
        let Some(taken) = process.taken.get_mut(&ticket) else { return };
        if let Stage::Held(held) = &mut taken.stage {
            held.read = read;
            // Who is refused has lost the lock, and stops using it.
            held.use_ns = (!refused).then_some(self.now + think);
            self.arm_client(client);
        }
    }

    /// What the driver tells of an acquire or a release.
    pub(crate) fn told(&mut self, number: usize, told: Told<u64, u64, u64>) {
        match told {
            Told::Acquired { ticket, result: Ok(grant) } => self.granted(number, ticket, grant),
            Told::Acquired { ticket, result: Err(error) } => self.refused(number, ticket, &error),
            Told::Released { ticket, result } => self.closed(number, ticket, &result),
            Told::Changed { ticket, result } => self.changed(number, ticket, result),
            Told::Closed(_) => {
                if let Some(process) = &mut self.clients[number - 1].process {
                    process.has_closed = true;
                }
            }
            Told::Event(_) => {}
        }
    }

    /// What was given back is closed, or nobody can say; its task waits for that, or has gone on.
    fn closed(&mut self, number: usize, ticket: u64, result: &Result<(), ReleaseError>) {
        let Some(process) = &self.clients[number - 1].process else { return };
        let instance = process.instance;
        let end = match result {
            Ok(()) => End::Released,
            Err(ReleaseError::Lost(lost)) => end_of(&lost.reason),
            Err(_) => End::ReleaseUnknown,
        };
        let is_over = matches!(end, End::Released | End::ToldGone);
        if is_over {
            self.clients[number - 1].file_forgets((instance, ticket));
        }
        self.counters.count(if is_over { "closes confirmed" } else { "closes unconfirmed" });
        let Some(process) = &self.clients[number - 1].process else { return };
        let (is_withdrawn, name) = (process.talk.closes(ticket), process.talk.name(ticket));
        if let Some(name) = &name {
            let key = (instance, ticket);
            match is_over {
                true => self.checks.agreed.waits_no_more(self.now, name, key),
                false => self.checks.agreed.may_wait_on(self.now, name, key),
            }
        }
        if is_over
            && (is_withdrawn || self.replays.is_dead(instance, ticket))
            && let Some(name) = name
        {
            self.is_finished(&name, instance, ticket);
        }
        let Some(process) = &mut self.clients[number - 1].process else { return };
        let Some(taken) = process.taken.remove(&ticket) else {
            return note!(self, "c{number} closed {ticket}: {end:?}");
        };
        let Stage::Releasing { since_ns, .. } = taken.stage else {
            unreachable!("who waits for the close of an acquisition is releasing it")
        };
        note!(self, "c{number} closed {} {ticket}: {end:?}", taken.request.name);
        self.record_held(number, instance, ticket, &taken, (end, since_ns, self.now));
        self.task_is_free(number, &taken);
    }

    fn granted(&mut self, number: usize, ticket: u64, grant: Grant) {
        let now = self.now;
        let Some(process) = &mut self.clients[number - 1].process else { return };
        let instance = process.instance;
        let Some(taken) = process.taken.get_mut(&ticket) else { return };
        assert_eq!(grant.id.0, ticket, "ids are given in order");
        let (name, mode) = (Arc::clone(&taken.request.name), taken.request.mode);
        let (asked_ns, cell) = (taken.asked_ns, Arc::clone(&taken.cell));
        let dice = &mut self.dice.tasks;
        let joins = taken.request.reenter.is_some();
        let until_ns = now + dice.around(self.options.hold_mean_ms * MS);
        let uses = mode == LockMode::Exclusive && !joins && !self.names.is_broken(&name);
        let reenters = !joins && dice.below(100) < self.options.reenter_pct;
        taken.stage = Stage::Held(Held {
            grant,
            since_ns: now,
            until_ns,
            use_ns: uses.then_some(now),
            read: None,
            reenter_ns: reenters.then(|| now + dice.below(until_ns - now + 1)),
            was_reentered: false,
            change_ns: None,
            is_changing: false,
            downgrade_ns: None,
            bounded_ns: None,
            is_stopping: false,
        });
        let (token, applied_index) = (grant.token.as_u64(), grant.position.applied_index);
        let seen_at = (RangeId(grant.position.range), applied_index);
        note!(self, "c{number} holds {name} {ticket} token {token} at {applied_index}");
        self.begins_to_hold(number, ticket);
        if let Err(what) = self.place_was_free(number, ticket) {
            return self.violated("S14", &[name.to_string()], format_args!("{what}"));
        }
        self.counters.count("grants");
        if asked_ns + 5 * MS < now {
            self.counters.count("grants after a wait");
        }
        let given = self.checks.beliefs.token_given(&name, token, asked_ns, now, joins);
        if let Err(what) = given {
            return self.violated("S3", &[name.to_string()], format_args!("{what}"));
        }
        if !self.names.is_broken(&name) {
            let compared = Duration::ZERO;
            let client = number;
            let belief = Belief {
                client,
                instance,
                id: ticket,
                token,
                mode,
                cell,
                seen_at,
                compared,
                is_downgrading: false,
                may_have_changed: joins,
            };
            self.checks.beliefs.begin(&name, belief);
        }
    }

    fn refused(&mut self, number: usize, ticket: u64, error: &AcquireError) {
        let Some(process) = &mut self.clients[number - 1].process else { return };
        let instance = process.instance;
        let Some(taken) = process.taken.remove(&ticket) else { return };
        note!(self, "c{number} does not get {} {ticket}: {error}", taken.request.name);
        self.does_not_get(number, ticket, &taken, error);
        let token = |holders: &[Holder]| {
            holders.first().and_then(|holder| holder.token).map_or(0, |token| token.as_u64())
        };
        match error {
            AcquireError::Held { holders, .. } => {
                self.counters.count("refused tries");
                let what = What::Refused { holder: token(holders) };
                self.record(instance, ticket, &taken, Position::UNKNOWN, what);
                self.is_finished(&taken.request.name, instance, ticket);
            }
            // Whom the client has heard of need not hold any more.
            AcquireError::WaitTimedOut { .. } => {
                self.counters.count("waits timed out");
                self.record_unknown(number, ticket, &taken);
            }
            AcquireError::HoldLost { .. } => {
                self.counters.count("re-entries too late");
                // An earlier attempt may have joined the hold, and have ended and been forgotten since.
                if self.now - taken.asked_ns > ENDED_KNOWN_NS {
                    self.record_unknown(number, ticket, &taken);
                }
            }
            _ => {
                self.counters.count("acquires without an answer");
                self.record_unknown(number, ticket, &taken);
            }
        }
        self.task_is_free(number, &taken);
    }

    /// Guards tell their users of a loss: they stop and give the guard back.
    pub(crate) fn hear_of_losses(&mut self, number: usize) {
        let Some(process) = &self.clients[number - 1].process else { return };
        let instance = process.instance;
        let is_lost = |taken: &Taken| {
            let lost = taken.cell.lost().filter(|lost| **lost != LostReason::Closed);
            matches!(taken.stage, Stage::Held(_)) && lost.is_some()
        };
        let lost: Vec<u64> =
            process.taken.iter().filter(|(_, it)| is_lost(it)).map(|(ticket, _)| *ticket).collect();
        for ticket in lost {
            let client = &mut self.clients[number - 1];
            let now = client.now(self.now);
            let Some(process) = &mut client.process else { return };
            let Some(taken) = process.taken.remove(&ticket) else { continue };
            let reason = taken.cell.lost().cloned().expect("it has just been seen");
            let is_asking = process.talk.is_asking(ticket);
            let end = end_of(&reason);
            if let Err(what) = self.may_lose(number, ticket, &taken, &reason) {
                let name = taken.request.name.to_string();
                return self.violated("S14", &[name], format_args!("{what}"));
            }
            if !self.takes_own_back(number, ticket, &taken) {
                // The release tells a cluster that waits for it that the user has stopped.
                taken.cell.close();
                self.lets_go(number, ticket, &taken, now);
            }
            let name = Arc::clone(&taken.request.name);
            note!(self, "c{number} loses {name} {ticket}: {reason}");
            self.counters.count("guards lost");
            if reason == LostReason::Unrenewed && is_asking {
                self.mark("leases lost while a renewal was on its way", number);
            }
            self.checks.beliefs.end(&name, instance, ticket);
            if end == End::ToldGone {
                self.is_finished(&name, instance, ticket);
            }
            self.record_held(number, instance, ticket, &taken, (end, self.now, self.now));
            self.task_is_free(number, &taken);
        }
    }

    fn task_is_free(&mut self, number: usize, taken: &Taken) {
        let think = self.dice.tasks.around(self.options.think_mean_ms * MS);
        let Some(process) = &mut self.clients[number - 1].process else { return };
        if let Some(task) = taken.task {
            process.tasks[task].ticket = None;
            process.tasks[task].next_ns = self.now + think;
        }
    }

    /// The client was told that the acquisition is over: whatever was applied by now says so.
    fn is_finished(&mut self, name: &str, instance: u64, id: u64) {
        let range = self.range_of(name);
        let Checks { finished, replicas, tiling, .. } = &mut self.checks;
        finished.told((instance, id), (range, replicas.applied_max(range)), tiling);
    }
}
