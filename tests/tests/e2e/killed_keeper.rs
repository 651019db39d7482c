//! A process that is killed while it keeps locks with the condition `hold`: nobody gets them, its next
//! life takes them back in time, and an operator can end them.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use sharklock_client::{AcquireError, Client};
use sharklock_tests::process::Process;
use sharklock_tests::server::Server;
use sharklock_tests::wait::eventually;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::ranges::cli;

/// For what is over in milliseconds on an idle machine, beside a lease of two seconds.
const SOON: Duration = Duration::from_secs(20);
/// The lease of what is kept.
const TTL: Duration = Duration::from_secs(2);
/// A life that need not wait for a lease has everything back by then.
const BACK_MAX: Duration = Duration::from_secs(2);
const NAMES: [&str; 3] = ["kept/1", "kept/2", "kept/3"];

/// A running `keeper` (tests/src/bin), which cargo builds with this test.
pub(crate) struct Keeper {
    process: Process,
    spawned: Instant,
}

/// What a keeper has said when it was ready, by name.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// Tokens of what it has acquired.
    pub(crate) acquired: BTreeMap<String, u64>,
    /// Old and new tokens of what it has taken back.
    pub(crate) reclaimed: BTreeMap<String, (u64, u64)>,
    /// Old tokens of what was to be taken back and is another's, or nobody's.
    pub(crate) gone: BTreeMap<String, u64>,
}

impl Keeper {
    /// The next life of the keeper whose state file is in this folder.
    pub(crate) fn start(server: &Server, dir: &TempDir, ttl: Duration, names: &[&str]) -> Self {
        let mut keeper = Command::new(env!("CARGO_BIN_EXE_keeper"));
        keeper.arg(dir.path().join("keeper.state")).arg(ttl.as_millis().to_string()).args(names);
        keeper.env("SHARKLOCK_ENDPOINTS", server.endpoint());
        let spawned = Instant::now();
        Self { process: Process::spawn(&mut keeper), spawned }
    }

    /// What it has, once it has everything.
    pub(crate) async fn until_ready(&mut self) -> Kept {
        let said = eventually("the keeper has all its locks", SOON, async || {
            let (ended, said) = (self.process.ended(), self.process.stdout());
            assert!(ended.is_none(), "{ended:?}: {said}{}", self.process.stderr());
            said.ends_with("ready\n").then_some(said)
        })
        .await;
        let number = |word: &str| word.parse().unwrap_or_else(|_| panic!("no token in {said}"));
        let mut kept = Kept::default();
        for line in said.lines() {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["acquired", name, token] => {
                    kept.acquired.insert(name.to_owned(), number(token));
                }
                ["reclaimed", name, old, new] => {
                    kept.reclaimed.insert(name.to_owned(), (number(old), number(new)));
                }
                ["gone", name, old, ..] => {
                    kept.gone.insert(name.to_owned(), number(old));
                }
                _ => assert_eq!(line, "ready"),
            }
        }
        kept
    }

    /// Kills it as a power cut would.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Asks it to end, which it does in order.
    pub(crate) async fn ends_in_order(&mut self) {
        self.process.signal(Signal::SIGTERM);
        let code = self.process.ends(SOON).await.code();
        assert_eq!(code, Some(0), "{}", self.process.stderr());
    }
}

async fn until_orphaned(client: &Client) {
    for name in NAMES {
        eventually(&format!("the end of the lease of {name}"), SOON, async || {
            let lock = client.get_lock(name).await.expect("a look succeeds").lock;
            lock.expect("it stays").holders[0].orphaned.then_some(())
        })
        .await;
    }
}

/// That a try and a wait of two leases for each of the locks are in vain.
async fn assert_nobody_gets_them(server: &Server) {
    let mut waits = JoinSet::new();
    for name in NAMES {
        let client = server.client();
        waits.spawn(async move {
            let waited = client.lock(name).wait(2 * TTL).acquire().await;
            assert!(matches!(waited, Err(AcquireError::WaitTimedOut { .. })), "{waited:?}");
            assert!(client.try_lock(name).await.expect("it is answered").is_none(), "{name}");
        });
    }
    waits.join_all().await;
}

/// That all three were taken back, each under a larger token than the last life had: the new ones.
fn tokens_back(kept: &Kept, before: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    assert!(kept.acquired.is_empty() && kept.gone.is_empty(), "{kept:?}");
    let old = kept.reclaimed.iter().map(|(name, (old, _))| (name.clone(), *old)).collect();
    assert_eq!(before, &old, "{kept:?}");
    assert!(kept.reclaimed.values().all(|(old, new)| old < new), "{kept:?}");
    kept.reclaimed.iter().map(|(name, (_, new))| (name.clone(), *new)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_what_a_killed_process_kept_and_its_next_life_has_it_back_in_time() {
    let server = Server::start().await;
    let dir = TempDir::new().expect("a temporary directory can be made");
    let mut keeper = Keeper::start(&server, &dir, TTL, &NAMES);
    let tokens = keeper.until_ready().await.acquired;
    assert_eq!(tokens.len(), NAMES.len());
    keeper.kill();
    assert_nobody_gets_them(&server).await;
    until_orphaned(&server.client()).await;

    let mut keeper = Keeper::start(&server, &dir, TTL, &NAMES);
    let tokens = tokens_back(&keeper.until_ready().await, &tokens);
    let took = keeper.spawned.elapsed();
    assert!(took <= BACK_MAX, "all are back after {took:?}, without a lease to wait for");

    keeper.kill();
    let mut keeper = Keeper::start(&server, &dir, TTL, &NAMES);
    let tokens = tokens_back(&keeper.until_ready().await, &tokens);
    let took = keeper.spawned.elapsed();
    assert!(took <= TTL.mul_f64(1.01) + BACK_MAX, "all are back after {took:?}");

    let client = server.client();
    for name in NAMES {
        let lock = client.get_lock(name).await.expect("a look succeeds").lock.expect("it is held");
        let token = lock.holders[0].token.map(|token| token.as_u64());
        assert_eq!((token, lock.holders[0].orphaned), (Some(tokens[name]), false));
    }
    keeper.ends_in_order().await;
    for name in NAMES {
        assert!(client.try_lock(name).await.expect("it is answered").is_some(), "it is released");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_ends_what_a_killed_process_kept() {
    let server = Server::start().await;
    let dir = TempDir::new().expect("a temporary directory can be made");
    let mut keeper = Keeper::start(&server, &dir, TTL, &NAMES);
    let tokens = keeper.until_ready().await.acquired;
    keeper.kill();
    let client = server.client();
    until_orphaned(&client).await;
    for name in NAMES {
        let order = ["locks", "force-release", name, "--reason", "host-3 is gone"];
        let (code, out, err) = cli(&[server.endpoint()], &order).await;
        assert_eq!(code, Some(0), "{out}{err}");
        assert!(out.contains("ended"), "an orphan has no lease to wait for: {out}");
    }
    let mut guards = BTreeMap::new();
    for name in NAMES {
        let guard = client.try_lock(name).await.expect("it is answered").expect("it is ended");
        assert!(guard.token().as_u64() > tokens[name]);
        guards.insert(name, guard);
    }
    // Its next life hears that they are gone, and waits like anybody else.
    guards.remove(NAMES[0]).expect("it is held").release().await.expect("it is held");
    let mut keeper = Keeper::start(&server, &dir, TTL, &NAMES[..1]);
    let kept = keeper.until_ready().await;
    assert!(kept.reclaimed.is_empty(), "{kept:?}");
    assert_eq!(kept.gone, tokens);
    assert_eq!(kept.acquired.keys().collect::<Vec<_>>(), [NAMES[0]]);
    assert!(guards.values().all(sharklock_client::Guard::is_valid));
}
