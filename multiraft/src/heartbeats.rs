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

/// The beats of a replica, which leave with those of the others.
pub(crate) struct Sender<'a> {
    pub cluster_id: &'a bytes::Bytes,
    pub store: StoreId,
    pub range: RangeId,
    pub epoch: Epoch,
}

/// A beat as raft-rs says it.
///
/// # Panics
/// On any other message.
pub(crate) fn beat(sender: &Sender<'_>, message: eraftpb::Message) -> Heartbeat {
    assert!(is_beat(&message), "{:?} is no heartbeat", message.msg_type);
    Heartbeat {
        range_id: sender.range.0,
        from_peer: message.from,
        to_peer: message.to,
        conf_ver: sender.epoch.conf_ver,
        version: sender.epoch.version,
        term: message.term,
        commit: message.commit,
        context: message.context,
        is_response: message.msg_type == MessageType::MsgHeartbeatResponse,
    }
}

/// Adds a beat to the message for its store, one per store and in store order. Beats keep the
/// order in which they come.
pub(crate) fn add(
    outgoing: &mut Vec<Heartbeats>,
    sender: &Sender<'_>,
    to_store: StoreId,
    beat: Heartbeat,
) {
    match outgoing.binary_search_by_key(&to_store.0, |message| message.to_store) {
        Ok(found) => outgoing[found].beats.push(beat),
        Err(place) => outgoing.insert(
            place,
            Heartbeats {
                cluster_id: sender.cluster_id.clone(),
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

/// Adds the beats of these messages to those for the same stores.
pub(crate) fn add_all(outgoing: &mut Vec<Heartbeats>, more: Vec<Heartbeats>) {
    if outgoing.is_empty() {
        *outgoing = more;
        return;
    }
    for mut message in more {
        match outgoing.binary_search_by_key(&message.to_store, |message| message.to_store) {
            Ok(found) => outgoing[found].beats.append(&mut message.beats),
            Err(place) => outgoing.insert(place, message),
        }
    }
}

/// The single message that a beat of `envelope` stands for.
pub(crate) fn single(envelope: &Heartbeats, beat: Heartbeat) -> RangeMessage {
    let msg_type = match beat.is_response {
        true => proto::MessageType::MsgHeartbeatResponse,
        false => proto::MessageType::MsgHeartbeat,
    };
    RangeMessage {
        cluster_id: envelope.cluster_id.clone(),
        range_id: beat.range_id,
        from_store: envelope.from_store,
        to_store: envelope.to_store,
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror;

    const CLUSTER: bytes::Bytes = bytes::Bytes::from_static(&[9; 16]);

    fn sender(range: u64) -> Sender<'static> {
        static OF_SENDER: bytes::Bytes = CLUSTER;
        Sender {
            cluster_id: &OF_SENDER,
            store: StoreId(1),
            range: RangeId(range),
            epoch: Epoch { version: 3, conf_ver: 4 },
        }
    }

    /// Every field set that raft-rs sets, each to a value of its own.
    fn message(msg_type: MessageType, to: u64, commit: u64) -> eraftpb::Message {
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
            let (mut outgoing, sender) = (Vec::new(), sender(7));
            add(&mut outgoing, &sender, StoreId(2), beat(&sender, message(kind, 102, 5)));
            let mut envelope = outgoing.pop().expect("one message");
            let beats = std::mem::take(&mut envelope.beats).into_iter();
            let singles: Vec<_> = beats.map(|beat| single(&envelope, beat)).collect();
            let expected = RangeMessage {
                cluster_id: CLUSTER,
                range_id: 7,
                from_store: 1,
                to_store: 2,
                from_peer: 101,
                to_peer: 102,
                conf_ver: 4,
                version: 3,
                message: Some(mirror::message_record(message(kind, 102, 5))),
                notice: None,
            };
            assert_eq!(singles, [expected]);
        }
    }

    #[test]
    fn there_is_one_message_per_store_in_store_order() {
        let put = |outgoing: &mut Vec<Heartbeats>, beats: &[(u64, u64)]| {
            for (range, store) in beats {
                let sender = sender(*range);
                let message = message(MessageType::MsgHeartbeat, 100 + store, *range);
                add(outgoing, &sender, StoreId(*store), beat(&sender, message));
            }
        };
        let shape = |outgoing: &[Heartbeats]| -> Vec<(u64, Vec<u64>)> {
            let ranges = |it: &Heartbeats| it.beats.iter().map(|beat| beat.range_id).collect();
            outgoing.iter().map(|it| (it.to_store, ranges(it))).collect()
        };
        let mut outgoing = Vec::new();
        put(&mut outgoing, &[(7, 3), (7, 2), (8, 2), (9, 5), (9, 3)]);
        assert_eq!(shape(&outgoing), [(2, vec![7, 8]), (3, vec![7, 9]), (5, vec![9])]);
        let mut more = Vec::new();
        put(&mut more, &[(1, 4), (2, 3)]);
        add_all(&mut outgoing, more);
        let all = [(2, vec![7, 8]), (3, vec![7, 9, 2]), (4, vec![1]), (5, vec![9])];
        assert_eq!(shape(&outgoing), all);
    }
}
