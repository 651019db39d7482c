//! From the streams of other stores to the porter.

use std::sync::Arc;

use sharklock_proto::internal::v1::{Heartbeats, RangeMessage, SnapshotMessage};
use sharklock_rangemap::StoreId;
use sharklock_transport::PeerInbox;

use crate::{edge::porter::Porter, ports::Input};

/// See the module.
pub struct Inbox(pub Arc<Porter>);

impl PeerInbox for Inbox {
    fn messages(&self, messages: Vec<RangeMessage>) {
        let inputs = messages.into_iter().map(|message| Input::Message(Box::new(message)));
        self.0.raft(inputs.collect());
    }

    fn heartbeats(&self, heartbeats: Vec<Heartbeats>) {
        let inputs = heartbeats.into_iter().map(|beats| Input::Heartbeats(Box::new(beats)));
        self.0.raft(inputs.collect());
    }

    fn snapshots(&self, snapshots: Vec<SnapshotMessage>) {
        self.0.raft(vec![Input::Snapshots(snapshots)]);
    }

    fn unreachable(&self, store: u64) {
        self.0.tell(Input::Unreachable(StoreId(store)));
    }
}
