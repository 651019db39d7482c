//! `sharklock lock`.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use sharklock_client::LockMode;

use super::{
    HELP,
    values::{collector_or_none, delay, duration, lock_name, max_hold, owner, token, ttl},
};

/// Arguments of `lock`.
#[derive(Debug, Args)]
#[command(
    help_template = HELP,
    before_help = "\
Examples:
  sharklock lock nightly -- ./backup.sh          wait, run, release
  sharklock lock nightly --try -- ./backup.sh    do nothing if it is held
  sharklock lock nightly --timeout 30s -E 0 -- ./backup.sh   give up quietly
  sharklock lock cache --shared -- ./read.sh     with other readers
  sharklock lock gpu -n 2 --of 8 -- ./train.sh   two of eight permits
  sharklock lock report --max-hold 1h --ask-grace 10s -- ./report.sh
                                                 make room for whoever asks
  sharklock lock batch --keep --state-file batch.state -- ./batch.sh
                                                 stays taken over a crash
  sharklock lock nightly                         hold it until Ctrl-C
",
    after_help = "\
The command gets SHARKLOCK_NAME, SHARKLOCK_TOKEN (the fencing token),
SHARKLOCK_FENCE_FLOOR (what a resource compares; the token, unless the lock is
shared or of permits) and SHARKLOCK_SESSION. Every signal that can be caught is
passed on to it and to all that descends from it, whatever group or session it
moved to: SIGKILL alone ends this process before them.

While it waits, stderr says for whom: on a terminal one line that is painted
anew, with the place in the queue, the lease and the holder, and is gone when
the wait is over; elsewhere a line after 1s, and one each minute.

If the lock cannot be kept, all of them get SIGTERM --grace before the lease may
end, and SIGKILL before anyone else can hold the lock. The lock is released when
none is left: what the command leaves running when it ends is named on stderr
and waited for, unless --end-descendants or --leave-descendants is given.

Not reached are processes of another user (sudo; they are named on stderr), and
what others start for the command (systemd-run, cron, a container engine).

With --keep the lock outlives a crash of this process, or of the machine: nobody
else gets it. Start the same command again: it takes the lock back, under a new
token, and runs CMD once it is proved that nothing of the run before lives;
otherwise it exits with 80 and names what is in the way. FILE.run has what the
proof needs: a cgroup (where one can be made below this process's own), or the
processes.

Exit codes: the command's own, or 128+N if signal N ended it; 75 (or -E) not
acquired; 79 the lock was lost and the command was stopped; 80 an earlier run
under --keep lives, or may; 69 the cluster is out of reach; 78 the endpoints
belong to two clusters, or to another than --cluster says; 64 usage; 70 internal
error; 126 and 127 the command cannot be executed or is not found."
)]
pub struct LockArgs {
    /// The lock: 1 to 512 bytes of UTF-8 without control characters
    #[arg(value_parser = lock_name)]
    pub name: String,
    /// Gives up at once if the lock is not free
    #[arg(long = "try", conflicts_with = "timeout")]
    pub try_only: bool,
    /// Gives up after this long, whatever the reason
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// The lease: others wait this long at most after this process has died; 2s to 10m
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = ttl)]
    pub ttl: Duration,
    /// Holds it together with other sharers
    #[arg(long, conflicts_with_all = ["permits", "of"])]
    pub shared: bool,
    /// Takes this many permits of a lock that has --of in all
    #[arg(short = 'n', value_name = "PERMITS", requires = "of", value_parser = clap::value_parser!(u16).range(1..))]
    pub permits: Option<u16>,
    /// How many permits the lock has; everyone who uses it must agree
    #[arg(long, value_name = "MAX", requires = "permits", value_parser = clap::value_parser!(u16).range(1..))]
    pub of: Option<u16>,
    /// Gives it up after this long: the command is stopped as when the lock is being lost; at most 30d
    #[arg(long, value_name = "DURATION", value_parser = max_hold)]
    pub max_hold: Option<Duration>,
    /// Gives it up this long after somebody who waits has asked for it; at most 1h
    #[arg(long, value_name = "DURATION", value_parser = delay)]
    pub ask_grace: Option<Duration>,
    /// Keeps it taken this long after an end that was not a release, so that work under way can
    /// drain; at most 1h
    #[arg(long, value_name = "DURATION", value_parser = delay)]
    pub lock_delay: Option<Duration>,
    /// Asks its holder for it while waiting: it moves those who hold it with --ask-grace
    #[arg(long, conflicts_with = "try_only")]
    pub ask: bool,
    /// Keeps the lock over a crash of this process, for its next start with this state file: nobody
    /// else gets it meanwhile
    #[arg(long, requires = "state_file")]
    pub keep: bool,
    /// Where what the next start needs is kept; of one lock, and one process at a time
    #[arg(long, value_name = "FILE", requires = "keep")]
    pub state_file: Option<PathBuf>,
    /// How to prove after a crash that nothing of this run lives
    #[arg(long, value_name = "BY", default_value = "auto", requires = "keep")]
    pub proof: Proof,
    /// Says that nothing of the earlier run with this token lives, where that cannot be proved. GIVES
    /// UP THE PROMISE if it is not so
    #[arg(long, value_name = "TOKEN", requires = "keep", value_parser = token)]
    pub assume_ended: Option<u64>,
    /// Who holds it, for people who look at the lock [default: USER@HOST pid PID]
    #[arg(long, value_name = "TEXT", value_parser = owner)]
    pub owner: Option<String>,
    /// Time between SIGTERM and SIGKILL when the lock is being lost [default: 3s, at most ttl/3]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub grace: Option<Duration>,
    /// Ends what the command leaves running: SIGTERM when it has ended, SIGKILL after --grace
    #[arg(long)]
    pub end_descendants: bool,
    /// Releases the lock when the command ends, whatever it leaves running: for a command that
    /// starts a daemon. GIVES UP THE PROMISE for what is left: it runs on without the lock, beside
    /// the next holder, and nothing stops it
    #[arg(long, conflicts_with = "end_descendants")]
    pub leave_descendants: bool,
    /// OTLP collector (gRPC) that gets the span of the acquisition, as http://HOST:PORT; it is below the
    /// span that TRACEPARENT in the environment names
    #[arg(long, value_name = "URL", env = "SHARKLOCK_TRACE__OTLP", value_parser = collector_or_none)]
    pub trace_otlp: Option<String>,
    /// Exit code when the lock was not acquired
    #[arg(short = 'E', long = "conflict-exit-code", value_name = "CODE", default_value_t = 75)]
    pub conflict_exit: u8,
    /// What to run; without it the lock is held until Ctrl-C
    #[arg(trailing_var_arg = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

impl LockArgs {
    /// How the lock is wanted.
    pub fn mode(&self) -> LockMode {
        match (self.shared, self.permits.zip(self.of)) {
            (true, _) => LockMode::Shared,
            (false, Some((n, of))) => LockMode::Permits { n: n.into(), of: of.into() },
            (false, None) => LockMode::Exclusive,
        }
    }
}

/// How it is proved after a crash that nothing of a run lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Proof {
    /// By a cgroup where one can be made, else by the processes
    Auto,
    /// By a cgroup; without one the command is not started
    Cgroup,
    /// By the processes: their numbers and starts, sessions and environments
    Pids,
}
