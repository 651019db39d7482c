//! Ending holds early, reclaiming and claiming them: holes 11, 12, 21 and 22.

use super::A;
use crate::{
    bounds::{Bounds, ClientPlan, Plan, Wish},
    properties::*,
    rules::Rule,
    scenario::Scenario,
    state::Condition,
};

pub fn all() -> Vec<Scenario> {
    let holder = ClientPlan::new('S', 1, 2, &[Plan::held(A)]);
    let claimed = Plan::held(A).under(Condition::Hold);
    let nested = ClientPlan::new('S', 1, 2, &[claimed, Plan::reenter(A, 0)]);
    let waiter = ClientPlan::new('T', 1, 1, &[Plan::wait(A)]);
    let reclaimer = ClientPlan::new('S', 2, 1, &[Plan::reclaim(A, 0, 0)]);
    let silent = ClientPlan::new('S', 1, 0, &[Plan::held(A)]);
    let renewing = ClientPlan::new('S', 1, 1, &[Plan::held(A)]);
    let set_back =
        [Wish::Claim, Wish::condition(Condition::OnExpiry), Wish::condition(Condition::Hold)];
    let claiming = ClientPlan::new('S', 1, 1, &[claimed]).wishing(&set_back).crashing();
    let there_and_back = ClientPlan::new('S', 1, 1, &[Plan::held(A)]).wishing(&[
        Wish::condition(Condition::Hold),
        Wish::Claim,
        Wish::condition(Condition::OnExpiry),
    ]);
    let taken = |clients| Bounds { force_releases: 1, ..Bounds::calm(clients) };
    vec![
        Scenario::new(
            "hole-11",
            11,
            "an operator ends a hold whose lease has just been answered",
            taken(vec![holder, waiter.clone()]),
        )
        .breaking(&[Rule::EndingFirst], BELIEVED_IS_HELD)
        .of_states(67_000)
        .reaching(&[ENDING, NEW_HOLDER, HOLD_ENDED]),
        Scenario::new(
            "hole-12",
            12,
            "an ending hold is renewed, joined or claimed, or a new leader forgets to wait",
            Bounds { failovers: 1, ..taken(vec![nested.wishing(&[Wish::Claim])]) },
        )
        .breaking(&[Rule::EndingStopsRenewal], BELIEVED_IS_HELD)
        .breaking(&[Rule::EndingRefusesReentry], BELIEVED_IS_HELD)
        .breaking(&[Rule::EndingRefusesClaim], BELIEVED_IS_HELD)
        .breaking(&[Rule::EndWaitsInFullAgain], BELIEVED_IS_HELD)
        .of_states(280_000)
        .reaching(&[ENDING, JOINED, FAILED_OVER, HOLD_ENDED]),
        Scenario::new(
            "hole-12-reclaim",
            12,
            "an ending hold is reclaimed by the session it is taken from",
            taken(vec![silent, reclaimer.clone()]),
        )
        .breaking(&[Rule::EndingRefusesReclaim], ENDING_ENDS)
        .of_states(640)
        .reaching(&[ENDING, NEW_HOLDER, HOLD_ENDED]),
        Scenario::new(
            "acknowledged",
            33,
            "an Ending is acknowledged for the whole hold while the answer to a join is on its way",
            taken(vec![ClientPlan::new('S', 1, 2, &[Plan::held(A), Plan::reenter(A, 0)])]),
        )
        .breaking(&[Rule::AcknowledgedById], BELIEVED_IS_HELD)
        .of_states(17_000)
        .reaching(&[ENDING, JOINED, HOLD_ENDED]),
        Scenario::new(
            "hole-21",
            21,
            "a live hold is reclaimed under its older instance",
            Bounds::calm(vec![renewing, reclaimer.clone(), waiter]),
        )
        .breaking(&[Rule::ReclaimWaits], ONE_BELIEVER)
        .breaking(&[Rule::ReclaimGetsNewToken], TOKENS_GROW)
        .of_states(38_000)
        .reaching(&[NEW_HOLDER, HOLD_ENDED]),
        Scenario::new(
            "orphan",
            21,
            "a claimed hold is orphaned and taken back",
            Bounds::calm(vec![claiming, reclaimer]),
        )
        .breaking(&[Rule::OrphanRefusesAgreement], CONDITION_KNOWN)
        .of_states(100_000)
        .reaching(&[ORPHANED, NEW_HOLDER]),
        Scenario::new(
            "hole-22",
            22,
            "a late Claim makes a hold eternal whose client has set its condition back",
            Bounds { duplicates: 2, ..Bounds::calm(vec![there_and_back]) },
        )
        .breaking(&[Rule::ConditionRevision], CONDITION_KNOWN)
        .of_states(150_000)
        .reaching(&[ORPHANED]),
    ]
}
