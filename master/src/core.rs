//! One master: takes questions and what other masters say, proposes, and answers from what was
//! applied. A core: `now` is an argument, and what it wants done comes out as values.
//!
//! A turn is: `handle` for everything that has come, then one `end_turn`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use sharklock_multiraft::{
    Batch, BatchSeq, Chore, ChoreDone, Effects, LeftBehind, Matched, Pacer, Proposals, RoleNow,
    StateMachine as _, Store,
};
use sharklock_proto::{
    ClusterId, Identity, Start,
    internal::v1::{
        Heartbeats, RangeMessage, RoutesUpdate, SnapshotMessage, master_command::Body as Command,
    },
};
use sharklock_rangemap::{RangeId, StoreId};
use tracing::field::display;

pub use registering::{LABEL_BYTES_MAX, LABELS_MAX, NODE_BYTES_MAX};

use losses::Losses;
use members::Membership;
use operations::Operations;
pub use operations::OperatorCounts;
use scheduling::Scheduling;

use crate::{
    presence::{Presence, SilenceLimits},
    refusal::{Reason, Refusal},
    request::{Ask, Reply, Request},
    state::{Answer, ClusterState, Member, encode_batch},
};

mod answers;
mod fitness;
mod losses;
mod members;
mod operations;
mod ordering;
mod rebalancing;
mod recovering;
mod recovery_words;
mod registering;
mod reports;
mod scheduling;

/// The masters' Raft group, on disks of their own.
pub const GROUP: RangeId = RangeId(1);

/// Questions that may wait for their entries. A store asks once per life; more than this is a
/// client gone wrong.
const WAITING_MAX: usize = 4_096;

/// The target of the log lines that say who has done what to the cluster.
const AUDIT: &str = "audit";

/// The settings of a master, fixed while it lives.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The masters by member id, as far as the directory knows: those that formed the cluster, or those of
    /// the day on which this one joined it. From when they are known to the log, that is what counts.
    pub members: BTreeMap<StoreId, Member>,
    /// Replicas of the cluster's first range: it is made once so many stores have registered.
    pub replicas: u32,
    /// When silent stores count as what.
    pub limits: SilenceLimits,
    /// Raft's tick.
    pub tick: Duration,
    /// How often changed rows are written to the image.
    pub flush: Duration,
}

/// Something that happened.
#[derive(Debug)]
pub enum Input {
    /// A question.
    Ask(Box<Ask>),
    /// The disk has this batch.
    Persisted(BatchSeq),
    /// From another master.
    Message(Box<RangeMessage>),
    /// From another master.
    Heartbeats(Box<Heartbeats>),
    /// From another master.
    Snapshots(Vec<SnapshotMessage>),
    /// The result of a chore.
    ChoreDone(Box<ChoreDone<ClusterState>>),
    /// Messages that were sent to this master of late may be lost.
    Unreachable(StoreId),
    /// The process is about to stop: another one is to lead.
    HandOver,
    /// This master was removed, by the word of those that are members.
    Removed,
    /// These are the masters, by the word of the leading one. Those of them of whom the log here does not
    /// know yet could not bring it otherwise.
    Members(BTreeMap<StoreId, Member>),
}

/// The work that a turn leaves to its owner.
#[derive(Debug, Default)]
pub struct Outputs {
    /// For the disk; its `Persisted` comes back as input.
    pub batch: Option<Batch>,
    /// To those who asked.
    pub replies: Vec<(u64, Reply)>,
    /// For other masters.
    pub messages: Vec<RangeMessage>,
    /// For other masters.
    pub heartbeats: Vec<Heartbeats>,
    /// For other masters.
    pub snapshots: Vec<SnapshotMessage>,
    /// To be run; what comes of each comes back as input.
    pub chores: Vec<Chore<ClusterState>>,
    /// For those who watch routes: what has changed.
    pub routes: Option<RoutesUpdate>,
    /// Leadership was lost: those who watch must look for the next leader.
    pub is_deposed: bool,
    /// The masters are others than before: connections are to be made to these.
    pub members: Option<BTreeMap<StoreId, Member>>,
}

/// The question that waits for the outcome of a command.
#[derive(Clone, Debug)]
enum Asker {
    /// Nobody: the master itself.
    Nobody,
    /// A process that wants to speak for a store.
    Registration { number: u64, ident: Identity, start: Start, address: String },
    /// Somebody who wants ids.
    Ids { number: u64 },
    /// Somebody who begins an operator, and is told of these steps.
    Beginning { number: u64, steps: Vec<String> },
    /// Somebody who ends one.
    Cancelling { number: u64 },
    /// The schedule, which begins one.
    Scheduled { range: RangeId },
    /// Somebody who pauses the schedule, or lets it go on.
    Pausing { number: u64 },
    /// Somebody who changes settings of the schedule.
    Setting { number: u64 },
    /// Somebody who says what a store is for.
    Dutiful { number: u64, store: StoreId },
    /// Somebody who changes the masters, and is told of these steps.
    Masters { number: u64, steps: Vec<String> },
    /// Somebody who lets a range go on, and is told of these steps and losses.
    Recovering { number: u64, steps: Vec<String>, losses: Vec<String> },
    /// Those who watch routes: of this range, which may be new, they hear once it is known.
    Watchers { range: RangeId, is_new: bool },
}

impl Asker {
    fn number(&self) -> Option<u64> {
        match self {
            Self::Nobody | Self::Watchers { .. } | Self::Scheduled { .. } => None,
            Self::Registration { number, .. }
            | Self::Ids { number }
            | Self::Beginning { number, .. }
            | Self::Masters { number, .. }
            | Self::Recovering { number, .. }
            | Self::Cancelling { number }
            | Self::Pausing { number }
            | Self::Setting { number }
            | Self::Dutiful { number, .. } => Some(*number),
        }
    }
}

/// Of a master that leads.
#[derive(Debug)]
struct Leading {
    presence: Presence,
    /// The first range is on its way into the log.
    first_range_asked: bool,
    operations: Operations,
    scheduling: Scheduling,
    membership: Membership,
    losses: Losses,
}

/// See the module.
///
/// Invariants:
/// - `leading` is there exactly while this replica leads and has applied an entry of its own term;
/// - nothing waits in `proposals` while it does not lead;
/// - every question is answered once.
pub struct MasterCore {
    settings: Settings,
    store: Store<ClusterState>,
    effects: Effects<Vec<Answer>>,
    leading: Option<Leading>,
    leader: Option<StoreId>,
    /// When this one last knew that some master leads.
    leader_seen: Duration,
    proposals: Proposals<Command, Asker>,
    replies: Vec<(u64, Reply)>,
    /// Routes that watchers have not been told of.
    changed_ranges: BTreeSet<RangeId>,
    changed_stores: BTreeSet<StoreId>,
    is_deposed: bool,
    /// See [`Outputs::members`].
    members_told: BTreeMap<StoreId, Member>,
    /// See [`Input::Members`].
    members_heard: BTreeMap<StoreId, Member>,
    /// Watchers have not been told of the masters of today.
    masters_changed: bool,
    /// A committed configuration of the masters' group does not have this one any more.
    is_removed: bool,
    /// What this master has counted of operators.
    operator_counts: OperatorCounts,
    /// The state of a master whose replica is not here: it has just joined, or was removed.
    nothing: ClusterState,
    pacer: Pacer,
}

impl MasterCore {
    /// A master on a recovered store.
    pub fn new(now: Duration, settings: Settings, store: Store<ClusterState>) -> Self {
        Self {
            pacer: Pacer::begin(now, settings.tick, settings.flush),
            settings,
            store,
            effects: Effects::default(),
            leading: None,
            leader: None,
            leader_seen: Duration::ZERO,
            proposals: Proposals::default(),
            replies: Vec::new(),
            changed_ranges: BTreeSet::new(),
            changed_stores: BTreeSet::new(),
            is_deposed: false,
            members_told: BTreeMap::new(),
            members_heard: BTreeMap::new(),
            masters_changed: false,
            is_removed: false,
            operator_counts: OperatorCounts::default(),
            nothing: ClusterState::empty(),
        }
    }

    /// Takes one input.
    pub fn handle(&mut self, now: Duration, input: Input) {
        match input {
            Input::Ask(ask) => self.asked(now, ask.number, ask.request),
            Input::Persisted(seq) => self.store.persisted(seq),
            Input::Message(message) => self.store.hear(*message),
            Input::Heartbeats(heartbeats) => self.store.hear_heartbeats(*heartbeats),
            Input::Snapshots(messages) => self.store.hear_snapshots(messages),
            Input::ChoreDone(done) => self.store.chore_done(*done),
            Input::Unreachable(member) => self.store.unreachable(member),
            Input::HandOver => self.store.hand_over(),
            Input::Removed => self.end(),
            Input::Members(members) => self.members_heard = members,
        }
    }

    /// Ends a turn.
    pub fn end_turn(&mut self, now: Duration) -> Outputs {
        if self.pacer.pace(now, &mut self.store) {
            self.follow_operators(now);
            self.follow_schedule(now);
            self.follow_members(now);
        }
        self.ask_for_the_first_range();
        if !self.store.batch_in_flight() {
            self.propose();
        }
        self.store.turn(&mut self.effects);
        self.follow_effects(now);
        if self.knows_leader() {
            self.leader_seen = now;
        }
        let members = self.take_new_members();
        let routes = self.take_changes();
        Outputs {
            members,
            batch: self.effects.batch.take(),
            replies: std::mem::take(&mut self.replies),
            messages: std::mem::take(&mut self.effects.messages),
            heartbeats: std::mem::take(&mut self.effects.heartbeats),
            snapshots: std::mem::take(&mut self.effects.snapshots),
            chores: self.store.take_chores(),
            routes,
            is_deposed: std::mem::take(&mut self.is_deposed),
        }
    }

    /// When a turn is due even if nothing happens.
    pub fn next_wakeup(&self) -> Duration {
        self.pacer.next_tick()
    }

    /// Whether this one leads and answers.
    pub fn leads(&self) -> bool {
        self.leading.is_some()
    }

    /// Whether some master leads, as far as this one knows.
    pub fn knows_leader(&self) -> bool {
        self.lost().is_none() && (self.leads() || self.leader.is_some())
    }

    /// Why this master does not follow the others, for people, if it does not: its disk counts as
    /// lost and it takes no part any more, or its program is too old for their log.
    pub fn ailing(&self) -> Option<String> {
        let behind = || {
            let (_, why) = self.store.behind().next()?;
            Some(format!("this master: {why}"))
        };
        self.lost().or_else(behind)
    }

    fn lost(&self) -> Option<String> {
        let (_, why) = self.store.lost().next()?;
        Some(format!("this master is lost: {why}"))
    }

    /// The engine, for its status.
    pub fn store(&self) -> &Store<ClusterState> {
        &self.store
    }

    /// Asks for the image to be written in the next batch.
    pub fn flush(&mut self) {
        self.store.flush();
    }

    /// The replicated state, as far as it is applied here.
    pub fn state(&self) -> &ClusterState {
        self.store.machine(GROUP).unwrap_or(&self.nothing)
    }

    /// Whether the masters go on without this one, for ever.
    pub fn is_removed(&self) -> bool {
        self.is_removed || self.store.tombstone(GROUP).is_some()
    }

    fn asked(&mut self, now: Duration, number: u64, request: Request) {
        if matches!(request, Request::Describe) {
            let described = Box::new(self.describe(now));
            return self.reply(number, Reply::Described(described));
        }
        if self.leading.is_none() {
            let refusal = self.not_leader();
            return self.reply(number, Reply::Refused(refusal));
        }
        let answer = match request {
            Request::RegisterStore(request) => self.register_store(now, number, request),
            Request::AllocateIds(request) => self.allocate_ids(number, &request),
            Request::StoreHeartbeat(request) => {
                self.store_heartbeat(now, request).map(|reply| Some(Reply::Heard(reply)))
            }
            Request::ChangeRange(request) => self.change_range(now, number, request),
            Request::ListOperators(request) => self.list_operators(now, &request),
            Request::CancelOperator(request) => self.cancel_operator(now, number, &request),
            Request::SetStoreDuty(request) => self.set_store_duty(now, number, &request),
            Request::Schedule => Ok(Some(Reply::Schedule(self.schedule(now)))),
            Request::PauseSchedule(request) => self.pause_schedule(number, request),
            Request::SetSchedule(request) => self.set_schedule(number, &request),
            Request::Rebalance(request) => self.rebalance(now, request).map(Some),
            Request::Join(request) => self.join(now, request).map(Some),
            Request::ChangeMasters(request) => self.change_masters(now, number, request),
            Request::ListRecoveries => Ok(Some(Reply::Recoveries(self.recoveries(now)))),
            Request::RecoverRange(request) => self.recover_range(now, number, request),
            Request::Routes => Ok(Some(Reply::Routes(self.routes()))),
            Request::Cluster => Ok(Some(Reply::Cluster(self.cluster(now)))),
            Request::Describe => unreachable!("it is answered above"),
        };
        match answer {
            Ok(Some(reply)) => self.reply(number, reply),
            // The answer comes with its entry.
            Ok(None) => {}
            Err(refusal) => self.reply(number, Reply::Refused(refusal)),
        }
    }

    /// Queues a command whose outcome answers somebody.
    fn ask_log(&mut self, command: Command, asker: Asker) -> Result<(), Refusal> {
        if self.proposals.waiting().len() >= WAITING_MAX {
            let message = "too many requests wait for the masters' log: ask again";
            return Err(Refusal::new(Reason::Overloaded, message));
        }
        self.proposals.ask(command, asker);
        Ok(())
    }

    fn propose(&mut self) {
        let count = self.proposals.waiting().len();
        if count > 0 {
            let encode = |commands: &[Command]| encode_batch(commands.to_vec());
            self.proposals.propose(&mut self.store, GROUP, count, encode);
        }
    }

    /// Follows what the engine did, in the order in which it says so.
    fn follow_effects(&mut self, now: Duration) {
        let mut effects = std::mem::take(&mut self.effects);
        for applied in effects.applied.drain(..) {
            let Matched { askers, overtaken } = self.proposals.applied(applied.at);
            self.refuse_all(overtaken, &lost());
            for (asker, answer) in askers.into_iter().zip(applied.output.into_iter().flatten()) {
                self.answer(now, asker, answer);
            }
        }
        effects.reads.clear();
        // The masters have one group. Who belongs to it is looked up whenever it is needed.
        effects.born.clear();
        effects.changed.clear();
        effects.buried.clear();
        for change in effects.roles.drain(..) {
            match change.role {
                RoleNow::Leader { term } => self.promoted(now, term),
                RoleNow::Follower { term, leader } => {
                    if self.leading.is_some() {
                        let master = self.store.ident().store;
                        let leader = leader.map(display);
                        tracing::info!(%master, term, leader, "this master leads no longer");
                    }
                    self.demoted(leader);
                }
            }
        }
        if !effects.gone.is_empty() {
            effects.gone.clear();
            self.end();
        }
        self.effects = effects;
    }

    fn promoted(&mut self, now: Duration, term: u64) {
        let master = self.store.ident().store;
        tracing::info!(%master, term, "this master leads");
        let presence = Presence::begin(now, self.settings.limits);
        let operations = Operations::default();
        let leading = Leading {
            presence,
            first_range_asked: false,
            operations,
            scheduling: Scheduling::begin(now),
            membership: Membership::default(),
            losses: Losses::default(),
        };
        self.leading = Some(leading);
        self.leader = None;
    }

    fn demoted(&mut self, leader: Option<StoreId>) {
        self.leader = leader;
        self.is_deposed |= self.leading.take().is_some();
        let LeftBehind { not_proposed, in_log } = self.proposals.step_down();
        let refusal = self.not_leader();
        self.refuse_all(not_proposed, &refusal);
        self.refuse_all(in_log, &lost());
        self.changed_ranges.clear();
        self.changed_stores.clear();
    }

    /// The masters go on without this one. It may have led until now, cut off from them.
    fn end(&mut self) {
        self.is_removed = true;
        self.demoted(None);
    }

    fn refuse_all(&mut self, askers: Vec<Asker>, refusal: &Refusal) {
        for number in askers.iter().filter_map(Asker::number) {
            self.reply(number, Reply::Refused(refusal.clone()));
        }
    }

    fn not_leader(&self) -> Refusal {
        let known = |leader: StoreId| {
            let record = self.state().members().get(leader).map(|record| &record.member);
            record.or_else(|| self.settings.members.get(&leader))
        };
        let leader = self.leader.and_then(known);
        Refusal::not_leader(leader.map(|member| member.address.clone()))
    }

    fn reply(&mut self, number: u64, reply: Reply) {
        self.replies.push((number, reply));
    }
}

/// Of an entry whose fate is not known.
fn lost() -> Refusal {
    let message = "leadership was lost meanwhile: it may be done or not; ask again";
    Refusal::new(Reason::Indeterminate, message)
}

#[cfg(test)]
mod tests;
