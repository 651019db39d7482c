//! Ranges split under the hands of those who use them: a load of many clients, and shells that count.

use std::fs;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use sharklock_client::FencingToken;
use sharklock_tests::cluster::{Cluster, SOON};
use sharklock_tests::process::{Process, command, sharklock, text_of};
use sharklock_tests::wait::eventually;
use tempfile::TempDir;

use crate::alone;
use crate::lock_command::{check_lifetimes, script};
use crate::ranges::{bounds, cli_json};

/// No call takes longer while a range splits.
const CALL_MAX: Duration = Duration::from_secs(1);

/// A split at a name, whose range that is; both halves are led afterwards.
async fn split(endpoints: &[String], at: &str) {
    let split = cli_json(endpoints, &["ranges", "split", at, "--at", at, "--wait"]).await;
    assert_eq!((&split["done"], &split["led"]), (&true.into(), &true.into()), "{split}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_splits_at_names_in_use_are_no_error_and_no_call_of_a_second() {
    let _alone = alone().await;
    let cluster = Cluster::start(3, "").await;
    cluster.until_healthy().await;
    let endpoints = cluster.endpoints();
    let dir = TempDir::new().expect("a temporary directory can be made");
    let mut bench = command(["bench", "acquire-release", "--clients", "32", "--names", "8"]);
    bench.args(["--prefix", "load/", "--warmup", "1ms", "--duration", "10m", "--output", "json"]);
    bench.arg("--fsync-dir").arg(dir.path()).env("SHARKLOCK_ENDPOINTS", endpoints.join(","));
    let mut bench = Process::spawn(&mut bench);
    let client = cluster.client();
    // The load holds a lock whenever it is looked at, sooner or later.
    let begins = async || (!client.list_locks("load/").await.ok()?.is_empty()).then_some(());
    eventually("the load", SOON, begins).await;

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

    assert_eq!(bench.ended(), None, "the load went on all the time");
    bench.signal(Signal::SIGINT);
    let code = bench.ends(SOON).await.code();
    let report: Value = serde_json::from_str(&bench.stdout()).expect("a report");
    assert_eq!(code, Some(0), "{report}\n{}", bench.stderr());
    assert_eq!(
        (&report["schema"], &report["stopped_early"]),
        (&"sharklock.v1.Bench".into(), &true.into())
    );
    assert_eq!(report["errors"]["count"], 0, "{report}");
    assert_eq!(
        (&report["history"]["names"], &report["history"]["violations"]),
        (&256.into(), &0.into())
    );
    assert!(report["history"]["grants_per_name_min"].as_u64() > Some(1), "{report}");
    let slowest = &report["slowest"];
    let took = Duration::from_secs_f64(slowest["us"].as_f64().expect("a number") / 1e6);
    println!("slowest call: {slowest}");
    assert!(took < CALL_MAX, "{slowest}");
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
