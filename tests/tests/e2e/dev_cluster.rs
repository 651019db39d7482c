//! `sharklock dev --nodes`: a cluster on one machine, and the commands that break and mend it.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use sharklock_tests::process::{Process, command, is_running, sharklock, text_of};
use sharklock_tests::wait::eventually;
use tempfile::TempDir;

use crate::lock_command::{check_lifetimes, script};

/// For a cluster's start or stop on a busy machine.
const SOON: Duration = Duration::from_secs(60);
/// Every port of a cluster of four nodes.
const PORTS: [u16; 4] = [7700, 7710, 7720, 7790];

/// A running `sharklock dev --nodes`, and a directory for its notes.
pub(crate) struct Cluster {
    process: Process,
    dir: TempDir,
}

impl Cluster {
    pub(crate) async fn start(nodes: &str, more: &[&str]) -> Self {
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

    /// Where commands without `--data-dir` find it.
    pub(crate) fn notes(&self) -> &Path {
        self.dir.path()
    }

    /// What its owner has printed.
    pub(crate) fn banner(&self) -> String {
        self.process.stdout()
    }

    /// `sharklock dev …`: exit code, stdout, stderr.
    pub(crate) async fn dev(&self, args: &[&str]) -> (Option<i32>, String, String) {
        run(self.dir.path(), args).await
    }

    pub(crate) async fn nodes(&self) -> Vec<Value> {
        let (code, out, err) = self.dev(&["ps", "--output", "json"]).await;
        assert_eq!(code, Some(0), "{err}");
        let cluster: Value = serde_json::from_str(&out).expect("it is JSON");
        assert_eq!(cluster["schema"], "sharklock.v1.DevCluster");
        assert_eq!(cluster["pid"], self.process.pid().as_raw());
        cluster["nodes"].as_array().expect("a list").clone()
    }

    pub(crate) async fn endpoints(&self) -> String {
        let nodes = self.nodes().await;
        let gateways = nodes.iter().filter_map(|node| node["gateway"].as_str());
        gateways.map(|at| format!("http://{at}")).collect::<Vec<_>>().join(",")
    }

    /// The output of `sharklock status`, and its exit code.
    async fn status(&self) -> (Option<i32>, Value) {
        let mut status = command(["status", "--output", "json"]);
        let mut process = Process::spawn(status.env("SHARKLOCK_ENDPOINTS", self.endpoints().await));
        let code = process.ends(SOON).await.code();
        (code, serde_json::from_str(&process.stdout()).unwrap_or_default())
    }

    /// The node whose store leads the first range, once there is one.
    pub(crate) async fn leader(&self) -> String {
        eventually("a leader of the first range", SOON, async || {
            let (_, status) = self.status().await;
            let leader = status["ranges"][0]["leader_store_id"].as_str()?.to_owned();
            let stores = status["stores"].as_array()?;
            let store = stores.iter().find(|store| store["store_id"] == *leader)?;
            let nodes = self.nodes().await;
            let node = nodes.iter().find(|node| node["data"] == store["address"])?;
            Some(node["node"].as_str()?.to_owned())
        })
        .await
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

#[tokio::test(flavor = "multi_thread")]
async fn a_status_tells_of_a_node_that_is_gone_and_of_its_return() {
    let cluster = Cluster::start("3", &[]).await;
    eventually("a healthy cluster", SOON, async || {
        let (code, status) = cluster.status().await;
        (code == Some(0) && status["ranges"][0]["replicas"].as_array()?.len() == 3).then_some(())
    })
    .await;
    let (_, healthy) = cluster.status().await;
    assert_eq!(healthy["schema"], "sharklock.v1.Status");
    assert_eq!(healthy["masters"].as_array().map(Vec::len), Some(3));
    assert_eq!(healthy["stores"].as_array().map(Vec::len), Some(3));
    let leader = cluster.leader().await;
    let (code, _, err) = cluster.dev(&["kill", &leader]).await;
    assert_eq!(code, Some(0), "{err}");
    eventually("a warning", SOON, async || {
        let (code, status) = cluster.status().await;
        (code == Some(3) && !status["warnings"].as_array()?.is_empty()).then_some(())
    })
    .await;
    let (code, _, err) = cluster.dev(&["restart", &leader]).await;
    assert_eq!(code, Some(0), "{err}");
    eventually("a healthy cluster again", SOON, async || {
        (cluster.status().await.0 == Some(0)).then_some(())
    })
    .await;
}

/// The masters are not on the way of a lock: with all of them dead, locks are taken, kept and
/// released as before.
#[tokio::test(flavor = "multi_thread")]
async fn locks_go_on_without_any_master() {
    let cluster = Cluster::start("3", &["--split-roles"]).await;
    let endpoints = cluster.endpoints().await;
    let client = sharklock_tests::cluster::client(endpoints.split(',').map(str::to_owned));
    let held = client.lock("held").ttl(Duration::from_secs(3)).acquire().await.expect("it is free");
    let is_master = |node: &&Value| node["roles"] == serde_json::json!(["master"]);
    let nodes = cluster.nodes().await;
    let masters: Vec<_> = nodes.iter().filter(is_master).collect();
    assert_eq!(masters.len(), 3);
    for master in masters {
        let name = master["node"].as_str().expect("a name");
        let (code, _, err) = cluster.dev(&["kill", name]).await;
        assert_eq!(code, Some(0), "{err}");
    }
    // Longer than the lease of the one that is held.
    let until = tokio::time::Instant::now() + Duration::from_secs(8);
    let mut cycles = 0;
    while tokio::time::Instant::now() < until {
        let lock = client.lock(&format!("fresh/{cycles}"));
        lock.acquire().await.expect("it is free").release().await.expect("it is released");
        cycles += 1;
    }
    println!("{cycles} cycles without a master");
    assert!(cycles > 50);
    assert!(client.check_token("held", held.token()).await.expect("a look succeeds").live);
    held.release().await.expect("it is released");
}

/// Issue 4: 16 shells count while the node that leads is killed and another one is frozen, longer
/// than several elections.
#[tokio::test(flavor = "multi_thread")]
async fn sixteen_shells_count_while_nodes_die_and_freeze() {
    const SHELLS: usize = 16;
    const EACH: usize = 25;
    const FROZEN: Duration = Duration::from_secs(8);
    let total = SHELLS * EACH;
    let cluster = Cluster::start("3", &[]).await;
    let dir = TempDir::new().expect("a temporary directory can be made");
    let (counter, log) = (dir.path().join("counter"), dir.path().join("log"));
    std::fs::write(&counter, "0\n").expect("the directory is ours");
    let increment = script(
        &dir,
        "increment.sh",
        "echo begin $$ $SHARKLOCK_TOKEN >> $2\nn=$(cat $1)\nsleep 0.005\necho $((n + 1)) > $1\n\
         echo end $$ $SHARKLOCK_TOKEN >> $2\n",
    );
    let shell = "i=0; while [ $i -lt $0 ]; do i=$((i + 1)); \"$@\" || exit 1; done";
    let endpoints = cluster.endpoints().await;
    let mut shells = Vec::new();
    for _ in 0..SHELLS {
        let mut sh = Command::new("sh");
        sh.args(["-c", shell, &EACH.to_string()]).arg(sharklock());
        sh.args(["lock", "counter", "--timeout", "60s", "--"]);
        sh.arg(&increment).arg(&counter).arg(&log).env("SHARKLOCK_ENDPOINTS", &endpoints);
        shells.push(Process::spawn(&mut sh));
    }
    let ends = || text_of(&log).lines().filter(|line| line.starts_with("end ")).count();
    let progress = async |goal: usize| {
        eventually(&format!("{goal} increments"), Duration::from_secs(120), async || {
            (ends() >= goal).then_some(())
        })
        .await;
    };
    progress(total / 4).await;
    let killed = cluster.leader().await;
    cluster.dev(&["kill", &killed]).await;
    progress(total / 4 + 20).await;
    let (code, out, err) = cluster.dev(&["restart", &killed]).await;
    assert_eq!(code, Some(0), "{out}{err}");
    progress(total / 2).await;
    let frozen = cluster.leader().await;
    let since = tokio::time::Instant::now();
    cluster.dev(&["pause", &frozen]).await;
    progress(total / 2 + 20).await;
    tokio::time::sleep_until(since + FROZEN).await;
    cluster.dev(&["resume", &frozen]).await;
    for shell in &mut shells {
        let status = shell.ends(Duration::from_secs(120)).await;
        assert_eq!(status.code(), Some(0), "{}", shell.stderr());
    }
    assert_eq!(text_of(&counter).trim(), total.to_string());
    let lifetimes = check_lifetimes(&text_of(&log)).unwrap_or_else(|why| panic!("{why}"));
    assert_eq!(lifetimes, total);
}
