//! The audit lines: every order of an operator leaves who, what and what came of it, in a file of their own.

use std::path::Path;
use std::process::Output;

use serde_json::Value;
use sharklock_proto::v1::admin_service_client::AdminServiceClient;
use sharklock_proto::v1::{SplitRangeRequest, split_range_request};
use sharklock_tests::cluster::{Cluster, SOON};
use sharklock_tests::process::command;
use sharklock_tests::wait::eventually;
use tempfile::TempDir;
use tonic::transport::Channel;

/// The lines so far: what each is about, and its fields.
fn lines(path: &Path) -> Vec<(String, Value)> {
    let text = std::fs::read_to_string(path).expect("the process has made it");
    let line = |line: &str| {
        let whole: Value = serde_json::from_str(line).unwrap_or_else(|why| panic!("{line}: {why}"));
        assert_eq!(whole["target"], "audit", "{line}");
        let fields = whole["fields"].clone();
        (fields["message"].as_str().expect("each has one").to_owned(), fields)
    };
    text.lines().map(line).collect()
}

/// One node with an audit file.
async fn audited(path: &Path) -> Cluster {
    let settings = format!("[cluster]\nreplicas = 1\n[log]\naudit_file = \"{}\"\n", path.display());
    Cluster::start(1, &settings).await
}

async fn order(cluster: &Cluster, args: &[&str]) -> Output {
    let mut command = command(args);
    command.env("SHARKLOCK_ENDPOINTS", cluster.endpoint(0));
    let run = tokio::task::spawn_blocking(move || command.output().expect("the program runs"));
    tokio::time::timeout(SOON, run).await.expect("in time").expect("no panic")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_order_leaves_a_line_with_who_what_and_its_outcome() {
    let _alone = crate::alone().await;
    let dir = TempDir::new().expect("a temporary directory can be made");
    let path = dir.path().join("audit.json");
    let cluster = audited(&path).await;
    cluster.until_healthy().await;
    let held = cluster.client().lock("audited").acquire().await.expect("it is free");

    // What each does is another test's affair; here some are refused on purpose.
    let orders: [(&[&str], &str, &str, &str); 9] = [
        (&["schedule", "pause"], "pause-schedule", "paused", "accepted"),
        (&["schedule", "resume"], "pause-schedule", "resumed", "accepted"),
        (&["schedule", "set", "replicas=1"], "set-schedule", "replicas=1", "accepted"),
        (&["ranges", "split", "1", "--at", "m"], "split-range", "range 1", "accepted"),
        (
            &["ranges", "move", "1", "--from", "1", "--to", "9"],
            "change-range",
            "range 1",
            "refused",
        ),
        (&["ranges", "rebalance"], "rebalance", "all stores", "accepted"),
        (&["stores", "drain", "9"], "set-store-duty", "store 9", "refused"),
        (&["masters", "remove", "1"], "change-masters", "remove master 1", "refused"),
        (
            &["recover", "run", "1", "--lost", "9", "--stopped"],
            "recover-range",
            "range 1",
            "refused",
        ),
    ];
    for (args, message, subject, outcome) in orders {
        let before = lines(&path).len();
        let output = order(&cluster, args).await;
        let line = eventually(&format!("the line of {args:?}: {output:?}"), SOON, async || {
            lines(&path).into_iter().skip(before).find(|(said, _)| said == message)
        })
        .await
        .1;
        let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
        assert_eq!(text("outcome"), outcome, "{args:?}: {line}");
        assert!(text("subject").contains(subject), "{args:?}: {line}");
        assert!(text("operator").contains('@'), "{args:?}: {line}");
        assert!(text("client").starts_with("127."), "{args:?}: {line}");
        assert_eq!(text("refused_because").is_empty(), outcome == "accepted", "{args:?}: {line}");
    }

    // The program looks first, and would not order this.
    let channel = Channel::from_shared(cluster.endpoint(0)).expect("an address");
    let channel = channel.connect().await.expect("the gateway accepts connections");
    let which = Some(split_range_request::Which::RangeId(99));
    let nowhere = SplitRangeRequest { which, ..SplitRangeRequest::default() };
    let refused = AdminServiceClient::new(channel).split_range(nowhere).await;
    refused.expect_err("there is no such range");
    let refused = lines(&path).into_iter().find(|(_, line)| line["subject"] == "range 99");
    let (said, refused) = refused.expect("also an order about nothing leaves a line");
    assert_eq!((said.as_str(), &refused["outcome"]), ("split-range", &Value::from("refused")));

    // The leading master tells what came of it, whoever has begun it.
    let split = eventually("the line of the split", SOON, async || {
        lines(&path).into_iter().find(|(said, _)| said == "range-split")
    })
    .await
    .1;
    assert!(split["range"].as_str().is_some_and(|range| range != "1"), "{split}");

    let release = ["locks", "force-release", "audited", "--reason", "a test", "--now"];
    order(&cluster, &release).await;
    let ended = eventually("the line of the force-release", SOON, async || {
        lines(&path).into_iter().find(|(said, _)| said == "force-release")
    })
    .await
    .1;
    assert_eq!(
        (ended["outcome"].as_str(), ended["reason"].as_str()),
        (Some("ended"), Some("a test"))
    );
    drop(held);

    let configured: Vec<_> =
        lines(&path).into_iter().filter(|(said, _)| said == "configuration").collect();
    let [(_, configured)] = &configured[..] else { panic!("one start: {configured:?}") };
    let settings = configured["settings"].as_str().expect("it is a text");
    assert!(settings.contains("log.audit_file="), "{settings}");
    assert!(!settings.contains("raft.tick="), "nobody has set it: {settings}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_leaves_no_line() {
    let _alone = crate::alone().await;
    let dir = TempDir::new().expect("a temporary directory can be made");
    let path = dir.path().join("audit.json");
    let cluster = audited(&path).await;
    cluster.until_healthy().await;
    for args in [
        &["ranges", "split", "1", "--at", "m", "--dry-run"][..],
        &["schedule", "set", "replicas=1", "--dry-run"],
        &["ranges", "rebalance", "--dry-run"],
    ] {
        let output = order(&cluster, args).await;
        assert!(output.status.success(), "{args:?}: {output:?}");
    }
    // A line that comes behind theirs shows that they have left none.
    order(&cluster, &["schedule", "pause"]).await;
    let last = eventually("the line of the pause", SOON, async || {
        lines(&path).into_iter().find(|(said, _)| said == "pause-schedule")
    });
    last.await;
    let said: Vec<_> = lines(&path).into_iter().map(|(said, _)| said).collect();
    assert_eq!(said, ["configuration", "pause-schedule"]);
}
