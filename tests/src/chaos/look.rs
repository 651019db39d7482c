//! Looks at a cluster, with all of its ranges.

use std::time::Duration;

use anyhow::{Context as _, Result};
use sharklock_client::{Client, GetStatusResponse};
use tokio::time::timeout;

/// A gateway that does not answer is asked again.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// The status of a cluster and all of its ranges: a status by itself tells of more than ten ranges only
/// which of them wait for something.
///
/// # Errors
/// When no gateway answers in time, or no store does.
pub async fn look_at(client: &Client) -> Result<GetStatusResponse> {
    let asking = async {
        let mut status = client.status().await?;
        status.ranges = client.list_ranges(None).await?;
        Ok(status)
    };
    let answer = timeout(ANSWER_MAX, asking).await;
    answer.with_context(|| format!("no answer within {ANSWER_MAX:?}"))?
}
