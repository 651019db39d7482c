//! The other half of the naive model: conditions, and everything by which a hold is taken from its
//! client or goes over to another.

use sharklock_locktable::{
    Ask, AskedBy, At, Change, Claim, Condition, ConditionFlaw, Downgrade, End, EndCause, Ending,
    EndingCause, ExpireItem, Finished, Grant, LeaseRule, Mode, Name, Reclaim, Refusal, Reply,
    Revoke, SetAttributes, SetCondition, TimeUp, Timed, Token, Wait,
};

use crate::naive::{Delayed, Held, Naive, Notice, Wish, same_life};

/// The faults of a condition, in the order in which they are looked for.
pub fn flaw(condition: &Condition, ttl_ms: u64) -> Option<ConditionFlaw> {
    let Condition { lease, lock_delay_ms, max_hold_ms, ask_grace_ms } = *condition;
    if lock_delay_ms == Some(0) || max_hold_ms == Some(0) || ask_grace_ms == Some(0) {
        return Some(ConditionFlaw::ZeroDuration);
    }
    if let LeaseRule::AfterMissed { missed, interval_ms } = lease {
        if interval_ms == 0 {
            return Some(ConditionFlaw::ZeroDuration);
        }
        if missed < 3 {
            return Some(ConditionFlaw::MissedTooFew);
        }
        let is_right = u128::from(missed) * u128::from(interval_ms) == u128::from(ttl_ms);
        return (!is_right).then_some(ConditionFlaw::TtlIsNotMissedIntervals);
    }
    if lease == LeaseRule::Hold && max_hold_ms.is_some() {
        return Some(ConditionFlaw::HoldWithMaxHold);
    }
    if lease == LeaseRule::Hold && ask_grace_ms.is_some() {
        return Some(ConditionFlaw::HoldWithAskHolder);
    }
    None
}

impl Naive {
    fn find(&self, name: &Name, token: Token) -> Option<usize> {
        self.held.iter().position(|hold| hold.name == *name && hold.token == token)
    }

    pub fn expire(&mut self, at: At, item: &ExpireItem) {
        let (name, token, newest, told) = match item {
            ExpireItem::Waiter { name, acquisition } => {
                self.stop_waiting(name, *acquisition, Finished::Expired);
                return;
            }
            ExpireItem::Hold { name, token, newest, told } => (name, *token, *newest, *told),
        };
        let Some(index) = self.find(name, token) else { return };
        let hold = &self.held[index];
        if hold.orphan {
            return;
        }
        if hold.newest > newest.0 {
            let newest = sharklock_locktable::AcquisitionId(hold.newest);
            self.changes.push(Change::ExpireMissed { token, name: name.clone(), newest });
        } else if hold.notice.is_some() && self.level >= 2 {
            self.notice_is_over(at, index, told);
        } else if hold.claimed {
            self.make_orphan(index);
        } else {
            self.take(at, index, Finished::Expired, told);
        }
    }

    fn make_orphan(&mut self, index: usize) {
        let hold = &mut self.held[index];
        hold.orphan = true;
        hold.notice = None;
        let (token, name, acquisitions) = (hold.token, hold.name.clone(), hold.ids());
        self.changes.push(Change::Orphaned { token, name, acquisitions });
    }

    fn take(&mut self, at: At, index: usize, how: Finished, told: bool) {
        let Held { name, token, mode, condition, claimed, revision, .. } = self.end(index, how);
        let told = told || claimed || revision > 0;
        if let (true, Some(ms)) = (told, condition.lock_delay_ms) {
            let since = at.stamped_unix_ms;
            self.delayed.push(Delayed { name: name.clone(), token, mode, ms, since });
            self.changes.push(Change::DelayBegan { token, name, delay_ms: ms });
        }
    }

    pub fn give_up(&mut self, at: At, index: usize) {
        if self.held[index].heir().is_some() && !self.is_quarantined() {
            self.inherit(at, index, Finished::Released, true);
        } else {
            self.end(index, Finished::Released);
        }
    }

    fn inherit(&mut self, at: At, index: usize, how: Finished, waited: bool) -> Grant {
        let notice = self.held[index].notice.take();
        let (acquisition, owner) = notice.and_then(|notice| notice.heir).expect("there is an heir");
        let before = self.end(index, how);
        let Held { name, mode, ttl_ms, condition, .. } = &before;
        let wish = Wish {
            name,
            acquisition,
            mode: *mode,
            ttl_ms: *ttl_ms,
            owner: &owner,
            condition: *condition,
            came: Some(before.came),
        };
        let grant = self.grant(at, waited, wish);
        let hold = self.held.last_mut().expect("just granted");
        (hold.claimed, hold.before) = (before.claimed, Some(before.token));
        grant
    }

    fn notice_is_over(&mut self, at: At, index: usize, told: bool) {
        if let Some(heir) = self.held[index].heir().filter(|_| self.is_quarantined()) {
            let name = self.held[index].name.clone();
            self.stop_waiting(&name, heir, Finished::HoldLost);
        }
        let hold = &self.held[index];
        let Notice { cause, heir, .. } = hold.notice.clone().expect("it is ending");
        match cause {
            EndingCause::Reclaim if heir.is_some() => {
                self.inherit(at, index, Finished::Reclaimed, true);
            }
            EndingCause::Reclaim if hold.claimed => self.make_orphan(index),
            cause => self.take(at, index, how_it_ends(cause), told),
        }
    }

    fn give_notice(&mut self, index: usize, cause: EndingCause, reason: &str) {
        let hold = &mut self.held[index];
        if hold.notice.is_some() {
            return;
        }
        hold.notice = Some(Notice { cause, reason: reason.into(), heir: None });
        self.changes.push(Change::EndingBegan {
            token: hold.token,
            name: hold.name.clone(),
            ttl_ms: hold.ttl_ms,
            acquisitions: hold.ids(),
            reason: reason.into(),
            how: how_it_ends(cause),
        });
    }

    /// Takes a hold away at an operator's word, which its holder hears.
    fn take_with_words(&mut self, at: At, index: usize, words: &str) {
        let before = self.changes.len();
        self.take(at, index, Finished::ForceReleased, true);
        for change in &mut self.changes[before..] {
            if let Change::HoldEnded { reason, .. } = change {
                words.clone_into(reason);
            }
        }
    }

    fn operator_ends(&mut self, at: At, index: usize, reason: &str) {
        let hold = &self.held[index];
        if hold.orphan {
            return self.take_with_words(at, index, reason);
        }
        if let Some(Notice { cause: EndingCause::Reclaim, heir, .. }) = hold.notice.clone() {
            let name = hold.name.clone();
            if let Some((heir, _)) = heir {
                self.stop_waiting(&name, heir, Finished::ForceReleased);
            }
            let (cause, reason) = (EndingCause::Operator, reason.to_owned());
            self.held[index].notice = Some(Notice { cause, reason, heir: None });
        }
        self.give_notice(index, EndingCause::Operator, reason);
    }

    pub fn ending(&mut self, at: At, ending: &Ending) -> Reply {
        let views = self.views(&ending.name, ending.token);
        for view in &views {
            let index = self.find(&ending.name, view.grant.token).expect("just seen");
            self.operator_ends(at, index, &ending.reason);
        }
        self.serve(at, &ending.name);
        Reply::Holds(views)
    }

    pub fn end_command(&mut self, at: At, end: &End) -> Reply {
        match end.cause {
            EndCause::WaitedOut { proposer_term, told } => {
                let index = end.token.and_then(|token| self.find(&end.name, token));
                if let Some(index) = index
                    && proposer_term == at.term
                    && self.held[index].notice.is_some()
                {
                    self.notice_is_over(at, index, told);
                    self.serve(at, &end.name);
                }
                Reply::Done
            }
            EndCause::Operator { ref reason, .. } => {
                let views = self.views(&end.name, end.token);
                for view in &views {
                    let index = self.find(&end.name, view.grant.token).expect("just seen");
                    self.take_with_words(at, index, reason);
                }
                self.serve(at, &end.name);
                Reply::Holds(views)
            }
        }
    }

    pub fn revoke(&mut self, at: At, revoke: &Revoke) -> Reply {
        let mut held: Vec<_> = self
            .held
            .iter()
            .filter(|hold| hold.owner_life.session == revoke.session)
            .map(|hold| (hold.name.clone(), 0, hold.token.0))
            .collect();
        let waiting = self.waiting.iter().enumerate();
        let waiting = waiting.filter(|(_, it)| it.acquisition.session == revoke.session);
        held.extend(waiting.map(|(index, it)| (it.name.clone(), 1, index as u64)));
        let heirs = self.held.iter().filter_map(|hold| Some((hold, hold.heir()?)));
        let heirs = heirs.filter(|(_, heir)| heir.session == revoke.session);
        held.extend(heirs.map(|(hold, _)| (hold.name.clone(), 2, hold.token.0)));
        // Lock by lock: the holds, then who waits, then who is about to inherit.
        held.sort();
        let waiters: Vec<_> = self.waiting.iter().map(|waiter| waiter.acquisition).collect();
        let mut holds = vec![];
        for (name, kind, which) in &held {
            let index = self.find(name, Token(*which));
            match (kind, index) {
                (0, Some(index)) => {
                    holds.push((name.clone(), self.held[index].view()));
                    self.operator_ends(at, index, &revoke.reason);
                }
                (1, _) => {
                    let waiter = waiters[*which as usize];
                    self.stop_waiting(name, waiter, Finished::ForceReleased);
                }
                (2, Some(index)) => {
                    if let Some(heir) = self.held[index].heir() {
                        self.stop_waiting(name, heir, Finished::ForceReleased);
                    }
                }
                _ => {}
            }
        }
        held.iter().for_each(|(name, ..)| self.serve(at, name));
        let waiters = held.iter().filter(|(_, kind, _)| *kind > 0).count() as u32;
        Reply::Revoked { holds, waiters }
    }

    pub fn time_up(&mut self, at: At, time_up: &TimeUp) -> Reply {
        let TimeUp { name, token, what, proposer_term } = time_up;
        if *proposer_term != at.term {
            return Reply::Done;
        }
        if *what == Timed::LockDelay {
            let found = self.delayed.iter().position(|it| it.name == *name && it.token == *token);
            if let Some(index) = found {
                self.delayed.remove(index);
                self.changes.push(Change::DelayEnded { token: *token, name: name.clone() });
                self.serve(at, name);
            }
            return Reply::Done;
        }
        let Some(index) = self.find(name, *token) else { return Reply::Done };
        let hold = &self.held[index];
        match *what {
            Timed::MaxHold { revision }
                if hold.revision == revision && hold.condition.max_hold_ms.is_some() =>
            {
                self.give_notice(index, EndingCause::MaxHold, "max_hold is over");
            }
            Timed::AskGrace { revision }
                if hold.revision == revision && hold.asked.is_some() && hold.notice.is_none() =>
            {
                if self.waiting.iter().any(|waiter| waiter.name == *name) {
                    let reason = "a waiter asked for the lock";
                    self.give_notice(index, EndingCause::AskGrace, reason);
                } else {
                    self.held[index].asked = None;
                    self.changes.push(Change::AskDropped { token: *token, name: name.clone() });
                }
            }
            _ => {}
        }
        Reply::Done
    }

    pub fn set_condition(&mut self, set: &SetCondition) -> Reply {
        let SetCondition { acquisition, name, token, revision, ttl_ms, condition } = set;
        let index = self.find(name, *token);
        let index = index.filter(|&it| same_life(self.held[it].owner_life, *acquisition));
        let Some(index) = index else { return self.how(name, *acquisition) };
        let hold = &mut self.held[index];
        if hold.orphan {
            return Reply::Finished(Finished::Orphaned);
        }
        if hold.notice.is_some() {
            return Reply::Refused(Refusal::HoldEnding);
        }
        if hold.revision != *revision {
            return Reply::Agreed(hold.agreement());
        }
        if let Some(flaw) = flaw(condition, *ttl_ms) {
            return Reply::Refused(Refusal::Condition(flaw));
        }
        if *ttl_ms < hold.ttl_ms {
            return Reply::Refused(Refusal::LeaseShortened);
        }
        (hold.condition, hold.ttl_ms) = (*condition, *ttl_ms);
        hold.revision += 1;
        if condition.lease != LeaseRule::Hold {
            hold.claimed = false;
        }
        if condition.ask_grace_ms.is_none() {
            hold.asked = None;
        }
        let (agreement, asked) = (hold.agreement(), hold.asked.is_some());
        let (token, name) = (*token, name.clone());
        self.changes.push(Change::ConditionSet { token, name, agreement, asked });
        Reply::Agreed(agreement)
    }

    pub fn claim(&mut self, claim: &Claim) -> Reply {
        let Claim { acquisition, name, token, revision } = claim;
        let index = self.find(name, *token);
        let index = index.filter(|&it| same_life(self.held[it].owner_life, *acquisition));
        let Some(index) = index else { return self.how(name, *acquisition) };
        let hold = &mut self.held[index];
        if hold.orphan {
            return Reply::Finished(Finished::Orphaned);
        }
        if hold.notice.is_some() {
            return Reply::Refused(Refusal::HoldEnding);
        }
        if hold.revision == *revision {
            if hold.condition.lease != LeaseRule::Hold {
                return Reply::Refused(Refusal::Condition(ConditionFlaw::NothingToClaim));
            }
            if !hold.claimed {
                let (token, name) = (*token, name.clone());
                self.changes.push(Change::Claimed { token, name });
            }
            hold.claimed = true;
        }
        Reply::Agreed(hold.agreement())
    }

    pub fn set_attributes(&mut self, set: &SetAttributes) -> Reply {
        let SetAttributes { acquisition, name, token, seq, attributes } = set;
        let index = self.find(name, *token);
        let index = index.filter(|&it| same_life(self.held[it].owner_life, *acquisition));
        let Some(index) = index else { return self.how(name, *acquisition) };
        let hold = &mut self.held[index];
        if hold.orphan {
            return Reply::Finished(Finished::Orphaned);
        }
        if *seq == 0 || *seq < hold.changes {
            return Reply::AttributesSet { is_newest: false };
        }
        if *seq != hold.changes {
            hold.changes = *seq;
            hold.owner.attributes = attributes.clone();
            self.changes.push(Change::AttributesSet { token: *token, name: name.clone() });
        }
        Reply::AttributesSet { is_newest: true }
    }

    pub fn ask(&mut self, at: At, ask: &Ask) -> Reply {
        let waits = |waiter: &crate::naive::Waiting| {
            waiter.name == ask.name && waiter.acquisition == ask.acquisition
        };
        let Some(asker) = self.waiting.iter().find(|waiter| waits(waiter)) else {
            return Reply::Refused(Refusal::NotWaiting);
        };
        let (session, owner_id) = (asker.acquisition.session, asker.owner.id.clone());
        let by = (self.level >= 4).then_some(AskedBy { session, owner_id });
        let since_unix_ms = at.stamped_unix_ms;
        let mut asked = vec![];
        for hold in self.held.iter_mut().filter(|hold| hold.name == ask.name) {
            let grace_ms = hold.condition.ask_grace_ms.filter(|_| hold.notice.is_none());
            if let (Some(grace_ms), None) = (grace_ms, &hold.asked) {
                hold.asked = Some((by.clone(), since_unix_ms));
                self.changes.push(Change::Asked {
                    token: hold.token,
                    name: hold.name.clone(),
                    acquisitions: hold.ids(),
                    by: by.clone(),
                    since_unix_ms,
                    grace_ms,
                    revision: hold.revision,
                });
            }
            asked.extend(hold.asked.is_some().then(|| hold.view()));
        }
        Reply::Holds(asked)
    }

    pub fn downgrade(&mut self, at: At, downgrade: &Downgrade) -> Reply {
        let Downgrade { acquisition, name, token } = downgrade;
        let index = self
            .held
            .iter()
            .position(|hold| hold.name == *name && hold.ids().contains(acquisition));
        let Some(index) = index else { return self.how(name, *acquisition) };
        let hold = &self.held[index];
        if hold.orphan {
            return Reply::Finished(Finished::Orphaned);
        }
        let again = hold.mode == Mode::Shared && hold.before == Some(*token);
        if hold.token != *token && !again {
            return self.how(name, *acquisition);
        }
        if again {
            return Reply::Granted(hold.grant());
        }
        if hold.notice.is_some() {
            return Reply::Refused(Refusal::HoldEnding);
        }
        if hold.mode != Mode::Exclusive {
            return Reply::Refused(Refusal::ModeMismatch);
        }
        let mut hold = self.held.remove(index);
        hold.before = Some(hold.token);
        hold.token = self.next_token();
        hold.floor = hold.token;
        hold.mode = Mode::Shared;
        let (grant, acquisitions) = (hold.grant(), hold.ids());
        self.held.push(hold);
        let (before, name) = (*token, name.clone());
        self.changes.push(Change::Downgraded { before, name: name.clone(), grant, acquisitions });
        self.serve(at, &name);
        Reply::Granted(grant)
    }

    pub fn reclaim(&mut self, at: At, reclaim: &Reclaim) -> Reply {
        let Reclaim { acquisition, name, token, owner, .. } = reclaim;
        if let Some(reply) = self.reclaimed_before(reclaim) {
            self.again(*acquisition);
            return reply;
        }
        if self.is_doubtful(reclaim.asked_ms) {
            return Reply::Indeterminate;
        }
        if self.is_quarantined() {
            return Reply::Refused(Refusal::Quarantine);
        }
        let Some(index) = self.find(name, *token) else {
            self.finish(*acquisition, name, Finished::HoldLost, None);
            return Reply::Finished(Finished::HoldLost);
        };
        let full = self.open_of(*acquisition) >= self.limits.acquisitions_per_session_max;
        let hold = &mut self.held[index];
        let life = hold.owner_life;
        let may = acquisition.instance > life.instance
            || (hold.orphan && acquisition.instance == life.instance);
        if acquisition.session != life.session || !may {
            return Reply::Refused(Refusal::NotReclaimable);
        }
        match &hold.notice {
            Some(Notice { cause: EndingCause::Reclaim, heir: Some((other, _)), .. })
                if (other.instance, other.id) > (acquisition.instance, acquisition.id) =>
            {
                return Reply::Refused(Refusal::NotReclaimable);
            }
            Some(Notice { cause: EndingCause::Reclaim, .. }) | None => {}
            Some(_) => return Reply::Refused(Refusal::HoldEnding),
        }
        let heir = Some((*acquisition, owner.clone()));
        let cause = EndingCause::Reclaim;
        if hold.orphan {
            hold.orphan = false;
            hold.notice = Some(Notice { cause, reason: String::new(), heir });
            return Reply::Granted(self.inherit(at, index, Finished::Reclaimed, false));
        }
        if full {
            return self.too_many_open();
        }
        let ttl_ms = hold.ttl_ms;
        if let Some(older) = hold.heir() {
            self.stop_waiting(name, older, Finished::Reclaimed);
        }
        let reason = format!("reclaimed by instance {} of its session", acquisition.instance.0);
        self.give_notice(index, cause, &reason);
        self.held[index].notice = Some(Notice { cause, reason, heir });
        let (acquisition, name, wait) = (*acquisition, name.clone(), Wait::Unbounded);
        self.changes.push(Change::Queued { acquisition, name, ttl_ms, wait });
        Reply::Queued { place: 1, ttl_ms }
    }

    /// The answer to a duplicate.
    fn reclaimed_before(&self, reclaim: &Reclaim) -> Option<Reply> {
        let Reclaim { acquisition, name, token, .. } = reclaim;
        let reused = Some(Reply::Refused(Refusal::AcquisitionReused));
        if let Some(hold) = self.held.iter().find(|hold| hold.ids().contains(acquisition)) {
            if hold.name != *name || hold.before != Some(*token) {
                return reused;
            }
            return Some(if hold.orphan {
                Reply::Finished(Finished::Orphaned)
            } else {
                Reply::Granted(hold.grant())
            });
        }
        if let Some(hold) = self.held.iter().find(|hold| hold.heir() == Some(*acquisition)) {
            let same = hold.name == *name && hold.token == *token;
            return if same {
                Some(Reply::Queued { place: 1, ttl_ms: hold.ttl_ms })
            } else {
                reused
            };
        }
        if self.waiting.iter().any(|waiter| waiter.acquisition == *acquisition) {
            return reused;
        }
        self.ended_before(*acquisition, name)
    }

    /// The upper half, from the name on.
    pub fn split_off(&mut self, at: &str) -> Self {
        let mut upper = Self::new(self.limits, self.level);
        (upper.tokens, upper.generation) = (self.tokens, self.generation);
        (upper.recovered, upper.quarantine) = (self.recovered, self.quarantine);
        // An id has no name: both go on with all that have ended.
        (upper.age, upper.lost, upper.generations) = (self.age, self.lost, self.generations);
        upper.ended = self.ended.clone();
        let is_upper = |name: &Name| name.as_str() >= at;
        upper.held = self.held.extract_if(.., |it| is_upper(&it.name)).collect();
        upper.waiting = self.waiting.extract_if(.., |it| is_upper(&it.name)).collect();
        upper.delayed = self.delayed.extract_if(.., |it| is_upper(&it.name)).collect();
        // What is here remembered of names that have left does no harm.
        upper.gone = self.gone.iter().filter(|it| is_upper(&it.name)).cloned().collect();
        upper.gone_ever = self.gone_ever + upper.gone.len() as u64;
        upper
    }
}

/// How a hold ends that was told of its end for this cause.
pub fn how_it_ends(cause: EndingCause) -> Finished {
    match cause {
        EndingCause::Operator => Finished::ForceReleased,
        EndingCause::MaxHold => Finished::HeldTooLong,
        EndingCause::AskGrace => Finished::AskedFor,
        EndingCause::Reclaim => Finished::Reclaimed,
    }
}
