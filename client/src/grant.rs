//! The contents of a grant, for its holder.

use std::time::Duration;

use crate::{
    condition::Agreement,
    ids::{AcquisitionId, FencingToken, Position},
};

/// A grant that may be handed out: an answer named its acquisition, so its time is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The acquisition that was granted.
    pub id: AcquisitionId,
    /// The fencing token.
    pub token: FencingToken,
    /// The number that a resource compares and raises: the token itself for an exclusive hold.
    pub fence_floor: FencingToken,
    /// End of the lease on the client's clock.
    pub valid_until: Duration,
    /// The place in its range's log at which the grant was seen.
    pub position: Position,
    /// What may end the hold.
    pub agreement: Agreement,
}
