//! The commands that a range gets per second, as its leader counts them.

use std::time::Duration;

/// The time over which they are counted (D12).
const WINDOW: Duration = Duration::from_secs(10);

/// The commands of the window that runs, and of the one before. Nobody has to look at it while nothing
/// comes: what is asked says what time it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    /// When the window that runs began; `None`: nothing is counted.
    since: Option<Duration>,
    now: u64,
    /// `None`: the window that runs is the first.
    before: Option<u64>,
}

impl Load {
    /// Counted from `now` on.
    pub fn begin(now: Duration) -> Self {
        Self { since: Some(now), now: 0, before: None }
    }

    /// So many commands were proposed.
    pub fn count(&mut self, now: Duration, commands: u64) {
        *self = self.at(now);
        self.now += commands;
    }

    /// Commands per second in the last window; `None` before a whole one has been counted.
    pub fn per_second(&self, now: Duration) -> Option<u64> {
        let Self { since, now: commands, before } = self.at(now);
        let gone = now.checked_sub(since?)?.as_secs_f64() / WINDOW.as_secs_f64();
        let in_window = before? as f64 * (1.0 - gone).max(0.0) + commands as f64;
        Some((in_window / WINDOW.as_secs_f64()).round() as u64)
    }

    /// As of now: windows that have ended are put aside.
    fn at(self, now: Duration) -> Self {
        let Some(since) = self.since else { return self };
        let ended = now.saturating_sub(since).as_nanos() / WINDOW.as_nanos();
        let begin = |ended: u128| since + WINDOW * u32::try_from(ended).unwrap_or(u32::MAX);
        match ended {
            0 => self,
            1 => Self { since: Some(begin(1)), now: 0, before: Some(self.now) },
            _ => Self { since: Some(begin(ended)), now: 0, before: Some(0) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_rate_is_known_after_a_whole_window_and_follows_the_last_ten_seconds() {
        assert_eq!(Load::default().per_second(s(99)), None, "nobody counts");
        let mut load = Load::begin(s(100));
        load.count(s(101), 500);
        load.count(s(109), 500);
        assert_eq!(load.per_second(s(109)), None);
        assert_eq!(load.per_second(s(110)), Some(100));
        assert_eq!(load.per_second(s(115)), Some(50));
        load.count(s(115), 1_000);
        assert_eq!(load.per_second(s(115)), Some(150));
        assert_eq!(load.per_second(s(120)), Some(100));
        assert_eq!(load.per_second(s(130)), Some(0));
        load.count(s(1_000_005), 100);
        assert_eq!(load.per_second(s(1_000_005)), Some(10));
    }
}
