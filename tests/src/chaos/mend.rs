//! Damage, and how it is mended: each by itself after its strike, or all that there may be at once.

use std::fs;

use anyhow::{Context as _, Result};

use super::cluster::Cluster;
use super::fault::Service;
use super::network::mended;
use super::program::run;
use super::small_disk;
use super::strike::set_memory;

/// What is to be done to mend a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// Nothing: it is over.
    None,
    /// These have ended.
    Ended(Vec<Service>),
    /// It stands still.
    Paused(Service),
    /// These have rules about their network.
    Rules(Vec<Service>),
    /// What it sends drips.
    Slow(Service),
    /// A file of orders to its libraries, and what it says when all is well. The server may have ended.
    Order(Service, &'static str, &'static str),
    /// A file takes all the space of the small disk. The server may have ended.
    FullDisk(Service),
    /// It has little memory, and may have ended.
    Memory(Service),
    /// It has few descriptors.
    Descriptors(Service),
}

/// Mends what one strike has damaged, as far as it goes: an error in one server keeps no other from its
/// mending.
///
/// # Errors
/// The first, when the machine does not do it.
pub async fn mend(cluster: &Cluster, damage: Damage) -> Result<()> {
    match &damage {
        Damage::None => Ok(()),
        Damage::Ended(services) => {
            let mut all = Ok(());
            for service in services {
                all = all.and(cluster.start(service).await);
            }
            all
        }
        Damage::Paused(service) => cluster.docker(&["unpause"], service).await.map(|_| ()),
        Damage::Rules(services) => {
            let mut all = Ok(());
            for service in services {
                all = all.and(free_network(cluster, service).await);
            }
            all
        }
        Damage::Slow(service) => free_network(cluster, service).await,
        Damage::Order(service, file, well) => {
            cluster.order(service, file, well)?;
            cluster.start(service).await
        }
        Damage::FullDisk(service) => {
            small_disk::relieve(&cluster.small_disk())?;
            cluster.start(service).await
        }
        Damage::Memory(service) => {
            set_memory(cluster, service, cluster.memory_of(service)).await?;
            cluster.start(service).await
        }
        Damage::Descriptors(service) => {
            limit_descriptors(cluster, service, None).await?;
            cluster.start(service).await
        }
    }
}

/// Undoes all that any strike may have left on any server or client, whatever it was: after one that ended
/// halfway nobody knows. An error in one server keeps no other from its mending.
///
/// # Errors
/// The first, when the machine does not do it.
pub async fn heal_all(cluster: &Cluster) -> Result<()> {
    let mut all = small_disk::relieve(&cluster.small_disk());
    for client in &cluster.topology().slow_clients {
        all = all.and(unpause(cluster, client).await);
    }
    for service in cluster.topology().servers() {
        all = all.and(heal(cluster, &service).await.with_context(|| service.0.clone()));
    }
    all
}

async fn heal(cluster: &Cluster, service: &Service) -> Result<()> {
    unpause(cluster, service).await?;
    cluster.order(service, "sync", "")?;
    cluster.order(service, "faketime", "+0")?;
    if cluster.topology().data.contains(service) {
        set_memory(cluster, service, cluster.memory_of(service)).await?;
    }
    take_build_back(cluster, service).await?;
    free_network(cluster, service).await?;
    limit_descriptors(cluster, service, None).await?;
    cluster.start(service).await
}

async fn unpause(cluster: &Cluster, service: &Service) -> Result<()> {
    if cluster.inspect(service, "{{.State.Status}}").await? == "paused" {
        cluster.docker(&["unpause"], service).await?;
    }
    Ok(())
}

/// The build under test, where a rolling change has ended halfway.
async fn take_build_back(cluster: &Cluster, service: &Service) -> Result<()> {
    let Some([build, _]) = &cluster.parts().builds else { return Ok(()) };
    let there = cluster.orders_of(service).join("sharklock");
    let same = fs::read(build)? == fs::read(there)?;
    if !same {
        cluster.exchange_build(service, build)?;
        cluster.stop(service).await?;
    }
    Ok(())
}

/// No rules, and no bound of the rate. They have gone with a process that has ended.
async fn free_network(cluster: &Cluster, service: &Service) -> Result<()> {
    if !cluster.runs(service).await? {
        return Ok(());
    }
    let freed = remove_rules(cluster, service).await;
    // It may have ended meanwhile.
    if cluster.runs(service).await? { freed } else { Ok(()) }
}

async fn remove_rules(cluster: &Cluster, service: &Service) -> Result<()> {
    cluster.in_network(service, &["nft", "-f", "-"], Some(&mended())).await?;
    let shown = cluster.in_network(service, &["tc", "qdisc", "show", "dev", "eth0"], None).await?;
    if shown.contains("tbf") {
        let words = ["tc", "qdisc", "del", "dev", "eth0", "root"];
        cluster.in_network(service, &words, None).await?;
    }
    Ok(())
}

/// So many descriptors, or as many as the process may have; nothing where it does not run.
///
/// # Errors
/// When the machine does not do it.
pub async fn limit_descriptors(
    cluster: &Cluster,
    service: &Service,
    to: Option<u64>,
) -> Result<()> {
    if !cluster.runs(service).await? {
        return Ok(());
    }
    let pid = cluster.pid(service).await?;
    let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let mut words = line.into_iter().flat_map(str::split_whitespace);
    let (before, hard) = words.next().zip(words.next()).context("no limits")?;
    let soft = to.map_or_else(|| hard.to_owned(), |to| to.to_string());
    if soft == before {
        return Ok(());
    }
    // Its own user may do it, where root lacks CAP_SYS_RESOURCE.
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let (uid, gid) = (id_in(&status, "Uid:")?, id_in(&status, "Gid:")?);
    let user = [format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".to_owned()];
    let limit = format!("--nofile={soft}:{hard}");
    let words = ["prlimit", "--pid", &pid, &limit].map(str::to_owned);
    run("setpriv", user.into_iter().chain(words)).await.map(|_| ())
}

/// The first of the ids that `/proc/PID/status` has in the line of this name.
fn id_in<'a>(status: &'a str, name: &str) -> Result<&'a str> {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()).with_context(|| format!("no {name}"))
}
