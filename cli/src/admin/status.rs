//! `sharklock status`: masters, stores and ranges, as JSON of a fixed schema and as tables.

use std::time::Duration;

use serde::Serialize;

use super::{ranges::Range, view::Wide};
use crate::{
    doctor::clock_words,
    render::{printable, short, table},
};

/// `status`.
#[derive(Debug, Serialize)]
#[serde(tag = "schema", rename = "sharklock.v1.Status")]
pub struct Status {
    /// Made at bootstrap, as hex.
    pub cluster_id: String,
    /// What people call the cluster; empty: nothing.
    pub cluster_name: String,
    /// Version of the process that answered.
    pub version: String,
    /// What people call that process.
    pub node: String,
    /// How far its wall clock is ahead of this machine's, milliseconds.
    pub clock_ahead_ms: i64,
    /// Every range has a leader, and nothing is to be warned of.
    pub healthy: bool,
    /// What is the matter, in one sentence; empty: nothing.
    pub problem: String,
    /// What goes on in spite of that; empty while there is no problem.
    pub works: String,
    /// What waits until it is over; empty: nothing.
    pub waits: String,
    /// What to do next; empty: nothing.
    pub next_step: String,
    /// The faults of the cluster, a sentence each.
    pub warnings: Vec<String>,
    /// Those of `warnings` that do not follow from `problem`: people are told of no others beside it.
    pub unexplained_warnings: Vec<String>,
    /// Masters in order of their ids; while none leads, as each says of itself.
    pub masters: Vec<Master>,
    /// Data servers' disks.
    pub stores: Vec<Store>,
    /// All ranges together.
    pub range_totals: RangeTotals,
    /// Ranges in order of their names: all of a few; of many only those that wait for something.
    pub ranges: Vec<Range>,
}

/// One master.
#[derive(Debug, Serialize)]
pub struct Master {
    /// Given once, never reused; 0: not known yet.
    pub member_id: Wide,
    /// What people call its process; empty: that is not known.
    pub node: String,
    /// The address at which the cluster reaches it.
    pub address: String,
    /// It has answered the gateway just now.
    pub answers: bool,
    /// Since it has answered the gateway, milliseconds; 0: it never has, or does.
    pub silent_ms: Wide,
    /// For how long it has known no leading master, milliseconds; 0: it knows one.
    pub leaderless_ms: Wide,
    /// What it waits for; empty: nothing.
    pub waits_for: String,
    /// It leads.
    pub is_leader: bool,
    /// The leader hears of it.
    pub is_up: bool,
    /// It votes; otherwise it is being added, or is to go.
    pub is_voter: bool,
    /// Raft term.
    pub term: Wide,
    /// Entries that the leader has and this one lacks.
    pub lag: Wide,
}

/// One data server's disk.
#[derive(Debug, Serialize)]
pub struct Store {
    /// Given once, never reused.
    pub store_id: Wide,
    /// What people call its process; empty: that is not known.
    pub node: String,
    /// Drawn when the data directory was made, as hex.
    pub ident: String,
    /// The address at which it answers.
    pub address: String,
    /// `up`, `disconnected`, `down`, or `unknown` while no leading master answers.
    pub liveness: &'static str,
    /// Since its last heartbeat to the masters, milliseconds.
    pub heard_ms: Wide,
    /// The answering gateway has a connection to it.
    pub is_linked: bool,
    /// It has answered that gateway just now.
    pub answers: bool,
    /// Since that gateway has had no connection to it, milliseconds; 0: it never had, or has one.
    pub silent_ms: Wide,
    /// Replicas that it has.
    pub replicas_count: u32,
    /// Replicas that lead.
    pub leaders_count: u32,
    /// Since its process started, milliseconds.
    pub uptime_ms: Wide,
    /// Durable writes since its process started.
    pub syncs: Wide,
    /// Median of a durable write in the last minute, microseconds.
    pub sync_p50_us: Wide,
    /// 99th percentile of a durable write in the last minute, microseconds.
    pub sync_p99_us: Wide,
    /// Memory of its locks, as it counts them.
    pub state_bytes: Wide,
    /// Memory beyond which it refuses acquires; 0: no bound.
    pub state_bytes_max: Wide,
    /// Most of that is used.
    pub state_alarm: bool,
}

/// Sums over all ranges.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct RangeTotals {
    /// Their number.
    pub ranges: Wide,
    /// The number of those that have a leader.
    pub led: Wide,
    /// The number of those that wait for something.
    pub in_trouble: Wide,
    /// Locks with a holder or a waiter.
    pub locks: Wide,
    /// Live holds.
    pub holds: Wide,
    /// Waiting acquisitions.
    pub waiters: Wide,
    /// The memory of their locks on their leaders, bytes.
    pub state_bytes: Wide,
}

impl Status {
    /// The cluster in blocks: what is wrong first.
    pub fn table(&self) -> String {
        let health = if self.healthy { "healthy" } else { "DEGRADED" };
        let version = printable(&self.version);
        let cluster = match self.cluster_id.as_str() {
            "" => "no cluster yet".to_owned(),
            id => format!("cluster {}", printable(id)),
        };
        let name = match self.cluster_name.as_str() {
            "" => String::new(),
            name => format!(" ({})", printable(name)),
        };
        let seen_by = match self.node.as_str() {
            "" => String::new(),
            node => format!(", as gateway {} sees it", printable(node)),
        };
        let mut text = format!("{cluster}{name}, version {version}{seen_by}: {health}\n");
        for (what, told) in [
            ("problem", &self.problem),
            ("works", &self.works),
            ("waits", &self.waits),
            ("next", &self.next_step),
        ] {
            if !told.is_empty() {
                text += &format!("{:<9}{}\n", format!("{what}:"), printable(told));
            }
        }
        for warning in &self.unexplained_warnings {
            text += &format!("warning: {}\n", printable(warning));
        }
        let gateway = format!("gateway {}", printable(&self.node));
        if let Some(clock) = clock_words(&gateway, self.clock_ahead_ms, "this machine's") {
            text += &format!("note:    {clock}: times in tables and logs differ, leases do not\n");
        }
        if !self.masters.is_empty() {
            text.push('\n');
            text += &masters(&self.masters);
        }
        if !self.stores.is_empty() {
            text.push('\n');
            text += &stores(&self.stores);
        }
        if self.range_totals.ranges.0 > 0 {
            text.push('\n');
        }
        if self.ranges.len() as u64 != self.range_totals.ranges.0 {
            text += &sums(&self.range_totals);
        }
        if !self.ranges.is_empty() {
            text += &ranges(&self.ranges);
        }
        text
    }
}

fn masters(masters: &[Master]) -> String {
    let row = |master: &Master| {
        vec![
            id(master.member_id),
            master.node.clone(),
            master.address.clone(),
            state_of_master(master),
            id(master.term),
            if master.is_up { master.lag.0.to_string() } else { "-".to_owned() },
        ]
    };
    let rows: Vec<_> = masters.iter().map(row).collect();
    table(&["MASTER", "NODE", "ADDRESS", "STATE", "TERM", "LAG"], &rows)
}

fn state_of_master(master: &Master) -> String {
    if !master.answers && !master.is_up {
        return format!("DOWN{}", for_how_long(master.silent_ms));
    }
    match (master.is_leader, master.answers) {
        (_, false) => format!("no answer{}", for_how_long(master.silent_ms)),
        (true, true) => "leads".to_owned(),
        (false, true) if master.member_id.0 == 0 => "forming".to_owned(),
        (false, true) if !master.is_voter => "learns".to_owned(),
        (false, true) if master.leaderless_ms.0 > 0 => {
            format!("up, no leader{}", for_how_long(master.leaderless_ms))
        }
        (false, true) => "up".to_owned(),
    }
}

fn for_how_long(ms: Wide) -> String {
    if ms.0 == 0 { String::new() } else { format!(" {}", since(ms)) }
}

fn id(id: Wide) -> String {
    if id.0 == 0 { "-".to_owned() } else { id.0.to_string() }
}

fn state_of_store(store: &Store) -> String {
    match store.liveness {
        "up" | "unknown" if !store.is_linked => {
            format!("not connected{}", for_how_long(store.silent_ms))
        }
        "up" | "unknown" if !store.answers => {
            let silent = Wide(store.silent_ms.0.max(store.heard_ms.0));
            format!("no answer{}", for_how_long(silent))
        }
        "up" => "up".to_owned(),
        "unknown" => "connected".to_owned(),
        lost => format!("{} {}", lost.to_uppercase(), since(store.heard_ms)),
    }
}

fn stores(stores: &[Store]) -> String {
    let row = |store: &Store| {
        // A store that does not answer says nothing of itself.
        let told = |text: String| if store.uptime_ms.0 == 0 { "-".to_owned() } else { text };
        let is_counted = store.liveness != "unknown" || store.answers;
        let counted = |text: String| if is_counted { text } else { "-".to_owned() };
        vec![
            store.store_id.0.to_string(),
            store.node.clone(),
            state_of_store(store),
            counted(store.replicas_count.to_string()),
            counted(store.leaders_count.to_string()),
            micros(store.sync_p99_us),
            told(memory(store)),
            told(since(store.uptime_ms)),
            told(store.syncs.0.to_string()),
            micros(store.sync_p50_us),
            store.address.clone(),
        ]
    };
    let rows: Vec<_> = stores.iter().map(row).collect();
    let header = [
        "STORE", "NODE", "STATE", "REPLICAS", "LEADERS", "SYNC P99", "MEMORY", "UP", "SYNCS",
        "SYNC P50", "ADDRESS",
    ];
    table(&header, &rows)
}

/// The memory that its locks take, and the bound: `12.5/3906.2 MiB`.
fn memory(store: &Store) -> String {
    let mib = |bytes: Wide| bytes.0 as f64 / f64::from(1 << 20);
    let used = mib(store.state_bytes);
    match store.state_bytes_max {
        Wide(0) => format!("{used:.1} MiB"),
        max => format!("{used:.1}/{:.1} MiB", mib(max)),
    }
}

fn ranges(ranges: &[Range]) -> String {
    let row = |range: &Range| {
        vec![
            range.range_id.0.to_string(),
            range.leader(),
            range.replicas(),
            range.locks.0.to_string(),
            range.holds.0.to_string(),
            range.waiters.0.to_string(),
            range.term.0.to_string(),
            range.position.applied_index.0.to_string(),
            range.names(),
        ]
    };
    let rows: Vec<_> = ranges.iter().map(row).collect();
    let header =
        ["RANGE", "LEADER", "REPLICAS", "LOCKS", "HOLDS", "WAITERS", "TERM", "APPLIED", "NAMES"];
    table(&header, &rows)
}

/// Of so many ranges that they are not shown one by one.
fn sums(totals: &RangeTotals) -> String {
    let RangeTotals { ranges, led, in_trouble, locks, holds, waiters, .. } = *totals;
    let [ranges, led, in_trouble] = [ranges, led, in_trouble].map(|it| it.0);
    let [locks, holds, waiters] = [locks, holds, waiters].map(|it| it.0);
    let leaders = match led {
        led if led == ranges => "all have leaders".to_owned(),
        led => format!("{} WITHOUT A LEADER", ranges - led),
    };
    let trouble = match in_trouble {
        0 => "`sharklock ranges ls` lists them".to_owned(),
        count => format!("{count} wait for something; `sharklock ranges ls` lists all"),
    };
    format!(
        "{ranges} ranges, {leaders}: {locks} locks, {holds} holds, {waiters} waiters\n{trouble}\n"
    )
}

fn since(ms: Wide) -> String {
    short(Duration::from_millis(ms.0))
}

/// A median or percentile: none while nothing was measured.
fn micros(us: Wide) -> String {
    match us.0 {
        0 => "-".to_owned(),
        us @ 1..10 => format!("{us}us"),
        us => format!("{:.2}ms", us as f64 / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::ranges::Replica, *};

    fn store(id: u64, liveness: &'static str) -> Store {
        Store {
            store_id: Wide(id),
            node: format!("node-{id}"),
            ident: "ab".into(),
            address: format!("127.0.0.1:77{id}0"),
            liveness,
            heard_ms: Wide(12_000),
            is_linked: liveness == "up",
            answers: liveness == "up",
            silent_ms: Wide(0),
            replicas_count: 1,
            leaders_count: u32::from(id == 1),
            uptime_ms: Wide(if liveness == "up" { 65_000 } else { 0 }),
            syncs: Wide(7),
            sync_p50_us: Wide(if liveness == "up" { 300 } else { 0 }),
            sync_p99_us: Wide(if liveness == "up" { 1_250 } else { 0 }),
            state_bytes: Wide(3 << 19),
            state_bytes_max: Wide(1 << 30),
            state_alarm: false,
        }
    }

    fn replica(store: u64, lag: u64, is_active: bool) -> Replica {
        Replica {
            store_id: Wide(store),
            peer_id: Wide(store + 10),
            is_voter: true,
            is_leader: store == 1,
            lag: Wide(lag),
            is_active,
            in_snapshot: false,
            is_new: false,
        }
    }

    fn master(id: u64) -> Master {
        Master {
            member_id: Wide(id),
            node: format!("node-{id}"),
            address: format!("127.0.0.1:772{id}"),
            answers: id != 3,
            silent_ms: Wide(if id == 3 { 42_000 } else { 0 }),
            leaderless_ms: Wide(0),
            waits_for: String::new(),
            is_leader: id == 2,
            is_up: id != 3,
            is_voter: true,
            term: Wide(4),
            lag: Wide(u64::from(id == 3) * 9),
        }
    }

    fn status() -> Status {
        let range = Range {
            range_id: Wide(1),
            leader_store_id: Wide(1),
            term: Wide(3),
            locks: Wide(2),
            holds: Wide(2),
            waiters: Wide(1),
            voter_store_ids: vec![Wide(1), Wide(2), Wide(3)],
            replicas: vec![replica(1, 0, true), replica(2, 40, true), replica(3, 900, false)],
            ..Range::default()
        };
        Status {
            cluster_id: "00ff".into(),
            cluster_name: "prod".into(),
            version: "0.0.0".into(),
            node: "node-1".into(),
            clock_ahead_ms: -3_000,
            healthy: false,
            problem: "store 3 is down".into(),
            works: "every lock".into(),
            waits: String::new(),
            next_step: "start it".into(),
            warnings: vec!["store 3 at 127.0.0.1:7730 is down".into(), "a disk is full".into()],
            unexplained_warnings: vec!["a disk is full".into()],
            masters: vec![master(1), master(2), master(3)],
            stores: vec![store(1, "up"), store(3, "down")],
            range_totals: RangeTotals { ranges: Wide(1), led: Wide(1), ..RangeTotals::default() },
            ranges: vec![range],
        }
    }

    #[test]
    fn what_is_wrong_stands_first_then_everything() {
        assert_eq!(
            status().table(),
            "cluster 00ff (prod), version 0.0.0, as gateway node-1 sees it: DEGRADED\n\
             problem: store 3 is down\n\
             works:   every lock\n\
             next:    start it\n\
             warning: a disk is full\n\
             note:    the wall clock of gateway node-1 is 3.0 s behind this machine's: times in \
             tables and logs differ, leases do not\n\
             \n\
             MASTER  NODE    ADDRESS         STATE     TERM  LAG\n\
             1       node-1  127.0.0.1:7721  up        4     0\n\
             2       node-2  127.0.0.1:7722  leads     4     0\n\
             3       node-3  127.0.0.1:7723  DOWN 42s  4     -\n\
             \n\
             STORE  NODE    STATE     REPLICAS  LEADERS  SYNC P99  MEMORY          UP     SYNCS  \
             SYNC P50  ADDRESS\n\
             1      node-1  up        1         1        1.25ms    1.5/1024.0 MiB  1m05s  7      \
             0.30ms    127.0.0.1:7710\n\
             3      node-3  DOWN 12s  1         0        -         -               -      -      \
             -         127.0.0.1:7730\n\
             \n\
             RANGE  LEADER  REPLICAS                    LOCKS  HOLDS  WAITERS  TERM  APPLIED  \
             NAMES\n\
             1      1       1 2 (-40) 3 (silent, -900)  2      2      1        3     0        \
             [begin, end)\n"
        );
    }

    #[test]
    fn many_ranges_are_summed_up_and_only_those_in_trouble_are_named() {
        let mut status = status();
        status.range_totals = RangeTotals {
            ranges: Wide(1_200),
            led: Wide(1_199),
            in_trouble: Wide(1),
            locks: Wide(34_000),
            holds: Wide(33_000),
            waiters: Wide(5),
            state_bytes: Wide(1),
        };
        let table = status.table();
        let sums = "\n1200 ranges, 1 WITHOUT A LEADER: 34000 locks, 33000 holds, 5 waiters\n\
                    1 wait for something; `sharklock ranges ls` lists all\n\
                    RANGE  LEADER";
        assert!(table.contains(sums), "{table}");
        (status.range_totals.led, status.range_totals.in_trouble) = (Wide(1_200), Wide(0));
        status.ranges.clear();
        let table = status.table();
        let sums = "\n1200 ranges, all have leaders: 34000 locks, 33000 holds, 5 waiters\n\
                    `sharklock ranges ls` lists them\n";
        assert!(table.ends_with(sums), "{table}");
    }

    #[test]
    fn a_range_without_a_leader_is_seen() {
        let mut status = status();
        status.masters.clear();
        status.ranges[0].leader_store_id = Wide(0);
        status.ranges[0].replicas.clear();
        let table = status.table();
        assert!(!table.contains("MASTER"), "{table}");
        assert!(table.contains("1      none    1 2 3     2"), "{table}");
    }

    #[test]
    fn json_names_its_schema_and_keeps_every_digit() {
        let mut status = status();
        status.ranges[0].replicas[2].lag = Wide(u64::MAX);
        let value: serde_json::Value =
            serde_json::from_str(&crate::render::json(&status)).expect("it is JSON");
        assert_eq!(value["schema"], "sharklock.v1.Status");
        assert_eq!(value["ranges"][0]["replicas"][2]["lag"], "18446744073709551615");
        assert_eq!(value["masters"][1]["is_leader"], true);
        assert_eq!(value["stores"][1]["liveness"], "down");
    }
}
