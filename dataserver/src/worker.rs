//! One raft worker of a store, which has all of its ranges or a share of them. It takes the calls of
//! gateways, turns them into commands and ReadIndex rounds of their ranges, and answers from what
//! was applied. A core: `now` is an argument, and what it wants done comes out as values.
//!
//! A turn is: `handle` for everything that stood in the mailbox, then one `end_turn`. All commands
//! of a range that came while the disk was busy become one Raft entry (D5), and all questions of a
//! range in a turn share one ReadIndex round (D7). A turn looks at the ranges that want something,
//! and at no other ([`Agenda`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use sharklock_locktable::{Command, Token};
use sharklock_multiraft::{ApplyMeter, AwaitedChild, BatchSeq, Effects, Pacer, Store};
use sharklock_proto::{
    CALL_AGE_MAX,
    internal::v1::{self as internal, StoreCall, store_call::Body},
    v1,
};
use sharklock_rangemap::{ByRange, RangeId};

use crate::{
    admission::Admission,
    agenda::Agenda,
    answers::Replies,
    assignment::Assignment,
    codec::{self, BatchHead},
    front::{Front, Leading, LinkId, ReplyTo},
    journal::Journal,
    lease_clock::{LeaseClock, LeaseKey, STALL_MIN},
    machine::{LockRange, LockRangeOutput},
    memory::{MemoryBounds, StoreMemory},
    moved,
    observed::Observed,
    orphans::Orphans,
    ports::{IdsWanted, Input, Outputs, Pace, WorkerStats},
    range_age::CountedTime,
    reads::{self, Word},
    splitting::RANGES_MAX,
    triggers::SplitLimits,
    wire,
};
use heirs::Heirs;
use oversized::Oversized;
use steps::Steps;
#[cfg(feature = "edge")]
pub use telling::Busy;
pub use telling::ToldFigures;
use whereabouts::Settling;

mod alone;
mod effects;
mod heirs;
mod oversized;
mod splitting;
mod steps;
mod telling;
mod whereabouts;

/// See the module.
///
/// Invariants:
/// - every range of the store has a front;
/// - `now` never goes back from call to call;
/// - whatever changes a front, or the table or the role of its range, wakes the range in `agenda`;
/// - `leaderless` has the ranges of which the engine has not said that somebody leads them;
/// - `memory` has been told of every range at the end of each turn, but for states that a snapshot
///   has brought, of which it is told with the next tick;
/// - the lease clocks are asked for due leases only in a turn whose mailbox was drained;
/// - at the end of a turn `journal` has the word about every range.
pub struct Worker {
    number: usize,
    store: Store<LockRange>,
    fronts: ByRange<Front>,
    agenda: Agenda,
    leaderless: BTreeSet<RangeId>,
    /// What gateways are told of the ranges.
    journal: Journal<Word>,
    /// Of these the masters have not been told what is in the journal, or what their figures are.
    unreported: BTreeSet<RangeId>,
    /// When figures are compared next.
    next_figures: Duration,
    orphans: Orphans,
    /// Ranges that the masters ask about, and when they did last.
    asked_about: BTreeMap<RangeId, Duration>,
    /// How many states had come by snapshots when all ranges were weighed last.
    installed: u64,
    /// The clocks of leaderships that are over.
    retired: Vec<LeaseClock>,
    replies: Replies,
    heirs: Heirs,
    effects: Effects<LockRangeOutput>,
    settling: Settling,
    pace: Pace,
    pacer: Pacer,
    last_turn: Duration,
    counted: CountedTime,
    /// When the batch in flight was handed out.
    batch_since: Option<Duration>,
    /// Up to when stalls are credited: loop and disk may stand still at the same time.
    credited_to: Duration,
    store_status: v1::StoreStatus,
    memory: StoreMemory,
    /// Replicas that the store may have, and those of its other workers.
    ranges_max: usize,
    ranges_elsewhere: usize,
    ids_wanted: Vec<IdsWanted>,
    oversized: Oversized,
    steps: Steps,
    stats: WorkerStats,
    /// What this turn has to tell.
    observed: Observed,
    /// Whether somebody listens to spans.
    traces: bool,
}

impl Worker {
    /// A worker for a recovered store.
    pub fn new(now: Duration, store: Store<LockRange>, pace: Pace) -> Self {
        let ranges = store.ranges();
        let mut agenda = Agenda::default();
        ranges.iter().for_each(|range| agenda.wake(*range));
        Self {
            number: 0,
            store,
            fronts: ranges.iter().map(|range| (*range, Front::default())).collect(),
            agenda,
            leaderless: ranges.into_iter().collect(),
            journal: Journal::default(),
            unreported: BTreeSet::new(),
            next_figures: now,
            orphans: Orphans::default(),
            asked_about: BTreeMap::new(),
            installed: 0,
            retired: Vec::new(),
            replies: Replies::default(),
            heirs: Heirs::default(),
            effects: Effects::default(),
            settling: Settling::default(),
            pace,
            pacer: Pacer::begin(now, pace.tick, pace.flush),
            last_turn: now,
            counted: CountedTime::begin(now),
            batch_since: None,
            credited_to: now,
            store_status: v1::StoreStatus::default(),
            memory: StoreMemory::default(),
            ranges_max: RANGES_MAX,
            ranges_elsewhere: 0,
            ids_wanted: Vec::new(),
            oversized: Oversized::default(),
            steps: Steps::default(),
            stats: WorkerStats::default(),
            observed: Observed::default(),
            traces: false,
        }
    }

    /// The same, with its number among the workers of the store, from 0. What is true of the whole store
    /// the first one says.
    pub fn with_number(mut self, number: usize) -> Self {
        self.number = number;
        self
    }

    /// The same, with bounds on the memory of its locks.
    pub fn with_memory_bounds(mut self, bounds: MemoryBounds) -> Self {
        self.memory = StoreMemory::under(bounds);
        self.weigh_all();
        self
    }

    /// The same, in a store that may have so many replicas, all its workers together. No range that it
    /// leads is split beyond that.
    pub fn with_ranges_max(mut self, ranges_max: usize) -> Self {
        self.ranges_max = ranges_max;
        self
    }

    /// The same, splitting the ranges that it leads beyond these limits.
    pub fn with_split_limits(mut self, limits: SplitLimits) -> Self {
        self.oversized = Oversized::beyond(limits);
        self
    }

    /// The same, telling of calls that are traced: somebody listens.
    pub fn with_traces(mut self, traces: bool) -> Self {
        self.traces = traces;
        self
    }

    /// The same, with somebody who measures how long it applies entries.
    pub fn with_apply_meter(mut self, meter: Arc<dyn ApplyMeter>) -> Self {
        self.effects.meter = Some(meter);
        self
    }

    /// Takes one input.
    pub fn handle(&mut self, now: Duration, input: Input) {
        if let Some(range) = Assignment::is_about_life(&input) {
            self.settling.handled(range);
        }
        match input {
            Input::Calls { link, queued, calls } => {
                for call in calls {
                    self.call(now, link, queued, call);
                }
            }
            Input::LinkClosed(link) => {
                for front in self.fronts.values_mut() {
                    front.subscribers.retain(|_, subscriber| subscriber.link != link);
                }
                self.heirs.forget(link);
                self.replies.forget(link);
            }
            Input::Persisted(seq) => self.persisted(now, seq),
            Input::Message(message) => self.store.hear(*message),
            Input::Heartbeats(heartbeats) => self.store.hear_heartbeats(*heartbeats),
            Input::Snapshots(messages) => self.store.hear_snapshots(messages),
            Input::ChoreDone(done) => self.store.chore_done(*done),
            Input::Unreachable(store) => self.store.unreachable(store),
            Input::Create { descriptor, level } => self.create(descriptor, level),
            Input::RaiseLevel { range, conf_ver, level } => self.raise(range, conf_ver, level),
            Input::Step(step) => self.steps.tell(now, *step),
            Input::GoOnAlone(order) => self.go_on_alone(*order),
            Input::AskedAbout(range) => _ = self.asked_about.insert(range, now),
            Input::Split { range, term, split } => self.split(range, term, split),
            Input::NoIds { wanted, why } => self.no_ids(&wanted, why),
            Input::HandOver => self.store.hand_over(),
            Input::Buried { range, peer } => self.store.buried_elsewhere(range, peer),
        }
    }

    /// Ends a turn. `wall_unix_ms` stamps commands for people. `drained`: the mailbox that stood
    /// at the start of the turn has been handled whole.
    pub fn end_turn(&mut self, now: Duration, wall_unix_ms: u64, drained: bool) -> Outputs {
        self.credit_loop_stall(now);
        self.counted.count(now);
        let is_tick = self.tick(now);
        self.agenda.wake_due(now, is_tick);
        self.follow_time(now, drained);
        self.shed();
        self.begin_reads();
        if !self.store.batch_in_flight() {
            self.propose(now, wall_unix_ms);
        }
        self.store.turn(&mut self.effects);
        let whereabouts = self.settling.follow(&self.effects, &self.store);
        self.follow_effects(now);
        self.rest(now);
        let batch = self.effects.batch.take();
        if batch.is_some() {
            self.batch_since = Some(now);
        }
        Outputs {
            batch,
            replies: self.replies.take(),
            messages: std::mem::take(&mut self.effects.messages),
            heartbeats: std::mem::take(&mut self.effects.heartbeats),
            snapshots: std::mem::take(&mut self.effects.snapshots),
            chores: self.store.take_chores(),
            whereabouts,
            ids_wanted: std::mem::take(&mut self.ids_wanted),
            observed: std::mem::take(&mut self.observed),
        }
    }

    /// When a turn is due even if nothing happens.
    pub fn next_wakeup(&self) -> Duration {
        let is_busy = |range: RangeId| self.fronts.get(&range).is_some_and(Front::is_busy);
        let has_rest = !self.retired.is_empty() || self.store.has_divisions();
        if has_rest || self.agenda.awake().any(is_busy) {
            return Duration::ZERO;
        }
        let next = [Some(self.pacer.next_tick()), self.agenda.next_alarm(), self.commands_due()];
        next.into_iter().flatten().min().expect("there is a next tick")
    }

    /// When commands that wait for the entry under way are to be proposed. While the disk has a batch
    /// none are.
    pub fn commands_due(&self) -> Option<Duration> {
        let held = |range: RangeId| self.fronts.get(&range)?.held_until();
        let disk_is_free = !self.store.batch_in_flight();
        disk_is_free.then(|| self.agenda.awake().filter_map(held).min()).flatten()
    }

    /// Whether this store leads every range it has, and answers.
    pub fn leads_all(&self) -> bool {
        self.fronts.values().all(|front| front.leading.is_some())
    }

    /// Whether this store leads a range, and answers for it.
    pub fn leads(&self, range: RangeId) -> bool {
        self.fronts.get(&range).is_some_and(|front| front.leading.is_some())
    }

    /// Whether each range here knows a leader, this store or another. A store without ranges lacks
    /// none.
    pub fn knows_leaders(&self) -> bool {
        // One that is lost hears nobody; what it knew when it stopped means nothing.
        self.leaderless.is_empty() && self.store.lost().next().is_none()
    }

    /// The replicas that do not follow their ranges, each with why, for people: those to which the
    /// disk counts as lost, and those for whose ranges this program is too old.
    pub fn ailing_replicas(&self) -> Vec<String> {
        let mut ailing = reads::lost_replicas(&self.store);
        ailing.append(&mut reads::behind_replicas(&self.store));
        ailing
    }

    /// Asks for the image to be written in the next batch.
    pub fn flush(&mut self) {
        self.store.flush();
    }

    /// Sets what the status says of the store beside its identity: address, uptime, disk.
    pub fn set_store_status(&mut self, status: v1::StoreStatus) {
        self.store_status = status;
    }

    /// Upper bound of what is left of a hold's lease, as the leader of its range counts. `None` where
    /// this store does not lead, has no such hold or has not taken it up yet, or has proposed its end.
    pub fn lease_left(&self, now: Duration, range: RangeId, hold: Token) -> Option<Duration> {
        let leading = self.fronts.get(&range)?.leading.as_ref()?;
        let key = LeaseKey::Hold(hold);
        let ttl_ms = u64::try_from(leading.clock.ttl(key)?.as_millis()).unwrap_or(u64::MAX);
        leading.clock.remaining(now, key, ttl_ms)
    }

    /// The counters of its work so far.
    pub fn stats(&self) -> WorkerStats {
        self.stats
    }

    /// How much memory the locks of the store's other workers take: the bound of the store is for
    /// all of them together.
    pub fn set_used_elsewhere(&mut self, bytes: u64) {
        self.memory.set_elsewhere(bytes);
    }

    /// How much room the store's disk has; `None`: nobody knows.
    pub fn set_disk_free(&mut self, bytes: Option<u64>) {
        self.store.set_disk_free(bytes);
    }

    /// Replicas that the store's other workers have: the bound of the store is for all of them
    /// together.
    pub fn set_ranges_elsewhere(&mut self, ranges: usize) {
        self.ranges_elsewhere = ranges;
    }

    /// The memory of its locks.
    pub fn memory(&self) -> &StoreMemory {
        &self.memory
    }

    /// The engine, for its status.
    pub fn store(&self) -> &Store<LockRange> {
        &self.store
    }

    fn persisted(&mut self, now: Duration, seq: BatchSeq) {
        self.store.persisted(seq);
        if let Some(since) = self.batch_since.take() {
            self.credit_stall(since, now);
        }
    }

    fn credit_loop_stall(&mut self, now: Duration) {
        let last_turn = std::mem::replace(&mut self.last_turn, now);
        self.credit_stall(last_turn, now);
    }

    /// Credits what went on from `since` to `now`, if that is so long that it is a stall, but for
    /// what has been credited already.
    fn credit_stall(&mut self, since: Duration, now: Duration) {
        let from = since.max(self.credited_to);
        if now.saturating_sub(since) <= STALL_MIN || from >= now {
            return;
        }
        let stall = now - from;
        self.credited_to = now;
        tracing::warn!(
            stall_ms = stall.as_millis() as u64,
            "stall: leases are credited, expiry pauses"
        );
        self.stats.stalls += 1;
        for front in self.fronts.values_mut() {
            if let Some(leading) = &mut front.leading {
                leading.clock.credit_stall(now, stall);
            }
        }
    }

    /// What time does to leaders: their ranges grow older, new ones take leases up, and what is due
    /// is asked for, if that was `drained` which may have renewed it.
    fn follow_time(&mut self, now: Duration, drained: bool) {
        let mut left = self.pace.leases_per_turn;
        for range in self.agenda.awake() {
            let Some(front) = self.fronts.get_mut(&range) else { continue };
            let Some(leading) = &mut front.leading else { continue };
            let table = self.store.machine(range).expect("a leader has its state").table();
            leading.count_age(&self.counted, table);
            // There may be millions of leases, so each turn does a part of them.
            if left > 0 && !leading.clock.is_whole() {
                left = left.saturating_sub(leading.clock.take_up(now, table, left));
            }
            if drained {
                front.ask_due(now);
            }
            front.ask_watched(now);
        }
    }

    /// Lets go of what old leaders leave behind, as much as a turn may.
    fn shed(&mut self) {
        if let Some(clock) = self.retired.last_mut()
            && clock.shed(self.pace.leases_per_turn)
        {
            self.retired.pop();
        }
    }

    /// Whether a tick has passed.
    fn tick(&mut self, now: Duration) -> bool {
        let is_tick = self.pacer.pace(now, &mut self.store);
        if is_tick {
            let installed = self.store.snapshot_stats().installed;
            if std::mem::replace(&mut self.installed, installed) != installed {
                self.weigh_all();
            }
            self.look_at_memory();
            self.heirs.forget_old(now);
            self.split_oversized(now);
            self.do_steps(now);
            self.forget_questions(now);
            self.note_figures(now);
        }
        is_tick
    }

    /// Weighs every range anew: some may have got other tables. To take one in is more work.
    fn weigh_all(&mut self) {
        for (range, front) in self.fronts.iter_mut() {
            let Some(machine) = self.store.machine_mut(*range) else { continue };
            weigh(&mut self.memory, front, machine);
        }
        self.look_at_memory();
    }

    fn look_at_memory(&mut self) {
        if !self.memory.look() || self.number > 0 {
            return;
        }
        let (bytes, bound) =
            (self.memory.used_in_all(), self.memory.bounds().store.unwrap_or(u64::MAX));
        if self.memory.alarm() {
            tracing::warn!(
                bytes,
                bound,
                "the locks of this store take most of the memory that they may (memory.store_max); \
                 beyond it nobody can acquire"
            );
        } else {
            tracing::info!(bytes, bound, "the locks of this store take less memory again");
        }
    }

    fn call(&mut self, now: Duration, link: LinkId, queued: Duration, mut call: StoreCall) {
        let to = ReplyTo { link, tag: call.tag };
        let age = queued + Duration::from_millis(call.age_ms);
        if age > CALL_AGE_MAX {
            self.stats.stale_requests += 1;
            return;
        }
        let Some(body) = call.body.take() else {
            return self.replies.refuse(to, "MALFORMED_CALL", "body is not set");
        };
        if let Body::Describe(question) = body {
            let (store, status) = (&self.store, &self.store_status);
            return match question.heard {
                None => {
                    let figures = |range: RangeId| Some(self.fronts.get(&range)?.figures(now));
                    self.replies.describe(to, store, status, question.only, figures);
                }
                Some(heard) => self.replies.describe_routes(to, store, &self.journal, heard),
            };
        }
        let range = match self.route(&call, &body) {
            Ok(range) => range,
            Err(kind) => return self.replies.fail(to, kind),
        };
        self.agenda.wake(range);
        let front = self.fronts.get_mut(&range).expect("every range has a front");
        let Some(leading) = &mut front.leading else {
            let leader = self.store.status(range).and_then(|status| status.leader);
            return self.replies.not_leader(to, range, leader);
        };
        if let Body::SplitRange(asked) = body {
            return self.asked_to_split(to, range, &asked);
        }
        let table = self.store.machine(range).expect("a leading replica has its state").table();
        leading.count_age(&self.counted, table);
        let descriptor = self.store.descriptor(range).expect("a range has its descriptor");
        // The child may have come to life since the range was looked at last.
        let overlong = front.is_overlong.then(|| self.store.awaited_child(range)).flatten();
        let overlong = overlong.filter(AwaitedChild::is_too_much);
        let traces = self.traces;
        let Self { memory, stats, .. } = self;
        let admission = Admission {
            now,
            age,
            queued,
            traces,
            to,
            front,
            table,
            descriptor,
            overlong,
            memory,
            stats,
        };
        let asked = admission.admit(call, body);
        if let Err(kind) = asked {
            self.replies.fail(to, kind);
        }
    }

    /// The range that a call is for: it must be here, and must hold the name, in the version that
    /// the gateway believes in.
    fn route(&self, call: &StoreCall, body: &Body) -> Result<RangeId, internal::store_error::Kind> {
        let nothing = || wire::refused("MALFORMED_CALL", "the call is about no name");
        let name = body.routed_by().ok_or_else(nothing)?;
        let range = match call.range_id {
            0 => self.store.range_at(name.as_bytes()),
            range => Some(RangeId(range)),
        };
        let found = range.and_then(|range| self.store.descriptor(range));
        match found {
            Some(descriptor)
                if (call.range_id == 0 || call.version == descriptor.epoch.version)
                    && descriptor.bounds.contains(name.as_bytes()) =>
            {
                Ok(descriptor.range)
            }
            _ => Err(moved::epoch_not_match(&self.store, range, body.names())),
        }
    }

    fn begin_reads(&mut self) {
        for range in self.agenda.awake() {
            let Some(front) = self.fronts.get_mut(&range) else { continue };
            if front.reads.is_empty() && front.looks.is_empty() {
                continue;
            }
            // Not begun (just elected): they wait for the next turn, or for step-down.
            if let Ok(read) = self.store.read_index(range) {
                let reads = front.take_reads();
                front.rounds.insert(read, reads);
            }
        }
    }

    fn propose(&mut self, now: Duration, wall_unix_ms: u64) {
        for range in self.agenda.awake() {
            let Some(front) = self.fronts.get_mut(&range) else { continue };
            self.stats.stale_requests += front.drop_stale(now);
            if front.holds(now) {
                continue;
            }
            let count = front.entry_len();
            let Some(Leading { age, version, .. }) = &mut front.leading else { continue };
            let forgets_at_ms = || {
                let machine = self.store.machine(range).expect("a leading replica has its state");
                machine.table().forgets_at_ms()
            };
            if count == 0 && !age.is_due(forgets_at_ms()) {
                continue;
            }
            let passed_ms = age.unproposed_ms();
            let descriptor = self.store.descriptor(range).expect("a range has its descriptor");
            moved::assert_inside(descriptor, &front.proposals.waiting()[..count]);
            let head = BatchHead { version: *version, stamped_unix_ms: wall_unix_ms, passed_ms };
            let (limit, sample) = (self.oversized.limits().commands_per_second, &mut front.sample);
            let encode = |commands: &[Command]| {
                if let Some(limit) = limit {
                    sample.count(now, limit, commands.iter().filter_map(|it| it.names().next()));
                }
                codec::encode_batch(head, commands)
            };
            // If it does not, all wait on, what the lease clock has asked among them; a full queue
            // refuses acquires.
            if front.proposals.propose(&mut self.store, range, count, encode) {
                age.proposed(passed_ms);
                front.load.count(now, count as u64);
                if let Some(at) = front.proposals.newest_in_log() {
                    front.proposed.push(at, now);
                }
                self.stats.entries += 1;
                self.stats.commands += count as u64;
            }
        }
    }

    /// Puts to rest whatever was awake, but for those that have work left.
    fn rest(&mut self, now: Duration) {
        for range in self.agenda.take_awake() {
            self.stats.visits += 1;
            let awaited = self.store.awaited_child(range);
            let (front, machine) = (self.fronts.get_mut(&range), self.store.machine_mut(range));
            let rest = front.zip(machine).map(|(front, machine)| {
                weigh(&mut self.memory, front, machine);
                if let Some(leading) = &mut front.leading {
                    leading.count_age(&self.counted, machine.table());
                }
                if front.is_overlong || awaited.is_some() {
                    splitting::look_at_log(range, front, awaited);
                }
                self.oversized.look(now, range, front, machine.table());
                front.rest(now, machine.table())
            });
            self.agenda.rest(range, rest.unwrap_or_default());
            self.note(range);
        }
    }
}

/// Tells the memory what a range takes now.
fn weigh(memory: &mut StoreMemory, front: &mut Front, machine: &mut LockRange) {
    if !machine.table().counts_prefixes(memory.prefixes()) {
        machine.count_prefixes(memory.prefixes());
    }
    memory.weigh(front, machine.table());
}

#[cfg(test)]
mod removed_by_replay;
#[cfg(test)]
mod tests;
