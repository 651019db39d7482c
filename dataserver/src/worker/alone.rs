//! The masters' word that a replica here is to go on alone (`docs/internals/recover.md`). They repeat it
//! with each heartbeat until the range is reported as what it became, so nothing of it is kept here.

use std::time::Duration;

use sharklock_locktable::{Command, Recover};
use sharklock_multiraft::{Alone, NotAlone};
use sharklock_proto::internal::v1::GoOnAlone;
use sharklock_rangemap::{Epoch, PeerId, RangeId};

use super::Worker;
use crate::codec::{self, BatchHead};

/// Ranges about which the masters have not asked for so long they want to know nothing of any more.
const REPEATED_WITHIN: Duration = Duration::from_secs(10);

impl Worker {
    /// Of the ranges that the masters ask about those of which nothing is here, nor on its way.
    pub fn absent(&self) -> Vec<u64> {
        let is_here = |range: &RangeId| {
            self.store.descriptor(*range).is_some()
                || self.store.coming().any(|it| it.range == *range)
        };
        self.asked_about.keys().filter(|range| !is_here(range)).map(|range| range.0).collect()
    }

    pub(super) fn forget_questions(&mut self, now: Duration) {
        self.asked_about.retain(|_, asked| now.saturating_sub(*asked) < REPEATED_WITHIN);
    }

    pub(super) fn go_on_alone(&mut self, order: GoOnAlone) {
        let GoOnAlone { range_id, peer_id, as_peer_id, conf_ver, version, term, .. } = order;
        let GoOnAlone { end, generation, waits, .. } = order;
        let range = RangeId(range_id);
        let Ok(generation) = u16::try_from(generation) else {
            tracing::error!(%range, generation, "the masters name no generation of tokens");
            return;
        };
        // Time that nobody has counted is late, and that is safe.
        let head = BatchHead { version, stamped_unix_ms: 0, passed_ms: 0 };
        let alone = Alone {
            peer: PeerId(peer_id),
            as_peer: PeerId(as_peer_id),
            epoch: Epoch { version, conf_ver },
            term,
            end: end.to_vec(),
            entry: codec::encode_batch(head, &[Command::Recover(Recover { generation, waits })]),
        };
        match self.store.go_on_alone(range, alone) {
            Ok(()) => tracing::warn!(%range, "by the masters' word a replica is to go on alone"),
            Err(NotAlone::OtherPeer(peer)) if peer == PeerId(as_peer_id) => {}
            Err(why) => tracing::info!(%range, %why, "a replica does not go on alone"),
        }
    }
}
