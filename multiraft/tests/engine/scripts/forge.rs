//! Messages that no honest peer sends, or not now.

use bytes::Bytes;
use sharklock_proto::internal::v1::{
    self as proto, Entry, EntryType, Heartbeat, Heartbeats, MessageType, RangeMessage,
};

use super::line::{Line, place};
use crate::tally::put;

const KINDS: &[(&str, MessageType)] = &[
    ("append", MessageType::MsgAppend),
    ("append-answer", MessageType::MsgAppendResponse),
    ("vote?", MessageType::MsgRequestVote),
    ("vote", MessageType::MsgRequestVoteResponse),
    ("pre-vote?", MessageType::MsgRequestPreVote),
    ("pre-vote", MessageType::MsgRequestPreVoteResponse),
    ("beat", MessageType::MsgHeartbeat),
    ("beat-answer", MessageType::MsgHeartbeatResponse),
    ("propose", MessageType::MsgPropose),
    ("read-index", MessageType::MsgReadIndex),
    ("read-index-answer", MessageType::MsgReadIndexResp),
    ("transfer-leader", MessageType::MsgTransferLeader),
    ("timeout-now", MessageType::MsgTimeoutNow),
    ("snapshot", MessageType::MsgSnapshot),
    ("hup", MessageType::MsgHup),
    ("local-beat", MessageType::MsgBeat),
    ("unreachable", MessageType::MsgUnreachable),
    ("snap-status", MessageType::MsgSnapStatus),
    ("check-quorum", MessageType::MsgCheckQuorum),
];

/// `KIND from=STORE to=STORE t=TERM ...`. Fields that are not given are as an honest peer would
/// have them.
pub fn message(line: &Line<'_>) -> RangeMessage {
    let (from, to) = (line.number("from"), line.number("to"));
    let from_peer = line.option("from_peer").unwrap_or(100 + from);
    let to_peer = line.option("to_peer").unwrap_or(100 + to);
    let kind = line.words.first().map(|word| {
        let found = KINDS.iter().find(|(name, _)| name == word);
        i32::from(found.unwrap_or_else(|| panic!("{word}: no such message")).1)
    });
    let after = line.option::<String>("after").map_or((0, 0), |text| place(&text));
    let has = line.option::<String>("has").map_or((0, 0), |text| place(&text));
    let (index, log_term) = if after.0 != 0 { after } else { has };
    let body = proto::Message {
        msg_type: line.option("type").or(kind).expect("a kind"),
        from: line.option("body_from").unwrap_or(from_peer),
        to: to_peer,
        term: line.number("t"),
        index,
        log_term,
        entries: entries(line),
        commit: line.number("c"),
        reject: line.flag("no"),
        context: context(line),
        request_snapshot: line.number("snapshot_request"),
        ..proto::Message::default()
    };
    let cluster: u8 = line.option("cluster").unwrap_or(9);
    RangeMessage {
        cluster_id: Bytes::from(vec![cluster; 16]),
        range_id: line.range().0,
        from_store: line.option("from_store").unwrap_or(from),
        to_store: line.option("to_store").unwrap_or(to),
        from_peer,
        to_peer,
        conf_ver: line.option("conf_ver").unwrap_or(1),
        version: 1,
        message: (!line.flag("no_body")).then_some(body),
        notice: None,
    }
}

/// `6@7,7@7`: entries of these indices and terms, each writing the word `forged`.
fn entries(line: &Line<'_>) -> Vec<Entry> {
    let given: String = line.option("entries").unwrap_or_default();
    let kind =
        if line.flag("conf_change") { EntryType::EntryConfChange } else { EntryType::EntryNormal };
    let entry = |text| {
        let (index, term) = place(text);
        let (data, context) = (put("forged").into(), vec![1].into());
        Entry { entry_type: kind.into(), term, index, data, context }
    };
    given.split(',').filter(|text| !text.is_empty()).map(entry).collect()
}

/// `1@6`: read 1 of term 6; anything else: these bytes.
fn context(line: &Line<'_>) -> Bytes {
    match line.option::<String>("read") {
        None => Bytes::new(),
        Some(text) if text.contains('@') => {
            let (read, term) = place(&text);
            [read.to_be_bytes(), term.to_be_bytes()].concat().into()
        }
        Some(text) => text.into_bytes().into(),
    }
}

/// The message as the only row of a bundle of heartbeats.
pub fn bundled(message: RangeMessage) -> Heartbeats {
    let body = message.message.expect("a bundle has bodies");
    let beat = Heartbeat {
        range_id: message.range_id,
        from_peer: message.from_peer,
        to_peer: message.to_peer,
        conf_ver: message.conf_ver,
        version: message.version,
        term: body.term,
        commit: body.commit,
        context: body.context,
        is_response: body.msg_type == i32::from(MessageType::MsgHeartbeatResponse),
    };
    Heartbeats {
        cluster_id: message.cluster_id,
        from_store: message.from_store,
        to_store: message.to_store,
        beats: vec![beat],
        ..Heartbeats::default()
    }
}
