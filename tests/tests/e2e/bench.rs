//! `sharklock bench` in small: that it runs, checks itself, and says what it measured. Speed is not
//! judged here, where other tests share the machine.

use std::time::Duration;

use sharklock_tests::process::Process;
use sharklock_tests::server::Server;
use tempfile::TempDir;

#[tokio::test(flavor = "multi_thread")]
async fn both_workloads_run_and_report() {
    let server = Server::start().await;
    let dir = TempDir::new().unwrap();
    for workload in ["acquire-release", "contend"] {
        let json = dir.path().join(format!("{workload}.json"));
        let mut command = server.cli(&[
            "bench",
            workload,
            "--clients",
            "8",
            "--duration",
            "1s",
            "--warmup",
            "200ms",
        ]);
        command.arg("--fsync-dir").arg(dir.path()).arg("--json").arg(&json);
        let mut bench = Process::spawn(&mut command);
        let status = bench.ends(Duration::from_secs(60)).await;
        assert_eq!(status.code(), Some(0), "{workload}\n{}{}", bench.stdout(), bench.stderr());
        let report = std::fs::read_to_string(&json).expect("it was written");
        let report: serde_json::Value = serde_json::from_str(&report).expect("it is JSON");
        println!("{workload}: {report}");
    }
}
