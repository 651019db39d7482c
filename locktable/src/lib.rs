//! The state machine of one range of locks: `apply(Command) -> Outcome`, and nothing else.
//!
//! This crate knows no clock, no randomness, no network and no disk. Time comes as commands that a
//! leader's clock proposed; who proposes them and why is the business of `dataserver`.
//!
//! A way in: [`Command`] and [`Outcome`] are what goes in and comes out, `table` is the state,
//! `lock` the rules of one lock, and `acquire`, `release`, `expire`, `ending`, `agree`, `attributes`,
//! `reclaim` a file
//! for each kind of verb.

mod ids;

mod command;
mod condition;
mod outcome;

mod table;

mod lock;

mod holds;
mod open_ids;
mod queue;

mod acquire;
mod agree;
mod attributes;
mod ending;
mod expire;
mod quarantine;
mod reclaim;
mod release;

mod balance;
mod leases;
mod session_views;
mod views;

mod ledger;

mod ended;
mod ring;
mod sessions;
mod usage;

mod rows;

mod ascending;
mod dirty;
mod first_image;
mod hash;
mod image;
mod restore;
mod split;

mod invariants;

pub use ascending::Ascending;
pub use balance::{Balance, Weight};
pub use command::{
    Acquire, Ask, At, Cancel, Claim, Command, Downgrade, End, EndCause, EndQuarantine, Ending,
    Expire, ExpireItem, Mode, Owner, RaiseFeatureLevel, Reclaim, Recover, Release, Revoke,
    SetAttributes, SetCondition, TimeUp, Timed, Wait, WaitTimeout,
};
pub use condition::{Condition, ConditionFlaw, LeaseRule, MISSED_MIN};
pub use ended::{EndedLife, EndedRow};
pub use ids::{Acquisition, AcquisitionId, Instance, Name, SessionHandle, Token};
pub use leases::{Lease, LeaseCursor};
pub use open_ids::OpenIds;
pub use outcome::{
    Agreement, AskView, Change, DelayView, EndingView, Finished, Grant, HoldView, LockView,
    Outcome, Refusal, Reply, Status, WaiterView,
};
pub use restore::{RestoreError, Restoring};
pub use rows::{
    AskMark, AskedBy, DelayRow, EndingCause, EndingMark, Extras, FEATURE_LEVEL, FinishedRow,
    Header, HoldRow, LockRow, Quarantine, RING_ROW_LEN, Reclaimer, Row, RowKey, WaiterRow,
};
pub use session_views::{SessionLockView, SessionView, SessionWaitView, SessionsAsked};
pub use table::{Counts, LockTable, TableLimits};
pub use usage::host_of;
