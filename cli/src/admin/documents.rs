//! What a cluster says of itself, as the documents of several commands at once: for `debug collect`.

use serde::Serialize;
use sharklock_client::{CallError, Client, GetStatusResponse};

use super::{
    client, convert,
    masters::MasterList,
    ops::{Operator, OperatorList},
    ranges::RangeList,
    recover::{Recovery, RecoveryList},
    schedule::Schedule,
};
use crate::{args::ReachArgs, render::json};

/// What a command would print with `--output json`; or why it would fail.
pub struct Document {
    /// Its file.
    pub name: &'static str,
    /// The text.
    pub text: Result<String, String>,
}

/// All of them; and the status as it came.
pub async fn documents(reach: &ReachArgs) -> (Vec<Document>, Option<GetStatusResponse>) {
    let client = match client(reach) {
        Ok(client) => client,
        Err(failure) => {
            return (vec![Document { name: "status.json", text: Err(failure.told()) }], None);
        }
    };
    // Whoever does not answer one of them does not answer the others either.
    let (status, ranges, masters, operators, schedule, recoveries) = tokio::join!(
        client.status(),
        ranges(&client),
        client.masters(),
        client.operators(),
        client.schedule(),
        client.recoveries(),
    );
    let operators = operators.map(|seen| seen.into_iter().map(Operator::of).collect());
    let recoveries = recoveries.map(|seen| seen.recoveries.into_iter().map(Recovery::of).collect());
    let documents = vec![
        document("status.json", status.clone().map(convert::status)),
        document("ranges.json", ranges),
        document("masters.json", masters.map(MasterList::from)),
        document("operators.json", operators.map(|operators| OperatorList { operators })),
        document("schedule.json", schedule.map(Schedule::of)),
        document("recoveries.json", recoveries.map(|recoveries| RecoveryList { recoveries })),
    ];
    (documents, status.ok())
}

async fn ranges(client: &Client) -> Result<RangeList, CallError> {
    let seen = client.list_ranges(None).await?;
    Ok(RangeList { ranges: seen.into_iter().map(convert::range).collect() })
}

fn document(name: &'static str, seen: Result<impl Serialize, CallError>) -> Document {
    let text = match seen {
        Ok(seen) => Ok(json(&seen)),
        Err(error) => Err(error.to_string()),
    };
    Document { name, text }
}
