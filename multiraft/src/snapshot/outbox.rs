//! Pieces of snapshots, and answers to them, that wait to be sent.

use bytes::Bytes;
use sharklock_proto::internal::v1::{SnapshotMessage, snapshot_message::Body};

use super::wire::Ends;

/// Pieces and answers of one turn. It is emptied with each turn.
#[derive(Debug)]
pub(super) struct Outbox {
    cluster_id: Bytes,
    waiting: Vec<SnapshotMessage>,
}

impl Outbox {
    pub(super) fn new(cluster_id: Bytes) -> Self {
        Self { cluster_id, waiting: Vec::new() }
    }

    pub(super) fn post(&mut self, ends: Ends, transfer: u64, body: Body) {
        self.waiting.push(ends.message(&self.cluster_id, transfer, body));
    }

    pub(super) fn hand_out(&mut self, messages: &mut Vec<SnapshotMessage>) {
        messages.append(&mut self.waiting);
    }
}
