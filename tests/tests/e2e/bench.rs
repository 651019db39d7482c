//! `sharklock bench` in small: that it runs, checks itself, and says what it measured. Speed is not
//! judged here, where other tests share the machine.

use std::time::Duration;

use sharklock_tests::process::Process;
use sharklock_tests::server::Server;
use tempfile::TempDir;

#[tokio::test(flavor = "multi_thread")]
async fn every_workload_runs_and_reports() {
    let server = Server::start().await;
    for workload in ["acquire-release", "contend", "semaphore"] {
        let report = report(&server, &[workload]).await;
        let permits = &report["permits"];
        assert_eq!(permits.is_null(), workload != "semaphore", "{report}");
        assert!(report["since_due"].is_null(), "{report}");
        assert_eq!(report["fairness"].is_null(), workload == "acquire-release", "{report}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_a_rate_each_cycle_is_measured_from_when_it_was_due() {
    let server = Server::start().await;
    let report = report(&server, &["semaphore", "--permits", "3", "--rate", "50"]).await;
    let count = |of: &str| report[of]["count"].as_u64().unwrap_or_default();
    assert_eq!(count("since_due"), count("cycle"), "{report}");
    assert!((1..=60).contains(&count("cycle")), "{report}");
    let median = |of: &str| report[of]["p50_us"].as_f64().unwrap_or_default();
    assert!(median("since_due") >= median("cycle"), "{report}");
    assert_eq!(report["permits"], 3, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_and_waiters_stand_beside_the_cycles_and_are_given_back() {
    let server = Server::start().await;
    // More locks than one session gets, and more waiters than come at once.
    let options = ["acquire-release", "--locks", "5300", "--waiters", "1200", "--queues", "3"];
    let report = report(&server, &options).await;
    for (what, wanted) in [("locks", 5_300), ("waiters", 1_200)] {
        let stood = &report[what];
        let counts = ["wanted", "count", "lost"].map(|of| stood[of].as_u64());
        assert_eq!(counts, [Some(wanted), Some(wanted), Some(0)], "{report}");
    }
    assert_eq!(report["locks"]["acquire"]["count"], 5_300, "{report}");
    assert_eq!(report["errors"]["count"], 0, "{report}");
    let mut list = Process::spawn(&mut server.cli(&["locks", "ls", "bench-", "--output", "json"]));
    assert_eq!(list.ends(Duration::from_secs(60)).await.code(), Some(0), "{}", list.stderr());
    let left: serde_json::Value = serde_json::from_str(&list.stdout()).expect("it is JSON");
    assert_eq!(left["locks"].as_array().map(Vec::len), Some(0), "{left}");
}

#[tokio::test(flavor = "multi_thread")]
async fn cycles_go_through_all_ranges_which_are_made_once() {
    let server = Server::start().await;
    // Fewer than there are workers, and more.
    for (ranges, splits) in [(5, 5), (11, 6), (11, 0)] {
        let report = report(&server, &["ranges", "--ranges", &ranges.to_string()]).await;
        assert_eq!(report["split"]["ranges"], ranges, "{report}");
        assert_eq!(report["split"]["splits"], splits, "{report}");
        assert_eq!(report["errors"]["count"], 0, "{report}");
        let names = report["history"]["names"].as_u64();
        assert_eq!(names, Some(ranges.max(8)), "{report}");
    }
    let mut list = Process::spawn(&mut server.cli(&["ranges", "ls", "--output", "json"]));
    assert_eq!(list.ends(Duration::from_secs(60)).await.code(), Some(0), "{}", list.stderr());
    let list: serde_json::Value = serde_json::from_str(&list.stdout()).expect("it is JSON");
    let starts = list["ranges"].as_array().expect("a list").iter().map(|it| it["start"].as_str());
    let made = starts.flatten().filter(|start| start.starts_with("bench-ranges/")).count();
    assert_eq!(made, 11, "{list}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_with_a_lock_each_share_connections_and_are_kept_alive() {
    let server = Server::start().await;
    // More than one connection serves, and a lease that must be renewed within the run.
    let options = ["acquire-release", "--sessions", "1100", "--ttl", "2s"];
    let report = report(&server, &options).await;
    let counts = ["wanted", "count", "lost"].map(|of| report["sessions"][of].as_u64());
    assert_eq!(counts, [Some(1_100), Some(1_100), Some(0)], "{report}");
    let keepalives = &report["keepalives"];
    assert_eq!(keepalives["connections"], 2, "{report}");
    // Each renews every third of its lease: 1.2 s of run are more than one of these.
    assert!(keepalives["answers"]["count"].as_u64() >= Some(1_100), "{report}");
    assert_eq!(report["errors"]["count"], 0, "{report}");
}

/// A short run, which must have seen nothing wrong, as JSON.
async fn report(server: &Server, options: &[&str]) -> serde_json::Value {
    let dir = TempDir::new().expect("a directory");
    let json = dir.path().join("report.json");
    let mut command = server.cli(&["bench"]);
    command.args(options).args(["--clients", "8", "--duration", "1s", "--warmup", "200ms"]);
    command.arg("--fsync-dir").arg(dir.path()).arg("--json").arg(&json);
    let mut bench = Process::spawn(&mut command);
    let status = bench.ends(Duration::from_secs(60)).await;
    let told = format!("{options:?}\n{}{}", bench.stdout(), bench.stderr());
    assert_eq!(status.code(), Some(0), "{told}");
    let report = std::fs::read_to_string(&json).expect("it was written");
    serde_json::from_str(&report).expect("it is JSON")
}
