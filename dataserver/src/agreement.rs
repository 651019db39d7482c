//! Conditions and the commands about them as records of the log. Beside `codec`, which has the rest.

use sharklock_locktable::{
    Ask, Claim, Command, Condition, Downgrade, EndQuarantine, LeaseRule, RaiseFeatureLevel,
    Reclaim, Recover, Revoke, SetAttributes, SetCondition, TimeUp, Timed, Token,
};
use sharklock_proto::internal::v1::{self as record, log_command::Body};

use crate::codec::{
    DecodeError, acquisition_from_record, acquisition_to_record, owner_from_record,
    owner_to_record, session_from_bytes,
};

/// A condition as a record; none is the default.
pub fn condition_to_record(condition: &Condition) -> record::ConditionRecord {
    let (lease, missed, interval_ms) = match condition.lease {
        LeaseRule::OnExpiry => (1, 0, 0),
        LeaseRule::AfterMissed { missed, interval_ms } => (2, missed, interval_ms),
        LeaseRule::Hold => (3, 0, 0),
    };
    let Condition { lock_delay_ms, max_hold_ms, ask_grace_ms, .. } = *condition;
    record::ConditionRecord { lease, missed, interval_ms, lock_delay_ms, max_hold_ms, ask_grace_ms }
}

/// The inverse of [`condition_to_record`].
pub fn condition_from_record(record: record::ConditionRecord) -> Result<Condition, DecodeError> {
    let record::ConditionRecord { lease, missed, interval_ms, .. } = record;
    let lease = match (lease, missed, interval_ms) {
        (1, 0, 0) => LeaseRule::OnExpiry,
        (2, missed, interval_ms) => LeaseRule::AfterMissed { missed, interval_ms },
        (3, 0, 0) => LeaseRule::Hold,
        _ => return Err(DecodeError::Field("condition")),
    };
    let record::ConditionRecord { lock_delay_ms, max_hold_ms, ask_grace_ms, .. } = record;
    Ok(Condition { lease, lock_delay_ms, max_hold_ms, ask_grace_ms })
}

/// A condition where none is the default.
pub fn boxed_condition_from_record(
    record: Option<record::ConditionRecord>,
) -> Result<Option<Box<Condition>>, DecodeError> {
    record.map(|record| condition_from_record(record).map(Box::new)).transpose()
}

pub fn set_condition_to_record(set: &SetCondition) -> Body {
    Body::SetCondition(record::LogSetCondition {
        acquisition: Some(acquisition_to_record(set.acquisition)),
        name: set.name.as_str().to_owned(),
        token: set.token.0,
        revision: set.revision,
        ttl_ms: set.ttl_ms,
        condition: Some(condition_to_record(&set.condition)),
    })
}

pub fn set_condition_from_record(set: record::LogSetCondition) -> Result<Command, DecodeError> {
    let condition = set.condition.ok_or(DecodeError::Field("condition"))?;
    Ok(Command::SetCondition(SetCondition {
        acquisition: acquisition_from_record(set.acquisition)?,
        name: set.name.into(),
        token: Token(set.token),
        revision: set.revision,
        ttl_ms: set.ttl_ms,
        condition: condition_from_record(condition)?,
    }))
}

pub fn claim_to_record(claim: &Claim) -> Body {
    Body::Claim(record::LogClaim {
        acquisition: Some(acquisition_to_record(claim.acquisition)),
        name: claim.name.as_str().to_owned(),
        token: claim.token.0,
        revision: claim.revision,
    })
}

pub fn claim_from_record(claim: record::LogClaim) -> Result<Command, DecodeError> {
    Ok(Command::Claim(Claim {
        acquisition: acquisition_from_record(claim.acquisition)?,
        name: claim.name.into(),
        token: Token(claim.token),
        revision: claim.revision,
    }))
}

pub fn reclaim_to_record(reclaim: &Reclaim) -> Body {
    Body::Reclaim(record::LogReclaim {
        acquisition: Some(acquisition_to_record(reclaim.acquisition)),
        name: reclaim.name.as_str().to_owned(),
        token: reclaim.token.0,
        owner: Some(owner_to_record(reclaim.owner.clone())),
        asked_ms: reclaim.asked_ms,
    })
}

pub fn reclaim_from_record(reclaim: record::LogReclaim) -> Result<Command, DecodeError> {
    Ok(Command::Reclaim(Box::new(Reclaim {
        acquisition: acquisition_from_record(reclaim.acquisition)?,
        name: reclaim.name.into(),
        token: Token(reclaim.token),
        owner: owner_from_record(reclaim.owner.unwrap_or_default()),
        asked_ms: reclaim.asked_ms,
    })))
}

pub fn ask_to_record(ask: &Ask) -> Body {
    let (acquisition, name) = (acquisition_to_record(ask.acquisition), ask.name.as_str().into());
    Body::Ask(record::LogAsk { acquisition: Some(acquisition), name })
}

pub fn ask_from_record(ask: record::LogAsk) -> Result<Command, DecodeError> {
    let acquisition = acquisition_from_record(ask.acquisition)?;
    Ok(Command::Ask(Ask { acquisition, name: ask.name.into() }))
}

pub fn downgrade_to_record(downgrade: &Downgrade) -> Body {
    Body::Downgrade(record::LogDowngrade {
        acquisition: Some(acquisition_to_record(downgrade.acquisition)),
        name: downgrade.name.as_str().to_owned(),
        token: downgrade.token.0,
    })
}

pub fn downgrade_from_record(downgrade: record::LogDowngrade) -> Result<Command, DecodeError> {
    Ok(Command::Downgrade(Downgrade {
        acquisition: acquisition_from_record(downgrade.acquisition)?,
        name: downgrade.name.into(),
        token: Token(downgrade.token),
    }))
}

pub fn set_attributes_to_record(set: &SetAttributes) -> Body {
    Body::SetAttributes(record::LogSetAttributes {
        acquisition: Some(acquisition_to_record(set.acquisition)),
        name: set.name.as_str().to_owned(),
        token: set.token.0,
        seq: set.seq,
        attributes: set.attributes.iter().cloned().collect(),
    })
}

pub fn set_attributes_from_record(set: record::LogSetAttributes) -> Result<Command, DecodeError> {
    Ok(Command::SetAttributes(SetAttributes {
        acquisition: acquisition_from_record(set.acquisition)?,
        name: set.name.into(),
        token: Token(set.token),
        seq: set.seq,
        attributes: set.attributes.into_iter().collect(),
    }))
}

pub fn time_up_to_record(time_up: &TimeUp) -> Body {
    let (what, revision) = match time_up.what {
        Timed::LockDelay => (1, 0),
        Timed::MaxHold { revision } => (2, revision),
        Timed::AskGrace { revision } => (3, revision),
    };
    let TimeUp { token, proposer_term, .. } = *time_up;
    let name = time_up.name.as_str().to_owned();
    Body::TimeUp(record::LogTimeUp { name, token: token.0, proposer_term, what, revision })
}

pub fn time_up_from_record(time_up: record::LogTimeUp) -> Result<Command, DecodeError> {
    let record::LogTimeUp { name, token, proposer_term, what, revision } = time_up;
    let what = match (what, revision) {
        (1, 0) => Timed::LockDelay,
        (2, revision) => Timed::MaxHold { revision },
        (3, revision) => Timed::AskGrace { revision },
        _ => return Err(DecodeError::Field("time_up")),
    };
    Ok(Command::TimeUp(TimeUp { name: name.into(), token: Token(token), what, proposer_term }))
}

pub fn revoke_to_record(revoke: &Revoke) -> Body {
    Body::Revoke(record::LogRevoke {
        session: bytes::Bytes::copy_from_slice(&revoke.session.0),
        reason: revoke.reason.clone(),
        operator: revoke.operator.clone(),
    })
}

pub fn revoke_from_record(revoke: record::LogRevoke) -> Result<Command, DecodeError> {
    let record::LogRevoke { session, reason, operator } = revoke;
    Ok(Command::Revoke(Revoke { session: session_from_bytes(&session)?, reason, operator }))
}

pub fn raise_to_record(raise: RaiseFeatureLevel) -> Body {
    Body::RaiseFeatureLevel(record::LogRaiseFeatureLevel { level: raise.level })
}

pub fn raise_from_record(raise: record::LogRaiseFeatureLevel) -> Command {
    Command::RaiseFeatureLevel(RaiseFeatureLevel { level: raise.level })
}

pub fn recover_to_record(Recover { generation, waits }: Recover) -> Body {
    Body::Recover(record::LogRecover { generation: generation.into(), waits })
}

pub fn recover_from_record(recover: record::LogRecover) -> Result<Command, DecodeError> {
    let record::LogRecover { generation, waits } = recover;
    let generation = u16::try_from(generation).map_err(|_| DecodeError::Field("generation"))?;
    Ok(Command::Recover(Recover { generation, waits }))
}

pub fn end_quarantine_to_record(end: EndQuarantine) -> Body {
    Body::EndQuarantine(record::LogEndQuarantine { proposer_term: end.proposer_term })
}

pub fn end_quarantine_from_record(end: record::LogEndQuarantine) -> Command {
    Command::EndQuarantine(EndQuarantine { proposer_term: end.proposer_term })
}
