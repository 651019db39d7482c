//! The state of the modelled world. It holds no absolute time: leases, attempts and beliefs are what
//! is left of them, so that states which differ only in the hour are one state.

pub use crate::hold::{Condition, EndingCause, Hold, Lease};
use crate::{
    bounds::{ATTEMPTS_MAX, Bounds, CLIENTS_MAX, IDS_MAX, NAMES, Plan},
    message::{Command, Message, Read},
};

/// Index of a client in [`Bounds::clients`].
pub type ClientIndex = u8;
/// Index of an acquisition in a client's plans.
pub type Id = u8;
/// Index of a lock name.
pub type NameIndex = u8;
/// Index of an attempt of a client; 0 is "no attempt", as a push has it.
pub type Seq = u8;
/// Fencing token; 0 is none.
pub type Token = u8;
/// Ticks that are left of something.
pub type Ticks = u8;

/// The name that a split moves to the child.
pub const MOVED: NameIndex = 1;

/// Which range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RangeId {
    /// Serves all names until a split.
    Parent,
    /// Serves [`MOVED`] after a split.
    Child,
}

/// The state of an acquisition for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// Not asked for yet.
    Idle,
    /// Asked for, and nothing heard.
    Asking,
    /// In the queue, or in line for a reclaim.
    Waiting,
    /// Granted, and no time known.
    Granted(Token),
    /// The guard is out: the client believes to hold, while `left` lasts.
    Held(Token),
    /// The guard is out and knows that it is lost.
    Lost(Token),
    /// Given back, refused, or told that it is gone.
    Closed,
}

/// One acquisition as its client knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Acquisition {
    /// Its state.
    pub phase: Phase,
    /// Until `valid_until`.
    pub left: Ticks,
    /// The condition's revision that an answer has shown.
    pub revision: u8,
    /// The client knows that its condition is the default, and has wanted nothing else since.
    pub default_known: bool,
    /// The client knows that its lease is longer than others.
    pub longer_known: bool,
}

/// One attempt: something sent with a seq.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Attempt {
    /// Until a lease that counts from its sending ends, the longest that there is.
    pub left: Ticks,
    /// For which acquisitions that length was known when it was sent, as bits.
    pub longer: u8,
    /// Of which acquisitions its answer may say "gone": those for which an answer had come when it
    /// was sent, as bits; all, if the log decides its answer.
    pub answered_before: u8,
}

impl Attempt {
    /// Not made, or of no use any more.
    pub const NONE: Self = Self { left: 0, longer: 0, answered_before: 0 };
}

/// One instance of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Client {
    /// It has stopped for ever.
    pub crashed: bool,
    /// By id.
    pub acquisitions: [Acquisition; IDS_MAX],
    /// By seq − 1.
    pub attempts: [Attempt; ATTEMPTS_MAX],
    /// Attempts made.
    pub sent: u8,
    /// Acquisitions for which an answer has come, as bits.
    pub answered: u8,
    /// Claims, SetConditions and Asks made.
    pub wishes: u8,
}

/// One queued acquisition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Waiter {
    /// The client.
    pub client: ClientIndex,
    /// Which.
    pub id: Id,
    /// Its lease.
    pub lease: Lease,
}

/// One lock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lock {
    /// Its holder.
    pub hold: Option<Hold>,
    /// The waiters, in order.
    pub queue: Vec<Waiter>,
}

/// The leader of a range: what it has proposed, and whom it has not answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Range {
    /// Its term.
    pub term: u8,
    /// Proposed and not committed, in order.
    pub log: Vec<Command>,
    /// Decided and not proposed, where rule ScanEntersLogInOrder is off.
    pub decided: Vec<Command>,
    /// Received, not answered.
    pub reads: Vec<Read>,
    /// The last token of this range.
    pub counter: Token,
}

/// A superseded leader that has not noticed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stale {
    /// Of which range.
    pub range: RangeId,
    /// In which term it led.
    pub term: u8,
    /// Its knowledge of the locks that it served, leases included.
    pub locks: [Option<Lock>; NAMES],
}

impl Stale {
    /// A lock as it last saw it.
    pub fn sees(&self, name: NameIndex) -> Option<&Lock> {
        self.locks[usize::from(name)].as_ref()
    }
}

/// A fault of a step that cannot be seen in the state that it left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An acquisition that had finished was opened again.
    Reopened = 0,
    /// A re-entry got another token than it had named.
    FreshReentry = 1,
    /// A grant whose token is not larger than every earlier one of its name.
    TokenNotNew = 2,
    /// A client believed "gone" of something that was open.
    FalseGone = 3,
    /// A lease was found at its end while a renewal of it lay in the mailbox.
    UnheardRenewal = 4,
    /// A hold that an operator took away went to the session that had it.
    EndingEvaded = 5,
    /// A claimed hold was freed by nobody who may.
    ClaimedFreed = 6,
    /// A hold was orphaned that its client had never seen.
    UnseenStays = 7,
    /// An older instance took a hold from a newer one.
    OlderLifeTook = 8,
    /// Behind a revocation the session waits, or has a hold that is not ending.
    RevocationEvaded = 9,
    /// A hold is ended for waiters of whom there is none.
    EndedForNobody = 10,
    /// A hold is ended by a time that is not agreed any more.
    EndedUnagreed = 11,
}

/// The modelled world at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The actors.
    pub clients: [Client; CLIENTS_MAX],
    /// The committed state of all locks, with the leases of whoever leads their range now.
    pub locks: [Lock; NAMES],
    /// Parent, and child once there was a split.
    pub ranges: Vec<Range>,
    /// The parent's leader has not applied a committed split: its view of the moved lock.
    pub lagging: Option<Lock>,
    /// A superseded leader.
    pub stale: Option<Stale>,
    /// On their way.
    pub net: Vec<Message>,
    /// In the mailbox of the parent's leader.
    pub mailbox: Vec<Message>,
    /// Finished acquisitions as the log remembers them, per client as bits.
    pub ring: [u8; CLIENTS_MAX],
    /// Acquisitions that have finished, whatever the log remembers, per client as bits.
    pub ended: [u8; CLIENTS_MAX],
    /// The largest token ever granted, per name.
    pub granted: [Token; NAMES],
    /// Duplicates that may still happen.
    pub duplicates: u8,
    /// Leader changes so far.
    pub failovers: u8,
    /// Splits proposed so far.
    pub splits: u8,
    /// Force-releases so far.
    pub force_releases: u8,
    /// Endings applied so far.
    pub endings: u8,
    /// Revocations wanted so far.
    pub revocations: u8,
    /// Revocations applied so far.
    pub revoked: u8,
    /// Times of conditions that were found over so far.
    pub time_ups: u8,
    /// Wait time-outs so far.
    pub wait_timeouts: u8,
    /// How often the range has forgotten what has ended.
    pub forgettings: u8,
    /// Attempts that each client had made when that was last.
    pub doubtful: [Seq; CLIENTS_MAX],
    /// Attempts that each client had made when an acquisition of it ended, where something may be
    /// forgotten.
    pub ended_after: [[Seq; IDS_MAX]; CLIENTS_MAX],
    /// Bits of [`Fault`].
    pub faults: u16,
}

impl State {
    /// The world when the story begins: what plans say is held has just been acquired.
    pub fn initial(bounds: &Bounds) -> Self {
        let nothing = Acquisition {
            phase: Phase::Idle,
            left: 0,
            revision: 0,
            default_known: false,
            longer_known: false,
        };
        let client = Client {
            crashed: false,
            acquisitions: [nothing; IDS_MAX],
            attempts: [Attempt::NONE; ATTEMPTS_MAX],
            sent: 0,
            answered: 0,
            wishes: 0,
        };
        let mut state = Self {
            clients: [client; CLIENTS_MAX],
            locks: Default::default(),
            ranges: vec![Range { term: 1, ..Range::default() }],
            lagging: None,
            stale: None,
            net: Vec::new(),
            mailbox: Vec::new(),
            ring: [0; CLIENTS_MAX],
            ended: [0; CLIENTS_MAX],
            granted: [0; NAMES],
            duplicates: bounds.duplicates,
            failovers: 0,
            splits: 0,
            force_releases: 0,
            endings: 0,
            revocations: 0,
            revoked: 0,
            time_ups: 0,
            wait_timeouts: 0,
            forgettings: 0,
            doubtful: [0; CLIENTS_MAX],
            ended_after: [[0; IDS_MAX]; CLIENTS_MAX],
            faults: 0,
        };
        for (client, plan) in bounds.clients.iter().enumerate() {
            for (id, held) in plan.plans.iter().enumerate().filter(|(_, plan)| plan.held) {
                state.begin_held(bounds.ttl, client, id, *held);
            }
        }
        state
    }

    fn begin_held(&mut self, ttl: Ticks, client: usize, id: usize, plan: Plan) {
        let name = usize::from(plan.name);
        let lock = &mut self.locks[name];
        let (owner, bit) = (client as ClientIndex, 1 << id);
        let hold = lock.hold.get_or_insert_with(|| {
            self.ranges[0].counter += 1;
            self.granted[name] = self.ranges[0].counter;
            Hold::new(self.ranges[0].counter, owner, 0, Lease::full(ttl))
        });
        assert_eq!(hold.owner, owner, "one client holds a name when the story begins");
        hold.open |= bit;
        hold.newest = id as Id;
        hold.condition = plan.condition;
        let acquisition = &mut self.clients[client].acquisitions[id];
        acquisition.phase = Phase::Held(hold.token);
        acquisition.left = ttl;
        self.clients[client].answered |= bit;
    }

    /// A client.
    pub fn client(&mut self, client: ClientIndex) -> &mut Client {
        &mut self.clients[usize::from(client)]
    }

    /// An acquisition as its client knows it.
    pub fn acquisition(&mut self, client: ClientIndex, id: Id) -> &mut Acquisition {
        &mut self.clients[usize::from(client)].acquisitions[usize::from(id)]
    }

    /// The range that serves a name by the committed state.
    pub fn range_of(&self, name: NameIndex) -> RangeId {
        if name == MOVED && self.ranges.len() > 1 { RangeId::Child } else { RangeId::Parent }
    }

    /// A range.
    pub fn range(&mut self, range: RangeId) -> &mut Range {
        &mut self.ranges[range as usize]
    }

    /// A lock as the leader of a range sees it: `None` outside of what it takes for its bounds.
    pub fn view(&self, range: RangeId, name: NameIndex) -> Option<&Lock> {
        if self.range_of(name) == range {
            Some(&self.locks[usize::from(name)])
        } else if range == RangeId::Parent {
            self.lagging.as_ref()
        } else {
            None
        }
    }

    /// See [`view`](Self::view).
    pub fn view_mut(&mut self, range: RangeId, name: NameIndex) -> Option<&mut Lock> {
        if self.range_of(name) == range {
            Some(&mut self.locks[usize::from(name)])
        } else if range == RangeId::Parent {
            self.lagging.as_mut()
        } else {
            None
        }
    }

    /// Whether the leader of a range has proposed a split and not applied it.
    pub fn is_splitting(&self, range: RangeId) -> bool {
        let proposed = self.ranges[range as usize].log.contains(&Command::Split);
        range == RangeId::Parent && (proposed || self.lagging.is_some())
    }

    /// Puts a message on its way. The network keeps no order.
    pub fn send(&mut self, message: Message) {
        let at = self.net.partition_point(|other| *other < message);
        self.net.insert(at, message);
    }

    /// Writes down that a step did what must never happen.
    pub fn blame(&mut self, fault: Fault) {
        self.faults |= 1 << fault as u8;
    }

    /// One tick of true time.
    pub fn tick(&mut self, unnamed_max: u8) {
        for client in &mut self.clients {
            client.tick();
        }
        let stale = self.stale.iter_mut().flat_map(|stale| stale.locks.iter_mut().flatten());
        for lock in self.locks.iter_mut().chain(self.lagging.as_mut()).chain(stale) {
            lock.tick(unnamed_max);
        }
    }
}

impl Client {
    /// Beliefs run out by the client's own clock; what is lost stays lost.
    fn tick(&mut self) {
        for attempt in &mut self.attempts {
            attempt.left = attempt.left.saturating_sub(1);
        }
        for acquisition in &mut self.acquisitions {
            acquisition.left = acquisition.left.saturating_sub(1);
            if let (Phase::Held(token), 0) = (acquisition.phase, acquisition.left) {
                acquisition.phase = Phase::Lost(token);
            }
        }
    }
}

impl Lock {
    fn tick(&mut self, unnamed_max: u8) {
        for waiter in &mut self.queue {
            waiter.lease.tick();
        }
        if let Some(hold) = &mut self.hold {
            hold.unnamed = (hold.unnamed + 1).min(unnamed_max);
            hold.leases.iter_mut().for_each(Lease::tick);
        }
    }
}
