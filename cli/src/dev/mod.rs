//! `sharklock dev`: a data server and a gateway in one process, on loopback.
//!
//! Here the servers' parts are wired and nothing else: what they do stands in their crates.

mod admin_http;
mod banner;
mod data_dir;
mod link;
mod ports;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal as UnixSignal;
use prometheus::{IntGauge, Opts, Registry, process_collector::ProcessCollector};
use sharklock_dataserver::{DataServer, DataServerConfig, StartError};
use sharklock_gateway::{Config, Gateway, Readiness, StoreConnection};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use self::{banner::Banner, data_dir::DataDir, link::InProcess, ports::ReservedPort};
use crate::{
    args::DevArgs,
    exit::{CONFIG, Failure, INTERNAL, OK},
    render::print,
    runtime,
};

const LISTEN: &str = "--listen";
const ADMIN_LISTEN: &str = "--admin-listen";
/// How often readiness is looked at until it is there: a part of the two seconds that a start may
/// take.
const READY_LOOK: Duration = Duration::from_millis(2);
/// How long the admin port may take to answer what it was asked before the stop.
const ADMIN_STOP_MAX: Duration = Duration::from_secs(1);

/// Runs until SIGINT or SIGTERM. A second signal ends it at once.
pub fn run(args: &DevArgs) -> Result<u8, Failure> {
    let started = now();
    let runtime = runtime::start(runtime::workers_per_core())?;
    let _inside = runtime.enter();
    // What can be refused is refused before anything is written or opened, in this order.
    let gateway_port = ReservedPort::take(args.listen, LISTEN)?;
    let admin_port = ReservedPort::take(args.admin_listen, ADMIN_LISTEN)?;
    let data_dir =
        if args.ephemeral { DataDir::temporary()? } else { DataDir::kept(&args.data_dir)? };
    let registry = registry().map_err(|why| internal("metrics", why))?;
    let store = DataServer::start(DataServerConfig {
        data_dir: data_dir.path().to_owned(),
        address: "in process".to_owned(),
        sync_writes: !args.unsafe_no_fsync,
        registry: registry.clone(),
    })
    .map_err(|why| refused(&why))?;

    let served = runtime.block_on(async {
        let stop = Stop::listen()?;
        let ports = (gateway_port, admin_port);
        serve(&store, &registry, ports, stop, |gateway, admin| {
            print(
                &Banner {
                    cluster_id: &hex(&store.ident().cluster_id),
                    data_dir: data_dir.path(),
                    ephemeral: args.ephemeral,
                    unsafe_no_fsync: args.unsafe_no_fsync,
                    gateway,
                    admin,
                    ready_after: now() - started,
                    program: &banner::callable_path(),
                }
                .to_string(),
            )
        })
        .await
    });
    store.stop();
    served.map(|()| OK)
}

async fn serve(
    store: &DataServer,
    registry: &Registry,
    (gateway_port, admin_port): (ReservedPort, ReservedPort),
    mut stop: Stop,
    tell_ready: impl FnOnce(SocketAddr, SocketAddr) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let (link, replies) = store.connect();
    let connection =
        StoreConnection { store: store.ident().store, link: Arc::new(InProcess(link)), replies };
    let gateway = Gateway::new(Config::default(), None, registry)
        .map_err(|why| internal("metrics", why))?;
    gateway.stores().connect(connection).await;
    let readiness = gateway.readiness();
    let (gateway_address, admin_address) = (gateway_port.address(), admin_port.address());
    let shutdown = CancellationToken::new();

    let admin = admin_http::serve(
        admin_port.open(ADMIN_LISTEN)?,
        admin_http::routes(registry.clone(), readiness.clone()),
        shutdown.clone(),
    );
    let admin = tokio::spawn(admin);
    let listener = gateway_port.open(LISTEN)?;
    let mut gateway = tokio::spawn(gateway.serve(listener, shutdown.clone()));

    let early = tokio::select! {
        () = until_ready(&readiness) => {
            tell_ready(gateway_address, admin_address)?;
            tokio::select! {
                served = &mut gateway => Some(served),
                () = stop.asked() => None,
            }
        }
        served = &mut gateway => Some(served),
        () = stop.asked() => None,
    };
    shutdown.cancel();
    stop.next_ends_the_process();
    let served = match early {
        Some(served) => served,
        None => {
            tracing::info!("stopping");
            gateway.await
        }
    };
    drop(tokio::time::timeout(ADMIN_STOP_MAX, admin).await);
    match served {
        Ok(Ok(())) => Ok(()),
        Ok(Err(why)) => Err(internal("the gateway has stopped", why)),
        Err(why) => Err(internal("the gateway has stopped", why)),
    }
}

async fn until_ready(readiness: &Readiness) {
    while !readiness.is_ready() {
        tokio::time::sleep(READY_LOOK).await;
    }
}

/// SIGINT and SIGTERM.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    fn listen() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|why| internal("cannot listen to signals", why));
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// The next one's number.
    async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => UnixSignal::SIGINT as u8,
            _ = self.terminate.recv() => UnixSignal::SIGTERM as u8,
        }
    }

    async fn asked(&mut self) {
        self.next().await;
    }

    /// Somebody who asks twice does not want to wait. What was acknowledged is on the disk already.
    fn next_ends_the_process(mut self) -> JoinHandle<()> {
        tokio::spawn(async move {
            let number = self.next().await;
            std::process::exit(128 + i32::from(number));
        })
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

/// The line that says why a store cannot be used, and the exit code that means configuration.
fn refused(why: &StartError) -> Failure {
    match why {
        // It names the directory itself.
        StartError::Open { source, .. } => Failure::new(CONFIG, source.to_string()),
        StartError::DataDir { .. } | StartError::Recover { .. } => {
            Failure::new(CONFIG, why.to_string())
        }
        StartError::Metrics(_) | StartError::Thread(_) => internal("cannot start", why),
    }
}

fn internal(what: &str, why: impl std::fmt::Display) -> Failure {
    Failure::new(INTERNAL, what).cause(why)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[expect(clippy::disallowed_methods, reason = "how long the start took, for the banner")]
fn now() -> Instant {
    Instant::now()
}
