//! What a leader knows of the other replicas of its range, and what it does with that knowledge:
//! gives up a silent one for now, hands its leadership to a good one.

use std::cmp::Reverse;

use raft::StateRole;
use sharklock_rangemap::{PeerId, Replica as Member, StoreId};

use super::Replica;
use crate::election::TIMEOUT_TICKS_MIN;
use crate::split::SplitMark;
use crate::state_machine::StateMachine;

/// With so many voters a range goes on when one is lost.
const FAULT_TOLERANT: usize = 3;

/// A replica of a range as its leader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerProgress {
    /// The replica.
    pub peer: PeerId,
    /// Its store.
    pub store: StoreId,
    /// It votes; otherwise it is a learner.
    pub is_voter: bool,
    /// It is the leader, who says all this.
    pub is_leader: bool,
    /// Up to this index it has the leader's log durably, as far as the leader knows.
    pub matched: u64,
    /// The leader has heard of it within the shortest election timeout.
    pub is_active: bool,
    /// The leader has not heard of it yet, and has not led for so long that this would mean anything: as
    /// right after a split, when the replica is not born everywhere.
    pub is_new: bool,
    /// It is being sent a snapshot, since the leader's log no longer has what it needs.
    pub in_snapshot: bool,
}

impl<M: StateMachine> Replica<M> {
    pub(crate) fn leads_now(&self) -> bool {
        !self.is_stopped() && self.raw.raft.state == StateRole::Leader
    }

    /// All replicas in the descriptor's order; none unless this one leads. `ticks` counts those of
    /// the store. Who is being sent a snapshot, the store knows.
    pub(crate) fn peers(&self, ticks: u64) -> Vec<PeerProgress> {
        if !self.leads_now() {
            return Vec::new();
        }
        let members = self.descriptor().replicas.iter();
        members.filter_map(|member| self.progress(*member, ticks)).collect()
    }

    /// Up to where a member has the leader's log durably, as far as the leader knows.
    pub(crate) fn matched(&self, peer: PeerId) -> u64 {
        self.raw.raft.prs().get(peer.0).map_or(0, |progress| progress.matched)
    }

    /// A member that has just acknowledged a split hears at once that it is committed, as the others did
    /// when it was applied here: its part of the child may be the one that is missing. Raft alone would
    /// tell it with the next heartbeat. Once for each member, split and term, as `matched` grows.
    pub(super) fn tell_of_split(&mut self, peer: PeerId, matched_before: u64) {
        let matched = self.matched(peer);
        let is_new = |split: &SplitMark| (matched_before + 1..=matched).contains(&split.at.index);
        if self.leads_now() && self.splits().iter().any(is_new) {
            self.raw.ping();
        }
    }

    /// The store of a member.
    pub(crate) fn member_store(&self, peer: PeerId) -> Option<StoreId> {
        let mut members = self.descriptor().replicas.iter();
        members.find(|member| member.peer == peer).map(|member| member.store)
    }

    fn progress(&self, member: Member, ticks: u64) -> Option<PeerProgress> {
        let Member { peer, store, role } = member;
        let progress = self.raw.raft.prs().get(peer.0)?;
        let is_leader = peer == self.address.peer;
        // raft-rs forgets who was active whenever it counts its quorum, so it cannot say.
        let heard = self.heard.of(peer).map(|heard| ticks.saturating_sub(heard));
        let is_active = is_leader || heard.is_some_and(|ago| ago <= TIMEOUT_TICKS_MIN as u64);
        let is_new = !is_active && heard.is_none() && !self.has_led_for_a_timeout(ticks);
        Some(PeerProgress {
            peer,
            store,
            is_voter: role.votes(),
            is_leader,
            matched: progress.matched,
            is_active,
            is_new,
            in_snapshot: false,
        })
    }

    /// Whether a snapshot for this member repairs the range: the member votes, or a voter is
    /// silent, or there are so few voters that the range bears no loss. Otherwise it only moves a
    /// replica. `ticks` counts those of the store.
    pub(crate) fn would_repair(&self, peer: PeerId, ticks: u64) -> bool {
        let peers = self.peers(ticks);
        let mut voters = peers.iter().filter(|it| it.is_voter);
        let is_few = voters.clone().count() < FAULT_TOLERANT;
        is_few || voters.any(|it| it.peer == peer || !(it.is_active || it.is_new))
    }

    fn has_led_for_a_timeout(&self, ticks: u64) -> bool {
        let since = self.in_step_since.filter(|(term, _)| *term == self.raw.raft.term);
        since.is_some_and(|(_, since)| ticks >= since + TIMEOUT_TICKS_MIN as u64)
    }

    /// What was sent to this store of late may be lost: Raft sends it again, and does not stream
    /// to it until it answers.
    pub(crate) fn unreachable(&mut self, store: StoreId) {
        let there = self.descriptor().on_store(store).map(|member| member.peer);
        if let Some(peer) = there
            && self.leads_now()
        {
            self.raw.report_unreachable(peer.0);
        }
    }

    /// The other voters, on this store or elsewhere, that could lead as soon as they are asked: who has
    /// most of the log comes first.
    pub(super) fn able_to_lead(&self, ticks: u64, on: Option<StoreId>) -> Vec<PeerProgress> {
        let mut able = self.peers(ticks);
        // A peer that needs a snapshot first would hold up the range for as long as that takes.
        let first = self.log().first();
        able.retain(|peer| {
            peer.is_voter && !peer.is_leader && peer.is_active && peer.matched + 1 >= first
        });
        able.retain(|peer| on.is_none_or(|on| peer.store == on));
        able.sort_by_key(|peer| Reverse(peer.matched));
        // The ranges that a store hands over must not all burden one other store. Their ids may have
        // any pattern: those of split children are as far apart as a split takes ids.
        let scattered = self.range().0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
        let most = able.first().map_or(0, |peer| peer.matched);
        let equals = able.partition_point(|peer| peer.matched == most);
        if equals > 0 {
            able[..equals].rotate_left((scattered % equals as u64) as usize);
        }
        able
    }

    /// Begins to hand leadership to the voter on this store, or to the one elsewhere that has most of the
    /// log, if it is heard of. False: this replica does not lead, or there is no such voter. Raft gives up by itself if
    /// the other has not taken over within an election timeout; meanwhile it takes no proposals.
    pub(crate) fn hand_over(&mut self, ticks: u64, to: Option<StoreId>) -> bool {
        let Some(chosen) = self.able_to_lead(ticks, to).into_iter().next() else { return false };
        if self.raw.raft.lead_transferee == Some(chosen.peer.0) {
            return true;
        }
        let (range, term) = (self.range(), self.raw.raft.term);
        tracing::info!(%range, term, leader = %chosen.store, "leadership is handed over");
        self.raw.transfer_leader(chosen.peer.0);
        self.pin_timeout();
        true
    }
}
