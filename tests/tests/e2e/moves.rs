//! Replicas and leaderships move by command, under clients that take no error for an answer.

use std::time::Duration;

use serde_json::Value;
use sharklock_tests::cluster::{CHAOS, Cluster, SOON};
use sharklock_tests::wait::eventually;

use crate::alone;
use crate::ranges::{Busy, cli, cli_json};

/// The only range, as `ranges show` has it.
pub(crate) async fn range(endpoints: &[String]) -> Value {
    cli_json(endpoints, &["ranges", "show", "1"]).await["range"].clone()
}

pub(crate) fn number(value: &Value) -> u64 {
    value.as_str().expect("text").parse().expect("a number")
}

pub(crate) fn stores(range: &Value) -> Vec<u64> {
    let voters = range["voter_store_ids"].as_array().expect("a list").iter();
    let mut stores: Vec<u64> = voters.map(number).collect();
    stores.sort_unstable();
    stores
}

/// The node that a store is part of.
pub(crate) async fn node_of(cluster: &Cluster, store: u64) -> usize {
    let status = cluster.status(0).await.expect("it answers");
    let mut all = status.stores.iter();
    let address = all.find(|it| it.store_id == store).expect("it is known").address.clone();
    let node = (0..cluster.len()).find(|node| {
        let host = cluster.endpoint(*node).replace("http://", "");
        host.split(':').next() == address.split(':').next()
    });
    node.expect("a node has it")
}

pub(crate) async fn leader(endpoints: &[String]) -> u64 {
    eventually("a leader", SOON, async || {
        let leader = number(&range(endpoints).await["leader_store_id"]);
        (leader != 0).then_some(leader)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_and_leaderships_move_under_load_and_clients_notice_nothing() {
    let _alone = alone().await;
    let cluster = Cluster::start(4, CHAOS).await;
    cluster.until_healthy().await;
    let endpoints = cluster.endpoints();
    let names = ["jobs/a", "jobs/b", "jobs/c", "jobs/d"];
    let busy = Busy::start(&names, "jobs/e", || cluster.client());
    let holder = cluster.client();
    let held = holder.lock("jobs/held").ttl(Duration::from_secs(10)).acquire().await.expect("free");

    for turn in 0..8_u64 {
        let has = stores(&range(&endpoints).await);
        assert_eq!(has.len(), 3, "{has:?}");
        let to = (1..=4).find(|store| !has.contains(store)).expect("one of four has none");
        let from = has[usize::try_from(turn).expect("small") % 3];
        let (from, to) = (from.to_string(), to.to_string());
        let move_it = ["ranges", "move", "jobs/a", "--from", &from, "--to", &to];
        let plan = cli_json(&endpoints, &[&move_it[..], &["--dry-run"]].concat()).await;
        assert_eq!(
            (&plan["dry_run"], &plan["schema"]),
            (&true.into(), &"sharklock.v1.RangeChange".into())
        );
        assert!(plan["steps"].as_array().expect("a list").len() >= 4, "{plan}");
        let done = cli_json(&endpoints, &[&move_it[..], &["--wait"]].concat()).await;
        assert_eq!(done["operator"]["state"], "done", "{done}");
        busy.progress(20).await;
        let led = leader(&endpoints).await;
        let has = stores(&range(&endpoints).await);
        let other = has.iter().find(|store| **store != led).expect("three have it").to_string();
        let lead = ["ranges", "transfer-leader", "1", "--to", &other, "--wait"];
        let done = cli_json(&endpoints, &lead).await;
        assert_eq!(done["operator"]["state"], "done", "{done}");
        busy.progress(20).await;
    }
    assert!(holder.check_token("jobs/held", held.token()).await.expect("a look").live);
    held.release().await.expect("it was held all the time");
    busy.end().await;
    let list = cli_json(&endpoints, &["ops", "ls"]).await;
    let operators = list["operators"].as_array().expect("a list");
    assert_eq!(operators.len(), 16, "{list}");
    assert!(operators.iter().all(|it| it["state"] == "done"), "{list}");
}

/// Whoever orders what cannot be hears why, and what to do.
#[tokio::test(flavor = "multi_thread")]
async fn orders_that_make_no_sense_are_refused_with_the_way_out() {
    let _alone = alone().await;
    let cluster = Cluster::start(4, CHAOS).await;
    cluster.until_healthy().await;
    let endpoints = cluster.endpoints();
    let range = range(&endpoints).await;
    let has = stores(&range);
    let spare = (1..=4).find(|store| !has.contains(store)).expect("one of four").to_string();
    let (first, led) = (has[0].to_string(), range["leader_store_id"].as_str().expect("text"));
    for (args, code, says) in [
        (&["ranges", "move", "99", "--from", "1", "--to", "2"][..], 1, "range 99 is not known"),
        (&["ranges", "move", "1", "--from", &first, "--to", "77"], 1, "store 77 is not known"),
        (&["ranges", "move", "1", "--from", &first, "--to", &first], 1, "already"),
        (
            &["ranges", "move", "1", "--from", &spare, "--to", &spare],
            1,
            "has no replica of range 1",
        ),
        (&["ranges", "transfer-leader", "1", "--to", led], 1, "so already"),
        (&["ranges", "transfer-leader", "1", "--to", &spare], 1, "has no voter"),
        (&["ranges", "add-replica", "1", "--to", &first], 1, "has a replica of range 1 already"),
        (&["ranges", "remove-replica", "1", "--from", &spare], 1, "has no replica of range 1"),
        (&["ranges", "move", "1", "--to", "2"], 2, "--from"),
        (&["ops", "show", "77"], 1, "operator 77 is not known"),
        (&["ops", "cancel", "77"], 1, "operator 77 is not known"),
    ] {
        let (exit, _, err) = cli(&endpoints, args).await;
        assert_eq!(exit, Some(code), "{args:?}: {err}");
        assert!(err.contains(says), "{args:?}: {err}");
    }
}

/// The store that a replica moves to dies on the way: the operator waits and says for what, and ends
/// when somebody cancels it. Locks go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_move_to_a_store_that_dies_waits_and_can_be_cancelled() {
    let _alone = alone().await;
    let mut cluster = Cluster::start(4, CHAOS).await;
    cluster.until_healthy().await;
    let endpoints = cluster.endpoints();
    let shown = range(&endpoints).await;
    let has = stores(&shown);
    let spare = (1..=4).find(|store| !has.contains(store)).expect("one of four");
    let node = node_of(&cluster, spare).await;
    let led = number(&shown["leader_store_id"]);
    let from = has.iter().find(|store| **store != led).expect("two others").to_string();
    let begin = ["ranges", "move", "1", "--from", &from, "--to", &spare.to_string()];
    cluster.kill(node);
    let begun = cli_json(&endpoints, &begin).await;
    let id = begun["operator"]["operator_id"].as_str().expect("text").to_owned();
    eventually("a reason", SOON, async || {
        let seen = cli_json(&endpoints, &["ops", "show", &id]).await;
        let step = seen["operator"]["step"].as_str().expect("text").to_owned();
        step.contains("is not heard of").then_some(())
    })
    .await;
    let (code, _, err) = cli(&endpoints, &["ops", "wait", &id, "--timeout", "1s"]).await;
    assert_eq!(code, Some(3), "{err}");
    let cancelled = cli_json(&endpoints, &["ops", "cancel", &id]).await;
    assert_eq!(cancelled["operator"]["state"], "cancelled");
    let (code, _, err) = cli(&endpoints, &["ops", "wait", &id]).await;
    assert_eq!(code, Some(1), "it has ended, and not as it was to: {err}");
    let client = cluster.client();
    client.lock("jobs/a").acquire().await.expect("locks go on").release().await.expect("held");
}
