//! From the wish to the guard: asking, queueing, and handing out. Renewal is in `renewing`, what
//! comes after the handle is given back in `closing`.

use std::{sync::Arc, time::Duration};

use super::{
    AcquireAnswer, AcquireOutcome, Asked, Attempt, Call, Echo, Effects, GoneReason, Notice, Pushed,
    PushedKind, SessionCore, Via,
    acquisition::{Acquisition, Hold, Phase},
};
use crate::{
    condition::Agreement,
    error::{AcquireError, LostReason, NO_ANSWER},
    failure::{Down, Failure, Verdict},
    grant::Grant,
    ids::{AcquisitionId, Seq},
    request::{Holder, Request, Wait},
};

impl SessionCore {
    pub(super) fn acquire(
        &mut self,
        now: Duration,
        id: AcquisitionId,
        request: Arc<Request>,
        effects: &mut Effects,
    ) {
        assert!(id > self.newest, "ids grow: {id:?} after {:?}", self.newest);
        self.newest = id;
        if let Some(mismatch) = &self.refused {
            let result = Err(AcquireError::OtherCluster(mismatch.clone()));
            return effects.notices.push(Notice::Decided { id, result });
        }
        // Who joins wants to be alone with the hold, and the downgrade shares it.
        if request.reenter.is_some_and(|token| self.is_downgrading(&request.name, token)) {
            let result = Err(AcquireError::HoldLost { name: Arc::clone(&request.name) });
            return effects.notices.push(Notice::Decided { id, result });
        }
        let acquisition = Acquisition::new(now, request, self.config.call_timeout);
        self.open.insert(id, acquisition);
        if self.connected {
            self.send_acquire(now, id, effects);
        }
        self.arm(id);
    }

    /// Every attempt has its own number; the id is the same for all.
    pub(super) fn send_acquire(&mut self, now: Duration, id: AcquisitionId, effects: &mut Effects) {
        let seq = self.take_seq();
        let Some(acquisition) = self.open.get_mut(&id) else { return };
        acquisition.acquires_count += 1;
        acquisition.asked_for(now);
        let request = Arc::clone(&acquisition.request);
        let wait = acquisition.wait_left(now);
        effects.acquires.push(Call::Acquire { seq, id, request: Arc::clone(&request), wait });
        let asked = Asked::Acquire { id, request };
        self.attempts.insert(seq, Attempt { sent: now, via: Via::Main, asked });
    }

    pub(super) fn acquire_answered(
        &mut self,
        now: Duration,
        seq: Seq,
        answer: AcquireAnswer,
        effects: &mut Effects,
    ) {
        let AcquireAnswer { id, echoed, outcome, ttl, agreement, position } = answer;
        let echo = self.echo(echoed, id);
        let attempt = self.attempts.remove(&seq);
        let next_seq = self.next_seq;
        let Some(acquisition) = self.open.get_mut(&id) else {
            if let Some(Attempt { asked: Asked::Acquire { request, .. }, .. }) = attempt {
                self.answered_for_closed(now, id, &request.name, outcome, effects);
            }
            return;
        };
        let is_open =
            matches!(outcome, AcquireOutcome::Granted { .. } | AcquireOutcome::Queued { .. });
        let is_told = is_open && !acquisition.agreement_known;
        let was_granted = matches!(acquisition.phase, Phase::Granted { .. });
        if let Some(agreement) = counts(&acquisition.phase, &outcome, agreement) {
            acquisition.take_terms(ttl, agreement);
        }
        acquisition.acquires_count = acquisition.acquires_count.saturating_sub(1);
        acquisition.heard(next_seq, echo.map(|echo| echo.sent));
        let name = Arc::clone(&acquisition.request.name);
        if is_told {
            acquisition.agreement_known = true;
            if agreement.is_none() && !acquisition.request.condition.is_default() {
                return self.fail(now, id, knows_no_conditions(name), effects);
            }
        }
        match outcome {
            AcquireOutcome::Granted { token, fence_floor } => {
                let hold = Hold { token, fence_floor, position };
                self.granted(now, id, hold, echo, effects);
            }
            AcquireOutcome::Queued { place, holders } => {
                self.queued(now, id, place, holders, echo, effects);
            }
            AcquireOutcome::HeldByOther { holders, waiters } => {
                self.refused(id, AcquireError::Held { name, holders, waiters }, effects);
            }
            AcquireOutcome::WaitTimedOut { holders } => {
                let error = AcquireError::WaitTimedOut { name, holders, place: None };
                self.refused(id, error, effects);
            }
            AcquireOutcome::HoldLost => {
                self.refused(id, AcquireError::HoldLost { name }, effects);
            }
            // It may still hold, ending, although its client never knew: the cancel lets go.
            AcquireOutcome::Gone(reason @ GoneReason::ForceReleased) if acquisition.is_asking() => {
                self.fail(now, id, gone_error(name, reason, lost_reason(reason)), effects);
            }
            AcquireOutcome::Gone(reason) => self.gone(id, reason, effects),
        }
        if is_told && was_granted {
            self.proceed(now, id, effects);
        }
        self.arm(id);
    }

    fn queued(
        &mut self,
        now: Duration,
        id: AcquisitionId,
        place: u32,
        holders: Vec<Holder>,
        echo: Option<Echo>,
        effects: &mut Effects,
    ) {
        let Some(acquisition) = self.open.get_mut(&id) else { return };
        // The answer to an earlier attempt may come after the grant.
        if acquisition.is_asking() {
            let asked_before = acquisition.wants_to_ask();
            acquisition.phase = Phase::Waiting { place, holders };
            if acquisition.wants_to_ask() && !asked_before {
                self.ask_holders(now, id, effects);
            }
        }
        self.renew(now, id, echo, effects);
    }

    /// A server said something about an acquisition whose handle is gone (holes 17 and 19).
    fn answered_for_closed(
        &mut self,
        now: Duration,
        id: AcquisitionId,
        name: &Arc<str>,
        outcome: AcquireOutcome,
        effects: &mut Effects,
    ) {
        match outcome {
            AcquireOutcome::Granted { .. } => self.close_granted_stray(now, id, name, effects),
            AcquireOutcome::Queued { .. } => self.close_stray(now, id, name, effects),
            // It may still hold, ending: only the answer to the release says that it has ended.
            AcquireOutcome::Gone(GoneReason::ForceReleased) => {}
            AcquireOutcome::HeldByOther { .. }
            | AcquireOutcome::WaitTimedOut { .. }
            | AcquireOutcome::HoldLost
            | AcquireOutcome::Gone(_) => self.closed_by_server(id, None, effects),
        }
    }

    pub(super) fn acquire_failed(
        &mut self,
        now: Duration,
        id: AcquisitionId,
        failure: Failure,
        effects: &mut Effects,
    ) {
        let Some(acquisition) = self.open.get_mut(&id) else { return };
        acquisition.acquires_count = acquisition.acquires_count.saturating_sub(1);
        let verdict = failure.verdict();
        acquisition.may_have_arrived |= verdict == Verdict::NotKnown;
        // Asking again for a place in the queue is a courtesy to the new gateway: KeepAlives
        // keep the place.
        if !acquisition.needs_acquire() {
            return;
        }
        if verdict == Verdict::Refused {
            let error = failure.into_refusal(&acquisition.request.name);
            self.fail(now, id, error, effects);
            return;
        }
        acquisition.failures_count += 1;
        acquisition.asked_since = None;
        acquisition.check_at = None;
        acquisition.last_failure = Some(Box::new(failure.clone()));
        let failures_count = acquisition.failures_count;
        let pause = self.pause_after(&failure, failures_count);
        if let Some(acquisition) = self.open.get_mut(&id) {
            acquisition.next_call = now + pause;
        }
        self.arm(id);
    }

    pub(super) fn pushed(&mut self, now: Duration, pushed: Pushed, effects: &mut Effects) {
        let Pushed { name, id, what, position } = pushed;
        match what {
            PushedKind::Granted { token, fence_floor } => {
                if self.open.contains_key(&id) {
                    let hold = Hold { token, fence_floor, position };
                    self.granted(now, id, hold, None, effects);
                } else {
                    self.close_granted_stray(now, id, &Arc::from(name), effects);
                }
            }
            PushedKind::Gone { how, why } => {
                if self.open.contains_key(&id) {
                    self.gone_for(id, how, why, effects);
                } else {
                    self.closed_by_server(id, Some(how), effects);
                }
            }
            PushedKind::Ending { token, why } => {
                self.ending(now, id, &name, token, &why, effects);
            }
            PushedKind::Asked(mark) => self.asked_for(now, id, &mark, effects),
        }
        self.arm(id);
    }

    /// The cluster has granted it. A push echoes no attempt and carries no time (hole 4).
    pub(super) fn granted(
        &mut self,
        now: Duration,
        id: AcquisitionId,
        hold: Hold,
        echo: Option<Echo>,
        effects: &mut Effects,
    ) {
        let known_from = self.next_seq;
        let Some(acquisition) = self.open.get_mut(&id) else { return };
        match &acquisition.phase {
            Phase::Requested | Phase::Waiting { .. } => {
                acquisition.grant_known(hold, known_from);
                if let Some(echo) = echo {
                    acquisition.lease.renew(echo.sent);
                }
                self.join_hold(id);
                self.proceed(now, id, effects);
            }
            // Its copy, older than the ring remembers, was granted again after this grant had ended
            // (hole 34). Time that is counted for one hold must not go out with another's token.
            Phase::Granted { hold: known, .. } if known.token < hold.token => {
                acquisition.grant_known(hold, known_from);
                acquisition.forget_claim();
                self.renew(now, id, echo, effects);
                if self.open.get(&id).is_some_and(|granted| granted.agreement.wants_claim()) {
                    self.proceed(now, id, effects);
                }
            }
            Phase::Granted { hold: known, .. } if known.token > hold.token => {}
            Phase::Granted { .. } => self.renew(now, id, echo, effects),
            // Another token is another hold: it says nothing about the one that is held.
            Phase::Held { token, .. } if *token == hold.token => {
                self.renew(now, id, echo, effects);
            }
            Phase::Held { .. } | Phase::Lost { .. } => {}
        }
    }

    /// A re-entered hold is what its other guards know of it.
    fn join_hold(&mut self, id: AcquisitionId) {
        let Some(acquisition) = self.open.get(&id) else { return };
        let (Some(token), true) = (acquisition.token(), acquisition.request.reenter.is_some())
        else {
            return;
        };
        let name = Arc::clone(&acquisition.request.name);
        let Some(other) = self.of_hold(&name, token).into_iter().find(|other| *other != id) else {
            return;
        };
        let other = &self.open[&other];
        let (lease, agreement) = (other.lease, other.agreement);
        if let Some(acquisition) = self.open.get_mut(&id) {
            acquisition.lease.join(&lease);
            acquisition.agreement = agreement;
        }
    }

    /// Brings a known grant nearer to its guard: what is agreed must be known, a hold that is to stay
    /// must be claimed, and enough of its lease must be known to be left.
    pub(super) fn proceed(&mut self, now: Duration, id: AcquisitionId, effects: &mut Effects) {
        let Some(acquisition) = self.open.get_mut(&id) else { return };
        let Phase::Granted { .. } = acquisition.phase else { return };
        if !acquisition.agreement_known {
            // The answer to the first Acquire may be under way, and is repeated if it is not.
            if acquisition.acquires_count == 0 && self.connected {
                self.send_acquire(now, id, effects);
            }
        } else if acquisition.agreement.wants_claim() {
            self.claim(now, id, effects);
        } else if acquisition.lease.is_worth_handing_out(now) {
            self.hand_out(now, id, effects);
        } else {
            self.ask_for_time(now, id, effects);
        }
    }

    /// The grant is known, but no answer has left enough of its lease: the guard is handed out
    /// under the answer to what is asked now.
    fn ask_for_time(&mut self, now: Duration, id: AcquisitionId, effects: &mut Effects) {
        let Some(acquisition) = self.open.get_mut(&id) else { return };
        acquisition.next_call = now;
        acquisition.asked_since = None;
        if self.connected {
            self.send_keep_alives(now, effects);
        }
    }

    pub(super) fn hand_out(&mut self, now: Duration, id: AcquisitionId, effects: &mut Effects) {
        let Some(acquisition) = self.open.get_mut(&id) else { return };
        let Phase::Granted { hold, .. } = acquisition.phase else { return };
        if !acquisition.is_agreed() {
            return;
        }
        let Some(valid_until) = acquisition.lease.valid_until() else { return };
        assert!(valid_until > now, "a guard is handed out only while its lease runs");
        let Hold { token, fence_floor, position } = hold;
        // The answer to an older Acquire may have told that the claim was done (network model, seed
        // 3133): the repeated claim must not decide about the guard that goes out now.
        acquisition.changes.clear();
        acquisition.phase = Phase::Held { token, in_jeopardy: false };
        let agreement = acquisition.agreement;
        let grant = Grant { id, token, fence_floor, valid_until, position, agreement };
        effects.notices.push(Notice::Decided { id, result: Ok(grant) });
        if let Some((mark, _)) = acquisition.asked.clone() {
            let until = now + mark.remaining;
            effects.notices.push(Notice::Asked { id, mark: Some((mark, until)) });
        }
    }

    /// A server said that the acquisition has ended: nothing is left to withdraw there.
    pub(super) fn gone(&mut self, id: AcquisitionId, how: GoneReason, effects: &mut Effects) {
        self.gone_for(id, how, lost_reason(how), effects);
    }

    /// The same, where more may be known of why its holder has lost it.
    fn gone_for(
        &mut self,
        id: AcquisitionId,
        how: GoneReason,
        why: LostReason,
        effects: &mut Effects,
    ) {
        let Some(acquisition) = self.open.get_mut(&id) else { return };
        let name = Arc::clone(&acquisition.request.name);
        match (&mut acquisition.phase, how) {
            (Phase::Waiting { place, holders }, GoneReason::WaitTimedOut) => {
                let holders = std::mem::take(holders);
                let error = AcquireError::WaitTimedOut { name, holders, place: Some(*place) };
                self.forget(id, error, effects);
            }
            (Phase::Requested | Phase::Waiting { .. }, _) => {
                self.forget(id, gone_error(name, how, why), effects);
            }
            (Phase::Granted { .. }, _) => {
                self.forget(id, AcquireError::Lost { name, reason: why }, effects);
            }
            (Phase::Held { .. }, _) => self.lose(id, why, effects),
            (Phase::Lost { .. }, _) => {}
        }
    }

    /// A server refused it, and remembers that it did: a duplicate will not be granted.
    ///
    /// A refusal beside a grant answers a duplicate that had slipped by; the grant is what counts.
    fn refused(&mut self, id: AcquisitionId, error: AcquireError, effects: &mut Effects) {
        if self.open.get(&id).is_some_and(Acquisition::is_asking) {
            self.forget(id, error, effects);
        }
    }

    /// Ends the acquire future with an error, and withdraws what the cluster may know of it.
    pub(super) fn fail(
        &mut self,
        now: Duration,
        id: AcquisitionId,
        error: AcquireError,
        effects: &mut Effects,
    ) {
        let is_out = self.open.get(&id).is_some_and(|it| matches!(it.phase, Phase::Held { .. }));
        assert!(!is_out, "{id:?} is held by its user, and would be let go for {error:?}");
        effects.notices.push(Notice::Decided { id, result: Err(error) });
        self.close(now, id, effects);
    }

    fn forget(&mut self, id: AcquisitionId, error: AcquireError, effects: &mut Effects) {
        let Some(acquisition) = self.open.remove(&id) else { return };
        self.disarm(id, acquisition.armed);
        effects.notices.push(Notice::Decided { id, result: Err(error) });
    }

    /// The caller's deadline has come.
    pub(super) fn give_up(&mut self, now: Duration, id: AcquisitionId, effects: &mut Effects) {
        let Some(acquisition) = self.open.get_mut(&id) else { return };
        let name = Arc::clone(&acquisition.request.name);
        let out_of_touch = !self.connected || acquisition.is_out_of_touch(now);
        let (reason, message) = if !self.connected {
            let Down { reason, why } = self.why_down.clone();
            (reason, why)
        } else if let Some(failure) = acquisition.last_failure.take() {
            (failure.reason, failure.message)
        } else {
            (NO_ANSWER.to_owned(), "no answer in time".to_owned())
        };
        let error = if acquisition.surely_unknown() {
            AcquireError::Unavailable { reason, message }
        } else {
            match (&mut acquisition.phase, acquisition.request.wait) {
                (Phase::Waiting { place, holders }, Wait::AtMost(_)) if !out_of_touch => {
                    let holders = std::mem::take(holders);
                    AcquireError::WaitTimedOut { name, holders, place: Some(*place) }
                }
                _ => AcquireError::Indeterminate { message },
            }
        };
        self.fail(now, id, error, effects);
    }
}

/// What an answer says of the agreement about a hold of this phase; `None`: nothing. Once the guard is
/// out its user may have agreed to something else.
fn counts(
    phase: &Phase,
    outcome: &AcquireOutcome,
    agreement: Option<Agreement>,
) -> Option<Option<Agreement>> {
    match (phase, outcome) {
        (Phase::Held { .. } | Phase::Lost { .. }, _) => None,
        // An older grant of the same id was another hold (hole 34).
        (Phase::Granted { hold, .. }, AcquireOutcome::Granted { token, .. }) => {
            (*token >= hold.token).then_some(agreement)
        }
        (Phase::Granted { .. }, _) => None,
        (Phase::Requested | Phase::Waiting { .. }, AcquireOutcome::Granted { .. }) => {
            Some(agreement)
        }
        // Whoever waits to take a hold back is told what is agreed about that one. Its own hold keeps
        // that and begins at revision 0: a claim by another is never done (simulator, seed 1170000213).
        (Phase::Requested | Phase::Waiting { .. }, _) => {
            Some(agreement.map(|it| Agreement { revision: 0, ..it }))
        }
    }
}

/// A server that says nothing of what is agreed has agreed to nothing: this is not the lock that was
/// asked for.
fn knows_no_conditions(name: Arc<str>) -> AcquireError {
    AcquireError::Forbidden {
        name,
        reason: "FEATURE_LEVEL".to_owned(),
        message:
            "its servers know no conditions yet: finish their upgrade, or leave the condition \
                  out"
            .to_owned(),
    }
}

/// The error of an acquisition that ended before its grant was known.
fn gone_error(name: Arc<str>, how: GoneReason, why: LostReason) -> AcquireError {
    match how {
        GoneReason::HoldLost => AcquireError::HoldLost { name },
        GoneReason::Refused => AcquireError::Held { name, holders: Vec::new(), waiters: 0 },
        GoneReason::WaitTimedOut => {
            AcquireError::WaitTimedOut { name, holders: Vec::new(), place: None }
        }
        GoneReason::Expired
        | GoneReason::ForceReleased
        | GoneReason::Unknown
        | GoneReason::Released
        | GoneReason::Cancelled
        | GoneReason::Orphaned
        | GoneReason::Reclaimed
        | GoneReason::HeldTooLong
        | GoneReason::AskedFor => AcquireError::Lost { name, reason: why },
    }
}

/// Why a hold is no more.
pub(super) fn lost_reason(reason: GoneReason) -> LostReason {
    match reason {
        GoneReason::Expired => LostReason::Expired,
        GoneReason::ForceReleased => LostReason::ForceReleased { reason: String::new() },
        GoneReason::Orphaned => LostReason::Orphaned,
        GoneReason::Reclaimed => LostReason::Reclaimed,
        GoneReason::HeldTooLong => LostReason::HeldTooLong,
        GoneReason::AskedFor => LostReason::AskedFor,
        // The others mean that the cluster knows another story than the holder.
        GoneReason::Unknown => LostReason::Unknown,
        GoneReason::Released => LostReason::Released,
        GoneReason::Cancelled => LostReason::Cancelled,
        GoneReason::WaitTimedOut => LostReason::WaitTimedOut,
        GoneReason::Refused => LostReason::Refused,
        GoneReason::HoldLost => LostReason::HoldLost,
    }
}
