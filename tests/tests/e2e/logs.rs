//! Logs, as whoever operates a cluster reads them: what they say of its ordinary days.

use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;
use sharklock_tests::cluster::{Cluster, SOON};
use sharklock_tests::server::Server;
use sharklock_tests::wait::eventually;

/// The lines of a log in JSON.
fn lines(log: &str) -> Vec<Value> {
    let line =
        |line: &str| serde_json::from_str(line).unwrap_or_else(|why| panic!("{why}: {line}"));
    log.lines().map(line).collect()
}

fn is(line: &Value, message: &str) -> bool {
    line["fields"]["message"] == message
}

/// The machine of the test stood still, which a process tells of as it should.
fn is_of_machine(line: &Value) -> bool {
    let message = line["fields"]["message"].as_str().unwrap_or_default();
    message.starts_with("stall: ") || message.starts_with("this gateway stood still")
}

/// Nothing that an operator would have to look into, nor values as programmers write them.
fn assert_is_calm(log: &str) {
    for (text, line) in log.lines().zip(lines(log)).filter(|(_, line)| !is_of_machine(line)) {
        assert!(line["level"] != "WARN" && line["level"] != "ERROR", "{text}");
        assert!(!text.contains("Some("), "{text}");
        assert!(!text.contains(r#""\""#), "quoted twice: {text}");
    }
}

/// A line of this message with these fields.
fn assert_says(log: &str, message: &str, fields: &[&str]) {
    let told: Vec<_> = lines(log).into_iter().filter(|line| is(line, message)).collect();
    assert!(!told.is_empty(), "no line {message:?} in\n{log}");
    for line in told {
        assert_eq!(line["level"], "INFO", "{line}");
        let missing: Vec<_> =
            fields.iter().filter(|field| line["fields"].get(**field).is_none()).collect();
        assert!(missing.is_empty(), "{missing:?} in {line}");
    }
}

fn at_debug(mut command: Command) -> Command {
    command.env("SHARKLOCK_LOG", "debug");
    command
}

/// What each node says once it has found all others.
const MET: [&str; 4] = [
    "a peer is connected",
    "a store is connected",
    "a master is connected",
    "a leading master answers",
];

/// A node may serve before it has found everybody, so a log that is stopped too early would lack some.
async fn until_met(cluster: &mut Cluster, node: usize) {
    eventually("a node has met all others", SOON, async || {
        let log = cluster.process(node).stderr();
        MET.iter().all(|message| log.contains(message)).then_some(())
    })
    .await;
}

/// Ends nodes at the same time, and gives their logs.
async fn stop(cluster: &mut Cluster, nodes: &[usize]) -> Vec<String> {
    nodes.iter().for_each(|node| cluster.process(*node).signal(Signal::SIGTERM));
    let mut logs = Vec::new();
    for node in nodes {
        let status = cluster.process(*node).ends(SOON).await;
        let log = cluster.process(*node).stderr();
        assert!(status.success(), "{status}\n{log}");
        logs.push(log);
    }
    logs
}

/// One cluster for all that is said of it: started, used, a node restarted, stopped, at debug, which shows
/// whatever the default does.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_starts_serves_and_stops_warns_of_nothing() {
    let _alone = crate::alone().await;
    let mut cluster = Cluster::new(3, "").await;
    (0..3).for_each(|node| cluster.spawn_with(node, at_debug));
    for node in 0..3 {
        cluster.until_ready(node).await;
    }
    cluster.until_healthy().await;
    for node in 0..3 {
        until_met(&mut cluster, node).await;
    }
    let client = cluster.client();
    let held = client.lock("logs/held").acquire().await.expect("it is free");
    let leader = cluster.leader(&[0, 1, 2]).await;
    let mut logs = stop(&mut cluster, &[leader]).await;
    cluster.spawn_with(leader, at_debug);
    cluster.until_ready(leader).await;
    cluster.until_healthy().await;
    until_met(&mut cluster, leader).await;
    assert!(held.is_valid(), "a restart in order takes no lock away");
    logs.extend(stop(&mut cluster, &[0, 1, 2]).await);

    for log in &logs {
        assert_is_calm(log);
        for line in lines(log) {
            let target = line["target"].as_str().expect("each line has one");
            let is_ours = target.starts_with("sharklock") || target == "audit";
            assert!(is_ours, "SHARKLOCK_LOG=debug is about us: {line}");
        }
        assert_says(log, "a peer is connected", &["role", "store", "address", "class"]);
        assert_says(log, "a store is connected", &["store", "address"]);
        assert_says(log, "a master is connected", &["address"]);
        assert_says(log, "a leading master answers", &["address"]);
    }
    let all = logs.concat();
    assert!(lines(&all).iter().any(|line| line["level"] == "DEBUG"), "debug shows more");
    let (range, master) = (["range", "store", "term"], ["master", "term"]);
    assert_says(&all, "this store leads a range", &range);
    assert_says(&logs[0], "this store leads a range no longer", &range);
    assert_says(&all, "this master leads", &master);
    assert_says(&all, "a peer is not connected", &["role", "store", "address", "class", "why"]);
    assert_says(&all, "a store is not connected", &["store", "address", "why"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_alone_starts_and_stops_without_a_warning() {
    for args in [&["--ephemeral"][..], &[]] {
        let mut server = Server::start_with(args, |command| command).await;
        let guard = server.client().lock("logs/alone").acquire().await.expect("it is free");
        guard.release().await.expect("it is released");
        assert!(server.stop().await.success());
        let mut log = server.process().stderr();
        if args.is_empty() {
            server.start_again().await;
            assert!(server.stop().await.success());
            log += &server.process().stderr();
        }
        assert_is_calm(&log);
        assert_says(&log, "this store leads a range", &["range", "store", "term"]);
        assert_says(&log, "this master leads", &["master", "term"]);
    }
}

/// A store that stays away is worth a warning, once for each connection to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_stays_away_is_warned_of() {
    let _alone = crate::alone().await;
    let mut cluster = Cluster::start(3, "").await;
    cluster.until_healthy().await;
    cluster.kill(2);
    let message = "a peer stays out of reach";
    let told = eventually("a warning", SOON, async || {
        let log = cluster.process(0).stderr();
        // The last line may be half written.
        let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let told: Vec<_> = lines(whole).into_iter().filter(|line| is(line, message)).collect();
        (!told.is_empty()).then_some(told)
    })
    .await;
    for line in told {
        assert_eq!(line["level"], "WARN", "{line}");
        assert!(line["fields"]["why"].is_string() && line["fields"]["store"].is_string(), "{line}");
    }
}
