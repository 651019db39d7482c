//! The image of a range: the machine's rows and a header on the disk, written behind (D4); and
//! the truncation of the log, which follows it.

use raft::StateRole;
use sharklock_proto::internal::v1 as proto;

use super::Replica;
use crate::disk::{Family, WriteOp};
use crate::keys::{self, Key};
use crate::log::{Log, LogLimits};
use crate::records;
use crate::snapshot::Reserve;
use crate::staging::{Flushed, Staging};
use crate::state_machine::StateMachine;

/// A flush encodes its rows within a turn, some 2 µs each: beyond so many it does not wait for the
/// owner.
const FLUSH_ROWS_MAX: usize = 16_384;

impl<M: StateMachine> Replica<M> {
    /// Whether the image lacks something that is applied. While a snapshot is on its way to the
    /// disk it does not: the old state must not follow the new one. Nor while a split is in no batch.
    pub(crate) fn needs_flush(&self) -> bool {
        let may = !self.install.is_writing() && !self.is_dividing;
        may && self.flush_staged < self.applied().index
    }

    /// Whether so much has changed that the range flushes itself: a turn would take long; or the log
    /// is so long that the owner's flushes must have ceased, and memory would grow without end.
    pub(crate) fn is_flush_overdue(&self, limits: &LogLimits, reserve: Option<Reserve>) -> bool {
        if self.machine().dirty_len() >= FLUSH_ROWS_MAX {
            return true;
        }
        let log = self.log();
        let limits = reserve.map_or(*limits, |reserve| reserve.extend(limits));
        log.len() > limits.entries_max || log.bytes() > limits.bytes_max
    }

    /// Puts the image of everything applied so far into the batch: rows and header together, cut
    /// between two entries. Never term or vote: those travel with their `Ready`, and a flush queued
    /// behind a newer vote would take it back. `reserve` is what the log is kept for beyond its maxima.
    pub(crate) fn stage_image(
        &mut self,
        limits: &LogLimits,
        reserve: Option<Reserve>,
        staging: &mut Staging,
    ) {
        let (range, applied) = (self.range(), self.applied().index);
        staging.put_all(self.state.dirty_rows());
        staging.put(records::put(Key::Header(range), &self.state.header()));
        staging.flush(Flushed { range, incarnation: self.incarnation(), applied });
        self.flush_staged = applied;
        truncate(self, limits, reserve, staging);
    }

    /// The image up to here is durable.
    pub(crate) fn flushed_to(&mut self, applied: u64) {
        // One that was on its way when a snapshot was installed is older than that.
        self.flushed = self.flushed.max(applied);
        self.has_image = true;
    }
}

/// Cuts the log behind an earlier image, one that is durable by now.
fn truncate<M: StateMachine>(
    replica: &mut Replica<M>,
    limits: &LogLimits,
    reserve: Option<Reserve>,
    staging: &mut Staging,
) {
    let held = held_by_all(replica).min(reserve.map_or(u64::MAX, |reserve| reserve.from));
    let Some(index) = cut(replica.log(), limits, replica.flushed, held, reserve) else { return };
    let range = replica.range();
    let first = replica.log().first();
    let term = replica.log().term_at(index).expect("the cut lies inside the log");
    let record = proto::TruncatedRecord { index, term };
    staging.put(records::put(Key::Truncated(range), &record));
    let (start, end) = keys::log_span(range, first, index + 1);
    staging.put(WriteOp::DeleteRange(Family::Raft, start, end));
    replica.raw.raft.mut_store().truncate(index);
}

/// Up to where every replica has the log, as far as this one knows. A follower knows nothing of
/// the others. A replica that is away counts, as long as the log has what it needs next: then it
/// catches up by a few entries. Once that is gone it needs a snapshot, and the log of its leader
/// is kept for nobody until that is on its way.
fn held_by_all<M: StateMachine>(replica: &Replica<M>) -> u64 {
    let raft = &replica.raw.raft;
    let first = replica.log().first();
    match raft.state {
        StateRole::Leader => {
            let matched = raft.prs().iter().map(|(_, peer)| peer.matched);
            matched.filter(|matched| matched + 1 >= first).min().unwrap_or(0)
        }
        _ => 0,
    }
}

/// Up to and including which index to cut the log, if at all: never behind the durable image.
/// What all replicas have is cut in steps of a floor, so that a flush seldom carries a deletion,
/// and down to the floor. Over a maximum the log is cut back to three quarters of it, whoever still
/// needs it: were it cut back to the maximum only, each entry would be over it again, and flush the
/// range. For what is kept for others, the maxima are higher.
fn cut(
    log: &Log,
    limits: &LogLimits,
    flushed: u64,
    held_by_all: u64,
    reserve: Option<Reserve>,
) -> Option<u64> {
    let above_floor = log.last().saturating_sub(limits.entries_floor);
    let spare = held_by_all.min(flushed).min(above_floor);
    let mut index = log.first() - 1;
    if spare >= log.first() + limits.entries_floor {
        index = spare;
    }
    let mut bytes = log.bytes();
    let (mut next, mut len) = (log.first(), log.len());
    let (mut goal, three_quarters) = (*limits, limits.three_quarters());
    while next <= flushed {
        let reserve = reserve.filter(|reserve| reserve.from < next);
        let limits = reserve.map_or(goal, |reserve| reserve.extend(limits));
        if len <= limits.entries_max && bytes <= limits.bytes_max {
            break;
        }
        goal = three_quarters;
        bytes -= log.size_at(next);
        len -= 1;
        index = index.max(next);
        next += 1;
    }
    (index >= log.first()).then_some(index)
}
