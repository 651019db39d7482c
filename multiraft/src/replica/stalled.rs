//! A leader whose decisions take too long lets another voter lead.
//!
//! Where a leader's link is slow and not dead, its followers hear it and do not campaign, and it hears
//! them and does not step down; but nothing is decided in time. Raft's transfer is no way out: it
//! waits until the other has all of the log, which stands in the very queue that is too long. So the
//! leader asks the other to campaign as it is: one who wins by the votes of those that have no more
//! than it has. The leader itself, whose log is longer, cannot vote for it, and would be deposed for
//! nothing if its vote were needed. The new term makes all deaf to what of the old one is under way.

use raft::StateRole;
use raft::eraftpb::{Message, MessageType};
use sharklock_rangemap::{PeerId, Role};

use super::{PeerProgress, Replica};
use crate::state_machine::StateMachine;

/// A decision that takes longer, in ticks, is one that clients notice. Longer than an election, so
/// that it is worth one.
const PATIENCE_TICKS: u64 = 15;
/// With each time that it hands its leadership on, a replica is more patient, up to so much: where all
/// disks are slow, somebody has to lead long enough to decide.
const PATIENCE_TICKS_MAX: u64 = 8 * PATIENCE_TICKS;
/// A replica that has led without trouble, or not at all, for so long is as impatient as at first.
const FORGET_TICKS: u64 = 600;
/// After so many ticks the next one is asked: who was asked before was not reached, or its disk does not
/// have all of its log yet. Sooner than that, two who both hear it late would stand in each other's way.
const REPEAT_TICKS: u64 = 10;

/// Measures how long a leader's decisions take: it follows one entry at a time until that is committed.
///
/// Invariants:
/// - `PATIENCE_TICKS <= patience <= PATIENCE_TICKS_MAX`;
/// - `followed` is about an entry of the term in which this replica leads, or is forgotten at the next
///   look.
#[derive(Debug)]
pub(super) struct Decisions {
    followed: Option<Followed>,
    patience: u64,
    /// The store's tick at which the leadership was last to be handed on.
    slow_at: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Followed {
    term: u64,
    index: u64,
    /// The store's tick at which somebody else is to be asked to lead, unless it is committed by then.
    due: u64,
    /// How often others were asked to lead, for its sake.
    asked: u64,
}

/// A leader's log at a tick.
#[derive(Clone, Copy, Debug)]
struct Look {
    term: u64,
    last: u64,
    committed: u64,
}

impl Default for Decisions {
    fn default() -> Self {
        Self { followed: None, patience: PATIENCE_TICKS, slow_at: None }
    }
}

impl Decisions {
    /// Once per tick of a leader: whether somebody else is to be asked to lead.
    fn is_due(&mut self, now: u64, look: Look) -> bool {
        let Look { term, last, committed } = look;
        self.followed = self.followed.filter(|it| it.term == term && it.index > committed);
        if self.slow_at.is_some_and(|at| now >= at + FORGET_TICKS) {
            (self.patience, self.slow_at) = (PATIENCE_TICKS, None);
        }
        if committed >= last {
            return false;
        }
        let due = now + self.patience;
        let begin = Followed { term, index: last, due, asked: 0 };
        now >= self.followed.get_or_insert(begin).due
    }

    /// Somebody is asked: how many were before, for the sake of the same entry.
    fn ask(&mut self, now: u64) -> u64 {
        let followed =
            self.followed.as_mut().expect("an entry is followed where somebody is asked");
        let asked = followed.asked;
        (followed.asked, followed.due) = (asked + 1, now + REPEAT_TICKS);
        if asked == 0 {
            self.patience = PATIENCE_TICKS_MAX.min(2 * self.patience);
            self.slow_at = Some(now);
        }
        asked
    }
}

impl<M: StateMachine> Replica<M> {
    /// Asks another voter to lead if what this leader decides takes too long; to be called once per tick.
    /// True: something is to be sent.
    pub(super) fn look_at_decisions(&mut self, ticks: u64) -> bool {
        let raft = &self.raw.raft;
        if raft.state != StateRole::Leader || raft.lead_transferee.is_some() {
            return false;
        }
        let (last, committed) = (raft.raft_log.last_index(), raft.raft_log.committed);
        let term = raft.term;
        if !self.decisions.is_due(ticks, Look { term, last, committed }) {
            return false;
        }
        let mut able = self.able_to_lead(ticks, None);
        let peers = self.peers(ticks);
        able.retain(|peer| self.wins_without_leader(peer, &peers));
        if able.is_empty() {
            return false;
        }
        let asked = self.decisions.ask(ticks);
        let next = able[asked as usize % able.len()];
        let (range, waiting, store) = (self.range(), last - committed, next.store);
        let why = "what it decides takes too long here";
        if asked == 0 {
            tracing::info!(%range, term, waiting, leader = %store, why, "another store is asked to lead");
        } else {
            tracing::debug!(%range, term, waiting, leader = %store, why, "another is asked to lead");
        }
        self.saving.send_soon(Message {
            msg_type: MessageType::MsgTimeoutNow,
            from: self.address.peer.0,
            to: next.peer.0,
            term,
            ..Message::default()
        });
        true
    }

    /// Whether those that are heard of and have no more of the log than this one, who would vote for it,
    /// are a majority without the leader; in a joint configuration of each half.
    fn wins_without_leader(&self, candidate: &PeerProgress, peers: &[PeerProgress]) -> bool {
        let would = |peer: PeerId| {
            let known = peers.iter().find(|it| it.peer == peer);
            let votes = |it: &PeerProgress| {
                it.is_active && !it.is_leader && it.matched <= candidate.matched
            };
            known.is_some_and(votes)
        };
        let has_majority = |counts: fn(Role) -> bool| {
            let members = self.descriptor().replicas.iter().filter(|it| counts(it.role));
            let (all, votes) = members.fold((0, 0), |(all, votes), member| {
                (all + 1, votes + usize::from(would(member.peer)))
            });
            all == 0 || 2 * votes > all
        };
        has_majority(Role::votes_incoming) && has_majority(Role::votes_outgoing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ticks at which somebody is asked, while one entry waits from tick 1 on until `decided`.
    fn asked(decisions: &mut Decisions, from: u64, decided: u64) -> Vec<u64> {
        let look =
            |now| Look { term: 1, last: from, committed: if now < decided { 0 } else { from } };
        let mut asked = Vec::new();
        for now in from..=decided {
            if decisions.is_due(now, look(now)) {
                assert_eq!(decisions.ask(now), asked.len() as u64);
                asked.push(now);
            }
        }
        asked
    }

    #[test]
    fn nobody_is_asked_while_entries_are_decided_in_time() {
        let mut decisions = Decisions::default();
        for now in 1..1_000 {
            let look = Look { term: 1, last: now + 14, committed: now };
            assert!(!decisions.is_due(now, look), "{now}: {decisions:?}");
        }
    }

    #[test]
    fn one_after_the_other_is_asked_and_then_it_is_more_patient() {
        let mut decisions = Decisions::default();
        assert_eq!(asked(&mut decisions, 1, 42), [16, 26, 36]);
        assert_eq!(asked(&mut decisions, 101, 150), [131, 141]);
        for begin in [200, 300, 500] {
            asked(&mut decisions, begin, begin + 130);
        }
        assert_eq!(decisions.patience, PATIENCE_TICKS_MAX);
        assert_eq!(asked(&mut decisions, 700, 831), [820, 830]);
        assert_eq!(asked(&mut decisions, 820 + FORGET_TICKS, 820 + FORGET_TICKS + 20).len(), 1);
    }

    #[test]
    fn a_new_term_begins_to_count_anew() {
        let mut decisions = Decisions::default();
        for now in 1..100 {
            let look = Look { term: now / 10, last: now, committed: 0 };
            assert!(!decisions.is_due(now, look), "{now}: {decisions:?}");
        }
    }
}
