//! The state of the modelled world. It holds no absolute time: leases, attempts and beliefs are what
//! is left of them, so that states which differ only in the hour are one state.

use crate::{
    bounds::{ATTEMPTS_MAX, Bounds, CLIENTS_MAX, IDS_MAX, NAMES},
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
    /// The client knows that its condition is the default, and has claimed nothing since.
    pub default_known: bool,
}

/// One attempt: something sent with a seq.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Attempt {
    /// Until a lease that counts from its sending ends.
    pub left: Ticks,
    /// Of which acquisitions its answer may say "gone": those for which an answer had come when it
    /// was sent, as bits; all, if the log decides its answer.
    pub answered_before: u8,
}

impl Attempt {
    /// Not made, or of no use any more.
    pub const NONE: Self = Self { left: 0, answered_before: 0 };
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
    /// Claims and SetConditions made.
    pub claims: u8,
}

/// A lease, as the leader that counts it knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lease {
    /// The id whose lease it is where rule OneLeasePerHold is off; else 0.
    pub of: Id,
    /// Until the deadline.
    pub left: Ticks,
    /// Its end is in the log or on the way there.
    pub pending: bool,
    /// The lease that would be left if the last receipt while pending had counted.
    pub heard: Ticks,
}

impl Lease {
    /// A lease that starts now.
    pub fn full(ttl: Ticks) -> Self {
        Self { of: 0, left: ttl, pending: false, heard: 0 }
    }

    /// A receipt: the deadline moves, or the receipt is remembered while an end is pending.
    pub fn renew(&mut self, ttl: Ticks) {
        if self.pending {
            self.heard = ttl;
        } else {
            self.left = self.left.max(ttl);
        }
    }

    fn tick(&mut self) {
        self.left = self.left.saturating_sub(1);
        self.heard = self.heard.saturating_sub(1);
    }
}

/// One hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hold {
    /// Its token.
    pub token: Token,
    /// Its client, as the log names clients.
    pub owner: ClientIndex,
    /// The ids open on it, as bits.
    pub open: u8,
    /// The ids that were closed on it, as bits.
    pub closed: u8,
    /// The newest id that ever joined.
    pub newest: Id,
    /// Its lease; one per id where rule OneLeasePerHold is off.
    pub leases: Vec<Lease>,
    /// Ending has been applied.
    pub ending: bool,
    /// An operator wanted that.
    pub forced: bool,
    /// The condition is `hold`: at its lease's end it is orphaned.
    pub claimed: bool,
    /// It has no lease any more and waits for its session.
    pub orphan: bool,
    /// Revision of the condition.
    pub revision: u8,
    /// The client that gets it when it ends.
    pub reclaimer: Option<(ClientIndex, Id)>,
    /// Ticks since the last receipt that named an open id, up to a bound.
    pub unnamed: u8,
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
    pub faults: u8,
}

impl State {
    /// The world when the story begins: what plans say is held has just been acquired.
    pub fn initial(bounds: &Bounds) -> Self {
        let nothing =
            Acquisition { phase: Phase::Idle, left: 0, revision: 0, default_known: false };
        let client = Client {
            crashed: false,
            acquisitions: [nothing; IDS_MAX],
            attempts: [Attempt::NONE; ATTEMPTS_MAX],
            sent: 0,
            answered: 0,
            claims: 0,
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
            wait_timeouts: 0,
            forgettings: 0,
            doubtful: [0; CLIENTS_MAX],
            ended_after: [[0; IDS_MAX]; CLIENTS_MAX],
            faults: 0,
        };
        for (client, plan) in bounds.clients.iter().enumerate() {
            for (id, held) in plan.plans.iter().enumerate().filter(|(_, plan)| plan.held) {
                state.begin_held(bounds.ttl, client, id, usize::from(held.name));
            }
        }
        state
    }

    fn begin_held(&mut self, ttl: Ticks, client: usize, id: usize, name: usize) {
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

impl Hold {
    /// A fresh hold with the default condition and nobody's id on it.
    pub fn new(token: Token, owner: ClientIndex, id: Id, lease: Lease) -> Self {
        Self {
            token,
            owner,
            open: 0,
            closed: 0,
            newest: id,
            leases: vec![lease],
            ending: false,
            forced: false,
            claimed: false,
            orphan: false,
            revision: 0,
            reclaimer: None,
            unnamed: 0,
        }
    }

    /// Whether an acquisition of the owner is open on it.
    pub fn has(&self, owner: ClientIndex, id: Id) -> bool {
        self.owner == owner && self.open & (1 << id) != 0
    }

    /// Every lease of it anew.
    pub fn restart(&mut self, left: Ticks) {
        for lease in &mut self.leases {
            *lease = Lease { left, pending: false, heard: 0, ..*lease };
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
