//! Pauses between tries that grow, and differ between those who try.

use std::time::Duration;

/// The first pause: a process that restarts is back within some of them.
const FIRST: Duration = Duration::from_millis(50);
/// The longest: what a process that was away for long waits at most to be found again.
const LONGEST: Duration = Duration::from_secs(1);

/// Pauses of 50 ms to 1 s, each doubled from the last and shortened by up to a half at random, so that
/// all who lost one process do not come back in the same moment.
#[derive(Debug, Default)]
pub struct Backoff {
    tries: u32,
}

impl Backoff {
    /// How long to wait before the next try.
    pub fn pause(&mut self) -> Duration {
        let longest = FIRST.saturating_mul(1 << self.tries.min(10)).min(LONGEST);
        self.tries = self.tries.saturating_add(1);
        longest.mul_f64(rand::random_range(0.5..=1.0))
    }

    /// Whether the last try failed.
    pub fn is_failing(&self) -> bool {
        self.tries > 0
    }

    /// Something worked: the next pause is the first again.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_begin_anew() {
        let mut backoff = Backoff::default();
        assert!(!backoff.is_failing());
        let first = backoff.pause();
        assert!((FIRST / 2..=FIRST).contains(&first), "{first:?}");
        let last = (0..40).map(|_| backoff.pause()).last().expect("forty");
        assert!((LONGEST / 2..=LONGEST).contains(&last), "{last:?}");
        assert!(backoff.is_failing());
        backoff.reset();
        assert!(backoff.pause() <= FIRST);
    }
}
