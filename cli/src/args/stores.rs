//! The command line of `stores` and `schedule`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{HELP, OutputArgs, values::duration};

/// Arguments of `stores`.
#[derive(Debug, Args)]
#[command(
    help_template = HELP,
    disable_help_subcommand = true,
    before_help = "\
Examples:
  sharklock stores ls                   every store, and what it has
  sharklock stores drain 3 --dry-run    what would follow
  sharklock stores drain 3 --wait      until it has nothing left
",
    after_help = "\
Exit codes: 0 done, 1 failed or refused, 2 usage, 3 not empty in time, 69 the
cluster, or its masters, are out of reach, 78 the endpoints belong to two
clusters, or to another than --cluster says."
)]
pub struct StoresArgs {
    /// What to do with them.
    #[command(subcommand)]
    pub command: StoresCommand,
}

/// What `sharklock stores` can do.
#[derive(Debug, Subcommand)]
pub enum StoresCommand {
    /// Lists all stores
    #[command(help_template = HELP, before_help = "\
Examples:
  sharklock stores ls                   what each has, and whether it is heard
  sharklock stores ls --output json     for programs
")]
    Ls {
        /// How to print them.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Shows one store
    #[command(help_template = HELP, before_help = "\
Examples:
  sharklock stores show 3
")]
    Show {
        /// Its id
        #[arg(value_name = "STORE")]
        id: u64,
        /// How to print it.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Empties a store: leaderships and replicas leave it
    #[command(help_template = HELP, before_help = "\
Examples:
  sharklock stores drain 3 --dry-run   what would follow, and what hinders it
  sharklock stores drain 3 --wait      until it has nothing left
", after_help = "\
It goes on serving what it has until that is elsewhere. `undrain` takes it back.")]
    Drain(DrainArgs),
    /// Takes a store back that was to become empty
    #[command(help_template = HELP, before_help = "\
Examples:
  sharklock stores undrain 3
")]
    Undrain(DutyArgs),
    /// Declares a store lost for ever: its replicas are replaced at once
    #[command(help_template = HELP, before_help = "\
Examples:
  sharklock stores remove 3 --dry-run   what would be made again elsewhere
  sharklock stores remove 3
", after_help = "\
It is never taken in again, even if its machine comes back: start that with an
empty directory and another address. A store that is alive is refused: drain it.")]
    Remove(DutyArgs),
}

/// Arguments of commands about a store's duty.
#[derive(Debug, Args)]
pub struct DutyArgs {
    /// Its id
    #[arg(value_name = "STORE")]
    pub id: u64,
    /// Only says what would follow
    #[arg(long)]
    pub dry_run: bool,
    /// How to print it.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Arguments of `stores drain`.
#[derive(Debug, Args)]
pub struct DrainArgs {
    /// Which, and how.
    #[command(flatten)]
    pub duty: DutyArgs,
    /// Waits until it has nothing left, and tells of it on stderr
    #[arg(long, conflicts_with = "dry_run")]
    pub wait: bool,
    /// Gives up waiting after this long; the store goes on becoming empty
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    pub timeout: Duration,
}

/// Arguments of `schedule`.
#[derive(Debug, Args)]
#[command(
    help_template = HELP,
    disable_help_subcommand = true,
    before_help = "\
Examples:
  sharklock schedule show     what the masters would do next, and why
  sharklock schedule pause    before work on many machines
",
    after_help = "\
Exit codes: 0 done, 1 failed or refused, 2 usage, 69 the cluster, or its
masters, are out of reach, 78 the endpoints belong to two clusters, or to
another than --cluster says."
)]
pub struct ScheduleArgs {
    /// What to do with it.
    #[command(subcommand)]
    pub command: ScheduleCommand,
}

/// What `sharklock schedule` can do.
#[derive(Debug, Subcommand)]
pub enum ScheduleCommand {
    /// Shows what the masters would do next by themselves, and its settings
    #[command(help_template = HELP, before_help = "\
Examples:
  sharklock schedule show
  sharklock schedule show --output json
")]
    Show {
        /// How to print it.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Lets the masters begin nothing by themselves; what runs goes on
    #[command(help_template = HELP, before_help = "\
Examples:
  sharklock schedule pause
")]
    Pause,
    /// Lets them do so again
    #[command(help_template = HELP, before_help = "\
Examples:
  sharklock schedule resume
")]
    Resume,
    /// Changes settings: all that are named, or none
    #[command(help_template = HELP, before_help = "\
Examples:
  sharklock schedule set replicas=5
  sharklock schedule set cool-down=30m tolerance=5% --dry-run
  sharklock schedule set cool-down=default
", after_help = "\
`sharklock schedule show` lists all settings, and what each does.")]
    Set(SetArgs),
}

/// Arguments of `schedule set`.
#[derive(Debug, Args)]
pub struct SetArgs {
    /// What changes; `default` takes a choice back
    #[arg(value_name = "KEY=VALUE", required = true, value_parser = choice)]
    pub choices: Vec<(String, String)>,
    /// Only checks, and shows what the settings would be
    #[arg(long)]
    pub dry_run: bool,
    /// How to print them.
    #[command(flatten)]
    pub output: OutputArgs,
}

fn choice(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() && !value.is_empty() => {
            Ok((key.to_owned(), value.to_owned()))
        }
        _ => Err("expected KEY=VALUE, like replicas=5".to_owned()),
    }
}
