//! Apply of whatever ends holds: their leases, operators, conditions, and newer lives of their sessions,
//! which take them back.

use crate::{
    bounds::Ask,
    message::Said,
    rules::Rule,
    state::{ClientIndex, EndingCause, Fault, Hold, Id, Lease, NameIndex, Phase, Seq, Token},
    table::{Attempted, ids},
    world::World,
};

/// At whose word a hold ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// Its session's.
    Session,
    /// An operator's.
    Operator,
    /// A clock of the leader's found a time over.
    Server,
}

impl World<'_> {
    /// Ends a hold and all that is open on it. Its reclaimer gets it.
    pub(crate) fn end_hold(&mut self, name: NameIndex, by: By) {
        let Some(hold) = self.state.locks[usize::from(name)].hold.take() else { return };
        let is_wanted = by != By::Server || hold.ending == Some(EndingCause::Operator);
        if hold.claimed && hold.reclaimer.is_none() && !is_wanted {
            self.state.blame(Fault::ClaimedFreed);
        }
        for id in ids(hold.open) {
            self.record(hold.owner, id);
        }
        if let Some((owner, id)) = hold.reclaimer {
            let token = self.hand_over(name, &hold, owner, id);
            self.answer(owner, id, 0, Said::Held(token));
        }
    }

    pub(crate) fn hand_over(
        &mut self,
        name: NameIndex,
        old: &Hold,
        owner: ClientIndex,
        id: Id,
    ) -> Token {
        if old.ending == Some(EndingCause::Operator) {
            self.state.blame(Fault::EndingEvaded);
        }
        let life = |client: ClientIndex| self.bounds.clients[usize::from(client)].instance;
        if life(owner) < life(old.owner) {
            self.state.blame(Fault::OlderLifeTook);
        }
        let lease = Lease { of: self.lease_of(id), ..Lease::full(self.server_ttl_of(old)) };
        let token = if self.has(Rule::ReclaimGetsNewToken) {
            self.grant(name, owner, id, lease)
        } else {
            self.put_hold(name, Hold::new(old.token, owner, id, lease), id);
            old.token
        };
        // The session has seen the grant that it claimed: a lost answer takes nothing away.
        let hold = self.state.locks[usize::from(name)].hold.as_mut();
        let hold = hold.expect("it has just been put there");
        (hold.condition, hold.claimed, hold.longer) = (old.condition, old.claimed, old.longer);
        token
    }

    pub(crate) fn expire(
        &mut self,
        name: NameIndex,
        token: Token,
        owner: ClientIndex,
        newest: Id,
        of: Id,
    ) {
        let longer = self.longer_by(true);
        let ttl = self.server_ttl();
        let names_token = self.has(Rule::ExpireNamesToken);
        let names_newest = self.has(Rule::ExpireNamesNewest);
        let per_id = !self.has(Rule::OneLeasePerHold);
        let Some(hold) = &mut self.state.locks[usize::from(name)].hold else { return };
        if hold.owner != owner || names_token && hold.token != token {
            return;
        }
        if names_newest && hold.newest > newest {
            hold.restart(ttl + if hold.longer { longer } else { 0 });
        } else if per_id && hold.open != 1 << of {
            if hold.open & (1 << of) != 0 {
                self.close_id(name, of);
            }
        } else if hold.is_ending() {
            self.conclude(name);
            self.serve(name);
        } else if hold.claimed {
            self.orphan(name);
        } else {
            self.end_hold(name, By::Server);
            self.serve(name);
        }
    }

    /// From here on the hold has no lease.
    fn orphan(&mut self, name: NameIndex) {
        let Some(hold) = &mut self.state.locks[usize::from(name)].hold else { return };
        (hold.orphan, hold.ending) = (true, None);
        hold.leases.clear();
        let (owner, open) = (hold.owner, hold.open);
        let is_unseen = |id| {
            // What is taken back was seen by an older life.
            let is_reclaim = matches!(self.bounds.plan(owner, id).ask, Ask::Reclaim(..));
            let phase = self.state.clients[usize::from(owner)].acquisitions[usize::from(id)].phase;
            !is_reclaim && matches!(phase, Phase::Asking | Phase::Waiting)
        };
        if ids(open).all(is_unseen) {
            self.state.blame(Fault::UnseenStays);
        }
    }

    /// An operator's word ends whatever there is, also what is being taken back.
    pub(crate) fn end_by_operator(&mut self, name: NameIndex, token: Token) {
        let ends_reclaims = self.has(Rule::OperatorEndsReclaim);
        let Some(hold) = &mut self.state.locks[usize::from(name)].hold else { return };
        if hold.token != token {
            return;
        }
        match (hold.ending, hold.reclaimer) {
            (Some(EndingCause::Reclaim), reclaimer) => {
                hold.ending = Some(EndingCause::Operator);
                if let Some((client, id)) = reclaimer.filter(|_| ends_reclaims) {
                    hold.reclaimer = None;
                    self.record(client, id);
                    self.answer(client, id, 0, Said::Gone);
                }
            }
            (Some(_), _) => {}
            (None, _) => self.begin_ending(name, token, EndingCause::Operator),
        }
    }

    /// Gives notice. The caller serves the queue.
    pub(crate) fn begin_ending(&mut self, name: NameIndex, token: Token, cause: EndingCause) {
        let in_two_commits = self.has(Rule::EndingFirst);
        let longer = self.longer_by(true);
        let ttl = self.server_ttl();
        let Some(hold) = &mut self.state.locks[usize::from(name)].hold else { return };
        if hold.token != token || hold.is_ending() {
            return;
        }
        if hold.orphan || !in_two_commits {
            // An orphan has no lease to wait out.
            let by = if cause == EndingCause::Operator { By::Operator } else { By::Server };
            return self.end_hold(name, by);
        }
        hold.ending = Some(cause);
        hold.restart(ttl + if hold.longer { longer } else { 0 });
        self.state.endings += 1;
    }

    pub(crate) fn end_of_ending(&mut self, name: NameIndex, token: Token) {
        let hold = &self.state.locks[usize::from(name)].hold;
        if hold.as_ref().is_some_and(|hold| hold.token == token && hold.is_ending()) {
            self.conclude(name);
            self.serve(name);
        }
    }

    /// The lease of a hold that is ending is over.
    fn conclude(&mut self, name: NameIndex) {
        let Some(hold) = &self.state.locks[usize::from(name)].hold else { return };
        let is_left = hold.ending == Some(EndingCause::Reclaim) && hold.reclaimer.is_none();
        if is_left && hold.claimed && self.has(Rule::LeftReclaimOrphans) {
            self.orphan(name);
        } else {
            self.end_hold(name, By::Server);
        }
    }

    pub(crate) fn reclaim(&mut self, client: ClientIndex, id: Id, seq: Seq, token: Token) {
        let attempt = Attempted { client, id, seq };
        if let Some(said) = self.first_outcome(client, id) {
            return self.answer(client, id, seq, said);
        }
        if self.is_doubtful(client, seq) {
            return;
        }
        self.ask_anew(client, id, seq);
        let name = self.name(client, id);
        let hold = self.state.locks[usize::from(name)].hold.as_ref();
        let Some(hold) = hold.filter(|hold| self.may_reclaim(hold, client, token)).cloned() else {
            return self.finish(attempt, client);
        };
        if hold.orphan || !self.has(Rule::ReclaimWaits) {
            for id in ids(hold.open) {
                self.record(hold.owner, id);
            }
            let token = self.hand_over(name, &hold, client, id);
            return self.answer(client, id, seq, Said::Held(token));
        }
        self.begin_ending(name, token, EndingCause::Reclaim);
        if let Some((other, other_id)) = hold.reclaimer {
            self.record(other, other_id);
            self.answer(other, other_id, 0, Said::Gone);
        }
        if let Some(hold) = &mut self.state.locks[usize::from(name)].hold {
            hold.reclaimer = Some((client, id));
        }
        self.answer(client, id, seq, Said::Waiting);
    }

    /// Whether an instance may have a hold of its session: a newer one than those that have it or are
    /// about to, or the own one that was cut off from it.
    fn may_reclaim(&self, hold: &Hold, client: ClientIndex, token: Token) -> bool {
        let is_newer_than =
            |other| self.instance(client) > self.instance(other) || !self.has(Rule::ReclaimByNewer);
        let is_own_orphan = hold.orphan && hold.owner == client;
        let is_its = hold.token == token && self.session(hold.owner) == self.session(client);
        let may_have = is_newer_than(hold.owner) || is_own_orphan;
        let ending_lets = match hold.ending {
            None => true,
            Some(EndingCause::Reclaim) => {
                hold.reclaimer.is_none_or(|(other, _)| is_newer_than(other))
            }
            Some(_) => !self.has(Rule::EndingRefusesReclaim),
        };
        is_its && may_have && ending_lets
    }
}
