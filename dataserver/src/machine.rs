//! A lock table as the state machine of a range: decodes entries, encodes its image.

use sharklock_locktable::{
    At, Command, LockTable, Name, Outcome, RestoreError, Restoring, Row, RowKey,
};
use sharklock_multiraft::{BadImage, DirtyRow, EntryAt, StateMachine};

use crate::{
    codec::{self, LogBatch},
    image,
};

/// The effect of applying one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockRangeOutput {
    /// The outcome of each command, in order.
    Done(Vec<Outcome>),
    /// The range has other bounds than those under which the entry was proposed. None of its
    /// commands was applied; these are all of them, in order.
    Moved(Vec<Command>),
}

/// The replicated state of a range of locks.
#[derive(Debug)]
pub struct LockRange {
    table: LockTable,
}

impl LockRange {
    /// The state of a range that begins by the rules of this feature level.
    ///
    /// # Errors
    /// This program does not know them.
    pub fn at_level(level: u64) -> Result<Self, RestoreError> {
        LockTable::at_level(level).map(|table| Self { table })
    }

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

    fn knows(data: &[u8]) -> Result<(), String> {
        codec::knows(data).map_err(|why| why.to_string())
    }

    fn apply(&mut self, at: EntryAt, version: u64, data: &[u8]) -> Self::Output {
        let batch = match codec::decode_batch(data) {
            Ok(batch) => batch,
            // Skipping it would let this replica diverge from those that understand it (D19).
            Err(error) => panic!("entry {} of term {}: {error}", at.index, at.term),
        };
        let LogBatch { head, commands } = batch;
        let at = At { index: at.index, term: at.term, stamped_unix_ms: head.stamped_unix_ms };
        // Time has passed for the range whatever became of its names. The leader has counted it as
        // proposed; if the table did not follow, it would be behind for ever, and a request would
        // seem to have been asked later than it was: a late copy could pass for a new one.
        self.table.pass(head.passed_ms);
        // A split may stand between this entry's proposal and its place in the log (D12). Where a
        // name has moved, the child decides about it, so that here nothing may be decided.
        if head.version != version {
            return LockRangeOutput::Moved(commands);
        }
        let outcomes = commands.into_iter().map(|command| self.table.apply(at, command));
        LockRangeOutput::Done(outcomes.collect())
    }

    fn split_off(&mut self, key: &str) -> Self {
        Self { table: self.table.split_off(key) }
    }

    fn take_dirty(&mut self) -> Vec<DirtyRow> {
        self.table.take_dirty().into_iter().map(dirty_row).collect()
    }

    fn take_some_dirty(&mut self, rows_max: usize) -> (Vec<DirtyRow>, bool) {
        let (rows, is_all) = self.table.take_some_dirty(rows_max);
        (rows.into_iter().map(dirty_row).collect(), is_all)
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
    ) -> Result<Self, BadImage> {
        let mut rows = rows.into_iter().peekable();
        // A range that has never been flushed since it was made has no header of its own.
        if header.is_empty() && rows.peek().is_none() {
            return Ok(Self::empty());
        }
        let header = image::decode_header(header).map_err(unread)?;
        let mut restoring = Restoring::begin(header).map_err(broken)?;
        for (key, value) in rows {
            let key = image::decode_key(&key).map_err(unread)?;
            let row = image::decode_row(&key, &value).map_err(unread)?;
            restoring.put(key, row).map_err(broken)?;
        }
        Ok(Self { table: restoring.end().map_err(broken)? })
    }
}

fn dirty_row((key, row): (RowKey, Option<Row>)) -> DirtyRow {
    (image::encode_key(&key), row.as_ref().map(image::encode_row))
}

fn unread(error: codec::DecodeError) -> BadImage {
    let why = error.to_string();
    if error.is_newer() { BadImage::Newer(why) } else { BadImage::Corrupt(why) }
}

fn broken(error: RestoreError) -> BadImage {
    match error {
        RestoreError::FeatureLevel { .. } => BadImage::Newer(error.to_string()),
        RestoreError::Header { .. } | RestoreError::Row { .. } => {
            BadImage::Corrupt(error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use sharklock_locktable::{
        Acquire, Acquisition, AcquisitionId, Command, Ending, FEATURE_LEVEL, Header, Instance,
        Mode, Owner, Release, Reply, SessionHandle, Token, Wait,
    };

    use super::*;
    use crate::codec::BatchHead;

    const VERSION: u64 = 4;

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
        apply_under(range, (VERSION, VERSION), index, commands);
    }

    /// Applies an entry that was proposed under the first version to a range that has the second.
    fn apply_under(
        range: &mut LockRange,
        (proposed, version): (u64, u64),
        index: u64,
        commands: Vec<Command>,
    ) -> LockRangeOutput {
        let head = BatchHead { version: proposed, stamped_unix_ms: 1_000 + index, passed_ms: 10 };
        range.apply(EntryAt { index, term: 1 }, version, &codec::encode_batch(head, &commands))
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

    /// Whoever is told that a disk is corrupt wipes it. This one only needs a newer program.
    #[test]
    fn the_image_of_a_newer_program_is_not_called_corrupt() {
        let header = busy_range().table.header();
        let newer = Header { feature_level: FEATURE_LEVEL + 1, ..header };
        let level = image::encode_header(newer);
        let mut format = image::encode_header(header);
        format[0] = 9;
        for (header, expected) in [
            (level, "it follows the rules of feature level 5, and this program knows 1 to 4"),
            (format, "it has format 9, and this program reads 2"),
        ] {
            // A row of a new kind comes with it.
            let rows = vec![(b"Z?".to_vec(), vec![9, 9])];
            let refused = LockRange::restore(&header, rows).expect_err("it is newer");
            assert!(matches!(refused, BadImage::Newer(_)), "{refused:?}");
            assert_eq!(refused.to_string(), format!("{expected}: upgrade this server"));
        }
        let refused = LockRange::restore(&image::encode_header(header), Vec::new());
        let refused = refused.expect_err("rows are missing");
        assert!(matches!(refused, BadImage::Corrupt(_)), "{refused:?}");
    }

    fn grants(output: LockRangeOutput) -> Vec<Token> {
        let LockRangeOutput::Done(outcomes) = output else { panic!("{output:?}") };
        let granted = outcomes.into_iter().map(|outcome| match outcome.reply {
            Reply::Granted(grant) => grant.token,
            other => panic!("{other:?}"),
        });
        granted.collect()
    }

    /// Two holders of one name: a leader proposes an acquire while a split is on its way through its
    /// log. The name is free in the parent then, since the child has it with its holder.
    #[test]
    fn a_batch_that_commits_behind_a_split_grants_no_name_that_has_moved() {
        let mut parent = LockRange::empty();
        let first = acquire(1, "m", Mode::Exclusive);
        assert_eq!(grants(apply_under(&mut parent, (4, 4), 6, vec![first])).len(), 1);
        let child = LockRange { table: parent.table.split_off("m") };
        let before = parent.table().rows();

        let late = vec![acquire(2, "m", Mode::Exclusive), acquire(3, "a", Mode::Exclusive)];
        let output = apply_under(&mut parent, (4, 5), 7, late.clone());
        assert_eq!(output, LockRangeOutput::Moved(late), "nothing of it, whatever the name");
        assert_eq!(parent.table().rows(), before);
        assert_eq!(child.table().counts().holds + parent.table().counts().holds, 1);

        // What is proposed anew is decided; also what an earlier version could not know.
        let again = vec![acquire(3, "a", Mode::Exclusive)];
        assert_eq!(grants(apply_under(&mut parent, (5, 5), 8, again)).len(), 1);
        let ahead = vec![acquire(4, "b", Mode::Exclusive)];
        let output = apply_under(&mut parent, (6, 5), 9, ahead.clone());
        assert_eq!(output, LockRangeOutput::Moved(ahead), "a newer version waits, too");
    }

    /// The leader counts what it has proposed. Were the table behind by what was dropped, a late copy
    /// of a request would seem newer than the end of what it asked for.
    #[test]
    fn time_passes_also_with_an_entry_of_which_nothing_is_applied() {
        let mut range = LockRange::empty();
        let age_ms = range.table().age_ms();
        apply_under(&mut range, (4, 4), 6, vec![]);
        apply_under(&mut range, (4, 5), 7, vec![acquire(1, "a", Mode::Exclusive)]);
        assert_eq!(range.table().age_ms(), age_ms + 20);
    }
}
