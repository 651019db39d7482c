//! Between the messages of `sharklock.v1` and the client's own types. No decisions.

use std::{
    error::Error,
    time::{Duration, SystemTime},
};

use sharklock_proto::v1;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{
    failure::Failure,
    ids::{AcquisitionId, FencingToken, Position},
    request::{HeldMode, Holder, LockInfo},
};

pub(crate) fn position(position: Option<v1::Position>) -> Position {
    let position = position.unwrap_or_default();
    Position {
        range: position.range_id,
        conf_ver: position.conf_ver,
        version: position.version,
        applied_index: position.applied_index,
    }
}

pub(crate) fn holder(holder: v1::Holder) -> Holder {
    let mode = match v1::LockMode::try_from(holder.mode) {
        Ok(v1::LockMode::Shared) => HeldMode::Shared,
        Ok(v1::LockMode::Permits) => HeldMode::Permits(holder.permits),
        // For people only: what a newer server calls it, nobody here decides by it.
        Ok(v1::LockMode::Exclusive | v1::LockMode::Unspecified) | Err(_) => HeldMode::Exclusive,
    };
    Holder {
        session: holder.session,
        owner: holder.owner_id,
        address: holder.client_address,
        attributes: holder.attributes,
        mode,
        token: (holder.token != 0).then(|| FencingToken::from_u64(holder.token)),
        fence_floor: (holder.fence_floor != 0).then(|| FencingToken::from_u64(holder.fence_floor)),
        since: SystemTime::UNIX_EPOCH + Duration::from_millis(holder.since_unix_ms),
        ttl: Duration::from_millis(holder.ttl_ms),
        remaining: Duration::from_millis(holder.remaining_ms),
        open_acquisitions: holder.open_acquisitions,
        ending_reason: (!holder.ending_reason.is_empty()).then_some(holder.ending_reason),
        acquisition: AcquisitionId(holder.acquisition_id),
    }
}

pub(crate) fn lock_info(lock: v1::LockInfo) -> LockInfo {
    let permits = lock.mode == i32::from(v1::LockMode::Permits);
    LockInfo {
        name: lock.name,
        permits_max: permits.then_some(lock.permits_max),
        holders: lock.holders.into_iter().map(holder).collect(),
        waiters: lock.waiters.into_iter().map(holder).collect(),
        holders_count: lock.holders_count,
        waiters_count: lock.waiters_count,
    }
}

/// An error of a unary call or of a stream.
pub(crate) fn failure(status: &Status) -> Failure {
    let details = status.get_error_details();
    let field = details
        .bad_request()
        .and_then(|bad| bad.field_violations.first())
        .map(|violation| violation.field.clone());
    let info = details.error_info();
    let field = field.or_else(|| info.and_then(|info| info.metadata.get("field").cloned()));
    let retry_after = details.retry_info().and_then(|retry| retry.retry_delay);
    let mut reason = info.map(|info| info.reason.clone()).unwrap_or_default();
    if reason.is_empty() && never_connected(status) {
        // The call has not left this process; no server could have said so.
        "NO_LEADER".clone_into(&mut reason);
    }
    Failure {
        // A broken connection shows as UNKNOWN in tonic; to a caller both are the same.
        code: i32::from(if status.code() == Code::Unknown && broke(status) {
            Code::Unavailable
        } else {
            status.code()
        }),
        reason,
        message: status.message().to_owned(),
        field,
        retry_after: retry_after.unwrap_or_default(),
    }
}

fn never_connected(status: &Status) -> bool {
    causes(status).any(|cause| cause.is::<tonic::ConnectError>())
}

fn broke(status: &Status) -> bool {
    causes(status).any(|cause| cause.is::<tonic::transport::Error>())
}

fn causes(status: &Status) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(Error::source(status), |&cause| cause.source())
}
