//! The scenarios, by what they are about.

pub mod acquisitions;
pub mod combined;
pub mod conditions;
pub mod leases;

use crate::state::NameIndex;

/// The name that stays with the parent.
const A: NameIndex = 0;
/// The name that a split moves to the child.
const Z: NameIndex = 1;
