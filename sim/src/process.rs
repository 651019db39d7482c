//! A life of a data server: its raft workers with their mailboxes, the table that routes to them,
//! and what waits for their one disk, put together as the edge puts its threads together.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use sharklock_dataserver::{
    Assignment, GATHERING_LINK, Gathering, Input, LinkId, LockRange, Outputs, Worker, WorkerStats,
    is_for_all,
};
use sharklock_gateway::Lane;
use sharklock_multiraft::{Batch, ChoreDone, WriteOp};
use sharklock_proto::internal::v1::{RangeReport, StoreCall, StoreReply};
use sharklock_rangemap::RangeId;

use crate::streams::ConnId;

/// As in the edge's worker thread: a batch of so many operations is written in place.
const INLINE_OPS_MAX: usize = 2;

/// See the module.
///
/// Invariants:
/// - a worker has at most one batch in `writing` or `waiting`;
/// - a worker takes no turn while it writes itself, or while what its last turn wants is not done.
pub struct Process {
    seats: Vec<Seat>,
    /// The worker of each range.
    table: Assignment,
    /// The questions that were put to all workers.
    gathering: Gathering,
    /// The clock's reading at the start.
    pub born: Duration,
    /// On its way to the disk.
    pub writing: Option<Writing>,
    /// Batches that wait for the disk: the next write has all of them.
    waiting: Vec<(usize, Batch)>,
    /// What was being written is on the disk, and the worker that waited for it stands still.
    pub written_in_pause: bool,
    /// Snapshots that it has been seen to install.
    pub installed: u64,
    /// Gateways that are connected.
    pub links: BTreeMap<LinkId, ConnId>,
    last_link: u64,
}

/// A raft worker and the mail in front of it.
struct Seat {
    core: Worker,
    internal: Vec<Input>,
    raft: Vec<Input>,
    urgent: Vec<Waiting>,
    ordinary: Vec<Waiting>,
    /// What its last turn wants, if its thread was interrupted before it did any of that.
    undone: Option<Outputs>,
    /// The next turn: only the event with this number counts.
    turn: u64,
    /// When that is planned.
    turn_at: Option<u64>,
}

/// Calls in a mailbox.
struct Waiting {
    link: LinkId,
    arrived: Duration,
    calls: Vec<StoreCall>,
}

/// Batches that are written as one.
pub struct Writing {
    batches: Vec<(usize, Batch)>,
    /// It is the only one's, which writes it itself and stands still meanwhile.
    pub inline: bool,
}

impl Writing {
    /// All that is written.
    pub fn ops(&self) -> Vec<WriteOp> {
        self.batches.iter().flat_map(|(_, batch)| batch.ops.iter().cloned()).collect()
    }

    fn holds_up(&self, worker: usize) -> bool {
        self.inline && self.batches.iter().any(|(it, _)| *it == worker)
    }
}

/// A write that begins.
#[derive(Clone, Copy)]
pub struct Begun {
    /// Batches that it has.
    pub batches: usize,
    /// Operations in them.
    pub ops: usize,
    /// A worker does it itself.
    pub inline: bool,
}

impl Process {
    /// With these workers, in the order of their numbers.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn new(born: Duration, workers: Vec<Worker>) -> Self {
        let count = NonZeroUsize::new(workers.len()).expect("a store has a worker");
        let mut table = Assignment::new(count);
        for (number, worker) in workers.iter().enumerate() {
            table.begin(number, worker.store().held());
        }
        Self {
            gathering: Gathering::new(workers.len()),
            seats: workers.into_iter().map(Seat::of).collect(),
            table,
            born,
            writing: None,
            waiting: Vec::new(),
            written_in_pause: false,
            installed: 0,
            links: BTreeMap::new(),
            last_link: 0,
        }
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.seats.len()
    }

    /// The workers.
    pub fn cores(&self) -> impl Iterator<Item = &Worker> {
        self.seats.iter().map(|seat| &seat.core)
    }

    /// The worker with this number.
    pub fn core(&self, worker: usize) -> &Worker {
        &self.seats[worker].core
    }

    /// A gateway connects.
    pub fn connect(&mut self, conn: ConnId) {
        // 0 is the store's own.
        self.last_link += 1;
        self.links.insert(LinkId(self.last_link), conn);
    }

    /// A gateway's connection is gone.
    pub fn disconnect(&mut self, conn: ConnId) {
        let Some((&link, _)) = self.links.iter().find(|(_, known)| **known == conn) else { return };
        self.links.remove(&link);
        self.gathering.link_closed(link);
        self.tell(Input::LinkClosed(link));
    }

    /// Something that comes seldom.
    pub fn tell(&mut self, input: Input) {
        if let [only] = self.seats.as_mut_slice() {
            return only.internal.push(input);
        }
        for (worker, input) in self.table.route(input) {
            self.seats[worker].internal.push(input);
        }
    }

    /// What another store says; `is_lost`: the mailbox of its worker has no room for it.
    pub fn raft(&mut self, input: Input, is_lost: bool) {
        if let [only] = self.seats.as_mut_slice() {
            return only.raft.push(input);
        }
        for (worker, input) in self.table.route(input) {
            if !is_lost {
                self.seats[worker].raft.push(input);
            } else if let Some(range) = Assignment::is_about_life(&input) {
                self.table.not_sent(range);
            }
        }
    }

    /// What came of a chore that a worker has ordered.
    pub fn chore_done(&mut self, worker: usize, done: ChoreDone<LockRange>) {
        self.seats[worker].internal.push(Input::ChoreDone(Box::new(done)));
    }

    /// Calls of a gateway.
    pub fn post(&mut self, arrived: Duration, conn: ConnId, lane: Lane, calls: Vec<StoreCall>) {
        let Some((&link, _)) = self.links.iter().find(|(_, known)| **known == conn) else { return };
        if let [only] = self.seats.as_mut_slice() {
            return only.post(lane, Waiting { link, arrived, calls });
        }
        let (for_all, calls): (Vec<_>, Vec<_>) = calls.into_iter().partition(is_for_all);
        for call in for_all {
            let asked = self.gathering.ask(link, &call);
            for (seat, call) in self.seats.iter_mut().zip(asked) {
                seat.post(lane, Waiting { link: GATHERING_LINK, arrived, calls: vec![call] });
            }
        }
        for (worker, calls) in self.table.sort_calls(calls) {
            self.seats[worker].post(lane, Waiting { link, arrived, calls });
        }
    }

    /// The replies of a worker to gateways: what it answers to a question to all waits for the others.
    pub fn gather(
        &mut self,
        worker: usize,
        replies: Vec<(LinkId, Vec<StoreReply>)>,
    ) -> Vec<(LinkId, Vec<StoreReply>)> {
        let Self { gathering, table, .. } = self;
        let is_elsewhere = |range, worker| table.is_elsewhere(range, worker);
        let mut whole = Vec::new();
        for (link, replies) in replies {
            if link != GATHERING_LINK {
                whole.push((link, replies));
                continue;
            }
            let answered = |reply| gathering.answered(worker, reply, is_elsewhere);
            let answers = replies.into_iter().filter_map(answered);
            whole.extend(answers.map(|(link, reply)| (link, vec![reply])));
        }
        whole
    }

    /// The calls in the mailbox of a worker, in the order in which it will take them.
    pub fn calls(&self, worker: usize) -> impl Iterator<Item = &StoreCall> {
        let Seat { urgent, ordinary, .. } = &self.seats[worker];
        urgent.iter().chain(ordinary).flat_map(|waiting| &waiting.calls)
    }

    /// Whether a worker waits for nothing but mail and time.
    pub fn may_take_turn(&self, worker: usize) -> bool {
        let writes = self.writing.as_ref().is_some_and(|writing| writing.holds_up(worker));
        !writes && self.seats[worker].undone.is_none()
    }

    /// When a worker that has no mail wants a turn, by the process's clock; `None`: it has mail.
    pub fn wakes_at(&self, worker: usize) -> Option<Duration> {
        let seat = &self.seats[worker];
        (!seat.has_mail()).then(|| seat.core.next_wakeup())
    }

    /// When a worker's next turn is planned.
    pub fn planned(&self, worker: usize) -> Option<u64> {
        self.seats[worker].turn_at
    }

    /// Plans a worker's next turn. The number of the event comes back.
    pub fn plan(&mut self, worker: usize, at_ns: u64) -> u64 {
        let seat = &mut self.seats[worker];
        seat.turn += 1;
        seat.turn_at = Some(at_ns);
        seat.turn
    }

    /// Whether this event is the planned turn of a worker.
    pub fn is_planned(&self, worker: usize, turn: u64) -> bool {
        self.seats[worker].turn == turn
    }

    /// A worker handles its mail and ends a turn.
    pub fn take_turn(&mut self, worker: usize, now: Duration, wall_ms: u64) -> Outputs {
        let all: usize = self.cores().map(Worker::ranges_count).sum();
        let seat = &mut self.seats[worker];
        seat.turn_at = None;
        seat.core.set_ranges_elsewhere(all - seat.core.ranges_count());
        for input in seat.take_mail(now) {
            seat.core.handle(now, input);
        }
        seat.core.end_turn(now, wall_ms, true)
    }

    /// The worker's thread is interrupted before it does what its turn wants.
    pub fn interrupt(&mut self, worker: usize, outputs: Outputs) {
        let before = self.seats[worker].undone.replace(outputs);
        assert!(before.is_none(), "worker {worker} has taken a turn between the halves of another");
    }

    /// It goes on.
    pub fn go_on(&mut self, worker: usize) -> Option<Outputs> {
        self.seats[worker].undone.take()
    }

    /// The table and the other workers hear first what a turn means for them.
    pub fn follow(&mut self, worker: usize, outputs: &mut Outputs) {
        let told = std::mem::take(&mut outputs.whereabouts);
        if self.seats.len() == 1 {
            return;
        }
        for told in told {
            if let Some(Input::Buried { range, peer }) = self.table.follow(worker, told) {
                let others = self.seats.iter_mut().enumerate().filter(|(it, _)| *it != worker);
                others.for_each(|(_, seat)| seat.internal.push(Input::Buried { range, peer }));
            }
        }
    }

    /// A worker has a batch for the disk. It writes a small one itself if nobody waits behind it, and
    /// nobody else writes. True: the disk was free, and is to begin.
    pub fn hand_over(&mut self, worker: usize, batch: Batch) -> bool {
        let is_free = self.writing.is_none();
        let is_small = batch.ops.len() <= INLINE_OPS_MAX;
        if is_free && is_small && !self.seats[worker].has_mail() {
            self.writing = Some(Writing { batches: vec![(worker, batch)], inline: true });
        } else {
            self.waiting.push((worker, batch));
        }
        is_free
    }

    /// The write that the disk begins now, if it is free or a worker has just taken it.
    pub fn begin_writing(&mut self) -> Option<Begun> {
        if self.writing.is_none() && !self.waiting.is_empty() {
            let batches = std::mem::take(&mut self.waiting);
            self.writing = Some(Writing { batches, inline: false });
        }
        let Writing { batches, inline } = self.writing.as_ref()?;
        let ops = batches.iter().map(|(_, batch)| batch.ops.len()).sum();
        Some(Begun { batches: batches.len(), ops, inline: *inline })
    }

    /// A write is durable. A worker that has waited for it goes on at once: its number comes back,
    /// with what it then wants.
    pub fn persisted(
        &mut self,
        writing: Writing,
        now: Duration,
        wall_ms: u64,
    ) -> Option<(usize, Outputs)> {
        let Writing { batches, inline } = writing;
        if !inline {
            for (worker, batch) in batches {
                self.seats[worker].internal.push(Input::Persisted(batch.seq));
            }
            return None;
        }
        let (worker, batch) = batches.into_iter().next().expect("it was somebody's");
        let core = &mut self.seats[worker].core;
        core.handle(now, Input::Persisted(batch.seq));
        Some((worker, core.end_turn(now, wall_ms, false)))
    }

    /// What has changed of what masters hear, by worker.
    pub fn take_reports(&mut self, worker: usize) -> Vec<(RangeId, Option<RangeReport>)> {
        self.seats[worker].core.take_reports()
    }

    /// What the workers have done.
    pub fn stats(&self) -> WorkerStats {
        let mut all = WorkerStats::default();
        self.cores().for_each(|core| all += core.stats());
        all
    }
}

impl Seat {
    fn of(core: Worker) -> Self {
        Self {
            core,
            internal: Vec::new(),
            raft: Vec::new(),
            urgent: Vec::new(),
            ordinary: Vec::new(),
            undone: None,
            turn: 0,
            turn_at: None,
        }
    }

    fn post(&mut self, lane: Lane, waiting: Waiting) {
        match lane {
            Lane::Urgent => self.urgent.push(waiting),
            Lane::Ordinary => self.ordinary.push(waiting),
        }
    }

    fn has_mail(&self) -> bool {
        let calls = !(self.urgent.is_empty() && self.ordinary.is_empty());
        calls || !(self.internal.is_empty() && self.raft.is_empty())
    }

    fn take_mail(&mut self, now: Duration) -> Vec<Input> {
        let mut inputs = std::mem::take(&mut self.internal);
        inputs.append(&mut self.raft);
        let urgent = std::mem::take(&mut self.urgent);
        let ordinary = std::mem::take(&mut self.ordinary);
        inputs.extend(urgent.into_iter().chain(ordinary).map(|waiting| Input::Calls {
            link: waiting.link,
            queued: now.saturating_sub(waiting.arrived),
            calls: waiting.calls,
        }));
        inputs
    }
}
