//! The first image of a half that was split off, in pieces: a turn must not grow with a range. Nothing
//! changes in a half before it is born, so its rows may be taken over several turns. Only when all
//! are taken, an image of the range that was split and the first records of its halves go into one
//! batch. Until then the disk has the range as it was, and the split in its log: a crash splits it
//! anew.

use std::collections::{BTreeMap, BTreeSet};

use sharklock_rangemap::RangeId;

use super::Store;
use crate::disk::WriteOp;
use crate::state_machine::StateMachine;

/// Halves whose first image is not whole in memory, with the records that are.
///
/// Invariants: each is in `unborn`; the replica of its parent is here but at a start, has no image put
/// into a batch and none installed until all its halves have left this.
#[derive(Default)]
pub(super) struct Dividing(BTreeMap<RangeId, Part>);

struct Part {
    parent: RangeId,
    records: Vec<WriteOp>,
    is_whole: bool,
}

impl Dividing {
    pub(super) fn begin(&mut self, child: RangeId, parent: RangeId, records: Vec<WriteOp>) {
        self.0.insert(child, Part { parent, records, is_whole: false });
    }

    fn halves_of(&self, parent: RangeId) -> impl Iterator<Item = (RangeId, &Part)> {
        let of_parent = self.0.iter().filter(move |(_, part)| part.parent == parent);
        of_parent.map(|(child, part)| (*child, part))
    }

    /// Whether the range was split, and the disk has nothing of it yet.
    fn has_parent(&self, parent: RangeId) -> bool {
        self.halves_of(parent).next().is_some()
    }

    fn unfinished_of(&self, parent: RangeId) -> Vec<RangeId> {
        let unfinished = self.halves_of(parent).filter(|(_, part)| !part.is_whole);
        unfinished.map(|(child, _)| child).collect()
    }

    /// The parents of which something is to be taken.
    fn parents(&self) -> BTreeSet<RangeId> {
        self.0.values().map(|part| part.parent).collect()
    }
}

impl<M: StateMachine> Store<M> {
    /// Whether this range was split, and the first image of a half is not whole yet. The owner gives
    /// turns until there is none ([`has_divisions`](Self::has_divisions)).
    pub fn is_dividing(&self, range: RangeId) -> bool {
        self.dividing.has_parent(range)
    }

    /// Whether a turn is due for the first images of halves.
    pub fn has_divisions(&self) -> bool {
        !self.dividing.0.is_empty()
    }

    /// Goes on with what earlier turns have begun: by one piece of each half, or by the batch.
    pub(super) fn go_on_dividing(&mut self) {
        for parent in self.dividing.parents() {
            let unfinished = self.dividing.unfinished_of(parent);
            match unfinished.is_empty() {
                true => self.end_dividing(parent),
                false => self.take_pieces(unfinished),
            }
        }
    }

    /// Halves were split off in this turn. If they are small this is all the work; if not, the split
    /// itself was enough of it.
    pub(super) fn begin_dividing(&mut self, parent: RangeId) {
        let rows_max = self.config.piece_rows;
        let unfinished = self.dividing.unfinished_of(parent);
        let rows = |child| self.unborn[child].loaded.state.machine().dirty_len();
        if unfinished.iter().map(rows).sum::<usize>() > rows_max {
            return;
        }
        self.take_pieces(unfinished);
        if self.dividing.unfinished_of(parent).is_empty() {
            self.end_dividing(parent);
        }
    }

    /// Takes all that is left, since the range ends here.
    pub(super) fn divide_at_once(&mut self, parent: RangeId) {
        for child in self.dividing.unfinished_of(parent) {
            self.take_piece(child, usize::MAX);
        }
        self.end_dividing(parent);
    }

    fn take_pieces(&mut self, children: Vec<RangeId>) {
        for child in children {
            self.take_piece(child, self.config.piece_rows);
        }
    }

    fn take_piece(&mut self, child: RangeId, rows_max: usize) {
        let unborn = self.unborn.get_mut(&child).expect("a half that is taken is not born");
        let part = self.dividing.0.get_mut(&child).expect("it is being taken");
        let (mut rows, is_whole) = unborn.loaded.state.some_dirty_rows(rows_max);
        part.records.append(&mut rows);
        part.is_whole = is_whole;
    }

    /// All halves of this range, and its image, go into one batch.
    fn end_dividing(&mut self, parent: RangeId) {
        let halves = self.dividing.0.extract_if(.., |_, part| part.parent == parent);
        for (child, part) in halves {
            self.staging.put_all(part.records);
            self.staging.bear(child);
        }
        // None after a start that found that the range goes on without the replica here.
        if let Some(replica) = self.replicas.get_mut(&parent) {
            replica.set_dividing(false);
            if !replica.is_removed() && replica.needs_flush() {
                self.stage_image(parent);
            }
            // A snapshot may have waited for it.
            self.work.insert(parent);
        }
    }
}
