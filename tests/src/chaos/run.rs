//! A whole run: the cluster comes up, clients begin, faults come and go by the plan, everything is collected
//! and judged.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Result, anyhow, ensure};
use sharklock_client::Client;
use sharklock_history::{History, check};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, sleep_until};

use super::bounds::Bounds;
use super::clients;
use super::cluster::{Cluster, Parts};
use super::diary::{Diary, rfc3339, wall_clock};
use super::evidence::{Evidence, panics};
use super::fault::{Act, Breadth, Kind, Topology};
use super::lapses::{Times, late_ends, stuck_names, union_of};
use super::look::look_at;
use super::mend::{Damage, heal_all, mend};
use super::minima::missing;
use super::operator::{self, Undo};
use super::plan::{CALM, Plan, Strike};
use super::program::MachineFault;
use super::report::{Done, Failure, Outcome};
use super::restarts::Starts;
use super::strike::{strike, until_all_ready};
use super::svg;
use super::timeline::Timeline;
use super::watch::{Seen, Watch};
use crate::wait::now;

/// Groups of names, each a range of its own at first.
pub const GROUPS: u32 = 8;
/// Gateways as this machine reaches them.
const ENDPOINTS: [&str; 2] = ["http://127.0.0.1:27700", "http://127.0.0.1:27800"];
/// The session labels of the clients that look after bounds.
const BOUNDS_SESSIONS: u32 = 1_000_000;
/// Stores that lead ranges at the begin, and how long it may take until they do.
const LEADING_STORES_MIN: usize = 3;
const SPREAD_MAX: Duration = Duration::from_secs(120);

/// Runs the plan of a seed on a cluster, and leaves the report in the directory of the run: what came of it.
/// SIGTERM and SIGINT end it early. Containers, volumes, networks and mounts are gone in any case, unless
/// `keep`.
///
/// # Errors
/// When the machine does not do what is asked of it before anything is struck, or a signal came.
pub async fn run_plan(
    parts: Parts,
    seed: u64,
    length: Duration,
    kinds: &[Kind],
    keep: bool,
) -> Result<Outcome> {
    let topology = Topology::of_compose();
    let plan = Plan::draw(seed, length, &topology, kinds).without(|kind| parts.can_do(kind));
    let dir = parts.dir.clone();
    fs::create_dir_all(dir.join("histories"))?;
    write_plan(&dir, &plan, None)?;
    let mut diary = Diary::begin(&dir)?;
    let strikes = plan.strikes.len();
    diary.say(&format!("chaos: seed {seed}, {length:?}, {strikes} strikes; {}", dir.display()))?;
    let mut cluster = Cluster::new(parts, topology).await;
    let ran = tokio::select! {
        ran = run_on(&mut cluster, &mut diary, plan) => ran,
        signal = asked_to_end() => signal.and_then(|name| Err(anyhow!("{name} ended the run"))),
    };
    let kept = cluster.keep_logs().await;
    let removed = if keep { Ok(()) } else { cluster.down().await };
    let cleaned = kept.and(removed);
    let mut outcome = match (ran, &cleaned) {
        (Ok(outcome), _) => outcome,
        (Err(why), Ok(())) => return Err(why),
        (Err(why), Err(also)) => return Err(why.context(format!("after the run: {also:#}"))),
    };
    let left = cleaned.err().map(|why| format!("after the run: {why:#}"));
    let panics = panics(&dir.join("logs")).unwrap_or_else(|why| vec![format!("{why:#}")]);
    outcome.failures.extend(left.into_iter().chain(panics).map(Failure::at_no_time));
    let report = dir.join("report");
    fs::write(dir.join("slots.csv"), outcome.timeline.csv())?;
    fs::write(dir.join("leaders.csv"), outcome.leaders_csv())?;
    fs::write(report.with_extension("svg"), svg::draw(&outcome))?;
    fs::write(report.with_extension("md"), outcome.markdown("report.svg"))?;
    Ok(outcome)
}

/// The plan of a run, with the begin from which its times count once that is known.
fn write_plan(dir: &Path, plan: &Plan, began_at: Option<SystemTime>) -> Result<()> {
    let begun = began_at.map(|at| format!("begun {}\n", rfc3339(at))).unwrap_or_default();
    Ok(fs::write(dir.join("plan.txt"), begun + &told(plan))?)
}

/// A plan in words.
pub fn told(plan: &Plan) -> String {
    let line = |it: &Strike| {
        format!("{:>8.1} {:>5.1} {}\n", it.at.as_secs_f64(), it.lasts.as_secs_f64(), it.fault)
    };
    let head = format!("seed {}, {:?}: at, for how many seconds, what\n", plan.seed, plan.length);
    let left_out = plan
        .left_out
        .iter()
        .map(|kind| format!("left out, since this machine lacks what it needs: {}\n", kind.name()));
    head + &plan.strikes.iter().map(line).chain(left_out).collect::<String>()
}

/// Waits for a signal that asks for the end of the run: its name.
async fn asked_to_end() -> Result<&'static str> {
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = term.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}

fn host_client(identity: &str) -> Result<Client> {
    Ok(Client::builder().endpoints(ENDPOINTS).identity(identity).build()?)
}

async fn run_on(cluster: &mut Cluster, diary: &mut Diary, plan: Plan) -> Result<Outcome> {
    cluster.up().await?;
    let client = host_client("chaos")?;
    make_ranges(cluster, &client).await?;
    clients::start(cluster, GROUPS).await?;
    let watch = Watch::start(client.clone()).await?;
    let mut bounds = Bounds::new(BOUNDS_SESSIONS, &ENDPOINTS);
    let first = bounds.demand(&watch.starts()).await?;
    ensure!(
        first.late.is_empty(),
        "the cluster does not serve before anything is struck: {first:?}"
    );
    let starts = Starts::look(cluster).await?;
    let (begin, begun, began_at) = (now(), Instant::now(), wall_clock());
    diary.say("chaos begins")?;
    write_plan(cluster.dir(), &plan, Some(began_at))?;
    let mut shaking = Shaking {
        cluster,
        diary,
        client,
        watch,
        bounds,
        starts,
        begun,
        done: Vec::new(),
        failures: Vec::new(),
    };
    if let Err(why) = shaking.strike_all(&plan).await {
        // What clients have seen until now is judged all the same.
        shaking.fail(format!("the run ended early: {why:#}"));
    }
    let end = now();
    if let Err(why) = clients::stop(shaking.cluster).await {
        shaking.fail(format!("clients could not be ended: {why:#}"));
    }
    let ranges = match look_at(&shaking.client).await {
        Ok(status) => status.ranges.len(),
        Err(why) => {
            shaking.fail(format!("the cluster says nothing of its ranges at the end: {why:#}"));
            0
        }
    };
    let Shaking { cluster, watch, bounds, done, mut failures, .. } = shaking;
    let Seen { changes: leaders, ranges: seen, blind, .. } = watch.seen();
    let out = cluster.dir().join("histories");
    let bounds = History::merge(bounds.into_recorders());
    let evidence = Evidence::read(&out, &clients::loads(cluster.topology()), bounds);
    let judging = Instant::now();
    let judgement = check(&evidence.history.records);
    let judged_in = judging.elapsed();
    let violations = judgement.violations.iter().map(ToString::to_string);
    failures.extend(violations.chain(evidence.faults).map(Failure::at_no_time));
    let struck = done.iter().filter(|it| it.fault.kind.breadth() != Breadth::None);
    let struck = union_of(struck.map(|it| (it.from, it.mended + it.recovered)).collect());
    let times = Times { begin, struck: &struck, leaders: &leaders, blind: &blind };
    let late = late_ends(&evidence.history, &times).into_iter();
    let late = late.chain(stuck_names(&evidence.history, &times));
    failures.extend(late.map(Failure::at_no_time));
    let timeline = Timeline::of(&evidence.history, &seen, (begin, end));
    let mut outcome = Outcome {
        plan,
        done,
        timeline,
        leaders,
        blind,
        begin,
        began_at,
        grants: evidence.grants,
        judgement,
        judged_in,
        resource: evidence.resource,
        counted: evidence.counted,
        ranges,
        failures,
    };
    outcome.demand_steadiness();
    let missing = missing(&outcome).into_iter().map(Failure::at_no_time);
    outcome.failures.extend(missing);
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
        let status = look_at(client).await?;
        let leaders: BTreeSet<u64> = status.ranges.iter().map(|it| it.leader_store_id).collect();
        if leaders.len() >= LEADING_STORES_MIN && !leaders.contains(&0) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "all ranges are led by the stores {leaders:?}");
        sleep(Duration::from_secs(1)).await;
    }
}

/// A run between its first strike and its last.
struct Shaking<'a> {
    cluster: &'a mut Cluster,
    diary: &'a mut Diary,
    client: Client,
    watch: Watch,
    bounds: Bounds,
    starts: Starts,
    begun: Instant,
    done: Vec<Done>,
    failures: Vec<Failure>,
}

impl Shaking<'_> {
    /// Strikes by the plan, and stays until its end.
    async fn strike_all(&mut self, plan: &Plan) -> Result<()> {
        for it in &plan.strikes {
            sleep_until(self.begun + it.at).await;
            if self.begun.elapsed() + it.fault.kind.takes() + CALM > plan.length {
                self.diary.say(&format!("no time is left for `{}`", it.fault))?;
                continue;
            }
            let one = self.do_strike(it).await;
            self.demand_old_lives(it).await;
            self.diary.say(&format!(
                "{:>7.1} {:<44} until {:>7.1}, recovered in {:.2} s {}",
                one.from.as_secs_f64(),
                one.fault.to_string(),
                one.mended.as_secs_f64(),
                one.recovered.as_secs_f64(),
                one.remark
            ))?;
            self.done.push(one);
        }
        sleep_until(self.begun + plan.length).await;
        Ok(())
    }

    fn fail(&mut self, what: String) {
        let at = self.begun.elapsed();
        self.failures.push(Failure { at: Some(at), what });
    }

    /// A strike with its mending, and what is demanded afterwards.
    async fn do_strike(&mut self, it: &Strike) -> Done {
        let from = self.begun.elapsed();
        let (mut damage, mut undo) = (Damage::None, Undo::Nothing);
        let (mut remark, mut was_done) = (String::new(), true);
        match &it.fault.act {
            Act::Dice(dice) => {
                let kind = it.fault.kind;
                match operator::order(self.cluster, &self.client, kind, *dice, GROUPS).await {
                    Ok((words, back)) => (remark, undo) = (words, back),
                    // An operator is refused for many good reasons.
                    Err(why) => (remark, was_done) = (format!("refused: {why:#}"), false),
                }
            }
            _ => match strike(self.cluster, &self.client, &it.fault).await {
                Ok(done) => damage = done,
                Err(why) => {
                    (remark, was_done) = (format!("not done: {why:#}"), false);
                    if !MachineFault::is_in(&why) {
                        self.fail(format!("`{}`: {why:#}", it.fault));
                    }
                    // Nobody knows what it has left.
                    self.heal(it).await;
                }
            },
        }
        sleep_until(self.begun + from + it.lasts).await;
        if let Err(why) = mend(self.cluster, damage).await {
            // The machine's own fault breaks no promise, if everything can be healed after it.
            if MachineFault::is_in(&why) {
                remark.push_str(&format!("; not mended at once: {why:#}"));
            } else {
                self.fail(format!("`{}` is not mended: {why:#}", it.fault));
            }
            self.heal(it).await;
        }
        if let Err(why) = operator::undo(self.cluster, &self.client, &undo).await {
            remark.push_str(&format!("; not taken back: {why:#}"));
        }
        let mended = self.begun.elapsed();
        let recovered = self.demand_recovery(it).await;
        Done { fault: it.fault.clone(), from, mended, recovered, remark, was_done }
    }

    /// Demands that nobody has ended whom the strike does not end.
    async fn demand_old_lives(&mut self, it: &Strike) {
        match Starts::look(self.cluster).await {
            Ok(later) => {
                for anew in self.starts.unexplained(&later, &it.fault) {
                    self.fail(anew);
                }
                self.starts = later;
            }
            Err(why) => self.fail(format!("when servers have started is not known: {why:#}")),
        }
    }

    async fn heal(&mut self, it: &Strike) {
        if let Err(why) = heal_all(self.cluster).await {
            self.fail(format!("after `{}` not everything could be healed: {why:#}", it.fault));
        }
    }

    /// Demands what must be so after a mending, and brings it about for the next strike where it is not:
    /// from the mending until every range granted.
    async fn demand_recovery(&mut self, it: &Strike) -> Duration {
        let recovery = match self.bounds.demand(&self.watch.starts()).await {
            Ok(recovery) => recovery,
            Err(why) => {
                self.fail(format!("{why:#}"));
                return Duration::ZERO;
            }
        };
        for late in &recovery.late {
            self.fail(format!("no grant within 10 s after `{}` (L3): {late}", it.fault));
        }
        if it.fault.kind.breadth() != Breadth::None
            && let Err(why) = until_all_ready(self.cluster).await
        {
            self.fail(format!("after `{}`: {why:#}", it.fault));
            // What comes next is to strike a whole cluster.
            self.heal(it).await;
        }
        recovery.took
    }
}
