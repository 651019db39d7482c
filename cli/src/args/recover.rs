//! The arguments of `sharklock recover`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{HELP, OutputArgs, values::duration};

/// Arguments of `recover`.
#[derive(Debug, Args)]
#[command(
    help_template = HELP,
    disable_help_subcommand = true,
    before_help = "\
Examples:
  sharklock recover ls                  which ranges are lost, and what is left
  sharklock recover run 12 --dry-run    what would be done, and what is lost
  sharklock recover run 12 --lost 1,2 --stopped --wait
  sharklock recover log                 what was recovered, when, and by whom
",
    after_help = "\
The last resort: it lets what is left of a range go on without a majority that
is lost for good, and gives up what that majority had decided alone. While any
of the lost stores may come back, bring it back instead.

Exit codes: 0 done, 1 failed or refused, 2 usage, 3 not done in time, 69 the
cluster, or its masters, are out of reach, 78 the endpoints belong to two
clusters, or to another than --cluster says."
)]
pub struct RecoverArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: RecoverCommand,
}

/// What `sharklock recover` can do.
#[derive(Debug, Subcommand)]
pub enum RecoverCommand {
    /// Lists ranges that have lost their majority, and what is left of them
    #[command(help_template = HELP, before_help = "\
Examples:
  sharklock recover ls
  sharklock recover ls --output json | jq -r '.ranges[].range_id'
", after_help = "\
A store says what it has of a range within half a minute from when it hears of
no leader.")]
    Ls {
        /// How to print them.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Lets what is left of a range go on
    #[command(help_template = HELP, before_help = "\
Examples:
  sharklock recover run 12 --dry-run
  sharklock recover run 12 --lost 1,2 --stopped --wait
  sharklock recover run --all --lost 1,2 --stopped --wait
", after_help = "\
The lost stores count as gone with all that they have, and are refused for
ever. The replica with most of the log goes on as the only one; the schedule
makes the others anew. Nothing is granted for about 10 minutes, until every
lease is over that the lost stores may have given: who holds a lock keeps it,
and who may wait queues.

--stopped is your word that no process of the lost stores runs anywhere. Should
one still run, cut off from the masters, it goes on granting, and two clients
hold the same lock.

--now grants at once, and breaks mutual exclusion for up to 10 minutes: a client
that got a lock from the lost stores may still rely on it while another gets it.
Only fencing tokens protect the resource then.")]
    Run(RunArgs),
    /// Lists what was recovered: when, by whom, and what it took
    #[command(help_template = HELP, before_help = "\
Examples:
  sharklock recover log
  sharklock recover log --output json
")]
    Log {
        /// How to print them.
        #[command(flatten)]
        output: OutputArgs,
    },
}

/// Arguments of `recover run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The ids of the ranges, as `recover ls` shows them
    #[arg(value_name = "RANGE", required_unless_present = "all")]
    pub ranges: Vec<u64>,
    /// All ranges that have lost their majority
    #[arg(long, conflicts_with = "ranges")]
    pub all: bool,
    /// The stores that are lost for good: all that have a replica and are silent
    #[arg(long, value_name = "STORES", value_delimiter = ',')]
    pub lost: Vec<u64>,
    /// Confirms that their processes are stopped, and never start again
    #[arg(long)]
    pub stopped: bool,
    /// Grants at once: two clients may then hold the same lock
    #[arg(long)]
    pub now: bool,
    /// Only says what would be done, and what is lost
    #[arg(long, conflicts_with = "wait")]
    pub dry_run: bool,
    /// Waits until the ranges are led again, and tells of it on stderr
    #[arg(long)]
    pub wait: bool,
    /// Gives up waiting after this long; the recovery goes on
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = duration)]
    pub timeout: Duration,
    /// How to print it.
    #[command(flatten)]
    pub output: OutputArgs,
}
