//! What operators want, as the log shows it.

use sharklock_proto::v1::{
    MasterGoal,
    master_goal::{Add, Goal},
};

/// A list in one value.
pub(super) fn joined(list: &[impl ToString]) -> String {
    list.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// What is wanted of the masters.
pub(super) fn goal_in_words(goal: &MasterGoal) -> String {
    match &goal.goal {
        Some(Goal::Add(Add { address, instead_of_member_id: 0 })) => format!("add {address}"),
        Some(Goal::Add(Add { address, instead_of_member_id })) => {
            format!("add {address} instead of master {instead_of_member_id}")
        }
        Some(Goal::RemoveMemberId(id)) => format!("remove master {id}"),
        Some(Goal::LeadMemberId(0)) => "another master leads".to_owned(),
        Some(Goal::LeadMemberId(id)) => format!("master {id} leads"),
        None => "nothing".to_owned(),
    }
}
