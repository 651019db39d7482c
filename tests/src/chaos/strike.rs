//! Faults as they are done to containers. Whatever may do nothing is looked after: a strike without effect is
//! an error.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use sharklock_client::Client;

use super::cluster::Cluster;
use super::effect::{demand_clock, demand_library, life, until_ended};
use super::fault::{Act, Fault, Kind, Service, Way};
use super::mend::{Damage, limit_descriptors};
use super::network::{Rule, apart, halves, ring, script};
use super::program::run;
use super::replacement::{lose_disk, replace_master, start_on_older_copy};
use super::small_disk;

/// From a start until a server is ready again, while clients keep the machine busy.
pub const READY_MAX: Duration = Duration::from_secs(60);
/// Memory with which a data server cannot live, or hardly: a kernel may refuse less than is in use.
const LITTLE_MEMORY: [&str; 8] = ["8m", "12m", "16m", "24m", "48m", "96m", "160m", "256m"];
/// Until a process has ended that is to end. All data servers sync many times a second.
const ENDED_MAX: Duration = Duration::from_secs(10);
/// The same of one whose memory may just suffice.
const STARVED_MAX: Duration = Duration::from_secs(3);
/// Descriptors beside which a server cannot take another connection.
const FEW_DESCRIPTORS: u64 = 48;

/// Strikes: what is to be mended.
///
/// # Errors
/// A `MachineFault` when the machine does not do it or it has no effect; another when the cluster does not do
/// what it must meanwhile. What was done until then is left to [`super::mend::heal_all`].
pub async fn strike(cluster: &mut Cluster, client: &Client, fault: &Fault) -> Result<Damage> {
    match (&fault.act, fault.kind) {
        (Act::All, Kind::KillAll) => {
            let servers = cluster.topology().servers();
            kill_at_once(cluster, &servers).await?;
            Ok(Damage::Ended(servers))
        }
        (Act::Several(services), _) => {
            kill_at_once(cluster, services).await?;
            Ok(Damage::Ended(services.clone()))
        }
        (Act::All, Kind::RollingRestart) => {
            for service in cluster.topology().servers() {
                restart(cluster, &service).await?;
            }
            Ok(Damage::None)
        }
        (Act::All, Kind::RollingChange) => change_builds(cluster).await,
        (Act::One(service), Kind::EmptiedVolume) => {
            lose_disk(cluster, client, service).await.map(|()| Damage::None)
        }
        (Act::One(service), Kind::ReplaceMaster) => {
            replace_master(cluster, client, service).await.map(|()| Damage::None)
        }
        (Act::One(service), Kind::OldVolume) => {
            start_on_older_copy(cluster, service).await.map(|()| Damage::None)
        }
        (Act::One(service), kind) => one(cluster, service, kind).await,
        (Act::Way(service, way), _) => {
            let rules = match way {
                Way::Both => vec![Rule::Deaf, Rule::Mute],
                Way::Sends => vec![Rule::Mute],
                Way::Hears => vec![Rule::Deaf],
            };
            apply(cluster, service, &rules).await
        }
        (Act::Much(service, percent), Kind::Lossy) => {
            apply(cluster, service, &[Rule::Loses(*percent)]).await
        }
        (Act::Much(service, kbit), Kind::Slow) => {
            let rate = format!("{kbit}kbit");
            let words = ["tc", "qdisc", "replace", "dev", "eth0", "root", "tbf", "rate", &rate];
            let more = ["burst", "4kb", "latency", "500ms"];
            cluster.in_network(service, &[&words[..], &more].concat(), None).await?;
            Ok(Damage::Slow(service.clone()))
        }
        (Act::Much(service, ms), Kind::SlowDisk) => {
            demand_library(cluster, service, "sync.so").await?;
            cluster.order(service, "sync", &ms.to_string())?;
            Ok(Damage::Order(service.clone(), "sync", ""))
        }
        (Act::Jump(service, seconds), Kind::Clock) => {
            demand_library(cluster, service, "faketime.so").await?;
            cluster.order(service, "faketime", &format!("{seconds:+}"))?;
            demand_clock(cluster, service, *seconds).await?;
            Ok(Damage::Order(service.clone(), "faketime", "+0"))
        }
        (Act::Apart(services), _) => {
            cut_each(cluster, apart(services, &cluster.topology().masters)).await
        }
        (Act::Order(order), Kind::Ring) => cut_each(cluster, ring(order)).await,
        (Act::Order(order), kind) => cut_each(cluster, halves(order, kind == Kind::Bridge)).await,
        (act, kind) => bail!("{} is not done to {act:?}", kind.name()),
    }
}

async fn one(cluster: &Cluster, service: &Service, kind: Kind) -> Result<Damage> {
    let service = service.clone();
    match kind {
        Kind::Kill => {
            cluster.kill(&service).await?;
            Ok(Damage::Ended(vec![service]))
        }
        Kind::Stop => {
            cluster.stop(&service).await?;
            Ok(Damage::Ended(vec![service]))
        }
        Kind::Pause | Kind::PauseClient => {
            cluster.docker(&["pause"], &service).await?;
            Ok(Damage::Paused(service))
        }
        Kind::SyncError => {
            let before = life(cluster, &service).await?;
            cluster.order(&service, "sync", "EIO")?;
            until_ended(cluster, &service, &before, ENDED_MAX).await?;
            Ok(Damage::Order(service, "sync", ""))
        }
        Kind::FullDisk => {
            small_disk::fill(&cluster.parts().project, &cluster.small_disk()).await?;
            Ok(Damage::FullDisk(service))
        }
        Kind::Memory => {
            starve(cluster, &service).await?;
            Ok(Damage::Memory(service))
        }
        Kind::Descriptors => {
            limit_descriptors(cluster, &service, Some(FEW_DESCRIPTORS)).await?;
            Ok(Damage::Descriptors(service))
        }
        other => bail!("{} strikes no single container", other.name()),
    }
}

/// Waits until all servers say that they are ready.
///
/// # Errors
/// When one does not.
pub async fn until_all_ready(cluster: &Cluster) -> Result<()> {
    for service in cluster.topology().servers() {
        cluster.until_ready(&service, READY_MAX).await?;
    }
    Ok(())
}

async fn kill_at_once(cluster: &Cluster, services: &[Service]) -> Result<()> {
    let ids = services.iter().map(|service| cluster.container(service).to_owned());
    let words = ["kill", "--signal", "KILL"].map(str::to_owned);
    let killed = run("docker", words.into_iter().chain(ids)).await;
    for service in services {
        // One may have ended by itself, which is as good.
        if cluster.runs(service).await? {
            return killed.map(|_| ());
        }
    }
    Ok(())
}

/// Takes memory away until the kernel ends the process.
async fn starve(cluster: &Cluster, service: &Service) -> Result<()> {
    let before = life(cluster, service).await?;
    let mut accepted = false;
    for little in LITTLE_MEMORY {
        accepted = set_memory(cluster, service, little).await.is_ok();
        if accepted {
            break;
        }
    }
    if accepted && until_ended(cluster, service, &before, STARVED_MAX).await.is_ok() {
        return Ok(());
    }
    // The least that a kernel accepts may lie just above what is in use, and suffice. A new start is
    // given less than it needs.
    cluster.kill(service).await?;
    set_memory(cluster, service, LITTLE_MEMORY[0]).await?;
    cluster.start(service).await?;
    let before = life(cluster, service).await?;
    until_ended(cluster, service, &before, ENDED_MAX).await
}

/// Gives a container so much memory, and nothing to swap to.
///
/// # Errors
/// When the kernel refuses it.
pub async fn set_memory(cluster: &Cluster, service: &Service, memory: &str) -> Result<()> {
    let words = ["update", "--memory", memory, "--memory-swap", memory];
    cluster.docker(&words, service).await.map(|_| ())
}

async fn restart(cluster: &Cluster, service: &Service) -> Result<()> {
    cluster.stop(service).await?;
    cluster.start(service).await?;
    cluster.until_ready(service, READY_MAX).await
}

/// All servers to the other build, one after the other, and back.
async fn change_builds(cluster: &Cluster) -> Result<Damage> {
    let builds = cluster.parts().builds.clone().context("there is one build")?;
    for build in [&builds[1], &builds[0]] {
        for service in cluster.topology().servers() {
            cluster.exchange_build(&service, build)?;
            restart(cluster, &service).await?;
        }
    }
    Ok(Damage::None)
}

async fn apply(cluster: &Cluster, service: &Service, rules: &[Rule]) -> Result<Damage> {
    cluster.in_network(service, &["nft", "-f", "-"], Some(&script(rules))).await?;
    Ok(Damage::Rules(vec![service.clone()]))
}

/// Cuts each of these off from those whom it is not to hear.
async fn cut_each(cluster: &Cluster, cuts: Vec<(Service, Vec<Service>)>) -> Result<Damage> {
    let mut cut = Vec::new();
    for (service, deaf_to) in cuts {
        if deaf_to.is_empty() {
            continue;
        }
        let mut from = Vec::new();
        for other in &deaf_to {
            from.push(cluster.address(other).await?);
        }
        apply(cluster, &service, &[Rule::DeafTo(from)]).await?;
        cut.push(service);
    }
    Ok(Damage::Rules(cut))
}
