//! `sharklock sessions …`: who holds and waits for what, over all ranges, and an end to it.

use std::{
    fmt::Write as _,
    time::{Duration, UNIX_EPOCH},
};

use serde::Serialize;
use sharklock_client::{
    CallError, Client, SessionLock as SeenLock, SessionRevoked, SessionSummary, SessionsAsked,
};
use tokio::time::{Instant, sleep};

use super::{
    client, convert, show,
    view::{Party, WallTime, Wide},
};
use crate::{
    args::{ReachArgs, RevokeArgs, SessionsCommand},
    exit::{DEGRADED, Failure, NOTHING, OK, UNREACHABLE, USAGE},
    identity,
    render::{counted, printable, short, table, thousands},
};

/// Digits of a handle.
const HANDLE_DIGITS: usize = 32;
/// Sessions named to somebody whose digits mean several.
const NAMED_MAX: usize = 4;
/// Between two looks at holds that are ending.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A session, as one of many.
#[derive(Debug, Serialize)]
pub struct Session {
    /// Its handle, as hex.
    pub session: String,
    /// Its owner, in its own words.
    pub owner_id: String,
    /// The address a gateway saw.
    pub client_address: String,
    /// Live holds.
    pub holds_count: Wide,
    /// Of those the ones that are ending.
    pub ending_count: Wide,
    /// Of those the ones whose lease has ended, and which stay.
    pub orphans_count: Wide,
    /// Acquisitions that wait.
    pub waiters_count: Wide,
    /// When the oldest of these was granted or queued; absent if that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<WallTime>,
}

/// `sessions ls`.
#[derive(Debug, Serialize)]
#[serde(tag = "schema", rename = "sharklock.v1.SessionList")]
pub struct SessionList {
    /// In order of their handles, as many as were asked for.
    pub sessions: Vec<Session>,
    /// How many there are in all.
    pub sessions_count: Wide,
}

/// A lock at which a session has something open.
#[derive(Debug, Serialize)]
pub struct SessionLock {
    /// The lock.
    pub name: String,
    /// The session's holds, at most 8.
    pub holds: Vec<Party>,
    /// How many it has in all.
    pub holds_count: u32,
    /// Its acquisitions that wait, at most 8.
    pub waits: Vec<SessionWait>,
    /// How many it has in all.
    pub waits_count: u32,
}

/// An acquisition that waits.
#[derive(Debug, Serialize)]
pub struct SessionWait {
    /// The acquisition.
    pub waiter: Party,
    /// 1 is next.
    pub place: u32,
    /// It waits for the end of a hold of an older instance of its own session.
    pub reclaims: bool,
}

/// `sessions show`.
#[derive(Debug, Serialize)]
#[serde(tag = "schema", rename = "sharklock.v1.Session")]
pub struct OneSession {
    /// Its handle, as hex.
    pub session: String,
    /// It has something open.
    pub found: bool,
    /// In byte order of their names.
    pub locks: Vec<SessionLock>,
}

/// `sessions revoke`.
#[derive(Debug, Serialize)]
#[serde(tag = "schema", rename = "sharklock.v1.SessionRevocation")]
pub struct Revocation {
    /// Its handle, as hex.
    pub session: String,
    /// It would be done: nothing was.
    pub dry_run: bool,
    /// There was something to end.
    pub found: bool,
    /// With `--wait`: none of its holds is ending any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<bool>,
    /// Its holds as they were, not necessarily all.
    pub holds: Vec<RevokedHold>,
    /// How many they are in all.
    pub holds_count: Wide,
    /// Acquisitions that waited, and have left.
    pub waiters_count: Wide,
    /// Ranges that were asked.
    pub ranges_count: Wide,
}

/// A hold that a revocation ends.
#[derive(Debug, Serialize)]
pub struct RevokedHold {
    /// The lock.
    pub name: String,
    /// The hold, as it was.
    pub holder: Party,
    /// It has ended already.
    pub ended: bool,
}

/// `sharklock sessions …`.
pub async fn sessions(reach: &ReachArgs, command: SessionsCommand) -> Result<u8, Failure> {
    let client = client(reach)?;
    match command {
        SessionsCommand::Ls { owner, limit, output } => {
            let (owner, session_prefix) = (owner.unwrap_or_default(), String::new());
            let asked = SessionsAsked { owner, session_prefix };
            let seen = client.list_sessions(&asked).await.map_err(failure)?;
            let sessions_count = Wide(seen.len() as u64);
            let sessions = seen.into_iter().take(limit as usize).map(Session::of).collect();
            let list = SessionList { sessions, sessions_count };
            show(output, &list, |list| list.table(WallTime::now()))?;
            Ok(OK)
        }
        SessionsCommand::Show { session, output } => {
            let session = whole_handle(&client, session).await?;
            let seen = client.get_session(&session).await.map_err(failure)?;
            let locks: Vec<_> = seen.into_iter().map(SessionLock::of).collect();
            let one = OneSession { session, found: !locks.is_empty(), locks };
            show(output, &one, |one| one.table(WallTime::now()))?;
            Ok(if one.found { OK } else { NOTHING })
        }
        SessionsCommand::Revoke(args) => revoke(&client, args).await,
    }
}

async fn revoke(client: &Client, args: RevokeArgs) -> Result<u8, Failure> {
    let deadline = Instant::now() + args.timeout;
    let session = whole_handle(client, args.session).await?;
    let operator = identity::default_owner();
    let done = match args.dry_run {
        true => client.plan_revocation(&session).await,
        false => client.revoke_session(&session, &args.reason, &operator).await,
    };
    let mut revocation = Revocation::of(session, args.dry_run, done.map_err(failure)?);
    if args.wait && revocation.found {
        revocation.ended = Some(until_ended(client, &revocation.session, deadline).await?);
    }
    show(args.output, &revocation, |it| it.table(WallTime::now()))?;
    Ok(match (revocation.found, revocation.ended) {
        (false, _) => NOTHING,
        (true, Some(false)) => DEGRADED,
        (true, Some(true) | None) => OK,
    })
}

/// Whether no hold of the session is ending any more, before the deadline. What it acquires meanwhile
/// is not waited for. Whoever does not answer is asked again.
async fn until_ended(client: &Client, session: &str, deadline: Instant) -> Result<bool, Failure> {
    let (owner, session_prefix) = (String::new(), session.to_owned());
    let asked = SessionsAsked { owner, session_prefix };
    let mut told = None;
    loop {
        let is_late = Instant::now() >= deadline;
        match client.list_sessions(&asked).await {
            Ok(seen) => {
                let ending: u64 = seen.iter().map(|session| session.ending_count).sum();
                if ending == 0 {
                    return Ok(true);
                }
                if told != Some(ending) {
                    eprintln!("sharklock: {ending} of its holds have not ended yet");
                    told = Some(ending);
                }
                if is_late {
                    eprintln!("sharklock: not ended in time; its holds end all the same");
                    return Ok(false);
                }
            }
            Err(CallError::Unavailable { .. }) if !is_late => {}
            Err(error) => return Err(failure(error)),
        }
        sleep(LOOK_EVERY).await;
    }
}

/// The handle that is meant: whole, or the one of a session that begins with these digits.
async fn whole_handle(client: &Client, digits: String) -> Result<String, Failure> {
    if digits.len() == HANDLE_DIGITS {
        return Ok(digits);
    }
    let (owner, session_prefix) = (String::new(), digits.clone());
    let asked = SessionsAsked { owner, session_prefix };
    let found = client.list_sessions(&asked).await.map_err(failure)?;
    match found.as_slice() {
        [only] => Ok(only.session.clone()),
        [] => {
            let error = format!("no session whose handle begins with {digits} has anything open");
            Err(Failure::new(NOTHING, error).hint("look with `sharklock sessions ls`"))
        }
        several => {
            let error = format!("{} sessions begin with {digits}", several.len());
            let named = several.iter().take(NAMED_MAX);
            let named = named.map(|it| format!("{} {}", it.session, it.owner));
            let failure = named.fold(Failure::new(USAGE, error), Failure::cause);
            Err(failure.hint("give more digits of the one that is meant"))
        }
    }
}

fn failure(error: CallError) -> Failure {
    match error {
        CallError::Indeterminate { message } => {
            let error = "no answer came: some ranges may have revoked the session, and others not";
            Failure::new(UNREACHABLE, error)
                .cause(message)
                .hint("ask again: to revoke it twice ends no more than once")
        }
        other => convert::failure(other),
    }
}

impl Session {
    fn of(seen: SessionSummary) -> Self {
        let ms = |since: Duration| u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let since = seen.since.map(|since| since.duration_since(UNIX_EPOCH).map_or(0, ms));
        Self {
            session: seen.session,
            owner_id: seen.owner,
            client_address: seen.address,
            holds_count: Wide(seen.holds_count),
            ending_count: Wide(seen.ending_count),
            orphans_count: Wide(seen.orphans_count),
            waiters_count: Wide(seen.waiters_count),
            since: since.map(|unix_ms| WallTime { unix_ms }),
        }
    }

    /// `3 (1 ending, 1 orphaned)`.
    fn holds(&self) -> String {
        let parts = [(self.ending_count, "ending"), (self.orphans_count, "orphaned")];
        let parts = parts.iter().filter(|(count, _)| count.0 > 0);
        let parts: Vec<_> = parts.map(|(count, what)| format!("{} {what}", count.0)).collect();
        match parts.as_slice() {
            [] => self.holds_count.0.to_string(),
            parts => format!("{} ({})", self.holds_count.0, parts.join(", ")),
        }
    }
}

impl SessionList {
    fn table(&self, now: WallTime) -> String {
        let row = |it: &Session| {
            vec![
                it.session.clone(),
                it.holds(),
                it.waiters_count.0.to_string(),
                it.since.map_or("-".to_owned(), |since| since.ago(now)),
                it.client_address.clone(),
                it.owner_id.clone(),
            ]
        };
        let rows: Vec<_> = self.sessions.iter().map(row).collect();
        let all = table(&["SESSION", "HOLDS", "WAITS", "SINCE", "ADDRESS", "OWNER"], &rows);
        let hidden = self.sessions_count.0.saturating_sub(self.sessions.len() as u64);
        let more = match hidden {
            0 => String::new(),
            hidden => format!(", {} of them not shown: raise --limit", thousands(hidden)),
        };
        format!("{all}\n{}{more}\n", counted(self.sessions_count.0, "session"))
    }
}

impl SessionLock {
    pub fn of(seen: SeenLock) -> Self {
        let wait = |wait: sharklock_client::SessionWait| SessionWait {
            waiter: convert::party(wait.waiter),
            place: wait.place,
            reclaims: wait.reclaims,
        };
        Self {
            name: seen.name,
            holds: seen.holds.into_iter().map(convert::party).collect(),
            holds_count: seen.holds_count,
            waits: seen.waits.into_iter().map(wait).collect(),
            waits_count: seen.waits_count,
        }
    }
}

impl OneSession {
    fn table(&self, now: WallTime) -> String {
        let session = &self.session;
        let parties = self
            .locks
            .iter()
            .flat_map(|lock| lock.holds.iter().chain(lock.waits.iter().map(|wait| &wait.waiter)));
        let Some(first) = parties.clone().next() else {
            return format!("session {session} has nothing open\n");
        };
        let holds: u64 = self.locks.iter().map(|lock| u64::from(lock.holds_count)).sum();
        let waits: u64 = self.locks.iter().map(|lock| u64::from(lock.waits_count)).sum();
        let owner = match first.owner_id.as_str() {
            "" => "no owner given".to_owned(),
            owner => printable(owner),
        };
        let address = printable(&first.client_address);
        let mut text = format!("session {session}: {owner}, from {address}\n");
        let held = self
            .locks
            .iter()
            .flat_map(|lock| lock.holds.iter().map(|hold| hold_row(lock, hold, now)));
        let held: Vec<_> = held.collect();
        if !held.is_empty() {
            let _ = write!(
                text,
                "\n{}",
                table(&["TOKEN", "MODE", "SINCE", "LEASE", "CONDITION", "HOLDS"], &held)
            );
        }
        let waiting = self
            .locks
            .iter()
            .flat_map(|lock| lock.waits.iter().map(|wait| wait_row(lock, wait, now)));
        let waiting: Vec<_> = waiting.collect();
        if !waiting.is_empty() {
            let _ = write!(
                text,
                "\n{}",
                table(&["PLACE", "WANTS", "SINCE", "LEASE", "WAITS FOR"], &waiting)
            );
        }
        let hidden = holds + waits - (held.len() + waiting.len()) as u64;
        let more = if hidden > 0 { format!(", {hidden} of them not shown") } else { String::new() };
        let _ = writeln!(text, "\n{}, {waits} waiting{more}", counted(holds, "hold"));
        text
    }
}

fn hold_row(lock: &SessionLock, hold: &Party, now: WallTime) -> Vec<String> {
    vec![
        hold.token.0.to_string(),
        hold.mode.to_owned(),
        hold.since.ago(now),
        hold.lease(),
        hold.agreement.words(),
        lock.name.clone(),
    ]
}

fn wait_row(lock: &SessionLock, wait: &SessionWait, now: WallTime) -> Vec<String> {
    let since = match wait.waiter.since.unix_ms {
        0 => "-".to_owned(),
        _ => wait.waiter.since.ago(now),
    };
    let place = match wait.reclaims {
        true => "reclaims".to_owned(),
        false => wait.place.to_string(),
    };
    vec![place, wait.waiter.mode.to_owned(), since, wait.waiter.lease(), lock.name.clone()]
}

impl Revocation {
    fn of(session: String, dry_run: bool, done: SessionRevoked) -> Self {
        let hold = |hold: sharklock_client::RevokedHold| RevokedHold {
            name: hold.name,
            holder: convert::party(hold.holder),
            ended: hold.ended,
        };
        Self {
            session,
            dry_run,
            found: done.holds_count + done.waiters_count > 0,
            ended: None,
            holds: done.holds.into_iter().map(hold).collect(),
            holds_count: Wide(done.holds_count),
            waiters_count: Wide(done.waiters_count),
            ranges_count: Wide(done.ranges_count),
        }
    }

    fn table(&self, now: WallTime) -> String {
        let Self { session, holds_count, waiters_count, .. } = self;
        if !self.found {
            return format!("session {session} has nothing open: nothing to end\n");
        }
        let row = |hold: &RevokedHold| {
            let left = short(Duration::from_millis(hold.holder.remaining_ms.0));
            let state = match (self.dry_run, hold.ended, self.ended) {
                (true, ..) => "would end".to_owned(),
                (_, true, _) | (.., Some(true)) => "has ended".to_owned(),
                _ => format!("ends when its holder stops, in {left} at the latest"),
            };
            vec![
                hold.holder.token.0.to_string(),
                hold.holder.since.ago(now),
                state,
                hold.name.clone(),
            ]
        };
        let rows: Vec<_> = self.holds.iter().map(row).collect();
        let mut text = match rows.as_slice() {
            [] => String::new(),
            rows => format!("{}\n", table(&["TOKEN", "SINCE", "STATE", "LOCK"], rows)),
        };
        let holds = counted(holds_count.0, "hold");
        let ranges = counted(self.ranges_count.0, "range");
        let hidden = holds_count.0.saturating_sub(self.holds.len() as u64);
        let more = if hidden > 0 { format!(" ({hidden} not shown)") } else { String::new() };
        let _ = match self.dry_run {
            true => writeln!(
                text,
                "{holds}{more} would end and {} leave, in {ranges}; nothing was done",
                waiters_count.0
            ),
            false => writeln!(
                text,
                "{holds}{more}; {} no longer waiting; {ranges} asked",
                waiters_count.0
            ),
        };
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::json;

    const NOW: WallTime = WallTime { unix_ms: 1_012_500 };

    fn party(token: u64) -> Party {
        Party {
            session: "c0ffee".repeat(5) + "00",
            owner_id: "billing@host-3".into(),
            client_address: "127.0.0.1:5000".into(),
            mode: "exclusive",
            token: Wide(token),
            since: WallTime { unix_ms: 1_000_000 },
            remaining_ms: Wide(7_400),
            ..Party::default()
        }
    }

    fn session(ending: u64, orphans: u64) -> Session {
        Session {
            session: "c0ffee".into(),
            owner_id: "billing@host-3".into(),
            client_address: "127.0.0.1:5000".into(),
            holds_count: Wide(3),
            ending_count: Wide(ending),
            orphans_count: Wide(orphans),
            waiters_count: Wide(1),
            since: Some(WallTime { unix_ms: 1_000_000 }),
        }
    }

    #[test]
    fn a_list_has_a_row_per_session_and_says_what_it_leaves_out() {
        let sessions = vec![session(1, 1), Session { since: None, ..session(0, 0) }];
        let list = SessionList { sessions, sessions_count: Wide(5) };
        assert_eq!(
            list.table(NOW),
            "SESSION  HOLDS                     WAITS  SINCE  ADDRESS         OWNER\n\
             c0ffee   3 (1 ending, 1 orphaned)  1      12s    127.0.0.1:5000  billing@host-3\n\
             c0ffee   3                         1      -      127.0.0.1:5000  billing@host-3\n\
             \n\
             5 sessions, 3 of them not shown: raise --limit\n"
        );
        let value: serde_json::Value = serde_json::from_str(&json(&list)).expect("it is JSON");
        assert_eq!(value["schema"], "sharklock.v1.SessionList");
        assert_eq!(value["sessions"][0]["holds_count"], "3");
        assert_eq!(value["sessions"][0]["since"], "1970-01-01T00:16:40.000Z");
        assert!(value["sessions"][1].get("since").is_none());
    }

    #[test]
    fn a_session_shows_what_it_holds_then_what_it_waits_for() {
        let lock = |name: &str, holds: Vec<Party>, waits: Vec<SessionWait>| SessionLock {
            name: name.to_owned(),
            holds_count: holds.len() as u32,
            holds,
            waits_count: waits.len() as u32,
            waits,
        };
        let wait = SessionWait { waiter: party(0), place: 2, reclaims: false };
        let locks = vec![lock("a", vec![party(7)], vec![]), lock("b", vec![], vec![wait])];
        let one = OneSession { session: "c0ffee".into(), found: true, locks };
        assert_eq!(
            one.table(NOW),
            "session c0ffee: billing@host-3, from 127.0.0.1:5000\n\
             \n\
             TOKEN  MODE       SINCE  LEASE  CONDITION  HOLDS\n\
             7      exclusive  12s    7.4s   -          a\n\
             \n\
             PLACE  WANTS      SINCE  LEASE  WAITS FOR\n\
             2      exclusive  12s    7.4s   b\n\
             \n\
             1 hold, 1 waiting\n"
        );
        let none = OneSession { found: false, locks: vec![], ..one };
        assert_eq!(none.table(NOW), "session c0ffee has nothing open\n");
    }

    #[test]
    fn a_revocation_says_what_it_ends_and_what_it_would_end() {
        let hold = RevokedHold { name: "a".into(), holder: party(7), ended: false };
        let mut done = Revocation {
            session: "c0ffee".into(),
            dry_run: false,
            found: true,
            ended: None,
            holds: vec![hold],
            holds_count: Wide(2),
            waiters_count: Wide(1),
            ranges_count: Wide(3),
        };
        assert_eq!(
            done.table(NOW),
            "TOKEN  SINCE  STATE                                              LOCK\n\
             7      12s    ends when its holder stops, in 7.4s at the latest  a\n\
             \n\
             2 holds (1 not shown); 1 no longer waiting; 3 ranges asked\n"
        );
        done.ended = Some(true);
        assert!(done.table(NOW).contains("has ended"), "{}", done.table(NOW));
        done.dry_run = true;
        let text = done.table(NOW);
        assert!(text.contains("would end") && text.ends_with("nothing was done\n"), "{text}");
        done.found = false;
        assert_eq!(done.table(NOW), "session c0ffee has nothing open: nothing to end\n");
    }
}
