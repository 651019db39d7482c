//! The tombstone: all that is left of a replica that is not here any more.

use sharklock_proto::internal::v1 as proto;
use sharklock_rangemap::{PeerId, RangeId};

use crate::disk::{Family, WriteOp};
use crate::keys::{self, Key};
use crate::records;

/// Deletes all that the disk has of a replica and leaves the tombstone, in one batch.
pub(crate) fn records(range: RangeId, peer: PeerId) -> Vec<WriteOp> {
    let (rows, end_of_rows) = keys::rows_span(range);
    let (log, end_of_log) = keys::log_span(range, 0, u64::MAX);
    let mut ops = vec![
        WriteOp::DeleteRange(Family::State, rows, end_of_rows),
        WriteOp::DeleteRange(Family::Raft, log, end_of_log),
    ];
    let of_meta =
        [Key::HardState(range), Key::Truncated(range), Key::Header(range), Key::Lost(range)];
    ops.extend(of_meta.map(|key| WriteOp::Delete(key.family(), key.encode())));
    ops.push(tombstone(range, peer));
    ops
}

/// The tombstone alone, of a replica that never was here.
pub(crate) fn tombstone(range: RangeId, peer: PeerId) -> WriteOp {
    records::put(Key::Tombstone(range), &proto::TombstoneRecord { peer_id: peer.0 })
}
