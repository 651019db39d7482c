//! Crashes at every step of the Ready loop and at every disk operation, for every N until nothing
//! changes any more.
//!
//! The engine has no step that a crash could tell from another but by what has left it: a turn
//! is a function of memory, and a process that dies within one has done nothing. What it hands
//! out leaves piece by piece, so a crash is tried behind every piece: each message that leaves
//! before the disk has anything (taken from a `Ready`), the batch when it is cut (entries, hard
//! state, image, truncation staged), when it is written, when it is synced, when the engine has
//! heard of that (`persisted`: an image counts as durable), then each message that waited for it
//! (released) and each entry that is reported as applied. `world` runs stores in these pieces,
//! `oracle` judges what they promised, `sweep` loops.
#![expect(clippy::unwrap_used, reason = "tests")]

mod oracle;
mod script;
mod sweep;
#[path = "../engine/tally.rs"]
mod tally;
mod world;
