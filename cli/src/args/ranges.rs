//! The arguments of `sharklock ranges`.

use std::time::Duration;

use clap::{Args, Subcommand};
use sharklock_client::WhichRange;

use super::{
    FromStoreArgs, HELP, MoveArgs, OutputArgs, ToStoreArgs,
    values::{duration, lock_name},
};
use crate::exit::{Failure, USAGE};

/// Arguments of `ranges`.
#[derive(Debug, Args)]
#[command(
    help_template = HELP,
    disable_help_subcommand = true,
    before_help = "\
Examples:
  sharklock ranges ls                   every range, its leader, its locks
  sharklock ranges show invoices/42     the range that has this lock
  sharklock ranges split 1 --dry-run    where range 1 would be split, and why
",
    after_help = "\
Exit codes: 0 done, 1 failed or refused, 2 usage, 69 the cluster, or its
masters, are out of reach, 78 the endpoints belong to two clusters, or to
another than --cluster says."
)]
pub struct RangesArgs {
    /// What to do with them.
    #[command(subcommand)]
    pub command: RangesCommand,
}

/// What `sharklock ranges` can do.
#[derive(Debug, Subcommand)]
pub enum RangesCommand {
    /// Lists all ranges in order of their names, with their sums
    #[command(help_template = HELP, before_help = "\
Examples:
  sharklock ranges ls
  sharklock ranges ls --output json | jq -r '.ranges[].range_id'
")]
    Ls {
        /// How to print them.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Shows one range: who leads it, what it holds, what it waits for
    #[command(help_template = HELP, before_help = "\
Examples:
  sharklock ranges show 1               the range with this id
  sharklock ranges show invoices/42     the range that has this lock
  sharklock ranges show 42 --by-name    the range that has the lock 42
")]
    Show {
        /// Which.
        #[command(flatten)]
        which: WhichArgs,
        /// How to print it.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Makes two ranges of one, on the same stores
    #[command(help_template = HELP, before_help = "\
Examples:
  sharklock ranges split 1 --dry-run               where, and why there
  sharklock ranges split 1                         in the middle of its locks
  sharklock ranges split 1 --at invoices/ --wait   until both have leaders
", after_help = "\
Whoever holds or waits keeps what he has, and clients notice nothing but a
retry. A split cannot be undone: ranges do not merge. It needs a master that
answers, for the id of the new range; locks do not.

Exit codes: 0 done, 1 refused, 2 usage, 3 split, but with --wait a half has no
leader in time, 69 the cluster, or its masters, are out of reach, 78 the
endpoints belong to two clusters, or to another than --cluster says.")]
    Split(SplitArgs),
    /// Moves a replica of a range to another store
    #[command(help_template = HELP, before_help = "\
Examples:
  sharklock ranges move 7 --from 2 --to 4 --dry-run   the steps that it takes
  sharklock ranges move 7 --from 2 --to 4 --wait      until it is done
")]
    Move(MoveArgs),
    /// Lets another store lead a range
    #[command(help_template = HELP, before_help = "\
Examples:
  sharklock ranges transfer-leader 7 --to 3 --wait
", after_help = "\
Leases begin anew with each leader: whoever has died meanwhile keeps his locks
for up to one lease longer.")]
    TransferLeader(ToStoreArgs),
    /// Gives a range one replica more
    #[command(help_template = HELP, before_help = "\
Examples:
  sharklock ranges add-replica 7 --to 4 --wait
")]
    AddReplica(ToStoreArgs),
    /// Balances leaders and replicas now, without waiting for leaders to cool down
    #[command(help_template = HELP, before_help = "\
Examples:
  sharklock ranges rebalance --dry-run   what would move first, and why
  sharklock ranges rebalance --wait      until nothing is left to move
", after_help = "\
The masters balance by themselves, and move a range's leader at most once in 10
minutes, since leases begin anew with each. This order does not wait for that,
and moves each leader once; limits of stores and their labels hold as ever. It
ends when nothing is left to move, after 10 minutes, with a pause of the
schedule, or when another master leads.

Exit codes: 0 done, 1 refused, 2 usage, 3 not done in time, 69 the cluster, or
its masters, are out of reach, 78 the endpoints belong to two clusters, or to
another than --cluster says.")]
    Rebalance(RebalanceArgs),
    /// Takes a replica from a range, without another in its place
    #[command(help_template = HELP, before_help = "\
Examples:
  sharklock ranges remove-replica 7 --from 2 --dry-run
")]
    RemoveReplica(FromStoreArgs),
}

/// A range, as it is named on the command line.
#[derive(Debug, Args)]
pub struct WhichArgs {
    /// The range's id; or the name of a lock, for the range that has it
    #[arg(value_name = "RANGE|NAME", value_parser = lock_name)]
    range: String,
    /// It is the name of a lock, though it looks like an id
    #[arg(long)]
    by_name: bool,
}

impl WhichArgs {
    /// Whatever has digits only is an id.
    pub fn which(&self) -> Result<WhichRange, Failure> {
        let is_id = !self.by_name && self.range.bytes().all(|byte| byte.is_ascii_digit());
        if !is_id {
            return Ok(WhichRange::Named(self.range.clone()));
        }
        match self.range.parse() {
            Ok(id) if id != 0 => Ok(WhichRange::Id(id)),
            _ => Err(Failure::new(USAGE, "that is the id of no range: they go from 1 to 2^64 - 2")
                .hint("--by-name for the range that has the lock of this name")),
        }
    }
}

/// Arguments of `ranges split`.
#[derive(Debug, Args)]
pub struct SplitArgs {
    /// Which.
    #[command(flatten)]
    pub which: WhichArgs,
    /// First name of the upper half [default: where half of the range's locks are below it]
    #[arg(long, value_name = "NAME", value_parser = lock_name)]
    pub at: Option<String>,
    /// Only says where it would be split, and why there
    #[arg(long, conflicts_with = "wait")]
    pub dry_run: bool,
    /// Waits until both halves have leaders, and tells of it on stderr
    #[arg(long)]
    pub wait: bool,
    /// Gives up after this long
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub timeout: Duration,
    /// How to print it.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Arguments of `ranges rebalance`.
#[derive(Debug, Args)]
pub struct RebalanceArgs {
    /// Only says what would be done, and why
    #[arg(long, conflicts_with = "wait")]
    pub dry_run: bool,
    /// Waits until nothing is left to move, and tells of it on stderr
    #[arg(long)]
    pub wait: bool,
    /// Gives up waiting after this long; the masters go on
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration)]
    pub timeout: Duration,
    /// How to print it.
    #[command(flatten)]
    pub output: OutputArgs,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_an_id_unless_they_are_said_to_be_a_name() {
        let which = |range: &str, by_name| WhichArgs { range: range.to_owned(), by_name }.which();
        assert_eq!(which("42", false), Ok(WhichRange::Id(42)));
        assert_eq!(which("42", true), Ok(WhichRange::Named("42".into())));
        assert_eq!(which("42a", false), Ok(WhichRange::Named("42a".into())));
        for none in ["0", "18446744073709551616"] {
            assert_eq!(which(none, false).expect_err("no range").code(), USAGE);
        }
    }
}
