//! Metrics: what the documents list and what processes show is the same, and figures of all processes add
//! up to those of the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sharklock_proto::v1::admin_service_client::AdminServiceClient;
use sharklock_proto::v1::lock_service_client::LockServiceClient;
use sharklock_proto::v1::{
    AcquireOutcome, AcquireRequest, ForceReleaseRequest, GetLockRequest, LockMode, WatchLockRequest,
};
use sharklock_tests::cluster::{Cluster, SOON};
use sharklock_tests::server::Server;
use sharklock_tests::wait::eventually;
use sharklock_tests::wire::{Session, channel, locks};
use tonic::transport::Channel;

/// What is said of a family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Family {
    kind: String,
    /// The labels of its metrics.
    labels: BTreeSet<String>,
    /// What it counts.
    help: String,
}

type Families = BTreeMap<String, Family>;

/// What a process shows: families, and the value of each metric, with its labels.
struct Shown {
    families: Families,
    values: Vec<(String, f64)>,
}

impl Shown {
    fn of(text: &str) -> Self {
        let (mut families, mut values) = (Families::new(), Vec::new());
        let mut name = "";
        for line in text.lines() {
            if let Some(said) = line.strip_prefix("# HELP ") {
                let (family, help) = said.split_once(' ').expect("a name and a text");
                name = family;
                let (kind, labels) = <(String, BTreeSet<String>)>::default();
                families.insert(name.to_owned(), Family { kind, labels, help: help.to_owned() });
                continue;
            }
            let family = families.get_mut(name).expect("the help comes first");
            if let Some(said) = line.strip_prefix("# TYPE ") {
                let kind = said.strip_prefix(name).expect("of the same family");
                kind.trim().clone_into(&mut family.kind);
            } else {
                let (metric, value) = line.rsplit_once(' ').expect("a metric and its value");
                values.push((metric.to_owned(), value.parse().expect("a number")));
                family.labels.extend(label_names(metric));
            }
        }
        Self { families, values }
    }

    /// The sum of the metrics whose names and labels begin so.
    fn sum(&self, begin: &str) -> f64 {
        let matching = self.values.iter().filter(|(metric, _)| {
            let rest = metric.strip_prefix(begin);
            rest.is_some_and(|rest| {
                begin.ends_with('"') || rest.is_empty() || rest.starts_with('{')
            })
        });
        matching.map(|(_, value)| value).sum()
    }
}

/// The names of a metric's labels; `le` is the histogram's own.
fn label_names(metric: &str) -> Vec<String> {
    let inside = metric.split_once('{').map_or("", |(_, rest)| rest.trim_end_matches('}'));
    let names = inside.split("\",").filter_map(|label| label.split_once('=')).map(|(name, _)| name);
    names.filter(|name| *name != "le").map(str::to_owned).collect()
}

/// The table of docs/OPERATIONS.md, *Metrics*.
fn documented() -> Families {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let page = std::fs::read_to_string(root.join("docs/OPERATIONS.md")).expect("it is there");
    let (_, section) = page.split_once("\n## Metrics\n").expect("it has the section");
    let section = section.split("\n## ").next().expect("it has an end");
    let mut families = Families::new();
    for row in section.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [name, kind, labels, help] = cells[..] else { panic!("four columns: {row}") };
        let labels = labels.split(',').map(|it| it.trim().trim_matches('`'));
        let labels = labels.filter(|it| !it.is_empty()).map(str::to_owned).collect();
        let name = name.trim_matches('`').to_owned();
        let family = Family { kind: kind.to_owned(), labels, help: help.to_owned() };
        let before = families.insert(name, family);
        assert!(before.is_none(), "twice: {row}");
    }
    families
}

/// A family as a row of the table.
fn row((name, family): (&String, &Family)) -> String {
    let Family { kind, labels, help } = family;
    let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
    format!("| `{name}` | {kind} | {} | {help} |", labels.join(", "))
}

/// A lock that is taken and given back, so that every family of a gateway and a store has a metric.
async fn use_it(server: &Server) {
    let client = server.client();
    let guard = client.lock("metrics/used").acquire().await.expect("it is free");
    guard.release().await.expect("it is released");
    let looked = GetLockRequest { name: "metrics/used".to_owned(), waiters_max: 0 };
    locks(server).await.get_lock(looked).await.expect("it is served");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_of_metrics_lists_what_a_process_shows() {
    let server = Server::start().await;
    let documented = documented();
    // Some come with what they count, and the rate of a range with the next look at it.
    let last = std::cell::RefCell::new(Families::new());
    let same = async || {
        use_it(&server).await;
        let shown = Shown::of(&server.get("/metrics").await.1).families;
        let is_same = shown == documented;
        *last.borrow_mut() = shown;
        is_same
    };
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !same().await {
        if tokio::time::Instant::now() >= deadline {
            let shown = last.borrow();
            let only = |one: &Families, other: &Families| {
                let only = one.iter().filter(|(name, it)| other.get(*name) != Some(it));
                only.map(row).collect::<Vec<_>>().join("\n")
            };
            let (missing, more) = (only(&documented, &shown), only(&shown, &documented));
            panic!("only in the table:\n{missing}\nonly in the process:\n{more}");
        }
    }
}

/// So many locks and sessions are used in one go.
const MANY: u64 = 40;

/// The metrics after many locks of this prefix were used, each by a session and an owner of its own.
async fn series_after(server: &Server, prefix: &str) -> BTreeSet<String> {
    use_it(server).await;
    let mut locks = locks(server).await;
    for number in 0..MANY {
        let name = format!("{prefix}/{number}");
        let session = Session::default();
        let mut acquire = session.acquire(&name);
        acquire.owner_id = format!("owner-of-{name}");
        let granted = locks.acquire(acquire.clone()).await.expect("it is served").into_inner();
        let released = session.release(&name, granted.token, acquire.acquisition_id);
        locks.release(released).await.expect("it is served");
    }
    let text = server.get("/metrics").await.1;
    Shown::of(&text).values.into_iter().map(|(metric, _)| metric).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_names_nor_clients_make_metrics() {
    let server = Server::start().await;
    // Some come with what they count, and the rate of a range with the next look at it: the names of each turn
    // are new, and so are its clients.
    let turn = AtomicU64::new(0);
    let series = eventually("the use of more locks makes no metrics", SOON, async || {
        let turn = turn.fetch_add(1, Ordering::Relaxed);
        let before = series_after(&server, &format!("some-{turn}")).await;
        let after = series_after(&server, &format!("more-{turn}")).await;
        (before == after).then_some(after)
    })
    .await;
    for part in ["some-", "more-", "owner-of", "127.0.0.1"] {
        let with: Vec<_> = series.iter().filter(|metric| metric.contains(part)).collect();
        assert!(with.is_empty(), "{part:?} is a part of {with:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_of_all_processes_add_up_to_the_clusters() {
    let _alone = crate::alone().await;
    let cluster = Cluster::start(3, "").await;
    cluster.until_healthy().await;
    let (client, other) = (cluster.client(), cluster.client());
    let first = client.lock("sums/1").acquire().await.expect("it is free");
    let second = client.lock("sums/2").acquire().await.expect("it is free");
    let waiting = tokio::spawn(async move { other.lock("sums/1").acquire().await });
    // A follower that takes memory for locks knows them: from then on it might count them.
    let shown = eventually("everybody knows the locks", SOON, async || {
        let mut shown = Vec::new();
        for node in 0..cluster.len() {
            shown.push(Shown::of(&cluster.metrics(node).await));
        }
        let sum = |name: &str| shown.iter().map(|it| it.sum(name)).sum::<f64>();
        let bytes: Vec<_> = shown.iter().map(|it| it.sum("sharklock_store_state_bytes")).collect();
        let same_bytes = bytes[0] > 0.0 && bytes.iter().all(|it| *it == bytes[0]);
        // What processes show is not of one moment: a leadership may move between two looks.
        let sums = [
            ("sharklock_locks", 2.0),
            ("sharklock_holds", 2.0),
            ("sharklock_waiters", 1.0),
            ("sharklock_store_ranges_led", 1.0),
            ("sharklock_store_replicas", 3.0),
            ("sharklock_master_leads", 1.0),
            ("sharklock_master_stores", 3.0),
            ("sharklock_master_ranges", 1.0),
        ];
        let are_right = sums.iter().all(|(name, expected)| sum(name) == *expected);
        (same_bytes && are_right).then_some(shown)
    })
    .await;
    let sum = |name: &str| shown.iter().map(|it| it.sum(name)).sum::<f64>();
    assert_eq!(sum("sharklock_lock_grants_total"), 2.0);
    first.release().await.expect("it is released");
    let third = waiting.await.expect("no panic").expect("it is its turn");
    third.release().await.expect("it is released");
    second.release().await.expect("it is released");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_and_forced_releases_are_counted_by_reason_and_outcome() {
    let server = Server::start().await;
    let mut locks = locks(&server).await;
    let mut admin = AdminServiceClient::new(channel(&server).await);
    let holder = Session::default();
    let held = locks.acquire(holder.acquire("m")).await.expect("it is served").into_inner();
    assert_eq!(held.outcome(), AcquireOutcome::Granted);
    let permits = AcquireRequest {
        mode: LockMode::Permits.into(),
        permits: 1,
        permits_max: 2,
        ..Session::default().acquire("m")
    };
    locks.acquire(permits).await.expect_err("the lock is of another kind");
    locks.acquire(Session::default().acquire("")).await.expect_err("no name");

    let force = |name: &str, now| ForceReleaseRequest {
        name: name.to_owned(),
        reason: "a test".to_owned(),
        operator: "tests".to_owned(),
        now,
        ..ForceReleaseRequest::default()
    };
    admin.force_release(force("free", false)).await.expect("it is served");
    admin.force_release(force("m", false)).await.expect("it is served");
    admin.force_release(force("m", true)).await.expect("it is served");
    admin.force_release(force("", false)).await.expect_err("no name");
    let watch = WatchLockRequest { name: "m".to_owned(), ..WatchLockRequest::default() };
    locks.watch_lock(watch).await.expect("it is served");
    use_it(&server).await;

    let shown = Shown::of(&server.get("/metrics").await.1);
    let failures =
        |reason: &str| shown.sum(&format!("sharklock_gateway_failures_total{{reason=\"{reason}\""));
    assert_eq!(failures("MODE_MISMATCH"), 1.0);
    assert_eq!(failures("BAD_LOCK_NAME"), 1.0 + 1.0, "of the acquire and the release");
    assert_eq!(failures("OVERLOADED"), 0.0);
    let named = |(metric, _): &&(String, f64)| {
        metric.starts_with("sharklock_gateway_failures_total{reason=\"OVERLOADED\"")
    };
    assert!(shown.values.iter().find(named).is_some(), "each reason is there from the start");
    let releases = |outcome: &str| {
        shown.sum(&format!("sharklock_gateway_force_releases_total{{outcome=\"{outcome}\""))
    };
    assert_eq!(["ended", "ending", "nothing"].map(releases), [1.0; 3]);

    let timed = |method: &str| {
        let count = format!("grpc_server_handling_seconds_count{{grpc_method=\"{method}\"");
        shown.sum(&count)
    };
    assert_eq!(["Session", "WatchLock"].map(timed), [0.0; 2], "they last as long as clients like");
    assert_eq!(timed("GetLock"), 1.0);
    assert_eq!(shown.sum("sharklock_gateway_call_seconds_count{call=\"watch_lock\""), 0.0);
    let started = "grpc_server_started_total{grpc_method=\"WatchLock\"";
    assert_eq!(shown.sum(started), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn waits_holds_and_hand_overs_are_counted_once_whoever_leads() {
    let _alone = crate::alone().await;
    let cluster = Cluster::start(3, "").await;
    cluster.until_healthy().await;
    let (client, other) = (cluster.client(), cluster.client());
    let first = client.lock("timed").acquire().await.expect("it is free");
    let waiting = tokio::spawn(async move { other.lock("timed").acquire().await });
    eventually("the other one waits", SOON, async || {
        let seen = client.get_lock("timed").await.ok()?;
        (!seen.lock?.waiters.is_empty()).then_some(())
    })
    .await;
    first.release().await.expect("it is released");
    let second = waiting.await.expect("no panic").expect("it is its turn");
    second.release().await.expect("it is released");
    // A hold that nobody renews: its leader's clock ends it.
    let dead = Session::default();
    let mut locks = locks_at(&cluster.endpoint(0)).await;
    let short = AcquireRequest { ttl_ms: Some(2_000), ..dead.acquire("left") };
    assert_eq!(
        locks.acquire(short).await.expect("it is served").into_inner().outcome(),
        AcquireOutcome::Granted
    );
    let sums = [
        ("sharklock_lock_wait_seconds_count", 1.0),
        ("sharklock_lock_hand_over_seconds_count", 1.0),
        ("sharklock_lock_queue_length_count", 1.0),
        ("sharklock_lock_queue_length_sum", 1.0),
        ("sharklock_lock_hold_seconds_count", 3.0),
        ("sharklock_lock_expiries_total{reason=\"hold\"", 1.0),
        ("sharklock_lock_expiries_total{reason=\"waiter\"", 0.0),
    ];
    let mut last = Vec::new();
    let deadline = tokio::time::Instant::now() + SOON;
    loop {
        let mut shown = Vec::new();
        for node in 0..cluster.len() {
            shown.push(Shown::of(&cluster.metrics(node).await));
        }
        let sum = |name: &str| shown.iter().map(|it| it.sum(name)).sum::<f64>();
        last.clear();
        last.extend(sums.iter().map(|(name, _)| (*name, sum(name))));
        if last == sums {
            // Each replica applies, and each store syncs.
            assert!(shown.iter().all(|it| it.sum("sharklock_store_apply_seconds_count") > 0.0));
            assert!(sum("sharklock_range_commit_seconds_count") >= 5.0);
            assert!(sum("sharklock_store_mailbox_calls_count") > 0.0);
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{last:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The lock service of a gateway.
async fn locks_at(endpoint: &str) -> LockServiceClient<Channel> {
    let channel = Channel::from_shared(endpoint.to_owned()).expect("an address");
    LockServiceClient::new(channel.connect().await.expect("the gateway accepts connections"))
}
