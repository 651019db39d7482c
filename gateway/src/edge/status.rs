//! From a [`Failure`] to a gRPC status with its details, for unary calls and for the end of streams.

use std::time::Duration;

use tonic::{Status, metadata::MetadataValue};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::failure::{Code, DOMAIN, Failure};

/// gRFC A6: when a client may try again, in milliseconds.
const PUSHBACK: &str = "grpc-retry-pushback-ms";

#[expect(clippy::disallowed_types, reason = "tonic-types takes metadata as a hash map")]
pub(super) fn status(failure: Failure) -> Status {
    let code = code(failure.reason.code());
    let Failure { reason, message, field, metadata, retry_after_ms } = failure;
    let mut details = ErrorDetails::new();
    let metadata: std::collections::HashMap<_, _> = metadata.into_iter().collect();
    details.set_error_info(reason.as_str(), DOMAIN, metadata);
    if !field.is_empty() {
        details.add_bad_request_violation(field, message.as_str());
    }
    if retry_after_ms > 0 {
        details.set_retry_info(Some(Duration::from_millis(retry_after_ms)));
    }
    let mut status = Status::with_error_details(code, message, details);
    if retry_after_ms > 0 {
        status.metadata_mut().insert(PUSHBACK, MetadataValue::from(retry_after_ms));
    }
    status
}

fn code(code: Code) -> tonic::Code {
    match code {
        Code::InvalidArgument => tonic::Code::InvalidArgument,
        Code::DeadlineExceeded => tonic::Code::DeadlineExceeded,
        Code::NotFound => tonic::Code::NotFound,
        Code::ResourceExhausted => tonic::Code::ResourceExhausted,
        Code::FailedPrecondition => tonic::Code::FailedPrecondition,
        Code::Unimplemented => tonic::Code::Unimplemented,
        Code::Internal => tonic::Code::Internal,
        Code::Unavailable => tonic::Code::Unavailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Reason;

    #[test]
    fn a_status_carries_reason_field_and_delay() {
        let failure = Failure::of_field(Reason::BadTtl, "ttl_ms", "too short").with("min", 2_000);
        let status = status(failure.retry_after(250));
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        let details = status.get_error_details();
        let info = details.error_info().expect("every status has one");
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("BAD_TTL", "sharklock"));
        assert_eq!(info.metadata.get("min").map(String::as_str), Some("2000"));
        let bad = details.bad_request().expect("a field is wrong");
        assert_eq!(bad.field_violations[0].field, "ttl_ms");
        let retry = details.retry_info().expect("a delay was given");
        assert_eq!(retry.retry_delay, Some(Duration::from_millis(250)));
        assert_eq!(status.metadata().get(PUSHBACK).map(|v| v.as_bytes()), Some(&b"250"[..]));
    }

    #[test]
    fn codes_have_the_numbers_of_grpc() {
        for reason in Reason::ALL {
            assert_eq!(code(reason.code()) as i32, reason.code() as i32);
        }
    }
}
