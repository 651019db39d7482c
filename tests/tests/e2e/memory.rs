//! A client that takes locks without end meets a bound, and nobody else is hurt by it: neither while
//! it goes on, nor by a restart.

use std::collections::BTreeMap;
use std::time::Duration;

use sharklock_proto::v1::{AcquireRequest, AcquireResponse, KeepAliveState};
use sharklock_tests::server::Server;
use sharklock_tests::wait::eventually;
use sharklock_tests::wire::{self, Session};
use tempfile::TempDir;
use tonic::{Code, Status};

/// Room for some 2,000 small holds.
const STORE_MAX: u64 = 2 << 20;
const ATTRIBUTE_BYTES: usize = 2_000;

struct Bounded {
    server: Server,
    _config: TempDir,
}

impl Bounded {
    async fn start() -> Self {
        let config = TempDir::new().expect("a temporary directory can be made");
        let path = config.path().join("config.toml");
        let settings = "[memory]\nstore_max = \"2MiB\"\naddress_max = \"off\"\n";
        std::fs::write(&path, settings).expect("the directory is ours");
        let args = ["--config", path.to_str().expect("it is UTF-8")];
        let server = Server::start_with(&args, |command| command).await;
        Self { server, _config: config }
    }

    async fn metric(&self, name: &str) -> u64 {
        let (_, metrics) = self.server.get("/metrics").await;
        let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{name}: {metrics}"))
    }

    /// Resident memory of the process.
    fn resident(&mut self) -> u64 {
        let path = format!("/proc/{}/status", self.server.process().pid());
        let status = std::fs::read_to_string(path).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kib.expect("Linux says so") << 10
    }
}

fn large(session: &Session, name: &str) -> AcquireRequest {
    let attributes = BTreeMap::from([("k".to_owned(), "v".repeat(ATTRIBUTE_BYTES))]);
    AcquireRequest { attributes, ttl_ms: Some(600_000), ..session.acquire(name) }
}

fn check_full(status: &Status) {
    assert_eq!(
        (status.code(), wire::reason(status).as_str()),
        (Code::ResourceExhausted, "STORE_FULL")
    );
    let message = status.message();
    assert!(message.contains(&STORE_MAX.to_string()), "the bound is told: {message}");
    assert!(message.contains("memory.store_max"), "so is its setting: {message}");
}

#[tokio::test]
async fn a_flood_of_acquires_is_bounded_and_a_restart_fits() {
    let mut bounded = Bounded::start().await;
    let mut locks = wire::locks(&bounded.server).await;
    let (other, flood) = (Session::default(), Session::default());
    let kept = locks.acquire(AcquireRequest { ttl_ms: Some(600_000), ..other.acquire("kept") });
    let kept = kept.await.expect("there is room").into_inner();
    let before = bounded.resident();

    // Ten times what fits, whatever is refused.
    let mut held: Vec<(String, AcquireResponse)> = Vec::new();
    let mut refused = 0;
    for number in 0..4_000 {
        let name = format!("flood/{number}");
        match locks.acquire(large(&flood, &name)).await {
            Ok(response) => held.push((name, response.into_inner())),
            Err(status) => {
                check_full(&status);
                refused += 1;
            }
        }
    }
    assert!(held.len() > 100 && refused > 3_000, "{} held, {refused} refused", held.len());
    let grown = bounded.resident().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more for a bound of {STORE_MAX}");

    // A holder from before is served, and an operator sees it.
    let renewal = other.keep_alive(&[("kept", kept.acquisition_id)]);
    let answer =
        locks.keep_alive(renewal).await.expect("keepalives are never refused").into_inner();
    assert_eq!(answer.answers[0].state(), KeepAliveState::Held);
    eventually("the alarm in the status", Duration::from_secs(10), async || {
        let output = bounded.server.cli(&["status"]).output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (text.contains("memory.store_max") && text.contains("/2.0 MiB")).then_some(())
    })
    .await;
    let counted = eventually("the metrics", Duration::from_secs(10), async || {
        let counted = bounded.metric("sharklock_store_state_bytes").await;
        (counted > STORE_MAX / 2).then_some(counted)
    })
    .await;
    assert!(counted <= STORE_MAX, "{counted}");
    assert_eq!(bounded.metric("sharklock_store_state_limit_bytes").await, STORE_MAX);
    let refusals = "sharklock_store_memory_refusals_total{reason=\"STORE_FULL\"}";
    // The metrics follow the store by a moment; in the end they count every refusal, and no other.
    eventually("all refusals in the metrics", Duration::from_secs(10), async || {
        (bounded.metric(refusals).await == refused).then_some(())
    })
    .await;

    // A restart has the same, within the same bound.
    bounded.server.kill();
    bounded.server.start_again().await;
    let mut locks = wire::locks(&bounded.server).await;
    check_full(&locks.acquire(large(&other, "one more")).await.expect_err("it is as full"));
    let release = other.release("kept", kept.token, kept.acquisition_id);
    locks.release(release).await.expect("releases are never refused");
    for (name, grant) in held {
        let release = flood.release(&name, grant.token, grant.acquisition_id);
        locks.release(release).await.expect("releases are never refused");
    }
    locks.acquire(large(&other, "one more")).await.expect("there is room again");
}
