//! Timing of elections, in ticks, without randomness of its own (raft.md, *Elections without
//! randomness*).

use std::time::Duration;

use sharklock_proto::Identity;
use sharklock_rangemap::{PeerId, RangeId};
use twox_hash::XxHash3_64;

/// Ticks between heartbeats.
pub(crate) const HEARTBEAT_TICKS: usize = 2;
/// A follower campaigns after this many ticks without its leader, or up to [`TIMEOUT_TICKS_END`].
pub(crate) const TIMEOUT_TICKS_MIN: usize = 10;
/// First number of ticks that is too long.
pub(crate) const TIMEOUT_TICKS_END: usize = 20;

/// The longest time in which a follower that hears nothing of its leader campaigns, if the store
/// ticks every `tick`: whoever counts with the time of an election counts with this (D7).
pub fn election_max(tick: Duration) -> Duration {
    tick * TIMEOUT_TICKS_END as u32
}

/// The seed of the elections of a store: drawn from its identity, so different on every store.
pub fn election_seed(identity: Identity) -> u64 {
    let bytes = identity.to_bytes();
    u64::from_le_bytes(*bytes.first_chunk().expect("an identity has 16 bytes"))
}

/// The inputs of an election timeout. Equal inputs give equal timeouts, which makes a run
/// repeatable; two peers differ by `peer`, and one peer's next try by `campaigns`.
pub(crate) struct Timeout {
    pub seed: u64,
    pub range: RangeId,
    pub peer: PeerId,
    pub term: u64,
    pub campaigns: u64,
}

impl Timeout {
    /// The timeout: `TIMEOUT_TICKS_MIN <= ticks < TIMEOUT_TICKS_END`.
    pub(crate) fn ticks(&self) -> usize {
        let mut input = [0; 32];
        let numbers = [self.range.0, self.peer.0, self.term, self.campaigns];
        for (bytes, number) in input.chunks_exact_mut(8).zip(numbers) {
            bytes.copy_from_slice(&number.to_le_bytes());
        }
        let spread = (TIMEOUT_TICKS_END - TIMEOUT_TICKS_MIN) as u64;
        let extra = XxHash3_64::oneshot_with_seed(self.seed, &input) % spread;
        TIMEOUT_TICKS_MIN + extra as usize
    }
}

/// Ticks that a new leader lacks before the store's tick number `store_ticks` if its heartbeats
/// are to fall on the multiples of [`HEARTBEAT_TICKS`].
pub(crate) fn ticks_behind(store_ticks: u64) -> u64 {
    (store_ticks - 1) % HEARTBEAT_TICKS as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_timeout_is_longer_than_what_others_count_with() {
        let tick = Duration::from_millis(100);
        for number in 0..10_000 {
            let (range, peer) = (RangeId(1 + number % 7), PeerId(1 + number % 5));
            let timeout = Timeout { seed: 9, range, peer, term: number / 3, campaigns: number };
            let ticks = timeout.ticks();
            assert!(ticks >= TIMEOUT_TICKS_MIN, "{number}: {ticks}");
            assert!(tick * ticks as u32 <= election_max(tick), "{number}: {ticks}");
        }
    }
}
