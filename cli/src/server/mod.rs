//! `sharklock server`, and what `dev` runs in one process: any set of roles behind their ports.
//!
//! Here the servers' parts are wired and nothing else: what they do stands in their crates.

mod admin_http;
mod data_dir;
mod health;
mod link;
mod node;
mod ports;
mod stop;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use prometheus::{IntGauge, Opts, Registry, process_collector::ProcessCollector};
use sharklock_client::ClusterId;
use sharklock_proto::trace::Spans;
use sharklock_transport::wrong_port;
use tokio_util::sync::CancellationToken;

pub use self::{
    data_dir::{Claimed, DataDir},
    ports::ReservedPort,
    stop::Stop,
};
use self::{
    health::Health,
    node::{Node, Ports},
};
use crate::{
    args::ServerArgs,
    config::{self, Origin, Raw, Said, ServerConfig, said},
    exit::{CONFIG, Failure, INTERNAL, OK},
    logs,
    recent_spans::RecentSpans,
    render::print,
    runtime,
    traces::Collector,
};

/// How often readiness is looked at until it is there: a part of the two seconds that a start may
/// take.
const READY_LOOK: Duration = Duration::from_millis(2);
/// How long the admin port may take to answer what it was asked before the stop.
const ADMIN_STOP_MAX: Duration = Duration::from_secs(1);
/// How long the last spans may take to leave.
const SPANS_STOP_MAX: Duration = Duration::from_secs(2);
/// How long a stop may take: an orchestrator waits 30 s, then kills. An acknowledged change is on
/// the disk at any moment.
const STOP_MAX: Duration = Duration::from_secs(25);

/// Runs until SIGINT or SIGTERM. A second signal ends it at once.
pub fn run(args: ServerArgs, cluster: Option<ClusterId>) -> Result<u8, Failure> {
    let (file, print_config) = (args.config.clone(), args.print_config);
    let settings = config::load(file.as_deref(), flags(args, cluster)?)?;
    if print_config {
        print(&settings.print())?;
        return config::check(&settings).map(|_| OK);
    }
    let config = config::check(&settings)?;
    let roles = config.roles.names().join(",");
    let claimed = match config.data_dir.as_deref() {
        Some(dir) if config.data_on_volume => Some(Claimed::of_node_on_volume(dir)?),
        dir => dir.map(Claimed::of_node).transpose()?,
    };
    serve(
        &config,
        claimed,
        |role| format!("--listen-{role} IP:PORT"),
        |ready| {
            let (node, cluster_name) = (&*config.name, &*config.cluster_name);
            tracing::info!(%roles, cluster = ready.cluster_id, cluster_name, node, "ready");
            Ok(())
        },
    )
}

/// The facts of a process that is ready.
#[derive(Debug)]
pub struct Ready {
    /// The cluster's id, as hex; empty for a gateway alone.
    pub cluster_id: String,
    /// The address at which clients are served, if they are.
    pub gateway: Option<SocketAddr>,
    /// The address at which `/metrics` and health are served.
    pub admin: SocketAddr,
}

/// The command line as a source of settings.
fn flags(args: ServerArgs, cluster: Option<ClusterId>) -> Result<Vec<Said>, Failure> {
    let data_dir = match args.data_dir.map(|dir| dir.into_os_string().into_string()).transpose() {
        Ok(dir) => dir,
        Err(dir) => {
            let why = format!("--data-dir {}: the name is not UTF-8", dir.to_string_lossy());
            return Err(Failure::new(CONFIG, why));
        }
    };
    let texts = [
        ("server.name", "--name", args.name),
        ("cluster.name", "--cluster-name", args.cluster_name),
        ("server.roles", "--roles", args.roles),
        ("server.data_dir", "--data-dir", data_dir),
        ("server.masters", "--masters", args.masters),
        ("listen.gateway", "--listen-gateway", args.listen_gateway),
        ("listen.data", "--listen-data", args.listen_data),
        ("listen.master", "--listen-master", args.listen_master),
        ("listen.admin", "--listen-admin", args.listen_admin),
        ("advertise.data", "--advertise-data", args.advertise_data),
        ("advertise.master", "--advertise-master", args.advertise_master),
        ("cluster.id", "--cluster or SHARKLOCK_CLUSTER", cluster.map(|id| id.to_string())),
    ];
    let switches = [
        ("server.join", "--join", args.join),
        ("server.insecure", "--insecure", args.insecure),
        ("server.unsafe_no_fsync", "--unsafe-no-fsync", args.unsafe_no_fsync),
    ];
    let texts = texts
        .into_iter()
        .filter_map(|(name, flag, text)| Some(said(name, Raw::Text(text?), Origin::Flag(flag))));
    let switches = switches.into_iter().filter(|(.., on)| *on);
    let switches = switches.map(|(name, flag, on)| said(name, Raw::Switch(on), Origin::Flag(flag)));
    Ok(texts.chain(switches).collect())
}

/// Runs the roles of `config`, which has claimed its directory, until SIGINT or SIGTERM. `choose` is the option
/// that chooses another port for a role.
pub fn serve(
    config: &ServerConfig,
    claimed: Option<Claimed>,
    choose: fn(&str) -> String,
    tell_ready: impl FnOnce(Ready) -> Result<(), Failure>,
) -> Result<u8, Failure> {
    if let Some(path) = &config.audit_file {
        logs::audit_to(path)?;
    }
    let (node, settings) = (&*config.name, &*config.chosen);
    let roles = config.roles.names().join(",");
    tracing::info!(target: logs::AUDIT, node, roles, settings, "configuration");
    let raft_workers = if config.roles.data { config.tunables.raft_workers.get() } else { 0 };
    let runtime = runtime::start(runtime::threads_beside(raft_workers))?;
    let lived = {
        let _inside = runtime.enter();
        let ports = Ports::take(config, choose)?;
        let registry = registry().map_err(|why| internal("metrics", why))?;
        runtime.block_on(live(config, ports, registry, tell_ready))
    };
    // A part that waits for a disk which does not answer must not keep the process: to drop the
    // runtime would wait for it without end.
    runtime.shutdown_background();
    lived?;
    drop(claimed);
    Ok(OK)
}

async fn live(
    config: &ServerConfig,
    ports: Ports,
    registry: Registry,
    tell_ready: impl FnOnce(Ready) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut stop = Stop::listen()?;
    let (ports, admin) = ports.open_admin()?;
    let wrong = match ports.gateway_address() {
        Some(at) => {
            format!("this is the admin port of {}: clients are served at {at}", config.name)
        }
        None => wrong_port("admin", &config.name),
    };
    let health = Arc::new(Health::of(Node::parts(config)));
    let shutdown = CancellationToken::new();
    let collector = config.traces.otlp.as_ref();
    let collector = collector.map(|url| Collector::at(url, &config.name)).transpose()?;
    let spans = Arc::new(RecentSpans::before(collector.as_ref().map(Collector::sink)));
    let debug = admin_http::Debug { config: config.printed.clone(), spans: Arc::clone(&spans) };
    let routes = admin_http::routes(registry.clone(), health.clone(), debug, &wrong);
    let admin = tokio::spawn(admin_http::serve(admin, routes, shutdown.clone()));
    let mut node = Node::telling(Spans::to(spans));
    let ended = tokio::select! {
        ended = start_and_watch(&mut node, config, ports, (&registry, &health), tell_ready) => ended,
        _ = stop.next() => Ok(()),
    };
    health.stop();
    stop.next_ends_the_process();
    if ended.is_ok() {
        tracing::info!("stopping");
    }
    if tokio::time::timeout(STOP_MAX, node.stop()).await.is_err() {
        tracing::warn!("not everything ended in time; what was acknowledged is on the disk");
    }
    if let Some(collector) = collector {
        let finish = move || collector.finish(SPANS_STOP_MAX);
        drop(tokio::task::spawn_blocking(finish).await);
    }
    shutdown.cancel();
    drop(tokio::time::timeout(ADMIN_STOP_MAX, admin).await);
    ended
}

/// From the start to an end that nobody asked for.
async fn start_and_watch(
    node: &mut Node,
    config: &ServerConfig,
    ports: Ports,
    (registry, health): (&Registry, &Arc<Health>),
    tell_ready: impl FnOnce(Ready) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let (gateway, admin) = (ports.gateway_address(), ports.admin_address());
    node.start(config, ports, registry, health).await?;
    tokio::select! {
        () = until_ready(health) => {}
        ended = node.ended() => return ended,
    }
    let cluster_id = node.cluster_id().unwrap_or_default();
    let info = cluster_info(registry, config, &cluster_id);
    info.map_err(|why| internal("metrics", why))?;
    tell_ready(Ready { cluster_id, gateway, admin })?;
    node.ended().await
}

async fn until_ready(health: &Health) {
    while !health.is_ready() {
        tokio::time::sleep(READY_LOOK).await;
    }
}

/// Metrics of the process itself; the parts add theirs.
fn registry() -> Result<Registry, prometheus::Error> {
    let registry = Registry::new();
    registry.register(Box::new(ProcessCollector::for_self()))?;
    let build = Opts::new("sharklock_build_info", "1, labelled with the version of this process.")
        .const_label("version", env!("CARGO_PKG_VERSION"));
    let build = IntGauge::with_opts(build)?;
    build.set(1);
    registry.register(Box::new(build))?;
    Ok(registry)
}

/// Says of which cluster all other metrics of the process are.
fn cluster_info(
    registry: &Registry,
    config: &ServerConfig,
    cluster_id: &str,
) -> Result<(), prometheus::Error> {
    let help = "1, labelled with the cluster of this process, and with what people call both.";
    let info = Opts::new("sharklock_cluster_info", help)
        .const_label("cluster_id", cluster_id)
        .const_label("cluster_name", &config.cluster_name)
        .const_label("node", &config.name);
    let info = IntGauge::with_opts(info)?;
    info.set(1);
    registry.register(Box::new(info))
}

fn internal(what: &str, why: impl std::fmt::Display) -> Failure {
    Failure::new(INTERNAL, what).cause(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_settings_with_their_names() {
        let args = ServerArgs {
            roles: Some("data".into()),
            data_dir: Some("/d".into()),
            masters: Some("a:1".into()),
            listen_data: Some("127.0.0.1:1".into()),
            insecure: true,
            ..ServerArgs::default()
        };
        let flags = flags(args, None).expect("they are UTF-8");
        let names: Vec<_> = flags.iter().map(|flag| flag.key.name).collect();
        assert_eq!(
            names,
            ["server.roles", "server.data_dir", "server.masters", "listen.data", "server.insecure"]
        );
        assert!(flags.iter().all(|flag| matches!(flag.origin, Origin::Flag(_))));
    }
}
