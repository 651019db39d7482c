//! Replicas and leaderships move by command while processes are killed: what
//! `scripts/moves-under-kills.sh` does fifty times of each, in a size that fits CI.

use std::time::Duration;

use serde_json::Value;
use sharklock_tests::cluster::{CHAOS, Cluster, SOON};
use sharklock_tests::load::{Load, Plan};
use sharklock_tests::wait::eventually;
use tokio::time::Instant;

use crate::alone;
use crate::moves::{number, stores};
use crate::ranges::{cli, cli_json};

/// A kill with each.
const TURNS: usize = 6;

/// Gives one order and waits for it: a leadership of every other turn, else a replica. False: it was
/// refused, or is not done in time, because somebody is dead.
async fn is_done(endpoints: &[String], turn: usize) -> bool {
    let (code, out, err) = cli(endpoints, &["ranges", "ls", "--output", "json"]).await;
    if code != Some(0) {
        println!("no list: {err}");
        return false;
    }
    let list: Value = serde_json::from_str(&out).expect("it is JSON");
    let ranges = list["ranges"].as_array().expect("a list");
    let range = &ranges[turn / 2 % ranges.len()];
    let (id, has) = (number(&range["range_id"]).to_string(), stores(range));
    let led = number(&range["leader_store_id"]);
    let free = (1..=4).find(|store| !has.contains(store));
    let (Some(free), Some(heir)) = (free, has.iter().find(|store| **store != led)) else {
        return false;
    };
    let (from, to) = (has[turn % has.len()].to_string(), free.to_string());
    let heir = heir.to_string();
    let order = match turn % 2 {
        0 => vec!["ranges", "move", &id, "--from", &from, "--to", &to],
        _ => vec!["ranges", "transfer-leader", &id, "--to", &heir],
    };
    let (code, _, err) =
        cli(endpoints, &[&order[..], &["--wait", "--timeout", "5s"]].concat()).await;
    println!("{order:?}: {code:?} {}", err.lines().last().unwrap_or_default());
    code == Some(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_and_leaderships_move_while_processes_are_killed() {
    let _alone = alone().await;
    let mut cluster = Cluster::start(4, CHAOS).await;
    cluster.until_healthy().await;
    let endpoints = cluster.endpoints();
    cli_json(&endpoints, &["ranges", "split", "load/5", "--at", "load/5", "--wait"]).await;
    let plan = Plan { workers: 8, ttl: Duration::from_secs(10), ..Plan::default() };
    let load = Load::start(&plan, || cluster.client());
    for turn in 0..TURNS {
        let node = turn % cluster.len();
        cluster.kill(node);
        let mut done = is_done(&endpoints, turn).await;
        cluster.spawn(node);
        cluster.until_ready(node).await;
        let deadline = Instant::now() + SOON;
        while !done {
            assert!(Instant::now() < deadline, "turn {turn} is not done in {SOON:?}");
            done = is_done(&endpoints, turn).await;
        }
        load.progress(50, SOON).await;
    }
    eventually("three voters of each range, and nothing runs", SOON, async || {
        let list = cli_json(&endpoints, &["ranges", "ls"]).await;
        let ops = cli_json(&endpoints, &["ops", "ls"]).await;
        let all = list["ranges"].as_array().expect("a list").iter().all(|it| stores(it).len() == 3);
        let mut ops = ops["operators"].as_array().expect("a list").iter();
        (all && ops.all(|it| it["state"] != "running")).then_some(())
    })
    .await;
    cluster.until_healthy().await;
    let verdict = load.end().await;
    println!("{} cycles, longest gap {:.2?}", verdict.cycles, verdict.longest_gap);
}
