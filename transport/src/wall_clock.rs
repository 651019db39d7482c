//! The wall clock, for people: it is shown and compared, and decides nothing (D1).

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970 began, UTC, by this machine's clock.
#[expect(clippy::disallowed_methods, reason = "the one place of the servers that reads wall time")]
pub fn wall_unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
