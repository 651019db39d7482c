//! The worker follows its engine: ranges that come, change and go, roles that change, entries that
//! are applied and reads that are answered.

use std::time::Duration;

use sharklock_locktable::{
    Change, Command, FEATURE_LEVEL, Finished, Outcome, RaiseFeatureLevel, Reply,
};
use sharklock_multiraft::{Applied, EntryAt, Matched, ReadId, RoleChange, RoleNow};
use sharklock_rangemap::{Descriptor, RangeId};
use tracing::field::display;

use super::Worker;
use crate::{
    attempts::Attempts,
    front::{Asker, Front, Leading, Read},
    lease_clock::LeaseClock,
    load::Load,
    load_sample::LoadSample,
    machine::{LockRange, LockRangeOutput},
    moved::{self, Left},
    ports::WorkerStats,
    range_age::RangeAge,
    tracing_calls,
};

impl Worker {
    /// Follows what the engine did, in the order in which it says so: entries applied, reads
    /// cleared, leadership won and lost.
    pub(super) fn follow_effects(&mut self, now: Duration) {
        let mut effects = std::mem::take(&mut self.effects);
        for range in effects.born.drain(..) {
            self.admit(range);
        }
        let mut kept_back = Vec::new();
        for Applied { range, at, output } in effects.applied.drain(..) {
            let may_be_split = output.is_none();
            self.applied(now, range, at, output);
            if may_be_split {
                kept_back.extend(self.open_gate(now, range, at.index));
            }
        }
        // Behind everything that was applied before the bounds changed and is about names that have
        // left: the clock has followed that, too.
        for range in effects.changed.drain(..) {
            self.agenda.wake(range);
            self.follow_bounds(now, range);
        }
        for (range, keepalives) in kept_back {
            self.answer(now, range, keepalives);
        }
        for ready in effects.reads.drain(..) {
            self.answer_reads(now, ready.range, ready.read);
        }
        for change in effects.roles.drain(..) {
            let RoleChange { range, role } = change;
            self.agenda.wake(range);
            if let Some(front) = self.fronts.get_mut(&range) {
                front.led = match role {
                    RoleNow::Leader { term } => (term, Some(self.store.ident().store)),
                    RoleNow::Follower { term, leader } => (term, leader),
                };
            }
            match role {
                RoleNow::Leader { .. } | RoleNow::Follower { leader: Some(_), .. } => {
                    self.leaderless.remove(&range);
                }
                RoleNow::Follower { leader: None, .. } => _ = self.leaderless.insert(range),
            }
            // One that has ended in the same turn has no state any more.
            let is_here = self.store.machine(range).is_some();
            match role {
                RoleNow::Leader { term } if is_here => self.begin_to_lead(now, range, term),
                RoleNow::Leader { .. } | RoleNow::Follower { .. } => self.step_down(range),
            }
        }
        for range in effects.gone.drain(..) {
            self.end(range);
        }
        effects.buried.clear();
        self.effects = effects;
    }

    pub(super) fn create(&mut self, descriptor: Descriptor, level: u64) {
        let range = descriptor.range;
        let machine = match LockRange::at_level(level) {
            Ok(machine) => machine,
            Err(why) => {
                tracing::error!(%range, %why, "the master's replica needs a newer program");
                return;
            }
        };
        match self.store.create(descriptor, machine) {
            // It has a front once it is born.
            Ok(()) => {}
            Err(why) => tracing::error!(%range, %why, "the master's replica is not made"),
        }
    }

    /// A range is here, and may have been.
    fn admit(&mut self, range: RangeId) {
        if !self.fronts.contains_key(&range) {
            self.fronts.insert(range, Front::default());
            self.leaderless.insert(range);
        }
        self.agenda.wake(range);
    }

    /// A range is not here any more. Whoever waits for it finds it elsewhere.
    fn end(&mut self, range: RangeId) {
        self.step_down(range);
        self.leaderless.remove(&range);
        self.agenda.wake(range);
        if let Some(front) = self.fronts.remove(&range) {
            self.memory.forget(&front);
        }
    }

    /// Asks the range's log for newer rules, if it is led here and has the replicas that were asked
    /// about. The masters repeat it until it is done; twice does no harm.
    pub(super) fn raise(&mut self, range: RangeId, conf_ver: u64, level: u64) {
        let Some(front) = self.fronts.get_mut(&range).filter(|it| it.leading.is_some()) else {
            return;
        };
        let descriptor = self.store.descriptor(range).expect("a range has its descriptor");
        let table = self.store.machine(range).expect("a leading replica has its state").table();
        let is_wanted = (table.feature_level() + 1..=FEATURE_LEVEL).contains(&level);
        if is_wanted && descriptor.epoch.conf_ver == conf_ver {
            let from = table.feature_level();
            tracing::info!(%range, from, to = level, "a range takes up newer rules");
            self.agenda.wake(range);
            front.ask(Command::RaiseFeatureLevel(RaiseFeatureLevel { level }), Asker::Clock);
        }
    }

    fn begin_to_lead(&mut self, now: Duration, range: RangeId, term: u64) {
        let front = self.fronts.get_or_insert_with(range, Front::default);
        let table = self.store.machine(range).expect("a leading replica has its state").table();
        let clock = LeaseClock::promote(now, term, self.pace.election_max());
        let counts = table.counts();
        let (store, leases) = (self.store.ident().store, counts.holds + counts.waiters);
        tracing::info!(%range, %store, term, leases, "this store leads a range");
        let age = RangeAge::promote(&self.counted, table.age_ms());
        let version = self.store.descriptor(range).expect("it leads the range").epoch.version;
        let clock = clock.in_quarantine(now, table.quarantine());
        front.leading = Some(Leading { clock, age, version });
        front.subscribers.extend(self.heirs.take(table));
        front.load = Load::begin(now);
        front.sample = LoadSample::begin(now);
        self.stats.promotions += 1;
        if self.oversized.take_to_hand_on(range) {
            self.store.hand_over_one(range, None);
        }
    }

    fn step_down(&mut self, range: RangeId) {
        let Some(front) = self.fronts.get_mut(&range) else { return };
        if front.leading.is_none() && !front.proposals.is_in_log() {
            return;
        }
        let status = self.store.status(range);
        let leader = status.and_then(|status| status.leader);
        if front.leading.is_some() {
            let (store, term) = (self.store.ident().store, status.map(|status| status.term));
            let leader = leader.map(display);
            tracing::info!(%range, %store, term, leader, "this store leads a range no longer");
        }
        self.retired.extend(front.leading.take().map(|leading| leading.clock));
        let (not_done, on_their_way) = front.step_down();
        for to in not_done {
            self.replies.not_leader(to, range, leader);
        }
        for to in on_their_way {
            self.replies.indeterminate(to);
        }
    }

    fn applied(
        &mut self,
        now: Duration,
        range: RangeId,
        at: EntryAt,
        output: Option<LockRangeOutput>,
    ) {
        self.agenda.wake(range);
        let front = self.fronts.get_mut(&range).expect("a front ends behind its range's entries");
        let Matched { askers, overtaken } = front.applied(at);
        let proposed = front.proposed.applied(at);
        self.observed.commits.extend(proposed.map(|proposed| now.saturating_sub(proposed)));
        for to in overtaken.iter().filter_map(Asker::reply_to) {
            self.replies.indeterminate(to);
        }
        let Some(output) = output else { return };
        let Some(table) = self.store.machine(range).map(LockRange::table) else {
            // The range has ended in the same turn. What was decided stands; who asked asks elsewhere.
            for to in askers.iter().filter_map(Asker::reply_to) {
                self.replies.indeterminate(to);
            }
            return;
        };
        let outcomes = match output {
            LockRangeOutput::Done(outcomes) => outcomes,
            LockRangeOutput::Moved(commands) => {
                return self.not_applied(now, range, commands, askers);
            }
        };
        let applied = self.store.status(range).map_or(at.index, |status| status.applied);
        let (at, subscribers) = ((at.index, applied), &mut front.subscribers);
        let mut answers = self.replies.at(now, &self.store, range, at, subscribers);
        let mut askers = askers.into_iter();
        for outcome in outcomes {
            let asker = askers.next().unwrap_or(Asker::Clock);
            let clock = front.leading.as_mut().map(|leading| &mut leading.clock);
            if let Some(clock) = clock {
                follow(&mut front.attempts, &asker, &outcome);
                self.observed.outcome(now, clock, &asker, &outcome);
                let (waits, spans) = (&mut front.traced, &mut self.observed.spans);
                tracing_calls::follow(now, (at.0, proposed), &asker, &outcome, waits, spans);
                for change in &outcome.changes {
                    clock.follow(now, change, table);
                    if let Change::Granted { acquisition, grant, from_queue: true, .. } = change
                        && answers.listens(*acquisition)
                    {
                        clock.tell(grant.token);
                    }
                    count(&mut self.stats, change);
                    if let Some(name) = change.name() {
                        front.watches.changed(name);
                    }
                }
            }
            let clock = front.leading.as_ref().map(|leading| &leading.clock);
            match &mut front.gate {
                Some(gate) => gate.hold(at.0, asker, outcome),
                None => answers.outcome(asker, outcome, clock),
            }
        }
        if let Some(leading) = &front.leading {
            for name in front.watches.take_changed() {
                answers.tell_watchers(&name, &leading.clock, &mut front.watches);
            }
        }
    }

    /// An entry whose range had other bounds by the time that it was its turn.
    fn not_applied(
        &mut self,
        now: Duration,
        range: RangeId,
        commands: Vec<Command>,
        askers: Vec<Asker>,
    ) {
        let front = self.fronts.get_mut(&range).expect("every range has a front");
        let bounds = &self.store.descriptor(range).expect("a range has its descriptor").bounds;
        // Every replica leaves them out; who had proposed them counts them.
        if front.leading.is_some() {
            self.stats.moved += commands.len() as u64;
        }
        let mut askers = askers.into_iter();
        for command in commands {
            let asker = askers.next().unwrap_or(Asker::Clock);
            front.not_applied(now, &command, &asker, bounds);
            let Some(to) = asker.reply_to() else { continue };
            let name = command.names().next().map_or("", |name| name.as_str());
            self.replies.fail(to, moved::epoch_not_match(&self.store, Some(range), [name]));
        }
    }

    /// The bounds or the members of a range have changed.
    pub(super) fn follow_bounds(&mut self, now: Duration, range: RangeId) {
        let Some(front) = self.fronts.get_mut(&range) else { return };
        self.stats.changes += u64::from(front.leading.is_some());
        let table = self.store.machine(range).expect("its bounds have just changed").table();
        let descriptor = self.store.descriptor(range).expect("a range has its descriptor");
        let Left { calls, listeners } = front.follow_bounds(descriptor, table);
        for (to, name) in calls {
            let moved = moved::epoch_not_match(&self.store, Some(range), [name.as_str()]);
            self.replies.fail(to, moved);
        }
        self.heirs.keep(now, listeners);
    }

    fn answer_reads(&mut self, now: Duration, range: RangeId, read: ReadId) {
        self.agenda.wake(range);
        let Some(front) = self.fronts.get_mut(&range) else { return };
        let mut reads = front.cleared_by(read);
        if let Some(gate) = &mut front.gate {
            reads = gate.hold_keepalives(reads);
        }
        self.answer(now, range, reads);
    }

    /// Answers questions for which nothing is missing any more.
    fn answer(&mut self, now: Duration, range: RangeId, reads: Vec<Read>) {
        let Some(front) = self.fronts.get_mut(&range) else { return };
        let Some(leading) = &mut front.leading else { return };
        if self.store.machine(range).is_none() {
            // The range has ended in the same turn.
            for read in reads {
                self.replies.not_leader(read.to, range, None);
            }
            return;
        }
        let applied = self.store.status(range).map_or(0, |status| status.applied);
        let (at, subscribers) = ((applied, applied), &mut front.subscribers);
        let mut answers = self.replies.at(now, &self.store, range, at, subscribers);
        for read in reads {
            answers.read(read, &mut leading.clock, &mut front.attempts, &mut front.watches);
        }
    }
}

/// What an applied command means for who waits for its acquisition.
fn follow(attempts: &mut Attempts, asker: &Asker, outcome: &Outcome) {
    outcome.changes.iter().for_each(|change| attempts.observe(change));
    match asker {
        Asker::Acquire { acquisition, .. } => {
            let is_live = matches!(outcome.reply, Reply::Granted(_) | Reply::Queued { .. });
            attempts.settled(*acquisition, is_live);
        }
        Asker::Withdrawal(acquisition) => attempts.withdrawn(*acquisition),
        Asker::Clock | Asker::Agree { .. } | Asker::Call { .. } => {}
    }
}

fn count(stats: &mut WorkerStats, change: &Change) {
    match change {
        Change::Granted { .. } => stats.grants += 1,
        Change::HoldEnded { how: Finished::Expired, .. } => stats.expiries.hold += 1,
        Change::HoldEnded { how: Finished::HeldTooLong, .. } => stats.expiries.max_hold += 1,
        Change::HoldEnded { how: Finished::AskedFor, .. } => stats.expiries.asked += 1,
        Change::Orphaned { .. } => stats.expiries.orphaned += 1,
        Change::WaiterLeft { how: Finished::Expired, .. } => stats.expiries.waiter += 1,
        Change::WaiterLeft { how: Finished::WaitTimedOut, .. } => stats.wait_timeouts += 1,
        _ => {}
    }
}
