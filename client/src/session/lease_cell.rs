//! The knowledge that a guard and its session share of one acquisition: how long the lease surely
//! runs, and whether the lock is lost. The session writes, guards read; "lost" may be written by
//! both and is never unwritten. It reads no clock: whoever looks says what time it is.

use std::{
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{condition::Agreement, error::LostReason, request::AskMark};

/// Tasks that wait for news of a guard.
pub trait Watchers: Default {
    /// Its state may be another than it was.
    fn wake(&self);
}

/// Nobody waits: the state is looked at.
impl Watchers for () {
    fn wake(&self) {}
}

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

/// Shared by one acquisition's guard (or its acquire future before) and the session.
#[derive(Debug, Default)]
pub struct LeaseCell<W> {
    /// End of the lease on the client's clock, nanoseconds. 0: no lease yet.
    valid_until_ns: AtomicU64,
    /// SAFE or JEOPARDY; without meaning once `lost` is set.
    standing: AtomicU8,
    /// Set once, by whoever finds out first.
    lost: OnceLock<LostReason>,
    /// The rest of what is known of the hold.
    terms: Mutex<Terms>,
    /// Woken at every change of standing, by who asks for the lock, and at the loss.
    watchers: W,
    /// The acquire future was dropped: set before its note is put on the list of returns, so that
    /// a request still in the channel is never started.
    abandoned: AtomicBool,
    /// The guard has been given back: nothing is news any more to the signals that outlive it.
    closed: AtomicBool,
    /// The acquisition's id; 0 until the session has taken the request in.
    id: AtomicU64,
}

/// What is agreed about the hold, and who asks for it.
#[derive(Debug, Default)]
struct Terms {
    /// `None` until the guard is out.
    agreement: Option<Agreement>,
    /// Who asks, and until when on the client's clock the holder may go on.
    asked: Option<(AskMark, Duration)>,
}

impl<W: Watchers> LeaseCell<W> {
    /// What is agreed about the hold; `None` before the grant.
    pub fn agreement(&self) -> Option<Agreement> {
        self.terms().agreement
    }

    /// A waiter has asked for the lock: who, and how much is left of the time that the holder has.
    pub fn asked(&self, now: Duration) -> Option<AskMark> {
        let asked = self.terms().asked.clone();
        asked.map(|(mark, until)| AskMark { remaining: until.saturating_sub(now), ..mark })
    }

    pub(crate) fn agree(&self, agreement: Agreement) {
        self.terms().agreement = Some(agreement);
    }

    pub(crate) fn set_asked(&self, mark: Option<(AskMark, Duration)>) {
        self.terms().asked = mark;
        self.watchers.wake();
    }

    /// A panic cannot leave two plain values half changed.
    fn terms(&self) -> MutexGuard<'_, Terms> {
        self.terms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// End of the lease on the client's clock, as known from answers. In the past, or meaningless,
    /// once the lock is lost.
    pub fn valid_until(&self) -> Duration {
        Duration::from_nanos(self.valid_until_ns.load(Ordering::Acquire))
    }

    pub(crate) fn renew(&self, valid_until: Duration) {
        let valid_until_ns = u64::try_from(valid_until.as_nanos()).unwrap_or(u64::MAX);
        self.valid_until_ns.fetch_max(valid_until_ns, Ordering::AcqRel);
    }

    /// Whether that is news.
    pub(crate) fn set_jeopardy(&self, jeopardy: bool) -> bool {
        let standing = if jeopardy { JEOPARDY } else { SAFE };
        let is_news = self.standing.swap(standing, Ordering::AcqRel) != standing;
        if is_news {
            self.watchers.wake();
        }
        is_news
    }

    /// Loss is sticky: the first reason stays.
    pub(crate) fn lose(&self, reason: LostReason) {
        if self.lost.set(reason).is_ok() {
            self.watchers.wake();
        }
    }

    /// Why the lock is lost, if it is known to be. Does not look at the time: see
    /// [`check`](Self::check).
    pub fn lost(&self) -> Option<&LostReason> {
        self.lost.get()
    }

    /// Checks the lease against the clock now, not only against what timers have done so far; a
    /// lapsed lease is lost from here on even if its renewal is on the way.
    ///
    /// # Errors
    /// Why the lock is lost.
    pub fn check(&self, now: Duration) -> Result<(), LostReason> {
        if let Some(reason) = self.lost.get() {
            return Err(reason.clone());
        }
        if self.closed.load(Ordering::Acquire) {
            return Ok(());
        }
        if now >= self.valid_until() {
            self.lose(LostReason::Unrenewed);
            return Err(self.lost.get().cloned().unwrap_or(LostReason::Unrenewed));
        }
        Ok(())
    }

    /// How the guard stands.
    pub fn state(&self, now: Duration) -> GuardState {
        if self.check(now).is_err() {
            GuardState::Lost
        } else if self.standing.load(Ordering::Acquire) == JEOPARDY {
            GuardState::Jeopardy
        } else {
            GuardState::Safe
        }
    }

    /// The guard is given back, before the session is told: from here on there is no news.
    ///
    /// # Errors
    /// The lock had been lost before, also where nobody has noticed until now: what was done under it
    /// may have met another holder.
    pub fn give_back(&self, now: Duration) -> Result<(), LostReason> {
        let held = self.check(now);
        self.close();
        held
    }

    /// The guard is dropped, before the session is told: as [`give_back`](Self::give_back), and
    /// nobody asks whether it had been lost.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// The acquire future is dropped, before the session is told.
    pub fn abandon(&self) {
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

    #[cfg(feature = "edge")]
    pub(crate) fn watchers(&self) -> &W {
        &self.watchers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);
    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_lapse_found_at_use_stays_a_loss_although_the_renewal_was_on_its_way() {
        let cell = LeaseCell::<()>::default();
        cell.renew(NOW + HOUR);
        assert_eq!(cell.check(NOW), Ok(()));
        let cell = LeaseCell::<()>::default();
        cell.renew(NOW);
        assert_eq!(cell.check(NOW), Err(LostReason::Unrenewed));
        cell.renew(NOW + HOUR);
        assert_eq!(cell.check(NOW), Err(LostReason::Unrenewed));
        // The first reason stays.
        cell.lose(LostReason::Expired);
        assert_eq!(cell.lost(), Some(&LostReason::Unrenewed));
    }

    #[test]
    fn a_lock_that_was_given_back_is_no_news() {
        let cell = LeaseCell::<()>::default();
        cell.renew(NOW);
        assert_eq!(cell.give_back(NOW - Duration::from_nanos(1)), Ok(()));
        assert_eq!(cell.check(NOW), Ok(()));
        let cell = LeaseCell::<()>::default();
        cell.renew(NOW);
        cell.close();
        assert_eq!(cell.check(NOW), Ok(()));
    }

    #[test]
    fn a_guard_that_lapsed_before_it_is_given_back_was_lost() {
        let cell = LeaseCell::<()>::default();
        cell.renew(NOW);
        assert_eq!(cell.give_back(NOW), Err(LostReason::Unrenewed));
        assert_eq!(cell.state(NOW), GuardState::Lost);
    }
}
