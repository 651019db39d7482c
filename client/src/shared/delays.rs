//! How long answers to keepalives take, counted in classes: each is a quarter longer than the
//! one before, or less, so that a percentile is that exact, and counting costs next to nothing.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Classes per doubling.
const STEPS: usize = 4;
/// From 1 µs to more than an hour.
const CLASSES: usize = 32 * STEPS;

/// The counters.
#[derive(Debug)]
pub(super) struct Delays {
    sent: AtomicU64,
    longest_us: AtomicU64,
    classes: [AtomicU64; CLASSES],
}

/// Keepalives of a time: see
/// [`Connections::take_keepalive_delays`](crate::Connections::take_keepalive_delays).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeepAliveDelays {
    sent: u64,
    answered: u64,
    longest: Duration,
    classes: Vec<u64>,
}

impl Default for Delays {
    fn default() -> Self {
        let classes = std::array::from_fn(|_| AtomicU64::new(0));
        Self { sent: AtomicU64::new(0), longest_us: AtomicU64::new(0), classes }
    }
}

impl Delays {
    pub(super) fn sent(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn answered(&self, delay: Duration) {
        let us = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
        self.longest_us.fetch_max(us, Ordering::Relaxed);
        self.classes[class_of(us)].fetch_add(1, Ordering::Relaxed);
    }

    /// All since this was asked last.
    pub(super) fn take(&self) -> KeepAliveDelays {
        let take = |counter: &AtomicU64| counter.swap(0, Ordering::Relaxed);
        let classes: Vec<u64> = self.classes.iter().map(take).collect();
        KeepAliveDelays {
            sent: take(&self.sent),
            answered: classes.iter().sum(),
            longest: Duration::from_micros(take(&self.longest_us)),
            classes,
        }
    }
}

impl KeepAliveDelays {
    /// How many were sent; each names up to 64 locks of one session.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// How many were answered, also those that were sent before.
    pub fn answered(&self) -> u64 {
        self.answered
    }

    /// The longest time between a keepalive and its answer.
    pub fn longest(&self) -> Duration {
        self.longest
    }

    /// So much of the answers, of 0.0 to 1.0, came within this time, to a quarter; zero without any.
    pub fn within(&self, part: f64) -> Duration {
        let wanted = (self.answered as f64 * part.clamp(0.0, 1.0)).ceil() as u64;
        let mut count = 0;
        for (class, in_class) in self.classes.iter().enumerate() {
            count += in_class;
            if count >= wanted && count > 0 {
                return Duration::from_micros(longest_of(class)).min(self.longest);
            }
        }
        self.longest
    }
}

/// Below `STEPS` µs each class is one microsecond; then `STEPS` classes share each doubling.
fn class_of(us: u64) -> usize {
    if us < STEPS as u64 {
        return us as usize;
    }
    let doubling = us.ilog2() as usize;
    let step = (us >> (doubling - 2)) as usize - STEPS;
    ((doubling - 1) * STEPS + step).min(CLASSES - 1)
}

/// The longest delay of a class, in µs.
fn longest_of(class: usize) -> u64 {
    if class < STEPS {
        return class as u64;
    }
    let (doubling, step) = (class / STEPS + 1, class % STEPS);
    (((STEPS + step + 1) as u64) << (doubling - 2)) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_in_the_first_class_that_holds_it() {
        for us in (0..5_000).chain([1 << 20, 3_600_000_000]) {
            let class = class_of(us);
            assert!(us <= longest_of(class), "{us} in {class}");
            assert!(class == 0 || us > longest_of(class - 1), "{us} in {class}");
            assert!(longest_of(class) <= us + us.div_ceil(4), "{us}: {}", longest_of(class));
        }
    }

    #[test]
    fn percentiles_are_told_once() {
        let delays = Delays::default();
        (0..100).for_each(|_| delays.sent());
        (1..=99).for_each(|ms| delays.answered(Duration::from_millis(ms)));
        let taken = delays.take();
        assert_eq!((taken.sent(), taken.answered()), (100, 99));
        let [median, most] = [0.5, 0.99].map(|part| taken.within(part).as_millis());
        assert!((50..=62).contains(&median) && (98..=99).contains(&most), "{median} {most}");
        assert_eq!((taken.longest().as_millis(), taken.within(1.0).as_millis()), (99, 99));
        let nothing = delays.take();
        assert_eq!((nothing.sent(), nothing.within(0.5)), (0, Duration::ZERO));
    }
}
