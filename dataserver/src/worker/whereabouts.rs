//! What the table of all workers of a store hears of this one's ranges.
//!
//! Names and ranges come into the table at once, and leave it only when the disk has that they are
//! free: another worker may then write records of them, and no crash may find both.

use std::collections::{BTreeMap, BTreeSet};

use sharklock_multiraft::{BatchSeq, Effects, Store};
use sharklock_rangemap::{PeerId, RangeId};

use crate::{machine::LockRange, ports::Whereabouts};

/// See the module.
///
/// Invariants: a range whose replica has come, gone or changed, or of which something was handled
/// that could do that, is in `open` until the batch with all of it is durable.
#[derive(Debug, Default)]
pub struct Settling {
    /// What was handled since the last turn.
    handled: BTreeMap<RangeId, u32>,
    open: BTreeMap<RangeId, Open>,
    /// Those whose split was in no batch by the end of the last turn.
    dividing: BTreeSet<RangeId>,
}

#[derive(Debug)]
struct Open {
    /// With this batch all of it is durable.
    batch: BatchSeq,
    handled: u32,
}

impl Settling {
    /// An input was handled that can make or end a replica of this range.
    pub fn handled(&mut self, range: RangeId) {
        *self.handled.entry(range).or_default() += 1;
    }

    /// What the table is to hear at the end of a turn with these effects.
    pub fn follow<O>(
        &mut self,
        effects: &Effects<O>,
        store: &Store<LockRange>,
    ) -> Vec<Whereabouts> {
        let mut told = Vec::new();
        for range in &effects.born {
            if let Some(descriptor) = store.descriptor(*range) {
                told.push(Whereabouts::Born { range: *range, bounds: descriptor.bounds.clone() });
            }
        }
        let buried = effects.buried.iter();
        told.extend(buried.map(|&(range, peer)| Whereabouts::Buried { range, peer }));
        let buried = effects.buried.iter().map(|(range, _): &(RangeId, PeerId)| *range);
        let touched = effects.born.iter().chain(&effects.changed).chain(&effects.gone).copied();
        let batch = store.staged();
        let divided: Vec<_> =
            self.dividing.extract_if(.., |range| !store.is_dividing(*range)).collect();
        self.dividing.extend(effects.changed.iter().filter(|range| store.is_dividing(**range)));
        for range in touched.chain(buried).chain(divided) {
            self.touch(range, batch, 0);
        }
        for (range, count) in std::mem::take(&mut self.handled) {
            self.touch(range, batch, count);
        }
        if !self.open.is_empty() {
            self.settle(store, &mut told);
        }
        told
    }

    fn touch(&mut self, range: RangeId, batch: BatchSeq, handled: u32) {
        let open = self.open.entry(range).or_insert(Open { batch, handled: 0 });
        open.batch = batch;
        open.handled += handled;
    }

    fn settle(&mut self, store: &Store<LockRange>, told: &mut Vec<Whereabouts>) {
        let durable = store.durable();
        let is_settled = |range: &RangeId, open: &mut Open| {
            open.batch <= durable && !self.dividing.contains(range)
        };
        for (range, Open { handled, .. }) in self.open.extract_if(.., is_settled) {
            let bounds = store.descriptor(range).map(|descriptor| descriptor.bounds.clone());
            told.push(Whereabouts::Settled { range, bounds, handled });
        }
    }
}
