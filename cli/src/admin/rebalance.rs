//! `sharklock ranges rebalance`.

use std::fmt::Write as _;

use serde::Serialize;
use sharklock_client::{CallError, Client, RebalanceResponse, Spread as SeenSpread};
use tokio::time::Instant;

use super::{
    client,
    orders::{self, Look, until_ended},
    schedule::{Planned, percentage},
    show,
    view::Wide,
};
use crate::{
    args::{ReachArgs, RebalanceArgs},
    exit::{Failure, OK},
    identity,
    render::table,
};

/// `ranges rebalance`.
#[derive(Debug, Serialize)]
#[serde(tag = "schema", rename = "sharklock.v1.Rebalance")]
pub struct Rebalance {
    /// It would be done: nothing has begun.
    pub dry_run: bool,
    /// What is to be begun next, the first 100.
    pub plans: Vec<Planned>,
    /// How many they are, with up to 16 of each kind for a store.
    pub plans_count: Wide,
    /// Operators that balance and have not ended.
    pub under_way_count: Wide,
    /// What stores have, with what is under way counted as done.
    pub spreads: Vec<Spread>,
    /// Stores may differ from the mean by so much: `3%`.
    pub tolerance: String,
}

/// How much the stores that serve have of something.
#[derive(Debug, Serialize)]
pub struct Spread {
    /// Of what.
    pub what: String,
    /// The store with the least.
    pub least: Wide,
    /// On the average.
    pub mean: Wide,
    /// The store with the most.
    pub most: Wide,
}

impl Rebalance {
    fn of(seen: RebalanceResponse, dry_run: bool) -> Self {
        let spread = |it: SeenSpread| Spread {
            what: it.what,
            least: Wide(it.least),
            mean: Wide(it.mean),
            most: Wide(it.most),
        };
        Self {
            dry_run,
            plans: seen.plans.into_iter().map(Planned::of).collect(),
            plans_count: Wide(seen.plans_count),
            under_way_count: Wide(seen.under_way_count),
            spreads: seen.spreads.into_iter().map(spread).collect(),
            tolerance: percentage(seen.tolerance_per_mille.into()),
        }
    }

    fn table(&self) -> String {
        let mut text = String::new();
        if !self.plans.is_empty() {
            let row = |plan: &Planned| vec![plan.range_id.0.to_string(), plan.reason.clone()];
            let rows: Vec<_> = self.plans.iter().map(row).collect();
            text += &(table(&["RANGE", "WHY"], &rows) + "\n");
        }
        let row = |it: &Spread| {
            let numbers = [it.least.0, it.mean.0, it.most.0].map(|it| it.to_string());
            [vec![it.what.clone()], numbers.to_vec()].concat()
        };
        let rows: Vec<_> = self.spreads.iter().map(row).collect();
        text += &(table(&["STORES HAVE", "LEAST", "MEAN", "MOST"], &rows) + "\n");
        let Self { plans_count, under_way_count, tolerance, .. } = self;
        let _ = match (plans_count.0, under_way_count.0) {
            (0, 0) => writeln!(
                text,
                "nothing to do: stores are within {tolerance} of the mean, or within one, or no \
                 single move would help"
            ),
            (count, under_way) if self.dry_run => {
                writeln!(text, "{count} to be moved, {under_way} under way; nothing was begun")
            }
            (count, under_way) => writeln!(
                text,
                "{count} to be moved as stores have room, {under_way} under way: `sharklock ops ls`"
            ),
        };
        text
    }
}

/// Orders it, or says what it would come to.
pub async fn rebalance(reach: &ReachArgs, args: RebalanceArgs) -> Result<u8, Failure> {
    let deadline = Instant::now() + args.timeout;
    let client = client(reach)?;
    let operator = identity::default_owner();
    let seen = client.rebalance(args.dry_run, &operator).await.map_err(failure)?;
    let (seen, code) = match args.wait {
        true => until_even(&client, &operator, deadline).await?,
        false => (seen, OK),
    };
    show(args.output, &Rebalance::of(seen, args.dry_run), Rebalance::table)?;
    Ok(code)
}

/// Asks again until nothing is left. That gives the order anew where its master was lost.
async fn until_even(
    client: &Client,
    operator: &str,
    deadline: Instant,
) -> Result<(RebalanceResponse, u8), Failure> {
    let look = async || match client.rebalance(false, operator).await {
        Err(CallError::Failed { reason, message }) if reason == "SCHEDULE_WAITS" => {
            Ok((RebalanceResponse::default(), Some(message)))
        }
        seen => seen.map(|seen| (seen, None)),
    };
    let judge = |(seen, waits): &(RebalanceResponse, Option<String>)| {
        Ok(match (seen.plans_count, seen.under_way_count, waits) {
            (_, _, Some(why)) => Look::GoesOn(why.clone()),
            (0, 0, None) => Look::Ended(OK),
            (count, under_way, None) => {
                Look::GoesOn(format!("{count} to be moved, {under_way} under way"))
            }
        })
    };
    let ((seen, _), code) = until_ended(look, judge, deadline, "the masters go on").await?;
    Ok((seen, code))
}

fn failure(error: CallError) -> Failure {
    orders::failure(error, "try again: while it goes on it is the same order")
}

#[cfg(test)]
mod tests {
    use sharklock_client::PlannedChange;

    use super::*;

    fn seen(reasons: &[&str], under_way_count: u64) -> RebalanceResponse {
        let plan = |reason: &&str| PlannedChange {
            range_id: 7,
            reason: (*reason).to_owned(),
            ..PlannedChange::default()
        };
        let leaders = SeenSpread { what: "leaders".to_owned(), least: 0, mean: 2, most: 6 };
        RebalanceResponse {
            plans: reasons.iter().map(plan).collect(),
            plans_count: reasons.len() as u64,
            under_way_count,
            spreads: vec![leaders],
            tolerance_per_mille: 25,
        }
    }

    #[test]
    fn a_plan_says_why_and_how_stores_stand() {
        let expected = "\
RANGE  WHY
7      store 1 has 6 leaders

STORES HAVE  LEAST  MEAN  MOST
leaders      0      2     6

1 to be moved, 0 under way; nothing was begun
";
        assert_eq!(Rebalance::of(seen(&["store 1 has 6 leaders"], 0), true).table(), expected);
        let ordered = Rebalance::of(seen(&["store 1 has 6 leaders"], 2), false).table();
        assert!(
            ordered
                .ends_with("1 to be moved as stores have room, 2 under way: `sharklock ops ls`\n")
        );
    }

    #[test]
    fn where_nothing_is_to_be_done_it_says_so() {
        let text = Rebalance::of(seen(&[], 0), false).table();
        assert!(text.contains("nothing to do: stores are within 2.5% of the mean"), "{text}");
    }
}
