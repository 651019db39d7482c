//! The news of all guards of a client, as a stream, and the client's orderly end.

use std::{sync::OnceLock, time::Duration};

use tokio::sync::{broadcast, oneshot};

use crate::{
    client::Client,
    events::{Closed, GuardEvent},
    handle::Command,
};

/// News kept for a reader that is slow. One that is slower is told how many it has missed.
const EVENTS_KEPT: usize = 1024;

/// Where the news of a client's guards go: nowhere before somebody has asked for them, since the room
/// for those that are kept is some 150 KB, and a process may have a hundred thousand clients.
#[derive(Debug, Default)]
pub(crate) struct Events(OnceLock<broadcast::Sender<GuardEvent>>);

impl Events {
    fn subscribe(&self) -> broadcast::Receiver<GuardEvent> {
        self.0.get_or_init(|| broadcast::Sender::new(EVENTS_KEPT)).subscribe()
    }

    pub(crate) fn tell(&self, event: GuardEvent) {
        if let Some(events) = self.0.get() {
            // All readers may be gone.
            let _unheard = events.send(event);
        }
    }
}

/// A reader of the news of all guards of a client: see [`Client::events`].
#[derive(Debug)]
pub struct GuardEvents {
    events: broadcast::Receiver<GuardEvent>,
}

/// A reader was slow: so many events were dropped before the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{count} events were missed: look at each guard's state")]
pub struct MissedEvents {
    /// How many.
    pub count: u64,
}

impl GuardEvents {
    /// Waits for the next event; `None` when the client, its clones and its guards are gone. Dropping
    /// the future loses nothing.
    ///
    /// # Errors
    /// [`MissedEvents`] where events were dropped since this reader was too slow. Later ones follow.
    pub async fn next(&mut self) -> Option<Result<GuardEvent, MissedEvents>> {
        match self.events.recv().await {
            Ok(event) => Some(Ok(event)),
            Err(broadcast::error::RecvError::Lagged(count)) => Some(Err(MissedEvents { count })),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

impl Client {
    /// What happens to all guards of this client and its clones from now on: handed out and safe, in
    /// jeopardy, lost, asked for, released. The last 1,024 events are kept for a slow reader.
    pub fn events(&self) -> GuardEvents {
        GuardEvents { events: self.inner.events.subscribe() }
    }

    /// Ends everything that this client and its clones hold or wait for, in the order that keeps the
    /// promise: first every guard is lost ([`LostReason::Closed`](crate::LostReason::Closed)), so that
    /// [`Guard::run`](crate::Guard::run) ends and users stop, and acquisitions end with
    /// [`AcquireError::Closed`](crate::AcquireError::Closed); when all guards are dropped or released,
    /// or `grace` is over, all locks are released. Until then they are kept.
    ///
    /// It returns when the cluster has confirmed each end, or the leases are over. A guard that is open
    /// after `grace` is released under its user: choose it long enough for users to stop. Nothing can
    /// be acquired afterwards. Dropping the future stops nothing.
    pub async fn close(&self, grace: Duration) -> Closed {
        let (reply, closed) = oneshot::channel();
        let command = Command::Close { grace, reply };
        if self.session().commands.send(command).await.is_err() {
            // The runtime of the session has ended, and with it everything that was held.
            return Closed::default();
        }
        let closed = closed.await.unwrap_or_default();
        if let Some(file) = &self.inner.state
            && let Err(error) = file.written().await
        {
            tracing::error!(why = %error, "the state file is older than what was released");
        }
        closed
    }
}
