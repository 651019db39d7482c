//! `sharklock lock NAME -- CMD…`: acquire, run, stop in time, release (DESIGN D17).

mod acquire;
mod notices;
mod process_group;
mod run;
mod signals;
mod supervisor;
mod terminal;

use std::time::Duration;

use nix::sys::signal::{Signal, raise};
use sharklock_client::{Client, Guard, ReleaseError};
use tokio::time::Instant;

use self::{
    notices::Notices,
    run::Outcome,
    signals::{Arrived, Signals},
    supervisor::{GraceTooLong, Terms},
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

/// Runs it on the calling thread, which must be the process's main thread: the command is killed
/// when the thread that started it ends.
pub fn run(reach: &ReachArgs, args: &LockArgs) -> Result<u8, Failure> {
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
    // The session's heartbeats have threads of their own, so that nothing which happens to this
    // one can delay them.
    let runtime = runtime::start(2)?;
    let notices = Notices::start();
    let (started, ended) = (now(), client.ended());
    let (result, patience) = match runtime.block_on(hold(client, args, terms, &notices)) {
        // Whoever gave a time-out has been promised it: what is left of it is for the clean-up.
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

/// How it went.
enum End {
    /// The lock was not acquired.
    NotAcquired(Failure),
    /// It was, and this came of it.
    Acquired(Result<u8, Failure>),
}

async fn hold(client: Client, args: &LockArgs, terms: Terms, notices: &Notices) -> End {
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(why) => {
            let failure = Failure::new(INTERNAL, "cannot listen to signals").cause(why);
            return End::NotAcquired(failure);
        }
    };
    let acquired = tokio::select! {
        acquired = acquire::acquire(&client, args, notices) => acquired,
        signal = stop_signal(&mut signals) => {
            let waiting = format!("stopped by {signal} while waiting for lock {:?}", args.name);
            Err(Failure::new(128 + signal as u8, waiting))
        }
    };
    let guard = match acquired {
        Ok(guard) => guard,
        Err(failure) => return End::NotAcquired(failure),
    };
    End::Acquired(if args.command.is_empty() {
        hold_until_told(&client, guard, args, &mut signals).await
    } else {
        hold_for_command(&client, guard, args, terms, (&mut signals, notices)).await
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
    args: &LockArgs,
    terms: Terms,
    (signals, notices): (&mut Signals, &Notices),
) -> Result<u8, Failure> {
    let environment = [
        ("SHARKLOCK_NAME", args.name.clone()),
        ("SHARKLOCK_TOKEN", guard.token().to_string()),
        ("SHARKLOCK_FENCE_FLOOR", guard.fence_floor().to_string()),
        ("SHARKLOCK_SESSION", client.session_handle().to_owned()),
    ];
    match run::supervise(&guard, &args.command, &environment, terms, (signals, notices)).await {
        Ok(Outcome::Ended(status)) => {
            // The command did its work under the lock; what becomes of the release does not change
            // that. Without an answer the lease runs out by itself.
            if let Err(failure) = release(guard, signals).await {
                notices.say(failure.to_string().trim_start_matches("error: ").trim_end());
            }
            Ok(process_group::shell_code(status))
        }
        // The command is gone. Only now the guard may go, which tells the cluster so.
        Ok(Outcome::Stopped(why)) => {
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
            return Err(Failure::new(128 + signal as u8, format!("lock {name:?} may still be held"))
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
        match signals.next().await {
            Arrived::PassOn(Signal::SIGTSTP) => {
                let _ = raise(Signal::SIGSTOP);
            }
            Arrived::PassOn(signal) => return signal,
            Arrived::Child => {}
        }
    }
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
