//! A table in two (D12): the upper names go to a child, with their queues, their sessions' places and
//! what the ring knows of them. Which ids have ended both halves know of all: an id has no name, and
//! one that ended in the parent must not act in the child. What the ring of the parent knows of names
//! that have left stays until it is forgotten; nobody asks for it. So the parent's next flush only
//! loses the rows of what went, and the child's first image is all that it has (`first_image.rs`).

use crate::{
    LockTable, Name, dirty::RowState, first_image::FirstImage, hash::Digest, ledger::Ledger,
    lock::Lock, usage,
};

impl LockTable {
    /// Takes the names from `at` on out of this table; they are the child. It goes on with the
    /// tokens, tickets, generation and feature level of this one, so that every token that either
    /// grants is above all that were granted under its names (S3). Takes time in proportion to what
    /// moves, to the sessions and to the ring.
    pub fn split_off(&mut self, at: &str) -> Self {
        let mut header = self.ledger.header();
        (header.ring_first, header.ring_next) = (0, 0);
        let mut ledger = Ledger::under(self.ledger.limits, &header);
        ledger.first_image = Some(FirstImage::default());
        ledger.ended = self.ledger.ended.copy(&mut ledger.hash);
        ledger.usage = self.ledger.usage.like();
        ledger.sessions = self.ledger.sessions.split_off(at);
        ledger.share_ring(&self.ledger, at);
        let mut locks = self.locks.split_off(at);
        for (name, lock) in &mut locks {
            ledger.adopt(&mut self.ledger, name, lock);
        }
        Self { locks, ledger }
    }
}

impl Ledger {
    /// Takes a lock over from another ledger, in all but its sessions.
    fn adopt(&mut self, from: &mut Self, name: &Name, lock: &mut Lock) {
        for hold in lock.holds.iter_mut() {
            let owner = Some(&*hold.row.owner);
            from.usage.hand_over(&mut self.usage, name, owner, usage::hold_bytes(name, &hold.row));
            self.adopt_digest(from, hold.digest);
            from.dirty.hold_left(name, hold.row.token, hold.row_state);
            hold.row_state = RowState::Clean;
        }
        for delay in lock.holds.delays() {
            from.usage.hand_over(&mut self.usage, name, None, usage::delay_bytes(name));
            self.adopt_digest(from, delay.digest);
            from.dirty.delay_left(name, delay.row.token);
        }
        for waiter in lock.queue.iter() {
            let (owner, bytes) = (&waiter.row.owner, usage::waiter_bytes(name, &waiter.row));
            from.usage.hand_over(&mut self.usage, name, Some(owner), bytes);
            self.adopt_digest(from, waiter.digest);
            from.dirty.waiter_left(name, waiter.row.ticket);
        }
        if let Some(floor) = lock.holds.fence_floor() {
            from.usage.hand_over(&mut self.usage, name, None, usage::floor_bytes(name));
            self.adopt_digest(from, floor.digest);
            from.dirty.floor_left(name);
        }
        let counts = [lock.holds.len(), lock.holds.delays_len(), lock.queue.len()];
        for (of, count) in from.counts_mut().into_iter().zip(counts) {
            *of -= count;
        }
        for (of, count) in self.counts_mut().into_iter().zip(counts) {
            *of += count;
        }
    }

    fn adopt_digest(&mut self, from: &mut Self, digest: Digest) {
        from.hash.remove(digest);
        self.hash.put(digest);
    }

    fn counts_mut(&mut self) -> [&mut usize; 3] {
        [&mut self.holds_count, &mut self.delays_count, &mut self.waiters_count]
    }

    /// Takes over what another ring knows of the names from `at` on, in new numbers.
    fn share_ring(&mut self, from: &Self, at: &str) {
        let first = from.ring.next();
        let taken: Vec<u64> = self.ring.share(&from.ring, at, &mut self.hash);
        // What has ended counts in the numbers of the ring, which are others here.
        for end in self.ended.ring_ends() {
            *end = first + taken.partition_point(|number| number < end) as u64;
        }
    }
}
