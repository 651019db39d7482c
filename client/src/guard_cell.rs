//! A guard's cell, with tasks that wait for its news.

use tokio::sync::Notify;

use crate::{
    clock::Clock,
    error::LostReason,
    request::AskMark,
    session::{GuardState, LeaseCell, Watchers},
};

impl Watchers for Notify {
    fn wake(&self) {
        self.notify_waiters();
    }
}

/// Shared by one acquisition's guard (or its acquire future before) and the session task.
pub(crate) type GuardCell = LeaseCell<Notify>;

impl GuardCell {
    /// Waits until the state is another than `seen`. Safe to drop and call again.
    pub(crate) async fn state_other_than(&self, seen: GuardState, clock: &Clock) -> GuardState {
        loop {
            let mut changed = std::pin::pin!(self.watchers().notified());
            // Registered before looking, so that a change in between is not missed.
            changed.as_mut().enable();
            let state = self.state(clock.now());
            if state != seen {
                return state;
            }
            changed.await;
        }
    }

    /// Waits until a waiter has asked for the lock. Safe to drop and call again.
    pub(crate) async fn wait_asked(&self, clock: &Clock) -> Result<AskMark, LostReason> {
        loop {
            let mut changed = std::pin::pin!(self.watchers().notified());
            changed.as_mut().enable();
            let now = clock.now();
            self.check(now)?;
            if let Some(mark) = self.asked(now) {
                return Ok(mark);
            }
            changed.await;
        }
    }

    /// Waits for the loss. Safe to drop and call again.
    pub(crate) async fn wait_lost(&self, clock: &Clock) -> LostReason {
        loop {
            let mut changed = std::pin::pin!(self.watchers().notified());
            changed.as_mut().enable();
            if let Err(reason) = self.check(clock.now()) {
                return reason;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn waiters_hear_of_jeopardy_and_of_the_loss() {
        let (cell, clock) = (Arc::new(GuardCell::default()), Arc::new(Clock::start()));
        cell.renew(clock.now() + HOUR);
        let wait = |seen| {
            let (cell, clock) = (Arc::clone(&cell), Arc::clone(&clock));
            tokio::spawn(async move { cell.state_other_than(seen, &clock).await })
        };
        type Change = fn(&GuardCell);
        let steps: [(GuardState, Change, GuardState); 3] = [
            (GuardState::Safe, |cell| _ = cell.set_jeopardy(true), GuardState::Jeopardy),
            (GuardState::Jeopardy, |cell| _ = cell.set_jeopardy(false), GuardState::Safe),
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
