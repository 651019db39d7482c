//! A held lock in the hands of its user: the token, how long it surely holds, the news of its loss,
//! and its release. A guard decides nothing; the session task renews it.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use crate::{
    clock::Clock,
    condition::{Agreement, Condition},
    error::{ChangeError, DowngradeError, LockLost, LostReason, ReleaseError},
    grant::Grant,
    guard_cell::GuardCell,
    handle::{ChangeCommand, Command, Returned, SessionHandle},
    ids::{AcquisitionId, FencingToken, Position},
    request::{AskMark, LockMode, Request, check_attributes},
    session::{Change, Changed, GuardState},
};

/// A held lock. While it lives it is renewed in the background; dropping it releases it.
///
/// Dropping only leaves a note for the session task: it never blocks, and nobody learns whether the
/// release arrived. [`release`](Guard::release) confirms. A process that ends right after the drop
/// may end before the note is sent; the lock then frees itself at the end of its lease.
///
/// A guard says what its client can know. A process that is paused between the check and the write
/// can know nothing: send the [`token`](Guard::token) with the write and let the resource refuse
/// tokens smaller than the largest it has seen.
#[must_use = "dropping a guard releases the lock"]
#[derive(Debug)]
pub struct Guard {
    request: Arc<Request>,
    grant: Grant,
    cell: Arc<GuardCell>,
    session: Arc<SessionHandle>,
    /// Its note is on the list of returns already.
    returned: bool,
}

impl Guard {
    pub(crate) fn new(
        request: Arc<Request>,
        grant: Grant,
        cell: Arc<GuardCell>,
        session: Arc<SessionHandle>,
    ) -> Self {
        Self { request, grant, cell, session, returned: false }
    }

    /// The fencing token: larger than every earlier token of this name. Give it to the resource.
    pub fn token(&self) -> FencingToken {
        self.grant.token
    }

    /// The number a resource compares and raises. For an exclusive hold the token; for sharers the
    /// token of the first of them since the lock was last exclusive or free, so that they do not
    /// fence each other (D11).
    pub fn fence_floor(&self) -> FencingToken {
        self.grant.fence_floor
    }

    /// The lock.
    pub fn name(&self) -> &str {
        &self.request.name
    }

    /// Names the acquisition within the client's session.
    pub fn acquisition(&self) -> AcquisitionId {
        self.grant.id
    }

    /// The place in its range's log at which the grant was seen.
    pub fn position(&self) -> Position {
        self.grant.position
    }

    /// The length of the lease.
    pub fn ttl(&self) -> Duration {
        self.agreement().ttl
    }

    /// What is agreed about the hold: its condition, how often that was changed, whether it stays, and
    /// its lease.
    pub fn agreement(&self) -> Agreement {
        self.cell.agreement().unwrap_or(self.grant.agreement)
    }

    /// Who waits and has asked for the lock, if anybody has, and how long this holder may go on. Only
    /// a hold whose condition has `ask_grace` is ever asked for. The guard knows of it within one
    /// keepalive.
    pub fn asked(&self) -> Option<AskMark> {
        self.cell.asked(self.session.clock.now())
    }

    /// Waits until somebody has asked for the lock. Dropping the future is safe.
    ///
    /// # Errors
    /// The lock was lost before, for this reason.
    pub async fn wait_asked(&self) -> Result<AskMark, LostReason> {
        self.cell.wait_asked(&self.session.clock).await
    }

    /// Agrees anew about what may end the hold, for all its guards. `ttl` is the lease from here on,
    /// which may not be shorter than before. A hold that is to stay when its lease ends
    /// ([`LeaseRule::Hold`](crate::LeaseRule::Hold)) stays from the moment at which this returns.
    /// Dropping the future does not take the change back.
    ///
    /// # Errors
    /// See [`ChangeError`]; [`ChangeError::Moved`] when another change came before, with what holds.
    pub async fn set_condition(
        &self,
        condition: Condition,
        ttl: Duration,
    ) -> Result<Agreement, ChangeError> {
        condition.check(ttl).map_err(ChangeError::invalid)?;
        if let Some(file) = self.session.state.as_ref().filter(|_| condition.holds()) {
            // In the file before it is agreed, as with an acquisition.
            file.agree(self.grant.id, condition);
            file.written().await.map_err(|error| ChangeError::Refused {
                name: Arc::clone(&self.request.name),
                reason: "STATE_FILE".to_owned(),
                message: error.to_string(),
            })?;
        }
        match self.change(Change::SetCondition { condition, ttl }).await? {
            Changed::Agreed(agreement) => {
                if let Some(file) = &self.session.state {
                    file.agree(self.grant.id, condition);
                    file.write_soon();
                }
                Ok(agreement)
            }
            other => unreachable!("a change of the condition is not answered with {other:?}"),
        }
    }

    /// Shows these attributes, instead of those from before, to whoever looks at the lock. Keys and
    /// values together up to 4,096 bytes. Dropping the future does not take the change back.
    ///
    /// # Errors
    /// See [`ChangeError`]; [`ChangeError::Overtaken`] when a later change came first.
    pub async fn set_attributes(
        &self,
        attributes: BTreeMap<String, String>,
    ) -> Result<(), ChangeError> {
        check_attributes(&attributes).map_err(ChangeError::invalid)?;
        self.change(Change::SetAttributes { attributes }).await.map(|_done| ())
    }

    /// Turns the exclusive hold into a shared one without letting go of it: others who want it shared
    /// get in, nobody who wants it alone does. The guard that comes back has a new token and the same
    /// lease. Dropping the future releases the lock.
    ///
    /// # Errors
    /// [`DowngradeError::Kept`] gives the guard back as it was, [`DowngradeError::Lost`] says that the
    /// lock was lost meanwhile.
    pub async fn downgrade(mut self) -> Result<Self, DowngradeError> {
        if self.request.mode != LockMode::Exclusive {
            let error = ChangeError::Invalid {
                field: Some("mode".to_owned()),
                reason: "BAD_MODE".to_owned(),
                message: "only an exclusive hold can be downgraded".to_owned(),
            };
            return Err(DowngradeError::Kept { guard: Box::new(self), error });
        }
        match self.change(Change::Downgrade).await {
            Ok(Changed::Downgraded { token, fence_floor, position }) => {
                self.grant = Grant { token, fence_floor, position, ..self.grant };
                Arc::make_mut(&mut self.request).mode = LockMode::Shared;
                if let Some(file) = &self.session.state {
                    // A crash before it is written costs nothing: the next life looks at the lock.
                    file.downgraded(self.grant.id, token);
                    file.write_soon();
                }
                Ok(self)
            }
            Ok(other) => unreachable!("a downgrade is not answered with {other:?}"),
            Err(ChangeError::Lost(lost)) => Err(lost.into()),
            Err(error) => Err(DowngradeError::Kept { guard: Box::new(self), error }),
        }
    }

    async fn change(&self, change: Change) -> Result<Changed, ChangeError> {
        let (reply, changed) = oneshot::channel();
        let command = ChangeCommand { cell: Arc::clone(&self.cell), change, reply };
        let ended = || ChangeError::from(self.lock_lost(self.why_ended()));
        self.session.commands.send(Command::Change(command)).await.map_err(|_| ended())?;
        changed.await.map_err(|_| ended())?
    }

    /// The session does not answer any more.
    fn why_ended(&self) -> LostReason {
        self.cell.lost().cloned().unwrap_or(LostReason::SessionEnded)
    }

    /// Until when the lock is surely held if nothing is renewed any more, counted from the sending
    /// of the last answered renewal. In the past once the lock is lost.
    ///
    /// `Instant` stands still while the machine is suspended; use [`is_valid`](Guard::is_valid)
    /// before acting after a long pause.
    pub fn valid_until(&self) -> Instant {
        // Read before the client's clock: the result can only be too early.
        let now = instant_now();
        let remaining = self.remaining();
        if remaining.is_zero() { now } else { now + remaining }
    }

    /// How long the lock is surely held if nothing is renewed any more. Zero once it is lost.
    pub fn remaining(&self) -> Duration {
        let now = self.session.clock.now();
        if self.cell.lost().is_some() {
            return Duration::ZERO;
        }
        self.cell.valid_until().saturating_sub(now)
    }

    /// Whether the lock is held now, checked against the clock and not only against events that
    /// have been noticed. False stays false.
    pub fn is_valid(&self) -> bool {
        self.cell.check(self.session.clock.now()).is_ok()
    }

    /// How the guard stands now.
    pub fn state(&self) -> GuardState {
        self.cell.state(self.session.clock.now())
    }

    /// Waits until the state is another than `seen` and returns it. Dropping the future is safe.
    pub async fn state_other_than(&self, seen: GuardState) -> GuardState {
        self.cell.state_other_than(seen, &self.session.clock).await
    }

    /// Waits for the loss of the lock. Dropping the future is safe.
    pub async fn lost(&self) -> LostReason {
        self.cell.wait_lost(&self.session.clock).await
    }

    /// The same news for others than the guard's owner: cheap to clone, outlives the guard. After
    /// the release it never fires.
    pub fn lost_signal(&self) -> LostSignal {
        LostSignal { cell: Arc::clone(&self.cell), clock: Arc::clone(&self.session.clock) }
    }

    /// Runs `work` while the lock is held, and drops it, at its next await, when the lock is lost.
    ///
    /// # Errors
    /// [`LockLost`] when the lock was lost before `work` had ended. The effects of `work` so far stay
    /// done; the resource's check of the token is what keeps a late write out.
    pub async fn run<F: Future>(&self, work: F) -> Result<F::Output, LockLost> {
        let mut work = pin!(work);
        let mut lost = pin!(self.lost());
        let done = std::future::poll_fn(|cx| {
            // The loss is looked at first, and again when the work says that it is done.
            if let std::task::Poll::Ready(reason) = lost.as_mut().poll(cx) {
                return std::task::Poll::Ready(Err(reason));
            }
            self.cell.check(self.session.clock.now())?;
            work.as_mut().poll(cx).map(Ok)
        })
        .await;
        done.and_then(|output| self.cell.check(self.session.clock.now()).map(|()| output))
            .map_err(|reason| self.lock_lost(reason))
    }

    /// Releases the lock and waits for the confirmation. Dropping the future does not take the
    /// release back.
    ///
    /// # Errors
    /// [`ReleaseError::Lost`] when the lock had been lost before: what was done under it may have
    /// met another holder. [`ReleaseError::Unconfirmed`] when no answer came while the lease ran.
    pub async fn release(mut self) -> Result<(), ReleaseError> {
        // A lease that has lapsed by now counts as lost even if its renewal is on the way.
        let held = match self.cell.give_back(self.session.clock.now()) {
            // The client is being closed, and keeps the lock until now.
            Err(LostReason::Closed) => Ok(()),
            held => held,
        };
        let (reply, confirmed) = oneshot::channel();
        self.give_back(Some(reply));
        held.map_err(|reason| self.lock_lost(reason))?;
        match confirmed.await {
            Ok(result) => result,
            Err(_) => Err(self.lock_lost(self.why_ended()).into()),
        }
    }

    pub(crate) fn grant(&self) -> &Grant {
        &self.grant
    }

    pub(crate) fn request(&self) -> &Request {
        &self.request
    }

    fn lock_lost(&self, reason: LostReason) -> LockLost {
        LockLost { name: Arc::clone(&self.request.name), token: self.grant.token, reason }
    }

    fn give_back(&mut self, reply: Option<oneshot::Sender<Result<(), ReleaseError>>>) {
        self.returned = true;
        self.session.returns.put(Returned { cell: Arc::clone(&self.cell), reply });
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.returned {
            self.cell.close();
            self.give_back(None);
        }
    }
}

/// Tells of the loss of one guard's lock. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LostSignal {
    cell: Arc<GuardCell>,
    clock: Arc<Clock>,
}

impl LostSignal {
    /// Waits for the loss. Dropping the future is safe.
    pub async fn wait(&self) -> LostReason {
        self.cell.wait_lost(&self.clock).await
    }

    /// Why the lock is lost, if it is.
    pub fn reason(&self) -> Option<LostReason> {
        self.cell.check(self.clock.now()).err()
    }
}

#[expect(clippy::disallowed_methods, reason = "the edge translates its clock for its callers")]
fn instant_now() -> Instant {
    Instant::now()
}
