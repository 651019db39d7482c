//! The session's secret and what may be known of it (D10).

use std::{fmt, time::SystemTime};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

/// A session id is a bearer secret: whoever has it can release the session's locks. It has no
/// `Debug` that shows it, and only request frames carry it.
pub(crate) struct SessionId {
    secret: Bytes,
    handle: String,
    /// Names this life of the process under the session; it grows from life to life.
    instance: u64,
}

impl SessionId {
    /// One that nobody has had, or the next life of one that is known.
    pub(crate) fn new(secret: Option<[u8; 16]>, instance: Option<u64>) -> Self {
        let secret = secret.unwrap_or_else(rand::random);
        let instance = instance.unwrap_or_else(fresh_instance);
        let handle = handle(&secret);
        Self { secret: Bytes::copy_from_slice(&secret), handle, instance }
    }

    pub(crate) fn secret(&self) -> Bytes {
        self.secret.clone()
    }

    pub(crate) fn handle(&self) -> &str {
        &self.handle
    }

    pub(crate) fn instance(&self) -> u64 {
        self.instance
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId(handle {})", self.handle)
    }
}

/// 128 bits of the secret's SHA-256, as hex.
fn handle(secret: &[u8]) -> String {
    let digest = Sha256::digest(secret);
    digest[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Unix microseconds, which grow from life to life unless the clock is set back.
pub(crate) fn fresh_instance() -> u64 {
    unix_micros().max(1)
}

#[expect(clippy::disallowed_methods, reason = "an instance is named once, at the edge")]
fn unix_micros() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_is_not_printed() {
        let id = SessionId::new(None, None);
        let secret: String = id.secret().iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(!format!("{id:?}").contains(&secret));
        assert_ne!(id.handle(), secret);
    }

    #[test]
    fn a_later_life_is_another_instance_of_the_same_session() {
        let older = SessionId::new(Some([7; 16]), Some(3));
        let newer = SessionId::new(Some([7; 16]), None);
        assert_eq!(older.handle(), newer.handle());
        assert!(newer.instance() > older.instance());
        assert_ne!(older.handle(), SessionId::new(None, None).handle());
    }

    #[test]
    fn the_handle_is_half_of_the_sha256() {
        // printf 0123456789abcdef | sha256sum
        assert_eq!(handle(b"0123456789abcdef"), "9f9f5111f7b27a781f1f1ddde5ebc2dd");
    }
}
