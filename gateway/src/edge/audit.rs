//! The audit lines: who has ordered what, why, and what came of it.
//!
//! One line per order, on the log target `audit`, also of one whose caller hangs up; none of a dry run. A lock's name may say what a company does, and logs
//! are read by more people than locks: unless the settings say otherwise the line has its hash.

use std::{fmt, sync::Arc};

use sharklock_proto::v1::{ForceReleaseRequest, ForceReleaseResponse, RevokeSessionResponse};
use twox_hash::XxHash64;

use super::metrics::Metrics;
use crate::{
    failure::{Failure, Reason},
    session_walks::Revocation,
};

/// What came of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All that it named has ended.
    Ended,
    /// It ends when its holders have stopped, or their leases have run out.
    Ending,
    /// There was nothing to end.
    Nothing,
    /// It was not done.
    Refused,
    /// It may or may not have been done: no answer came, or nobody waited for it.
    Unknown,
}

impl Outcome {
    fn of(count: u64, is_ended: bool) -> Self {
        match (count, is_ended) {
            (0, _) => Self::Nothing,
            (_, true) => Self::Ended,
            (_, false) => Self::Ending,
        }
    }

    fn of_failure(failure: &Failure) -> Self {
        match failure.reason {
            Reason::Indeterminate => Self::Unknown,
            _ => Self::Refused,
        }
    }

    pub(super) const ALL: [Self; 5] =
        [Self::Ended, Self::Ending, Self::Nothing, Self::Refused, Self::Unknown];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ended => "ended",
            Self::Ending => "ending",
            Self::Nothing => "nothing",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
        }
    }
}

/// The line of a force-release. It is written when this goes, so that an order whose caller hangs up
/// leaves its trace, too.
pub(super) struct ForceReleaseLine {
    peer: String,
    request: ForceReleaseRequest,
    has_name: bool,
    outcome: Outcome,
    holds: usize,
    metrics: Arc<Metrics>,
}

impl ForceReleaseLine {
    pub(super) fn new(
        peer: &impl fmt::Display,
        request: ForceReleaseRequest,
        has_name: bool,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (peer, outcome) = (peer.to_string(), Outcome::Unknown);
        Self { peer, request, has_name, outcome, holds: 0, metrics }
    }

    pub(super) fn answered(&mut self, answer: &Result<ForceReleaseResponse, Failure>) {
        self.outcome = match answer {
            Ok(done) => {
                self.holds = done.holders.len();
                Outcome::of(done.holders.len() as u64, done.ended)
            }
            Err(failure) => Outcome::of_failure(failure),
        };
    }
}

impl Drop for ForceReleaseLine {
    fn drop(&mut self) {
        self.metrics.force_released(self.outcome);
        let ForceReleaseRequest { name, token, reason, now, operator } = &self.request;
        tracing::info!(
            target: "audit",
            client = self.peer,
            operator = operator.as_str(),
            reason = reason.as_str(),
            lock = self.has_name.then_some(name.as_str()),
            lock_hash = (!self.has_name).then(|| hash(name)),
            token,
            now,
            holds = self.holds,
            outcome = self.outcome.name(),
            "force-release"
        );
    }
}

/// An order of an operator that is about no holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    SplitRange,
    ChangeRange,
    CancelOperator,
    SetStoreDuty,
    SetSchedule,
    PauseSchedule,
    Rebalance,
    ChangeMasters,
    RecoverRange,
}

impl Order {
    pub(super) const ALL: [Self; 9] = [
        Self::SplitRange,
        Self::ChangeRange,
        Self::CancelOperator,
        Self::SetStoreDuty,
        Self::SetSchedule,
        Self::PauseSchedule,
        Self::Rebalance,
        Self::ChangeMasters,
        Self::RecoverRange,
    ];
    /// What can come of one.
    pub(super) const OUTCOMES: [&str; 3] = ["accepted", "refused", "unknown"];

    /// As the line says it, and as a label.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::SplitRange => "split-range",
            Self::ChangeRange => "change-range",
            Self::CancelOperator => "cancel-operator",
            Self::SetStoreDuty => "set-store-duty",
            Self::SetSchedule => "set-schedule",
            Self::PauseSchedule => "pause-schedule",
            Self::Rebalance => "rebalance",
            Self::ChangeMasters => "change-masters",
            Self::RecoverRange => "recover-range",
        }
    }
}

/// The line of such an order: as of [`ForceReleaseLine`].
pub(super) struct OrderLine {
    peer: String,
    order: Order,
    operator: String,
    /// What it is about, without names of locks.
    subject: String,
    outcome: &'static str,
    /// Why it was refused, or is not known to be done.
    refused_because: Option<String>,
    metrics: Arc<Metrics>,
}

impl OrderLine {
    pub(super) fn new(
        peer: &impl fmt::Display,
        order: Order,
        operator: &str,
        subject: String,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (peer, operator, outcome) = (peer.to_string(), operator.to_owned(), "unknown");
        Self { peer, order, operator, subject, outcome, refused_because: None, metrics }
    }

    /// What it is about is known better by now.
    pub(super) fn is_about(&mut self, subject: String) {
        self.subject = subject;
    }

    pub(super) fn answered<T>(&mut self, answer: &Result<T, Failure>) {
        self.outcome = match answer {
            Ok(_) => "accepted",
            // A leading master may have taken it, and then not have been heard.
            Err(failure) => match failure.reason {
                Reason::Indeterminate | Reason::NoMaster => "unknown",
                _ => "refused",
            },
        };
        self.refused_because = answer.as_ref().err().map(|failure| failure.message.to_string());
    }
}

impl Drop for OrderLine {
    fn drop(&mut self) {
        self.metrics.ordered(self.order, self.outcome);
        tracing::info!(
            target: "audit",
            client = self.peer,
            operator = self.operator,
            subject = self.subject,
            outcome = self.outcome,
            refused_because = self.refused_because,
            "{}",
            self.order.name()
        );
    }
}

/// The line of a page of a revocation, which is what one call does of it: as of [`ForceReleaseLine`].
pub(super) struct RevocationLine {
    peer: String,
    operator: String,
    reason: String,
    session_hash: String,
    outcome: Outcome,
    /// Ranges, holds and waiters.
    counts: (usize, u64, u64),
    metrics: Arc<Metrics>,
}

impl RevocationLine {
    /// `session` is the handle in its usual digits.
    pub(super) fn new(
        peer: &impl fmt::Display,
        session: &str,
        revocation: &Revocation,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            peer: peer.to_string(),
            operator: revocation.operator().to_owned(),
            reason: revocation.reason().to_owned(),
            session_hash: hash(session),
            outcome: Outcome::Unknown,
            counts: (0, 0, 0),
            metrics,
        }
    }

    pub(super) fn answered(&mut self, answer: &Result<RevokeSessionResponse, Failure>) {
        self.outcome = match answer {
            Ok(done) => {
                let (holds, waiters) = (done.holds_count, done.waiters_count);
                self.counts = (done.positions.len(), holds, waiters);
                // Those that an answer has no room for may not have ended.
                let are_shown = done.holds.len() as u64 == holds;
                let is_ended = are_shown && done.holds.iter().all(|hold| hold.ended);
                Outcome::of(holds + waiters, is_ended)
            }
            Err(failure) => Outcome::of_failure(failure),
        };
    }
}

impl Drop for RevocationLine {
    fn drop(&mut self) {
        self.metrics.revoked(self.outcome);
        let (ranges, holds, waiters) = self.counts;
        tracing::info!(
            target: "audit",
            client = self.peer,
            operator = self.operator,
            reason = self.reason,
            session_hash = self.session_hash,
            ranges,
            holds,
            waiters,
            outcome = self.outcome.name(),
            "revoke"
        );
    }
}

/// As `xxh64sum` prints it, so that a name that is known can be looked for.
fn hash(text: &str) -> String {
    format!("{:016x}", XxHash64::oneshot(0, text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_what_xxh64sum_says() {
        assert_eq!(hash(""), "ef46db3751d8e999");
        assert_eq!(hash("abc"), "44bc2cf5ad770999");
    }

    #[test]
    fn an_outcome_says_whether_somebody_has_to_be_waited_for() {
        let outcome = |count, is_ended| Outcome::of(count, is_ended).name();
        assert_eq!(outcome(0, true), "nothing");
        assert_eq!(outcome(2, true), "ended");
        assert_eq!(outcome(2, false), "ending");
        let failed = |failure: Failure| Outcome::of_failure(&failure).name();
        assert_eq!(failed(Failure::no_leader()), "refused");
        assert_eq!(failed(Failure::new(Reason::Indeterminate, "no answer")), "unknown");
    }
}
