//! The place where questions to a master wait for its thread, and answers for those who asked.

use std::{
    collections::BTreeMap,
    sync::mpsc::{SyncSender, TrySendError},
};

use sharklock_proto::internal::v1::{Heartbeats, RangeMessage, RoutesUpdate, SnapshotMessage};
use sharklock_rangemap::StoreId;
use sharklock_transport::PeerInbox;
use tokio::sync::{mpsc, oneshot};

use crate::{
    core::Input,
    refusal::{Reason, Refusal},
    request::{Reply, Request},
    state::Member,
};

/// What may stand before the thread: some seconds' worth of all stores of a large cluster, and of
/// Raft. The rest is refused, or lost as on a bad link.
pub const POST_MAX: usize = 16_384;

/// Something for the thread.
pub enum Post {
    /// For the core.
    Input(Input),
    /// A question.
    Question(Box<Request>, oneshot::Sender<Reply>),
    /// Somebody who wants all routes and every change.
    Watch(oneshot::Sender<Result<Watch, Refusal>>),
    /// The process stops.
    Stop,
    /// These are the masters, by the word of the leading one.
    Members(BTreeMap<StoreId, Member>),
    /// This master was removed from its cluster, by the word of those that are members.
    Removed,
}

/// All routes, and where changes come. The end of the receiver means that this master does not
/// lead any more, or that the reader was too slow.
pub struct Watch {
    /// The current value.
    pub whole: RoutesUpdate,
    /// The changes.
    pub changes: mpsc::Receiver<RoutesUpdate>,
}

/// The way to the thread.
#[derive(Clone, Debug)]
pub struct Desk(pub SyncSender<Post>);

impl Desk {
    /// Asks the core.
    pub async fn ask(&self, request: Request) -> Reply {
        let (answer, answered) = oneshot::channel();
        if let Err(refusal) = self.post(Post::Question(Box::new(request), answer)) {
            return Reply::Refused(refusal);
        }
        answered.await.unwrap_or_else(|_gone| Reply::Refused(stopping()))
    }

    /// All routes and every change.
    pub async fn watch(&self) -> Result<Watch, Refusal> {
        let (answer, answered) = oneshot::channel();
        self.post(Post::Watch(answer))?;
        answered.await.unwrap_or_else(|_gone| Err(stopping()))
    }

    /// Asks the thread to end.
    pub fn stop(&self) {
        // A thread that is gone has ended already; a full desk is emptied by one that lives.
        drop(self.0.send(Post::Stop));
    }

    /// Tells the thread that this master was removed.
    pub fn removed(&self) {
        drop(self.0.send(Post::Removed));
    }

    /// Tells the thread who the masters are. Lost if it has too much to do: it is told again.
    pub fn members(&self, members: BTreeMap<StoreId, Member>) {
        drop(self.0.try_send(Post::Members(members)));
    }

    fn post(&self, post: Post) -> Result<(), Refusal> {
        self.0.try_send(post).map_err(|error| match error {
            TrySendError::Full(_) => {
                Refusal::new(Reason::Overloaded, "too much waits for this master: ask again")
            }
            TrySendError::Disconnected(_) => stopping(),
        })
    }

    fn tell(&self, input: Input) {
        // Lost, as on a bad link: Raft repeats it.
        drop(self.0.try_send(Post::Input(input)));
    }
}

fn stopping() -> Refusal {
    Refusal::not_leader(None)
}

impl PeerInbox for Desk {
    fn messages(&self, messages: Vec<RangeMessage>) {
        messages.into_iter().for_each(|message| self.tell(Input::Message(Box::new(message))));
    }

    fn heartbeats(&self, heartbeats: Vec<Heartbeats>) {
        heartbeats.into_iter().for_each(|beats| self.tell(Input::Heartbeats(Box::new(beats))));
    }

    fn snapshots(&self, snapshots: Vec<SnapshotMessage>) {
        self.tell(Input::Snapshots(snapshots));
    }

    fn unreachable(&self, store: u64) {
        self.tell(Input::Unreachable(StoreId(store)));
    }
}
