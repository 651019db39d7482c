//! Looks at a lock that wait for its next state, and the question to its holders.

use std::time::Duration;

use sharklock_proto::{
    WATCH_WAITS_MAX,
    v1::{self, lock_service_client::LockServiceClient},
};

use crate::{
    client::Client,
    error::CallError,
    ids::Position,
    request::{Holder, LockInfo},
    session::wire,
};

use super::{LockSeen, Within};

/// A server that says nothing for longer than a question may wait is broken.
const WATCH_PATIENCE: Duration = WATCH_WAITS_MAX.saturating_add(Duration::from_secs(1));
/// Within this a second endpoint has answered if one has not.
const WATCH_TIMEOUT: Duration = Duration::from_secs(15);

/// The states of one lock, one after the other: see [`Client::watch`].
///
/// Invariants:
/// - `last` is never older than what was handed out.
#[derive(Clone, Debug)]
pub struct Watch {
    client: Client,
    name: String,
    last: Option<(Position, u64)>,
}

/// The outcome of a question to the holders of a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldersAsked {
    /// When and where.
    pub position: Position,
    /// Those who have been asked for the lock, now or before, at most 8. None: nobody who holds it has
    /// agreed to be asked.
    pub holders: Vec<Holder>,
    /// How many they are.
    pub asked_count: u32,
}

impl Client {
    /// Follows the state of a lock. The first state comes at once, the next ones when they are there.
    pub fn watch(&self, name: &str) -> Watch {
        Watch { client: self.clone(), name: name.to_owned(), last: None }
    }

    /// Asks those who hold a lock for it, for the first who waits: it moves those whose condition
    /// allows it (`ask_grace`). Whoever waits by this client asks by
    /// [`LockBuilder::ask`](crate::LockBuilder::ask).
    ///
    /// # Errors
    /// See [`CallError`]; `NOT_WAITING` if nobody waits.
    pub async fn ask_holders(&self, name: &str) -> Result<HoldersAsked, CallError> {
        let request = v1::AskRequest { name: name.to_owned(), ..v1::AskRequest::default() };
        // To ask twice is to ask once.
        let response = self
            .calls()
            .read(request, |channel, request| async move {
                LockServiceClient::new(channel).ask(request).await
            })
            .await?;
        Ok(HoldersAsked {
            position: wire::position(response.position),
            holders: response.holders.into_iter().map(wire::holder).collect(),
            asked_count: response.asked_count,
        })
    }
}

impl Watch {
    /// Whether a state was handed out.
    pub fn has_begun(&self) -> bool {
        self.last.is_some()
    }

    /// The next state: another than the one before, and never an older one. States that follow each
    /// other faster than they are taken are left out, the last of them never. Dropping the future loses
    /// nothing.
    ///
    /// # Errors
    /// See [`CallError`]. The watch goes on with the next call.
    pub async fn next(&mut self) -> Result<LockSeen, CallError> {
        loop {
            let request = v1::WatchLockRequest {
                name: self.name.clone(),
                shown_max: 0,
                state_tag: self.last.map(|(_, tag)| tag),
            };
            let within = Within { timeout: WATCH_TIMEOUT, patience: WATCH_PATIENCE };
            let response = self
                .client
                .calls()
                .read_within(within, request, |channel, request| async move {
                    LockServiceClient::new(channel).watch_lock(request).await
                })
                .await?;
            let position = wire::position(response.position);
            let lock: Option<LockInfo> = response.lock.map(wire::lock_info);
            if self.takes(position, response.state_tag) {
                return Ok(LockSeen { position, lock });
            }
        }
    }

    /// Whether this is a state to hand out.
    fn takes(&mut self, position: Position, tag: u64) -> bool {
        let at = |position: &Position| (position.version, position.applied_index);
        match &self.last {
            Some((last, known)) if at(&position) < at(last) || tag == *known => false,
            _ => {
                self.last = Some((position, tag));
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_an_older_state_nor_the_same_is_handed_out() {
        let client = Client::builder().endpoints(["http://127.0.0.1:1"]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let _entered = runtime.enter();
        let mut watch = client.build().expect("an endpoint").watch("a");
        let at =
            |version, applied_index| Position { version, applied_index, ..Position::default() };
        for (position, tag, is_taken) in [
            (at(1, 90), 7, true),
            (at(1, 91), 7, false),
            (at(1, 89), 8, false),
            (at(1, 92), 8, true),
            // The child of a split begins a log of its own.
            (at(2, 6), 9, true),
            (at(1, 95), 7, false),
            (at(2, 6), 7, true),
        ] {
            assert_eq!(watch.takes(position, tag), is_taken, "{position:?} {tag}");
        }
    }
}
