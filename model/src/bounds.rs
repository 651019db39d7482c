//! How much of the world a scenario has: who is there, what they may do, and how often.
//!
//! Everything that is not bounded here is bounded by the state: time only counts leases down to
//! zero, so a clock that runs for ever adds no states.

use crate::{
    message::Terms,
    state::{ClientIndex, Condition, Id, NameIndex},
};

/// Clients (instances of sessions) that fit into a state.
pub const CLIENTS_MAX: usize = 3;
/// Acquisitions of one client.
pub const IDS_MAX: usize = 3;
/// Attempts, each with its own seq, of one client.
pub const ATTEMPTS_MAX: usize = 5;
/// Lock names: `a` stays with the parent, `z` moves to the child.
pub const NAMES: usize = 2;

/// The wish of an acquisition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// The lock, with a place in the queue if it is held.
    Wait,
    /// The lock now, or a refusal.
    Try,
    /// To join the hold of an earlier acquisition of the same client.
    Reenter(Id),
    /// The hold of an acquisition of another instance, or an orphan of its own.
    Reclaim(ClientIndex, Id),
}

/// Something that a client wants agreed about a hold whose guard is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// The condition `hold` in force.
    Claim,
    /// Other terms.
    Agree(Terms),
}

/// One acquisition that a client may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The lock.
    pub name: NameIndex,
    /// How.
    pub ask: Ask,
    /// Whether it is held when the story begins.
    pub held: bool,
    /// What it asks for as the condition.
    pub condition: Condition,
}

/// One instance of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientPlan {
    /// `S` or `T`.
    pub session: char,
    /// Which life of a process under that session; 1 is the older.
    pub instance: u8,
    /// By id. An acquisition starts only after those before it.
    pub plans: Vec<Plan>,
    /// Attempts in all: Acquires, KeepAlives, Claims, Reclaims.
    pub attempts: u8,
    /// The acquisitions that it may give back, by id as bits.
    pub closes: u8,
    /// Whether it may stop for ever at any moment.
    pub crashes: bool,
    /// Whether it may name only a part of what it has in one keepalive.
    pub splits_keepalives: bool,
    /// What it may want agreed about its holds, one after the other.
    pub wishes: Vec<Wish>,
    /// Whether it may ask a holder, once, while it waits.
    pub asks: bool,
}

/// The bounds of a scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Length of a lease in ticks.
    pub ttl: u8,
    /// By how much a lease is longer for which that was agreed.
    pub longer: u8,
    /// The actors.
    pub clients: Vec<ClientPlan>,
    /// Messages to servers that may be delivered once more.
    pub duplicates: u8,
    /// Leader changes.
    pub failovers: u8,
    /// Splits of the range.
    pub splits: u8,
    /// Holds that an operator may take away.
    pub force_releases: u8,
    /// How often an operator may revoke session `S` in a range.
    pub revocations: u8,
    /// How often the time of a condition may be over: at any moment.
    pub time_ups: u8,
    /// Wait time-outs.
    pub wait_timeouts: u8,
    /// How often a range may forget all that has ended.
    pub forgettings: u8,
    /// Messages lie in the leader's mailbox before they are received.
    pub mailbox: bool,
    /// Leaders do at once what is due, and what is proposed commits within the tick: what must end
    /// within a bound is judged only under this.
    pub prompt: bool,
    /// No message is lost and no leader dies: whatever nobody has open is gone when all is quiet.
    pub lossless: bool,
    /// The design permits that a finished acquisition comes back as a ghost: its duplicate was
    /// older than the ring.
    pub ghosts: bool,
}

impl Bounds {
    /// Two ticks of lease, and nothing that goes wrong.
    pub fn calm(clients: Vec<ClientPlan>) -> Self {
        Self {
            ttl: 2,
            longer: 0,
            clients,
            duplicates: 0,
            failovers: 0,
            splits: 0,
            force_releases: 0,
            revocations: 0,
            time_ups: 0,
            wait_timeouts: 0,
            forgettings: 0,
            mailbox: false,
            prompt: false,
            lossless: false,
            ghosts: false,
        }
    }

    /// The plan of an acquisition.
    pub fn plan(&self, client: ClientIndex, id: Id) -> Plan {
        self.clients[usize::from(client)].plans[usize::from(id)]
    }

    /// The name of an acquisition.
    pub fn name(&self, client: ClientIndex, id: Id) -> NameIndex {
        self.plan(client, id).name
    }

    /// How people call a client.
    pub fn label(&self, client: ClientIndex) -> String {
        let plan = &self.clients[usize::from(client)];
        format!("{}/{}", plan.session, plan.instance)
    }
}

impl Wish {
    /// Another condition, and the lease as it was.
    pub fn condition(condition: Condition) -> Self {
        Self::Agree(Terms { condition, longer: false })
    }
}

impl ClientPlan {
    /// A client with so many attempts that gives back what it has.
    pub fn new(session: char, instance: u8, attempts: u8, plans: &[Plan]) -> Self {
        assert!(plans.len() <= IDS_MAX && usize::from(attempts) <= ATTEMPTS_MAX);
        Self {
            session,
            instance,
            plans: plans.to_vec(),
            attempts,
            closes: 0,
            crashes: false,
            splits_keepalives: false,
            wishes: Vec::new(),
            asks: false,
        }
    }

    /// It may give back what it has asked for.
    pub fn closing(mut self) -> Self {
        self.closes = u8::MAX;
        self
    }

    /// It may give back this one, and nothing else.
    pub fn closing_only(mut self, id: Id) -> Self {
        self.closes = 1 << id;
        self
    }

    /// It may crash.
    pub fn crashing(mut self) -> Self {
        self.crashes = true;
        self
    }

    /// It may name a part of what it has.
    pub fn splitting_keepalives(mut self) -> Self {
        self.splits_keepalives = true;
        self
    }

    /// It may want this agreed, one after the other.
    pub fn wishing(mut self, wishes: &[Wish]) -> Self {
        self.wishes = wishes.to_vec();
        self
    }

    /// It may ask holders.
    pub fn asking(mut self) -> Self {
        self.asks = true;
        self
    }
}

impl Plan {
    /// Asks for a name and waits.
    pub fn wait(name: NameIndex) -> Self {
        Self { name, ask: Ask::Wait, held: false, condition: Condition::OnExpiry }
    }

    /// Asks for a name and does not wait.
    pub fn try_once(name: NameIndex) -> Self {
        Self { name, ask: Ask::Try, held: false, condition: Condition::OnExpiry }
    }

    /// Held when the story begins.
    pub fn held(name: NameIndex) -> Self {
        Self { name, ask: Ask::Wait, held: true, condition: Condition::OnExpiry }
    }

    /// Joins the hold of an earlier id.
    pub fn reenter(name: NameIndex, outer: Id) -> Self {
        Self { name, ask: Ask::Reenter(outer), held: false, condition: Condition::OnExpiry }
    }

    /// Has joined the hold of an earlier id when the story begins.
    pub fn joined(name: NameIndex, outer: Id) -> Self {
        Self { name, ask: Ask::Reenter(outer), held: true, condition: Condition::OnExpiry }
    }

    /// With this condition.
    pub fn under(mut self, condition: Condition) -> Self {
        self.condition = condition;
        self
    }

    /// Takes over what another instance holds.
    pub fn reclaim(name: NameIndex, from: ClientIndex, id: Id) -> Self {
        Self { name, ask: Ask::Reclaim(from, id), held: false, condition: Condition::OnExpiry }
    }
}
