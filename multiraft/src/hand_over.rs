//! How a store that stops lets others lead, so that nobody needs to wait for an election.

use std::time::Duration;

use crate::state_machine::StateMachine;
use crate::store::Store;

/// The hand-over of a store that stops. Its owner asks [`next`](Self::next) what to do until it is
/// over, and goes on with its turns meanwhile: Raft hands over by messages.
#[derive(Clone, Copy, Debug)]
pub struct HandOver {
    deadline: Duration,
    ask_at: Duration,
    ask_again_after: Duration,
}

/// The next step of the owner of a store that hands over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextStep {
    /// Nothing: nobody could lead any more what this store leads. It may stop.
    IsOver,
    /// To stop all the same. Others could lead, and have not taken over: they will elect.
    GiveUp,
    /// To call [`Store::hand_over`] and make a turn.
    Ask,
    /// To wait for whatever comes, up to then at most, and make a turn.
    Wait {
        /// By the owner's clock.
        until: Duration,
    },
}

impl HandOver {
    /// It takes at most as long as an election would, see [`crate::election_max`].
    pub fn begin(now: Duration, within: Duration) -> Self {
        // Raft gives a transfer up after half as long, and one may have been lost.
        Self { deadline: now + within, ask_at: now, ask_again_after: within / 2 }
    }

    /// The next step.
    pub fn next<M: StateMachine>(&mut self, now: Duration, store: &Store<M>) -> NextStep {
        self.step(now, has_heir(store))
    }

    fn step(&mut self, now: Duration, has_heir: bool) -> NextStep {
        if !has_heir {
            return NextStep::IsOver;
        }
        if now >= self.deadline {
            return NextStep::GiveUp;
        }
        if now >= self.ask_at {
            self.ask_at = now + self.ask_again_after;
            return NextStep::Ask;
        }
        NextStep::Wait { until: self.ask_at.min(self.deadline) }
    }
}

/// Whether a range is led here that another store could lead.
fn has_heir<M: StateMachine>(store: &Store<M>) -> bool {
    let here = store.ident().store;
    let could_lead = |range| {
        let peers = store.peers(range);
        peers.iter().any(|peer| peer.store != here && peer.is_voter && peer.is_active)
    };
    store.ranges().into_iter().any(could_lead)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITHIN: Duration = Duration::from_secs(2);

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn it_asks_twice_and_gives_up() {
        let mut hand_over = HandOver::begin(at(500), WITHIN);
        assert_eq!(hand_over.step(at(500), true), NextStep::Ask);
        assert_eq!(hand_over.step(at(500), true), NextStep::Wait { until: at(1_500) });
        assert_eq!(hand_over.step(at(1_499), true), NextStep::Wait { until: at(1_500) });
        assert_eq!(hand_over.step(at(1_500), true), NextStep::Ask);
        assert_eq!(hand_over.step(at(1_600), true), NextStep::Wait { until: at(2_500) });
        assert_eq!(hand_over.step(at(2_500), true), NextStep::GiveUp);
    }

    #[test]
    fn it_is_over_once_nobody_could_take_anything() {
        let mut hand_over = HandOver::begin(at(0), WITHIN);
        assert_eq!(hand_over.step(at(0), true), NextStep::Ask);
        assert_eq!(hand_over.step(at(30), false), NextStep::IsOver);
        assert_eq!(HandOver::begin(at(0), WITHIN).step(at(0), false), NextStep::IsOver);
    }
}
