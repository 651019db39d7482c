//! The arguments of `sharklock masters`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{HELP, OutputArgs, values::duration};

/// Arguments of `masters`.
#[derive(Debug, Args)]
#[command(
    help_template = HELP,
    disable_help_subcommand = true,
    before_help = "\
Examples:
  sharklock masters ls
  sharklock masters add host-4:7720 --wait             one more
  sharklock masters add host-4:7720 --replace 2 --wait   instead of master 2
  sharklock masters transfer-leader --to 3
",
    after_help = "\
Masters keep the cluster's metadata, and are never on the way of a lock. One is
added or removed at a time, without downtime. Three tolerate the loss of one,
five that of two.

Exit codes: 0 done, 1 failed or refused, 2 usage, 3 not done in time, 69 the
cluster, or its masters, are out of reach, 78 the endpoints belong to two
clusters, or to another than --cluster says."
)]
pub struct MastersArgs {
    /// What to do with them.
    #[command(subcommand)]
    pub command: MastersCommand,
}

/// What `sharklock masters` can do.
#[derive(Debug, Subcommand)]
pub enum MastersCommand {
    /// Lists the masters, what is being done with them, and who waits to be added
    #[command(help_template = HELP, before_help = "\
Examples:
  sharklock masters ls
  sharklock masters ls --output json | jq -r '.masters[].member_id'
")]
    Ls {
        /// How to print them.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Adds a master that was started to join, and waits
    #[command(help_template = HELP, before_help = "\
Examples:
  sharklock masters add host-4:7720 --dry-run
  sharklock masters add host-4:7720 --wait
  sharklock masters add host-2:7720 --replace 2 --wait   its disk is lost
", after_help = "\
Start the new master first, with an empty directory:

  sharklock server --roles master --join --data-dir DIR --insecure \\
      --masters host-1:7720,host-2:7720,host-3:7720 \\
      --listen-master 10.0.0.4:7720 --advertise-master host-4:7720

It gets the state of the others, and votes once it has caught up. With --replace
it takes over the other's vote in the same change. Then name it in --masters of
all processes: those that run have heard of it already.

To add a master that is to go takes its removal back.")]
    Add {
        /// Where it advertises that it is (its --advertise-master)
        #[arg(value_name = "HOST:PORT")]
        address: String,
        /// The master that goes for it, as `masters ls` shows it
        #[arg(long, value_name = "MASTER")]
        replace: Option<u64>,
        /// How.
        #[command(flatten)]
        change: MastersChangeArgs,
    },
    /// Removes a master, living or lost
    #[command(help_template = HELP, before_help = "\
Examples:
  sharklock masters remove 2 --dry-run
  sharklock masters remove 2 --wait
", after_help = "\
One that leads hands over first. Its id is never used again: its process says
so and ends, or goes on with its other roles. To remove one that is being added
takes that back.")]
    Remove {
        /// Which, as `masters ls` shows it
        #[arg(value_name = "MASTER")]
        id: u64,
        /// How.
        #[command(flatten)]
        change: MastersChangeArgs,
    },
    /// Makes another master lead
    #[command(help_template = HELP, before_help = "\
Examples:
  sharklock masters transfer-leader           whichever follows best
  sharklock masters transfer-leader --to 3 --wait
")]
    TransferLeader {
        /// Which, as `masters ls` shows it [default: the one that follows best]
        #[arg(long, value_name = "MASTER", value_parser = clap::value_parser!(u64).range(1..))]
        to: Option<u64>,
        /// How.
        #[command(flatten)]
        change: MastersChangeArgs,
    },
}

/// How a change of the masters is carried out.
#[derive(Clone, Copy, Debug, Args)]
pub struct MastersChangeArgs {
    /// Only says which steps it would take
    #[arg(long, conflicts_with = "wait")]
    pub dry_run: bool,
    /// Waits until it is done, and tells of its steps on stderr
    #[arg(long)]
    pub wait: bool,
    /// Gives up waiting after this long; the change goes on
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    pub timeout: Duration,
    /// How to print it.
    #[command(flatten)]
    pub output: OutputArgs,
}
