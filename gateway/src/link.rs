//! The one way from a gateway to its stores, whatever carries it: a call into the same process, or
//! streams.

use sharklock_proto::{Lane, internal::v1::StoreCall};
use sharklock_rangemap::StoreId;

/// A gateway's connections to its stores. Batches go down; replies and events come up in batches,
/// to [`Hub::dispatch`](crate::Hub::dispatch).
///
/// A reply may never come (the leader was lost, the store stopped): whoever calls has a deadline of
/// its own, and retries with the same names.
pub trait StoreLinks: Send + Sync + 'static {
    /// Hands a batch to a store and never blocks. Calls that did not fit come back: an urgent batch
    /// may use the whole bound of the link, an ordinary one half of it (D16).
    ///
    /// A link that is lost gives everything back from before the hub is told of the loss until the
    /// next connection stands, of which the hub is told before anything that comes from there: what
    /// is taken is answered, or fails with the link.
    fn send(&self, store: StoreId, lane: Lane, calls: Vec<StoreCall>)
    -> Result<(), Vec<StoreCall>>;
}

/// The connection to one store: what an edge makes its [`StoreLinks`] of.
pub trait StoreLink: Send + Sync + 'static {
    /// As [`StoreLinks::send`].
    fn send(&self, lane: Lane, calls: Vec<StoreCall>) -> Result<(), Vec<StoreCall>>;
}

/// Calls of one lane, sorted by store in order of first use.
#[derive(Debug, Default)]
pub(crate) struct ByStore(Vec<(StoreId, Vec<StoreCall>)>);

impl ByStore {
    pub(crate) fn push(&mut self, store: StoreId, call: StoreCall) {
        // Most batches go to one store, and no gateway has many.
        match self.0.iter_mut().rev().find(|(to, _)| *to == store) {
            Some((_, calls)) => calls.push(call),
            None => self.0.push((store, vec![call])),
        }
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (StoreId, &mut Vec<StoreCall>)> {
        self.0.iter_mut().map(|(store, calls)| (*store, calls))
    }

    pub(crate) fn into_batches(self) -> impl Iterator<Item = (StoreId, Vec<StoreCall>)> {
        self.0.into_iter().filter(|(_, calls)| !calls.is_empty())
    }
}
