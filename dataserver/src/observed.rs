//! What a turn has to tell of single locks and entries: how long they took, how many stood in a queue,
//! and the spans of calls that somebody traces. The core reads no clock for it, and counts nothing: its
//! owner does.

use std::{collections::VecDeque, time::Duration};

use sharklock_locktable::{Change, Outcome, Reply};
use sharklock_multiraft::{EntryAt, Proposed as Place};
use sharklock_proto::trace::Span;

use crate::{
    front::Asker,
    lease_clock::{LeaseClock, LeaseKey},
};

/// See the module. Of locks in ranges that this store leads, so that figures of all stores add up.
#[derive(Debug, Default)]
pub struct Observed {
    /// Grants from the queue: from the place in the queue to the grant, where this leader has seen both.
    pub waits: Vec<Duration>,
    /// Holds that ended: from the grant to the end, where this leader has seen both.
    pub holds: Vec<Duration>,
    /// Grants from the queue that a call has led to, a release above all: since its receipt.
    pub hand_overs: Vec<Duration>,
    /// Entries that this leader has proposed: until they were applied.
    pub commits: Vec<Duration>,
    /// Places that acquisitions took in queues; 1 is next.
    pub places: Vec<u32>,
    /// Of traced calls, by the worker's clock. One without an end goes on until its answer is sent.
    pub spans: Vec<Span>,
}

impl Observed {
    /// Looks at an outcome before its leader's `clock` follows it.
    pub(crate) fn outcome(
        &mut self,
        now: Duration,
        clock: &LeaseClock,
        asker: &Asker,
        outcome: &Outcome,
    ) {
        for change in &outcome.changes {
            match change {
                // A repeated acquire is told its place as well, and begins nothing.
                Change::Queued { .. } => {
                    if let (Asker::Acquire { .. }, Reply::Queued { place, .. }) =
                        (asker, &outcome.reply)
                    {
                        self.places.push(*place);
                    }
                }
                Change::Granted { acquisition, from_queue: true, .. } => {
                    let since = clock.since(LeaseKey::Waiter(*acquisition));
                    self.waits.extend(since.map(|since| now.saturating_sub(since)));
                    if let Asker::Call { received, .. } = asker {
                        self.hand_overs.push(now.saturating_sub(*received));
                    }
                }
                Change::HoldEnded { token, .. } => {
                    let since = clock.since(LeaseKey::Hold(*token));
                    self.holds.extend(since.map(|since| now.saturating_sub(since)));
                }
                _ => {}
            }
        }
    }
}

/// When the entries were proposed that a leader has in its log.
///
/// Invariants: indices grow.
#[derive(Debug, Default)]
pub struct Proposed(VecDeque<(Place, Duration)>);

impl Proposed {
    /// An entry was proposed.
    pub fn push(&mut self, at: Place, now: Duration) {
        self.0.push_back((at, now));
    }

    /// The entry at this place was applied: when it was proposed, if it is the one that was.
    pub fn applied(&mut self, at: EntryAt) -> Option<Duration> {
        while let Some((place, proposed)) = self.0.front().copied() {
            if place.index > at.index {
                break;
            }
            self.0.pop_front();
            if (place.index, place.term) == (at.index, at.term) {
                return Some(proposed);
            }
        }
        None
    }

    /// This replica leads no more.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_timed_where_it_is_the_one_that_was_proposed() {
        let at = |index, term| EntryAt { index, term };
        let place = |index, term| Place { index, term };
        let s = Duration::from_secs;
        let mut proposed = Proposed::default();
        for (index, second) in [(5, 1), (6, 2), (8, 3)] {
            proposed.push(place(index, 2), s(second));
        }
        assert_eq!(proposed.applied(at(4, 1)), None, "somebody else's");
        assert_eq!(proposed.applied(at(5, 2)), Some(s(1)));
        assert_eq!(proposed.applied(at(6, 3)), None, "another leader's has its place");
        assert_eq!(proposed.applied(at(7, 2)), None, "no command of somebody");
        assert_eq!(proposed.applied(at(8, 2)), Some(s(3)));
        assert_eq!(proposed.applied(at(9, 2)), None);
    }
}
