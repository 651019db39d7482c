//! A state with the rules and bounds that it moves by. The steps that move it are in `table`,
//! `leader`, `failover` and `client`.

use crate::{
    bounds::Bounds,
    message::{Message, Said},
    rules::{Rule, Rules},
    state::{ClientIndex, Hold, Id, NameIndex, RangeId, Seq, State},
};

/// A state in motion.
pub struct World<'a> {
    /// The rules that hold.
    pub rules: Rules,
    /// The bounds of the world.
    pub bounds: &'a Bounds,
    /// How it stands.
    pub state: State,
}

impl World<'_> {
    /// Whether a rule holds.
    pub fn has(&self, rule: Rule) -> bool {
        self.rules.has(rule)
    }

    /// How the log names a client.
    pub fn key(&self, client: ClientIndex) -> ClientIndex {
        key(self.rules, self.bounds, client)
    }

    /// The name of an acquisition.
    pub fn name(&self, client: ClientIndex, id: Id) -> NameIndex {
        self.bounds.name(client, id)
    }

    /// Sends an answer or a push.
    pub fn answer(&mut self, client: ClientIndex, id: Id, seq: Seq, said: Said) {
        self.state.send(Message::Answer { client, id, seq, said });
    }

    /// A lease as a server starts it. A server whose clock may run fast ends it a tick too soon.
    pub fn server_ttl(&self) -> u8 {
        self.bounds.ttl - u8::from(!self.has(Rule::SlowerServerClock))
    }

    /// The lease of a hold as a server starts it.
    pub fn server_ttl_of(&self, hold: &Hold) -> u8 {
        self.server_ttl() + self.longer_by(hold.longer)
    }

    /// By how much a lease is longer for which that was agreed.
    pub fn longer_by(&self, longer: bool) -> u8 {
        if longer { self.bounds.longer } else { 0 }
    }

    /// The session of a client.
    pub fn session(&self, client: ClientIndex) -> char {
        self.bounds.clients[usize::from(client)].session
    }

    /// Which life of its session a client is, as the log knows it. Without rule InstanceGrows a clock
    /// that was set back counts them the other way round.
    pub fn instance(&self, client: ClientIndex) -> u8 {
        let instance = self.bounds.clients[usize::from(client)].instance;
        if self.has(Rule::InstanceGrows) { instance } else { u8::MAX - instance }
    }

    /// Whether a name lies in a range by the committed state.
    pub fn is_in(&self, range: RangeId, name: NameIndex) -> bool {
        self.state.range_of(name) == range
    }

    /// Whether this acquisition has finished as far as the log remembers.
    pub fn is_in_ring(&self, client: ClientIndex, id: Id) -> bool {
        self.has(Rule::RingOfFinished) && self.state.ring[usize::from(client)] & (1 << id) != 0
    }

    /// The log remembers that an acquisition has finished.
    pub fn record(&mut self, client: ClientIndex, id: Id) {
        self.state.ring[usize::from(client)] |= 1 << id;
        self.state.ended[usize::from(client)] |= 1 << id;
        if self.bounds.forgettings > 0 {
            let sent = self.state.clients[usize::from(client)].sent;
            self.state.ended_after[usize::from(client)][usize::from(id)] = sent;
        }
    }

    /// All that has ended is forgotten, and that something is.
    pub fn forget_ended(&mut self) {
        self.state.forgettings += 1;
        self.state.ring = Default::default();
        self.state.doubtful = self.state.clients.map(|client| client.sent);
    }

    /// Whether an attempt may be a copy of what is forgotten.
    pub fn is_doubtful(&self, client: ClientIndex, seq: Seq) -> bool {
        let doubtful = self.state.doubtful[usize::from(client)];
        self.has(Rule::DoubtfulIsNotDone) && seq <= doubtful
    }

    /// An attempt is done. If its client sent it after the acquisition had ended, without having heard of
    /// that, it asks anew.
    pub fn ask_anew(&mut self, client: ClientIndex, id: Id, seq: Seq) {
        let ended_after = self.state.ended_after[usize::from(client)][usize::from(id)];
        if self.bounds.forgettings > 0 && seq > ended_after {
            self.state.ended[usize::from(client)] &= !(1 << id);
        }
    }
}

/// How the log names a client: by session and instance. Without that rule the older instance
/// stands for both.
pub fn key(rules: Rules, bounds: &Bounds, client: ClientIndex) -> ClientIndex {
    let session = bounds.clients[usize::from(client)].session;
    let first = bounds.clients.iter().position(|other| other.session == session);
    match first {
        Some(first) if !rules.has(Rule::InstanceInIdentity) => first as ClientIndex,
        _ => client,
    }
}
