//! Tests with children of their own: a process tree adopts and waits for whatever child this process has,
//! also another test's.

use std::sync::{Mutex, MutexGuard, PoisonError};

static ALONE: Mutex<()> = Mutex::new(());

/// Nobody else has children while the guard lives.
pub fn alone() -> MutexGuard<'static, ()> {
    // A test that has failed leaves nothing behind that matters to the next.
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
