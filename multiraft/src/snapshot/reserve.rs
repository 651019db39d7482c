//! For whom the log of a range is kept beyond its ordinary maxima.
//!
//! While a snapshot travels, the log goes on. If it were cut to its maxima meanwhile, a short log
//! under load would no longer have what follows the snapshot when that is installed: the replica
//! would need the next one, and the next, for as long as the load lasts. So what follows a
//! snapshot is kept until the replica has caught up. As much as the snapshot itself takes is given
//! for that, which is enough wherever a snapshot travels faster than its range writes.

use sharklock_rangemap::PeerId;

use crate::log::LogLimits;
use crate::replica::Replica;
use crate::state_machine::StateMachine;

/// The part of a range's log that is kept for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reserve {
    /// Entries behind this index are needed.
    pub from: u64,
    /// So many bytes more than ordinary they may take.
    pub bytes: u64,
}

impl Reserve {
    /// The reserve that serves both.
    pub(crate) fn and(self, other: Self) -> Self {
        Self { from: self.from.min(other.from), bytes: self.bytes.max(other.bytes) }
    }

    /// The maxima of a log of which so much is kept.
    pub(crate) fn extend(self, limits: &LogLimits) -> LogLimits {
        let bytes_max = limits.bytes_max.saturating_add(self.bytes);
        LogLimits { entries_max: u64::MAX, bytes_max, ..*limits }
    }
}

/// A replica that has installed a snapshot and lacks what was appended since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CatchingUp {
    /// The term in which it was sent; with its leader's leadership the reserve ends.
    pub term: u64,
    /// Up to where the replica has the log, and what the snapshot took.
    pub reserve: Reserve,
    /// Tick of its last progress.
    pub progress: u64,
}

impl CatchingUp {
    /// Takes note of how far the replica is. False: nothing is kept for it any more. It has caught
    /// up, or needs another snapshot, or this store does not lead.
    pub(crate) fn follow<M: StateMachine>(
        &mut self,
        replica: &Replica<M>,
        peer: PeerId,
        floor: u64,
        ticks: u64,
    ) -> bool {
        if !replica.leads_now() || replica.term() != self.term {
            return false;
        }
        let matched = replica.matched(peer);
        if matched > self.reserve.from {
            self.reserve.from = matched;
            self.progress = ticks;
        }
        let log = replica.log();
        self.reserve.from + 1 >= log.first() && log.last() - self.reserve.from > floor
    }
}
