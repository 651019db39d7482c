//! Waiting for the lock: within `--timeout`, whatever the cluster does, and not in silence.

use std::time::{Duration, SystemTime};

use sharklock_client::{
    AcquireError, CallError, Client, Guard, Holder, LockBuilder, LockInfo, LockMode, LockSeen,
    trace::Spans,
};
use tokio::time::{Instant, sleep, timeout_at};

use super::notices::Notices;
use crate::{
    admin::other_cluster,
    args::LockArgs,
    exit::{Failure, INTERNAL, LOCK_USAGE, UNREACHABLE},
    render::{shell_word, short, thousands},
    unserved,
};

/// The longest wait that a server keeps the time of; longer ones are kept here.
const SERVER_WAIT_MAX: Duration = Duration::from_secs(3600);
/// A wait that the client ends by itself comes with the holder's name, or with why it is not known:
/// it may take this much longer. More than the 60 ms after which the client gives up on an answer,
/// less than the 100 ms to which `--timeout` is kept.
pub const ANSWER_SLACK: Duration = Duration::from_millis(80);
/// Somebody who waits longer than this is told for whom.
const SILENCE_MAX: Duration = Duration::from_secs(1);
/// He is told again after so long where each word is a line of its own,
const TELL_AGAIN: Duration = Duration::from_secs(60);
/// and so often where one line is painted anew.
const PAINT_AGAIN: Duration = Duration::from_secs(1);
/// So many looks may get no answer before that is told.
const LOOKS_SILENT: u32 = 1;
/// Between two attempts after the place in the queue was lost.
const QUEUE_AGAIN: Duration = Duration::from_millis(100);

/// Acquires as `args` say, until `deadline`; every other outcome is a failure with its exit code. Dropping the future
/// withdraws from the queue.
pub async fn acquire(
    client: &Client,
    args: &LockArgs,
    deadline: Option<Instant>,
    (notices, spans): (&Notices, &Spans),
) -> Result<Guard, Failure> {
    let mut telling = std::pin::pin!(tell(client, args, notices));
    loop {
        let attempt = attempt(client, args, deadline, spans);
        let result = tokio::select! {
            result = attempt => result,
            never = &mut telling => match never {},
        };
        let error = match result {
            Ok(guard) => return Ok(guard),
            Err(error) => error,
        };
        let over =
            args.try_only || deadline.is_some_and(|deadline| now() + QUEUE_AGAIN >= deadline);
        match error {
            // The place in the queue lapsed while nobody answered. Those who queued later are
            // ahead now; that is all that can be had.
            AcquireError::Lost { .. } if !over => sleep(QUEUE_AGAIN).await,
            error => return Err(not_acquired(args, error)),
        }
    }
}

async fn attempt(
    client: &Client,
    args: &LockArgs,
    deadline: Option<Instant>,
    spans: &Spans,
) -> Result<Guard, AcquireError> {
    let builder = client.lock(&args.name).ttl(args.ttl);
    let builder = match args.mode() {
        LockMode::Shared => builder.shared(),
        LockMode::Permits { n, of } => builder.permits(n, of),
        LockMode::Exclusive => builder,
    };
    let builder = with_condition(builder, args).spans(spans).traceparent(&traceparent());
    if args.try_only {
        return builder.try_once().acquire().await;
    }
    let Some(deadline) = deadline else { return builder.acquire().await };
    let left = deadline.saturating_duration_since(now());
    let (attempt, until) = match left <= SERVER_WAIT_MAX {
        true => (builder.wait(left), deadline + ANSWER_SLACK),
        false => (builder, deadline),
    };
    timeout_at(until, attempt.acquire()).await.unwrap_or_else(|_| {
        let name = args.name.as_str().into();
        Err(AcquireError::WaitTimedOut { name, holders: Vec::new(), place: None })
    })
}

/// The trace of which this command is a part, as whoever runs it says.
fn traceparent() -> String {
    std::env::var("TRACEPARENT").unwrap_or_default()
}

fn with_condition(mut builder: LockBuilder, args: &LockArgs) -> LockBuilder {
    if args.keep {
        builder = builder.hold();
    }
    if let Some(max) = args.max_hold {
        builder = builder.max_hold(max);
    }
    if let Some(grace) = args.ask_grace {
        builder = builder.ask_grace(grace);
    }
    if let Some(delay) = args.lock_delay {
        builder = builder.lock_delay(delay);
    }
    if args.ask {
        builder = builder.ask();
    }
    builder
}

/// Says what is waited for, while it is waited for. Never ends.
async fn tell(client: &Client, args: &LockArgs, notices: &Notices) -> std::convert::Infallible {
    let mut silence = SILENCE_MAX;
    let mut failed = 0;
    let begun = now();
    loop {
        sleep(silence).await;
        let seen = client.get_lock(&args.name).await;
        let waited = short(now() - begun);
        let (own, now) = (client.session_handle(), wall_clock());
        let (live, plain) = match seen {
            // One gateway may be frozen; the next look goes to another one.
            Err(CallError::Unavailable { .. }) if failed < LOOKS_SILENT => {
                failed += 1;
                silence = Duration::ZERO;
                continue;
            }
            Ok(LockSeen { lock: Some(lock), .. }) => {
                (live_text(&lock, own, now), queue_text(&lock, own, now))
            }
            Ok(LockSeen { lock: None, .. }) => (String::new(), String::new()),
            Err(why) => (format!(": {why}"), format!(": {why}")),
        };
        let is_live = notices.paint(format_args!("waiting {waited}{live}, lock {:?}", args.name));
        silence = if is_live { PAINT_AGAIN } else { TELL_AGAIN };
        if !is_live {
            notices.say(format_args!("waiting for {:?}{plain}", args.name));
        }
    }
}

/// `: place 2 of 5, lease 7.4s, held by billing@host-3 for 12s`: what moves stands first, since a
/// narrow terminal cuts the rest.
fn live_text(lock: &LockInfo, own_session: &str, now: SystemTime) -> String {
    let place = lock.waiters.iter().position(|waiter| waiter.session == own_session);
    let place = place
        .map(|ahead| format!("place {} of {}", ahead + 1, thousands(lock.waiters_count.into())));
    let others = match lock.holders_count {
        0 | 1 => String::new(),
        count => format!(" and {} more", thousands(u64::from(count) - 1)),
    };
    let held = lock.holders.first().map(|first| {
        let lease = match &first.ending_reason {
            _ if first.orphaned => "kept for its session".to_owned(),
            Some(reason) => format!("is ending ({reason})"),
            None => format!("lease {}", short(first.remaining)),
        };
        format!("{lease}, held by {}{others}", holder_text(first, now))
    });
    let delay = (held.is_none() && !lock.retry_after.is_zero())
        .then(|| format!("kept taken by a lock-delay for {} more", short(lock.retry_after)));
    let parts: Vec<_> = [place, held, delay].into_iter().flatten().collect();
    if parts.is_empty() { String::new() } else { format!(": {}", parts.join(", ")) }
}

/// `: held by …, 2 are ahead of you`.
fn queue_text(lock: &LockInfo, own_session: &str, now: SystemTime) -> String {
    let held = match lock.holders.first() {
        None => String::new(),
        Some(first) => format!(": held by {}", holder_text(first, now)),
    };
    let others = match lock.holders_count {
        0 | 1 => String::new(),
        count => format!(" and {} more", count - 1),
    };
    let place = lock.waiters.iter().position(|waiter| waiter.session == own_session);
    let ahead = match place {
        None | Some(0) => String::new(),
        Some(1) => ", 1 is ahead of you".to_owned(),
        Some(ahead) => format!(", {ahead} are ahead of you"),
    };
    format!("{held}{others}{ahead}")
}

/// `billing@host-3 for 12s`.
fn holder_text(holder: &Holder, now: SystemTime) -> String {
    let name = if holder.owner.is_empty() { &holder.session } else { &holder.owner };
    format!("{name} for {}", short(now.duration_since(holder.since).unwrap_or_default()))
}

/// The failure to acquire, with its exit code.
pub fn not_acquired(args: &LockArgs, error: AcquireError) -> Failure {
    let conflict = |error: String| {
        let name = shell_word(&args.name);
        Failure::new(args.conflict_exit, error).hint(format!("sharklock locks show {name}"))
    };
    let name = &args.name;
    match error {
        AcquireError::Held { holders, waiters, .. } => {
            let failure = with_holders(conflict(format!("lock {name:?} is held")), &holders);
            match waiters {
                0 => failure,
                1 => failure.cause("1 is waiting for it"),
                n => failure.cause(format!("{n} are waiting for it")),
            }
        }
        AcquireError::WaitTimedOut { holders, place, .. } => {
            let after = short(args.timeout.unwrap_or_default());
            let failure = conflict(format!("lock {name:?} was not free within {after}"));
            let failure = with_holders(failure, &holders);
            match place {
                None => failure,
                Some(place) => failure.cause(format!("your place in the queue was {place}")),
            }
        }
        AcquireError::LimitReached { .. } => conflict(error.to_string()),
        AcquireError::Invalid { .. } | AcquireError::ModeMismatch { .. } => {
            Failure::new(LOCK_USAGE, error.to_string())
        }
        AcquireError::Unavailable { reason, message } => unserved::failure(&reason, &message),
        AcquireError::OtherCluster(mismatch) => other_cluster(&mismatch),
        AcquireError::Indeterminate { .. } | AcquireError::Lost { .. } => {
            Failure::new(UNREACHABLE, error.to_string())
        }
        // The other refusals have no cause on this command line.
        _ => Failure::new(INTERNAL, error.to_string()),
    }
}

fn with_holders(failure: Failure, holders: &[Holder]) -> Failure {
    let now = wall_clock();
    holders.iter().fold(failure, |failure, holder| {
        let left = short(holder.remaining);
        failure.cause(format!("held by {}, lease {left}", holder_text(holder, now)))
    })
}

fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "how long a lock is held, for people only")]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser as _;
    use sharklock_client::{AcquisitionId, Agreement, Condition, FencingToken, HeldMode};

    fn args(line: &str) -> LockArgs {
        match Cli::try_parse_from(line.split(' ')).expect("it parses").command {
            Command::Lock(args) => args,
            other => panic!("{other:?}"),
        }
    }

    fn holder(owner: &str, session: &str, held_for: Duration) -> Holder {
        Holder {
            session: session.into(),
            owner: owner.into(),
            address: String::new(),
            attributes: Default::default(),
            mode: HeldMode::Exclusive,
            token: Some(FencingToken::from_u64(7)),
            fence_floor: None,
            since: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000) - held_for,
            ttl: Duration::from_secs(10),
            remaining: Duration::from_millis(7_400),
            open_acquisitions: 1,
            ending_reason: None,
            acquisition: AcquisitionId(1),
            agreement: Agreement {
                condition: Condition::default(),
                revision: 0,
                claimed: false,
                ttl: Duration::ZERO,
            },
            orphaned: false,
            asked: None,
            arrival: 0,
            instance: 1,
        }
    }

    #[test]
    fn a_conflict_names_holder_and_queue_under_the_chosen_exit_code() {
        let holders = vec![holder("billing@host-3", "c0ffee", Duration::from_secs(12))];
        let name = "x".into();
        let failure = not_acquired(
            &args("sharklock lock x --try -E 3 -- true"),
            AcquireError::Held { name, holders, waiters: 2 },
        );
        assert_eq!(failure.code(), 3);
        let text = failure.to_string();
        assert!(text.starts_with("error: lock \"x\" is held\ncause: held by billing@host-3 for "));
        assert!(text.ends_with(
            ", lease 7.4s\ncause: 2 are waiting for it\nhint: sharklock locks show x\n"
        ));
    }

    #[test]
    fn a_timeout_tells_the_place() {
        let error =
            AcquireError::WaitTimedOut { name: "x".into(), holders: vec![], place: Some(4) };
        let failure = not_acquired(&args("sharklock lock x --timeout 1m30s -- true"), error);
        assert_eq!(failure.code(), 75);
        assert_eq!(
            failure.to_string(),
            "error: lock \"x\" was not free within 1m30s\ncause: your place in the queue was 4\n\
             hint: sharklock locks show x\n"
        );
    }

    #[test]
    fn exit_codes_tell_why_there_is_no_lock() {
        let text = || "t".to_owned();
        let code = |error| not_acquired(&args("sharklock lock x -- true"), error).code();
        let reason = text();
        assert_eq!(code(AcquireError::Unavailable { reason, message: text() }), 69);
        assert_eq!(code(AcquireError::Indeterminate { message: text() }), 69);
        assert_eq!(code(AcquireError::ModeMismatch { name: "x".into(), message: text() }), 64);
        let (reason, retry_after) = (text(), None);
        assert_eq!(code(AcquireError::LimitReached { reason, message: text(), retry_after }), 75);
        assert_eq!(code(AcquireError::Failed { reason: text(), message: text() }), 70);
    }

    #[test]
    fn the_queue_is_told_in_words() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let waiter = |session| holder("", session, Duration::ZERO);
        let mut lock = LockInfo {
            name: "x".into(),
            permits_max: None,
            holders: vec![holder("a@b", "1", Duration::from_secs(75))],
            waiters: vec![waiter("2"), waiter("3"), waiter("4")],
            holders_count: 3,
            waiters_count: 3,
            retry_after: Duration::ZERO,
        };
        let text = ": held by a@b for 1m15s and 2 more, 2 are ahead of you";
        assert_eq!(queue_text(&lock, "4", now), text);
        lock.holders_count = 1;
        assert_eq!(queue_text(&lock, "2", now), ": held by a@b for 1m15s");
        assert_eq!(queue_text(&lock, "3", now), ": held by a@b for 1m15s, 1 is ahead of you");
        let text = ": place 2 of 3, lease 7.4s, held by a@b for 1m15s";
        assert_eq!(live_text(&lock, "3", now), text);
        lock.holders_count = 1_007;
        lock.holders[0].ending_reason = Some("host-3 is gone".into());
        let text = ": is ending (host-3 is gone), held by a@b for 1m15s and 1,006 more";
        assert_eq!(live_text(&lock, "none", now), text);
        lock.holders.clear();
        lock.retry_after = Duration::from_secs(20);
        let text = ": place 1 of 3, kept taken by a lock-delay for 20s more";
        assert_eq!(live_text(&lock, "2", now), text);
    }
}
