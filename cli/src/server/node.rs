//! The parts of one process: started in the order in which they need each other, stopped in the
//! other one.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use prometheus::Registry;
use sharklock_dataserver::{
    DataServer, DataServerConfig, MemoryBounds, Pace, SESSION_ACQUISITIONS_MAX, StartError, Tuning,
    known_masters,
};
use sharklock_gateway::{
    Config, Directory, Gateway, Readiness, ServeError, StoreConnection, Stores,
    validate::RequestLimits,
};
use sharklock_master::{
    Master, MasterConfig, StartError as MasterStartError, Tuning as MasterTuning,
    belongs_to_a_cluster,
};
use sharklock_proto::trace::Spans;
use sharklock_transport::{Dialling, Masters};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{health::Health, internal, link::InProcess, ports::ReservedPort};
use crate::version::COMMIT;
use crate::{
    config::{Memory, ServerConfig, Tunables},
    exit::{CONFIG, Failure},
};

/// Of a process that was a master.
const REMOVED: &str = "it was removed from the masters: take the role master from this process";

/// A snapshot without progress for so long has failed.
const SNAPSHOT_IDLE_MAX: Duration = Duration::from_secs(10);

/// Everything that a process listens on, taken and not open yet.
pub struct Ports {
    gateway: Option<ReservedPort>,
    data: Option<ReservedPort>,
    master: Option<ReservedPort>,
    /// Absent once it is open.
    admin: Option<ReservedPort>,
    admin_address: SocketAddr,
    choose: fn(&str) -> String,
}

impl Ports {
    /// Takes what the roles need; see [`serve`](super::serve).
    pub fn take(config: &ServerConfig, choose: fn(&str) -> String) -> Result<Self, Failure> {
        let (roles, listen) = (config.roles, config.listen);
        let take = |used: bool, role: &str, at: SocketAddr| {
            used.then(|| ReservedPort::take(at, &choose(role))).transpose()
        };
        let admin = ReservedPort::take(listen.admin, &choose("admin"))?;
        Ok(Self {
            gateway: take(roles.gateway, "gateway", listen.gateway)?,
            data: take(roles.data, "data", listen.data)?,
            master: take(roles.master, "master", listen.master)?,
            admin_address: admin.address(),
            admin: Some(admin),
            choose,
        })
    }

    /// The address at which clients are served, if they are.
    pub fn gateway_address(&self) -> Option<SocketAddr> {
        self.gateway.as_ref().map(ReservedPort::address)
    }

    /// The address at which `/metrics` and health are served.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// The admin port opens first: it says what the others wait for.
    pub fn open_admin(mut self) -> Result<(Self, TcpListener), Failure> {
        let admin = self.admin.take().expect("every process has one");
        let listener = admin.open(&(self.choose)("admin"))?;
        Ok((self, listener))
    }
}

/// See the module. Every part that has started is here, so that it can be stopped at any moment.
#[derive(Default)]
pub struct Node {
    /// Where its parts hand their spans.
    spans: Spans,
    master: Option<Master>,
    data: Option<DataServer>,
    gateway: Option<Serving>,
    /// What the gateway says of itself.
    readiness: Option<Readiness>,
    /// Where metrics and health are served.
    admin_address: Option<SocketAddr>,
    /// True once the master of this process was removed from its cluster, where that is all it does.
    removed: Option<watch::Receiver<bool>>,
}

/// A gateway that serves.
struct Serving {
    task: JoinHandle<Result<(), ServeError>>,
    shutdown: CancellationToken,
}

impl Node {
    /// Nothing has started yet; what will is to hand its spans there.
    pub fn telling(spans: Spans) -> Self {
        Self { spans, ..Self::default() }
    }

    /// The parts of a process with these roles, and what each does until it has started.
    pub fn parts(config: &ServerConfig) -> Vec<(&'static str, &'static str)> {
        let roles = config.roles;
        let waits = match config.join {
            true => "waits until it is added to its cluster: `sharklock masters add`",
            false => "has not met all other masters yet, which forms the cluster",
        };
        let all = [
            (roles.master, "master", waits),
            (roles.data, "data", "no leading master has taken this store in yet"),
            (roles.gateway, "gateway", "starting"),
        ];
        all.into_iter().filter(|(used, ..)| *used).map(|(_, role, does)| (role, does)).collect()
    }

    /// The cluster's id as hex, if a part of this process knows it.
    pub fn cluster_id(&self) -> Option<String> {
        let of_data = self.data.as_ref().map(|data| data.ident().cluster_id.to_string());
        let of_master = || Some(self.master.as_ref()?.cluster_id().to_string());
        of_data.or_else(of_master).or_else(|| self.readiness.as_ref()?.cluster_id())
    }

    /// Starts what the roles say: the gateway first, which tells clients what the others wait for; then a
    /// master, because the data server asks it, unless it waits to be added to others, which may be a
    /// while; the data server waits until the masters know it.
    pub async fn start(
        &mut self,
        config: &ServerConfig,
        ports: Ports,
        registry: &Registry,
        health: &Arc<Health>,
    ) -> Result<(), Failure> {
        let Ports { gateway, data, master, choose, admin_address, .. } = ports;
        self.admin_address = Some(admin_address);
        let open = |port: ReservedPort, role| port.open(&choose(role));
        let joins_last =
            master.is_some() && config.join && !belongs_to_a_cluster(&directory(config, "master"));
        let (first, last) = if joins_last { (None, master) } else { (master, None) };
        let stores = match gateway {
            Some(port) => {
                Some(self.start_gateway(config, open(port, "gateway")?, registry, health)?)
            }
            None => None,
        };
        if let Some(port) = first {
            self.start_master(config, open(port, "master")?, registry, health).await?;
        }
        if let Some(port) = data {
            let (at, spans) = (self.admin_address(), self.spans.clone());
            let data = start_data(config, open(port, "data")?, at, (registry, spans)).await?;
            let (ready, ailing) = (data.ready(), data.ailing());
            health.started("data", move || {
                let ailing = ailing.borrow().first().cloned();
                ailing.or_else(|| (!*ready.borrow()).then(|| "a range here knows no leader".into()))
            });
            if let Some(stores) = stores {
                let (link, replies) = data.connect();
                let (ident, link) = (data.ident(), Arc::new(InProcess(link)));
                let (cluster_id, store) = (ident.cluster_id, ident.store);
                stores.connect(StoreConnection { cluster_id, store, link, replies }).await;
            }
            self.data = Some(data);
        }
        if let Some(port) = last {
            self.start_master(config, open(port, "master")?, registry, health).await?;
        }
        Ok(())
    }

    async fn start_master(
        &mut self,
        config: &ServerConfig,
        listener: TcpListener,
        registry: &Registry,
        health: &Arc<Health>,
    ) -> Result<(), Failure> {
        let listen = listener.local_addr().map_err(|why| internal("a port has no address", why))?;
        let advertise = config.advertise.master.clone().unwrap_or_else(|| listen.to_string());
        let tunables = &config.tunables;
        let settings = MasterConfig {
            data_dir: directory(config, "master"),
            advertise,
            masters: config.masters.clone(),
            join: config.join,
            node: config.name.clone(),
            admin_address: self.admin_address(),
            cluster_name: config.cluster_name.clone(),
            remembered: remembered(config),
            replicas: tunables.replicas,
            dialling: dialling(listen.ip(), &config.masters),
            tuning: master_tuning(tunables),
            sync_writes: config.sync_writes,
            registry: registry.clone(),
        };
        let is_alone = !config.roles.data && !config.roles.gateway;
        let master = match Master::start(settings, listener).await {
            // What else the process does goes on without it.
            Err(why @ MasterStartError::Removed) if !is_alone => {
                tracing::error!("{why}");
                health.started("master", || None);
                health.remarked("master", || Some(REMOVED.to_owned()));
                return Ok(());
            }
            started => started.map_err(|why| refused_master(&why))?,
        };
        let (ready, ailing, removed) = (master.ready(), master.ailing(), master.removed());
        self.removed = is_alone.then(|| removed.clone());
        let is_removed = removed.clone();
        health.started("master", move || {
            if *is_removed.borrow() {
                return None;
            }
            let ailing = ailing.borrow().clone();
            ailing.or_else(|| (!*ready.borrow()).then(|| "no master leads".into()))
        });
        health.remarked("master", move || (*removed.borrow()).then(|| REMOVED.to_owned()));
        self.master = Some(master);
        Ok(())
    }

    /// Gives back where the process's own store is to be connected.
    fn start_gateway(
        &mut self,
        config: &ServerConfig,
        listener: TcpListener,
        registry: &Registry,
        health: &Arc<Health>,
    ) -> Result<Stores, Failure> {
        let dialling = dialling(config.listen.gateway.ip(), &config.masters);
        let limits = RequestLimits { ttl_ms_min: millis(config.tunables.ttl_min) };
        let cluster = config.cluster;
        let settings = Config {
            limits,
            dialling,
            cluster,
            node: config.name.clone(),
            cluster_name: config.cluster_name.clone(),
            admin_address: self.admin_address(),
            commit: COMMIT.unwrap_or_default().to_owned(),
            logs_lock_names: config.logs_lock_names,
            spans: self.spans.clone(),
            traces_callers: config.traces.otlp.is_some(),
            traces_every: config.traces.every,
            ..Config::default()
        };
        let masters = masters(config, dialling)?;
        masters.ask_also(&remembered(config));
        let masters: Arc<dyn Directory> = Arc::new(masters);
        let gateway = Gateway::new(settings, Some(masters), registry)
            .map_err(|why| internal("metrics", why))?;
        let (readiness, stores) = (gateway.readiness(), gateway.stores());
        self.readiness = Some(readiness.clone());
        let lacks = readiness.clone();
        health.started("gateway", move || lacks.lacks());
        health.remarked("gateway", move || readiness.remark());
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(gateway.serve(listener, shutdown.clone()));
        self.gateway = Some(Serving { task, shutdown });
        Ok(stores)
    }

    /// Where others find the admin port; empty: not known yet.
    fn admin_address(&self) -> String {
        self.admin_address.map(|at| at.to_string()).unwrap_or_default()
    }

    /// Waits for an end that nobody asked for.
    pub async fn ended(&mut self) -> Result<(), Failure> {
        if let Some(removed) = &mut self.removed {
            // Its sender goes with a thread that ends in order.
            if removed.wait_for(|is_removed| *is_removed).await.is_err() {
                std::future::pending::<()>().await;
            }
            return Err(refused_master(&MasterStartError::Removed));
        }
        let Some(gateway) = &mut self.gateway else { return std::future::pending().await };
        let why = match (&mut gateway.task).await {
            Ok(Ok(())) => "it stopped by itself".to_owned(),
            Ok(Err(why)) => why.to_string(),
            Err(why) => why.to_string(),
        };
        self.gateway = None;
        Err(internal("the gateway has stopped", why))
    }

    /// Stops everything in order: nothing new is asked, then leaders of ranges go elsewhere, then
    /// the masters', who have heard of that.
    pub async fn stop(&mut self) {
        if let Some(gateway) = self.gateway.take() {
            gateway.shutdown.cancel();
            let _ = gateway.task.await;
        }
        if let Some(data) = self.data.take() {
            let _ = tokio::task::spawn_blocking(move || data.stop()).await;
        }
        if let Some(master) = self.master.take() {
            let _ = tokio::task::spawn_blocking(move || master.stop()).await;
        }
    }
}

async fn start_data(
    config: &ServerConfig,
    listener: TcpListener,
    admin_address: String,
    (registry, spans): (&Registry, Spans),
) -> Result<DataServer, Failure> {
    let listen = listener.local_addr().map_err(|why| internal("a port has no address", why))?;
    let (tunables, dialling) = (&config.tunables, dialling(listen.ip(), &config.masters));
    DataServer::start(DataServerConfig {
        data_dir: directory(config, "data"),
        listener,
        advertise: config.advertise.data.clone().unwrap_or_else(|| listen.to_string()),
        labels: config.labels.clone(),
        node: config.name.clone(),
        admin_address,
        masters: masters(config, dialling)?,
        dialling,
        tuning: tuning(tunables),
        raft_workers: tunables.raft_workers,
        memory: memory_bounds(&tunables.memory),
        ranges_max: tunables.ranges_max_per_store as usize,
        split_limits: tunables.split,
        sync_writes: config.sync_writes,
        registry: registry.clone(),
        spans,
    })
    .await
    .map_err(|why| refused(&why))
}

fn directory(config: &ServerConfig, role: &str) -> PathBuf {
    config.data_dir.as_deref().expect("roles with a store have a directory").join(role)
}

fn masters(config: &ServerConfig, dialling: Dialling) -> Result<Masters, Failure> {
    Masters::new(config.masters.clone(), dialling).map_err(|why| Failure::new(CONFIG, why))
}

/// The masters that the store of this process has heard of in an earlier life.
fn remembered(config: &ServerConfig) -> Vec<String> {
    match config.roles.data {
        true => known_masters(&directory(config, "data")),
        false => Vec::new(),
    }
}

/// Connections leave from where the process listens, where that says something: firewalls, and
/// the tests' fault proxy, tell nodes apart by it. A loopback address reaches loopback only.
fn dialling(listen: IpAddr, masters: &[String]) -> Dialling {
    let is_loopback = |address: &String| {
        address.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_loopback())
    };
    let reaches = !listen.is_loopback() || masters.iter().all(is_loopback);
    Dialling { source: (!listen.is_unspecified() && reaches).then_some(listen) }
}

fn pace(tunables: &Tunables) -> Pace {
    Pace { tick: tunables.tick, flush: tunables.image_flush, ..Pace::default() }
}

fn memory_bounds(memory: &Memory) -> MemoryBounds {
    let sessions = memory.session_acquisitions;
    let prefixes = memory.prefix_max.iter();
    MemoryBounds {
        store: memory.store_max,
        address: memory.address_max,
        // As many as the state machine lets a session have: it says so itself.
        session_acquisitions: (sessions < SESSION_ACQUISITIONS_MAX).then_some(sessions),
        prefixes: prefixes.map(|(prefix, bytes)| (prefix.as_str().into(), *bytes)).collect(),
    }
}

fn tuning(tunables: &Tunables) -> Tuning {
    let mut tuning = Tuning { pace: pace(tunables), ..Tuning::default() };
    tuning.heartbeat_every = tunables.store_heartbeat;
    tuning.log.entries_floor = tunables.log_entries_floor;
    tuning.log.entries_max = tunables.log_entries_max;
    tuning.log.bytes_max = tunables.log_bytes_max;
    let snapshots = &mut tuning.snapshots;
    let per_second = ticks_in(Duration::from_secs(1), tunables.tick);
    snapshots.chunk_bytes = tunables.snapshot_chunk;
    snapshots.window_bytes = tunables.snapshot_window;
    snapshots.bytes_per_tick = tunables.snapshot_rate.map(|rate| rate.div_ceil(per_second));
    snapshots.sending_max = tunables.snapshots_sending as usize;
    snapshots.receiving_max = tunables.snapshots_receiving as usize;
    snapshots.disk_free_min = tunables.snapshot_disk_free_min.unwrap_or(0);
    snapshots.idle_ticks_max = ticks_in(SNAPSHOT_IDLE_MAX, tunables.tick);
    tuning
}

fn master_tuning(tunables: &Tunables) -> MasterTuning {
    // The engine's settings are the same for both.
    let Tuning { log, snapshots, .. } = tuning(tunables);
    let (tick, flush) = (tunables.tick, tunables.image_flush);
    let mut tuning = MasterTuning { tick, flush, log, snapshots, ..MasterTuning::default() };
    tuning.limits.disconnected = tunables.store_disconnected;
    tuning.limits.down = tunables.store_down;
    tuning
}

fn ticks_in(duration: Duration, tick: Duration) -> u64 {
    u64::try_from(duration.as_nanos() / tick.as_nanos()).unwrap_or(u64::MAX).max(1)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The line that says why a store cannot be used, and the exit code that means configuration.
fn refused(why: &StartError) -> Failure {
    match why {
        // It names the directory itself.
        StartError::Open { source, .. } => Failure::new(CONFIG, source.to_string()),
        StartError::DataDir { .. }
        | StartError::Recover { .. }
        | StartError::OlderCopy(_)
        | StartError::Refused(_) => Failure::new(CONFIG, why.to_string()),
        StartError::Metrics(_) | StartError::Thread(_) => internal("cannot start", why),
    }
}

/// The same for a master's.
fn refused_master(why: &MasterStartError) -> Failure {
    match why {
        MasterStartError::Open { source, .. } => Failure::new(CONFIG, source.to_string()),
        MasterStartError::Metrics(_) | MasterStartError::Thread(_) => internal("cannot start", why),
        _ => Failure::new(CONFIG, why.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_from_where_the_process_listens() {
        let source = |listen: &str, master: &str| {
            let listen = listen.parse().expect("an IP address");
            dialling(listen, &[master.to_owned()]).source.map(|source| source.to_string())
        };
        assert_eq!(source("127.0.0.3", "127.0.0.1:7720").as_deref(), Some("127.0.0.3"));
        assert_eq!(source("10.0.0.3", "host-1:7720").as_deref(), Some("10.0.0.3"));
        assert_eq!(source("127.0.0.1", "host-1:7720"), None, "loopback does not reach it");
        assert_eq!(source("0.0.0.0", "10.0.0.1:7720"), None);
    }
}
