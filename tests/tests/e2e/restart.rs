//! Kills, restarts, and what survives them: everything that was answered.

use std::time::Duration;

use sharklock_client::AcquireError;
use sharklock_history::FencingOracle;
use sharklock_tests::process::{Process, command};
use sharklock_tests::server::Server;
use sharklock_tests::wait::eventually;
use sharklock_tests::witness::{Want, Witness, increment, judge};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

/// Issue 2: ready in less than two seconds, also after a kill.
const READY_MAX: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn tokens_grow_over_kills_and_each_restart_is_quick() {
    let mut server = Server::start().await;
    let mut witness = Witness::new(server.client());
    let mut last = 0;
    for round in 0..4 {
        for name in ["a", "b", "a"] {
            let held = witness.acquire(&Want::exclusive(name)).await.unwrap();
            assert!(held.token() > last, "{} after {last} in round {round}", held.token());
            last = held.token();
            witness.release(held).await.unwrap();
        }
        assert!(server.ready_after() < READY_MAX, "ready after {:?}", server.ready_after());
        server.kill();
        server.start_again().await;
    }
    judge([witness.into_recorder()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn holders_and_waiters_survive_a_kill_with_their_places() {
    const WAITERS: u32 = 5;
    let mut server = Server::start().await;
    let mut holder = Witness::new(server.client());
    let held = holder.acquire(&Want::exclusive("s")).await.unwrap();
    let mut tasks = JoinSet::new();
    let look = server.client();
    for place in 1..=WAITERS {
        let mut witness = Witness::new(server.client());
        tasks.spawn(async move {
            let held = witness.acquire(&Want::exclusive("s")).await.unwrap();
            let token = held.token();
            witness.release(held).await.unwrap();
            (token, place, witness.into_recorder())
        });
        eventually("the next waiter", Duration::from_secs(10), async || {
            let lock = look.get_lock("s").await.expect("a look succeeds").lock;
            (lock?.waiters_count == place).then_some(())
        })
        .await;
    }
    server.kill();
    server.start_again().await;

    let lock = look.get_lock("s").await.unwrap().lock.expect("it is held");
    assert_eq!(lock.holders[0].token, Some(held.guard.token()));
    assert_eq!(lock.waiters_count, WAITERS);
    assert!(held.guard.is_valid(), "the holder has not noticed");
    holder.release(held).await.unwrap();
    let mut served = tasks.join_all().await;
    served.sort_by_key(|(token, ..)| *token);
    let places: Vec<u32> = served.iter().map(|(_, place, _)| *place).collect();
    assert_eq!(places, (1..=WAITERS).collect::<Vec<_>>(), "places in order of tokens");
    let mut recorders: Vec<_> = served.into_iter().map(|(.., recorder)| recorder).collect();
    recorders.push(holder.into_recorder());
    judge(recorders);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_holders_lease_is_not_cut_short_by_a_restart() {
    // Longer than what a new leader adds to every lease, which must not be what saves it.
    let ttl = Duration::from_secs(6);
    let mut server = Server::start().await;
    let mut ghost = Witness::new(server.client());
    let ghost = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let held = runtime.block_on(ghost.acquire(&Want::exclusive("g").ttl(ttl))).unwrap();
        runtime.shutdown_background();
        ghost.abandon(held);
        ghost
    })
    .join()
    .unwrap();
    server.kill();
    server.start_again().await;
    let mut next = Witness::new(server.client());
    let wait = Want::exclusive("g").within(Duration::from_secs(30));
    let held = next.acquire(&wait).await.expect("a dead holder's lock is freed");
    next.release(held).await.unwrap();
    // The judge knows until when the ghost had been promised the lock.
    judge([ghost, next].map(Witness::into_recorder));
}

/// The counter is exactly right although the server is killed five times under load.
#[tokio::test(flavor = "multi_thread")]
async fn no_update_is_lost_under_kills() {
    const WORKERS: u64 = 8;
    const KILLS: u64 = 5;
    const CYCLES: u64 = 60;
    let mut server = Server::start().await;
    let resource: &Mutex<FencingOracle> = Box::leak(Box::default());
    let mut tasks = JoinSet::new();
    for worker in 0..WORKERS {
        let mut witness = Witness::new(server.client());
        tasks.spawn(async move {
            let mut done = 0;
            while done < CYCLES {
                let mut want = Want::exclusive("counter");
                if (worker + done) % 5 == 0 {
                    want = want.within(Duration::from_millis(20));
                }
                let held = match witness.acquire(&want).await {
                    Ok(held) => held,
                    Err(error) => {
                        assert!(error.is_retryable(), "{error}");
                        continue;
                    }
                };
                assert!(increment(resource, &held).await, "a live token passes the fence");
                done += 1;
                match witness.release(held).await {
                    Ok(()) => {}
                    Err(error) => panic!("a restart is shorter than a lease: {error}"),
                }
            }
            witness.into_recorder()
        });
    }
    for kill in 1..=KILLS {
        let goal = kill * WORKERS * CYCLES / (KILLS + 1);
        let progress = format!("{goal} increments");
        eventually(&progress, Duration::from_secs(60), async || {
            (resource.lock().await.value() >= goal).then_some(())
        })
        .await;
        server.kill();
        server.start_again().await;
        assert!(server.ready_after() < READY_MAX, "ready after {:?}", server.ready_after());
    }
    let report = judge(tasks.join_all().await);
    let resource = resource.lock().await;
    assert_eq!(resource.faults(), []);
    assert_eq!(resource.value(), WORKERS * CYCLES);
    println!("{}", report.counts);
}

/// A client whose server is away answers with an error that says so, and in time.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_told_apart_from_a_lock_that_is_held() {
    let mut server = Server::start().await;
    let mut witness = Witness::new(server.client());
    let held = witness.acquire(&Want::exclusive("a")).await.unwrap();
    witness.release(held).await.unwrap();
    server.kill();
    let wait = Duration::from_secs(1);
    let error = witness.client().lock("a").wait(wait).acquire().await.unwrap_err();
    let told =
        matches!(error, AcquireError::Unavailable { .. } | AcquireError::Indeterminate { .. });
    assert!(told, "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_it_in_order_and_the_next_start_finds_everything() {
    let mut server = Server::start().await;
    let client = server.client();
    let guard = client.lock("kept").acquire().await.unwrap();
    let token = guard.token();
    let status = server.stop().await;
    assert_eq!(status.code(), Some(0), "{}", server.process().stderr());
    server.start_again().await;
    let seen = server.client().get_lock("kept").await.unwrap().lock.unwrap();
    assert_eq!(seen.holders[0].token, Some(token));
    guard.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_in_use_is_refused_in_one_line_before_any_port_opens() {
    let server = Server::start().await;
    let data = server.data_dir().to_str().unwrap();
    let args = ["dev", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data-dir"];
    let mut second = Process::spawn(command(args).arg(data));
    let status = second.ends(Duration::from_secs(10)).await;
    assert_eq!(status.code(), Some(78), "{}", second.stderr());
    let errors: Vec<String> = second.stderr().lines().map(str::to_owned).collect();
    let told = errors.iter().filter(|line| line.starts_with("error: ")).count();
    assert_eq!(told, 1, "{errors:?}");
    assert_eq!(second.stdout(), "", "no banner");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_data_directory_is_refused_and_left_alone() {
    let dir = tempfile::TempDir::new().unwrap();
    let letter = dir.path().join("letter.txt");
    std::fs::write(&letter, "dear diary").unwrap();
    let args = ["dev", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data-dir"];
    for not_a_directory in [letter.as_path(), std::path::Path::new("/proc/sharklock")] {
        let mut refused = Process::spawn(command(args).arg(not_a_directory));
        let status = refused.ends(Duration::from_secs(10)).await;
        assert_eq!(status.code(), Some(78), "{}", refused.stderr());
        assert_eq!(refused.stdout(), "", "no banner");
    }
    assert_eq!(std::fs::read_to_string(&letter).unwrap(), "dear diary");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_refused_in_one_line() {
    let server = Server::start().await;
    let args = ["dev", "--ephemeral", "--admin-listen", "127.0.0.1:0", "--listen"];
    let mut second = Process::spawn(command(args).arg(server.gateway()));
    let status = second.ends(Duration::from_secs(10)).await;
    assert_eq!(status.code(), Some(78));
    assert!(second.stderr().contains("is in use"), "{}", second.stderr());
}
