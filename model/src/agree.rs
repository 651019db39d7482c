//! Apply of what clients agree about live holds, of what follows from that when a time is over, and of
//! a revocation.

use crate::{
    message::{Message, Said, Terms},
    rules::Rule,
    state::{ClientIndex, Condition, EndingCause, Fault, Hold, Id, NameIndex, RangeId, Seq, Token},
    world::World,
};

impl World<'_> {
    /// The hold of a client that may agree to something about it.
    fn agreeing(&mut self, client: ClientIndex, id: Id, token: Token) -> Option<&mut Hold> {
        let owner = self.key(client);
        let name = self.name(client, id);
        let refuses_orphan = self.has(Rule::OrphanRefusesAgreement);
        let refuses_ending = self.has(Rule::EndingRefusesClaim);
        let hold = self.state.locks[usize::from(name)].hold.as_mut()?;
        let is_its = hold.token == token && hold.owner == owner;
        let is_gone = hold.orphan && refuses_orphan || hold.is_ending() && refuses_ending;
        (is_its && !is_gone).then_some(hold)
    }

    pub(crate) fn claim(
        &mut self,
        client: ClientIndex,
        id: Id,
        seq: Seq,
        token: Token,
        revision: u8,
    ) {
        let checks_revision = self.has(Rule::ConditionRevision);
        let Some(hold) = self.agreeing(client, id, token) else {
            return self.answer(client, id, 0, Said::Gone);
        };
        if hold.condition == Condition::Hold && (hold.revision == revision || !checks_revision) {
            hold.claimed = true;
        }
        self.tell_agreement(client, id);
        self.answer(client, id, seq, Said::Held(token));
    }

    pub(crate) fn set_condition(
        &mut self,
        client: ClientIndex,
        id: Id,
        token: Token,
        revision: u8,
        terms: Terms,
    ) {
        let checks_revision = self.has(Rule::ConditionRevision);
        let may_shorten = !self.has(Rule::LeaseNeverShorter);
        let Some(hold) = self.agreeing(client, id, token) else {
            return self.answer(client, id, 0, Said::Gone);
        };
        let is_current = hold.revision == revision || !checks_revision;
        if is_current && (terms.longer >= hold.longer || may_shorten) {
            (hold.condition, hold.longer) = (terms.condition, terms.longer);
            hold.claimed &= terms.condition == Condition::Hold;
            hold.asked &= terms.condition == Condition::Bounded;
            hold.revision += 1;
        }
        self.tell_agreement(client, id);
    }

    fn tell_agreement(&mut self, client: ClientIndex, id: Id) {
        let name = self.name(client, id);
        let Some(hold) = &self.state.locks[usize::from(name)].hold else { return };
        let Hold { revision, condition, longer, .. } = *hold;
        let terms = Terms { condition, longer };
        self.state.send(Message::Agreement { client, id, revision, terms });
    }

    /// A waiter asks.
    pub(crate) fn mark_asked(&mut self, client: ClientIndex, id: Id) {
        let owner = self.key(client);
        let lock = &mut self.state.locks[usize::from(self.bounds.name(client, id))];
        let waits = lock.queue.iter().any(|waiter| (waiter.client, waiter.id) == (owner, id));
        if let Some(hold) = lock.hold.as_mut().filter(|_| waits) {
            hold.asked |= hold.condition == Condition::Bounded && !hold.is_ending();
        }
    }

    /// A time that a condition sets is over: the longest that the hold may last, or its grace.
    pub(crate) fn time_up(&mut self, name: NameIndex, token: Token, revision: u8, asked: bool) {
        let checks_agreement = self.has(Rule::TimeUpNamesAgreement);
        let needs_waiter = self.has(Rule::GraceNeedsWaiter);
        let lock = &mut self.state.locks[usize::from(name)];
        let is_wanted = !lock.queue.is_empty();
        let Some(hold) = lock.hold.as_mut().filter(|hold| hold.token == token) else { return };
        let is_agreed = hold.revision == revision && hold.condition == Condition::Bounded;
        if checks_agreement && !is_agreed {
            return;
        }
        if asked && !is_wanted && needs_waiter {
            hold.asked = false;
            return;
        }
        let is_ending = hold.is_ending();
        if asked && !is_wanted && !is_ending {
            self.state.blame(Fault::EndedForNobody);
        }
        if !is_agreed && !is_ending {
            self.state.blame(Fault::EndedUnagreed);
        }
        self.begin_ending(name, token, EndingCause::Clause);
    }

    /// An operator ends all that a session has in a range: its holds by the two-commit path, its
    /// places in queues at once.
    pub(crate) fn revoke(&mut self, range: RangeId, session: char) {
        self.state.revoked += 1;
        let serves_last = self.has(Rule::RevokeServesLast);
        let names = 0..self.state.locks.len() as NameIndex;
        let names: Vec<_> = names.filter(|name| self.state.range_of(*name) == range).collect();
        for &name in &names {
            let hold = self.state.locks[usize::from(name)].hold.as_ref();
            let held = hold.filter(|hold| self.session(hold.owner) == session);
            if let Some(token) = held.map(|hold| hold.token) {
                self.end_by_operator(name, token);
            }
            if !serves_last {
                self.serve(name);
            }
            if self.has(Rule::RevokeEndsWaits) {
                self.leave_all(name, session);
            }
        }
        for &name in &names {
            self.serve(name);
            self.judge_revocation(name, session);
        }
    }

    /// The waiters of a session leave a queue.
    fn leave_all(&mut self, name: NameIndex, session: char) {
        let queue = &self.state.locks[usize::from(name)].queue;
        let of_session = queue.iter().filter(|waiter| self.session(waiter.client) == session);
        let leaving: Vec<_> = of_session.map(|waiter| (waiter.client, waiter.id)).collect();
        for (client, id) in leaving {
            self.leave_told(client, id);
        }
    }

    /// Behind a revocation nothing of the session is left but holds that are ending.
    fn judge_revocation(&mut self, name: NameIndex, session: char) {
        let lock = &self.state.locks[usize::from(name)];
        let waits = lock.queue.iter().any(|waiter| self.session(waiter.client) == session);
        let holds = lock.hold.as_ref().is_some_and(|hold| {
            self.session(hold.owner) == session && (!hold.is_ending() || hold.reclaimer.is_some())
        });
        if waits || holds {
            self.state.blame(Fault::RevocationEvaded);
        }
    }
}
