//! Three nodes while one is killed, frozen or cut off: every promise holds, and locks go on.

use std::sync::Arc;
use std::time::Duration;

use sharklock_client::{FencingToken, GuardState};
use sharklock_history::FencingOracle;
use sharklock_tests::cluster::{CHAOS, Cluster, SOON, client};
use sharklock_tests::load::{Load, Plan, Verdict};
use sharklock_tests::process::{Process, command, sharklock, text_of};
use sharklock_tests::wait::eventually;
use sharklock_tests::witness::{Want, Witness, judge};
use tokio::time::{Instant, sleep_until, timeout};

use crate::alone;
use crate::lock_command::{check_lifetimes, script};

/// L3, with the longest gap of a lock whose holder lives: a new leader within 10 s, and the first
/// answers after it.
const GAP_MAX: Duration = Duration::from_secs(12);

/// The faults of a node.
#[derive(Clone, Copy, Debug)]
enum Strike {
    Kill,
    /// For so long.
    Pause(Duration),
    /// It sends, it hears.
    CutOff {
        sends: bool,
        hears: bool,
    },
}

const ALL: [Strike; 6] = [
    Strike::Kill,
    Strike::Pause(Duration::from_secs(1)),
    Strike::Pause(Duration::from_secs(10)),
    Strike::CutOff { sends: true, hears: true },
    Strike::CutOff { sends: true, hears: false },
    Strike::CutOff { sends: false, hears: true },
];

/// Strikes a node, lets the others go on for a while, and mends it.
async fn strike(cluster: &mut Cluster, load: &Load, node: usize, how: Strike) {
    let begin = Instant::now();
    match how {
        Strike::Kill => cluster.kill(node),
        Strike::Pause(_) => cluster.pause(node),
        Strike::CutOff { sends, hears } => cluster.links.cut_off(node, sends, hears),
    }
    load.progress(200, SOON).await;
    match how {
        Strike::Kill => cluster.restart(node).await,
        Strike::Pause(long) => {
            sleep_until(begin + long).await;
            cluster.resume(node);
        }
        Strike::CutOff { .. } => cluster.links.mend(),
    }
    load.progress(50, SOON).await;
    cluster.until_healthy().await;
}

fn others(node: usize) -> [usize; 2] {
    [(node + 1) % 3, (node + 2) % 3]
}

fn check(verdict: &Verdict) {
    let Verdict { report, cycles, longest_gap, busy_share, took, .. } = verdict;
    println!(
        "{}; {cycles} cycles in {took:?}, gap {longest_gap:?}, {busy_share:.2}",
        report.counts
    );
    assert!(*longest_gap < GAP_MAX, "{longest_gap:?} without an answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_of_the_range_is_killed_frozen_and_cut_off() {
    let _alone = alone().await;
    let mut cluster = Cluster::start(3, CHAOS).await;
    let load = Load::start(&Plan::default(), || cluster.client());
    load.progress(100, SOON).await;
    for how in ALL {
        let leader = cluster.leader(&[0, 1, 2]).await;
        println!("{how:?} of node {leader}, which leads");
        strike(&mut cluster, &load, leader, how).await;
    }
    check(&load.end().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leading_master_and_a_follower_are_killed_frozen_and_cut_off() {
    let _alone = alone().await;
    let mut cluster = Cluster::start(3, CHAOS).await;
    let load = Load::start(&Plan::default(), || cluster.client());
    load.progress(100, SOON).await;
    for how in ALL {
        let master = cluster.leading_master(&[0, 1, 2]).await;
        println!("{how:?} of node {master}, whose master leads");
        strike(&mut cluster, &load, master, how).await;
        let follower = others(cluster.leader(&[0, 1, 2]).await)[0];
        println!("{how:?} of node {follower}, a follower");
        strike(&mut cluster, &load, follower, how).await;
    }
    check(&load.end().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_are_killed_at_once_and_no_holder_and_no_place_is_lost() {
    let _alone = alone().await;
    let mut cluster = Cluster::start(3, CHAOS).await;
    let ttl = Duration::from_secs(60);
    let mut holder = Witness::new(cluster.client());
    let held = holder.acquire(&Want::exclusive("p").ttl(ttl)).await.expect("it is free");
    let mut waiting = Vec::new();
    for place in 1..=3 {
        let mut waiter = Witness::new(cluster.client());
        waiting.push(tokio::spawn(async move {
            let held =
                waiter.acquire(&Want::exclusive("p").ttl(ttl)).await.expect("its turn comes");
            let token = held.token();
            waiter.release(held).await.expect("it is released");
            (token, waiter)
        }));
        eventually("its place in the queue", SOON, async || {
            let lock = cluster.client().get_lock("p").await.ok()?.lock?;
            (lock.waiters_count == place).then_some(())
        })
        .await;
    }
    (0..3).for_each(|node| cluster.kill(node));
    (0..3).for_each(|node| cluster.spawn(node));
    for node in 0..3 {
        cluster.until_ready(node).await;
    }
    assert_eq!(held.guard.state(), GuardState::Safe, "a minute is longer than a restart");
    let mut tokens = vec![held.token()];
    holder.release(held).await.expect("it is released");
    let mut witnesses = vec![holder];
    for waiter in waiting {
        let (token, witness) = timeout(SOON, waiter).await.expect("its turn").expect("no panic");
        tokens.push(token);
        witnesses.push(witness);
    }
    assert!(tokens.is_sorted(), "in the order of their places: {tokens:?}");
    judge(witnesses.into_iter().map(Witness::into_recorder));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_under_load_is_hardly_noticed() {
    let _alone = alone().await;
    let mut cluster = Cluster::start(3, CHAOS).await;
    let load = Load::start(&Plan::default(), || cluster.client());
    for node in 0..3 {
        load.progress(100, SOON).await;
        cluster.stop(node).await;
        load.progress(100, SOON).await;
        cluster.restart(node).await;
        cluster.until_healthy().await;
    }
    check(&load.end().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn waiters_whose_gateway_dies_keep_their_places() {
    let _alone = alone().await;
    let mut cluster = Cluster::start(3, CHAOS).await;
    let leader = cluster.leader(&[0, 1, 2]).await;
    let [victim, other] = others(leader);
    let holder = cluster.client();
    let guard = holder.lock("q").ttl(Duration::from_secs(30)).acquire().await.expect("it is free");
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut waiting = Vec::new();
    for place in 1..=6_usize {
        // Two thirds of them sit at the gateway that dies, as their lists begin where they like.
        let by = client([victim, other].map(|node| cluster.endpoint(node)));
        let order = Arc::clone(&order);
        waiting.push(tokio::spawn(async move {
            let guard =
                by.lock("q").ttl(Duration::from_secs(30)).acquire().await.expect("its turn");
            order.lock().expect("no panic").push(place);
            guard.release().await.expect("it is released");
        }));
        eventually("its place in the queue", SOON, async || {
            let lock = holder.get_lock("q").await.ok()?.lock?;
            (lock.waiters_count as usize == place).then_some(())
        })
        .await;
    }
    cluster.kill(victim);
    guard.release().await.expect("it is released");
    for waiter in waiting {
        timeout(SOON, waiter).await.expect("its turn").expect("no panic");
    }
    assert_eq!(*order.lock().expect("no panic"), [1, 2, 3, 4, 5, 6]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_away_longer_than_the_log_reaches_comes_back() {
    let _alone = alone().await;
    let mut cluster = Cluster::start(3, CHAOS).await;
    let leader = cluster.leader(&[0, 1, 2]).await;
    let away = others(leader)[0];
    cluster.kill(away);
    let load = Load::start(&Plan::default(), || cluster.client());
    let kept = cluster.client();
    let mut guards = Vec::new();
    for number in 0..50 {
        let lock = kept.lock(&format!("kept/{number}")).ttl(Duration::from_secs(60));
        guards.push(lock.acquire().await.expect("it is free"));
    }
    eventually("a log that was cut", SOON, async || {
        let status = cluster.status(leader).await?;
        let range = status.ranges.first()?;
        let lag = range.replicas.iter().map(|replica| replica.lag).max()?;
        (lag > 300 && range.log_first_index > 300).then_some(())
    })
    .await;
    cluster.restart(away).await;
    cluster.until_healthy().await;
    check(&load.end().await);
    // One of two leads now: the one that was sent its state, or one that it must agree with.
    cluster.kill(leader);
    for guard in &guards {
        eventually("a look at its token", SOON, async || {
            let seen = kept.check_token(guard.name(), guard.token()).await.ok()?;
            assert!(seen.live, "{}", guard.name());
            Some(())
        })
        .await;
    }
}

/// Wakes after its lease has ended and writes without looking: the resource refuses it.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_was_frozen_past_its_lease_is_fenced_off() {
    let _alone = alone().await;
    let cluster = Cluster::start(3, CHAOS).await;
    let resource = Arc::new(std::sync::Mutex::new(FencingOracle::default()));
    let (told, hears) = std::sync::mpsc::channel::<FencingToken>();
    let (thaw, frozen_until) = std::sync::mpsc::channel::<()>();
    let (endpoints, frozen_resource) = (cluster.endpoints(), Arc::clone(&resource));
    let frozen = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let frozen = client(endpoints);
            let lock = frozen.lock("f").ttl(Duration::from_secs(1));
            let guard = lock.acquire().await.expect("it is free");
            let token = guard.token();
            let read = frozen_resource.lock().expect("no panic").read(token.as_u64(), 1);
            let read = read.expect("it is the first");
            told.send(token).expect("the test listens");
            // As a garbage collection does: its only thread stands, nothing of this client runs.
            frozen_until.recv().expect("the test tells when");
            let mut resource = frozen_resource.lock().expect("no panic");
            (token, resource.write(token.as_u64(), 1, read, read.value + 1).is_ok())
        })
    });
    let first = tokio::task::spawn_blocking(move || hears.recv()).await.expect("no panic");
    let first = first.expect("it is told");
    let next = cluster.client();
    let guard = next.lock("f").ttl(Duration::from_secs(10)).acquire().await.expect("its turn");
    assert!(guard.token() > first);
    let token = guard.token().as_u64();
    {
        let mut resource = resource.lock().expect("no panic");
        let read = resource.read(token, 2).expect("it is the newest");
        resource.write(token, 2, read, read.value + 1).expect("it is the newest");
    }
    thaw.send(()).expect("it is frozen");
    let frozen = tokio::task::spawn_blocking(move || frozen.join()).await.expect("no panic");
    let (_, written) = frozen.expect("no panic");
    assert!(!written, "a late write of an old holder");
    guard.release().await.expect("it is released");
    let resource = resource.lock().expect("no panic");
    assert_eq!((resource.faults(), resource.value(), resource.refused()), (&[][..], 1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn copied_and_emptied_directories_are_refused_and_starting_twice_is_harmless() {
    let _alone = alone().await;
    let mut cluster = Cluster::start(3, CHAOS).await;
    let token = cluster.client().lock("a").acquire().await.expect("it is free").token();

    // A second process of the same node.
    let mut twin = Process::spawn(command(["server"]).args(cluster.args(2)));
    assert_eq!(twin.ends(SOON).await.code(), Some(78), "{}", twin.stderr());

    // A copy of its directory, elsewhere, while the original runs.
    let copy = cluster.data_dir(2).with_file_name("copy");
    cluster.kill(2);
    copy_dir(&cluster.data_dir(2), &copy);
    cluster.restart(2).await;
    let mut elsewhere = Process::spawn(command(["server"]).args(as_copy(&cluster.args(2), &copy)));
    assert_eq!(elsewhere.ends(SOON).await.code(), Some(78), "{}", elsewhere.stderr());
    assert!(elsewhere.stderr().contains("is a copy"), "{}", elsewhere.stderr());

    // Its store is gone, then all of it. (What is put back is what was there: an older state would
    // be a disk that lost acknowledged writes, and its replica would stop.)
    for part in ["data", ""] {
        cluster.kill(2);
        let (there, aside) = (cluster.data_dir(2).join(part), copy.with_file_name("aside"));
        std::fs::rename(&there, &aside).expect("it is ours");
        let mut emptied = Process::spawn(command(["server"]).args(cluster.args(2)));
        assert_eq!(emptied.ends(SOON).await.code(), Some(78), "{}", emptied.stderr());
        assert!(emptied.stderr().contains("estore"), "the way out: {}", emptied.stderr());
        std::fs::remove_dir_all(&there).expect("it is ours");
        std::fs::rename(&aside, &there).expect("it is ours");
        cluster.restart(2).await;
    }
    cluster.until_healthy().await;
    let again = cluster.client().lock("a").acquire().await.expect("it is free");
    assert!(again.token() > token);
}

/// Issue 4: 16 shells count while one node dies, one freezes and one is cut off; each time it is
/// the one that leads, and never more than one of three at a time.
#[tokio::test(flavor = "multi_thread")]
async fn sixteen_shells_count_while_a_node_dies_one_freezes_and_one_is_cut_off() {
    const SHELLS: usize = 16;
    const EACH: usize = 60;
    let _alone = alone().await;
    let mut cluster = Cluster::start(3, CHAOS).await;
    let dir = tempfile::TempDir::new().expect("a temporary directory can be made");
    let (counter, log) = (dir.path().join("counter"), dir.path().join("log"));
    std::fs::write(&counter, "0\n").expect("the directory is ours");
    let increment = script(
        &dir,
        "increment.sh",
        "echo begin $$ $SHARKLOCK_TOKEN >> $2\nn=$(cat $1)\nsleep 0.005\necho $((n + 1)) > $1\n\
         echo end $$ $SHARKLOCK_TOKEN >> $2\n",
    );
    let shell = "i=0; while [ $i -lt $0 ]; do i=$((i + 1)); \"$@\" || exit 1; done";
    let mut shells = Vec::new();
    for _ in 0..SHELLS {
        let mut sh = std::process::Command::new("sh");
        sh.args(["-c", shell, &EACH.to_string()]).arg(sharklock());
        sh.args(["lock", "counter", "--timeout", "60s", "--"]).arg(&increment);
        sh.arg(&counter).arg(&log).env("SHARKLOCK_ENDPOINTS", cluster.endpoints().join(","));
        shells.push(Process::spawn(&mut sh));
    }
    let total = SHELLS * EACH;
    let progress = async |goal: usize| {
        eventually(&format!("{goal} increments"), Duration::from_secs(120), async || {
            let text = text_of(&log);
            let ends = text.lines().filter(|line| line.starts_with("end ")).count();
            (ends >= goal).then_some(())
        })
        .await;
    };
    progress(total / 5).await;
    let killed = cluster.leader(&[0, 1, 2]).await;
    cluster.kill(killed);
    progress(total / 5 + 20).await;
    cluster.restart(killed).await;
    cluster.until_healthy().await;
    let frozen = cluster.leader(&[0, 1, 2]).await;
    let since = Instant::now();
    cluster.pause(frozen);
    progress(2 * total / 5 + 20).await;
    sleep_until(since + Duration::from_secs(8)).await;
    cluster.resume(frozen);
    cluster.until_healthy().await;
    let cut_off = cluster.leader(&[0, 1, 2]).await;
    cluster.links.cut_off(cut_off, true, true);
    progress(3 * total / 5 + 20).await;
    cluster.links.mend();
    for shell in &mut shells {
        let status = shell.ends(Duration::from_secs(120)).await;
        assert_eq!(status.code(), Some(0), "{}", shell.stderr());
    }
    assert_eq!(text_of(&counter).trim(), total.to_string());
    let lifetimes = check_lifetimes(&text_of(&log)).unwrap_or_else(|why| panic!("{why}"));
    assert_eq!(lifetimes, total);
}

/// The data role alone, on another address and another directory.
fn as_copy(args: &[String], dir: &std::path::Path) -> Vec<String> {
    let mut args = args.to_vec();
    let mut set = |flag: &str, value: &str| {
        let at = args.iter().position(|arg| arg == flag).expect("it is there");
        args[at + 1] = value.to_owned();
    };
    set("--roles", "data");
    set("--data-dir", &dir.display().to_string());
    set("--listen-data", "127.0.0.1:0");
    set("--listen-admin", "127.0.0.1:0");
    let unused = ["--listen-gateway", "--listen-master", "--advertise-data", "--advertise-master"];
    for flag in unused {
        let at = args.iter().position(|arg| arg == flag).expect("it is there");
        args.drain(at..at + 2);
    }
    args
}

fn copy_dir(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).expect("it is ours");
    for entry in std::fs::read_dir(from).expect("it is there") {
        let entry = entry.expect("it is there");
        let target = to.join(entry.file_name());
        match entry.file_type().expect("it is there").is_dir() {
            true => copy_dir(&entry.path(), &target),
            false => _ = std::fs::copy(entry.path(), target).expect("it is ours"),
        }
    }
}
