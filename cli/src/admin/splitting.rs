//! `sharklock ranges split`.

use std::time::Duration;

use sharklock_client::{CallError, Client, NO_ANSWER, WhichRange};
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    client_within, convert,
    ranges::{Part, RangeSplit},
    show,
};
use crate::{
    args::{ReachArgs, SplitArgs},
    exit::{DEGRADED, Failure, OK},
    identity,
};

/// Between two looks at the halves.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Splits a range, or says how it would; see the module.
pub async fn split(reach: &ReachArgs, args: SplitArgs) -> Result<u8, Failure> {
    let deadline = Instant::now() + args.timeout;
    let client = client_within(reach, args.timeout)?;
    let (which, at, operator) =
        (args.which.which()?, args.at.as_deref(), identity::default_owner());
    let asked = async {
        match args.dry_run {
            true => client.plan_split(&which, at, &operator).await,
            false => client.split_range(&which, at, &operator).await,
        }
    };
    // Two calls, of which each may take as long.
    let seen = timeout_at(deadline, asked).await.unwrap_or_else(|_elapsed| {
        let message = "no answer within --timeout".to_owned();
        Err(match args.dry_run {
            true => CallError::Unavailable { reason: NO_ANSWER.to_owned(), message },
            false => CallError::Indeterminate { message },
        })
    });
    let mut split = convert::split(seen.map_err(convert::split_failure)?);
    if args.wait {
        split.led = Some(are_led(&client, &mut split, deadline).await);
    }
    show(args.output, &split, RangeSplit::table)?;
    Ok(if split.led == Some(false) { DEGRADED } else { OK })
}

/// Waits until both halves have leaders, and says so on stderr as it comes. False: not in time.
async fn are_led(client: &Client, split: &mut RangeSplit, deadline: Instant) -> bool {
    let RangeSplit { lower, upper, .. } = split;
    eprintln!("sharklock: range {} is split; waiting for leaders", lower.range_id.0);
    for part in [lower, upper] {
        let led = timeout_at(deadline, leader_of(client, part)).await;
        let id = part.range_id.0;
        match led {
            Ok(store) => {
                eprintln!("sharklock: range {id} is led by store {store}");
                part.leader_store_id.0 = store;
            }
            Err(_elapsed) => {
                eprintln!("sharklock: range {id} has no leader yet: `sharklock ranges show {id}`");
                return false;
            }
        }
    }
    true
}

/// The store that leads a half. A gateway that does not know the half yet, or does not answer, is asked
/// again.
async fn leader_of(client: &Client, part: &Part) -> u64 {
    let which = WhichRange::Id(part.range_id.0);
    loop {
        let seen = client.list_ranges(Some(&which)).await.unwrap_or_default();
        // By a store that has applied the split, and not by one that is behind.
        let is_split = |version: Option<u64>| version >= Some(part.version.0);
        let led = seen.first().filter(|range| {
            let version = range.position.map(|position| position.version);
            range.leader_store_id != 0 && is_split(version)
        });
        match led {
            Some(range) => return range.leader_store_id,
            None => sleep(LOOK_EVERY).await,
        }
    }
}
