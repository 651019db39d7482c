//! Names to ranges to replicas. Pure: knows no network, no clock, and not who places replicas.

mod descriptor;

pub use descriptor::{Bounds, Descriptor, Epoch, PeerId, RangeId, Replica, Role, StoreId};
