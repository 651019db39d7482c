//! The messages of a transfer: who speaks to whom, and what a header says.

use std::cmp::Ordering;

use bytes::Bytes;
use sharklock_proto::internal::v1::{SnapshotHeader, SnapshotMessage, snapshot_message::Body};
use sharklock_rangemap::{Descriptor, PeerId, RangeId, StoreId};

use crate::guard::{Dropped, NUMBER_MAX};
use crate::range_state;
use crate::replica::Address;
use crate::split::SplitMark;
use crate::state_machine::EntryAt;

/// The two ends of a transfer as one of them sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    pub range: RangeId,
    pub my_store: StoreId,
    pub my_peer: PeerId,
    pub other_store: StoreId,
    pub other_peer: PeerId,
}

impl Ends {
    pub(crate) fn message(self, cluster_id: &Bytes, transfer: u64, body: Body) -> SnapshotMessage {
        SnapshotMessage {
            cluster_id: cluster_id.clone(),
            range_id: self.range.0,
            from_store: self.my_store.0,
            to_store: self.other_store.0,
            from_peer: self.my_peer.0,
            to_peer: self.other_peer.0,
            transfer,
            body: Some(body),
        }
    }
}

/// Bits of a transfer's number that its term leaves free, until a store has begun as many.
const TRANSFER_BITS: u32 = 20;

/// The number of the transfer that a store begins as its `begun`th in its life. No other one has it
/// from the same store to the same replica: a store leads a term in one life only.
pub(crate) fn transfer(term: u64, begun: u64) -> u64 {
    term.wrapping_shl(TRANSFER_BITS).wrapping_add(begun)
}

/// Whether a transfer of one term and number was begun before another. Within a term the numbers
/// grow, and may pass the largest one.
pub(crate) fn is_before((term, transfer): (u64, u64), (of_term, of_transfer): (u64, u64)) -> bool {
    match term.cmp(&of_term) {
        Ordering::Less => true,
        Ordering::Equal => (1..1 << 63).contains(&of_transfer.wrapping_sub(transfer)),
        Ordering::Greater => false,
    }
}

/// Who sent it, if it is for this replica and can be from another of its range. The sender need not
/// stand in the descriptor here: who was away may not know its leader yet.
pub(crate) fn check_envelope(
    address: &Address,
    descriptor: &Descriptor,
    message: &SnapshotMessage,
) -> Result<Ends, Dropped> {
    if message.to_store != address.store.0 || message.to_peer != address.peer.0 {
        return Err(Dropped::NotForMe(PeerId(message.to_peer)));
    }
    let (peer, store) = (PeerId(message.from_peer), StoreId(message.from_store));
    let known = descriptor.replicas.iter().find(|member| member.peer == peer);
    let lives_elsewhere = known.is_some_and(|member| member.store != store);
    if peer.0 == 0
        || store.0 == 0
        || peer == address.peer
        || store == address.store
        || lives_elsewhere
    {
        return Err(Dropped::WrongSender { peer, store });
    }
    Ok(Ends {
        range: descriptor.range,
        my_store: address.store,
        my_peer: address.peer,
        other_store: store,
        other_peer: peer,
    })
}

/// The contents of a snapshot, but for the state itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Announced {
    /// The entry up to which the state has the log applied.
    pub at: EntryAt,
    /// The range there.
    pub descriptor: Descriptor,
    /// Splits in it whose children may not live yet.
    pub splits: Vec<SplitMark>,
}

/// What a header announces, if it is one that a member of this replica's range can have sent.
pub(crate) fn announced(header: &SnapshotHeader, ends: Ends) -> Option<Announced> {
    let metadata = header.metadata.as_ref()?;
    let at = EntryAt { index: metadata.index, term: metadata.term };
    let descriptor = Descriptor::try_from(header.descriptor.as_ref()?).ok()?;
    let has = |store, peer| descriptor.on_store(store).is_some_and(|member| member.peer == peer);
    let splits: Vec<_> = header.splits.iter().map(range_state::mark).collect();
    let fits = descriptor.range == ends.range
        && has(ends.other_store, ends.other_peer)
        && has(ends.my_store, ends.my_peer)
        && (1..=NUMBER_MAX).contains(&at.index)
        && (1..=header.term).contains(&at.term)
        && header.term <= NUMBER_MAX
        && header.bytes > 0
        && splits.iter().all(|split| split.at.index <= at.index && split.at.term <= at.term);
    fits.then_some(Announced { at, descriptor, splits })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The receiver takes the newer one. It was "busy" with the older one where a number had begun
    /// anew within its term, or the term's share of it had left its upper end.
    #[test]
    fn numbers_of_transfers_grow_over_every_end_that_they_have() {
        for term in [1, 2, 1 << 43, (1 << 44) - 1, 1 << 44, NUMBER_MAX] {
            let begun = [1, 2, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 1 << 40];
            let numbers = begun.map(|begun| (term, transfer(term, begun)));
            for pair in numbers.windows(2) {
                assert!(is_before(pair[0], pair[1]), "{pair:?}");
                assert!(!is_before(pair[1], pair[0]), "{pair:?}");
            }
            assert!(!is_before(numbers[0], numbers[0]));
            // Of another store's next term, which has begun none yet.
            assert!(is_before(numbers[5], (term + 1, transfer(term + 1, 1))));
        }
    }
}
