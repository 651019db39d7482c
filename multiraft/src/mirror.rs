//! raft-rs's messages and entries, field by field, as the records of `raft.proto` and back.
//!
//! The protobuf 2 inside raft-rs thus never parses a byte from a network or a disk (D2). Entry
//! data is `Bytes` on both sides: a conversion costs a reference count, not a copy.

use raft::eraftpb;
use sharklock_proto::internal::v1 as proto;

/// A number that this version knows no meaning of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unknown {
    #[error("{0} is no message type")]
    MessageType(i32),
    #[error("{0} is no entry type")]
    EntryType(i32),
}

pub(crate) fn entry_record(entry: &eraftpb::Entry) -> proto::Entry {
    proto::Entry {
        entry_type: entry_type_record(entry.entry_type).into(),
        term: entry.term,
        index: entry.index,
        data: entry.data.clone(),
        context: entry.context.clone(),
    }
}

pub(crate) fn entry(record: proto::Entry) -> Result<eraftpb::Entry, Unknown> {
    let entry_type = match proto::EntryType::try_from(record.entry_type) {
        Ok(proto::EntryType::EntryNormal) => eraftpb::EntryType::EntryNormal,
        Ok(proto::EntryType::EntryConfChange) => eraftpb::EntryType::EntryConfChange,
        Ok(proto::EntryType::EntryConfChangeV2) => eraftpb::EntryType::EntryConfChangeV2,
        Err(unknown) => return Err(Unknown::EntryType(unknown.0)),
    };
    Ok(eraftpb::Entry {
        entry_type,
        term: record.term,
        index: record.index,
        data: record.data,
        context: record.context,
        ..eraftpb::Entry::default()
    })
}

pub(crate) fn message_record(message: eraftpb::Message) -> proto::Message {
    proto::Message {
        msg_type: message_type_record(message.msg_type).into(),
        to: message.to,
        from: message.from,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        entries: message.entries.iter().map(entry_record).collect(),
        commit: message.commit,
        snapshot: message.snapshot.as_ref().map(snapshot_record),
        reject: message.reject,
        reject_hint: message.reject_hint,
        context: message.context,
        request_snapshot: message.request_snapshot,
        commit_term: message.commit_term,
        priority: message.priority,
    }
}

pub(crate) fn message(record: proto::Message) -> Result<eraftpb::Message, Unknown> {
    let entries = record.entries.into_iter().map(entry).collect::<Result<Vec<_>, _>>()?;
    Ok(eraftpb::Message {
        msg_type: message_type(record.msg_type)?,
        to: record.to,
        from: record.from,
        term: record.term,
        log_term: record.log_term,
        index: record.index,
        entries: entries.into(),
        commit: record.commit,
        snapshot: record.snapshot.map(snapshot).into(),
        reject: record.reject,
        reject_hint: record.reject_hint,
        context: record.context,
        request_snapshot: record.request_snapshot,
        commit_term: record.commit_term,
        priority: record.priority,
        ..eraftpb::Message::default()
    })
}

fn snapshot_record(snapshot: &eraftpb::Snapshot) -> proto::Snapshot {
    proto::Snapshot {
        data: snapshot.data.clone(),
        metadata: snapshot.metadata.as_ref().map(|metadata| proto::SnapshotMetadata {
            conf_state: metadata.conf_state.as_ref().map(|state| proto::ConfState {
                voters: state.voters.clone(),
                learners: state.learners.clone(),
                voters_outgoing: state.voters_outgoing.clone(),
                learners_next: state.learners_next.clone(),
                auto_leave: state.auto_leave,
            }),
            index: metadata.index,
            term: metadata.term,
        }),
    }
}

fn snapshot(record: proto::Snapshot) -> eraftpb::Snapshot {
    let metadata = record.metadata.map(|metadata| eraftpb::SnapshotMetadata {
        conf_state: metadata.conf_state.map(conf_state).into(),
        index: metadata.index,
        term: metadata.term,
        ..eraftpb::SnapshotMetadata::default()
    });
    eraftpb::Snapshot {
        data: record.data,
        metadata: metadata.into(),
        ..eraftpb::Snapshot::default()
    }
}

fn conf_state(record: proto::ConfState) -> eraftpb::ConfState {
    eraftpb::ConfState {
        voters: record.voters,
        learners: record.learners,
        voters_outgoing: record.voters_outgoing,
        learners_next: record.learners_next,
        auto_leave: record.auto_leave,
        ..eraftpb::ConfState::default()
    }
}

fn entry_type_record(kind: eraftpb::EntryType) -> proto::EntryType {
    match kind {
        eraftpb::EntryType::EntryNormal => proto::EntryType::EntryNormal,
        eraftpb::EntryType::EntryConfChange => proto::EntryType::EntryConfChange,
        eraftpb::EntryType::EntryConfChangeV2 => proto::EntryType::EntryConfChangeV2,
    }
}

fn message_type_record(kind: eraftpb::MessageType) -> proto::MessageType {
    use eraftpb::MessageType as Raft;
    use proto::MessageType as Record;
    match kind {
        Raft::MsgHup => Record::MsgHup,
        Raft::MsgBeat => Record::MsgBeat,
        Raft::MsgPropose => Record::MsgPropose,
        Raft::MsgAppend => Record::MsgAppend,
        Raft::MsgAppendResponse => Record::MsgAppendResponse,
        Raft::MsgRequestVote => Record::MsgRequestVote,
        Raft::MsgRequestVoteResponse => Record::MsgRequestVoteResponse,
        Raft::MsgSnapshot => Record::MsgSnapshot,
        Raft::MsgHeartbeat => Record::MsgHeartbeat,
        Raft::MsgHeartbeatResponse => Record::MsgHeartbeatResponse,
        Raft::MsgUnreachable => Record::MsgUnreachable,
        Raft::MsgSnapStatus => Record::MsgSnapStatus,
        Raft::MsgCheckQuorum => Record::MsgCheckQuorum,
        Raft::MsgTransferLeader => Record::MsgTransferLeader,
        Raft::MsgTimeoutNow => Record::MsgTimeoutNow,
        Raft::MsgReadIndex => Record::MsgReadIndex,
        Raft::MsgReadIndexResp => Record::MsgReadIndexResp,
        Raft::MsgRequestPreVote => Record::MsgRequestPreVote,
        Raft::MsgRequestPreVoteResponse => Record::MsgRequestPreVoteResponse,
    }
}

fn message_type(kind: i32) -> Result<eraftpb::MessageType, Unknown> {
    use eraftpb::MessageType as Raft;
    use proto::MessageType as Record;
    let kind = Record::try_from(kind).map_err(|unknown| Unknown::MessageType(unknown.0))?;
    Ok(match kind {
        Record::MsgHup => Raft::MsgHup,
        Record::MsgBeat => Raft::MsgBeat,
        Record::MsgPropose => Raft::MsgPropose,
        Record::MsgAppend => Raft::MsgAppend,
        Record::MsgAppendResponse => Raft::MsgAppendResponse,
        Record::MsgRequestVote => Raft::MsgRequestVote,
        Record::MsgRequestVoteResponse => Raft::MsgRequestVoteResponse,
        Record::MsgSnapshot => Raft::MsgSnapshot,
        Record::MsgHeartbeat => Raft::MsgHeartbeat,
        Record::MsgHeartbeatResponse => Raft::MsgHeartbeatResponse,
        Record::MsgUnreachable => Raft::MsgUnreachable,
        Record::MsgSnapStatus => Raft::MsgSnapStatus,
        Record::MsgCheckQuorum => Raft::MsgCheckQuorum,
        Record::MsgTransferLeader => Raft::MsgTransferLeader,
        Record::MsgTimeoutNow => Raft::MsgTimeoutNow,
        Record::MsgReadIndex => Raft::MsgReadIndex,
        Record::MsgReadIndexResp => Raft::MsgReadIndexResp,
        Record::MsgRequestPreVote => Raft::MsgRequestPreVote,
        Record::MsgRequestPreVoteResponse => Raft::MsgRequestPreVoteResponse,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every field set, each to a value of its own.
    fn full() -> proto::Message {
        let entry = |entry_type, index| proto::Entry {
            entry_type,
            term: 21,
            index,
            data: vec![23; 3].into(),
            context: vec![24].into(),
        };
        let conf_state = proto::ConfState {
            voters: vec![31, 32],
            learners: vec![33],
            voters_outgoing: vec![34],
            learners_next: vec![35],
            auto_leave: true,
        };
        let metadata =
            proto::SnapshotMetadata { conf_state: Some(conf_state), index: 36, term: 37 };
        proto::Message {
            msg_type: 0,
            to: 1,
            from: 2,
            term: 3,
            log_term: 4,
            index: 5,
            entries: vec![entry(0, 6), entry(1, 7), entry(2, 8)],
            commit: 9,
            snapshot: Some(proto::Snapshot { data: vec![38].into(), metadata: Some(metadata) }),
            reject: true,
            reject_hint: 10,
            context: vec![11].into(),
            request_snapshot: 12,
            priority: -13,
            commit_term: 14,
        }
    }

    #[test]
    fn no_field_is_lost_either_way() {
        for msg_type in 0..=18 {
            let record = proto::Message { msg_type, ..full() };
            let there = message(record.clone()).expect("the types are known");
            assert_eq!(message_record(there), record);
        }
        let empty = proto::Message::default();
        let there = message(empty.clone()).expect("the type is known");
        assert_eq!(message_record(there), empty);
    }

    #[test]
    fn unknown_types_are_refused() {
        let unknown = message(proto::Message { msg_type: 19, ..full() });
        assert_eq!(unknown, Err(Unknown::MessageType(19)));
        let unknown = entry(proto::Entry { entry_type: 3, ..proto::Entry::default() });
        assert_eq!(unknown, Err(Unknown::EntryType(3)));
    }
}
