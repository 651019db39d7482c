//! The `.proto` files of SharkLock, the code generated from them, and what must be said of a message
//! in one place, since several crates depend on it: what a descriptor of a range is (`descriptor`),
//! by which name a call is routed, in which lane (`call`), the types of the ids that name clusters,
//! data directories and lives (`identity`), and what a span of a trace is (`trace`).
//!
//! Every type here is a wire or disk record. The crates convert the others to their own types at
//! their edges. Without the default feature `edge` only the plain messages
//! compile, and neither tonic nor tokio is in the tree.

mod call;
mod descriptor;
mod identity;
pub mod trace;

pub use call::{CALL_AGE_MAX, CallKind, Lane, Unanswered, WATCH_WAITS_MAX};
pub use descriptor::BadDescriptor;
pub use identity::{ClusterId, Identity, Life, NotHex, NotSixteenBytes, Start};

/// The public API: `LockService` and `AdminService`.
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/sharklock.v1.rs"));
}

/// The messages between processes of a cluster, and their records on disk.
pub mod internal {
    /// Version 1 of the internal records.
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/sharklock.internal.v1.rs"));
    }
}

/// The metadata of every answer of a gateway that names its cluster: the id, 32 hex digits.
pub const CLUSTER_ID: &str = "sharklock-cluster-id";

/// The metadata of the same answers that says what people call the cluster: letters, digits, `.`, `_`
/// and `-`. It is missing where they call it nothing.
pub const CLUSTER_NAME: &str = "sharklock-cluster-name";

/// The encoded `FileDescriptorSet` of the public API, for gRPC reflection.
pub const DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/sharklock_descriptor.bin"));
