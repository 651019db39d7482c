//! Writing a history down: one recorder per worker, merged when all are done.

use std::collections::BTreeMap;

use crate::record::{LockId, Record};

/// One worker's notes. Recording is a push into a vector: no lock, no clock, no formatting.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    names: Vec<String>,
    ids: BTreeMap<String, LockId>,
    records: Vec<Record>,
}

impl Recorder {
    /// The number of a lock in this recorder's records: look it up once, outside the hot loop.
    pub fn lock(&mut self, name: &str) -> LockId {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let id = LockId(u32::try_from(self.names.len()).expect("fewer than 2^32 locks"));
        self.names.push(name.to_owned());
        self.ids.insert(name.to_owned(), id);
        id
    }

    /// Notes a call and its answer; `record.lock` comes from [`Recorder::lock`].
    ///
    /// # Panics
    /// When the lock's number is not from this recorder.
    pub fn push(&mut self, record: Record) {
        assert!((record.lock.0 as usize) < self.names.len(), "the lock's number is from elsewhere");
        self.records.push(record);
    }

    /// Takes the notes out, for a [`Journal`](crate::Journal). Locks keep their numbers here.
    pub fn take(&mut self) -> Self {
        let records = std::mem::take(&mut self.records);
        Self { names: self.names.clone(), ids: self.ids.clone(), records }
    }

    /// Adds the notes of another process.
    pub fn extend(&mut self, history: &History) {
        for record in &history.records {
            let lock = self.lock(&history.name(record.lock));
            self.push(Record { lock, ..*record });
        }
    }

    pub(crate) fn records(&self) -> &[Record] {
        &self.records
    }

    pub(crate) fn name(&self, lock: LockId) -> &str {
        &self.names[lock.0 as usize]
    }

    /// How many calls are noted.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}

/// The notes of all workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// The locks' names, by [`LockId`].
    pub names: Vec<String>,
    /// The calls, in no order.
    pub records: Vec<Record>,
}

impl History {
    /// Puts recorders' notes together. Session labels are taken as they are: the workers must not
    /// share them.
    pub fn merge(recorders: impl IntoIterator<Item = Recorder>) -> Self {
        let mut all = Recorder::default();
        for recorder in recorders {
            let ids: Vec<LockId> = recorder.names.iter().map(|name| all.lock(name)).collect();
            let renamed = recorder
                .records
                .into_iter()
                .map(|record| Record { lock: ids[record.lock.0 as usize], ..record });
            all.records.extend(renamed);
        }
        Self { names: all.names, records: all.records }
    }

    /// The name of a lock, or its number where the history has no name for it.
    pub fn name(&self, lock: LockId) -> String {
        self.names.get(lock.0 as usize).cloned().unwrap_or_else(|| format!("#{}", lock.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Position, What};

    #[test]
    fn merging_keeps_every_record_with_its_name() {
        let worker = |names: &[&str], session| {
            let mut recorder = Recorder::default();
            for name in names {
                let lock = recorder.lock(name);
                let position = Position::UNKNOWN;
                let (acquisition, what) = (1, What::Unknown { reenter: 0 });
                let record =
                    Record { lock, session, acquisition, invoked: 1, returned: 2, position, what };
                recorder.push(record);
            }
            recorder
        };
        let history = History::merge([worker(&["a", "b"], 1), worker(&["b", "c", "b"], 2)]);
        let named: Vec<_> =
            history.records.iter().map(|r| (r.session, history.name(r.lock))).collect();
        let expected = [(1, "a"), (1, "b"), (2, "b"), (2, "c"), (2, "b")];
        assert_eq!(named, expected.map(|(session, name)| (session, name.to_owned())));
    }
}
