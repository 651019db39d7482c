//! Recomputes everything that the table keeps incrementally, and checks every `Invariants:` list.
//! For tests; what costs nothing to check is asserted where it happens.

use std::collections::BTreeMap;

use crate::{
    EndingCause, Extras, HoldRow, LeaseRule, LockTable, Mode, Name, Reclaimer, Row, RowKey,
    dirty::{DirtyHold, InImage, RowState},
    hash::StateHash,
    ledger::{Ledger, last_token},
    lock::Lock,
    sessions::{Open, Place, Sessions, places_on},
    usage::{self, Usage},
};

impl LockTable {
    /// Panics, saying where, if an invariant of the table is broken. Takes time in proportion to
    /// the whole table.
    pub fn check_invariants(&self) {
        let mut sessions = Sessions::default();
        for (name, lock) in &self.locks {
            lock.check_invariants(name, &self.ledger);
            for hold in lock.holds.iter() {
                assert!(hold.row.token <= last_token(&self.header()), "{name}: token from ahead");
                for (acquisition, owner, place) in places_on(&hold.row) {
                    let open = Open { name: name.clone(), place };
                    assert_eq!(sessions.insert(acquisition, owner, open), None, "open twice");
                }
            }
            for waiter in lock.queue.iter() {
                assert!(waiter.row.ticket <= self.header().ticket_counter);
                let open = Open { name: name.clone(), place: Place::Waiting(waiter.row.ticket) };
                let stood = sessions.insert(waiter.row.acquisition, &waiter.row.owner, open);
                assert_eq!(stood, None, "open twice");
            }
        }
        let mut usage = self.ledger.usage.like();
        for (name, lock) in &self.locks {
            lock.weigh(name, &mut usage);
        }
        assert_eq!(usage, self.ledger.usage, "the weights differ");
        assert_eq!(sessions, self.ledger.sessions, "the index of sessions differs");
        self.check_ledger();
        self.check_dirty();
        assert_eq!(self.sum_of_rows(), self.ledger.hash.sum(), "the state hash differs");
    }

    fn check_ledger(&self) {
        let ledger = &self.ledger;
        ledger.ring.check_invariants();
        ledger.ended.check_invariants();
        for acquisition in ledger.ended.iter() {
            assert_eq!(ledger.sessions.get(acquisition), None, "open and ended");
        }
        assert!(ledger.feature_level < 3 || ledger.ended.covers(&ledger.ring), "ended in no wise");
        for (_, entry) in ledger.ring.iter() {
            let acquisition = entry.row.acquisition;
            assert_eq!(ledger.sessions.get(acquisition), None, "open and finished");
            let lives = |token| self.is_live(&entry.row.name, token);
            assert!(entry.hold_lived_on || !entry.row.token.is_some_and(lives), "a lost hint");
            let opened = ledger.sessions.open_count(acquisition.session);
            assert!(opened <= ledger.limits.acquisitions_per_session_max);
        }
        let locks = self.locks.values();
        assert_eq!(ledger.holds_count, locks.clone().map(|lock| lock.holds.len()).sum());
        assert_eq!(ledger.waiters_count, locks.clone().map(|lock| lock.queue.len()).sum());
        assert_eq!(ledger.delays_count, locks.map(|lock| lock.holds.delays_len()).sum());
        assert!(ledger.forgotten.is_empty());
    }

    fn check_dirty(&self) {
        let dirty = &self.ledger.dirty;
        let mut noted = 0;
        for (slot, DirtyHold { name, token, in_image }) in dirty.holds() {
            let hold = self.locks.get(name).and_then(|lock| lock.holds.get(*token));
            let state = hold.map(|hold| hold.row_state);
            let expected = hold.map(|_| RowState::Dirty(slot));
            assert_eq!(state, expected, "{name}: {token} does not know its slot");
            let is_noted = hold.is_some();
            assert!(is_noted || *in_image == InImage::Yes, "{name}: neither live nor in the image");
            noted += usize::from(is_noted);
        }
        let holds = self.locks.values().flat_map(|lock| lock.holds.iter());
        let clean = holds.filter(|hold| hold.row_state == RowState::Clean).count();
        assert_eq!(clean + noted, self.counts().holds, "a hold is neither clean nor in a slot");
        for (ticket, name, in_image) in dirty.waiters() {
            let queue = self.locks.get(name).map(|lock| &lock.queue);
            let waits = queue.is_some_and(|queue| queue.get(ticket).is_some());
            assert_eq!(waits, in_image == InImage::No, "{name}: waiter {ticket}");
        }
        let rows: BTreeMap<_, _> = self.rows().into_iter().collect();
        for (key, in_image) in dirty.others() {
            let is_noted = rows.contains_key(key) || in_image == InImage::Yes;
            assert!(is_noted, "{key:?}: neither live nor in the image");
        }
    }

    fn sum_of_rows(&self) -> u64 {
        let mut hash = StateHash::new();
        for (key, row) in self.rows() {
            match (key, row) {
                (RowKey::Lock(name), Row::Lock(row)) => {
                    hash.add_fence_floor(&name, row.fence_floor);
                }
                (RowKey::Hold(name, _), Row::Hold(row)) => {
                    hash.add_hold(&name, &row);
                }
                (RowKey::Delay(name, _), Row::Delay(row)) => {
                    hash.add_delay(&name, &row);
                }
                (RowKey::Waiter(name, _), Row::Waiter(row)) => {
                    hash.add_waiter(&name, &row);
                }
                (RowKey::Ended(generation, _), Row::Ended(row)) => {
                    for acquisition in row.acquisitions() {
                        hash.add_ended(generation, acquisition);
                    }
                }
                (_, Row::Ring(_)) => {}
                (key, row) => panic!("{key:?} names {row:?}"),
            }
        }
        for (number, entry) in self.ledger.ring.iter() {
            hash.add_finished(number, &entry.row);
        }
        hash.sum()
    }
}

impl Lock {
    /// Adds all that it has.
    fn weigh(&self, name: &Name, usage: &mut Usage) {
        if self.holds.fence_floor().is_some() {
            usage.add(name, None, usage::floor_bytes(name));
        }
        for hold in self.holds.iter() {
            usage.add(name, Some(&hold.row.owner), usage::hold_bytes(name, &hold.row));
        }
        for _ in self.holds.delays() {
            usage.add(name, None, usage::delay_bytes(name));
        }
        for waiter in self.queue.iter() {
            usage.add(name, Some(&waiter.row.owner), usage::waiter_bytes(name, &waiter.row));
        }
    }

    fn check_invariants(&self, name: &Name, ledger: &Ledger) {
        let waiters_max = ledger.limits.waiters_per_lock_max;
        self.holds.check_invariants();
        self.queue.check_invariants();
        let is_quarantined = ledger.is_quarantined();
        let may_be_vacant = is_quarantined && !self.queue.is_empty();
        assert!(may_be_vacant || !self.holds.is_vacant(), "{name}: live without a hold or a delay");
        assert!(self.queue.len() <= waiters_max, "{name}: too many waiters");
        let mut modes = self.queue.iter().map(|waiter| waiter.row.mode);
        assert!(modes.all(|mode| Some(mode.kind()) == self.kind()), "{name}: kinds differ");
        let fits = self.could_serve(ledger.seats_max());
        assert!(is_quarantined || !fits, "{name}: a head that fits");
        let floor = self.holds.fence_floor().map(|floor| floor.token);
        let first = self.holds.first().map(|first| &first.row);
        let has_floor = first.is_some_and(|first| first.mode != Mode::Exclusive);
        assert_eq!(floor.is_some(), has_floor, "{name}: fence floor");
        assert!(floor <= first.map(|first| first.token), "{name}: floor above token");
        for hold in self.holds.iter() {
            let ids = &hold.row.open_ids;
            assert!(!ids.is_empty() && ids.is_sorted_by(|a, b| a < b), "{name}: {ids:?}");
            assert!(ids.last() <= Some(&ids.newest()), "{name}: newest");
            assert!(hold.row.arrival <= hold.row.token.0, "{name}: held before it came");
            hold.row.check_extras(name);
        }
        self.check_arrivals(name, ledger);
    }
}

impl Lock {
    fn check_arrivals(&self, name: &Name, ledger: &Ledger) {
        assert!(self.is_in_order_of_arrival(), "{name}: arrivals in {self:?}");
        let held = self.holds.iter().map(|hold| hold.row.arrival);
        let waits = self.queue.iter().map(|waiter| waiter.row.arrival);
        let last = held.chain(waits).max().unwrap_or(0);
        assert!(last <= last_token(&ledger.header()).0, "{name}: arrival from ahead");
        assert!(ledger.feature_level >= 4 || last == 0, "{name}: arrival {last} below level 4");
    }
}

impl HoldRow {
    fn check_extras(&self, name: &Name) {
        let extras = self.extras();
        assert_ne!(self.extras.as_deref(), Some(&Extras::default()), "{name}: empty extras");
        assert_eq!(extras.condition.flaw(self.ttl_ms), None, "{name}: {extras:?}");
        let is_hold = extras.condition.lease == LeaseRule::Hold;
        assert!(!extras.claimed || is_hold, "{name}: claimed {extras:?}");
        assert!(!extras.orphaned || extras.claimed, "{name}: orphaned {extras:?}");
        assert!(!extras.orphaned || extras.ending.is_none(), "{name}: orphaned {extras:?}");
        let may_be_asked = extras.condition.ask_grace_ms.is_some();
        assert!(extras.asked.is_none() || may_be_asked, "{name}: asked {extras:?}");
        let Some(Reclaimer { acquisition, .. }) = self.reclaimer() else { return };
        let is_newer = acquisition.instance > self.instance;
        assert!(is_newer && acquisition.session == self.session, "{name}: {extras:?}");
        let cause = self.ending().map(|mark| mark.cause);
        assert_eq!(cause, Some(EndingCause::Reclaim), "{name}: {extras:?}");
    }
}
