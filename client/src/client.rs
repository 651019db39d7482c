//! The client: its configuration, its identity, and the doors to everything else.

use std::{
    env, fmt,
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::sync::watch;

use crate::{
    calls::Calls,
    cluster::{BadClusterId, ClusterId},
    endpoint::{parse, parse_list},
    error::{AcquireError, ConfigError},
    guard::Guard,
    guard_events::Events,
    handle::SessionHandle,
    lock::LockBuilder,
    request::TTL_DEFAULT,
    session_id::SessionId,
    session_task,
    shared::{Connections, Group, Key},
    state_file::StateFile,
};

/// The address of a gateway of `sharklock dev` (decisions.md, *Defaults*).
pub const ENDPOINT_DEFAULT: &str = "http://127.0.0.1:7700";

/// Names the endpoints for [`Client::from_env`], separated by commas.
pub const ENDPOINTS_VARIABLE: &str = "SHARKLOCK_ENDPOINTS";

/// Names the cluster for [`Client::from_env`].
pub const CLUSTER_VARIABLE: &str = "SHARKLOCK_CLUSTER";

/// How long a call that does not wait for a lock is retried while no server can serve it.
pub const CALL_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// The longest time-out of a call; a longer one is cut to it.
const CALL_TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3_600);

const IDENTITY_BYTES_MAX: usize = 256;

/// A client of a SharkLock cluster: one session, whose heartbeats keep its locks alive.
///
/// Cheap to clone; clones share the session and its connection. Nothing is connected before the
/// first call. The session's task runs on the tokio runtime of the first acquisition and ends with
/// the last clone and guard.
///
/// ```
/// # if std::env::var_os("SHARKLOCK_ENDPOINTS").is_none() { println!("no server: skipped"); return Ok(()) }
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// use std::time::Duration;
/// use sharklock_client::Client;
///
/// let client = Client::from_env()?;
/// let guard = client.lock("invoices/42").ttl(Duration::from_secs(10)).acquire().await?;
/// println!("held with token {}", guard.token());
/// guard.release().await?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) group: Arc<Group>,
    pub(crate) call_timeout: Duration,
    pub(crate) id: Arc<SessionId>,
    identity: Arc<str>,
    ttl: Duration,
    session: OnceLock<Arc<SessionHandle>>,
    pub(crate) state: Option<Arc<StateFile>>,
    /// The news of all guards.
    pub(crate) events: Arc<Events>,
    /// Told to whoever waits for the session's end by its own end: the task has one, too.
    pub(crate) alive: Arc<watch::Sender<()>>,
}

impl Client {
    /// Starts to configure a client.
    pub fn builder() -> ClientBuilder {
        ClientBuilder {
            endpoints: Vec::new(),
            cluster: None,
            identity: String::new(),
            ttl: TTL_DEFAULT,
            call_timeout: CALL_TIMEOUT_DEFAULT,
            session_secret: None,
            instance: None,
            state_file: None,
            connections: None,
            local_address: None,
        }
    }

    /// A client of one endpoint, as `http://127.0.0.1:7700`, and otherwise the defaults.
    ///
    /// # Errors
    /// [`ConfigError`] when the endpoint cannot be understood. Nothing is connected yet.
    pub fn connect(endpoint: &str) -> Result<Self, ConfigError> {
        Self::builder().endpoints([endpoint]).build()
    }

    /// A client of the endpoints in `SHARKLOCK_ENDPOINTS` (separated by commas), or of
    /// [`ENDPOINT_DEFAULT`] when it is not set, and of the cluster in `SHARKLOCK_CLUSTER`, if it is.
    ///
    /// # Errors
    /// [`ConfigError`] when a variable cannot be understood. Nothing is connected yet.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::builder().endpoints_from_env()?.cluster_from_env()?.build()
    }

    /// Starts an acquisition of the lock `name`: 1 to 512 bytes without control characters.
    /// Unless told otherwise it is exclusive and waits until it is granted.
    pub fn lock(&self, name: &str) -> LockBuilder {
        LockBuilder::new(self.clone(), name)
    }

    /// Acquires the lock if it is free now; `None` if it is held, or others queue for it.
    ///
    /// # Errors
    /// As [`LockBuilder::acquire`], without [`AcquireError::Held`].
    pub async fn try_lock(&self, name: &str) -> Result<Option<Guard>, AcquireError> {
        self.lock(name).try_acquire().await
    }

    /// The session's handle as hex: what others see as the holder's session. The session's id
    /// itself is a secret and never leaves the client but to its gateways.
    pub fn session_handle(&self) -> &str {
        self.inner.id.handle()
    }

    pub(crate) fn ttl(&self) -> Duration {
        self.inner.ttl
    }

    pub(crate) fn identity(&self) -> Arc<str> {
        Arc::clone(&self.inner.identity)
    }

    pub(crate) fn calls(&self) -> &Arc<Calls> {
        &self.inner.group.calls
    }

    /// Resolves when everything is over: the last clone and guard are gone, and what was given back
    /// is answered, or cannot be any more. It keeps nothing alive itself, and outlives the client.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut alive = self.inner.alive.subscribe();
        // Nothing is ever sent: the end of the last sender is the news.
        async move { while alive.changed().await.is_ok() {} }
    }

    /// Starts the session's task at the first acquisition, on the runtime of whoever acquires.
    pub(crate) fn session(&self) -> Arc<SessionHandle> {
        let start = || session_task::start(&self.inner);
        Arc::clone(self.inner.session.get_or_init(start))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("session_handle", &self.session_handle()).finish()
    }
}

/// Configures a [`Client`].
///
/// Some times are fixed: connecting to one endpoint takes at most 3 s; after 250 ms, or a quarter
/// of the time-out if that is less, the next is tried beside it, and the first that works serves.
/// When none does, all are tried again after a pause that grows from 50 ms to 1 s. A silent
/// connection is found within 10 s, or after one heartbeat interval without an answer while a lock
/// is held.
#[must_use = "nothing is made before `build`"]
#[derive(Clone)]
pub struct ClientBuilder {
    endpoints: Vec<String>,
    cluster: Option<ClusterId>,
    identity: String,
    ttl: Duration,
    call_timeout: Duration,
    session_secret: Option<[u8; 16]>,
    instance: Option<u64>,
    state_file: Option<PathBuf>,
    connections: Option<Connections>,
    local_address: Option<IpAddr>,
}

impl fmt::Debug for ClientBuilder {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoints, cluster, identity, .. } = self;
        write!(f, "ClientBuilder(endpoints {endpoints:?}, cluster {cluster:?}, {identity:?})")
    }
}

impl ClientBuilder {
    /// Gateways, tried in turn: `http://host:port`, or `host:port`.
    pub fn endpoints<E: Into<String>>(mut self, endpoints: impl IntoIterator<Item = E>) -> Self {
        self.endpoints = endpoints.into_iter().map(Into::into).collect();
        self
    }

    /// Takes the endpoints from `SHARKLOCK_ENDPOINTS`, or [`ENDPOINT_DEFAULT`] when it is not set.
    /// They are separated by commas; spaces around them and empty places do not matter.
    ///
    /// # Errors
    /// [`ConfigError::Environment`] when the variable is not Unicode, and
    /// [`ConfigError::NoEndpointIn`] when it names no endpoint.
    pub fn endpoints_from_env(self) -> Result<Self, ConfigError> {
        let list = match env::var(ENDPOINTS_VARIABLE) {
            Ok(list) => list,
            Err(env::VarError::NotPresent) => ENDPOINT_DEFAULT.to_owned(),
            Err(env::VarError::NotUnicode(_)) => {
                return Err(ConfigError::Environment(ENDPOINTS_VARIABLE));
            }
        };
        let endpoints = parse_list(&list);
        if endpoints.is_empty() {
            return Err(ConfigError::NoEndpointIn(ENDPOINTS_VARIABLE));
        }
        Ok(self.endpoints(endpoints))
    }

    /// The cluster that is meant: endpoints that belong to another are left aside. Unless it is given
    /// the client asks all endpoints, begins when more than half of them, or all that answer within
    /// 250 ms, name one cluster, and refuses to go on as soon as they name two
    /// ([`AcquireError::OtherCluster`]).
    pub fn cluster(mut self, cluster: ClusterId) -> Self {
        self.cluster = Some(cluster);
        self
    }

    /// Takes the cluster from `SHARKLOCK_CLUSTER`, if it is set and not empty.
    ///
    /// # Errors
    /// [`ConfigError::Cluster`] when it is not a cluster's id.
    pub fn cluster_from_env(self) -> Result<Self, ConfigError> {
        match env::var(CLUSTER_VARIABLE) {
            Ok(id) if id.trim().is_empty() => Ok(self),
            Ok(id) => match id.trim().parse() {
                Ok(cluster) => Ok(self.cluster(cluster)),
                Err(BadClusterId) => Err(ConfigError::Cluster(CLUSTER_VARIABLE)),
            },
            Err(env::VarError::NotPresent) => Ok(self),
            Err(env::VarError::NotUnicode(_)) => Err(ConfigError::Environment(CLUSTER_VARIABLE)),
        }
    }

    /// The name of this client for people, as `billing@host-3`: it is the owner shown with its
    /// locks.
    pub fn identity(mut self, identity: &str) -> Self {
        identity.clone_into(&mut self.identity);
        self
    }

    /// The lease of locks that do not set their own: 2 s to 10 min, 10 s unless set.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// How long calls that do not wait for a lock (tries, looks, operator's calls) are retried
    /// while no server can serve them: 10 s unless set. Acquisitions that wait are retried for as
    /// long as they wait.
    pub fn call_timeout(mut self, call_timeout: Duration) -> Self {
        self.call_timeout = call_timeout.min(CALL_TIMEOUT_MAX);
        self
    }

    /// The secret of an older session, which this client goes on with: it may take the holds of its
    /// older lives back ([`Client::reclaim`]). Drawn anew unless set. Whoever has it can release and
    /// take over all that the session holds.
    pub fn session_secret(mut self, secret: [u8; 16]) -> Self {
        self.session_secret = Some(secret);
        self
    }

    /// Names this life of the client under its session: larger than those of all lives before, and not
    /// 0. The time of its start unless set. Two lives with one instance take each other's locks.
    pub fn instance(mut self, instance: u64) -> Self {
        self.instance = Some(instance);
        self
    }

    /// Keeps the session's secret and what is held in this file, so that the next life of the program
    /// can take it back ([`Client::reclaim_all`]). It is made with mode 0600 if it is not there, and
    /// used by one client at a time; `PATH.lock` and `PATH.new` belong to it. A hold whose condition is
    /// `hold` is in the file before it is asked for. Secret, instance and, once known, the cluster are
    /// then the file's; with [`session_secret`](Self::session_secret) or [`instance`](Self::instance) it
    /// is refused.
    pub fn state_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.state_file = Some(path.into());
        self
    }

    /// Makes it use these connections, with all other clients that were told so and have the same
    /// endpoints, cluster and call time-out, instead of some of its own. For processes of many
    /// sessions, as one for each tenant: a gateway takes 1,000 connections from one address, and each
    /// serves 1,024 sessions. A single session has no use for it.
    ///
    /// Such clients belong to one tokio runtime, and share what their connections meet with: a gateway
    /// bounds the calls that are open on a stream, so one with many thousands of them at a time is
    /// better off with connections of its own, and one cluster is refused for all of them.
    pub fn share(mut self, connections: &Connections) -> Self {
        self.connections = Some(connections.clone());
        self
    }

    /// Connects from this address of the machine; the system chooses one unless told. Servers bound
    /// what they take from one address.
    pub fn local_address(mut self, address: IpAddr) -> Self {
        self.local_address = Some(address);
        self
    }

    /// Makes the client. Nothing is connected yet, and no runtime is needed.
    ///
    /// # Errors
    /// [`ConfigError`] when something given cannot be understood.
    pub fn build(self) -> Result<Client, ConfigError> {
        if self.endpoints.is_empty() {
            return Err(ConfigError::NoEndpoint);
        }
        if self.identity.len() > IDENTITY_BYTES_MAX || self.identity.contains(char::is_control) {
            return Err(ConfigError::Identity);
        }
        if self.instance == Some(0) {
            return Err(ConfigError::Instance);
        }
        let endpoints: Vec<_> = self
            .endpoints
            .iter()
            .map(|endpoint| Ok(parse(endpoint)?.local_address(self.local_address)))
            .collect::<Result<_, ConfigError>>()?;
        let state = self.open_state()?;
        let cluster = state.as_ref().map_or(self.cluster, |file| file.cluster());
        let secret = state.as_ref().map(|file| file.secret()).or(self.session_secret);
        let instance = state.as_ref().map(|file| file.instance()).or(self.instance);
        let call_timeout = self.call_timeout;
        let group = match &self.connections {
            None => Group::of_one(endpoints, cluster, call_timeout),
            Some(connections) => {
                let Self { endpoints: names, local_address, .. } = self;
                let key = Key { endpoints: names, cluster, call_timeout, local_address };
                connections.group(key, endpoints)
            }
        };
        let inner = Inner {
            group,
            call_timeout,
            id: Arc::new(SessionId::new(secret, instance)),
            identity: Arc::from(self.identity),
            ttl: self.ttl,
            session: OnceLock::new(),
            state,
            events: Arc::default(),
            alive: Arc::new(watch::Sender::new(())),
        };
        Ok(Client { inner: Arc::new(inner) })
    }

    fn open_state(&self) -> Result<Option<Arc<StateFile>>, ConfigError> {
        let Some(path) = &self.state_file else { return Ok(None) };
        if self.session_secret.is_some() || self.instance.is_some() {
            return Err(ConfigError::TwoSessions);
        }
        Ok(Some(Arc::new(StateFile::open(path, self.cluster)?)))
    }
}
