//! A call that a server did not do, or that got no answer: what that says about retrying. What
//! codes and reasons mean is decided in D15.

use std::{sync::Arc, time::Duration};

use crate::error::{AcquireError, CallError, ChangeError, NO_ANSWER, NOT_CONNECTED};

/// gRPC status codes that this client tells apart, by number: the core knows no gRPC.
mod code {
    pub(super) const CANCELLED: i32 = 1;
    pub(super) const INVALID_ARGUMENT: i32 = 3;
    pub(super) const DEADLINE_EXCEEDED: i32 = 4;
    pub(super) const RESOURCE_EXHAUSTED: i32 = 8;
    pub(super) const FAILED_PRECONDITION: i32 = 9;
    pub(super) const ABORTED: i32 = 10;
    pub(super) const OUT_OF_RANGE: i32 = 11;
    pub(super) const UNAVAILABLE: i32 = 14;
}

/// An error answer to one call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// A gRPC status code.
    pub code: i32,
    /// UPPER_SNAKE_CASE, as in `google.rpc.ErrorInfo`; empty when the server gave none.
    pub reason: String,
    /// For people.
    pub message: String,
    /// The field that is wrong, when the server named one.
    pub field: Option<String>,
    /// Do not retry before; zero when the server did not say.
    pub retry_after: Duration,
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Down {
    /// UPPER_SNAKE_CASE: what a server said, or `NOT_CONNECTED`.
    pub reason: String,
    /// For people.
    pub why: String,
}

impl<S: Into<String>> From<S> for Down {
    fn from(why: S) -> Self {
        Self { reason: NOT_CONNECTED.to_owned(), why: why.into() }
    }
}

impl From<Failure> for Down {
    fn from(Failure { reason, message, .. }: Failure) -> Self {
        let reason = if reason.is_empty() { NOT_CONNECTED.to_owned() } else { reason };
        Self { reason, why: message }
    }
}

impl Down {
    /// Something is there, and says nothing.
    pub fn silent(why: impl Into<String>) -> Self {
        Self { reason: NO_ANSWER.to_owned(), why: why.into() }
    }

    /// Several endpoints that could not be reached: what a server has said is told before silence.
    pub fn of_all(mut all: Vec<Self>) -> Self {
        let by_server = |down: &Self| ![NOT_CONNECTED, NO_ANSWER].contains(&&*down.reason);
        let told = all.iter().position(by_server);
        let told = told.or_else(|| all.iter().position(|down| down.reason == NO_ANSWER));
        let told = told.unwrap_or(0);
        let why = all.iter().map(|down| down.why.as_str()).collect::<Vec<_>>().join("; ");
        let reason =
            if all.is_empty() { NOT_CONNECTED.to_owned() } else { all.swap_remove(told).reason };
        Self { reason, why }
    }
}

/// The meaning of a failure for its call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Surely not done; the same call may succeed later.
    NotDone,
    /// It may or may not have been done; the same call, with the same names, finds out.
    NotKnown,
    /// Refused, and the same call will be again.
    Refused,
}

impl Failure {
    /// The reason decides; where it is missing or new, the code.
    pub fn verdict(&self) -> Verdict {
        match self.reason.as_str() {
            // The call has not left this process.
            NOT_CONNECTED => return Verdict::NotDone,
            // Another endpoint may be a gateway's.
            "WRONG_PORT" => return Verdict::NotDone,
            "NO_CLUSTER" | "NO_LEADER" | "NOT_LEADER" | "RANGE_MOVED" | "OVERLOADED"
            | "TOO_OLD" => return Verdict::NotDone,
            // Of a split, while its range has another leader soon.
            "HANDING_OVER" | "LEADER_NOT_READY" => return Verdict::NotDone,
            // Its store has looked for one for seconds, and says so: that is not the cluster.
            "NO_MASTER" => return Verdict::Refused,
            "INDETERMINATE" => return Verdict::NotKnown,
            _ => {}
        }
        match self.code {
            // DEADLINE_EXCEEDED, CANCELLED and ABORTED come from proxies and shutdowns: nothing
            // says how far the call had got.
            code::UNAVAILABLE | code::DEADLINE_EXCEEDED | code::CANCELLED | code::ABORTED => {
                Verdict::NotKnown
            }
            _ => Verdict::Refused,
        }
    }

    /// The error of an acquisition that a server refused for good.
    pub fn into_refusal(self, name: &Arc<str>) -> AcquireError {
        let name = Arc::clone(name);
        let Self { code, reason, message, field, retry_after } = self;
        match (code, reason.as_str()) {
            (_, "MODE_MISMATCH") => AcquireError::ModeMismatch { name, message },
            (code::INVALID_ARGUMENT | code::OUT_OF_RANGE, _) => {
                AcquireError::Invalid { field, reason, message }
            }
            (code::FAILED_PRECONDITION, _) => AcquireError::Forbidden { name, reason, message },
            (code::RESOURCE_EXHAUSTED, _) => {
                let retry_after = (!retry_after.is_zero()).then_some(retry_after);
                AcquireError::LimitReached { reason, message, retry_after }
            }
            _ => AcquireError::Failed { reason: named(reason, code), message },
        }
    }

    /// The error of a change of a hold that a server refused for good.
    pub fn into_change_error(self, name: &Arc<str>) -> ChangeError {
        let Self { code, reason, message, field, .. } = self;
        match code {
            code::INVALID_ARGUMENT | code::OUT_OF_RANGE => {
                ChangeError::Invalid { field, reason, message }
            }
            _ => ChangeError::Refused {
                name: Arc::clone(name),
                reason: named(reason, code),
                message,
            },
        }
    }

    /// The error of another call, after the last try. `read` tells that the call has no effects, so
    /// that it does not matter whether it was done.
    pub fn into_call_error(self, read: bool) -> CallError {
        match self.verdict() {
            Verdict::NotKnown if !read => CallError::Indeterminate { message: self.message },
            Verdict::NotDone | Verdict::NotKnown => {
                CallError::Unavailable { reason: self.reason, message: self.message }
            }
            Verdict::Refused => {
                let Self { code, reason, message, field, .. } = self;
                match code {
                    code::UNAVAILABLE => CallError::Unavailable { reason, message },
                    code::INVALID_ARGUMENT | code::OUT_OF_RANGE => {
                        CallError::Invalid { field, reason, message }
                    }
                    _ => CallError::Failed { reason: named(reason, code), message },
                }
            }
        }
    }
}

fn named(reason: String, code: i32) -> String {
    if reason.is_empty() { format!("gRPC code {code}") } else { reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: i32, reason: &str) -> Failure {
        Failure { code, reason: reason.into(), ..Failure::default() }
    }

    #[test]
    fn only_what_heals_by_itself_is_retried() {
        for (code, reason, verdict) in [
            (14, "NO_LEADER", Verdict::NotDone),
            (14, "NOT_CONNECTED", Verdict::NotDone),
            (14, "NO_MASTER", Verdict::Refused),
            (14, "HANDING_OVER", Verdict::NotDone),
            (14, "LEADER_NOT_READY", Verdict::NotDone),
            (14, "RANGE_MOVED", Verdict::NotDone),
            (14, "TOO_OLD", Verdict::NotDone),
            (8, "OVERLOADED", Verdict::NotDone),
            (14, "INDETERMINATE", Verdict::NotKnown),
            (14, "", Verdict::NotKnown),
            (4, "", Verdict::NotKnown),
            (1, "", Verdict::NotKnown),
            (8, "TOO_MANY_WAITERS", Verdict::Refused),
            (9, "MODE_MISMATCH", Verdict::Refused),
            (3, "BAD_TTL", Verdict::Refused),
            (13, "", Verdict::Refused),
            (16, "", Verdict::Refused),
        ] {
            assert_eq!(failure(code, reason).verdict(), verdict, "{code} {reason}");
        }
    }

    #[test]
    fn refusals_say_what_to_do() {
        let name = Arc::from("a");
        let refusal = |code, reason| failure(code, reason).into_refusal(&name);
        assert!(matches!(refusal(9, "MODE_MISMATCH"), AcquireError::ModeMismatch { .. }));
        assert!(matches!(refusal(9, "WOULD_DEADLOCK"), AcquireError::Forbidden { .. }));
        assert!(matches!(refusal(8, "TOO_MANY_WAITERS"), AcquireError::LimitReached { .. }));
        assert!(matches!(refusal(3, "BAD_LOCK_NAME"), AcquireError::Invalid { .. }));
        assert!(matches!(refusal(13, ""), AcquireError::Failed { .. }));
    }

    #[test]
    fn a_call_without_effects_is_never_indeterminate() {
        let lost = failure(14, "");
        assert!(matches!(lost.clone().into_call_error(false), CallError::Indeterminate { .. }));
        assert!(matches!(lost.into_call_error(true), CallError::Unavailable { .. }));
    }
}
