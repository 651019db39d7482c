//! A table in two (D12): the upper names go to a child, with their queues, their sessions' places and
//! what the ring knows of them. Which ids have ended both halves know of all: an id has no name, and
//! one that ended in the parent must not act in the child. Both halves are whole tables: each has its hash, and its image
//! follows with its next flush, where the parent's loses the rows of what went and the child's gets
//! all of its own.

use std::collections::BTreeMap;

use crate::{
    LockTable, Name,
    holds::Hold,
    ledger::{HoldAfter, Ledger},
    lock::Lock,
    ring::Ring,
    sessions::{Open, Place, places_on},
};

impl LockTable {
    /// Takes the names from `at` on out of this table; they are the child. It goes on with the
    /// tokens, tickets, generation and feature level of this one, so that every token that either
    /// grants is above all that were granted under its names (S3). Takes time in proportion to what
    /// moves, and to the ring.
    pub fn split_off(&mut self, at: &str) -> Self {
        let moved = self.locks.split_off(at);
        let mut header = self.ledger.header();
        (header.ring_first, header.ring_next) = (0, 0);
        let mut ledger = Ledger::under(self.ledger.limits, &header);
        ledger.ended = self.ledger.ended.copy(&mut ledger.hash);
        ledger.usage = self.ledger.usage.like();
        let mut child = Self { locks: BTreeMap::new(), ledger };
        for (name, lock) in moved {
            child.adopt(&mut self.ledger, name, lock);
        }
        child.split_ring(&mut self.ledger, at);
        child
    }

    /// Takes a lock from another table's ledger into this table.
    fn adopt(&mut self, from: &mut Ledger, name: Name, lock: Box<Lock>) {
        from.strike_out(&name, &lock);
        let mut adopted = Lock::new();
        if let Some(floor) = lock.fence_floor {
            adopted.raise_fence_floor(&name, &mut self.ledger, floor.token);
        }
        let (holds, delays) = lock.holds.into_seats();
        for Hold { row, .. } in holds {
            for (acquisition, owner, place) in places_on(&row) {
                let open = Open { name: name.clone(), place };
                self.ledger.sessions.insert(acquisition, owner, open);
            }
            let row_state = self.ledger.dirty.hold_came(&name, row.token);
            adopted.insert_hold(&name, &mut self.ledger, row, row_state);
        }
        for delay in delays {
            adopted.insert_delay(&name, &mut self.ledger, delay.row);
        }
        let mut queue = lock.queue;
        while let Some(waiter) = queue.pop_front() {
            let (ticket, acquisition) = (waiter.row.ticket, waiter.row.acquisition);
            let open = Open { name: name.clone(), place: Place::Waiting(ticket) };
            self.ledger.sessions.insert(acquisition, &waiter.row.owner, open);
            self.ledger.dirty.waiter_came(&name, ticket);
            adopted.insert_waiter(&name, &mut self.ledger, waiter.row);
        }
        self.locks.insert(name, Box::new(adopted));
    }

    /// Shares the other table's ring out by name. Both get new numbers: what is kept follows what
    /// was there, as if it had finished now, so that the flush that follows drops the old rows.
    fn split_ring(&mut self, from: &mut Ledger, at: &str) {
        let (first, next) = (from.ring.first(), from.ring.next());
        let ring = from.ring.renumbered(Ring::starting_at(next, from.limits.ring_len_max));
        // The numbers up to each outcome in both rings, for what has ended: where it had a number of
        // the old ring, it has those of the new ones.
        let mut numbers = vec![(next, 0)];
        for entry in ring {
            from.hash.remove(entry.digest);
            let hold = if entry.hold_lived_on { HoldAfter::Lives } else { HoldAfter::Ended };
            let ledger = if entry.row.name.as_str() < at { &mut *from } else { &mut self.ledger };
            ledger.record_outcome(entry.row, hold);
            numbers.push((from.ring.next(), self.ledger.ring.next()));
        }
        let ends = from.ended.ring_ends().zip(self.ledger.ended.ring_ends());
        for (lower, upper) in ends {
            let before = usize::try_from(lower.saturating_sub(first)).unwrap_or(usize::MAX);
            (*lower, *upper) = numbers[before.min(numbers.len() - 1)];
        }
    }
}

impl Ledger {
    /// Takes a lock, which is in the table no more, out of hash, index, counts and image.
    fn strike_out(&mut self, name: &Name, lock: &Lock) {
        for hold in lock.holds.iter() {
            self.discount_hold(name, &hold.row, hold.digest);
            self.dirty.hold_left(name, hold.row.token, hold.row_state);
            hold.row.acquisitions().into_iter().for_each(|it| self.sessions.remove(it));
            if let Some(reclaimer) = hold.row.reclaimer() {
                self.sessions.remove(reclaimer.acquisition);
            }
        }
        for delay in lock.holds.delays() {
            self.discount_delay(name, delay.digest);
            self.dirty.delay_left(name, delay.row.token);
        }
        for waiter in lock.queue.iter() {
            self.discount_waiter(name, &waiter.row, waiter.digest);
            self.sessions.remove(waiter.row.acquisition);
            self.dirty.waiter_left(name, waiter.row.ticket);
        }
        if let Some(floor) = &lock.fence_floor {
            self.discount_floor(name, floor.digest());
            self.dirty.floor_left(name);
        }
        self.holds_count -= lock.holds.len();
        self.delays_count -= lock.holds.delays_len();
        self.waiters_count -= lock.queue.len();
    }
}
