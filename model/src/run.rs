//! Running a scenario.

use std::collections::BTreeSet;

use stateright::{Checker, HasDiscoveries, Model, Path};

use crate::{
    model::{Action, SharkLock},
    properties::ALWAYS,
    rules::{Rule, Rules},
    scenario::{Break, Scenario},
    state::State,
};

/// The findings of an exhaustive run of a scenario.
#[derive(Debug)]
pub struct Report {
    /// Different states.
    pub states: usize,
    /// Steps of the longest path that was followed.
    pub depth: usize,
    /// The states that should be reachable and are not.
    pub unreached: Vec<&'static str>,
    /// A property that fell, and how.
    pub violation: Option<(&'static str, Path<State, Action>)>,
}

/// Explores a scenario whole, with the rules that it has less `off`.
pub fn check(scenario: &Scenario, off: &[Rule]) -> Report {
    let checker = model(scenario, off).checker().finish_when(HasDiscoveries::AnyFailures);
    let checker = checker.spawn_dfs().join();
    let mut discoveries = checker.discoveries();
    let violated = ALWAYS.into_iter().find(|name| discoveries.contains_key(name));
    let is_unreached = |name: &&&'static str| !discoveries.contains_key(**name);
    Report {
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        unreached: scenario.reaches.iter().filter(is_unreached).copied().collect(),
        violation: violated.and_then(|name| Some((name, discoveries.remove(name)?))),
    }
}

/// Switches rules off and looks for a shortest story in which the property falls. `None`: there is
/// none, and the rules are not needed for it.
pub fn counter_example(scenario: &Scenario, broken: &Break) -> Option<Path<State, Action>> {
    let finish = HasDiscoveries::AllOf(BTreeSet::from([broken.violates]));
    let checker = model(scenario, &broken.off).checker().finish_when(finish);
    checker.spawn_bfs().join().discovery(broken.violates)
}

/// The model of a scenario with the rules that it has less `off`.
pub fn model(scenario: &Scenario, off: &[Rule]) -> SharkLock {
    let rules = Rules::DESIGN.without(&scenario.without).without(off);
    SharkLock { rules, bounds: scenario.bounds.clone() }
}
