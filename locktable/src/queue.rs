//! The waiters of one lock in the order of their tickets. It keeps order and finds places; who may
//! pass from here to a hold is decided in `lock`.
//!
//! Waiters stand in blocks. A place is the sum of the blocks before plus an index: with 10,000
//! waiters some 160 additions, while leaving from the middle moves at most one block.

use std::collections::VecDeque;

use crate::{WaiterRow, hash::Digest};

/// Bounds what leaving the queue moves: 64 waiters of about 170 bytes.
const BLOCK_LEN_MAX: usize = 64;

/// A waiter with its part of the state hash.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) row: WaiterRow,
    pub(crate) digest: Digest,
}

/// The waiters; most locks have none, and pay for a pointer.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    blocks: Option<Box<Blocks>>,
}

/// Invariants:
/// - tickets ascend strictly over all blocks;
/// - no block is empty, none is longer than `BLOCK_LEN_MAX`, and there is one;
/// - `len` is the sum of the blocks' lengths.
#[derive(Debug, Default)]
struct Blocks {
    blocks: VecDeque<VecDeque<Waiter>>,
    len: usize,
}

impl Queue {
    pub(crate) fn len(&self) -> usize {
        self.blocks.as_ref().map_or(0, |blocks| blocks.len)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.blocks.is_none()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Waiter> {
        self.blocks.iter().flat_map(|blocks| blocks.iter())
    }

    pub(crate) fn front(&self) -> Option<&Waiter> {
        self.blocks.as_ref()?.blocks.front()?.front()
    }

    pub(crate) fn get(&self, ticket: u64) -> Option<&Waiter> {
        let blocks = self.blocks.as_ref()?;
        let (block, index) = blocks.find(ticket)?;
        Some(&blocks.blocks[block][index])
    }

    /// The place of the waiter; 1 is next.
    pub(crate) fn place(&self, ticket: u64) -> Option<u32> {
        let blocks = self.blocks.as_ref()?;
        let (block, index) = blocks.find(ticket)?;
        let before: usize = blocks.blocks.iter().take(block).map(VecDeque::len).sum();
        u32::try_from(before + index + 1).ok()
    }

    pub(crate) fn push_back(&mut self, waiter: Waiter) {
        self.blocks.get_or_insert_default().push_back(waiter);
    }

    pub(crate) fn pop_front(&mut self) -> Option<Waiter> {
        let waiter = self.blocks.as_mut()?.pop_front()?;
        self.blocks.take_if(|blocks| blocks.len == 0);
        Some(waiter)
    }

    pub(crate) fn remove(&mut self, ticket: u64) -> Option<Waiter> {
        let waiter = self.blocks.as_mut()?.remove(ticket)?;
        self.blocks.take_if(|blocks| blocks.len == 0);
        Some(waiter)
    }

    /// Panics where an invariant of this struct is broken.
    pub(crate) fn check_invariants(&self) {
        if let Some(blocks) = &self.blocks {
            blocks.check_invariants();
        }
    }
}

impl Blocks {
    fn iter(&self) -> impl Iterator<Item = &Waiter> {
        self.blocks.iter().flatten()
    }

    fn push_back(&mut self, waiter: Waiter) {
        let last = self.blocks.back().and_then(VecDeque::back);
        assert!(
            last.is_none_or(|last| last.row.ticket < waiter.row.ticket),
            "a waiter queues behind all others: ticket {} after {last:?}",
            waiter.row.ticket,
        );
        self.len += 1;
        match self.blocks.back_mut() {
            Some(block) if block.len() < BLOCK_LEN_MAX => block.push_back(waiter),
            _ => self.blocks.push_back(VecDeque::from([waiter])),
        }
    }

    fn pop_front(&mut self) -> Option<Waiter> {
        let waiter = self.blocks.front_mut()?.pop_front()?;
        self.len -= 1;
        self.tidy(0);
        Some(waiter)
    }

    fn remove(&mut self, ticket: u64) -> Option<Waiter> {
        let (block, index) = self.find(ticket)?;
        let waiter = self.blocks[block].remove(index)?;
        self.len -= 1;
        self.tidy(block);
        Some(waiter)
    }

    fn find(&self, ticket: u64) -> Option<(usize, usize)> {
        let after = self.blocks.partition_point(|block| block[0].row.ticket <= ticket);
        let block = after.checked_sub(1)?;
        let index = self.blocks[block].binary_search_by_key(&ticket, |waiter| waiter.row.ticket);
        Some((block, index.ok()?))
    }

    /// Drops the block if it is empty, and joins it with the next when both are short, so that the
    /// number of blocks follows the number of waiters down.
    fn tidy(&mut self, block: usize) {
        if self.blocks[block].is_empty() {
            self.blocks.remove(block);
            return;
        }
        let Some(next) = self.blocks.get(block + 1) else { return };
        if self.blocks[block].len() + next.len() > BLOCK_LEN_MAX / 2 {
            return;
        }
        if let Some(mut next) = self.blocks.remove(block + 1) {
            self.blocks[block].append(&mut next);
        }
    }

    /// Panics where an invariant of this struct is broken.
    fn check_invariants(&self) {
        assert!(!self.blocks.is_empty());
        assert!(self.blocks.iter().all(|block| (1..=BLOCK_LEN_MAX).contains(&block.len())));
        assert_eq!(self.len, self.iter().count());
        assert!(self.iter().map(|waiter| waiter.row.ticket).is_sorted_by(|a, b| a < b));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Acquisition, AcquisitionId, Instance, Mode, Name, Owner, SessionHandle, Wait,
        hash::StateHash,
    };

    fn waiter(ticket: u64) -> Waiter {
        let row = WaiterRow {
            ticket,
            acquisition: Acquisition {
                session: SessionHandle([0; 16]),
                instance: Instance(1),
                id: AcquisitionId(ticket),
            },
            mode: Mode::Exclusive,
            ttl_ms: 1,
            wait: Wait::Unbounded,
            owner: Owner::default().into(),
            queued_unix_ms: 0,
            arrival: 0,
            condition: None,
        };
        let digest = StateHash::new().add_waiter(&Name::from("a"), &row);
        Waiter { row, digest }
    }

    /// Leaves the queue of 1,000 in the order that `next` gives (an index among those present) and
    /// compares every step with a plain list.
    fn check_leaving(mut next: impl FnMut(usize) -> usize) {
        let mut queue = Queue::default();
        let mut list: Vec<u64> = (1..=1_000).map(|number| number * 3).collect();
        list.iter().for_each(|&ticket| queue.push_back(waiter(ticket)));
        while !list.is_empty() {
            let ticket = list.remove(next(list.len()));
            assert_eq!(queue.remove(ticket).map(|waiter| waiter.row.ticket), Some(ticket));
            assert!(queue.remove(ticket).is_none());
            queue.check_invariants();
            let middle = list.len() / 2;
            for index in [0, middle, list.len().saturating_sub(1)] {
                let Some(&ticket) = list.get(index) else { continue };
                assert_eq!(queue.place(ticket), Some(index as u32 + 1));
                assert_eq!(queue.place(ticket + 1), None);
            }
        }
        assert!(queue.is_empty() && queue.blocks.is_none());
    }

    #[test]
    fn places_are_right_in_whatever_order_waiters_leave() {
        check_leaving(|_| 0);
        check_leaving(|len| len - 1);
        check_leaving(|len| len / 2);
        let mut state = 1_usize;
        check_leaving(|len| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % len
        });
    }

    #[test]
    fn the_front_leaves_first() {
        let mut queue = Queue::default();
        (1..=200).for_each(|ticket| queue.push_back(waiter(ticket)));
        for ticket in 1..=200 {
            assert_eq!(queue.front().map(|waiter| waiter.row.ticket), Some(ticket));
            assert_eq!(queue.pop_front().map(|waiter| waiter.row.ticket), Some(ticket));
            queue.check_invariants();
        }
        assert!(queue.pop_front().is_none());
    }
}
