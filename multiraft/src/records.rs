//! What stands at each key: one byte of format version, then a record of `records.proto`.
//!
//! Conversions between the records and the engine's types are here and in `mirror.rs` only.

use bytes::Bytes;
use prost::Message;
use raft::eraftpb;
use sharklock_proto::internal::v1 as proto;
use sharklock_rangemap::{Bounds, Descriptor, Epoch, PeerId, RangeId, Replica, Role, StoreId};

/// Version of the values that this program writes, and the newest that it reads.
pub(crate) const FORMAT: u8 = 1;

/// Why a stored value cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadValue {
    #[error("it is empty")]
    Empty,
    #[error("it has format {0}, and this program reads no format newer than {FORMAT}")]
    Newer(u8),
    #[error("it does not decode: {0}")]
    Broken(#[from] prost::DecodeError),
    #[error("{0}")]
    Nonsense(String),
}

/// Puts the format version before a record.
pub(crate) fn seal(record: &impl Message) -> Vec<u8> {
    let mut value = Vec::with_capacity(1 + record.encoded_len());
    value.push(FORMAT);
    record.encode_raw(&mut value);
    value
}

/// Puts the format version before bytes of the machine.
pub(crate) fn seal_row(mut row: Vec<u8>) -> Vec<u8> {
    row.insert(0, FORMAT);
    row
}

/// The record after the format version. Its byte fields keep sharing `value`.
pub(crate) fn open<R: Message + Default>(value: Vec<u8>) -> Result<R, BadValue> {
    check_format(&value)?;
    let value = Bytes::from(value);
    Ok(R::decode(value.slice(1..))?)
}

/// The machine's bytes after the format version.
pub(crate) fn open_row(mut value: Vec<u8>) -> Result<Vec<u8>, BadValue> {
    check_format(&value)?;
    value.remove(0);
    Ok(value)
}

fn check_format(value: &[u8]) -> Result<(), BadValue> {
    match value.first() {
        None => Err(BadValue::Empty),
        Some(&FORMAT) => Ok(()),
        Some(&format) if format > FORMAT => Err(BadValue::Newer(format)),
        Some(format) => Err(BadValue::Nonsense(format!("{format} is no format version"))),
    }
}

pub(crate) fn hard_state_record(state: &eraftpb::HardState) -> proto::HardStateRecord {
    proto::HardStateRecord { term: state.term, vote: state.vote, commit: state.commit }
}

pub(crate) fn hard_state(record: &proto::HardStateRecord) -> eraftpb::HardState {
    eraftpb::HardState {
        term: record.term,
        vote: record.vote,
        commit: record.commit,
        ..eraftpb::HardState::default()
    }
}

/// The Raft configuration that a descriptor describes.
pub(crate) fn conf_state(descriptor: &Descriptor) -> eraftpb::ConfState {
    let peers = |role: Role| {
        let mut peers: Vec<u64> = descriptor
            .replicas
            .iter()
            .filter(|replica| replica.role == role)
            .map(|replica| replica.peer.0)
            .collect();
        peers.sort_unstable();
        peers
    };
    eraftpb::ConfState {
        voters: peers(Role::Voter),
        learners: peers(Role::Learner),
        ..eraftpb::ConfState::default()
    }
}

/// Members in ascending order: raft-rs lists them in that of its hash sets, and equal
/// configurations must make equal records.
pub(crate) fn conf_state_record(state: &eraftpb::ConfState) -> proto::ConfStateRecord {
    let sorted = |peers: &[u64]| {
        let mut peers = peers.to_vec();
        peers.sort_unstable();
        peers
    };
    proto::ConfStateRecord {
        voters: sorted(&state.voters),
        learners: sorted(&state.learners),
        voters_outgoing: sorted(&state.voters_outgoing),
        learners_next: sorted(&state.learners_next),
        auto_leave: state.auto_leave,
    }
}

pub(crate) fn descriptor_record(descriptor: &Descriptor) -> proto::DescriptorRecord {
    proto::DescriptorRecord {
        range_id: descriptor.range.0,
        start: Bytes::copy_from_slice(&descriptor.bounds.start),
        end: Bytes::copy_from_slice(&descriptor.bounds.end),
        conf_ver: descriptor.epoch.conf_ver,
        version: descriptor.epoch.version,
        replicas: descriptor
            .replicas
            .iter()
            .map(|replica| proto::ReplicaRecord {
                peer_id: replica.peer.0,
                store_id: replica.store.0,
                role: match replica.role {
                    Role::Voter => 1,
                    Role::Learner => 2,
                },
            })
            .collect(),
    }
}

pub(crate) fn descriptor(record: &proto::DescriptorRecord) -> Result<Descriptor, BadValue> {
    let replicas = record
        .replicas
        .iter()
        .map(|replica| {
            let role = match replica.role {
                1 => Role::Voter,
                2 => Role::Learner,
                role => return Err(BadValue::Nonsense(format!("{role} is no role of a replica"))),
            };
            let (peer, store) = (PeerId(replica.peer_id), StoreId(replica.store_id));
            Ok(Replica { peer, store, role })
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Descriptor {
        range: RangeId(record.range_id),
        bounds: Bounds { start: record.start.to_vec(), end: record.end.to_vec() },
        epoch: Epoch { version: record.version, conf_ver: record.conf_ver },
        replicas,
    })
}
