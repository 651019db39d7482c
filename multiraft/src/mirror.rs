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
    let mut entry = eraftpb::Entry::default();
    entry.entry_type = match proto::EntryType::try_from(record.entry_type) {
        Ok(proto::EntryType::EntryNormal) => eraftpb::EntryType::EntryNormal,
        Ok(proto::EntryType::EntryConfChange) => eraftpb::EntryType::EntryConfChange,
        Ok(proto::EntryType::EntryConfChangeV2) => eraftpb::EntryType::EntryConfChangeV2,
        Err(unknown) => return Err(Unknown::EntryType(unknown.0)),
    };
    entry.term = record.term;
    entry.index = record.index;
    entry.data = record.data;
    entry.context = record.context;
    Ok(entry)
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
    let mut message = eraftpb::Message::default();
    message.msg_type = message_type(record.msg_type)?;
    message.to = record.to;
    message.from = record.from;
    message.term = record.term;
    message.log_term = record.log_term;
    message.index = record.index;
    let entries = record.entries.into_iter().map(entry).collect::<Result<Vec<_>, _>>()?;
    message.set_entries(entries.into());
    message.commit = record.commit;
    if let Some(snapshot) = record.snapshot {
        message.set_snapshot(snapshot_of(snapshot));
    }
    message.reject = record.reject;
    message.reject_hint = record.reject_hint;
    message.context = record.context;
    message.request_snapshot = record.request_snapshot;
    message.commit_term = record.commit_term;
    message.priority = record.priority;
    Ok(message)
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

fn snapshot_of(record: proto::Snapshot) -> eraftpb::Snapshot {
    let mut snapshot = eraftpb::Snapshot::default();
    snapshot.data = record.data;
    if let Some(record) = record.metadata {
        let metadata = snapshot.mut_metadata();
        metadata.index = record.index;
        metadata.term = record.term;
        if let Some(record) = record.conf_state {
            let state = metadata.mut_conf_state();
            state.voters = record.voters;
            state.learners = record.learners;
            state.voters_outgoing = record.voters_outgoing;
            state.learners_next = record.learners_next;
            state.auto_leave = record.auto_leave;
        }
    }
    snapshot
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
