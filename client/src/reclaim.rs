//! Taking holds of older lives of a session back.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{sync::Semaphore, task::JoinSet};

use crate::{
    client::Client,
    error::{AcquireError, ReclaimError},
    guard::Guard,
    ids::FencingToken,
    lock::LockBuilder,
    request::{HeldMode, Holder, LockInfo, LockMode},
    state::Recorded,
};

/// Locks that are looked at side by side where all holds are taken back.
const LOOKS_AT_A_TIME: usize = 64;

/// Holds that the file names, or that were found for an entry without a token: nobody else is to take
/// these back.
type Named = Mutex<BTreeSet<(Arc<str>, FencingToken)>>;

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

/// What became of one hold of an older life.
#[derive(Debug)]
pub struct Reclaimed {
    /// The lock.
    pub name: Arc<str>,
    /// The token that it had.
    pub token: FencingToken,
    /// The guard, under a new token; or why there is none, with who has the lock now.
    pub result: Result<Guard, ReclaimError>,
}

/// What the state file says that an older life of this client held, or was about to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreclaimed {
    /// The lock.
    pub name: Arc<str>,
    /// How it was held.
    pub mode: LockMode,
    /// Under which token. `None`: that life ended while it was acquiring, and may have got it; no guard
    /// was handed out.
    pub token: Option<FencingToken>,
}

impl Client {
    /// What [`reclaim_all`](Self::reclaim_all) would look for. Nothing where there is no state file.
    pub fn unreclaimed(&self) -> Vec<Unreclaimed> {
        let holds = self.inner.state.iter().map(|file| file.of_older_lives());
        let holds = holds.flat_map(one_of_each_hold);
        let unreclaimed = holds.map(|(_, hold)| Unreclaimed {
            name: hold.name,
            mode: hold.mode,
            token: hold.grant.map(|(token, _)| token),
        });
        unreclaimed.collect()
    }

    /// Takes everything back that the state file ([`ClientBuilder::state_file`]) says older lives of
    /// this client held, and that is still theirs, all at once. What is no more leaves the file; what
    /// could not be found out stays for the next call. Nothing where there is no state file.
    ///
    /// [`ClientBuilder::state_file`]: crate::ClientBuilder::state_file
    pub async fn reclaim_all(&self) -> Vec<Reclaimed> {
        let Some(file) = self.inner.state.clone() else { return Vec::new() };
        let holds = one_of_each_hold(file.of_older_lives());
        let named: Arc<Named> = Arc::new(Mutex::new(holds.iter().filter_map(named).collect()));
        let looks = Arc::new(Semaphore::new(LOOKS_AT_A_TIME));
        let mut tasks = JoinSet::new();
        for (number, hold) in holds {
            let (client, named, looks) = (self.clone(), Arc::clone(&named), Arc::clone(&looks));
            tasks.spawn(async move { client.take_back(number, hold, &named, &looks).await });
        }
        let mut reclaimed: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
        reclaimed.sort_by(|one, other| (&one.name, one.token).cmp(&(&other.name, other.token)));
        if let Err(error) = file.written().await {
            tracing::error!(why = %error, "the state file is older than what is held");
        }
        reclaimed
    }

    /// Takes one hold back; `None` where there was none.
    async fn take_back(
        &self,
        number: u64,
        hold: Recorded,
        named: &Named,
        looks: &Semaphore,
    ) -> Option<Reclaimed> {
        let Recorded { name, grant, .. } = hold;
        let known = grant.map(|(token, _)| token);
        let place = looks.acquire().await.ok()?;
        let seen = self.get_lock(&name).await;
        drop(place);
        let lock = match seen {
            Ok(seen) => seen.lock,
            Err(error) => {
                // Without a token nobody knows that there is anything: the next call looks again.
                let result = Err(error.into());
                return known.map(|token| Reclaimed { name, token, result });
            }
        };
        let found = lock.as_ref().and_then(|lock| self.left_by_older(lock, known, named));
        // One that a long list of sharers does not show may be there yet.
        let Some(token) = found.or(known) else {
            self.inner.state.as_ref()?.remove(number);
            return None;
        };
        let result = self.reclaim(&name, token).await;
        let is_over = matches!(result, Ok(_) | Err(ReclaimError::Gone { .. }));
        if let Some(file) = self.inner.state.as_ref().filter(|_| is_over) {
            file.remove_older(number);
        }
        Some(Reclaimed { name, token, result })
    }

    /// The token of a hold of an older life: the one that is known; or, where a crash came before it
    /// was written, one that no other entry of the file names. That is named from here on.
    fn left_by_older(
        &self,
        lock: &LockInfo,
        known: Option<FencingToken>,
        named: &Named,
    ) -> Option<FencingToken> {
        let is_ours = |holder: &&Holder| {
            holder.session == self.session_handle() && holder.instance < self.inner.id.instance()
        };
        let ours: Vec<_> = lock.holders.iter().filter(is_ours).filter_map(|it| it.token).collect();
        if let Some(known) = known.filter(|token| ours.contains(token)) {
            return Some(known);
        }
        // A panic cannot leave it half changed.
        let mut named = named.lock().unwrap_or_else(PoisonError::into_inner);
        let name: Arc<str> = Arc::from(&*lock.name);
        ours.into_iter().find(|token| named.insert((Arc::clone(&name), *token)))
    }
}

fn named((_, hold): &(u64, Recorded)) -> Option<(Arc<str>, FencingToken)> {
    hold.token().map(|token| (Arc::clone(&hold.name), token))
}

/// A hold with several guards is taken back once.
fn one_of_each_hold(mut holds: Vec<(u64, Recorded)>) -> Vec<(u64, Recorded)> {
    let mut seen = BTreeSet::new();
    holds.retain(|hold| named(hold).is_none_or(|key| seen.insert(key)));
    holds
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
