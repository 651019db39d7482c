//! `sharklock masters …`.

use std::fmt::Write as _;

use serde::Serialize;
use sharklock_client::{
    CallError, ChangeMastersResponse, Client, ListMastersResponse, MasterStatus, master_goal::Add,
    master_goal::Goal,
};
use tokio::time::Instant;

use super::{
    client,
    orders::{self, Look, until_ended},
    show,
    view::Wide,
};
use crate::{
    args::{MastersChangeArgs, MastersCommand, ReachArgs},
    exit::{FAILED, Failure, OK},
    identity,
    render::{printable, table},
};

/// A master.
#[derive(Debug, Serialize)]
pub struct Master {
    /// Given once, never reused.
    pub member_id: Wide,
    /// What people call its process; empty: that is not known.
    pub node: String,
    /// Where the cluster reaches it.
    pub address: String,
    /// `voter`, or `learner` while it does not vote.
    pub role: &'static str,
    /// It leads.
    pub is_leader: bool,
    /// The leader hears of it.
    pub is_up: bool,
    /// It is to go.
    pub is_leaving: bool,
    /// Entries that the leader has and this one lacks.
    pub lag: Wide,
    /// What is being done with it, and what that waits for; empty: nothing.
    pub step: String,
}

/// `masters ls`.
#[derive(Debug, Serialize)]
#[serde(tag = "schema", rename = "sharklock.v1.MasterList")]
pub struct MasterList {
    /// In order of their ids.
    pub masters: Vec<Master>,
    /// The addresses of those that wait to be added.
    pub waiting: Vec<String>,
}

/// `masters add`, `remove` and `transfer-leader`.
#[derive(Debug, Serialize)]
#[serde(tag = "schema", rename = "sharklock.v1.MastersChange")]
pub struct MastersChange {
    /// It would be done: nothing has begun.
    pub dry_run: bool,
    /// The master that is added, removed or to lead; 0: it has no id yet, or any may lead.
    pub member_id: Wide,
    /// The steps, in order.
    pub steps: Vec<String>,
}

impl From<MasterStatus> for Master {
    fn from(seen: MasterStatus) -> Self {
        Self {
            member_id: Wide(seen.member_id),
            node: seen.node,
            address: seen.address,
            role: if seen.is_voter { "voter" } else { "learner" },
            is_leader: seen.is_leader,
            is_up: seen.is_up,
            is_leaving: seen.is_leaving,
            lag: Wide(seen.lag),
            step: seen.step,
        }
    }
}

impl From<ListMastersResponse> for MasterList {
    fn from(seen: ListMastersResponse) -> Self {
        let masters = seen.masters.into_iter().map(Master::from).collect();
        Self { masters, waiting: seen.waiting }
    }
}

impl MasterList {
    fn leader(&self) -> Option<u64> {
        self.masters.iter().find(|master| master.is_leader).map(|master| master.member_id.0)
    }

    /// The step that is being done with any of them.
    fn step(&self) -> &str {
        self.masters.iter().map(|master| &*master.step).find(|step| !step.is_empty()).unwrap_or("")
    }

    fn table(&self) -> String {
        let row = |master: &Master| {
            let state = match (master.is_leader, master.is_up) {
                (true, _) => "leads",
                (false, true) => "up",
                (false, false) => "down",
            };
            let step = match (master.step.is_empty(), master.is_leaving) {
                (true, true) => "is to go".to_owned(),
                (true, false) => "-".to_owned(),
                (false, _) => master.step.clone(),
            };
            vec![
                master.member_id.0.to_string(),
                master.node.clone(),
                master.address.clone(),
                master.role.to_owned(),
                state.to_owned(),
                master.lag.0.to_string(),
                step,
            ]
        };
        let waits = |address: &String| {
            let step = format!("sharklock masters add {address}");
            ["-", "", address, "-", "waits", "-", &step].map(str::to_owned).to_vec()
        };
        let rows: Vec<_> =
            self.masters.iter().map(row).chain(self.waiting.iter().map(waits)).collect();
        let voters = self.masters.iter().filter(|master| master.role == "voter").count();
        let up = self.masters.iter().filter(|it| it.role == "voter" && it.is_up).count();
        let all = table(&["MASTER", "NODE", "ADDRESS", "ROLE", "STATE", "LAG", "STEP"], &rows);
        let majority = voters / 2 + 1;
        format!("{all}\n{up} of {voters} voters up; {majority} are needed\n")
    }
}

impl MastersChange {
    fn table(&self) -> String {
        let mut text = match self.dry_run {
            true => "nothing was done. It would take:\n".to_owned(),
            false => "it is ordered. It takes:\n".to_owned(),
        };
        for (number, step) in (1..).zip(&self.steps) {
            let _ = writeln!(text, "  {number}. {}", printable(step));
        }
        if !self.dry_run {
            text += "\nsharklock masters ls\n";
        }
        text
    }
}

/// When a change is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    /// This one votes, and nothing else is on its way.
    Votes(u64),
    /// This one is no master.
    Gone(u64),
    /// This one leads; 0: another than this one.
    Leads { to: u64, instead_of: u64 },
}

impl Awaited {
    /// # Errors
    /// It will never be.
    fn is_done(self, seen: &MasterList) -> Result<bool, String> {
        let find = |id: u64| seen.masters.iter().find(|master| master.member_id.0 == id);
        match self {
            Self::Votes(id) => match find(id) {
                Some(master) if master.is_leaving => {
                    Err(format!("somebody has removed master {id} meanwhile"))
                }
                Some(_) => {
                    let is_settled = |it: &Master| it.role == "voter" && !it.is_leaving;
                    Ok(seen.masters.iter().all(is_settled))
                }
                None => Err(format!("somebody has removed master {id} meanwhile")),
            },
            Self::Gone(id) => match find(id) {
                Some(master) if !master.is_leaving => {
                    Err(format!("somebody has kept master {id} meanwhile"))
                }
                other => Ok(other.is_none()),
            },
            Self::Leads { to: 0, instead_of } => {
                Ok(seen.leader().is_some_and(|leader| leader != instead_of))
            }
            Self::Leads { to, .. } => Ok(seen.leader() == Some(to)),
        }
    }
}

/// `sharklock masters …`.
pub async fn masters(reach: &ReachArgs, command: MastersCommand) -> Result<u8, Failure> {
    let client = client(reach)?;
    match command {
        MastersCommand::Ls { output } => {
            let list = MasterList::from(client.masters().await.map_err(failure)?);
            show(output, &list, MasterList::table)?;
            Ok(OK)
        }
        MastersCommand::Add { address, replace, change } => {
            let instead_of_member_id = replace.unwrap_or(0);
            let goal = Goal::Add(Add { address, instead_of_member_id });
            self::change(&client, goal, change, Awaited::Votes).await
        }
        MastersCommand::Remove { id, change } => {
            self::change(&client, Goal::RemoveMemberId(id), change, Awaited::Gone).await
        }
        MastersCommand::TransferLeader { to, change } => {
            let before = MasterList::from(client.masters().await.map_err(failure)?);
            let instead_of = before.leader().unwrap_or(0);
            let leads = |to| Awaited::Leads { to, instead_of };
            self::change(&client, Goal::LeadMemberId(to.unwrap_or(0)), change, leads).await
        }
    }
}

async fn change(
    client: &Client,
    goal: Goal,
    args: MastersChangeArgs,
    awaited: impl FnOnce(u64) -> Awaited,
) -> Result<u8, Failure> {
    let deadline = Instant::now() + args.timeout;
    let operator = identity::default_owner();
    let seen = client.change_masters(goal, args.dry_run, &operator).await.map_err(failure)?;
    let ChangeMastersResponse { member_id, steps } = seen;
    if args.wait {
        let (list, code) = wait(client, awaited(member_id), deadline).await?;
        show(args.output, &list, MasterList::table)?;
        return Ok(code);
    }
    let change = MastersChange { dry_run: args.dry_run, member_id: Wide(member_id), steps };
    show(args.output, &change, MastersChange::table)?;
    Ok(OK)
}

async fn wait(
    client: &Client,
    awaited: Awaited,
    deadline: Instant,
) -> Result<(MasterList, u8), Failure> {
    let look = async || client.masters().await.map(MasterList::from);
    let judge = |list: &MasterList| match awaited.is_done(list) {
        Ok(true) => Ok(Look::Ended(OK)),
        Ok(false) => Ok(Look::GoesOn(list.step().to_owned())),
        Err(why) => Err(Failure::new(FAILED, why)),
    };
    until_ended(look, judge, deadline, "the change goes on").await
}

fn failure(error: CallError) -> Failure {
    orders::failure(error, "look with `sharklock masters ls` before you try again")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn master(member_id: u64) -> MasterStatus {
        MasterStatus {
            member_id,
            node: format!("node-{member_id}"),
            address: format!("host-{member_id}:7720"),
            is_leader: member_id == 1,
            is_up: member_id != 2,
            is_voter: member_id != 4,
            ..MasterStatus::default()
        }
    }

    fn list(ids: &[u64]) -> MasterList {
        let masters = ids.iter().map(|id| master(*id)).collect();
        ListMastersResponse { masters, ..ListMastersResponse::default() }.into()
    }

    #[test]
    fn masters_stand_in_a_table_with_those_that_wait() {
        let mut list = list(&[1, 2, 4]);
        list.masters[1].is_leaving = true;
        list.masters[2].step = "master 4 votes once it has caught up: it lacks 7 entries".into();
        list.masters[2].lag = Wide(7);
        list.waiting = vec!["host-5:7720".to_owned()];
        let expected = "\
MASTER  NODE    ADDRESS      ROLE     STATE  LAG  STEP
1       node-1  host-1:7720  voter    leads  0    -
2       node-2  host-2:7720  voter    down   0    is to go
4       node-4  host-4:7720  learner  up     7    \
                                master 4 votes once it has caught up: it lacks 7 entries
-       -       host-5:7720  -        waits  -    sharklock masters add host-5:7720

1 of 2 voters up; 2 are needed
";
        assert_eq!(list.table(), expected);
    }

    #[test]
    fn a_change_is_done_when_nothing_is_left_to_do() {
        assert_eq!(Awaited::Votes(3).is_done(&list(&[1, 3])), Ok(true));
        assert_eq!(Awaited::Votes(3).is_done(&list(&[1, 3, 4])), Ok(false));
        assert_eq!(Awaited::Votes(4).is_done(&list(&[1, 4])), Ok(false));
        Awaited::Votes(5).is_done(&list(&[1, 3])).expect_err("it was taken back");
        assert_eq!(Awaited::Gone(3).is_done(&list(&[1, 2])), Ok(true));
        Awaited::Gone(2).is_done(&list(&[1, 2])).expect_err("it stays");
        let leads = |to, instead_of| Awaited::Leads { to, instead_of };
        assert_eq!(leads(1, 3).is_done(&list(&[1, 3])), Ok(true));
        assert_eq!(leads(3, 1).is_done(&list(&[1, 3])), Ok(false));
        assert_eq!(leads(0, 1).is_done(&list(&[1, 3])), Ok(false));
        assert_eq!(leads(0, 3).is_done(&list(&[1, 3])), Ok(true));
    }

    #[test]
    fn a_plan_lists_its_steps() {
        let steps = vec!["master 2 votes no more".to_owned()];
        let plan = MastersChange { dry_run: true, member_id: Wide(2), steps: steps.clone() };
        let text = "nothing was done. It would take:\n  1. master 2 votes no more\n";
        assert_eq!(plan.table(), text);
        let begun = MastersChange { dry_run: false, member_id: Wide(2), steps };
        assert!(begun.table().ends_with("\nsharklock masters ls\n"), "{}", begun.table());
    }
}
