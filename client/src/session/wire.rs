//! Between the messages of `sharklock.v1` and the client's own types. No decisions.

use std::time::{Duration, SystemTime};

use sharklock_proto::v1;

use super::{
    AcquireAnswer, AcquireOutcome, Answer, Call, ChangeAnswer, ChangeCall, Event, GoneReason,
    KeepAliveAnswer, KeepAliveState, Pushed, PushedKind,
};
use crate::{
    condition::{Agreement, Condition, LeaseRule},
    error::LostReason,
    failure::Failure,
    ids::{AcquisitionId, FencingToken, Position, Seq},
    request::{AskMark, HeldMode, Holder, LockInfo, LockMode, Request, Wait},
};

/// One call for a `Session` stream. The session's id stands in the frame and not here.
pub fn session_call(call: Call) -> v1::SessionCall {
    use v1::session_call::Body;
    let (seq, body) = match call {
        Call::Acquire { seq, id, request, wait } => (seq, acquire(seq, id, &request, wait)),
        Call::Release { seq, id, name, token } => {
            let release = v1::ReleaseRequest {
                name: name.to_string(),
                token: token.as_u64(),
                acquisition_id: id.0,
                ..v1::ReleaseRequest::default()
            };
            (seq, Body::Release(release))
        }
        Call::Cancel { seq, id, name } => {
            let cancel = v1::CancelRequest {
                name: name.to_string(),
                acquisition_id: id.0,
                ..v1::CancelRequest::default()
            };
            (seq, Body::Cancel(cancel))
        }
        Call::KeepAlive { seq, items } => {
            let items = items
                .into_iter()
                .map(|(name, id)| v1::KeepAliveItem {
                    name: name.to_string(),
                    acquisition_id: id.0,
                })
                .collect();
            let keep_alive =
                v1::KeepAliveRequest { seq: seq.0, items, ..v1::KeepAliveRequest::default() };
            (seq, Body::KeepAlive(keep_alive))
        }
        Call::Change { seq, id, name, token, what } => (seq, change(id, &name, token, what)),
        Call::Ask { seq, id, name } => {
            let ask = v1::AskRequest {
                name: name.to_string(),
                acquisition_id: id.0,
                ..v1::AskRequest::default()
            };
            (seq, Body::Ask(ask))
        }
    };
    v1::SessionCall { call_id: seq.0, body: Some(body) }
}

fn acquire(seq: Seq, id: AcquisitionId, request: &Request, wait: Wait) -> v1::session_call::Body {
    use v1::session_call::Body;
    let (name, owner_id) = (request.name.to_string(), request.owner.to_string());
    let attributes = request.attributes.clone();
    if let Some(token) = request.reclaim {
        return Body::Reclaim(v1::ReclaimRequest {
            acquisition_id: id.0,
            seq: seq.0,
            name,
            token: token.as_u64(),
            owner_id,
            attributes,
            ..v1::ReclaimRequest::default()
        });
    }
    let (mode, permits, permits_max) = match request.mode {
        LockMode::Exclusive => (v1::LockMode::Exclusive, 0, 0),
        LockMode::Shared => (v1::LockMode::Shared, 0, 0),
        LockMode::Permits { n, of } => (v1::LockMode::Permits, n, of),
    };
    Body::Acquire(v1::AcquireRequest {
        acquisition_id: id.0,
        seq: seq.0,
        name,
        mode: mode.into(),
        permits,
        permits_max,
        ttl_ms: Some(millis(request.ttl)),
        wait_ms: match wait {
            Wait::Try => Some(0),
            Wait::AtMost(wait) => Some(millis(wait).max(1)),
            Wait::Unbounded => None,
        },
        reenter_token: request.reenter.map(FencingToken::as_u64),
        owner_id,
        attributes,
        condition: (!request.condition.is_default()).then(|| condition_sent(&request.condition)),
        traceparent: request.traceparent.clone(),
        ..v1::AcquireRequest::default()
    })
}

fn change(
    id: AcquisitionId,
    name: &str,
    token: FencingToken,
    what: ChangeCall,
) -> v1::session_call::Body {
    use v1::session_call::Body;
    let (name, token, acquisition_id) = (name.to_owned(), token.as_u64(), id.0);
    match what {
        ChangeCall::Claim { revision } => Body::Claim(v1::ClaimRequest {
            name,
            token,
            acquisition_id,
            revision,
            ..v1::ClaimRequest::default()
        }),
        ChangeCall::SetCondition { revision, condition, ttl } => {
            Body::SetCondition(v1::SetConditionRequest {
                name,
                token,
                acquisition_id,
                revision,
                ttl_ms: millis(ttl),
                condition: (!condition.is_default()).then(|| condition_sent(&condition)),
                ..v1::SetConditionRequest::default()
            })
        }
        ChangeCall::Downgrade => Body::Downgrade(v1::DowngradeRequest {
            name,
            token,
            acquisition_id,
            ..v1::DowngradeRequest::default()
        }),
        ChangeCall::SetAttributes { order, attributes } => {
            Body::SetAttributes(v1::SetAttributesRequest {
                name,
                token,
                acquisition_id,
                seq: order.0,
                attributes: attributes.as_ref().clone(),
                ..v1::SetAttributesRequest::default()
            })
        }
    }
}

fn condition_sent(condition: &Condition) -> v1::Condition {
    let (lease, missed, interval_ms) = match condition.lease {
        LeaseRule::OnExpiry => (v1::LeaseRule::OnExpiry, 0, 0),
        LeaseRule::AfterMissed { missed, interval } => {
            (v1::LeaseRule::AfterMissed, missed, millis(interval))
        }
        LeaseRule::Hold => (v1::LeaseRule::Hold, 0, 0),
    };
    v1::Condition {
        lease: lease.into(),
        missed,
        interval_ms,
        lock_delay_ms: condition.lock_delay.map(millis),
        max_hold_ms: condition.max_hold.map(millis),
        ask_grace_ms: condition.ask_grace.map(millis),
    }
}

/// A message that came in on a `Session` stream; `None` when it has a meaning that this client
/// cannot know.
pub fn event(answer: v1::SessionAnswer) -> Option<Event> {
    use v1::session_answer::Body;
    let seq = Seq(answer.call_id);
    let answer = match answer.body? {
        Body::Acquire(acquire) => Answer::Acquire(acquire_answer(acquire)?),
        Body::Release(release) => {
            let gone = release.outcome == i32::from(v1::ReleaseOutcome::Gone);
            Answer::Released { gone: gone.then(|| gone_reason(release.gone_reason)) }
        }
        Body::Cancel(_) => Answer::Cancelled,
        Body::KeepAlive(keep_alive) => {
            let answers: Option<Vec<_>> =
                keep_alive.answers.into_iter().map(keep_alive_answer).collect();
            Answer::KeepAlive(answers?)
        }
        Body::Failure(failure) => Answer::Failed(stream_failure(failure)),
        Body::Event(event) => return pushed(event).map(Event::Pushed),
        Body::Agreement(answer) => Answer::Changed(agreement_answer(answer)?),
        Body::Downgrade(answer) => Answer::Changed(downgrade_answer(answer)?),
        Body::SetAttributes(answer) => Answer::Changed(attributes_answer(answer)?),
        Body::Ask(ask) => Answer::Asked { asked_count: ask.asked_count },
        Body::CheckToken(_) | Body::GetLock(_) | Body::WatchLock(_) => return None,
    };
    Some(Event::Answered { seq, answer })
}

fn agreement_answer(answer: v1::AgreementResponse) -> Option<ChangeAnswer> {
    Some(match v1::AgreementOutcome::try_from(answer.outcome).ok()? {
        v1::AgreementOutcome::Agreed => ChangeAnswer::Agreed(agreement(answer.agreement?)?),
        v1::AgreementOutcome::RevisionMoved => {
            ChangeAnswer::RevisionMoved(agreement(answer.agreement?)?)
        }
        v1::AgreementOutcome::Gone => ChangeAnswer::Gone(gone_reason(answer.gone_reason)),
        v1::AgreementOutcome::Unspecified => return None,
    })
}

fn downgrade_answer(answer: v1::DowngradeResponse) -> Option<ChangeAnswer> {
    Some(match v1::DowngradeOutcome::try_from(answer.outcome).ok()? {
        v1::DowngradeOutcome::Downgraded => ChangeAnswer::Downgraded {
            token: FencingToken::from_u64(answer.token),
            fence_floor: FencingToken::from_u64(answer.fence_floor),
            position: position(answer.position),
        },
        v1::DowngradeOutcome::Gone => ChangeAnswer::Gone(gone_reason(answer.gone_reason)),
        v1::DowngradeOutcome::Unspecified => return None,
    })
}

fn attributes_answer(answer: v1::SetAttributesResponse) -> Option<ChangeAnswer> {
    Some(match v1::SetAttributesOutcome::try_from(answer.outcome).ok()? {
        v1::SetAttributesOutcome::Set => ChangeAnswer::AttributesSet,
        v1::SetAttributesOutcome::Overtaken => ChangeAnswer::Overtaken,
        v1::SetAttributesOutcome::Gone => ChangeAnswer::Gone(gone_reason(answer.gone_reason)),
        v1::SetAttributesOutcome::Unspecified => return None,
    })
}

/// `None` when it has a meaning that this client cannot know.
fn agreement(agreement: v1::Agreement) -> Option<Agreement> {
    Some(Agreement {
        condition: condition(&agreement.condition.unwrap_or_default())?,
        revision: agreement.revision,
        claimed: agreement.claimed,
        ttl: Duration::from_millis(agreement.ttl_ms),
    })
}

fn condition(condition: &v1::Condition) -> Option<Condition> {
    let lease = match v1::LeaseRule::try_from(condition.lease).ok()? {
        v1::LeaseRule::Unspecified | v1::LeaseRule::OnExpiry => LeaseRule::OnExpiry,
        v1::LeaseRule::AfterMissed => LeaseRule::AfterMissed {
            missed: condition.missed,
            interval: Duration::from_millis(condition.interval_ms),
        },
        v1::LeaseRule::Hold => LeaseRule::Hold,
    };
    Some(Condition {
        lease,
        lock_delay: condition.lock_delay_ms.map(Duration::from_millis),
        max_hold: condition.max_hold_ms.map(Duration::from_millis),
        ask_grace: condition.ask_grace_ms.map(Duration::from_millis),
    })
}

fn ask_mark(mark: v1::AskMark) -> AskMark {
    AskMark {
        session: mark.session,
        owner: mark.owner_id,
        since: SystemTime::UNIX_EPOCH + Duration::from_millis(mark.since_unix_ms),
        grace: Duration::from_millis(mark.grace_ms),
        remaining: Duration::from_millis(mark.remaining_ms),
    }
}

fn acquire_answer(answer: v1::AcquireResponse) -> Option<AcquireAnswer> {
    let holders = |holders: Vec<v1::Holder>| holders.into_iter().map(holder).collect();
    let outcome = match v1::AcquireOutcome::try_from(answer.outcome).ok()? {
        v1::AcquireOutcome::Granted => AcquireOutcome::Granted {
            token: FencingToken::from_u64(answer.token),
            fence_floor: FencingToken::from_u64(answer.fence_floor),
        },
        v1::AcquireOutcome::Queued => {
            AcquireOutcome::Queued { place: answer.place, holders: holders(answer.holders) }
        }
        v1::AcquireOutcome::HeldByOther => AcquireOutcome::HeldByOther {
            holders: holders(answer.holders),
            waiters: answer.waiters,
        },
        v1::AcquireOutcome::WaitTimedOut => {
            AcquireOutcome::WaitTimedOut { holders: holders(answer.holders) }
        }
        v1::AcquireOutcome::HoldLost => AcquireOutcome::HoldLost,
        v1::AcquireOutcome::Gone => AcquireOutcome::Gone(gone_reason(answer.gone_reason)),
        v1::AcquireOutcome::Unspecified => return None,
    };
    let agreement = match answer.agreement {
        Some(told) => Some(agreement(told)?),
        None => None,
    };
    Some(AcquireAnswer {
        id: AcquisitionId(answer.acquisition_id),
        echoed: Seq(answer.seq),
        outcome,
        ttl: (answer.ttl_ms != 0).then(|| Duration::from_millis(answer.ttl_ms)),
        agreement,
        position: position(answer.position),
    })
}

fn keep_alive_answer(answer: v1::KeepAliveAnswer) -> Option<KeepAliveAnswer> {
    let token = FencingToken::from_u64(answer.token);
    let state = match v1::KeepAliveState::try_from(answer.state).ok()? {
        v1::KeepAliveState::Held => KeepAliveState::Held {
            token,
            fence_floor: FencingToken::from_u64(answer.fence_floor),
            asked: answer.asked.map(ask_mark),
        },
        v1::KeepAliveState::Waiting => KeepAliveState::Waiting { place: answer.place },
        v1::KeepAliveState::Ending => {
            KeepAliveState::Ending { token, why: why(answer.gone_reason, answer.ending_reason) }
        }
        v1::KeepAliveState::Gone => KeepAliveState::Gone(gone_reason(answer.gone_reason)),
        v1::KeepAliveState::Unspecified => return None,
    };
    Some(KeepAliveAnswer {
        name: answer.name,
        id: AcquisitionId(answer.acquisition_id),
        echoed: Seq(answer.seq),
        state,
        position: position(answer.position),
    })
}

fn pushed(event: v1::AcquisitionEvent) -> Option<Pushed> {
    let token = FencingToken::from_u64(event.token);
    let what = match v1::AcquisitionEventKind::try_from(event.kind).ok()? {
        v1::AcquisitionEventKind::Granted => {
            PushedKind::Granted { token, fence_floor: FencingToken::from_u64(event.fence_floor) }
        }
        v1::AcquisitionEventKind::Gone => {
            let how = gone_reason(event.gone_reason);
            let why = match how {
                GoneReason::ForceReleased => {
                    LostReason::ForceReleased { reason: event.ending_reason }
                }
                how => super::acquiring::lost_reason(how),
            };
            PushedKind::Gone { how, why }
        }
        v1::AcquisitionEventKind::Ending => {
            PushedKind::Ending { token, why: why(event.gone_reason, event.ending_reason) }
        }
        v1::AcquisitionEventKind::Asked => PushedKind::Asked(event.asked.map(ask_mark)?),
        v1::AcquisitionEventKind::Unspecified => return None,
    };
    let id = AcquisitionId(event.acquisition_id);
    Some(Pushed { name: event.name, id, what, position: position(event.position) })
}

/// What a hold is lost for that is to end. An older server does not say how: then an operator wants it.
fn why(how: i32, words: String) -> LostReason {
    match gone_reason(how) {
        GoneReason::ForceReleased | GoneReason::Unknown => {
            LostReason::ForceReleased { reason: words }
        }
        how => super::acquiring::lost_reason(how),
    }
}

fn gone_reason(reason: i32) -> GoneReason {
    match v1::GoneReason::try_from(reason) {
        Ok(v1::GoneReason::Released) => GoneReason::Released,
        Ok(v1::GoneReason::Cancelled) => GoneReason::Cancelled,
        Ok(v1::GoneReason::Expired) => GoneReason::Expired,
        Ok(v1::GoneReason::WaitTimedOut) => GoneReason::WaitTimedOut,
        Ok(v1::GoneReason::Refused) => GoneReason::Refused,
        Ok(v1::GoneReason::ForceReleased) => GoneReason::ForceReleased,
        Ok(v1::GoneReason::HoldLost) => GoneReason::HoldLost,
        Ok(v1::GoneReason::Orphaned) => GoneReason::Orphaned,
        Ok(v1::GoneReason::Reclaimed) => GoneReason::Reclaimed,
        Ok(v1::GoneReason::HeldTooLong) => GoneReason::HeldTooLong,
        Ok(v1::GoneReason::AskedFor) => GoneReason::AskedFor,
        // Gone is gone, whatever a newer server calls the cause.
        Ok(v1::GoneReason::Unspecified | v1::GoneReason::Unknown) | Err(_) => GoneReason::Unknown,
    }
}

fn stream_failure(failure: v1::Failure) -> Failure {
    Failure {
        code: failure.code,
        field: failure.metadata.get("field").cloned(),
        reason: failure.reason,
        message: failure.message,
        retry_after: Duration::from_millis(failure.retry_after_ms),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// When and where an answer holds.
pub fn position(position: Option<v1::Position>) -> Position {
    let position = position.unwrap_or_default();
    Position {
        range: position.range_id,
        conf_ver: position.conf_ver,
        version: position.version,
        applied_index: position.applied_index,
    }
}

/// A holder or waiter.
pub fn holder(holder: v1::Holder) -> Holder {
    let mode = match v1::LockMode::try_from(holder.mode) {
        Ok(v1::LockMode::Shared) => HeldMode::Shared,
        Ok(v1::LockMode::Permits) => HeldMode::Permits(holder.permits),
        // For people only: what a newer server calls it, nobody here decides by it.
        Ok(v1::LockMode::Exclusive | v1::LockMode::Unspecified) | Err(_) => HeldMode::Exclusive,
    };
    let ttl = Duration::from_millis(holder.ttl_ms);
    // For people only, too.
    let agreement = holder.agreement.and_then(agreement).unwrap_or(Agreement::plain(ttl));
    Holder {
        session: holder.session,
        owner: holder.owner_id,
        address: holder.client_address,
        attributes: holder.attributes,
        mode,
        token: (holder.token != 0).then(|| FencingToken::from_u64(holder.token)),
        fence_floor: (holder.fence_floor != 0).then(|| FencingToken::from_u64(holder.fence_floor)),
        since: SystemTime::UNIX_EPOCH + Duration::from_millis(holder.since_unix_ms),
        ttl,
        remaining: Duration::from_millis(holder.remaining_ms),
        open_acquisitions: holder.open_acquisitions,
        ending_reason: (!holder.ending_reason.is_empty()).then_some(holder.ending_reason),
        acquisition: AcquisitionId(holder.acquisition_id),
        agreement,
        orphaned: holder.orphaned,
        asked: holder.asked.map(ask_mark),
        arrival: holder.arrival,
        instance: holder.instance,
    }
}

/// One lock.
pub fn lock_info(lock: v1::LockInfo) -> LockInfo {
    let permits = lock.mode == i32::from(v1::LockMode::Permits);
    LockInfo {
        name: lock.name,
        permits_max: permits.then_some(lock.permits_max),
        holders: lock.holders.into_iter().map(holder).collect(),
        waiters: lock.waiters.into_iter().map(holder).collect(),
        holders_count: lock.holders_count,
        waiters_count: lock.waiters_count,
        retry_after: Duration::from_millis(lock.retry_after_ms),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use super::*;
    use crate::request::Request;

    fn answer(body: v1::session_answer::Body) -> v1::SessionAnswer {
        v1::SessionAnswer { call_id: 7, body: Some(body) }
    }

    #[test]
    fn an_acquire_carries_what_was_asked_and_no_secret() {
        let request = Request {
            name: Arc::from("gpu"),
            mode: LockMode::Permits { n: 2, of: 8 },
            ttl: Duration::from_secs(10),
            wait: Wait::Unbounded,
            reenter: None,
            reclaim: None,
            condition: Condition::default(),
            ask: false,
            owner: Arc::from("me"),
            attributes: BTreeMap::new(),
            traceparent: String::new(),
        };
        let acquire = |wait| {
            let (seq, id, request) = (Seq(7), AcquisitionId(3), Arc::new(request.clone()));
            match session_call(Call::Acquire { seq, id, request, wait }).body {
                Some(v1::session_call::Body::Acquire(acquire)) => acquire,
                other => panic!("{other:?}"),
            }
        };
        let sent = acquire(Wait::AtMost(Duration::from_micros(1)));
        // A wait that is nearly over is still no try.
        assert_eq!((sent.wait_ms, sent.permits, sent.permits_max), (Some(1), 2, 8));
        assert_eq!((sent.acquisition_id, sent.seq, sent.ttl_ms), (3, 7, Some(10_000)));
        assert!(sent.session_id.is_empty() && sent.instance == 0, "the frame says whose it is");
        assert_eq!(acquire(Wait::Try).wait_ms, Some(0));
        assert_eq!(acquire(Wait::Unbounded).wait_ms, None);
    }

    #[test]
    fn a_hold_is_taken_back_by_another_call_with_the_same_numbers() {
        let request = Request {
            name: Arc::from("gpu"),
            mode: LockMode::Exclusive,
            ttl: Duration::from_secs(10),
            wait: Wait::Unbounded,
            reenter: None,
            reclaim: Some(FencingToken::from_u64(5)),
            condition: Condition::default(),
            ask: false,
            owner: Arc::from("me"),
            attributes: BTreeMap::new(),
            traceparent: String::new(),
        };
        let (seq, id, request) = (Seq(7), AcquisitionId(3), Arc::new(request));
        let call = session_call(Call::Acquire { seq, id, request, wait: Wait::Unbounded });
        let Some(v1::session_call::Body::Reclaim(sent)) = call.body else { panic!("{call:?}") };
        assert_eq!((sent.acquisition_id, sent.seq, sent.token, call.call_id), (3, 7, 5, 7));
        assert_eq!((&*sent.name, &*sent.owner_id), ("gpu", "me"));
    }

    #[test]
    fn a_condition_is_told_as_it_is_meant() {
        let conditions = [
            Condition { lease: LeaseRule::Hold, ..Condition::default() },
            Condition {
                lease: LeaseRule::AfterMissed { missed: 3, interval: Duration::from_secs(2) },
                lock_delay: Some(Duration::from_millis(1)),
                max_hold: Some(Duration::from_millis(2)),
                ask_grace: Some(Duration::from_millis(3)),
            },
        ];
        for meant in conditions {
            assert_eq!(condition(&condition_sent(&meant)), Some(meant));
        }
        let newer = v1::Condition { lease: 99, ..v1::Condition::default() };
        assert_eq!(condition(&newer), None, "a rule that is not known is not guessed");
    }

    #[test]
    fn what_a_newer_server_says_is_not_guessed() {
        use v1::session_answer::Body;
        let acquire = v1::AcquireResponse { outcome: 99, ..Default::default() };
        assert_eq!(event(answer(Body::Acquire(acquire))), None);
        let pushed = v1::AcquisitionEvent { kind: 99, ..Default::default() };
        assert_eq!(event(answer(Body::Event(pushed))), None);
        let item = v1::KeepAliveAnswer { state: 99, ..Default::default() };
        let keep_alive = v1::KeepAliveResponse { answers: vec![item] };
        assert_eq!(event(answer(Body::KeepAlive(keep_alive))), None);
        assert_eq!(event(v1::SessionAnswer { call_id: 7, body: None }), None);
        // A cause that is not known is still an end.
        assert_eq!(gone_reason(99), GoneReason::Unknown);
    }
}
