//! Group commit: the next batch of a store, filled by all its ranges, and the one in flight.
//!
//! At most one batch is in flight. Everything that the ranges produce meanwhile waits here, so the
//! time of a sync is the batching window. The bound of that is what Raft lets a range have
//! uncommitted.

use sharklock_rangemap::RangeId;

use crate::disk::{Batch, BatchSeq, WriteOp};

/// One life of a replica in this process. A completion for an earlier life must never reach a
/// later one, even of the same range and peer: it would take the other's entries for durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Incarnation(pub u64);

/// A `Ready` that becomes durable with a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Saved {
    pub range: RangeId,
    pub incarnation: Incarnation,
    /// The `Ready`'s number; all before it are durable too.
    pub number: u64,
}

/// An image that a batch brings up to `applied`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flushed {
    pub range: RangeId,
    pub incarnation: Incarnation,
    pub applied: u64,
}

/// The meaning of a batch's completion.
#[derive(Debug, Default)]
pub(crate) struct Completion {
    pub saved: Vec<Saved>,
    /// Images that are durable now.
    pub flushed: Vec<Flushed>,
    /// Ranges of which the first records are.
    pub born: Vec<RangeId>,
}

/// Invariants:
/// - batches are handed out in order of `seq`, each after the one before is durable.
#[derive(Debug, Default)]
pub(crate) struct Staging {
    ops: Vec<WriteOp>,
    saved: Vec<Saved>,
    flushed: Vec<Flushed>,
    born: Vec<RangeId>,
    in_flight: Option<(BatchSeq, Completion)>,
    last_seq: u64,
}

impl Staging {
    /// Adds a change.
    pub(crate) fn put(&mut self, op: WriteOp) {
        self.ops.push(op);
    }

    /// As [`Self::put`], many.
    pub(crate) fn put_all(&mut self, ops: Vec<WriteOp>) {
        match self.ops.is_empty() {
            true => self.ops = ops,
            false => self.ops.extend(ops),
        }
    }

    /// The changes of this `Ready` are in the batch, and must be durable before Raft goes on.
    pub(crate) fn save(&mut self, saved: Saved) {
        match self.saved.last_mut() {
            Some(last) if last.range == saved.range => *last = saved,
            _ => self.saved.push(saved),
        }
    }

    /// The batch carries this image.
    pub(crate) fn flush(&mut self, flushed: Flushed) {
        self.flushed.push(flushed);
    }

    /// The batch carries the first records of a replica of this range.
    pub(crate) fn bear(&mut self, range: RangeId) {
        self.born.push(range);
    }

    /// Whether the next batch has something to write.
    pub(crate) fn has_changes(&self) -> bool {
        !self.ops.is_empty()
    }

    /// Whether a batch is with the disk.
    pub(crate) fn in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    /// The batch with which everything is durable that has been put so far.
    pub(crate) fn staged(&self) -> BatchSeq {
        BatchSeq(self.last_seq + u64::from(self.has_changes()))
    }

    /// The last batch that is durable.
    pub(crate) fn durable(&self) -> BatchSeq {
        BatchSeq(self.last_seq - u64::from(self.in_flight()))
    }

    /// The batch, if there is one and the disk is free.
    pub(crate) fn cut(&mut self) -> Option<Batch> {
        if self.in_flight() || !self.has_changes() {
            return None;
        }
        self.last_seq += 1;
        let seq = BatchSeq(self.last_seq);
        let completion = Completion {
            saved: std::mem::take(&mut self.saved),
            flushed: std::mem::take(&mut self.flushed),
            born: std::mem::take(&mut self.born),
        };
        self.in_flight = Some((seq, completion));
        Some(Batch { seq, ops: std::mem::take(&mut self.ops) })
    }

    /// Batch `seq` is durable.
    pub(crate) fn complete(&mut self, seq: BatchSeq) -> Completion {
        let (expected, completion) = self.in_flight.take().expect("a completion follows a batch");
        assert_eq!(seq, expected, "completions come in the order of the batches");
        completion
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Family;

    fn op() -> WriteOp {
        WriteOp::Delete(Family::Meta, Vec::new())
    }

    fn saved(number: u64) -> Saved {
        Saved { range: RangeId(1), incarnation: Incarnation(1), number }
    }

    #[test]
    fn one_batch_is_in_flight_and_the_rest_gathers() {
        let mut staging = Staging::default();
        assert_eq!(staging.cut(), None, "nothing to write");
        assert_eq!((staging.staged(), staging.durable()), (BatchSeq(0), BatchSeq(0)));
        staging.put(op());
        staging.save(saved(1));
        assert_eq!((staging.staged(), staging.durable()), (BatchSeq(1), BatchSeq(0)));
        let first = staging.cut().expect("there is something to write");
        assert_eq!((staging.staged(), staging.durable()), (BatchSeq(1), BatchSeq(0)));
        staging.put(op());
        staging.save(saved(2));
        staging.put(op());
        staging.save(saved(3));
        assert_eq!(staging.cut(), None, "the disk is busy");
        assert_eq!((staging.staged(), staging.durable()), (BatchSeq(2), BatchSeq(0)));
        staging.complete(first.seq);
        assert_eq!((staging.staged(), staging.durable()), (BatchSeq(2), BatchSeq(1)));
        let second = staging.cut().expect("the disk is free");
        assert_eq!((second.ops.len(), second.seq), (2, BatchSeq(first.seq.0 + 1)));
        let completion = staging.complete(second.seq);
        assert_eq!(completion.saved.iter().map(|it| it.number).collect::<Vec<_>>(), [3]);
    }
}
