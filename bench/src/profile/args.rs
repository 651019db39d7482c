//! The command line.

use std::{path::PathBuf, str::FromStr, time::Duration};

use clap::{Parser, ValueEnum as _};
use serde::Serialize;

use crate::peers::{
    args::{Servers, duration},
    results::Kind,
};

/// Clients that one load may have: each is a task here.
const CLIENTS_MAX: u32 = 4_096;

/// Tells where the time of a cycle of acquire and release goes, on this machine
///
/// Writes profile.*, as JSON and as Markdown. Nothing else should run on the machine.
#[derive(Clone, Debug, Parser)]
#[command(name = "sharklock-bench-profile")]
pub struct Args {
    /// Loads, comma separated: own:N are N clients with names of their own, hot:N with one name
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "own:1,own:64,own:256,hot:64"
    )]
    pub loads: Vec<Load>,
    /// How long each of the three parts of a load is measured, at most 1m
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub duration: Duration,
    /// How long each load runs before it is measured
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    pub warmup: Duration,
    /// What is started, and where.
    #[command(flatten)]
    pub servers: Servers,
    /// Writes the results here
    #[arg(long, value_name = "DIR", default_value = "docs/benchmarks")]
    pub out: PathBuf,
}

/// So many clients, with this work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Load {
    /// The work.
    pub kind: Kind,
    /// At least 1.
    pub clients: u32,
}

impl FromStr for Load {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expected = || format!("expected own:N or hot:N with N from 1 to {CLIENTS_MAX}");
        let (kind, clients) = text.split_once(':').ok_or_else(expected)?;
        let kind = Kind::from_str(kind, false).map_err(|_| expected())?;
        let clients = clients.parse().ok().filter(|n| (1..=CLIENTS_MAX).contains(n));
        Ok(Self { kind, clients: clients.ok_or_else(expected)? })
    }
}

impl Load {
    /// For people.
    pub fn label(self) -> String {
        match self.kind {
            Kind::Own => format!("own names, {}", self.clients),
            Kind::Hot => format!("hot lock, {}", self.clients),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(args: &[&str]) -> Result<Args, clap::Error> {
        Args::try_parse_from([&["profile"], args].concat())
    }

    #[test]
    fn the_command_is_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn loads_are_a_kind_of_work_and_a_number_of_clients() {
        let args = parse(&[]).expect("all have defaults");
        let labels: Vec<_> = args.loads.iter().map(|load| load.label()).collect();
        assert_eq!(labels, ["own names, 1", "own names, 64", "own names, 256", "hot lock, 64"]);
        for bad in ["own", "own:0", "cold:1", "own:5000", "hot:x"] {
            let told = parse(&["--loads", bad]).expect_err("it is no load").to_string();
            assert!(told.contains("own:N or hot:N"), "{told}");
        }
    }
}
