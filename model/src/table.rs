//! Apply: what a committed command does to the locks. It reads no clock; leases are started and
//! stopped here only because they follow what is applied.

use crate::{
    bounds::Ask,
    ending::By,
    message::{Command, Message, Said},
    rules::Rule,
    state::{
        ClientIndex, Condition, Fault, Hold, Id, Lease, NameIndex, RangeId, Seq, Token, Waiter,
    },
    world::World,
};

/// An attempt whose outcome is decided: whose, which, and by which seq it was sent.
#[derive(Clone, Copy)]
pub(crate) struct Attempted {
    pub client: ClientIndex,
    pub id: Id,
    pub seq: Seq,
}

impl World<'_> {
    /// Applies a command to the committed state. `leading`: the leader of the entry's term applies
    /// it, and answers; inherited entries answer nobody.
    pub fn apply(&mut self, range: RangeId, command: Command, leading: bool) {
        let term = self.state.range(range).term;
        let answers_before = (!leading).then(|| self.state.net.clone());
        match command {
            Command::Asked(message) => self.apply_asked(range, message),
            Command::Expire { name, token, owner, newest, of, term: proposer } => {
                if self.is_in(range, name) && self.is_of_term(proposer, term) {
                    self.expire(name, token, owner, newest, of);
                }
            }
            Command::ExpireWaiter { client, id, term: proposer } => {
                let name = self.name(client, id);
                if self.is_in(range, name) && self.is_of_term(proposer, term) {
                    self.leave_told(client, id);
                    self.serve(name);
                }
            }
            Command::WaitTimeout { client, id, term: proposer } => {
                let name = self.name(client, id);
                if self.is_in(range, name) && self.is_of_term(proposer, term) {
                    self.time_out(client, id);
                    self.serve(name);
                }
            }
            Command::Ending { name, token } => {
                if self.is_in(range, name) {
                    self.end_by_operator(name, token);
                    self.serve(name);
                }
            }
            Command::Revoke { session } => self.revoke(range, session),
            Command::TimeUp { name, token, revision, asked, term: proposer } => {
                if self.is_in(range, name) && self.is_of_term(proposer, term) {
                    self.time_up(name, token, revision, asked);
                    self.serve(name);
                }
            }
            Command::End { name, token, term: proposer } => {
                if self.is_in(range, name) && self.is_of_term(proposer, term) {
                    self.end_of_ending(name, token);
                }
            }
            Command::Split => unreachable!("a split is committed by its range, not its locks"),
        }
        if let Some(net) = answers_before {
            self.state.net = net;
        }
    }

    fn is_of_term(&self, proposer: u8, term: u8) -> bool {
        proposer == term || !self.has(Rule::ProposerTerm)
    }

    fn apply_asked(&mut self, range: RangeId, message: Message) {
        let (client, id) = match message {
            Message::Acquire { client, id, .. }
            | Message::Release { client, id, .. }
            | Message::Cancel { client, id }
            | Message::Claim { client, id, .. }
            | Message::SetCondition { client, id, .. }
            | Message::Ask { client, id }
            | Message::Reclaim { client, id, .. } => (client, id),
            _ => unreachable!("not a command: {message:?}"),
        };
        if !self.is_in(range, self.name(client, id)) {
            // Relocate: the client asks again by name, which is one of its attempts.
            return;
        }
        match message {
            Message::Acquire { seq, reenter, .. } => self.acquire(client, id, seq, reenter),
            Message::Release { token, all, .. } => self.release(client, id, token, all),
            Message::Cancel { .. } => self.cancel(client, id),
            Message::Claim { seq, token, revision, .. } => {
                self.claim(client, id, seq, token, revision);
            }
            Message::SetCondition { token, revision, terms, .. } => {
                self.set_condition(client, id, token, revision, terms);
            }
            Message::Ask { .. } => self.mark_asked(client, id),
            Message::Reclaim { seq, token, .. } => self.reclaim(client, id, seq, token),
            _ => unreachable!("matched above"),
        }
    }

    fn acquire(&mut self, client: ClientIndex, id: Id, seq: Seq, reenter: Token) {
        let owner = self.key(client);
        let attempt = Attempted { client, id, seq };
        if let Some(said) = self.first_outcome(owner, id) {
            return self.answer(client, id, seq, said);
        }
        if self.is_doubtful(client, seq) {
            // Its client hears that, and may ask again: here it hears nothing, and may.
            return;
        }
        self.ask_anew(owner, id, seq);
        let name = self.name(client, id);
        let lock = &self.state.locks[usize::from(name)];
        let joined = lock.hold.as_ref().filter(|hold| {
            hold.owner == owner && (hold.token == reenter || !self.has(Rule::ReenterNamesToken))
        });
        if reenter == 0 {
            self.acquire_anew(attempt, owner);
        } else if let Some(hold) = joined {
            let refused = hold.orphan || hold.is_ending() && self.has(Rule::EndingRefusesReentry);
            if refused {
                self.finish(attempt, owner);
            } else if hold.closed & (1 << id) != 0 && self.has(Rule::HoldRemembersClosed) {
                self.answer(client, id, seq, Said::Gone);
            } else {
                self.join(attempt, owner);
            }
        } else if self.has(Rule::ReenterNamesToken) {
            self.finish(attempt, owner);
        } else {
            self.acquire_anew(attempt, owner);
        }
        self.judge_reentry(owner, id, name, reenter);
    }

    /// The answer to a duplicate; nothing for an acquisition that is new.
    pub(crate) fn first_outcome(&self, owner: ClientIndex, id: Id) -> Option<Said> {
        let name = self.bounds.name(owner, id);
        let lock = &self.state.locks[usize::from(name)];
        if let Some(hold) = &lock.hold {
            if hold.has(owner, id) {
                let gone = hold.is_ending() || hold.orphan;
                return Some(if gone { Said::Gone } else { Said::Held(hold.token) });
            }
            if hold.reclaimer == Some((owner, id)) {
                return Some(Said::Waiting);
            }
        }
        if lock.queue.iter().any(|waiter| (waiter.client, waiter.id) == (owner, id)) {
            return Some(Said::Waiting);
        }
        self.is_in_ring(owner, id).then_some(Said::Gone)
    }

    fn acquire_anew(&mut self, attempt: Attempted, owner: ClientIndex) {
        let Attempted { client, id, seq } = attempt;
        let plan = self.bounds.plan(client, id);
        let lease = Lease { of: self.lease_of(id), ..Lease::full(self.server_ttl()) };
        let lock = &mut self.state.locks[usize::from(plan.name)];
        if lock.hold.is_none() && lock.queue.is_empty() {
            let token = self.grant(plan.name, owner, id, lease);
            self.answer(client, id, seq, Said::Held(token));
        } else if plan.ask == Ask::Try {
            self.finish(attempt, owner);
        } else {
            lock.queue.push(Waiter { client: owner, id, lease });
            self.judge_opening(owner, id);
            self.answer(client, id, seq, Said::Waiting);
        }
    }

    /// The owner of the lease, if leases are per id.
    pub(crate) fn lease_of(&self, id: Id) -> Id {
        if self.has(Rule::OneLeasePerHold) { 0 } else { id }
    }

    fn join(&mut self, attempt: Attempted, owner: ClientIndex) {
        let Attempted { client, id, seq } = attempt;
        let (ttl, of) = (self.server_ttl(), self.lease_of(id));
        let one_lease = self.has(Rule::OneLeasePerHold);
        let name = self.name(client, id);
        let hold = self.state.locks[usize::from(name)].hold.as_mut();
        let hold = hold.expect("the caller has found the hold that is joined");
        hold.open |= 1 << id;
        hold.newest = hold.newest.max(id);
        if one_lease {
            if !hold.is_ending() {
                hold.leases[0].renew(ttl);
            }
        } else {
            hold.leases.push(Lease { of, ..Lease::full(ttl) });
        }
        let token = hold.token;
        self.judge_opening(owner, id);
        self.answer(client, id, seq, Said::Held(token));
    }

    /// Ends an acquisition without a hold, so that a duplicate of it does not fare better.
    pub(crate) fn finish(&mut self, attempt: Attempted, owner: ClientIndex) {
        self.record(owner, attempt.id);
        self.answer(attempt.client, attempt.id, attempt.seq, Said::Gone);
    }

    pub(crate) fn grant(
        &mut self,
        name: NameIndex,
        owner: ClientIndex,
        id: Id,
        lease: Lease,
    ) -> Token {
        let range = self.state.range_of(name);
        self.state.range(range).counter += 1;
        let token = self.state.range(range).counter;
        let hold = Hold::new(token, owner, id, lease);
        let condition = self.bounds.plan(owner, id).condition;
        let claimed = condition == Condition::Hold && !self.has(Rule::HoldNeedsClaim);
        self.put_hold(name, Hold { condition, claimed, ..hold }, id);
        token
    }

    pub(crate) fn put_hold(&mut self, name: NameIndex, mut hold: Hold, id: Id) {
        if hold.token <= self.state.granted[usize::from(name)] {
            self.state.blame(Fault::TokenNotNew);
        }
        self.state.granted[usize::from(name)] = hold.token;
        hold.open = 1 << id;
        let owner = hold.owner;
        self.state.locks[usize::from(name)].hold = Some(hold);
        self.judge_opening(owner, id);
    }

    /// Gives a free lock to its first waiter, under the waiter's own lease, and pushes the news.
    pub(crate) fn serve(&mut self, name: NameIndex) {
        let lock = &mut self.state.locks[usize::from(name)];
        if lock.hold.is_some() || lock.queue.is_empty() {
            return;
        }
        let Waiter { client, id, mut lease } = lock.queue.remove(0);
        if lease.pending {
            // Its expiry has just been overtaken: due at once, unless it was heard of meanwhile.
            lease = Lease { left: lease.heard, pending: false, heard: 0, ..lease };
        }
        let token = self.grant(name, client, id, lease);
        self.answer(client, id, 0, Said::Held(token));
    }

    fn release(&mut self, client: ClientIndex, id: Id, token: Token, all: bool) {
        let owner = self.key(client);
        let name = self.name(client, id);
        let Some(hold) = &self.state.locks[usize::from(name)].hold else { return };
        if hold.token != token || hold.owner != owner {
            return;
        }
        let open = hold.open;
        if all {
            self.end_hold(name, By::Session);
        } else if !self.has(Rule::ReleaseNamesId) {
            self.close_id(name, open.ilog2() as Id);
        } else if open & (1 << id) != 0 {
            self.close_id(name, id);
        } else {
            self.record(owner, id);
            self.remember_closed(name, id);
        }
        self.serve(name);
    }

    fn remember_closed(&mut self, name: NameIndex, id: Id) {
        if let Some(hold) = &mut self.state.locks[usize::from(name)].hold {
            hold.closed |= 1 << id;
        }
    }

    /// Closes one id that is open on the hold of a lock; the last one ends the hold.
    pub(crate) fn close_id(&mut self, name: NameIndex, id: Id) {
        let hold = self.state.locks[usize::from(name)].hold.as_mut();
        let hold = hold.expect("the caller has seen the hold");
        let owner = hold.owner;
        if hold.open == 1 << id {
            return self.end_hold(name, By::Session);
        }
        hold.open &= !(1 << id);
        hold.closed |= 1 << id;
        hold.leases.retain(|lease| lease.of != id || id == 0);
        self.record(owner, id);
    }

    fn cancel(&mut self, client: ClientIndex, id: Id) {
        let owner = self.key(client);
        let name = self.name(client, id);
        let recorded = self.has(Rule::CancelRecorded);
        let lock = &mut self.state.locks[usize::from(name)];
        match &mut lock.hold {
            Some(hold) if hold.has(owner, id) => self.close_id(name, id),
            Some(hold) if hold.reclaimer == Some((owner, id)) => {
                hold.reclaimer = None;
                self.record(owner, id);
            }
            _ if lock.queue.iter().any(|waiter| (waiter.client, waiter.id) == (owner, id)) => {
                self.leave(owner, id);
            }
            _ if recorded => self.record(owner, id),
            // The client that cancelled takes it for finished, whether it was written down or not.
            _ => self.state.ended[usize::from(owner)] |= 1 << id,
        }
        self.serve(name);
    }

    /// Takes a waiter out. A granted acquisition stays.
    fn leave(&mut self, client: ClientIndex, id: Id) -> bool {
        let name = self.name(client, id);
        let queue = &mut self.state.locks[usize::from(name)].queue;
        let before = queue.len();
        queue.retain(|waiter| (waiter.client, waiter.id) != (client, id));
        let left = queue.len() < before;
        if left {
            self.record(client, id);
        }
        left
    }

    /// Takes a waiter out that has not asked for it.
    pub(crate) fn leave_told(&mut self, client: ClientIndex, id: Id) {
        if self.leave(client, id) {
            self.answer(client, id, 0, Said::Gone);
        }
    }

    fn time_out(&mut self, client: ClientIndex, id: Id) {
        let name = self.name(client, id);
        let hold = &self.state.locks[usize::from(name)].hold;
        let held = hold.as_ref().is_some_and(|hold| hold.has(client, id));
        if held && !self.has(Rule::TimeoutSparesHolds) {
            self.close_id(name, id);
        } else {
            self.leave_told(client, id);
        }
    }

    /// An acquisition is open from here on: it must not have finished before (S8, S11).
    pub(crate) fn judge_opening(&mut self, owner: ClientIndex, id: Id) {
        if self.state.ended[usize::from(owner)] & (1 << id) != 0 && !self.bounds.ghosts {
            self.state.blame(Fault::Reopened);
        }
    }

    /// A re-entry has the token that it named, or nothing.
    fn judge_reentry(&mut self, owner: ClientIndex, id: Id, name: NameIndex, named: Token) {
        let hold = self.state.locks[usize::from(name)].hold.as_ref();
        if hold.is_some_and(|hold| named != 0 && hold.has(owner, id) && hold.token != named) {
            self.state.blame(Fault::FreshReentry);
        }
    }
}

/// The ids of a set of bits.
pub fn ids(bits: u8) -> impl Iterator<Item = Id> {
    (0..8).filter(move |id| bits & (1 << id) != 0)
}
