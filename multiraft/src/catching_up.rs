//! Whether a learner has caught up, so that it may vote.

use std::time::Duration;

use crate::replica::PeerProgress;

/// A learner has caught up when it lacks at most so many entries, in so many looks in a row. A share of
/// the log says nothing (D13): a tenth of a long log is a long time.
const LACKS_MAX: u64 = 64;
const LOOKS_IN_A_ROW: u32 = 3;
/// Two looks are a heartbeat apart, so that each has news.
const LOOK_EVERY_TICKS: u32 = 2;

/// The looks at a learner.
#[derive(Clone, Copy, Debug)]
pub struct CatchingUp {
    looked: Duration,
    in_a_row: u32,
}

impl CatchingUp {
    /// Of a learner that was not looked at.
    pub fn begin(now: Duration) -> Self {
        Self { looked: now, in_a_row: 0 }
    }

    /// Looks, if it is time to. `last` is the last entry of the leader's log, `tick` the time of a tick.
    ///
    /// # Errors
    /// It has not caught up, or not for long enough; what it waits for, to be said behind its name.
    pub fn look(
        &mut self,
        (now, tick): (Duration, Duration),
        learner: &PeerProgress,
        last: u64,
    ) -> Result<(), String> {
        let PeerProgress { is_active, in_snapshot, matched, .. } = *learner;
        let lacks = last.saturating_sub(matched);
        if self.looked + tick * LOOK_EVERY_TICKS <= now {
            let is_close = is_active && !in_snapshot && lacks <= LACKS_MAX;
            self.in_a_row = if is_close { self.in_a_row + 1 } else { 0 };
            self.looked = now;
        }
        match (is_active, in_snapshot) {
            _ if self.in_a_row >= LOOKS_IN_A_ROW => Ok(()),
            (_, true) => Err("is being sent a snapshot".to_owned()),
            (false, false) => Err("is not heard of".to_owned()),
            (true, false) => Err(format!("lacks {lacks} entries")),
        }
    }
}

#[cfg(test)]
mod tests {
    use sharklock_rangemap::{PeerId, StoreId};

    use super::*;

    const TICK: Duration = Duration::from_millis(100);

    #[test]
    fn it_has_to_be_close_in_three_looks_in_a_row_that_are_two_ticks_apart() {
        let learner = |matched| PeerProgress {
            peer: PeerId(4),
            store: StoreId(4),
            is_voter: false,
            is_leader: false,
            matched,
            is_active: true,
            is_new: false,
            in_snapshot: false,
        };
        let mut looks = CatchingUp::begin(Duration::ZERO);
        let mut ticks = 0;
        let mut look = |learner: PeerProgress| {
            ticks += 1;
            looks.look((TICK * ticks, TICK), &learner, 1_000)
        };
        for _ in 0..4 {
            assert!(look(learner(936)).is_err(), "two looks");
        }
        assert_eq!(look(learner(935)), Err("lacks 65 entries".to_owned()), "no look");
        assert!(look(learner(935)).is_err(), "the third was not close");
        let silent = PeerProgress { is_active: false, ..learner(1_000) };
        assert_eq!(look(silent), Err("is not heard of".to_owned()));
        let filled = PeerProgress { in_snapshot: true, ..learner(1_000) };
        assert_eq!(look(filled), Err("is being sent a snapshot".to_owned()));
        for _ in 0..5 {
            assert!(look(learner(1_000)).is_err());
        }
        assert_eq!(look(learner(936)), Ok(()));
    }
}
