//! A whole run: the cluster comes up, clients begin, faults come and go by the plan, everything is collected
//! and judged.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::BufReader;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sharklock_client::Client;
use sharklock_history::{History, Recorder, check, read, write};
use tokio::time::{Instant, sleep, sleep_until};

use super::bounds::Bounds;
use super::cluster::{Cluster, Parts};
use super::fault::{Act, Breadth, Kind, Service, Topology};
use super::lapses::{Times, late_ends};
use super::operator::{self, Undo};
use super::plan::{CALM, Plan, Strike};
use super::program::run;
use super::report::{Done, Outcome};
use super::resource::SUMMARY;
use super::shell::Counted;
use super::strike::{Damage, mend, strike, until_all_ready};
use super::svg;
use super::timeline::{Span, Timeline};
use super::watch::Watch;
use crate::wait::now;

/// Groups of names, each a range of its own at first.
pub const GROUPS: u32 = 8;
/// Gateways as this machine reaches them.
const ENDPOINTS: [&str; 2] = ["http://127.0.0.1:27700", "http://127.0.0.1:27800"];
/// Clients that end need this long at most.
const CLIENTS_STOP_SECONDS: &str = "60";
/// The session labels of the clients that look after bounds.
const BOUNDS_SESSIONS: u32 = 1_000_000;
/// Stores that lead ranges at the begin, and how long it may take until they do.
const LEADING_STORES_MIN: usize = 3;
const SPREAD_MAX: Duration = Duration::from_secs(120);
/// Processes of clients: name, work, clients, pause between cycles in ms.
const LOADS: [(&str, &str, &str, &str); 7] = [
    ("own-1", "own", "16", "60"),
    ("own-2", "own", "16", "60"),
    ("hot-1", "hot", "16", "60"),
    ("queue-1", "queue", "16", "60"),
    ("shared-1", "shared", "16", "60"),
    ("agreed-1", "conditions", "16", "40"),
    ("hot-2", "hot", "8", "60"),
];
/// Processes of shells that count.
const SHELLS: [&str; 2] = ["shell-1", "shell-2"];

/// Runs the plan of a seed on a cluster, and leaves the report in the directory of the run: what came of it.
///
/// # Errors
/// When the machine does not do what is asked of it, which says nothing about the cluster.
pub async fn run_plan(
    parts: Parts,
    seed: u64,
    length: Duration,
    kinds: &[Kind],
    keep: bool,
) -> Result<Outcome> {
    let topology = Topology::of_compose();
    let plan = Plan::draw(seed, length, &topology, kinds);
    fs::create_dir_all(parts.dir.join("histories"))?;
    fs::write(parts.dir.join("plan.txt"), told(&plan))?;
    println!(
        "chaos: seed {seed}, {length:?}, {} strikes; {}",
        plan.strikes.len(),
        parts.dir.display()
    );
    let mut cluster = Cluster::up(parts, topology).await?;
    let ran = run_on(&mut cluster, plan).await;
    cluster.keep_logs().await?;
    if !keep {
        cluster.down().await?;
    }
    let mut outcome = ran?;
    outcome.failures.extend(panics(&cluster.dir().join("logs"))?);
    let dir = cluster.dir();
    let report = dir.join("report");
    fs::write(report.with_extension("svg"), svg::draw(&outcome))?;
    fs::write(report.with_extension("md"), outcome.markdown("report.svg"))?;
    Ok(outcome)
}

/// A plan in words.
pub fn told(plan: &Plan) -> String {
    let line = |it: &Strike| {
        format!("{:>8.1} {:>5.1} {}\n", it.at.as_secs_f64(), it.lasts.as_secs_f64(), it.fault)
    };
    let head = format!("seed {}, {:?}: at, for how many seconds, what\n", plan.seed, plan.length);
    head + &plan.strikes.iter().map(line).collect::<String>()
}

fn host_client(identity: &str) -> Result<Client> {
    Ok(Client::builder().endpoints(ENDPOINTS).identity(identity).build()?)
}

async fn run_on(cluster: &mut Cluster, plan: Plan) -> Result<Outcome> {
    let client = host_client("chaos")?;
    make_ranges(cluster, &client).await?;
    start_clients(cluster).await?;
    let mut bounds = Bounds::new(GROUPS, BOUNDS_SESSIONS, &ENDPOINTS.map(str::to_owned));
    let first = bounds.demand().await;
    ensure!(
        first.late.is_empty(),
        "the cluster does not serve before anything is struck: {first:?}"
    );
    let watch = Watch::start(client.clone());
    let (begin, begun) = (now(), Instant::now());
    println!("chaos begins");
    let mut done = Vec::new();
    let mut failures = Vec::new();
    for it in &plan.strikes {
        sleep_until(begun + it.at).await;
        if begun.elapsed() + it.lasts + CALM > plan.length {
            println!("chaos: no time is left for `{}` and what follows", it.fault);
            break;
        }
        let (one, broken) = do_strike(cluster, &client, &mut bounds, it, begun).await?;
        println!(
            "{:>7.1} {:<44} until {:>7.1}, recovered in {:.2} s {}",
            one.from.as_secs_f64(),
            one.fault.to_string(),
            one.mended.as_secs_f64(),
            one.recovered.as_secs_f64(),
            one.remark
        );
        done.push(one);
        failures.extend(broken);
    }
    sleep_until(begun + plan.length).await;
    let end = now();
    let ranges = client.status().await.map_or(0, |status| status.ranges.len());
    stop_clients(cluster).await?;
    let leaders = watch.changes();
    let out = cluster.dir().join("histories");
    save(bounds.into_recorders(), &out.join("bounds.jsonl"))?;
    let history = collect(&out)?;
    let judgement = check(&history.records);
    failures.extend(judgement.violations.iter().map(ToString::to_string));
    failures.extend(surprises(&out)?);
    let resource: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(out.join(SUMMARY)).context("the resource")?)?;
    let faults = resource["faults"].as_array().into_iter().flatten();
    failures.extend(faults.map(|fault| format!("the resource: {fault}")));
    let counted = Counted::read(&out, &SHELLS)?;
    failures.extend(counted.fault());
    let struck: Vec<Span> = done
        .iter()
        .filter(|it| it.fault.kind.breadth() != Breadth::None)
        .map(|it| (it.from, it.mended))
        .collect();
    failures.extend(late_ends(&history, &Times { begin, struck: &struck, leaders: &leaders }));
    let timeline = Timeline::of(&history, GROUPS, begin, end);
    let mut outcome = Outcome {
        plan,
        done,
        timeline,
        leaders,
        begin,
        judgement,
        resource,
        counted,
        ranges,
        failures,
    };
    outcome.demand_steadiness();
    Ok(outcome)
}

/// Eight ranges, with leaders on several stores: the masters hear of new ranges with the stores' next
/// heartbeats, so the order to balance is given until it has come to something.
async fn make_ranges(cluster: &Cluster, client: &Client) -> Result<()> {
    for group in 1..GROUPS {
        let at = format!("g{group}/");
        cluster.cli(&["ranges", "split", &at, "--at", &at, "--wait"]).await?;
    }
    let deadline = Instant::now() + SPREAD_MAX;
    loop {
        cluster.cli(&["ranges", "rebalance", "--wait", "--timeout", "30s"]).await?;
        let status = client.status().await?;
        let leaders: BTreeSet<u64> = status.ranges.iter().map(|it| it.leader_store_id).collect();
        if leaders.len() >= LEADING_STORES_MIN && !leaders.contains(&0) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "all ranges are led by the stores {leaders:?}");
        sleep(Duration::from_secs(1)).await;
    }
}

async fn start_clients(cluster: &mut Cluster) -> Result<()> {
    let service = |name: &str| Service(name.to_owned());
    cluster.start_client(&service("resource"), &["resource", "--out", "/out"]).await?;
    let slow = cluster.topology().slow_clients.clone();
    let slow = slow.iter().map(|it| (it.0.as_str(), "slow", "6", "20"));
    let groups = GROUPS.to_string();
    for (number, (label, work, clients, pause)) in (1_u32..).zip(LOADS.into_iter().chain(slow)) {
        let first = (number * 1_000).to_string();
        let args = [
            "load",
            "--work",
            work,
            "--clients",
            clients,
            "--groups",
            &groups,
            "--label",
            label,
            "--first-session",
            &first,
            "--pause-ms",
            pause,
            "--out",
            "/out",
        ];
        cluster.start_client(&service(label), &args).await?;
    }
    for label in SHELLS {
        cluster
            .start_client(&service(label), &["shell", "--label", label, "--out", "/out"])
            .await?;
    }
    Ok(())
}

async fn stop_clients(cluster: &Cluster) -> Result<()> {
    let slow = cluster.topology().slow_clients.iter().map(|it| it.0.as_str());
    let labels = LOADS.iter().map(|it| it.0).chain(slow).chain(SHELLS);
    let ids: Vec<String> =
        labels.map(|label| cluster.container(&Service(label.to_owned())).to_owned()).collect();
    let words = ["stop", "--time", CLIENTS_STOP_SECONDS].map(str::to_owned);
    run("docker", words.into_iter().chain(ids)).await?;
    // The resource ends when nobody writes any more.
    let resource = Service("resource".to_owned());
    cluster.docker(&["stop", "--time", "10"], &resource).await.map(|_| ())
}

/// A strike with its mending, and what was demanded afterwards and is not so.
async fn do_strike(
    cluster: &mut Cluster,
    client: &Client,
    bounds: &mut Bounds,
    it: &Strike,
    begun: Instant,
) -> Result<(Done, Vec<String>)> {
    let from = begun.elapsed();
    let (mut damage, mut undo) = (Damage::None, Undo::Nothing);
    let (mut remark, mut was_done, mut broken) = (String::new(), true, Vec::new());
    match &it.fault.act {
        Act::Dice(dice) => {
            match operator::order(cluster, client, it.fault.kind, *dice, GROUPS).await {
                Ok((words, back)) => (remark, undo) = (words, back),
                // An operator is refused for many good reasons.
                Err(why) => (remark, was_done) = (format!("refused: {why:#}"), false),
            }
        }
        _ => match strike(cluster, client, &it.fault).await {
            Ok(done) => damage = done,
            Err(why) => {
                was_done = false;
                broken.push(format!("{:.1} s: `{}`: {why:#}", from.as_secs_f64(), it.fault));
            }
        },
    }
    sleep_until(begun + from + it.lasts).await;
    let mending = begun.elapsed().as_secs_f64();
    if let Err(why) = mend(cluster, damage).await {
        broken.push(format!("{mending:.1} s: `{}` is not mended: {why:#}", it.fault));
    }
    if let Err(why) = operator::undo(cluster, &undo).await {
        remark.push_str(&format!("; not taken back: {why:#}"));
    }
    let mended = begun.elapsed();
    let recovery = bounds.demand().await;
    let at = mended.as_secs_f64();
    for late in &recovery.late {
        broken.push(format!("{at:.1} s: no grant within 10 s after `{}` (L3): {late}", it.fault));
    }
    if it.fault.kind.breadth() != Breadth::None
        && let Err(why) = until_all_ready(cluster).await
    {
        broken.push(format!("{at:.1} s: after `{}`: {why:#}", it.fault));
        // What comes next is to strike a whole cluster.
        start_all(cluster).await?;
    }
    let fault = it.fault.clone();
    Ok((Done { fault, from, mended, recovered: recovery.took, remark, was_done }, broken))
}

async fn start_all(cluster: &Cluster) -> Result<()> {
    for service in cluster.topology().servers() {
        cluster.start(&service).await?;
    }
    Ok(())
}

fn save(recorders: Vec<Recorder>, path: &Path) -> Result<()> {
    let mut file = std::io::BufWriter::new(fs::File::create(path)?);
    write(&History::merge(recorders), &mut file)?;
    std::io::Write::flush(&mut file)?;
    Ok(())
}

/// All histories of a run as one. Every process that was started must have left its own.
///
/// # Errors
/// When one is missing, or cannot be read.
pub fn collect(out: &Path) -> Result<History> {
    let slow = Topology::of_compose().slow_clients;
    let slow = slow.iter().map(|it| it.0.clone());
    let labels = LOADS.iter().map(|it| it.0.to_owned()).chain(slow).chain(["bounds".to_owned()]);
    let mut all = History::default();
    let mut numbers = BTreeMap::new();
    for label in labels {
        let path = out.join(format!("{label}.jsonl"));
        let file = fs::File::open(&path).with_context(|| path.display().to_string())?;
        let one = read(BufReader::new(file)).with_context(|| path.display().to_string())?;
        let mut ids = Vec::new();
        for name in one.names {
            let next = all.names.len();
            let id = *numbers.entry(name.clone()).or_insert(next);
            if id == next {
                all.names.push(name);
            }
            ids.push(sharklock_history::LockId(u32::try_from(id)?));
        }
        let renamed = one.records.into_iter().map(|record| sharklock_history::Record {
            lock: ids[record.lock.0 as usize],
            ..record
        });
        all.records.extend(renamed);
    }
    Ok(all)
}

/// Errors of clients that no fault explains.
fn surprises(out: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(out)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(label) = name.strip_suffix(".surprises.json") else { continue };
        let seen: BTreeMap<String, u64> = serde_json::from_str(&fs::read_to_string(&path)?)?;
        found.extend(seen.iter().map(|(what, count)| format!("{label}: {count} times: {what}")));
    }
    Ok(found)
}

/// Servers that ended by a bug, whoever started them again.
fn panics(logs: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(logs)? {
        let path = entry?.path();
        let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
        for line in text.lines().filter(|line| line.contains("this is a bug")) {
            let line: String = line.chars().take(400).collect();
            found.push(format!("{}: {line}", path.display()));
        }
    }
    Ok(found)
}

/// Waits for SIGTERM: clients are stopped by Docker.
///
/// # Errors
/// When the signal cannot be caught.
pub async fn terminated() -> Result<()> {
    let mut asked = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    asked.recv().await;
    // Whoever was granted a lock in this moment gives it back.
    sleep(Duration::from_millis(1)).await;
    Ok(())
}
