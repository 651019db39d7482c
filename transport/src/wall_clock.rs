//! The wall clock, for people: it is shown and compared, and decides nothing (D1).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970 began, UTC, by this machine's clock.
pub fn wall_unix_ms() -> u64 {
    u64::try_from(since_1970().as_millis()).unwrap_or(u64::MAX)
}

/// Nanoseconds since 1970 began, UTC, by this machine's clock.
pub fn wall_unix_ns() -> u64 {
    u64::try_from(since_1970().as_nanos()).unwrap_or(u64::MAX)
}

#[expect(clippy::disallowed_methods, reason = "the one place of the servers that reads wall time")]
fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
