//! The containers of clients beside the cluster: which there are, how they begin, and how they end.

use anyhow::Result;

use super::cluster::Cluster;
use super::fault::{Service, Topology};
use super::load::SESSIONS_EACH;
use super::program::run;

/// Clients that are told to end wait for what they asked for, and say goodbye: ten processes at once, on a
/// machine that may be busy. Docker kills what has not ended by then.
const STOP_SECONDS: &str = "180";
/// Processes of clients: name, work, clients, pause between cycles in ms. Ten servers share a machine with them: in
/// an hour with pauses of 60 ms for all, one tenth of a second in thirteen went by without a success in ranges
/// that nothing had struck.
const LOADS: [(&str, &str, &str, &str); 8] = [
    ("own-1", "own", "16", "80"),
    ("own-2", "own", "16", "80"),
    ("hot-1", "hot", "16", "300"),
    ("queue-1", "queue", "16", "300"),
    ("shared-1", "shared", "16", "300"),
    ("agreed-1", "conditions", "16", "100"),
    ("hot-2", "hot", "8", "300"),
    // Each cycle is a process, and waits for the end of a lease where the one before was killed.
    ("kept-1", "reclaim", "6", "500"),
];
/// Processes of shells that count.
pub const SHELLS: [&str; 2] = ["shell-1", "shell-2"];
/// The process of the resource that slow holders write to.
const RESOURCE: &str = "resource";

/// The names of all processes that leave a history and their surprises.
pub fn loads(topology: &Topology) -> Vec<String> {
    let slow = topology.slow_clients.iter().map(|it| it.0.clone());
    LOADS.iter().map(|it| it.0.to_owned()).chain(slow).collect()
}

/// Starts all.
///
/// # Errors
/// When the machine does not do it.
pub async fn start(cluster: &mut Cluster, groups: u32) -> Result<()> {
    cluster.start_client(&service(RESOURCE), &["resource", "--out", "/out"]).await?;
    let slow = cluster.topology().slow_clients.clone();
    let slow = slow.iter().map(|it| (it.0.as_str(), "slow", "6", "20"));
    let groups = groups.to_string();
    for (number, (label, work, clients, pause)) in (1_u32..).zip(LOADS.into_iter().chain(slow)) {
        let first = (number * SESSIONS_EACH).to_string();
        let options = [
            ("--work", work),
            ("--clients", clients),
            ("--groups", &groups),
            ("--label", label),
            ("--first-session", &first),
            ("--pause-ms", pause),
            ("--out", "/out"),
        ];
        let words = options.iter().flat_map(|(name, value)| [*name, *value]);
        let words: Vec<&str> = ["load"].into_iter().chain(words).collect();
        cluster.start_client(&service(label), &words).await?;
    }
    for label in SHELLS {
        let words = ["shell", "--label", label, "--out", "/out"];
        cluster.start_client(&service(label), &words).await?;
    }
    Ok(())
}

/// Ends all in order, and waits until they have.
///
/// # Errors
/// When the machine does not do it; what could be ended has been.
pub async fn stop(cluster: &Cluster) -> Result<()> {
    for slow in &cluster.topology().slow_clients {
        // One whose strike was cut short hears nothing while it is paused.
        let _ = cluster.docker(&["unpause"], slow).await;
    }
    let loads = loads(cluster.topology());
    let labels = loads.iter().map(String::as_str).chain(SHELLS);
    let ids: Vec<String> =
        labels.map(|label| cluster.container(&service(label)).to_owned()).collect();
    let words = ["stop", "--time", STOP_SECONDS].map(str::to_owned);
    let stopped = run("docker", words.into_iter().chain(ids)).await;
    // The resource ends when nobody writes any more.
    let resource = cluster.docker(&["stop", "--time", "10"], &service(RESOURCE)).await;
    stopped.and(resource).map(|_| ())
}

fn service(name: &str) -> Service {
    Service(name.to_owned())
}

/// Waits for SIGTERM: clients are stopped by Docker.
///
/// # Errors
/// When the signal cannot be caught.
pub async fn terminated() -> Result<()> {
    let mut asked = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    asked.recv().await;
    Ok(())
}
