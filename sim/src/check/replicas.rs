//! S9, S12 and S10's part about leaders: over all replicas of each range and all their lives.

use std::collections::BTreeMap;

use sharklock_multiraft::{RaftRole, ReplicaStatus};
use sharklock_rangemap::RangeId;

/// Indices of which the hash is remembered.
const HASHES_KEPT: usize = 50_000;

/// What replicas have shown, by range.
#[derive(Debug, Default)]
pub struct Replicas(BTreeMap<RangeId, Shown>);

/// What the replicas of one range have shown.
#[derive(Debug, Default)]
struct Shown {
    /// By applied index.
    hashes: BTreeMap<u64, (u64, usize)>,
    /// By term.
    leaders: BTreeMap<u64, usize>,
    /// The term in which a leader was last seen to answer.
    answered_term: u64,
    /// The largest index that any replica has applied.
    applied_max: u64,
    leader_changes: u64,
}

impl Replicas {
    /// Takes what a replica shows.
    ///
    /// # Errors
    ///
    /// The broken rule, and how.
    pub fn observe(
        &mut self,
        (range, store): (RangeId, usize),
        status: &ReplicaStatus,
    ) -> Result<(), (&'static str, String)> {
        let shown = self.0.entry(range).or_default();
        shown
            .observe(store, status)
            .map_err(|(rule, what)| (rule, format!("range {range}: {what}")))
    }

    /// A replica of a range leads and answers in this term: whether that is news.
    pub fn leads(&mut self, range: RangeId, term: u64) -> bool {
        let shown = self.0.entry(range).or_default();
        let is_news = term > shown.answered_term;
        shown.answered_term = shown.answered_term.max(term);
        shown.leader_changes += u64::from(is_news);
        is_news
    }

    /// How often another leader of a range has begun to answer.
    pub fn leader_changes(&self, range: RangeId) -> u64 {
        self.0.get(&range).map_or(0, |shown| shown.leader_changes)
    }

    /// The latest term in which a leader of a range has answered.
    pub fn answered_term(&self, range: RangeId) -> u64 {
        self.0.get(&range).map_or(0, |shown| shown.answered_term)
    }

    /// The largest index that any replica of a range has ever applied: whatever was answered by now
    /// is in the log up to there.
    pub fn applied_max(&self, range: RangeId) -> u64 {
        self.0.get(&range).map_or(0, |shown| shown.applied_max)
    }
}

impl Shown {
    fn observe(
        &mut self,
        store: usize,
        status: &ReplicaStatus,
    ) -> Result<(), (&'static str, String)> {
        if status.applied > status.commit {
            return Err((
                "S12",
                format!("s{store} has applied more than is committed: {status:?}"),
            ));
        }
        if status.role == RaftRole::Stopped {
            return Err(("S6", format!("s{store} was stopped by an alarm: {status:?}")));
        }
        self.applied_max = self.applied_max.max(status.applied);
        let (hash, first) =
            *self.hashes.entry(status.applied).or_insert((status.state_hash, store));
        if hash != status.state_hash {
            let (applied, own) = (status.applied, status.state_hash);
            let what = format!(
                "at index {applied} s{store} has the state {own:016x}, s{first} had {hash:016x}"
            );
            return Err(("S9", what));
        }
        if self.hashes.len() > HASHES_KEPT {
            self.hashes.pop_first();
        }
        if status.role == RaftRole::Leader {
            let first = *self.leaders.entry(status.term).or_insert(store);
            if first != store {
                let term = status.term;
                return Err(("S10", format!("s{first} and s{store} both lead in term {term}")));
            }
        }
        Ok(())
    }
}
