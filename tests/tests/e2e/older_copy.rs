//! A node's disk is put back from an older copy, against the rules: what it had acknowledged is gone.

use std::path::Path;
use std::process::Command;

use sharklock_tests::cluster::{CHAOS, Cluster, SOON};
use sharklock_tests::load::{Load, Plan};
use sharklock_tests::wait::eventually;
use tempfile::TempDir;

use crate::alone;

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status().expect("cp is there");
    assert!(copied.success(), "{}: {copied}", from.display());
}

/// Waits until a node says that a replica on it is lost, and gives what it says.
async fn until_lost(cluster: &Cluster, node: usize) -> String {
    eventually("a lost replica", SOON, async || {
        let (status, text) = cluster.readiness(node).await?;
        (status != 200 && text.contains("is lost")).then_some(text)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_a_disk_is_lost_and_says_so_at_every_start() {
    let _alone = alone().await;
    let mut cluster = Cluster::start(3, CHAOS).await;
    let leader = cluster.leader(&[0, 1, 2]).await;
    let victim = (leader + 1) % 3;
    let dir = TempDir::new().expect("a temporary directory can be made");
    let older = dir.path().join("older");
    // As a snapshot of a machine that runs: it has the last start.
    cluster.pause(victim);
    copy(&cluster.data_dir(victim), &older);
    cluster.resume(victim);
    cluster.until_healthy().await;

    let load = Load::start(&Plan::default(), || cluster.client());
    load.progress(200, SOON).await;
    cluster.kill(victim);
    std::fs::remove_dir_all(cluster.data_dir(victim)).expect("nobody uses it");
    copy(&older, &cluster.data_dir(victim));
    for life in 0..3 {
        cluster.spawn(victim);
        let said = until_lost(&cluster, victim).await;
        assert!(said.contains("Put the original disk back"), "life {life}: {said}");
        let log = cluster.process(victim).stderr();
        assert!(log.contains("a replica's disk counts as lost"), "life {life}: {log}");
        load.progress(50, SOON).await;
        eventually("a warning in the status", SOON, async || {
            let status = cluster.status(leader).await?;
            status.warnings.iter().any(|it| it.contains("is lost")).then_some(())
        })
        .await;
        cluster.kill(victim);
    }
    load.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_from_before_the_last_start_is_refused_at_every_start() {
    let _alone = alone().await;
    let mut cluster = Cluster::start(3, CHAOS).await;
    let leader = cluster.leader(&[0, 1, 2]).await;
    let victim = (leader + 1) % 3;
    cluster.stop(victim).await;
    let dir = TempDir::new().expect("a temporary directory can be made");
    let (older, original) = (dir.path().join("older"), dir.path().join("original"));
    copy(&cluster.data_dir(victim), &older);
    for _ in 0..2 {
        cluster.restart(victim).await;
        cluster.stop(victim).await;
    }
    std::fs::rename(cluster.data_dir(victim), &original).expect("nobody uses it");
    copy(&older, &cluster.data_dir(victim));
    // More often than the original was started since: that brings the copy no nearer to it.
    for life in 0..4 {
        cluster.spawn(victim);
        let status = cluster.process(victim).ends(SOON).await;
        let log = cluster.process(victim).stderr();
        assert_eq!(status.code(), Some(78), "life {life}: {log}");
        assert!(log.contains("start 3 is known") && log.contains("this is start 2"), "{log}");
        assert!(log.contains("Put the original disk back"), "life {life}: {log}");
    }
    std::fs::remove_dir_all(cluster.data_dir(victim)).expect("nobody uses it");
    std::fs::rename(&original, cluster.data_dir(victim)).expect("nobody uses it");
    cluster.restart(victim).await;
    cluster.until_healthy().await;
}
