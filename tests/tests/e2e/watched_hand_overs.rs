//! One lock that is handed over a thousand times while its leader is killed, twice, and its range is
//! split, under the eyes of those who watch it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use sharklock_client::{CallError, LockSeen};
use sharklock_history::Recorder;
use sharklock_proto::WATCH_WAITS_MAX;
use sharklock_tests::cluster::{CHAOS, Cluster, SOON};
use sharklock_tests::process::{Process, command};
use sharklock_tests::wait::eventually;
use sharklock_tests::witness::{Want, Witness, judge};
use tokio::task::{JoinHandle, JoinSet};

use crate::alone;
use crate::ranges::cli_json;

const NAME: &str = "handed/over";
const HAND_OVERS: u64 = 1_000;
const WORKERS: usize = 6;

/// One state of the lock, as a watcher was told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    /// The place in the log of the lock's range: its version, then its index.
    at: (u64, u64),
    holders: usize,
    /// The holder's.
    token: Option<u64>,
    waiters: u64,
}

impl State {
    fn of(seen: &LockSeen) -> Self {
        let lock = seen.lock.as_ref();
        let token = lock.and_then(|lock| lock.holders.first()?.token);
        Self {
            at: (seen.position.version, seen.position.applied_index),
            holders: lock.map_or(0, |lock| lock.holders.len()),
            token: token.map(|token| token.as_u64()),
            waiters: lock.map_or(0, |lock| lock.waiters_count.into()),
        }
    }

    /// A line of `locks watch --output json`.
    fn of_line(line: &str) -> Self {
        let state: Value = serde_json::from_str(line).unwrap_or_else(|why| panic!("{why}: {line}"));
        assert_eq!((&state["schema"], &state["name"]), (&"sharklock.v1.Lock".into(), &NAME.into()));
        let wide = |value: &Value| -> Option<u64> { value.as_str()?.parse().ok() };
        let place = |field| wide(&state["position"][field]).expect("a number");
        let holders = state["lock"]["holders"].as_array().map_or(&[][..], Vec::as_slice);
        Self {
            at: (place("version"), place("applied_index")),
            holders: holders.len(),
            token: holders.first().and_then(|holder| wide(&holder["token"])),
            waiters: state["lock"]["waiters_count"].as_u64().unwrap_or_default(),
        }
    }
}

/// Whether states came in the order in which they were, none twice, and tell only of what was granted.
/// So many holds may be nobody's: acquisitions that failed may have been granted, and given back.
fn check(states: &[State], granted: &BTreeSet<u64>, failed: usize) -> Result<(), String> {
    let mut unclaimed = BTreeSet::new();
    let mut last: Option<&State> = None;
    let mut newest = 0;
    for (number, state) in states.iter().enumerate() {
        let wrong = |what: &str| Err(format!("state {number}, {state:?} after {last:?}: {what}"));
        if last.is_some_and(|last| state.at <= last.at) {
            return wrong("it is no later one");
        }
        if state.holders > 1 {
            return wrong("an exclusive lock has several holders");
        }
        if let Some(token) = state.token {
            if token < newest {
                return wrong("its holder had the lock before");
            }
            if !granted.contains(&token) {
                unclaimed.insert(token);
            }
            if unclaimed.len() > failed {
                return wrong("nobody was granted this");
            }
            newest = token;
        }
        last = Some(state);
    }
    Ok(())
}

/// Whoever watches the lock, and what it has been told.
trait Watcher {
    fn what(&self) -> &'static str;
    fn states(&self) -> Vec<State>;

    /// Waits until its newest state is this one, but for its place. It is told of it: to find it when a
    /// question has waited in vain would be too late.
    async fn until_last_is(&self, truth: State) {
        let what = format!("{} is told of {truth:?}", self.what());
        eventually(&what, WATCH_WAITS_MAX.mul_f64(0.8), async || {
            let last = *self.states().last()?;
            (State { at: truth.at, ..last } == truth).then_some(())
        })
        .await;
    }

    /// Waits until it has seen this hold, or a later one.
    async fn until_follows(&self, token: u64) {
        eventually(&format!("{} sees token {token}", self.what()), SOON, async || {
            let newest = self.states().iter().filter_map(|state| state.token).max();
            (newest >= Some(token)).then_some(())
        })
        .await;
    }
}

/// `client.watch(NAME)`.
struct ClientWatch {
    states: Arc<Mutex<Vec<State>>>,
    task: JoinHandle<()>,
}

impl ClientWatch {
    fn start(cluster: &Cluster) -> Self {
        let mut watch = cluster.client().watch(NAME);
        let states = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&states);
        let task = tokio::spawn(async move {
            loop {
                match watch.next().await {
                    Ok(seen) => told.lock().expect("no panic").push(State::of(&seen)),
                    Err(CallError::Unavailable { .. } | CallError::Indeterminate { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        });
        Self { states, task }
    }
}

impl Watcher for ClientWatch {
    fn what(&self) -> &'static str {
        "client.watch"
    }

    fn states(&self) -> Vec<State> {
        assert!(!self.task.is_finished(), "the watch goes on");
        self.states.lock().expect("no panic").clone()
    }
}

impl Drop for ClientWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// `sharklock locks watch NAME --output json`.
struct CommandWatch(Process);

impl CommandWatch {
    fn start(cluster: &Cluster) -> Self {
        let mut watch = command(["locks", "watch", NAME, "--output", "json"]);
        watch.env("SHARKLOCK_ENDPOINTS", cluster.endpoints().join(","));
        Self(Process::spawn(&mut watch))
    }
}

impl Watcher for CommandWatch {
    fn what(&self) -> &'static str {
        "locks watch"
    }

    fn states(&self) -> Vec<State> {
        let told = self.0.stdout();
        // The last line may be on its way.
        let whole = told.rfind('\n').map_or("", |end| &told[..end]);
        whole.lines().map(State::of_line).collect()
    }
}

/// Clients that hand the lock over to each other.
struct HandOvers {
    workers: JoinSet<Recorder>,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    granted: Arc<Mutex<BTreeSet<u64>>>,
    /// Acquisitions that ended with an error.
    failed: Arc<AtomicUsize>,
}

impl HandOvers {
    fn start(cluster: &Cluster) -> Self {
        let mut all = Self {
            workers: JoinSet::new(),
            stop: Arc::default(),
            done: Arc::default(),
            granted: Arc::default(),
            failed: Arc::default(),
        };
        for _ in 0..WORKERS {
            let mut witness = Witness::new(cluster.client());
            let (stop, done) = (Arc::clone(&all.stop), Arc::clone(&all.done));
            let (granted, failed) = (Arc::clone(&all.granted), Arc::clone(&all.failed));
            all.workers.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    match witness.acquire(&Want::exclusive(NAME).within(SOON)).await {
                        Ok(held) => {
                            granted.lock().expect("no panic").insert(held.token());
                            // Where no leader confirms it in time, the lease ends it.
                            let _ = witness.release(held).await;
                            done.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => {
                            assert!(error.is_retryable(), "{error}");
                            failed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
                witness.into_recorder()
            });
        }
        all
    }

    async fn until(&self, count: u64) {
        eventually(&format!("{count} hand-overs"), 2 * SOON, async || {
            (self.done.load(Ordering::Relaxed) >= count).then_some(())
        })
        .await;
    }

    fn newest(&self) -> u64 {
        self.granted.lock().expect("no panic").last().copied().unwrap_or_default()
    }

    /// Ends them: what each has noted.
    async fn end(&mut self) -> Vec<Recorder> {
        self.stop.store(true, Ordering::Relaxed);
        std::mem::take(&mut self.workers).join_all().await
    }
}

/// Kills the leader of the lock's range, and starts it again once another one leads.
async fn kill_leader(cluster: &mut Cluster) {
    let leader = cluster.leader_of(NAME, &[0, 1, 2]).await;
    cluster.kill(leader);
    let others: Vec<usize> = (0..cluster.len()).filter(|node| *node != leader).collect();
    let next = cluster.next_leader_of(NAME, &others, leader).await;
    println!("node {leader} led, node {next} does");
    cluster.restart(leader).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_over_a_thousand_hand_overs_never_goes_back_and_ends_with_the_true_state() {
    let _alone = alone().await;
    let mut cluster = Cluster::start(3, CHAOS).await;
    cluster.until_healthy().await;
    let (by_client, by_command) = (ClientWatch::start(&cluster), CommandWatch::start(&cluster));
    let mut load = HandOvers::start(&cluster);
    for strike in 1..=3 {
        load.until(strike * HAND_OVERS / 4).await;
        if strike == 2 {
            let endpoints = cluster.endpoints();
            let split = ["ranges", "split", NAME, "--at", NAME, "--wait"];
            let split = cli_json(&endpoints, &split).await;
            assert_eq!((&split["done"], &split["led"]), (&true.into(), &true.into()), "{split}");
        } else {
            kill_leader(&mut cluster).await;
        }
        // They follow behind each of them, while all goes on.
        let newest = load.newest();
        tokio::join!(by_client.until_follows(newest), by_command.until_follows(newest));
    }
    load.until(HAND_OVERS).await;
    let mut recorders = load.end().await;

    // The last holder stays, and another waits: both are seen, and then that they are gone.
    let (mut last, client) = (Witness::new(cluster.client()), cluster.client());
    let held = last.acquire(&Want::exclusive(NAME)).await.expect("its turn comes");
    load.granted.lock().expect("no panic").insert(held.token());
    let behind = client.lock(NAME);
    let behind = tokio::spawn(async move { behind.acquire().await.map(|_| ()) });
    let truth = State { at: (0, 0), holders: 1, token: Some(held.token()), waiters: 1 };
    tokio::join!(by_client.until_last_is(truth), by_command.until_last_is(truth));
    let looked = client.get_lock(NAME).await.expect("a look succeeds");
    assert_eq!(State { at: (0, 0), ..State::of(&looked) }, truth);
    behind.abort();
    // Before that it could be granted the lock that it gives up.
    let alone = State { waiters: 0, ..truth };
    tokio::join!(by_client.until_last_is(alone), by_command.until_last_is(alone));
    last.release(held).await.expect("it is held");
    let free = State { at: (0, 0), holders: 0, token: None, waiters: 0 };
    tokio::join!(by_client.until_last_is(free), by_command.until_last_is(free));
    assert_eq!(client.get_lock(NAME).await.expect("a look succeeds").lock, None);

    recorders.push(last.into_recorder());
    let report = judge(recorders);
    assert!(report.counts.granted > HAND_OVERS, "{}", report.counts);
    let granted = load.granted.lock().expect("no panic").clone();
    let failed = load.failed.load(Ordering::Relaxed);
    for (what, states) in
        [(by_client.what(), by_client.states()), (by_command.what(), by_command.states())]
    {
        check(&states, &granted, failed).unwrap_or_else(|wrong| panic!("{what}: {wrong}"));
        let versions: BTreeSet<u64> = states.iter().map(|state| state.at.0).collect();
        assert!(versions.len() > 1, "{what}: it has seen the split: {versions:?}");
        println!("{what}: {} states of {}", states.len(), report.counts);
    }
}

#[test]
fn the_checker_of_states_finds_what_it_is_for() {
    let granted = BTreeSet::from([5, 7, 9]);
    let held = |version, index, token| State {
        at: (version, index),
        holders: 1,
        token: Some(token),
        waiters: 0,
    };
    let free = |version, index| State { holders: 0, token: None, ..held(version, index, 0) };
    let wrong = |states: &[State]| check(states, &granted, 0).expect_err("it is wrong");
    let good = [free(1, 2), held(1, 4, 5), held(1, 9, 5), free(1, 10), held(2, 6, 7)];
    assert_eq!(check(&good, &granted, 0), Ok(()));
    assert_eq!(check(&[held(1, 4, 6), held(1, 5, 6)], &granted, 1), Ok(()), "one was given back");
    let ends = |states: &[State], end: &str| {
        let wrong = wrong(states);
        assert!(wrong.ends_with(end), "{wrong}");
    };
    ends(&[held(1, 4, 5), free(1, 4)], "it is no later one");
    ends(&[held(2, 4, 5), held(1, 9, 7)], "it is no later one");
    ends(&[held(1, 4, 7), held(1, 9, 5)], "its holder had the lock before");
    ends(&[held(1, 4, 6)], "nobody was granted this");
    ends(&[State { holders: 2, ..held(1, 4, 5) }], "an exclusive lock has several holders");
}
