//! Chaos on a cluster of containers: the run itself, its clients in their containers, and plans to look at.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use sharklock_tests::chaos::cluster::Parts;
use sharklock_tests::chaos::fault::{Kind, Topology};
use sharklock_tests::chaos::keep::Life;
use sharklock_tests::chaos::load::{Load, Work};
use sharklock_tests::chaos::plan::Plan;
use sharklock_tests::chaos::{clients, resource, run, shell};

/// Strikes a cluster of containers by a plan, and judges what its clients saw
#[derive(Debug, Parser)]
#[command(name = "sharklock-chaos")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Starts a cluster, strikes it, judges, and leaves a report
    Run(RunArgs),
    /// Prints what a seed does, and when
    Plan {
        /// Which plan
        #[arg(long)]
        seed: u64,
        /// How long
        #[arg(long, default_value_t = 3)]
        minutes: u64,
        /// These kinds of faults alone
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
    },
    /// Clients, in their container
    Load {
        /// What they do
        #[arg(long, value_enum)]
        work: Work,
        /// How many
        #[arg(long)]
        clients: u32,
        /// Groups of names
        #[arg(long)]
        groups: u32,
        /// The name of the process
        #[arg(long)]
        label: String,
        /// The label of the first session
        #[arg(long)]
        first_session: u32,
        /// Between two cycles of a client
        #[arg(long)]
        pause_ms: u64,
        /// Where the history goes
        #[arg(long)]
        out: PathBuf,
    },
    /// One life of a client that keeps a lock beyond its process
    Keep(Life),
    /// The resource of slow holders, in its container
    Resource {
        /// Where its summary goes
        #[arg(long)]
        out: PathBuf,
    },
    /// A shell that counts, in its container
    Shell {
        /// The name of the process
        #[arg(long)]
        label: String,
        /// Where counter and summary are
        #[arg(long)]
        out: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// Which plan
    #[arg(long)]
    seed: u64,
    /// How long
    #[arg(long, default_value_t = 3)]
    minutes: u64,
    /// The image of the servers
    #[arg(long)]
    image: String,
    /// The Compose file of the cluster
    #[arg(long, default_value = "deploy/compose.yaml")]
    compose_file: PathBuf,
    /// Where everything of the run goes
    #[arg(long)]
    dir: PathBuf,
    /// The library that makes syncs slow or fail
    #[arg(long)]
    sync_shim: Option<PathBuf>,
    /// The library that makes wall clocks jump
    #[arg(long)]
    faketime: Option<PathBuf>,
    /// The build under test, if there is another to change to
    #[arg(long, requires = "other_binary")]
    binary: Option<PathBuf>,
    /// Another build, of the same formats
    #[arg(long, requires = "binary")]
    other_binary: Option<PathBuf>,
    /// These kinds of faults alone
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Leaves the containers when it ends
    #[arg(long)]
    keep: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    match obey(Cli::parse().command).await {
        Ok(code) => code,
        Err(why) => {
            eprintln!("error: {why:#}");
            ExitCode::from(2)
        }
    }
}

async fn obey(command: Command) -> Result<ExitCode> {
    match command {
        Command::Run(args) => return run_chaos(args).await,
        Command::Plan { seed, minutes, only } => {
            let kinds = chosen(&only)?;
            let length = Duration::from_secs(60 * minutes);
            print!("{}", run::told(&Plan::draw(seed, length, &Topology::of_compose(), &kinds)));
        }
        Command::Load { work, clients, groups, label, first_session, pause_ms, out } => {
            let pause = Duration::from_millis(pause_ms);
            let load = Load { work, clients, groups, label, first_session, pause, out };
            load.run(until_terminated()).await?;
        }
        Command::Keep(life) => life.live().await?,
        Command::Resource { out } => resource::serve(&out, until_terminated()).await?,
        Command::Shell { label, out } => shell::run(&label, &out, until_terminated()).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn until_terminated() {
    clients::terminated().await.expect("SIGTERM can be caught");
}

/// The kinds that are asked for.
fn chosen(only: &[String]) -> Result<Vec<Kind>> {
    let known = |name: &String| Kind::BAG.iter().any(|(kind, _)| kind.name() == *name);
    if let Some(unknown) = only.iter().find(|name| !known(name)) {
        let names: Vec<_> = Kind::BAG.iter().map(|(kind, _)| kind.name()).collect();
        anyhow::bail!("{unknown} is no kind of fault: {}", names.join(", "));
    }
    let kinds = Kind::BAG.iter().map(|(kind, _)| *kind);
    Ok(kinds.filter(|kind| only.is_empty() || only.contains(&kind.name())).collect())
}

async fn run_chaos(args: RunArgs) -> Result<ExitCode> {
    let builds =
        args.binary.clone().zip(args.other_binary.clone()).map(|(one, other)| [one, other]);
    let kinds = chosen(&args.only)?;
    let parts = Parts {
        project: "sharklock-chaos".to_owned(),
        image: args.image,
        compose_file: args.compose_file,
        program: std::env::current_exe()?,
        dir: std::path::absolute(args.dir)?,
        sync_shim: args.sync_shim,
        faketime: args.faketime,
        builds,
    };
    let length = Duration::from_secs(60 * args.minutes);
    let outcome = run::run_plan(parts, args.seed, length, &kinds, args.keep).await?;
    println!(
        "chaos: {} operations, {} violations, {}",
        outcome.timeline.operations,
        outcome.judgement.violations_count,
        outcome.verdict()
    );
    for failure in &outcome.failures {
        println!("  {failure}");
    }
    Ok(if outcome.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
