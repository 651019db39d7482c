//! Every random choice of a run comes from its seed, by streams of their own per purpose: one more
//! draw for the network does not reshuffle what the disks do.

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use twox_hash::XxHash3_64;

/// A stream of random choices.
#[derive(Clone, Debug)]
pub struct Dice(ChaCha8Rng);

impl Dice {
    /// The stream of one purpose under a seed.
    pub fn new(seed: u64, purpose: &str) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..16].copy_from_slice(&XxHash3_64::oneshot(purpose.as_bytes()).to_le_bytes());
        Self(ChaCha8Rng::from_seed(key))
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0.random()
    }

    /// A number below `end`; 0 if there is none.
    pub fn below(&mut self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.0.random_range(0..end) }
    }

    /// `low <= n <= high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// True in so many cases of a million.
    pub fn ppm(&mut self, parts: u64) -> bool {
        // Nothing is drawn for what never happens: a fault that is off does not move the others.
        parts > 0 && self.below(1_000_000) < parts
    }

    /// One in so many.
    pub fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    /// An exponentially distributed number: many small ones, a few of several times the mean.
    pub fn around(&mut self, mean: u64) -> u64 {
        let unit: f64 = self.0.random();
        // At most 14 times the mean: a bounded number keeps a run's length bounded.
        let times = (-(1.0 - unit).ln()).min(14.0);
        (mean as f64 * times) as u64
    }

    /// Between `low` and `high`, small ones more often: every power of two is as likely.
    pub fn scale(&mut self, low: u64, high: u64) -> u64 {
        let (low_bits, high_bits) = ((low.max(1)).ilog2(), (high.max(1)).ilog2());
        let bits = self.between(low_bits.into(), high_bits.into());
        self.between(1 << bits, (2 << bits) - 1).clamp(low, high)
    }

    /// One of these.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_depends_on_seed_and_purpose_and_on_nothing_else() {
        let draw = |seed, purpose| Dice::new(seed, purpose).number();
        assert_eq!(draw(1, "disk"), draw(1, "disk"));
        assert_ne!(draw(1, "disk"), draw(2, "disk"));
        assert_ne!(draw(1, "disk"), draw(1, "network"));
    }

    #[test]
    fn choices_stay_within_their_bounds() {
        let mut dice = Dice::new(7, "test");
        for _ in 0..10_000 {
            assert!((3..=5).contains(&dice.between(3, 5)));
            assert!((10..=1_000).contains(&dice.scale(10, 1_000)));
            assert!(dice.around(100) <= 1_400);
        }
        assert!(!dice.ppm(0));
        assert!(dice.ppm(1_000_000));
    }
}
