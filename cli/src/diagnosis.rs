//! A gateway has answered, but the call could not be served: what the cluster says is the matter.

use std::time::Duration;

use crate::{args::ReachArgs, exit::Failure, identity, runtime};

/// A look at a cluster takes as long if somebody says nothing.
const LOOK_MAX: Duration = Duration::from_millis(2_500);

/// Adds to a failure what `sharklock status` would say: the cause, and the next step. A failure of
/// another kind, or one of which the cluster says nothing, stays as it is.
pub fn completed(failure: Failure, reach: &ReachArgs) -> Failure {
    if !failure.is_unserved() {
        return failure;
    }
    let Ok(runtime) = runtime::start(1) else { return failure };
    let seen = runtime.block_on(async {
        let client = reach.client().identity(&identity::default_owner());
        let client = client.call_timeout(LOOK_MAX).build().ok()?;
        client.status().await.ok()
    });
    match seen {
        Some(seen) if !seen.problem.is_empty() => failure.explained(&seen.problem, &seen.next_step),
        _ => failure,
    }
}
