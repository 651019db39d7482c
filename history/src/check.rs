//! Judging a history: is there any order of the calls, each placed between its sending and its
//! answer, that keeps the promises?
//!
//! The grants' tokens fix that order, so no search is needed: each judge is a sort and a sweep,
//! O(n log n), and exact for what it judges. The letters S1–S8 are those of the design's list of
//! invariants.

mod holds;
mod once;
mod positions;
mod queue;

use std::fmt;

use crate::record::{End, LockId, Record, What};

/// How many violations a report tells in words; the rest is only counted.
pub(crate) const VIOLATIONS_TOLD_MAX: usize = 1_000;

/// Judges the records, which may be in any order.
pub fn check(records: &[Record]) -> Report {
    let mut report = Report { counts: count(records), ..Report::default() };
    let sound = sound(records, &mut report);
    let held = holds::held(&sound, &mut report);
    holds::check_token_order(&held, &mut report);
    holds::check_overlap(&held, &mut report);
    holds::check_permits(&held, &mut report);
    holds::check_fence_floors(&held, &mut report);
    holds::check_lost(&sound, &mut report);
    holds::check_looks(&sound, &held, &mut report);
    let by_acquisition = once::by_acquisition(&sound);
    once::check(&by_acquisition, &mut report);
    queue::check(&by_acquisition, &mut report);
    positions::check_time(&sound, &mut report);
    positions::check_range_tokens(&held, &mut report);
    positions::check_lock_indices(&held, &mut report);
    report
}

/// The findings of the judges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The first thousand violations, in words.
    pub violations: Vec<Violation>,
    /// How many there are in all. One fault of the service may break several rules.
    pub violations_count: u64,
    /// The size of the history: a clean report on nothing proves nothing.
    pub counts: Counts,
}

impl Report {
    /// Whether nothing was found.
    pub fn is_clean(&self) -> bool {
        self.violations_count == 0
    }

    /// Whether a violation of this kind was found (among those told in words).
    pub fn found(&self, kind: Kind) -> bool {
        self.violations.iter().any(|violation| violation.kind == kind)
    }

    fn violation(&mut self, kind: Kind, lock: LockId, message: impl FnOnce() -> String) {
        self.violations_count += 1;
        if self.violations.len() < VIOLATIONS_TOLD_MAX {
            self.violations.push(Violation { kind, lock, message: message() });
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} violations; {}", self.violations_count, self.counts)?;
        self.violations.iter().try_for_each(|violation| writeln!(f, "  {violation}"))
    }
}

/// One broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub kind: Kind,
    /// Of which lock.
    pub lock: LockId,
    /// The evidence: tokens and times.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, lock #{}: {}", self.kind, self.lock.0, self.message)
    }
}

/// The promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// S1: two held at once what only one may hold, or more permits than there are.
    Overlap,
    /// S3: one token, two grants.
    DuplicateToken,
    /// S3: a grant that began after another had been answered has the smaller token.
    TokenBackwards,
    /// A shared or permit grant's floor does not fence off every earlier exclusive grant.
    FenceFloor,
    /// S5: the lock was passed on before the time that its holder had been told.
    EarlyExpiry,
    /// S6: a holder was told that its hold is gone, before the time it had been told and without
    /// its own or an operator's doing.
    LostGrant,
    /// S6: a hold was shown as live after its release had been acknowledged.
    ReleaseUndone,
    /// S4: an answer that was wrong at every moment between its call and its arrival.
    StaleAnswer,
    /// S8: one acquisition, two effects.
    DoubleEffect,
    /// S7: somebody was granted before one who was known to queue ahead.
    Overtaken,
    /// S4: an answer's position is older than that of an answer that had arrived before the call.
    PositionBackwards,
    /// The record itself cannot be: the fault is the recorder's.
    Malformed,
}

/// How many of what a history holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records of any kind.
    pub records: u64,
    /// Grants, re-entries included.
    pub granted: u64,
    /// Grants that joined a live hold.
    pub reentered: u64,
    /// Holds released and acknowledged.
    pub released: u64,
    /// Answers that told a place in a queue.
    pub queued: u64,
    /// Tries refused.
    pub refused: u64,
    /// Waits that ended without a grant.
    pub timed_out: u64,
    /// Calls without a known outcome.
    pub unknown: u64,
    /// Looks at a token.
    pub looked: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { records, granted, reentered, released, queued, refused, timed_out, .. } = self;
        write!(
            f,
            "{records} records: {granted} grants ({reentered} re-entries), {released} releases, \
             {queued} queued, {refused} refused, {timed_out} timed out, {} unknown, {} looks",
            self.unknown, self.looked
        )
    }
}

fn count(records: &[Record]) -> Counts {
    let mut counts = Counts { records: records.len() as u64, ..Counts::default() };
    for record in records {
        match record.what {
            What::Granted(hold) => {
                counts.granted += 1;
                counts.reentered += u64::from(hold.reentered);
                counts.released += u64::from(hold.end == End::Released);
            }
            What::Queued { .. } => counts.queued += 1,
            What::Refused { .. } => counts.refused += 1,
            What::TimedOut { .. } => counts.timed_out += 1,
            What::Unknown { .. } => counts.unknown += 1,
            What::Looked { .. } => counts.looked += 1,
        }
    }
    counts
}

/// The records that can be; the others are reported and judged no further.
fn sound<'a>(records: &'a [Record], report: &mut Report) -> Vec<&'a Record> {
    let mut sound = Vec::with_capacity(records.len());
    for record in records {
        match malformed(record) {
            None => sound.push(record),
            Some(why) => report.violation(Kind::Malformed, record.lock, || {
                format!("{why} in the record {record:?}")
            }),
        }
    }
    sound
}

fn malformed(record: &Record) -> Option<&'static str> {
    if record.invoked > record.returned {
        return Some("the answer comes before the call");
    }
    let What::Granted(hold) = record.what else { return None };
    let acknowledged = !matches!(hold.end, End::Open | End::ReleaseUnknown);
    if hold.token == 0 {
        return Some("the token is 0, which means none");
    }
    if hold.end != End::Open && hold.end_invoked < record.invoked {
        return Some("the end comes before the call");
    }
    if acknowledged && hold.end_returned < hold.end_invoked {
        return Some("the answer to the end comes before its call");
    }
    None
}

#[cfg(test)]
mod tests;
