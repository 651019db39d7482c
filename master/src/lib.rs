//! The cluster's metadata: which masters and stores there are, which ids have been given, which
//! range lives where. One Raft group of 1, 3 or 5 members; never on the way of a lock.
//!
//! The cores know neither clock nor thread nor socket; the feature `edge` adds those.
//! [`Formation`] makes a cluster of masters that see each other; [`ClusterState`] is what they
//! replicate; [`Presence`] is what the leading one knows beside it; [`MasterCore`] answers.

mod core;
#[cfg(feature = "edge")]
mod edge;
mod formation;
mod membership;
mod operator;
mod presence;
mod refusal;
mod request;
pub mod schedule;
mod state;
mod state_rows;

pub use core::{
    GROUP, Input, LABEL_BYTES_MAX, LABELS_MAX, MasterCore, NODE_BYTES_MAX, Outputs, Settings,
};
#[cfg(feature = "edge")]
pub use edge::{Master, MasterConfig, StartError, Tuning, belongs_to_a_cluster};
pub use formation::{Formation, FormationError, Formed};
pub use operator::{Goal, Next, Step};
pub use presence::{Presence, SilenceLimits};
pub use refusal::{Reason, Refusal};
pub use request::{Ask, Reply, Request};
pub use state::{
    Answer, ClusterState, FIRST_ID, Leaving, Member, MemberRecord, Members, Operator, StoreRecord,
    encode_batch,
};
