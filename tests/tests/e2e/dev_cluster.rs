//! `sharklock dev --nodes`: a cluster on one machine, and the commands that break and mend it.

use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use sharklock_tests::process::{Process, command, is_running};
use sharklock_tests::wait::eventually;
use tempfile::TempDir;

/// For a cluster's start or stop on a busy machine.
const SOON: Duration = Duration::from_secs(60);
/// Every port of a cluster of four nodes.
const PORTS: [u16; 4] = [7700, 7710, 7720, 7790];

/// A running `sharklock dev --nodes`, and a directory for its notes.
struct Cluster {
    process: Process,
    dir: TempDir,
}

impl Cluster {
    async fn start(nodes: &str, more: &[&str]) -> Self {
        let dir = TempDir::new().expect("a temporary directory can be made");
        let (offset, data) = (free_offset().to_string(), dir.path().join("data"));
        let mut dev = command(["dev", "--nodes", nodes, "--port-offset", &offset]);
        dev.args(more).arg("--data-dir").arg(data).env("XDG_RUNTIME_DIR", dir.path());
        let mut process = Process::spawn(&mut dev);
        eventually("the banner of the cluster", SOON, async || {
            let ended = process.ended();
            assert!(ended.is_none(), "it ended before: {ended:?}\n{}", process.stderr());
            process.stdout().contains("Ctrl-C").then_some(())
        })
        .await;
        Self { process, dir }
    }

    /// `sharklock dev …`: exit code, stdout, stderr.
    async fn dev(&self, args: &[&str]) -> (Option<i32>, String, String) {
        run(self.dir.path(), args).await
    }

    async fn nodes(&self) -> Vec<Value> {
        let (code, out, err) = self.dev(&["ps", "--output", "json"]).await;
        assert_eq!(code, Some(0), "{err}");
        let cluster: Value = serde_json::from_str(&out).expect("it is JSON");
        assert_eq!(cluster["schema"], "sharklock.v1.DevCluster");
        assert_eq!(cluster["pid"], self.process.pid().as_raw());
        cluster["nodes"].as_array().expect("a list").clone()
    }

    async fn pids(&self) -> Vec<String> {
        self.nodes().await.iter().filter(|node| !node["pid"].is_null()).map(pid).collect()
    }
}

async fn run(notes: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    let mut dev = command(["dev"]);
    let mut process = Process::spawn(dev.args(args).env("XDG_RUNTIME_DIR", notes));
    let status = process.ends(SOON).await;
    (status.code(), process.stdout(), process.stderr())
}

fn pid(node: &Value) -> String {
    node["pid"].as_u64().expect("a process id").to_string()
}

/// An offset at which a cluster's ports are free.
fn free_offset() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let spread = u16::try_from(std::process::id() % 40).expect("below 40");
    for _ in 0..40 {
        let step = (NEXT.fetch_add(1, Ordering::Relaxed) + spread) % 40;
        // Between 15,000 and 31,000, and beside the ports that other tests take.
        let offset = 7_303 + 400 * step;
        let free = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
        let all = (0..4).flat_map(|node| PORTS.map(|port| port + offset + 100 * node));
        if all.into_iter().all(free) {
            return offset;
        }
    }
    panic!("no ports are free for a cluster");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_killed_paused_and_mended_one_by_one() {
    let cluster = Cluster::start("3", &[]).await;
    let before = cluster.nodes().await;
    let names: Vec<_> = before.iter().map(|node| node["node"].as_str().expect("a name")).collect();
    assert_eq!(names, ["node-1", "node-2", "node-3"]);
    assert!(before.iter().all(|node| node["state"] == "ready"), "{before:?}");

    let (code, out, _) = cluster.dev(&["pause", "2"]).await;
    assert_eq!((code, out.contains("node-2 is paused")), (Some(0), true), "{out}");
    let (code, _, err) = cluster.dev(&["kill", "node-1"]).await;
    assert_eq!(code, Some(0), "{err}");
    assert!(!is_running(&pid(&before[0])), "it is gone when the command says so");
    let now = cluster.nodes().await;
    let states: Vec<_> = now.iter().map(|node| node["state"].as_str().expect("text")).collect();
    assert_eq!(states[..2], ["ended", "paused"]);
    assert!(now[0]["pid"].is_null() && now[0]["detail"] == "killed by SIGKILL", "{now:?}");
    assert!(cluster.process.stderr().contains("node-1 (pid"), "the owner tells of it");

    let (code, _, err) = cluster.dev(&["kill", "1"]).await;
    assert_eq!((code, err.contains("does not run")), (Some(1), true), "{err}");
    let (code, _, err) = cluster.dev(&["resume", "2"]).await;
    assert_eq!(code, Some(0), "{err}");
    for node in ["1", "3"] {
        let (code, out, err) = cluster.dev(&["restart", node]).await;
        assert_eq!(code, Some(0), "{out}{err}");
    }
    let (code, out, err) = cluster.dev(&["add"]).await;
    assert_eq!((code, out.contains("node-4 is ready")), (Some(0), true), "{out}{err}");
    let after = cluster.nodes().await;
    assert_eq!(after.len(), 4);
    assert!(after.iter().all(|node| node["state"] == "ready"), "{after:?}");
    assert_ne!(pid(&after[0]), pid(&before[0]));
    assert_eq!(pid(&after[1]), pid(&before[1]), "a pause is no restart");
    assert_ne!(pid(&after[2]), pid(&before[2]));
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_end_with_the_cluster_and_it_is_not_found_any_more() {
    let mut cluster = Cluster::start("3", &["--split-roles"]).await;
    let pids = cluster.pids().await;
    assert_eq!(pids.len(), 6, "three masters apart");
    cluster.dev(&["pause", "node-3"]).await;
    cluster.process.signal(Signal::SIGINT);
    let status = cluster.process.ends(SOON).await;
    assert_eq!(status.code(), Some(0), "{}", cluster.process.stderr());
    assert!(pids.iter().all(|pid| !is_running(pid)));
    let (code, _, err) = cluster.dev(&["ps"]).await;
    assert_eq!((code, err.contains("no cluster")), (Some(69), true), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_do_not_outlive_an_owner_that_is_killed() {
    let mut cluster = Cluster::start("3", &[]).await;
    let pids = cluster.pids().await;
    cluster.process.kill();
    eventually("the nodes' end", SOON, async || {
        (!pids.iter().any(|pid| is_running(pid))).then_some(())
    })
    .await;
    // Its notes are still there, and count for nothing.
    let data = cluster.dir.path().join("data");
    assert!(data.join("dev.json").exists());
    let by_dir = ["ps", "--data-dir", data.to_str().expect("UTF-8")];
    for args in [&["ps"][..], &by_dir] {
        let (code, _, err) = cluster.dev(args).await;
        assert_eq!((code, err.contains("no cluster")), (Some(69), true), "{err}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_cannot_start_says_why_and_leaves_nothing_running() {
    let dir = TempDir::new().expect("a temporary directory can be made");
    let data = dir.path().join("data");
    // A node's directory with somebody else's things in it.
    std::fs::create_dir_all(data.join("node-2")).expect("it is made");
    std::fs::write(data.join("node-2/letter.txt"), "dear diary").expect("it is written");
    let offset = free_offset().to_string();
    let args = ["--nodes", "3", "--port-offset", &offset, "--data-dir"];
    let args: Vec<&str> = args.into_iter().chain([data.to_str().expect("UTF-8")]).collect();
    let (code, out, err) = run(dir.path(), &args).await;
    assert_eq!((code, out.as_str()), (Some(78), ""), "{err}");
    assert!(err.contains("error: node-2 (pid") && err.contains("letter.txt"), "{err}");
    assert_eq!(err.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{err}");
}
