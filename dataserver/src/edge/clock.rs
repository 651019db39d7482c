//! The server's clock (D7, *Clocks*): elapsed time as the slower of two readings, since NTP may
//! slew CLOCK_MONOTONIC and a lease must never end early.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Elapsed time since it was made. Each step is the smaller of what CLOCK_MONOTONIC and
/// CLOCK_MONOTONIC_RAW have advanced.
#[derive(Debug)]
pub struct ServerClock {
    elapsed: Duration,
    last: Reading,
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
        Self { elapsed: Duration::ZERO, last: Reading::now() }
    }

    /// Elapsed time; never goes back.
    pub fn now(&mut self) -> Duration {
        let reading = Reading::now();
        self.elapsed += reading.since(self.last);
        self.last = reading;
        self.elapsed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slower_of_both_clocks_counts() {
        let reading = |monotonic, raw| Reading {
            monotonic: Duration::from_millis(monotonic),
            raw: Duration::from_millis(raw),
        };
        let ten_slewed = reading(1_000, 2_000);
        assert_eq!(reading(1_080, 2_100).since(ten_slewed), Duration::from_millis(80));
        assert_eq!(reading(1_108, 2_100).since(ten_slewed), Duration::from_millis(100));
        assert_eq!(reading(999, 1_999).since(ten_slewed), Duration::ZERO);
    }
}
