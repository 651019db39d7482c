//! `sharklock locks watch` and `sharklock locks ask`.

use serde::Serialize;
use sharklock_client::{CallError, Client};

use super::{
    convert, show,
    view::{OneLock, Party, Position, WallTime, Wide},
};
use crate::{
    args::{Output, OutputArgs},
    exit::{FAILED, Failure, OK},
    render::{json_line, print_on, printable, shell_word, short, table},
};

/// `locks ask`.
#[derive(Debug, Serialize)]
#[serde(tag = "schema", rename = "sharklock.v1.HoldersAsked")]
pub struct HoldersAskedView {
    /// The place in its range's log at which this held.
    pub position: Position,
    /// The lock.
    pub name: String,
    /// How many holders have been asked, now or before.
    pub asked_count: u32,
    /// They, at most 8.
    pub holders: Vec<Party>,
}

impl HoldersAskedView {
    fn table(&self, now: WallTime) -> String {
        if self.holders.is_empty() {
            let name = printable(&self.name);
            return format!("{name}: nobody who holds it has agreed to be asked\n");
        }
        let row = |party: &Party| {
            let left = party.asked.as_ref().map_or(Wide(0), |asked| asked.remaining_ms);
            let left = short(std::time::Duration::from_millis(left.0));
            vec![
                party.token.0.to_string(),
                party.name(),
                party.since.ago(now),
                format!("goes in {left}, if somebody waits then"),
            ]
        };
        let rows: Vec<_> = self.holders.iter().map(row).collect();
        table(&["TOKEN", "HOLDER", "SINCE", "STATE"], &rows)
    }
}

/// Prints each state of a lock, until `count` have been, or for ever.
pub async fn watch(
    client: &Client,
    name: &str,
    count: Option<u64>,
    output: OutputArgs,
) -> Result<(), Failure> {
    let mut watch = client.watch(name);
    let mut left = count;
    let mut is_silent = false;
    while left != Some(0) {
        match watch.next().await {
            Ok(seen) => {
                let state = convert::one_lock(name, seen);
                let is_read = print_on(&match output.output {
                    Output::Table => state.line(WallTime::now()),
                    Output::Json => json_line(&state),
                })?;
                if !is_read {
                    return Ok(());
                }
                left = left.map(|left| left - 1);
                is_silent = false;
            }
            // It may come back: what it was before is known to the reader.
            Err(error @ (CallError::Unavailable { .. } | CallError::Indeterminate { .. }))
                if is_silent || watch.has_begun() =>
            {
                if !std::mem::replace(&mut is_silent, true) {
                    eprintln!("sharklock: nobody tells of {name:?} any more, waiting: {error}");
                }
            }
            Err(error) => return Err(convert::failure(error)),
        }
    }
    Ok(())
}

/// Asks holders for a lock; nobody to ask is no success.
pub async fn ask(client: &Client, name: &str, output: OutputArgs) -> Result<u8, Failure> {
    let asked = client.ask_holders(name).await.map_err(|error| {
        let hint = format!("sharklock lock {} --ask", shell_word(name));
        match &error {
            CallError::Failed { reason, .. } if reason == "NOT_WAITING" => {
                Failure::new(FAILED, format!("nobody waits for lock {name:?}")).hint(hint)
            }
            _ => convert::failure(error),
        }
    })?;
    let asked = convert::asked(name, asked);
    show(output, &asked, |asked| asked.table(WallTime::now()))?;
    Ok(if asked.asked_count == 0 { FAILED } else { OK })
}

impl OneLock {
    /// One line: who has it, who waits.
    fn line(&self, now: WallTime) -> String {
        let Some(lock) = &self.lock else { return "free\n".to_owned() };
        let held = match lock.holders.as_slice() {
            [] if lock.retry_after_ms.0 > 0 => "kept taken by a lock-delay".to_owned(),
            [] => "not held".to_owned(),
            [first, ..] => {
                let others = match lock.holders_count {
                    0 | 1 => String::new(),
                    count => format!(" and {} more", count - 1),
                };
                let (name, token) = (printable(&first.name()), first.token.0);
                let (since, lease) = (first.since.ago(now), printable(&first.lease()));
                format!("{} by {name}{others}, token {token}, for {since}, {lease}", lock.mode)
            }
        };
        match lock.waiters_count {
            0 => format!("{held}\n"),
            1 => format!("{held}; 1 waits\n"),
            count => format!("{held}; {count} wait\n"),
        }
    }
}
