//! Names to ranges to replicas. Pure: knows no network, no clock, and not who places replicas.

mod by_range;
mod descriptor;
mod map;
mod route_cache;

pub use by_range::ByRange;
pub use descriptor::{
    Bounds, Descriptor, DescriptorError, Epoch, PeerId, RangeId, Replica, Role, StoreId,
};
pub use map::{InsertError, RangeMap, TilingError, check_tiling};
pub use route_cache::{Destination, HOPS_MAX, Hops, Route, RouteCache, TooManyHops};
