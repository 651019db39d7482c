//! The views of operators: locks, stores and ranges, as JSON of a fixed schema and as tables.
//!
//! JSON: every document names its `schema`; fields are called as in the `.proto` files; 64-bit
//! numbers are strings, as in proto3 JSON, because many readers keep only 53 bits; times are
//! RFC 3339. Tables show times relative to now.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Serialize, Serializer};

use crate::render::{printable, short, table, thousands};

/// A number that JSON readers must not round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wide(pub u64);

impl Serialize for Wide {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// The mode of a lock that nobody holds or waits for: its place is taken by a lock-delay.
pub const UNKNOWN: &str = "unknown";

/// A time on the leader's wall clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WallTime {
    /// Milliseconds since 1970 began, UTC.
    pub unix_ms: u64,
}

impl WallTime {
    /// This machine's clock now. It may differ from the leader's: for people only.
    #[expect(clippy::disallowed_methods, reason = "shown to people, decides nothing")]
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { unix_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX) }
    }

    /// How long ago; `-` where it is not known.
    pub fn ago(self, now: Self) -> String {
        if self.unix_ms == 0 {
            return "-".to_owned();
        }
        short(Duration::from_millis(now.unix_ms.saturating_sub(self.unix_ms)))
    }
}

impl WallTime {
    /// `2026-11-28T17:05:09.123Z`.
    pub fn rfc3339(self) -> String {
        // Times past the year 9999 have no RFC 3339 form; a clock that says so is wrong anyway.
        let limit = Duration::from_secs(253_402_300_799);
        let time = UNIX_EPOCH + Duration::from_millis(self.unix_ms).min(limit);
        humantime::format_rfc3339_millis(time).to_string()
    }

    /// `20261128T170509Z`, for names of files.
    pub fn compact(self) -> String {
        let whole = self.rfc3339();
        let seconds = whole.split('.').next().unwrap_or_default();
        seconds.chars().filter(|c| !"-:".contains(*c)).chain(['Z']).collect()
    }
}

impl Serialize for WallTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.rfc3339())
    }
}

/// The point of a range's log at which an answer holds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Position {
    /// The range that answered.
    pub range_id: Wide,
    /// Counts membership changes of the range.
    pub conf_ver: Wide,
    /// Counts changes of the range's bounds.
    pub version: Wide,
    /// The answer reflects the range's log up to this index.
    pub applied_index: Wide,
}

/// A holder or a waiter.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Party {
    /// The session's handle, as hex.
    pub session: String,
    /// Its owner, in its own words.
    pub owner_id: String,
    /// The address its gateway saw.
    pub client_address: String,
    /// Further words of the owner about itself.
    pub attributes: BTreeMap<String, String>,
    /// How it is held, or wanted: `exclusive`, `shared`, `permits`.
    pub mode: &'static str,
    /// Units held or wanted; 0 unless `permits`.
    pub permits: u32,
    /// Fencing token; 0 for a waiter.
    pub token: Wide,
    /// The number that a resource compares: the token for an exclusive hold.
    pub fence_floor: Wide,
    /// When it was granted, or queued.
    pub since: WallTime,
    /// Length of its lease, milliseconds.
    pub ttl_ms: Wide,
    /// The rest of its lease at most, milliseconds.
    pub remaining_ms: Wide,
    /// Acquisitions open on the hold; 0 for a waiter.
    pub open_acquisitions: u32,
    /// Why an operator asked for its end; empty if nobody did.
    pub ending_reason: String,
    /// What may end the hold, or will be able to once the waiter holds.
    pub agreement: Agreement,
    /// Its lease has ended, and it stays for its session.
    pub orphaned: bool,
    /// Somebody who waits has asked for the lock; absent if nobody has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked: Option<AskMark>,
    /// One order over holders and waiters: who came earlier has the smaller one; 0 from before servers
    /// gave them.
    pub arrival: Wide,
    /// The life of its client's process under the session.
    pub instance: Wide,
}

/// What a client and the cluster have agreed about a hold.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Agreement {
    /// What the end of the lease means: `on_expiry`, `after_missed`, `hold`.
    pub lease: &'static str,
    /// `after_missed`: how many keepalives in a row may be missed; 0 otherwise.
    pub missed: u32,
    /// `after_missed`: how often one is sent, milliseconds; 0 otherwise.
    pub interval_ms: Wide,
    /// How long the place stays taken after an end that was no release, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lock_delay_ms: Option<Wide>,
    /// How long it is held at most, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_hold_ms: Option<Wide>,
    /// How long it is held on after somebody has asked for it, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ask_grace_ms: Option<Wide>,
    /// Counts the changes of the condition since the grant.
    pub revision: Wide,
    /// `hold` has taken effect.
    pub claimed: bool,
}

/// Somebody who waits has asked for a lock.
#[derive(Clone, Debug, Default, Serialize)]
pub struct AskMark {
    /// The session that asked; empty if that is not known.
    pub session: String,
    /// The owner id with which it waits.
    pub owner_id: String,
    /// Since when.
    pub since: WallTime,
    /// How long the holder may go on after that, milliseconds.
    pub grace_ms: Wide,
    /// The rest of that at most, milliseconds.
    pub remaining_ms: Wide,
}

impl Agreement {
    /// `hold, lock-delay 5s`; `-` where nothing is agreed but the lease.
    pub fn words(&self) -> String {
        let mut words = match self.lease {
            "after_missed" => {
                vec![format!("after {} missed, each {}", self.missed, exactly(self.interval_ms))]
            }
            "hold" if self.claimed => vec!["hold".to_owned()],
            "hold" => vec!["hold, not claimed".to_owned()],
            _ => Vec::new(),
        };
        for (clause, ms) in [
            ("max-hold", self.max_hold_ms),
            ("ask-grace", self.ask_grace_ms),
            ("lock-delay", self.lock_delay_ms),
        ] {
            words.extend(ms.map(|ms| format!("{clause} {}", exactly(ms))));
        }
        if words.is_empty() { "-".to_owned() } else { words.join(", ") }
    }
}

/// As it was asked for: `1m 30s`.
fn exactly(ms: Wide) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_millis(ms.0))
}

impl Party {
    /// What people call it.
    pub fn name(&self) -> String {
        let name = match self.owner_id.as_str() {
            "" => self.session.as_str(),
            owner => owner,
        };
        match self.permits {
            0 => name.to_owned(),
            n => format!("{name} ({n})"),
        }
    }

    /// What is left of its lease, or what has become of it.
    pub fn lease(&self) -> String {
        match (self.ending_reason.as_str(), &self.asked) {
            ("", _) if self.orphaned => "orphaned".to_owned(),
            ("", None) => short(Duration::from_millis(self.remaining_ms.0)),
            ("", Some(asked)) => {
                let left = short(Duration::from_millis(asked.remaining_ms.0));
                format!("asked for it, {left} left")
            }
            (reason, _) => format!("ending: {reason}"),
        }
    }
}

/// A lock that is held or waited for.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Lock {
    /// Its name.
    pub name: String,
    /// Its kind while live.
    pub mode: &'static str,
    /// Units it has; 0 unless `permits`.
    pub permits_max: u32,
    /// Holders in order of their tokens, not necessarily all.
    pub holders: Vec<Party>,
    /// Waiters in order, not necessarily all.
    pub waiters: Vec<Party>,
    /// How many hold it.
    pub holders_count: u32,
    /// How many wait for it.
    pub waiters_count: u32,
    /// Not 0 while a lock-delay keeps the place of a hold that has ended taken, milliseconds.
    pub retry_after_ms: Wide,
}

/// `locks show`.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "schema", rename = "sharklock.v1.Lock")]
pub struct OneLock {
    /// The place in its range's log at which this held.
    pub position: Position,
    /// The name that was asked for.
    pub name: String,
    /// Nobody holds it or waits for it.
    pub free: bool,
    /// Absent when it is free.
    pub lock: Option<Lock>,
}

impl OneLock {
    /// The lock, its holders, its queue.
    pub fn table(&self, now: WallTime) -> String {
        let name = printable(&self.name);
        let Some(lock) = &self.lock else {
            return format!("{name} is free\n");
        };
        let mut text = match lock.holders_count {
            0 => format!("{name}: not held\n"),
            count => format!("{name}: {}, held by {}\n", kind(lock), thousands(count.into())),
        };
        let holder = |party: &Party| {
            vec![
                party.token.0.to_string(),
                party.name(),
                party.since.ago(now),
                party.lease(),
                party.agreement.words(),
                party.client_address.clone(),
                party.session.clone(),
            ]
        };
        let holders: Vec<_> = lock.holders.iter().map(holder).collect();
        if !holders.is_empty() {
            let header = ["TOKEN", "HOLDER", "SINCE", "LEASE", "CONDITION", "ADDRESS", "SESSION"];
            text += &format!("\n{}", table(&header, &holders));
        }
        if lock.retry_after_ms.0 > 0 {
            let left = short(Duration::from_millis(lock.retry_after_ms.0));
            let _ = writeln!(text, "a lock-delay keeps it taken for {left} more");
        }
        if lock.waiters_count > 0 {
            let waiter = |(place, party): (usize, &Party)| {
                vec![
                    (place + 1).to_string(),
                    party.name(),
                    party.since.ago(now),
                    party.mode.to_owned(),
                    party.agreement.words(),
                    party.client_address.clone(),
                    party.session.clone(),
                ]
            };
            let waiters: Vec<_> = lock.waiters.iter().enumerate().map(waiter).collect();
            text.push('\n');
            let header = ["PLACE", "WAITER", "SINCE", "WANTS", "CONDITION", "ADDRESS", "SESSION"];
            text += &table(&header, &waiters);
            let hidden = (lock.waiters_count as usize).saturating_sub(lock.waiters.len());
            if hidden > 0 {
                let _ = writeln!(text, "and {} more", thousands(hidden as u64));
            }
        }
        text
    }
}

/// Its kind while live; empty where nothing is known of it.
pub fn kind(lock: &Lock) -> String {
    match lock.permits_max {
        0 if lock.mode == UNKNOWN => String::new(),
        0 => lock.mode.to_owned(),
        max => format!("permits of {max}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::json;

    fn party(owner: &str, token: u64) -> Party {
        Party {
            session: "c0ffee".into(),
            owner_id: owner.into(),
            client_address: "127.0.0.1:5000".into(),
            mode: "exclusive",
            token: Wide(token),
            fence_floor: Wide(token),
            since: WallTime { unix_ms: 1_000_000 },
            ttl_ms: Wide(10_000),
            remaining_ms: Wide(7_400),
            open_acquisitions: u32::from(token > 0),
            ..Party::default()
        }
    }

    fn lock() -> Lock {
        Lock {
            name: "invoices/42".into(),
            mode: "exclusive",
            holders: vec![party("billing@host-3", u64::MAX)],
            waiters: vec![party("audit@host-4", 0)],
            holders_count: 1,
            waiters_count: 3,
            ..Lock::default()
        }
    }

    const NOW: WallTime = WallTime { unix_ms: 1_012_500 };

    #[test]
    fn a_lock_shows_its_holders_then_its_queue() {
        let one = OneLock {
            position: Position::default(),
            name: "invoices/42".into(),
            free: false,
            lock: Some(lock()),
        };
        assert_eq!(
            one.table(NOW),
            "invoices/42: exclusive, held by 1\n\
             \n\
             TOKEN                 HOLDER          SINCE  LEASE  CONDITION  ADDRESS         SESSION\n\
             18446744073709551615  billing@host-3  12s    7.4s   -          127.0.0.1:5000  c0ffee\n\
             \n\
             PLACE  WAITER        SINCE  WANTS      CONDITION  ADDRESS         SESSION\n\
             1      audit@host-4  12s    exclusive  -          127.0.0.1:5000  c0ffee\n\
             and 2 more\n"
        );
        let waited_for = Lock { holders: vec![], holders_count: 0, ..lock() };
        let text = OneLock { lock: Some(waited_for), ..one.clone() }.table(NOW);
        assert!(text.starts_with("invoices/42: not held\n\nPLACE  WAITER"), "{text}");
        let free = OneLock { lock: None, free: true, ..one };
        assert_eq!(free.table(NOW), "invoices/42 is free\n");
    }

    #[test]
    fn what_is_agreed_is_told_in_words() {
        let words = |agreement: Agreement| agreement.words();
        let plain = Agreement { lease: "on_expiry", ..Agreement::default() };
        assert_eq!(words(plain.clone()), "-");
        let hold = Agreement { lease: "hold", lock_delay_ms: Some(Wide(5_000)), ..plain.clone() };
        assert_eq!(words(hold.clone()), "hold, not claimed, lock-delay 5s");
        assert_eq!(words(Agreement { claimed: true, ..hold }), "hold, lock-delay 5s");
        let bounds = (Some(Wide(60_000)), Some(Wide(500)));
        let missed = Agreement {
            lease: "after_missed",
            missed: 3,
            interval_ms: Wide(2_000),
            max_hold_ms: bounds.0,
            ask_grace_ms: bounds.1,
            ..plain
        };
        assert_eq!(words(missed), "after 3 missed, each 2s, max-hold 1m, ask-grace 500ms");
        let mark = AskMark { remaining_ms: Wide(3_000), ..AskMark::default() };
        let asked = Party { asked: Some(mark), ..party("a", 7) };
        assert_eq!(asked.lease(), "asked for it, 3.0s left");
        assert_eq!(Party { orphaned: true, ..party("a", 7) }.lease(), "orphaned");
    }

    #[test]
    fn a_time_beyond_rfc_3339_is_still_json() {
        let text = json(&WallTime { unix_ms: u64::MAX });
        assert_eq!(text, "\"9999-12-31T23:59:59.000Z\"\n");
    }
}
