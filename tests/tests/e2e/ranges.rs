//! `sharklock ranges`: an operator splits ranges of a cluster that works, and hears why he cannot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;
use sharklock_client::Client;
use sharklock_proto::v1::{
    ListRangesRequest, RangeEpoch, RangeStatus, SplitRangeRequest, SplitRangeResponse,
    admin_service_client::AdminServiceClient, list_ranges_request, split_range_request,
};
use sharklock_tests::cluster::{Cluster, SOON, client};
use sharklock_tests::process::{Process, command};
use sharklock_tests::wait::eventually;
use sharklock_tests::wire::{domain, reason};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::{alone, dev_cluster};

/// Clients that take and release locks, and take no error for an answer.
pub(crate) struct Busy {
    tasks: JoinSet<()>,
    stop: Arc<AtomicBool>,
    cycles: Arc<AtomicU64>,
    /// The last token of each name.
    tokens: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl Busy {
    /// One for each of these names, and one name that all of them want.
    pub(crate) fn start(names: &[&str], shared: &str, client: impl Fn() -> Client) -> Self {
        let mut busy = Self {
            tasks: JoinSet::new(),
            stop: Arc::default(),
            cycles: Arc::default(),
            tokens: Arc::default(),
        };
        for name in names {
            let names = [(*name).to_owned(), shared.to_owned()];
            let (client, stop, tokens) = (client(), busy.stop.clone(), busy.tokens.clone());
            let cycles = busy.cycles.clone();
            busy.tasks.spawn(async move {
                for turn in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let name = &names[usize::from(turn % 4 == 3)];
                    cycle(&client, name, &tokens).await;
                    cycles.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        busy
    }

    /// Waits until so many more locks were taken and released.
    pub(crate) async fn progress(&self, more: u64) {
        let goal = self.cycles.load(Ordering::Relaxed) + more;
        let reached = async || (self.cycles.load(Ordering::Relaxed) >= goal).then_some(());
        eventually(&format!("{more} more cycles"), SOON, reached).await;
    }

    pub(crate) async fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(one) = self.tasks.join_next().await {
            one.expect("no client has failed");
        }
    }
}

/// The token of a name is above all earlier ones, whichever range has granted it.
async fn cycle(client: &Client, name: &str, tokens: &Mutex<BTreeMap<String, u64>>) {
    let guard = client.lock(name).acquire().await;
    let guard = guard.unwrap_or_else(|why| panic!("{name}: {why}"));
    let token = guard.token().as_u64();
    let before = tokens.lock().await.insert(name.to_owned(), token);
    assert!(before < Some(token), "{name}: {token} comes after {before:?}");
    guard.release().await.unwrap_or_else(|why| panic!("{name}: {why}"));
}

/// A run of the command line: exit code, stdout, stderr.
pub(crate) async fn cli(endpoints: &[String], args: &[&str]) -> (Option<i32>, String, String) {
    let mut process = Process::spawn(command(args).env("SHARKLOCK_ENDPOINTS", endpoints.join(",")));
    let code = process.ends(SOON).await.code();
    (code, process.stdout(), process.stderr())
}

pub(crate) async fn cli_json(endpoints: &[String], args: &[&str]) -> Value {
    let args = [args, &["--output", "json"]].concat();
    let (code, out, err) = cli(endpoints, &args).await;
    assert_eq!(code, Some(0), "{args:?}: {err}");
    serde_json::from_str(&out).unwrap_or_else(|why| panic!("{args:?}: {why}: {out}"))
}

/// Bounds of all ranges as `ranges ls` has them, and that they tile the names.
pub(crate) async fn bounds(endpoints: &[String]) -> Vec<String> {
    let list = cli_json(endpoints, &["ranges", "ls"]).await;
    assert_eq!(list["schema"], "sharklock.v1.RangeList");
    let ranges = list["ranges"].as_array().expect("a list").clone();
    let text = |range: &Value, field: &str| range[field].as_str().expect("text").to_owned();
    let starts: Vec<_> = ranges.iter().map(|range| text(range, "start")).collect();
    let ends: Vec<_> = ranges.iter().map(|range| text(range, "end")).collect();
    assert_eq!(starts[0], "");
    assert_eq!(ends[ends.len() - 1], "");
    assert_eq!(starts[1..], ends[..ends.len() - 1], "each begins where the one before ends");
    starts
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_cluster_is_split_by_hand_and_clients_notice_nothing() {
    let _alone = alone().await;
    let cluster = Cluster::start(3, "").await;
    cluster.until_healthy().await;
    let endpoints = cluster.endpoints();
    let names = ["jobs/a", "jobs/c", "jobs/e", "jobs/g", "jobs/i", "jobs/k", "jobs/m", "jobs/o"];
    let busy = Busy::start(&names, "jobs/j", || cluster.client());
    let holder = cluster.client();
    let held = holder.lock("jobs/l").ttl(Duration::from_secs(6)).acquire().await.expect("free");
    let waiter = cluster.client();
    let waiting =
        tokio::spawn(async move { waiter.lock("jobs/l").acquire().await.map(|it| it.token()) });
    let queue = eventually("a waiter", SOON, async || {
        let lock = holder.get_lock("jobs/l").await.ok()?.lock?;
        (lock.waiters_count == 1).then_some(lock)
    });
    queue.await;

    // Where its own locks are below it; then at names that are in use.
    let plan = cli_json(&endpoints, &["ranges", "split", "1", "--dry-run"]).await;
    assert_eq!(
        (&plan["done"], plan["schema"].as_str()),
        (&false.into(), Some("sharklock.v1.RangeSplit"))
    );
    assert!(plan["because"].as_str().expect("text").contains("the middle"), "{plan}");
    assert_eq!(bounds(&endpoints).await, [""], "a dry run does nothing");
    for at in ["jobs/j", "jobs/c", "jobs/l", "jobs/m", "jobs/e"] {
        let split = cli_json(&endpoints, &["ranges", "split", at, "--at", at, "--wait"]).await;
        assert_eq!((&split["done"], &split["led"]), (&true.into(), &true.into()), "{split}");
        assert_eq!(split["upper"]["start"], at);
        assert_ne!(split["upper"]["leader_store_id"], "0", "{split}");
        assert_eq!(split["lower"]["version"], split["upper"]["version"]);
        busy.progress(20).await;
    }
    let starts = ["", "jobs/c", "jobs/e", "jobs/j", "jobs/l", "jobs/m"];
    assert_eq!(bounds(&endpoints).await, starts);

    // Whoever held and waited still does.
    assert!(holder.check_token("jobs/l", held.token()).await.expect("a look").live);
    let first = held.token();
    held.release().await.expect("it was held all the time");
    let second = waiting.await.expect("no panic").expect("its turn has come");
    assert!(second > first);
    busy.progress(20).await;
    busy.end().await;

    let (code, shown, err) = cli(&endpoints, &["ranges", "show", "jobs/k"]).await;
    assert_eq!(code, Some(0), "{err}");
    assert!(shown.contains("[jobs/j, jobs/l)"), "{shown}");
    let upper = cli_json(&endpoints, &["ranges", "show", "jobs/m"]).await;
    let id = upper["range"]["range_id"].as_str().expect("text").to_owned();
    let by_id = cli_json(&endpoints, &["ranges", "show", &id]).await;
    assert_eq!(by_id["range"]["start"], "jobs/m");
    eventually("a healthy cluster", SOON, async || {
        let status = cluster.status(0).await?;
        let totals = status.range_totals?;
        (status.warnings.is_empty() && (totals.ranges, totals.led) == (6, 6)).then_some(())
    })
    .await;
}

/// A gateway's admin API, as no well-behaved client would use it.
struct Admin(AdminServiceClient<Channel>);

impl Admin {
    async fn of(endpoint: String) -> Self {
        let endpoint = Endpoint::from_shared(endpoint).expect("an address");
        Self(AdminServiceClient::new(endpoint.connect().await.expect("it listens")))
    }

    async fn split(&self, request: SplitRangeRequest) -> Result<SplitRangeResponse, Status> {
        self.0.clone().split_range(request).await.map(tonic::Response::into_inner)
    }

    async fn refused(&self, request: SplitRangeRequest) -> (Code, String) {
        let status = self.split(request.clone()).await.expect_err("it is refused");
        assert_eq!(domain(&status), "sharklock");
        assert!(!status.message().contains("zebra"), "input is repeated: {}", status.message());
        assert!(status.message().len() > 20, "{request:?}: {}", status.message());
        (status.code(), reason(&status))
    }

    async fn all(&self, page_size: u32) -> Vec<RangeStatus> {
        let mut all = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = ListRangesRequest { which: None, page_size, page_token };
            let page = self.0.clone().list_ranges(request).await.expect("a page").into_inner();
            assert!(page.ranges.len() <= page_size as usize);
            all.extend(page.ranges);
            if page.next_page_token.is_empty() {
                return all;
            }
            page_token = page.next_page_token;
        }
    }
}

fn split_at(range_id: u64, at: Option<&str>) -> SplitRangeRequest {
    SplitRangeRequest {
        which: Some(split_range_request::Which::RangeId(range_id)),
        at: at.map(str::to_owned),
        ..SplitRangeRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_of_a_split_comes_over_the_wire_with_its_reason() {
    let _alone = alone().await;
    let settings = "[cluster]\nreplicas = 1\n[ranges]\nmax_per_store = 14\n";
    let cluster = Cluster::start(1, settings).await;
    let endpoints = cluster.endpoints();
    let admin = Admin::of(cluster.endpoint(0)).await;
    let bad = Code::InvalidArgument;
    let failed = Code::FailedPrecondition;
    let refused = |code: Code, reason: &str| (code, reason.to_owned());

    let nothing = SplitRangeRequest { which: None, ..split_at(1, None) };
    assert_eq!(admin.refused(nothing).await, refused(bad, "BAD_RANGE"));
    assert_eq!(admin.refused(split_at(0, None)).await, refused(bad, "BAD_RANGE"));
    for at in ["", "zebra\n", "zebra\u{202e}", &"zebra".repeat(103)] {
        let asked = split_at(1, Some(at));
        assert_eq!(admin.refused(asked).await, refused(bad, "BAD_LOCK_NAME"), "{at:?}");
    }
    let operator = SplitRangeRequest { operator: "z\0".into(), ..split_at(1, Some("m")) };
    assert_eq!(admin.refused(operator).await, refused(bad, "BAD_OPERATOR"));
    let unknown = admin.refused(split_at(77, None)).await;
    assert_eq!(unknown, refused(Code::NotFound, "RANGE_UNKNOWN"));
    assert_eq!(admin.refused(split_at(1, None)).await, refused(failed, "SPLIT_NO_MIDDLE"));
    let client = cluster.client();
    let _only = client.lock("zebra/1").acquire().await.expect("it is free");
    assert_eq!(admin.refused(split_at(1, None)).await, refused(failed, "SPLIT_NO_MIDDLE"));

    let done = admin.split(split_at(1, Some("zebra"))).await.expect("it is split");
    assert!(done.done);
    let upper = done.upper.expect("a half").range_id;
    for (asked, reason) in [
        (split_at(1, Some("zebra")), "SPLIT_AT_BOUND"),
        (split_at(upper, Some("zebra")), "SPLIT_AT_BOUND"),
        (split_at(1, Some("zebra/2")), "SPLIT_OUTSIDE"),
        (split_at(upper, Some("z")), "SPLIT_OUTSIDE"),
    ] {
        assert_eq!(admin.refused(asked).await, refused(failed, reason));
    }
    // The very call of before, by somebody who has missed its answer, and another by its epoch.
    let repeated = SplitRangeRequest { epoch: done.epoch, ..split_at(1, Some("zebra")) };
    let again = admin.split(repeated.clone()).await.expect("it was done");
    assert_eq!((again.done, again.upper.map(|it| it.range_id)), (true, Some(upper)));
    let other = SplitRangeRequest { at: Some("b".into()), ..repeated };
    assert_eq!(admin.refused(other).await, refused(failed, "RANGE_CHANGED"));
    let future = Some(RangeEpoch { conf_ver: 1, version: 99 });
    let ahead = SplitRangeRequest { epoch: future, ..split_at(1, Some("b")) };
    assert_eq!(admin.refused(ahead).await, refused(failed, "RANGE_CHANGED"));
    assert_eq!(admin.all(100).await.len(), 2);

    one_at_a_time(&admin).await;
    until_full(&admin, &endpoints).await;
}

/// Of several who ask at once for different splits, one gets his.
async fn one_at_a_time(admin: &Admin) {
    let mut seen = BTreeSet::new();
    // Each time the range has fewer names.
    for names in ["h", "g", "f", "e"] {
        let before = admin.all(100).await.len();
        let asked = (0..6).map(|it| format!("{names}{it}")).collect::<Vec<_>>();
        let epoch = admin.all(100).await[0]
            .position
            .map(|at| RangeEpoch { conf_ver: at.conf_ver, version: at.version });
        let mut asking = JoinSet::new();
        for at in asked {
            let admin = AdminServiceClient::clone(&admin.0);
            let request = SplitRangeRequest { epoch, ..split_at(1, Some(&at)) };
            asking.spawn(async move { Admin(admin).split(request).await });
        }
        let mut done = 0;
        while let Some(answer) = asking.join_next().await {
            match answer.expect("no panic") {
                Ok(split) => done += usize::from(split.done),
                Err(status) => {
                    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
                    seen.insert(reason(&status));
                }
            }
        }
        assert_eq!((done, admin.all(100).await.len()), (1, before + 1), "one of them");
    }
    let known = ["RANGE_CHANGED", "SPLIT_RUNNING"];
    assert!(seen.iter().all(|reason| known.contains(&reason.as_str())), "{seen:?}");
    assert!(seen.contains("SPLIT_RUNNING"), "{seen:?}");
}

async fn until_full(admin: &Admin, endpoints: &[String]) {
    let count = admin.all(100).await.len();
    for more in count..14 {
        let (code, _, err) =
            cli(endpoints, &["ranges", "split", "1", "--at", &format!("Z{}", 99 - more)]).await;
        assert_eq!(code, Some(0), "{err}");
    }
    let full = admin.refused(split_at(1, Some("A"))).await;
    assert_eq!(full, (Code::ResourceExhausted, "TOO_MANY_RANGES".to_owned()));
    let dry = SplitRangeRequest { dry_run: true, ..split_at(1, Some("A")) };
    assert_eq!(admin.refused(dry).await.1, "TOO_MANY_RANGES");
    let (code, _, err) = cli(endpoints, &["ranges", "split", "1", "--at", "A"]).await;
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("14 replicas, and may have 14 (ranges.max_per_store)"), "{err}");
    let (code, _, err) = cli(endpoints, &["ranges", "show", "4711"]).await;
    assert!(code == Some(1) && err.contains("RANGE_UNKNOWN"), "{code:?} {err}");

    assert_eq!(bounds(endpoints).await.len(), 14);
    let whole = admin.all(100).await;
    for page_size in [1, 3, 14] {
        let ids = |of: &[RangeStatus]| of.iter().map(|it| it.range_id).collect::<Vec<_>>();
        assert_eq!(ids(&admin.all(page_size).await), ids(&whole));
    }
    let named = Some(list_ranges_request::Which::Name("zebra/7".into()));
    let request = ListRangesRequest { which: named, ..ListRangesRequest::default() };
    let page = admin.0.clone().list_ranges(request).await.expect("a page").into_inner();
    assert_eq!((page.ranges.len(), page.ranges[0].start.as_str()), (1, "zebra"));
    assert_eq!(page.ranges[0].locks, 1);

    // So many are summed up.
    let (code, table, err) = cli(endpoints, &["status"]).await;
    assert_eq!(code, Some(0), "{table}{err}");
    let sums = "14 ranges, all have leaders: 1 locks, 1 holds, 0 waiters";
    assert!(table.contains(sums) && !table.contains("RANGE  NAMES"), "{table}");
    let status = cli_json(endpoints, &["status"]).await;
    assert_eq!(status["range_totals"]["ranges"], "14");
    assert_eq!(status["ranges"].as_array().map(Vec::len), Some(0), "none is in trouble");
}

/// Without a master nothing is split, which is said, and locks go on. A gateway that has slept through
/// a split leads its clients to the new range.
#[tokio::test(flavor = "multi_thread")]
async fn a_split_waits_for_a_master_and_old_routes_lead_to_new_ranges() {
    let _alone = alone().await;
    let cluster = dev_cluster::Cluster::start("3", &["--split-roles"]).await;
    let endpoints: Vec<_> = cluster.endpoints().await.split(',').map(str::to_owned).collect();
    let is_master = |node: &&Value| node["roles"] == serde_json::json!(["master"]);
    let nodes = cluster.nodes().await;
    let name = |node: &Value| node["node"].as_str().expect("a name").to_owned();
    let masters: Vec<_> = nodes.iter().filter(is_master).map(name).collect();
    let masters: [String; 3] = masters.try_into().expect("there are three");
    let leader = cluster.leader().await;
    let other = nodes.iter().find(|node| !is_master(node) && name(node) != leader);
    let other = other.expect("there are three");
    let sleeper = client([format!("http://{}", other["gateway"].as_str().expect("text"))]);
    let held = sleeper.lock("held").ttl(Duration::from_secs(60)).acquire().await.expect("free");
    let awake: Vec<_> = endpoints
        .iter()
        .filter(|it| !it.ends_with(other["gateway"].as_str().expect("text")))
        .cloned()
        .collect();

    for master in &masters {
        cluster.dev(&["kill", master]).await;
    }
    let busy = Busy::start(&["a", "x"], "m", || client(awake.clone()));
    let split = ["ranges", "split", "1", "--at", "g", "--timeout", "6s"];
    let (code, out, err) = cli(&awake, &split).await;
    assert_eq!((code, out.as_str()), (Some(69), ""), "{err}");
    assert!(err.contains("error: the range was not split"), "{err}");
    assert!(err.contains("no leading master answers; locks go on, the split waits"), "{err}");
    assert_eq!(bounds(&awake).await, [""]);
    busy.progress(20).await;
    busy.end().await;

    let [one, two, three] = masters.each_ref().map(|it| ["restart", it.as_str()]);
    let restarted = tokio::join!(cluster.dev(&one), cluster.dev(&two), cluster.dev(&three));
    for (code, _, err) in [restarted.0, restarted.1, restarted.2] {
        assert_eq!(code, Some(0), "{err}");
    }
    cluster.dev(&["pause", &name(other)]).await;
    let split = ["ranges", "split", "1", "--at", "g", "--wait"];
    let (code, _, err) = cli(&awake, &split).await;
    assert_eq!(code, Some(0), "{err}");
    assert!(err.contains("range 1 is led by store"), "{err}");
    cluster.dev(&["resume", &name(other)]).await;
    // Its gateway knows one range, and its store has applied no split.
    held.release().await.expect("its range is another one now");
    let tokens = Mutex::default();
    for name in ["a", "held", "z"] {
        cycle(&sleeper, name, &tokens).await;
    }
    assert_eq!(bounds(&endpoints).await, ["", "g"]);
}
