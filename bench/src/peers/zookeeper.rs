//! ZooKeeper: three nodes, and Curator's lock recipe as `zookeeper-client` has it: an ephemeral
//! sequential node with an id of its own, the list of its siblings, a watch on the one before.

use std::{fs, time::Duration};

use zookeeper_client::{Acls, Client, CreateMode, Error, LockOptions, LockPrefix};

use crate::peers::{
    process::{Process, directory, free_ports, until},
    service::{CONNECTIONS_MAX, Failed, Home, Locks, Service, rotated},
};

const NODES: usize = 3;
/// Longer than a pause of the JVM; ZooKeeper allows 20 of its ticks, 40 s.
const SESSION_TIMEOUT: Duration = Duration::from_secs(30);
/// The path in Debian's package; the jar names what it needs itself.
pub const JAR: &str = "/usr/share/java/zookeeper.jar";
/// As much as the load needs with room: three of them share a small machine.
const HEAP: &str = "-Xmx768m";

/// A running ensemble.
#[derive(Debug)]
pub struct Zookeeper {
    _processes: Vec<Process>,
    nodes: Vec<String>,
}

impl Service for Zookeeper {
    type Locks = Worker;

    async fn start(home: &Home) -> anyhow::Result<Self> {
        let ports = free_ports::<{ 3 * NODES }>()?;
        let [clients, quorum, election] =
            [0, 1, 2].map(|n| ports[n * NODES..(n + 1) * NODES].to_vec());
        let members: String = (0..NODES)
            .map(|n| format!("server.{}=127.0.0.1:{}:{}\n", n + 1, quorum[n], election[n]))
            .collect();
        let mut processes = Vec::new();
        for (node, port) in clients.iter().enumerate() {
            let data = directory(&home.dir, &format!("node-{node}"))?;
            let config = home.dir.join(format!("node-{node}.cfg"));
            fs::write(format!("{data}/myid"), (node + 1).to_string())?;
            let text = format!(
                "tickTime=2000\ninitLimit=10\nsyncLimit=5\ndataDir={data}\n\
                 clientPort={port}\nclientPortAddress=127.0.0.1\nmaxClientCnxns=0\n\
                 admin.enableServer=false\n{members}"
            );
            fs::write(&config, text)?;
            let main = "org.apache.zookeeper.server.quorum.QuorumPeerMain";
            let args = [HEAP, "-cp", JAR, main, config.to_str().unwrap_or_default()];
            let log = home.dir.join(format!("node-{node}.log"));
            processes.push(Process::spawn("java", args, log)?);
        }
        let nodes: Vec<String> =
            clients.into_iter().map(|port| format!("127.0.0.1:{port}")).collect();
        for node in &nodes {
            until("ZooKeeper", &mut processes, async || {
                let client = connect(std::slice::from_ref(node)).await?;
                client.check_stat("/").await?;
                Ok(())
            })
            .await?;
        }
        Ok(Self { _processes: processes, nodes })
    }

    /// The client looks for another node by itself.
    async fn workers(&self, count: u32, _: Option<Duration>) -> anyhow::Result<Vec<Worker>> {
        let connections = count.min(CONNECTIONS_MAX);
        let mut clients = Vec::new();
        for connection in 0..connections {
            clients.push(connect(&rotated(&self.nodes, connection)).await?);
        }
        let worker = |n: u32| Worker { client: clients[(n % connections) as usize].clone() };
        Ok((0..count).map(worker).collect())
    }
}

/// The target of the link `zookeeper.jar` names the version.
pub fn version() -> anyhow::Result<String> {
    let jar = fs::canonicalize(JAR).map_err(|why| anyhow::anyhow!("cannot find {JAR}: {why}"))?;
    let name = jar.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(name)
}

async fn connect(nodes: &[String]) -> anyhow::Result<Client> {
    let connector = Client::connector().with_session_timeout(SESSION_TIMEOUT);
    Ok(connector.connect(&nodes.join(",")).await?)
}

/// One worker; those of a connection share its client and session, as Curator's users do.
#[derive(Debug)]
pub struct Worker {
    client: Client,
}

impl Locks for Worker {
    /// The path of the hold's node.
    type Held = String;

    async fn acquire(&mut self, name: &str) -> Result<String, Failed> {
        let folder = format!("/{name}");
        let prefix = LockPrefix::new_curator(&folder, "lock-").map_err(failed)?;
        let parents = CreateMode::Container.with_acls(Acls::anyone_all());
        let options =
            LockOptions::new(Acls::anyone_all()).with_ancestor_options(parents).map_err(failed)?;
        let lock = self.client.lock(prefix, b"", options).await.map_err(failed)?;
        let path = lock.lock_path().to_owned();
        // Dropped, it would delete its node without telling when; `release` deletes it and waits
        // for the answer. Only the path's few bytes are not dropped.
        std::mem::forget(lock);
        Ok(path)
    }

    async fn release(&mut self, path: String) -> Result<(), Failed> {
        self.client.delete(&path, None).await.map_err(failed)
    }
}

fn failed(error: Error) -> Failed {
    Failed(error.to_string())
}
