//! Orders to the masters: why one failed, and waiting until one is carried out.

use std::time::Duration;

use sharklock_client::CallError;
use tokio::time::{Instant, sleep};

use super::convert;
use crate::{
    exit::{DEGRADED, Failure, UNREACHABLE},
    render::printable,
};

/// Between two looks at what is being carried out.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What a look at it has shown.
#[derive(Debug)]
pub enum Look {
    /// It has ended, and this is the exit code.
    Ended(u8),
    /// It goes on, and this is being done.
    GoesOn(String),
}

/// Looks until something has ended, and tells of its steps on stderr as they come. Whoever does not
/// answer, as while another master begins to lead, is asked again. Behind the deadline the exit code says
/// so, and `goes_on` is told.
///
/// # Errors
/// It will never end as it was to, or a look is refused.
pub async fn until_ended<T>(
    mut look: impl AsyncFnMut() -> Result<T, CallError>,
    judge: impl Fn(&T) -> Result<Look, Failure>,
    deadline: Instant,
    goes_on: &str,
) -> Result<(T, u8), Failure> {
    let mut told = String::new();
    loop {
        let is_late = Instant::now() >= deadline;
        match look().await {
            Ok(seen) => {
                let step = match judge(&seen)? {
                    Look::Ended(code) => return Ok((seen, code)),
                    Look::GoesOn(step) => step,
                };
                if step != told {
                    eprintln!("sharklock: {}", printable(&step));
                    told = step;
                }
                if is_late {
                    eprintln!("sharklock: not done in time; {goes_on}");
                    return Ok((seen, DEGRADED));
                }
            }
            Err(CallError::Unavailable { .. } | CallError::Indeterminate { .. }) if !is_late => {}
            Err(why) => return Err(failure(why, "look with `sharklock status`, then try again")),
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Why an order was not carried out. `hint`: the way on where no answer has come.
pub fn failure(error: CallError, hint: &str) -> Failure {
    match error {
        CallError::Indeterminate { message } => {
            Failure::new(UNREACHABLE, "no answer came: it may or may not have begun")
                .reason("INDETERMINATE")
                .cause(message)
                .hint(hint)
        }
        other => convert::failure(other),
    }
}
