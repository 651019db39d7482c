//! Requests about what may end a hold: conditions, claims, reclaims, asks and downgrades.

use bytes::Bytes;
use sharklock_proto::{
    internal::v1::store_call::Body,
    v1::{
        AskRequest, ClaimRequest, Condition, DowngradeRequest, LeaseRule, ReclaimRequest,
        SetAttributesRequest, SetConditionRequest,
    },
};

use super::{
    Checked, Frame, OWNER_BYTES_MAX, RequestLimits, check_ttl,
    fields::{
        check_acquisition_id, check_attributes, check_name, check_seq, check_text,
        check_token_number,
    },
    in_session,
};
use crate::failure::{Failure, Reason};

/// Fewest keepalives that may be missed: one lost message and one late one must not cost a lock.
pub const MISSED_MIN: u32 = 3;
/// Most keepalives that may be missed.
pub const MISSED_MAX: u32 = 100;
/// Longest lock-delay, and longest grace of a holder who is asked: an hour.
pub const DELAY_MS_MAX: u64 = 3_600_000;
/// Longest bound on a hold: 30 days.
pub const MAX_HOLD_MS_MAX: u64 = 30 * 24 * 3_600_000;

/// Checks a condition for a hold of this lease.
pub(super) fn check_condition(condition: &Condition, ttl_ms: u64) -> Result<(), Failure> {
    let lease = LeaseRule::try_from(condition.lease).map_err(|_unknown| {
        bad(
            "condition.lease",
            "the lease rule is none that this server knows: choose another, or use a \
                                server as new as the client",
        )
    })?;
    check_missed(condition, lease, ttl_ms)?;
    for (field, value, max) in [
        ("condition.lock_delay_ms", condition.lock_delay_ms, DELAY_MS_MAX),
        ("condition.max_hold_ms", condition.max_hold_ms, MAX_HOLD_MS_MAX),
        ("condition.ask_grace_ms", condition.ask_grace_ms, DELAY_MS_MAX),
    ] {
        if value.is_some_and(|value| !(1..=max).contains(&value)) {
            let message =
                format!("it has 1 to {max} milliseconds: choose within, or leave the clause out");
            return Err(bad(field, &message).with("max", max));
        }
    }
    if lease != LeaseRule::Hold {
        return Ok(());
    }
    for (field, is_set) in [
        ("condition.max_hold_ms", condition.max_hold_ms.is_some()),
        ("condition.ask_grace_ms", condition.ask_grace_ms.is_some()),
    ] {
        if is_set {
            return Err(bad(
                field,
                "a claimed hold ends only by its session or an operator, and this clause would end it: \
                 leave it out, or choose another lease rule than HOLD",
            ));
        }
    }
    Ok(())
}

fn check_missed(condition: &Condition, lease: LeaseRule, ttl_ms: u64) -> Result<(), Failure> {
    let Condition { missed, interval_ms, .. } = *condition;
    if lease != LeaseRule::AfterMissed {
        return match (missed, interval_ms) {
            (0, 0) => Ok(()),
            (0, _) => Err(bad("condition.interval_ms", ONLY_MISSED)),
            _ => Err(bad("condition.missed", ONLY_MISSED)),
        };
    }
    if !(MISSED_MIN..=MISSED_MAX).contains(&missed) {
        let message =
            format!("{MISSED_MIN} to {MISSED_MAX} keepalives may be missed: choose within");
        return Err(bad("condition.missed", &message).with("max", MISSED_MAX));
    }
    if u64::from(missed).checked_mul(interval_ms) != Some(ttl_ms) {
        return Err(bad(
            "condition.interval_ms",
            "ttl_ms is not missed times interval_ms: make it so, since the hold ends when so many \
             keepalives in a row have been missed",
        ));
    }
    Ok(())
}

const ONLY_MISSED: &str =
    "only the lease rule AFTER_MISSED counts keepalives: leave it 0, or set the rule";

fn bad(field: &str, message: &str) -> Failure {
    Failure::of_field(Reason::BadCondition, field, message)
}

/// Checks a claim.
pub fn claim(frame: &Frame, request: ClaimRequest) -> Result<Checked, Failure> {
    let session = frame.session_of(&request.session_id, request.instance)?;
    check_hold(&request.name, request.token, request.acquisition_id)?;
    Ok(in_session!(session, Claim(request)))
}

/// Checks a change of a condition.
pub fn set_condition(
    limits: &RequestLimits,
    frame: &Frame,
    request: SetConditionRequest,
) -> Result<Checked, Failure> {
    let session = frame.session_of(&request.session_id, request.instance)?;
    check_hold(&request.name, request.token, request.acquisition_id)?;
    check_ttl(limits, request.ttl_ms)?;
    if let Some(condition) = &request.condition {
        check_condition(condition, request.ttl_ms)?;
    }
    Ok(in_session!(session, SetCondition(request)))
}

/// Checks a reclaim.
pub fn reclaim(frame: &Frame, request: ReclaimRequest) -> Result<Checked, Failure> {
    let session = frame.session_of(&request.session_id, request.instance)?;
    check_hold(&request.name, request.token, request.acquisition_id)?;
    check_seq(request.seq)?;
    check_text(Reason::BadOwner, "owner_id", &request.owner_id, 0, OWNER_BYTES_MAX)?;
    check_attributes(&request.attributes)?;
    Ok(in_session!(session, Reclaim(request)))
}

/// Checks an ask: of a waiter of the caller's, or for the first in the queue, whoever that is.
pub fn ask(frame: &Frame, mut request: AskRequest) -> Result<Checked, Failure> {
    check_name(&request.name)?;
    let session = match request.acquisition_id {
        0 => None,
        _ => Some(frame.session_of(&request.session_id, request.instance)?),
    };
    request.session_id = Bytes::new();
    request.instance = session.as_ref().map_or(0, super::Session::instance);
    Ok(Checked { session, body: Body::Ask(request), store: None })
}

/// Checks a downgrade.
pub fn downgrade(frame: &Frame, request: DowngradeRequest) -> Result<Checked, Failure> {
    let session = frame.session_of(&request.session_id, request.instance)?;
    check_hold(&request.name, request.token, request.acquisition_id)?;
    Ok(in_session!(session, Downgrade(request)))
}

/// Checks a change of attributes.
pub fn set_attributes(frame: &Frame, request: SetAttributesRequest) -> Result<Checked, Failure> {
    let session = frame.session_of(&request.session_id, request.instance)?;
    check_hold(&request.name, request.token, request.acquisition_id)?;
    check_seq(request.seq)?;
    check_attributes(&request.attributes)?;
    Ok(in_session!(session, SetAttributes(request)))
}

fn check_hold(name: &str, token: u64, acquisition_id: u64) -> Result<(), Failure> {
    check_name(name)?;
    check_token_number("token", token)?;
    check_acquisition_id("acquisition_id", acquisition_id)
}

#[cfg(test)]
mod tests;
