//! What people and scripts are told of a cluster that is half broken: the true cause, and what to do.

use std::time::Duration;

use serde_json::Value;
use sharklock_tests::process::{Process, command};
use sharklock_tests::wait::eventually;
use tempfile::TempDir;

use crate::dev_cluster::Cluster;

/// For what a cluster notices by itself, on a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// Exit code, stdout and stderr of a command.
async fn told(endpoints: &str, args: &[&str]) -> (Option<i32>, String, String) {
    let mut process = Process::spawn(command(args).env("SHARKLOCK_ENDPOINTS", endpoints));
    let code = process.ends(SOON).await.code();
    (code, process.stdout(), process.stderr())
}

/// The document that a command prints, whatever its exit code.
async fn document(endpoints: &str, args: &[&str]) -> (Option<i32>, Value) {
    let (code, out, err) = told(endpoints, &[args, &["--output", "json"]].concat()).await;
    (code, serde_json::from_str(&out).unwrap_or_else(|why| panic!("{why}: {out}{err}")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_without_a_majority_says_who_is_missing_and_what_waits() {
    let cluster = Cluster::start("3", &["--cluster-name", "prod"]).await;
    let endpoints = cluster.endpoints().await;
    let first = endpoints.split(',').next().expect("it has nodes").to_owned();
    eventually("a cluster that is well", SOON, async || {
        let (code, status) = document(&first, &["status"]).await;
        (code == Some(0) && status["cluster_name"] == "prod").then_some(())
    })
    .await;
    eventually("a doctor who finds nothing", SOON, async || {
        let (code, well) = document(&endpoints, &["doctor"]).await;
        (code == Some(0) && well["cause"] == "").then_some(())
    })
    .await;
    for node in ["2", "3"] {
        cluster.dev(&["kill", node]).await;
    }
    let status = eventually("the loss of the majority", SOON, async || {
        let (_, status) = document(&first, &["status"]).await;
        let problem = status["problem"].as_str()?;
        (problem.contains("no majority") && problem.contains("no leader")).then_some(status)
    })
    .await;
    let next = status["next_step"].as_str().expect("there is one");
    assert!(next.contains("node-2 (master ") && next.contains("node-3 (master "), "{next}");
    let beside = status["unexplained_warnings"].as_array().expect("a list");
    assert!(beside.is_empty(), "the problem says all of it: {status}");
    let masters = status["masters"].as_array().expect("they do not vanish");
    let answer = |node: &str| {
        let master = masters.iter().find(|it| it["node"] == node).expect("it is known");
        (master["answers"].as_bool(), master["member_id"] != "0")
    };
    assert_eq!(masters.len(), 3, "{status}");
    assert_eq!((answer("node-1"), answer("node-2")), ((Some(true), true), (Some(false), true)));

    let (code, doctor) = document(&first, &["doctor"]).await;
    let cause = doctor["cause"].as_str().unwrap_or_default();
    assert!(code == Some(3) && cause.starts_with("the masters have no majority"), "{doctor}");
    let (code, error) = document(&first, &["locks", "ls"]).await;
    assert_eq!((code, &error["schema"]), (Some(69), &"sharklock.v1.Error".into()), "{error}");
    assert_eq!(error["error"]["reason"], "NO_LEADER", "{error}");
    let cause = error["error"]["causes"].to_string();
    assert!(cause.contains("the masters have no majority"), "{error}");
    let (code, _, err) = told(&first, &["ops", "ls"]).await;
    assert!(code == Some(69) && err.contains("no leading master") && err.contains("hint: start"));

    let (code, _, err) = told(&first, &["lock", "a", "--try", "--", "true"]).await;
    assert_eq!(code, Some(69), "{err}");
    assert!(err.starts_with("error: a gateway answers, but nobody leads the range\n"), "{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stands_still_is_not_up() {
    let cluster = Cluster::start("3", &[]).await;
    let endpoints = cluster.endpoints().await;
    let first = endpoints.split(',').next().expect("it has nodes").to_owned();
    cluster.dev(&["pause", "2"]).await;
    eventually("the silence of node-2", SOON, async || {
        let (_, out, _) = told(&first, &["status"]).await;
        let rows: Vec<_> = out.lines().filter(|line| line.contains("  node-2  ")).collect();
        let up = |row: &&&str| row.split_whitespace().any(|word| word == "up");
        (rows.len() == 2 && !rows.iter().any(|row| up(&row))).then_some(())
    })
    .await;
    let (_, out, _) = told(&first, &["status"]).await;
    assert!(!out.contains("0.00ms") && !out.contains("-0") && !out.contains("lacks 0"), "{out}");
    cluster.dev(&["resume", "2"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_is_no_gateways_says_which_it_is() {
    let cluster = Cluster::start("1", &[]).await;
    let node = &cluster.nodes().await[0];
    for (role, at) in
        [("admin", &node["admin"]), ("data", &node["data"]), ("master", &node["master"])]
    {
        let endpoint = format!("http://{}", at.as_str().expect("an address"));
        let (code, error) = document(&endpoint, &["status"]).await;
        let error = &error["error"];
        assert_eq!((code, &error["reason"]), (Some(69), &"WRONG_PORT".into()), "{error}");
        let cause = error["causes"][0].as_str().expect("a cause");
        assert!(cause.starts_with(&format!("this is the {role} port of node-1: ")), "{cause}");
        let (code, doctor) = document(&endpoint, &["doctor"]).await;
        assert_eq!((code, &doctor["endpoints"][0]["reason"]), (Some(69), &"WRONG_PORT".into()));
        let (_, _, err) = told(&endpoint, &["lock", "a", "--try", "--", "true"]).await;
        assert!(err.contains(&format!("this is the {role} port of node-1")), "{err}");
    }
    // Beside one that is a gateway's it is passed over.
    let good = cluster.endpoints().await;
    let both = format!("http://{},{good}", node["admin"].as_str().expect("an address"));
    let (code, _, err) = told(&both, &["locks", "ls"]).await;
    assert_eq!(code, Some(0), "{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_is_forming_says_what_it_waits_for() {
    let dir = TempDir::new().expect("a temporary directory can be made");
    let ip = format!("127.202.{}.1", std::process::id() % 250);
    let at = |port: u16| format!("{ip}:{port}");
    let masters = format!("{},{ip}:1,{ip}:2", at(7720));
    let mut server = command(["server", "--name", "lonely", "--roles", "master,data,gateway"]);
    server.args(["--masters", &masters, "--listen-gateway", &at(7700)]);
    server.args(["--listen-data", &at(7710), "--listen-master", &at(7720)]);
    server.args(["--listen-admin", &at(7790)]).arg("--data-dir").arg(dir.path());
    let mut server = Process::spawn(&mut server);
    let endpoint = format!("http://{}", at(7700));
    let waits = &format!("it has not met {ip}:1, {ip}:2");
    eventually("the words of the gateway", SOON, async || {
        let (code, status) = document(&endpoint, &["status"]).await;
        let problem = status["problem"].as_str()?;
        let masters = status["masters"].as_array()?;
        let is_told = problem.contains(waits.as_str()) && masters.len() == 3;
        (code == Some(3) && is_told && status["cluster_id"] == "").then_some(())
    })
    .await;
    // A gateway that has no answer of its master for once says that instead.
    for args in [&["locks", "ls"][..], &["lock", "a", "--try", "--", "true"]] {
        eventually("the cause of a failure", SOON, async || {
            let (code, _, err) = told(&endpoint, args).await;
            let is_told = err.contains("its cluster is not formed yet");
            (code == Some(69) && is_told && err.contains(waits.as_str())).then_some(())
        })
        .await;
    }
    eventually("the doctor's cause", SOON, async || {
        let (code, doctor) = document(&endpoint, &["doctor"]).await;
        let cause = doctor["cause"].as_str()?;
        (code == Some(3) && cause.contains(waits.as_str())).then_some(())
    })
    .await;
    server.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_arguments_are_told_as_json_too() {
    let (code, error) = document("http://127.0.0.1:1", &["locks", "sl"]).await;
    assert_eq!((code, &error["error"]["reason"]), (Some(2), &"USAGE".into()), "{error}");
    let (code, error) = document("http://127.0.0.1:1", &["locks", "ls"]).await;
    assert_eq!((code, &error["error"]["reason"]), (Some(69), &"NOT_CONNECTED".into()), "{error}");
    let (code, _, err) = told("  ", &["status"]).await;
    assert!(code == Some(2) && err.contains("SHARKLOCK_ENDPOINTS"), "{err}");
    let reason = ["locks", "force-release", "a", "--reason", "x", "--token", "abc"];
    let (code, _, err) = told("http://127.0.0.1:1", &reason).await;
    assert!(code == Some(2) && err.contains("--token") && err.contains("whole number"), "{err}");
    let (code, out, _) = told("http://127.0.0.1:1", &["version"]).await;
    assert!(code == Some(0) && out.contains("no gateway answers"), "{out}");
    let (code, out, _) = told("http://127.0.0.1:1", &["help", "locks", "show"]).await;
    assert!(code == Some(0) && out.contains("sharklock locks show nightly"), "{out}");
}
