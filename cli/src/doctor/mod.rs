//! `sharklock doctor`: tries every endpoint and what is behind it, and names one likely cause with the
//! next step.

mod cause;
mod examine;

use serde::Serialize;
use sharklock_client::{NO_ANSWER, NOT_CONNECTED};

use crate::{
    admin::Wide,
    args::{DoctorArgs, Output, ReachArgs},
    exit::{CONFIG, DEGRADED, Failure, OK, UNREACHABLE},
    render::{json, print, printable, table},
    runtime,
    version::VERSION,
};

/// What an admin port says of a process that lacks nothing.
const READY: &str = "ready";

/// `doctor`.
#[derive(Debug, Serialize)]
#[serde(tag = "schema", rename = "sharklock.v1.Doctor")]
pub struct Examination {
    /// Of this program.
    pub version: String,
    /// Every endpoint, in the order in which it was named.
    pub endpoints: Vec<Endpoint>,
    /// Masters, as the first gateway that answers tells.
    pub masters: Vec<Member>,
    /// Stores, as the first gateway that answers tells.
    pub stores: Vec<Member>,
    /// What is most likely the matter; empty: nothing was found.
    pub cause: String,
    /// The command or the act that comes next; empty: none.
    pub next_step: String,
    /// `well`, `degraded`, `unreachable` or `two_clusters`.
    pub verdict: Verdict,
}

/// What was found at an endpoint.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Endpoint {
    /// As it was named.
    pub endpoint: String,
    /// A gateway has answered there.
    pub answers: bool,
    /// Why not, for programs: `NOT_CONNECTED`, `NO_ANSWER`, `WRONG_PORT`, …; else empty.
    pub reason: String,
    /// Why not, for people.
    pub why: String,
    /// What people call its process.
    pub node: String,
    /// Of its program.
    pub version: String,
    /// The cluster's id, as hex.
    pub cluster_id: String,
    /// What people call the cluster; empty: nothing.
    pub cluster_name: String,
    /// How far its wall clock is ahead of this machine's, milliseconds.
    pub clock_ahead_ms: i64,
    /// Where its process serves metrics and health; empty: that is not known.
    pub admin_address: String,
    /// What that says: `ready`, or what the process lacks; empty: it does not answer.
    pub admin: String,
    /// What is the matter with the cluster, by its word; empty: nothing.
    pub problem: String,
    /// What to do about that.
    pub next_step: String,
}

/// A master or a store.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Member {
    /// Given once, never reused; 0: not known.
    pub id: Wide,
    /// What people call its process.
    pub node: String,
    /// Where the cluster reaches it.
    pub address: String,
    /// It answers the gateway.
    pub answers: bool,
    /// Of its program; empty: that is not known.
    pub version: String,
    /// How far the wall clock of a master is ahead of the gateway's, milliseconds.
    pub clock_ahead_ms: i64,
    /// 99th percentile of a store's durable writes, microseconds; 0: none, or not known.
    pub sync_p99_us: Wide,
    /// A store's durable writes since its process started; 0: none, or not known.
    pub syncs: Wide,
}

/// The whole, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing was found.
    Well,
    /// A gateway answers, and something is the matter.
    Degraded,
    /// No gateway answers.
    Unreachable,
    /// The endpoints are not of one cluster, the one that is meant.
    TwoClusters,
}

/// Examines, and prints what was found. The exit code tells the verdict.
pub fn run(reach: &ReachArgs, args: DoctorArgs) -> Result<u8, Failure> {
    let examination = runtime::start(1)?.block_on(examination(reach));
    print(&match args.output.output {
        Output::Json => json(&examination),
        Output::Table => examination.text(),
    })?;
    Ok(match examination.verdict {
        Verdict::Well => OK,
        Verdict::Degraded => DEGRADED,
        Verdict::Unreachable => UNREACHABLE,
        Verdict::TwoClusters => CONFIG,
    })
}

/// Asks everybody, and finds the cause.
pub async fn examination(reach: &ReachArgs) -> Examination {
    let mut examination = examine::examine(reach).await;
    cause::find(&mut examination, reach.cluster_id().map(|id| id.to_string()).as_deref());
    examination
}

impl Examination {
    /// The admin ports behind the endpoints, with the names of their processes as far as they are known.
    pub fn admin_addresses(&self) -> impl Iterator<Item = (&str, &str)> {
        self.endpoints.iter().map(|it| (it.node.as_str(), it.admin_address.as_str()))
    }

    fn new(endpoints: Vec<Endpoint>) -> Self {
        Self {
            version: VERSION.to_owned(),
            endpoints,
            masters: Vec::new(),
            stores: Vec::new(),
            cause: String::new(),
            next_step: String::new(),
            verdict: Verdict::Well,
        }
    }

    /// What endpoints and admin ports say, a line each, but what is the cause already.
    fn words(&self) -> String {
        let of_gateways = self.endpoints.iter().map(|it| (&it.endpoint, &it.why));
        let not_ready = self.endpoints.iter().filter(|it| it.admin != READY);
        let of_admins = not_ready.map(|it| (&it.admin_address, &it.admin));
        let mut text = String::new();
        for (at, said) in of_gateways.chain(of_admins) {
            if !said.is_empty() && !self.cause.contains(said.as_str()) {
                let said = said.strip_prefix(&format!("{at}: ")).unwrap_or(said);
                text += &format!("{}: {}\n", printable(at), printable(said));
            }
        }
        text
    }

    /// The cause first: it is what was asked for.
    fn text(&self) -> String {
        let mut text = match self.cause.as_str() {
            "" => "nothing is the matter\n".to_owned(),
            cause => format!("likely cause: {}\n", printable(cause)),
        };
        if !self.next_step.is_empty() {
            text += &format!("next:         {}\n", printable(&self.next_step));
        }
        let endpoint = |seen: &Endpoint| {
            let clock = if seen.answers { clock(seen.clock_ahead_ms) } else { String::new() };
            let admin = match (seen.admin_address.as_str(), seen.admin.as_str()) {
                ("", _) => String::new(),
                (at, "") => format!("{at} is silent"),
                (at, READY) => format!("{at} ready"),
                (at, _) => format!("{at} not ready"),
            };
            vec![
                seen.endpoint.clone(),
                seen.node.clone(),
                seen.version.clone(),
                seen.cluster_id.get(..8).unwrap_or_default().to_owned(),
                clock,
                seen.in_a_word(),
                admin,
            ]
        };
        let rows: Vec<_> = self.endpoints.iter().map(endpoint).collect();
        let header = ["ENDPOINT", "NODE", "VERSION", "CLUSTER", "CLOCK", "GATEWAY", "ADMIN PORT"];
        text += &format!("\n{}", table(&header, &rows));
        text += &self.words();
        for (what, members) in [("MASTER", &self.masters), ("STORE", &self.stores)] {
            let is_master = what == "MASTER";
            let row = |member: &Member| {
                let id = if member.id.0 == 0 { "-".to_owned() } else { member.id.0.to_string() };
                let measured = match (is_master, member.answers) {
                    (_, false) => "-".to_owned(),
                    (true, true) => clock(member.clock_ahead_ms),
                    (false, true) if member.sync_p99_us.0 == 0 => "-".to_owned(),
                    (false, true) => format!("{:.1}ms", member.sync_p99_us.0 as f64 / 1e3),
                };
                vec![
                    id,
                    member.node.clone(),
                    member.address.clone(),
                    if member.answers { "answers" } else { "no answer" }.to_owned(),
                    member.version.clone(),
                    measured,
                ]
            };
            let rows: Vec<_> = members.iter().map(row).collect();
            let last = if is_master { "CLOCK" } else { "SYNC P99" };
            if !rows.is_empty() {
                let header = [what, "NODE", "ADDRESS", "STATE", "VERSION", last];
                text += &format!("\n{}", table(&header, &rows));
            }
        }
        text
    }
}

impl Endpoint {
    /// What was found, for a table; [`why`](Self::why) has the words.
    fn in_a_word(&self) -> String {
        let word = match (self.answers, self.reason.as_str()) {
            (true, _) => "answers",
            (false, NOT_CONNECTED) => "not connected",
            (false, NO_ANSWER) => "no answer",
            (false, "WRONG_PORT") => "wrong port",
            (false, _) => "fails",
        };
        word.to_owned()
    }
}

/// Clocks that are further apart confuse people who compare times: leases do not depend on them.
const CLOCK_OFF_MS: u64 = 2_000;

/// What is to be said of a clock that is so far ahead of another; `None`: it is right.
pub fn clock_words(who: &str, ahead_ms: i64, whose: &str) -> Option<String> {
    let seconds = ahead_ms.unsigned_abs() as f64 / 1e3;
    let way = if ahead_ms > 0 { "ahead of" } else { "behind" };
    let is_off = ahead_ms.unsigned_abs() >= CLOCK_OFF_MS;
    is_off.then(|| format!("the wall clock of {who} is {seconds:.1} s {way} {whose}"))
}

/// How far a clock is off, as far as the way of an answer lets one see it.
fn clock(ahead_ms: i64) -> String {
    match ahead_ms {
        -99..=99 => "right".to_owned(),
        ahead => format!("{:+.1}s", ahead as f64 / 1e3),
    }
}
