//! The rows of a table's image (D4): the unit in which it is flushed and sent as a snapshot. They
//! are also what the table keeps in memory, beside what it derives from them, so there is no second
//! form of the state that could differ. How rows become bytes is the business of `dataserver`.

use crate::{
    Acquisition, AcquisitionId, Finished, Instance, Mode, Name, Owner, SessionHandle, Token, Wait,
};

/// Version of the rules that [`crate::LockTable::apply`] follows (D19). A header of a higher level
/// is not restored.
pub const FEATURE_LEVEL: u64 = 1;

/// How many finished acquisitions share one row of the ring. A flush rewrites the last row of the
/// ring whole: small enough for that, large enough that 65,536 make only 256 rows.
pub const RING_ROW_LEN: u64 = 256;

/// What of a table is not in rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Upper 16 bits of every token granted from here on; raised by a restored backup (D11).
    pub generation: u16,
    /// Lower 48 bits of the last token granted; 0 before the first.
    pub token_counter: u64,
    /// The last ticket given to a waiter; 0 before the first.
    pub ticket_counter: u64,
    /// Number of the oldest finished acquisition in the ring; the first ever has number 0.
    pub ring_first: u64,
    /// Number that the next finished acquisition will get.
    pub ring_next: u64,
    /// Version of the rules that the replicas follow.
    pub feature_level: u64,
}

/// Names a row. Rows of all locks come first, then all waiters, then the ring.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RowKey {
    /// A live lock.
    Lock(Name),
    /// A waiter: its lock and its ticket.
    Waiter(Name, u64),
    /// The run of the ring with the numbers from `.0 * RING_ROW_LEN`, that many at most.
    Ring(u64),
}

/// A row of the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    /// See [`RowKey::Lock`].
    Lock(LockRow),
    /// See [`RowKey::Waiter`].
    Waiter(WaiterRow),
    /// See [`RowKey::Ring`]. Aligned to its end: the last entry is the last of the run or of the
    /// ring. At its front a stored row may still have entries that the ring has dropped since
    /// (numbers below [`Header::ring_first`]); they are skipped.
    Ring(Vec<FinishedRow>),
}

/// A live lock without its waiters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockRow {
    /// Token of the first shared or permit grant since the lock was last exclusive or without a
    /// hold (D11). Absent: the lock is exclusive.
    pub fence_floor: Option<Token>,
    /// In order of tokens; never empty.
    pub holds: Vec<HoldRow>,
}

/// One grant and the acquisitions open on it.
///
/// Invariants:
/// - `open_ids` is ascending and not empty;
/// - `newest_id` is at least the last of `open_ids`;
/// - no id of `open_ids` is in the ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldRow {
    /// The fencing token; names the hold.
    pub token: Token,
    /// Whose.
    pub session: SessionHandle,
    /// In which life.
    pub instance: Instance,
    /// What is open on it.
    pub open_ids: Vec<AcquisitionId>,
    /// The highest id that ever joined it: what an Expire must know of (hole 6).
    pub newest_id: AcquisitionId,
    /// The highest id that was closed on it and that the ring has since forgotten. Nothing up to
    /// here may join any more (hole 14); what was closed above it is in the ring.
    pub highest_closed_id: Option<AcquisitionId>,
    /// How it is held.
    pub mode: Mode,
    /// Lease, milliseconds.
    pub ttl_ms: u64,
    /// Who, for people.
    pub owner: Owner,
    /// When, by the clock of the leader of that time; for people.
    pub granted_unix_ms: u64,
    /// Set once an operator asked for its end: the operator's words.
    pub ending_reason: Option<String>,
}

impl HoldRow {
    /// The acquisition of this hold's session and instance with that id.
    pub(crate) fn acquisition(&self, id: AcquisitionId) -> Acquisition {
        Acquisition { session: self.session, instance: self.instance, id }
    }

    /// Everything open on it, oldest first.
    pub(crate) fn acquisitions(&self) -> Vec<Acquisition> {
        self.open_ids.iter().map(|&id| self.acquisition(id)).collect()
    }

    /// Whether the acquisition comes from the same life of the same session.
    pub(crate) fn is_of_owner(&self, acquisition: Acquisition) -> bool {
        self.session == acquisition.session && self.instance == acquisition.instance
    }

    /// Whether the acquisition, which is of this hold's owner, is open on it.
    pub(crate) fn is_open(&self, id: AcquisitionId) -> bool {
        self.open_ids.binary_search(&id).is_ok()
    }
}

/// One queued acquisition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaiterRow {
    /// Its place in the order of the queue: larger came later.
    pub ticket: u64,
    /// The waiter.
    pub acquisition: Acquisition,
    /// How it wants the lock.
    pub mode: Mode,
    /// Lease, milliseconds.
    pub ttl_ms: u64,
    /// When its wait ends; never [`Wait::Try`].
    pub wait: Wait,
    /// Who, for people.
    pub owner: Owner,
    /// When it queued, by the clock of the leader of that time; for people.
    pub queued_unix_ms: u64,
}

/// A finished acquisition in the ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinishedRow {
    /// Which.
    pub acquisition: Acquisition,
    /// The lock it was for.
    pub name: Name,
    /// How it ended; never [`Finished::Unknown`].
    pub how: Finished,
    /// The hold it was closed on, which was live then. Absent: it ended without a hold.
    pub token: Option<Token>,
}
