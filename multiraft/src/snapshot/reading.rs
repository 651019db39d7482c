//! A snapshot that is to be sent: its image is being read from the disk, beside all turns.

use super::reserve::Reserve;
use super::wire::Ends;

/// The bytes that the log may take beyond its maximum while the image is read, whose size is not
/// known yet.
pub(crate) const READING_BYTES_MAX: u64 = 64 << 20;

/// Invariants:
/// - the log is kept from what was flushed when the wish was made: the image that is read has that
///   applied, or more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    pub ends: Ends,
    /// The term in which the sender leads; another ends the transfer.
    pub term: u64,
    /// Names the wish.
    pub number: u64,
    pub reserve: Reserve,
    /// Tick of the wish.
    pub since: u64,
    /// As the header will say.
    pub repairs: bool,
}
