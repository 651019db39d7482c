//! What operators ask and order: `sharklock status`, `locks …`, `ranges …`, `stores …`, `masters …`,
//! `schedule …`, `sessions …`, `ops …` and `recover …`.

mod convert;
mod documents;
mod following;
mod force_release;
mod listing;
mod masters;
mod ops;
mod orders;
mod ranges;
mod rebalance;
mod recover;
mod schedule;
mod sessions;
mod splitting;
mod status;
mod stores;
mod view;
mod why;

use std::time::Duration;

use serde::Serialize;
use sharklock_client::{
    Client, WhichRange,
    range_goal::{self, Goal},
};

use self::ranges::{OneRange, RangeList};
use crate::{
    args::{
        FromStoreArgs, LocksCommand, MoveArgs, Output, OutputArgs, RangesCommand, ReachArgs,
        StatusArgs, ToStoreArgs,
    },
    exit::{DEGRADED, FAILED, Failure, OK, USAGE},
    identity,
    render::{json, print},
};

pub use self::{
    convert::{failure as call_failure, other_cluster},
    documents::{Document, documents},
    masters::masters,
    ops::ops,
    ranges::interval,
    recover::recover,
    schedule::schedule,
    sessions::sessions,
    splitting::split,
    stores::stores,
    view::{WallTime, Wide},
};

/// How long a question is asked again while nobody answers: long enough for a restart or an
/// election, short enough for somebody who mistyped an endpoint.
const CALL_MAX: Duration = Duration::from_secs(3);
/// One gateway that is frozen uses up that time, so each further one adds as much, up to this many.
const CALLS_MAX: usize = 3;

/// `sharklock status`.
pub async fn status(reach: &ReachArgs, args: StatusArgs) -> Result<u8, Failure> {
    let seen = client(reach)?.status().await.map_err(convert::failure)?;
    let status = convert::status(seen);
    show(args.output, &status, |status| status.table())?;
    Ok(if status.healthy { OK } else { DEGRADED })
}

/// `sharklock locks …`.
pub async fn locks(reach: &ReachArgs, command: LocksCommand) -> Result<u8, Failure> {
    let client = client(reach)?;
    match command {
        LocksCommand::Ls(args) => listing::ls(&client, args).await?,
        LocksCommand::Show { name, output } => {
            let seen = client.get_lock(&name).await.map_err(convert::failure)?;
            let lock = convert::one_lock(&name, seen);
            show(output, &lock, |lock| lock.table(WallTime::now()))?;
        }
        LocksCommand::Watch { name, count, output } => {
            following::watch(&client, &name, count, output).await?;
        }
        LocksCommand::Ask { name, output } => return following::ask(&client, &name, output).await,
        LocksCommand::Why { name, output } => return why::why(&client, &name, output).await,
        LocksCommand::ForceRelease(args) => {
            return force_release::force_release(&client, args).await;
        }
    }
    Ok(OK)
}

/// `sharklock ranges …`.
pub async fn ranges(reach: &ReachArgs, command: RangesCommand) -> Result<u8, Failure> {
    let seen = async |which: Option<&WhichRange>| {
        let seen = client(reach)?.list_ranges(which).await.map_err(convert::failure)?;
        Ok(seen.into_iter().map(convert::range))
    };
    match command {
        RangesCommand::Ls { output } => {
            let list = RangeList { ranges: seen(None).await?.collect() };
            show(output, &list, RangeList::table)?;
        }
        RangesCommand::Show { which, output } => {
            let mut found = seen(Some(&which.which()?)).await?;
            let range = found.next().ok_or_else(|| Failure::new(FAILED, "no such range"))?;
            show(output, &OneRange { range }, |one| one.range.table())?;
        }
        RangesCommand::Split(args) => return split(reach, args).await,
        RangesCommand::Move(MoveArgs { from, to, change }) => {
            let stores = range_goal::Move { from_store_id: from, to_store_id: to };
            return ops::change(reach, change, Goal::Move(stores)).await;
        }
        RangesCommand::TransferLeader(ToStoreArgs { to, change }) => {
            return ops::change(reach, change, Goal::LeadStoreId(to)).await;
        }
        RangesCommand::AddReplica(ToStoreArgs { to, change }) => {
            return ops::change(reach, change, Goal::AddStoreId(to)).await;
        }
        RangesCommand::Rebalance(args) => return rebalance::rebalance(reach, args).await,
        RangesCommand::RemoveReplica(FromStoreArgs { from, change }) => {
            return ops::change(reach, change, Goal::RemoveStoreId(from)).await;
        }
    }
    Ok(OK)
}

fn client(reach: &ReachArgs) -> Result<Client, Failure> {
    let endpoints_count = reach.endpoints.0.len();
    client_within(reach, CALL_MAX * endpoints_count.clamp(1, CALLS_MAX) as u32)
}

fn client_within(reach: &ReachArgs, call_timeout: Duration) -> Result<Client, Failure> {
    reach
        .client()
        .identity(&identity::default_owner())
        .call_timeout(call_timeout)
        .build()
        .map_err(|why| Failure::new(USAGE, why.to_string()))
}

fn show<D: Serialize>(
    args: OutputArgs,
    document: &D,
    table: impl FnOnce(&D) -> String,
) -> Result<(), Failure> {
    print(&match args.output {
        Output::Table => table(document),
        Output::Json => json(document),
    })
}
