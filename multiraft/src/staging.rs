//! Group commit: the next batch of a store, filled by all its ranges, and the one in flight.
//!
//! At most one batch is in flight. What the ranges produce meanwhile waits here, so the time of a
//! sync is the batching window. What waits is bounded by what Raft lets a range have uncommitted.

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

/// What the disk's completion of a batch means.
#[derive(Debug, Default)]
pub(crate) struct Completion {
    pub saved: Vec<Saved>,
    /// Images that are durable now: of this batch and of unsynced ones before it.
    pub flushed: Vec<Flushed>,
}

/// Invariants:
/// - batches are handed out in order of `seq`, each after the completion of the one before;
/// - a batch that holds entries, a term, a vote or a new replica is synced.
#[derive(Debug, Default)]
pub(crate) struct Staging {
    ops: Vec<WriteOp>,
    sync: bool,
    saved: Vec<Saved>,
    flushed: Vec<Flushed>,
    in_flight: Option<(BatchSeq, bool, Completion)>,
    /// Flushes on the disk that no sync has followed yet.
    unsynced: Vec<Flushed>,
    last_seq: u64,
}

impl Staging {
    /// Adds a change. It needs no sync of its own.
    pub(crate) fn put(&mut self, op: WriteOp) {
        self.ops.push(op);
    }

    /// Adds changes that must be durable once the batch is reported.
    pub(crate) fn put_durably(&mut self, ops: impl IntoIterator<Item = WriteOp>) {
        self.sync = true;
        self.ops.extend(ops);
    }

    /// The changes of this `Ready` are in the batch, and must be durable before Raft goes on.
    pub(crate) fn save(&mut self, saved: Saved) {
        self.sync = true;
        match self.saved.last_mut() {
            Some(last) if last.range == saved.range => *last = saved,
            _ => self.saved.push(saved),
        }
    }

    /// The batch carries this image.
    pub(crate) fn flush(&mut self, flushed: Flushed) {
        self.flushed.push(flushed);
    }

    /// Whether a batch is with the disk.
    pub(crate) fn in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    /// The batch, if there is one and the disk is free.
    pub(crate) fn cut(&mut self) -> Option<Batch> {
        if self.in_flight() || self.ops.is_empty() {
            return None;
        }
        self.last_seq += 1;
        let seq = BatchSeq(self.last_seq);
        let sync = std::mem::take(&mut self.sync);
        let completion = Completion {
            saved: std::mem::take(&mut self.saved),
            flushed: std::mem::take(&mut self.flushed),
        };
        self.in_flight = Some((seq, sync, completion));
        Some(Batch { seq, ops: std::mem::take(&mut self.ops), sync })
    }

    /// The disk has batch `seq`.
    pub(crate) fn complete(&mut self, seq: BatchSeq) -> Completion {
        let (expected, sync, mut completion) =
            self.in_flight.take().expect("a completion follows a batch");
        assert_eq!(seq, expected, "completions come in the order of the batches");
        self.unsynced.append(&mut completion.flushed);
        if sync {
            completion.flushed = std::mem::take(&mut self.unsynced);
        }
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

    fn flushed(applied: u64) -> Flushed {
        Flushed { range: RangeId(1), incarnation: Incarnation(1), applied }
    }

    fn saved(number: u64) -> Saved {
        Saved { range: RangeId(1), incarnation: Incarnation(1), number }
    }

    fn applied(completion: &Completion) -> Vec<u64> {
        completion.flushed.iter().map(|flushed| flushed.applied).collect()
    }

    #[test]
    fn an_image_is_durable_with_the_next_sync() {
        let mut staging = Staging::default();
        for image in [10, 20] {
            staging.put(op());
            staging.flush(flushed(image));
            let batch = staging.cut().expect("there is something to write");
            assert!(!batch.sync);
            assert!(staging.complete(batch.seq).flushed.is_empty());
        }
        staging.put(op());
        staging.save(saved(1));
        let batch = staging.cut().expect("there is something to write");
        assert!(batch.sync);
        assert_eq!(applied(&staging.complete(batch.seq)), [10, 20]);
    }

    #[test]
    fn one_batch_is_in_flight_and_the_rest_gathers() {
        let mut staging = Staging::default();
        assert_eq!(staging.cut(), None, "nothing to write");
        staging.put(op());
        staging.save(saved(1));
        let first = staging.cut().expect("there is something to write");
        staging.put(op());
        staging.save(saved(2));
        staging.put(op());
        staging.save(saved(3));
        assert_eq!(staging.cut(), None, "the disk is busy");
        staging.complete(first.seq);
        let second = staging.cut().expect("the disk is free");
        assert_eq!((second.ops.len(), second.seq), (2, BatchSeq(first.seq.0 + 1)));
        let completion = staging.complete(second.seq);
        assert_eq!(completion.saved.iter().map(|it| it.number).collect::<Vec<_>>(), [3]);
    }
}
