//! `sharklock locks force-release` as operators and scripts meet it: what it found, what it would do,
//! and what is logged of it.

use serde_json::Value;
use sharklock_client::{Client, LostReason};
use sharklock_tests::cluster::SOON;
use sharklock_tests::process::Process;
use sharklock_tests::server::Server;
use sharklock_tests::wait::eventually;

async fn ordered(server: &Server, options: &[&str], code: i32) -> Value {
    let order = ["locks", "force-release", "nightly", "--output", "json"];
    let mut process = Process::spawn(&mut server.cli(&[&order, options].concat()));
    let ended = process.ends(SOON).await.code();
    let (out, err) = (process.stdout(), process.stderr());
    assert_eq!(ended, Some(code), "{options:?}: {out}{err}");
    serde_json::from_str(&out).unwrap_or_else(|why| panic!("{options:?}: {why}: {out}"))
}

/// The audit lines of orders in a server's log: those that came from a client.
fn audit_lines(server: &mut Server) -> Vec<Value> {
    let log = server.process().stderr();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let lines = lines.filter(|line| line["target"] == "audit").map(|line| line["fields"].clone());
    lines.filter(|fields| fields["client"].is_string()).collect()
}

async fn audited(server: &mut Server, count: usize) -> Vec<Value> {
    let what = format!("{count} audit lines");
    eventually(&what, SOON, async || {
        let lines = audit_lines(server);
        (lines.len() >= count).then_some(lines)
    })
    .await
}

fn token(guard: &sharklock_client::Guard) -> String {
    guard.token().as_u64().to_string()
}

async fn until_somebody_waits(client: &Client) {
    eventually("a waiter", SOON, async || {
        let lock = client.get_lock("nightly").await.ok()?.lock?;
        (lock.waiters_count == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn to_end_nothing_is_no_success_and_a_dry_run_changes_nothing() {
    let mut server = Server::start().await;
    let (holder, next) = (server.client(), server.client());
    let reason = ["--reason", "host-3 is gone"];
    for options in [&reason[..], &["--reason", "r", "--dry-run"], &["--reason", "r", "--now"]] {
        let nothing = ordered(&server, options, 4).await;
        assert_eq!((&nothing["found"], &nothing["ended"]), (&false.into(), &false.into()));
        assert_eq!(nothing["schema"], "sharklock.v1.ForceRelease");
    }

    let guard = holder.lock("nightly").acquire().await.expect("free");
    let waiter = {
        let next = next.clone();
        tokio::spawn(async move { next.lock("nightly").acquire().await.expect("its turn") })
    };
    until_somebody_waits(&next).await;
    let other = ordered(&server, &["--reason", "r", "--token", "999999"], 4).await;
    assert_eq!(other["found"], false);

    let plan = ordered(&server, &["--reason", "r", "--dry-run"], 0).await;
    assert_eq!((&plan["found"], &plan["dry_run"]), (&true.into(), &true.into()));
    assert_eq!(plan["holders"][0]["token"], token(&guard));
    let (end, turn) = (&plan["plan"]["ends"][0], &plan["plan"]["waiters"][0]);
    assert_eq!(end["consequence"], "told_and_awaited");
    assert_eq!(end["ends_within_ms"], "10100");
    assert_eq!((&turn["place"], &turn["gets_it"]), (&1.into(), &true.into()));
    let unsafely = ordered(&server, &["--reason", "r", "--dry-run", "--now"], 0).await;
    assert_eq!(unsafely["plan"]["ends"][0]["consequence"], "at_once_unsafely");
    assert!(holder.check_token("nightly", guard.token()).await.expect("a look").live);

    // The order itself: the holder hears why, and the lock goes to the next.
    let hears = async {
        let lost = guard.lost().await;
        assert_eq!(lost, LostReason::ForceReleased { reason: "host-3 is gone".to_owned() });
        token(&guard)
    };
    let (ending, held) = tokio::join!(ordered(&server, &reason, 0), hears);
    assert_eq!((&ending["found"], &ending["ended"]), (&true.into(), &false.into()));
    drop(guard);
    let guard = waiter.await.expect("no panic");
    assert!(token(&guard) != held);

    let lines = audited(&mut server, 2).await;
    assert_eq!(lines.len(), 2, "looks and dry runs are not logged: {lines:?}");
    let (nothing, ended) = (&lines[0], &lines[1]);
    assert_eq!((&nothing["outcome"], &nothing["token"]), (&"nothing".into(), &999_999.into()));
    assert_eq!((&ended["outcome"], &ended["reason"]), (&"ending".into(), &reason[1].into()));
    assert_eq!((&ended["now"], &ended["holds"]), (&false.into(), &1.into()));
    assert_eq!(ended["token"].to_string(), held);
    // As `printf nightly | xxh64sum` has it.
    assert_eq!(ended["lock_hash"], "b274f47134a51dec", "{ended}");
    assert!(ended.get("lock").is_none(), "logs are read by more people than locks: {ended}");
    let operator = ended["operator"].as_str().expect("somebody");
    assert!(operator.contains(" pid "), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn now_tells_the_holder_the_reason_and_a_setting_puts_names_into_the_log() {
    let wrap = |mut command: std::process::Command| {
        command.env("SHARKLOCK_LOG__LOCK_NAMES", "true").env("SHARKLOCK_LOG", "error");
        command
    };
    let mut server = Server::start_with(&[], wrap).await;
    let holder = server.client();
    let guard = holder.lock("nightly").acquire().await.expect("free");
    let hears = tokio::time::timeout(SOON, guard.lost());
    let order = ordered(&server, &["--reason", "host-3 is gone", "--now"], 0);
    let (ended, lost) = tokio::join!(order, hears);
    assert_eq!((&ended["found"], &ended["ended"]), (&true.into(), &true.into()));
    let told = LostReason::ForceReleased { reason: "host-3 is gone".to_owned() };
    assert_eq!(lost.expect("the holder is told"), told);

    // What else is logged does not matter to it.
    let lines = audited(&mut server, 1).await;
    let line = &lines[0];
    assert_eq!((&line["lock"], &line["outcome"]), (&"nightly".into(), &"ended".into()), "{line}");
    assert_eq!((&line["now"], line.get("lock_hash")), (&true.into(), None), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_leaves_an_audit_line() {
    let mut server = Server::start().await;
    let holder = server.client();
    let guard = holder.lock("nightly").acquire().await.expect("free");
    let handle = holder.session_handle().to_owned();
    let operator = server.client();
    operator.plan_revocation(&handle).await.expect("a plan");
    operator.revoke_session(&handle, "host-3 is gone", "ops").await.expect("an order");
    guard.lost().await;
    let lines = audited(&mut server, 1).await;
    assert_eq!(lines.len(), 1, "a plan is no order: {lines:?}");
    let line = &lines[0];
    assert_eq!((&line["operator"], &line["reason"]), (&"ops".into(), &"host-3 is gone".into()));
    assert_eq!((&line["outcome"], &line["holds"]), (&"ending".into(), &1.into()));
    assert!(!line.to_string().contains(&handle), "no handle in a log: {line}");
}
