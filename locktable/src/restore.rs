//! A table from its image: the inverse of `image`. Rows come from a disk or another store and are
//! believed only as far as they keep the invariants; a row that does not is an error and never a
//! panic. Whether the content is the right one is told by the state hash, which the caller compares.

use std::{cmp::Ordering, collections::BTreeMap, error::Error, fmt};

use crate::{
    Acquisition, Condition, DelayRow, EndedRow, EndingCause, EndingMark, Extras, FEATURE_LEVEL,
    FinishedRow, Header, HoldRow, LeaseRule, LockRow, LockTable, Mode, Name, Quarantine,
    RING_ROW_LEN, Row, RowKey, TableLimits, Token, Wait, WaiterRow,
    dirty::{Dirty, RowState},
    ledger::{HoldAfter, Ledger, TOKEN_COUNTER_BITS, last_token},
    lock::Lock,
    sessions::{Open, Place, places_on},
};

/// Why rows are not the image of a table. In no case is there something to retry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestoreError {
    /// The rows follow rules of a later version.
    FeatureLevel {
        /// Theirs.
        level: u64,
    },
    /// The header breaks a rule.
    Header {
        /// The rule, for people.
        rule: &'static str,
    },
    /// A row is missing, comes twice or breaks a rule.
    Row {
        /// Which.
        key: RowKey,
        /// The rule, for people.
        rule: &'static str,
    },
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FeatureLevel { level } => {
                write!(
                    f,
                    "it follows the rules of feature level {level}, and this program knows 1 to \
                     {FEATURE_LEVEL}: upgrade this server"
                )
            }
            Self::Header { rule } => write!(f, "header of the image: {rule}"),
            Self::Row { key, rule } => write!(f, "row {key:?} of the image: {rule}"),
        }
    }
}

impl Error for RestoreError {}

/// Broken rule, to be joined with the row it was found in.
type Rule = &'static str;

impl LockTable {
    /// The table that had this header and these rows, in whatever order. They count as flushed.
    pub fn restore(header: Header, rows: Vec<(RowKey, Row)>) -> Result<Self, RestoreError> {
        Self::restore_with_limits(TableLimits::default(), header, rows)
    }

    /// As [`LockTable::restore`], for a table with other limits.
    pub fn restore_with_limits(
        limits: TableLimits,
        header: Header,
        mut rows: Vec<(RowKey, Row)>,
    ) -> Result<Self, RestoreError> {
        rows.sort_by(|(one, _), (other, _)| one.cmp(other));
        let mut restoring = Restoring::begin_with_limits(limits, header)?;
        rows.into_iter().try_for_each(|(key, row)| restoring.put(key, row))?;
        restoring.end()
    }
}

/// A table whose rows come one by one, so that they and the table need not be in memory together.
#[derive(Debug)]
pub struct Restoring {
    header: Header,
    table: LockTable,
    last: Option<RowKey>,
    /// Rows whose checks look at holds, and at one another. A store keeps some of these rows before
    /// those of holds, and they are few.
    finished: Vec<(RowKey, Row)>,
}

impl Restoring {
    /// A table of this header, without rows yet.
    pub fn begin(header: Header) -> Result<Self, RestoreError> {
        Self::begin_with_limits(TableLimits::default(), header)
    }

    fn begin_with_limits(limits: TableLimits, header: Header) -> Result<Self, RestoreError> {
        check_header(&header, &limits)?;
        let table = LockTable { locks: BTreeMap::new(), ledger: Ledger::under(limits, &header) };
        Ok(Self { header, table, last: None, finished: Vec::new() })
    }

    /// The next row, in order of keys: a waiter stands behind holds. Rows of what has finished may
    /// come at any time.
    pub fn put(&mut self, key: RowKey, row: Row) -> Result<(), RestoreError> {
        if matches!(key, RowKey::Ended(..) | RowKey::Ring(_)) {
            self.finished.push((key, row));
            return Ok(());
        }
        let rule = match self.last.as_ref().map_or(Ordering::Less, |last| last.cmp(&key)) {
            Ordering::Less => None,
            Ordering::Equal => Some("comes twice"),
            Ordering::Greater => Some("comes after one that it belongs before"),
        };
        if let Some(rule) = rule {
            return Err(RestoreError::Row { key, rule });
        }
        self.last = Some(key.clone());
        self.insert(key, row)
    }

    /// The whole table. Its rows count as flushed.
    pub fn end(mut self) -> Result<LockTable, RestoreError> {
        let mut finished = std::mem::take(&mut self.finished);
        finished.sort_by(|(one, _), (other, _)| one.cmp(other));
        for pair in finished.windows(2) {
            if pair[0].0 == pair[1].0 {
                let key = pair[0].0.clone();
                return Err(RestoreError::Row { key, rule: "comes twice" });
            }
        }
        finished.into_iter().try_for_each(|(key, row)| self.insert(key, row))?;
        let Self { header, mut table, .. } = self;
        table.check_whole(&header)?;
        table.ledger.dirty = Dirty::default();
        table.ledger.ring.take_dirty();
        Ok(table)
    }

    fn insert(&mut self, key: RowKey, row: Row) -> Result<(), RestoreError> {
        let Self { header, table, .. } = self;
        let inserted = match (&key, row) {
            (RowKey::Lock(name), Row::Lock(row)) => table.insert_lock(name, row),
            (RowKey::Hold(name, token), Row::Hold(row)) if row.token == *token => {
                table.insert_hold(header, name, row)
            }
            (RowKey::Delay(name, token), Row::Delay(row)) if row.token == *token => {
                table.insert_delay(header, name, row)
            }
            (RowKey::Waiter(name, ticket), Row::Waiter(row)) if row.ticket == *ticket => {
                table.insert_waiter(header, name, row)
            }
            (RowKey::Ended(number, at), Row::Ended(row)) => {
                table.insert_ended(header, *number, *at, row)
            }
            (RowKey::Ring(number), Row::Ring(row)) => table.insert_run(header, *number, row),
            _ => Err("the row is not of the kind, token or ticket that its key says"),
        };
        inserted.map_err(|rule| RestoreError::Row { key, rule })
    }
}

impl LockTable {
    fn insert_lock(&mut self, name: &Name, row: LockRow) -> Result<(), Rule> {
        if row.fence_floor == Token(0) {
            return Err("the fence floor is no token");
        }
        let mut lock = Lock::new();
        lock.raise_fence_floor(name, &mut self.ledger, row.fence_floor);
        self.locks.insert(name.clone(), Box::new(lock));
        Ok(())
    }

    fn insert_hold(&mut self, header: &Header, name: &Name, mut hold: HoldRow) -> Result<(), Rule> {
        check_token(header, hold.token)?;
        check_hold(&hold)?;
        check_level(header, &hold)?;
        let lock = self.locks.entry(name.clone()).or_insert_with(|| Box::new(Lock::new()));
        if !lock.holds.fits(hold.mode) {
            return Err("holds that do not fit together");
        }
        match lock.holds.fence_floor() {
            _ if hold.mode == Mode::Exclusive => {}
            None => return Err("a hold of sharers or permits without a fence floor"),
            Some(floor) if floor.token > hold.token => {
                return Err("the fence floor is above a hold's token");
            }
            Some(_) => {}
        }
        hold.owner = self.ledger.sessions.share_again(hold.session, hold.owner);
        index_hold(&mut self.ledger, name, &hold)?;
        lock.insert_hold(name, &mut self.ledger, hold, RowState::Clean);
        Ok(())
    }

    fn insert_delay(&mut self, header: &Header, name: &Name, delay: DelayRow) -> Result<(), Rule> {
        check_token(header, delay.token)?;
        let lock = self.locks.entry(name.clone()).or_insert_with(|| Box::new(Lock::new()));
        if lock.holds.get(delay.token).is_some() || !lock.holds.fits(delay.mode) {
            return Err("a delay that does not fit, or of a live hold");
        }
        lock.insert_delay(name, &mut self.ledger, delay);
        Ok(())
    }

    fn insert_waiter(
        &mut self,
        header: &Header,
        name: &Name,
        mut row: WaiterRow,
    ) -> Result<(), Rule> {
        let is_quarantined = self.ledger.is_quarantined();
        if is_quarantined {
            self.locks.entry(name.clone()).or_insert_with(|| Box::new(Lock::new()));
        }
        let lock = self.locks.get_mut(name).ok_or("a waiter without a lock")?;
        if row.ticket == 0 || row.ticket > header.ticket_counter {
            return Err("the ticket is 0 or beyond the header's");
        }
        if row.wait == Wait::Try || !row.mode.is_grantable() {
            return Err("what could not have queued");
        }
        if let Some(condition) = &row.condition {
            check_condition(condition, row.ttl_ms)?;
            if condition.is_default() {
                return Err("the default condition is stored as none");
            }
        }
        check_arrival(header, row.arrival)?;
        if lock.kind().unwrap_or(row.mode.kind()) != row.mode.kind() {
            return Err("holders and waiters of different kinds");
        }
        if !is_quarantined
            && lock.queue.is_empty()
            && lock.holds.admit(row.mode, self.ledger.seats_max())
        {
            return Err("the head of the queue fits beside the holds");
        }
        let open = Open { name: name.clone(), place: Place::Waiting(row.ticket) };
        row.owner = self.ledger.sessions.share_again(row.acquisition.session, row.owner);
        if self.ledger.sessions.insert(row.acquisition, &row.owner, open).is_some() {
            return Err("an acquisition is open twice");
        }
        lock.insert_waiter(name, &mut self.ledger, row);
        Ok(())
    }

    fn insert_ended(
        &mut self,
        header: &Header,
        number: u64,
        at: u64,
        row: EndedRow,
    ) -> Result<(), Rule> {
        if header.feature_level < 3 {
            return Err("its level does not remember what has ended");
        }
        let Ledger { ended, hash, .. } = &mut self.ledger;
        ended.restore_row(hash, number, at, row)
    }

    fn insert_run(
        &mut self,
        header: &Header,
        number: u64,
        row: Vec<FinishedRow>,
    ) -> Result<(), Rule> {
        let start = number.checked_mul(RING_ROW_LEN).ok_or("the number is too large")?;
        let end = start.saturating_add(RING_ROW_LEN).min(header.ring_next);
        let missing = self.ledger.ring.next();
        if missing < start || missing >= end {
            return Err("the run does not follow the run before, or is outside of the ring");
        }
        // Aligned to its end: what is too much at the front has left the ring since it was stored.
        let wanted = (end - missing) as usize;
        let stale = row.len().checked_sub(wanted).ok_or("the run is too short")?;
        if row.len() as u64 > end - start {
            return Err("the run is too long");
        }
        for row in row.into_iter().skip(stale) {
            if !row.how.is_recorded() {
                return Err("an outcome that is never recorded");
            }
            let is_open = self.ledger.sessions.get(row.acquisition).is_some();
            if is_open || self.ledger.ring.get(row.acquisition).is_some() {
                return Err("an acquisition is finished twice, or finished and open");
            }
            let lives = row.token.is_some_and(|token| self.is_live(&row.name, token));
            let hold = if lives { HoldAfter::Lives } else { HoldAfter::Ended };
            self.ledger.record_outcome(row, hold);
        }
        Ok(())
    }

    fn check_whole(&self, header: &Header) -> Result<(), RestoreError> {
        for (name, lock) in &self.locks {
            let is_shared = lock.holds.first().is_some_and(|hold| hold.row.mode != Mode::Exclusive);
            if lock.holds.fence_floor().is_some() && !is_shared {
                let key = RowKey::Lock(name.clone());
                let rule = "a fence floor without a hold of sharers or permits";
                return Err(RestoreError::Row { key, rule });
            }
            if !lock.is_in_order_of_arrival() {
                let key = RowKey::Lock(name.clone());
                let rule = "two that came at once, or a waiter that came before a holder";
                return Err(RestoreError::Row { key, rule });
            }
        }
        if self.ledger.ring.next() != header.ring_next {
            let key = RowKey::Ring(self.ledger.ring.next() / RING_ROW_LEN);
            return Err(RestoreError::Row { key, rule: "missing" });
        }
        let Ledger { ended, sessions, ring, .. } = &self.ledger;
        if ended.iter().any(|acquisition| sessions.get(acquisition).is_some()) {
            return Err(RestoreError::Header { rule: "an acquisition has ended and is open" });
        }
        if header.feature_level >= 3 && !ended.covers(ring) {
            return Err(RestoreError::Header { rule: "an outcome of what has not ended" });
        }
        Ok(())
    }
}

fn index_hold(ledger: &mut Ledger, name: &Name, hold: &HoldRow) -> Result<(), Rule> {
    for (acquisition, owner, place) in places_on(hold) {
        let open = Open { name: name.clone(), place };
        if ledger.sessions.insert(acquisition, owner, open).is_some() {
            return Err("an acquisition is open twice");
        }
    }
    Ok(())
}

fn check_header(header: &Header, limits: &TableLimits) -> Result<(), RestoreError> {
    if header.feature_level > FEATURE_LEVEL {
        return Err(RestoreError::FeatureLevel { level: header.feature_level });
    }
    if header.token_counter >> TOKEN_COUNTER_BITS != 0 {
        return Err(RestoreError::Header { rule: "the token counter has more than 48 bits" });
    }
    if header.quarantine != Quarantine::None && header.recovered_ms == 0 {
        return Err(RestoreError::Header {
            rule: "a quarantine of a range that was not recovered",
        });
    }
    if header.recovered_ms > header.age_ms {
        return Err(RestoreError::Header { rule: "it was recovered later than its age" });
    }
    if header.lost_ms > header.age_ms {
        return Err(RestoreError::Header { rule: "more is forgotten than has passed" });
    }
    match header.ring_next.checked_sub(header.ring_first) {
        Some(len) if len <= limits.ring_len_max as u64 => Ok(()),
        _ => Err(RestoreError::Header { rule: "the ring is too long or ends before it begins" }),
    }
}

fn check_token(header: &Header, token: Token) -> Result<(), Rule> {
    if token == Token(0) || token > last_token(header) {
        return Err("the token is 0 or beyond the header's");
    }
    Ok(())
}

fn check_arrival(header: &Header, arrival: u64) -> Result<(), Rule> {
    if header.feature_level < 4 && arrival != 0 {
        return Err("its level does not know arrivals");
    }
    if arrival > last_token(header).0 {
        return Err("the arrival is beyond the header's last token");
    }
    Ok(())
}

/// What only later levels have.
fn check_level(header: &Header, hold: &HoldRow) -> Result<(), Rule> {
    check_arrival(header, hold.arrival)?;
    if hold.arrival > hold.token.0 {
        return Err("the arrival is beyond the token");
    }
    let Extras { asked, attributes_seq, .. } = hold.extras();
    let is_asked_by = asked.as_ref().is_some_and(|mark| mark.by.is_some());
    if header.feature_level < 4 && (is_asked_by || *attributes_seq != 0) {
        return Err("its level does not know who asks, or changes of attributes");
    }
    Ok(())
}

fn check_hold(hold: &HoldRow) -> Result<(), Rule> {
    if !hold.open_ids.is_sorted_by(|a, b| a < b) {
        return Err("open ids do not ascend");
    }
    match hold.open_ids.last() {
        None => return Err("a hold with nothing open"),
        Some(&last) if last > hold.open_ids.newest() => return Err("an open id above the newest"),
        Some(_) => {}
    }
    hold.extras.as_deref().map_or(Ok(()), |extras| check_extras(hold, extras))
}

fn check_extras(hold: &HoldRow, extras: &Extras) -> Result<(), Rule> {
    if *extras == Extras::default() {
        return Err("extras of a hold that has nothing of them");
    }
    check_condition(&extras.condition, hold.ttl_ms)?;
    if extras.claimed && extras.condition.lease != LeaseRule::Hold {
        return Err("a claim of another condition than hold");
    }
    if extras.orphaned && !(extras.claimed && extras.ending.is_none()) {
        return Err("an orphan that was not claimed, or is ending");
    }
    if extras.asked.is_some() && extras.condition.ask_grace_ms.is_none() {
        return Err("asked for, though its condition does not allow it");
    }
    let Some(EndingMark { cause, reclaimer: Some(reclaimer), .. }) = &extras.ending else {
        return Ok(());
    };
    let Acquisition { session, instance, .. } = reclaimer.acquisition;
    let may_reclaim = session == hold.session && instance > hold.instance;
    if *cause != EndingCause::Reclaim || !may_reclaim {
        return Err("reclaimed by who may not");
    }
    Ok(())
}

fn check_condition(condition: &Condition, ttl_ms: u64) -> Result<(), Rule> {
    condition.flaw(ttl_ms).map_or(Ok(()), |_| Err("a condition that is refused"))
}
