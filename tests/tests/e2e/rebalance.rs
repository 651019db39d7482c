//! Stores are balanced by order, under clients that take no error for an answer.

use std::collections::BTreeMap;

use serde_json::Value;
use sharklock_tests::cluster::{CHAOS, Cluster};

use crate::alone;
use crate::moves::{number, stores};
use crate::ranges::{Busy, cli, cli_json};

/// How many ranges each of four stores leads, and of how many it has a replica.
async fn spread(endpoints: &[String]) -> (Vec<usize>, Vec<usize>) {
    let list = cli_json(endpoints, &["ranges", "ls"]).await;
    let ranges = list["ranges"].as_array().expect("a list");
    let leads =
        |store: u64| ranges.iter().filter(move |it| number(&it["leader_store_id"]) == store);
    let has = |store: u64| ranges.iter().filter(move |it| stores(it).contains(&store));
    ((1..=4).map(|it| leads(it).count()).collect(), (1..=4).map(|it| has(it).count()).collect())
}

fn most(shown: &Value, what: &str) -> u64 {
    let mut all = shown["spreads"].as_array().expect("a list").iter();
    number(&all.find(|it| it["what"] == what).expect("it is measured")["most"])
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_are_balanced_by_order_without_waiting_and_each_leader_moves_once() {
    let _alone = alone().await;
    let cluster = Cluster::start(4, CHAOS).await;
    cluster.until_healthy().await;
    let endpoints = cluster.endpoints();
    let names = ["jobs/a", "jobs/c", "jobs/e", "jobs/g", "jobs/i"];
    let busy = Busy::start(&names, "jobs/k", || cluster.client());
    for at in ["jobs/b", "jobs/d", "jobs/f", "jobs/h", "jobs/j"] {
        cli_json(&endpoints, &["ranges", "split", at, "--at", at, "--wait"]).await;
    }
    busy.progress(20).await;
    let before = spread(&endpoints).await;

    let rebalance = ["ranges", "rebalance"];
    cli(&endpoints, &["schedule", "pause"]).await;
    for more in [&["--dry-run"][..], &["--wait"], &[]] {
        let (code, _, err) = cli(&endpoints, &[&rebalance[..], more].concat()).await;
        assert_eq!(code, Some(1), "{err}");
        assert!(err.contains("`sharklock schedule resume`"), "{err}");
    }
    cli(&endpoints, &["schedule", "resume"]).await;
    let (code, _, err) = cli(&endpoints, &["ranges", "rebalance", "--wait", "--dry-run"]).await;
    assert_eq!(code, Some(2), "{err}");

    let plan = cli_json(&endpoints, &["ranges", "rebalance", "--dry-run"]).await;
    assert_eq!((&plan["dry_run"], &plan["tolerance"]), (&true.into(), &"3%".into()));
    assert!(number(&plan["plans_count"]) >= 4, "six ranges on three of four stores: {plan}");
    assert_eq!(most(&plan, "replicas"), 6, "{plan}");
    let why = plan["plans"][0]["reason"].as_str().expect("text");
    assert!(why.contains("the mean is"), "{plan}");
    assert_eq!(spread(&endpoints).await, before, "nothing was done");

    let (code, out, err) = cli(&endpoints, &["ranges", "rebalance", "--wait"]).await;
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.contains("nothing to do: stores are within 3% of the mean"), "{out}");
    assert!(err.contains("to be moved") && err.contains("under way"), "{err}");
    let (leaders, replicas) = spread(&endpoints).await;
    assert!(leaders.iter().all(|it| *it <= 3), "of six: {leaders:?}");
    assert!(replicas.iter().all(|it| (3..=6).contains(it)), "of eighteen: {replicas:?}");
    busy.progress(20).await;
    busy.end().await;

    let list = cli_json(&endpoints, &["ops", "ls"]).await;
    let mut moved = BTreeMap::new();
    for operator in list["operators"].as_array().expect("a list") {
        assert_eq!(operator["state"], "done", "{operator}");
        assert_ne!(operator["by"], "", "an order says whose it is: {operator}");
        if operator["goal"].as_str().expect("text").ends_with("leads") {
            *moved.entry(number(&operator["range_id"])).or_insert(0) += 1;
        }
    }
    assert!(moved.values().all(|times| *times == 1), "{moved:?}");
}
