//! What other stores say, for an owner to whom it is no news that something of it is refused.

use sharklock_proto::internal::v1::{Heartbeats, RangeMessage, SnapshotMessage};

use super::Store;
use crate::state_machine::StateMachine;

impl<M: StateMachine> Store<M> {
    /// [Steps](Self::step) a message. One that is refused is dropped, as on a bad link.
    pub fn hear(&mut self, message: RangeMessage) {
        if let Err(dropped) = self.step(message) {
            tracing::debug!(%dropped, "raft message dropped");
        }
    }

    /// The same with [heartbeats](Self::step_heartbeats).
    pub fn hear_heartbeats(&mut self, heartbeats: Heartbeats) {
        for (range, dropped) in self.step_heartbeats(heartbeats) {
            tracing::debug!(%range, %dropped, "heartbeat dropped");
        }
    }

    /// The same with pieces of [snapshots](Self::step_snapshot).
    pub fn hear_snapshots(&mut self, messages: Vec<SnapshotMessage>) {
        for message in messages {
            let (range, from) = (message.range_id, message.from_store);
            if let Err(dropped) = self.step_snapshot(message) {
                tracing::info!(range, from, %dropped, "piece of a snapshot dropped");
            }
        }
    }
}
