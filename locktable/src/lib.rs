//! The state machine of one range of locks: `apply(Command) -> Outcome`, and nothing else.
//!
//! This crate knows no clock, no randomness, no network and no disk. Time comes as commands that a
//! leader's clock proposed; who proposes them and why is the business of `dataserver`.

mod command;
mod ids;
mod outcome;

pub use command::{
    Acquire, At, Cancel, Command, End, EndCause, Ending, Expire, ExpireItem, Mode, Owner, Release,
    Wait, WaitTimeout,
};
pub use ids::{Acquisition, AcquisitionId, Instance, Name, SessionHandle, Token};
pub use outcome::{
    Change, Finished, Grant, HoldView, LockView, Outcome, Refusal, Reply, Status, WaiterView,
};
