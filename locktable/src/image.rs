//! The image of a table (D4): which rows a flush must write, and all rows for a snapshot.

use std::collections::BTreeMap;

use crate::{
    Header, LockRow, LockTable, Name, Row, RowKey,
    dirty::{DirtyLock, InImage, RowState},
    lock::Lock,
};

impl LockTable {
    /// What of the state is not in rows. Belongs to the same batch as the rows.
    pub fn header(&self) -> Header {
        self.ledger.header()
    }

    /// Every row that has changed since the last call (or since the table was made or restored),
    /// with its present content, or none if it is gone; in order of keys. The caller writes them all, in one batch
    /// with the header: the table counts on it.
    pub fn take_dirty(&mut self) -> Vec<(RowKey, Option<Row>)> {
        let dirty = std::mem::take(&mut self.ledger.dirty);
        let mut rows = BTreeMap::new();
        for (slot, DirtyLock { name, in_image }) in dirty.locks() {
            let lock = self.locks.get_mut(name);
            match lock.filter(|lock| lock.row_state == RowState::Dirty(slot)) {
                Some(lock) => {
                    lock.row_state = RowState::Clean;
                    rows.insert(RowKey::Lock(name.clone()), Some(Row::Lock(lock.row())));
                }
                // A lock that was made anew under that name is written from its own slot.
                None if *in_image == InImage::Yes => {
                    rows.entry(RowKey::Lock(name.clone())).or_insert(None);
                }
                None => {}
            }
        }
        for (ticket, name, in_image) in dirty.waiters() {
            let row = match in_image {
                InImage::Yes => None,
                InImage::No => self.waiter_row(name, ticket),
            };
            rows.insert(RowKey::Waiter(name.clone(), ticket), row);
        }
        let (gone, grown) = self.ledger.ring.take_dirty();
        rows.extend(gone.map(|number| (RowKey::Ring(number), None)));
        rows.extend(
            grown.map(|number| {
                (RowKey::Ring(number), Some(Row::Ring(self.ledger.ring.row(number))))
            }),
        );
        rows.into_iter().collect()
    }

    /// Every row, in order of keys. Does not count as a flush.
    pub fn rows(&self) -> Vec<(RowKey, Row)> {
        let locks = self.locks.iter();
        let locks = locks.map(|(name, lock)| (RowKey::Lock(name.clone()), Row::Lock(lock.row())));
        let waiters = self.locks.iter().flat_map(|(name, lock)| {
            lock.queue.iter().map(|waiter| {
                let key = RowKey::Waiter(name.clone(), waiter.row.ticket);
                (key, Row::Waiter(waiter.row.clone()))
            })
        });
        let ring = &self.ledger.ring;
        let finished = ring.row_numbers();
        let finished = finished.map(|number| (RowKey::Ring(number), Row::Ring(ring.row(number))));
        locks.chain(waiters).chain(finished).collect()
    }

    fn waiter_row(&self, name: &Name, ticket: u64) -> Option<Row> {
        let waiter = self.locks.get(name)?.queue.get(ticket)?;
        Some(Row::Waiter(waiter.row.clone()))
    }
}

impl Lock {
    pub(crate) fn row(&self) -> LockRow {
        LockRow {
            fence_floor: self.fence_floor.as_ref().map(|floor| floor.token),
            holds: self.holds.iter().map(|hold| hold.row.clone()).collect(),
            delays: self.holds.delays().map(|delay| delay.row).collect(),
        }
    }
}
