//! Takes the lock back that an earlier run has left, within `--timeout`.

use std::time::Duration;

use sharklock_client::{AcquireError, CallError, Client, Guard, Holder, ReclaimError, Reclaimed};
use tokio::time::{Instant, sleep};

use super::refusal;
use crate::{
    args::LockArgs,
    exit::Failure,
    lock::{acquire::not_acquired, notices::Notices},
    render::short,
};

/// Between two attempts while nobody answers.
const AGAIN: Duration = Duration::from_millis(500);
/// A lease that lasts longer is worth a line.
const SILENCE_MAX: Duration = Duration::from_secs(1);

/// The guard; none where there is nothing left to take back. What became of it is told.
pub async fn take_back(
    client: &Client,
    args: &LockArgs,
    deadline: Option<Instant>,
    notices: &Notices,
) -> Result<Option<Guard>, Failure> {
    tell_lease(client, args, notices).await?;
    let mut told = false;
    loop {
        let Some(reclaimed) = reclaim(client, deadline).await else {
            return Err(refusal::not_yet(args));
        };
        let mut guards = Vec::new();
        let mut again = None;
        for Reclaimed { name, token, result } in reclaimed {
            match result {
                Ok(guard) => guards.push(guard),
                Err(ReclaimError::Gone { holders, .. }) => {
                    notices.say(refusal::taken_away(&name, token, &holders));
                }
                Err(error) if may_pass(&error) && !args.try_only => again = Some(error.to_string()),
                Err(error) => return Err(failure(args, error)),
            }
        }
        if let Some(guard) = guards.pop() {
            return Ok(Some(guard));
        }
        if client.unreclaimed().is_empty() {
            return Ok(None);
        }
        if !std::mem::replace(&mut told, true) {
            let why = again.unwrap_or_else(|| "the cluster is out of reach".to_owned());
            notices.say(format_args!("taking lock {:?} back: {why}", args.name));
        }
        let at = Instant::now() + AGAIN;
        if args.try_only || deadline.is_some_and(|deadline| deadline <= at) {
            return Err(refusal::not_yet(args));
        }
        sleep(AGAIN).await;
    }
}

/// None when the time is over.
async fn reclaim(client: &Client, deadline: Option<Instant>) -> Option<Vec<Reclaimed>> {
    let mut reclaiming = Box::pin(client.reclaim_all());
    let over = async {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        reclaimed = &mut reclaiming => Some(reclaimed),
        () = over => {
            // Dropped, it would give back what is granted at this moment. The process ends now, and
            // what it has asked for stays with its session.
            std::mem::forget(reclaiming);
            None
        }
    }
}

/// The older life's lease may run: nobody can say that it is dead. With `--try` that is the end.
async fn tell_lease(client: &Client, args: &LockArgs, notices: &Notices) -> Result<(), Failure> {
    let Ok(seen) = client.get_lock(&args.name).await else { return Ok(()) };
    let ours = |holder: &&Holder| holder.session == client.session_handle() && !holder.orphaned;
    let lock = seen.lock;
    let Some(held) = lock.as_ref().and_then(|lock| lock.holders.iter().find(ours)) else {
        return Ok(());
    };
    if args.try_only {
        return Err(refusal::lease_runs(args, held.remaining));
    }
    if held.remaining > SILENCE_MAX {
        notices.say(format_args!(
            "taking lock {:?} back: the lease of the earlier run ends in {}",
            args.name,
            short(held.remaining)
        ));
    }
    Ok(())
}

fn may_pass(error: &ReclaimError) -> bool {
    match error {
        ReclaimError::Acquire(error) => matches!(
            error,
            AcquireError::Unavailable { .. }
                | AcquireError::Indeterminate { .. }
                | AcquireError::Lost { .. }
        ),
        ReclaimError::Look(error) => matches!(error, CallError::Unavailable { .. }),
        _ => false,
    }
}

fn failure(args: &LockArgs, error: ReclaimError) -> Failure {
    match error {
        ReclaimError::Acquire(error) => not_acquired(args, error),
        ReclaimError::Look(CallError::Unavailable { reason, message }) => {
            not_acquired(args, AcquireError::Unavailable { reason, message })
        }
        other => refusal::not_had_back(args, &other),
    }
}
