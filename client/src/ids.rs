//! The numbers that name things: acquisitions, attempts, tokens, and the point of a range's log at
//! which an answer holds. Meaning only; who hands them out stands with each type.

use std::fmt;

/// Names one acquisition within a client's session and instance. Starts at 1, grows, is never
/// reused: all attempts and retries of one `acquire()` carry the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AcquisitionId(pub u64);

impl fmt::Display for AcquisitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names one attempt: each Acquire and each KeepAlive that is sent has its own, larger than all
/// before it in the session. Starts at 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

/// A fencing token: larger than every earlier token of the same lock name, for ever (D11).
///
/// Hand it to the protected resource with every operation. The resource refuses an operation whose
/// token is smaller than the largest it has seen; that comparison, not the lock service, is what
/// protects it from a client that was paused while its lease ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FencingToken(u64);

impl FencingToken {
    /// A token that came over a wire or from a file.
    pub const fn from_u64(token: u64) -> Self {
        Self(token)
    }

    /// The number to send and to compare.
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

impl From<FencingToken> for u64 {
    fn from(token: FencingToken) -> Self {
        token.0
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The point of a range's log at which an answer holds (D15). Of interest to checkers of histories.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The range that answered.
    pub range: u64,
    /// Counts membership changes of the range.
    pub conf_ver: u64,
    /// Counts changes of the range's bounds.
    pub version: u64,
    /// The answer reflects the range's log up to this index.
    pub applied_index: u64,
}
