//! Power is cut under a real file system, at any time: every node must start again, with everything
//! that was answered.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use sharklock_client::GuardState;
use sharklock_tests::cluster::{CHAOS, Cluster, SOON};
use sharklock_tests::file_system::{FileSystem, Kind};
use sharklock_tests::load::{Load, Plan};
use tokio::time::sleep;

use crate::alone;

/// Nodes whose power comes from one plug, each with a disk of its own.
struct Machines {
    cluster: Cluster,
    disks: Vec<FileSystem>,
}

impl Machines {
    /// `None`, said aloud, where this machine has no way to cut power.
    async fn new(kind: Kind, nodes: usize) -> Option<Self> {
        let disks: Result<Vec<_>, _> = (0..nodes).map(|_| FileSystem::make(kind)).collect();
        let disks = match disks {
            Ok(disks) => disks,
            Err(why) => {
                println!(
                    "SKIPPED: no power is cut on {kind:?}, since that needs root, loop devices and its tools: {why}"
                );
                return None;
            }
        };
        let settings = CHAOS.replace("[cluster]", &format!("[cluster]\nreplicas = {nodes}"));
        let mut cluster = Cluster::new(nodes, &settings).await;
        for (node, disk) in disks.iter().enumerate() {
            cluster.keep_data_in(node, &disk.path().join("data"));
        }
        Some(Self { cluster, disks })
    }

    fn spawn(&mut self) {
        (0..self.disks.len()).for_each(|node| self.cluster.spawn(node));
    }

    async fn until_ready(&mut self) {
        for node in 0..self.disks.len() {
            self.cluster.until_ready(node).await;
        }
    }

    /// The power goes, and comes back. Nobody is started.
    async fn cut(&mut self) {
        self.disks.iter().for_each(FileSystem::cut);
        for (node, disk) in self.disks.iter_mut().enumerate() {
            self.cluster.kill(node);
            disk.remount().await;
        }
    }
}

async fn power_is_cut(kind: Kind, nodes: usize, rounds: u32, seed: u64) {
    let _alone = alone().await;
    let Some(mut machines) = Machines::new(kind, nodes).await else { return };
    let mut rng = StdRng::seed_from_u64(seed);
    // While directories are made, masters meet, stores register.
    for _ in 0..2 {
        machines.spawn();
        sleep(Duration::from_millis(rng.random_range(0..900))).await;
        machines.cut().await;
    }
    machines.spawn();
    machines.until_ready().await;

    let client = machines.cluster.client();
    let mut guards = Vec::new();
    let mut last = 0;
    for round in 0..rounds {
        let lock = client.lock(&format!("held/{round}")).ttl(Duration::from_secs(600)).wait(SOON);
        guards.push(lock.acquire().await.expect("it is free"));
        for cycle in 0..5 {
            let guard = client.lock("cycled").wait(SOON).acquire().await.expect("it is free");
            let token = u64::from(guard.token());
            assert!(token > last, "{token} after {last} in {round}.{cycle}");
            last = token;
            guard.release().await.expect("it is released");
        }
        let load = match round % 2 {
            0 => None,
            _ => Some(Load::start(&Plan::default(), || machines.cluster.client())),
        };
        if let Some(load) = &load {
            load.progress(50, SOON).await;
        }
        // Before the image is written, meanwhile, or long since.
        sleep(Duration::from_millis(rng.random_range(0..900))).await;
        machines.cut().await;
        machines.spawn();
        machines.until_ready().await;
        if let Some(load) = load {
            load.progress(20, SOON).await;
            load.end().await;
        }
        for guard in &guards {
            assert_ne!(guard.state(), GuardState::Lost, "{}", guard.name());
            let seen = client.check_token(guard.name(), guard.token()).await;
            assert!(seen.expect("a look succeeds").live, "{} after round {round}", guard.name());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_on_ext4_starts_after_any_power_cut() {
    power_is_cut(Kind::Ext4, 1, 6, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_on_xfs_starts_after_any_power_cut() {
    power_is_cut(Kind::Xfs, 1, 4, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_on_ext4_start_after_one_power_cut_of_all() {
    power_is_cut(Kind::Ext4, 3, 4, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_on_xfs_start_after_one_power_cut_of_all() {
    power_is_cut(Kind::Xfs, 3, 2, 4).await;
}
