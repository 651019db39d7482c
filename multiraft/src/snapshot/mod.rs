//! Snapshots: how a replica gets its state that has been away for longer than its leader's log
//! reaches back (D13).
//!
//! Towards raft-rs this is simple. A leader that lacks the entries a follower needs asks its log
//! for a snapshot, again and again; the log says "not now" and notes who needs one, and the store
//! sends it by messages of its own. When the follower has all of it, it steps a `MsgSnapshot` that
//! nobody sent over the network, and raft-rs answers with an acknowledgement of everything the
//! state holds: with that the leader goes on as after any append. So raft-rs's leader never waits
//! for a snapshot, a failed transfer needs no word to it, and the next one begins when it asks
//! again.
//!
//! Reading the image that is sent, and making a state of one that has come, are chores: they grow
//! with the range, and no turn may.

mod fates;
pub(crate) mod image;
mod incoming;
mod limits;
mod outbox;
mod outgoing;
mod queue;
mod reading;
mod receiving;
mod reserve;
mod rests;
mod sending;
mod why;
mod wire;

use bytes::Bytes;
use sharklock_proto::internal::v1::{
    SnapshotCancel, SnapshotMessage, snapshot_message::Body, snapshot_reject::Why,
};
use sharklock_rangemap::{PeerId, RangeId, StoreId};

use crate::chore::{Done, ReadImage, Restore};
use crate::guard::Dropped;
use crate::log::LogLimits;
use crate::replica::Replica;
use crate::state_machine::StateMachine;
pub use fates::{EndCounts, SnapshotStats, WhyEnded};
use incoming::Incoming;
pub use limits::SnapshotLimits;
use outbox::Outbox;
use outgoing::Outgoing;
pub(crate) use reserve::Reserve;
pub(crate) use wire::{Announced, Ends};

/// A piece that got no answer for so many ticks is sent again, and an end that has said nothing for
/// so long says how far it is.
const RESEND_TICKS: u64 = 5;

/// All snapshots on their way from and to a store: two halves that know nothing of each other.
#[derive(Debug)]
pub(crate) struct Transfers {
    outgoing: Outgoing,
    incoming: Incoming,
}

impl Transfers {
    pub(crate) fn new(cluster_id: Bytes, limits: SnapshotLimits) -> Self {
        Self {
            outgoing: Outgoing::new(Outbox::new(cluster_id.clone()), limits),
            incoming: Incoming::new(Outbox::new(cluster_id), limits),
        }
    }

    pub(crate) fn stats(&self) -> SnapshotStats {
        let mut stats = self.outgoing.stats();
        stats.add(&self.incoming.stats());
        stats
    }

    /// So many bytes of the disk are free; `None`: nobody knows.
    pub(crate) fn set_disk_free(&mut self, bytes: Option<u64>) {
        self.incoming.set_disk_free(bytes);
    }

    /// Whether a snapshot is on its way to this replica.
    pub(crate) fn is_sending(&self, range: RangeId, peer: PeerId) -> bool {
        self.outgoing.is_sending(range, peer)
    }

    /// Whether a snapshot of this range is under way, or a replica catches up behind one.
    pub(crate) fn is_about(&self, range: RangeId) -> bool {
        self.outgoing.log_reserve(range).is_some() || self.incoming.is_receiving(range)
    }

    /// The part of this range's log that is kept: for snapshots on their way, and for replicas that
    /// catch up behind one.
    pub(crate) fn log_reserve(&self, range: RangeId) -> Option<Reserve> {
        self.outgoing.log_reserve(range)
    }

    pub(crate) fn tick(&mut self) {
        self.outgoing.tick();
        self.incoming.tick();
    }

    /// Nothing reaches this store: what is on its way there has failed, and what comes from there
    /// gets no answer.
    pub(crate) fn unreachable(&mut self, store: StoreId) {
        self.outgoing.unreachable(store);
        self.incoming.unreachable(store);
    }

    /// After a replica had its turn: snapshots that are of no use any more end, those that its
    /// followers need begin, and what became of one that it took in is answered.
    pub(crate) fn follow<M: StateMachine>(&mut self, replica: &mut Replica<M>, log: &LogLimits) {
        self.outgoing.follow(replica, log);
        self.incoming.follow(replica);
    }

    /// Takes the result of a chore, for a replica that is here. A state that nobody wants any more
    /// comes back.
    pub(crate) fn chore_done<M: StateMachine>(
        &mut self,
        replica: &mut Replica<M>,
        done: Done<M>,
    ) -> Option<M> {
        match done {
            Done::Read(wish, image) => {
                self.outgoing.read(replica, wish, image);
                None
            }
            Done::Restored { ends, transfer, arrived } => {
                self.incoming.restored(replica, (ends, transfer), arrived)
            }
        }
    }

    /// A message of a transfer, for a replica that is here.
    pub(crate) fn step<M: StateMachine>(
        &mut self,
        replica: &mut Replica<M>,
        message: SnapshotMessage,
    ) -> Result<(), Dropped> {
        if replica.is_stopped() {
            self.incoming.refuse_unheard(&message, Why::Refused);
            return Err(Dropped::Stopped);
        }
        let ends = match wire::check_envelope(replica.address(), replica.descriptor(), &message) {
            Ok(ends) => ends,
            Err(dropped) => {
                if message.to_store == replica.address().store.0 {
                    self.incoming.refuse_unheard(&message, Why::UnknownRange);
                }
                return Err(dropped);
            }
        };
        let transfer = message.transfer;
        match message.body.ok_or(Dropped::Malformed("it has no body"))? {
            Body::Header(header) => {
                return self.incoming.offered(replica, ends, transfer, header);
            }
            Body::Chunk(chunk) => self.incoming.chunk(ends, transfer, chunk),
            Body::Cancel(SnapshotCancel {}) => self.incoming.cancelled(ends, transfer),
            Body::Ack(ack) => self.outgoing.acknowledged(ends, transfer, ack),
            Body::Reject(reject) => {
                self.outgoing.rejected(ends, transfer, why::of(reject.why()));
            }
        }
        Ok(())
    }

    /// Images that are to be read, since the last call.
    pub(crate) fn take_reads(&mut self) -> Vec<ReadImage> {
        std::mem::take(&mut self.outgoing.to_read)
    }

    /// States that are to be made of what has come, since the last call.
    pub(crate) fn take_restores(&mut self) -> Vec<Restore> {
        std::mem::take(&mut self.incoming.to_restore)
    }

    /// What is to be said, and chunks as far as receivers and rate allow.
    pub(crate) fn hand_out(&mut self, messages: &mut Vec<SnapshotMessage>) {
        self.incoming.outbox.hand_out(messages);
        self.outgoing.hand_out(messages);
    }

    /// A replica is not here any more: whatever travels from and to it ends.
    pub(crate) fn forget(&mut self, range: RangeId) {
        self.outgoing.forget(range);
        self.incoming.forget(range);
    }

    /// The answer to a header or a chunk for a range that is not here.
    pub(crate) fn unknown_range(&mut self, message: &SnapshotMessage) {
        self.incoming.refuse_unheard(message, Why::UnknownRange);
    }
}

/// Whether a replica takes in a state from a leader of this term: it follows in that term. A
/// leader sends one only after an answer of that term, so an honest one is never refused.
pub(crate) fn may_install<M: StateMachine>(replica: &Replica<M>, term: u64) -> bool {
    !replica.is_stopped() && replica.term() == term && !replica.leads_now()
}
