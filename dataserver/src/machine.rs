//! A lock table as the state machine of a range: decodes entries, encodes its image.

use sharklock_locktable::{At, LockTable, Name, Outcome, RestoreError, Restoring};
use sharklock_multiraft::{CorruptImage, DirtyRow, EntryAt, StateMachine};

use crate::{
    codec::{self, LogBatch},
    image,
};

/// What applying one entry did: one outcome per command, in order.
pub type LockRangeOutput = Vec<Outcome>;

/// The replicated state of a range of locks.
#[derive(Debug)]
pub struct LockRange {
    table: LockTable,
}

impl LockRange {
    /// The locks, as applied.
    pub fn table(&self) -> &LockTable {
        &self.table
    }

    /// See [`LockTable::count_prefixes`].
    pub fn count_prefixes(&mut self, prefixes: &[Name]) {
        self.table.count_prefixes(prefixes);
    }
}

impl StateMachine for LockRange {
    type Output = LockRangeOutput;

    fn empty() -> Self {
        Self { table: LockTable::new() }
    }

    fn apply(&mut self, at: EntryAt, data: &[u8]) -> Self::Output {
        let batch = match codec::decode_batch(data) {
            Ok(batch) => batch,
            // Skipping it would let this replica diverge from those that understand it (D19).
            Err(error) => panic!("entry {} of term {}: {error}", at.index, at.term),
        };
        let LogBatch { stamped_unix_ms, passed_ms, commands } = batch;
        let at = At { index: at.index, term: at.term, stamped_unix_ms };
        self.table.pass(passed_ms);
        commands.into_iter().map(|command| self.table.apply(at, command)).collect()
    }

    fn take_dirty(&mut self) -> Vec<DirtyRow> {
        let dirty = self.table.take_dirty().into_iter();
        dirty
            .map(|(key, row)| (image::encode_key(&key), row.as_ref().map(image::encode_row)))
            .collect()
    }

    fn dirty_len(&self) -> usize {
        self.table.dirty_len()
    }

    fn header(&self) -> Vec<u8> {
        image::encode_header(self.table.header())
    }

    fn state_hash(&self) -> u64 {
        self.table.state_hash()
    }

    fn restore(
        header: &[u8],
        rows: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
    ) -> Result<Self, CorruptImage> {
        let corrupt = |error: codec::DecodeError| CorruptImage(error.to_string());
        let broken = |error: RestoreError| CorruptImage(error.to_string());
        let mut rows = rows.into_iter().peekable();
        // A range that has never been flushed since it was made has no header of its own.
        if header.is_empty() && rows.peek().is_none() {
            return Ok(Self::empty());
        }
        let header = image::decode_header(header).map_err(corrupt)?;
        let mut restoring = Restoring::begin(header).map_err(broken)?;
        for (key, value) in rows {
            let key = image::decode_key(&key).map_err(corrupt)?;
            let row = image::decode_row(&key, &value).map_err(corrupt)?;
            restoring.put(key, row).map_err(broken)?;
        }
        Ok(Self { table: restoring.end().map_err(broken)? })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use sharklock_locktable::{
        Acquire, Acquisition, AcquisitionId, Command, Ending, Instance, Mode, Owner, Release,
        SessionHandle, Token, Wait,
    };

    use super::*;

    fn acquire(id: u64, name: &str, mode: Mode) -> Command {
        let session = SessionHandle([u8::try_from(id).expect("small"); 16]);
        Command::Acquire(Box::new(Acquire {
            acquisition: Acquisition { session, instance: Instance(1), id: AcquisitionId(id) },
            name: name.into(),
            mode,
            ttl_ms: 10_000,
            wait: Wait::AtMost(60_000),
            reenter: None,
            owner: Owner {
                id: format!("owner-{id}"),
                address: "127.0.0.1:1".into(),
                attributes: vec![("k".into(), "v".into())],
            },
            condition: None,
            asked_ms: u64::MAX,
        }))
    }

    fn apply(range: &mut LockRange, index: u64, commands: Vec<Command>) {
        let data = codec::encode_batch(1_000 + index, 10, &commands);
        range.apply(EntryAt { index, term: 1 }, &data);
    }

    fn busy_range() -> LockRange {
        let mut range = LockRange::empty();
        let commands = (1..=4).map(|id| acquire(id, "a", Mode::Exclusive)).collect();
        apply(&mut range, 6, commands);
        let permits = Mode::Permits { n: 2, of: 3 };
        apply(&mut range, 7, vec![acquire(5, "b/ü", Mode::Shared), acquire(6, "c", permits)]);
        let ending = Ending {
            name: "b/ü".into(),
            token: None,
            reason: "stuck".into(),
            operator: "ops".into(),
        };
        let session = SessionHandle([1; 16]);
        let acquisition = Acquisition { session, instance: Instance(1), id: AcquisitionId(1) };
        let release = Release { acquisition, name: "a".into(), token: Token(1), all: false };
        apply(&mut range, 8, vec![Command::Ending(ending), Command::Release(release)]);
        range
    }

    #[test]
    fn the_image_holds_the_whole_state() {
        let mut range = busy_range();
        let rows: Vec<_> = range
            .take_dirty()
            .into_iter()
            .map(|(key, value)| (key, value.expect("nothing was there to delete")))
            .collect();
        let restored = LockRange::restore(&range.header(), rows).expect("its own image");
        assert_eq!(restored.state_hash(), range.state_hash());
        assert_eq!(restored.table().rows(), range.table().rows());
        assert_eq!(restored.table().header(), range.table().header());
        assert_eq!(restored.table().leases(), range.table().leases());
    }

    #[test]
    fn flushes_one_over_the_other_are_the_whole_image() {
        let mut range = busy_range();
        let mut image = BTreeMap::new();
        let mut flush = |range: &mut LockRange| {
            for (key, value) in range.take_dirty() {
                match value {
                    Some(value) => drop(image.insert(key, value)),
                    None => drop(image.remove(&key)),
                }
            }
            image.clone().into_iter().collect::<Vec<_>>()
        };
        flush(&mut range);
        apply(&mut range, 9, vec![acquire(7, "d", Mode::Exclusive), acquire(8, "a", Mode::Shared)]);
        let restored = LockRange::restore(&range.header(), flush(&mut range)).expect("its own");
        assert_eq!(restored.state_hash(), range.state_hash());
        assert_eq!(restored.table().rows(), range.table().rows());
        assert_eq!(restored.header(), range.header());
        let empty = LockRange::empty();
        let restored = LockRange::restore(&empty.header(), Vec::new()).expect("its own image");
        assert_eq!(restored.state_hash(), empty.state_hash());
    }

    #[test]
    fn a_damaged_image_is_an_error_and_never_a_panic() {
        let mut range = busy_range();
        let header = range.header();
        let rows: Vec<_> = range
            .take_dirty()
            .into_iter()
            .map(|(key, value)| (key, value.expect("nothing was there to delete")))
            .collect();
        for (at, row) in rows.iter().enumerate() {
            for position in 0..row.1.len() {
                let mut damaged = rows.clone();
                damaged[at].1[position] ^= 0x41;
                if let Ok(restored) = LockRange::restore(&header, damaged) {
                    // The engine compares hashes next; a difference must show there.
                    let same = restored.table().rows() == range.table().rows();
                    assert!(same || restored.state_hash() != range.state_hash());
                }
            }
        }
    }
}
