//! The state machine of the examples.

use sharklock_multiraft::{BadImage, DirtyRow, EntryAt, StateMachine};

/// Does nothing, so that the engine alone is measured.
pub struct Nothing;

impl StateMachine for Nothing {
    type Output = ();

    fn empty() -> Self {
        Self
    }

    fn apply(&mut self, _at: EntryAt, _version: u64, _data: &[u8]) {}

    fn split_off(&mut self, _key: &str) -> Self {
        Self
    }

    fn take_dirty(&mut self) -> Vec<DirtyRow> {
        Vec::new()
    }

    fn dirty_len(&self) -> usize {
        0
    }

    fn header(&self) -> Vec<u8> {
        Vec::new()
    }

    fn state_hash(&self) -> u64 {
        0
    }

    fn restore(
        _header: &[u8],
        _rows: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
    ) -> Result<Self, BadImage> {
        Ok(Self)
    }
}
