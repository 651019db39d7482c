//! `sharklock debug collect`: one archive of what a cluster and its processes say of themselves.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use sharklock_tests::process::{Process, command};
use sharklock_tests::wait::eventually;
use tempfile::TempDir;

use crate::dev_cluster::Cluster;

const SOON: Duration = Duration::from_secs(60);
const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];

/// Exit code and document of a collection into this file.
async fn collect(endpoints: &str, file: &Path) -> (Option<i32>, Value) {
    let file = file.to_str().expect("UTF-8");
    let mut collect = command(["debug", "collect", "--file", file, "--output", "json"]);
    let mut process = Process::spawn(collect.env("SHARKLOCK_ENDPOINTS", endpoints));
    let code = process.ends(SOON).await.code();
    let (out, err) = (process.stdout(), process.stderr());
    (code, serde_json::from_str(&out).unwrap_or_else(|why| panic!("{why}: {out}{err}")))
}

/// A file of an archive that was unpacked here, below the archive's only directory.
fn text(dir: &Path, name: &str) -> String {
    let below = std::fs::read_dir(dir).expect("it was unpacked");
    let below: Vec<_> = below.map(|entry| entry.expect("it can be read").path()).collect();
    let [only] = &below[..] else { panic!("one directory: {below:?}") };
    let file = only.join(name);
    std::fs::read_to_string(&file).unwrap_or_else(|why| panic!("{}: {why}", file.display()))
}

/// Unpacks an archive into this directory, and removes what was there.
async fn unpack(file: &Path, dir: &Path) {
    let _ = std::fs::remove_dir_all(dir);
    std::fs::create_dir(dir).expect("it can be made");
    let mut tar = Command::new("tar");
    tar.arg("-xzf").arg(file).arg("-C").arg(dir);
    assert!(Process::spawn(&mut tar).ends(SOON).await.success(), "tar reads it");
}

/// The spans of all processes in an archive that was unpacked here.
fn spans(dir: &Path) -> Vec<Value> {
    let files = NODES.map(|node| text(dir, &format!("processes/{node}/traces.jsonl")));
    let lines = files.iter().flat_map(|file| file.lines());
    lines.map(|line| serde_json::from_str(line).expect("a span")).collect()
}

/// Whether a store has traced what a gateway sent to it, in one trace.
fn has_whole_trace(spans: &[Value]) -> bool {
    let of = |name: &'static str| spans.iter().filter(move |span| span["name"] == name);
    of("store.acquire").any(|store| {
        let above = (&store["parent"], &store["trace"]);
        of("gateway.acquire").any(|gateway| above == (&gateway["span"], &gateway["trace"]))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_archive_has_what_everybody_says() {
    let cluster = Cluster::start("3", &["--cluster-name", "prod"]).await;
    let all = cluster.endpoints().await;
    // One gateway knows the processes of all masters and stores.
    let first = all.split(',').next().expect("it has nodes");
    let dir = TempDir::new().expect("a temporary directory can be made");
    let (file, unpacked) = (dir.path().join("all.tar.gz"), dir.path().join("unpacked"));
    eventually(
        "answers of all processes, and an acquire that a store has traced",
        SOON,
        async || {
            // One of 1,000 acquires is traced. The first one is, but it may come too early for a leader.
            let mut bench = command(["bench", "acquire-release", "--clients", "8"]);
            let bench = bench.args(["--duration", "1s", "--warmup", "0s"]);
            let mut bench = Process::spawn(bench.env("SHARKLOCK_ENDPOINTS", first));
            assert!(bench.ends(SOON).await.success(), "{}", bench.stderr());
            let _ = std::fs::remove_file(&file);
            let (code, collection) = collect(first, &file).await;
            let processes = collection["processes"].as_array()?;
            let all_answer = code == Some(0) && processes.len() == 3;
            if !all_answer {
                return None;
            }
            unpack(&file, &unpacked).await;
            has_whole_trace(&spans(&unpacked)).then_some(())
        },
    )
    .await;
    let mode = std::fs::metadata(&file).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "others may not read it");
    let json = |name: &str| -> Value {
        serde_json::from_str(&text(&unpacked, name)).unwrap_or_else(|why| panic!("{name}: {why}"))
    };
    assert_eq!(json("status.json")["cluster_name"], "prod");
    assert_eq!(json("doctor.json")["schema"], "sharklock.v1.Doctor");
    assert_eq!(json("ranges.json")["ranges"].as_array().map(Vec::len), Some(1));
    for node in NODES {
        let part = |name: &str| text(&unpacked, &format!("processes/{node}/{name}"));
        assert!(part("readyz.txt").starts_with("ok\n"));
        assert!(part("metrics.txt").contains(&format!("node=\"{node}\"")), "{node}");
        assert!(part("config.toml").contains(&format!("name = \"{node}\"")), "{node}");
        let log = part("log.jsonl");
        let events: Vec<Value> =
            log.lines().map(|line| serde_json::from_str(line).expect("an event")).collect();
        assert!(events.iter().any(|event| event["fields"]["message"] == "ready"), "{log}");
    }
    let mut again = command(["debug", "collect", "--file"]);
    let mut process = Process::spawn(again.arg(&file).env("SHARKLOCK_ENDPOINTS", first));
    assert_eq!(process.ends(SOON).await.code(), Some(1), "it does not write over an archive");

    cluster.dev(&["kill", "3"]).await;
    let file = dir.path().join("two.tar.gz");
    let (code, collection) = collect(&all, &file).await;
    let missing = collection["missing"].to_string();
    let answering = collection["processes"].as_array().expect("a list").iter();
    let answering = answering.filter(|it| it["answers"] == true).count();
    assert!(answering == 2 && missing.contains("of node-3 ("), "{collection}");
    assert_eq!(code, Some(3), "{collection}");
    let (code, error) = collect("http://127.0.0.1:1", &dir.path().join("none.tar.gz")).await;
    assert_eq!((code, &error["error"]["reason"]), (Some(69), &"UNREACHABLE".into()), "{error}");
    assert!(!dir.path().join("none.tar.gz").exists(), "nothing is worth nothing");
}
