//! `sharklock locks ls`: which locks are held or waited for, once or over and over.

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use serde::Serialize;
use sharklock_client::{CallError, Client};
use tokio::time::{MissedTickBehavior, interval};

use super::{
    convert, show,
    view::{Lock, WallTime, Wide, kind},
};
use crate::{
    args::{LsArgs, Output},
    exit::{Failure, USAGE},
    render::{
        counted, cut, json_line, print_on, printable, screen, shell_word, short, table, thousands,
    },
};

/// Locks of a page.
const PAGE_SIZE: usize = 1_000;
/// Between two pictures of `--watch`.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// `locks ls`.
#[derive(Debug, Serialize)]
#[serde(tag = "schema", rename = "sharklock.v1.LockList")]
pub struct LockList {
    /// In byte order of their names. Each page of an answer holds at a point of its own.
    pub locks: Vec<Lock>,
    /// How many these are.
    pub locks_count: Wide,
    /// How many wait for one of these.
    pub waiters_count: Wide,
    /// There are more than `--limit` lets through.
    pub has_more: bool,
}

impl LockList {
    fn new(locks: Vec<Lock>, has_more: bool) -> Self {
        let waiters: u64 = locks.iter().map(|lock| u64::from(lock.waiters_count)).sum();
        let (locks_count, waiters_count) = (Wide(locks.len() as u64), Wide(waiters));
        Self { locks, locks_count, waiters_count, has_more }
    }

    /// One row per lock; the oldest holder stands for all.
    fn rows(&self, now: WallTime) -> String {
        let row = |lock: &Lock| {
            let first = lock.holders.first();
            let others = lock.holders_count.saturating_sub(1);
            let holder = first.map_or_else(String::new, |first| match others {
                0 => first.name(),
                _ => format!("{} (+{})", first.name(), thousands(others.into())),
            });
            vec![
                holder,
                first.map_or_else(String::new, |first| first.since.ago(now)),
                lease(lock),
                lock.waiters_count.to_string(),
                first.map_or_else(String::new, |first| first.token.0.to_string()),
                kind(lock),
                lock.name.clone(),
            ]
        };
        let rows: Vec<_> = self.locks.iter().map(row).collect();
        table(&["HOLDER", "SINCE", "LEASE", "WAITERS", "TOKEN", "MODE", "NAME"], &rows)
    }

    /// How many there are.
    fn footer(&self) -> String {
        let (locks, waiting) = (counted(self.locks_count.0, "lock"), self.waiters_count.0);
        let waiting = thousands(waiting);
        match self.has_more {
            true => format!("the first {locks}, {waiting} waiting; there are more: raise --limit"),
            false => format!("{locks}, {waiting} waiting"),
        }
    }

    fn table(&self, now: WallTime) -> String {
        format!("{}\n{}\n", self.rows(now), self.footer())
    }

    /// What fits on a screen of so many lines, painted over what is there.
    fn frame(&self, now: WallTime, remark: &str, (columns, lines): (usize, usize)) -> String {
        // Below the rows are an empty line, the footer, and the line of the cursor.
        const BELOW: usize = 3;
        let rows = self.rows(now);
        let room = lines.saturating_sub(BELOW).max(2);
        let hidden = rows.lines().count().saturating_sub(room) as u64;
        let mut footer = self.footer();
        if hidden > 0 {
            footer += &format!("; {} not on this screen", thousands(hidden));
        }
        footer += remark;
        let footer = cut(&footer, columns);
        let shown = rows.lines().take(room).chain(["", footer.as_str()]);
        let shown: String = shown.map(|line| format!("{line}\x1b[K\n")).collect();
        format!("\x1b[H{shown}\x1b[J")
    }
}

/// What is left of the oldest holder's lease, or what stands in its place.
fn lease(lock: &Lock) -> String {
    let left = |ms: Wide| short(Duration::from_millis(ms.0));
    match lock.holders.first() {
        None if lock.retry_after_ms.0 > 0 => format!("delay {}", left(lock.retry_after_ms)),
        None => String::new(),
        Some(first) if !first.ending_reason.is_empty() => "ending".to_owned(),
        Some(first) if first.orphaned => "orphaned".to_owned(),
        Some(first) => left(first.remaining_ms),
    }
}

/// Shows the list once, or until nobody looks any more.
pub async fn ls(client: &Client, args: LsArgs) -> Result<(), Failure> {
    if args.watch {
        return watch(client, &args).await;
    }
    let list = seen(client, &args).await.map_err(convert::failure)?;
    show(args.output, &list, |list| list.table(WallTime::now()))?;
    if let Some(hint) = glob_hint(&args.prefix).filter(|_| list.locks.is_empty()) {
        eprintln!("hint: {hint}");
    }
    Ok(())
}

async fn seen(client: &Client, args: &LsArgs) -> Result<LockList, CallError> {
    let limit = args.limit.map_or(usize::MAX, |limit| limit as usize);
    let mut locks = Vec::new();
    let mut page_token = String::new();
    loop {
        // One more than are shown: so it is known whether there are more.
        let wanted = limit.saturating_sub(locks.len()).saturating_add(1);
        let size = if args.waiting { PAGE_SIZE } else { wanted.min(PAGE_SIZE) };
        let page = client.list_locks_page(&args.prefix, size as u32, &page_token).await?;
        let found = page.locks.into_iter().filter(|lock| !args.waiting || lock.waiters_count > 0);
        locks.extend(found.map(convert::lock));
        let has_more = locks.len() > limit;
        match page.next_page_token {
            _ if has_more => {
                locks.truncate(limit);
                return Ok(LockList::new(locks, true));
            }
            None => return Ok(LockList::new(locks, false)),
            Some(next) => page_token = next,
        }
    }
}

/// Paints a terminal anew each second, or prints a document per second; until Ctrl-C, or until nobody
/// reads any more. A cluster that does not answer for a while may come back.
async fn watch(client: &Client, args: &LsArgs) -> Result<(), Failure> {
    let paints = args.output.output == Output::Table;
    if paints && !io::stdout().is_terminal() {
        let error = "--watch repaints a terminal, and stdout is none";
        let hint = "with --output json it prints a document per second, each on a line";
        return Err(Failure::new(USAGE, error).hint(hint));
    }
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = None;
    let mut silence: Option<String> = None;
    let mut clear = "\x1b[2J";
    loop {
        ticks.tick().await;
        match seen(client, args).await {
            Ok(list) => (last, silence) = (Some(list), None),
            Err(error @ (CallError::Unavailable { .. } | CallError::Indeterminate { .. }))
                if last.is_some() =>
            {
                if silence.is_none() && !paints {
                    eprintln!("sharklock: no list of locks, waiting: {error}");
                }
                silence = Some(format!("; as it was: {}", printable(&error.to_string())));
            }
            Err(error) => return Err(convert::failure(error)),
        }
        let list = last.as_ref().expect("without a first list this has ended");
        let text = match (&silence, paints) {
            (remark, true) => {
                let screen = screen().unwrap_or((usize::MAX, usize::MAX));
                let frame = list.frame(WallTime::now(), remark.as_deref().unwrap_or(""), screen);
                format!("{}{frame}", std::mem::take(&mut clear))
            }
            (None, false) => json_line(list),
            (Some(_), false) => continue,
        };
        if !print_on(&text)? {
            return Ok(());
        }
    }
}

/// For whoever takes a prefix for a pattern.
fn glob_hint(prefix: &str) -> Option<String> {
    let at = prefix.find(['*', '?'])?;
    let instead = match &prefix[..at] {
        "" => String::new(),
        begin => format!(" {}", shell_word(begin)),
    };
    Some(format!(
        "a prefix is not a pattern: `*` and `?` stand for themselves. Names that begin so: `sharklock \
         locks ls{instead}`"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{admin::view::Party, render::json};

    const NOW: WallTime = WallTime { unix_ms: 1_012_500 };

    fn held(name: &str, waiters_count: u32) -> Lock {
        let holder = Party {
            owner_id: "billing@host-3".into(),
            mode: "exclusive",
            token: Wide(u64::MAX),
            since: WallTime { unix_ms: 1_000_000 },
            remaining_ms: Wide(7_400),
            ..Party::default()
        };
        Lock {
            name: name.into(),
            mode: "exclusive",
            holders: vec![holder],
            holders_count: 1,
            waiters_count,
            ..Lock::default()
        }
    }

    #[test]
    fn a_list_has_a_row_per_lock_and_says_how_many_they_are() {
        let waited_for =
            Lock { mode: "shared", waiters_count: 1_003, name: "w".into(), ..Lock::default() };
        let delayed = Lock { retry_after_ms: Wide(4_200), name: "d".into(), ..Lock::default() };
        let list = LockList::new(vec![held("invoices/42", 3), waited_for, delayed], false);
        assert_eq!(
            list.table(NOW),
            "HOLDER          SINCE  LEASE       WAITERS  TOKEN                 MODE       NAME\n\
             billing@host-3  12s    7.4s        3        18446744073709551615  exclusive  invoices/42\n\
             -               -      -           1003     -                     shared     w\n\
             -               -      delay 4.2s  0        -                     -          d\n\
             \n\
             3 locks, 1,006 waiting\n"
        );
        let first = LockList::new(vec![held("a", 0)], true);
        let footer = "the first 1 lock, 0 waiting; there are more: raise --limit";
        assert_eq!(first.footer(), footer);
    }

    #[test]
    fn what_becomes_of_a_hold_is_told_in_place_of_its_lease() {
        let told = |change: fn(&mut Party)| {
            let mut lock = held("a", 0);
            change(&mut lock.holders[0]);
            lease(&lock)
        };
        assert_eq!(told(|_| ()), "7.4s");
        assert_eq!(told(|it| it.orphaned = true), "orphaned");
        assert_eq!(told(|it| it.ending_reason = "host-3 is gone".into()), "ending");
    }

    #[test]
    fn json_has_the_counts_in_fields() {
        let list = LockList::new(vec![held("a", 2), held("b", 1)], true);
        let value: serde_json::Value = serde_json::from_str(&json(&list)).expect("it is JSON");
        assert_eq!(value["schema"], "sharklock.v1.LockList");
        assert_eq!((&value["locks_count"], &value["waiters_count"]), (&"2".into(), &"3".into()));
        assert_eq!(value["has_more"], true);
        let holder = &value["locks"][0]["holders"][0];
        assert_eq!(holder["token"], "18446744073709551615");
        assert_eq!(holder["since"], "1970-01-01T00:16:40.000Z");
    }

    #[test]
    fn a_frame_fits_on_its_screen() {
        let locks = (0..30).map(|number| held(&format!("n/{number}"), 0)).collect();
        let frame = LockList::new(locks, false).frame(NOW, "", (50, 10));
        // The last line is the cursor's.
        assert_eq!(frame.matches('\n').count(), 9);
        assert!(frame.starts_with("\x1b[HHOLDER"), "{frame:?}");
        assert!(
            frame.contains("n/5\x1b[K\n\x1b[K\n30 locks, 0 waiting; 24 not on this screen\x1b[K"),
            "{frame:?}"
        );
        assert!(frame.ends_with("\x1b[J"), "{frame:?}");
    }

    #[test]
    fn a_pattern_is_met_with_a_hint() {
        let hint = glob_hint("inv oices/*.pdf").expect("it looks like one");
        assert!(hint.ends_with("`sharklock locks ls 'inv oices/'`"), "{hint}");
        assert!(glob_hint("?").expect("it looks like one").ends_with("`sharklock locks ls`"));
        assert_eq!(glob_hint("invoices/"), None);
    }
}
