//! etcd: three nodes, `v3lock.Lock` and `Unlock`, a lease per worker.
//!
//! The published clients need `protoc` to build. Four calls are all that is needed, so their
//! messages stand here; field numbers are those of etcd's `rpc.proto` and `v3lock.proto`.

use std::time::Duration;

use anyhow::Context as _;
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use crate::peers::{
    process::{Process, directory, free_ports, until},
    service::{CONNECTIONS_MAX, Failed, Home, Locks, Replicated, Service, rotated},
};

const NODES: usize = 3;
/// Longer than any run, so that no worker needs keepalives: that favours etcd.
const LEASE_TTL_S: i64 = 600;
/// How long one look whether it serves may take.
const LOOK_MAX: Duration = Duration::from_secs(5);

mod wire {
    //! Messages of etcd's API, with the fields that are used.

    /// In every answer.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Header {
        /// The node that answered.
        #[prost(uint64, tag = "2")]
        pub member_id: u64,
    }
    /// Asks a node for its state.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct StatusRequest {}
    /// A node's state.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct StatusResponse {
        /// The member that answered.
        #[prost(message, optional, tag = "1")]
        pub header: Option<Header>,
        /// The leader as this node knows it; 0: none.
        #[prost(uint64, tag = "4")]
        pub leader: u64,
    }
    /// Asks for a lease.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct LeaseGrantRequest {
        /// Seconds.
        #[prost(int64, tag = "1")]
        pub ttl: i64,
    }
    /// A lease.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct LeaseGrantResponse {
        /// Names it.
        #[prost(int64, tag = "2")]
        pub id: i64,
    }
    /// Waits for a lock.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct LockRequest {
        /// Its name.
        #[prost(bytes = "vec", tag = "1")]
        pub name: Vec<u8>,
        /// Ends the hold when it ends. The same lease on the same lock again is the same hold.
        #[prost(int64, tag = "2")]
        pub lease: i64,
    }
    /// A hold.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct LockResponse {
        /// Names it.
        #[prost(bytes = "vec", tag = "2")]
        pub key: Vec<u8>,
    }
    /// Ends a hold.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct UnlockRequest {
        /// Which.
        #[prost(bytes = "vec", tag = "1")]
        pub key: Vec<u8>,
    }
    /// It has ended.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct UnlockResponse {}
}

/// A running cluster.
#[derive(Debug)]
pub struct Etcd {
    processes: Vec<Process>,
    endpoints: Vec<Endpoint>,
}

impl Service for Etcd {
    type Locks = Worker;

    async fn start(home: &Home) -> anyhow::Result<Self> {
        let ports = free_ports::<{ 2 * NODES }>()?;
        let [clients, peers] = [0, 1].map(|n| {
            let urls = ports[n * NODES..(n + 1) * NODES].iter();
            urls.map(|port| format!("http://127.0.0.1:{port}")).collect::<Vec<_>>()
        });
        let members: Vec<String> =
            peers.iter().enumerate().map(|(n, url)| format!("n{n}={url}")).collect();
        let mut processes = Vec::new();
        for node in 0..NODES {
            let args = [
                format!("--name=n{node}"),
                format!("--data-dir={}", directory(&home.dir, &format!("node-{node}"))?),
                format!("--listen-client-urls={}", clients[node]),
                format!("--advertise-client-urls={}", clients[node]),
                format!("--listen-peer-urls={}", peers[node]),
                format!("--initial-advertise-peer-urls={}", peers[node]),
                format!("--initial-cluster={}", members.join(",")),
                "--initial-cluster-state=new".to_owned(),
                "--logger=zap".to_owned(),
                "--log-level=warn".to_owned(),
            ];
            let log = home.dir.join(format!("node-{node}.log"));
            processes.push(Process::spawn("etcd", args, log)?);
        }
        let endpoints: Vec<Endpoint> =
            clients.into_iter().map(Endpoint::from_shared).collect::<Result<_, _>>()?;
        for endpoint in &endpoints {
            let channel = endpoint.connect_lazy();
            until("etcd", &mut processes, async || serves(&channel).await).await?;
        }
        Ok(Self { processes, endpoints })
    }

    async fn workers(&self, count: u32, patience: Option<Duration>) -> anyhow::Result<Vec<Worker>> {
        let connections = count.min(CONNECTIONS_MAX);
        let channels: Vec<Vec<Channel>> = (0..connections)
            .map(|n| rotated(&self.endpoints, n).iter().map(Endpoint::connect_lazy).collect())
            .collect();
        let mut workers = Vec::new();
        for n in 0..count {
            let channels = channels[(n % connections) as usize].clone();
            let lease = grant_lease(&channels[0]).await?;
            workers.push(Worker { channels, current: 0, lease, patience });
        }
        Ok(workers)
    }
}

impl Replicated for Etcd {
    async fn leader(&mut self) -> anyhow::Result<&mut Process> {
        for (node, endpoint) in self.endpoints.iter().enumerate() {
            let status = status(&endpoint.connect_lazy()).await?;
            if status.header.unwrap_or_default().member_id == status.leader {
                return Ok(&mut self.processes[node]);
            }
        }
        anyhow::bail!("nobody leads etcd")
    }
}

async fn serves(channel: &Channel) -> anyhow::Result<()> {
    let look = async {
        anyhow::ensure!(status(channel).await?.leader != 0, "there is no leader");
        grant_lease(channel).await.map(|_| ())
    };
    tokio::time::timeout(LOOK_MAX, look).await?
}

async fn status(channel: &Channel) -> anyhow::Result<wire::StatusResponse> {
    let path = "/etcdserverpb.Maintenance/Status";
    call(channel, path, wire::StatusRequest {}).await.context("etcd's status")
}

async fn grant_lease(channel: &Channel) -> anyhow::Result<i64> {
    let request = wire::LeaseGrantRequest { ttl: LEASE_TTL_S };
    let granted: wire::LeaseGrantResponse =
        call(channel, "/etcdserverpb.Lease/LeaseGrant", request).await.context("etcd's lease")?;
    Ok(granted.id)
}

async fn call<Q, A>(channel: &Channel, path: &'static str, request: Q) -> Result<A, Status>
where
    Q: prost::Message + 'static,
    A: prost::Message + Default + 'static,
{
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let codec = ProstCodec::<Q, A>::default();
    let answer = grpc.unary(Request::new(request), PathAndQuery::from_static(path), codec).await?;
    Ok(answer.into_inner())
}

/// One worker; those of a connection share its channels.
#[derive(Debug)]
pub struct Worker {
    /// One to each node.
    channels: Vec<Channel>,
    current: usize,
    lease: i64,
    patience: Option<Duration>,
}

impl Worker {
    /// A call at the current node; after a failure the next one is the current.
    async fn call<Q, A>(&mut self, path: &'static str, request: Q) -> Result<A, Failed>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let answer = call(&self.channels[self.current], path, request);
        let answered = match self.patience {
            None => answer.await,
            Some(patience) => tokio::time::timeout(patience, answer)
                .await
                .unwrap_or_else(|_| Err(Status::new(Code::DeadlineExceeded, "no answer"))),
        };
        answered.map_err(|status| {
            self.current = (self.current + 1) % self.channels.len();
            Failed(format!("{:?}", status.code()))
        })
    }
}

impl Locks for Worker {
    /// The key of the hold.
    type Held = Vec<u8>;

    async fn acquire(&mut self, name: &str) -> Result<Vec<u8>, Failed> {
        let request = wire::LockRequest { name: name.as_bytes().to_vec(), lease: self.lease };
        let locked: wire::LockResponse = self.call("/v3lockpb.Lock/Lock", request).await?;
        Ok(locked.key)
    }

    async fn release(&mut self, key: Vec<u8>) -> Result<(), Failed> {
        let request = wire::UnlockRequest { key };
        let _: wire::UnlockResponse = self.call("/v3lockpb.Lock/Unlock", request).await?;
        Ok(())
    }
}
