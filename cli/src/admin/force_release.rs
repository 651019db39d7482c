//! `sharklock locks force-release`: ends holds, or says what that would do.

use std::{fmt::Write as _, time::Duration};

use serde::Serialize;
use sharklock_client::{Client, FencingToken};

use super::{
    convert, show,
    view::{Lock, OneLock, Party, Position, WallTime, Wide},
};
use crate::{
    args::ForceReleaseArgs,
    exit::{Failure, NOTHING, OK},
    identity,
    render::{counted, printable, short, table, thousands},
};

/// A hold has ended after so long at the latest, whatever its lease: 600 s and one percent.
const LEASE_MAX_MS: u64 = 606_000;
/// Waiters that a plan shows to people.
const WAITERS_SHOWN: usize = 8;

/// `locks force-release`.
#[derive(Debug, Default, Serialize)]
#[serde(tag = "schema", rename = "sharklock.v1.ForceRelease")]
pub struct ForceRelease {
    /// The place in its range's log at which this held.
    pub position: Position,
    /// The lock.
    pub name: String,
    /// It would be done: nothing was.
    pub dry_run: bool,
    /// There was such a hold.
    pub found: bool,
    /// The holds have ended already.
    pub ended: bool,
    /// They, as they were.
    pub holders: Vec<Party>,
    /// With `--dry-run`: what would become of them, and of those who wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
}

/// What a force-release would do.
#[derive(Debug, Default, Serialize)]
pub struct Plan {
    /// One for each of the holders, in their order.
    pub ends: Vec<PlannedEnd>,
    /// Holds that would end: more than are named where a lock has very many.
    pub ends_count: Wide,
    /// Holds that would stay, since `--token` names another.
    pub staying_count: Wide,
    /// Who waits, in order, not necessarily all.
    pub waiters: Vec<PlannedTurn>,
    /// How many they are in all.
    pub waiters_count: Wide,
    /// All of the holds have ended after so long at the latest, milliseconds.
    pub ends_within_ms: Wide,
}

/// How a hold would end.
#[derive(Debug, Serialize)]
pub struct PlannedEnd {
    /// Its fencing token.
    pub token: Wide,
    /// `told_and_awaited`: its holder is told, and has until the end of its lease to stop;
    /// `ending_already`: that has begun; `at_once`; `at_once_unsafely`: at once, while its holder may
    /// go on.
    pub consequence: &'static str,
    /// It has ended after so long at the latest, milliseconds.
    pub ends_within_ms: Wide,
    /// Its place stays taken for so long after that, unless its holder lets go by itself, milliseconds.
    pub lock_delay_ms: Wide,
}

/// What would become of somebody who waits.
#[derive(Debug, Serialize)]
pub struct PlannedTurn {
    /// Who waits.
    pub waiter: Party,
    /// 1 is next.
    pub place: u32,
    /// It gets the lock when the holds have ended.
    pub gets_it: bool,
}

/// Ends what `args` name, or looks what that would do.
pub async fn force_release(client: &Client, args: ForceReleaseArgs) -> Result<u8, Failure> {
    let token = args.token.map(FencingToken::from_u64);
    let done = match args.dry_run {
        true => plan(client, &args, token).await?,
        false => {
            let operator = identity::default_owner();
            let done =
                client.force_release(&args.name, token, &args.reason, args.now, &operator).await;
            convert::force_release(&args.name, done.map_err(convert::failure)?)
        }
    };
    show(args.output, &done, |done| done.table(WallTime::now()))?;
    if args.now && done.found && !args.dry_run {
        eprintln!(
            "sharklock: --now did not wait: until the old holder notices, two may believe that they \
             hold the lock, and only fencing tokens protect the resource"
        );
    }
    Ok(if done.found { OK } else { NOTHING })
}

/// Looks what a force-release would do.
async fn plan(
    client: &Client,
    args: &ForceReleaseArgs,
    token: Option<FencingToken>,
) -> Result<ForceRelease, Failure> {
    let seen = client.get_lock(&args.name).await.map_err(convert::failure)?;
    let OneLock { position, lock, .. } = convert::one_lock(&args.name, seen);
    let lock = lock.unwrap_or_default();
    // A look does not name all holders of the largest locks.
    let is_whole = lock.holders.len() == lock.holders_count as usize;
    let mut planned = ForceRelease::planned(position, args, lock);
    if let Some(token) = token.filter(|_| !planned.found && !is_whole) {
        let checked = client.check_token(&args.name, token).await.map_err(convert::failure)?;
        if checked.live {
            planned.finds_unnamed(args.now);
        }
    }
    Ok(planned)
}

impl ForceRelease {
    /// The hold that is meant is there, and the look has not named it.
    fn finds_unnamed(&mut self, now: bool) {
        self.found = true;
        let Some(plan) = &mut self.plan else { return };
        let staying = plan.staying_count.0.saturating_sub(1);
        (plan.ends_count, plan.staying_count) = (Wide(1), Wide(staying));
        plan.ends_within_ms = Wide(if now { 0 } else { LEASE_MAX_MS });
    }

    fn planned(position: Position, args: &ForceReleaseArgs, lock: Lock) -> Self {
        let is_meant = |holder: &Party| args.token.is_none_or(|token| holder.token == Wide(token));
        let (holders, staying): (Vec<_>, Vec<_>) = lock.holders.into_iter().partition(is_meant);
        let ends: Vec<_> = holders.iter().map(|holder| PlannedEnd::of(holder, args.now)).collect();
        let delays = ends.iter().any(|end| end.lock_delay_ms.0 > 0);
        let within = ends.iter().map(|end| end.ends_within_ms.0).max().unwrap_or_default();
        // A look names all holders of all but the largest locks.
        let all = u64::from(lock.holders_count);
        let ends_count = if args.token.is_some() { ends.len() as u64 } else { all };
        let staying_count = all.saturating_sub(ends_count);
        let is_seen = staying_count == staying.len() as u64;
        let turns = turns(&staying, lock.waiters, lock.permits_max, is_seen && !delays);
        let plan = Plan {
            ends_count: Wide(ends_count),
            staying_count: Wide(staying_count),
            waiters: turns,
            waiters_count: Wide(lock.waiters_count.into()),
            ends_within_ms: Wide(within),
            ends,
        };
        let (found, name) = (!holders.is_empty(), args.name.clone());
        Self { position, name, dry_run: true, found, ended: false, holders, plan: Some(plan) }
    }

    /// The holds and what happens, or would happen, to each.
    pub fn table(&self, now: WallTime) -> String {
        let name = printable(&self.name);
        if !self.found {
            return format!("{name}: no such hold, nothing to end\n");
        }
        if let Some(plan) = &self.plan {
            return self.plan_table(plan, now);
        }
        let state = |party: &Party| match self.ended {
            true => "ended".to_owned(),
            false => {
                let left = short(Duration::from_millis(party.remaining_ms.0));
                format!("ends when its holder stops, in {left} at the latest")
            }
        };
        let rows: Vec<_> = self.holders.iter().map(|it| hold_row(it, state(it), now)).collect();
        table(&["TOKEN", "HOLDER", "SINCE", "STATE"], &rows)
    }

    fn plan_table(&self, plan: &Plan, now: WallTime) -> String {
        let ends = self.holders.iter().zip(&plan.ends);
        let rows: Vec<_> = ends.map(|(it, end)| hold_row(it, end.words(), now)).collect();
        let mut text = table(&["TOKEN", "HOLDER", "SINCE", "WOULD"], &rows);
        if !plan.waiters.is_empty() {
            let row = |turn: &PlannedTurn| {
                let would = if turn.gets_it { "get the lock then" } else { "go on waiting" };
                let (place, who) = (turn.place.to_string(), turn.waiter.name());
                vec![place, who, turn.waiter.since.ago(now), would.to_owned()]
            };
            let rows: Vec<_> = plan.waiters.iter().take(WAITERS_SHOWN).map(row).collect();
            text += &format!("\n{}", table(&["PLACE", "WAITER", "SINCE", "WOULD"], &rows));
            let hidden = plan.waiters_count.0.saturating_sub(rows.len() as u64);
            if hidden > 0 {
                let _ = writeln!(text, "and {} more", thousands(hidden));
            }
        }
        let ended = match plan.ends_within_ms.0 {
            0 => "at once".to_owned(),
            ms => format!("within {}", short(Duration::from_millis(ms))),
        };
        let stay = match plan.staying_count.0 {
            0 => String::new(),
            count => format!(", {} would stay", thousands(count)),
        };
        let (holds, waiting) = (counted(plan.ends_count.0, "hold"), plan.waiters_count.0);
        let waiting = thousands(waiting);
        let _ = writeln!(
            text,
            "\n{holds} would end {ended}{stay}, {waiting} waiting; nothing was done"
        );
        text
    }
}

fn hold_row(party: &Party, state: String, now: WallTime) -> Vec<String> {
    vec![party.token.0.to_string(), party.name(), party.since.ago(now), state]
}

impl PlannedEnd {
    fn of(holder: &Party, now: bool) -> Self {
        // From the notice on the leader waits for a whole lease, and one percent for clocks.
        let whole_lease = holder.ttl_ms.0 + holder.ttl_ms.0.div_ceil(100);
        let (consequence, within) = match () {
            () if holder.orphaned => ("at_once", 0),
            () if now => ("at_once_unsafely", 0),
            () if !holder.ending_reason.is_empty() => ("ending_already", holder.remaining_ms.0),
            () => ("told_and_awaited", whole_lease),
        };
        Self {
            token: holder.token,
            consequence,
            ends_within_ms: Wide(within),
            lock_delay_ms: holder.agreement.lock_delay_ms.unwrap_or_default(),
        }
    }

    fn words(&self) -> String {
        let within = short(Duration::from_millis(self.ends_within_ms.0));
        let ends = match self.consequence {
            "at_once" => "end at once: it has no lease to wait for".to_owned(),
            "at_once_unsafely" => "end at once, while its holder may go on".to_owned(),
            "ending_already" => format!("end as it does already, in {within} at the latest"),
            _ => format!("be told, and end when its holder stops, in {within} at the latest"),
        };
        match self.lock_delay_ms.0 {
            0 => ends,
            ms => {
                let delay = short(Duration::from_millis(ms));
                format!("{ends}; its place stays taken for {delay} unless it lets go")
            }
        }
    }
}

/// Who gets the lock beside those that stay: waiters in their order, as long as the next one fits.
fn turns(
    staying: &[Party],
    waiters: Vec<Party>,
    permits_max: u32,
    is_open: bool,
) -> Vec<PlannedTurn> {
    let mut with: Vec<(&'static str, u32)> =
        staying.iter().map(|holder| (holder.mode, holder.permits)).collect();
    let mut is_open = is_open;
    let turn = |(at, waiter): (usize, Party)| {
        let used: u64 = with.iter().map(|(_, permits)| u64::from(*permits)).sum();
        let fits = match waiter.mode {
            "shared" => with.iter().all(|(mode, _)| *mode == "shared"),
            "permits" => used + u64::from(waiter.permits) <= u64::from(permits_max),
            _ => with.is_empty(),
        };
        is_open &= fits;
        if is_open {
            with.push((waiter.mode, waiter.permits));
        }
        PlannedTurn { waiter, place: at as u32 + 1, gets_it: is_open }
    };
    waiters.into_iter().enumerate().map(turn).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::{
        admin::view::Agreement,
        args::{Cli, Command, LocksCommand},
        render::json,
    };

    const NOW: WallTime = WallTime { unix_ms: 1_012_500 };

    fn args(options: &str) -> ForceReleaseArgs {
        let line = format!("sharklock locks force-release x --reason r{options}");
        match Cli::try_parse_from(line.split(' ')).expect("it parses").command {
            Command::Locks(locks) => match locks.command {
                LocksCommand::ForceRelease(args) => args,
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    fn party(owner: &str, token: u64, mode: &'static str) -> Party {
        Party {
            owner_id: owner.into(),
            mode,
            token: Wide(token),
            since: WallTime { unix_ms: 1_000_000 },
            ttl_ms: Wide(10_000),
            remaining_ms: Wide(7_400),
            ..Party::default()
        }
    }

    fn planned(options: &str, holders: Vec<Party>, waiters: Vec<Party>) -> ForceRelease {
        let (holders_count, waiters_count) = (holders.len() as u32, waiters.len() as u32);
        let lock = Lock { holders, waiters, holders_count, waiters_count, ..Lock::default() };
        ForceRelease::planned(Position::default(), &args(options), lock)
    }

    #[test]
    fn it_says_what_happens_next() {
        let asked = ForceRelease {
            name: "x".into(),
            found: true,
            holders: vec![party("a", 7, "exclusive")],
            ..ForceRelease::default()
        };
        assert_eq!(
            asked.table(NOW),
            "TOKEN  HOLDER  SINCE  STATE\n\
             7      a       12s    ends when its holder stops, in 7.4s at the latest\n"
        );
        let none = ForceRelease { holders: vec![], found: false, ..asked };
        assert_eq!(none.table(NOW), "x: no such hold, nothing to end\n");
        let value: serde_json::Value = serde_json::from_str(&json(&none)).expect("it is JSON");
        assert_eq!((&value["found"], &value["dry_run"]), (&false.into(), &false.into()));
        assert!(value.get("plan").is_none());
    }

    #[test]
    fn a_dry_run_tells_what_each_would_meet_and_when() {
        let waiters = vec![party("b", 0, "exclusive"), party("c", 0, "exclusive")];
        let plan = planned(" --dry-run", vec![party("a", 7, "exclusive")], waiters);
        assert_eq!(
            plan.table(NOW),
            "TOKEN  HOLDER  SINCE  WOULD\n\
             7      a       12s    be told, and end when its holder stops, in 10s at the latest\n\
             \n\
             PLACE  WAITER  SINCE  WOULD\n\
             1      b       12s    get the lock then\n\
             2      c       12s    go on waiting\n\
             \n\
             1 hold would end within 10s, 2 waiting; nothing was done\n"
        );
        let value: serde_json::Value = serde_json::from_str(&json(&plan)).expect("it is JSON");
        assert_eq!((&value["dry_run"], &value["found"]), (&true.into(), &true.into()));
        let end = &value["plan"]["ends"][0];
        assert_eq!(end["consequence"], "told_and_awaited");
        assert_eq!(end["ends_within_ms"], "10100");
        assert_eq!(value["plan"]["waiters"][1]["gets_it"], false);
    }

    #[test]
    fn a_dry_run_knows_the_ends_of_a_hold() {
        let end = |options: &str, change: fn(&mut Party)| {
            let mut holder = party("a", 7, "exclusive");
            change(&mut holder);
            planned(options, vec![holder], vec![]).plan.expect("a dry run has one").ends.remove(0)
        };
        assert_eq!(end(" --dry-run --now", |_| ()).consequence, "at_once_unsafely");
        assert_eq!(end(" --dry-run", |it| it.orphaned = true).consequence, "at_once");
        let ending = end(" --dry-run", |it| it.ending_reason = "r".into());
        assert_eq!((ending.consequence, ending.ends_within_ms), ("ending_already", Wide(7_400)));
        let delayed = end(" --dry-run", |it| {
            it.agreement = Agreement { lock_delay_ms: Some(Wide(5_000)), ..Agreement::default() };
        });
        assert!(delayed.words().ends_with("its place stays taken for 5.0s unless it lets go"));
    }

    #[test]
    fn a_dry_run_is_about_the_holds_that_are_meant() {
        let sharers = || vec![party("a", 7, "shared"), party("b", 8, "shared")];
        let waiters = vec![party("c", 0, "shared"), party("d", 0, "exclusive")];
        let plan = planned(" --dry-run --token 8", sharers(), waiters);
        assert_eq!(plan.holders[0].token, Wide(8));
        let (whole, text) = (plan.plan.as_ref().expect("a dry run has one"), plan.table(NOW));
        assert!(text.contains("1 hold would end within 10s, 1 would stay, 2 waiting"), "{text}");
        assert_eq!(whole.waiters.iter().map(|it| it.gets_it).collect::<Vec<_>>(), [true, false]);
        let mut unnamed = planned(" --dry-run --token 9", sharers(), vec![]);
        assert!(!unnamed.found);
        unnamed.finds_unnamed(false);
        let told = unnamed.table(WallTime::default());
        assert!(told.contains("1 hold would end within 10m06s, 1 would stay"), "{told}");
    }
}
