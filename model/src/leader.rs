//! The leader of a range between two commits: it receives, renews, proves that it leads, answers,
//! and decides what its clock finds due.

use crate::{
    message::{Command, Message, Read, Said},
    rules::Rule,
    state::{ClientIndex, Fault, Id, Lease, Lock, NameIndex, RangeId, Seq, Waiter},
    table::ids,
    world::World,
};

/// The owner of a lease in a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Leased {
    /// Its hold; `of` is the id where leases are per id, else 0.
    Hold {
        /// The client of the lease.
        of: Id,
    },
    /// One of its waiters.
    Waiter(ClientIndex, Id),
}

impl World<'_> {
    /// The leader of a range takes a message out of its mailbox. This moment is the receipt.
    pub fn receive(&mut self, range: RangeId, message: Message) {
        match message {
            Message::KeepAlive { client, seq, items } => {
                self.receive_keepalive(range, client, seq, items);
            }
            Message::Release { .. }
            | Message::Cancel { .. }
            | Message::SetCondition { .. }
            | Message::Ask { .. } => {
                self.propose(range, Command::Asked(message));
            }
            Message::Acquire { client, id, reenter, .. } => {
                self.name_in_receipt(range, client, id, reenter);
                self.propose(range, Command::Asked(message));
            }
            Message::Claim { client, id, token, .. } => {
                self.name_in_receipt(range, client, id, token);
                self.propose(range, Command::Asked(message));
            }
            Message::Reclaim { client, id, .. } => {
                self.name_in_receipt(range, client, id, 0);
                self.propose(range, Command::Asked(message));
            }
            _ => unreachable!("not for a server: {message:?}"),
        }
    }

    fn propose(&mut self, range: RangeId, command: Command) {
        self.state.range(range).log.push(command);
    }

    /// A command that will be answered with its seq renews what its answer will speak of: its own
    /// lease, if it has one, or that of the hold which it would join or claim.
    fn name_in_receipt(&mut self, range: RangeId, client: ClientIndex, id: Id, token: u8) {
        let (ttl, owner) = (self.server_ttl(), self.key(client));
        let renews = self.has(Rule::EveryReceiptRenews);
        let name = self.name(client, id);
        let longer = self.longer_by(true);
        let Some(lock) = self.state.view_mut(range, name) else { return };
        if let Some(waiter) = waiter_mut(lock, owner, id) {
            if renews {
                waiter.lease.renew(ttl);
            }
            return;
        }
        let Some(hold) = &mut lock.hold else { return };
        let joins = token != 0 && hold.token == token && hold.owner == owner;
        if hold.has(owner, id) || joins {
            hold.unnamed = 0;
            // The time of an ending hold is the time that its End waits.
            if renews && !hold.is_ending() {
                let ttl = ttl + if hold.longer { longer } else { 0 };
                hold.leases.iter_mut().for_each(|lease| lease.renew(ttl));
            }
        }
    }

    /// Moves the deadlines of what is named, and notes what to answer once leadership is proven.
    fn receive_keepalive(&mut self, range: RangeId, client: ClientIndex, seq: Seq, items: u8) {
        let (mut answered, mut elsewhere) = (0, 0);
        for id in ids(items) {
            let name = self.name(client, id);
            if self.state.view(range, name).is_none() {
                elsewhere |= 1 << id;
            } else if self.renew(range, client, id) {
                answered |= 1 << id;
            }
        }
        if !self.has(Rule::RenewalNamesItems) {
            self.renew_session(range, client);
        }
        if !self.has(Rule::GoneWithinBounds) {
            // It answers for every name that it is asked about.
            answered |= elsewhere;
            elsewhere = 0;
        }
        if elsewhere != 0 && self.state.ranges.len() > 1 {
            // The gateway cuts the keepalive by range: the rest goes its own way.
            self.state.send(Message::KeepAlive { client, seq, items: elsewhere });
        }
        if answered == 0 {
            return;
        }
        let read = Read { client, seq, items: answered };
        let reads = &mut self.state.range(range).reads;
        let at = reads.partition_point(|other| *other < read);
        reads.insert(at, read);
    }

    /// Renews one item. `false`: nothing may be answered for it.
    fn renew(&mut self, range: RangeId, client: ClientIndex, id: Id) -> bool {
        let (ttl, owner) = (self.server_ttl(), self.key(client));
        let per_id = !self.has(Rule::OneLeasePerHold);
        let silent = self.has(Rule::SilentWhilePending);
        let name = self.name(client, id);
        let longer = self.longer_by(true);
        let Some(lock) = self.state.view_mut(range, name) else { return false };
        if let Some(waiter) = waiter_mut(lock, owner, id) {
            waiter.lease.renew(ttl);
            return !waiter.lease.pending || !silent;
        }
        let Some(hold) = lock.hold.as_mut().filter(|hold| hold.has(owner, id)) else { return true };
        hold.unnamed = 0;
        if hold.is_ending() {
            return true;
        }
        let ttl = ttl + if hold.longer { longer } else { 0 };
        let mut heard = true;
        for lease in hold.leases.iter_mut().filter(|lease| !per_id || lease.of == id) {
            heard &= !lease.pending || !silent;
            lease.renew(ttl);
        }
        heard
    }

    /// If keepalives renew sessions: everything of the client in the range.
    fn renew_session(&mut self, range: RangeId, client: ClientIndex) {
        let (ttl, owner) = (self.server_ttl(), self.key(client));
        for name in 0..self.state.locks.len() as NameIndex {
            let Some(lock) = self.state.view_mut(range, name) else { continue };
            let hold = lock.hold.as_mut().filter(|hold| hold.owner == owner && !hold.is_ending());
            if let Some(hold) = hold {
                hold.leases.iter_mut().for_each(|lease| lease.renew(ttl));
            }
        }
    }

    /// A ReadIndex round that began after the receipt is over: the answer is what holds now.
    pub fn confirm(&mut self, range: RangeId, read: Read) {
        let reads = &mut self.state.range(range).reads;
        let at = reads.iter().position(|other| *other == read);
        reads.remove(at.expect("only what was received is confirmed"));
        self.answer_read(read, Some(range));
    }

    /// Answers a keepalive from what the leader of a range sees of each lock, or a superseded leader.
    pub fn answer_read(&mut self, read: Read, by: Option<RangeId>) {
        let Read { client, seq, items } = read;
        let owner = self.key(client);
        let shows_ending = self.has(Rule::EndingStopsRenewal);
        let mut alive = false;
        for id in ids(items) {
            let name = self.name(client, id);
            let seen = match by {
                Some(range) => self.state.view(range, name),
                None => self.state.stale.as_ref().and_then(|stale| stale.sees(name)),
            };
            let said = match seen {
                Some(lock) => said_of(lock, owner, id, shows_ending),
                None if self.has(Rule::GoneWithinBounds) => continue,
                None => Said::Gone,
            };
            if self.has(Rule::AnswersPerItem) {
                self.answer(client, id, seq, said);
            } else {
                alive |= matches!(said, Said::Held(_));
            }
        }
        if alive {
            let plans = &self.bounds.clients[usize::from(client)].plans;
            let items = (1 << plans.len()) - 1;
            self.state.send(Message::SessionAlive { client, seq, items });
        }
    }

    /// The commands that the clock of a range's leader finds due.
    pub fn due(&self, range: RangeId) -> Vec<(NameIndex, Leased)> {
        if self.has(Rule::ScanAfterMailbox) && !self.state.mailbox.is_empty() {
            return Vec::new();
        }
        let names = 0..self.state.locks.len() as NameIndex;
        let locks = names.filter_map(|name| Some((name, self.state.view(range, name)?)));
        locks.flat_map(|(name, lock)| due_in(lock).map(move |due| (name, due))).collect()
    }

    /// The scan decides that a lease has ended.
    pub fn scan(&mut self, range: RangeId, name: NameIndex, leased: Leased) {
        self.judge_mailbox(name, leased);
        let term = self.state.range(range).term;
        let lock = self.state.view_mut(range, name).expect("only what is seen is due");
        let command = expiry(lock, name, leased, term).expect("the scan names what is there");
        let in_order = self.has(Rule::ScanEntersLogInOrder);
        let range = self.state.range(range);
        if in_order { range.log.push(command) } else { range.decided.push(command) }
    }

    /// No renewal of what has just been found due may lie unread.
    fn judge_mailbox(&mut self, name: NameIndex, leased: Leased) {
        let lock = &self.state.locks[usize::from(name)];
        let unheard = self.state.mailbox.iter().any(|message| match *message {
            Message::KeepAlive { client, items, .. } => ids(items).any(|id| {
                let owner = self.key(client);
                self.name(client, id) == name
                    && match leased {
                        Leased::Hold { .. } => {
                            lock.hold.as_ref().is_some_and(|hold| hold.has(owner, id))
                        }
                        Leased::Waiter(waiter, waiting) => (waiter, waiting) == (owner, id),
                    }
            }),
            _ => false,
        });
        if unheard {
            self.state.blame(Fault::UnheardRenewal);
        }
    }

    /// The decided commands are proposed, where that is a step of its own.
    pub fn propose_decided(&mut self, range: RangeId) {
        let range = self.state.range(range);
        let command = range.decided.remove(0);
        range.log.push(command);
    }

    /// The first proposal of a range commits, and its leader applies it. A split commits in
    /// `failover`: its leader may apply it later than others.
    pub fn commit(&mut self, range: RangeId) {
        let command = self.state.range(range).log.remove(0);
        if command == Command::Split {
            self.commit_split();
        } else {
            self.apply(range, command, true);
        }
    }
}

fn waiter_mut(lock: &mut Lock, owner: ClientIndex, id: Id) -> Option<&mut Waiter> {
    lock.queue.iter_mut().find(|waiter| (waiter.client, waiter.id) == (owner, id))
}

/// The state of an acquisition in a lock.
fn said_of(lock: &Lock, owner: ClientIndex, id: Id, shows_ending: bool) -> Said {
    let waits = lock.queue.iter().any(|waiter| (waiter.client, waiter.id) == (owner, id));
    match &lock.hold {
        Some(hold) if hold.has(owner, id) && hold.orphan => Said::Gone,
        Some(hold) if hold.has(owner, id) && hold.is_ending() && shows_ending => {
            Said::Ending(hold.token)
        }
        Some(hold) if hold.has(owner, id) => Said::Held(hold.token),
        Some(hold) if hold.reclaimer == Some((owner, id)) => Said::Waiting,
        _ if waits => Said::Waiting,
        _ => Said::Gone,
    }
}

/// The leases of a lock that have come to their end.
pub fn due_in(lock: &Lock) -> impl Iterator<Item = Leased> {
    let is_due = |lease: &Lease| lease.left == 0 && !lease.pending;
    let leases = lock.hold.iter().flat_map(|hold| &hold.leases).copied();
    let holds = leases.filter(is_due).map(|lease| Leased::Hold { of: lease.of });
    let waiters = lock.queue.iter().filter(move |waiter| is_due(&waiter.lease));
    holds.chain(waiters.map(|waiter| Leased::Waiter(waiter.client, waiter.id)))
}

/// The command that ends a lease, which is pending from here on.
pub fn expiry(lock: &mut Lock, name: NameIndex, leased: Leased, term: u8) -> Option<Command> {
    match leased {
        Leased::Hold { of } => {
            let hold = lock.hold.as_mut()?;
            let lease = hold.leases.iter_mut().find(|lease| lease.of == of)?;
            (lease.pending, lease.heard) = (true, 0);
            let (token, owner, newest) = (hold.token, hold.owner, hold.newest);
            Some(if hold.is_ending() {
                Command::End { name, token, term }
            } else {
                Command::Expire { name, token, owner, newest, of, term }
            })
        }
        Leased::Waiter(client, id) => {
            let waiter = waiter_mut(lock, client, id)?;
            (waiter.lease.pending, waiter.lease.heard) = (true, 0);
            Some(Command::ExpireWaiter { client, id, term })
        }
    }
}
