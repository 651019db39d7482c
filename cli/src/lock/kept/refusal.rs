//! The words about a kept lock: what is in the way, and the way out.

use std::{path::Path, time::Duration};

use sharklock_client::{ConfigError, FencingToken, Holder, LockMode, ReclaimError, StateFileError};

use super::{
    look::Gap,
    proof::{Doubt, Living, Verdict},
    record::{RunRecord, mode_text},
};
use crate::{
    args::LockArgs,
    exit::{CONFIG, Failure, INTERNAL, LOCK_USAGE, STILL_RUNS},
    render::{shell_word, short},
};

/// So many processes are named at a time.
const NAMED_MAX: usize = 8;

/// The state file cannot be opened, or something else is wrong with how the client is to be.
pub fn not_opened(args: &LockArgs, error: &ConfigError) -> Failure {
    let code = match error {
        ConfigError::StateFile(StateFileError::InUse { .. }) => args.conflict_exit,
        ConfigError::StateFile(StateFileError::OtherCluster { .. }) => CONFIG,
        _ => LOCK_USAGE,
    };
    let failure = Failure::new(code, error.to_string());
    match error {
        ConfigError::StateFile(StateFileError::InUse { .. }) => failure
            .cause("one `sharklock lock --keep` at a time may use it, as long as it runs")
            .hint(format!("sharklock locks show {}", shell_word(&args.name))),
        _ => failure,
    }
}

/// The state file belongs to another lock, or to the same in another mode.
pub fn other_lock(
    path: &Path,
    (theirs, their_mode): (&str, LockMode),
    (ours, our_mode): (&str, LockMode),
) -> Failure {
    let error = format!("state file {path:?} keeps lock {theirs:?} ({})", mode_text(their_mode));
    Failure::new(LOCK_USAGE, error)
        .cause(format!("this is lock {ours:?} ({})", mode_text(our_mode)))
        .hint(format!(
            "name another file with --state-file; or start the command of {theirs:?} again, which ends \
             what the file keeps"
        ))
}

/// Nothing says what ran under the hold.
pub fn no_record(name: &str, record: &Path, token: FencingToken) -> Failure {
    unproved_failure(name, token.as_u64())
        .cause(format!("{record:?}, the record of what runs under it, is not there"))
}

/// The run before may still live.
pub fn unproved(run: &RunRecord, verdict: &Verdict) -> Failure {
    match verdict {
        Verdict::Unproved(doubt) => unproved_failure(&run.name, run.token).cause(doubt_text(doubt)),
        Verdict::Alive(living) => {
            let error = format!("what an earlier run under lock {:?} started still runs", run.name);
            Failure::new(STILL_RUNS, error)
                .cause(living_text(run, living))
                .hint("end them, then start again; the lock stays kept meanwhile")
        }
        Verdict::Ended => unreachable!("an ended run is in nobody's way"),
    }
}

fn unproved_failure(name: &str, token: u64) -> Failure {
    let error = format!("whether an earlier run under lock {name:?} has ended cannot be proved");
    Failure::new(STILL_RUNS, error).hint(format!(
        "make sure that nothing of it runs, then start with --assume-ended {token}; the lock stays kept \
         meanwhile"
    ))
}

/// While a start waits for the end of what the run before left.
pub fn waiting(run: &RunRecord, verdict: &Verdict) -> String {
    let what = match verdict {
        Verdict::Alive(living) => living_text(run, living),
        Verdict::Unproved(doubt) => doubt_text(doubt),
        Verdict::Ended => unreachable!("nobody waits for an ended run"),
    };
    format!("waiting for the end of an earlier run under lock {:?}: {what}", run.name)
}

fn living_text(run: &RunRecord, living: &[Living]) -> String {
    match &run.cgroup {
        Some(cgroup) if living.is_empty() => format!("somebody in cgroup {:?}", cgroup.path),
        Some(cgroup) => format!("{}, in cgroup {:?}", named(living), cgroup.path),
        None => named(living),
    }
}

/// `pid 7 (sleep), pid 9 (tee) and 3 more`.
fn named(living: &[Living]) -> String {
    let one = |Living { pid, name }: &Living| match pid {
        0 => "a process of another namespace".to_owned(),
        pid => format!("pid {pid} ({name})"),
    };
    let shown: Vec<String> = living.iter().take(NAMED_MAX).map(one).collect();
    let more = match living.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{}{more}", shown.join(", "))
}

fn doubt_text(doubt: &Doubt) -> String {
    match doubt {
        Doubt::NoPlace => "/proc does not tell which machine and boot this is".to_owned(),
        Doubt::OtherMachine { host } => {
            format!("it was on {host:?}, which is another machine, or cannot be told from one")
        }
        Doubt::Container => {
            "the machine's boot is another, and in a container nobody can tell whether \
                             it is the same machine"
                .to_owned()
        }
        Doubt::OtherNamespace => {
            "it was in another process namespace, as another container".to_owned()
        }
        Doubt::OtherCgroups => {
            "it was in a cgroup that is not seen from here, as in another container".to_owned()
        }
        Doubt::UnreadCgroup(why) => format!("its cgroup cannot be read: {why}"),
        Doubt::Gap(Gap::HiddenProcesses) => {
            "/proc hides processes of other users (hidepid), which it may have started".to_owned()
        }
        Doubt::Gap(Gap::Restless) => {
            "processes are started all the time, faster than they can be looked at".to_owned()
        }
        Doubt::Gap(Gap::Failed(why)) => format!("the processes cannot be looked at: {why}"),
        Doubt::Hidden(living) => {
            let named = named(living);
            format!("{named} may be of it: who has started them is not shown to this user")
        }
    }
}

/// It was not had back within `--timeout`.
pub fn not_yet(args: &LockArgs) -> Failure {
    let after = args.timeout.map(|timeout| format!(" within {}", short(timeout)));
    let error =
        format!("lock {:?} could not be taken back{}", args.name, after.unwrap_or_default());
    Failure::new(args.conflict_exit, error)
}

/// With `--try`, and the lease of the older life runs.
pub fn lease_runs(args: &LockArgs, remaining: Duration) -> Failure {
    let error = format!("lock {:?} cannot be taken back at once", args.name);
    let left = short(remaining);
    Failure::new(args.conflict_exit, error)
        .cause(format!("the lease of the earlier run ends in {left}"))
}

/// Another refusal.
pub fn not_had_back(args: &LockArgs, error: &ReclaimError) -> Failure {
    Failure::new(INTERNAL, format!("lock {:?} could not be taken back", args.name)).cause(error)
}

/// The lock was ended while nobody ran.
pub fn taken_away(name: &str, token: FencingToken, holders: &[Holder]) -> String {
    let now = match holders.first() {
        None => String::new(),
        Some(holder) if holder.owner.is_empty() => format!("; {} holds it now", holder.session),
        Some(holder) => format!("; {} holds it now", holder.owner),
    };
    format!(
        "the kept hold of lock {name:?} (token {token}) was ended meanwhile{now}: the lock is acquired \
         anew"
    )
}

/// The end of this process does not free the lock.
pub fn stays_kept(failure: Failure, args: &LockArgs) -> Failure {
    failure.hint(format!("it stays kept: {}", ways_out(args)))
}

/// Nobody knows whether the release arrived.
pub fn may_stay(args: &LockArgs) -> String {
    format!("unless its release arrives, lock {:?} stays kept: {}", args.name, ways_out(args))
}

fn ways_out(args: &LockArgs) -> String {
    format!(
        "start the same command again to take it back, or end it with `sharklock locks force-release \
         {} --reason WHY`",
        shell_word(&args.name)
    )
}
