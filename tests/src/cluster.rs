//! A cluster of `sharklock server` processes, each on a loopback address of its own, with a
//! [`LinkProxy`] in front of every port.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use sharklock_client::Client;
use sharklock_proto::v1::GetStatusResponse;
use tempfile::TempDir;

use crate::link_proxy::LinkProxy;
use crate::process::{Process, command};
use crate::wait::eventually;

/// For a start, an election or a stop on a busy machine: what the product promises is asserted by
/// the tests that are about it.
pub const SOON: Duration = Duration::from_secs(60);

const GATEWAY: u16 = 7700;
const DATA: u16 = 7710;
const MASTER: u16 = 7720;
const ADMIN: u16 = 7790;

/// The values for chaos tests (decisions.md, *Defaults*).
pub const CHAOS: &str = "\
[raft]
workers = 4
tick = \"50ms\"
[log]
entries_floor = 32
entries_max = 256
[snapshot]
chunk = \"1KiB\"
window = \"4KiB\"
rate_per_second = \"off\"
slots_sending = 1
slots_receiving = 1
[cluster]
store_heartbeat = \"200ms\"
store_disconnected = \"2s\"
store_down = \"10s\"
[lease]
ttl_min = \"1s\"
";

/// See the module. All processes end with it.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    /// Between everybody.
    pub links: LinkProxy,
    _dir: TempDir,
}

#[derive(Debug)]
struct Node {
    process: Option<Process>,
    /// The address at which it listens, and from which it dials.
    own: IpAddr,
    /// The address at which others reach it.
    public: IpAddr,
    data_dir: PathBuf,
    args: Vec<String>,
}

impl Cluster {
    /// So many nodes with all roles and these settings, ready. Masters are an odd number, so an even number
    /// of nodes has one without.
    pub async fn start(nodes: usize, settings: &str) -> Self {
        let mut cluster = Self::new(nodes, settings).await;
        (0..nodes).for_each(|node| cluster.spawn(node));
        for node in 0..nodes {
            cluster.until_ready(node).await;
        }
        cluster
    }

    /// The same, none of them started.
    pub async fn new(nodes: usize, settings: &str) -> Self {
        let dir = TempDir::new().expect("a temporary directory can be made");
        let config = dir.path().join("config.toml");
        std::fs::write(&config, settings).expect("the directory is ours");
        let net = free_net();
        let address =
            |last: usize| IpAddr::from([127, net.0, net.1, u8::try_from(last).expect("few nodes")]);
        let (own, public) = (|node| address(1 + node), |node| address(101 + node));
        let mut links = LinkProxy::new((0..nodes).map(own));
        for node in 0..nodes {
            for port in [GATEWAY, DATA, MASTER] {
                let listen = SocketAddr::new(public(node), port);
                links.open(node, listen, SocketAddr::new(own(node), port)).await;
            }
        }
        let masters_count = nodes - (nodes + 1) % 2;
        let masters = (0..masters_count).map(|node| SocketAddr::new(public(node), MASTER));
        let masters: Vec<_> = masters.map(|master| master.to_string()).collect();
        let node = |node: usize| {
            let data_dir = dir.path().join(format!("node-{}", node + 1));
            let listen = |port| SocketAddr::new(own(node), port).to_string();
            let advertise = |port| SocketAddr::new(public(node), port).to_string();
            let is_master = node < masters_count;
            let roles = if is_master { "master,data,gateway" } else { "data,gateway" };
            let flags = [
                ("--roles", roles.to_owned()),
                ("--config", config.display().to_string()),
                ("--masters", masters.join(",")),
                ("--listen-gateway", listen(GATEWAY)),
                ("--listen-data", listen(DATA)),
                ("--listen-admin", listen(ADMIN)),
                ("--advertise-data", advertise(DATA)),
            ];
            let of_master =
                [("--listen-master", listen(MASTER)), ("--advertise-master", advertise(MASTER))];
            let of_master = of_master.into_iter().filter(|_| is_master);
            let args = flags
                .into_iter()
                .chain(of_master)
                .flat_map(|(flag, value)| [flag.to_owned(), value]);
            let args = args.collect();
            Node { process: None, own: own(node), public: public(node), data_dir, args }
        };
        Self { nodes: (0..nodes).map(node).collect(), links, _dir: dir }
    }

    /// Starts a node that does not run.
    pub fn spawn(&mut self, node: usize) {
        self.spawn_with(node, |command| command);
    }

    /// The same, with a wrapper around the command (as `strace`).
    pub fn spawn_with(&mut self, node: usize, wrap: impl FnOnce(Command) -> Command) {
        let mut server = command(["server"]);
        server.args(self.args(node));
        self.nodes[node].process = Some(Process::spawn(&mut wrap(server)));
    }

    /// Waits until a node says that it is ready.
    pub async fn until_ready(&mut self, node: usize) {
        let admin = SocketAddr::new(self.nodes[node].own, ADMIN).to_string();
        let process = self.nodes[node].process.as_mut().expect("it runs");
        let deadline = tokio::time::Instant::now() + SOON;
        loop {
            let ended = process.ended();
            assert!(ended.is_none(), "node {node} ended: {ended:?}\n{}", process.stderr());
            let said = crate::server::get(&admin, "/readyz").await;
            if said.as_ref().is_ok_and(|(status, _)| *status == 200) {
                return;
            }
            let is_late = tokio::time::Instant::now() >= deadline;
            assert!(!is_late, "node {node} is not ready after {SOON:?}: {said:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Status and text of a node's `/readyz`, if it answers.
    pub async fn readiness(&self, node: usize) -> Option<(u16, String)> {
        let admin = SocketAddr::new(self.nodes[node].own, ADMIN).to_string();
        crate::server::get(&admin, "/readyz").await.ok()
    }

    /// `ADDRESS:PORT` of a node's metrics and health.
    pub fn admin(&self, node: usize) -> String {
        SocketAddr::new(self.nodes[node].own, ADMIN).to_string()
    }

    /// The metrics of a node that runs.
    ///
    /// # Panics
    /// When its admin port does not answer.
    pub async fn metrics(&self, node: usize) -> String {
        let admin = SocketAddr::new(self.nodes[node].own, ADMIN).to_string();
        crate::server::get(&admin, "/metrics").await.expect("the admin port answers").1
    }

    /// A running node's process.
    pub fn process(&mut self, node: usize) -> &mut Process {
        self.nodes[node].process.as_mut().expect("it runs")
    }

    /// Whether a node runs.
    pub fn runs(&self, node: usize) -> bool {
        self.nodes[node].process.is_some()
    }

    /// Kills a node as a power cut would.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].process.take().expect("it runs").kill();
    }

    /// Freezes a node.
    pub fn pause(&self, node: usize) {
        self.nodes[node].process.as_ref().expect("it runs").signal(Signal::SIGSTOP);
    }

    /// A frozen node goes on.
    pub fn resume(&self, node: usize) {
        self.nodes[node].process.as_ref().expect("it runs").signal(Signal::SIGCONT);
    }

    /// Ends a node in order.
    ///
    /// # Panics
    /// When it does not end with 0.
    pub async fn stop(&mut self, node: usize) {
        let mut process = self.nodes[node].process.take().expect("it runs");
        process.signal(Signal::SIGTERM);
        let status = process.ends(SOON).await;
        assert!(status.success(), "{status}\n{}", process.stderr());
    }

    /// Starts a node again, and waits until it is ready.
    pub async fn restart(&mut self, node: usize) {
        self.spawn(node);
        self.until_ready(node).await;
    }

    /// How many nodes there are, running or not.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The address at which clients reach a node's gateway.
    pub fn endpoint(&self, node: usize) -> String {
        format!("http://{}", SocketAddr::new(self.nodes[node].public, GATEWAY))
    }

    /// The addresses at which clients reach all gateways.
    pub fn endpoints(&self) -> Vec<String> {
        (0..self.len()).map(|node| self.endpoint(node)).collect()
    }

    /// A client of all gateways with a session of its own.
    pub fn client(&self) -> Client {
        client(self.endpoints())
    }

    /// A node's data directory.
    pub fn data_dir(&self, node: usize) -> PathBuf {
        self.nodes[node].data_dir.clone()
    }

    /// Before its first start: where a node keeps its data.
    pub fn keep_data_in(&mut self, node: usize, dir: &Path) {
        dir.clone_into(&mut self.nodes[node].data_dir);
    }

    /// A node's arguments, for a process that is to be another.
    pub fn args(&self, node: usize) -> Vec<String> {
        let dir = self.nodes[node].data_dir.display().to_string();
        [self.nodes[node].args.clone(), vec!["--data-dir".to_owned(), dir]].concat()
    }

    /// The cluster as a node's gateway sees it.
    pub async fn status(&self, by: usize) -> Option<GetStatusResponse> {
        let client = client([self.endpoint(by)]);
        let asked = tokio::time::timeout(Duration::from_secs(6), client.status()).await;
        asked.ok()?.ok()
    }

    /// The node whose store leads the first range, by the word of these nodes.
    pub async fn leader(&self, by: &[usize]) -> usize {
        self.leader_of_but("", by, None).await
    }

    /// The same, once it is another than `old`.
    pub async fn next_leader(&self, by: &[usize], old: usize) -> usize {
        self.leader_of_but("", by, Some(old)).await
    }

    /// The node whose store leads the range of a name, by the word of these nodes.
    pub async fn leader_of(&self, name: &str, by: &[usize]) -> usize {
        self.leader_of_but(name, by, None).await
    }

    /// The same, once it is another than `old`.
    pub async fn next_leader_of(&self, name: &str, by: &[usize], old: usize) -> usize {
        self.leader_of_but(name, by, Some(old)).await
    }

    async fn leader_of_but(&self, name: &str, by: &[usize], old: Option<usize>) -> usize {
        eventually(&format!("a leader of the range of {name:?}"), SOON, async || {
            for node in by {
                let Some(status) = self.status(*node).await else { continue };
                let range = status.ranges.iter().rfind(|range| range.start.as_str() <= name);
                let leader = range.map_or(0, |range| range.leader_store_id);
                let store = status.stores.iter().find(|store| store.store_id == leader);
                let found = store.and_then(|store| self.node_at(&store.address));
                if found.is_some() && found != old {
                    return found;
                }
            }
            None
        })
        .await
    }

    /// The node of the leading master, by a master's word.
    pub async fn leading_master(&self, by: &[usize]) -> usize {
        eventually("a leading master", SOON, async || {
            for node in by {
                let Some(status) = self.status(*node).await else { continue };
                let leads = status.masters.iter().find(|master| master.is_leader);
                if let Some(found) = leads.and_then(|master| self.node_at(&master.address)) {
                    return Some(found);
                }
            }
            None
        })
        .await
    }

    /// Waits until a gateway finds nothing wrong.
    pub async fn until_healthy(&self) {
        let mut last = String::new();
        let mut look = async || {
            let status = self.status(0).await?;
            last.clear();
            let _ = write!(last, "{:?} {:?}", status.warnings, status.ranges);
            let whole = status.ranges.first()?.replicas.len() == self.len().min(3);
            (status.warnings.is_empty() && whole).then_some(())
        };
        let deadline = tokio::time::Instant::now() + SOON;
        while look().await.is_none() {
            assert!(tokio::time::Instant::now() < deadline, "not healthy after {SOON:?}: {last}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn node_at(&self, address: &str) -> Option<usize> {
        let at: SocketAddr = address.parse().ok()?;
        self.nodes.iter().position(|node| node.public == at.ip())
    }
}

/// A client of these gateways with a session of its own.
pub fn client(endpoints: impl IntoIterator<Item = String>) -> Client {
    let client = Client::builder().endpoints(endpoints).identity("tests").build();
    client.expect("the endpoints are addresses")
}

/// Two numbers between 127 and the last that no other cluster of this machine uses.
fn free_net() -> (u8, u8) {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let own = u8::try_from(std::process::id() % 200).expect("below 200");
    for _ in 0..200 {
        let net = (20 + own, NEXT.fetch_add(1, Ordering::Relaxed));
        if std::net::TcpListener::bind((IpAddr::from([127, net.0, net.1, 1]), DATA)).is_ok() {
            return net;
        }
    }
    panic!("no addresses are free for a cluster");
}
