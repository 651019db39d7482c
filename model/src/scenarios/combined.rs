//! Larger worlds, in which the rules meet. Each world that every test explores is small enough for
//! a minute; `large` is for `make long`.

use super::{A, Z};
use crate::{
    bounds::{Bounds, ClientPlan, Plan, Wish},
    properties::*,
    scenario::Scenario,
    state::Condition,
};

pub fn all() -> Vec<Scenario> {
    let two_names = vec![ClientPlan::new('S', 1, 1, &[Plan::held(A), Plan::held(Z)])];
    let moved = vec![
        ClientPlan::new('S', 1, 1, &[Plan::held(Z)]),
        ClientPlan::new('T', 1, 1, &[Plan::wait(Z)]),
    ];
    let nested = vec![
        ClientPlan::new('S', 1, 1, &[Plan::held(A), Plan::reenter(A, 0)]),
        ClientPlan::new('T', 1, 1, &[Plan::wait(A)]),
    ];
    let reclaimed = vec![
        ClientPlan::new('S', 1, 1, &[Plan::held(A).under(Condition::Hold)])
            .wishing(&[Wish::Claim, Wish::condition(Condition::OnExpiry)]),
        ClientPlan::new('S', 2, 1, &[Plan::reclaim(A, 0, 0)]),
    ];
    vec![
        Scenario::new(
            "two-names",
            0,
            "two names of one session, a leader change and a split",
            Bounds { failovers: 1, splits: 1, ..Bounds::calm(two_names) },
        )
        .of_states(85_000)
        .reaching(&[FAILED_OVER, SPLIT_APPLIED, HOLD_ENDED]),
        Scenario::new(
            "moved-queue",
            0,
            "a holder and a waiter of a name that moves, a leader change and a split",
            Bounds { failovers: 1, splits: 1, ..Bounds::calm(moved) },
        )
        .of_states(540_000)
        .reaching(&[FAILED_OVER, SPLIT_APPLIED, NEW_HOLDER, HOLD_ENDED]),
        Scenario::new(
            "nested-and-taken",
            0,
            "a re-entry, a waiter, an operator and a leader change",
            Bounds { failovers: 1, force_releases: 1, ..Bounds::calm(nested) },
        )
        .of_states(520_000)
        .reaching(&[FAILED_OVER, JOINED, ENDING, NEW_HOLDER, HOLD_ENDED]),
        Scenario::new(
            "two-instances",
            0,
            "a claim, a reclaim by a newer instance and a leader change",
            Bounds { failovers: 1, ..Bounds::calm(reclaimed) },
        )
        .of_states(120_000)
        .reaching(&[FAILED_OVER, ORPHANED, NEW_HOLDER, HOLD_ENDED]),
    ]
}

/// Worlds that take minutes: a waiter beside the reclaim, more attempts, and the largest world,
/// with two names, two sessions, two instances, a duplicate, a leader change and a split at once.
pub fn large() -> Vec<Scenario> {
    let two_names = vec![ClientPlan::new('S', 1, 2, &[Plan::held(A), Plan::held(Z)])];
    let reclaimed = vec![
        ClientPlan::new('S', 1, 1, &[Plan::held(A).under(Condition::Hold)])
            .wishing(&[Wish::Claim, Wish::condition(Condition::OnExpiry)]),
        ClientPlan::new('S', 2, 1, &[Plan::reclaim(A, 0, 0)]),
        ClientPlan::new('T', 1, 1, &[Plan::wait(A)]),
    ];
    let issue = vec![
        ClientPlan::new('S', 1, 1, &[Plan::held(A), Plan::held(Z)]),
        ClientPlan::new('S', 2, 1, &[Plan::reclaim(Z, 0, 1)]),
        ClientPlan::new('T', 1, 1, &[Plan::wait(Z)]),
    ];
    vec![
        Scenario::new(
            "two-names-twice",
            0,
            "two names of one session that renews twice, a leader change and a split",
            Bounds { failovers: 1, splits: 1, ..Bounds::calm(two_names) },
        )
        .of_states(1_900_000)
        .reaching(&[FAILED_OVER, SPLIT_APPLIED, HOLD_ENDED]),
        Scenario::new(
            "reclaim-and-queue",
            0,
            "a claim, a reclaim by a newer instance, a waiter and a leader change",
            Bounds { failovers: 1, ..Bounds::calm(reclaimed) },
        )
        .of_states(2_100_000)
        .reaching(&[FAILED_OVER, ORPHANED, NEW_HOLDER, HOLD_ENDED]),
        Scenario::new(
            "the-issue",
            0,
            "two names, two sessions, two instances, a duplicate, a leader change and a split",
            Bounds { failovers: 1, splits: 1, duplicates: 1, ..Bounds::calm(issue) },
        )
        .of_states(1_000_000)
        .reaching(&[FAILED_OVER, SPLIT_APPLIED, NEW_HOLDER, HOLD_ENDED]),
    ]
}
