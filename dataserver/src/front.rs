//! The leader's side of one range: what has been asked and not been answered, who listens to which
//! acquisition, and the lease clock. All of it is soft: it dies at step-down, and clients ask again.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use sharklock_locktable::{
    Acquisition, Agreement, Ascending, Command, Condition, LockTable, Name, SessionHandle,
};
use sharklock_multiraft::{EntryAt, LeftBehind, Matched, Proposals, ReadId};
use sharklock_proto::{
    internal::v1::{GetRangeSession, ListRange, ListRangeSessions, RevokeRangeSession},
    trace::Begun,
    v1,
};
use sharklock_rangemap::{Epoch, StoreId};

use crate::{
    agenda::Rest,
    attempts::Attempts,
    batching::Batching,
    codec,
    gate::{Gate, SplitWish},
    lease_clock::LeaseClock,
    load::Load,
    load_sample::LoadSample,
    memory::{Charge, Pending},
    observed::Proposed,
    range_age::{CountedTime, RangeAge},
    tracing_calls::Traced,
    watching::{Watch, Watches},
    wire::Caller,
    worker::ToldFigures,
};

/// Commands that may wait for the next entries before new acquires are refused.
pub const COMMANDS_QUEUED_MAX: usize = 16_384;

/// Commands that may wait before releases and cancels are refused too: their clients repeat them,
/// and what the range itself must end is never refused (D16).
pub const URGENT_QUEUED_MAX: usize = 4 * COMMANDS_QUEUED_MAX;

/// Looks (at tokens, locks, lists) that may wait for their turn.
pub const LOOKS_QUEUED_MAX: usize = 1_024;

/// Looks answered per turn: each may copy a thousand waiters, and keepalives wait meanwhile.
const LOOKS_PER_TURN: usize = 8;

/// Bytes of commands in one entry. Bounds the work of one apply and the memory of the log, and
/// keeps two entries far below what Raft refuses as too much uncommitted.
pub const ENTRY_BYTES_MAX: usize = 1 << 20;

/// A gateway's connection to this store. Given once per process life, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkId(pub u64);

/// The way of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyTo {
    /// Which gateway.
    pub link: LinkId,
    /// Which of its calls.
    pub tag: u64,
}

/// The receiver of an acquisition's events: the stream that named it last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscriber {
    /// Which gateway.
    pub link: LinkId,
    /// Which of its streams.
    pub stream: u64,
}

/// The asker that waits for the outcome of a command.
#[derive(Clone, Debug)]
pub enum Asker {
    /// The lease clock: nobody.
    Clock,
    /// An acquire or a reclaim.
    Acquire {
        /// The way of the answer.
        to: ReplyTo,
        /// The acquisition.
        acquisition: Acquisition,
        /// The lock.
        name: Name,
        /// The attempt, echoed.
        seq: u64,
        /// When it is too old to be proposed.
        stale_at: Duration,
        /// The memory that it takes until it is applied; none of a reclaim, whose hold is there already.
        charge: Option<Charge>,
        /// Set if somebody traces it.
        trace: Option<Box<Traced>>,
    },
    /// A claim or a change of a condition.
    Agree {
        /// The way of the answer.
        to: ReplyTo,
        /// What its client wishes to be agreed.
        wish: Wish,
    },
    /// Another call about a lock.
    Call {
        /// The way of the answer.
        to: ReplyTo,
        /// Which call.
        about: About,
        /// When it came.
        received: Duration,
    },
    /// Callers that have gone away, see [`Attempts`]: nobody hears of it.
    Withdrawal(Acquisition),
}

/// The calls whose answer says no more than what their command did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// A release.
    Release,
    /// A cancel.
    Cancel,
    /// An operator's force-release.
    ForceRelease,
    /// A waiter asks holders for the lock.
    Ask,
    /// A downgrade.
    Downgrade,
    /// A change of attributes.
    SetAttributes,
    /// An operator's revocation of a session.
    Revoke {
        /// Bytes of holds in the answer.
        bytes_max: usize,
    },
}

/// What a claim or a change of a condition is to have led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// The condition of this revision is claimed.
    Claimed(u64),
    /// This condition is agreed, as this revision.
    Condition(Condition, u64),
}

impl Wish {
    /// Whether this is what was wished, by this command or by an earlier copy of it.
    pub fn is_met_by(&self, agreement: &Agreement) -> bool {
        match *self {
            Self::Claimed(revision) => agreement.claimed && agreement.revision == revision,
            Self::Condition(condition, revision) => {
                (agreement.condition, agreement.revision) == (condition, revision)
            }
        }
    }
}

impl Asker {
    /// The way of an error.
    pub fn reply_to(&self) -> Option<ReplyTo> {
        match self {
            Self::Clock | Self::Withdrawal(_) => None,
            Self::Acquire { to, .. } | Self::Agree { to, .. } | Self::Call { to, .. } => Some(*to),
        }
    }
}

/// A question that is answered from applied state after a ReadIndex round.
#[derive(Clone, Debug)]
pub struct Read {
    /// The way of the answer.
    pub to: ReplyTo,
    /// The question.
    pub query: Query,
}

/// A split that is proposed once there are ids for the new range.
#[derive(Clone, Debug)]
pub struct WantedSplit {
    /// By which it was decided.
    pub epoch: Epoch,
    /// First name of the upper half.
    pub key: String,
    /// The term in which it was wanted: what comes of an earlier request for ids is not for it.
    pub term: u64,
    /// Why it is wanted, and who waits for its outcome.
    pub wish: SplitWish,
}

/// A leader knows this of its range beside the range's state.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// The memory of its locks and of what waits for it, bytes.
    pub state_bytes: u64,
    /// As [`Load::per_second`] has it.
    pub commands_per_second: Option<u64>,
    /// First name of the upper half, if the range is being split.
    pub splitting_at: String,
    /// Why it is not split, if it should be.
    pub unsplit: Option<Unsplit>,
}

/// A range has too much of something, and is not split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsplit {
    /// Why, for people.
    pub because: String,
    /// The lock that has most of what is too much, if that is the reason.
    pub hot_name: Option<Name>,
}

/// See [`Read`].
#[derive(Clone, Debug)]
pub enum Query {
    /// The state of renewed acquisitions.
    KeepAlive {
        /// The session and its instance.
        caller: Caller,
        /// The attempt, echoed per item.
        seq: u64,
        /// The unary Acquire for which its gateway asks, if nobody else hears the answer.
        asker: Option<Subscriber>,
        /// Those that were renewed or need no renewal.
        items: Vec<v1::KeepAliveItem>,
    },
    /// Whether a token is live.
    CheckToken(v1::CheckTokenRequest),
    /// One lock.
    GetLock(v1::GetLockRequest),
    /// Locks of the range from a name on.
    ListRange(ListRange),
    /// The next state of a lock.
    WatchLock {
        /// The question.
        request: v1::WatchLockRequest,
        /// It has waited, and is answered whatever the state is.
        has_waited: bool,
    },
    /// Sessions of the range, behind this one.
    ListSessions(Option<SessionHandle>, ListRangeSessions),
    /// What one session has open in the range.
    GetSession(SessionHandle, GetRangeSession),
    /// What a revocation would end.
    PlanRevocation(SessionHandle, RevokeRangeSession),
    /// A revocation where there was nothing to revoke when it came: that the replica led then is all
    /// that is left to find out.
    RevokeNothing(RevokeRangeSession),
}

/// The state that only a leader has.
#[derive(Debug)]
pub struct Leading {
    /// Deadlines.
    pub clock: LeaseClock,
    /// How old the range is.
    pub age: RangeAge,
    /// The version of the range's descriptor under which everything that is queued was admitted.
    pub version: u64,
}

impl Leading {
    /// The range is as old as the counted time makes it, if the rules of its `table` count an age.
    pub fn count_age(&mut self, time: &CountedTime, table: &LockTable) {
        if table.counts_age() {
            self.age.count(time);
        } else {
            self.age = RangeAge::promote(time, table.age_ms());
        }
    }
}

/// The soft state of one range.
///
/// Invariants:
/// - `leading` is set only from the apply of the leader's own first entry until step-down;
///   without it nothing is queued here and nothing with a seq is answered;
/// - what waits in `proposals` names nothing outside the bounds that the range has in
///   `leading.version`;
/// - `gate` is set exactly while a split that this leader has proposed is not applied, and nothing
///   with a seq is answered then;
/// - nobody asks for a split while one is `wanted` or the gate is shut, but for the same one;
/// - `pending` has the charges of all askers here, waiting or proposed;
/// - every question gets at most one answer, and exactly one unless its link or the leadership is
///   lost on the way; a keepalive of which nothing can be said gets none.
#[derive(Debug, Default)]
pub struct Front {
    /// Set while this replica leads and may answer.
    pub leading: Option<Leading>,
    /// Commands that wait for the next entry, or are in the log.
    pub proposals: Proposals<Command, Asker>,
    /// Whether those that wait do so for others.
    pub batching: Batching,
    /// When the entries of `proposals` were proposed.
    pub proposed: Proposed,
    /// A split that waits for ids.
    pub wanted: Option<WantedSplit>,
    /// The answers that wait for a split.
    pub gate: Option<Gate>,
    /// Keepalives waiting for the next ReadIndex round.
    pub reads: Vec<Read>,
    /// Looks waiting for a ReadIndex round, a few per turn.
    pub looks: VecDeque<Read>,
    /// Questions that wait for a lock to change.
    pub watches: Watches,
    /// In a ReadIndex round.
    pub rounds: BTreeMap<ReadId, Vec<Read>>,
    /// Of those that wait in a queue and are traced: the span of their wait.
    pub traced: BTreeMap<Acquisition, Begun>,
    /// The listeners to open acquisitions.
    pub subscribers: Ascending<Acquisition, Subscriber>,
    /// The memory of what waits here or is in the log.
    pub pending: Pending,
    /// The log is longer than it may be kept for a child that nobody has led yet, as far as the last
    /// turn saw that looked at the range: no new acquisition is taken in.
    pub is_overlong: bool,
    /// The weight that the store's memory was last told of this range.
    pub weighed: u64,
    /// The callers that may have been told of acquisitions which could have to be withdrawn.
    pub attempts: Attempts,
    /// The term of the replica, and who leads in it, as the engine has last said: this store only
    /// once it answers.
    pub led: (u64, Option<StoreId>),
    /// Counts what is proposed.
    pub load: Load,
    /// The same, to find out whether it is too much, and for which locks.
    pub sample: LoadSample,
    /// What the masters have been told of how much it has to do.
    pub told: ToldFigures,
    /// Why the range is not split although it has too much of something, as found out last.
    pub unsplit: Option<Unsplit>,
}

impl Front {
    /// The split that is on its way: the epoch by which it was decided, its key, and who wishes it.
    pub fn split_under_way(&mut self) -> Option<(Epoch, &str, &mut SplitWish)> {
        match (&mut self.wanted, &mut self.gate) {
            (Some(WantedSplit { epoch, key, wish, .. }), _) => Some((*epoch, key, wish)),
            (None, Some(gate)) => {
                let (split, wish) = gate.split_and_wish();
                Some((split.epoch, &split.key, wish))
            }
            (None, None) => None,
        }
    }

    /// For people, and for whoever decides about splits.
    pub fn figures(&self, now: Duration) -> Figures {
        let wanted = self.wanted.as_ref().map(|wanted| &wanted.key);
        let splitting_at = wanted.or_else(|| Some(&self.gate.as_ref()?.split().key));
        Figures {
            state_bytes: self.weighed,
            commands_per_second: self.load.per_second(now),
            splitting_at: splitting_at.cloned().unwrap_or_default(),
            unsplit: self.unsplit.clone(),
        }
    }

    /// Queues a command for the next entry.
    pub fn ask(&mut self, command: Command, asker: Asker) {
        self.proposals.ask(command, asker);
    }

    /// Whether new acquires are refused.
    pub fn is_full(&self) -> bool {
        self.proposals.waiting().len() >= COMMANDS_QUEUED_MAX
    }

    /// Whether releases and cancels are refused, too.
    pub fn is_overfull(&self) -> bool {
        self.proposals.waiting().len() >= URGENT_QUEUED_MAX
    }

    /// Whether the next turn is to come at once: there is something that no turn does whole.
    pub fn is_busy(&self) -> bool {
        !self.looks.is_empty() || self.leading.as_ref().is_some_and(|it| !it.clock.is_whole())
    }

    /// Whether the commands that wait are not to be proposed yet.
    pub fn holds(&mut self, now: Duration) -> bool {
        let some_wait = !self.proposals.waiting().is_empty();
        self.batching.holds(now, some_wait, self.proposals.are_under_way())
    }

    /// When commands that were held are to be proposed; none: none is held.
    pub fn held_until(&self) -> Option<Duration> {
        self.leading.as_ref()?;
        self.batching.due(self.proposals.are_under_way())
    }

    /// How a turn leaves it, at `now`. `table`: of its range.
    pub fn rest(&self, now: Duration, table: &LockTable) -> Rest {
        let Some(Leading { clock, age, .. }) = &self.leading else { return Rest::default() };
        let forgets_in = age.due_in(table.forgets_at_ms());
        let is_asked = !self.proposals.waiting().is_empty() || !self.reads.is_empty();
        let waits = is_asked || self.is_busy();
        let alarms = [clock.next_alarm(), self.watches.next_alarm()];
        Rest {
            // What is due now and was not proposed waits for the disk, like commands.
            has_work: waits || forgets_in == Some(Duration::ZERO),
            clock: alarms.into_iter().flatten().min(),
            age: forgets_in.map(|left| now + left),
        }
    }

    /// How many of the waiting commands the next entry takes.
    pub fn entry_len(&self) -> usize {
        let mut bytes = 0;
        let fits = self.proposals.waiting().iter().take_while(|command| {
            let first = bytes == 0;
            bytes += codec::weight(command);
            first || bytes <= ENTRY_BYTES_MAX
        });
        fits.count()
    }

    /// The questions of the next ReadIndex round: every keepalive, and a few looks.
    pub fn take_reads(&mut self) -> Vec<Read> {
        let mut reads = std::mem::take(&mut self.reads);
        let looks = self.looks.len().min(LOOKS_PER_TURN);
        reads.extend(self.looks.drain(..looks));
        reads
    }

    /// Queues what the lease clock finds due.
    pub fn ask_due(&mut self, now: Duration) -> usize {
        let Some(leading) = &mut self.leading else { return 0 };
        let due = leading.clock.due(now);
        let count = due.len();
        for command in due {
            self.ask(command, Asker::Clock);
        }
        count
    }

    /// Queues the questions for the next state of a lock that have waited for long enough: their askers
    /// hear that nothing has changed.
    pub fn ask_watched(&mut self, now: Duration) {
        for (name, Watch { to, shown_max, known }) in self.watches.take_over(now) {
            let (name, state_tag) = (name.as_str().to_owned(), Some(known));
            let request = v1::WatchLockRequest { name, shown_max, state_tag };
            self.looks
                .push_back(Read { to, query: Query::WatchLock { request, has_waited: true } });
        }
    }

    /// Drops acquires that have become too old while they waited for the disk: their clients have
    /// long asked again. How many.
    pub fn drop_stale(&mut self, now: Duration) -> u64 {
        let is_stale = |asker: &Asker| match asker {
            Asker::Acquire { stale_at, .. } => *stale_at < now,
            _ => false,
        };
        self.take_out(|_, asker| is_stale(asker)).len() as u64
    }

    /// Takes commands out of the queue that will not be proposed.
    pub fn take_out(&mut self, goes: impl Fn(&Command, &Asker) -> bool) -> Vec<(Command, Asker)> {
        let gone = self.proposals.take_out(goes);
        for (_, asker) in &gone {
            self.uncharge(asker);
            self.not_done(asker);
        }
        gone
    }

    /// A command of somebody was not done, and will not be.
    pub fn not_done(&mut self, asker: &Asker) {
        match asker {
            Asker::Acquire { acquisition, .. } => {
                self.subscribers.remove(acquisition);
                self.attempts.settled(*acquisition, false);
            }
            // Nobody waits for it. It is left to its lease, wherever its name is.
            Asker::Withdrawal(acquisition) => self.attempts.withdrawn(*acquisition),
            Asker::Clock | Asker::Agree { .. } | Asker::Call { .. } => {}
        }
    }

    /// The askers to whom the entry matters that was applied there.
    pub fn applied(&mut self, at: EntryAt) -> Matched<Asker> {
        let matched = self.proposals.applied(at);
        let Matched { askers, overtaken } = &matched;
        askers.iter().chain(overtaken).for_each(|asker| self.uncharge(asker));
        matched
    }

    /// An acquire was applied, or will not be: the table counts it from here on.
    fn uncharge(&mut self, asker: &Asker) {
        if let Asker::Acquire { charge: Some(charge), .. } = asker {
            self.pending.remove(charge);
        }
    }

    /// The questions that the end of a round clears: its own, and those of earlier rounds, whose
    /// messages may have been lost; proof that came later is proof for them too.
    pub fn cleared_by(&mut self, read: ReadId) -> Vec<Read> {
        let later = self.rounds.split_off(&ReadId(read.0 + 1));
        let cleared = std::mem::replace(&mut self.rounds, later);
        cleared.into_values().flatten().collect()
    }

    /// Forgets everything at step-down: who must hear "not leader" (not done), and who must hear
    /// "indeterminate" (on its way).
    pub fn step_down(&mut self) -> (Vec<ReplyTo>, Vec<ReplyTo>) {
        self.leading = None;
        self.batching = Batching::default();
        self.load = Load::default();
        self.sample = LoadSample::default();
        self.unsplit = None;
        self.told = ToldFigures::default();
        self.subscribers = Ascending::default();
        self.traced.clear();
        self.proposed.clear();
        self.attempts.clear();
        self.pending = Pending::default();
        let LeftBehind { not_proposed, in_log } = self.proposals.step_down();
        let queued = not_proposed.iter().filter_map(Asker::reply_to);
        let mut reads = std::mem::take(&mut self.reads);
        reads.extend(self.looks.drain(..));
        let rounds = std::mem::take(&mut self.rounds);
        let watching = self.watches.take_all();
        let reading = reads.into_iter().chain(rounds.into_values().flatten()).map(|read| read.to);
        let (kept_back, decided) = self.gate.take().map(Gate::waiting).unwrap_or_default();
        let wanted = self.wanted.take().map(|wanted| wanted.wish.askers).unwrap_or_default();
        let not_done =
            queued.chain(reading).chain(watching).chain(kept_back).chain(wanted).collect();
        let proposed = in_log.iter().filter_map(Asker::reply_to);
        (not_done, decided.into_iter().chain(proposed).collect())
    }
}
