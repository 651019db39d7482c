//! The parts of one process: started in the order in which they need each other, stopped in the
//! other one.

use std::{net::SocketAddr, sync::Arc};

use prometheus::Registry;
use sharklock_dataserver::{DataServer, DataServerConfig, StartError};
use sharklock_gateway::{Config, Gateway, ServeError, StoreConnection};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{health::Health, internal, link::InProcess, ports::ReservedPort};
use crate::{
    config::{Roles, ServerConfig},
    exit::{CONFIG, Failure},
};

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

    /// Where clients are served, if they are.
    pub fn gateway_address(&self) -> Option<SocketAddr> {
        self.gateway.as_ref().map(ReservedPort::address)
    }

    /// Where `/metrics` and health are served.
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

/// See the module. What has started is here, so that it can be stopped at any moment.
#[derive(Default)]
pub struct Node {
    data: Option<DataServer>,
    gateway: Option<Serving>,
}

/// A gateway that serves.
struct Serving {
    task: JoinHandle<Result<(), ServeError>>,
    shutdown: CancellationToken,
}

impl Node {
    /// The parts of a process with these roles, and what each does until it has started.
    pub fn parts(roles: Roles) -> Vec<(&'static str, &'static str)> {
        let all = [(roles.data, "data", "starting"), (roles.gateway, "gateway", "starting")];
        all.into_iter().filter(|(used, ..)| *used).map(|(_, role, does)| (role, does)).collect()
    }

    /// The cluster's id as hex, once a store knows it.
    pub fn cluster_id(&self) -> Option<String> {
        self.data.as_ref().map(|data| hex(&data.ident().cluster_id))
    }

    /// Starts what the roles say.
    pub async fn start(
        &mut self,
        config: &ServerConfig,
        ports: Ports,
        registry: &Registry,
        health: &Arc<Health>,
    ) -> Result<(), Failure> {
        let data = DataServer::start(DataServerConfig {
            data_dir: config.data_dir.clone().expect("checked").join("data"),
            address: "in process".to_owned(),
            sync_writes: config.sync_writes,
            registry: registry.clone(),
        })
        .map_err(|why| refused(&why))?;
        health.started("data", || None);
        let (link, replies) = data.connect();
        let connection =
            StoreConnection { store: data.ident().store, link: Arc::new(InProcess(link)), replies };
        self.data = Some(data);
        let gateway = Gateway::new(Config::default(), None, registry)
            .map_err(|why| internal("metrics", why))?;
        gateway.stores().connect(connection).await;
        let readiness = gateway.readiness();
        health.started("gateway", move || {
            (!readiness.is_ready()).then(|| "no store answers, or a range has no leader".to_owned())
        });
        let port = ports.gateway.expect("the role has a port");
        let shutdown = CancellationToken::new();
        let listener = port.open(&(ports.choose)("gateway"))?;
        let task = tokio::spawn(gateway.serve(listener, shutdown.clone()));
        self.gateway = Some(Serving { task, shutdown });
        Ok(())
    }

    /// Waits for an end that nobody asked for.
    pub async fn ended(&mut self) -> Result<(), Failure> {
        match &mut self.gateway {
            None => std::future::pending().await,
            Some(gateway) => {
                let why = match (&mut gateway.task).await {
                    Ok(Ok(())) => "it stopped by itself".to_owned(),
                    Ok(Err(why)) => why.to_string(),
                    Err(why) => why.to_string(),
                };
                self.gateway = None;
                Err(internal("the gateway has stopped", why))
            }
        }
    }

    /// Stops everything in order.
    pub async fn stop(&mut self) {
        if let Some(gateway) = self.gateway.take() {
            gateway.shutdown.cancel();
            let _ = gateway.task.await;
        }
        if let Some(data) = self.data.take() {
            let _ = tokio::task::spawn_blocking(move || data.stop()).await;
        }
    }
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

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
