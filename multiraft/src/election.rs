//! Timing of elections, in ticks, without randomness of its own (raft.md, *Elections without
//! randomness*).

use std::time::Duration;

use sharklock_rangemap::{PeerId, RangeId};
use twox_hash::XxHash3_64;

/// Ticks between heartbeats.
pub(crate) const HEARTBEAT_TICKS: usize = 2;
/// A voter listens to nobody who campaigns before it missed its leader for so many ticks.
pub(crate) const TIMEOUT_TICKS_MIN: usize = 10;
/// First number of ticks that is too long.
pub(crate) const TIMEOUT_TICKS_END: usize = 20;
/// The first campaigns after so many ticks: one more than the others need to listen, since the ticks
/// of two stores are up to one apart, and a vote that is asked for too early is not answered at all.
const FIRST_TIMEOUT_TICKS: usize = TIMEOUT_TICKS_MIN + 1;
/// The next campaigns so many ticks later, with few voters: an election takes two rounds and two
/// syncs on a slow disk, too.
pub(crate) const GAP_MAX_TICKS: usize = 3;
/// Any number does, if it is the same everywhere: with this one the stories of `testscripts/` have the
/// leaders that they tell of.
const ORDER_SEED: u64 = 7;

/// The longest time in which a follower that hears nothing of its leader campaigns, if the store
/// ticks every `tick`: whoever counts with the time of an election counts with this (D7).
pub fn election_max(tick: Duration) -> Duration {
    tick * TIMEOUT_TICKS_END as u32
}

/// The voters of a range campaign in this order when their leader falls silent. All of them know what
/// it follows from, so they agree on it, and no two campaign in the same tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    pub range: RangeId,
    pub term: u64,
    /// The leader of the term, if there is one: it has no place in the order.
    pub leader: Option<PeerId>,
}

impl Order {
    /// The election timeout of `peer`: `TIMEOUT_TICKS_MIN <= ticks < TIMEOUT_TICKS_END`. The first in
    /// the order campaigns as soon as the others listen, the next ones later, each after so many
    /// ticks that the one before can have won: no vote is split among voters who agree on the term
    /// and the leader. Where they do not, the next term brings them together.
    ///
    /// The order differs by range and term: a store that dies leaves its ranges to all others. Whoever
    /// is the first and cannot win, because its log is short, costs one gap: the next asks after it.
    pub(crate) fn timeout_ticks(
        &self,
        peer: PeerId,
        voters: impl Iterator<Item = PeerId>,
    ) -> usize {
        let mine = self.place(peer);
        let (mut before, mut others) = (0, 0);
        for other in voters.filter(|other| *other != peer && Some(*other) != self.leader) {
            others += 1;
            before += usize::from(self.place(other) < mine);
        }
        let last = TIMEOUT_TICKS_END - 1;
        let gap = GAP_MAX_TICKS.min((last - FIRST_TIMEOUT_TICKS) / others.max(1));
        last.min(FIRST_TIMEOUT_TICKS + before * gap)
    }

    fn place(&self, peer: PeerId) -> (u64, PeerId) {
        let mut input = [0; 24];
        for (bytes, number) in input.chunks_exact_mut(8).zip([self.range.0, self.term, peer.0]) {
            bytes.copy_from_slice(&number.to_le_bytes());
        }
        (XxHash3_64::oneshot_with_seed(ORDER_SEED, &input), peer)
    }
}

/// Ticks from the last one that is a multiple of [`HEARTBEAT_TICKS`] to the one before the store's tick
/// number `store_ticks`.
pub(crate) fn ticks_behind(store_ticks: u64) -> usize {
    (store_ticks - 1) as usize % HEARTBEAT_TICKS
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn order(number: u64, leader: Option<PeerId>) -> Order {
        Order { range: RangeId(1 + number % 7), term: number / 3, leader }
    }

    fn timeouts(order: Order, voters: u64) -> Vec<usize> {
        let all = || (1..=voters).map(PeerId);
        let followers = all().filter(|peer| Some(*peer) != order.leader);
        followers.map(|peer| order.timeout_ticks(peer, all())).collect()
    }

    #[test]
    fn the_first_campaigns_at_once_and_nobody_together_with_another() {
        for number in 0..1_000 {
            for voters in 2..=9 {
                for leader in [None, Some(PeerId(1 + number % voters))] {
                    let timeouts = timeouts(order(number, leader), voters);
                    let different: BTreeSet<_> = timeouts.iter().collect();
                    assert_eq!(different.len(), timeouts.len(), "{number}: {timeouts:?}");
                    assert_eq!(different.first(), Some(&&FIRST_TIMEOUT_TICKS), "{timeouts:?}");
                }
            }
        }
    }

    #[test]
    fn the_followers_of_three_are_three_ticks_apart() {
        let mut timeouts = timeouts(order(1, Some(PeerId(2))), 3);
        timeouts.sort_unstable();
        assert_eq!(timeouts, [11, 14]);
    }

    #[test]
    fn every_voter_is_the_first_in_some_terms() {
        for voters in [3, 5] {
            let firsts = (0..100).map(|term| {
                let order = Order { range: RangeId(3), term, leader: Some(PeerId(1)) };
                timeouts(order, voters).iter().position(|&ticks| ticks == FIRST_TIMEOUT_TICKS)
            });
            let firsts: BTreeSet<_> = firsts.collect();
            assert_eq!(firsts.len() as u64, voters - 1, "{firsts:?}");
        }
    }

    #[test]
    fn no_timeout_is_longer_than_what_others_count_with() {
        let tick = Duration::from_millis(100);
        for number in 0..1_000 {
            // More voters than there are ticks: the last ones share theirs.
            for voters in 1..30 {
                for ticks in timeouts(order(number, None), voters) {
                    assert!(ticks >= TIMEOUT_TICKS_MIN, "{number}: {ticks}");
                    assert!(tick * ticks as u32 <= election_max(tick), "{number}: {ticks}");
                }
            }
        }
    }
}
