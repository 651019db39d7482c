//! The guard: what a message from a peer must be before raft-rs sees it (D2).
//!
//! raft-rs trusts its peers and panics on what an honest one never sends, so every such message
//! is refused here. Two things the guard never asks for, because a member that was away would
//! then refuse its new leader for ever: that the sender stands in *my* descriptor, and that the
//! epochs are equal.
//!
//! It cannot know who sent a message. The link that received it must have authenticated the
//! store at its other end and checked that `from_store` is that store.

use raft::StateRole;
use raft::eraftpb::{Message, MessageType};
use sharklock_proto::internal::v1::RangeMessage;
use sharklock_rangemap::{Descriptor, PeerId, RangeId, StoreId};

use crate::effects::Behind;
use crate::entry::{self, Command};
use crate::mirror;

/// Terms and indices above this are forged: no cluster lives long enough to reach it. Below it
/// raft-rs's `+ 1` cannot overflow.
pub(crate) const NUMBER_MAX: u64 = u64::MAX >> 1;

/// Why a message was not taken. Raft repeats what matters, so it needs no answer unless a variant
/// says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Dropped {
    /// It belongs to another cluster.
    #[error("a message of another cluster")]
    OtherCluster,
    /// This store has no replica of its range. A leader is told so, and may ask for one; the message
    /// itself is never a reason to make one.
    #[error("no replica of range {0} here")]
    UnknownRange(RangeId),
    /// It is for another store or another replica of the range.
    #[error("a message for peer {0}, who is not here")]
    NotForMe(PeerId),
    /// Its sender is not who it says: the peer lives on another store.
    #[error("peer {peer} does not live on store {store}")]
    WrongSender {
        /// The claimed sender.
        peer: PeerId,
        /// The claimed store.
        store: StoreId,
    },
    /// An answer from a peer that this replica never asks.
    #[error("an answer from peer {0}, who is no member")]
    NotAMember(PeerId),
    /// Its sender was removed from the range and does not know it yet. It is told so, and ends.
    #[error("peer {0} was removed from its range")]
    RemovedPeer(PeerId),
    /// A type that only a process sends to itself, that only a forwarding follower sends (none of
    /// ours forwards), or that this version does not send.
    #[error("a message of type {0}, which no peer sends")]
    NeverSent(i32),
    /// Leadership handed over by a peer that is not known to lead the term of this replica. Late,
    /// or forged.
    #[error("leadership handed over by peer {0}, who does not lead")]
    NotMyLeader(PeerId),
    /// An honest peer cannot have sent it.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// It has an entry that a newer program proposed.
    #[error("{0}")]
    Beyond(Behind),
    /// The leader knows more of this replica's log to be durable than this replica has: what it
    /// once acknowledged is gone, for instance with an old copy of its disk. It must not vote, so it
    /// does nothing any more, in this life and in all later ones.
    #[error("the leader knows entry {commit} to be here, but the log ends at {last}")]
    LostLog {
        /// The commit index of the heartbeat.
        commit: u64,
        /// The last index of the log.
        last: u64,
    },
    /// The replica was stopped earlier.
    #[error("this replica is stopped because its log lost entries")]
    Stopped,
}

/// The replica that the message is for.
pub(crate) struct Standing<'a> {
    pub cluster_id: &'a [u8],
    pub store: StoreId,
    pub peer: PeerId,
    /// As applied.
    pub descriptor: &'a Descriptor,
    pub role: StateRole,
    pub term: u64,
    pub last_index: u64,
    /// Up to where the log is durable.
    pub persisted: u64,
    /// The leader of `term`, as far as it is known; 0: nobody.
    pub leader: PeerId,
    /// See [`crate::StateMachine::knows`].
    pub knows: fn(&[u8]) -> Result<(), String>,
}

/// The Raft message inside, if raft-rs may have it.
pub(crate) fn admit(me: &Standing<'_>, message: RangeMessage) -> Result<Message, Dropped> {
    check_envelope(me, &message)?;
    let body = message.message.ok_or(Dropped::Malformed("it has no body"))?;
    let kind = body.msg_type;
    let body = mirror::message(body).map_err(|_| Dropped::NeverSent(kind))?;
    if body.from != message.from_peer || body.to != message.to_peer {
        return Err(Dropped::Malformed("its body names other peers than its envelope"));
    }
    check_numbers(&body)?;
    match body.msg_type {
        MessageType::MsgAppend => check_append(me, &body)?,
        MessageType::MsgAppendResponse => check_append_response(me, &body)?,
        MessageType::MsgHeartbeat => check_heartbeat(me, &body)?,
        MessageType::MsgRequestVoteResponse => check_vote(me)?,
        MessageType::MsgTimeoutNow => check_timeout_now(me, &body)?,
        MessageType::MsgHeartbeatResponse
        | MessageType::MsgRequestVote
        | MessageType::MsgRequestPreVote
        | MessageType::MsgRequestPreVoteResponse => {}
        MessageType::MsgHup
        | MessageType::MsgBeat
        | MessageType::MsgUnreachable
        | MessageType::MsgSnapStatus
        | MessageType::MsgCheckQuorum
        | MessageType::MsgPropose
        | MessageType::MsgReadIndex
        | MessageType::MsgReadIndexResp
        | MessageType::MsgTransferLeader
        | MessageType::MsgSnapshot => return Err(Dropped::NeverSent(kind)),
    }
    Ok(body)
}

fn check_envelope(me: &Standing<'_>, message: &RangeMessage) -> Result<(), Dropped> {
    if message.cluster_id != me.cluster_id {
        return Err(Dropped::OtherCluster);
    }
    if message.to_store != me.store.0 || message.to_peer != me.peer.0 {
        return Err(Dropped::NotForMe(PeerId(message.to_peer)));
    }
    let (peer, store) = (PeerId(message.from_peer), StoreId(message.from_store));
    let known = me.descriptor.replicas.iter().find(|replica| replica.peer == peer);
    let lives_elsewhere = known.is_some_and(|replica| replica.store != store);
    // A store has one replica of a range, so nobody else here has anything to say to it.
    if peer.0 == 0 || store.0 == 0 || peer == me.peer || store == me.store || lives_elsewhere {
        return Err(Dropped::WrongSender { peer, store });
    }
    if known.is_none() && message.conf_ver < me.descriptor.epoch.conf_ver {
        return Err(Dropped::RemovedPeer(peer));
    }
    Ok(())
}

fn check_numbers(body: &Message) -> Result<(), Dropped> {
    // raft-rs takes term 0 for a message of the process to itself.
    if body.term == 0 {
        return Err(Dropped::Malformed("it has no term"));
    }
    let numbers = [body.term, body.log_term, body.index, body.commit, body.reject_hint];
    if numbers.into_iter().any(|number| number > NUMBER_MAX) {
        return Err(Dropped::Malformed("a number out of range"));
    }
    // Never sent in this version; a leader would wait for that snapshot for ever.
    if body.request_snapshot != 0 {
        return Err(Dropped::Malformed("it asks for a snapshot"));
    }
    Ok(())
}

fn check_append(me: &Standing<'_>, body: &Message) -> Result<(), Dropped> {
    // Logs begin behind an entry of term 5, so no entry has term 0. raft-rs answers 0 for the
    // term of an entry that it does not have, and would take such an append for a match.
    if body.log_term == 0 {
        return Err(Dropped::Malformed("an append behind an entry without a term"));
    }
    let mut before = (body.index, body.log_term);
    for entry in body.entries.iter() {
        if entry.index != before.0 + 1 {
            return Err(Dropped::Malformed("entries with gaps"));
        }
        if entry.term < before.1 || entry.term > body.term {
            return Err(Dropped::Malformed("entries whose terms fall or exceed the message's"));
        }
        let beyond = |why| Dropped::Beyond(Behind { index: entry.index, term: entry.term, why });
        match entry::decode(entry) {
            Ok(Command::Machine(data)) => (me.knows)(data).map_err(beyond)?,
            Ok(_) => {}
            Err(bad) => {
                let damaged = Dropped::Malformed("an entry that this program does not know");
                return Err(bad.is_newer().map_or(damaged, beyond));
            }
        }
        before = (entry.index, entry.term);
    }
    Ok(())
}

fn check_append_response(me: &Standing<'_>, body: &Message) -> Result<(), Dropped> {
    let counts = me.role == StateRole::Leader && body.term == me.term && !body.reject;
    if counts && body.index > me.last_index {
        return Err(Dropped::Malformed("it acknowledges entries that were never sent"));
    }
    Ok(())
}

/// A leader sends as commit what it knows this replica to have, at most.
fn check_heartbeat(me: &Standing<'_>, body: &Message) -> Result<(), Dropped> {
    if body.term >= me.term && body.commit > me.last_index {
        return Err(Dropped::LostLog { commit: body.commit, last: me.last_index });
    }
    Ok(())
}

/// The request for a vote leaves after everything before it is durable, so a vote that comes
/// earlier was not asked for. raft-rs asserts that a new leader's log is durable.
fn check_vote(me: &Standing<'_>) -> Result<(), Dropped> {
    if me.role == StateRole::Candidate && me.persisted != me.last_index {
        return Err(Dropped::Malformed("a vote before it was asked for"));
    }
    Ok(())
}

/// The peer that hands its leadership over is the leader. From anybody else, or late, it would only
/// disturb: an election without a pre-vote. With a log, or a snapshot, that the disk does not have,
/// raft-rs panics; a leader whose link is slow does not know about that.
fn check_timeout_now(me: &Standing<'_>, body: &Message) -> Result<(), Dropped> {
    let leads = body.term == me.term && body.from == me.leader.0;
    if !leads || me.role != StateRole::Follower || me.persisted != me.last_index {
        return Err(Dropped::NotMyLeader(PeerId(body.from)));
    }
    Ok(())
}
