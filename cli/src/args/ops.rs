//! The arguments of `sharklock ops`, and those of `sharklock ranges` that begin an operator.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{HELP, OutputArgs, ranges::WhichArgs, values::duration};

/// Arguments of `ops`.
#[derive(Debug, Args)]
#[command(
    help_template = HELP,
    disable_help_subcommand = true,
    before_help = "\
Examples:
  sharklock ops ls            what runs, and what has ended of late
  sharklock ops wait 1042     until it has ended
  sharklock ops cancel 1042   what it has done stays done
",
    after_help = "\
An operator is a change of a range that the masters carry out: a replica moves,
or another store leads. A range has one at most.

Exit codes: 0 done, 1 failed or refused, 2 usage, 3 not ended in time, 69 the
cluster, or its masters, are out of reach, 78 the endpoints belong to two
clusters, or to another than --cluster says."
)]
pub struct OpsArgs {
    /// What to do with them.
    #[command(subcommand)]
    pub command: OpsCommand,
}

/// What `sharklock ops` can do.
#[derive(Debug, Subcommand)]
pub enum OpsCommand {
    /// Lists operators that run, and the last that have ended
    #[command(help_template = HELP, before_help = "\
Examples:
  sharklock ops ls
  sharklock ops ls --output json | jq -r '.operators[].operator_id'
")]
    Ls {
        /// How to print them.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Shows one operator: its step, and what that waits for
    #[command(help_template = HELP, before_help = "\
Examples:
  sharklock ops show 1042
")]
    Show {
        /// Its id
        #[arg(value_name = "OPERATOR")]
        id: u64,
        /// How to print it.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Waits until an operator has ended, and tells of its steps on stderr
    #[command(help_template = HELP, before_help = "\
Examples:
  sharklock ops wait 1042 --timeout 1m
")]
    Wait {
        /// Its id
        #[arg(value_name = "OPERATOR")]
        id: u64,
        /// Gives up after this long; the operator goes on
        #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration)]
        timeout: Duration,
        /// How to print it.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Ends an operator before it is done
    #[command(help_template = HELP, before_help = "\
Examples:
  sharklock ops cancel 1042
")]
    Cancel {
        /// Its id
        #[arg(value_name = "OPERATOR")]
        id: u64,
        /// How to print it.
        #[command(flatten)]
        output: OutputArgs,
    },
}

/// How a change of a range is carried out.
#[derive(Debug, Args)]
pub struct ChangeArgs {
    /// Which.
    #[command(flatten)]
    pub which: WhichArgs,
    /// Only says which steps it would take
    #[arg(long, conflicts_with = "wait")]
    pub dry_run: bool,
    /// Waits until it is done, and tells of its steps on stderr
    #[arg(long)]
    pub wait: bool,
    /// Gives up waiting after this long; the operator goes on
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration)]
    pub timeout: Duration,
    /// How to print it.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Arguments of `ranges move`.
#[derive(Debug, Args)]
pub struct MoveArgs {
    /// The store that loses its replica
    #[arg(long, value_name = "STORE")]
    pub from: u64,
    /// The store that gets one
    #[arg(long, value_name = "STORE")]
    pub to: u64,
    /// How.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// Arguments of commands about one store.
#[derive(Debug, Args)]
pub struct ToStoreArgs {
    /// The store
    #[arg(long, value_name = "STORE")]
    pub to: u64,
    /// How.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// Arguments of `ranges remove-replica`.
#[derive(Debug, Args)]
pub struct FromStoreArgs {
    /// The store
    #[arg(long, value_name = "STORE")]
    pub from: u64,
    /// How.
    #[command(flatten)]
    pub change: ChangeArgs,
}
