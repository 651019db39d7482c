//! `sharklock stores …`: what each store has, and what it is for.

use std::fmt::Write as _;

use serde::Serialize;
use sharklock_client::{
    CallError, Client, SetStoreDutyResponse, StoreDuty, StoreLabel, StoreStatus,
};
use tokio::time::Instant;

use super::{
    client, convert,
    orders::{self, Look, until_ended},
    show,
    view::Wide,
};
use crate::{
    args::{DrainArgs, DutyArgs, ReachArgs, StoresCommand},
    exit::{FAILED, Failure, OK},
    identity,
    render::{printable, table},
};

/// A store.
#[derive(Debug, Serialize)]
pub struct Store {
    /// Given once, never reused.
    pub store_id: Wide,
    /// What people call its process; empty: that is not known.
    pub node: String,
    /// The address at which it answers.
    pub address: String,
    /// `serves`, `draining`, `gone`.
    pub duty: &'static str,
    /// `up`, `disconnected`, `down`, or `unknown` while no leading master answers.
    pub liveness: &'static str,
    /// Where it is: `zone=b`.
    pub labels: Vec<String>,
    /// Replicas that it has.
    pub replicas_count: u32,
    /// Replicas that lead.
    pub leaders_count: u32,
    /// 99th percentile of a durable write in the last minute, microseconds.
    pub sync_p99_us: Wide,
}

/// `stores ls`.
#[derive(Debug, Serialize)]
#[serde(tag = "schema", rename = "sharklock.v1.StoreList")]
pub struct StoreList {
    /// In order of their ids.
    pub stores: Vec<Store>,
}

/// `stores show`.
#[derive(Debug, Serialize)]
#[serde(tag = "schema", rename = "sharklock.v1.Store")]
pub struct OneStore {
    /// As it is now.
    pub store: Store,
}

/// `stores drain` and its like.
#[derive(Debug, Serialize)]
#[serde(tag = "schema", rename = "sharklock.v1.StoreDuty")]
pub struct Duty {
    /// It would be so: nothing was done.
    pub dry_run: bool,
    /// The store.
    pub store_id: Wide,
    /// `serves`, `draining`, `gone`.
    pub duty: &'static str,
    /// Replicas that it has.
    pub replicas: Wide,
    /// Ranges that it leads.
    pub leaders: Wide,
    /// The things that are in the way, a sentence each.
    pub warnings: Vec<String>,
}

fn duty_name(duty: StoreDuty) -> &'static str {
    match duty {
        StoreDuty::Unspecified => "serves",
        StoreDuty::Draining => "draining",
        StoreDuty::Gone => "gone",
    }
}

impl Store {
    fn of(seen: &StoreStatus) -> Self {
        let label = |it: &StoreLabel| format!("{}={}", it.key, it.value);
        Self {
            store_id: Wide(seen.store_id),
            node: seen.node.clone(),
            address: seen.address.clone(),
            duty: duty_name(seen.duty()),
            liveness: convert::liveness(seen.liveness()),
            labels: seen.labels.iter().map(label).collect(),
            replicas_count: seen.replicas_count,
            leaders_count: seen.leaders_count,
            sync_p99_us: Wide(seen.sync_p99_us),
        }
    }
}

fn stores_table(stores: &[Store]) -> String {
    let row = |store: &Store| {
        vec![
            store.store_id.0.to_string(),
            store.node.clone(),
            store.duty.to_owned(),
            store.liveness.to_owned(),
            store.replicas_count.to_string(),
            store.leaders_count.to_string(),
            store.labels.join(","),
            store.address.clone(),
        ]
    };
    let rows: Vec<_> = stores.iter().map(row).collect();
    let header = ["STORE", "NODE", "DUTY", "STATE", "REPLICAS", "LEADERS", "LABELS", "ADDRESS"];
    table(&header, &rows)
}

impl Duty {
    fn table(&self) -> String {
        let Self { dry_run, store_id, duty, replicas, leaders, warnings } = self;
        let would = if *dry_run { "would be" } else { "is" };
        let mut text = format!(
            "store {} {would} {duty}: it has {} replicas, and leads {} ranges\n",
            store_id.0, replicas.0, leaders.0
        );
        for warning in warnings {
            let _ = writeln!(text, "warning: {}", printable(warning));
        }
        text
    }
}

/// `sharklock stores …`.
pub async fn stores(reach: &ReachArgs, command: StoresCommand) -> Result<u8, Failure> {
    let client = client(reach)?;
    match command {
        StoresCommand::Ls { output } => {
            let list = StoreList { stores: all(&client).await? };
            show(output, &list, |list| stores_table(&list.stores))?;
        }
        StoresCommand::Show { id, output } => {
            let one = OneStore { store: one(&client, id).await? };
            show(output, &one, |one| stores_table(std::slice::from_ref(&one.store)))?;
        }
        StoresCommand::Drain(args) => return drain(&client, args).await,
        StoresCommand::Undrain(args) => set(&client, args, StoreDuty::Unspecified).await?,
        StoresCommand::Remove(args) => set(&client, args, StoreDuty::Gone).await?,
    }
    Ok(OK)
}

async fn all(client: &Client) -> Result<Vec<Store>, Failure> {
    let status = client.status().await.map_err(convert::failure)?;
    Ok(status.stores.iter().map(Store::of).collect())
}

async fn one(client: &Client, id: u64) -> Result<Store, Failure> {
    let store = all(client).await?.into_iter().find(|store| store.store_id.0 == id);
    store.ok_or_else(|| {
        Failure::new(FAILED, format!("store {id} is not known"))
            .hint("`sharklock stores ls` lists them")
    })
}

async fn set(client: &Client, args: DutyArgs, duty: StoreDuty) -> Result<(), Failure> {
    let operator = identity::default_owner();
    let seen = client.set_store_duty(args.id, duty, args.dry_run, &operator).await;
    let SetStoreDutyResponse { replicas, leaders, warnings, .. } = seen.map_err(failure)?;
    let duty = Duty {
        dry_run: args.dry_run,
        store_id: Wide(args.id),
        duty: duty_name(duty),
        replicas: Wide(replicas),
        leaders: Wide(leaders),
        warnings,
    };
    show(args.output, &duty, Duty::table)
}

async fn drain(client: &Client, args: DrainArgs) -> Result<u8, Failure> {
    let DrainArgs { duty, wait, timeout } = args;
    let (id, deadline) = (duty.id, Instant::now() + timeout);
    set(client, duty, StoreDuty::Draining).await?;
    if wait { until_empty(client, id, deadline).await } else { Ok(OK) }
}

/// What a store has is asked by a dry run: the masters count it in their log, which also one that has
/// just begun to lead knows, before any store has beaten.
async fn until_empty(client: &Client, id: u64, deadline: Instant) -> Result<u8, Failure> {
    let operator = identity::default_owner();
    let look = async || client.set_store_duty(id, StoreDuty::Draining, true, &operator).await;
    let judge = |seen: &SetStoreDutyResponse| {
        Ok(match seen {
            SetStoreDutyResponse { replicas: 0, .. } => Look::Ended(OK),
            SetStoreDutyResponse { replicas, leaders, .. } => {
                Look::GoesOn(format!("store {id} has {replicas} replicas, and leads {leaders}"))
            }
        })
    };
    let goes_on = format!("store {id} goes on becoming empty");
    let (_, code) = until_ended(look, judge, deadline, &goes_on).await?;
    if code == OK {
        eprintln!("sharklock: store {id} is empty");
    }
    Ok(code)
}

fn failure(error: CallError) -> Failure {
    orders::failure(error, "try again: it is the same whether it was done or not")
}
