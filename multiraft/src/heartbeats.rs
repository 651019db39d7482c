//! Heartbeats of all ranges between two stores, and the answers to them, travel as one message
//! per turn (D6): what idle ranges cost is then one small row each, not one message each.
//!
//! They leave the streams of the appends and may overtake them, or be overtaken. That is safe,
//! because each of them means the same whenever it arrives:
//! - its commit is at most what its receiver has acknowledged as durable, so no append has to come
//!   before it;
//! - its context names one ReadIndex round, and a follower answers only while its term is not
//!   newer than the round's, so an answer never confirms a round begun after it was sent;
//! - its term makes whoever is behind follow, and a leader that is behind is told so.

use raft::eraftpb::{self, MessageType};
use sharklock_proto::internal::v1::{self as proto, Heartbeat, Heartbeats, RangeMessage};
use sharklock_rangemap::{Epoch, RangeId, StoreId};

/// Whether a message travels with the heartbeats.
pub(crate) fn is_beat(message: &eraftpb::Message) -> bool {
    matches!(message.msg_type, MessageType::MsgHeartbeat | MessageType::MsgHeartbeatResponse)
}

/// The sender of a replica's beats.
pub(crate) struct Sender {
    pub cluster_id: bytes::Bytes,
    pub store: StoreId,
    pub range: RangeId,
    pub epoch: Epoch,
}

/// Adds a beat to the message for its store, one per store and in store order. Beats keep the
/// order in which they come.
pub(crate) fn add(
    outgoing: &mut Vec<Heartbeats>,
    sender: Sender,
    to_store: StoreId,
    message: eraftpb::Message,
) {
    assert!(is_beat(&message), "{:?} is no heartbeat", message.msg_type);
    let beat = Heartbeat {
        range_id: sender.range.0,
        from_peer: message.from,
        to_peer: message.to,
        conf_ver: sender.epoch.conf_ver,
        version: sender.epoch.version,
        term: message.term,
        commit: message.commit,
        context: message.context,
        is_response: message.msg_type == MessageType::MsgHeartbeatResponse,
    };
    match outgoing.binary_search_by_key(&to_store.0, |message| message.to_store) {
        Ok(found) => outgoing[found].beats.push(beat),
        Err(place) => outgoing.insert(
            place,
            Heartbeats {
                cluster_id: sender.cluster_id,
                from_store: sender.store.0,
                to_store: to_store.0,
                beats: vec![beat],
                // The streams say how long they are under way.
                sent_ms: 0,
                is_late: false,
            },
        ),
    }
}

/// The single messages that a peer's heartbeats stand for, in their order.
pub(crate) fn singles(heartbeats: Heartbeats) -> impl Iterator<Item = RangeMessage> {
    let Heartbeats { cluster_id, from_store, to_store, beats, .. } = heartbeats;
    beats.into_iter().map(move |beat| {
        let msg_type = match beat.is_response {
            true => proto::MessageType::MsgHeartbeatResponse,
            false => proto::MessageType::MsgHeartbeat,
        };
        RangeMessage {
            cluster_id: cluster_id.clone(),
            range_id: beat.range_id,
            from_store,
            to_store,
            from_peer: beat.from_peer,
            to_peer: beat.to_peer,
            conf_ver: beat.conf_ver,
            version: beat.version,
            message: Some(proto::Message {
                msg_type: msg_type.into(),
                from: beat.from_peer,
                to: beat.to_peer,
                term: beat.term,
                commit: beat.commit,
                context: beat.context,
                ..proto::Message::default()
            }),
            notice: None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror;

    fn sender(range: u64) -> Sender {
        Sender {
            cluster_id: vec![9; 16].into(),
            store: StoreId(1),
            range: RangeId(range),
            epoch: Epoch { version: 3, conf_ver: 4 },
        }
    }

    /// Every field set that raft-rs sets, each to a value of its own.
    fn beat(msg_type: MessageType, to: u64, commit: u64) -> eraftpb::Message {
        eraftpb::Message {
            msg_type,
            to,
            from: 101,
            term: 6,
            commit,
            context: vec![8; 16].into(),
            ..eraftpb::Message::default()
        }
    }

    #[test]
    fn nothing_of_a_beat_is_lost_on_its_way() {
        for kind in [MessageType::MsgHeartbeat, MessageType::MsgHeartbeatResponse] {
            let mut outgoing = Vec::new();
            add(&mut outgoing, sender(7), StoreId(2), beat(kind, 102, 5));
            let singles: Vec<_> = singles(outgoing.pop().expect("one message")).collect();
            let expected = RangeMessage {
                cluster_id: vec![9; 16].into(),
                range_id: 7,
                from_store: 1,
                to_store: 2,
                from_peer: 101,
                to_peer: 102,
                conf_ver: 4,
                version: 3,
                message: Some(mirror::message_record(beat(kind, 102, 5))),
                notice: None,
            };
            assert_eq!(singles, [expected]);
        }
    }

    #[test]
    fn there_is_one_message_per_store_in_store_order() {
        let mut outgoing = Vec::new();
        for (range, store) in [(7, 3), (7, 2), (8, 2), (9, 5), (9, 3)] {
            let message = beat(MessageType::MsgHeartbeat, 100 + store, range);
            add(&mut outgoing, sender(range), StoreId(store), message);
        }
        let shape: Vec<(u64, Vec<u64>)> = outgoing
            .iter()
            .map(|it| (it.to_store, it.beats.iter().map(|beat| beat.range_id).collect()))
            .collect();
        assert_eq!(shape, [(2, vec![7, 8]), (3, vec![7, 9]), (5, vec![9])]);
    }
}
