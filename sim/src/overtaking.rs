//! Which calls overtook which on their way to a leader: for the swarm's report. A swarm in which
//! nothing overtakes anything proves little.

use std::collections::BTreeSet;

use sharklock_proto::internal::v1::{StoreCall, store_call::Body};

/// An acquisition: instance and id.
type Key = (u64, u64);

/// Calls in the order in which leaders took them.
#[derive(Debug, Default)]
pub struct Overtaking {
    acquired: BTreeSet<Key>,
    /// Closed before any Acquire of it had come.
    closed_first: BTreeSet<Key>,
}

impl Overtaking {
    /// A leader takes a call. Says what it overtook, if that is known by now.
    pub fn taken(&mut self, call: &StoreCall) -> Option<&'static str> {
        match call.body.as_ref()? {
            Body::Acquire(acquire) => {
                let key = (call.instance, acquire.acquisition_id);
                self.acquired.insert(key);
                self.closed_first.remove(&key).then_some("cancels that overtook their acquire")
            }
            Body::Cancel(cancel) => {
                let key = (call.instance, cancel.acquisition_id);
                if !self.acquired.contains(&key) {
                    self.closed_first.insert(key);
                }
                None
            }
            _ => None,
        }
    }
}
