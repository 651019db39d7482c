//! Requests for votes that come before their replica. The replica of a child beside its parent's
//! leader asks at once, and the others apply the split a moment later, or wait for their disks. Were
//! these requests lost, the child would have no leader before the next heartbeat.
//!
//! A request makes no replica (D12): it waits for one, and is stepped at its birth as if it had been
//! late on its way.

use std::collections::BTreeMap;

use sharklock_proto::internal::v1::{MessageType, RangeMessage};
use sharklock_rangemap::{PeerId, RangeId, StoreId};

use super::Store;
use crate::election::TIMEOUT_TICKS_MIN;
use crate::state_machine::StateMachine;

/// Ranges that are remembered: more than are split within a timeout. Whoever asks for another one asks
/// again with its next heartbeat.
const RANGES_MAX: usize = 256;

/// The newest request of each range that has no replica here, and the tick at which it came.
///
/// Invariants: at most [`RANGES_MAX`]; none is older than the shortest election timeout.
#[derive(Default)]
pub(super) struct EarlyVotes(BTreeMap<RangeId, (u64, RangeMessage)>);

impl EarlyVotes {
    fn keep(&mut self, message: RangeMessage, ticks: u64) {
        let range = RangeId(message.range_id);
        if self.0.len() < RANGES_MAX || self.0.contains_key(&range) {
            self.0.insert(range, (ticks, message));
        }
    }

    /// Takes out what waits for this range.
    pub(super) fn take(&mut self, range: RangeId) -> Option<RangeMessage> {
        self.0.remove(&range).map(|(_, message)| message)
    }

    /// Forgets those to which nobody waits for an answer any more.
    pub(super) fn tick(&mut self, ticks: u64) {
        self.0.retain(|_, (came, _)| ticks < *came + TIMEOUT_TICKS_MIN as u64);
    }
}

/// Whether a message asks for a vote. Only such a one is of use to a replica that is to be.
pub fn asks_for_a_vote(message: &RangeMessage) -> bool {
    let asks = [MessageType::MsgRequestPreVote, MessageType::MsgRequestVote];
    let kind = message.message.as_ref().map(|body| body.msg_type);
    asks.iter().any(|asks| kind == Some(i32::from(*asks)))
}

impl<M: StateMachine> Store<M> {
    /// Keeps a message to a replica that is not here, if it asks for a vote and the replica may come
    /// yet. False: it leads to nothing.
    pub(super) fn keep_early_vote(&mut self, message: &RangeMessage) -> bool {
        let (range, peer) = (RangeId(message.range_id), PeerId(message.to_peer));
        let is_ours = message.cluster_id == self.ident.cluster_id
            && StoreId(message.to_store) == self.ident.store
            && StoreId(message.from_store) != self.ident.store;
        let may_come = self.tombstone(range).is_none_or(|buried| buried < peer);
        let is_kept = is_ours && may_come && asks_for_a_vote(message);
        if is_kept {
            self.early_votes.keep(message.clone(), self.ticks);
        }
        is_kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(range: u64, term: u64) -> RangeMessage {
        RangeMessage { range_id: range, version: term, ..RangeMessage::default() }
    }

    #[test]
    fn the_newest_request_of_a_range_is_kept_for_a_timeout_and_of_so_many_ranges() {
        let mut kept = EarlyVotes::default();
        kept.keep(request(8, 6), 100);
        kept.keep(request(8, 7), 101);
        kept.keep(request(9, 6), 105);
        kept.tick(111);
        assert_eq!(kept.take(RangeId(8)), None, "it is ten ticks old");
        assert_eq!(kept.take(RangeId(9)), Some(request(9, 6)));
        for range in 1..=RANGES_MAX as u64 + 1 {
            kept.keep(request(range, 6), 200);
        }
        kept.keep(request(1, 7), 201);
        assert_eq!(kept.take(RangeId(RANGES_MAX as u64 + 1)), None);
        assert_eq!(kept.take(RangeId(1)), Some(request(1, 7)));
    }
}
