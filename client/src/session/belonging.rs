//! The end of a session whose endpoints turn out to belong to another cluster: nothing is asked of
//! that one, and nobody waits for what cannot come.

use std::time::Duration;

use super::{
    Effects, SessionCore,
    acquisition::{Acquisition, Phase},
};
use crate::{
    cluster::ClusterMismatch,
    error::{AcquireError, LostReason},
};

impl SessionCore {
    /// The endpoints belong to two clusters: nothing is acquired any more, not even what is granted and
    /// not handed out. Guards end with the others unless most of the list stands behind them.
    pub(super) fn two_clusters(
        &mut self,
        now: Duration,
        mismatch: ClusterMismatch,
        keeps_guards: bool,
        effects: &mut Effects,
    ) {
        self.nowhere(now, &mismatch, effects);
        self.refused = Some(mismatch);
        if keeps_guards {
            return;
        }
        let held = self.ids_where(|held| matches!(held.phase, Phase::Held { .. }));
        for id in held {
            self.lose(id, LostReason::OtherCluster, effects);
            self.arm(id);
        }
    }

    /// Nobody can be asked: whoever waits for an answer is told why.
    pub(super) fn nowhere(
        &mut self,
        now: Duration,
        mismatch: &ClusterMismatch,
        effects: &mut Effects,
    ) {
        let has_guard =
            |held: &Acquisition| matches!(held.phase, Phase::Held { .. } | Phase::Lost { .. });
        let waiting = self.ids_where(|acquisition| !has_guard(acquisition));
        for id in waiting {
            self.fail(now, id, AcquireError::OtherCluster(mismatch.clone()), effects);
        }
    }
}
