//! The scenarios, by what they are about.

pub mod acquisitions;
pub mod agreements;
pub mod combined;
pub mod conditions;
pub mod leases;
pub mod lives;

use crate::state::NameIndex;

/// The name that stays with the parent.
const A: NameIndex = 0;
/// The name that a split moves to the child.
const Z: NameIndex = 1;
