//! The command line: what every subcommand is called, takes and says about itself.
//!
//! Only shapes and ranges are checked here, so that a wrong flag is refused before anything is
//! opened or reached. Examples stand before the options in every help text.

mod debug;
mod lock;
mod locks;
mod masters;
mod ops;
mod ranges;
mod recover;
mod servers;
mod sessions;
mod stores;
mod values;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use sharklock_client::{Client, ClientBuilder, ClusterId};

use values::{cluster, duration, endpoints, every, prefix};

pub use self::debug::{CollectArgs, DebugArgs, DebugCommand};
pub use self::lock::{LockArgs, Proof};
pub use self::locks::{ForceReleaseArgs, LocksArgs, LocksCommand, LsArgs};
pub use self::masters::{MastersArgs, MastersChangeArgs, MastersCommand};
pub use self::ops::{ChangeArgs, FromStoreArgs, MoveArgs, OpsArgs, OpsCommand, ToStoreArgs};
pub use self::ranges::{RangesArgs, RangesCommand, RebalanceArgs, SplitArgs};
pub use self::recover::{RecoverArgs, RecoverCommand, RunArgs};
pub use self::servers::{DevArgs, DevCommand, NODES_MAX, ServerArgs};
pub use self::sessions::{RevokeArgs, SessionsArgs, SessionsCommand};
pub use self::stores::{
    DrainArgs, DutyArgs, ScheduleArgs, ScheduleCommand, SetArgs, StoresArgs, StoresCommand,
};

/// The port on which a gateway of `sharklock dev` listens unless told otherwise.
pub const GATEWAY_PORT: u16 = 7700;
/// The port on which a data server meets gateways and others unless told otherwise.
pub const DATA_PORT: u16 = 7710;
/// The port on which a master meets everybody unless told otherwise.
pub const MASTER_PORT: u16 = 7720;
/// The port on which a process serves `/metrics`, `/livez` and `/readyz` unless told otherwise.
pub const ADMIN_PORT: u16 = 7790;
/// Names gateways where `--endpoints` does not.
pub const ENDPOINTS_VARIABLE: &str = "SHARKLOCK_ENDPOINTS";
/// The endpoint of a gateway on this machine, used when none is given.
pub const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:7700";

const HELP: &str = "\
{about-with-newline}
{before-help}{usage-heading} {usage}

{all-args}{after-help}
";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "sharklock",
    version,
    about = "Locks for distributed programs, with fencing tokens",
    help_template = HELP,
    before_help = "\
Examples:
  sharklock dev                                  a lock service on this machine
  sharklock dev --nodes 3                        a cluster of three processes
  sharklock lock nightly -- ./backup.sh          run a command under a lock
  sharklock locks show nightly                   who holds it, who waits
  sharklock bench acquire-release --clients 64   how fast it is
"
)]
pub struct Cli {
    /// Whom it speaks to.
    #[command(flatten)]
    pub reach: ReachArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Whom a command speaks to.
#[derive(Clone, Debug, Args)]
pub struct ReachArgs {
    /// Gateways to reach, comma separated
    #[arg(
        long,
        global = true,
        env = ENDPOINTS_VARIABLE,
        value_name = "URLS",
        value_parser = endpoints,
        default_value = DEFAULT_ENDPOINT
    )]
    pub endpoints: Endpoints,
    /// The cluster that is meant, as `status` shows it: gateways of another are not used
    #[arg(
        long,
        global = true,
        env = "SHARKLOCK_CLUSTER",
        value_name = "ID",
        value_parser = cluster
    )]
    pub cluster: Option<Cluster>,
}

impl ReachArgs {
    /// A client of these gateways, to be configured further.
    pub fn client(&self) -> ClientBuilder {
        let client = Client::builder().endpoints(&self.endpoints.0);
        match self.cluster_id() {
            Some(cluster) => client.cluster(cluster),
            None => client,
        }
    }

    /// The cluster, if one is given.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.cluster.and_then(|Cluster(id)| id)
    }
}

/// The gateways of `--endpoints` or its variable: at least one, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints(pub Vec<String>);

/// The cluster of `--cluster` or its variable, which may be empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cluster(Option<ClusterId>);

/// What `sharklock` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs the service on this machine, in one process or as a cluster
    Dev(DevArgs),
    /// Runs a part of a cluster, or all of a small one
    Server(ServerArgs),
    /// Runs a command while holding a lock
    Lock(LockArgs),
    /// Shows the cluster: masters, stores, ranges, and what is wrong
    Status(StatusArgs),
    /// Looks at locks, and releases them against their holders' will
    Locks(LocksArgs),
    /// Looks at sessions over all ranges, and ends what one of them has
    Sessions(SessionsArgs),
    /// Looks at ranges, and splits them
    Ranges(RangesArgs),
    /// Looks at masters, and adds, replaces and removes them
    Masters(MastersArgs),
    /// Shows, waits for and cancels what the masters carry out
    Ops(OpsArgs),
    /// Shows stores, empties them, declares them lost
    Stores(StoresArgs),
    /// Shows and pauses what the masters do by themselves
    Schedule(ScheduleArgs),
    /// Lets ranges go on that have lost their majority for good
    Recover(RecoverArgs),
    /// Tries every endpoint and what is behind it, and names one likely cause
    Doctor(DoctorArgs),
    /// Shows which program this is, and which one answers
    Version(VersionArgs),
    /// Collects what a cluster says of itself, for whoever looks into trouble
    Debug(DebugArgs),
    /// Says whether the process on this machine is ready, for health checks
    Health(HealthArgs),
    /// Measures a running cluster through its gateway
    Bench(BenchArgs),
    /// Prints a script that makes a shell complete commands, options, names and ids
    Completion(CompletionArgs),
}

/// Arguments of `status`.
#[derive(Debug, Args)]
#[command(
    help_template = HELP,
    before_help = "\
Examples:
  sharklock status
  sharklock status --output json
",
    after_help = "\
Exit codes: 0 healthy, 1 failed, 2 usage, 3 degraded (a range has no leader, or
there is a warning), 69 the cluster is out of reach, 78 the endpoints belong to
two clusters, or to another than --cluster says."
)]
pub struct StatusArgs {
    /// How to print it.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// The variable that gives the form of output where no option does.
pub const OUTPUT_VARIABLE: &str = "SHARKLOCK_OUTPUT";

/// Arguments of `doctor`.
#[derive(Clone, Copy, Debug, Args)]
#[command(
    help_template = HELP,
    before_help = "\
Examples:
  sharklock doctor
  sharklock doctor --endpoints http://host-1:7700,http://host-2:7700
  sharklock doctor --output json | jq -r .cause
",
    after_help = "\
It asks each endpoint for its gateway and its admin port, and a gateway for the
masters and stores; it compares clocks and versions, and looks at disks.

Exit codes: 0 nothing is the matter, 2 usage, 3 something is, 69 no gateway
answers, 78 the endpoints belong to two clusters, or to another than --cluster
says."
)]
pub struct DoctorArgs {
    /// How to print it.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Arguments of `version`.
#[derive(Clone, Copy, Debug, Args)]
#[command(
    help_template = HELP,
    before_help = "\
Examples:
  sharklock version
  sharklock version --output json | jq -r .server.version
"
)]
pub struct VersionArgs {
    /// How to print it.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Arguments of `health`.
#[derive(Clone, Debug, Args)]
#[command(
    help_template = HELP,
    before_help = "\
Examples:
  sharklock health
  sharklock health --admin 127.0.0.1:7890
",
    after_help = "\
It asks /readyz of the admin port that a server with the same environment and
--config opens, so that it needs no options where a container is checked.

Exit codes: 0 ready, 1 not ready, 2 usage, 69 nothing answers, 78 a setting
cannot be understood."
)]
pub struct HealthArgs {
    /// The admin port of the process [default: its listen.admin, 127.0.0.1:7790]
    #[arg(long, value_name = "IP:PORT")]
    pub admin: Option<String>,
    /// Reads settings from this TOML file, as the process does
    #[arg(long, value_name = "FILE", env = "SHARKLOCK_CONFIG")]
    pub config: Option<PathBuf>,
    /// How to print it.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Args)]
pub struct OutputArgs {
    /// For people, or for programs
    #[arg(short, long, env = OUTPUT_VARIABLE, default_value = "table")]
    pub output: Output,
}

/// A form of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Columns without borders, times relative.
    Table,
    /// A versioned schema: 64-bit numbers as strings, times in RFC 3339.
    Json,
}

/// Arguments of `bench`.
#[derive(Debug, Args)]
#[command(
    help_template = HELP,
    before_help = "\
Examples:
  sharklock bench acquire-release --clients 256 --duration 30s
  sharklock bench contend --clients 64 --duration 30s --json contend.json
  sharklock bench semaphore --permits 8 --clients 64
  sharklock bench acquire-release --rate 2000    late cycles count from when due
  sharklock bench acquire-release --locks 100000 --waiters 10000
  sharklock bench acquire-release --sessions 10000
  sharklock bench acquire-release --every 1s     each second by itself
  sharklock bench ranges --ranges 1000
",
    after_help = "\
Every grant that the run saw is judged: overlapping holders, tokens out of order
and other broken promises are printed, and make the exit code 1. The disk is
measured in the same run, since it moves: F is the median fdatasync of 512 bytes
in --fsync-dir, around the load or during it, whichever is smaller.

Ranges are not put together again: those that `bench ranges` has made stay, and
the next run finds them. ranges.max_per_store bounds them.

What --locks, --waiters and --sessions ask for stands before the cycles begin,
is kept alive beside them, and is given back in the end. For --sessions it is
told how many keepalives they sent, and how long the answers took.

Ctrl-C, or SIGTERM, ends the run early, with a report of what it has measured;
there is none before all that is to stand beside does.

Exit codes: 0 done, 1 a violation, no cycle at all, or locks, waiters or
sessions that did not stand to the end, 2 usage, 69 the cluster is out of
reach."
)]
pub struct BenchArgs {
    /// What the workers do
    pub workload: Workload,
    /// Workers that run at the same time
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub clients: u32,
    /// How long to measure
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub duration: Duration,
    /// How long to run before measuring
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    pub warmup: Duration,
    /// Client connections that the workers share [default: one per worker, at most 8]
    #[arg(long, value_name = "C", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub connections: Option<u32>,
    /// Addresses of this machine from which they connect in turn, comma separated: a gateway takes
    /// 1,000 connections from one [default: the system's choice]
    #[arg(long, value_name = "ADDRS", value_delimiter = ',')]
    pub local_addresses: Vec<std::net::IpAddr>,
    /// Names that each worker cycles over (acquire-release only)
    #[arg(long, value_name = "K", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub names: u32,
    /// Ranges to spread the names over, split first where there are fewer (ranges only)
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub ranges: u32,
    /// Permits of the name (semaphore only)
    #[arg(long, value_name = "K", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    pub permits: u16,
    /// Cycles to begin per second, by all workers together, however long those before take; each
    /// worker has one under way [default: as many as there come]
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rate: Option<u32>,
    /// Locks that are held beside, each under a name of its own, from before the cycles begin
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=2_000_000))]
    pub locks: u32,
    /// Waiters that stand in queues beside, from before the cycles begin
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub waiters: u32,
    /// Queues of --waiters; one takes 10,000
    #[arg(long, value_name = "K", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=5_000))]
    pub queues: u32,
    /// Sessions that hold a lock each beside, over connections that they share
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub sessions: u32,
    /// Lease of the locks of --sessions [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = values::ttl, requires = "sessions")]
    pub ttl: Option<Duration>,
    /// All names begin with it [default: bench-PID/; for ranges, which stay: bench-ranges/]
    #[arg(long, value_name = "TEXT", value_parser = prefix)]
    pub prefix: Option<String>,
    /// Shows the figures of each part of the time, so long, too; JSON always has those of each 1s
    #[arg(long, value_name = "DURATION", value_parser = every)]
    pub every: Option<Duration>,
    /// Writes the report here as JSON too
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Measures fdatasync here: choose the disk that the server writes to
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub fsync_dir: PathBuf,
    /// For people, or for programs
    #[command(flatten)]
    pub output: OutputArgs,
}

/// What the workers of `bench` do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    /// Each worker acquires and releases names of its own
    AcquireRelease,
    /// All workers take turns on one name
    Contend,
    /// All workers share the permits of one name
    Semaphore,
    /// Each worker acquires and releases names of its own, all over --ranges
    Ranges,
}

/// Arguments of `completion`.
#[derive(Debug, Args)]
#[command(
    help_template = HELP,
    before_help = "\
Examples:
  source <(sharklock completion bash)
  sharklock completion fish > ~/.config/fish/completions/sharklock.fish
",
    after_help = "\
Completes names and ids, too: locks, ranges, stores, masters, operators,
sessions, and the nodes of `dev`. For that it asks the cluster of --endpoints or
SHARKLOCK_ENDPOINTS, for 0.8 s at most. The script calls the binary that printed
it: print it anew when a shell starts, rather than keep it."
)]
pub struct CompletionArgs {
    /// The shell
    pub shell: Shell,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory as _, error::ErrorKind};

    fn parse(line: &str) -> Result<Command, ErrorKind> {
        Cli::try_parse_from(line.split(' ')).map(|cli| cli.command).map_err(|e| e.kind())
    }

    fn lock(line: &str) -> LockArgs {
        match parse(line) {
            Ok(Command::Lock(args)) => args,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_command_may_follow_with_and_without_dashes() {
        for line in [
            "sharklock lock n --try -- sh -c x --ttl 1s",
            "sharklock lock n --try sh -c x --ttl 1s",
            "sharklock lock --try n sh -c x --ttl 1s",
        ] {
            let args = lock(line);
            assert!(args.try_only, "{line}");
            assert_eq!(args.command, ["sh", "-c", "x", "--ttl", "1s"], "{line}");
            assert_eq!(args.ttl, Duration::from_secs(10), "{line}");
        }
        assert!(lock("sharklock lock n").command.is_empty());
    }

    #[test]
    fn a_mistyped_option_is_refused_and_not_executed() {
        assert_eq!(parse("sharklock lock n --tyr cmd").unwrap_err(), ErrorKind::UnknownArgument);
    }

    #[test]
    fn contradictions_are_refused() {
        for line in [
            "sharklock lock n --try --timeout 1s",
            "sharklock lock n --try --ask",
            "sharklock lock n --shared -n 1 --of 2",
            "sharklock lock n --end-descendants --leave-descendants -- true",
            "sharklock dev --ephemeral --data-dir d",
        ] {
            assert_eq!(parse(line).unwrap_err(), ErrorKind::ArgumentConflict, "{line}");
        }
        for line in [
            "sharklock lock n -n 1",
            "sharklock lock n --of 2",
            "sharklock lock n --keep -- true",
            "sharklock lock n --state-file f -- true",
            "sharklock lock n --proof pids -- true",
            "sharklock lock n --assume-ended 7 -- true",
        ] {
            assert_eq!(parse(line).unwrap_err(), ErrorKind::MissingRequiredArgument, "{line}");
        }
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for line in [
            "sharklock lock n --ttl 1s",
            "sharklock lock n --ttl 11m",
            "sharklock lock n --ttl 10",
            "sharklock lock n --max-hold 0s",
            "sharklock lock n --max-hold 31d",
            "sharklock lock n --ask-grace 61m",
            "sharklock lock n --lock-delay 1us",
            "sharklock locks watch n --count 0",
            "sharklock locks ls --limit 0",
            "sharklock lock n -n 0 --of 2",
            "sharklock lock n -n 1 --of 65536",
            "sharklock lock n -E 256",
            "sharklock lock n\u{7} -- true",
            "sharklock lock n --timeout -1s",
            "sharklock dev --listen 0.0.0.0:7700",
            "sharklock dev --listen 7700",
            "sharklock bench contend --clients 0",
        ] {
            let kind = parse(line).unwrap_err();
            assert!(
                matches!(kind, ErrorKind::ValueValidation | ErrorKind::UnknownArgument),
                "{line}: {kind:?}"
            );
        }
        let long = format!("sharklock lock {} -- true", "x".repeat(513));
        assert_eq!(parse(&long).unwrap_err(), ErrorKind::ValueValidation);
        assert_eq!(parse("sharklock locks force-release n").unwrap_err(), {
            ErrorKind::MissingRequiredArgument
        });
    }

    #[test]
    fn endpoints_may_stand_anywhere_before_the_command() {
        let cli =
            Cli::try_parse_from(["sharklock", "lock", "n", "--endpoints", "http://a:1,http://b:2"]);
        assert_eq!(cli.expect("it parses").reach.endpoints.0, ["http://a:1", "http://b:2"]);
    }

    #[test]
    fn lists_of_endpoints_may_have_spaces_and_stray_commas_but_not_nothing() {
        let parse = |list| Cli::try_parse_from(["sharklock", "status", "--endpoints", list]);
        assert_eq!(parse(" a:1 , b:2,").expect("it parses").reach.endpoints.0, ["a:1", "b:2"]);
        for empty in ["", " , "] {
            let error = parse(empty).expect_err("it names nothing").to_string();
            assert!(error.contains("SHARKLOCK_ENDPOINTS, names no endpoint"), "{error}");
        }
    }

    #[test]
    fn a_cluster_is_given_by_its_id() {
        let id = "00ff00ff00ff00ff00ff00ff00ff0a0b";
        let parse = |id| Cli::try_parse_from(["sharklock", "lock", "n", "--cluster", id]);
        let told = parse(id).expect("it parses").reach.cluster_id();
        assert_eq!(told.map(|id| id.to_string()).as_deref(), Some(id));
        assert_eq!(parse("").expect("it parses").reach.cluster_id(), None);
        let error = parse("00ff").expect_err("it is too short").to_string();
        assert!(error.contains("an id has 32 hex digits"), "{error}");
    }

    #[test]
    fn every_help_text_shows_examples_before_options() {
        fn check(command: &mut clap::Command) {
            let help = command.render_long_help().to_string();
            let examples = help.find("Examples:").unwrap_or_else(|| panic!("{help}"));
            let usage = help.find("Usage:").unwrap_or_else(|| panic!("{help}"));
            assert!(examples < usage, "{help}");
            let about = help.lines().next().unwrap_or_default();
            assert!(about.len() > 10 && !about.contains('['), "{help}");
            for own in [command.get_before_help(), command.get_after_help()].into_iter().flatten() {
                let own = own.to_string();
                assert!(own.lines().all(|line| line.len() <= 80), "wider than a terminal: {own}");
            }
            for sub in command.get_subcommands_mut().filter(|sub| sub.get_name() != "help") {
                check(sub);
            }
        }
        let mut command = Cli::command();
        command.build();
        check(&mut command);
    }
}
