//! A node of three whose disk is slow, or fails: a library that is preloaded into its process stands
//! between it and the disk.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use sharklock_client::GuardState;
use sharklock_tests::cluster::{CHAOS, Cluster, SOON};
use sharklock_tests::load::{Load, Plan};
use sharklock_tests::wait::eventually;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::alone;

/// The library, and the file that tells it what to do.
struct Shim {
    dir: TempDir,
}

impl Shim {
    fn build() -> Self {
        let dir = TempDir::new().expect("a temporary directory can be made");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("shim/slow_disk.c");
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(Self::library(&dir)).arg(source);
        let built = cc.arg("-ldl").status().expect("there is a C compiler");
        assert!(built.success(), "{cc:?}: {built}");
        Self { dir }
    }

    fn library(dir: &TempDir) -> PathBuf {
        dir.path().join("slow_disk.so")
    }

    fn orders(&self) -> PathBuf {
        self.dir.path().join("orders")
    }

    fn tell(&self, order: &str) {
        std::fs::write(self.orders(), order).expect("the directory is ours");
    }

    fn around(&self, mut command: Command) -> Command {
        command.env("LD_PRELOAD", Self::library(&self.dir)).env("SHARKLOCK_SHIM", self.orders());
        command
    }
}

/// Three nodes; the one that leads the range has its disk behind the shim.
async fn shimmed(shim: &Shim) -> (Cluster, usize) {
    let mut cluster = Cluster::start(3, CHAOS).await;
    let leader = cluster.leader(&[0, 1, 2]).await;
    // One after the other, so that whoever leads in the end is behind it.
    for node in [leader, (leader + 1) % 3, (leader + 2) % 3] {
        cluster.stop(node).await;
        cluster.spawn_with(node, |command| shim.around(command));
        cluster.until_ready(node).await;
        cluster.until_healthy().await;
    }
    let leader = cluster.leader(&[0, 1, 2]).await;
    (cluster, leader)
}

/// etcd #15247: a leader stuck in its disk must not take everybody for dead.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_disk_expires_nobody() {
    let _alone = alone().await;
    let shim = Shim::build();
    let (cluster, _) = shimmed(&shim).await;
    let client = cluster.client();
    let mut guards = Vec::new();
    for number in 0..30 {
        let lock = client.lock(&format!("held/{number}")).ttl(Duration::from_secs(5));
        guards.push(lock.acquire().await.expect("it is free"));
    }
    shim.tell("900");
    let slow_until = Instant::now() + Duration::from_secs(12);
    let mut granted = 0;
    while Instant::now() < slow_until {
        let lock = client.lock(&format!("slow/{granted}")).ttl(Duration::from_secs(60));
        let guard = lock.acquire().await.expect("a slow disk is slow, no more");
        guard.release().await.expect("it is released");
        granted += 1;
    }
    shim.tell("0");
    // Each takes two syncs of 0.9 s, one after the other; elections begin after 0.5 s of silence,
    // but a store goes on speaking while its disk is slow.
    assert!((1..=8).contains(&granted), "{granted} cycles: the disk was not slow");
    for guard in &guards {
        assert_ne!(guard.state(), GuardState::Lost, "{}", guard.name());
        let seen = client.check_token(guard.name(), guard.token()).await.expect("a look succeeds");
        assert!(seen.live, "{}", guard.name());
    }
}

/// fsyncgate: after a failed sync nobody knows what is on the disk, so the process must not go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_fails_ends_the_process_and_nothing_acknowledged_is_lost() {
    let _alone = alone().await;
    let shim = Shim::build();
    let mut cluster = Cluster::start(3, CHAOS).await;
    let leader = cluster.leader(&[0, 1, 2]).await;
    cluster.stop(leader).await;
    cluster.spawn_with(leader, |command| shim.around(command));
    cluster.until_ready(leader).await;
    cluster.until_healthy().await;
    let load = Load::start(&Plan::default(), || cluster.client());
    let kept = cluster.client();
    let mut guards = Vec::new();
    for number in 0..30 {
        let lock = kept.lock(&format!("kept/{number}")).ttl(Duration::from_secs(60));
        guards.push(lock.acquire().await.expect("it is free"));
    }
    shim.tell("EIO");
    let ended =
        eventually("the end of its process", SOON, async || cluster.process(leader).ended()).await;
    use std::os::unix::process::ExitStatusExt as _;
    assert_eq!(ended.signal(), Some(6), "SIGABRT, not {ended}");
    load.progress(100, SOON).await;
    for guard in &guards {
        let seen = kept.check_token(guard.name(), guard.token()).await.expect("a look succeeds");
        assert!(seen.live, "{}", guard.name());
    }
    shim.tell("0");
    cluster.restart(leader).await;
    load.progress(100, SOON).await;
    load.end().await;
    cluster.until_healthy().await;
}
