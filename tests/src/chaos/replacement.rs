//! Disks that are lost, or put back from an older copy, and processes that take others' places: the recipes of
//! docs/OPERATIONS.md, *Replace a disk* and *Replace a master whose disk is lost*, by command.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use sharklock_client::{Client, GetStatusResponse};
use tokio::time::{Instant, sleep};

use super::cluster::Cluster;
use super::fault::Service;
use super::look::look_at;
use super::program::run;
use super::strike::READY_MAX;

/// Until the masters believe that a store is gone, or ranges have three voters again.
const SETTLED_MAX: Duration = Duration::from_secs(180);
/// Six starts with pauses that double from 100 ms.
const REFUSED_MAX: Duration = Duration::from_secs(90);
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// A data server loses its disk: a new store takes its place, and the old one is declared gone. It ends when
/// every range has three voters that serve.
///
/// # Errors
/// When it does not come to that.
pub async fn lose_disk(cluster: &mut Cluster, client: &Client, service: &Service) -> Result<()> {
    let old = store_of(&look_at(client).await?, service)?;
    cluster.kill(service).await?;
    // A new store has another address: the old one's may be dialled for a while.
    let alias = format!("{service}-after-{old}");
    let address = format!("{alias}:7710");
    cluster.replace(service, &alias, &[("SHARKLOCK_ADVERTISE__DATA", &address)]).await?;
    let gone = old.to_string();
    retried("the masters believe that a store is gone", async || {
        cluster.cli(&["stores", "remove", &gone]).await.map(|_| ())
    })
    .await?;
    cluster.until_ready(service, READY_MAX).await?;
    until_whole(client).await
}

/// A master loses its disk: another takes its place at the same address.
///
/// # Errors
/// When it does not come to that.
pub async fn replace_master(
    cluster: &mut Cluster,
    client: &Client,
    service: &Service,
) -> Result<()> {
    let address = format!("{service}:7720");
    let status = look_at(client).await?;
    let master = status.masters.iter().find(|master| master.address == address);
    let old = master.with_context(|| format!("no master has the address {address}"))?.member_id;
    cluster.kill(service).await?;
    cluster.replace(service, &service.0, &[("SHARKLOCK_SERVER__JOIN", "true")]).await?;
    let old = old.to_string();
    retried("another master takes the place of one", async || {
        let words = ["masters", "add", &address, "--replace", &old, "--wait", "--timeout", "30s"];
        cluster.cli(&words).await.map(|_| ())
    })
    .await?;
    cluster.until_ready(service, READY_MAX).await
}

/// A data server is started on a copy of its disk from before its last start, which it refuses, and then on
/// the disk itself.
///
/// # Errors
/// When it is not refused, or does not serve again.
pub async fn start_on_older_copy(cluster: &Cluster, service: &Service) -> Result<()> {
    let disk = disk_of(cluster, service).await?;
    let (copy, newest) = (disk.with_extension("copy"), disk.with_extension("newest"));
    cluster.stop(service).await?;
    copy_all(&disk, &copy).await?;
    cluster.start(service).await?;
    cluster.until_ready(service, READY_MAX).await?;
    cluster.stop(service).await?;
    // The directory itself is mounted: its content is exchanged.
    copy_all(&disk, &newest).await?;
    let refused = start_on(cluster, service, &copy, &disk).await;
    // Whatever has come of it, the server gets its own disk back.
    cluster.stop(service).await?;
    copy_all(&newest, &disk).await?;
    run("rm", ["-rf", &copy.to_string_lossy(), &newest.to_string_lossy()]).await?;
    cluster.start(service).await?;
    cluster.until_ready(service, READY_MAX).await?;
    refused
}

async fn start_on(cluster: &Cluster, service: &Service, copy: &Path, disk: &Path) -> Result<()> {
    copy_all(copy, disk).await?;
    cluster.start(service).await?;
    until_refused(cluster, service).await
}

async fn until_refused(cluster: &Cluster, service: &Service) -> Result<()> {
    let deadline = Instant::now() + REFUSED_MAX;
    loop {
        let state = cluster.inspect(service, "{{.State.Status}} {{.State.ExitCode}}").await?;
        match state.as_str() {
            "exited 78" => return Ok(()),
            exited if exited.starts_with("exited") => bail!("{service}: {exited} on an older copy"),
            other => ensure!(Instant::now() < deadline, "{service} is {other} on an older copy"),
        }
        sleep(LOOK_EVERY).await;
    }
}

/// The data server that [`add_store`] adds.
pub fn added(dice: usize) -> Service {
    Service(format!("data-more-{dice}"))
}

/// One data server more: the id of its store.
///
/// # Errors
/// When it does not serve; its container may be there all the same.
pub async fn add_store(cluster: &mut Cluster, client: &Client, dice: usize) -> Result<u64> {
    let service = added(dice);
    let like = cluster.topology().data[dice % cluster.topology().data.len()].clone();
    let address = format!("{service}:7710");
    let settings =
        [("SHARKLOCK_ADVERTISE__DATA", address.as_str()), ("SHARKLOCK_SERVER__NAME", &service.0)];
    cluster.add_like(&service, &like, &settings).await?;
    cluster.until_ready(&service, READY_MAX).await?;
    store_of(&look_at(client).await?, &service)
}

/// A data server that was added is emptied, stopped and declared gone, if it has come to have a store, and its
/// container is removed: also where the cluster does not let its store go, since nobody would look after it.
///
/// # Errors
/// When it does not come to that.
pub async fn take_store_away(
    cluster: &mut Cluster,
    client: &Client,
    service: &Service,
) -> Result<()> {
    let emptied = match store_of(&look_at(client).await?, service) {
        Ok(store) => empty_store(cluster, service, store).await,
        // It never came to serve.
        Err(_) => Ok(()),
    };
    if cluster.container(service).is_empty() {
        return emptied;
    }
    emptied.and(cluster.remove(service).await)
}

async fn empty_store(cluster: &Cluster, service: &Service, store: u64) -> Result<()> {
    let id = store.to_string();
    retried("a store is empty", async || {
        cluster.cli(&["stores", "drain", &id, "--wait", "--timeout", "60s"]).await.map(|_| ())
    })
    .await?;
    cluster.stop(service).await?;
    retried("the masters believe that a store is gone", async || {
        cluster.cli(&["stores", "remove", &id]).await.map(|_| ())
    })
    .await
}

/// The newest store of a node.
fn store_of(status: &GetStatusResponse, service: &Service) -> Result<u64> {
    let own = status.stores.iter().filter(|store| store.node == service.0);
    own.map(|store| store.store_id).max().with_context(|| format!("{service} has no store"))
}

/// Tries until it works.
async fn retried(what: &str, mut order: impl AsyncFnMut() -> Result<()>) -> Result<()> {
    let deadline = Instant::now() + SETTLED_MAX;
    loop {
        let Err(why) = order().await else { return Ok(()) };
        if Instant::now() >= deadline {
            return Err(why).context(what.to_owned());
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Waits until every range has three voters, on stores that are heard.
///
/// # Errors
/// When it does not come to that.
pub async fn until_whole(client: &Client) -> Result<()> {
    retried("every range has three voters that serve", async || {
        let status = look_at(client).await?;
        let linked = |id: &u64| status.stores.iter().any(|it| it.store_id == *id && it.is_linked);
        for range in &status.ranges {
            let serve = range.voter_store_ids.iter().filter(|id| linked(id)).count();
            ensure!(serve >= 3, "range {} has {serve} voters that serve", range.range_id);
        }
        Ok(())
    })
    .await
}

async fn disk_of(cluster: &Cluster, service: &Service) -> Result<PathBuf> {
    let format =
        "{{range .Mounts}}{{if eq .Destination \"/var/lib/sharklock\"}}{{.Source}}{{end}}{{end}}";
    let path = cluster.inspect(service, format).await?;
    ensure!(!path.is_empty(), "{service} has no disk");
    Ok(path.into())
}

/// The target has what the source has, and nothing else.
async fn copy_all(from: &Path, to: &Path) -> Result<()> {
    let script = "mkdir -p \"$2\" && find \"$2\" -mindepth 1 -delete && cp -a \"$1/.\" \"$2/\"";
    let (from, to) = (from.to_string_lossy(), to.to_string_lossy());
    run("sh", ["-c", script, "sh", &from, &to]).await.map(|_| ())
}
