//! Decides what is done to the command that runs under a lock, and when (D17).
//!
//! The command, and all that it started, must not run when somebody else may hold the lock. So all
//! are told to stop (SIGTERM) `grace` before the lease may end, are killed (SIGKILL) a margin
//! before that, and the lock is given back only after the last of them is gone. A process that the
//! command leaves running when it ends is waited for, unless its owner wished for something else.
//!
//! This is a state machine over time that is passed in: it starts no process, sends no signal and
//! reads no clock. `lock/run.rs` tells it what happened and carries out its orders.

use std::time::Duration;

/// A moment on the client's lease clock, as time since the supervisor was made.
///
/// A guard's `valid_until` is such a moment: the send time of the last acknowledged renewal plus
/// the lease, less what clocks may differ by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub Duration);

impl Moment {
    fn after(self, wait: Duration) -> Self {
        Self(self.0 + wait)
    }

    /// Stops at the origin: a lease that is shorter than what is taken from it is already over.
    fn before(self, lead: Duration) -> Self {
        Self(self.0.saturating_sub(lead))
    }
}

/// Between SIGKILL and the end of the lease stays this share of the lease: time for the kernel to
/// end the processes, and for this process to be scheduled late.
const KILL_MARGIN_DIVISOR: u32 = 20;

/// The grace period when none is given, unless a third of the lease is shorter.
const GRACE_DEFAULT: Duration = Duration::from_secs(3);

/// How often a lease is renewed: a third of it, at most this (D7).
const RENEWAL_INTERVAL_MAX: Duration = Duration::from_secs(5);

/// The times that a lease and its owner's wishes fix.
///
/// Invariants: `grace` leaves room for one renewal and half of the next before SIGTERM is due, so
/// that a healthy lock is never taken for a lost one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    grace: Duration,
    margin: Duration,
}

/// The grace period does not fit the lease; `most` would.
#[derive(Debug, PartialEq, Eq)]
pub struct GraceTooLong {
    /// The longest grace period for this lease.
    pub most: Duration,
}

impl Terms {
    /// `grace`: time between SIGTERM and the end of the lease; three seconds, or a third of the
    /// lease if that is less, when not given.
    pub fn new(ttl: Duration, grace: Option<Duration>) -> Result<Self, GraceTooLong> {
        let renewal = (ttl / 3).min(RENEWAL_INTERVAL_MAX);
        // The client counts one per cent less than the lease.
        let most = ttl - ttl / 100 - renewal - renewal / 2;
        let grace = grace.unwrap_or(GRACE_DEFAULT.min(ttl / 3));
        if grace > most {
            return Err(GraceTooLong { most });
        }
        Ok(Self { grace, margin: ttl / KILL_MARGIN_DIVISOR })
    }

    fn kill_at(&self, valid_until: Moment) -> Moment {
        valid_until.before(self.margin)
    }

    /// A grace period within the margin leaves no time between the two signals.
    fn terminate_at(&self, valid_until: Moment) -> Moment {
        valid_until.before(self.grace.max(self.margin))
    }
}

/// The fate of processes that the command leaves running when it ends, under a good lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// The lock is kept until they have ended.
    AwaitedFor,
    /// They are told to stop, then killed.
    Ended,
    /// They run on without the lock.
    Left,
}

/// An input of the supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing but time went by.
    Woke,
    /// The client says that the lock is lost, or that an operator asked for its end.
    Lost,
    /// Somebody who asked for the end of all asks again.
    Insisted,
    /// The command's first process has ended, and others run.
    Ended,
    /// The first process and all others have ended.
    Gone,
}

/// An order about the command and all that it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Send SIGTERM, and SIGCONT so that a stopped process can heed it.
    Terminate,
    /// Send SIGKILL, again and again until all are gone.
    Kill,
    /// Let them run, and give the lock back.
    Leave,
}

/// Why the command was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// The client reported the loss.
    Lost,
    /// No renewal was acknowledged in time.
    RanOut,
}

/// `why` says why the lock could not be kept; it is none where the command's own end, or somebody
/// who insisted, is the reason: then the command's exit code is the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The command, or what it left behind, runs and the lease is good.
    Running,
    /// SIGTERM was sent; what is left at `kill_at` is killed.
    Terminated { why: Option<Stopped>, kill_at: Moment },
    /// SIGKILL was sent; the kernel ends the rest.
    Killed { why: Option<Stopped> },
    /// Nobody is left, or they are none of our business any more.
    Over { why: Option<Stopped> },
}

/// Watches over one command.
///
/// Invariants: states only follow in the order in which they stand above; after `Killed` and
/// `Over` no order is given any more; an order to kill comes no later than the first call at or
/// after `valid_until` less the margin.
#[derive(Debug)]
pub struct Supervisor {
    terms: Terms,
    rest: Rest,
    state: State,
}

impl Supervisor {
    /// For a command that was just started.
    pub fn new(terms: Terms, rest: Rest) -> Self {
        Self { terms, rest, state: State::Running }
    }

    /// Takes in what happened at `now` and says what to do about it. `valid_until` is what the
    /// guard says at this moment; it only moves forward.
    pub fn handle(&mut self, now: Moment, valid_until: Moment, event: Event) -> Option<Order> {
        match (event, self.state) {
            (_, State::Over { .. }) => None,
            (Event::Gone, state) => {
                // Their end was seen too late to know whether it came in time, as after a
                // suspended laptop: success would be a guess.
                let late = (now >= valid_until).then_some(Stopped::RanOut);
                self.state = State::Over { why: state.why().or(late) };
                None
            }
            (_, State::Killed { .. }) => None,
            (Event::Insisted, state) => self.kill(state.why()),
            (_, State::Terminated { why, kill_at }) => {
                if now >= kill_at {
                    self.kill(why)
                } else {
                    None
                }
            }
            (_, State::Running) if now >= self.terms.terminate_at(valid_until) => {
                let why = if event == Event::Lost { Stopped::Lost } else { Stopped::RanOut };
                self.terminate(now, valid_until, Some(why))
            }
            (Event::Lost, State::Running) => self.terminate(now, valid_until, Some(Stopped::Lost)),
            (Event::Ended, State::Running) => match self.rest {
                Rest::AwaitedFor => None,
                Rest::Ended => self.terminate(now, valid_until, None),
                Rest::Left => {
                    self.state = State::Over { why: None };
                    Some(Order::Leave)
                }
            },
            (Event::Woke, State::Running) => None,
        }
    }

    /// A renewal that still arrives does not move the time of SIGKILL: the command has been told to
    /// stop, and would be right to be half-way through that.
    fn terminate(
        &mut self,
        now: Moment,
        valid_until: Moment,
        why: Option<Stopped>,
    ) -> Option<Order> {
        let kill_at = now.after(self.terms.grace).min(self.terms.kill_at(valid_until));
        if now >= kill_at {
            return self.kill(why);
        }
        self.state = State::Terminated { why, kill_at };
        Some(Order::Terminate)
    }

    fn kill(&mut self, why: Option<Stopped>) -> Option<Order> {
        self.state = State::Killed { why };
        Some(Order::Kill)
    }

    /// When to call [`Supervisor::handle`] at the latest, whatever else happens.
    pub fn wake_at(&self, valid_until: Moment) -> Option<Moment> {
        match self.state {
            State::Running => Some(self.terms.terminate_at(valid_until)),
            State::Terminated { kill_at, .. } => Some(kill_at),
            State::Killed { .. } | State::Over { .. } => None,
        }
    }

    /// Whether no order was given yet.
    pub fn is_running(&self) -> bool {
        self.state == State::Running
    }

    /// Whether SIGKILL was ordered, and somebody is left.
    pub fn is_killing(&self) -> bool {
        matches!(self.state, State::Killed { .. })
    }

    /// Why the command was stopped; nothing while it runs, or when it ended by itself under a good
    /// lease: then its own exit code is the answer.
    pub fn stopped(&self) -> Option<Stopped> {
        self.state.why()
    }
}

impl State {
    fn why(self) -> Option<Stopped> {
        match self {
            Self::Running => None,
            Self::Terminated { why, .. } | Self::Killed { why } | Self::Over { why } => why,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn at(millis: u64) -> Moment {
        Moment(ms(millis))
    }

    /// A lease of 10 s with the default grace of 3 s and a margin of 0.5 s.
    fn supervisor() -> Supervisor {
        supervisor_with(Rest::AwaitedFor)
    }

    fn supervisor_with(rest: Rest) -> Supervisor {
        Supervisor::new(Terms::new(ms(10_000), None).expect("the default fits"), rest)
    }

    /// Runs `script` of (now, valid_until, event, expected order), all times in milliseconds.
    fn check(script: &[(u64, u64, Event, Option<Order>)]) -> Supervisor {
        check_with(Rest::AwaitedFor, script)
    }

    fn check_with(rest: Rest, script: &[(u64, u64, Event, Option<Order>)]) -> Supervisor {
        let mut supervisor = supervisor_with(rest);
        for &(now, valid_until, event, expected) in script {
            let order = supervisor.handle(at(now), at(valid_until), event);
            assert_eq!(order, expected, "at {now} ms, valid until {valid_until} ms, {event:?}");
        }
        supervisor
    }

    use Event::{Ended, Gone, Insisted, Lost, Woke};
    use Order::{Kill, Leave, Terminate};

    #[test]
    fn a_renewed_lease_is_left_alone_for_ever() {
        let mut supervisor = supervisor();
        for renewal in 0..1_000 {
            let sent = renewal * 3_333;
            let order = supervisor.handle(at(sent + 3_400), at(sent + 9_900), Woke);
            assert_eq!(order, None);
            assert_eq!(supervisor.wake_at(at(sent + 9_900)), Some(at(sent + 6_900)));
        }
        assert_eq!(supervisor.stopped(), None);
    }

    #[test]
    fn without_renewals_the_command_is_terminated_then_killed_before_the_lease_can_end() {
        let end = check(&[
            (6_899, 9_900, Woke, None),
            (6_900, 9_900, Woke, Some(Terminate)),
            (9_399, 9_900, Woke, None),
            (9_400, 9_900, Woke, Some(Kill)),
            (9_500, 9_900, Woke, None),
            (9_550, 9_900, Ended, None),
            (9_600, 9_900, Gone, None),
        ]);
        assert_eq!(end.stopped(), Some(Stopped::RanOut));
    }

    #[test]
    fn the_next_call_is_asked_for_at_the_next_deadline() {
        let mut supervisor = supervisor();
        assert_eq!(supervisor.wake_at(at(9_900)), Some(at(6_900)));
        supervisor.handle(at(6_900), at(9_900), Woke);
        assert_eq!(supervisor.wake_at(at(9_900)), Some(at(9_400)));
        supervisor.handle(at(9_400), at(9_900), Woke);
        assert_eq!(supervisor.wake_at(at(9_900)), None);
    }

    #[test]
    fn a_renewal_after_sigterm_comes_too_late() {
        let end = check(&[
            (6_900, 9_900, Woke, Some(Terminate)),
            (7_000, 16_000, Woke, None),
            (9_400, 16_000, Woke, Some(Kill)),
            (9_401, 16_000, Gone, None),
        ]);
        assert_eq!(end.stopped(), Some(Stopped::RanOut));
    }

    #[test]
    fn a_lost_lock_gives_the_command_its_grace_if_the_lease_allows() {
        check(&[
            (1_000, 9_900, Lost, Some(Terminate)),
            (1_001, 9_900, Lost, None),
            (3_999, 9_900, Woke, None),
            (4_000, 9_900, Woke, Some(Kill)),
        ]);
        check(&[(8_000, 9_900, Lost, Some(Terminate)), (9_400, 9_900, Woke, Some(Kill))]);
    }

    #[test]
    fn a_lease_found_ended_kills_at_once() {
        let end = check(&[(60_000, 9_900, Woke, Some(Kill)), (60_001, 9_900, Gone, None)]);
        assert_eq!(end.stopped(), Some(Stopped::RanOut));
        let end = check(&[(9_400, 9_900, Lost, Some(Kill))]);
        assert_eq!(end.stopped(), Some(Stopped::Lost));
    }

    #[test]
    fn a_command_that_ends_under_a_good_lease_speaks_for_itself() {
        let end = check(&[(5_000, 9_900, Gone, None), (5_001, 9_900, Lost, None)]);
        assert_eq!(end.stopped(), None);
        assert_eq!(end.wake_at(at(9_900)), None);
        // The end counts that was there first, however late within the lease it is seen.
        assert_eq!(check(&[(9_899, 9_900, Gone, None)]).stopped(), None);
    }

    #[test]
    fn a_command_that_ended_when_told_to_stop_was_stopped() {
        let end = check(&[(1_000, 9_900, Lost, Some(Terminate)), (1_010, 9_900, Gone, None)]);
        assert_eq!(end.stopped(), Some(Stopped::Lost));
    }

    #[test]
    fn an_end_that_is_seen_after_the_lease_is_no_success() {
        for rest in [Rest::AwaitedFor, Rest::Ended, Rest::Left] {
            let end = check_with(rest, &[(9_900, 9_900, Gone, None)]);
            assert_eq!(end.stopped(), Some(Stopped::RanOut));
            let script = [(9_900, 9_900, Ended, Some(Kill)), (9_901, 9_900, Gone, None)];
            assert_eq!(check_with(rest, &script).stopped(), Some(Stopped::RanOut));
        }
    }

    #[test]
    fn what_the_command_leaves_running_is_waited_for_as_long_as_the_lease_is_renewed() {
        let mut supervisor = supervisor();
        assert_eq!(supervisor.handle(at(1_000), at(9_900), Ended), None);
        assert_eq!(supervisor.handle(at(60_000), at(69_900), Woke), None);
        assert_eq!(supervisor.wake_at(at(69_900)), Some(at(66_900)));
        assert_eq!(supervisor.handle(at(66_900), at(69_900), Woke), Some(Terminate));
        assert_eq!(supervisor.handle(at(69_400), at(69_900), Woke), Some(Kill));
        assert_eq!(supervisor.handle(at(69_410), at(69_900), Gone), None);
        assert_eq!(supervisor.stopped(), Some(Stopped::RanOut));
    }

    #[test]
    fn what_is_left_is_ended_or_left_alone_where_its_owner_wants_it() {
        let end = check_with(
            Rest::Ended,
            &[
                (1_000, 9_900, Ended, Some(Terminate)),
                (3_999, 12_900, Woke, None),
                (4_000, 12_900, Woke, Some(Kill)),
                (4_001, 12_900, Gone, None),
            ],
        );
        assert_eq!(end.stopped(), None, "the command ended by itself");
        let end = check_with(Rest::Left, &[(1_000, 9_900, Ended, Some(Leave))]);
        assert_eq!(end.stopped(), None);
        // A lock that is being lost is no reason to leave anybody.
        let end = check_with(
            Rest::Left,
            &[
                (1_000, 9_900, Lost, Some(Terminate)),
                (1_001, 9_900, Ended, None),
                (4_000, 9_900, Woke, Some(Kill)),
                (4_001, 9_900, Gone, None),
            ],
        );
        assert_eq!(end.stopped(), Some(Stopped::Lost));
        // Nor does the lease wait for somebody who was told to stop a moment before its end.
        check_with(
            Rest::Ended,
            &[(6_800, 9_900, Ended, Some(Terminate)), (9_400, 9_900, Woke, Some(Kill))],
        );
    }

    #[test]
    fn who_insists_gets_them_killed_and_the_commands_own_code() {
        let end = check(&[
            (1_000, 9_900, Ended, None),
            (2_000, 9_900, Insisted, Some(Kill)),
            (2_001, 9_900, Insisted, None),
            (2_010, 9_900, Gone, None),
        ]);
        assert_eq!(end.stopped(), None);
        let end = check(&[
            (1_000, 9_900, Lost, Some(Terminate)),
            (2_000, 9_900, Insisted, Some(Kill)),
            (2_010, 9_900, Gone, None),
        ]);
        assert_eq!(end.stopped(), Some(Stopped::Lost));
    }

    #[test]
    fn a_grace_within_the_margin_means_no_warning() {
        let mut supervisor = Supervisor::new(
            Terms::new(ms(10_000), Some(ms(0))).expect("it fits"),
            Rest::AwaitedFor,
        );
        assert_eq!(supervisor.handle(at(9_399), at(9_900), Woke), None);
        assert_eq!(supervisor.handle(at(9_400), at(9_900), Woke), Some(Kill));
    }

    #[test]
    fn a_grace_must_leave_room_for_a_renewal() {
        assert_eq!(Terms::new(ms(10_000), Some(ms(4_900))).map(|_| ()), Ok(()));
        let most = Terms::new(ms(10_000), Some(ms(4_901))).expect_err("too long").most;
        assert!(most >= ms(4_899) && most <= ms(4_901), "{most:?}");
        // A long lease is renewed every 5 s, so that nearly all of it may be grace.
        assert_eq!(Terms::new(ms(600_000), Some(ms(586_500))).map(|_| ()), Ok(()));
        assert!(Terms::new(ms(600_000), Some(ms(586_501))).is_err());
        assert!(Terms::new(ms(2_000), None).is_ok());
    }

    #[test]
    fn no_order_follows_a_kill_and_none_comes_late_whatever_the_timing() {
        // Every combination of lease end, loss and step between calls keeps the promise: killed at
        // the first call after the margin began, never before SIGTERM's grace was given if there
        // was time for it.
        for valid_until in (1_000..12_000).step_by(500) {
            for lost_at in (0..12_000).step_by(700) {
                for step in [1, 90, 1_100] {
                    let mut supervisor = supervisor();
                    let mut killed = false;
                    for now in (0..14_000).step_by(step) {
                        let event = match now {
                            3_300..6_600 => Ended,
                            now if now >= lost_at => Lost,
                            _ => Woke,
                        };
                        let order = supervisor.handle(at(now), at(valid_until), event);
                        assert!(!(killed && order.is_some()));
                        killed |= order == Some(Kill);
                        let due = now + 500 >= valid_until;
                        assert!(killed || !due, "alive at {now}, valid until {valid_until}");
                    }
                }
            }
        }
    }
}
