//! The majority of a range is lost for good: what is left goes on by command, with tokens above all
//! that were given, and a lost store that comes back serves nothing.

use std::time::Duration;

use serde_json::Value;
use sharklock_client::AcquireError;
use sharklock_tests::cluster::{CHAOS, Cluster, SOON};
use sharklock_tests::wait::eventually;

use crate::alone;
use crate::moves::{leader, node_of, number, stores};
use crate::ranges::{cli, cli_json};

/// The longest lease that there is outlives the whole drill.
const TTL: Duration = Duration::from_secs(600);

async fn refused(endpoints: &[String], args: &[&str], says: &str) {
    let (code, out, err) = cli(endpoints, &[&["recover", "run"], args].concat()).await;
    assert_eq!(code, Some(1), "{args:?}: {out}{err}");
    assert!(err.contains(says), "{args:?}: {err}");
}

async fn shown(endpoints: &[String], range: &str) -> Value {
    cli_json(endpoints, &["ranges", "show", range]).await["range"].clone()
}

/// The ranges that `recover ls` shows and that nothing hinders.
async fn recoverable(endpoints: &[String]) -> Vec<Value> {
    let list = cli_json(endpoints, &["recover", "ls"]).await;
    let ranges = list["ranges"].as_array().expect("a list").clone();
    ranges.into_iter().filter(|it| it["hindrance"] == "").collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_ranges_goes_on_and_lost_stores_never_come_back() {
    let _alone = alone().await;
    let mut cluster = Cluster::start(5, CHAOS).await;
    cluster.until_healthy().await;
    let endpoints = cluster.endpoints();
    cli_json(&endpoints, &["schedule", "set", "patience=1s"]).await;
    cli(&endpoints, &["schedule", "pause"]).await;
    let split = cli_json(&endpoints, &["ranges", "split", "1", "--at", "m", "--wait"]).await;
    assert!(split.to_string().contains("range"), "{split}");
    let child = cli_json(&endpoints, &["ranges", "show", "z"]).await["range"]["range_id"].clone();
    let child = child.as_str().expect("text").to_owned();

    // Locks of both ranges that somebody holds, and the largest token.
    let holder = cluster.client();
    let low = holder.lock("a/held").ttl(TTL).acquire().await.expect("free");
    let high = holder.lock("z/held").ttl(TTL).acquire().await.expect("free");
    let before = holder.lock("a/free").acquire().await.expect("free");
    let token = before.token().as_u64();
    before.release().await.expect("it is held");

    // Nothing of it while the range is healthy.
    let has = stores(&shown(&endpoints, "1").await);
    let led = leader(&endpoints).await;
    let survivor = *has.iter().find(|store| **store != led).expect("three have it");
    let lost: Vec<u64> = has.iter().copied().filter(|store| *store != survivor).collect();
    let named = format!("{},{}", lost[0], lost[1]);
    refused(&endpoints, &["1", "--lost", &named, "--stopped"], "it is not lost").await;
    assert!(recoverable(&endpoints).await.is_empty());

    let mut nodes = Vec::new();
    for store in &lost {
        nodes.push(node_of(&cluster, *store).await);
    }
    nodes.iter().for_each(|node| cluster.kill(*node));
    let alive: Vec<String> =
        (0..5).filter(|node| !nodes.contains(node)).map(|node| cluster.endpoint(node)).collect();
    eventually("both ranges are lost, and what is left is known", SOON, async || {
        (recoverable(&alive).await.len() == 2).then_some(())
    })
    .await;
    let ranges = recoverable(&alive).await;
    for range in &ranges {
        let missing: Vec<u64> =
            range["missing_store_ids"].as_array().expect("a list").iter().map(number).collect();
        assert_eq!(missing, lost, "{range}");
        assert_eq!(number(&range["survivors"][0]["store_id"]), survivor, "{range}");
        assert!(!range["losses"].as_array().expect("a list").is_empty(), "{range}");
    }

    // What only people can know must be said.
    let one = lost[0].to_string();
    refused(&alive, &["1", "--lost", &one, "--stopped"], &format!("--lost {named}")).await;
    refused(&alive, &["1", "--lost", &named], "say --stopped").await;
    let with_living = format!("{named},{survivor}");
    let says = format!("store {survivor} is alive");
    refused(&alive, &["1", "--lost", &with_living, "--stopped"], &says).await;
    refused(&alive, &["77", "--lost", &named, "--stopped"], "range 77 is not known").await;
    let (code, out, err) = cli(&alive, &["recover", "run", "1", "--dry-run"]).await;
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("nothing was done") && out.contains("refused for ever"), "{out}");
    let log = cli_json(&alive, &["recover", "log"]).await;
    assert_eq!(log["recoveries"], Value::Array(vec![]), "nothing was done");

    // The lower range at once, the upper one with the wait.
    let now = ["recover", "run", "1", "--lost", &named, "--stopped", "--now", "--wait"];
    let (code, out, err) = cli(&alive, &now).await;
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(err.contains("--now did not wait") && err.contains("led again"), "{err}");
    let waits = ["recover", "run", "--all", "--lost", &named, "--stopped", "--wait"];
    let (code, out, err) = cli(&alive, &waits).await;
    assert_eq!(code, Some(0), "{out}{err}");
    refused(&alive, &["1", "--lost", &named, "--stopped"], "it is not lost").await;

    let client = sharklock_tests::cluster::client(alive.clone());
    let fresh = client.lock("a/free").wait(SOON).acquire().await.expect("it grants at once");
    assert!(fresh.token().as_u64() >> 48 == 1 && token >> 48 == 0, "{:?}", fresh.token());
    fresh.release().await.expect("it is held");
    for (name, guard) in [("a/held", &low), ("z/held", &high)] {
        let seen = client.check_token(name, guard.token()).await.expect("a look");
        assert!(seen.live, "{name} is held still");
    }
    // Nothing is granted in the upper one; who may wait does.
    let refusal = client.lock("z/free").wait(Duration::ZERO).acquire().await.expect_err("not yet");
    match &refusal {
        AcquireError::LimitReached { reason, message, retry_after: Some(after) } => {
            assert_eq!(reason, "QUARANTINE", "{message}");
            assert!(*after > Duration::from_secs(400) && *after <= Duration::from_secs(610));
            assert!(message.contains("every lease is over"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    assert!(refusal.is_retryable());
    let waiting = client.lock("z/free").wait(Duration::from_secs(2)).acquire().await;
    assert!(matches!(waiting, Err(AcquireError::WaitTimedOut { .. })), "{waiting:?}");
    high.release().await.expect("it was held all the time");
    low.release().await.expect("it was held all the time");
    let again = client.lock("z/held").wait(Duration::from_secs(1)).acquire().await;
    assert!(matches!(again, Err(AcquireError::WaitTimedOut { .. })), "{again:?}");

    // The rest is repair as ever.
    cli(&alive, &["schedule", "resume"]).await;
    eventually("three voters of each range", SOON, async || {
        for range in ["1", &child] {
            let has = stores(&shown(&alive, range).await);
            if has.len() != 3 || has.iter().any(|store| lost.contains(store)) {
                return None;
            }
        }
        Some(())
    })
    .await;
    let log = cli_json(&alive, &["recover", "log"]).await;
    let log = log["recoveries"].as_array().expect("a list");
    assert_eq!(log.len(), 2, "{log:?}");
    for (record, now) in log.iter().zip([true, false]) {
        assert_eq!((&record["state"], &record["now"]), (&"done".into(), &now.into()), "{record}");
        assert_eq!(number(&record["store_id"]), survivor);
    }

    // A lost store comes back, with all its votes: it is refused, and ends.
    cluster.spawn(nodes[0]);
    let status = cluster.process(nodes[0]).ends(SOON).await;
    let said = cluster.process(nodes[0]).stderr();
    assert_eq!(status.code(), Some(78), "{said}");
    assert!(said.contains(&format!("store {} was declared gone", lost[0])), "{said}");
    let after = client.lock("a/free").wait(SOON).acquire().await.expect("it serves");
    assert!(after.token().as_u64() > token);
    after.release().await.expect("it is held");
}
