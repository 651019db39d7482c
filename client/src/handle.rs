//! How handles (clients, guards, acquire futures) talk to the session task: a bounded channel for
//! new acquisitions and changes, and the list of returns for everything given back, which can neither fail nor
//! block.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{Notify, mpsc, oneshot};

use crate::{
    clock::Clock,
    error::{AcquireError, ChangeError, ReleaseError},
    events::Closed,
    grant::Grant,
    guard_cell::GuardCell,
    request::Request,
    session::{Change, Changed},
    state_file::StateFile,
};

/// Requests that may wait for the session task. It drains the channel whenever it runs, so this
/// bounds a burst, not the number of acquisitions.
pub(crate) const COMMANDS_MAX: usize = 1024;

/// One new acquisition.
#[derive(Debug)]
pub(crate) struct AcquireCommand {
    pub(crate) request: Arc<Request>,
    pub(crate) cell: Arc<GuardCell>,
    pub(crate) reply: oneshot::Sender<Result<Grant, AcquireError>>,
}

/// One change of a hold.
#[derive(Debug)]
pub(crate) struct ChangeCommand {
    pub(crate) cell: Arc<GuardCell>,
    pub(crate) change: Change,
    pub(crate) reply: oneshot::Sender<Result<Changed, ChangeError>>,
}

/// A wish of a handle.
#[derive(Debug)]
pub(crate) enum Command {
    Acquire(AcquireCommand),
    Change(ChangeCommand),
    Close { grace: Duration, reply: oneshot::Sender<Closed> },
}

/// A guard, or an acquire future, that its owner has given back.
#[derive(Debug)]
pub(crate) struct Returned {
    pub(crate) cell: Arc<GuardCell>,
    /// Somebody waits for the confirmation.
    pub(crate) reply: Option<oneshot::Sender<Result<(), ReleaseError>>>,
}

/// The part that all handles of one client share with its session task.
#[derive(Debug)]
pub(crate) struct SessionHandle {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) returns: Arc<Returns>,
    pub(crate) clock: Arc<Clock>,
    pub(crate) state: Option<Arc<StateFile>>,
}

/// Given-back acquisitions on their way to the session task.
///
/// A mutex and no channel, since dropping a guard must neither fail nor wait: each live guard or
/// acquire future puts at most one note here, which bounds the list by their number. The lock is
/// held for one push or one swap.
#[derive(Debug, Default)]
pub(crate) struct Returns {
    notes: Mutex<Vec<Returned>>,
    pub(crate) wake: Notify,
}

impl Returns {
    pub(crate) fn put(&self, note: Returned) {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        notes.push(note);
        let first = notes.len() == 1;
        drop(notes);
        // The task takes all notes at once: only the first needs to wake it.
        if first {
            self.wake.notify_one();
        }
    }

    /// Takes all notes; `into` is empty and lends its memory.
    pub(crate) fn take(&self, into: &mut Vec<Returned>) {
        assert!(into.is_empty(), "the notes taken before must have been handled");
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut *notes, into);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn notes_are_taken_all_at_once_and_wake_once() {
        let returns = Returns::default();
        let note = || Returned { cell: Arc::new(GuardCell::default()), reply: None };
        (0..3).for_each(|_| returns.put(note()));
        returns.wake.notified().await;
        let mut taken = Vec::new();
        returns.take(&mut taken);
        assert_eq!(taken.len(), 3);
        // The next one wakes again.
        returns.put(note());
        returns.wake.notified().await;
    }
}
