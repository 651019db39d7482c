//! S4 as far as positions tell: answers never go back in a range's log.

use crate::check::holds::Held;
use crate::check::{Kind, Report};
use crate::record::{Mode, Record};

/// An answer to a call made after another answer had arrived is not older than that one.
pub(super) fn check_time(records: &[&Record], report: &mut Report) {
    let mut by_call: Vec<(u32, u64, usize)> = Vec::with_capacity(records.len());
    let mut by_answer: Vec<(u32, u64, usize)> = Vec::with_capacity(records.len());
    for (at, record) in records.iter().enumerate() {
        if record.position.applied_index != 0 {
            by_call.push((record.position.range, record.invoked, at));
            by_answer.push((record.position.range, record.returned, at));
        }
    }
    by_call.sort_unstable();
    by_answer.sort_unstable();
    let mut answers = by_answer.into_iter().peekable();
    // Of all answers of the range that had arrived, the one with the largest index.
    let mut newest: Option<&Record> = None;
    for (range, invoked, at) in by_call {
        if newest.is_some_and(|record| record.position.range != range) {
            newest = None;
        }
        while let Some((_, _, answered)) = answers.next_if(|(r, t, _)| (*r, *t) < (range, invoked))
        {
            let answered = records[answered];
            let newer =
                |newest: &Record| newest.position.applied_index < answered.position.applied_index;
            if answered.position.range == range && newest.is_none_or(newer) {
                newest = Some(answered);
            }
        }
        let record = records[at];
        if let Some(before) = newest
            && record.position.applied_index < before.position.applied_index
        {
            report.violation(Kind::PositionBackwards, record.lock, || {
                format!(
                    "range {range} answered index {} at {}, and a call made at {invoked} got the \
                     older {}",
                    before.position.applied_index, before.returned, record.position.applied_index
                )
            });
        }
    }
}

/// A range hands its tokens out in order, whatever the lock.
pub(super) fn check_range_tokens(held: &[Held], report: &mut Report) {
    let mut by_token: Vec<(u32, u64, usize)> = held
        .iter()
        .enumerate()
        .filter(|(_, hold)| hold.range != 0)
        .map(|(at, hold)| (hold.range, hold.token, at))
        .collect();
    by_token.sort_unstable();
    for range in by_token.chunk_by(|a, b| a.0 == b.0) {
        let mut latest: Option<&Held> = None;
        let mut before: Option<&Held> = None;
        for (_, token, at) in range {
            let hold = &held[*at];
            if before.is_some_and(|before| before.token == *token && before.lock != hold.lock) {
                report.violation(Kind::DuplicateToken, hold.lock, || {
                    format!("token {token} of range {} was granted for two locks", hold.range)
                });
            }
            if let Some(smaller) = latest
                && smaller.lock != hold.lock
                && hold.returned < smaller.invoked
            {
                report.violation(Kind::TokenBackwards, hold.lock, || {
                    format!(
                        "range {} answered token {token} at {}, and the smaller {} was only asked \
                         for at {}",
                        hold.range, hold.returned, smaller.token, smaller.invoked
                    )
                });
            }
            if latest.is_none_or(|smaller| smaller.invoked < hold.invoked) {
                latest = Some(hold);
            }
            before = Some(hold);
        }
    }
}

/// An exclusive grant comes after the end of every earlier hold of its lock, so after every index
/// at which one was answered to be live; and any grant so after every exclusive one.
pub(super) fn check_lock_indices(held: &[Held], report: &mut Report) {
    for lock in held.chunk_by(|a, b| (a.lock, a.range) == (b.lock, b.range)) {
        let (mut any, mut exclusive) = (0, 0);
        for hold in lock.iter().filter(|hold| hold.applied_index != 0) {
            let not_before = if hold.mode == Mode::Exclusive { any } else { exclusive };
            if hold.applied_index < not_before {
                report.violation(Kind::PositionBackwards, hold.lock, || {
                    format!(
                        "token {} was granted at index {}, and a smaller token was still held at \
                         index {not_before}",
                        hold.token, hold.applied_index
                    )
                });
            }
            any = any.max(hold.applied_index);
            if hold.mode == Mode::Exclusive {
                exclusive = exclusive.max(hold.applied_index);
            }
        }
    }
}
