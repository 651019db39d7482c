//! The one way from a gateway to a store, whatever carries it: a call into the same process, or a
//! stream.

use sharklock_proto::internal::v1::{StoreCall, store_call::Body};

/// A connection to a store. A batch goes down; replies and events come up in batches on the channel
/// that was given when it was made.
///
/// A reply may never come (the leader was lost, the store stopped): whoever calls has a deadline of
/// its own, and retries with the same names.
pub trait StoreLink: Send + Sync + 'static {
    /// Hands a batch to the store and never blocks. What did not fit comes back: an urgent batch
    /// may use the whole bound of the link, an ordinary one half of it (D16).
    fn send(&self, lane: Lane, calls: Vec<StoreCall>) -> Result<(), Vec<StoreCall>>;
}

/// Which calls must not wait behind which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Keepalives, releases, cancels: what keeps a promise or frees a lock.
    Urgent,
    /// Everything else.
    Ordinary,
}

impl Lane {
    /// The lane of a call.
    pub fn of(body: &Body) -> Self {
        match body {
            Body::KeepAlive(_) | Body::Release(_) | Body::Cancel(_) => Self::Urgent,
            Body::Acquire(_)
            | Body::CheckToken(_)
            | Body::GetLock(_)
            | Body::ListLocks(_)
            | Body::ForceRelease(_)
            | Body::Describe(_) => Self::Ordinary,
        }
    }
}
