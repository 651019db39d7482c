//! The numbers of calls and acquisitions of sessions that share streams: each session has a block of
//! its own, so that whatever comes in names its session.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Numbers of a block: those of 13 years at 10,000 calls per second.
const BLOCK_BITS: u32 = 42;
const BLOCKS_COUNT: u32 = 1 << (u64::BITS - BLOCK_BITS);
/// A block of which so many are used is not given to another session.
const USED_MAX: u64 = 1 << (BLOCK_BITS - 1);

/// Who has the number of a call or of an acquisition.
pub(super) fn block_of(number: u64) -> u32 {
    u32::try_from(number >> BLOCK_BITS).expect("there are fewer blocks than that")
}

/// The blocks that sessions have, and those that they had.
#[derive(Debug, Default)]
pub(crate) struct Numbers(Mutex<Blocks>);

#[derive(Debug, Default)]
struct Blocks {
    /// All from here on have never been used.
    fresh: u32,
    /// They have no session any more, and so many of their numbers are used: a late answer to one of
    /// them must not be taken for one to a session that has the block next.
    returned: Vec<(u32, u64)>,
}

/// The numbers of one session; it comes back when it is dropped.
#[derive(Debug)]
pub(crate) struct Block {
    numbers: Arc<Numbers>,
    number: u32,
    /// The last number that was used, or that the block begins behind.
    used: u64,
}

impl Numbers {
    /// A block for a session. None while four million have one.
    pub(super) fn take(numbers: &Arc<Self>) -> Option<Block> {
        let mut blocks = numbers.blocks();
        let (number, used) = match blocks.returned.pop() {
            Some(returned) => returned,
            None if blocks.fresh < BLOCKS_COUNT => {
                blocks.fresh += 1;
                (blocks.fresh - 1, 0)
            }
            None => return None,
        };
        drop(blocks);
        let used = (u64::from(number) << BLOCK_BITS) + used;
        Some(Block { numbers: Arc::clone(numbers), number, used })
    }

    /// A panic cannot leave them half changed.
    fn blocks(&self) -> MutexGuard<'_, Blocks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Block {
    /// Tells it from all others that are in use.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// The session begins with the number behind this one.
    pub(crate) fn used(&self) -> u64 {
        self.used
    }

    /// The session has used all up to this one.
    pub(crate) fn note_used(&mut self, number: u64) {
        assert_eq!(block_of(number), self.number, "a session has used up its numbers");
        self.used = self.used.max(number);
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let used = self.used - (u64::from(self.number) << BLOCK_BITS);
        if used <= USED_MAX {
            self.numbers.blocks().returned.push((self.number, used));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(numbers: &Arc<Numbers>) -> Block {
        Numbers::take(numbers).expect("few are used")
    }

    #[test]
    fn sessions_never_have_the_same_number() {
        let numbers = Arc::<Numbers>::default();
        let (mut first, second) = (take(&numbers), take(&numbers));
        assert_eq!((first.used(), block_of(first.used() + 7)), (0, first.number()));
        assert_eq!(block_of(second.used() + 7), second.number());
        assert_ne!(first.number(), second.number());
        first.note_used(9);
        drop(first);
        // The same block, behind all that its former session has asked.
        let third = take(&numbers);
        assert_eq!((third.number(), third.used()), (0, 9));
    }

    #[test]
    fn a_block_that_is_half_used_is_given_to_nobody_else() {
        let numbers = Arc::<Numbers>::default();
        let mut first = take(&numbers);
        first.note_used(USED_MAX + 1);
        drop(first);
        assert_eq!(take(&numbers).number(), 1);
    }
}
