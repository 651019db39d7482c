//! The log of one replica, in memory since its truncation; what raft-rs reads.
//!
//! Reading never touches a disk. Writing it down is `ready.rs`'s business, which stages every
//! entry in the turn in which it is appended here.

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Storage, StorageError};

/// Counted for each entry beside its data: its share of the queue and of the allocator.
const ENTRY_OVERHEAD_BYTES: u64 = 128;

/// How much log a range keeps (decisions.md, *Defaults*).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLimits {
    /// So many entries are kept as long as they are within the maxima: a follower that was away
    /// for a moment then needs no snapshot.
    pub entries_floor: u64,
    /// Beyond so many entries the log is cut although a follower still needs them.
    pub entries_max: u64,
    /// Beyond so many bytes the log is cut although a follower still needs them.
    pub bytes_max: u64,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { entries_floor: 1_024, entries_max: 65_536, bytes_max: 16 << 20 }
    }
}

impl LogLimits {
    /// A log that was over a maximum is cut back to this.
    pub(crate) fn three_quarters(self) -> Self {
        let Self { entries_floor, entries_max, bytes_max } = self;
        Self { entries_floor, entries_max: entries_max / 4 * 3, bytes_max: bytes_max / 4 * 3 }
    }
}

/// Invariants:
/// - entries are contiguous from `truncated.0 + 1`, their terms never fall and are never below
///   `truncated.1`;
/// - `hard_state` and `conf_state` are those of the recovery: raft-rs reads them once, at start.
#[derive(Debug)]
pub(crate) struct Log {
    hard_state: HardState,
    conf_state: ConfState,
    /// Index and term of the last entry that is gone.
    truncated: (u64, u64),
    entries: VecDeque<Entry>,
    bytes: u64,
    /// Peers that need entries which are gone. raft-rs asks through a shared reference.
    wanted: RefCell<BTreeSet<u64>>,
}

impl Log {
    /// A log of which `entries` is what the disk holds after `truncated`.
    pub(crate) fn new(
        hard_state: HardState,
        conf_state: ConfState,
        truncated: (u64, u64),
        entries: Vec<Entry>,
    ) -> Self {
        let bytes = entries.iter().map(size).sum();
        let (entries, wanted) = (entries.into(), RefCell::default());
        Self { hard_state, conf_state, truncated, entries, bytes, wanted }
    }

    /// Index of the first entry that is kept.
    pub(crate) fn first(&self) -> u64 {
        self.truncated.0 + 1
    }

    /// Index of the last entry; `first() - 1` if there is none.
    pub(crate) fn last(&self) -> u64 {
        self.truncated.0 + self.entries.len() as u64
    }

    /// Number of kept entries.
    pub(crate) fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Bytes that the kept entries take.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Term of the entry at `index`, also of the last one that is gone.
    pub(crate) fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.truncated.0 {
            return Some(self.truncated.1);
        }
        let at = index.checked_sub(self.first())?;
        Some(self.entries.get(usize::try_from(at).ok()?)?.term)
    }

    /// Bytes that the kept entry at `index` takes.
    pub(crate) fn size_at(&self, index: u64) -> u64 {
        size(&self.entries[(index - self.first()) as usize])
    }

    /// Appends entries; those from the first new index on are replaced. raft-rs replaces
    /// uncommitted entries only.
    pub(crate) fn append(&mut self, entries: Vec<Entry>) {
        let Some(first_new) = entries.first().map(|entry| entry.index) else { return };
        assert!(
            self.first() <= first_new && first_new <= self.last() + 1,
            "entry {first_new} does not connect to the log {}..={}",
            self.first(),
            self.last()
        );
        while self.last() >= first_new {
            let replaced = self.entries.pop_back().expect("last() >= first() says there is one");
            self.bytes -= size(&replaced);
        }
        self.bytes += entries.iter().map(size).sum::<u64>();
        self.entries.extend(entries);
    }

    /// The peers for which raft-rs has asked for a snapshot since the last call.
    pub(crate) fn take_wanted(&self) -> BTreeSet<u64> {
        self.wanted.take()
    }

    /// Forgets everything: a snapshot that ends at this entry takes its place.
    pub(crate) fn restore(&mut self, index: u64, term: u64) {
        self.entries.clear();
        self.bytes = 0;
        self.truncated = (index, term);
    }

    /// Forgets the entries up to and including `index`.
    pub(crate) fn truncate(&mut self, index: u64) {
        let term = self.term_at(index).expect("only kept entries are truncated");
        while self.first() <= index {
            let gone = self.entries.pop_front().expect("index <= last() says there is one");
            self.bytes -= size(&gone);
            self.truncated = (gone.index, gone.term);
        }
        assert_eq!(self.truncated, (index, term), "truncation cuts behind its entry");
    }
}

fn size(entry: &Entry) -> u64 {
    entry.data.len() as u64 + ENTRY_OVERHEAD_BYTES
}

impl Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low < self.first() {
            return Err(Error::Store(StorageError::Compacted));
        }
        assert!(high <= self.last() + 1, "entries up to {high} asked, the last is {}", self.last());
        let budget = max_size.into().unwrap_or(u64::MAX);
        let from = (low - self.first()) as usize;
        let to = (high - self.first()) as usize;
        let mut entries = Vec::with_capacity((to - from).min(1_024));
        let mut taken = 0;
        // At least one entry whatever its size, or replication would stop at a large one.
        for entry in self.entries.range(from..to) {
            taken += size(entry);
            if !entries.is_empty() && taken > budget {
                break;
            }
            entries.push(entry.clone());
        }
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        match self.term_at(index) {
            Some(term) => Ok(term),
            None if index < self.first() => Err(Error::Store(StorageError::Compacted)),
            None => Err(Error::Store(StorageError::Unavailable)),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    /// Always "not now": `snapshot` sends one to the peers that are noted here, by messages of its
    /// own. raft-rs asks again at each heartbeat and goes on with the others.
    fn snapshot(&self, _request_index: u64, to: u64) -> raft::Result<Snapshot> {
        self.wanted.borrow_mut().insert(to);
        Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64, bytes: usize) -> Entry {
        Entry { index, term, data: vec![0; bytes].into(), ..Entry::default() }
    }

    /// Entries 6 to 9 behind a truncation at 5.
    fn log() -> Log {
        let entries = vec![entry(6, 6, 10), entry(7, 6, 10), entry(8, 7, 10), entry(9, 7, 10)];
        Log::new(HardState::default(), ConfState::default(), (5, 5), entries)
    }

    fn indices(log: &Log, low: u64, high: u64, budget: Option<u64>) -> raft::Result<Vec<u64>> {
        let entries = log.entries(low, high, budget, GetEntriesContext::empty(false))?;
        Ok(entries.iter().map(|entry| entry.index).collect())
    }

    #[test]
    fn the_term_before_the_first_entry_is_known() {
        let mut log = log();
        assert_eq!(log.term(5), Ok(5));
        log.truncate(8);
        assert_eq!((log.first(), log.last()), (9, 9));
        assert_eq!(log.term(8), Ok(7));
        assert_eq!(log.term(7), Err(Error::Store(StorageError::Compacted)));
        assert_eq!(log.term(10), Err(Error::Store(StorageError::Unavailable)));
        log.truncate(9);
        assert_eq!((log.first(), log.last(), log.bytes()), (10, 9, 0));
    }

    #[test]
    fn reading_stops_at_the_budget_but_never_before_one_entry() {
        let log = log();
        assert_eq!(indices(&log, 6, 10, None), Ok(vec![6, 7, 8, 9]));
        assert_eq!(indices(&log, 6, 10, Some(0)), Ok(vec![6]));
        assert_eq!(indices(&log, 7, 10, Some(2 * (10 + ENTRY_OVERHEAD_BYTES))), Ok(vec![7, 8]));
        assert_eq!(indices(&log, 5, 10, None), Err(Error::Store(StorageError::Compacted)));
    }

    #[test]
    fn an_append_replaces_the_tail() {
        let mut log = log();
        log.append(vec![entry(8, 8, 1)]);
        assert_eq!((log.last(), log.term_at(8)), (8, Some(8)));
        assert_eq!(log.bytes(), 10 + 10 + 1 + 3 * ENTRY_OVERHEAD_BYTES);
        log.append(vec![entry(9, 8, 1), entry(10, 8, 1)]);
        assert_eq!(log.last(), 10);
    }

    #[test]
    #[should_panic(expected = "does not connect")]
    fn an_append_with_a_gap_is_a_bug() {
        log().append(vec![entry(11, 8, 1)]);
    }
}
