//! Stores drain and are lost for good, and the masters do the rest by themselves, under clients that take
//! no error for an answer.

use std::time::Duration;

use serde_json::Value;
use sharklock_tests::cluster::{CHAOS, Cluster, SOON};
use sharklock_tests::wait::eventually;

use crate::alone;
use crate::moves::{leader, node_of, number, range, stores};
use crate::ranges::{Busy, cli, cli_json};

/// A cluster of four whose masters act soon after one of them has begun to lead.
async fn four_in_a_hurry() -> Cluster {
    let cluster = Cluster::start(4, CHAOS).await;
    cluster.until_healthy().await;
    let set = ["schedule", "set", "patience=1s"];
    let changed = cli_json(&cluster.endpoints(), &set).await;
    assert_eq!(setting(&changed, "patience"), ("1s".to_owned(), false));
    cluster
}

fn setting(shown: &Value, key: &str) -> (String, bool) {
    let mut settings = shown["settings"].as_array().expect("a list").iter();
    let found = settings.find(|it| it["key"] == key).expect("it is a setting");
    let value = found["value"].as_str().expect("text").to_owned();
    (value, found["is_default"].as_bool().expect("a flag"))
}

fn spare(has: &[u64]) -> u64 {
    (1..=4).find(|store| !has.contains(store)).expect("one of four has none")
}

async fn duty(endpoints: &[String], store: u64) -> Value {
    cli_json(endpoints, &["stores", "show", &store.to_string()]).await["store"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_drains_under_load_and_serves_again() {
    let _alone = alone().await;
    let cluster = four_in_a_hurry().await;
    let endpoints = cluster.endpoints();
    let busy = Busy::start(&["jobs/a", "jobs/b", "jobs/c"], "jobs/d", || cluster.client());
    let holder = cluster.client();
    let held = holder.lock("jobs/held").ttl(Duration::from_secs(10)).acquire().await.expect("free");
    for _ in 0..3 {
        let has = stores(&range(&endpoints).await);
        let drained = leader(&endpoints).await;
        let id = drained.to_string();
        let would = cli_json(&endpoints, &["stores", "drain", &id, "--dry-run"]).await;
        assert_eq!((&would["dry_run"], &would["duty"]), (&true.into(), &"draining".into()));
        assert_eq!(duty(&endpoints, drained).await["duty"], "serves", "nothing was done");
        let (code, out, err) = cli(&endpoints, &["stores", "drain", &id, "--wait"]).await;
        assert_eq!(code, Some(0), "{out}{err}");
        assert!(out.contains(&format!("store {id} is draining: it has 1 replicas")), "{out}");
        assert!(err.contains(&format!("store {id} is empty")), "{err}");
        let left: Vec<u64> = has.iter().copied().filter(|store| *store != drained).collect();
        let now = stores(&range(&endpoints).await);
        assert!(now.contains(&spare(&has)) && left.iter().all(|it| now.contains(it)), "{now:?}");
        let (code, _, err) = cli(&endpoints, &["ranges", "add-replica", "1", "--to", &id]).await;
        assert_eq!(code, Some(1));
        assert!(err.contains(&format!("sharklock stores undrain {id}")), "{err}");
        cli_json(&endpoints, &["stores", "undrain", &id]).await;
        assert_eq!(duty(&endpoints, drained).await["duty"], "serves");
        busy.progress(20).await;
    }
    assert!(holder.check_token("jobs/held", held.token()).await.expect("a look").live);
    held.release().await.expect("it was held all the time");
    busy.end().await;
    let list = cli_json(&endpoints, &["ops", "ls"]).await;
    for operator in list["operators"].as_array().expect("a list") {
        let reason = operator["reason"].as_str().expect("text");
        assert!(operator["state"] == "done" && reason.contains("drains"), "{operator}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_lost_for_good_is_replaced_and_never_comes_back() {
    let _alone = alone().await;
    let mut cluster = four_in_a_hurry().await;
    let endpoints = cluster.endpoints();
    // The node without a master is the one to lose: what happens to masters is another test's.
    let lost = 3;
    let mut gone = 1;
    while node_of(&cluster, gone).await != lost {
        gone += 1;
    }
    let id = gone.to_string();
    let has = stores(&range(&endpoints).await);
    if !has.contains(&gone) {
        let from = has[0].to_string();
        let moves = ["ranges", "move", "1", "--from", &from, "--to", &id, "--wait"];
        cli_json(&endpoints, &moves).await;
    }
    let (code, _, err) = cli(&endpoints, &["stores", "remove", &id]).await;
    assert_eq!(code, Some(1), "it is alive");
    assert!(err.contains(&format!("drain it (`sharklock stores drain {id}`)")), "{err}");

    let busy = Busy::start(&["jobs/a", "jobs/b"], "jobs/c", || cluster.client());
    cluster.kill(lost);
    let has = stores(&range(&endpoints).await);
    assert!(has.contains(&gone), "{has:?}");
    eventually("the masters miss it", SOON, async || {
        (duty(&endpoints, gone).await["liveness"] == "disconnected").then_some(())
    })
    .await;
    let removed = cli_json(&endpoints, &["stores", "remove", &id]).await;
    assert_eq!(removed["duty"], "gone");
    eventually("three voters again", SOON, async || {
        let now = stores(&range(&endpoints).await);
        (now.len() == 3 && !now.contains(&gone)).then_some(())
    })
    .await;
    busy.progress(20).await;
    let (code, _, err) = cli(&endpoints, &["stores", "undrain", &id]).await;
    assert_eq!(code, Some(1));
    assert!(err.contains("never taken in again"), "{err}");
    eventually("nobody misses it", SOON, async || {
        let (code, _, _) = cli(&endpoints, &["status"]).await;
        (code == Some(0)).then_some(())
    })
    .await;

    cluster.spawn(lost);
    let status = cluster.process(lost).ends(SOON).await;
    let said = cluster.process(lost).stderr();
    assert_eq!(status.code(), Some(78), "{said}");
    assert!(said.contains(&format!("store {id} was declared gone")), "{said}");
    busy.progress(20).await;
    busy.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_store_is_replaced_without_anybody_and_not_while_the_schedule_is_paused() {
    let _alone = alone().await;
    let mut cluster = four_in_a_hurry().await;
    let endpoints = cluster.endpoints();
    let has = stores(&range(&endpoints).await);
    // Node 0 is asked what there is.
    let mut dead = has[0];
    let mut node = node_of(&cluster, dead).await;
    if node == 0 {
        dead = has[1];
        node = node_of(&cluster, dead).await;
    }
    let endpoints: Vec<String> =
        (0..4).filter(|it| *it != node).map(|it| cluster.endpoint(it)).collect();
    let (code, _, _) = cli(&endpoints, &["schedule", "pause"]).await;
    assert_eq!(code, Some(0));
    let busy = Busy::start(&["jobs/a", "jobs/b"], "jobs/c", || {
        sharklock_tests::cluster::client(endpoints.clone())
    });
    cluster.kill(node);
    eventually("it counts as down", SOON, async || {
        (duty(&endpoints, dead).await["liveness"] == "down").then_some(())
    })
    .await;
    let shown = cli_json(&endpoints, &["schedule", "show"]).await;
    assert_eq!(shown["is_paused"], true, "{shown}");
    assert_eq!(stores(&range(&endpoints).await), has);
    let (code, _, _) = cli(&endpoints, &["schedule", "resume"]).await;
    assert_eq!(code, Some(0));
    eventually("three live voters", SOON, async || {
        let now = stores(&range(&endpoints).await);
        (now.len() == 3 && !now.contains(&dead)).then_some(())
    })
    .await;
    busy.progress(20).await;
    busy.end().await;
    let list = cli_json(&endpoints, &["ops", "ls"]).await;
    let operators = list["operators"].as_array().expect("a list");
    let by_itself = |it: &Value| it["by"] == "" && number(&it["range_id"]) == 1;
    assert!(!operators.is_empty() && operators.iter().all(by_itself), "{list}");
}

/// Whoever orders what cannot be hears why, and what to do.
#[tokio::test(flavor = "multi_thread")]
async fn orders_about_stores_that_make_no_sense_are_refused_with_the_way_out() {
    let _alone = alone().await;
    let cluster = Cluster::start(3, CHAOS).await;
    cluster.until_healthy().await;
    let endpoints = cluster.endpoints();
    for (args, code, says) in [
        (&["stores", "show", "77"][..], 1, "`sharklock stores ls` lists them"),
        (&["stores", "drain", "77"], 1, "`sharklock stores ls` lists them"),
        (&["stores", "drain", "x"], 2, "invalid value"),
        (&["stores", "remove", "1"], 1, "store 1 is alive"),
        (&["schedule", "set"], 2, "KEY=VALUE"),
        (&["schedule", "set", "replicas"], 2, "like replicas=5"),
        (&["schedule", "set", "replicas=2"], 2, "it must be 1, 3, 5 or 7"),
        (&["schedule", "set", "replicas=x"], 2, "expected a number"),
        (&["schedule", "set", "speed=9"], 2, "choose from replicas"),
        (&["schedule", "set", "patience=9"], 2, "like 30s or 10m"),
        (&["schedule", "set", "coming=0"], 2, "to stop the schedule, pause it"),
    ] {
        let (exit, _, err) = cli(&endpoints, args).await;
        assert_eq!(exit, Some(code), "{args:?}: {err}");
        assert!(err.contains(says), "{args:?}: {err}");
    }
    // With three stores for three replicas none can become empty, and it says so.
    let would = cli_json(&endpoints, &["stores", "drain", "1", "--dry-run"]).await;
    assert!(!would["warnings"].as_array().expect("a list").is_empty(), "{would}");
    let (code, out, _) = cli(&endpoints, &["stores", "ls"]).await;
    assert_eq!(code, Some(0));
    assert!(out.starts_with("STORE  NODE"), "{out}");
    let (code, out, _) = cli(&endpoints, &["schedule", "show"]).await;
    assert_eq!(code, Some(0));
    assert!(out.contains("the schedule runs") && out.contains("cool-down"), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_of_one_replica_grow_to_three_and_a_machine_that_is_added_takes_its_part() {
    let _alone = alone().await;
    let settings = CHAOS.replace("[cluster]\n", "[cluster]\nreplicas = 1\n");
    let mut cluster = Cluster::new(4, &settings).await;
    for node in 0..3 {
        cluster.spawn(node);
    }
    for node in 0..3 {
        cluster.until_ready(node).await;
    }
    let endpoints: Vec<String> = (0..3).map(|node| cluster.endpoint(node)).collect();
    let busy = Busy::start(&["a/1", "h/1", "p/1", "z/1"], "q/1", || {
        sharklock_tests::cluster::client(endpoints.clone())
    });
    for at in ["g/", "n/", "t/"] {
        cli_json(&endpoints, &["ranges", "split", at, "--at", at, "--wait"]).await;
    }
    let replicas = async || {
        let list = cli_json(&endpoints, &["ranges", "ls"]).await;
        list["ranges"].as_array().expect("a list").iter().map(stores).collect::<Vec<_>>()
    };
    assert_eq!(replicas().await.iter().map(Vec::len).collect::<Vec<_>>(), [1; 4]);
    cli_json(&endpoints, &["schedule", "set", "patience=1s", "cool-down=1s", "replicas=3"]).await;
    eventually("three voters of each range", SOON, async || {
        replicas().await.iter().all(|it| *it == [1, 2, 3]).then_some(())
    })
    .await;
    busy.progress(20).await;
    cluster.spawn(3);
    cluster.until_ready(3).await;
    eventually("replicas on all four stores", SOON, async || {
        let all = replicas().await;
        let has = |store: u64| all.iter().filter(|it| it.contains(&store)).count();
        // The mean is three, and one more or less is even.
        let is_even = (1..=4).all(|store| (2..=4).contains(&has(store)));
        let is_even = is_even && all.iter().all(|it| it.len() == 3);
        is_even.then_some(())
    })
    .await;
    busy.progress(20).await;
    busy.end().await;
    let status = cli_json(&endpoints, &["status"]).await;
    assert_eq!(status["healthy"], true, "{status}");
}
