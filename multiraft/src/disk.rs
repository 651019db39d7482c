//! The interface of a disk, as the engine needs it. Two implementations: RocksDB, and a simulated
//! disk that loses what was not synced.

use std::fmt;

/// A key space of the disk (D3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// Raft log entries.
    Raft,
    /// Images of the state machines.
    State,
    /// Descriptors, hard states, flush headers, truncation, tombstones, store ident.
    Meta,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOp {
    /// Writes a value.
    Put(Family, Vec<u8>, Vec<u8>),
    /// Removes a key.
    Delete(Family, Vec<u8>),
    /// Removes the keys `start <= key < end`.
    DeleteRange(Family, Vec<u8>, Vec<u8>),
}

/// Names a batch of one store, or one share of it; increasing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BatchSeq(pub u64);

/// Changes that become durable together or not at all. Batches are written in order, and each is
/// synced before the next is written: whatever stands in front of another batch has been synced, and
/// so a crash tears no batch but the last (`rocks_log.rs` builds on it). Batches of several shares of
/// a store may be written and synced as one: they touch no record in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Its name.
    pub seq: BatchSeq,
    /// Its changes, in order.
    pub ops: Vec<WriteOp>,
}

/// A disk fault. Never retried: after a failed sync nobody knows what is on the disk, so the
/// process must end (D3).
#[derive(Debug)]
pub struct DiskError(pub String);

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for DiskError {}

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// The contents of a disk at one moment, between two batches: read in another thread perhaps, while
/// its owner goes on writing.
pub trait DiskView {
    /// The value of a key.
    fn read(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError>;
    /// Shows the pairs with `start <= key < end` one by one, in key order.
    fn visit(
        &self,
        family: Family,
        start: &[u8],
        end: &[u8],
        see: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<(), DiskError>;
}

/// See [`Disk::walk`].
pub type Walk<'a> = Box<dyn Iterator<Item = Result<Pair, DiskError>> + 'a>;

/// An ordered, transactional key-value disk.
pub trait Disk {
    /// Writes the changes of a batch, all or none. With `sync` it returns once they and all
    /// earlier batches are durable.
    fn write(&mut self, ops: &[WriteOp], sync: bool) -> Result<(), DiskError>;
    /// The value of a key.
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError>;
    /// The pairs with `start <= key < end`, in key order.
    fn scan(&self, family: Family, start: &[u8], end: &[u8]) -> Result<Vec<Pair>, DiskError>;
    /// The same one by one, for what should not be in memory twice.
    fn walk(&self, family: Family, start: &[u8], end: &[u8]) -> Result<Walk<'_>, DiskError> {
        Ok(Box::new(self.scan(family, start, end)?.into_iter().map(Ok)))
    }
}
