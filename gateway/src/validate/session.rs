//! A session's names: the secret comes in, its handle goes on.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::{HANDLE_BYTES, SESSION_ID_BYTES};
use crate::failure::{Failure, Reason};

/// A session as stores know it: the secret has been left behind.
#[derive(Clone, PartialEq, Eq)]
pub struct Session {
    handle: Bytes,
    instance: u64,
}

impl Session {
    /// The session's handle, 16 bytes.
    pub fn handle(&self) -> &Bytes {
        &self.handle
    }

    /// Which life of its client.
    pub fn instance(&self) -> u64 {
        self.instance
    }

    /// Both, to be sent.
    pub fn into_parts(self) -> (Bytes, u64) {
        (self.handle, self.instance)
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session({:02x?}.., {})", &self.handle[..4.min(self.handle.len())], self.instance)
    }
}

/// The handle of the last session seen, so that a stream pays for one SHA-256 and not one per
/// message.
#[derive(Default)]
pub struct HandleCache {
    /// Session id and handle.
    last: Option<(Bytes, Bytes)>,
}

impl HandleCache {
    fn handle(&mut self, id: &Bytes) -> Bytes {
        if let Some((last, handle)) = &self.last
            && last == id
        {
            return handle.clone();
        }
        let handle = Bytes::copy_from_slice(&Sha256::digest(id)[..HANDLE_BYTES]);
        // A copy: a slice would keep the whole received message alive.
        self.last = Some((Bytes::copy_from_slice(id), handle.clone()));
        handle
    }
}

/// The session that calls belong to: a message's on a stream, the request's own otherwise.
pub struct Frame {
    id: Bytes,
    instance: u64,
    session: Result<Session, Failure>,
}

impl Frame {
    /// Checks a session's names. Calls that need no session pass even when they are wrong.
    pub fn new(id: &Bytes, instance: u64, handles: &mut HandleCache) -> Self {
        let session =
            check_session(id, instance).map(|()| Session { handle: handles.handle(id), instance });
        Self { id: id.clone(), instance, session }
    }

    /// The session of a call that names one itself.
    pub fn of_call(id: &Bytes, instance: u64) -> Self {
        Self::new(id, instance, &mut HandleCache::default())
    }

    /// The session of a call in this frame, which may name it again but not another.
    pub(super) fn session_of(&self, id: &Bytes, instance: u64) -> Result<Session, Failure> {
        let session = self.session.clone()?;
        if !id.is_empty() && *id != self.id {
            return Err(Failure::of_field(
                Reason::BadSession,
                "session_id",
                "the call names another session than its message: leave session_id empty, or send \
                 one message per session",
            ));
        }
        if instance != 0 && instance != self.instance {
            return Err(Failure::of_field(
                Reason::BadSession,
                "instance",
                "the call names another instance than its message: leave instance 0, or send one \
                 message per instance",
            ));
        }
        Ok(session)
    }
}

fn check_session(id: &Bytes, instance: u64) -> Result<(), Failure> {
    if id.len() != SESSION_ID_BYTES || id.iter().all(|byte| *byte == 0) {
        return Err(Failure::of_field(
            Reason::BadSession,
            "session_id",
            format!("a session id is {SESSION_ID_BYTES} random bytes: draw them from a secure RNG"),
        )
        .with("length", SESSION_ID_BYTES));
    }
    if instance == 0 {
        return Err(Failure::of_field(
            Reason::BadSession,
            "instance",
            "an instance is not 0: number the lives of a client process from 1",
        ));
    }
    Ok(())
}
