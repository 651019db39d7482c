//! Messages in few words, for traces and scripts.

use std::fmt::Write as _;

use sharklock_proto::internal::v1::{
    Entry, Heartbeat, Message, MessageType, RangeMessage, SnapshotHeader, SnapshotMessage,
    peer_notice::Notice, snapshot_message::Body,
};

use sharklock_rangemap::{Descriptor, Role};

use crate::cluster::Packet;

/// Ranges named in a line of heartbeats; more are counted.
const BEATS_SHOWN: usize = 4;

/// The words for a packet.
pub fn packet(packet: &Packet) -> String {
    match packet {
        Packet::Message(message) => match &message.message {
            Some(body) => format!("r{} {}", message.range_id, body_words(body)),
            None => format!("r{} {}", message.range_id, notice_words(message)),
        },
        Packet::Heartbeats(beats) => {
            let mut words: Vec<_> = beats.beats.iter().take(BEATS_SHOWN).map(beat).collect();
            if beats.beats.len() > BEATS_SHOWN {
                words.push(format!("and {} more", beats.beats.len() - BEATS_SHOWN));
            }
            words.join("; ")
        }
        Packet::Snapshot(piece) => format!("r{} {}", piece.range_id, piece_words(piece)),
    }
}

/// A range in few words: bounds, epoch, members.
pub fn descriptor(descriptor: &Descriptor) -> String {
    let Descriptor { bounds, epoch, replicas, .. } = descriptor;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let members: Vec<_> = replicas
        .iter()
        .map(|member| {
            let mark = match member.role {
                Role::Voter => "",
                Role::Learner => " learns",
                Role::JointIncoming => " comes",
                Role::JointOutgoing => " goes",
            };
            format!("{}{mark}", member.peer)
        })
        .collect();
    format!(
        "[{}..{}) v{} c{}: {}",
        text(&bounds.start),
        text(&bounds.end),
        epoch.version,
        epoch.conf_ver,
        members.join(", ")
    )
}

fn notice_words(message: &RangeMessage) -> String {
    let notice = message.notice.as_ref().and_then(|notice| notice.notice.as_ref());
    match notice.expect("the engine sends bodies or notices") {
        Notice::Absent(_) => "absent".to_owned(),
        Notice::AmIMember(_) => format!("am-i-member c{}", message.conf_ver),
        Notice::Removed(_) => format!("removed c{}", message.conf_ver),
        Notice::Create(create) => {
            let descriptor = create.descriptor.as_ref().expect("it says of which range");
            format!("create v{} c{}", descriptor.version, descriptor.conf_ver)
        }
    }
}

fn piece_words(piece: &SnapshotMessage) -> String {
    match piece.body.as_ref().expect("the engine sends bodies") {
        Body::Header(header) => {
            let at = header.metadata.as_ref().expect("the engine says what it holds");
            let SnapshotHeader { term, bytes, .. } = header;
            let splits = header.splits.iter().map(|it| format!(" r{}", it.child_range_id));
            let splits: String = splits.collect();
            let contains = if splits.is_empty() { "" } else { ", contains the split of" };
            let moves = if header.repairs { "" } else { ", moves" };
            let at = format!("{}@{}", at.index, at.term);
            format!("snapshot t{term} of {at}, {bytes} bytes{moves}{contains}{splits}")
        }
        Body::Chunk(chunk) => {
            format!("chunk {}..{}", chunk.offset, chunk.offset + chunk.data.len() as u64)
        }
        Body::Ack(ack) if ack.installed => "snapshot-installed".to_owned(),
        Body::Ack(ack) => format!("chunk-answer has {}, takes {} more", ack.offset, ack.window),
        Body::Reject(reject) => format!("snapshot-refused {:?}", reject.why()),
        Body::Cancel(_) => "snapshot-cancelled".to_owned(),
    }
}

fn beat(beat: &Heartbeat) -> String {
    let what = if beat.is_response { "beat-answer" } else { "beat" };
    let mut words = format!("r{} {what} t{} c{}", beat.range_id, beat.term, beat.commit);
    if !beat.context.is_empty() {
        write!(words, " read {}", read(&beat.context)).expect("memory");
    }
    words
}

/// The read of a ReadIndex round: its number and term, which the engine puts into its context.
fn read(context: &[u8]) -> String {
    let numbers: Vec<u64> = context
        .chunks(8)
        .map(|bytes| bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
        .collect();
    match numbers[..] {
        [read, term] if context.len() == 16 => format!("{read}@{term}"),
        _ => format!("{context:02x?}"),
    }
}

fn body_words(body: &Message) -> String {
    use MessageType as Kind;
    let Message { term, index, log_term, commit, reject, reject_hint, .. } = body;
    let refused = if *reject { "no" } else { "yes" };
    match Kind::try_from(body.msg_type) {
        Ok(Kind::MsgAppend) => {
            let entries: Vec<_> = body.entries.iter().map(entry).collect();
            format!("append t{term} after {index}@{log_term} [{}] c{commit}", entries.join(" "))
        }
        Ok(Kind::MsgAppendResponse) if *reject => {
            format!("append-answer t{term} no to {index}, has {reject_hint}@{log_term}")
        }
        Ok(Kind::MsgAppendResponse) => format!("append-answer t{term} has {index} c{commit}"),
        Ok(Kind::MsgRequestVote) => format!("vote? t{term} log {index}@{log_term}"),
        Ok(Kind::MsgRequestPreVote) => format!("pre-vote? t{term} log {index}@{log_term}"),
        Ok(Kind::MsgRequestVoteResponse) => format!("vote t{term} {refused}"),
        Ok(Kind::MsgRequestPreVoteResponse) => format!("pre-vote t{term} {refused}"),
        Ok(kind) => format!("{kind:?} t{term} i{index} c{commit}"),
        Err(unknown) => format!("type {}", unknown.0),
    }
}

fn entry(entry: &Entry) -> String {
    let what = match entry.context.first() {
        Some(2) => "split".into(),
        Some(3) => "members".into(),
        _ => String::from_utf8_lossy(&entry.data),
    };
    format!("{}@{}{what}", entry.index, entry.term)
}
