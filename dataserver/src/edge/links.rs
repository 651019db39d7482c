//! The gateways that are connected to this store, and where their replies go.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use sharklock_proto::{
    Lane,
    internal::v1::{StoreCall, StoreReply},
};
use tokio::sync::mpsc;

use crate::{edge::porter::Porter, front::LinkId};

/// Batches of replies that may wait for a gateway. A gateway that does not read loses replies, as
/// over a broken connection: its clients ask again.
const REPLY_BATCHES_MAX: usize = 4_096;

/// Every connected gateway.
#[derive(Debug, Default)]
pub struct Links {
    next: AtomicU64,
    senders: Mutex<BTreeMap<LinkId, mpsc::Sender<Vec<StoreReply>>>>,
}

/// The fate of a batch of replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// On its way.
    Ok,
    /// Dropped: the gateway does not read.
    Full,
    /// Dropped: the gateway is gone.
    Gone,
}

impl Links {
    fn connect(&self) -> (LinkId, mpsc::Receiver<Vec<StoreReply>>) {
        let link = LinkId(self.next.fetch_add(1, Ordering::Relaxed) + 1);
        let (sender, receiver) = mpsc::channel(REPLY_BATCHES_MAX);
        self.senders().insert(link, sender);
        (link, receiver)
    }

    fn disconnect(&self, link: LinkId) {
        self.senders().remove(&link);
    }

    /// Sends replies to a gateway; never waits.
    pub fn send(&self, link: LinkId, replies: Vec<StoreReply>) -> Sent {
        let senders = self.senders();
        let Some(sender) = senders.get(&link) else { return Sent::Gone };
        match sender.try_send(replies) {
            Ok(()) => Sent::Ok,
            Err(mpsc::error::TrySendError::Full(_)) => Sent::Full,
            Err(mpsc::error::TrySendError::Closed(_)) => Sent::Gone,
        }
    }

    fn senders(
        &self,
    ) -> std::sync::MutexGuard<'_, BTreeMap<LinkId, mpsc::Sender<Vec<StoreReply>>>> {
        self.senders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A gateway's connection to a store in the same process. Dropping it disconnects.
#[derive(Debug)]
pub struct LocalLink {
    link: LinkId,
    porter: Arc<Porter>,
    links: Arc<Links>,
}

impl LocalLink {
    /// Connects; replies and events come on the receiver, in batches.
    pub(super) fn connect(
        porter: &Arc<Porter>,
        links: &Arc<Links>,
    ) -> (Self, mpsc::Receiver<Vec<StoreReply>>) {
        let (link, receiver) = links.connect();
        (Self { link, porter: Arc::clone(porter), links: Arc::clone(links) }, receiver)
    }

    /// Hands calls to the store; never waits. Gives back what does not fit.
    pub fn send(&self, lane: Lane, calls: Vec<StoreCall>) -> Result<(), Vec<StoreCall>> {
        self.porter.post(lane, self.link, calls)
    }
}

impl Drop for LocalLink {
    fn drop(&mut self) {
        self.links.disconnect(self.link);
        self.porter.link_closed(self.link);
    }
}
