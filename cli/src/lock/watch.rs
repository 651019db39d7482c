//! The lease on the supervisor's clock: what the guard says, and what the supervisor makes of it.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use sharklock_client::{Guard, LostReason};

use super::supervisor::{Event, Moment, Order, Rest, Stopped, Supervisor, Terms};

/// The lease, the time, and what follows from them.
pub struct Watch<'a> {
    guard: &'a Guard,
    supervisor: Supervisor,
    start: Duration,
    /// As the guard said last while it was valid: a lost guard says that nothing remains, but how
    /// long nobody else can hold the lock does not change by the loss.
    valid_until: Moment,
    lost: Option<LostReason>,
}

impl<'a> Watch<'a> {
    /// Begins now.
    pub fn new(guard: &'a Guard, terms: Terms, rest: Rest) -> Self {
        let start = boottime();
        let since = || Moment(boottime().saturating_sub(start));
        let (_, lease_end) = lease(since, || guard.remaining());
        let valid_until = lease_end.unwrap_or(Moment(Duration::ZERO));
        Self { guard, supervisor: Supervisor::new(terms, rest), start, valid_until, lost: None }
    }

    /// The time now.
    pub fn now(&self) -> Moment {
        Moment(boottime().saturating_sub(self.start))
    }

    /// Whether the command would have to be stopped already.
    pub fn due(&self) -> bool {
        self.supervisor.wake_at(self.valid_until).is_some_and(|at| at <= self.now())
    }

    /// Tells the supervisor what happened, and what time it is.
    pub fn handle(&mut self, event: Event) -> Option<Order> {
        let (now, lease_end) = lease(|| self.now(), || self.guard.remaining());
        self.valid_until = lease_end.unwrap_or(self.valid_until);
        self.supervisor.handle(now, self.valid_until, event)
    }

    /// Resolves when the client says that the lock is lost, once.
    pub async fn lost(&mut self) {
        if self.lost.is_some() {
            std::future::pending::<()>().await;
        }
        self.lost = Some(self.guard.lost().await);
    }

    /// Why the command was stopped, if it was.
    pub fn stopped(&self) -> Option<String> {
        let why = match (&self.lost, self.supervisor.stopped()?) {
            (Some(reason), Stopped::Lost) => reason.to_string(),
            _ => "no renewal was answered in time".to_owned(),
        };
        Some(why)
    }

    /// What the client says of the loss, if it has said something.
    pub fn lost_reason(&self) -> Option<&LostReason> {
        self.lost.as_ref()
    }

    /// Whether nobody was told to stop.
    pub fn is_running(&self) -> bool {
        self.supervisor.is_running()
    }

    /// Whether everybody is being killed.
    pub fn is_killing(&self) -> bool {
        self.supervisor.is_killing()
    }

    /// How long until the next order at the latest, if there is one to come.
    pub fn until_order(&self) -> Option<Duration> {
        let at = self.supervisor.wake_at(self.valid_until)?;
        Some(at.0.saturating_sub(self.now().0))
    }

    /// How long nobody else can hold the lock.
    pub fn until_lapse(&self) -> Duration {
        self.valid_until.0.saturating_sub(self.now().0)
    }
}

/// The time now, and the moment at which the lease ends, if it has not ended.
///
/// The clock is read before the lease: what passes between the two readings, a suspended machine
/// for example, is then counted as if it had to pass once more, and the lease seems shorter than
/// it is. The other way round its end would be put off by as much.
fn lease(
    clock: impl FnOnce() -> Moment,
    remaining: impl FnOnce() -> Duration,
) -> (Moment, Option<Moment>) {
    let now = clock();
    let remaining = remaining();
    let end = (!remaining.is_zero()).then(|| Moment(now.0 + remaining));
    (now, end)
}

/// Goes on while the machine is suspended, as leases do.
fn boottime() -> Duration {
    let now =
        clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has had this clock since 2.6.39");
    Duration::from(now)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn what_passes_between_the_two_readings_does_not_make_the_lease_longer() {
        // The lease ends at 10 s; each reading takes a second.
        let time = Cell::new(1_u64);
        let step = || {
            time.set(time.get() + 1);
            Duration::from_secs(time.get())
        };
        let clock = || Moment(step());
        let remaining = || Duration::from_secs(10).saturating_sub(step());
        let (now, end) = lease(clock, remaining);
        assert_eq!(now, Moment(Duration::from_secs(2)));
        assert!(end.expect("it has not ended") <= Moment(Duration::from_secs(10)), "{end:?}");
    }

    #[test]
    fn a_lease_that_has_ended_says_nothing_about_when() {
        let (_, end) = lease(|| Moment(Duration::from_secs(7)), || Duration::ZERO);
        assert_eq!(end, None);
    }
}
