//! Rejections of appends that come late. A rejection tells a leader from where to send again, and
//! raft-rs 0.7 may take it back behind what the same follower has acknowledged since. There the
//! leader's log may be cut off, since all have it; nothing would ever be sent to that follower
//! again. (Found by `tests/engine/random_network.rs`, seed 1091: streams keep their order, but a
//! new connection may overtake the old one.)

use raft::eraftpb::{Message, MessageType};
use raft::{RawNode, StateRole};

use crate::log::Log;

/// Whether raft-rs needs to see an answer; one that it does is corrected.
///
/// In one term a follower's log is never shorter than what it has acknowledged, and equal to the
/// leader's so far. A rejection that contradicts this was overtaken by that acknowledgement.
pub(super) fn heed(raw: &RawNode<Log>, answer: &mut Message) -> bool {
    let raft = &raw.raft;
    let rejects = answer.msg_type == MessageType::MsgAppendResponse && answer.reject;
    if !rejects || raft.state != StateRole::Leader || answer.term != raft.term {
        return true;
    }
    let Some(matched) = raft.prs().get(answer.from).map(|follower| follower.matched) else {
        return true;
    };
    if answer.index <= matched {
        return false;
    }
    // The index at which raft-rs would begin again.
    let begin = match answer.log_term {
        0 => answer.reject_hint,
        term => raft.raft_log.find_conflict_by_term(answer.reject_hint, term).0,
    };
    if begin < matched {
        (answer.reject_hint, answer.log_term) = (matched, 0);
    }
    true
}
