//! Three data servers and a master in one process.

use std::path::PathBuf;

use prometheus::Registry;
use sharklock_dataserver::{DataServer, LogLimits, SnapshotLimits, Tuning};
use sharklock_proto::v1::RangeStatus;
use tempfile::TempDir;

use crate::parts::{
    Caller, acquire, counter, data_server, eventually, granted, master, measured_data_server, stop,
};

const ANY: &str = "127.0.0.1:0";

/// A log so short that a store that is away misses what it reaches.
fn short_log() -> Tuning {
    let log = LogLimits { entries_floor: 4, entries_max: 32, ..LogLimits::default() };
    let snapshots =
        SnapshotLimits { chunk_bytes: 1 << 10, window_bytes: 4 << 10, ..Default::default() };
    Tuning { log, snapshots, ..Tuning::default() }
}

struct Cluster {
    _master: sharklock_master::Master,
    masters: String,
    dir: TempDir,
    stores: Vec<Option<DataServer>>,
    addresses: Vec<String>,
}

impl Cluster {
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (master, masters) = master(dir.path(), ANY, 3).await;
        let (mut stores, mut addresses) = (Vec::new(), Vec::new());
        for number in 0..3 {
            let data = dir.path().join(format!("data-{number}"));
            let server = data_server(&data, &masters, ANY, short_log()).await.expect("it is new");
            addresses.push(server.address().to_owned());
            stores.push(Some(server));
        }
        Self { _master: master, masters, dir, stores, addresses }
    }

    fn data(&self, place: usize) -> PathBuf {
        self.dir.path().join(format!("data-{place}"))
    }

    fn place_of(&self, store: u64) -> usize {
        let is_it = |server: &Option<DataServer>| {
            server.as_ref().is_some_and(|server| server.ident().store.0 == store)
        };
        self.stores.iter().position(is_it).expect("it runs")
    }

    fn caller(&self, place: usize) -> Caller {
        Caller::of(self.stores[place].as_ref().expect("it runs"))
    }

    /// Somebody's word, once there is one.
    async fn leader(&self) -> usize {
        let place = self.stores.iter().position(Option::is_some).expect("one runs");
        let led = |range: &RangeStatus| {
            let runs = |server: &Option<DataServer>| {
                server
                    .as_ref()
                    .is_some_and(|server| server.ident().store.0 == range.leader_store_id)
            };
            self.stores.iter().any(runs)
        };
        let range = self.caller(place).until("a leader", led).await;
        self.place_of(range.leader_store_id)
    }

    async fn stop(&mut self, place: usize) {
        stop(self.stores[place].take().expect("it runs")).await;
    }

    async fn start_again(&mut self, place: usize) {
        self.start_again_with(place, (short_log(), Registry::new())).await;
    }

    async fn start_again_with(&mut self, place: usize, with: (Tuning, Registry)) {
        let address = &self.addresses[place];
        let server = measured_data_server(&self.data(place), &self.masters, address, with).await;
        self.stores[place] = Some(server.expect("it is known"));
    }
}

impl Cluster {
    /// The leader, a store that is stopped and behind its log, and how the range stands.
    async fn with_one_away() -> (Self, Caller, usize, RangeStatus) {
        let mut cluster = Self::start().await;
        let leader = cluster.leader().await;
        let away = (leader + 1) % 3;
        cluster.stop(away).await;
        let mut caller = cluster.caller(leader);
        for id in 1..=200 {
            granted(caller.ask(acquire(id, &format!("lock-{id}"), 500)).await);
        }
        let cut = |range: &RangeStatus| range.log_first_index > 100;
        let range = caller.until("a log that was cut", cut).await;
        (cluster, caller, away, range)
    }
}

/// From the settings and the disk to the refusal and the metrics.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_whose_disk_has_no_room_takes_no_snapshot_and_one_with_room_does() {
    let (mut cluster, caller, away, range) = Cluster::with_one_away().await;
    let mut picky = short_log();
    picky.snapshots.disk_free_min = u64::MAX / 2;
    let registry = Registry::new();
    cluster.start_again_with(away, (picky, registry.clone())).await;
    let refused = || counter(&registry, "sharklock_snapshots_refused_total", "no_space");
    eventually("a refusal", || refused() > 0).await;
    assert_eq!(counter(&registry, "sharklock_snapshot_bytes_total", "received"), 0);
    assert_eq!(counter(&registry, "sharklock_snapshots_received_total", "installed"), 0);
    cluster.stop(away).await;
    let registry = Registry::new();
    let mut modest = short_log();
    modest.snapshots.disk_free_min = 1;
    cluster.start_again_with(away, (modest, registry.clone())).await;
    let commit = range.commit_index;
    let applied = |range: &RangeStatus| {
        range.position.as_ref().is_some_and(|position| position.applied_index >= commit)
    };
    cluster.caller(away).until("it has caught up", applied).await;
    let installed = || counter(&registry, "sharklock_snapshots_received_total", "installed");
    eventually("its metrics", || installed() == 1).await;
    assert!(counter(&registry, "sharklock_snapshot_bytes_total", "received") > 200 * 500);
    drop(caller);
    for place in 0..3 {
        cluster.stop(place).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stops_hands_over_and_what_it_granted_stays() {
    let mut cluster = Cluster::start().await;
    let first = cluster.leader().await;
    let token = granted(cluster.caller(first).ask(acquire(1, "a", 0)).await);
    cluster.stop(first).await;
    let second = cluster.leader().await;
    assert_ne!(first, second);
    let mut caller = cluster.caller(second);
    assert_eq!(granted(caller.ask(acquire(1, "a", 0)).await), token);
    assert!(granted(caller.ask(acquire(2, "b", 0)).await) > token);
    for place in [second, 3 - first - second] {
        cluster.stop(place).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_away_longer_than_the_log_reaches_comes_back() {
    let (mut cluster, mut caller, away, range) = Cluster::with_one_away().await;
    cluster.start_again(away).await;
    let commit = range.commit_index;
    let applied = |range: &RangeStatus| {
        range.position.as_ref().is_some_and(|position| position.applied_index >= commit)
    };
    let back = cluster.caller(away).until("it has caught up", applied).await;
    assert_eq!((back.locks, back.holds), (200, 200));
    let hash = back.state_hash.clone();
    let same = |range: &RangeStatus| range.state_hash == hash;
    caller.until("both have the same state", same).await;
    let caught_up = |range: &RangeStatus| {
        range.replicas.len() == 3 && range.replicas.iter().all(|replica| replica.lag == 0)
    };
    caller.until("the leader knows", caught_up).await;
    drop(caller);
    for place in 0..3 {
        cluster.stop(place).await;
    }
}
