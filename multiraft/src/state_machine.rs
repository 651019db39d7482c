//! The one trait between the engine and what it replicates.

/// The place of an entry in its range's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryAt {
    /// Raft index.
    pub index: u64,
    /// Raft term.
    pub term: u64,
}

/// A row of a state machine's durable image: `None` deletes it. Keys are the machine's own; the
/// engine prefixes them with the range id.
pub type DirtyRow = (Vec<u8>, Option<Vec<u8>>);

/// The state that a range replicates. Deterministic: equal entries make equal states and equal
/// hashes on every replica. `apply` reads no clock and has no effect but its return value.
pub trait StateMachine: Sized {
    /// The result of applying one entry, from which the leader's owner answers clients.
    type Output;

    /// The state before the first entry.
    fn empty() -> Self;

    /// Whether this program can apply such data. Asked before an entry comes into the log, from a
    /// peer or from the disk, so that an older program stays behind, with a reason, where a newer one
    /// leads. Cheap: it need not find damage.
    ///
    /// # Errors
    /// Why not, for people.
    fn knows(data: &[u8]) -> Result<(), String> {
        let _all = data;
        Ok(())
    }

    /// Applies the data of one entry. `version` is that of the range's descriptor as all entries
    /// before this one have left it: the same on every replica, and after a restart. Data that was
    /// proposed under another version may be about names that have left the range, so a machine
    /// that has names compares (D12). Panics on data it does not understand: skipping it would let
    /// replicas diverge (D19).
    fn apply(&mut self, at: EntryAt, version: u64, data: &[u8]) -> Self::Output;

    /// Takes what belongs to the names from `key` on out of this state; that is the state of a range of
    /// its own from now on. Both go on with all counters, so that what either gives is above all that
    /// was given. The rows of what has moved are dirty in both: gone here, new there.
    fn split_off(&mut self, key: &str) -> Self;

    /// Rows that changed since the last call, each once, for the image (D4).
    fn take_dirty(&mut self) -> Vec<DirtyRow>;

    /// As [`take_dirty`](Self::take_dirty), but of a state that was split off, and of which nothing was
    /// ever taken, only a part: about so many rows; and whether these are the last. Until they are,
    /// nothing is applied.
    fn take_some_dirty(&mut self, rows_max: usize) -> (Vec<DirtyRow>, bool) {
        let _all = rows_max;
        (self.take_dirty(), true)
    }

    /// About how many rows the next [`take_dirty`](Self::take_dirty) gives, which is the work of a
    /// turn.
    fn dirty_len(&self) -> usize;

    /// The part of the image beside the rows (counters and the like).
    fn header(&self) -> Vec<u8>;

    /// Hash of the whole state (S9).
    fn state_hash(&self) -> u64;

    /// Builds the state from an image: what `header` said last, and all rows that `take_dirty` gave
    /// and did not take back, in byte order of their keys and one by one, so that they need not be in
    /// memory beside the state. The engine checks the hash afterwards.
    ///
    /// # Errors
    /// A newer program wrote it, or it is damaged: the header has to tell the first before anything in
    /// it, or a row, can pass for the second.
    fn restore(
        header: &[u8],
        rows: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
    ) -> Result<Self, BadImage>;
}

/// Why an image cannot be read, for people.
#[derive(Debug, thiserror::Error)]
pub enum BadImage {
    /// A newer program wrote it, and nothing is wrong with it. Says what it takes, and what this
    /// program has.
    #[error("{0}")]
    Newer(String),
    /// It is no image of this machine.
    #[error("corrupt image: {0}")]
    Corrupt(String),
}
