//! Ranges split under the hands of those who use them, told and by themselves: a load of many clients,
//! and shells that count.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use sharklock_client::FencingToken;
use sharklock_tests::cluster::{Cluster, SOON, client};
use sharklock_tests::process::{Process, command, sharklock, text_of};
use sharklock_tests::wait::eventually;
use tempfile::TempDir;

use crate::alone;
use crate::lock_command::{check_lifetimes, script};
use crate::ranges::{bounds, cli_json};

/// For splits that wait for ten seconds of load each.
const LATER: Duration = Duration::from_secs(180);
/// No call takes longer while a range splits.
const CALL_MAX: Duration = Duration::from_secs(1);

/// A split at a name, whose range that is; both halves are led afterwards.
async fn split(endpoints: &[String], at: &str) {
    let split = cli_json(endpoints, &["ranges", "split", at, "--at", at, "--wait"]).await;
    assert_eq!((&split["done"], &split["led"]), (&true.into(), &true.into()), "{split}");
}

/// `sharklock bench`, on names that begin with `load/`, until it is told to end.
struct Bench {
    process: Process,
    /// Where it measures the disk.
    _dir: TempDir,
}

impl Bench {
    async fn start(endpoints: &[String], clients: &str, names: &str) -> Self {
        let dir = TempDir::new().expect("a temporary directory can be made");
        let mut bench = command(["bench", "acquire-release", "--clients", clients]);
        bench.args(["--names", names, "--prefix", "load/", "--output", "json"]);
        bench.args(["--warmup", "1ms", "--duration", "10m", "--fsync-dir"]).arg(dir.path());
        let process = Process::spawn(bench.env("SHARKLOCK_ENDPOINTS", endpoints.join(",")));
        let client = client(endpoints.iter().cloned());
        // The load holds a lock whenever it is looked at, sooner or later.
        let begins = async || (!client.list_locks("load/").await.ok()?.is_empty()).then_some(());
        eventually("the load", SOON, begins).await;
        Self { process, _dir: dir }
    }

    /// Its report, in which nothing is wrong.
    async fn end(mut self) -> Value {
        assert_eq!(self.process.ended(), None, "the load went on all the time");
        self.process.signal(Signal::SIGINT);
        let code = self.process.ends(SOON).await.code();
        let report: Value = serde_json::from_str(&self.process.stdout()).expect("a report");
        assert_eq!(code, Some(0), "{report}\n{}", self.process.stderr());
        assert_eq!(report["schema"], "sharklock.v1.Bench");
        assert_eq!(report["stopped_early"], true);
        assert_eq!(report["errors"]["count"], 0, "{report}");
        let history = &report["history"];
        assert_eq!((&history["names"], &history["violations"]), (&256.into(), &0.into()));
        assert!(history["grants_per_name_min"].as_u64() > Some(1), "{report}");
        println!("slowest call: {}", report["slowest"]);
        report
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_splits_at_names_in_use_are_no_error_and_no_call_of_a_second() {
    let _alone = alone().await;
    let cluster = Cluster::start(3, "").await;
    cluster.until_healthy().await;
    let endpoints = cluster.endpoints();
    let bench = Bench::start(&endpoints, "32", "8").await;
    let client = cluster.client();

    let places = [3, 17, 30, 8, 22, 13, 1, 27, 5, 10].map(|worker| format!("load/{worker}/5"));
    let mut tokens: Vec<FencingToken> = Vec::new();
    for at in &places {
        split(&endpoints, at).await;
        // Its worker stands in line for it, too.
        let guard = client.lock(at).acquire().await.expect("its turn comes");
        tokens.push(guard.token());
        guard.release().await.expect("it is held");
    }
    for (at, before) in places.iter().zip(tokens) {
        let guard = client.lock(at).acquire().await.expect("its turn comes");
        assert!(guard.token() > before, "{at}: {} comes after {before}", guard.token());
        guard.release().await.expect("it is held");
    }
    let mut starts = places.to_vec();
    starts.push(String::new());
    starts.sort();
    assert_eq!(bounds(&endpoints).await, starts);

    let report = bench.end().await;
    let slowest = &report["slowest"];
    let took = Duration::from_secs_f64(slowest["us"].as_f64().expect("a number") / 1e6);
    assert!(took < CALL_MAX, "{slowest}");
}

/// The children of splits for load are handed on to other stores.
#[tokio::test(flavor = "multi_thread")]
async fn a_range_under_load_splits_by_itself_and_its_children_spread() {
    let _alone = alone().await;
    // What any machine that runs tests can do.
    let settings = "[split]\ncommands_per_second = 100\n";
    let cluster = Cluster::start(3, settings).await;
    cluster.until_healthy().await;
    let endpoints = cluster.endpoints();
    let bench = Bench::start(&endpoints, "16", "16").await;
    eventually("two splits, and leaders on two stores", LATER, async || {
        let ranges = cluster.status(0).await?.ranges;
        let leaders: BTreeSet<_> = ranges.iter().map(|range| range.leader_store_id).collect();
        (ranges.len() > 2 && leaders.len() > 1 && !leaders.contains(&0)).then_some(())
    })
    .await;
    let starts = bounds(&endpoints).await;
    assert!(starts[1..].iter().all(|start| start.starts_with("load/")), "{starts:?}");
    bench.end().await;
}

/// 16 shells, 15 increments each, and the range of their counter splits eight times: below the
/// counter's name, above it and at it, so that it changes its range and stays, by turns.
#[tokio::test(flavor = "multi_thread")]
async fn sixteen_shells_count_on_while_their_range_splits() {
    const SHELLS: usize = 16;
    const EACH: usize = 15;
    let total = SHELLS * EACH;
    let places = ["b", "x", "c", "counter/9", "counter", "counter/5", "counter/1", "counter!"];
    let _alone = alone().await;
    let cluster = Cluster::start(3, "").await;
    cluster.until_healthy().await;
    let endpoints = cluster.endpoints();
    let dir = TempDir::new().expect("a temporary directory can be made");
    let (counter, log) = (dir.path().join("counter"), dir.path().join("log"));
    fs::write(&counter, "0\n").expect("the directory is ours");
    let increment = script(
        &dir,
        "increment.sh",
        "echo begin $$ $SHARKLOCK_TOKEN >> $2\nn=$(cat $1)\nsleep 0.005\necho $((n + 1)) > $1\n\
         echo end $$ $SHARKLOCK_TOKEN >> $2\n",
    );
    let shell = "i=0; while [ $i -lt $0 ]; do i=$((i + 1)); \"$@\" || exit 1; done";
    let one = |_| {
        let mut sh = Command::new("sh");
        sh.args(["-c", shell, &EACH.to_string()]).arg(sharklock());
        sh.args(["lock", "counter", "--timeout", "60s", "--"]);
        sh.arg(&increment).arg(&counter).arg(&log);
        Process::spawn(sh.env("SHARKLOCK_ENDPOINTS", endpoints.join(",")))
    };
    let mut shells: Vec<_> = (0..SHELLS).map(one).collect();
    let ends = || text_of(&log).lines().filter(|line| line.starts_with("end ")).count();
    for (done, at) in (1..).zip(places) {
        let goal = done * total / (places.len() + 1);
        let reached = async || (ends() >= goal).then_some(());
        eventually(&format!("{goal} increments"), 2 * SOON, reached).await;
        let range = cli_json(&endpoints, &["ranges", "show", "counter"]).await;
        let range = range["range"]["range_id"].as_str().expect("text").to_owned();
        let split = ["ranges", "split", &range, "--at", at, "--wait"];
        let split = cli_json(&endpoints, &split).await;
        assert_eq!(split["led"], true, "{split}");
    }
    for shell in &mut shells {
        let status = shell.ends(2 * SOON).await;
        assert_eq!(status.code(), Some(0), "{}", shell.stderr());
    }
    assert_eq!(text_of(&counter).trim(), total.to_string());
    let lifetimes = check_lifetimes(&text_of(&log)).unwrap_or_else(|why| panic!("{why}"));
    assert_eq!(lifetimes, total);
    let mut starts = places.to_vec();
    starts.push("");
    starts.sort_unstable();
    assert_eq!(bounds(&endpoints).await, starts);
}
