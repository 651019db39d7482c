//! What must hold, whatever happens (invariants.md). Each checker watches from outside, in true
//! time.

mod beliefs;
mod finished;
mod liveness;
mod replicas;

pub use beliefs::{Belief, Beliefs};
pub use finished::Finished;
pub use liveness::{Liveness, Seen};
pub use replicas::Replicas;

/// A broken promise.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which: a number of invariants.md, or "panic".
    pub rule: &'static str,
    /// When it was found, true time.
    pub at_ns: u64,
    /// What was found.
    pub what: String,
    /// The last lines of the trace about it.
    pub lines: Vec<String>,
}

/// All checkers.
#[derive(Debug, Default)]
pub struct Checks {
    /// Equal states, one leader per term, nothing applied that is not committed.
    pub replicas: Replicas,
    /// What clients believe to hold.
    pub beliefs: Beliefs,
    /// What is over.
    pub finished: Finished,
    /// What must happen in time.
    pub liveness: Liveness,
}
