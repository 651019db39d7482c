//! The first image of a table that was split off. All of it is to be written, and it may be large, so
//! it can be taken in pieces, of which each is a bounded work.

use crate::{LockTable, Name, Row, RowKey, dirty::Dirty};

/// So many blocks of ended ids, or outcomes, are about the work of one row of a lock.
const PARTS: usize = 4;

/// Where the first image goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FirstImage {
    /// With the rows of the locks behind this one.
    Locks(Option<Name>),
    /// With the generation of this place among what has ended.
    Ended(usize),
    /// With this row of the ring.
    Ring(u64),
}

impl Default for FirstImage {
    fn default() -> Self {
        Self::Locks(None)
    }
}

impl LockTable {
    /// As [`take_dirty`](Self::take_dirty), but in pieces if this is a first image: about so many rows,
    /// or those of one lock, or of one generation of what has ended; and whether these are the last.
    /// Until then nothing may be applied. A later flush is one piece.
    pub fn take_some_dirty(&mut self, rows_max: usize) -> (Vec<(RowKey, Option<Row>)>, bool) {
        let Some(from) = self.ledger.first_image.take() else { return (self.take_dirty(), true) };
        self.ledger.dirty = Dirty::default();
        let mut rows = Vec::new();
        self.ledger.first_image = self.take_piece(from, rows_max, &mut rows);
        let rows = rows.into_iter().map(|(key, row)| (key, Some(row)));
        (rows.collect(), self.ledger.first_image.is_none())
    }

    /// All of a first image.
    pub(crate) fn take_first_image(&mut self) -> Vec<(RowKey, Option<Row>)> {
        let (mut rows, is_all) = self.take_some_dirty(usize::MAX);
        assert!(is_all, "a piece without a bound is all of it");
        rows.sort_by(|(a, _), (b, _)| a.cmp(b));
        rows
    }

    /// Panics between two pieces: what would be applied now would be missing in those that are taken.
    pub(crate) fn check_is_whole(&self) {
        let next = &self.ledger.first_image;
        let is_whole = next.as_ref().is_none_or(|next| *next == FirstImage::default());
        assert!(is_whole, "a command between two pieces of an image, at {next:?}");
    }

    fn take_piece(
        &mut self,
        from: FirstImage,
        rows_max: usize,
        rows: &mut Vec<(RowKey, Row)>,
    ) -> Option<FirstImage> {
        let mut next = from;
        let mut work = 0;
        while work < rows_max.saturating_mul(PARTS) {
            next = match next {
                FirstImage::Locks(after) => {
                    let more = self.take_locks(after.as_ref(), rows_max, rows);
                    work = rows.len() * PARTS;
                    more.map_or(FirstImage::Ended(0), |name| FirstImage::Locks(Some(name)))
                }
                FirstImage::Ended(place) => match self.ledger.ended.take_dirty_of(place) {
                    Some(ended) => {
                        for (key, row) in ended {
                            work += row.lives.iter().map(|it| it.blocks.len()).sum::<usize>();
                            rows.push((key, Row::Ended(row)));
                        }
                        FirstImage::Ended(place + 1)
                    }
                    None => FirstImage::Ring(self.ledger.ring.row_numbers().start),
                },
                FirstImage::Ring(row) if row < self.ledger.ring.row_numbers().end => {
                    let outcomes = self.ledger.ring.row(row);
                    work += outcomes.len();
                    rows.push((RowKey::Ring(row), Row::Ring(outcomes)));
                    FirstImage::Ring(row + 1)
                }
                FirstImage::Ring(_) => {
                    self.ledger.ring.take_dirty();
                    return None;
                }
            };
        }
        Some(next)
    }
}
