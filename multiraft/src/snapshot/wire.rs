//! The messages of a transfer: who speaks to whom, and what a header says.

use bytes::Bytes;
use sharklock_proto::internal::v1::{
    ConfState, SnapshotDescriptor, SnapshotHeader, SnapshotMessage, SnapshotMetadata,
    SnapshotReplica, snapshot_message::Body,
};
use sharklock_rangemap::{Descriptor, PeerId, RangeId, Role, StoreId};

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
    let conf_state =
        ConfState { voters: members.voters, learners: members.learners, ..ConfState::default() };
    SnapshotMetadata { conf_state: Some(conf_state), index: at.index, term: at.term }
}

pub(crate) fn descriptor(descriptor: &Descriptor) -> SnapshotDescriptor {
    let replicas = descriptor.replicas.iter().map(|replica| SnapshotReplica {
        peer_id: replica.peer.0,
        store_id: replica.store.0,
        role: match replica.role {
            Role::Voter => 1,
            Role::Learner => 2,
        },
    });
    SnapshotDescriptor {
        start: Bytes::copy_from_slice(&descriptor.bounds.start),
        end: Bytes::copy_from_slice(&descriptor.bounds.end),
        conf_ver: descriptor.epoch.conf_ver,
        version: descriptor.epoch.version,
        replicas: replicas.collect(),
    }
}

/// Where the state that a header announces has the log applied, if the header is one that another
/// replica of `mine` can have sent. Membership is fixed, so its descriptor is mine.
pub(crate) fn applied_at(header: &SnapshotHeader, mine: &Descriptor) -> Option<EntryAt> {
    let announced = header.metadata.as_ref()?;
    let at = EntryAt { index: announced.index, term: announced.term };
    let fits = *announced == metadata(mine, at)
        && header.descriptor.as_ref() == Some(&descriptor(mine))
        && (1..=NUMBER_MAX).contains(&at.index)
        && (1..=header.term).contains(&at.term)
        && header.term <= NUMBER_MAX
        && header.bytes > 0;
    fits.then_some(at)
}
