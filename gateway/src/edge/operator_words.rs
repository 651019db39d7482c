//! What operators want, as the log shows it.

use sharklock_proto::v1::{
    MasterGoal, RangeGoal,
    master_goal::{Add, Goal},
    range_goal,
};

/// A list in one value.
pub(super) fn joined(list: &[impl ToString]) -> String {
    list.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// What is wanted of a range.
pub(super) fn range_goal_in_words(range_id: u64, goal: Option<&RangeGoal>) -> String {
    let goal = match goal.and_then(|goal| goal.goal.as_ref()) {
        Some(range_goal::Goal::Move(range_goal::Move { from_store_id, to_store_id })) => {
            format!("from store {from_store_id} to store {to_store_id}")
        }
        Some(range_goal::Goal::LeadStoreId(store)) => format!("store {store} leads"),
        Some(range_goal::Goal::AddStoreId(store)) => format!("a replica comes to store {store}"),
        Some(range_goal::Goal::RemoveStoreId(store)) => {
            format!("the replica on store {store} goes")
        }
        Some(range_goal::Goal::LeaveJoint(_)) => "a joint configuration is left".to_owned(),
        None => "nothing".to_owned(),
    };
    format!("range {range_id}: {goal}")
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
