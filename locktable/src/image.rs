//! The image of a table (D4): which rows a flush must write, and all rows for a snapshot.

use std::{collections::BTreeMap, ops::Bound};

use crate::{
    Header, LockRow, LockTable, Name, Row, RowKey,
    dirty::{DirtyHold, InImage, RowState},
    lock::Lock,
};

impl LockTable {
    /// The part of the state that is not in rows. It belongs to the same batch as the rows.
    pub fn header(&self) -> Header {
        self.ledger.header()
    }

    /// Every row that has changed since the last call (or since the table was made or restored),
    /// with its present content, or none if it is gone; in order of keys. The caller writes them all, in one batch
    /// with the header: the table counts on it.
    pub fn take_dirty(&mut self) -> Vec<(RowKey, Option<Row>)> {
        let dirty = std::mem::take(&mut self.ledger.dirty);
        if self.ledger.first_image.is_some() {
            return self.take_first_image();
        }
        let mut rows = BTreeMap::new();
        for (_, DirtyHold { name, token, in_image }) in dirty.holds() {
            let lock = self.locks.get_mut(name);
            // No other hold ever has its token.
            let hold = lock.and_then(|lock| lock.holds.get_mut(*token));
            let row = hold.map(|hold| {
                hold.row_state = RowState::Clean;
                Row::Hold(hold.row.clone())
            });
            if row.is_some() || *in_image == InImage::Yes {
                rows.insert(RowKey::Hold(name.clone(), *token), row);
            }
        }
        for (ticket, name, in_image) in dirty.waiters() {
            let row = match in_image {
                InImage::Yes => None,
                InImage::No => self.waiter_row(name, ticket),
            };
            rows.insert(RowKey::Waiter(name.clone(), ticket), row);
        }
        rows.extend(dirty.others().map(|(key, _)| (key.clone(), self.floor_or_delay_row(key))));
        let ended = self.ledger.ended.take_dirty().into_iter();
        rows.extend(
            ended.map(|(number, row, content)| {
                (RowKey::Ended(number, row), content.map(Row::Ended))
            }),
        );
        let (gone, grown) = self.ledger.ring.take_dirty();
        rows.extend(gone.map(|number| (RowKey::Ring(number), None)));
        rows.extend(
            grown.map(|number| {
                (RowKey::Ring(number), Some(Row::Ring(self.ledger.ring.row(number))))
            }),
        );
        rows.into_iter().collect()
    }

    /// About how many rows [`LockTable::take_dirty`] would give, those of the ring not counted.
    pub fn dirty_len(&self) -> usize {
        match self.ledger.first_image {
            Some(_) => self.ledger.holds_count + self.ledger.waiters_count,
            None => self.ledger.dirty.len(),
        }
    }

    /// Every row, in order of keys. Does not count as a flush. What flushes have made of what has ended
    /// has the same content in other rows.
    pub fn rows(&self) -> Vec<(RowKey, Row)> {
        let locks = || self.locks.iter();
        let floors = locks()
            .filter_map(|(name, lock)| Some((RowKey::Lock(name.clone()), Row::Lock(lock.row()?))));
        let holds = locks().flat_map(|(name, lock)| {
            lock.holds.iter().map(|hold| {
                (RowKey::Hold(name.clone(), hold.row.token), Row::Hold(hold.row.clone()))
            })
        });
        let delays = locks().flat_map(|(name, lock)| {
            lock.holds
                .delays()
                .map(|delay| (RowKey::Delay(name.clone(), delay.row.token), Row::Delay(delay.row)))
        });
        let waiters = locks().flat_map(|(name, lock)| {
            lock.queue.iter().map(|waiter| {
                let key = RowKey::Waiter(name.clone(), waiter.row.ticket);
                (key, Row::Waiter(waiter.row.clone()))
            })
        });
        let ended = self.ledger.ended.rows();
        let ended =
            ended.map(|(number, row, content)| (RowKey::Ended(number, row), Row::Ended(content)));
        let ring = &self.ledger.ring;
        let finished = ring.row_numbers();
        let finished = finished.map(|number| (RowKey::Ring(number), Row::Ring(ring.row(number))));
        floors.chain(holds).chain(delays).chain(waiters).chain(ended).chain(finished).collect()
    }

    /// Takes all rows of the locks behind this one, until there are so many. Gives back the name of the
    /// last, if there may be more.
    pub(crate) fn take_locks(
        &mut self,
        after: Option<&Name>,
        rows_max: usize,
        rows: &mut Vec<(RowKey, Row)>,
    ) -> Option<Name> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        for (name, lock) in self.locks.range_mut::<Name, _>((from, Bound::Unbounded)) {
            rows.extend(lock.row().map(|row| (RowKey::Lock(name.clone()), Row::Lock(row))));
            for hold in lock.holds.iter_mut() {
                hold.row_state = RowState::Clean;
                let key = RowKey::Hold(name.clone(), hold.row.token);
                rows.push((key, Row::Hold(hold.row.clone())));
            }
            for delay in lock.holds.delays() {
                rows.push((RowKey::Delay(name.clone(), delay.row.token), Row::Delay(delay.row)));
            }
            for waiter in lock.queue.iter() {
                let key = RowKey::Waiter(name.clone(), waiter.row.ticket);
                rows.push((key, Row::Waiter(waiter.row.clone())));
            }
            if rows.len() >= rows_max {
                return Some(name.clone());
            }
        }
        None
    }

    fn waiter_row(&self, name: &Name, ticket: u64) -> Option<Row> {
        let waiter = self.locks.get(name)?.queue.get(ticket)?;
        Some(Row::Waiter(waiter.row.clone()))
    }

    fn floor_or_delay_row(&self, key: &RowKey) -> Option<Row> {
        match key {
            RowKey::Lock(name) => self.locks.get(name)?.row().map(Row::Lock),
            RowKey::Delay(name, token) => {
                let delay = self.locks.get(name)?.holds.delay(*token)?;
                Some(Row::Delay(delay.row))
            }
            RowKey::Hold(..) | RowKey::Waiter(..) | RowKey::Ended(..) | RowKey::Ring(_) => {
                unreachable!("{key:?} is noted elsewhere")
            }
        }
    }
}

impl Lock {
    /// Its own row; nothing for a lock that has nothing of its own.
    fn row(&self) -> Option<LockRow> {
        self.holds.fence_floor().map(|floor| LockRow { fence_floor: floor.token })
    }
}
