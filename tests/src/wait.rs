//! Waiting for conditions, and the clock of all histories.

use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::Instant;

/// Between two looks at a condition. Short, since it adds to every measured time.
const LOOK_INTERVAL: Duration = Duration::from_millis(4);

/// Looks until `look` finds something, and gives it back.
///
/// # Panics
/// When it has not after `within`: `what` says what was waited for.
pub async fn eventually<T>(
    what: &str,
    within: Duration,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {within:?} in vain: {what}");
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Nanoseconds since this process first asked: the times of its histories.
pub fn now() -> u64 {
    nanos(Instant::now().into_std())
}

/// The same for a moment that somebody else took.
pub fn nanos(moment: std::time::Instant) -> u64 {
    static EPOCH: OnceLock<std::time::Instant> = OnceLock::new();
    // The epoch lies a little back, so that no moment of a test comes before it.
    let back = Duration::from_secs(60);
    let now = || Instant::now().into_std();
    let epoch = EPOCH.get_or_init(|| now().checked_sub(back).unwrap_or_else(now));
    let since = moment.saturating_duration_since(*epoch).as_nanos();
    u64::try_from(since).expect("a test takes less than 500 years")
}
