//! `sharklock recover …`: ranges that have lost their majority for good.

use std::fmt::Write as _;

use serde::Serialize;
use sharklock_client::{
    CallError, Client, ListRecoveriesResponse, LostRange, RecoverRangeRequest,
    RecoverRangeResponse, Recovery as SeenRecovery, RecoveryState, Survivor as SeenSurvivor,
};
use tokio::time::Instant;

use super::{
    client,
    orders::{self, Look, until_ended},
    show,
    view::{WallTime, Wide},
};
use crate::{
    args::{ReachArgs, RecoverCommand, RunArgs},
    exit::{FAILED, Failure, OK},
    identity,
    render::{printable, table},
};

/// A replica that is left of a range.
#[derive(Debug, Serialize)]
pub struct Survivor {
    /// Its store.
    pub store_id: Wide,
    /// Its id.
    pub peer_id: Wide,
    /// The last entry of its log.
    pub last_term: Wide,
    /// See `last_term`.
    pub last_index: Wide,
    /// Up to here it knows that the entries were decided.
    pub commit_index: Wide,
    /// `voter` or `learner`.
    pub role: &'static str,
    /// It is the one that would go on.
    pub is_chosen: bool,
}

/// A range without a majority.
#[derive(Debug, Serialize)]
pub struct Lost {
    /// The range.
    pub range_id: Wide,
    /// Its first name.
    pub start: String,
    /// The first name behind it; empty: there is no bound.
    pub end: String,
    /// Replicas that are left.
    pub survivors: Vec<Survivor>,
    /// Stores of its other replicas, which are not heard of.
    pub missing_store_ids: Vec<Wide>,
    /// Why it cannot be recovered now; empty: it can.
    pub hindrance: String,
    /// What would be lost, a sentence each.
    pub losses: Vec<String>,
}

/// `recover ls`.
#[derive(Debug, Serialize)]
#[serde(tag = "schema", rename = "sharklock.v1.LostRangeList")]
pub struct LostList {
    /// By id.
    pub ranges: Vec<Lost>,
}

/// A recovery that was ordered.
#[derive(Debug, Serialize)]
pub struct Recovery {
    /// Given once; 0 in a dry run.
    pub recovery_id: Wide,
    /// The range.
    pub range_id: Wide,
    /// `running`, `done`, or `overtaken` by a later one.
    pub state: &'static str,
    /// Who has ordered it.
    pub by: String,
    /// When.
    pub at: WallTime,
    /// Stores that were declared lost for it.
    pub lost_store_ids: Vec<Wide>,
    /// The store whose replica goes on.
    pub store_id: Wide,
    /// The last entry that it had.
    pub last_term: Wide,
    /// See `last_term`.
    pub last_index: Wide,
    /// Of its tokens from then on.
    pub generation: u32,
    /// It grants at once.
    pub now: bool,
}

/// `recover log`.
#[derive(Debug, Serialize)]
#[serde(tag = "schema", rename = "sharklock.v1.RecoveryList")]
pub struct RecoveryList {
    /// The newest last.
    pub recoveries: Vec<Recovery>,
}

/// What is done, or would be, about one range.
#[derive(Debug, Serialize)]
pub struct Ordered {
    /// The record.
    pub recovery: Recovery,
    /// What is done, a sentence each.
    pub steps: Vec<String>,
    /// What is lost, a sentence each.
    pub losses: Vec<String>,
}

/// `recover run`.
#[derive(Debug, Serialize)]
#[serde(tag = "schema", rename = "sharklock.v1.RecoverRun")]
pub struct RecoverRun {
    /// It would be done: nothing has begun.
    pub dry_run: bool,
    /// One for each range.
    pub ranges: Vec<Ordered>,
}

impl Survivor {
    fn of(seen: &SeenSurvivor) -> Self {
        Self {
            store_id: Wide(seen.store_id),
            peer_id: Wide(seen.peer_id),
            last_term: Wide(seen.last_term),
            last_index: Wide(seen.last_index),
            commit_index: Wide(seen.commit_index),
            role: if seen.is_voter { "voter" } else { "learner" },
            is_chosen: seen.is_chosen,
        }
    }

    fn in_words(&self) -> String {
        let Self { store_id, last_term, last_index, is_chosen, .. } = self;
        let chosen = if *is_chosen { ", goes on" } else { "" };
        format!("{} (entry {} of term {}{chosen})", store_id.0, last_index.0, last_term.0)
    }
}

impl Lost {
    fn of(seen: LostRange) -> Self {
        let name = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
        Self {
            range_id: Wide(seen.range_id),
            start: name(&seen.start),
            end: name(&seen.end),
            survivors: seen.survivors.iter().map(Survivor::of).collect(),
            missing_store_ids: seen.missing_store_ids.into_iter().map(Wide).collect(),
            hindrance: seen.hindrance,
            losses: seen.losses,
        }
    }
}

impl LostList {
    fn table(&self) -> String {
        if self.ranges.is_empty() {
            return "no range has lost its majority\n".to_owned();
        }
        let mut text = String::new();
        for lost in &self.ranges {
            let Lost { range_id, start, end, survivors, hindrance, losses, .. } = lost;
            let left: Vec<_> = survivors.iter().map(Survivor::in_words).collect();
            let left = if left.is_empty() { "-".to_owned() } else { left.join(", ") };
            let end = if end.is_empty() { "…".to_owned() } else { printable(end) };
            let rows = [
                ("names", format!("{} to {end}", quoted(start))),
                ("missing", format!("stores {}", comma(&lost.missing_store_ids))),
                ("left on stores", left),
            ];
            let rows = rows.map(|(what, is)| vec![what.to_owned(), is]);
            let _ = writeln!(text, "range {}\n\n{}", range_id.0, table(&["WHAT", "IS"], &rows));
            for loss in losses {
                let _ = writeln!(text, "lost: {}", printable(loss));
            }
            let run = format!(
                "sharklock recover run {} --lost {} --dry-run",
                range_id.0,
                comma(&lost.missing_store_ids)
            );
            let next = if hindrance.is_empty() { run } else { printable(hindrance) };
            let _ = writeln!(text, "\n{next}\n");
        }
        text
    }
}

fn quoted(start: &str) -> String {
    if start.is_empty() { "…".to_owned() } else { printable(start) }
}

fn comma(stores: &[Wide]) -> String {
    let stores: Vec<_> = stores.iter().map(|store| store.0.to_string()).collect();
    stores.join(",")
}

impl Recovery {
    pub(super) fn of(seen: SeenRecovery) -> Self {
        let state = seen.state();
        Self {
            recovery_id: Wide(seen.recovery_id),
            range_id: Wide(seen.range_id),
            state: match state {
                RecoveryState::Unspecified => "planned",
                RecoveryState::Running => "running",
                RecoveryState::Done => "done",
                RecoveryState::Overtaken => "overtaken",
            },
            by: seen.by,
            at: WallTime { unix_ms: seen.at_unix_ms },
            lost_store_ids: seen.lost_store_ids.into_iter().map(Wide).collect(),
            store_id: Wide(seen.store_id),
            last_term: Wide(seen.last_term),
            last_index: Wide(seen.last_index),
            generation: seen.generation,
            now: seen.now,
        }
    }
}

/// What is not known yet is 0.
fn or_none(number: u64) -> String {
    if number == 0 { String::new() } else { number.to_string() }
}

impl RecoveryList {
    fn table(&self) -> String {
        let row = |it: &Recovery| {
            let at = serde_json::to_value(it.at).ok();
            vec![
                it.recovery_id.0.to_string(),
                it.range_id.0.to_string(),
                it.state.to_owned(),
                comma(&it.lost_store_ids),
                or_none(it.store_id.0),
                or_none(it.last_index.0),
                or_none(it.generation.into()),
                if it.now { "at once" } else { "waits" }.to_owned(),
                at.and_then(|at| at.as_str().map(str::to_owned)).unwrap_or_default(),
                printable(&it.by),
            ]
        };
        let rows: Vec<_> = self.recoveries.iter().map(row).collect();
        let header = [
            "RECOVERY",
            "RANGE",
            "STATE",
            "LOST",
            "STORE",
            "ENTRY",
            "GENERATION",
            "GRANTS",
            "AT",
            "BY",
        ];
        table(&header, &rows)
    }
}

impl Ordered {
    fn of(seen: RecoverRangeResponse) -> Self {
        let RecoverRangeResponse { recovery, steps, losses } = seen;
        Self { recovery: Recovery::of(recovery.unwrap_or_default()), steps, losses }
    }
}

impl RecoverRun {
    fn table(&self) -> String {
        let mut text = String::new();
        for Ordered { recovery, steps, losses } in &self.ranges {
            let Recovery { recovery_id, range_id, .. } = recovery;
            let _ = match self.dry_run {
                true => writeln!(text, "range {}; nothing was done. It would take:", range_id.0),
                false => writeln!(text, "recovery {} of range {}:", recovery_id.0, range_id.0),
            };
            for (number, step) in (1..).zip(steps) {
                let _ = writeln!(text, "  {number}. {}", printable(step));
            }
            for loss in losses {
                let _ = writeln!(text, "lost: {}", printable(loss));
            }
        }
        text
    }
}

/// `sharklock recover …`.
pub async fn recover(reach: &ReachArgs, command: RecoverCommand) -> Result<u8, Failure> {
    let client = client(reach)?;
    match command {
        RecoverCommand::Ls { output } => {
            let ranges = lost(&client).await?.into_iter().map(Lost::of).collect();
            show(output, &LostList { ranges }, LostList::table)?;
        }
        RecoverCommand::Log { output } => {
            let seen = client.recoveries().await.map_err(failure)?;
            let recoveries = seen.recoveries.into_iter().map(Recovery::of).collect();
            show(output, &RecoveryList { recoveries }, RecoveryList::table)?;
        }
        RecoverCommand::Run(args) => return run(&client, args).await,
    }
    Ok(OK)
}

async fn lost(client: &Client) -> Result<Vec<LostRange>, Failure> {
    Ok(client.recoveries().await.map_err(failure)?.lost)
}

async fn run(client: &Client, args: RunArgs) -> Result<u8, Failure> {
    let deadline = Instant::now() + args.timeout;
    let mut run = RecoverRun { dry_run: args.dry_run, ranges: Vec::new() };
    let mut code = OK;
    for (range_id, lost_store_ids) in wanted(client, &args).await? {
        let request = RecoverRangeRequest {
            range_id,
            lost_store_ids,
            are_stopped: args.stopped,
            now: args.now,
            dry_run: args.dry_run,
            operator: identity::default_owner(),
            at_unix_ms: WallTime::now().unix_ms,
        };
        match client.recover_range(request).await {
            Ok(ordered) => run.ranges.push(Ordered::of(ordered)),
            // One of many: the others are not worse for it.
            Err(why) if args.all => {
                eprintln!("sharklock: range {range_id}: {}", printable(&why.to_string()));
                code = FAILED;
            }
            Err(why) => return Err(failure(why)),
        }
    }
    show(args.output, &run, RecoverRun::table)?;
    if args.now && !args.dry_run {
        eprintln!(
            "sharklock: --now did not wait: for up to 10 minutes two clients may rely on the same \
             lock, and only fencing tokens protect the resource"
        );
    }
    if args.wait {
        let ids: Vec<_> = run.ranges.iter().map(|it| it.recovery.recovery_id.0).collect();
        code = code.max(until_led(client, &ids, deadline).await?);
    }
    Ok(code)
}

/// The ranges, each with those of the lost stores that have something of it.
async fn wanted(client: &Client, args: &RunArgs) -> Result<Vec<(u64, Vec<u64>)>, Failure> {
    if !args.all {
        return Ok(args.ranges.iter().map(|range| (*range, args.lost.clone())).collect());
    }
    let ranges: Vec<_> = lost(client).await?;
    if ranges.is_empty() {
        return Err(Failure::new(FAILED, "no range has lost its majority")
            .hint("a store says what it has half a minute after it hears of no leader"));
    }
    let of_range = |it: LostRange| {
        let missing = it.missing_store_ids.into_iter();
        (it.range_id, missing.filter(|store| args.lost.contains(store)).collect())
    };
    Ok(ranges.into_iter().map(of_range).collect())
}

async fn until_led(client: &Client, ids: &[u64], deadline: Instant) -> Result<u8, Failure> {
    let look = async || client.recoveries().await;
    let judge = |seen: &ListRecoveriesResponse| {
        let ours = seen.recoveries.iter().filter(|it| ids.contains(&it.recovery_id));
        if ours.clone().any(|it| it.state() == RecoveryState::Overtaken) {
            return Ok(Look::Ended(FAILED));
        }
        let running: Vec<_> = ours.filter(|it| it.state() == RecoveryState::Running).collect();
        Ok(match running.first() {
            None => Look::Ended(OK),
            Some(first) => Look::GoesOn(format!(
                "store {} goes on with range {}; {} ranges are left",
                first.store_id,
                first.range_id,
                running.len()
            )),
        })
    };
    let (seen, code) = until_ended(look, judge, deadline, "the recoveries go on").await?;
    if code == OK {
        eprintln!("sharklock: all are led again");
    }
    if !seen.lost.is_empty() && code == OK {
        let ranges: Vec<_> = seen.lost.iter().map(|it| Wide(it.range_id)).collect();
        eprintln!("sharklock: lost their majority, too, and wait: ranges {}", comma(&ranges));
    }
    Ok(code)
}

fn failure(error: CallError) -> Failure {
    let hint = "look with `sharklock recover log`; to try again does not begin it twice";
    orders::failure(error, hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recovery() -> SeenRecovery {
        SeenRecovery {
            recovery_id: 1_042,
            range_id: 12,
            state: RecoveryState::Running.into(),
            by: "ops@host".to_owned(),
            at_unix_ms: 1_764_295_200_000,
            lost_store_ids: vec![1, 2],
            store_id: 3,
            last_term: 7,
            last_index: 120,
            generation: 1,
            ..SeenRecovery::default()
        }
    }

    #[test]
    fn lost_ranges_show_what_is_left_and_the_next_command() {
        let survivor = SeenSurvivor {
            store_id: 3,
            peer_id: 13,
            last_term: 7,
            last_index: 120,
            commit_index: 118,
            is_voter: true,
            is_chosen: true,
        };
        let lost = LostRange {
            range_id: 12,
            end: "m".into(),
            survivors: vec![survivor],
            missing_store_ids: vec![1, 2],
            losses: vec!["whatever stores 1 and 2 decided behind entry 120".to_owned()],
            ..LostRange::default()
        };
        let list = LostList { ranges: vec![Lost::of(lost)] };
        let expected = "\
range 12

WHAT            IS
names           … to m
missing         stores 1,2
left on stores  3 (entry 120 of term 7, goes on)

lost: whatever stores 1 and 2 decided behind entry 120

sharklock recover run 12 --lost 1,2 --dry-run

";
        assert_eq!(list.table(), expected);
        assert_eq!(LostList { ranges: vec![] }.table(), "no range has lost its majority\n");
    }

    #[test]
    fn the_log_says_what_was_done_when_and_by_whom() {
        let list = RecoveryList { recoveries: vec![Recovery::of(recovery())] };
        let expected = "\
RECOVERY  RANGE  STATE    LOST  STORE  ENTRY  GENERATION  GRANTS  AT                        BY
1042      12     running  1,2   3      120    1           waits   2025-11-28T02:00:00.000Z  ops@host
";
        assert_eq!(list.table(), expected);
    }

    #[test]
    fn a_plan_lists_its_steps_and_what_is_lost() {
        let seen = RecoverRangeResponse {
            recovery: Some(recovery()),
            steps: vec!["stores 1 and 2 are gone".to_owned()],
            losses: vec!["a lock".to_owned()],
        };
        let run = RecoverRun { dry_run: true, ranges: vec![Ordered::of(seen)] };
        let expected = "\
range 12; nothing was done. It would take:
  1. stores 1 and 2 are gone
lost: a lock
";
        assert_eq!(run.table(), expected);
    }
}
