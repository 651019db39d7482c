//! deploy/prometheus and deploy/grafana: rules and alerts pass their own tests, each alert is explained,
//! and every query of a dashboard finds something in a real Prometheus that scrapes a real cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;
use sharklock_tests::cluster::{Cluster, SOON};
use sharklock_tests::process::{Process, command};
use sharklock_tests::server::get;
use sharklock_tests::wait::eventually;
use tempfile::TempDir;

const MISSING: &str = "is missing: install Debian's package `prometheus`, as scripts/setup.sh does";
/// Prometheus scrapes once a second here; a rate needs two scrapes.
const FOUND_WITHIN: Duration = Duration::from_secs(90);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

fn folder() -> PathBuf {
    root().join("deploy/prometheus")
}

fn promtool(args: &[&str]) -> Output {
    let mut promtool = Command::new("promtool");
    promtool.args(args).current_dir(folder());
    promtool.output().unwrap_or_else(|why| panic!("promtool {MISSING} ({why})"))
}

#[test]
fn promtool_finds_the_rules_good_and_their_tests_pass() {
    for args in [
        &["check", "config", "prometheus.yml"][..],
        &["check", "rules", "sharklock.recording.yml", "sharklock.alerts.yml"],
        &["test", "rules", "sharklock.test.yml"],
    ] {
        let output = promtool(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
    }
}

/// The values of all lines that begin with this key.
fn values(file: &str, key: &str) -> Vec<String> {
    let text = std::fs::read_to_string(folder().join(file)).expect("it is there");
    let value = |line: &str| line.trim_start().strip_prefix(key).map(|it| it.trim().to_owned());
    text.lines().filter_map(value).collect()
}

#[test]
fn each_alert_has_a_row_in_the_handbook_and_a_test_that_it_rings() {
    let alerts: BTreeSet<_> = values("sharklock.alerts.yml", "- alert:").into_iter().collect();
    let page = std::fs::read_to_string(root().join("docs/OPERATIONS.md")).expect("it is there");
    let (_, section) = page.split_once("\n## Alerts\n").expect("it has the section");
    let section = section.split("\n## ").next().expect("it has an end");
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let mut explained = BTreeSet::new();
    for (name, rest) in rows {
        assert!(explained.insert(name.to_owned()), "{name} is there twice");
        let cells: Vec<_> = rest.split('|').map(str::trim).filter(|it| !it.is_empty()).collect();
        assert_eq!(cells.len(), 2, "{name}: what it means, and what to do");
    }
    assert_eq!(alerts, explained);
    let tested = values("sharklock.test.yml", "- name:");
    for alert in &alerts {
        for story in ["rings", "is quiet"] {
            assert!(tested.contains(&format!("{alert} {story}")), "no test that {alert} {story}");
        }
    }
}

/// The metrics that rules and dashboards ask for are those of the handbook's table.
#[test]
fn whatever_is_asked_for_is_a_metric() {
    let page = std::fs::read_to_string(root().join("docs/OPERATIONS.md")).expect("it is there");
    let names = page.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0));
    let known: BTreeSet<_> = names.collect();
    let mut asked: Vec<String> = queries().into_values().collect();
    for file in ["sharklock.recording.yml", "sharklock.alerts.yml"] {
        asked.push(std::fs::read_to_string(folder().join(file)).expect("it is there"));
    }
    for text in &asked {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        let words = text.split(|c| !is_word(c));
        for word in words.filter(|it| it.starts_with("sharklock_") || it.starts_with("process_")) {
            let family = ["_bucket", "_count", "_sum"].iter().find_map(|it| word.strip_suffix(it));
            let family = family.unwrap_or(word);
            assert!(known.contains(family) || known.contains(word), "{word} is no metric: {text}");
        }
    }
}

/// The queries of all dashboards, by their panels.
fn queries() -> BTreeMap<String, String> {
    let mut queries = BTreeMap::new();
    let dashboards = std::fs::read_dir(root().join("deploy/grafana")).expect("it is a folder");
    for file in dashboards.map(|it| it.expect("it is read").path()) {
        let text = std::fs::read_to_string(&file).expect("it is a file");
        let dashboard: Value = serde_json::from_str(&text).expect("it is JSON");
        for panel in dashboard["panels"].as_array().expect("it has panels") {
            for target in panel["targets"].as_array().into_iter().flatten() {
                let name = format!("{} {}", panel["title"], target["refId"]);
                let query = target["expr"].as_str().expect("each has one").to_owned();
                assert!(queries.insert(name.clone(), query).is_none(), "{name} is there twice");
            }
        }
    }
    assert!(queries.len() > 50, "{}", queries.len());
    queries
}

/// A Prometheus that scrapes these processes.
struct Prometheus {
    _process: Process,
    address: String,
    _dir: TempDir,
}

impl Prometheus {
    async fn start(targets: &[String]) -> Self {
        let dir = TempDir::new().expect("a temporary directory can be made");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound").to_string();
        drop(listener);
        let targets = serde_json::to_string(targets).expect("they are text");
        let rules = folder();
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
             rule_files:\n  - {rules}/sharklock.recording.yml\n  - {rules}/sharklock.alerts.yml\n\
             scrape_configs:\n  - job_name: sharklock\n    static_configs: [{{targets: {targets}}}]\n",
            rules = rules.display()
        );
        std::fs::write(dir.path().join("prometheus.yml"), config).expect("it is ours");
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", dir.path().join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"));
        let there = Command::new("prometheus").arg("--version").output();
        there.unwrap_or_else(|why| panic!("prometheus {MISSING} ({why})"));
        let mut process = Process::spawn(&mut command);
        eventually("Prometheus is ready", SOON, async || {
            let ended = process.ended();
            assert!(ended.is_none(), "{ended:?}\n{}", process.stderr());
            let (status, _) = get(&address, "/-/ready").await.ok()?;
            (status == 200).then_some(())
        })
        .await;
        Self { _process: process, address, _dir: dir }
    }

    /// Whether a query finds nothing, or nothing but NaN, as a quantile of a histogram that has seen
    /// nothing is: it equals nothing, itself neither.
    async fn is_empty(&self, query: &str) -> bool {
        // A number is short, so that the answer comes in one piece.
        let counted = format!("count(({query}) == ({query}))");
        let encoded: String = counted.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let path = format!("/api/v1/query?query={encoded}");
        let (_, body) = get(&self.address, &path).await.expect("Prometheus answers");
        let answer: Value =
            serde_json::from_str(&body).unwrap_or_else(|why| panic!("{query}: {why}: {body}"));
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        answer["data"]["result"].as_array().is_none_or(Vec::is_empty)
    }
}

/// Locks that are taken, waited for, handed over and given back, and orders that the masters write down.
async fn use_it(cluster: &Cluster) {
    let (one, other) = (cluster.client(), cluster.client());
    let held = one.lock("dashboards/a").acquire().await.expect("it is free");
    let waits = tokio::spawn(async move { other.lock("dashboards/a").acquire().await });
    eventually("the other one waits", SOON, async || {
        let seen = one.get_lock("dashboards/a").await.ok()?;
        (!seen.lock?.waiters.is_empty()).then_some(())
    })
    .await;
    held.release().await.expect("it is released");
    let next = waits.await.expect("no panic").expect("it is its turn");
    next.release().await.expect("it is released");
    for order in ["pause", "resume"] {
        let mut schedule = command(["schedule", order]);
        let mut schedule = Process::spawn(schedule.env("SHARKLOCK_ENDPOINTS", cluster.endpoint(0)));
        assert!(schedule.ends(SOON).await.success(), "{}", schedule.stderr());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_of_the_dashboards_finds_something() {
    let _alone = crate::alone().await;
    let cluster = Cluster::start(3, "").await;
    cluster.until_healthy().await;
    let targets: Vec<_> = (0..cluster.len()).map(|node| cluster.admin(node)).collect();
    let prometheus = Prometheus::start(&targets).await;
    let mut left: BTreeMap<String, String> = queries()
        .into_iter()
        .map(|(panel, query)| {
            let query = query.replace("$__rate_interval", "1m");
            (panel, query.replace("$job", ".*").replace("$instance", ".*"))
        })
        .collect();
    for query in left.values() {
        assert!(!query.contains('$'), "a variable that the test does not know: {query}");
    }
    // The rules are asked for as well, since dashboards of others may.
    for name in values("sharklock.recording.yml", "- record:") {
        left.insert(format!("rule {name}"), name);
    }
    let deadline = tokio::time::Instant::now() + FOUND_WITHIN;
    while !left.is_empty() {
        use_it(&cluster).await;
        let mut empty = BTreeMap::new();
        for (panel, query) in left {
            if prometheus.is_empty(&query).await {
                empty.insert(panel, query);
            }
        }
        left = empty;
        assert!(
            left.is_empty() || tokio::time::Instant::now() < deadline,
            "these find nothing after {FOUND_WITHIN:?}: {left:#?}"
        );
    }
    // On a cluster that is well nothing rings, or would if it went on. This machine's disk may be full, or slow.
    let rings = "ALERTS{alertname!~\"SharkLockDisk.*\"}";
    eventually(&format!("none of {rings} is pending"), SOON, async || {
        prometheus.is_empty(rings).await.then_some(())
    })
    .await;
}
