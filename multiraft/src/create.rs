//! Why a replica is not made that its store was asked for.

use sharklock_rangemap::{Descriptor, DescriptorError, PeerId, RangeId, StoreId};

/// Why a replica was not made. The store is as before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CreateError {
    /// The descriptor describes no range.
    #[error("malformed descriptor: {0}")]
    Malformed(DescriptorError),
    /// The largest u64 is no range id.
    #[error("{0} is no range id: it is the largest number")]
    NoRangeId(RangeId),
    /// The descriptor names no replica on this store.
    #[error("the descriptor of range {range} names no replica on store {store}")]
    NotHere {
        /// The range.
        range: RangeId,
        /// This store.
        store: StoreId,
    },
    /// The range is here under another descriptor.
    #[error("range {0} is here already, with another descriptor")]
    Differs(RangeId),
    /// This store has had a replica of the range that is as new: what that one has promised is gone
    /// with it, so it must not come back.
    #[error("peer {peer} of range {range} was here and is gone, so peer {offered} is not made")]
    Buried {
        /// The range.
        range: RangeId,
        /// The newest that was here.
        peer: PeerId,
        /// The one that was to be made.
        offered: PeerId,
    },
    /// Some of its names belong to another range here.
    #[error("the names of range {range} overlap with those of range {other}, which is here")]
    Overlap {
        /// The range that was to be made.
        range: RangeId,
        /// The one that is here.
        other: RangeId,
    },
}

/// The peer that a descriptor wants on this store, if a replica can be made from it at all.
pub(crate) fn check(descriptor: &Descriptor, store: StoreId) -> Result<PeerId, CreateError> {
    descriptor.validate().map_err(CreateError::Malformed)?;
    let range = descriptor.range;
    if range.0 == u64::MAX {
        return Err(CreateError::NoRangeId(range));
    }
    let here = descriptor.on_store(store).ok_or(CreateError::NotHere { range, store })?;
    Ok(here.peer)
}
