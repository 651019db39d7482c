//! Keeps the client's state file in step with one acquisition.

use std::sync::Arc;

use crate::{
    client::Client, cluster::Standing, error::AcquireError, guard::Guard, request::Request,
    state_file::StateFile,
};

/// An acquisition in the state file. Dropped before its outcome is known, it leaves the wish there, so
/// that the next life looks.
pub(crate) struct Recording {
    client: Client,
    file: Arc<StateFile>,
    number: u64,
}

impl Recording {
    /// A hold that is to stay is in the file before it is asked for: a crash between its claim and a
    /// later note would leave a lock that nobody knows to take back.
    pub(crate) async fn begin(
        client: &Client,
        request: &Request,
    ) -> Result<Option<Self>, AcquireError> {
        let Some(file) = client.inner.state.as_ref() else { return Ok(None) };
        let number = file.intend(request);
        let recording = Self { client: client.clone(), file: Arc::clone(file), number };
        // The first guard of a hold may be given back before one that has joined it.
        let joins = |token| file.stays(&request.name, token);
        if request.condition.holds()
            || request.reclaim.is_some()
            || request.reenter.is_some_and(joins)
        {
            file.written().await?;
        }
        Ok(Some(recording))
    }

    /// It is granted. If that cannot be written the guard must not be used.
    pub(crate) async fn granted(self, guard: &Guard) -> Result<(), AcquireError> {
        if let Standing::Belongs(cluster) = self.client.inner.group.clusters.standing() {
            self.file.belongs_to(cluster);
        }
        self.file.granted(self.number, guard.request(), guard.grant());
        if guard.grant().agreement.condition.holds() {
            self.file.written().await?;
        } else {
            self.file.write_soon();
        }
        Ok(())
    }

    /// It was not granted, for certain or not.
    pub(crate) fn failed(self, error: &AcquireError) {
        match error {
            AcquireError::Held { .. }
            | AcquireError::WaitTimedOut { .. }
            | AcquireError::HoldLost { .. }
            | AcquireError::Invalid { .. }
            | AcquireError::ModeMismatch { .. }
            | AcquireError::Forbidden { .. }
            | AcquireError::LimitReached { .. }
            | AcquireError::Unavailable { .. } => {
                self.file.remove(self.number);
                self.file.write_soon();
            }
            AcquireError::Indeterminate { .. }
            | AcquireError::Lost { .. }
            | AcquireError::Failed { .. }
            | AcquireError::OtherCluster(_)
            | AcquireError::Closed
            | AcquireError::SessionEnded => {}
        }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.file.leave(self.number);
    }
}
