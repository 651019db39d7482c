//! Whether a strike does what it is to do. One that does nothing is told as a strike that was not done.

use std::fs;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use tokio::time::{Instant, sleep};

use super::cluster::Cluster;
use super::diary::wall_clock;
use super::fault::Service;
use super::program::MachineFault;

const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Clocks are told in whole seconds.
const SECOND: i64 = 1;

/// What changes when a container's process ends: its start, its state, and whether memory was why.
pub async fn life(cluster: &Cluster, service: &Service) -> Result<String> {
    let format = "{{.State.StartedAt}} {{.State.Status}} {{.State.OOMKilled}}";
    cluster.inspect(service, format).await
}

/// Waits until a process has ended that lived like this.
///
/// # Errors
/// When it goes on for so long.
pub async fn until_ended(
    cluster: &Cluster,
    service: &Service,
    before: &str,
    within: Duration,
) -> Result<()> {
    let deadline = Instant::now() + within;
    while life(cluster, service).await? == before {
        if Instant::now() >= deadline {
            let what = format!("it did nothing: {service} goes on after {within:?}");
            return Err(MachineFault::new(what).into());
        }
        sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// Demands that a process has loaded a library of `/chaos`, which obeys orders.
///
/// # Errors
/// When it has not, so that orders do nothing.
pub async fn demand_library(cluster: &Cluster, service: &Service, name: &str) -> Result<()> {
    let pid = cluster.pid(service).await?;
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).context("what it has loaded")?;
    if maps.lines().any(|line| line.ends_with(&format!("/chaos/{name}"))) {
        return Ok(());
    }
    Err(MachineFault::new(format!("{service} has not loaded {name}")).into())
}

/// Demands that the wall clock in a container is off by so many seconds.
///
/// # Errors
/// When it is not.
pub async fn demand_clock(cluster: &Cluster, service: &Service, by: i64) -> Result<()> {
    let earliest = seconds_now() + by;
    let id = cluster.container(service);
    let told = super::program::run("docker", ["exec", id, "date", "+%s"]).await?;
    let told: i64 = told.trim().parse().with_context(|| told.clone())?;
    let latest = seconds_now() + by;
    if (earliest - SECOND..=latest + SECOND).contains(&told) {
        return Ok(());
    }
    let off = told - (latest - by);
    Err(MachineFault::new(format!("the clock of {service} is off by {off} s, not by {by} s"))
        .into())
}

fn seconds_now() -> i64 {
    let since = wall_clock().duration_since(UNIX_EPOCH).expect("it is after 1970");
    i64::try_from(since.as_secs()).expect("it is before the year 292 billion")
}
