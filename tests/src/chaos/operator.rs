//! What operators do during a run, by the command line: split, move, transfer, drain.

use anyhow::{Context as _, Result, bail};
use sharklock_client::{Client, GetStatusResponse};

use super::cluster::Cluster;
use super::fault::{Kind, Service};
use super::look::look_at;
use super::replacement::{add_store, added, take_store_away};

/// Where a group of names is split: between the kinds of work, so that names stay in their group.
const CUTS: [&str; 5] = ["hot", "own", "queue", "shared", "slow"];
/// An order that is not done by then is given up.
const ORDER_MAX: &str = "20s";

/// An order that is to be taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undo {
    /// Nothing.
    Nothing,
    /// This store is to serve again.
    Undrain(u64),
    /// This server was added, and is to go with its store.
    TakeAway(Service),
}

/// Gives an order of this kind; `dice` chooses among what there is. What was ordered, in words.
///
/// # Errors
/// When the cluster refuses it, or has not done it in time: who strikes at the same time may be why.
pub async fn order(
    cluster: &mut Cluster,
    client: &Client,
    kind: Kind,
    dice: usize,
    groups: u32,
) -> Result<(String, Undo)> {
    if kind == Kind::AddStore {
        let service = added(dice);
        let words = match add_store(cluster, client, dice).await {
            Ok(store) => format!("{service} is store {store}"),
            // Its container may be there, and is to go all the same.
            Err(why) => format!("{service} does not serve: {why:#}"),
        };
        return Ok((words, Undo::TakeAway(service)));
    }
    let status = look_at(client).await?;
    let (words, undo) = match kind {
        Kind::Split => (split(dice, groups), Undo::Nothing),
        Kind::Move => (moved(&status, dice)?, Undo::Nothing),
        Kind::Transfer => (transferred(&status, dice)?, Undo::Nothing),
        Kind::Drain => {
            let store = choose(&status.stores, dice)?.store_id;
            let words = format!("stores drain {store} --wait --timeout {ORDER_MAX}");
            (words, Undo::Undrain(store))
        }
        other => bail!("{} is no order", other.name()),
    };
    let args: Vec<&str> = words.split(' ').collect();
    match cluster.cli(&args).await {
        Ok(_) => Ok((words, undo)),
        // It may be drained all the same, or on its way: it is to serve again.
        Err(why) if undo != Undo::Nothing => Ok((format!("{words}: {why}"), undo)),
        Err(why) => Err(why).context(words),
    }
}

/// Takes an order back.
///
/// # Errors
/// When the cluster does not do it.
pub async fn undo(cluster: &mut Cluster, client: &Client, undo: &Undo) -> Result<()> {
    match undo {
        Undo::Nothing => Ok(()),
        Undo::Undrain(store) => {
            cluster.cli(&["stores", "undrain", &store.to_string()]).await.map(|_| ())
        }
        Undo::TakeAway(service) => take_store_away(cluster, client, service).await,
    }
}

fn choose<T>(of: &[T], dice: usize) -> Result<&T> {
    of.get(dice % of.len().max(1)).context("there is nothing to choose from")
}

fn split(dice: usize, groups: u32) -> String {
    let group = dice % groups.max(1) as usize;
    let cut = CUTS[dice / 7 % CUTS.len()];
    format!("ranges split g{group}/{cut} --at g{group}/{cut} --wait --timeout {ORDER_MAX}")
}

fn moved(status: &GetStatusResponse, dice: usize) -> Result<String> {
    let range = choose(&status.ranges, dice)?;
    let from = choose(&range.voter_store_ids, dice / 7)?;
    let serve = status.stores.iter().filter(|store| store.is_linked);
    let free: Vec<u64> = serve.map(|store| store.store_id).collect();
    let free: Vec<u64> =
        free.into_iter().filter(|store| !range.voter_store_ids.contains(store)).collect();
    let to = choose(&free, dice / 31)?;
    let id = range.range_id;
    Ok(format!("ranges move {id} --from {from} --to {to} --wait --timeout {ORDER_MAX}"))
}

fn transferred(status: &GetStatusResponse, dice: usize) -> Result<String> {
    let range = choose(&status.ranges, dice)?;
    let others: Vec<u64> = range
        .voter_store_ids
        .iter()
        .copied()
        .filter(|store| *store != range.leader_store_id)
        .collect();
    let (id, to) = (range.range_id, choose(&others, dice / 7)?);
    Ok(format!("ranges transfer-leader {id} --to {to} --wait --timeout {ORDER_MAX}"))
}
