//! `sharklock debug`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{HELP, OutputArgs};

/// Arguments of `debug`.
#[derive(Debug, Args)]
#[command(
    help_template = HELP,
    disable_help_subcommand = true,
    before_help = "\
Examples:
  sharklock debug collect        what a cluster says of itself, in one file
"
)]
pub struct DebugArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: DebugCommand,
}

/// What `sharklock debug` can do.
#[derive(Debug, Subcommand)]
pub enum DebugCommand {
    /// Puts what a cluster and each of its processes say of themselves into one archive
    #[command(help_template = HELP, before_help = "\
Examples:
  sharklock debug collect
  sharklock debug collect --file /tmp/tuesday.tar.gz
  sharklock debug collect --admin host-7:7790   a further process, too
", after_help = "\
Inside: status, what doctor finds, ranges, operators and schedule as JSON; of
each process whose admin port answers its readiness, metrics, settings, the
last spans of traces, and the last lines of its log (1 MiB). Bounds of ranges
and lines of logs may have names of locks. Nothing is changed.

Exit codes: 0 all is there, 1 the file cannot be written, 2 usage, 3 somebody
did not answer (README.txt in the archive says who), 69 nobody answers.")]
    Collect(CollectArgs),
}

/// Arguments of `debug collect`.
#[derive(Debug, Args)]
pub struct CollectArgs {
    /// The archive; it must not exist yet [default: ./sharklock-debug-TIME.tar.gz]
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Further admin ports, HOST:PORT, comma separated
    #[arg(long, value_name = "ADDRESSES", value_delimiter = ',')]
    pub admin: Vec<String>,
    /// How to print what was collected.
    #[command(flatten)]
    pub output: OutputArgs,
}
