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

/// Nanoseconds on the machine's monotonic clock: the times of histories, which those of all processes on
/// the machine share.
pub fn now() -> u64 {
    nanos(Instant::now().into_std())
}

/// The same for a moment that somebody else took.
pub fn nanos(moment: std::time::Instant) -> u64 {
    static ANCHOR: OnceLock<(std::time::Instant, u64)> = OnceLock::new();
    let (anchor, at) = *ANCHOR.get_or_init(anchor);
    let part = |duration: Duration| u64::try_from(duration.as_nanos()).expect("below 500 years");
    match moment.checked_duration_since(anchor) {
        Some(after) => at + part(after),
        None => at.saturating_sub(part(anchor - moment)),
    }
}

/// A moment and its nanoseconds: of several readings the one between whose two looks at the clock the
/// least time has passed, since a process may be interrupted there.
fn anchor() -> (std::time::Instant, u64) {
    let clock = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        u64::try_from(time.tv_sec).expect("after the start") * 1_000_000_000
            + u64::try_from(time.tv_nsec).expect("below a second")
    };
    let reading = |_| {
        let before = clock();
        let moment = Instant::now().into_std();
        (clock() - before, moment, before)
    };
    let (_, moment, at) = (0..100).map(reading).min_by_key(|it| it.0).expect("a hundred readings");
    (moment, at)
}
