//! The messages of a transfer: who speaks to whom, and what a header says.

use std::cmp::Ordering;

use bytes::Bytes;
use sharklock_proto::internal::v1::{
    ConfState, RangeDescriptor, SnapshotHeader, SnapshotMessage, SnapshotMetadata,
    snapshot_message::Body,
};
use sharklock_rangemap::{Descriptor, PeerId, RangeId, StoreId};

use crate::guard::{Dropped, NUMBER_MAX};
use crate::records;
use crate::replica::Address;
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

/// Who sent it, if it is for this replica and from another of its range.
pub(crate) fn check_envelope(
    address: &Address,
    descriptor: &Descriptor,
    message: &SnapshotMessage,
) -> Result<Ends, Dropped> {
    if message.to_store != address.store.0 || message.to_peer != address.peer.0 {
        return Err(Dropped::NotForMe(PeerId(message.to_peer)));
    }
    let (peer, store) = (PeerId(message.from_peer), StoreId(message.from_store));
    let member = descriptor.replicas.iter().find(|member| member.peer == peer);
    match member {
        None => Err(Dropped::NotAMember(peer)),
        Some(member) if member.store != store || peer == address.peer => {
            Err(Dropped::WrongSender { peer, store })
        }
        Some(_) => Ok(Ends {
            range: descriptor.range,
            my_store: address.store,
            my_peer: address.peer,
            other_store: store,
            other_peer: peer,
        }),
    }
}

pub(crate) fn metadata(descriptor: &Descriptor, at: EntryAt) -> SnapshotMetadata {
    let members = records::conf_state(descriptor);
    let conf_state = ConfState {
        voters: members.voters,
        learners: members.learners,
        voters_outgoing: members.voters_outgoing,
        learners_next: members.learners_next,
        auto_leave: members.auto_leave,
    };
    SnapshotMetadata { conf_state: Some(conf_state), index: at.index, term: at.term }
}

/// Where the state that a header announces has the log applied, if the header is one that another
/// replica of `mine` can have sent. Membership is fixed, so its descriptor is mine.
pub(crate) fn applied_at(header: &SnapshotHeader, mine: &Descriptor) -> Option<EntryAt> {
    let announced = header.metadata.as_ref()?;
    let at = EntryAt { index: announced.index, term: announced.term };
    let fits = *announced == metadata(mine, at)
        && header.descriptor.as_ref() == Some(&RangeDescriptor::from(mine))
        && (1..=NUMBER_MAX).contains(&at.index)
        && (1..=header.term).contains(&at.term)
        && header.term <= NUMBER_MAX
        && header.bytes > 0;
    fits.then_some(at)
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
