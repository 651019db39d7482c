//! Operators, as the masters have them in their log: those that run, and the last that have ended.
//! They are carried out by whichever master leads, and outlive it.

use std::{collections::BTreeMap, ops::Bound};

use sharklock_proto::{
    internal::v1::{BeginOperatorCommand, EndOperatorCommand, OperatorRow},
    v1::{OperatorState, RangeGoal, range_goal},
};
use sharklock_rangemap::{PeerId, RangeId, StoreId};

use crate::{operator::Goal, schedule::Class};

const RUNNING: OperatorState = OperatorState::Running;

/// Ended operators that are remembered, for people.
const ENDED_MAX: usize = 256;

/// A change of one range that the masters carry out, or have carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// Given once.
    pub id: u64,
    /// Its range.
    pub range: RangeId,
    /// What is to become of it.
    pub goal: Goal,
    /// Who has ordered it; empty: the masters themselves.
    pub by: String,
    /// Why, for people.
    pub reason: String,
    /// What the masters want it for; `None`: somebody has ordered it.
    pub class: Option<Class>,
    /// How it stands.
    pub state: OperatorState,
    /// Why it has ended so, for people.
    pub because: String,
}

/// All operators that are known.
///
/// Invariants:
/// - `running` has exactly those of `all` that run, by their ranges: a range has one at most;
/// - at most `ENDED_MAX` have ended: the last of them, and those with the largest ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operators {
    all: BTreeMap<u64, Operator>,
    running: BTreeMap<RangeId, u64>,
}

impl Operators {
    /// Those that run, by their ranges.
    pub fn running(&self) -> impl Iterator<Item = &Operator> {
        self.running.values().map(|id| &self.all[id])
    }

    /// The one of a range that runs.
    pub fn of(&self, range: RangeId) -> Option<&Operator> {
        self.running.get(&range).map(|id| &self.all[id])
    }

    /// By its id, if it is remembered.
    pub fn get(&self, id: u64) -> Option<&Operator> {
        self.all.get(&id)
    }

    /// All that are remembered, in order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = &Operator> {
        self.all.values()
    }

    /// Those that began after this one.
    pub fn after(&self, id: u64) -> impl Iterator<Item = &Operator> {
        self.all.range((Bound::Excluded(id), Bound::Unbounded)).map(|(_, operator)| operator)
    }

    pub(crate) fn insert(&mut self, operator: Operator) -> Result<(), String> {
        let (id, range) = (operator.id, operator.range);
        if operator.state == RUNNING
            && let Some(other) = self.running.insert(range, id)
        {
            return Err(format!("operators {other} and {id} both run for range {range}"));
        }
        self.all.insert(id, operator);
        Ok(())
    }

    /// Ends one, if it runs. Those that have changed or are forgotten, as they were before.
    pub(super) fn end(&mut self, command: EndOperatorCommand) -> Vec<Operator> {
        let state = command.state();
        let EndOperatorCommand { operator_id, because, .. } = command;
        let running = self.all.get_mut(&operator_id).filter(|it| it.state == RUNNING);
        let Some(operator) = running.filter(|_| state != RUNNING) else { return Vec::new() };
        let mut before = vec![operator.clone()];
        (operator.state, operator.because) = (state, because);
        self.running.remove(&operator.range);
        while self.all.len() - self.running.len() > ENDED_MAX {
            // Not this one, though it may be older than all others: somebody waits to see how it ended.
            let mut ended =
                self.all.values().filter(|it| it.state != RUNNING && it.id != operator_id);
            let oldest = ended.next().map(|operator| operator.id).expect("more than one has ended");
            before.extend(self.all.remove(&oldest));
        }
        before
    }
}

impl Operator {
    /// The operator that a command begins, with these ids.
    ///
    /// # Panics
    /// The command has no goal: a leading master checks what it proposes.
    pub(super) fn begun(command: BeginOperatorCommand, id: u64, peer: PeerId) -> Self {
        let BeginOperatorCommand { range_id, goal, by, reason, class } = command;
        let goal = goal_from_wire(&goal.unwrap_or_default(), peer);
        Self {
            id,
            range: RangeId(range_id),
            goal: goal.unwrap_or_else(|why| panic!("the log of the masters: {why}")),
            by,
            reason,
            class: Class::named(&class),
            state: RUNNING,
            because: String::new(),
        }
    }

    pub(crate) fn to_row(&self) -> OperatorRow {
        OperatorRow {
            operator_id: self.id,
            range_id: self.range.0,
            goal: Some(goal_to_wire(self.goal)),
            peer_id: self.goal.peer().map_or(0, |peer| peer.0),
            by: self.by.clone(),
            reason: self.reason.clone(),
            state: self.state.into(),
            because: self.because.clone(),
            class: self.class.map_or("", Class::name).to_owned(),
        }
    }

    pub(crate) fn from_row(row: OperatorRow) -> Result<Self, String> {
        let state = row.state();
        let goal = goal_from_wire(&row.goal.unwrap_or_default(), PeerId(row.peer_id))?;
        let (id, range) = (row.operator_id, RangeId(row.range_id));
        let OperatorRow { by, reason, because, class, .. } = row;
        let class = Class::named(&class);
        Ok(Self { id, range, goal, by, reason, class, state, because })
    }
}

/// As it is told to operators and stands in rows.
pub fn goal_to_wire(goal: Goal) -> RangeGoal {
    let goal = match goal {
        Goal::Add { to, .. } => range_goal::Goal::AddStoreId(to.0),
        Goal::Remove { from } => range_goal::Goal::RemoveStoreId(from.0),
        Goal::Replace { from, to, .. } => {
            let (from_store_id, to_store_id) = (from.0, to.0);
            range_goal::Goal::Move(range_goal::Move { from_store_id, to_store_id })
        }
        Goal::Lead { to } => range_goal::Goal::LeadStoreId(to.0),
        Goal::LeaveJoint => range_goal::Goal::LeaveJoint(range_goal::LeaveJoint {}),
    };
    RangeGoal { goal: Some(goal) }
}

/// The other way. `peer`: of the replica that comes, if any does.
///
/// # Errors
/// No goal is set, or it names no store.
pub fn goal_from_wire(wire: &RangeGoal, peer: PeerId) -> Result<Goal, String> {
    let store = |field: &str, id: u64| match id {
        0 => Err(format!("goal.{field}: 0 is no store")),
        id => Ok(StoreId(id)),
    };
    let goal = wire.goal.as_ref().ok_or("goal: none is set")?;
    Ok(match goal {
        range_goal::Goal::Move(range_goal::Move { from_store_id, to_store_id }) => Goal::Replace {
            from: store("move.from_store_id", *from_store_id)?,
            peer,
            to: store("move.to_store_id", *to_store_id)?,
        },
        range_goal::Goal::LeadStoreId(id) => Goal::Lead { to: store("lead_store_id", *id)? },
        range_goal::Goal::AddStoreId(id) => Goal::Add { peer, to: store("add_store_id", *id)? },
        range_goal::Goal::RemoveStoreId(id) => {
            Goal::Remove { from: store("remove_store_id", *id)? }
        }
        range_goal::Goal::LeaveJoint(_) => Goal::LeaveJoint,
    })
}
