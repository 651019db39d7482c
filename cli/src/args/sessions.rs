//! The arguments of `sharklock sessions`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{
    HELP, OutputArgs,
    values::{duration, owner, reason, session_handle},
};

/// Arguments of `sessions`.
#[derive(Debug, Args)]
#[command(
    help_template = HELP,
    disable_help_subcommand = true,
    before_help = "\
Examples:
  sharklock sessions ls --owner billing    who holds or waits for something
  sharklock sessions show 9f31c07a         what one of them has, everywhere
  sharklock sessions revoke 9f31c07a --reason 'host-3 is gone' --wait
",
    after_help = "\
A session is named by its handle, which `locks show` has, too, or by the first 8
digits of it or more. It opens nothing and is no secret. Servers keep no list of
sessions: one is there as long as it holds or waits for something.

Exit codes: 0 done, 1 failed, 2 usage, 3 not ended in time, 4 the session has
nothing open, 69 the cluster is out of reach, 78 the endpoints belong to two
clusters, or to another than --cluster says."
)]
pub struct SessionsArgs {
    /// What to do with them.
    #[command(subcommand)]
    pub command: SessionsCommand,
}

/// What `sharklock sessions` can do.
#[derive(Debug, Subcommand)]
pub enum SessionsCommand {
    /// Lists sessions that hold or wait for something, over all ranges
    #[command(help_template = HELP, before_help = "\
Examples:
  sharklock sessions ls
  sharklock sessions ls --owner billing@ --limit 1000
  sharklock sessions ls --output json | jq -r '.sessions[].session'
")]
    Ls {
        /// Only those whose owner contains this
        #[arg(long, value_name = "TEXT", value_parser = owner)]
        owner: Option<String>,
        /// Shows so many at most, in order of their handles
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
        /// How to print them.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Shows what one session holds and waits for, over all ranges
    #[command(help_template = HELP, before_help = "\
Examples:
  sharklock sessions show 9f31c07a
  sharklock sessions show 9f31c07a --output json | jq -r '.locks[].name'
")]
    Show {
        /// Its handle, or the first 8 digits of it or more
        #[arg(value_parser = session_handle)]
        session: String,
        /// How to print it.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Ends all that a session has open, against its client's will
    #[command(help_template = HELP, before_help = "\
Examples:
  sharklock sessions revoke 9f31c07a --reason 'host-3 is gone' --dry-run
  sharklock sessions revoke 9f31c07a --reason 'host-3 is gone' --wait
", after_help = "\
Its client is told first. A lock that it holds goes to the next one when the
client has stopped, or when the lease has run out at the latest; what it waits
for it loses at once. It is no ban: the client may acquire again, so stop the
process that should not run.")]
    Revoke(RevokeArgs),
}

/// Arguments of `sessions revoke`.
#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// Its handle, or the first 8 digits of it or more
    #[arg(value_parser = session_handle)]
    pub session: String,
    /// Why; shown to its client and logged; 1 to 1,024 bytes
    #[arg(long, value_parser = reason)]
    pub reason: String,
    /// Only says what it would end
    #[arg(long, conflicts_with = "wait")]
    pub dry_run: bool,
    /// Waits until its holds have ended, and tells on stderr how many have not
    #[arg(long)]
    pub wait: bool,
    /// Gives up waiting after this long; the holds end all the same
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration)]
    pub timeout: Duration,
    /// How to print it.
    #[command(flatten)]
    pub output: OutputArgs,
}
