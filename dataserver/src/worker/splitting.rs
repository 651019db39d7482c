//! Splits that this store is asked for, and the answers that wait for one (`gate.rs`).

use std::time::Duration;

use sharklock_multiraft::{AwaitedChild, Split};
use sharklock_rangemap::RangeId;

use super::Worker;
use crate::{
    front::{Front, Read},
    gate::{Gate, HeldOutcome},
};

impl Worker {
    /// Proposes a split of a range that this store leads. Where it cannot be proposed nothing has
    /// happened, and whoever asked learns it from the descriptor that stays as it is, and asks again.
    pub(super) fn split(&mut self, range: RangeId, split: &Split) {
        let leading = self.fronts.get_mut(&range).filter(|front| front.leading.is_some());
        let Some(front) = leading else {
            tracing::info!(%range, "no split: this store does not lead the range");
            return;
        };
        match self.store.split(range, split) {
            Ok(proposed) => {
                tracing::info!(%range, key = %split.key, child = %split.child, "a split is proposed");
                let before = front.gate.replace(Gate::shut(proposed.index));
                assert!(before.is_none(), "range {range} has two splits on their way: {before:?}");
                self.agenda.wake(range);
            }
            Err(error) => tracing::info!(%range, %error, "no split"),
        }
    }

    /// Behind an entry that was applied and is none of the machine's: if it is the split for which
    /// answers were kept back, the outcomes are told now, as if they had come in this turn. The
    /// keepalives are for [`answer`](Self::answer), once clocks and bounds are up to date.
    pub(super) fn open_gate(
        &mut self,
        now: Duration,
        range: RangeId,
        index: u64,
    ) -> Option<(RangeId, Vec<Read>)> {
        let front = self.fronts.get_mut(&range)?;
        // If the range has ended in the same turn, its end answers them.
        let status = self.store.status(range)?;
        let gate = front.gate.take_if(|gate| gate.opens_at(index))?;
        let (outcomes, keepalives) = gate.open();
        let (at, subscribers) = ((index, status.applied), &mut front.subscribers);
        let mut answers = self.replies.at(now, &self.store, range, at, subscribers);
        let clock = front.leading.as_ref().map(|leading| &leading.clock);
        for HeldOutcome { index, asker, outcome } in outcomes {
            answers.position.applied_index = index;
            answers.outcome(asker, outcome, clock);
        }
        Some((range, keepalives))
    }
}

/// Follows how long the log of a range has become that is kept for a child.
pub(super) fn look_at_log(range: RangeId, front: &mut Front, awaited: Option<AwaitedChild>) {
    let overlong = awaited.filter(|awaited| front.leading.is_some() && awaited.is_too_much());
    let was_overlong = std::mem::replace(&mut front.is_overlong, overlong.is_some());
    match overlong {
        Some(AwaitedChild { child, log_bytes, log_bytes_max }) if !was_overlong => tracing::warn!(
            %range,
            %child,
            log_bytes,
            log_bytes_max,
            "nobody has led a range since it was split off, and the log that is kept for it is too \
             long: nobody can acquire in the range from which it came"
        ),
        None if was_overlong => tracing::info!(%range, "the log is not too long any more"),
        Some(_) | None => {}
    }
}
