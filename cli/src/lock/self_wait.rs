//! `sharklock lock x -- sharklock lock x …`: the inner one waits for the outer one, which waits for
//! its command, the inner one.
//!
//! Every command is told the sessions of those that run it, so that the inner one can find them
//! among the lock's holders. A session's handle is 128 random bits: it names one lock service, too.

use std::time::Duration;

use sharklock_client::{Client, HeldMode, LockInfo};

use super::notices::Notices;
use crate::{
    args::LockArgs,
    exit::{Failure, LOCK_USAGE},
};

/// The variable that holds the sessions of all `sharklock lock` that a command runs under, the
/// outermost first.
const VARIABLE: &str = "SHARKLOCK_OUTER_SESSIONS";
/// Deeper nesting than anybody has: the variable cannot grow without bound.
const NESTED_MAX: usize = 32;
/// Between two looks while none is answered.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The sessions that this process runs under.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outer(Vec<String>);

impl Outer {
    /// As the environment says.
    pub fn of_this_process() -> Self {
        Self::parse(&std::env::var(VARIABLE).unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let sessions = text.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let skip = sessions.len().saturating_sub(NESTED_MAX);
        Self(sessions.into_iter().skip(skip).collect())
    }

    /// The variable for a command that runs under `session` too.
    pub fn variable(&self, session: &str) -> (&'static str, String) {
        let sessions = self.0.iter().map(String::as_str).chain([session]);
        (VARIABLE, sessions.collect::<Vec<_>>().join(" "))
    }

    /// While the lock is waited for: returns when it would be waited for without end, since this
    /// process runs under its holder. With a time limit that is only told.
    pub async fn found_to_hold(
        &self,
        client: &Client,
        args: &LockArgs,
        notices: &Notices,
    ) -> Failure {
        loop {
            if self.0.is_empty() || args.try_only {
                std::future::pending::<()>().await;
            }
            if let Ok(seen) = client.get_lock(&args.name).await {
                let own = client.session_handle();
                if seen.lock.is_some_and(|lock| self.is_waited_for(&lock, own, args)) {
                    let failure = failure(args);
                    if args.timeout.is_none() {
                        return failure;
                    }
                    notices.say(failure.told());
                }
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Whether `own`, who asks as `args` say, cannot get the lock before one of these ends.
    fn is_waited_for(&self, lock: &LockInfo, own: &str, args: &LockArgs) -> bool {
        let held: Vec<HeldMode> = lock
            .holders
            .iter()
            .filter(|holder| self.0.contains(&holder.session))
            .map(|holder| holder.mode)
            .collect();
        if held.is_empty() {
            return false;
        }
        if held.contains(&HeldMode::Exclusive) {
            return true;
        }
        if let Some((permits, of)) = args.permits.zip(args.of) {
            let held = held.iter().map(|mode| match mode {
                HeldMode::Permits(units) => u64::from(*units),
                HeldMode::Exclusive | HeldMode::Shared => 0,
            });
            return held.sum::<u64>() + u64::from(permits) > u64::from(of);
        }
        // A sharer joins sharers, unless somebody who waits for them stands before it.
        let before = lock.waiters.iter().take_while(|waiter| waiter.session != own);
        !args.shared || before.into_iter().any(|waiter| waiter.mode == HeldMode::Exclusive)
    }
}

fn failure(args: &LockArgs) -> Failure {
    let waits = format!(
        "lock {:?} is held by a `sharklock lock` that this one runs under: it waits for itself",
        args.name
    );
    Failure::new(LOCK_USAGE, waits).hint(
        "what runs under the lock has it already: run the command without the inner `sharklock \
         lock`, or choose another name",
    )
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use clap::Parser as _;
    use sharklock_client::{AcquisitionId, Agreement, Condition, Holder};

    use super::*;
    use crate::args::{Cli, Command};

    fn args(line: &str) -> LockArgs {
        match Cli::try_parse_from(line.split(' ')).expect("it parses").command {
            Command::Lock(args) => args,
            other => panic!("{other:?}"),
        }
    }

    fn party((session, mode): &(&str, HeldMode)) -> Holder {
        Holder {
            session: (*session).to_owned(),
            owner: String::new(),
            address: String::new(),
            attributes: Default::default(),
            mode: *mode,
            token: None,
            fence_floor: None,
            since: SystemTime::UNIX_EPOCH,
            ttl: Duration::ZERO,
            remaining: Duration::ZERO,
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
    fn nested_sessions_are_handed_down_the_outermost_first() {
        let outer = Outer::parse("");
        assert_eq!(outer, Outer::default());
        let (name, value) = outer.variable("aa");
        assert_eq!((name, value.as_str()), ("SHARKLOCK_OUTER_SESSIONS", "aa"));
        assert_eq!(Outer::parse(&value).variable("bb").1, "aa bb");
        let deep =
            (0..100).fold(String::new(), |text, n| Outer::parse(&text).variable(&n.to_string()).1);
        assert_eq!(deep.split(' ').count(), NESTED_MAX + 1);
        assert!(deep.ends_with("98 99"), "{deep}");
    }

    #[test]
    fn one_waits_for_itself_where_only_its_own_holder_can_make_room() {
        use HeldMode::{Exclusive, Permits, Shared};
        type Parties<'a> = &'a [(&'a str, HeldMode)];
        let table: &[(&str, Parties<'_>, Parties<'_>, bool)] = &[
            ("x", &[], &[], false),
            ("x", &[("other", Exclusive)], &[], false),
            ("x", &[("outer", Exclusive)], &[], true),
            ("x", &[("outer", Exclusive)], &[("other", Exclusive), ("me", Exclusive)], true),
            ("x --shared", &[("outer", Exclusive)], &[], true),
            ("x --shared", &[("outer", Shared)], &[], false),
            ("x --shared", &[("outer", Shared)], &[("me", Shared), ("other", Exclusive)], false),
            ("x --shared", &[("outer", Shared)], &[("other", Exclusive), ("me", Shared)], true),
            ("x", &[("other", Shared), ("outer", Shared)], &[], true),
            ("x -n 1 --of 2", &[("outer", Permits(1)), ("other", Permits(1))], &[], false),
            ("x -n 2 --of 2", &[("outer", Permits(1))], &[], true),
            ("x -n 1 --of 2", &[("outer", Permits(1)), ("outest", Permits(1))], &[], true),
        ];
        let outer = Outer::parse("outest outer");
        for (line, holders, waiters, expected) in table {
            let lock = LockInfo {
                name: "x".into(),
                permits_max: None,
                holders: holders.iter().map(party).collect(),
                waiters: waiters.iter().map(party).collect(),
                holders_count: 0,
                waiters_count: 0,
                retry_after: Duration::ZERO,
            };
            let args = args(&format!("sharklock lock {line} -- true"));
            assert_eq!(outer.is_waited_for(&lock, "me", &args), *expected, "{line} {holders:?}");
        }
    }
}
