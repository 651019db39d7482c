//! `sharklock ops …`, and the commands of `sharklock ranges` that begin an operator.

use std::{fmt::Write as _, time::Duration};

use serde::Serialize;
use sharklock_client::{
    CallError, ChangeRangeResponse, Client, Operator as SeenOperator, OperatorState, RangeGoal,
    WhichRange, range_goal,
};
use tokio::time::Instant;

use super::{
    client, convert,
    orders::{self, Look, until_ended},
    show,
    view::Wide,
};
use crate::{
    args::{ChangeArgs, OpsCommand, ReachArgs},
    exit::{FAILED, Failure, OK},
    identity,
    render::{printable, short, table},
};

/// An operator.
#[derive(Debug, Default, Serialize)]
pub struct Operator {
    /// Given once; 0 in a dry run.
    pub operator_id: Wide,
    /// Its range.
    pub range_id: Wide,
    /// What is to become of it, for people.
    pub goal: String,
    /// Who has ordered it; empty: the masters themselves.
    pub by: String,
    /// Why, and how it has ended.
    pub reason: String,
    /// `running`, `done`, `cancelled`, `timed out`, `off`.
    pub state: &'static str,
    /// The step that is being done, and what it waits for; empty once it has ended.
    pub step: String,
    /// For how long the leading master has carried it out.
    pub running_ms: u64,
}

/// `ops ls`.
#[derive(Debug, Serialize)]
#[serde(tag = "schema", rename = "sharklock.v1.OperatorList")]
pub struct OperatorList {
    /// In order of their ids.
    pub operators: Vec<Operator>,
}

/// `ops show`, `ops wait`, `ops cancel`.
#[derive(Debug, Serialize)]
#[serde(tag = "schema", rename = "sharklock.v1.Operator")]
pub struct OneOperator {
    /// As it is now.
    pub operator: Operator,
}

/// `ranges move` and its like.
#[derive(Debug, Serialize)]
#[serde(tag = "schema", rename = "sharklock.v1.RangeChange")]
pub struct RangeChange {
    /// It would be done: nothing has begun.
    pub dry_run: bool,
    /// The operator.
    pub operator: Operator,
    /// The steps that lead to the goal, in order.
    pub steps: Vec<String>,
}

impl Operator {
    pub(super) fn of(seen: SeenOperator) -> Self {
        let state = seen.state();
        Self {
            operator_id: Wide(seen.operator_id),
            range_id: Wide(seen.range_id),
            goal: goal_in_words(&seen.goal.unwrap_or_default()),
            by: seen.by,
            reason: seen.reason,
            state: match state {
                OperatorState::Unspecified => "planned",
                OperatorState::Running => "running",
                OperatorState::Done => "done",
                OperatorState::Cancelled => "cancelled",
                OperatorState::TimedOut => "timed out",
                OperatorState::Off => "off",
            },
            step: seen.step,
            running_ms: seen.running_ms,
        }
    }

    fn by(&self) -> &str {
        if self.by.is_empty() { "masters" } else { &self.by }
    }

    fn table(&self) -> String {
        let rows = [
            ("range", self.range_id.0.to_string()),
            ("goal", self.goal.clone()),
            ("state", self.state.to_owned()),
            ("step", if self.step.is_empty() { "-".to_owned() } else { self.step.clone() }),
            ("by", self.by().to_owned()),
            ("reason", self.reason.clone()),
            ("for", short(Duration::from_millis(self.running_ms))),
        ];
        let rows = rows.map(|(what, is)| vec![what.to_owned(), printable(&is)]);
        format!("operator {}\n\n{}", self.operator_id.0, table(&["WHAT", "IS"], &rows))
    }
}

impl OperatorList {
    fn table(&self) -> String {
        let row = |it: &Operator| {
            vec![
                it.operator_id.0.to_string(),
                it.range_id.0.to_string(),
                it.state.to_owned(),
                it.by().to_owned(),
                it.goal.clone(),
                if it.step.is_empty() { "-".to_owned() } else { it.step.clone() },
            ]
        };
        let rows: Vec<_> = self.operators.iter().map(row).collect();
        let running = self.operators.iter().filter(|it| it.state == "running").count();
        let all = table(&["OPERATOR", "RANGE", "STATE", "BY", "GOAL", "STEP"], &rows);
        format!("{all}\n{running} running, {} ended\n", self.operators.len() - running)
    }
}

impl RangeChange {
    fn table(&self) -> String {
        let Operator { operator_id, range_id, goal, .. } = &self.operator;
        let mut text = match self.dry_run {
            true => format!("range {}: {goal}; nothing was done. It would take:\n", range_id.0),
            false => format!("operator {} for range {}: {goal}\n", operator_id.0, range_id.0),
        };
        for (number, step) in (1..).zip(&self.steps) {
            let _ = writeln!(text, "  {number}. {}", printable(step));
        }
        if !self.dry_run {
            let _ = writeln!(text, "\nsharklock ops wait {}", operator_id.0);
        }
        text
    }
}

pub(super) fn goal_in_words(goal: &RangeGoal) -> String {
    match &goal.goal {
        Some(range_goal::Goal::Move(range_goal::Move { from_store_id, to_store_id })) => {
            format!("the replica on store {from_store_id} moves to store {to_store_id}")
        }
        Some(range_goal::Goal::LeadStoreId(store)) => format!("store {store} leads"),
        Some(range_goal::Goal::AddStoreId(store)) => format!("a replica comes to store {store}"),
        Some(range_goal::Goal::RemoveStoreId(store)) => {
            format!("the replica on store {store} goes")
        }
        Some(range_goal::Goal::LeaveJoint(_)) => "a joint configuration is left".to_owned(),
        None => "unknown to this program".to_owned(),
    }
}

/// `sharklock ops …`.
pub async fn ops(reach: &ReachArgs, command: OpsCommand) -> Result<u8, Failure> {
    let client = client(reach)?;
    let one = |seen| OneOperator { operator: Operator::of(seen) };
    match command {
        OpsCommand::Ls { output } => {
            let seen = client.operators().await.map_err(failure)?;
            let list = OperatorList { operators: seen.into_iter().map(Operator::of).collect() };
            show(output, &list, OperatorList::table)?;
        }
        OpsCommand::Show { id, output } => {
            let seen = one(client.operator(id).await.map_err(failure)?);
            show(output, &seen, |seen| seen.operator.table())?;
        }
        OpsCommand::Wait { id, timeout, output } => {
            let (seen, code) = wait(&client, id, Instant::now() + timeout).await?;
            let seen = OneOperator { operator: seen };
            show(output, &seen, |seen| seen.operator.table())?;
            return Ok(code);
        }
        OpsCommand::Cancel { id, output } => {
            let operator = identity::default_owner();
            let seen = client.cancel_operator(id, &operator).await.map_err(failure)?;
            show(output, &one(seen), |seen| seen.operator.table())?;
        }
    }
    Ok(OK)
}

/// Begins an operator, or says which steps it would take.
pub async fn change(
    reach: &ReachArgs,
    args: ChangeArgs,
    goal: range_goal::Goal,
) -> Result<u8, Failure> {
    let deadline = Instant::now() + args.timeout;
    let client = client(reach)?;
    let goal = RangeGoal { goal: Some(goal) };
    let operator = identity::default_owner();
    let range_id = id_of(&client, &args.which.which()?).await?;
    let seen = match args.dry_run {
        true => client.plan_change(range_id, goal, &operator).await,
        false => client.change_range(range_id, goal, &operator).await,
    };
    let ChangeRangeResponse { operator, steps } = seen.map_err(failure)?;
    let operator = Operator::of(operator.unwrap_or_default());
    let mut change = RangeChange { dry_run: args.dry_run, operator, steps };
    let mut code = OK;
    if args.wait {
        (change.operator, code) = wait(&client, change.operator.operator_id.0, deadline).await?;
        let one = OneOperator { operator: change.operator };
        show(args.output, &one, |one| one.operator.table())?;
        return Ok(code);
    }
    show(args.output, &change, RangeChange::table)?;
    Ok(code)
}

async fn id_of(client: &Client, which: &WhichRange) -> Result<u64, Failure> {
    if let WhichRange::Id(id) = which {
        return Ok(*id);
    }
    let seen = client.list_ranges(Some(which)).await.map_err(convert::failure)?;
    let range = seen.first().ok_or_else(|| Failure::new(FAILED, "no such range"))?;
    Ok(range.range_id)
}

async fn wait(client: &Client, id: u64, deadline: Instant) -> Result<(Operator, u8), Failure> {
    let look = async || client.operator(id).await.map(Operator::of);
    let judge = |operator: &Operator| {
        Ok(match operator.state {
            "running" => Look::GoesOn(operator.step.clone()),
            "done" => Look::Ended(OK),
            _ => Look::Ended(FAILED),
        })
    };
    until_ended(look, judge, deadline, &format!("operator {id} goes on")).await
}

fn failure(error: CallError) -> Failure {
    let hint = "look with `sharklock ops ls`; to try again does not begin it twice";
    orders::failure(error, hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(state: OperatorState, step: &str) -> SeenOperator {
        SeenOperator {
            operator_id: 1_042,
            range_id: 7,
            goal: Some(RangeGoal { goal: Some(range_goal::Goal::LeadStoreId(3)) }),
            by: "ops@host".to_owned(),
            reason: "an operator wishes it".to_owned(),
            state: state.into(),
            step: step.to_owned(),
            running_ms: 1_500,
        }
    }

    #[test]
    fn operators_stand_in_a_table_with_their_sums() {
        let operators = [
            seen(OperatorState::Running, "store 3 leads: it is behind"),
            SeenOperator { by: String::new(), ..seen(OperatorState::Done, "") },
        ];
        let list = OperatorList { operators: operators.into_iter().map(Operator::of).collect() };
        let expected = "\
OPERATOR  RANGE  STATE    BY        GOAL           STEP
1042      7      running  ops@host  store 3 leads  store 3 leads: it is behind
1042      7      done     masters   store 3 leads  -

1 running, 1 ended
";
        assert_eq!(list.table(), expected);
    }

    #[test]
    fn a_plan_lists_its_steps_and_a_beginning_how_to_wait() {
        let operator = || Operator::of(seen(OperatorState::Running, ""));
        let steps = vec!["store 3 leads".to_owned()];
        let change = RangeChange { dry_run: true, operator: operator(), steps: steps.clone() };
        let plan = "range 7: store 3 leads; nothing was done. It would take:\n  1. store 3 leads\n";
        assert_eq!(change.table(), plan);
        let change = RangeChange { dry_run: false, operator: operator(), steps };
        assert!(change.table().ends_with("\nsharklock ops wait 1042\n"), "{}", change.table());
    }
}
