//! Pauses, broken and silent connections, a damaged disk, and what is left when all have gone.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use sharklock_client::{Client, GuardState, LostReason};
use sharklock_history::FencingOracle;
use sharklock_tests::process::{Process, is_running, text_of};
use sharklock_tests::proxy::Proxy;
use sharklock_tests::server::Server;
use sharklock_tests::wait::eventually;
use sharklock_tests::witness::{Want, Witness, increment, judge};
use tempfile::TempDir;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// A pause that is shorter than the lease costs nobody the lock.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_paused_expires_nobody_who_still_lives() {
    let mut server = Server::start().await;
    let mut holder = Witness::new(server.client());
    let mut held = holder.acquire(&Want::exclusive("p")).await.unwrap();
    server.process().signal(Signal::SIGSTOP);
    eventually("most of the lease to pass", secs(20), async || {
        held.note_promise();
        (held.guard.remaining() < secs(4)).then_some(())
    })
    .await;
    server.process().signal(Signal::SIGCONT);
    eventually("a renewal", secs(5), async || {
        held.note_promise();
        (held.guard.remaining() > secs(5)).then_some(())
    })
    .await;
    assert_eq!(held.guard.state(), GuardState::Safe);
    holder.release(held).await.unwrap();
    judge([holder.into_recorder()]);
}

/// A pause longer than the lease: the holder knows by itself that it has lost, before anybody else
/// holds the lock.
#[tokio::test(flavor = "multi_thread")]
async fn a_holder_without_answers_stops_before_the_next_one_begins() {
    let mut server = Server::start().await;
    let mut holder = Witness::new(server.client());
    let held = holder.acquire(&Want::exclusive("p").ttl(secs(2))).await.unwrap();
    let mut next = Witness::new(server.client());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let held = next.acquire(&Want::exclusive("p")).await.unwrap();
        next.release(held).await.unwrap();
        next
    });
    eventually("the next in the queue", secs(10), async || {
        let lock = server.client().get_lock("p").await.expect("a look succeeds").lock;
        (lock?.waiters_count == 1).then_some(())
    })
    .await;
    server.process().signal(Signal::SIGSTOP);
    assert_eq!(holder.lose(held).await, LostReason::Unrenewed);
    server.process().signal(Signal::SIGCONT);
    let next = tasks.join_next().await.unwrap().unwrap();
    judge([holder, next].map(Witness::into_recorder));
}

/// The documented limit of `sharklock lock`: nobody can stop the command of a frozen supervisor.
/// When it wakes it does so at once, and says that the lock was lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_supervisor_stops_its_command_when_it_wakes() {
    let server = Server::start().await;
    let dir = TempDir::new().unwrap();
    let log = dir.path().join("log");
    let script = format!("echo $$ >> {}; exec sleep 1000", log.display());
    let mut command = server.cli(&["lock", "n", "--ttl", "2s", "--", "sh", "-c", &script]);
    let mut lock = Process::spawn(&mut command);
    let pid = eventually("the command", secs(15), async || {
        text_of(&log).lines().next().map(str::to_owned)
    })
    .await;
    lock.signal(Signal::SIGSTOP);
    let mut next = Witness::new(server.client());
    let held = next.acquire(&Want::exclusive("n")).await.unwrap();
    assert!(is_running(&pid), "only a fencing token protects a resource now");
    next.release(held).await.unwrap();
    lock.signal(Signal::SIGCONT);
    assert_eq!(lock.ends(secs(5)).await.code(), Some(79), "{}", lock.stderr());
    assert!(!is_running(&pid));
    judge([next.into_recorder()]);
}

fn client_of(proxy: &Proxy) -> Client {
    Client::builder().endpoints([proxy.endpoint()]).build().expect("the endpoint is an address")
}

/// Clients count behind a proxy while `fault` strikes; gives the number of strikes.
async fn count_through(fault: impl Fn(&Proxy), strikes: u64, workers: u64, cycles: u64) {
    let mut server = Server::start().await;
    let proxy = Proxy::start(server.gateway()).await;
    let resource: &Mutex<FencingOracle> = Box::leak(Box::default());
    let attempts = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for worker in 0..workers {
        let mut witness = Witness::new(client_of(&proxy));
        let attempts = Arc::clone(&attempts);
        tasks.spawn(async move {
            for cycle in 0..cycles {
                // Some give up early, so that withdrawals cross broken connections too.
                let patience = if (worker + cycle) % 4 == 0 { 15 } else { 60_000 };
                let want = Want::exclusive("n").within(Duration::from_millis(patience));
                attempts.fetch_add(1, Ordering::Relaxed);
                match witness.acquire(&want).await {
                    Ok(held) => {
                        assert!(increment(resource, &held).await, "a live token passes the fence");
                        witness.release(held).await.expect("a break is shorter than a lease");
                    }
                    Err(error) => assert!(error.is_retryable(), "{error}"),
                }
            }
            witness.into_recorder()
        });
    }
    for strike in 1..=strikes {
        let goal = strike * workers * cycles / (strikes + 1);
        eventually(&format!("{goal} attempts"), secs(120), async || {
            (attempts.load(Ordering::Relaxed) >= goal).then_some(())
        })
        .await;
        fault(&proxy);
    }
    let report = judge(tasks.join_all().await);
    println!("{}", report.counts);
    let resource = resource.lock().await;
    assert_eq!(resource.faults(), []);
    assert_eq!(resource.value(), report.counts.granted, "every grant was one increment");
    assert_idle(&mut server).await;
}

/// That nothing is held or waited for any more: what was withdrawn or released in the confusion of
/// a broken connection does not stay behind longer than its lease.
async fn assert_idle(server: &mut Server) {
    let client = server.client();
    eventually("an idle range", secs(15), async || {
        let status = client.status().await.expect("the status is shown");
        let range = &status.ranges[0];
        ((range.locks, range.holds, range.waiters) == (0, 0, 0)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_connections_lose_nothing_and_do_nothing_twice() {
    count_through(Proxy::cut, 40, 10, 60).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_are_left_before_a_lease_ends() {
    count_through(Proxy::silence, 3, 6, 25).await;
}

/// R1: when all clients are gone nothing of them is left.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_are_gone_leave_nothing_behind() {
    const CLIENTS: u64 = 60;
    let mut server = Server::start().await;
    server.assert_serves().await;
    let pid = server.process().pid();
    let descriptors = || fs::read_dir(format!("/proc/{pid}/fd")).expect("it is our child").count();
    assert_idle(&mut server).await;
    let before = descriptors();
    let mut tasks = JoinSet::new();
    for number in 0..CLIENTS {
        let client = server.client();
        tasks.spawn(async move {
            let own = client.lock(&format!("own/{number}")).acquire().await.unwrap();
            let shared = client.lock("shared").shared().acquire().await.unwrap();
            // Some release, some drop, some vanish in the middle of a wait.
            match number % 3 {
                0 => own.release().await.unwrap(),
                1 => drop(own),
                _ => {
                    let wait = client.lock(&format!("own/{number}")).acquire();
                    let _ = tokio::time::timeout(Duration::from_millis(20), wait).await;
                }
            }
            drop(shared);
        });
    }
    tasks.join_all().await;
    assert_idle(&mut server).await;
    eventually("the connections to be closed", secs(20), async || {
        (descriptors() <= before + 5).then_some(())
    })
    .await;
}

/// The write-ahead logs of RocksDB in a data directory, the largest first.
fn logs_of(server: &Server) -> Vec<PathBuf> {
    let mut folders = vec![server.data_dir().to_owned()];
    let mut logs = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("the data directory is ours") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "log") {
                logs.push(path);
            }
        }
    }
    logs.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).map_or(0, |file| file.len())));
    logs
}

/// A flipped bit must not become a silently shorter log: acknowledged grants would be given again.
#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_the_middle_of_the_log_is_refused() {
    let mut server = Server::start().await;
    let client = server.client();
    for number in 0..200 {
        client.lock(&format!("n/{number}")).acquire().await.unwrap().release().await.unwrap();
    }
    server.kill();
    let log = logs_of(&server).into_iter().next().expect("there is a log");
    let good = fs::read(&log).unwrap();
    assert!(good.len() > 10_000, "the log holds 400 entries: {} bytes", good.len());
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 0x10;
    fs::write(&log, bad).unwrap();
    let mut refused = server.start_in_vain();
    let status = refused.ends(secs(20)).await;
    assert_eq!(status.code(), Some(78), "{}", refused.stderr());
    assert_eq!(refused.stdout(), "", "no banner");

    // The tail that a power cut tears off is another matter: nothing in it was acknowledged. It is
    // the beginning of a record, here of a copy of the first: its header, and some of what it holds.
    let mut torn = good.clone();
    torn.extend_from_slice(&good[..13]);
    fs::write(&log, torn).unwrap();
    server.start_again().await;
    let guard = client.lock("n/0").acquire().await.unwrap();
    assert!(guard.token().as_u64() > 200, "the tokens go on: {}", guard.token());
    guard.release().await.unwrap();
}
