//! The end of a range's quarantine, which its leader counts from its promotion on, and anew whenever
//! another one begins to lead: like all times here it is never over too early.

use std::time::Duration;

use sharklock_locktable::{Command, EndQuarantine, Quarantine};

use super::{LeaseClock, with_drift};

/// The longest ttl that a gateway lets in (D7).
pub const TTL_MAX: Duration = Duration::from_secs(600);

impl LeaseClock {
    /// The range of this new leader is in quarantine, or is not. Whoever held a lease of the lost entries
    /// counts it for a ttl at most from before the recovery, and this leader leads since then only.
    pub fn in_quarantine(self, now: Duration, quarantine: Quarantine) -> Self {
        let quarantine = match quarantine {
            Quarantine::None => None,
            Quarantine::Waits => Some(now + self.election_max + with_drift(TTL_MAX)),
            Quarantine::Ends => Some(now),
        };
        Self { quarantine, ..self }
    }

    /// For how long at most the range grants nothing; `None`: it grants, or is about to.
    pub fn quarantine_left(&self, now: Duration) -> Option<Duration> {
        self.quarantine.map(|until| until.saturating_sub(now))
    }

    pub(super) fn quarantine_due(&mut self, now: Duration) -> Option<Command> {
        self.quarantine.take_if(|until| *until <= now)?;
        Some(Command::EndQuarantine(EndQuarantine { proposer_term: self.term }))
    }
}

#[cfg(test)]
mod tests {
    use sharklock_locktable::Change;
    use sharklock_rangemap::Bounds;

    use super::*;

    const ELECTION: Duration = Duration::from_secs(2);
    /// 600 s, a hundredth more, and an election.
    const WHOLE: Duration = Duration::from_secs(608);

    fn clock(at: Duration, quarantine: Quarantine) -> LeaseClock {
        LeaseClock::inheriting(at, 7, ELECTION, vec![]).in_quarantine(at, quarantine)
    }

    fn end() -> Vec<Command> {
        vec![Command::EndQuarantine(EndQuarantine { proposer_term: 7 })]
    }

    #[test]
    fn a_quarantine_lasts_for_the_longest_lease_since_the_promotion_and_is_asked_to_end_once() {
        let at = Duration::from_secs(50);
        let mut clock = clock(at, Quarantine::Waits);
        assert_eq!(clock.quarantine_left(at), Some(WHOLE));
        assert_eq!(clock.next_alarm(), Some(at + WHOLE));
        assert_eq!(clock.due(at + WHOLE - Duration::from_millis(1)), vec![]);
        assert_eq!(clock.due(at + WHOLE), end());
        assert_eq!(clock.due(at + WHOLE), vec![]);
    }

    #[test]
    fn what_is_left_of_it_is_asked_for_again_also_where_a_split_came_first() {
        let at = Duration::from_secs(50);
        let mut clock = clock(at, Quarantine::Ends);
        assert_eq!(clock.due(at), end(), "another leader has waited, or nobody wants to");
        clock.observe(at, &Change::QuarantineEnds { is_over: false });
        let again = clock.due(at);
        assert_eq!(again, end());
        clock.not_applied(at, &again[0], &Bounds::ALL);
        assert_eq!(clock.due(at), end());
        clock.observe(at, &Change::QuarantineEnds { is_over: true });
        assert_eq!((clock.due(at), clock.quarantine_left(at)), (vec![], None));
    }
}
