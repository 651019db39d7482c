//! What a guard and the session task share about one acquisition: how long the lease surely runs,
//! and whether the lock is lost. The task writes, guards read; "lost" may be written by both and is
//! never unwritten.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;

use crate::{clock::Clock, error::LostReason};

/// How a guard stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GuardState {
    /// Renewals are answered.
    Safe,
    /// Half of the lease has passed without an answered renewal. The lock is still held; work that
    /// cannot be interrupted should not be started.
    Jeopardy,
    /// The lock is not held any more, for ever. [`LostReason`] says why.
    Lost,
}

const SAFE: u8 = 0;
const JEOPARDY: u8 = 1;

/// Shared by one acquisition's guard (or its acquire future before) and the session task.
#[derive(Debug, Default)]
pub(crate) struct LeaseCell {
    /// End of the lease on the client's clock, nanoseconds. 0: no lease yet.
    valid_until_ns: AtomicU64,
    /// SAFE or JEOPARDY; without meaning once `lost` is set.
    standing: AtomicU8,
    /// Set once, by whoever finds out first.
    lost: OnceLock<LostReason>,
    /// Notified at every change of standing and at the loss.
    changed: Notify,
    /// The acquire future was dropped: set before its note is put on the list of returns, so that
    /// a request still in the channel is never started.
    abandoned: AtomicBool,
    /// The guard has been given back: nothing is news any more to the signals that outlive it.
    closed: AtomicBool,
    /// The acquisition's id; 0 until the session task has taken the request out of the channel.
    id: AtomicU64,
}

impl LeaseCell {
    pub(crate) fn valid_until(&self) -> Duration {
        Duration::from_nanos(self.valid_until_ns.load(Ordering::Acquire))
    }

    pub(crate) fn renew(&self, valid_until: Duration) {
        let valid_until_ns = u64::try_from(valid_until.as_nanos()).unwrap_or(u64::MAX);
        self.valid_until_ns.fetch_max(valid_until_ns, Ordering::AcqRel);
    }

    pub(crate) fn set_jeopardy(&self, jeopardy: bool) {
        let standing = if jeopardy { JEOPARDY } else { SAFE };
        if self.standing.swap(standing, Ordering::AcqRel) != standing {
            self.changed.notify_waiters();
        }
    }

    /// Loss is sticky: the first reason stays.
    pub(crate) fn lose(&self, reason: LostReason) {
        if self.lost.set(reason).is_ok() {
            self.changed.notify_waiters();
        }
    }

    pub(crate) fn lost(&self) -> Option<&LostReason> {
        self.lost.get()
    }

    /// Checks the lease against the clock now, not only against what timers have done so far; a
    /// lapsed lease is lost from here on even if its renewal is on the way.
    pub(crate) fn check(&self, clock: &Clock) -> Result<(), LostReason> {
        if let Some(reason) = self.lost.get() {
            return Err(reason.clone());
        }
        if self.closed.load(Ordering::Acquire) {
            return Ok(());
        }
        if clock.now() >= self.valid_until() {
            self.lose(LostReason::Unrenewed);
            return Err(self.lost.get().cloned().unwrap_or(LostReason::Unrenewed));
        }
        Ok(())
    }

    pub(crate) fn state(&self, clock: &Clock) -> GuardState {
        if self.check(clock).is_err() {
            GuardState::Lost
        } else if self.standing.load(Ordering::Acquire) == JEOPARDY {
            GuardState::Jeopardy
        } else {
            GuardState::Safe
        }
    }

    /// Waits until the state is another than `seen`. Safe to drop and call again.
    pub(crate) async fn state_other_than(&self, seen: GuardState, clock: &Clock) -> GuardState {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Registered before looking, so that a change in between is not missed.
            changed.as_mut().enable();
            let state = self.state(clock);
            if state != seen {
                return state;
            }
            changed.await;
        }
    }

    /// Waits for the loss. Safe to drop and call again.
    pub(crate) async fn wait_lost(&self, clock: &Clock) -> LostReason {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Err(reason) = self.check(clock) {
                return reason;
            }
            changed.await;
        }
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::SeqCst)
    }

    pub(crate) fn set_id(&self, id: u64) {
        self.id.store(id, Ordering::SeqCst);
    }

    pub(crate) fn id(&self) -> u64 {
        self.id.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_lapse_found_at_use_stays_a_loss_although_the_renewal_was_on_its_way() {
        let (cell, clock) = (LeaseCell::default(), Clock::start());
        cell.renew(clock.now() + HOUR);
        assert_eq!(cell.check(&clock), Ok(()));
        let cell = LeaseCell::default();
        cell.renew(clock.now());
        assert_eq!(cell.check(&clock), Err(LostReason::Unrenewed));
        cell.renew(clock.now() + HOUR);
        assert_eq!(cell.check(&clock), Err(LostReason::Unrenewed));
        // The first reason stays.
        cell.lose(LostReason::Expired);
        assert_eq!(cell.lost(), Some(&LostReason::Unrenewed));
    }

    #[test]
    fn a_lock_that_was_given_back_is_no_news() {
        let (cell, clock) = (LeaseCell::default(), Clock::start());
        cell.renew(clock.now());
        cell.close();
        assert_eq!(cell.check(&clock), Ok(()));
    }

    #[tokio::test]
    async fn waiters_hear_of_jeopardy_and_of_the_loss() {
        let (cell, clock) = (Arc::new(LeaseCell::default()), Arc::new(Clock::start()));
        cell.renew(clock.now() + HOUR);
        let wait = |seen| {
            let (cell, clock) = (Arc::clone(&cell), Arc::clone(&clock));
            tokio::spawn(async move { cell.state_other_than(seen, &clock).await })
        };
        type Change = fn(&LeaseCell);
        let steps: [(GuardState, Change, GuardState); 3] = [
            (GuardState::Safe, |cell| cell.set_jeopardy(true), GuardState::Jeopardy),
            (GuardState::Jeopardy, |cell| cell.set_jeopardy(false), GuardState::Safe),
            (GuardState::Safe, |cell| cell.lose(LostReason::Expired), GuardState::Lost),
        ];
        for (seen, change, state) in steps {
            let waiting = wait(seen);
            // On this runtime of one thread it runs until it waits.
            tokio::task::yield_now().await;
            change(&cell);
            let heard = tokio::time::timeout(Duration::from_secs(10), waiting).await;
            assert_eq!(heard.expect("heard in time").expect("no panic"), state);
        }
        assert_eq!(cell.wait_lost(&clock).await, LostReason::Expired);
    }
}
