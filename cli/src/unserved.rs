//! A call that nobody served in time: the true cause, and the next step.

use sharklock_client::{NO_ANSWER, NOT_CONNECTED};

use crate::exit::{Failure, UNREACHABLE};

/// The failure behind an `Unavailable` of the client library. `message` is its last cause, for people.
pub fn failure(reason: &str, message: &str) -> Failure {
    let (error, hint) = match reason {
        NOT_CONNECTED => (
            "no gateway can be reached",
            "start one with `sharklock dev`, or name another with --endpoints; `sharklock doctor` \
             tries each",
        ),
        NO_ANSWER => (
            "a gateway takes the connection and does not answer",
            "it may be paused, or be none: `sharklock doctor` tries each; or name another with \
             --endpoints",
        ),
        "WRONG_PORT" => (
            "an endpoint is no gateway's port",
            "name the port of a gateway with --endpoints: 7700 unless told otherwise",
        ),
        "NO_CLUSTER" => (
            "a gateway answers, but its cluster is not formed yet",
            "start the masters that are missing, with the same list of masters as the others",
        ),
        "NO_LEADER" => (
            "a gateway answers, but nobody leads the range",
            "`sharklock status` names the stores that are missing; the range goes on by itself when \
             a majority of its replicas is back",
        ),
        "NO_MASTER" => (
            "a gateway answers, but no leading master does",
            "`sharklock status` names the masters: start those that are down; held locks are not \
             touched",
        ),
        "OVERLOADED" => (
            "a gateway answers, but it is overloaded",
            "try again later; `sharklock status` shows the load of the ranges",
        ),
        _ => (
            "a gateway answers, but the call could not be served in time",
            "look with `sharklock status`, then try again",
        ),
    };
    let reason = if reason.is_empty() { "UNAVAILABLE" } else { reason };
    Failure::new(UNREACHABLE, error).reason(reason).cause(message).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_told_apart_from_silence() {
        let text = |reason: &str| failure(reason, "why").to_string();
        assert!(text(NOT_CONNECTED).starts_with("error: no gateway can be reached\ncause: why\n"));
        for reason in ["NO_CLUSTER", "NO_LEADER", "NO_MASTER", "OVERLOADED", "RANGE_MOVED", ""] {
            let text = text(reason);
            assert!(text.starts_with("error: a gateway answers, but"), "{text}");
            assert!(!text.contains("sharklock dev"), "{text}");
        }
    }
}
