//! The builder of one acquisition, and the future that waits for its grant.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use sharklock_proto::trace::Spans;
use tokio::sync::oneshot;

use crate::{
    client::Client,
    condition::{Condition, LeaseRule},
    error::AcquireError,
    guard::Guard,
    guard_cell::GuardCell,
    handle::{AcquireCommand, Command, Returned, SessionHandle},
    ids::FencingToken,
    recording::Recording,
    request::{Holder, LockMode, Request, Wait},
    tracing_calls::TracedAcquire,
};

/// One acquisition in the making: see [`Client::lock`]. Nothing is sent before
/// [`acquire`](LockBuilder::acquire) or [`try_acquire`](LockBuilder::try_acquire) is awaited.
#[must_use = "nothing is sent before `acquire` or `try_acquire` is awaited"]
#[derive(Clone, Debug)]
pub struct LockBuilder {
    client: Client,
    request: Request,
    spans: Spans,
}

impl LockBuilder {
    pub(crate) fn new(client: Client, name: &str) -> Self {
        let request = Request {
            name: Arc::from(name),
            mode: LockMode::Exclusive,
            ttl: client.ttl(),
            wait: Wait::Unbounded,
            reenter: None,
            reclaim: None,
            condition: Condition::default(),
            ask: false,
            owner: client.identity(),
            attributes: BTreeMap::new(),
            traceparent: String::new(),
        };
        Self { client, request, spans: Spans::default() }
    }

    /// Takes a hold back that looks like this, or like nothing where it was not seen.
    pub(crate) fn reclaiming(
        client: Client,
        name: &str,
        token: FencingToken,
        seen: Option<(Holder, LockMode)>,
    ) -> Self {
        let mut builder = Self::new(client, name);
        builder.request.reclaim = Some(token);
        if let Some((holder, mode)) = seen {
            builder.request.mode = mode;
            builder.request.ttl = holder.ttl;
            builder.request.owner = Arc::from(holder.owner);
            builder.request.attributes = holder.attributes;
        }
        builder
    }

    /// The length of the lease: how long the lock stays held after its holder was last heard of.
    /// 2 s to 10 min; the client's default (10 s) unless set. Below about 5 s a lease does not
    /// survive the failure of a server.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.request.ttl = ttl;
        self
    }

    /// Queue at most this long, one hour at the most. Without it the acquisition waits until it
    /// is granted.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.request.wait = if wait.is_zero() { Wait::Try } else { Wait::AtMost(wait) };
        self
    }

    /// Do not queue: [`AcquireError::Held`] when it cannot be granted at once.
    pub fn try_once(mut self) -> Self {
        self.request.wait = Wait::Try;
        self
    }

    /// Share the lock with others that want it shared.
    pub fn shared(mut self) -> Self {
        self.request.mode = LockMode::Shared;
        self
    }

    /// Take `n` of the `of` units of the lock. All live users of a lock must agree about `of`.
    pub fn permits(mut self, n: u32, of: u32) -> Self {
        self.request.mode = LockMode::Permits { n, of };
        self
    }

    /// The owner's name for people; the client's identity unless set. Up to 256 bytes.
    pub fn owner(mut self, owner: &str) -> Self {
        self.request.owner = Arc::from(owner);
        self
    }

    /// Shown to whoever looks at the lock. Keys and values together up to 4,096 bytes.
    pub fn attribute(mut self, key: &str, value: &str) -> Self {
        self.request.attributes.insert(key.to_owned(), value.to_owned());
        self
    }

    /// The hold stays when its lease ends, as after a crash of this program: nobody else gets the lock
    /// until the session takes it back or releases it, or an operator ends it. The guard is handed out
    /// once the cluster has confirmed that. Of `hold` and [`after_missed`](Self::after_missed) the later
    /// one counts.
    pub fn hold(mut self) -> Self {
        self.request.condition.lease = LeaseRule::Hold;
        self
    }

    /// The hold ends when `missed` (3 to 100) keepalives in a row have been missed, which are sent
    /// every `interval`: the lease is `missed` times that.
    pub fn after_missed(mut self, missed: u32, interval: Duration) -> Self {
        self.request.condition.lease = LeaseRule::AfterMissed { missed, interval };
        self.request.ttl = interval.saturating_mul(missed);
        self
    }

    /// After an end that this client did not ask for the place stays taken for so long, at most 1 h.
    pub fn lock_delay(mut self, delay: Duration) -> Self {
        self.request.condition.lock_delay = Some(delay);
        self
    }

    /// So long after the grant, at most 30 days, the hold is ended with notice. Not with
    /// [`hold`](Self::hold).
    pub fn max_hold(mut self, max: Duration) -> Self {
        self.request.condition.max_hold = Some(max);
        self
    }

    /// Who waits may ask for the lock; so long after that, at most 1 h, the hold is ended with notice
    /// if somebody still waits. Not with [`hold`](Self::hold).
    pub fn ask_grace(mut self, grace: Duration) -> Self {
        self.request.condition.ask_grace = Some(grace);
        self
    }

    /// Ask whoever holds the lock for it while this waits. It moves those whose condition allows it
    /// ([`ask_grace`](Self::ask_grace)); others do not notice.
    pub fn ask(mut self) -> Self {
        self.request.ask = true;
        self
    }

    /// The trace of which the acquisition is a part, as the W3C's header `traceparent` has it: gateway and
    /// store tell their spans below it. What is no `traceparent` counts for nothing.
    pub fn traceparent(mut self, traceparent: &str) -> Self {
        traceparent.clone_into(&mut self.request.traceparent);
        self
    }

    /// Tell the span of this acquisition there. Without a [`traceparent`](Self::traceparent) it begins a
    /// trace of its own.
    pub fn spans(mut self, spans: &Spans) -> Self {
        self.spans = spans.clone();
        self
    }

    /// Join the live hold of `guard` instead of queueing behind it: same token, same lease, and
    /// the lock is free again when all its guards are released. Takes over the guard's mode,
    /// owner and ttl, which must be the same.
    pub fn reenter(mut self, guard: &Guard) -> Self {
        let joined = guard.request();
        self.request.mode = joined.mode;
        self.request.owner = Arc::clone(&joined.owner);
        self.request.ttl = guard.ttl();
        self.request.reenter = Some(guard.token());
        self
    }

    /// Acquires the lock. Dropping the future withdraws the acquisition; a grant that is already
    /// on its way is released.
    ///
    /// # Errors
    /// See [`AcquireError`]: refused, out of reach, not known, lost.
    pub async fn acquire(mut self) -> Result<Guard, AcquireError> {
        self.request.check()?;
        let traced = TracedAcquire::begin(&self.spans, &mut self.request.traceparent);
        let acquired = self.acquire_recorded().await;
        if let Some(traced) = traced {
            traced.ended(acquired.as_ref().err());
        }
        acquired
    }

    async fn acquire_recorded(self) -> Result<Guard, AcquireError> {
        let recording = Recording::begin(&self.client, &self.request).await?;
        match self.acquire_now().await {
            Ok(guard) => {
                if let Some(recording) = recording {
                    recording.granted(&guard).await?;
                }
                Ok(guard)
            }
            Err(error) => {
                if let Some(recording) = recording {
                    recording.failed(&error);
                }
                Err(error)
            }
        }
    }

    async fn acquire_now(self) -> Result<Guard, AcquireError> {
        let session = self.client.session();
        let request = Arc::new(self.request);
        let cell = Arc::new(GuardCell::default());
        let (reply, granted) = oneshot::channel();
        let command =
            AcquireCommand { request: Arc::clone(&request), cell: Arc::clone(&cell), reply };
        session
            .commands
            .send(Command::Acquire(command))
            .await
            .map_err(|_| AcquireError::SessionEnded)?;
        let mut pending = Pending { cell, session, done: false };
        let grant = granted.await.map_err(|_| AcquireError::SessionEnded);
        // From here on the guard gives the hold back, or there is nothing to give back.
        pending.done = true;
        let (cell, session) = (Arc::clone(&pending.cell), Arc::clone(&pending.session));
        Ok(Guard::new(request, grant??, cell, session))
    }

    /// Acquires the lock if it is free now; `None` if it is held, or others queue for it.
    ///
    /// # Errors
    /// As [`acquire`](LockBuilder::acquire), without [`AcquireError::Held`].
    pub async fn try_acquire(self) -> Result<Option<Guard>, AcquireError> {
        match self.try_once().acquire().await {
            Ok(guard) => Ok(Some(guard)),
            Err(AcquireError::Held { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Withdraws an acquisition whose future is dropped before it has ended.
struct Pending {
    cell: Arc<GuardCell>,
    session: Arc<SessionHandle>,
    done: bool,
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.done {
            self.cell.abandon();
            self.session.returns.put(Returned { cell: Arc::clone(&self.cell), reply: None });
        }
    }
}
