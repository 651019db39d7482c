//! Faults as they are done to containers, and how each is mended.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use sharklock_client::Client;

use super::cluster::Cluster;
use super::fault::{Act, Fault, Kind, Service, Way};
use super::network::{Rule, halves, mended, ring, script};
use super::program::run;
use super::replacement::{lose_disk, replace_master, start_on_older_copy};

/// From a start until a server is ready again, while clients keep the machine busy.
pub const READY_MAX: Duration = Duration::from_secs(60);
/// Memory with which a data server cannot live, or hardly: a kernel may refuse less than is in use.
const LITTLE_MEMORY: [&str; 6] = ["16m", "24m", "48m", "96m", "160m", "256m"];
/// What `deploy/compose.yaml` gives a data server.
const MEMORY: &str = "512m";
/// Descriptors beside which a server cannot take another connection.
const FEW_DESCRIPTORS: u64 = 48;

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

/// Strikes: what is to be mended.
///
/// # Errors
/// When the machine does not do it.
pub async fn strike(cluster: &mut Cluster, client: &Client, fault: &Fault) -> Result<Damage> {
    match (&fault.act, fault.kind) {
        (Act::All, Kind::KillAll) => {
            let servers = cluster.topology().servers();
            kill_at_once(cluster, &servers).await?;
            Ok(Damage::Ended(servers))
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
            say(cluster, service, "sync", &ms.to_string())?;
            Ok(Damage::Order(service.clone(), "sync", ""))
        }
        (Act::Jump(service, seconds), Kind::Clock) => {
            say(cluster, service, "faketime", &format!("{seconds:+}"))?;
            Ok(Damage::Order(service.clone(), "faketime", "+0"))
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
            say(cluster, &service, "sync", "EIO")?;
            Ok(Damage::Order(service, "sync", ""))
        }
        Kind::FullDisk => {
            let file = cluster.small_disk().join("ballast");
            // It ends with an error, when the disk is full.
            let _ = run("sh", ["-c", &format!("cat /dev/zero >{}", file.display())]).await;
            Ok(Damage::FullDisk(service))
        }
        Kind::Memory => {
            for little in LITTLE_MEMORY {
                let words = ["update", "--memory", little, "--memory-swap", little];
                if cluster.docker(&words, &service).await.is_ok() {
                    break;
                }
            }
            Ok(Damage::Memory(service))
        }
        Kind::Descriptors => {
            limit_descriptors(cluster, &service, Some(FEW_DESCRIPTORS)).await?;
            Ok(Damage::Descriptors(service))
        }
        other => bail!("{} strikes no single container", other.name()),
    }
}

/// Mends, and waits until every server is ready.
///
/// # Errors
/// When one does not come back.
pub async fn mend(cluster: &Cluster, damage: Damage) -> Result<()> {
    match &damage {
        Damage::None => {}
        Damage::Ended(services) => {
            for service in services {
                cluster.start(service).await?;
            }
        }
        Damage::Paused(service) => {
            cluster.docker(&["unpause"], service).await?;
        }
        Damage::Rules(services) => {
            for service in services {
                // The rules have gone with a process that has ended.
                if cluster.runs(service).await? {
                    cluster.in_network(service, &["nft", "-f", "-"], Some(&mended())).await?;
                }
            }
        }
        Damage::Slow(service) => {
            let words = ["tc", "qdisc", "del", "dev", "eth0", "root"];
            cluster.in_network(service, &words, None).await?;
        }
        Damage::Order(service, file, well) => {
            say(cluster, service, file, well)?;
            cluster.start(service).await?;
        }
        Damage::FullDisk(service) => {
            fs::remove_file(cluster.small_disk().join("ballast"))?;
            cluster.start(service).await?;
        }
        Damage::Memory(service) => {
            let words = ["update", "--memory", MEMORY, "--memory-swap", MEMORY];
            cluster.docker(&words, service).await?;
            cluster.start(service).await?;
        }
        Damage::Descriptors(service) => {
            limit_descriptors(cluster, service, None).await?;
            cluster.start(service).await?;
        }
    }
    Ok(())
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
    run("docker", words.into_iter().chain(ids)).await.map(|_| ())
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
            let place = cluster.orders_of(&service);
            fs::copy(build, place.join("sharklock.new"))?;
            fs::rename(place.join("sharklock.new"), place.join("sharklock"))?;
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

/// Writes an order that a library in the container reads.
fn say(cluster: &Cluster, service: &Service, file: &str, order: &str) -> Result<()> {
    fs::write(cluster.orders_of(service).join(file), order).with_context(|| service.0.clone())
}

/// So many descriptors, or as many as the process may have.
async fn limit_descriptors(cluster: &Cluster, service: &Service, to: Option<u64>) -> Result<()> {
    if !cluster.runs(service).await? {
        return Ok(());
    }
    let pid = cluster.pid(service).await?;
    let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let hard = line.and_then(|line| line.split_whitespace().nth(1)).context("no limits")?;
    let soft = to.map_or_else(|| hard.to_owned(), |to| to.to_string());
    run("prlimit", ["--pid", &pid, &format!("--nofile={soft}:{hard}")]).await.map(|_| ())
}
