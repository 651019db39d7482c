//! A replica that is made while its store runs: one of a first range, which begins out of nothing.

use sharklock_rangemap::{Descriptor, DescriptorError, RangeId, StoreId};

use raft::eraftpb::HardState;

use crate::ident::INITIAL;
use crate::log::Log;
use crate::records;
use crate::replica::Loaded;
use crate::state_machine::{EntryAt, StateMachine};

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
    /// Some of its names belong to another range here.
    #[error("the names of range {range} overlap with those of range {other}, which is here")]
    Overlap {
        /// The range that was to be made.
        range: RangeId,
        /// The one that is here.
        other: RangeId,
    },
}

/// Whether a replica can be made from this descriptor at all.
pub(crate) fn check(descriptor: &Descriptor, store: StoreId) -> Result<(), CreateError> {
    descriptor.validate().map_err(CreateError::Malformed)?;
    let range = descriptor.range;
    if range.0 == u64::MAX {
        return Err(CreateError::NoRangeId(range));
    }
    if descriptor.on_store(store).is_none() {
        return Err(CreateError::NotHere { range, store });
    }
    Ok(())
}

/// What recovery would load of a replica right after [`crate::ident::birth`] was written.
pub(crate) fn newborn<M: StateMachine>(descriptor: Descriptor) -> Loaded<M> {
    let hard_state = HardState { term: INITIAL, commit: INITIAL, ..HardState::default() };
    let conf_state = records::conf_state(&descriptor);
    Loaded {
        log: Log::new(hard_state, conf_state, (INITIAL, INITIAL), Vec::new()),
        machine: M::empty(),
        applied: EntryAt { index: INITIAL, term: INITIAL },
        flushed: INITIAL,
        lost: None,
        descriptor,
    }
}
