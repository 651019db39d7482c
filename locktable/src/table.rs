//! The table itself: its locks, its limits, and which file answers which command.

use std::collections::{BTreeMap, btree_map::Entry};

use crate::{
    Acquisition, At, Change, Command, FEATURE_LEVEL, Name, Outcome, RaiseFeatureLevel, Recover,
    Refusal, Reply, RestoreError, Token,
    ledger::{Forgotten, Ledger},
    lock::{Lock, Step},
};

/// The limits of a table. They are part of the rules: replicas of a range with different limits
/// would diverge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableLimits {
    /// Seats of one lock: holders, sharers or permits, and the places that lock-delays keep taken.
    /// Since feature level 3; a lock that had more before keeps them.
    pub seats_per_lock_max: usize,
    /// Waiters in the queue of one lock.
    pub waiters_per_lock_max: usize,
    /// Open acquisitions (held or waiting) of one session in this range.
    pub acquisitions_per_session_max: usize,
    /// Finished acquisitions of which it is remembered how they ended.
    pub ring_len_max: usize,
    /// Bytes of memory that the ids may take which have ended; more, and the oldest are forgotten.
    pub ended_bytes_max: usize,
}

impl Default for TableLimits {
    /// Those of D8, and of decisions.md, *Defaults*.
    fn default() -> Self {
        Self {
            seats_per_lock_max: 10_000,
            waiters_per_lock_max: 10_000,
            acquisitions_per_session_max: 10_000,
            ring_len_max: 65_536,
            ended_bytes_max: 16 << 20,
        }
    }
}

/// How much there is in a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Live locks.
    pub locks: usize,
    /// Live holds.
    pub holds: usize,
    /// Waiters.
    pub waiters: usize,
    /// Lock-delays that run.
    pub delays: usize,
    /// Finished acquisitions in the ring.
    pub finished: usize,
}

/// One range of locks: a deterministic state machine. Two tables that applied the same commands are
/// equal, on whatever machine.
///
/// Invariants, between commands:
/// - every lock has a hold or a running lock-delay, or in quarantine a queue; a lock that is free is
///   not here (D4);
/// - every token ever granted is larger than all before (S3), over release, flush and restore;
/// - at most one effect per acquisition that is open or remembered (S8): an acquisition is open at one
///   place or has ended, never both; and what may be forgotten has none;
/// - no session has more open acquisitions, and no lock more waiters, than the limits say; nor more
///   seats taken, but for what was taken below feature level 3;
/// - the state hash is a function of header and rows alone (S9).
#[derive(Debug)]
pub struct LockTable {
    // Boxed, because a tree moves its values when one comes or goes.
    pub(crate) locks: BTreeMap<Name, Box<Lock>>,
    pub(crate) ledger: Ledger,
}

impl Default for LockTable {
    fn default() -> Self {
        Self::new()
    }
}

impl LockTable {
    /// A range where nothing was ever locked.
    pub fn new() -> Self {
        Self::with_limits(TableLimits::default())
    }

    /// A range where nothing was ever locked, and that follows the rules of this level.
    ///
    /// # Errors
    /// This program does not know them.
    pub fn at_level(level: u64) -> Result<Self, RestoreError> {
        Ledger::at_level(level).map(|ledger| Self { locks: BTreeMap::new(), ledger })
    }

    /// As [`LockTable::new`], with other limits: for tests that want to reach them.
    pub fn with_limits(limits: TableLimits) -> Self {
        Self { locks: BTreeMap::new(), ledger: Ledger::new(limits) }
    }

    /// Applies one command of the log. Never fails: what cannot be done is answered. Panics on a
    /// feature level that this build does not know: going on would let this replica diverge (D19).
    pub fn apply(&mut self, at: At, command: Command) -> Outcome {
        self.check_is_whole();
        let mut changes = Vec::new();
        if command.feature_level() > self.ledger.feature_level {
            return Outcome { reply: Reply::Refused(Refusal::FeatureLevel), changes };
        }
        let reply = match command {
            Command::Acquire(acquire) => self.acquire(at, *acquire, &mut changes),
            Command::Release(release) => self.release(at, release, &mut changes),
            Command::Cancel(cancel) => self.cancel(at, cancel, &mut changes),
            Command::Expire(expire) => self.expire(at, expire, &mut changes),
            Command::WaitTimeout(timeout) => self.wait_timeout(at, timeout, &mut changes),
            Command::Ending(ending) => self.ending(at, ending, &mut changes),
            Command::End(end) => self.end(at, end, &mut changes),
            Command::SetCondition(set) => self.set_condition(at, set, &mut changes),
            Command::Claim(claim) => self.claim(at, claim, &mut changes),
            Command::Reclaim(reclaim) => self.reclaim(at, *reclaim, &mut changes),
            Command::Ask(ask) => self.ask(at, ask, &mut changes),
            Command::Downgrade(downgrade) => self.downgrade(at, downgrade, &mut changes),
            Command::SetAttributes(set) => self.set_attributes(at, set, &mut changes),
            Command::TimeUp(time_up) => self.time_up(at, time_up, &mut changes),
            Command::Revoke(revoke) => self.revoke(at, revoke, &mut changes),
            Command::RaiseFeatureLevel(RaiseFeatureLevel { level }) => {
                assert!(
                    level <= FEATURE_LEVEL,
                    "level {level} is beyond this build's {FEATURE_LEVEL}"
                );
                self.ledger.raise_level(level);
                Reply::Done
            }
            Command::Recover(Recover { generation, waits }) => {
                self.ledger.recover(generation, waits);
                Reply::Done
            }
            Command::EndQuarantine(end) => self.end_quarantine(at, end, &mut changes),
        };
        self.note_all_forgotten();
        Outcome { reply, changes }
    }

    /// So much time has passed since the last entry, by the clock of the leader that proposed this one.
    /// Comes before the commands of an entry.
    pub fn pass(&mut self, passed_ms: u64) {
        self.check_is_whole();
        self.ledger.pass(passed_ms);
        self.note_all_forgotten();
    }

    /// Age of the range, milliseconds: the sum of all that has passed, from some start on.
    pub fn age_ms(&self) -> u64 {
        self.ledger.ended.age_ms()
    }

    /// The rules that it follows (D19).
    pub fn feature_level(&self) -> u64 {
        self.ledger.feature_level
    }

    /// Whether it follows the age: below feature level 3 it does not.
    pub fn counts_age(&self) -> bool {
        self.ledger.feature_level >= 3
    }

    /// The age at which something that has ended is forgotten: an entry is due then, or it stays.
    pub fn forgets_at_ms(&self) -> Option<u64> {
        self.ledger.ended.forgets_at_ms()
    }

    /// Upper bound of the memory that the ids take which have ended, bytes.
    pub fn ended_bytes(&self) -> usize {
        self.ledger.ended.bytes()
    }

    /// How much there is.
    pub fn counts(&self) -> Counts {
        Counts {
            locks: self.locks.len(),
            holds: self.ledger.holds_count,
            waiters: self.ledger.waiters_count,
            delays: self.ledger.delays_count,
            finished: self.ledger.ring.len(),
        }
    }

    /// Hash of the whole state (S9): equal for equal states, whatever their history.
    pub fn state_hash(&self) -> u64 {
        self.ledger.hash.with_header(&self.header(), self.ledger.ended.spans())
    }

    /// Lets `act` work on a live lock, and drops the lock if it is free afterwards. Nothing if the
    /// lock is not live.
    pub(crate) fn with_lock<R>(
        &mut self,
        at: At,
        name: &Name,
        changes: &mut Vec<Change>,
        act: impl FnOnce(&mut Lock, &mut Step<'_>) -> R,
    ) -> Option<R> {
        let Entry::Occupied(mut slot) = self.locks.entry(name.clone()) else { return None };
        let mut step = Step::new(at, name, &mut self.ledger, changes);
        let result = act(slot.get_mut(), &mut step);
        if slot.get().is_free() {
            slot.remove();
        }
        Some(result)
    }

    /// The answer about an acquisition that is not open.
    pub(crate) fn finished(&self, name: &Name, acquisition: Acquisition) -> Reply {
        Reply::Finished(self.ledger.how_finished(name, acquisition))
    }

    /// Whether the lock has a live hold with this token.
    pub(crate) fn is_live(&self, name: &Name, token: Token) -> bool {
        self.locks.get(name).is_some_and(|lock| lock.holds.get(token).is_some())
    }

    fn note_all_forgotten(&mut self) {
        while let Some(forgotten) = self.ledger.forgotten.pop() {
            self.note_forgotten(forgotten);
        }
    }

    /// From here on the hold itself remembers that the id was closed, since the ring does not.
    fn note_forgotten(&mut self, forgotten: Forgotten) {
        let Forgotten { name, token, id } = forgotten;
        let Some(lock) = self.locks.get_mut(&name) else { return };
        lock.change_hold(&name, &mut self.ledger, token, |hold| {
            hold.change_extras(|extras| {
                extras.highest_closed_id = extras.highest_closed_id.max(Some(id));
            });
        });
    }
}
