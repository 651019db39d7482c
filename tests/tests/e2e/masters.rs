//! Masters come and go under load: a cluster grows, a lost disk is replaced, the leader is removed, and at
//! last none of the first masters is left.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use serde_json::Value;
use sharklock_tests::cluster::{CHAOS, Cluster, SOON, client};
use sharklock_tests::process::{Process, command};
use sharklock_tests::wait::eventually;
use tempfile::TempDir;

use crate::ranges::{Busy, cli, cli_json};
use crate::{alone, dev_cluster};

/// A master in a process of its own, which joins a cluster.
struct Joiner {
    process: Process,
    at: String,
    dir: PathBuf,
    masters: String,
}

impl Joiner {
    /// With an empty directory below this one.
    fn start(below: &Path, masters: &str) -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let net = std::process::id() % 250;
        let at = format!("127.201.{net}.{number}");
        Self::start_in(&below.join(format!("joiner-{number}")), &at, masters)
    }

    fn start_in(dir: &Path, ip: &str, masters: &str) -> Self {
        let listen = |port: u16| format!("{ip}:{port}");
        let mut server = command(["server", "--roles", "master", "--join", "--masters", masters]);
        server.args(["--listen-master", &listen(7720), "--listen-admin", &listen(7790)]);
        server.arg("--data-dir").arg(dir).env("SHARKLOCK_RAFT__TICK", "50ms");
        let process = Process::spawn(&mut server);
        Self { process, at: listen(7720), dir: dir.to_owned(), masters: masters.to_owned() }
    }

    fn ip(&self) -> String {
        let at: SocketAddr = self.at.parse().expect("an address");
        at.ip().to_string()
    }

    fn kill(&mut self) {
        self.process.kill();
    }

    /// The same directory once more.
    fn restart(&mut self) {
        *self = Self::start_in(&self.dir, &self.ip(), &self.masters);
    }
}

async fn masters(endpoints: &[String]) -> Vec<Value> {
    let list = cli_json(endpoints, &["masters", "ls"]).await;
    assert_eq!(list["schema"], "sharklock.v1.MasterList");
    list["masters"].as_array().expect("a list").clone()
}

fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}

fn ids(masters: &[Value]) -> Vec<&str> {
    masters.iter().map(|it| text(&it["member_id"])).collect()
}

async fn until_waiting(endpoints: &[String], address: &str) {
    eventually(&format!("{address} among those that wait"), SOON, async || {
        let (code, out, _) = cli(endpoints, &["masters", "ls", "--output", "json"]).await;
        let list: Value = serde_json::from_str(&out).ok().filter(|_| code == Some(0))?;
        let waiting = list["waiting"].as_array()?.iter().any(|it| it == address);
        waiting.then_some(())
    })
    .await;
}

/// Adds it, and waits until that is done; the masters then.
async fn add(endpoints: &[String], address: &str, more: &[&str]) -> Vec<Value> {
    until_waiting(endpoints, address).await;
    let args = [&["masters", "add", address, "--wait"], more].concat();
    let list = cli_json(endpoints, &args).await;
    let all = list["masters"].as_array().expect("a list").clone();
    assert!(all.iter().all(|it| it["role"] == "voter"), "{list}");
    all
}

/// One data server, so that a range needs one replica.
fn small() -> String {
    CHAOS.replace("[cluster]\n", "[cluster]\nreplicas = 1\n")
}

/// OPERATIONS.md, *Grow the masters*.
#[tokio::test(flavor = "multi_thread")]
async fn one_master_grows_to_three_under_load_and_the_first_may_leave() {
    let _alone = alone().await;
    let cluster = Cluster::start(1, &small()).await;
    cluster.until_healthy().await;
    let endpoints = cluster.endpoints();
    let dir = TempDir::new().expect("a temporary directory can be made");
    let busy = Busy::start(&["jobs/a", "jobs/b"], "jobs/c", || cluster.client());
    let first = masters(&endpoints).await;
    assert_eq!((ids(&first), &first[0]["is_leader"]), (vec!["1"], &true.into()));

    let (code, _, err) = cli(&endpoints, &["masters", "remove", "1"]).await;
    assert_eq!((code, err.contains("the only one that votes")), (Some(1), true), "{err}");
    let at = text(&first[0]["address"]).to_owned();
    let mut second = Joiner::start(dir.path(), &at);
    until_waiting(&endpoints, &second.at).await;
    let plan = cli_json(&endpoints, &["masters", "add", &second.at, "--dry-run"]).await;
    assert_eq!((&plan["dry_run"], plan["steps"].as_array().map(Vec::len)), (&true.into(), Some(2)));
    assert_eq!(masters(&endpoints).await.len(), 1, "a dry run does nothing");
    assert_eq!(ids(&add(&endpoints, &second.at, &[]).await), ["1", "2"]);
    let mut third = Joiner::start(dir.path(), &format!("{at},{}", second.at));
    assert_eq!(ids(&add(&endpoints, &third.at, &[]).await), ["1", "2", "3"]);
    busy.progress(20).await;

    // Any of them may be lost; and one that is back follows.
    second.kill();
    let to_third = ["masters", "transfer-leader", "--to", "3", "--wait"];
    let led = cli_json(&endpoints, &to_third).await["masters"].clone();
    assert_eq!((&led[2]["is_leader"], &led[0]["is_leader"]), (&true.into(), &false.into()));
    // The leader goes meanwhile for another one, and its process says why it ends.
    let fourth = Joiner::start(dir.path(), &at);
    assert_eq!(ids(&add(&endpoints, &fourth.at, &["--replace", "3"]).await), ["1", "2", "4"]);
    let ended = third.process.ends(SOON).await;
    assert_eq!(ended.code(), Some(78), "{}", third.process.stderr());
    assert!(third.process.stderr().contains("was removed from its cluster"));
    third.restart();
    assert_eq!(third.process.ends(SOON).await.code(), Some(78), "it never acts again");
    // What is back has never heard of the one that leads.
    let to_fourth = ["masters", "transfer-leader", "--to", "4", "--wait"];
    assert_eq!(cli_json(&endpoints, &to_fourth).await["masters"][2]["is_leader"], true);
    second.restart();
    eventually("the second follows", SOON, async || {
        let all = masters(&endpoints).await;
        (all[1]["is_up"] == true && all[1]["lag"] == "0").then_some(())
    })
    .await;
    let left = cli_json(&endpoints, &["masters", "remove", "4", "--wait"]).await;
    assert_eq!(left["masters"].as_array().map(Vec::len), Some(2), "{left}");
    let removed = ["masters", "remove", "3"];
    let (code, _, err) = cli(&endpoints, &removed).await;
    assert_eq!((code, err.contains("master 3 is not known")), (Some(1), true), "{err}");
    busy.progress(20).await;
    busy.end().await;
}

/// OPERATIONS.md, *Replace a master whose disk is lost*.
#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_lost_its_disk_is_replaced_by_command() {
    let _alone = alone().await;
    let mut cluster = Cluster::start(3, CHAOS).await;
    cluster.until_healthy().await;
    let lost = 1;
    let endpoints = [cluster.endpoint(0), cluster.endpoint(2)];
    let busy = Busy::start(&["jobs/a", "jobs/b"], "jobs/c", || client(endpoints.clone()));
    let before = masters(&endpoints).await;
    assert_eq!(ids(&before), ["1", "2", "3"]);
    let address = text(&before[lost]["address"]).to_owned();
    cluster.stop(lost).await;
    std::fs::remove_dir_all(cluster.data_dir(lost).join("master")).expect("it is there");

    // As if nothing had happened: it could vote twice in a term.
    cluster.spawn(lost);
    let ended = cluster.process(lost).ends(SOON).await;
    let said = cluster.process(lost).stderr();
    assert_eq!((ended.code(), said.contains("--join")), (Some(78), true), "{said}");
    cluster.spawn_with(lost, |mut server| {
        server.arg("--join");
        server
    });
    until_waiting(&endpoints, &address).await;
    let (code, _, err) = cli(&endpoints, &["masters", "add", &address]).await;
    assert_eq!((code, err.contains("--replace 2")), (Some(1), true), "{err}");
    let after = add(&endpoints, &address, &["--replace", "2"]).await;
    assert_eq!(ids(&after), ["1", "3", "4"]);
    assert_eq!(text(&after[2]["address"]), address);
    cluster.until_ready(lost).await;
    busy.progress(20).await;
    // It is a master as any other: with it, one of the others may be lost.
    let (code, _, err) =
        cli(&endpoints, &["masters", "transfer-leader", "--to", "4", "--wait"]).await;
    assert_eq!(code, Some(0), "{err}");
    cluster.stop(lost).await;
    cluster.restart(lost).await;
    cluster.until_healthy().await;

    // A process that does more goes on without its master, also after a restart.
    let left = cli_json(&endpoints, &["masters", "remove", "1", "--wait"]).await;
    assert_eq!(ids(left["masters"].as_array().expect("a list")), ["3", "4"]);
    eventually("the process of the one that was removed says so", SOON, async || {
        let (code, text) = cluster.readiness(0).await?;
        (code == 200 && text.contains("removed from the masters")).then_some(())
    })
    .await;
    cluster.stop(0).await;
    cluster.restart(0).await;
    cluster.until_healthy().await;
    busy.progress(20).await;
    busy.end().await;
}

/// Orders that make no sense, over the wire.
#[tokio::test(flavor = "multi_thread")]
async fn orders_to_masters_that_make_no_sense_are_refused_with_the_way_out() {
    let _alone = alone().await;
    let cluster = Cluster::start(1, &small()).await;
    cluster.until_healthy().await;
    let endpoints = cluster.endpoints();
    let at = text(&masters(&endpoints).await[0]["address"]).to_owned();
    for (args, code, says) in [
        (&["masters", "remove", "1"][..], 1, "masters add ADDRESS --replace 1"),
        (&["masters", "remove", "77"], 1, "`sharklock masters ls` lists them"),
        (&["masters", "remove", "18446744073709551615"], 1, "is not known"),
        (&["masters", "remove", "-1"], 2, "unexpected argument"),
        (&["masters", "add", "127.0.0.1:9"], 1, "no master waits at 127.0.0.1:9"),
        (&["masters", "add", "no address"], 1, "no master waits at no address"),
        (&["masters", "add", "127.0.0.1:9", "--replace", "8"], 1, "master 8 is not known"),
        (&["masters", "add", &at], 1, "is master 1"),
        (&["masters", "transfer-leader", "--to", "1"], 1, "master 1 leads already"),
        (&["masters", "transfer-leader", "--to", "9"], 1, "master 9 is not known"),
        (&["masters", "transfer-leader"], 1, "no other master can lead"),
        (&["masters", "transfer-leader", "--to", "0"], 2, "0 is not in"),
    ] {
        for more in [&[][..], &["--dry-run"]] {
            let args = [args, more].concat();
            let (found, _, err) = cli(&endpoints, &args).await;
            assert_eq!(found, Some(code), "{args:?}: {err}");
            assert!(err.contains(says), "{args:?}: {err}");
        }
    }
}

/// Until none of the first three is left; then all masters are killed for a while, and a store that is
/// started again by its old configuration finds those of today.
#[tokio::test(flavor = "multi_thread")]
async fn masters_are_replaced_one_by_one_and_then_all_lost_and_no_lock_operation_fails() {
    let _alone = alone().await;
    let dev = dev_cluster::Cluster::start("3", &["--split-roles"]).await;
    let dir = TempDir::new().expect("a temporary directory can be made");
    let endpoints = dev.endpoints().await;
    let endpoints: Vec<String> = endpoints.split(',').map(str::to_owned).collect();
    let busy = Busy::start(&["jobs/a", "jobs/b", "jobs/c"], "jobs/d", || client(endpoints.clone()));
    let first = masters(&endpoints).await;
    let seeds: Vec<_> = first.iter().map(|it| text(&it["address"])).collect();
    let mut joiners = Vec::new();
    for (old, next) in [("1", "4"), ("2", "5"), ("3", "6")] {
        let joiner = Joiner::start(dir.path(), &seeds.join(","));
        let all = add(&endpoints, &joiner.at, &["--replace", old]).await;
        assert!(ids(&all).contains(&next) && !ids(&all).contains(&old), "{all:?}");
        joiners.push(joiner);
        busy.progress(20).await;
    }
    let all = masters(&endpoints).await;
    assert_eq!(ids(&all), ["4", "5", "6"]);
    eventually("the old masters have ended by themselves", SOON, async || {
        let nodes = dev.nodes().await;
        let mut old = nodes.iter().filter(|it| text(&it["node"]).starts_with("master"));
        old.all(|it| it["state"] == "ended").then_some(())
    })
    .await;

    joiners.iter_mut().for_each(Joiner::kill);
    let gone_for = std::env::var("SHARKLOCK_MASTERS_GONE_SECONDS").ok();
    let gone_for = gone_for.map_or(5, |seconds| seconds.parse().expect("a number"));
    let until = tokio::time::Instant::now() + Duration::from_secs(gone_for);
    while tokio::time::Instant::now() < until {
        busy.progress(10).await;
    }
    joiners.iter_mut().for_each(Joiner::restart);
    eventually("masters lead again", SOON, async || {
        let (code, ..) = cli(&endpoints, &["masters", "ls"]).await;
        (code == Some(0)).then_some(())
    })
    .await;
    busy.progress(20).await;
    let (code, _, err) = dev.dev(&["kill", "node-1"]).await;
    assert_eq!(code, Some(0), "{err}");
    let (code, _, err) = dev.dev(&["restart", "node-1"]).await;
    assert_eq!(code, Some(0), "{err}");
    eventually("node 1 is ready", SOON, async || {
        let nodes = dev.nodes().await;
        let one = nodes.iter().find(|it| it["node"] == "node-1")?;
        (one["state"] == "ready").then_some(())
    })
    .await;
    busy.progress(20).await;
    busy.end().await;
}
