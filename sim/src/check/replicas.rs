//! S9, S12 and S10's part about leaders: over all replicas and all their lives.

use std::collections::BTreeMap;

use sharklock_multiraft::{RaftRole, ReplicaStatus};

/// Indices of which the hash is remembered.
const HASHES_KEPT: usize = 50_000;

/// What replicas have shown.
#[derive(Debug, Default)]
pub struct Replicas {
    /// By applied index.
    hashes: BTreeMap<u64, (u64, usize)>,
    /// By term.
    leaders: BTreeMap<u64, usize>,
    /// The term in which a leader was last seen to answer.
    answered_term: u64,
    /// The largest index that any replica has applied.
    applied_max: u64,
}

impl Replicas {
    /// Takes what a replica shows.
    ///
    /// # Errors
    ///
    /// The broken rule, and how.
    pub fn observe(
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

    /// A replica leads and answers in this term: whether that is news.
    pub fn leads(&mut self, term: u64) -> bool {
        let is_news = term > self.answered_term;
        self.answered_term = self.answered_term.max(term);
        is_news
    }

    /// The latest term in which a leader has answered.
    pub fn answered_term(&self) -> u64 {
        self.answered_term
    }

    /// The largest index that any replica has ever applied: whatever was answered by now is in
    /// the log up to there.
    pub fn applied_max(&self) -> u64 {
        self.applied_max
    }
}
