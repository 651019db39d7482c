//! Changes of a hold: claims, other conditions, downgrades, attributes. One at a time for each
//! acquisition, repeated until answered; they end with the hold.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    Asked, Attempt, Call, Change, ChangeAnswer, ChangeCall, Changed, Effects, Notice, SessionCore,
    Via,
    acquisition::{Acquisition, Phase},
    closing::Way,
};
use crate::{
    condition::{Agreement, Condition},
    error::{ChangeError, LockLost, LostReason},
    failure::{Failure, Verdict},
    ids::{AcquisitionId, FencingToken, Position, Seq},
    request::LockMode,
};

/// Changes of one acquisition that wait or are under way. Their futures may be dropped while the
/// cluster is out of reach, so that nothing else bounds them.
const CHANGES_MAX: usize = 64;

/// How soon a downgrade is tried again that waits for the release of another guard.
const RELEASE_WITHIN: Duration = Duration::from_millis(50);

/// A change that waits for its turn or is under way.
#[derive(Debug)]
pub(super) struct PendingChange {
    /// Who waits for it. `None`: nobody, it is the claim before the guard is handed out.
    number: Option<u64>,
    step: Step,
    /// Calls numbered from here on are attempts of this step.
    from: Option<Seq>,
    pub(super) next_call: Duration,
    asked_since: Option<Duration>,
    failures_count: u32,
}

/// The call that brings a change further.
#[derive(Clone, Debug)]
enum Step {
    Claim,
    SetCondition { condition: Condition, ttl: Duration },
    Downgrade,
    SetAttributes { order: Seq, attributes: Arc<BTreeMap<String, String>> },
}

impl PendingChange {
    fn new(now: Duration, number: Option<u64>, step: Step) -> Self {
        Self { number, step, from: None, next_call: now, asked_since: None, failures_count: 0 }
    }

    /// The streams are gone, and what was under way with them.
    pub(super) fn attempts_lost(&mut self) {
        self.asked_since = None;
    }

    /// It goes on with another call.
    fn go_on(&mut self, now: Duration, step: Step) {
        *self = Self::new(now, self.number, step);
    }

    /// The hold may have another token than is known.
    pub(super) fn may_move_token(&self) -> bool {
        matches!(self.step, Step::Downgrade) && self.from.is_some()
    }
}

impl SessionCore {
    /// The user of a guard wants its hold changed.
    pub(super) fn change(
        &mut self,
        now: Duration,
        id: AcquisitionId,
        number: u64,
        change: Change,
        effects: &mut Effects,
    ) {
        let order = self.next_seq;
        let Some(acquisition) = self.open.get_mut(&id) else { return };
        let Phase::Held { .. } = acquisition.phase else { return };
        let name = Arc::clone(&acquisition.request.name);
        let step = match change {
            Change::SetCondition { condition, ttl } => Step::SetCondition { condition, ttl },
            Change::Downgrade => Step::Downgrade,
            Change::SetAttributes { attributes } => {
                self.next_seq = Seq(order.0 + 1);
                Step::SetAttributes { order, attributes: Arc::new(attributes) }
            }
        };
        if acquisition.changes.len() >= CHANGES_MAX {
            let reason = "TOO_MANY_CHANGES".to_owned();
            let message = format!("{CHANGES_MAX} changes of it wait for an answer");
            let result = Err(ChangeError::Refused { name, reason, message });
            return effects.notices.push(Notice::Changed { id, number, result });
        }
        acquisition.changes.push_back(PendingChange::new(now, Some(number), step));
        self.wake_change(now, id, effects);
        self.arm(id);
    }

    /// The grant is known, and it is to stay: the cluster is told that its client has seen it.
    pub(super) fn claim(&mut self, now: Duration, id: AcquisitionId, effects: &mut Effects) {
        let Some(acquisition) = self.open.get_mut(&id) else { return };
        if acquisition.changes.is_empty() {
            acquisition.changes.push_back(PendingChange::new(now, None, Step::Claim));
            self.wake_change(now, id, effects);
        }
    }

    /// Sends the change whose turn it is, if it is due.
    pub(super) fn wake_change(&mut self, now: Duration, id: AcquisitionId, effects: &mut Effects) {
        let Some(acquisition) = self.open.get(&id) else { return };
        let interval = acquisition.lease.call_interval();
        let Some(change) = acquisition.changes.front() else { return };
        if !self.connected || change.next_call > now {
            return;
        }
        if self.is_stalled(now, change.asked_since, interval) {
            return self.reconnect(now, effects);
        }
        if matches!(change.step, Step::Downgrade) && !self.may_downgrade(now, id, effects) {
            return;
        }
        self.send_change(now, id, effects);
    }

    /// Sends it over a new connection, which owes no answer from before.
    pub(super) fn send_change_anew(
        &mut self,
        now: Duration,
        id: AcquisitionId,
        effects: &mut Effects,
    ) {
        if let Some(change) = self.pending(id) {
            change.next_call = now;
        }
        self.wake_change(now, id, effects);
    }

    fn send_change(&mut self, now: Duration, id: AcquisitionId, effects: &mut Effects) {
        let seq = self.next_seq;
        let Some(acquisition) = self.open.get_mut(&id) else { return };
        let Some(token) = acquisition.token() else { return };
        let revision = acquisition.agreement.revision;
        let latest = acquisition.lease.call_interval() / 2;
        let name = Arc::clone(&acquisition.request.name);
        let Some(change) = acquisition.changes.front_mut() else { return };
        self.next_seq = Seq(seq.0 + 1);
        change.from.get_or_insert(seq);
        change.asked_since.get_or_insert(now);
        change.next_call = now + latest;
        let what = match &change.step {
            Step::Claim => ChangeCall::Claim { revision },
            Step::SetCondition { condition, ttl } => {
                ChangeCall::SetCondition { revision, condition: *condition, ttl: *ttl }
            }
            Step::Downgrade => ChangeCall::Downgrade,
            Step::SetAttributes { order, attributes } => {
                ChangeCall::SetAttributes { order: *order, attributes: Arc::clone(attributes) }
            }
        };
        effects.urgent.push(Call::Change { seq, id, name, token, what });
        let asked = Asked::Change { id };
        self.attempts.insert(seq, Attempt { sent: now, via: Via::Main, asked });
    }

    /// The user of another guard of the hold believes to be alone, and so will one whose re-entry is
    /// under way (simulator, seed 1); a guard that is given back is waited for, since its release names
    /// the token that the downgrade ends.
    fn may_downgrade(&mut self, now: Duration, id: AcquisitionId, effects: &mut Effects) -> bool {
        let Some(acquisition) = self.open.get(&id) else { return false };
        let name = Arc::clone(&acquisition.request.name);
        let Some(token) = acquisition.token() else { return false };
        let joins =
            |it: &Acquisition| it.request.reenter == Some(token) && *it.request.name == *name;
        if self.of_hold(&name, token).len() > 1 || self.open.values().any(joins) {
            self.end_change(now, id, Err(ChangeError::Shared { name }), effects);
            return false;
        }
        let returned =
            self.closing.values().any(|closing| closing.is_of(&name, Way::Release(token)));
        if returned && let Some(change) = self.pending(id) {
            change.next_call = now + RELEASE_WITHIN;
        }
        !returned
    }

    pub(super) fn change_answered(
        &mut self,
        now: Duration,
        seq: Seq,
        answer: ChangeAnswer,
        effects: &mut Effects,
    ) {
        let Some(Attempt { asked: Asked::Change { id }, .. }) = self.attempts.remove(&seq) else {
            return;
        };
        let Some((step, name)) = self.step_of(seq, id) else { return };
        match (answer, step) {
            (ChangeAnswer::Gone(reason), _) => self.gone(id, reason, effects),
            (ChangeAnswer::Agreed(agreement), Step::Claim | Step::SetCondition { .. }) => {
                self.agreed(now, id, agreement, effects);
                self.met(now, id, agreement, effects);
            }
            (ChangeAnswer::RevisionMoved(agreement), Step::Claim)
                if agreement.condition.holds() =>
            {
                self.agreed(now, id, agreement, effects);
                self.met(now, id, agreement, effects);
            }
            (ChangeAnswer::RevisionMoved(agreement), Step::Claim | Step::SetCondition { .. }) => {
                self.agreed(now, id, agreement, effects);
                let error = ChangeError::Moved { name, agreement };
                self.end_change(now, id, Err(error), effects);
            }
            (ChangeAnswer::Downgraded { token, fence_floor, position }, Step::Downgrade) => {
                self.downgraded(now, id, token, fence_floor, position, effects);
            }
            (ChangeAnswer::AttributesSet, Step::SetAttributes { .. }) => {
                self.end_change(now, id, Ok(Changed::AttributesSet), effects);
            }
            (ChangeAnswer::Overtaken, Step::SetAttributes { .. }) => {
                self.end_change(now, id, Err(ChangeError::Overtaken { name }), effects);
            }
            // No answer to what was asked: it is asked again.
            (_, Step::Claim | Step::SetCondition { .. } | Step::Downgrade)
            | (_, Step::SetAttributes { .. }) => {}
        }
        self.arm(id);
    }

    /// The step that a call was an attempt of, unless it is over.
    fn step_of(&self, seq: Seq, id: AcquisitionId) -> Option<(Step, Arc<str>)> {
        let acquisition = self.open.get(&id)?;
        let change = acquisition.changes.front()?;
        let is_of = change.from.is_some_and(|from| from <= seq);
        is_of.then(|| (change.step.clone(), Arc::clone(&acquisition.request.name)))
    }

    /// Every acquisition of the hold goes by what is agreed from here on.
    fn agreed(
        &mut self,
        now: Duration,
        id: AcquisitionId,
        agreement: Agreement,
        effects: &mut Effects,
    ) {
        let Some(acquisition) = self.open.get(&id) else { return };
        let Some(token) = acquisition.token() else { return };
        if agreement.revision < acquisition.agreement.revision {
            return;
        }
        let name = Arc::clone(&acquisition.request.name);
        for id in self.of_hold(&name, token) {
            let Some(acquisition) = self.open.get_mut(&id) else { continue };
            let known = std::mem::replace(&mut acquisition.agreement, agreement);
            if known.ttl != agreement.ttl || known.condition != agreement.condition {
                acquisition.lease.agree(now, agreement.ttl, agreement.condition.interval());
                // Only what is sent from now on counts with a longer lease.
                acquisition.next_call = now;
            }
            if matches!(acquisition.phase, Phase::Held { .. }) {
                effects.notices.push(Notice::Agreed { id, agreement });
            }
            self.arm(id);
        }
    }

    /// What the first change wanted is agreed, up to the claim where one is needed.
    fn met(
        &mut self,
        now: Duration,
        id: AcquisitionId,
        agreement: Agreement,
        effects: &mut Effects,
    ) {
        if !agreement.wants_claim() {
            return self.end_change(now, id, Ok(Changed::Agreed(agreement)), effects);
        }
        let Some(acquisition) = self.open.get_mut(&id) else { return };
        if let Some(change) = acquisition.changes.front_mut() {
            change.go_on(now, Step::Claim);
        }
        self.wake_change(now, id, effects);
    }

    /// The hold has another token: its lease runs on.
    fn downgraded(
        &mut self,
        now: Duration,
        id: AcquisitionId,
        token: FencingToken,
        fence_floor: FencingToken,
        position: Position,
        effects: &mut Effects,
    ) {
        let Some(acquisition) = self.open.get_mut(&id) else { return };
        if let Phase::Held { token: known, .. } = &mut acquisition.phase {
            *known = token;
        }
        Arc::make_mut(&mut acquisition.request).mode = LockMode::Shared;
        let changed = Changed::Downgraded { token, fence_floor, position };
        self.end_change(now, id, Ok(changed), effects);
    }

    pub(super) fn change_failed(
        &mut self,
        now: Duration,
        seq: Seq,
        id: AcquisitionId,
        failure: Failure,
        effects: &mut Effects,
    ) {
        let Some((_, name)) = self.step_of(seq, id) else { return };
        if failure.verdict() == Verdict::Refused {
            self.change_refused(now, id, failure, &name, effects);
            return self.arm(id);
        }
        let failures_count = match self.pending(id) {
            Some(change) => change.failures_count + 1,
            None => return,
        };
        let pause = self.pause_after(&failure, failures_count);
        if let Some(change) = self.pending(id) {
            change.failures_count = failures_count;
            change.asked_since = None;
            change.next_call = now + pause;
        }
        self.arm(id);
    }

    fn change_refused(
        &mut self,
        now: Duration,
        id: AcquisitionId,
        failure: Failure,
        name: &Arc<str>,
        effects: &mut Effects,
    ) {
        match self.pending(id) {
            // A grant that cannot be made to stay is not what was asked for.
            Some(change) if change.number.is_none() => {
                self.fail(now, id, failure.into_refusal(name), effects);
            }
            Some(_) => {
                self.end_change(now, id, Err(failure.into_change_error(name)), effects);
            }
            None => {}
        }
    }

    fn pending(&mut self, id: AcquisitionId) -> Option<&mut PendingChange> {
        self.open.get_mut(&id)?.changes.front_mut()
    }

    /// The first change is over, and the next has its turn.
    fn end_change(
        &mut self,
        now: Duration,
        id: AcquisitionId,
        result: Result<Changed, ChangeError>,
        effects: &mut Effects,
    ) {
        let Some(acquisition) = self.open.get_mut(&id) else { return };
        let Some(change) = acquisition.changes.pop_front() else { return };
        match change.number {
            Some(number) => {
                effects.notices.push(Notice::Changed { id, number, result });
                if let Some(next) = acquisition.changes.front_mut() {
                    next.next_call = now;
                }
                self.wake_change(now, id, effects);
            }
            None => self.proceed(now, id, effects),
        }
    }

    /// The lock is lost: what was to be changed is no more.
    pub(super) fn end_changes(
        id: AcquisitionId,
        acquisition: &mut Acquisition,
        token: FencingToken,
        reason: &LostReason,
        effects: &mut Effects,
    ) {
        let is_moving = acquisition.changes.front().is_some_and(PendingChange::may_move_token);
        acquisition.may_have_other_token |= is_moving;
        let name = &acquisition.request.name;
        for number in acquisition.changes.drain(..).filter_map(|change| change.number) {
            let lost = LockLost { name: Arc::clone(name), token, reason: reason.clone() };
            effects.notices.push(Notice::Changed { id, number, result: Err(lost.into()) });
        }
    }

    /// Whether a downgrade is under way that may have ended this token by now.
    pub(super) fn is_downgrading(&self, name: &str, token: FencingToken) -> bool {
        let moves = |id: &AcquisitionId| {
            let change = self.open.get(id).and_then(|acquisition| acquisition.changes.front());
            change.is_some_and(PendingChange::may_move_token)
        };
        self.of_hold(name, token).iter().any(moves)
    }

    /// The open acquisitions of a hold.
    pub(super) fn of_hold(&self, name: &str, token: FencingToken) -> Vec<AcquisitionId> {
        let is_of = |acquisition: &Acquisition| {
            acquisition.token() == Some(token) && *acquisition.request.name == *name
        };
        let those = self.open.iter().filter(|(_, acquisition)| is_of(acquisition));
        those.map(|(id, _)| *id).collect()
    }
}
