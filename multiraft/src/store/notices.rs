//! The notices of stores about replicas, beside Raft. Each of these answers a message; none is
//! answered by another Raft message, and a lost one comes again with the next.
//!
//! - A store that has no replica to which a leader speaks says so (*absent*).
//! - The leader then asks it to make one (*create*): an empty shell. That is the only way in which a
//!   message leads to a replica, and the leader vouches that it is a member.
//! - A store that was away while a range was split has the rest of it by a snapshot, and of the child
//!   nothing. If the child's leader is lost before it could ask for a shell there, nobody would ever lead
//!   the child: so whoever wants the vote of such a replica is told *absent*, too, and with which names
//!   the store has skipped. Who wants to lead a range of such names asks for the shell. It votes like a
//!   replica that was away since the beginning, which is what it is.
//! - Whoever is spoken to by a peer that was removed from the range tells it (*removed*), and it ends.
//! - A replica that does not campaign and hears nobody asks all members that it knows (*am I a
//!   member*): one that campaigns asks for votes instead.

use sharklock_proto::internal::v1::{
    AmIMember, CreateReplica, MessageType, PeerNotice, RangeDescriptor, RangeMessage,
    ReplicaAbsent, ReplicaRemoved, peer_notice::Notice,
};
use sharklock_rangemap::{Descriptor, PeerId, RangeId, StoreId};

use super::{Store, early_votes::asks_for_a_vote};
use crate::guard::Dropped;
use crate::range_state::{names, span};
use crate::replica::Replica;
use crate::state_machine::StateMachine;

/// Notices of one turn: what is beyond comes with the next heartbeat.
const NOTICES_MAX: usize = 256;

/// Between which replicas a message goes.
#[derive(Clone, Copy)]
pub(super) struct Ends {
    range: RangeId,
    from_store: StoreId,
    from_peer: PeerId,
    to_peer: PeerId,
    /// Of the sender's configuration.
    conf_ver: u64,
}

impl Ends {
    pub(super) fn of(message: &RangeMessage) -> Self {
        Self {
            range: RangeId(message.range_id),
            from_store: StoreId(message.from_store),
            from_peer: PeerId(message.from_peer),
            to_peer: PeerId(message.to_peer),
            conf_ver: message.conf_ver,
        }
    }
}

impl<M: StateMachine> Store<M> {
    /// Says something back to where a message came from.
    fn tell(&mut self, ends: Ends, notice: Notice) {
        if self.notices.len() >= NOTICES_MAX {
            return;
        }
        let epoch = self.replicas.get(&ends.range).map(|replica| replica.descriptor().epoch);
        self.notices.push(RangeMessage {
            cluster_id: self.ident.cluster_id.to_wire(),
            range_id: ends.range.0,
            from_store: self.ident.store.0,
            to_store: ends.from_store.0,
            from_peer: ends.to_peer.0,
            to_peer: ends.from_peer.0,
            conf_ver: epoch.map_or(0, |epoch| epoch.conf_ver),
            version: epoch.map_or(0, |epoch| epoch.version),
            message: None,
            notice: Some(PeerNotice { notice: Some(notice) }),
        });
    }

    /// To a leader that speaks to a replica which is not here; or to somebody who wants its vote, if this
    /// store has skipped splits, since the range may be the child of one of them. Nobody else could do
    /// anything about it.
    pub(super) fn tell_absent(&mut self, message: &RangeMessage) {
        let kind = message.message.as_ref().map(|body| body.msg_type);
        let leads = [MessageType::MsgAppend, MessageType::MsgHeartbeat];
        let is_ours = message.cluster_id == self.ident.cluster_id
            && message.to_store == self.ident.store.0
            && message.from_store != self.ident.store.0;
        let is_unborn = self.unborn.contains_key(&RangeId(message.range_id));
        if !is_ours || is_unborn {
            return;
        }
        let skipped = match asks_for_a_vote(message) {
            true => self.replicas.values().filter_map(Replica::skipped).map(span).collect(),
            false => Vec::new(),
        };
        if !skipped.is_empty() || leads.iter().any(|leads| kind == Some(i32::from(*leads))) {
            self.tell(Ends::of(message), Notice::Absent(ReplicaAbsent { skipped }));
        }
    }

    /// To a peer that the newer configuration here does not have.
    pub(super) fn tell_if_removed(&mut self, ends: Ends) {
        let Some(replica) = self.replicas.get(&ends.range) else { return };
        let is_newer = replica.descriptor().epoch.conf_ver > ends.conf_ver;
        if is_newer && replica.member_store(ends.from_peer).is_none() {
            self.tell(ends, Notice::Removed(ReplicaRemoved {}));
        }
    }

    /// A replica here asks all others whether it is still one of them.
    pub(super) fn ask_whether_member(&mut self, range: RangeId) {
        let Some(replica) = self.replicas.get(&range) else { return };
        let (here, from_peer) = (self.ident.store, replica.peer());
        let others: Vec<_> =
            replica.descriptor().replicas.iter().filter(|it| it.store != here).copied().collect();
        for other in others {
            // As if it had written to us.
            let (from_store, to_peer) = (other.store, from_peer);
            let ends = Ends { range, from_store, from_peer: other.peer, to_peer, conf_ver: 0 };
            self.tell(ends, Notice::AmIMember(AmIMember {}));
        }
    }

    pub(super) fn step_notice(&mut self, message: RangeMessage) -> Result<(), Dropped> {
        if message.cluster_id != self.ident.cluster_id {
            return Err(Dropped::OtherCluster);
        }
        let to = PeerId(message.to_peer);
        if message.to_store != self.ident.store.0 || message.from_store == self.ident.store.0 {
            return Err(Dropped::NotForMe(to));
        }
        let notice = message.notice.as_ref().and_then(|notice| notice.notice.as_ref());
        let range = RangeId(message.range_id);
        if let Some(replica) = self.replicas.get(&range)
            && replica.peer() != to
        {
            // Whoever asks may remember an earlier replica of this store.
            if let Some(Notice::AmIMember(_)) = notice {
                self.tell_if_removed(Ends::of(&message));
                return Ok(());
            }
            return Err(Dropped::NotForMe(to));
        }
        match notice {
            Some(Notice::AmIMember(AmIMember {})) => self.tell_if_removed(Ends::of(&message)),
            Some(Notice::Absent(absent)) => self.absent(&message, absent),
            Some(Notice::Create(create)) => return self.asked_to_create(&message, create),
            Some(Notice::Removed(ReplicaRemoved {})) => self.removed(&message),
            None => return Err(Dropped::Malformed("a notice of nothing")),
        }
        Ok(())
    }

    /// A member has no replica on its store. If this replica leads, it knows whether there is to be
    /// one: then it asks for it. So it does if it wants to lead, and the other store has never had any
    /// replica of these names.
    fn absent(&mut self, message: &RangeMessage, absent: &ReplicaAbsent) {
        let Some(replica) = self.replicas.get(&RangeId(message.range_id)) else { return };
        let store = replica.member_store(PeerId(message.from_peer));
        let leads = replica.leads_now() && replica.applied().term == replica.term();
        if replica.matched(PeerId(message.from_peer)) > 0 {
            // It has acknowledged entries, so its store has lost it, with an older copy of its disk
            // perhaps. A new one would not know what it has promised.
            let (range, peer) = (message.range_id, message.from_peer);
            tracing::warn!(%range, %peer, store = %message.from_store, "a replica is lost");
            return;
        }
        let is_skipped = || {
            let bounds = &replica.descriptor().bounds;
            absent.skipped.iter().any(|span| names(span).covers(bounds))
        };
        let asks = leads || replica.wants_to_lead() && is_skipped();
        if asks && store == Some(StoreId(message.from_store)) {
            let descriptor = RangeDescriptor::from(replica.descriptor());
            let create = CreateReplica { descriptor: Some(descriptor) };
            self.tell(Ends::of(message), Notice::Create(create));
        }
    }

    fn asked_to_create(
        &mut self,
        message: &RangeMessage,
        create: &CreateReplica,
    ) -> Result<(), Dropped> {
        let malformed = Dropped::Malformed("it asks for a replica of no range, or for another's");
        let descriptor = create.descriptor.as_ref().map(Descriptor::try_from);
        let Some(Ok(descriptor)) = descriptor else { return Err(malformed) };
        let lives = |store, peer| {
            let member = descriptor.on_store(StoreId(store));
            member.is_some_and(|member| member.peer == PeerId(peer))
        };
        let fits = descriptor.range == RangeId(message.range_id)
            && lives(message.from_store, message.from_peer)
            && lives(message.to_store, message.to_peer);
        if !fits {
            return Err(malformed);
        }
        let range = descriptor.range;
        if let Err(refused) = self.create_shell(descriptor) {
            // The range that stands in the way applies its split, shrinks by a snapshot or ends; then
            // the leader asks again.
            tracing::debug!(%range, why = %refused, "no shell is made");
        }
        Ok(())
    }

    /// A newer configuration of the range, committed and applied where this comes from, does not have
    /// the replica here. Ids are never given twice, so none that is newer has it again.
    fn removed(&mut self, message: &RangeMessage) {
        let (range, peer) = (RangeId(message.range_id), PeerId(message.to_peer));
        match self.replicas.get_mut(&range) {
            Some(replica) if message.conf_ver > replica.descriptor().epoch.conf_ver => {
                replica.mark_removed();
                self.work.insert(range);
            }
            Some(_) => {}
            None => self.bury_unseen(range, peer),
        }
    }
}
