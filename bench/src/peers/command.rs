//! The whole run: every turn, then the files.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::Context as _;

use crate::{
    measure,
    peers::{
        args::Args,
        etcd::Etcd,
        failover,
        plan::{self, Turn},
        plot,
        redis::Redis,
        results::{Failover, Results, Run, System},
        round_trip,
        service::{home, version},
        sharklock::Sharklock,
        table,
        zookeeper::{self, Zookeeper},
    },
};

/// The time that starting a cluster may take beside a failover.
const START_MAX: Duration = Duration::from_secs(300);

/// Measures, or reads what was measured, and writes the table and the plot.
///
/// # Errors
/// When a server cannot be started or ends by itself, when a file cannot be written, and when two
/// workers held one lock at the same time.
pub async fn run(args: &Args) -> anyhow::Result<()> {
    fs::create_dir_all(&args.out).with_context(|| cannot_write(&args.out))?;
    let results = match &args.from {
        Some(path) => read(path)?,
        None => measure_all(args).await?,
    };
    write(&args.out.join("peers.md"), &table::markdown(&results))?;
    write(&args.out.join("peers.svg"), &plot::svg(&results))?;
    println!("{}", table::markdown(&results));
    let overlaps: u64 = results.runs.iter().map(|run| run.overlaps).sum();
    anyhow::ensure!(overlaps == 0, "{overlaps} grants of a lock that another worker held");
    Ok(())
}

async fn measure_all(args: &Args) -> anyhow::Result<Results> {
    let sharklock = args.servers.sharklock()?;
    let mut results = results(args, &sharklock).await?;
    let times = [args.warmup, args.duration];
    let turns = plan::turns(args.rounds, &args.workloads, &args.systems, &args.clients, times);
    let turns_count = turns.len();
    for (n, turn) in turns.into_iter().enumerate() {
        let Turn { round, system, kind, .. } = turn;
        let runs = measured(args, &sharklock, &turn).await;
        let runs = runs.with_context(|| format!("{}, {kind:?}, round {round}", system.label()))?;
        for run in &runs {
            progress(n + 1, turns_count, run);
        }
        results.runs.extend(runs);
        save(args, &results)?;
    }
    if !args.no_failover {
        for round in 1..=args.rounds {
            for system in [System::Sharklock, System::Etcd] {
                if args.systems.contains(&system) {
                    let failover = failed_over(args, &sharklock, system, round).await;
                    let failover = failover.with_context(|| {
                        format!("failover of {}, round {round}", system.label())
                    })?;
                    eprintln!("{}: {:?}", system.label(), failover.first_grant_ms);
                    results.failovers.push(failover);
                    save(args, &results)?;
                }
            }
        }
    }
    Ok(results)
}

/// Everything but the runs.
async fn results(args: &Args, sharklock: &Path) -> anyhow::Result<Results> {
    let mut results = Results {
        cpus: thread::available_parallelism()?.get(),
        round_trip_us: measure::latencies(round_trip::sample().await?).p50_us,
        versions: Default::default(),
        warmup_s: args.warmup.as_secs_f64(),
        measured_s: args.duration.as_secs_f64(),
        rounds: args.rounds,
        runs: Vec::new(),
        failovers: Vec::new(),
    };
    for &system in &args.systems {
        // Asked first: a system that is not installed is told now, not in half an hour.
        let version = match system {
            System::Sharklock => version(sharklock, "--version"),
            System::Etcd => version(Path::new("etcd"), "--version"),
            System::Zookeeper => zookeeper::version(),
            System::RedisAlways | System::RedisMemory => {
                version(Path::new("redis-server"), "--version")
            }
        };
        let version = version.context("scripts/bench-peers.sh installs what is missing")?;
        results.versions.insert(system, version);
    }
    Ok(results)
}

async fn measured(args: &Args, sharklock: &Path, turn: &Turn) -> anyhow::Result<Vec<Run>> {
    let (_dir, home) = home("bench-peers-", &args.servers.dir, sharklock)?;
    let runs = async {
        match turn.system {
            System::Sharklock => turn.run::<Sharklock>(&home).await,
            System::Etcd => turn.run::<Etcd>(&home).await,
            System::Zookeeper => turn.run::<Zookeeper>(&home).await,
            System::RedisAlways => turn.run::<Redis<true>>(&home).await,
            System::RedisMemory => turn.run::<Redis<false>>(&home).await,
        }
    };
    tokio::time::timeout(turn.time_max(), Box::pin(runs)).await.context("it takes too long")?
}

async fn failed_over(
    args: &Args,
    sharklock: &Path,
    system: System,
    round: u32,
) -> anyhow::Result<Failover> {
    let (_dir, home) = home("bench-peers-", &args.servers.dir, sharklock)?;
    let run = async {
        match system {
            System::Sharklock => failover::run::<Sharklock>(&home, system, round).await,
            System::Etcd => failover::run::<Etcd>(&home, system, round).await,
            System::Zookeeper | System::RedisAlways | System::RedisMemory => {
                unreachable!("the leaders of SharkLock and etcd are killed, and no others")
            }
        }
    };
    let time_max = START_MAX + failover::TIME_MAX;
    tokio::time::timeout(time_max, Box::pin(run)).await.context("it takes too long")?
}

fn progress(turn: usize, turns: usize, run: &Run) {
    eprintln!(
        "{turn}/{turns} {}, {:?}, {} clients: {:.0}/s, p50 {:.2} ms, p99 {:.2} ms, F {:.0} us, \
         {} errors{}",
        run.system.label(),
        run.workload,
        run.clients,
        run.cycles_per_s,
        run.cycle.p50_us / 1e3,
        run.cycle.p99_us / 1e3,
        run.disk.f_us,
        run.errors.count,
        if run.overlaps > 0 { ", OVERLAPS" } else { "" },
    );
}

fn read(path: &Path) -> anyhow::Result<Results> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no peers.json", path.display()))
}

/// After every turn: what was measured is not lost when a later one fails.
fn save(args: &Args, results: &Results) -> anyhow::Result<()> {
    let path: PathBuf = args.out.join("peers.json");
    write(&path, &(serde_json::to_string_pretty(results)? + "\n"))
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| cannot_write(path))
}

fn cannot_write(path: &Path) -> String {
    format!("cannot write {}", path.display())
}
