//! How long to pause before a call that failed is repeated.

use std::time::Duration;

const PAUSE_FIRST: Duration = Duration::from_millis(50);

/// An election takes 1 to 2 s: more would add to it.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Draws pauses that double from failure to failure, each between half of it and all of it, so
/// that the clients of a failed server do not come back at the same moment.
#[derive(Debug)]
pub(super) struct Jitter {
    state: u64,
}

impl Jitter {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// `failures_count` counts from 1.
    pub(super) fn pause(&mut self, failures_count: u32) -> Duration {
        let doublings = failures_count.saturating_sub(1).min(16);
        let most = PAUSE_FIRST.saturating_mul(1 << doublings).min(PAUSE_MAX);
        let half_ns = u64::try_from(most.as_nanos() / 2).expect("half of a second fits");
        Duration::from_nanos(half_ns + self.draw() % (half_ns + 1))
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    pub(super) fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_second_and_differ_between_clients() {
        let mut one = Jitter::new(1);
        for (failures_count, most_ms) in
            [(1, 50), (2, 100), (3, 200), (5, 800), (6, 1000), (60, 1000)]
        {
            let pause = one.pause(failures_count);
            let most = Duration::from_millis(most_ms);
            assert!(pause >= most / 2 && pause <= most, "{failures_count}: {pause:?}");
        }
        assert_ne!(Jitter::new(1).pause(6), Jitter::new(2).pause(6));
    }
}
