//! Asking the other masters for their views until the cluster is formed. The rules are
//! [`Formation`](crate::Formation)'s.

use std::time::Duration;

use sharklock_proto::internal::v1::MeetRequest;
use sharklock_transport::Masters;
use tokio::time::{Instant, timeout};

use super::service::Service;
use crate::formation::{FormationError, Formed};

/// Between two rounds, if nobody says anything.
const ROUND_EVERY: Duration = Duration::from_millis(100);
/// Somebody who starts a cluster starts all its machines within such a time. Until then it is no news
/// that some are missing.
const FORMS_WITHIN: Duration = Duration::from_secs(30);
/// How often it is said who is missing.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// Waits until all masters have seen each other, however long that takes.
///
/// # Errors
/// This master cannot belong to the others' cluster.
pub async fn meet_all(service: &Service, masters: &Masters) -> Result<Formed, FormationError> {
    let begun = Instant::now();
    let mut say_at = begun + SAY_EVERY;
    loop {
        if let Some(formed) = service.with_formation(|formation| formation.formed().cloned()) {
            return Ok(formed);
        }
        let mut why_not = Vec::new();
        let others: Vec<String> =
            service.with_formation(|formation| formation.others().cloned().collect());
        for other in others {
            let view = service.with_formation(|formation| formation.view());
            let answer = masters.meet(&other, MeetRequest { view: Some(view) }).await;
            let heard = match answer {
                Ok(answer) => {
                    let view = answer.view.unwrap_or_default();
                    service.with_formation(|formation| formation.hear(&view))
                }
                Err(status) => {
                    why_not.push(format!("{other}: {}", status.message()));
                    continue;
                }
            };
            match heard {
                Ok(()) => {}
                // The other one may be set right while this one waits.
                Err(why @ (FormationError::Lists { .. } | FormationError::Malformed(_))) => {
                    why_not.push(why.to_string());
                }
                Err(why) => return Err(why),
            }
        }
        if Instant::now() >= say_at {
            say_at = Instant::now() + SAY_EVERY;
            let missing = service.with_formation(|formation| {
                formation.missing().into_iter().cloned().collect::<Vec<_>>().join(",")
            });
            let why = why_not.join("; ");
            if begun.elapsed() < FORMS_WITHIN {
                tracing::info!(missing, why, "waiting until all masters have seen each other");
            } else {
                tracing::warn!(missing, why, "the masters have still not seen each other");
            }
        }
        // Sooner, if another one has said something.
        drop(timeout(ROUND_EVERY, service.heard()).await);
    }
}
