//! The rows of a table's image (D4): the unit in which it is flushed and sent as a snapshot. They
//! are also what the table keeps in memory, beside what it derives from them, so there is no second
//! form of the state that could differ. How rows become bytes is the business of `dataserver`.

use std::sync::Arc;

use crate::{
    Acquisition, AcquisitionId, Agreement, Condition, EndedRow, Finished, Instance, Mode, Name,
    OpenIds, Owner, SessionHandle, Token, Wait,
};

/// Version of the rules that [`crate::LockTable::apply`] follows (D19). A header of a higher level
/// is not restored.
///
/// 1: grants, queues, expiry, force-release. 2: conditions and what comes with them, downgrade,
/// reclaim, revocation; an Expire that finds its hold ending ends it as its End would. 3: a lock has
/// a largest number of seats; the ids that have ended are remembered by an age that comes with the
/// entries. 4: who holds or waits has the number of its arrival; a holder changes its attributes; the
/// mark of an ask says who asked.
pub const FEATURE_LEVEL: u64 = 4;

/// How many finished acquisitions share one row of the ring. A flush rewrites the last row of the
/// ring whole: small enough for that, large enough that 65,536 make only 256 rows.
pub const RING_ROW_LEN: u64 = 256;

/// The part of a table that is not in rows.
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
    /// Age of the range, milliseconds: what its leaders have counted, from 60,000 on.
    pub age_ms: u64,
    /// The age up to which acquisitions that ended may be forgotten; 0: none is.
    pub lost_ms: u64,
    /// Number of the next generation of ended acquisitions.
    pub ended_next: u64,
    /// The age at which the range went on without its majority, the last time; 0: never. What was asked
    /// before is in doubt.
    pub recovered_ms: u64,
    /// Whether it grants nothing since then.
    pub quarantine: Quarantine,
}

/// Whether a range grants nothing, since entries are lost that may have granted its locks. The codes
/// are stored: never renumber.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Quarantine {
    /// It grants.
    #[default]
    None = 0,
    /// It waits until every lease is over that the lost entries may have given.
    Waits = 1,
    /// That is over, or nobody wants to wait for it; whoever has waited meanwhile is still to be
    /// served.
    Ends = 2,
}

impl Quarantine {
    /// The code under which it is stored.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// Inverse of [`Quarantine::code`]; nothing for a code that no version has written.
    pub fn from_code(code: u8) -> Option<Self> {
        [Self::None, Self::Waits, Self::Ends].into_iter().find(|it| it.code() == code)
    }
}

/// Names a row. Each thing that a lock has is in a row of its own, so that no row grows with the
/// number of its holders: a change writes what has changed. The order is that in which a table is
/// restored.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RowKey {
    /// The state of a live lock beside its holds, delays and waiters. One that is held exclusively
    /// has nothing, and no such row.
    Lock(Name),
    /// A hold: its lock and its token.
    Hold(Name, Token),
    /// The place of an ended hold: its lock and the token of that hold.
    Delay(Name, Token),
    /// A waiter: its lock and its ticket.
    Waiter(Name, u64),
    /// Acquisitions that have ended: their generation, and which of its rows.
    Ended(u64, u64),
    /// The run of the ring with the numbers from `.0 * RING_ROW_LEN`, that many at most.
    Ring(u64),
}

/// A row of the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    /// See [`RowKey::Lock`].
    Lock(LockRow),
    /// See [`RowKey::Hold`].
    Hold(HoldRow),
    /// See [`RowKey::Delay`].
    Delay(DelayRow),
    /// See [`RowKey::Waiter`].
    Waiter(WaiterRow),
    /// See [`RowKey::Ended`].
    Ended(EndedRow),
    /// See [`RowKey::Ring`]. Aligned to its end: the last entry is the last of the run or of the
    /// ring. At its front a stored row may still have entries that the ring has dropped since
    /// (numbers below [`Header::ring_first`]); they are skipped.
    Ring(Vec<FinishedRow>),
}

/// The state of a lock that is held by sharers or permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockRow {
    /// Token of the first shared or permit grant since the lock was last exclusive or without a
    /// hold (D11).
    pub fence_floor: Token,
}

/// The place of an ended hold, which stays taken until the leader's clock says that the delay is
/// over (D9, `lock_delay`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DelayRow {
    /// The hold that has ended.
    pub token: Token,
    /// How it was held.
    pub mode: Mode,
    /// For how long, milliseconds. A new leader begins it anew.
    pub delay_ms: u64,
    /// Since when, by the clock of the leader of that time; for people.
    pub since_unix_ms: u64,
}

/// One grant and the acquisitions open on it.
///
/// Invariants:
/// - `open_ids` is ascending and not empty;
/// - the newest id is at least the last of the open ones;
/// - no id of `open_ids` is in the ring;
/// - only a claimed hold is an orphan, only a hold whose condition is `hold` is claimed, and an
///   orphan is never ending: there is nobody to wait for;
/// - it is asked for only if its condition allows that;
/// - who reclaims it is of its session and of a newer instance;
/// - `arrival` is not above the number of its token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldRow {
    /// The fencing token; names the hold.
    pub token: Token,
    /// The session.
    pub session: SessionHandle,
    /// The life of the client under it.
    pub instance: Instance,
    /// The acquisitions that are open on it, and the newest that ever was.
    pub open_ids: OpenIds,
    /// How it is held.
    pub mode: Mode,
    /// Lease, milliseconds.
    pub ttl_ms: u64,
    /// The owner, as people see it. It is shared with the session's others, which mostly say the
    /// same.
    pub owner: Arc<Owner>,
    /// When, by the clock of the leader of that time; for people.
    pub granted_unix_ms: u64,
    /// When it or what it goes on from came to the lock, in the order of all that hold or wait for it: a
    /// number of the range's token counter. 0: before feature level 4, which is before all others.
    pub arrival: u64,
    /// The state that few holds have. It is `None` exactly where it would be the default: equal
    /// states have equal rows, and an ordinary hold pays for none of it.
    pub extras: Option<Box<Extras>>,
}

/// See [`HoldRow::extras`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// The condition under which the hold may end.
    pub condition: Condition,
    /// Counts the changes of the condition since the grant.
    pub revision: u64,
    /// Whether the condition `hold` has taken effect.
    pub claimed: bool,
    /// Its lease ended after that: it has none any more.
    pub orphaned: bool,
    /// The highest id that was closed on it and that the ring has since forgotten. Nothing up to
    /// here may join any more (hole 14); what was closed above it is in the ring.
    pub highest_closed_id: Option<AcquisitionId>,
    /// The token that it had, or that the hold had which it took over: a duplicate of the command
    /// that changed it names that one.
    pub token_before: Option<Token>,
    /// Set when a waiter has asked for the lock.
    pub asked: Option<Box<AskMark>>,
    /// The `seq` of the last change of its attributes; 0: they are those of the grant.
    pub attributes_seq: u64,
    /// Set when it is ending.
    pub ending: Option<EndingMark>,
}

/// The mark of [`crate::Ask`]: a waiter wants the lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AskMark {
    /// Since when, by the clock of the leader of that time; for people.
    pub since_unix_ms: u64,
    /// Who asked first. `None`: that was before feature level 4.
    pub by: Option<AskedBy>,
}

/// The waiter that asked, as the holder may see it. It may have left the queue since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AskedBy {
    /// Its session.
    pub session: SessionHandle,
    /// Of its owner.
    pub owner_id: String,
}

/// The mark of [`crate::Ending`]: nothing renews the hold from here on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndingMark {
    /// On whose word.
    pub cause: EndingCause,
    /// For people: an operator's words, else the cause's.
    pub reason: String,
    /// The acquisition that gets the hold when it ends. It is `None` where that one is gone again.
    pub reclaimer: Option<Reclaimer>,
}

/// Why a hold is ending. Codes are stored: never renumber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EndingCause {
    /// An operator's word.
    Operator = 1,
    /// The clause `max_hold`.
    MaxHold = 2,
    /// The clause `ask_holder`.
    AskGrace = 3,
    /// A newer life of its session wants it.
    Reclaim = 4,
}

impl EndingCause {
    /// The code under which it is stored.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// Inverse of [`EndingCause::code`]; nothing for a code that no version has written.
    pub fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Operator,
            2 => Self::MaxHold,
            3 => Self::AskGrace,
            4 => Self::Reclaim,
            _ => return None,
        })
    }

    /// How the acquisitions of a hold end that ends for it.
    pub(crate) fn how(self) -> Finished {
        match self {
            Self::Operator => Finished::ForceReleased,
            Self::MaxHold => Finished::HeldTooLong,
            Self::AskGrace => Finished::AskedFor,
            Self::Reclaim => Finished::Reclaimed,
        }
    }
}

/// The acquisition for which a hold is ending. Like a waiter it has a lease: the hold's ttl.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reclaimer {
    /// The acquisition that will hold.
    pub acquisition: Acquisition,
    /// The owner, as people see it. It is shared with the session's others, which mostly say the
    /// same.
    pub owner: Arc<Owner>,
}

/// The extras of an ordinary hold.
static NO_EXTRAS: Extras = Extras {
    condition: Condition {
        lease: crate::LeaseRule::OnExpiry,
        lock_delay_ms: None,
        max_hold_ms: None,
        ask_grace_ms: None,
    },
    revision: 0,
    claimed: false,
    orphaned: false,
    highest_closed_id: None,
    token_before: None,
    asked: None,
    attributes_seq: 0,
    ending: None,
};

impl HoldRow {
    /// The state that it has beside the ordinary.
    pub fn extras(&self) -> &Extras {
        self.extras.as_deref().unwrap_or(&NO_EXTRAS)
    }

    /// Changes what it has beside the ordinary.
    pub(crate) fn change_extras(&mut self, change: impl FnOnce(&mut Extras)) {
        let mut extras = self.extras.take().unwrap_or_default();
        change(&mut extras);
        self.extras = (*extras != NO_EXTRAS).then_some(extras);
    }

    /// The agreement of its client and the table.
    pub(crate) fn agreement(&self) -> Agreement {
        let &Extras { condition, revision, claimed, .. } = self.extras();
        Agreement { condition, revision, claimed, ttl_ms: self.ttl_ms }
    }

    /// Whether a waiter has asked for the lock.
    pub(crate) fn is_asked(&self) -> bool {
        self.extras().asked.is_some()
    }

    pub(crate) fn is_orphan(&self) -> bool {
        self.extras().orphaned
    }

    pub(crate) fn ending(&self) -> Option<&EndingMark> {
        self.extras().ending.as_ref()
    }

    pub(crate) fn reclaimer(&self) -> Option<&Reclaimer> {
        self.ending()?.reclaimer.as_ref()
    }

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
    /// The owner, as people see it. It is shared with the session's others, which mostly say the
    /// same.
    pub owner: Arc<Owner>,
    /// When it queued, by the clock of the leader of that time; for people.
    pub queued_unix_ms: u64,
    /// See [`HoldRow::arrival`]; the hold has it, once it holds.
    pub arrival: u64,
    /// The condition of its hold, once it holds; none is the default.
    pub condition: Option<Box<Condition>>,
}

/// A finished acquisition in the ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinishedRow {
    /// Which.
    pub acquisition: Acquisition,
    /// The lock it was for.
    pub name: Name,
    /// How it ended; never [`Finished::Unknown`] or [`Finished::Orphaned`].
    pub how: Finished,
    /// The hold it was closed on, which was live then. Absent: it ended without a hold.
    pub token: Option<Token>,
}
