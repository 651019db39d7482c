//! `sharklock lock NAME -- CMD…`: acquire, run, stop in time, release (D17).

mod acquire;
mod descendants;
mod job;
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
use sharklock_client::{Client, Guard, ReleaseError};
use tokio::time::Instant;

use self::{
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
};

/// How long `--try` asks again while no server answers: a restart of the server fits in.
const TRY_MAX: Duration = Duration::from_secs(5);
/// How long a look at the queue may take while the lock is waited for.
const LOOK_MAX: Duration = Duration::from_secs(1);
/// How long the end of the process may wait for the answer to a cancel or a release that nobody
/// else waits for: a round trip and a commit. Less where a time-out has been promised.
const SETTLE_MAX: Duration = Duration::from_secs(1);

/// Runs it on the calling thread, which must be the process's main thread and its only one: the
/// command is killed when the thread that started it ends, and signals are blocked in all threads.
pub fn run(reach: &ReachArgs, args: &LockArgs) -> Result<u8, Failure> {
    check_permits(args)?;
    let terms = Terms::new(args.ttl, args.grace).map_err(|GraceTooLong { most }| {
        Failure::new(LOCK_USAGE, format!("--grace does not fit into --ttl {}", exact(args.ttl)))
            .cause("a healthy lock would be taken for a lost one between two renewals")
            .hint(format!("at most {} would do", exact(most)))
    })?;
    let client = reach
        .client()
        .identity(&args.owner.clone().unwrap_or_else(identity::default_owner))
        .call_timeout(if args.try_only { TRY_MAX } else { LOOK_MAX })
        .build()
        .map_err(|why| Failure::new(LOCK_USAGE, why.to_string()))?;
    let signals = Blocked::block()
        .map_err(|why| Failure::new(INTERNAL, "cannot listen to signals").cause(why))?;
    // The session's heartbeats have threads of their own, so that nothing which happens to this
    // one can delay them.
    let runtime = runtime::start(2)?;
    let notices = Notices::start();
    let (started, ended) = (now(), client.ended());
    let held = runtime.block_on(hold(client, args, terms, (signals, &notices)));
    let (result, patience) = match held {
        // A caller that gave a time-out has been promised it: the rest of it is for the clean-up.
        End::NotAcquired(failure) => (Err(failure), args.timeout.map(|timeout| started + timeout)),
        End::Acquired(result) => (result, None),
    };
    let until = patience.map(|until| until + acquire::ANSWER_SLACK);
    let latest = now() + SETTLE_MAX;
    runtime.block_on(settle(ended, until.map_or(latest, |until| until.min(latest))));
    notices.finish();
    runtime.shutdown_background();
    result
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
}

async fn hold(
    client: Client,
    args: &LockArgs,
    terms: Terms,
    (signals, notices): (Blocked, &Notices),
) -> End {
    let mut signals = match signals.listen() {
        Ok(signals) => signals,
        Err(why) => {
            let failure = Failure::new(INTERNAL, "cannot listen to signals").cause(why);
            return End::NotAcquired(failure);
        }
    };
    let outer = Outer::of_this_process();
    let acquired = tokio::select! {
        acquired = acquire::acquire(&client, args, notices) => acquired,
        failure = outer.found_to_hold(&client, args, notices) => Err(failure),
        signal = stop_signal(&mut signals) => {
            let signal_name = signal_number::name(signal);
            let waiting = format!("stopped by {signal_name} while waiting for lock {:?}", args.name);
            Err(Failure::new(signal_code(signal), waiting))
        }
    };
    let guard = match acquired {
        Ok(guard) => guard,
        Err(failure) => return End::NotAcquired(failure),
    };
    End::Acquired(if args.command.is_empty() {
        hold_until_told(&client, guard, args, &mut signals).await
    } else {
        hold_for_command(&client, guard, (args, terms), &outer, (&mut signals, notices)).await
    })
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
            release(guard, signals).await?;
            Ok(OK)
        }
    }
}

async fn hold_for_command(
    client: &Client,
    guard: Guard,
    (args, terms): (&LockArgs, Terms),
    outer: &Outer,
    (signals, notices): (&mut Signals, &Notices),
) -> Result<u8, Failure> {
    let rest = match (args.leave_descendants, args.end_descendants) {
        (true, _) => Rest::Left,
        (false, true) => Rest::Ended,
        (false, false) => Rest::AwaitedFor,
    };
    let mut environment = vec![
        ("SHARKLOCK_NAME", args.name.clone()),
        ("SHARKLOCK_TOKEN", guard.token().to_string()),
        ("SHARKLOCK_FENCE_FLOOR", guard.fence_floor().to_string()),
        ("SHARKLOCK_SESSION", client.session_handle().to_owned()),
    ];
    // A process that is left running may wait for the lock: this process does not wait for it.
    if rest != Rest::Left {
        environment.push(outer.variable(client.session_handle()));
    }
    let wishes = (terms, rest);
    match run::supervise(&guard, &args.command, &environment, wishes, (signals, notices)).await {
        Ok(CommandEnd::Ended(status)) => {
            // The command did its work under the lock; what becomes of the release does not change
            // that. Without an answer the lease runs out by itself.
            if let Err(failure) = release(guard, signals).await {
                notices.say(failure.to_string().trim_start_matches("error: ").trim_end());
            }
            Ok(process_tree::shell_code(status))
        }
        // The command is gone. Only now the guard may go, which tells the cluster so.
        Ok(CommandEnd::Stopped(why)) => {
            Err(lost_failure(&args.name, &format!("{why}; the command was stopped")))
        }
        Err(failure) => {
            let _ = release(guard, signals).await;
            Err(failure)
        }
    }
}

fn lost_failure(name: &str, why: &str) -> Failure {
    Failure::new(LOST, format!("lost lock {name:?}")).cause(why)
}

/// Releases until it is acknowledged, the lease has run out, or somebody has no patience.
async fn release(guard: Guard, signals: &mut Signals) -> Result<(), Failure> {
    let name = guard.name().to_owned();
    let released = tokio::select! {
        released = guard.release() => released,
        signal = stop_signal(signals) => {
            let hint = "it frees itself when its lease ends";
            return Err(Failure::new(signal_code(signal), format!("lock {name:?} may still be held"))
                .hint(hint));
        }
    };
    match released {
        Ok(()) => Ok(()),
        Err(ReleaseError::Lost(lost)) => Err(lost_failure(&name, &lost.reason.to_string())),
        Err(unconfirmed) => Err(Failure::new(UNREACHABLE, unconfirmed.to_string())),
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
