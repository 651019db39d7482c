//! `sharklock locks`.

use clap::{Args, Subcommand};

use super::{
    HELP, OutputArgs,
    values::{lock_name, reason, token},
};

/// Arguments of `locks`.
#[derive(Debug, Args)]
#[command(
    help_template = HELP,
    disable_help_subcommand = true,
    before_help = "\
Examples:
  sharklock locks ls             every lock that is held
  sharklock locks show nightly   its holders, then its queue in order
  sharklock locks force-release nightly --reason 'host-3 is gone'
",
    after_help = "\
Exit codes: 0 done, 1 failed, 2 usage, 4 there is nothing to end (force-release)
or to follow (why), 69 the cluster is out of reach, 78 the endpoints belong to
two clusters, or to another than --cluster says."
)]
pub struct LocksArgs {
    /// What to do with them.
    #[command(subcommand)]
    pub command: LocksCommand,
}

/// What `sharklock locks` can do.
#[derive(Debug, Subcommand)]
pub enum LocksCommand {
    /// Lists locks that are held, in byte order of their names
    #[command(help_template = HELP, before_help = "\
Examples:
  sharklock locks ls
  sharklock locks ls invoices/ --limit 20
  sharklock locks ls --waiting --watch
  sharklock locks ls --output json | jq -r '.locks[].name'
", after_help = "\
On a terminal a row is one line: NAME is cut, then columns are left out. In a
pipe everything is whole. JSON has the counts of the last line in locks_count,
waiters_count and has_more.")]
    Ls(LsArgs),
    /// Shows one lock: its holders, then its queue in order
    #[command(help_template = HELP, before_help = "\
Examples:
  sharklock locks show nightly
  sharklock locks show nightly --output json
")]
    Show {
        /// The lock
        #[arg(value_parser = lock_name)]
        name: String,
        /// How to print it.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Follows a lock: prints a line whenever it has another state, until Ctrl-C
    #[command(help_template = HELP, before_help = "\
Examples:
  sharklock locks watch nightly
  sharklock locks watch nightly --output json | jq .lock.holders_count
", after_help = "\
States that follow each other too quickly are left out, the last one never. JSON
is one document per line.")]
    Watch {
        /// The lock
        #[arg(value_parser = lock_name)]
        name: String,
        /// Ends after so many states
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        count: Option<u64>,
        /// How to print them.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Asks those who hold a lock for it, in the name of the first who waits
    #[command(help_template = HELP, before_help = "\
Examples:
  sharklock locks ask nightly
", after_help = "\
It moves those who have agreed to it (`--ask-grace` of `sharklock lock`): they
are ended with notice when their grace is over, if somebody waits then.

Exit codes: 0 somebody was asked, 1 nobody waits or nobody has agreed to it, 2
usage, 69 the cluster is out of reach, 78 the endpoints belong to two clusters,
or to another than --cluster says.")]
    Ask {
        /// The lock
        #[arg(value_parser = lock_name)]
        name: String,
        /// How to print it.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Follows who holds a lock and what that one waits for, and names a circle
    #[command(help_template = HELP, before_help = "\
Examples:
  sharklock locks why nightly
  sharklock locks why nightly --output json | jq -r '.circle[]'
", after_help = "\
It looks at one lock after the other, in all ranges, and follows 64 locks and 8
holders of each at most. What waits is a session: where its client does several
things at a time, one may hold while another waits.

Exit codes: 0 somebody holds it, 4 it is free, 5 there is a circle.")]
    Why {
        /// The lock
        #[arg(value_parser = lock_name)]
        name: String,
        /// How to print it.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Ends the holds of a lock against their holders' will
    #[command(help_template = HELP, before_help = "\
Examples:
  sharklock locks force-release nightly --reason 'host-3 is gone'
  sharklock locks force-release nightly --reason 'host-3 is gone' --dry-run
  sharklock locks force-release nightly --reason 'wrong job' --token 1187
", after_help = "\
The holder is told first. The lock goes to the next one when the holder has
stopped, or when its lease has run out at the latest. A `sharklock lock` that
holds it stops its command and exits with 79. The gateway logs who ended what,
and why, on the target `audit`.

JSON: `found` is false where there was nothing to end, `ended` is true where
nobody is waited for any more, and `plan` is what a dry run has found.

Exit codes: 0 the holds end, or would end; 1 failed; 2 usage; 4 the lock is
free, or has no such hold; 69 the cluster is out of reach; 78 the endpoints
belong to two clusters, or to another than --cluster says.")]
    ForceRelease(ForceReleaseArgs),
}

/// Arguments of `locks ls`.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// Only names that begin with this; it is no pattern
    #[arg(default_value = "")]
    pub prefix: String,
    /// Shows the first N, in byte order of their names
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: Option<u32>,
    /// Only locks for which somebody waits
    #[arg(long)]
    pub waiting: bool,
    /// Paints the terminal anew each second, until Ctrl-C; as JSON, a document per second on a line
    #[arg(long)]
    pub watch: bool,
    /// How to print them.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Arguments of `locks force-release`.
#[derive(Debug, Args)]
pub struct ForceReleaseArgs {
    /// The lock
    #[arg(value_parser = lock_name)]
    pub name: String,
    /// Why; shown to the holder and logged; 1 to 1,024 bytes
    #[arg(long, value_parser = reason)]
    pub reason: String,
    /// Only the hold with this fencing token
    #[arg(long, value_parser = token)]
    pub token: Option<u64>,
    /// Do not wait for the holder. BREAKS THE PROMISE of one holder at a time: until the old holder
    /// notices, only a resource that compares fencing tokens is safe
    #[arg(long)]
    pub now: bool,
    /// Only says whom it would end, who waits, and how long it would take
    #[arg(long)]
    pub dry_run: bool,
    /// How to print it.
    #[command(flatten)]
    pub output: OutputArgs,
}
