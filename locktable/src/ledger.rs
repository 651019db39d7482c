//! The books of a range beside its locks: counters, the index of sessions, the ring, the state
//! hash, what is dirty. One lock and the ledger can be borrowed together; that is why it is one
//! struct.

use crate::{
    Acquisition, AcquisitionId, DelayRow, FEATURE_LEVEL, Finished, FinishedRow, Header, HoldRow,
    Name, Quarantine, Refusal, RestoreError, TableLimits, Token, WaiterRow,
    dirty::Dirty,
    ended::{AGE_START_MS, Ended, UNHEARD_MS},
    first_image::FirstImage,
    hash::{Digest, StateHash},
    ring::{Entry, Ring},
    sessions::Sessions,
    usage::{self, Usage},
};

/// Bits of a token below the generation (D11). At a million grants per second they last nine years
/// for one range.
pub(crate) const TOKEN_COUNTER_BITS: u32 = 48;

/// An id that was closed on a hold and that the ring has forgotten; the hold may still live.
#[derive(Debug)]
pub(crate) struct Forgotten {
    pub(crate) name: Name,
    pub(crate) token: Token,
    pub(crate) id: AcquisitionId,
}

fn first_header(feature_level: u64) -> Header {
    Header {
        generation: 0,
        token_counter: 0,
        ticket_counter: 0,
        ring_first: 0,
        ring_next: 0,
        feature_level,
        age_ms: AGE_START_MS,
        lost_ms: 0,
        ended_next: 0,
        recovered_ms: 0,
        quarantine: Quarantine::None,
    }
}

/// Invariants:
/// - `generation`, `token_counter`, `ticket_counter` and `feature_level` never go back;
/// - a range that is in quarantine was recovered;
/// - from feature level 3 on, what is in the ring is in `ended`;
/// - `holds_count`, `waiters_count` and `delays_count` are those of all locks together;
/// - `forgotten` is empty between commands.
#[derive(Debug)]
pub(crate) struct Ledger {
    pub(crate) limits: TableLimits,
    generation: u16,
    token_counter: u64,
    ticket_counter: u64,
    pub(crate) feature_level: u64,
    recovered_ms: u64,
    pub(crate) quarantine: Quarantine,
    pub(crate) sessions: Sessions,
    pub(crate) ring: Ring,
    pub(crate) ended: Ended,
    pub(crate) hash: StateHash,
    pub(crate) usage: Usage,
    pub(crate) dirty: Dirty,
    pub(crate) holds_count: usize,
    pub(crate) waiters_count: usize,
    pub(crate) delays_count: usize,
    pub(crate) forgotten: Vec<Forgotten>,
    /// The part of a first image that is still to be taken. Until that is all of it, `dirty` counts for
    /// nothing.
    pub(crate) first_image: Option<FirstImage>,
}

impl Ledger {
    pub(crate) fn new(limits: TableLimits) -> Self {
        Self::under(limits, &first_header(FEATURE_LEVEL))
    }

    /// See [`crate::LockTable::at_level`].
    pub(crate) fn at_level(level: u64) -> Result<Self, RestoreError> {
        match level {
            1..=FEATURE_LEVEL => Ok(Self::under(TableLimits::default(), &first_header(level))),
            level => Err(RestoreError::FeatureLevel { level }),
        }
    }

    /// A ledger of this header with nothing in it yet; the ring begins where the header says.
    pub(crate) fn under(limits: TableLimits, header: &Header) -> Self {
        let ring = Ring::starting_at(header.ring_first, limits.ring_len_max);
        let Header { age_ms, lost_ms, ended_next, .. } = *header;
        let ended = Ended::under(limits.ended_bytes_max, age_ms, lost_ms, ended_next);
        Self {
            limits,
            generation: header.generation,
            token_counter: header.token_counter,
            ticket_counter: header.ticket_counter,
            feature_level: header.feature_level,
            recovered_ms: header.recovered_ms,
            quarantine: header.quarantine,
            sessions: Sessions::default(),
            ring,
            ended,
            hash: StateHash::new(),
            usage: Usage::default(),
            dirty: Dirty::default(),
            holds_count: 0,
            waiters_count: 0,
            delays_count: 0,
            forgotten: Vec::new(),
            first_image: None,
        }
    }

    pub(crate) fn header(&self) -> Header {
        Header {
            generation: self.generation,
            token_counter: self.token_counter,
            ticket_counter: self.ticket_counter,
            ring_first: self.ring.first(),
            ring_next: self.ring.next(),
            feature_level: self.feature_level,
            age_ms: self.ended.age_ms(),
            lost_ms: self.ended.lost_ms(),
            ended_next: self.ended.next_number(),
            recovered_ms: self.recovered_ms,
            quarantine: self.quarantine,
        }
    }

    /// Whether nothing may be granted.
    pub(crate) fn is_quarantined(&self) -> bool {
        self.quarantine != Quarantine::None
    }

    /// The range goes on without the entries that its majority may have had beyond this one: tokens are
    /// above all that those may have granted, and what was asked until now may have ended in them.
    ///
    /// # Panics
    /// It has had all generations of tokens.
    pub(crate) fn recover(&mut self, generation: u16, waits: bool) {
        let next = self.generation.checked_add(1);
        let next = next.unwrap_or_else(|| panic!("generation {} is the last", self.generation));
        self.generation = next.max(generation);
        self.recovered_ms = self.ended.age_ms();
        self.quarantine = match (waits, self.quarantine) {
            (true, _) => Quarantine::Waits,
            (false, Quarantine::None) => Quarantine::None,
            (false, _) => Quarantine::Ends,
        };
    }

    /// Why a session with so many open acquisitions may have no other.
    pub(crate) fn refusal_beside(&self, open_count: usize) -> Option<Refusal> {
        let max = self.limits.acquisitions_per_session_max;
        (open_count >= max).then_some(Refusal::TooManyAcquisitions { max })
    }

    /// How many seats a lock has.
    pub(crate) fn seats_max(&self) -> usize {
        if self.feature_level >= 3 { self.limits.seats_per_lock_max } else { usize::MAX }
    }

    /// The token of the next grant.
    pub(crate) fn next_token(&mut self) -> Token {
        self.token_counter += 1;
        assert!(self.token_counter >> TOKEN_COUNTER_BITS == 0, "the range is out of tokens");
        last_token(&self.header())
    }

    /// The arrival of a hold that is granted at once, with this token.
    pub(crate) fn arrival_with(&self, token: Token) -> u64 {
        if self.feature_level >= 4 { token.0 } else { 0 }
    }

    /// The arrival of a waiter. It takes a number of the tokens', so that its grant, whose token comes
    /// later, is of the same order.
    pub(crate) fn next_arrival(&mut self) -> u64 {
        if self.feature_level >= 4 { self.next_token().0 } else { 0 }
    }

    /// The ticket of the next waiter.
    pub(crate) fn next_ticket(&mut self) -> u64 {
        self.ticket_counter += 1;
        self.ticket_counter
    }

    /// Counts a hold in hash and usage.
    pub(crate) fn count_hold(&mut self, name: &Name, row: &HoldRow) -> Digest {
        self.usage.add(name, Some(&row.owner), usage::hold_bytes(name, row));
        self.hash.add_hold(name, row)
    }

    /// The inverse of [`Ledger::count_hold`].
    pub(crate) fn discount_hold(&mut self, name: &Name, row: &HoldRow, digest: Digest) {
        self.usage.remove(name, Some(&row.owner), usage::hold_bytes(name, row));
        self.hash.remove(digest);
    }

    /// Counts a waiter in hash and usage.
    pub(crate) fn count_waiter(&mut self, name: &Name, row: &WaiterRow) -> Digest {
        self.usage.add(name, Some(&row.owner), usage::waiter_bytes(name, row));
        self.hash.add_waiter(name, row)
    }

    /// The inverse of [`Ledger::count_waiter`].
    pub(crate) fn discount_waiter(&mut self, name: &Name, row: &WaiterRow, digest: Digest) {
        self.usage.remove(name, Some(&row.owner), usage::waiter_bytes(name, row));
        self.hash.remove(digest);
    }

    /// Counts a delay in hash and usage.
    pub(crate) fn count_delay(&mut self, name: &Name, row: &DelayRow) -> Digest {
        self.usage.add(name, None, usage::delay_bytes(name));
        self.hash.add_delay(name, row)
    }

    /// The inverse of [`Ledger::count_delay`].
    pub(crate) fn discount_delay(&mut self, name: &Name, digest: Digest) {
        self.usage.remove(name, None, usage::delay_bytes(name));
        self.hash.remove(digest);
    }

    /// Counts a fence floor in hash and usage.
    pub(crate) fn count_floor(&mut self, name: &Name, floor: Token) -> Digest {
        self.usage.add(name, None, usage::floor_bytes(name));
        self.hash.add_fence_floor(name, floor)
    }

    /// The inverse of [`Ledger::count_floor`].
    pub(crate) fn discount_floor(&mut self, name: &Name, digest: Digest) {
        self.usage.remove(name, None, usage::floor_bytes(name));
        self.hash.remove(digest);
    }

    /// How an acquisition of this lock that is not open ended.
    pub(crate) fn how_finished(&self, name: &Name, acquisition: Acquisition) -> Finished {
        self.ring
            .get(acquisition)
            .filter(|row| row.name == *name)
            .map_or(Finished::Unknown, |row| row.how)
    }

    /// Whether the acquisition has ended, under whatever name, and that is remembered.
    pub(crate) fn has_ended(&self, acquisition: Acquisition) -> bool {
        if self.feature_level < 3 {
            return self.ring.get(acquisition).is_some();
        }
        self.ended.has(acquisition)
    }

    /// Whether the acquisition is open, or its end is remembered, under whatever name.
    pub(crate) fn is_known(&self, acquisition: Acquisition) -> bool {
        self.sessions.get(acquisition).is_some() || self.has_ended(acquisition)
    }

    /// Whether an acquisition that is not known may have ended all the same, and be forgotten.
    pub(crate) fn is_doubtful(&self, asked_ms: u64) -> bool {
        let is_lost = self.recovered_ms != 0 && asked_ms < self.recovered_ms + UNHEARD_MS;
        self.feature_level >= 3 && (is_lost || self.ended.is_doubtful(asked_ms))
    }

    /// A copy of a command about the acquisition has come. If that has ended, another copy may be on
    /// its way still: it is remembered from now on.
    pub(crate) fn come_again(&mut self, acquisition: Acquisition) {
        if self.feature_level >= 3 && self.ended.has(acquisition) {
            self.remember(acquisition, self.ring.next());
        }
    }

    /// Puts an acquisition that is not known into the ring, and among what has ended.
    pub(crate) fn record(&mut self, row: FinishedRow, hold: HoldAfter) {
        if self.feature_level >= 3 {
            self.remember(row.acquisition, self.ring.next() + 1);
        }
        self.record_outcome(row, hold);
    }

    /// Puts an acquisition into the ring that is not there.
    pub(crate) fn record_outcome(&mut self, row: FinishedRow, hold: HoldAfter) {
        let digest = self.hash.add_finished(self.ring.next(), &row);
        let hold_lived_on = hold == HoldAfter::Lives;
        let oldest = self.ring.push(Entry { row, digest, hold_lived_on });
        self.left_ring(oldest);
    }

    /// Time has passed: what ended long ago is forgotten.
    pub(crate) fn pass(&mut self, passed_ms: u64) {
        if self.feature_level >= 3 {
            let before = self.ended.pass(&mut self.hash, passed_ms);
            self.forget_outcomes(before);
        }
    }

    /// Follows the rules of a level from here on.
    pub(crate) fn raise_level(&mut self, level: u64) {
        let before = self.feature_level;
        self.feature_level = before.max(level);
        if before < 3 && level >= 3 {
            // Acquisitions that the ring has lost until now have ended, too, and nobody knows which
            // those are.
            self.ended.begin();
            let known: Vec<_> = self.ring.iter().map(|(_, entry)| entry.row.acquisition).collect();
            let ring_next = self.ring.next();
            known.into_iter().for_each(|acquisition| self.remember(acquisition, ring_next));
        }
    }

    fn remember(&mut self, acquisition: Acquisition, ring_next: u64) {
        let before = self.ended.insert(&mut self.hash, acquisition, ring_next);
        self.forget_outcomes(before);
    }

    fn forget_outcomes(&mut self, before: Option<u64>) {
        while before.is_some_and(|before| self.ring.first() < before) && self.ring.len() > 0 {
            let oldest = self.ring.pop();
            self.left_ring(oldest);
        }
    }

    fn left_ring(&mut self, entry: Option<Entry>) {
        let Some(Entry { row, digest, hold_lived_on }) = entry else { return };
        self.hash.remove(digest);
        let FinishedRow { acquisition, name, token, .. } = row;
        if let (true, Some(token)) = (hold_lived_on, token) {
            self.forgotten.push(Forgotten { name, token, id: acquisition.id });
        }
    }
}

/// Whether the hold on which an acquisition was closed lives on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HoldAfter {
    /// Others are open on it.
    Lives,
    /// It has ended, or there was none.
    Ended,
}

/// The largest token that a table with this header has granted.
pub(crate) fn last_token(header: &Header) -> Token {
    Token(u64::from(header.generation) << TOKEN_COUNTER_BITS | header.token_counter)
}
