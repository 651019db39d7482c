//! `sharklock lock NAME -- CMD…`: acquire, run, stop in time, release (D17).

mod acquire;
#[cfg(test)]
mod children;
mod descendants;
mod job;
mod kept;
mod notices;
mod proc;
mod process_tree;
mod report;
mod run;
mod self_wait;
mod signal_number;
mod signals;
mod supervisor;
mod terminal;
mod watch;

use std::time::Duration;

use nix::sys::signal::{self, raise};
use rustix::process::Signal;
use sharklock_client::{Client, Guard, LostReason, ReleaseError, trace::Spans};
use tokio::time::Instant;

use self::{
    kept::Keep,
    notices::Notices,
    run::CommandEnd,
    self_wait::Outer,
    signals::{Arrived, Blocked, Meaning, Signals, meaning},
    supervisor::{GraceTooLong, Rest, Terms},
};
use crate::{
    args::{LockArgs, ReachArgs},
    exit::{Failure, INTERNAL, LOCK_USAGE, LOST, OK, UNREACHABLE},
    identity,
    render::{exact, print, shell_word},
    runtime,
    traces::{Collector, collector_url},
};

/// How long `--try` asks again while no server answers: it ends within a second, whatever is broken.
const TRY_MAX: Duration = Duration::from_millis(800);
/// How long a look at the queue may take while the lock is waited for.
const LOOK_MAX: Duration = Duration::from_secs(1);
/// How long the end of the process may wait for the answer to a cancel or a release that nobody
/// else waits for: a round trip and a commit. Less where a time-out has been promised.
const SETTLE_MAX: Duration = Duration::from_secs(1);

/// Runs it on the calling thread, which must be the process's main thread and its only one: the
/// command is killed when the thread that started it ends, and signals are blocked in all threads.
pub fn run(reach: &ReachArgs, args: &LockArgs) -> Result<u8, Failure> {
    check_permits(args)?;
    Keep::check(args)?;
    terms(args, args.ttl)?;
    let collector = collector(args)?;
    let client = client(reach, args)?;
    let keep = Keep::open(args, &client)?;
    let signals = Blocked::block()
        .map_err(|why| Failure::new(INTERNAL, "cannot listen to signals").cause(why))?;
    // The session's heartbeats have threads of their own, so that nothing which happens to this
    // one can delay them.
    let runtime = runtime::start(2)?;
    let collector = {
        let _inside = runtime.enter();
        let at = |url: &String| Collector::at(url, &identity::default_owner());
        collector.as_ref().map(at).transpose()?
    };
    let spans = collector.as_ref().map(Collector::spans).unwrap_or_default();
    let notices = Notices::start();
    let (started, ended) = (now(), client.ended());
    let deadline = args.timeout.map(|timeout| started + timeout);
    let held = runtime.block_on(hold(client, (args, keep), deadline, (signals, &notices, &spans)));
    let (result, patience) = match held {
        // A caller that gave a time-out has been promised it: the rest of it is for the clean-up.
        End::NotAcquired(failure) => {
            let promised = args.try_only.then(|| started + TRY_MAX);
            (Err(failure), deadline.or(promised))
        }
        End::Acquired(result) => (result, None),
        // There is nothing to give back, and nothing to wait for.
        End::Kept(failure) => (Err(failure), Some(started)),
    };
    let until = patience.map(|until| until + acquire::ANSWER_SLACK);
    let latest = now() + SETTLE_MAX;
    let until = until.map_or(latest, |until| until.min(latest));
    runtime.block_on(settle(ended, until));
    if let Some(collector) = collector {
        collector.finish(until.saturating_duration_since(now()));
    }
    notices.finish();
    runtime.shutdown_background();
    result
}

/// The URL of the collector of spans; none if it is empty, as a variable may be. It is not checked with the
/// other arguments, since their errors repeat a value, which may have a password in it.
fn collector(args: &LockArgs) -> Result<Option<String>, Failure> {
    let url = args.trace_otlp.as_deref().filter(|url| !url.is_empty());
    let checked = url.map(collector_url).transpose();
    checked.map_err(|why| Failure::new(LOCK_USAGE, format!("--trace-otlp: {why}")))
}

fn client(reach: &ReachArgs, args: &LockArgs) -> Result<Client, Failure> {
    let client = reach
        .client()
        .identity(&args.owner.clone().unwrap_or_else(identity::default_owner))
        .call_timeout(if args.try_only { TRY_MAX } else { LOOK_MAX });
    let client = match &args.state_file {
        Some(path) => client.state_file(path),
        None => client,
    };
    client.build().map_err(|why| kept::not_opened(args, &why))
}

fn terms(args: &LockArgs, ttl: Duration) -> Result<Terms, Failure> {
    Terms::new(ttl, args.grace).map_err(|GraceTooLong { most }| {
        Failure::new(LOCK_USAGE, format!("--grace does not fit into --ttl {}", exact(ttl)))
            .cause("a healthy lock would be taken for a lost one between two renewals")
            .hint(format!("at most {} would do", exact(most)))
    })
}

fn check_permits(args: &LockArgs) -> Result<(), Failure> {
    match args.permits.zip(args.of) {
        Some((permits, of)) if permits > of => {
            let error = format!("-n {permits} takes more permits than the lock has: --of {of}");
            Err(Failure::new(LOCK_USAGE, error)
                .hint(format!("-n is how many to take, 1 to {of}; --of is how many there are")))
        }
        _ => Ok(()),
    }
}

/// How it went.
enum End {
    /// The lock was not acquired.
    NotAcquired(Failure),
    /// It was, and this came of it.
    Acquired(Result<u8, Failure>),
    /// It stays with its session, for the next start.
    Kept(Failure),
}

async fn hold(
    client: Client,
    (args, keep): (&LockArgs, Option<Keep>),
    deadline: Option<Instant>,
    (signals, notices, spans): (Blocked, &Notices, &Spans),
) -> End {
    let mut signals = match signals.listen() {
        Ok(signals) => signals,
        Err(why) => {
            let failure = Failure::new(INTERNAL, "cannot listen to signals").cause(why);
            return End::NotAcquired(failure);
        }
    };
    let outer = Outer::of_this_process();
    let keep = keep.as_ref();
    let mut acquiring = Box::pin(acquire(&client, (args, keep), deadline, (notices, spans)));
    let acquired = tokio::select! {
        acquired = &mut acquiring => acquired,
        failure = outer.found_to_hold(&client, args, notices) => Err(failure),
        signal = stop_signal(&mut signals) => {
            let signal_name = signal_number::name(signal);
            let waiting = format!("stopped by {signal_name} while waiting for lock {:?}", args.name);
            Err(Failure::new(signal_code(signal), waiting))
        }
    };
    // The terminal is the command's now, or that of the failure's words.
    notices.erase();
    let guard = match acquired {
        Ok(guard) => guard,
        Err(failure) if keep.is_some_and(Keep::is_taking_back) => {
            // Dropped, it would give back what is granted at this moment.
            std::mem::forget(acquiring);
            return End::Kept(kept::stays_kept(failure, args));
        }
        Err(failure) => return End::NotAcquired(failure),
    };
    drop(acquiring);
    match keep {
        _ if args.command.is_empty() => {
            End::Acquired(hold_until_told(&client, guard, args, &mut signals).await)
        }
        None => {
            let held = hold_for_command(&client, guard, args, &outer, (&mut signals, notices));
            End::Acquired(held.await)
        }
        Some(keep) => {
            let held =
                keep_for_command(&client, guard, (args, keep), &outer, (&mut signals, notices));
            held.await
        }
    }
}

/// The guard: of a lock that an earlier run has left, or of one that is acquired now.
async fn acquire(
    client: &Client,
    (args, keep): (&LockArgs, Option<&Keep>),
    deadline: Option<Instant>,
    (notices, spans): (&Notices, &Spans),
) -> Result<Guard, Failure> {
    if let Some(keep) = keep
        && let Some(guard) = keep.take_back(client, args, deadline, notices).await?
    {
        return Ok(guard);
    }
    acquire::acquire(client, args, deadline, (notices, spans)).await
}

/// Without a command: the lock is held until this process is told to stop.
async fn hold_until_told(
    client: &Client,
    guard: Guard,
    args: &LockArgs,
    signals: &mut Signals,
) -> Result<u8, Failure> {
    print(&format!(
        "acquired {} token={} session={} ttl={}\n",
        shell_word(&args.name),
        guard.token(),
        client.session_handle(),
        exact(args.ttl).replace(' ', ""),
    ))?;
    let lost = tokio::select! {
        reason = guard.lost() => Some(reason),
        _ = stop_signal(signals) => None,
    };
    match lost {
        Some(reason) => Err(lost_failure(&args.name, &reason.to_string())),
        None => {
            release(guard, signals).await.map_err(|unreleased| unreleased.failure)?;
            Ok(OK)
        }
    }
}

async fn hold_for_command(
    client: &Client,
    guard: Guard,
    args: &LockArgs,
    outer: &Outer,
    (signals, notices): (&mut Signals, &Notices),
) -> Result<u8, Failure> {
    let rest = rest(args);
    let environment = environment(client, &guard, outer, rest);
    let wishes = (terms(args, args.ttl)?, rest, None);
    match run::supervise(&guard, &args.command, &environment, wishes, (signals, notices)).await {
        Ok(CommandEnd::Ended(status)) => {
            // The command did its work under the lock; what becomes of the release does not change
            // that. Without an answer the lease runs out by itself.
            if let Err(Unreleased { failure, .. }) = release(guard, signals).await {
                notices.say(failure.to_string().trim_start_matches("error: ").trim_end());
            }
            Ok(process_tree::shell_code(status))
        }
        // The command is gone. Only now the guard may go, which tells the cluster so.
        Ok(CommandEnd::Stopped { why, .. }) => Err(stopped_failure(&args.name, &why)),
        Err(failure) => {
            let _ = release(guard, signals).await;
            Err(failure)
        }
    }
}

/// The same for a lock that outlives a crash: what runs is recorded, and what is lost only because
/// nobody answered is not given back.
async fn keep_for_command(
    client: &Client,
    guard: Guard,
    (args, keep): (&LockArgs, &Keep),
    outer: &Outer,
    (signals, notices): (&mut Signals, &Notices),
) -> End {
    let rest = rest(args);
    let mut environment = environment(client, &guard, outer, rest);
    // What was taken back has the lease of the earlier run, if that is longer.
    let begun = terms(args, guard.ttl()).and_then(|terms| Ok((terms, keep.begin(&guard, args)?)));
    let ended = match begun {
        Ok((terms, beginning)) => {
            environment.push(beginning.variable());
            let wishes = (terms, rest, Some(beginning));
            run::supervise(&guard, &args.command, &environment, wishes, (signals, notices)).await
        }
        Err(failure) => Err(failure),
    };
    let result = match ended {
        Ok(CommandEnd::Ended(status)) => Ok(process_tree::shell_code(status)),
        Ok(CommandEnd::Stopped { why, lost }) if kept::stays(lost.as_ref()) => {
            // As after a crash: a guard that is dropped is a release, and frees an orphan, too.
            std::mem::forget(guard);
            return End::Kept(kept::stays_kept(stopped_failure(&args.name, &why), args));
        }
        Ok(CommandEnd::Stopped { why, .. }) => {
            drop(guard);
            let _ = tokio::time::timeout(SETTLE_MAX, client.close(Duration::ZERO)).await;
            return End::Acquired(Err(stopped_failure(&args.name, &why)));
        }
        Err(failure) => {
            keep.nothing_runs(notices);
            Err(failure)
        }
    };
    if let Err(Unreleased { failure, lost }) = release(guard, signals).await {
        notices.say(failure.told());
        if kept::stays(lost.as_ref()) {
            notices.say(kept::may_stay(args));
        }
    }
    // The state file says then that nothing is left.
    let _ = tokio::time::timeout(SETTLE_MAX, client.close(Duration::ZERO)).await;
    End::Acquired(result)
}

/// What becomes of processes that the command leaves running.
fn rest(args: &LockArgs) -> Rest {
    match (args.leave_descendants, args.end_descendants) {
        (true, _) => Rest::Left,
        (false, true) => Rest::Ended,
        (false, false) => Rest::AwaitedFor,
    }
}

fn environment(
    client: &Client,
    guard: &Guard,
    outer: &Outer,
    rest: Rest,
) -> Vec<(&'static str, String)> {
    let mut environment = vec![
        ("SHARKLOCK_NAME", guard.name().to_owned()),
        ("SHARKLOCK_TOKEN", guard.token().to_string()),
        ("SHARKLOCK_FENCE_FLOOR", guard.fence_floor().to_string()),
        ("SHARKLOCK_SESSION", client.session_handle().to_owned()),
    ];
    // A process that is left running may wait for the lock: this process does not wait for it.
    if rest != Rest::Left {
        environment.push(outer.variable(client.session_handle()));
    }
    environment
}

fn stopped_failure(name: &str, why: &str) -> Failure {
    lost_failure(name, &format!("{why}; the command was stopped"))
}

fn lost_failure(name: &str, why: &str) -> Failure {
    Failure::new(LOST, format!("lost lock {name:?}")).cause(why)
}

/// A release that was not acknowledged.
struct Unreleased {
    failure: Failure,
    /// Why the lock was lost before, if it was.
    lost: Option<LostReason>,
}

/// Releases until it is acknowledged, the lease has run out, or somebody has no patience.
async fn release(guard: Guard, signals: &mut Signals) -> Result<(), Unreleased> {
    let name = guard.name().to_owned();
    let released = tokio::select! {
        released = guard.release() => released,
        signal = stop_signal(signals) => {
            let hint = "it frees itself when its lease ends";
            let held = format!("lock {name:?} may still be held");
            let failure = Failure::new(signal_code(signal), held).hint(hint);
            return Err(Unreleased { failure, lost: None });
        }
    };
    match released {
        Ok(()) => Ok(()),
        Err(ReleaseError::Lost(lost)) => {
            let failure = lost_failure(&name, &lost.reason.to_string());
            Err(Unreleased { failure, lost: Some(lost.reason) })
        }
        Err(unconfirmed) => {
            let failure = Failure::new(UNREACHABLE, unconfirmed.to_string());
            Err(Unreleased { failure, lost: None })
        }
    }
}

/// The next signal that asks this process to end. One that asks it to pause (Ctrl-Z) is obeyed
/// here: a paused process renews nothing, so its lock or its place in the queue may be gone when
/// it goes on.
async fn stop_signal(signals: &mut Signals) -> Signal {
    loop {
        let Arrived::Sent(signal) = signals.next().await else { continue };
        match meaning(signal) {
            Meaning::Pause => {
                let _ = raise(signal::Signal::SIGSTOP);
            }
            // Nobody has agreed on anything with this process.
            Meaning::End | Meaning::Message => return signal,
            Meaning::Continue | Meaning::News => {}
        }
    }
}

/// The exit code of a process that ends because of a signal, as shells have it.
fn signal_code(signal: Signal) -> u8 {
    u8::try_from(128 + signal.as_raw()).expect("signals are 1 to 64")
}

/// Waits until the client's session has ended: with its client and guards gone, it does so when
/// everything that was given back is answered, or cannot be any more.
async fn settle(ended: impl Future<Output = ()>, until: Instant) {
    // Without an answer in time the lease, or the place in the queue, runs out by itself.
    let _ = tokio::time::timeout_at(until, ended).await;
}

fn now() -> Instant {
    Instant::now()
}
