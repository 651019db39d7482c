//! SharkLock: three `sharklock server` with all roles, and the Rust client.

use std::time::Duration;

use anyhow::Context as _;
use sharklock_client::{Client, Guard};

use crate::{
    peers::{
        process::{Process, directory, free_ports, until},
        service::{CONNECTIONS_MAX, Failed, Home, Locks, Replicated, Service, rotated},
    },
    worker::error_kind,
};

const NODES: usize = 3;
/// How long one look whether it serves may take.
const LOOK_MAX: Duration = Duration::from_secs(5);

/// A running cluster.
#[derive(Debug)]
pub struct Sharklock {
    processes: Vec<Process>,
    gateways: Vec<String>,
    /// The store's address of each process, by which the leader's process is found.
    stores: Vec<String>,
    /// The admin address of each process.
    admins: Vec<String>,
}

impl Sharklock {
    /// Starts it with more options for each server, and returns when it serves.
    pub async fn start_with(home: &Home, options: &[&str]) -> anyhow::Result<Self> {
        let addresses = |ports: [u16; NODES]| ports.map(|port| format!("127.0.0.1:{port}"));
        let ports = free_ports::<{ 4 * NODES }>()?;
        let group = |n: usize| {
            addresses(ports[n * NODES..(n + 1) * NODES].try_into().expect("a group has NODES"))
        };
        let [gateways, stores, masters, admins] = [0, 1, 2, 3].map(group);
        let mut processes = Vec::new();
        for node in 0..NODES {
            let data = directory(&home.dir, &format!("node-{node}"))?;
            let masters_all = masters.join(",");
            let args = [
                "server",
                "--roles",
                "master,data,gateway",
                "--data-dir",
                &data,
                "--masters",
                &masters_all,
                "--listen-gateway",
                &gateways[node],
                "--listen-data",
                &stores[node],
                "--listen-master",
                &masters[node],
                "--listen-admin",
                &admins[node],
            ];
            let log = home.dir.join(format!("node-{node}.log"));
            let args = args.iter().chain(options);
            processes.push(Process::spawn(&home.sharklock, args, log)?);
        }
        let gateways = gateways.map(|address| format!("http://{address}")).to_vec();
        for gateway in &gateways {
            let client = client(std::slice::from_ref(gateway))?;
            until("SharkLock", &mut processes, async || serves(&client).await).await?;
        }
        Ok(Self { processes, gateways, stores: stores.to_vec(), admins: admins.to_vec() })
    }

    /// The ids of all servers.
    pub fn process_ids(&self) -> Vec<u32> {
        self.processes.iter().map(Process::id).collect()
    }

    /// The admin addresses of all servers.
    pub fn admins(&self) -> &[String] {
        &self.admins
    }
}

impl Service for Sharklock {
    type Locks = Worker;

    async fn start(home: &Home) -> anyhow::Result<Self> {
        Self::start_with(home, &[]).await
    }

    /// The client looks for another gateway by itself.
    async fn workers(&self, count: u32, _: Option<Duration>) -> anyhow::Result<Vec<Worker>> {
        let connections = count.min(CONNECTIONS_MAX);
        let clients: Vec<Client> = (0..connections)
            .map(|connection| client(&rotated(&self.gateways, connection)))
            .collect::<anyhow::Result<_>>()?;
        let worker = |n: u32| Worker { client: clients[(n % connections) as usize].clone() };
        Ok((0..count).map(worker).collect())
    }
}

impl Replicated for Sharklock {
    /// The leader of the range, which has all names.
    async fn leader(&mut self) -> anyhow::Result<&mut Process> {
        let status = client(&self.gateways)?.status().await?;
        let leader = status.ranges.first().context("there is no range")?.leader_store_id;
        let store = status.stores.iter().find(|store| store.store_id == leader);
        let address = &store.context("nobody leads the range")?.address;
        let node = self.stores.iter().position(|store| store == address);
        Ok(&mut self.processes[node.with_context(|| format!("no process serves {address}"))?])
    }
}

fn client(gateways: &[String]) -> anyhow::Result<Client> {
    Ok(Client::builder().endpoints(gateways).identity("bench").build()?)
}

/// The range has a leader and all its voters, and this gateway can grant.
async fn serves(client: &Client) -> anyhow::Result<()> {
    let look = async {
        let status = client.status().await?;
        let range = status.ranges.first().context("there is no range")?;
        anyhow::ensure!(range.voter_store_ids.len() == NODES, "the range lacks a voter");
        client.lock("ready").acquire().await?.release().await?;
        Ok(())
    };
    tokio::time::timeout(LOOK_MAX, look).await?
}

/// One worker; those of a connection share its client and session.
#[derive(Debug)]
pub struct Worker {
    client: Client,
}

impl Locks for Worker {
    type Held = Guard;

    async fn acquire(&mut self, name: &str) -> Result<Guard, Failed> {
        let acquired = self.client.lock(name).acquire().await;
        acquired.map_err(|error| Failed(error_kind(&error).to_owned()))
    }

    async fn release(&mut self, guard: Guard) -> Result<(), Failed> {
        guard.release().await.map_err(|_| Failed("release not confirmed".to_owned()))
    }
}
