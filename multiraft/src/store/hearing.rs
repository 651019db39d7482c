//! What other stores say, for an owner to whom it is no news that something of it is refused.

use sharklock_proto::internal::v1::{Heartbeats, RangeMessage, SnapshotMessage};

use super::Store;
use crate::state_machine::StateMachine;

impl<M: StateMachine> Store<M> {
    /// [Steps](Self::step) a message. One that is refused is dropped, as on a bad link.
    pub fn hear(&mut self, message: RangeMessage) {
        if let Err(dropped) = self.step(message) {
            tracing::debug!(why = %dropped, "a Raft message is dropped");
        }
    }

    /// The same with [heartbeats](Self::step_heartbeats).
    pub fn hear_heartbeats(&mut self, heartbeats: Heartbeats) {
        for (range, dropped) in self.step_heartbeats(heartbeats) {
            tracing::debug!(%range, why = %dropped, "a heartbeat is dropped");
        }
    }

    /// The same with pieces of [snapshots](Self::step_snapshot).
    pub fn hear_snapshots(&mut self, messages: Vec<SnapshotMessage>) {
        for message in messages {
            let (range, store) = (message.range_id, message.from_store);
            if let Err(dropped) = self.step_snapshot(message) {
                tracing::info!(%range, %store, why = %dropped, "a piece of a snapshot is dropped");
            }
        }
    }
}
