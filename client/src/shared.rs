//! Connections that the sessions of many clients share: each has two `Session` streams, as that of a
//! single session, and every message on them belongs to one of the sessions. So a process of many
//! tenants needs a connection per thousand of them, and not one each.
//!
//! Sessions are told apart by their numbers (`numbers`): an answer names its call, and an event its
//! acquisition, and both begin with the number of the session.

mod connection;
mod delays;
mod inbox;
mod lane;
mod numbers;

use std::{
    collections::BTreeMap,
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tonic::transport::Endpoint;

pub use self::delays::KeepAliveDelays;
pub(crate) use self::{
    connection::{Places, Seat},
    lane::Frame,
    numbers::Block,
};
use self::{delays::Delays, numbers::Numbers};
use crate::{
    calls::Calls,
    cluster::{ClusterId, Membership},
    clusters::Clusters,
    endpoint::shown,
};

/// Connections that many clients share: see [`ClientBuilder::share`](crate::ClientBuilder::share).
///
/// Cheap to clone; clones are the same connections. Each serves up to 1,024 sessions, and ends with
/// the last of them. They are carried on the tokio runtime of the session that opened them.
///
/// ```
/// # if std::env::var_os("SHARKLOCK_ENDPOINTS").is_none() { println!("no server: skipped"); return Ok(()) }
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// use sharklock_client::{Client, Connections};
///
/// let connections = Connections::new();
/// let mut held = Vec::new();
/// for tenant in ["a", "b", "c"] {
///     // A session of its own: what it holds is given back, or lost, by itself.
///     let client = Client::builder().endpoints_from_env()?.identity(tenant).share(&connections);
///     held.push(client.build()?.lock(&format!("tenants/{tenant}")).acquire().await?);
/// }
/// assert_eq!((connections.sessions_count(), connections.count()), (3, 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Default)]
pub struct Connections {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Clients that mean the same endpoints.
    groups: Mutex<BTreeMap<Key, Weak<Group>>>,
    numbers: Arc<Numbers>,
    delays: Arc<Delays>,
}

/// What clients must have in common to share anything.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    /// In the order in which they were given.
    pub(crate) endpoints: Vec<String>,
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) call_timeout: Duration,
    pub(crate) local_address: Option<IpAddr>,
}

/// All that clients of the same endpoints share.
pub(crate) struct Group {
    pub(crate) endpoints: Arc<[Endpoint]>,
    pub(crate) clusters: Arc<Clusters>,
    pub(crate) calls: Arc<Calls>,
    /// None: the clients of this group share nothing but what is above.
    sharing: Option<Sharing>,
    /// Whose turn it is to ask the endpoints for their clusters.
    asks: Mutex<Weak<Turn>>,
}

/// Held while its owner asks in the name of all.
pub(crate) struct Turn;

struct Sharing {
    /// By endpoint.
    places: Vec<Arc<Places>>,
    numbers: Arc<Numbers>,
}

impl Connections {
    /// Connections that nobody shares yet. Nothing is connected.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many are open or being opened.
    pub fn count(&self) -> usize {
        self.places(Places::count)
    }

    /// How many places on them sessions have: those whose main gateway does not answer have one more,
    /// at another, and those that hold nothing and wait for nothing may have none.
    pub fn sessions_count(&self) -> usize {
        self.places(Places::seats_count)
    }

    /// The keepalives since this was asked last, or since the beginning: how many were sent, and when
    /// their answers came. It tells of a cluster, or of a process, that is too slow long before a lock
    /// is lost.
    pub fn take_keepalive_delays(&self) -> KeepAliveDelays {
        self.inner.delays.take()
    }

    fn places(&self, count: impl Fn(&Places) -> usize) -> usize {
        let groups: Vec<_> = self.inner.groups().values().filter_map(Weak::upgrade).collect();
        let sharing = groups.iter().filter_map(|group| group.sharing.as_ref());
        sharing.flat_map(|sharing| &sharing.places).map(|places| count(places)).sum()
    }

    /// The group of these clients, which is made if there is none.
    pub(crate) fn group(&self, key: Key, endpoints: Vec<Endpoint>) -> Arc<Group> {
        let mut groups = self.inner.groups();
        if let Some(group) = groups.get(&key).and_then(Weak::upgrade) {
            return group;
        }
        groups.retain(|_, group| group.strong_count() > 0);
        let places = endpoints.iter().map(|_| Places::new(&self.inner.delays)).collect();
        let sharing = Sharing { places, numbers: Arc::clone(&self.inner.numbers) };
        let (cluster, call_timeout) = (key.cluster, key.call_timeout);
        let group = Group::new(endpoints, cluster, call_timeout, Some(sharing));
        groups.insert(key, Arc::downgrade(&group));
        group
    }
}

impl Inner {
    fn groups(&self) -> MutexGuard<'_, BTreeMap<Key, Weak<Group>>> {
        // A panic cannot leave the map half changed.
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, sessions) = (self.count(), self.sessions_count());
        f.debug_struct("Connections").field("count", &count).field("sessions", &sessions).finish()
    }
}

impl Group {
    /// Of a single client.
    pub(crate) fn of_one(
        endpoints: Vec<Endpoint>,
        cluster: Option<ClusterId>,
        call_timeout: Duration,
    ) -> Arc<Self> {
        Self::new(endpoints, cluster, call_timeout, None)
    }

    fn new(
        endpoints: Vec<Endpoint>,
        cluster: Option<ClusterId>,
        call_timeout: Duration,
        sharing: Option<Sharing>,
    ) -> Arc<Self> {
        let names = endpoints.iter().map(shown).collect();
        let clusters = Arc::new(Clusters::new(Membership::new(names, cluster)));
        let calls = Calls::new(endpoints.clone(), Arc::clone(&clusters), call_timeout);
        let (endpoints, asks) = (endpoints.into(), Mutex::default());
        Arc::new(Self { endpoints, clusters, calls, sharing, asks })
    }

    /// The turn to ask all endpoints to which cluster they belong: whoever shares hears the answers, and
    /// thousands of sessions that begin at once must not ask a thousand times. None while another has
    /// it; if that one ends without an answer, the next that dials has it.
    pub(crate) fn turn_to_ask(&self) -> Option<Arc<Turn>> {
        let mut asks = self.asks.lock().unwrap_or_else(PoisonError::into_inner);
        if self.sharing.is_some() && asks.strong_count() > 0 {
            return None;
        }
        let turn = Arc::new(Turn);
        *asks = Arc::downgrade(&turn);
        Some(turn)
    }

    /// Numbers for one more session; None: it has connections of its own.
    pub(crate) fn block(&self) -> Option<Block> {
        Numbers::take(&self.sharing.as_ref()?.numbers)
    }

    /// The places at an endpoint.
    pub(crate) fn places(&self, at: usize) -> &Arc<Places> {
        let sharing = self.sharing.as_ref().expect("who has a block shares");
        &sharing.places[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(connections: &Connections, endpoint: &str) -> Arc<Group> {
        let endpoints = vec![crate::endpoint::parse(endpoint).expect("it is an address")];
        let (call_timeout, local_address) = (Duration::from_secs(5), None);
        let endpoint = vec![endpoint.to_owned()];
        let key = Key { endpoints: endpoint, cluster: None, call_timeout, local_address };
        connections.group(key, endpoints)
    }

    #[tokio::test]
    async fn only_clients_of_the_same_endpoints_share() {
        let connections = Connections::new();
        let (one, again) = (group(&connections, "a:1"), group(&connections, "a:1"));
        let other = group(&connections, "b:1");
        assert!(Arc::ptr_eq(&one, &again) && !Arc::ptr_eq(&one, &other));
        let blocks = [&one, &again, &other].map(|group| group.block().expect("few are used"));
        assert!(blocks[0].number() < blocks[1].number() && blocks[1].number() < blocks[2].number());
        assert_eq!((connections.count(), connections.sessions_count()), (0, 0));
    }

    #[tokio::test]
    async fn one_asks_for_all_and_the_next_if_it_goes_away() {
        let connections = Connections::new();
        let group = group(&connections, "a:1");
        let turn = group.turn_to_ask().expect("nobody has it");
        assert!(group.turn_to_ask().is_none());
        drop(turn);
        assert!(group.turn_to_ask().is_some());
        let endpoints = vec![crate::endpoint::parse("a:1").expect("it is an address")];
        let alone = Group::of_one(endpoints, None, Duration::from_secs(5));
        let turns = [(); 2].map(|()| alone.turn_to_ask());
        assert!(turns.iter().all(Option::is_some) && alone.block().is_none());
    }
}
