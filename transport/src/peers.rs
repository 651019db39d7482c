//! The streams from this store to its peers: one per peer and class, each on a connection of its own,
//! kept up for as long as the peer is named.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use sharklock_proto::{
    ClusterId, Identity,
    internal::v1::{Heartbeats, MessageType, RaftClass, RaftHello, RangeMessage, SnapshotMessage},
};
use tokio::{runtime::Handle, task::AbortHandle};

use crate::{
    dialling::Dialling,
    keeper::Keeper,
    lateness::monotonic,
    peer_queue::{Item, PeerQueue},
};

/// Streams to each peer.
const CLASSES: [RaftClass; 3] = [RaftClass::Append, RaftClass::Heartbeat, RaftClass::Snapshot];

/// The store that speaks.
#[derive(Clone, Debug)]
pub struct PeerIdentity {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// This store.
    pub store: u64,
    /// The random identity of its data directory.
    pub ident: Identity,
    /// Which of its workers, from 0.
    pub worker: u32,
    /// What it does in its process, for the log: `data` or `master`, which have streams of their own.
    pub role: &'static str,
}

/// A peer, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    /// The random identity of its data directory.
    pub ident: Identity,
    /// `HOST:PORT`.
    pub address: String,
}

/// The receiver of everything that peers send. It is called from tokio's threads and must not
/// block.
pub trait PeerInbox: Send + Sync + 'static {
    /// Raft messages, in the order of their stream.
    fn messages(&self, messages: Vec<RangeMessage>);
    /// Heartbeats and answers to them.
    fn heartbeats(&self, heartbeats: Vec<Heartbeats>);
    /// Parts of snapshots, in the order of their stream.
    fn snapshots(&self, snapshots: Vec<SnapshotMessage>);
    /// Something on its way to this store was lost, or will be.
    fn unreachable(&self, store: u64);
}

/// See the module. Streams end when this is dropped.
pub struct PeerLinks {
    me: PeerIdentity,
    dialling: Dialling,
    inbox: Arc<dyn PeerInbox>,
    /// Carries appends, as frames. None: they go over gRPC as all others do.
    appends_on: Option<Handle>,
    peers: Mutex<BTreeMap<u64, Peer>>,
}

struct Peer {
    at: PeerAddress,
    links: [Arc<Link>; 3],
    tasks: Vec<AbortHandle>,
}

/// One class towards one peer.
pub(crate) struct Link {
    pub(crate) class: RaftClass,
    pub(crate) queue: Arc<PeerQueue>,
    /// A loss has been told since something was last taken: one word is enough for Raft.
    pub(crate) told: AtomicBool,
}

impl PeerLinks {
    /// Without peers, until they are set. To be called inside a tokio runtime.
    pub fn start(me: PeerIdentity, dialling: Dialling, inbox: Arc<dyn PeerInbox>) -> Self {
        Self { me, dialling, inbox, appends_on: None, peers: Mutex::default() }
    }

    /// Appends go as frames to peers that understand them, and are sent on this runtime: best that
    /// of the thread which makes them. To be said before there are peers.
    #[must_use]
    pub fn with_appends_on(self, runtime: Handle) -> Self {
        Self { appends_on: Some(runtime), ..self }
    }

    /// From now on these are the peers. Streams to those that are as before stay. To be called
    /// inside a tokio runtime.
    pub fn set_peers(&self, mut now: BTreeMap<u64, PeerAddress>) {
        now.remove(&self.me.store);
        let mut peers = self.peers();
        peers.retain(|store, peer| {
            let stays = now.get(store) == Some(&peer.at);
            if !stays {
                let why = "the masters do not name it there any more";
                let (role, address) = (self.me.role, &peer.at.address);
                tracing::info!(role, %store, address, class = "all", why, "a peer is not connected");
            }
            stays
        });
        for (store, at) in now {
            peers.entry(store).or_insert_with(|| self.peer(store, at));
        }
    }

    /// Sends what a turn says. Never blocks: what cannot be sent is lost, and told to the inbox.
    pub fn send(
        &self,
        messages: Vec<RangeMessage>,
        heartbeats: Vec<Heartbeats>,
        snapshots: Vec<SnapshotMessage>,
    ) {
        if messages.is_empty() && heartbeats.is_empty() && snapshots.is_empty() {
            return;
        }
        let peers = self.peers();
        let mut lost = Vec::new();
        let mut put = |store: u64, class: usize, item: Item| {
            let Some(peer) = peers.get(&store) else { return };
            let link = &peer.links[class];
            match link.queue.put(item) {
                Ok(()) => link.told.store(false, Ordering::Relaxed),
                Err(_not_taken) if !link.told.swap(true, Ordering::Relaxed) => lost.push(store),
                Err(_not_taken) => {}
            }
        };
        for message in messages {
            put(message.to_store, class_of(&message), Item::Message(message));
        }
        // 0 would say nothing.
        let sent_ms = u64::try_from(monotonic().as_millis()).unwrap_or(u64::MAX).max(1);
        for beats in heartbeats {
            put(beats.to_store, BEATS, Item::Heartbeats(Heartbeats { sent_ms, ..beats }));
        }
        for snapshot in snapshots {
            put(snapshot.to_store, SNAPSHOTS, Item::Snapshot(snapshot));
        }
        drop(peers);
        lost.into_iter().for_each(|store| self.inbox.unreachable(store));
    }

    fn peer(&self, store: u64, at: PeerAddress) -> Peer {
        let link = |class| Link {
            class,
            queue: Arc::new(PeerQueue::new(class)),
            told: AtomicBool::new(false),
        };
        let links = CLASSES.map(|class| Arc::new(link(class)));
        let tasks = links.iter().map(|link| {
            let hello = RaftHello {
                cluster_id: self.me.cluster_id.to_wire(),
                from_store: self.me.store,
                to_store: store,
                class: link.class.into(),
                worker: self.me.worker,
                from_ident: self.me.ident.to_wire(),
            };
            let appends_on = self.appends_on.as_ref().filter(|_| link.class == RaftClass::Append);
            let keeper = Keeper {
                role: self.me.role,
                store,
                address: at.address.clone(),
                link: Arc::clone(link),
                hello,
                frames_on: appends_on.cloned(),
                dialling: self.dialling,
                inbox: Arc::clone(&self.inbox),
            };
            tokio::spawn(keeper.run()).abort_handle()
        });
        let tasks = tasks.collect();
        Peer { at, links, tasks }
    }

    fn peers(&self) -> MutexGuard<'_, BTreeMap<u64, Peer>> {
        // A panic aborts the process; should a test catch one, the map is whole all the same.
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
        self.links.iter().for_each(|link| link.queue.down());
    }
}

/// Places in [`CLASSES`].
const APPENDS: usize = 0;
const BEATS: usize = 1;
const SNAPSHOTS: usize = 2;

/// Votes must not wait behind appends, nor elections behind a slow disk; nor must the word of a leader
/// whose appends stand in a queue that another is to lead. It may overtake appends: who is to lead is
/// chosen by what it has acknowledged, and Raft's own transfer lets nothing be proposed meanwhile.
fn class_of(message: &RangeMessage) -> usize {
    match message.message.as_ref().map(|message| message.msg_type()) {
        Some(
            MessageType::MsgRequestVote
            | MessageType::MsgRequestVoteResponse
            | MessageType::MsgRequestPreVote
            | MessageType::MsgRequestPreVoteResponse
            | MessageType::MsgTimeoutNow
            | MessageType::MsgHeartbeat
            | MessageType::MsgHeartbeatResponse,
        ) => BEATS,
        _ => APPENDS,
    }
}
