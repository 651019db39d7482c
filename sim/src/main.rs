//! `sharklock-sim`: runs seeds, one or many, and tells what was broken.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, anyhow};
use clap::{Args, Parser, Subcommand, ValueEnum};
use sharklock_sim::{Counters, Options, RunReport, run};

/// Deterministic simulation of a SharkLock cluster.
#[derive(Debug, Parser)]
#[command(name = "sharklock-sim", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// For people, or one JSON object per run for programs.
    #[arg(long, value_enum, default_value = "text", global = true)]
    output: OutputKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OutputKind {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// One run. Exit code 1 if something was broken.
    Run {
        #[arg(long)]
        seed: u64,
        /// Prints every line of the trace.
        #[arg(long)]
        trace: bool,
        #[command(flatten)]
        set: Set,
    },
    /// Many runs with consecutive seeds, until something is broken.
    Swarm {
        /// How many.
        #[arg(long, default_value_t = 1_000)]
        seeds: u64,
        /// The first seed.
        #[arg(long, default_value_t = 1)]
        from: u64,
        /// Ends after so many minutes of CPU time.
        #[arg(long)]
        minutes: Option<f64>,
        /// Goes on after a violation, and counts them.
        #[arg(long)]
        keep_going: bool,
        #[command(flatten)]
        set: Set,
    },
    /// Runs seeds twice here and once in another process, and compares their traces.
    Meta {
        /// How many.
        #[arg(long, default_value_t = 5)]
        seeds: u64,
        /// The first seed.
        #[arg(long, default_value_t = 1)]
        from: u64,
        #[command(flatten)]
        set: Set,
    },
}

#[derive(Clone, Debug, Args)]
struct Set {
    /// Replaces an option of the run, as `clients=3`; may be repeated.
    #[arg(long = "set", value_name = "OPTION=NUMBER")]
    set: Vec<String>,
}

impl Set {
    fn options(&self, seed: u64) -> Result<Options> {
        let mut options = Options::draw(seed);
        for pair in &self.set {
            let (name, value) =
                pair.split_once('=').ok_or_else(|| anyhow!("{pair:?}: use OPTION=NUMBER"))?;
            options.set(name, value.parse()?).map_err(|error| anyhow!(error))?;
        }
        Ok(options)
    }

    fn flags(&self) -> String {
        self.set.iter().map(|pair| format!(" --set {pair}")).collect()
    }
}

fn main() -> ExitCode {
    match Cli::parse().execute() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sharklock-sim: {error:#}");
            ExitCode::from(2)
        }
    }
}

impl Cli {
    /// False: something was broken.
    fn execute(self) -> Result<bool> {
        let json = self.output == OutputKind::Json;
        match self.command {
            Command::Run { seed, trace, set } => {
                let options = set.options(seed)?;
                if !json {
                    print!("seed {seed}\n{options}");
                }
                let sink: Option<Box<dyn io::Write>> =
                    trace.then(|| Box::new(io::BufWriter::new(io::stdout())) as _);
                let begin = cpu();
                let report = run(seed, options, sink);
                if json {
                    println!("{}", as_json(&report));
                } else {
                    print_run(&report, cpu().saturating_sub(begin), &set);
                }
                Ok(report.violations.is_empty())
            }
            Command::Swarm { seeds, from, minutes, keep_going, set } => {
                swarm(from..from.saturating_add(seeds), minutes, keep_going, &set, json)
            }
            Command::Meta { seeds, from, set } => meta(from..from.saturating_add(seeds), &set),
        }
    }
}

fn swarm(
    seeds: std::ops::Range<u64>,
    minutes: Option<f64>,
    keep_going: bool,
    set: &Set,
    json: bool,
) -> Result<bool> {
    let begin = cpu();
    let limit = minutes.map(|minutes| Duration::from_secs_f64(minutes * 60.0));
    let (mut runs, mut broken, mut simulated_ns) = (0_u64, Vec::new(), 0_u64);
    let mut counters = Counters::default();
    for seed in seeds {
        let spent = cpu().saturating_sub(begin);
        if limit.is_some_and(|limit| spent >= limit) {
            break;
        }
        let report = run(seed, set.options(seed)?, None);
        runs += 1;
        simulated_ns += report.simulated_ns;
        counters.merge(&report.counters);
        if json {
            println!("{}", as_json(&report));
        }
        if !report.violations.is_empty() {
            broken.push(seed);
            if !json {
                eprintln!();
                print_violations(&report, set);
            }
            if !keep_going {
                break;
            }
        }
        if !json {
            let hours = simulated_ns as f64 / 3.6e12;
            eprint!(
                "\r{runs} runs to seed {seed}, {hours:.1} h simulated in {:.0} s of CPU, {} broken ",
                spent.as_secs_f64(),
                broken.len()
            );
            io::stderr().flush()?;
        }
    }
    if !json {
        eprintln!();
        print_counters(&counters);
        let (hours, spent) = (simulated_ns as f64 / 3.6e12, cpu().saturating_sub(begin));
        println!("{runs} runs, {hours:.2} h simulated, {:.1} s of CPU", spent.as_secs_f64());
        println!("broken: {broken:?}");
    }
    Ok(broken.is_empty())
}

/// Same seed, same trace: here and in another process, where addresses differ.
fn meta(seeds: std::ops::Range<u64>, set: &Set) -> Result<bool> {
    for seed in seeds {
        let here = run(seed, set.options(seed)?, None);
        let again = run(seed, set.options(seed)?, None);
        if here.trace_hash != again.trace_hash {
            println!("seed {seed}: two runs of one process differ");
            return Ok(false);
        }
        let mut command = std::process::Command::new(std::env::current_exe()?);
        command.args(["--output", "json", "run", "--seed", &seed.to_string()]);
        for pair in &set.set {
            command.args(["--set", pair]);
        }
        let other = command.output()?;
        let other: serde_json::Value = serde_json::from_slice(&other.stdout)?;
        let hash = format!("{:016x}", here.trace_hash);
        if other["trace_hash"] != hash.as_str() {
            println!("seed {seed}: another process has another trace: {}", other["trace_hash"]);
            return Ok(false);
        }
        println!("seed {seed}: {} lines, {hash}", here.trace_lines);
    }
    Ok(true)
}

fn print_run(report: &RunReport, took: Duration, set: &Set) {
    print_counters(&report.counters);
    let simulated = report.simulated_ns as f64 / 1e9;
    let times = simulated / took.as_secs_f64().max(1e-9);
    println!("simulated {simulated:.1} s in {:.2} s of CPU, {times:.0} times", took.as_secs_f64());
    println!("trace of {} lines: {:016x}", report.trace_lines, report.trace_hash);
    if report.violations.is_empty() {
        println!("nothing was broken");
    } else {
        print_violations(report, set);
    }
}

fn print_counters(counters: &Counters) {
    for (name, count) in counters.iter() {
        println!("  {count:>10} {name}");
    }
}

fn print_violations(report: &RunReport, set: &Set) {
    for violation in &report.violations {
        println!("--");
        violation.lines.iter().for_each(|line| print!("{line}"));
        let at = violation.at_ns as f64 / 1e9;
        println!("{} broken at {at:.6} s: {}", violation.rule, violation.what);
    }
    let (seed, flags) = (report.seed, set.flags());
    println!("seed {seed}; again: cargo run -p sharklock-sim -- run --seed {seed}{flags} --trace");
}

fn as_json(report: &RunReport) -> serde_json::Value {
    let violations = report.violations.iter().map(|violation| {
        serde_json::json!({
            "rule": violation.rule,
            "at_ns": violation.at_ns,
            "what": violation.what,
        })
    });
    let options: serde_json::Map<_, _> =
        report.options.pairs().into_iter().map(|(name, it)| (name.to_owned(), it.into())).collect();
    let counters: serde_json::Map<_, _> =
        report.counters.iter().map(|(name, count)| (name.to_owned(), count.into())).collect();
    serde_json::json!({
        "seed": report.seed,
        "simulated_ns": report.simulated_ns,
        "trace_hash": format!("{:016x}", report.trace_hash),
        "trace_lines": report.trace_lines,
        "options": options,
        "counters": counters,
        "violations": violations.collect::<Vec<_>>(),
    })
}

/// CPU time of this process so far; zero where the system does not tell.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let nanos = stat.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}
