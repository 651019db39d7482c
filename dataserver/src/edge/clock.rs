//! The server's clock (D7, *Clocks*): elapsed time as the slower of two readings, since NTP may
//! slew CLOCK_MONOTONIC and a lease must never end early.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// How long the two kernel clocks are compared as wholes before the slower one is banked.
///
/// They are read one after the other, and the nanoseconds between differ from time to time. Were
/// the smaller step banked at every reading, each difference would be lost: a busy server's clock
/// would run slow. Once a second they are noise.
const BANK_EVERY: Duration = Duration::from_secs(1);

/// Elapsed time since it was made: min(ΔMONOTONIC, ΔMONOTONIC_RAW), accumulated.
#[derive(Debug)]
pub struct ServerClock {
    /// Up to `since`.
    banked: Duration,
    since: Reading,
}

#[derive(Clone, Copy, Debug)]
struct Reading {
    monotonic: Duration,
    raw: Duration,
}

impl Reading {
    fn now() -> Self {
        let read = |clock| {
            let time = clock_gettime(clock);
            let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
            let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
            Duration::new(seconds, nanos)
        };
        Self { monotonic: read(ClockId::Monotonic), raw: read(ClockId::MonotonicRaw) }
    }

    /// How far time has come since `earlier`, at least.
    fn since(self, earlier: Self) -> Duration {
        let monotonic = self.monotonic.saturating_sub(earlier.monotonic);
        monotonic.min(self.raw.saturating_sub(earlier.raw))
    }
}

impl ServerClock {
    /// Starts at zero.
    pub fn start() -> Self {
        Self::starting_at(Reading::now())
    }

    fn starting_at(since: Reading) -> Self {
        Self { banked: Duration::ZERO, since }
    }

    /// Elapsed time; never goes back.
    pub fn now(&mut self) -> Duration {
        self.read(Reading::now())
    }

    /// Neither kernel clock goes back, so the smaller of what both have advanced does not either.
    fn read(&mut self, reading: Reading) -> Duration {
        let since = reading.since(self.since);
        let elapsed = self.banked + since;
        if since >= BANK_EVERY {
            *self = Self { banked: elapsed, since: reading };
        }
        elapsed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(monotonic_us: u64, raw_us: u64) -> Reading {
        let us = Duration::from_micros;
        Reading { monotonic: us(monotonic_us), raw: us(raw_us) }
    }

    #[test]
    fn the_slower_of_both_clocks_counts() {
        let slewed = reading(1_000_000, 2_000_000);
        let clock = || ServerClock::starting_at(slewed);
        assert_eq!(clock().read(reading(1_080_000, 2_100_000)), Duration::from_millis(80));
        assert_eq!(clock().read(reading(1_108_000, 2_100_000)), Duration::from_millis(100));
        assert_eq!(clock().read(reading(999_000, 1_999_000)), Duration::ZERO);
    }

    #[test]
    fn slewing_is_not_made_up_for_by_the_other_clock_later() {
        let mut clock = ServerClock::starting_at(reading(0, 0));
        assert_eq!(clock.read(reading(9_000_000, 10_000_000)), Duration::from_secs(9));
        assert_eq!(clock.read(reading(20_000_000, 20_000_000)), Duration::from_secs(19));
    }

    /// 100,000 readings in 10 s, each second one with 3 µs between its two clocks.
    #[test]
    fn the_time_between_the_two_readings_does_not_add_up() {
        let mut clock = ServerClock::starting_at(reading(0, 0));
        let mut elapsed = Duration::ZERO;
        for number in 1..=100_000_u64 {
            let between_us = if number % 2 == 0 { 3 } else { 0 };
            let now = clock.read(reading(number * 100, number * 100 + between_us));
            assert!(now >= elapsed, "{now:?} after {elapsed:?}");
            elapsed = now;
        }
        let lost = Duration::from_secs(10) - elapsed;
        assert!(lost <= Duration::from_micros(3 * 11), "{lost:?} are lost");
    }
}
