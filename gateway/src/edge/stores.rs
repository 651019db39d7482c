//! The tasks behind the links: each keeps the connection to one store, for as long as there is one
//! to keep.

use std::{collections::BTreeMap, future::pending, sync::Arc, time::Duration};

use sharklock_proto::internal::v1::{RoutesUpdate, StoreAddress};
use sharklock_transport::{Backoff, Outage, OutageNews};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    StoreConnection,
    host::Host,
    remote_link::{Connected, dial},
};
use crate::StoreId;

/// A connection that stood for so long was one.
const STANDS_AFTER: Duration = Duration::from_secs(1);
/// The address of a store in this process, for the log.
const IN_PROCESS: &str = "in this process";
/// Why a connection ends that nothing is wrong with, for the log.
const ANOTHER_WAY: &str = "there is another way to it";
/// See [`ANOTHER_WAY`].
const NOT_NAMED: &str = "the masters do not name it any more";
/// Connections by hand that wait for the gateway to serve. A process has one store.
const BY_HAND_MAX: usize = 4;
/// Ways that a store's task has not heard of yet; it listens at all times.
const WAYS_MAX: usize = 4;

/// Connects stores of the same process with a gateway, before it serves or meanwhile.
#[derive(Clone)]
pub struct Stores(mpsc::Sender<StoreConnection>);

impl Stores {
    pub(super) fn new() -> (Self, mpsc::Receiver<StoreConnection>) {
        let (sender, receiver) = mpsc::channel(BY_HAND_MAX);
        (Self(sender), receiver)
    }

    /// The store is reached by this connection, without a socket, until it ends; also where the
    /// masters give an address. Does nothing once the gateway has stopped.
    pub async fn connect(&self, connection: StoreConnection) {
        // A gateway that has stopped needs no stores.
        drop(self.0.send(connection).await);
    }
}

/// The way to a store.
enum Way {
    /// By hand.
    Local(StoreConnection),
    /// Over the network.
    Remote(StoreAddress),
}

/// Keeps all stores connected: those that come by hand, and those that the masters name. Returns
/// when all are gone and nobody can name others.
pub(super) async fn keep_all(host: Arc<Host>, mut by_hand: mpsc::Receiver<StoreConnection>) {
    let mut updates = host.masters.as_ref().map(|masters| masters.watch_routes());
    let mut keeper = Keeper { host, stores: BTreeMap::new(), tasks: JoinSet::new() };
    let mut hands_open = true;
    loop {
        tokio::select! {
            connection = by_hand.recv(), if hands_open => match connection {
                Some(connection) => keeper.connect(connection).await,
                None => hands_open = false,
            },
            update = next(&mut updates) => match update {
                Some(update) => keeper.update(update).await,
                None => updates = None,
            },
            Some(_) = keeper.tasks.join_next() => {}
        }
        let nobody_else = updates.is_none() && (!keeper.stores.is_empty() || !hands_open);
        if keeper.tasks.is_empty() && nobody_else {
            return;
        }
    }
}

async fn next(updates: &mut Option<mpsc::Receiver<RoutesUpdate>>) -> Option<RoutesUpdate> {
    match updates {
        Some(updates) => updates.recv().await,
        None => pending().await,
    }
}

/// The tasks of all stores.
struct Keeper {
    host: Arc<Host>,
    /// For each store: the channel on which its task hears of ways, and the last address that it
    /// was told.
    stores: BTreeMap<StoreId, (mpsc::Sender<Way>, Option<StoreAddress>)>,
    tasks: JoinSet<()>,
}

impl Keeper {
    async fn connect(&mut self, connection: StoreConnection) {
        match self.host.cluster.take(&connection.cluster_id.to_bytes()) {
            Ok(()) => self.tell(connection.store, Way::Local(connection)).await,
            Err(why) => {
                let store = connection.store;
                tracing::error!(%store, "a store of this process belongs to {why}: it is not used");
            }
        }
    }

    async fn update(&mut self, update: RoutesUpdate) {
        if let Err(why) = self.host.cluster.take(&update.cluster_id) {
            tracing::error!(
                "the masters answer for {why}: nothing is taken from them. Name the masters of its \
                 cluster again, or restart this gateway if it is to serve the other one"
            );
            return;
        }
        if let Some(masters) = &self.host.masters {
            masters.learn_masters(&update.masters);
        }
        self.host.hub.learn_routes(&update);
        self.leave_gone(&update);
        for address in update.stores {
            let store = StoreId(address.store_id);
            self.host.store_named(&address);
            let known = self.stores.get(&store).and_then(|(_, address)| address.as_ref());
            if known != Some(&address) {
                self.tell(store, Way::Remote(address)).await;
            }
        }
    }

    /// The masters do not name some stores any more.
    fn leave_gone(&mut self, update: &RoutesUpdate) {
        // Most updates are about routes only, and come often.
        if !update.is_whole && update.gone_store_ids.is_empty() {
            return;
        }
        let named = |store: &StoreId| update.stores.iter().any(|to| to.store_id == store.0);
        let is_gone = |store: &StoreId| {
            update.gone_store_ids.contains(&store.0) || (update.is_whole && !named(store))
        };
        let known = self.host.named_stores().into_iter().map(|it| StoreId(it.store_id));
        known.filter(is_gone).for_each(|store| self.host.store_left(store));
        // A task without anybody who tells it of ways ends with its connection by hand.
        self.stores.retain(|store, (_, address)| address.is_none() || !is_gone(store));
    }

    /// Tells a store's task of a way to it. Tasks listen at all times: this waits only shortly.
    async fn tell(&mut self, store: StoreId, way: Way) {
        let before = self.stores.get(&store).and_then(|(_, address)| address.clone());
        let address = match &way {
            Way::Remote(address) => Some(address.clone()),
            Way::Local(_) => before,
        };
        let way = match self.stores.get(&store) {
            Some((task, _)) => task.send(way).await.err().map(|ended| ended.0),
            None => Some(way),
        };
        if let Some(way) = way {
            let (task, ways) = mpsc::channel(WAYS_MAX);
            self.tasks.spawn(keep(Arc::clone(&self.host), store, way, ways));
            self.stores.insert(store, (task, address));
        } else if let Some(known) = self.stores.get_mut(&store) {
            known.1 = address;
        }
    }
}

/// Keeps one store connected until no way to it is left.
async fn keep(host: Arc<Host>, store: StoreId, first: Way, mut ways: mpsc::Receiver<Way>) {
    let mut address = None;
    let mut way = Some(first);
    while let Some(next) = way {
        way = match next {
            Way::Local(connection) => local(&host, connection, &mut ways, &mut address).await,
            Way::Remote(at) => {
                address = Some(at.clone());
                remote(&host, at, &mut ways).await
            }
        };
    }
    tracing::info!(%store, "no way to a store is left");
}

/// Until the connection has ended, or there is another by hand; then the way to go on. `address` is
/// where the masters have last said that the store is.
async fn local(
    host: &Host,
    mut connection: StoreConnection,
    ways: &mut mpsc::Receiver<Way>,
    address: &mut Option<StoreAddress>,
) -> Option<Way> {
    let store = connection.store;
    let mut told = true;
    tracing::info!(%store, address = IN_PROCESS, "a store is connected");
    host.link_up(store, connection.link);
    let by_hand = loop {
        tokio::select! {
            batch = connection.replies.recv() => match batch {
                Some(batch) => host.hub.dispatch(host.now_us(), store, batch),
                None => break None,
            },
            way = ways.recv(), if told => match way {
                Some(way @ Way::Local(_)) => break Some(way),
                Some(Way::Remote(at)) => *address = Some(at),
                None => (told, *address) = (false, None),
            },
        }
    };
    let why = if by_hand.is_some() { ANOTHER_WAY } else { "the store has stopped" };
    tracing::info!(%store, address = IN_PROCESS, why, "a store is not connected");
    host.link_lost(store);
    by_hand.or_else(|| address.take().map(Way::Remote))
}

/// Until there is another way, which is given back, or nobody is left to name one.
async fn remote(host: &Host, address: StoreAddress, ways: &mut mpsc::Receiver<Way>) -> Option<Way> {
    let store = StoreId(address.store_id);
    let (mut backoff, mut outage) = (Backoff::default(), Outage::default());
    loop {
        let dialled = tokio::select! {
            dialled = dial(&address, host.config.dialling) => dialled,
            way = ways.recv() => return way,
        };
        let why = match dialled {
            Ok(connected) => {
                let began = Instant::now();
                tracing::info!(%store, address = address.address, "a store is connected");
                let ended = exchange(host, store, connected, ways).await;
                // A store that takes connections and ends them is no better than one that takes none.
                if began.elapsed() >= STANDS_AFTER {
                    backoff.reset();
                    outage.over();
                }
                match ended {
                    Ok(way) => {
                        let why = if way.is_some() { ANOTHER_WAY } else { NOT_NAMED };
                        let address = address.address;
                        tracing::info!(%store, address, why, "a store is not connected");
                        return way;
                    }
                    Err(why) => why,
                }
            }
            Err(why) => why,
        };
        let at = &address.address;
        match outage.failed(Instant::now()) {
            Some(OutageNews::Begins) => {
                tracing::info!(%store, address = at, why, "a store is not connected");
            }
            Some(OutageNews::Lasts) => {
                tracing::warn!(%store, address = at, why, "a store stays out of reach");
            }
            None => {}
        }
        tokio::select! {
            () = sleep(backoff.pause()) => {}
            way = ways.recv() => return way,
        }
    }
}

/// Hands over what comes in until the stream has ended, with the reason, or there is another way.
async fn exchange(
    host: &Host,
    store: StoreId,
    mut connected: Connected,
    ways: &mut mpsc::Receiver<Way>,
) -> Result<Option<Way>, String> {
    host.link_up(store, connected.link.clone());
    let mut batch = std::mem::take(&mut connected.first);
    let ended = loop {
        host.hub.dispatch(host.now_us(), store, batch);
        batch = tokio::select! {
            next = connected.next() => match next {
                Ok(batch) => batch,
                Err(why) => break Err(why),
            },
            way = ways.recv() => break Ok(way),
        };
    };
    connected.link.close();
    host.link_lost(store);
    ended
}

#[cfg(test)]
mod tests;
