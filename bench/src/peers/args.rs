//! The command line.

use std::{env, path::PathBuf, time::Duration};

use clap::Parser;

use crate::peers::results::{Kind, System};

/// Clients that one run may have: each is a task here, and a lease in etcd.
const CLIENTS_MAX: i64 = 4_096;
/// A run keeps 24 bytes for every cycle.
const DURATION_MAX: Duration = Duration::from_secs(60);

/// Compares SharkLock with etcd, ZooKeeper and Redis on this machine
///
/// Writes peers.json, peers.md and peers.svg. Nothing else should run on the machine.
#[derive(Clone, Debug, Parser)]
#[command(name = "sharklock-bench-peers")]
pub struct Args {
    /// How often every system has its turn
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    pub rounds: u32,
    /// How long each figure is measured, at most 1m
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    pub duration: Duration,
    /// How long each load runs before it is measured
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration)]
    pub warmup: Duration,
    /// Numbers of clients, comma separated
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,64,256,1024", value_parser = clap::value_parser!(u32).range(1..=CLIENTS_MAX))]
    pub clients: Vec<u32>,
    /// Which systems, comma separated
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_enum, default_values_t = System::ALL)]
    pub systems: Vec<System>,
    /// Which workloads, comma separated
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_enum, default_values_t = Kind::ALL)]
    pub workloads: Vec<Kind>,
    /// Leaves out killing the leader under load
    #[arg(long)]
    pub no_failover: bool,
    /// What is started, and where.
    #[command(flatten)]
    pub servers: Servers,
    /// Writes the results here
    #[arg(long, value_name = "DIR", default_value = "docs/benchmarks")]
    pub out: PathBuf,
    /// Measures nothing: makes the table and the plot from this peers.json again
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
}

/// The servers that a run starts.
#[derive(Clone, Debug, clap::Args)]
pub struct Servers {
    /// The program `sharklock` [default: the one beside this program]
    #[arg(long, value_name = "FILE", env = "SHARKLOCK_BIN")]
    pub sharklock: Option<PathBuf>,
    /// Keeps the servers' data under here while they run: choose the disk to measure
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,
}

impl Servers {
    /// The program to measure.
    pub fn sharklock(&self) -> anyhow::Result<PathBuf> {
        let path = match &self.sharklock {
            Some(path) => path.clone(),
            None => env::current_exe()?.with_file_name("sharklock"),
        };
        let path = std::path::absolute(path)?;
        anyhow::ensure!(
            path.is_file(),
            "{} is not there: build it with `make release`, or name it with --sharklock",
            path.display()
        );
        Ok(path)
    }
}

/// Reads how long a figure is measured: at most a minute.
pub fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|why| format!("{why}; as in 5s"))?;
    if duration.is_zero() || duration > DURATION_MAX {
        return Err(format!("must be more than 0s and at most {}s", DURATION_MAX.as_secs()));
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn parse(args: &[&str]) -> Result<Args, clap::Error> {
        Args::try_parse_from([&["peers"], args].concat())
    }

    #[test]
    fn the_command_is_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn unless_told_otherwise_everything_is_measured() {
        let args = parse(&[]).expect("all have defaults");
        assert_eq!(args.clients, [1, 64, 256, 1_024]);
        assert_eq!(args.systems, System::ALL);
        assert_eq!(args.workloads, Kind::ALL);
    }

    #[test]
    fn lists_are_split_at_commas() {
        let args = parse(&["--systems", "etcd,redis-always", "--clients", "2,4"]).expect("valid");
        assert_eq!(args.systems, [System::Etcd, System::RedisAlways]);
        assert_eq!(args.clients, [2, 4]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for bad in [["--rounds", "0"], ["--clients", "0"], ["--duration", "2m"], ["--systems", "x"]]
        {
            assert!(parse(&bad).is_err(), "{bad:?}");
        }
        let told = parse(&["--duration", "2m"]).expect_err("too long").to_string();
        assert!(told.contains("--duration") && told.contains("at most 60s"), "{told}");
    }

    #[test]
    fn a_program_that_is_not_there_is_told_with_the_way_to_get_it() {
        let args = parse(&["--sharklock", "/no/such/sharklock"]).expect("valid");
        let told = args.servers.sharklock().expect_err("not there").to_string();
        assert!(told.contains("/no/such/sharklock") && told.contains("make release"), "{told}");
    }
}
