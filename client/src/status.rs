//! The meaning of a gRPC status to a client.

use std::error::Error;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{error::NOT_CONNECTED, failure::Failure};

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
        NOT_CONNECTED.clone_into(&mut reason);
    }
    Failure {
        // A broken connection shows as UNKNOWN in tonic; to a caller both are the same.
        code: i32::from(if status.code() == Code::Unknown && broke(status) {
            Code::Unavailable
        } else {
            status.code()
        }),
        reason,
        message: explain(status),
        field,
        retry_after: retry_after.unwrap_or_default(),
    }
}

/// Words that a person can act on: the server's, or the innermost cause ("connection refused").
pub(crate) fn explain(status: &Status) -> String {
    match (Error::source(status), status.message()) {
        (Some(source), _) => innermost(source),
        (None, "") => status.code().to_string(),
        (None, message) => message.to_owned(),
    }
}

pub(crate) fn innermost(error: &dyn Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_never_left_was_surely_not_done() {
        use crate::failure::Verdict;
        let refused = tonic::ConnectError("refused".into());
        assert_eq!(failure(&Status::from_error(Box::new(refused))).verdict(), Verdict::NotDone);
        let broken = Status::unavailable("stream closed");
        assert_eq!(failure(&broken).verdict(), Verdict::NotKnown);
    }
}
