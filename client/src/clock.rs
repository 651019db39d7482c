//! The client's clock (D7, *Clocks*): elapsed time that never runs slow, whatever NTP does to one
//! kernel clock and suspension to the other. Only the edge reads it; the session core gets the
//! reading as `now`.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

/// How long the two kernel clocks are compared as wholes before their difference is banked.
///
/// The reading is a sum of max(ΔBOOTTIME, ΔMONOTONIC_RAW). Were it banked at every reading, the
/// nanoseconds between the two system calls would add up as drift; once a second they are noise.
const BANK_EVERY: Duration = Duration::from_secs(1);

/// Elapsed time since the clock was made: max(ΔBOOTTIME, ΔMONOTONIC_RAW), accumulated.
///
/// BOOTTIME counts suspension but may be slewed by NTP; MONOTONIC_RAW is not slewed but stops in
/// suspension. The larger is never slower than real time by more than the hardware's drift.
#[derive(Debug)]
pub(crate) struct Clock {
    bank: Mutex<Bank>,
    /// The largest reading handed out, nanoseconds. Readings never fall.
    latest_ns: AtomicU64,
}

#[derive(Debug)]
struct Bank {
    boottime: Duration,
    monotonic_raw: Duration,
    elapsed: Duration,
}

impl Clock {
    pub(crate) fn start() -> Self {
        let (boottime, monotonic_raw) = read();
        Self {
            bank: Mutex::new(Bank { boottime, monotonic_raw, elapsed: Duration::ZERO }),
            latest_ns: AtomicU64::new(0),
        }
    }

    pub(crate) fn now(&self) -> Duration {
        let (boottime, monotonic_raw) = read();
        // A panic cannot leave the bank half written: it holds three plain numbers.
        let mut bank = self.bank.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = bank.read(boottime, monotonic_raw);
        drop(bank);
        let elapsed_ns = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        let before_ns = self.latest_ns.fetch_max(elapsed_ns, Ordering::AcqRel);
        Duration::from_nanos(elapsed_ns.max(before_ns))
    }
}

impl Bank {
    /// Another thread may have banked a later pair of readings already; then this one adds nothing.
    fn read(&mut self, boottime: Duration, monotonic_raw: Duration) -> Duration {
        let since_boottime = boottime.saturating_sub(self.boottime);
        let since_raw = monotonic_raw.saturating_sub(self.monotonic_raw);
        let elapsed = self.elapsed + since_boottime.max(since_raw);
        if since_boottime.min(since_raw) >= BANK_EVERY {
            *self = Self { boottime, monotonic_raw, elapsed };
        }
        elapsed
    }
}

fn read() -> (Duration, Duration) {
    (duration(ClockId::Boottime), duration(ClockId::MonotonicRaw))
}

fn duration(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    let secs = u64::try_from(time.tv_sec).expect("kernel clocks since boot are not negative");
    let nanos = u32::try_from(time.tv_nsec).expect("nanoseconds of a second fit 32 bits");
    Duration::new(secs, nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn bank() -> Bank {
        Bank { boottime: secs(100), monotonic_raw: secs(90), elapsed: Duration::ZERO }
    }

    #[test]
    fn the_faster_clock_counts() {
        // Hole 9: NTP slews one of them by 8 %.
        assert_eq!(bank().read(secs(110), secs(99)), secs(10));
        assert_eq!(bank().read(secs(109), secs(100)), secs(10));
    }

    #[test]
    fn suspension_counts_although_the_raw_clock_stands_still() {
        let mut bank = bank();
        assert_eq!(bank.read(secs(3700), secs(91)), secs(3600));
        // After it each clock is ahead by turns: neither part is forgotten.
        assert_eq!(bank.read(secs(3710), secs(111)), secs(3620));
    }

    #[test]
    fn readings_of_overtaken_threads_do_not_go_back() {
        let clock = Clock::start();
        let first = clock.now();
        assert!(clock.now() >= first);
        let mut bank = bank();
        bank.read(secs(200), secs(190));
        assert_eq!(bank.read(secs(150), secs(140)), secs(100));
    }
}
