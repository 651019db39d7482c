//! The links that stand at the moment, for the core to send by.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use sharklock_proto::internal::v1::StoreCall;

use crate::{Lane, StoreId, StoreLink, StoreLinks};

/// The links to all stores that are connected.
#[derive(Default)]
pub(super) struct Links(RwLock<BTreeMap<StoreId, Arc<dyn StoreLink>>>);

impl Links {
    /// From now on, calls to the store go this way.
    pub(super) fn insert(&self, store: StoreId, link: Arc<dyn StoreLink>) {
        // A panic cannot leave the map half changed.
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(store, link);
    }

    /// From now on, calls to the store come back.
    pub(super) fn remove(&self, store: StoreId) {
        let removed = self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&store);
        // Dropped under no lock: a link may have something to close.
        drop(removed);
    }
}

impl StoreLinks for Links {
    fn send(
        &self,
        store: StoreId,
        lane: Lane,
        calls: Vec<StoreCall>,
    ) -> Result<(), Vec<StoreCall>> {
        match self.0.read().unwrap_or_else(PoisonError::into_inner).get(&store) {
            Some(link) => link.send(lane, calls),
            None => Err(calls),
        }
    }
}
