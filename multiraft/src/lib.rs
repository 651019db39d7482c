//! Many Raft groups on one store: a sans-IO core around raft-rs, and thin drivers beside it.

mod disk;
mod state_machine;

pub use disk::{Batch, BatchSeq, Disk, DiskError, Family, Pair, WriteOp};
pub use state_machine::{CorruptImage, DirtyRow, EntryAt, StateMachine};
