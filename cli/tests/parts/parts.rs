//! Starting parts, and asking data servers.

use std::{num::NonZeroUsize, path::Path, time::Duration};

use prometheus::Registry;
use sharklock_dataserver::{
    DataServer, DataServerConfig, Lane, LocalLink, MemoryBounds, StartError, Tuning,
};
use sharklock_master::{Master, MasterConfig};
use sharklock_proto::{
    internal::v1::{StoreCall, StoreReply, store_call, store_reply},
    v1,
};
use sharklock_transport::{Dialling, Masters};
use tokio::{
    net::TcpListener,
    sync::mpsc::Receiver,
    time::{Instant, sleep_until, timeout_at},
};

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A port of this machine.
pub async fn listener(address: &str) -> (TcpListener, String) {
    let listener = TcpListener::bind(address).await.expect("the port is free");
    let address = listener.local_addr().expect("it is bound").to_string();
    (listener, address)
}

/// A single master, at an address (port 0: a free one), for clusters of so many replicas.
pub async fn master(dir: &Path, address: &str, replicas: u32) -> (Master, String) {
    start_master(dir, address, replicas).await.expect("the directory is ours")
}

/// The same, where it may be refused.
///
/// # Errors
/// As [`Master::start`].
pub async fn start_master(
    dir: &Path,
    address: &str,
    replicas: u32,
) -> Result<(Master, String), sharklock_master::StartError> {
    let (listener, advertise) = listener(address).await;
    let config = MasterConfig {
        node: "part".to_owned(),
        admin_address: String::new(),
        cluster_name: String::new(),
        data_dir: dir.join("master"),
        masters: vec![advertise.clone()],
        advertise: advertise.clone(),
        join: false,
        remembered: Vec::new(),
        replicas,
        dialling: Dialling::default(),
        tuning: sharklock_master::Tuning::default(),
        sync_writes: true,
        registry: Registry::new(),
    };
    Ok((Master::start(config, listener).await?, advertise))
}

/// A data server at an address (port 0: a free one).
///
/// # Errors
/// As [`DataServer::start`].
pub async fn data_server(
    dir: &Path,
    master: &str,
    address: &str,
    tuning: Tuning,
) -> Result<DataServer, StartError> {
    measured_data_server(dir, master, address, (tuning, Registry::new())).await
}

/// The same, with its metrics in this registry.
///
/// # Errors
/// As [`DataServer::start`].
pub async fn measured_data_server(
    dir: &Path,
    master: &str,
    address: &str,
    (tuning, registry): (Tuning, Registry),
) -> Result<DataServer, StartError> {
    let (listener, advertise) = listener(address).await;
    DataServer::start(DataServerConfig {
        node: "part".to_owned(),
        admin_address: String::new(),
        data_dir: dir.to_owned(),
        listener,
        advertise,
        masters: Masters::new(vec![master.to_owned()], Dialling::default()).expect("an address"),
        dialling: Dialling::default(),
        tuning,
        raft_workers: NonZeroUsize::new(4).expect("some"),
        memory: MemoryBounds::default(),
        ranges_max: sharklock_dataserver::RANGES_MAX,
        labels: Vec::new(),
        split_limits: sharklock_dataserver::SplitLimits::default(),
        sync_writes: true,
        registry,
        spans: sharklock_proto::trace::Spans::default(),
    })
    .await
}

/// Looks until this is so.
pub async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        sleep_until(Instant::now() + LOOK_EVERY).await;
    }
}

/// The value of a counter with this label.
pub fn counter(registry: &Registry, name: &str, label: &str) -> u64 {
    let families = registry.gather();
    let Some(family) = families.iter().find(|family| family.name() == name) else { return 0 };
    let has = |metric: &&prometheus::proto::Metric| {
        metric.get_label().iter().any(|it| it.value() == label)
    };
    family.get_metric().iter().find(has).map_or(0, |it| it.get_counter().get_value() as u64)
}

/// Stops a data server as a process does.
pub async fn stop(server: DataServer) {
    tokio::task::spawn_blocking(|| server.stop()).await.expect("it stops");
}

/// A gateway's side of a link.
pub struct Caller {
    link: LocalLink,
    replies: Receiver<Vec<StoreReply>>,
    asked: u64,
}

impl Caller {
    /// Connects to a data server.
    pub fn of(server: &DataServer) -> Self {
        let (link, replies) = server.connect();
        Self { link, replies, asked: 0 }
    }

    /// The answer to one call, which may be an error.
    pub async fn ask_once(&mut self, body: store_call::Body) -> store_reply::Body {
        self.asked += 1;
        let call = StoreCall {
            tag: self.asked,
            session: vec![3; 16].into(),
            instance: 1,
            body: Some(body),
            ..StoreCall::default()
        };
        self.link.send(Lane::Ordinary, vec![call]).expect("the mailbox is empty");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let batch = timeout_at(deadline, self.replies.recv()).await.expect("an answer");
            let replies = batch.expect("it runs").into_iter();
            if let Some(reply) = replies.into_iter().find(|reply| reply.tag == self.asked) {
                return reply.body.expect("an answer says something");
            }
        }
    }

    /// The same, asked until it is no error: the range may not be made yet, or not be led.
    pub async fn ask(&mut self, body: store_call::Body) -> store_reply::Body {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.ask_once(body.clone()).await {
                store_reply::Body::Error(error) => {
                    assert!(Instant::now() < deadline, "{error:?} for {PATIENCE:?}");
                    sleep_until(Instant::now() + LOOK_EVERY).await;
                }
                answer => return answer,
            }
        }
    }

    /// The store's state of its one range.
    pub async fn range(&mut self) -> Option<v1::RangeStatus> {
        let body = self.ask_once(store_call::Body::Describe(Default::default())).await;
        let store_reply::Body::Describe(description) = body else { panic!("{body:?}") };
        description.ranges.into_iter().next()
    }

    /// Looks at the range until it is as wanted.
    pub async fn until(
        &mut self,
        what: &str,
        wanted: impl Fn(&v1::RangeStatus) -> bool,
    ) -> v1::RangeStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let range = self.range().await;
            match range {
                Some(range) if wanted(&range) => return range,
                other => assert!(Instant::now() < deadline, "{what}: {other:?}"),
            }
            sleep_until(Instant::now() + LOOK_EVERY).await;
        }
    }
}

/// An acquire of one name by one session.
pub fn acquire(id: u64, name: &str, filler: usize) -> store_call::Body {
    let mut request = v1::AcquireRequest {
        acquisition_id: id,
        seq: id,
        name: name.to_owned(),
        ttl_ms: Some(600_000),
        ..v1::AcquireRequest::default()
    };
    if filler > 0 {
        request.attributes = [("filler".to_owned(), "x".repeat(filler))].into();
    }
    request.set_mode(v1::LockMode::Exclusive);
    store_call::Body::Acquire(request)
}

/// The token of a grant.
pub fn granted(body: store_reply::Body) -> u64 {
    let store_reply::Body::Acquire(answer) = body else { panic!("{body:?}") };
    assert_eq!(answer.outcome(), v1::AcquireOutcome::Granted);
    answer.token
}
