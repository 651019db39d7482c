//! `sharklock ranges …`: ranges, one by one and as a list, and what a split does; as JSON of a fixed
//! schema and as tables.

use std::fmt::Write as _;

use serde::Serialize;

use super::view::{Position, Wide};
use crate::render::{counted, printable, table, thousands};

/// One range.
#[derive(Debug, Default, Serialize)]
pub struct Range {
    /// The range.
    pub range_id: Wide,
    /// First name; empty: from the beginning.
    pub start: String,
    /// First name after it; empty: to the end.
    pub end: String,
    /// The place in its range's log at which this held.
    pub position: Position,
    /// The leader's store; 0 when there is none.
    pub leader_store_id: Wide,
    /// Raft term.
    pub term: Wide,
    /// Raft's committed index.
    pub commit_index: Wide,
    /// Applied index of the image on disk.
    pub flushed_index: Wide,
    /// First index of the log that is kept.
    pub log_first_index: Wide,
    /// Hash of the range's state, as hex.
    pub state_hash: String,
    /// Locks with a holder or a waiter.
    pub locks: Wide,
    /// Live holds.
    pub holds: Wide,
    /// Waiting acquisitions.
    pub waiters: Wide,
    /// The memory of its locks on the store that tells of it, bytes.
    pub state_bytes: Wide,
    /// In the last 10 s; absent: its leader has not led for so long.
    pub commands_per_second: Option<Wide>,
    /// It is being split: the first name of the upper half. Empty: it is not.
    pub splitting_at: String,
    /// It has more of something than it is split for, and is not split: why. Empty: it has not.
    pub unsplit_because: String,
    /// The lock that has most of that, if that is why. Empty: it is not.
    pub hot_name: String,
    /// The things that it waits for or lacks, a sentence each.
    pub waits_for: Vec<String>,
    /// Stores of its voters.
    pub voter_store_ids: Vec<Wide>,
    /// Its copies as the leader knows them; none while nobody leads.
    pub replicas: Vec<Replica>,
    /// A range that was split off and that nobody has led yet; 0: there is none.
    pub awaited_range_id: Wide,
    /// The size of the log that is kept for it, bytes.
    pub log_bytes: Wide,
    /// Beyond so many acquires are refused.
    pub log_bytes_max: Wide,
}

/// One copy of a range.
#[derive(Debug, Serialize)]
pub struct Replica {
    /// Its store.
    pub store_id: Wide,
    /// Its peer id in the range's Raft group.
    pub peer_id: Wide,
    /// It votes; otherwise it is a learner.
    pub is_voter: bool,
    /// It leads.
    pub is_leader: bool,
    /// Entries that the leader has and this one lacks, as far as the leader knows.
    pub lag: Wide,
    /// The leader has heard of it within an election timeout.
    pub is_active: bool,
    /// It is being sent a snapshot.
    pub in_snapshot: bool,
    /// The leader has not heard of it yet, and has not led for long: as right after a split.
    pub is_new: bool,
}

impl Range {
    /// Its bounds: `[begin, jobs/7)`.
    pub fn names(&self) -> String {
        interval(&self.start, &self.end)
    }

    /// The leader's store, or `none`.
    pub fn leader(&self) -> String {
        match self.leader_store_id.0 {
            0 => "none".to_owned(),
            store => store.to_string(),
        }
    }

    /// Stores of the replicas, each with what it lacks: `1 2 3 (-40) 4 (silent) 5 (new)`.
    pub fn replicas(&self) -> String {
        if self.replicas.is_empty() {
            return joined(&self.voter_store_ids);
        }
        let one = |replica: &Replica| {
            let learner = if replica.is_voter { "" } else { " learner" };
            let state = match (replica.is_leader, replica.in_snapshot, replica.is_active) {
                (true, ..) => String::new(),
                (false, true, _) => " (snapshot)".to_owned(),
                (false, false, false) if replica.is_new => " (new)".to_owned(),
                (false, false, false) if replica.lag.0 == 0 => " (silent)".to_owned(),
                (false, false, false) => format!(" (silent, -{})", replica.lag.0),
                (false, false, true) if replica.lag.0 > 0 => format!(" (-{})", replica.lag.0),
                (false, false, true) => String::new(),
            };
            format!("{}{learner}{state}", replica.store_id.0)
        };
        self.replicas.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    /// In one word, for a table.
    fn state(&self) -> &'static str {
        match self {
            Self { leader_store_id: Wide(0), .. } => "NO LEADER",
            Self { splitting_at, .. } if !splitting_at.is_empty() => "splitting",
            Self { waits_for, .. } if !waits_for.is_empty() => "waits",
            Self { hot_name, .. } if !hot_name.is_empty() => "hot lock",
            Self { unsplit_because, .. } if !unsplit_because.is_empty() => "not split",
            _ => "ok",
        }
    }

    fn commands_per_second(&self) -> String {
        self.commands_per_second.map_or_else(|| "-".to_owned(), |it| it.0.to_string())
    }

    /// `ranges show`.
    pub fn table(&self) -> String {
        let Position { conf_ver, version, applied_index, .. } = self.position;
        let mut text = format!("range {}: {}\n\n", self.range_id.0, printable(&self.names()));
        let rows = [
            ("leader", format!("store {}, term {}", self.leader(), self.term.0)),
            ("replicas", self.replicas()),
            ("epoch", format!("conf_ver {}, version {}", conf_ver.0, version.0)),
            ("locks", self.locks.0.to_string()),
            ("holds", self.holds.0.to_string()),
            ("waiters", self.waiters.0.to_string()),
            ("memory", kib(self.state_bytes)),
            ("commands/s", self.commands_per_second()),
            ("applied", applied_index.0.to_string()),
            ("state", self.state().to_owned()),
        ];
        let rows = rows.map(|(what, is)| vec![what.to_owned(), is]);
        text += &table(&["WHAT", "IS"], &rows);
        if !self.splitting_at.is_empty() {
            let _ = writeln!(text, "\nit is being split at {}", printable(&self.splitting_at));
        }
        if !self.unsplit_because.is_empty() {
            let _ = writeln!(text, "\nit is not split: {}", printable(&self.unsplit_because));
        }
        for sentence in &self.waits_for {
            let _ = writeln!(text, "\nwarning: {}", printable(sentence));
        }
        text
    }
}

/// `ranges show`.
#[derive(Debug, Serialize)]
#[serde(tag = "schema", rename = "sharklock.v1.Range")]
pub struct OneRange {
    /// The range.
    pub range: Range,
}

/// `ranges ls`.
#[derive(Debug, Serialize)]
#[serde(tag = "schema", rename = "sharklock.v1.RangeList")]
pub struct RangeList {
    /// In order of their names. No snapshot: a range may have split since.
    pub ranges: Vec<Range>,
}

impl RangeList {
    /// One row per range, and their sums.
    pub fn table(&self) -> String {
        let row = |range: &Range| {
            vec![
                range.range_id.0.to_string(),
                range.state().to_owned(),
                range.leader(),
                range.replicas(),
                range.locks.0.to_string(),
                range.holds.0.to_string(),
                range.waiters.0.to_string(),
                kib(range.state_bytes),
                range.commands_per_second(),
                range.names(),
            ]
        };
        let rows: Vec<_> = self.ranges.iter().map(row).collect();
        let header = [
            "RANGE", "STATE", "LEADER", "REPLICAS", "LOCKS", "HOLDS", "WAITERS", "MEMORY", "CMD/S",
            "NAMES",
        ];
        let sum = |of: fn(&Range) -> Wide| thousands(self.ranges.iter().map(|it| of(it).0).sum());
        format!(
            "{}\n{}: {} locks, {} holds, {} waiters\n",
            table(&header, &rows),
            counted(self.ranges.len() as u64, "range"),
            sum(|range| range.locks),
            sum(|range| range.holds),
            sum(|range| range.waiters),
        )
    }
}

/// One half of a split.
#[derive(Debug, Serialize)]
pub struct Part {
    /// The range; 0: it has no id yet, in a dry run.
    pub range_id: Wide,
    /// First name; empty: from the beginning.
    pub start: String,
    /// First name after it; empty: to the end.
    pub end: String,
    /// Counts membership changes of the range.
    pub conf_ver: Wide,
    /// Counts changes of the range's bounds.
    pub version: Wide,
    /// Its locks in a dry run; absent when the range is split.
    pub locks: Option<Wide>,
    /// Stores of its replicas.
    pub store_ids: Vec<Wide>,
    /// The store that leads it, once `--wait` has seen one; 0 otherwise.
    pub leader_store_id: Wide,
}

/// `ranges split`.
#[derive(Debug, Serialize)]
#[serde(tag = "schema", rename = "sharklock.v1.RangeSplit")]
pub struct RangeSplit {
    /// The place in the log of the range that was split at which that was applied; in a dry run, where
    /// the range stood.
    pub position: Position,
    /// First name of the upper half.
    pub at: String,
    /// The range is split. False in a dry run.
    pub done: bool,
    /// Why there.
    pub because: String,
    /// `--wait` has seen a leader of each half; absent without it.
    pub led: Option<bool>,
    /// It keeps the id of the range.
    pub lower: Part,
    /// The new range.
    pub upper: Part,
}

impl RangeSplit {
    /// The result or the plan, with both halves.
    pub fn table(&self) -> String {
        let range = self.lower.range_id.0;
        let (at, because) = (printable(&self.at), printable(&self.because));
        let mut text = match self.done {
            true => format!("range {range} is split at {at}: {because}\n\n"),
            false => format!("range {range} would be split at {at}: {because}\n\n"),
        };
        let row = |part: &Part| {
            let or_none = |number: u64| match number {
                0 => "-".to_owned(),
                number => number.to_string(),
            };
            vec![
                or_none(part.range_id.0),
                or_none(part.leader_store_id.0),
                joined(&part.store_ids),
                format!("{}/{}", part.conf_ver.0, part.version.0),
                part.locks.map_or_else(|| "-".to_owned(), |locks| locks.0.to_string()),
                interval(&part.start, &part.end),
            ]
        };
        let rows = [row(&self.lower), row(&self.upper)];
        text += &table(&["RANGE", "LEADER", "STORES", "EPOCH", "LOCKS", "NAMES"], &rows);
        text
    }
}

/// The names from the one up to the other: `[begin, jobs/7)`.
pub fn interval(start: &str, end: &str) -> String {
    let start = if start.is_empty() { "begin" } else { start };
    let end = if end.is_empty() { "end" } else { end };
    format!("[{start}, {end})")
}

fn joined(ids: &[Wide]) -> String {
    ids.iter().map(|id| id.0.to_string()).collect::<Vec<_>>().join(" ")
}

fn kib(bytes: Wide) -> String {
    match bytes.0 {
        0 => "0".to_owned(),
        bytes if bytes < 1 << 20 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        bytes => format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(id: u64, start: &str, end: &str) -> Range {
        Range {
            range_id: Wide(id),
            start: start.into(),
            end: end.into(),
            leader_store_id: Wide(2),
            voter_store_ids: vec![Wide(1), Wide(2), Wide(3)],
            locks: Wide(20),
            holds: Wide(18),
            waiters: Wide(4),
            state_bytes: Wide(10 << 10),
            commands_per_second: Some(Wide(1_200)),
            ..Range::default()
        }
    }

    #[test]
    fn a_list_shows_one_row_per_range_and_their_sums() {
        let split = Range { splitting_at: "x".into(), ..range(1_000, "m\u{1b}", "") };
        let unled = Range {
            leader_store_id: Wide(0),
            commands_per_second: None,
            state_bytes: Wide(0),
            waits_for: vec!["range 1 has no leader: its locks wait".into()],
            ..range(1, "", "m")
        };
        let list = RangeList { ranges: vec![unled, split] };
        assert_eq!(
            list.table(),
            "RANGE  STATE      LEADER  REPLICAS  LOCKS  HOLDS  WAITERS  MEMORY    CMD/S  NAMES\n\
             1      NO LEADER  none    1 2 3     20     18     4        0         -      [begin, m)\n\
             1000   splitting  2       1 2 3     20     18     4        10.0 KiB  1200   \
             [m\\u{1b}, end)\n\
             \n\
             2 ranges: 40 locks, 36 holds, 8 waiters\n"
        );
    }

    #[test]
    fn each_replica_shows_what_it_lacks() {
        let replica = |store, lag, is_active| Replica {
            store_id: Wide(store),
            peer_id: Wide(store + 10),
            is_voter: true,
            is_leader: store == 1,
            lag: Wide(lag),
            is_active,
            in_snapshot: false,
            is_new: false,
        };
        let replicas = vec![
            replica(1, 0, true),
            replica(2, 40, true),
            replica(3, 6, false),
            replica(4, 0, false),
            Replica { is_new: true, ..replica(5, 6, false) },
            Replica { is_voter: false, in_snapshot: true, ..replica(6, 9, true) },
        ];
        let shown = Range { replicas, ..range(7, "", "") }.replicas();
        assert_eq!(shown, "1 2 (-40) 3 (silent, -6) 4 (silent) 5 (new) 6 learner (snapshot)");
    }

    #[test]
    fn one_range_shows_what_it_waits_for() {
        let mut range = range(7, "a", "b");
        range.waits_for = vec!["store 3 lacks 2000 entries of range 7".into()];
        range.splitting_at = "aa".into();
        range.unsplit_because = "most of it is for one lock: \"a\"".into();
        range.hot_name = "a".into();
        let table = range.table();
        assert!(table.starts_with("range 7: [a, b)\n\nWHAT        IS\n"), "{table}");
        let told = "\nit is being split at aa\n\nit is not split: most of it is for one lock: \"a\"\n\n\
                    warning: store 3 lacks 2000 entries of range 7\n";
        assert!(table.ends_with(told), "{table}");
    }

    fn part(id: u64, start: &str, end: &str) -> Part {
        Part {
            range_id: Wide(id),
            start: start.into(),
            end: end.into(),
            conf_ver: Wide(1),
            version: Wide(5),
            locks: Some(Wide(10)),
            store_ids: vec![Wide(1), Wide(2)],
            leader_store_id: Wide(0),
        }
    }

    #[test]
    fn a_dry_run_says_where_it_would_cut_and_why() {
        let mut split = RangeSplit {
            position: Position::default(),
            at: "m".into(),
            done: false,
            because: "it is the middle".into(),
            led: None,
            lower: part(1, "", "m"),
            upper: part(0, "m", ""),
        };
        assert_eq!(
            split.table(),
            "range 1 would be split at m: it is the middle\n\
             \n\
             RANGE  LEADER  STORES  EPOCH  LOCKS  NAMES\n\
             1      -       1 2     1/5    10     [begin, m)\n\
             -      -       1 2     1/5    10     [m, end)\n"
        );
        split.done = true;
        assert!(split.table().starts_with("range 1 is split at m: it is the middle\n"));
        let value: serde_json::Value =
            serde_json::from_str(&crate::render::json(&split)).expect("it is JSON");
        assert_eq!(value["schema"], "sharklock.v1.RangeSplit");
        assert_eq!((&value["lower"]["range_id"], &value["done"]), (&"1".into(), &true.into()));
    }
}
