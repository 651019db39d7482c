//! The Rust client of SharkLock: acquire a lock, hold it with a guard that is renewed in the
//! background, learn at once when it is lost, and hand its fencing token to what it protects.
//!
//! ```
//! # if std::env::var_os("SHARKLOCK_ENDPOINTS").is_none() { println!("no server: skipped"); return Ok(()) }
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! use std::time::Duration;
//! use sharklock_client::Client;
//!
//! let client = Client::builder().endpoints_from_env()?.identity("billing@host-3").build()?;
//! let guard = client.lock("invoices/42").wait(Duration::from_secs(5)).acquire().await?;
//! let token = guard.token(); // send it with every write: the resource refuses smaller ones
//! let sum = guard.run(async { 40 + 2 }).await?; // dropped, with an error, if the lock is lost
//! # assert_eq!((sum, token > sharklock_client::FencingToken::from_u64(0)), (42, true));
//! guard.release().await?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What a lock service cannot promise is that nothing else touches the resource while this process
//! is paused. `examples/fenced_resource.rs` shows a resource that checks tokens, which can.

mod cluster;
mod condition;
mod error;
mod events;
mod failure;
mod grant;
mod ids;
mod request;
pub mod session;

#[cfg(feature = "edge")]
mod asking;
#[cfg(feature = "edge")]
mod calls;
#[cfg(feature = "edge")]
mod client;
#[cfg(feature = "edge")]
mod clock;
#[cfg(feature = "edge")]
mod clusters;
#[cfg(feature = "edge")]
mod dial;
#[cfg(feature = "edge")]
mod endpoint;
#[cfg(feature = "edge")]
mod guard;
#[cfg(feature = "edge")]
mod guard_cell;
#[cfg(feature = "edge")]
mod guard_events;
#[cfg(feature = "edge")]
mod handle;
#[cfg(feature = "edge")]
mod link;
#[cfg(feature = "edge")]
mod lock;
#[cfg(feature = "edge")]
mod race;
#[cfg(feature = "edge")]
mod reclaim;
#[cfg(feature = "edge")]
mod recording;
#[cfg(feature = "edge")]
mod session_id;
#[cfg(feature = "edge")]
mod session_task;
#[cfg(feature = "edge")]
mod shared;
#[cfg(feature = "edge")]
mod state;
#[cfg(feature = "edge")]
mod state_error;
#[cfg(feature = "edge")]
mod state_file;
#[cfg(feature = "edge")]
mod status;
#[cfg(feature = "edge")]
mod tracing_calls;
#[cfg(feature = "edge")]
mod unsent;

pub use cluster::{BadClusterId, Because, ClusterId, ClusterMismatch, Membership, Standing};
pub use condition::{Agreement, Condition, LeaseRule};
pub use error::{
    AcquireError, CallError, ChangeError, ConfigError, LockLost, LostReason, NO_ANSWER,
    NOT_CONNECTED, ReclaimError, ReleaseError,
};
pub use events::{Closed, GuardEvent, GuardEventKind, GuardName};
pub use failure::{Down, Failure, Verdict};
pub use grant::Grant;
pub use ids::{AcquisitionId, FencingToken, Position, Seq};
pub use request::{AskMark, HeldMode, Holder, LockInfo, LockMode, Request, TTL_DEFAULT, Wait};
pub use session::GuardState;
pub use sharklock_proto::trace;

#[cfg(feature = "edge")]
pub use {
    calls::{
        ForceReleased, HoldersAsked, LockPage, LockSeen, RevokedHold, SessionLock, SessionRevoked,
        SessionSummary, SessionWait, SessionsAsked, TokenChecked, Watch, WhichRange,
    },
    client::{
        CALL_TIMEOUT_DEFAULT, CLUSTER_VARIABLE, Client, ClientBuilder, ENDPOINT_DEFAULT,
        ENDPOINTS_VARIABLE,
    },
    endpoint::parse_list as endpoints_of_list,
    guard::{Guard, LostSignal},
    guard_events::{GuardEvents, MissedEvents},
    lock::LockBuilder,
    reclaim::{Reclaimed, Unreclaimed},
    shared::{Connections, KeepAliveDelays},
    sharklock_proto::v1::{
        ChangeMastersResponse, ChangeRangeResponse, GetScheduleResponse, GetStatusResponse,
        ListMastersResponse, ListRecoveriesResponse, LostRange, MasterStatus, Operator,
        OperatorState, PlannedChange, RangeGoal, RangePart, RangeStatus, RangeTotals,
        RebalanceResponse, RecoverRangeRequest, RecoverRangeResponse, Recovery, RecoveryState,
        ScheduleSetting, SetScheduleResponse, SetStoreDutyResponse, SettingUnit,
        SplitRangeResponse, Spread, StoreDuty, StoreLabel, StoreStatus, Survivor, master_goal,
        range_goal,
    },
};
#[cfg(feature = "edge")]
pub use {error::DowngradeError, state_error::StateFileError};
