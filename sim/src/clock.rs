//! A node's clock: it runs a little too fast or too slow, begins anywhere, and may stand still
//! while its machine is frozen. True time is the simulator's own.

use std::time::Duration;

/// By how much a clock may run wrong: ρ of D7, in parts per million.
pub const DRIFT_PPM_MAX: i64 = 10_000;

/// Readings as a function of true time: straight pieces, each with its rate.
///
/// Invariants:
/// - pieces are in order of true time, and readings never fall.
#[derive(Clone, Debug)]
pub struct DriftingClock {
    pieces: Vec<Piece>,
}

/// From `from_ns` on the clock reads `reading_ns` plus what has passed at this rate.
#[derive(Clone, Copy, Debug)]
struct Piece {
    from_ns: u64,
    reading_ns: u64,
    /// Nanoseconds of the clock per million true ones.
    per_million: u64,
}

impl Piece {
    fn at(&self, true_ns: u64) -> u64 {
        let passed = u128::from(true_ns - self.from_ns) * u128::from(self.per_million) / 1_000_000;
        self.reading_ns + passed as u64
    }
}

impl DriftingClock {
    /// A clock that reads `reading_ns` at the beginning.
    pub fn new(reading_ns: u64, drift_ppm: i64) -> Self {
        let piece = Piece { from_ns: 0, reading_ns, per_million: rate(drift_ppm) };
        Self { pieces: vec![piece] }
    }

    /// Its reading.
    pub fn read(&self, true_ns: u64) -> Duration {
        let piece = self.pieces.iter().rev().find(|piece| piece.from_ns <= true_ns);
        Duration::from_nanos(piece.expect("the first piece begins at 0").at(true_ns))
    }

    /// The first moment at which it reads at least this, as it runs now; `None`: it stands still.
    pub fn when(&self, reading: Duration) -> Option<u64> {
        let wanted = u64::try_from(reading.as_nanos()).ok()?;
        let at = self.pieces.partition_point(|piece| piece.reading_ns < wanted);
        let Some(piece) = self.pieces.get(at.saturating_sub(1)).filter(|_| at > 0) else {
            return Some(0);
        };
        let next = self.pieces.get(at).map(|next| next.from_ns);
        if piece.per_million == 0 {
            // It stands still, and begins to run with the next piece, if there is one.
            return next;
        }
        let missing = u128::from(wanted - piece.reading_ns) * 1_000_000;
        let passed = missing.div_ceil(u128::from(piece.per_million)) as u64;
        let reached = piece.from_ns + passed;
        Some(next.map_or(reached, |next| next.min(reached)))
    }

    /// From now on it runs with this error.
    pub fn drift(&mut self, true_ns: u64, drift_ppm: i64) {
        self.set_rate(true_ns, rate(drift_ppm));
    }

    /// From now on it stands still, as in a frozen virtual machine.
    pub fn freeze(&mut self, true_ns: u64) {
        self.set_rate(true_ns, 0);
    }

    fn set_rate(&mut self, true_ns: u64, per_million: u64) {
        let reading_ns = self.read(true_ns).as_nanos() as u64;
        self.pieces.retain(|piece| piece.from_ns < true_ns || piece.from_ns == 0);
        if true_ns == 0 {
            self.pieces.clear();
        }
        self.pieces.push(Piece { from_ns: true_ns, reading_ns, per_million });
    }
}

fn rate(drift_ppm: i64) -> u64 {
    assert!(drift_ppm.abs() <= DRIFT_PPM_MAX, "nothing is promised for such clocks");
    (1_000_000 + drift_ppm) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn a_clock_drifts_freezes_and_tells_when_it_will_read_something() {
        let mut clock = DriftingClock::new(5 * S, 10_000);
        assert_eq!(clock.read(100 * S), Duration::from_secs(106));
        clock.freeze(100 * S);
        assert_eq!(clock.read(150 * S), Duration::from_secs(106));
        assert_eq!(clock.when(Duration::from_secs(107)), None);
        clock.drift(150 * S, -10_000);
        assert_eq!(clock.read(250 * S), Duration::from_secs(205));
        assert_eq!(clock.when(Duration::from_secs(205)), Some(250 * S));
        assert_eq!(clock.when(Duration::from_secs(106)), Some(100 * S));
        assert_eq!(clock.when(Duration::from_secs(1)), Some(0));
        for reading in [7, 50, 106, 107, 300] {
            let reading = Duration::from_secs(reading);
            let when = clock.when(reading).expect("it runs");
            assert!(clock.read(when) >= reading && clock.read(when - 1) < reading);
        }
    }
}
