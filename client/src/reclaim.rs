//! Taking holds of older lives of a session back.

use std::sync::Arc;

use crate::{
    client::Client,
    error::{AcquireError, ReclaimError},
    guard::Guard,
    ids::FencingToken,
    lock::LockBuilder,
    request::{HeldMode, Holder, LockInfo, LockMode},
};

impl Client {
    /// Takes a hold of an older life of this session back ([`ClientBuilder::session_secret`]), or an
    /// orphan of this one. The guard has a new token; mode, condition and lease are the hold's. At once
    /// if its lease has ended, or when the older life lets go; else the older life is given notice, and
    /// this waits until its lease would have ended. Dropping the future withdraws the reclaim.
    ///
    /// [`ClientBuilder::session_secret`]: crate::ClientBuilder::session_secret
    ///
    /// # Errors
    /// See [`ReclaimError`]; [`ReclaimError::Gone`] says who has the lock now.
    pub async fn reclaim(&self, name: &str, token: FencingToken) -> Result<Guard, ReclaimError> {
        let seen = self.get_lock(name).await?.lock;
        let seen = seen.as_ref().and_then(|lock| seen_as(lock, self.session_handle(), token));
        let reclaiming = LockBuilder::reclaiming(self.clone(), name, token, seen);
        match reclaiming.acquire().await {
            Ok(guard) => Ok(guard),
            Err(AcquireError::HoldLost { .. }) => {
                // Only for the words of the error.
                let lock = self.get_lock(name).await.ok().and_then(|seen| seen.lock);
                let holders = lock.map(|lock| lock.holders).unwrap_or_default();
                Err(ReclaimError::Gone { name: Arc::from(name), token, holders })
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// The session's hold with this token, and its mode.
fn seen_as(lock: &LockInfo, session: &str, token: FencingToken) -> Option<(Holder, LockMode)> {
    let is_it = |holder: &&Holder| holder.session == session && holder.token == Some(token);
    let holder = lock.holders.iter().find(is_it)?.clone();
    let mode = mode_of(&holder, lock);
    Some((holder, mode))
}

/// How it is held, in the words of who wants it so.
pub(crate) fn mode_of(holder: &Holder, lock: &LockInfo) -> LockMode {
    match (holder.mode, lock.permits_max) {
        (HeldMode::Exclusive, _) => LockMode::Exclusive,
        (HeldMode::Shared, _) => LockMode::Shared,
        (HeldMode::Permits(n), of) => LockMode::Permits { n, of: of.unwrap_or(n) },
    }
}
