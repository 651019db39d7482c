//! Lives of a session that take holds back from each other, and sessions that are revoked.

use super::{A, Z};
use crate::{
    bounds::{Bounds, ClientPlan, Plan, Wish},
    properties::*,
    rules::Rule,
    scenario::Scenario,
    state::Condition,
};

pub fn all() -> Vec<Scenario> {
    let mut all = reclaims();
    all.extend(revocations());
    all
}

fn reclaims() -> Vec<Scenario> {
    let staying = Plan::held(A).under(Condition::Hold);
    let claiming = ClientPlan::new('S', 1, 1, &[staying]).wishing(&[Wish::Claim]);
    let reclaimer = ClientPlan::new('S', 2, 1, &[Plan::reclaim(A, 0, 0)]);
    let waiter = ClientPlan::new('T', 1, 1, &[Plan::wait(A)]);
    let silent = ClientPlan::new('S', 1, 0, &[Plan::held(A)]);
    let cut_off = ClientPlan::new('S', 1, 2, &[staying, Plan::reclaim(A, 0, 0)]);
    let older = ClientPlan::new('S', 1, 1, &[Plan::held(A), Plan::reclaim(A, 1, 0)]);
    let newer = ClientPlan::new('S', 2, 1, &[Plan::wait(A)]);
    vec![
        Scenario::new(
            "left-reclaim",
            0,
            "a claimed hold is being taken back, and the new life goes away again",
            Bounds::calm(vec![claiming, reclaimer.clone().closing(), waiter.clone()]),
        )
        .breaking(&[Rule::LeftReclaimOrphans], CLAIMED_STAYS)
        .of_states(540_000)
        .reaching(&[ENDING, ORPHANED, NEW_HOLDER, HOLD_ENDED]),
        Scenario::new(
            "taken-while-reclaimed",
            0,
            "an operator takes away what a new life of its session is taking back",
            Bounds { force_releases: 1, ..Bounds::calm(vec![silent, reclaimer, waiter.clone()]) },
        )
        .breaking(&[Rule::OperatorEndsReclaim], ENDING_ENDS)
        .of_states(24_000)
        .reaching(&[ENDING, NEW_HOLDER, HOLD_ENDED]),
        Scenario::new(
            "own-orphan",
            0,
            "a client that was cut off takes its orphan back without a restart",
            Bounds::calm(vec![cut_off.wishing(&[Wish::Claim]), waiter]),
        )
        .breaking(&[Rule::ReclaimGetsNewToken], TOKENS_GROW)
        .of_states(100_000)
        .reaching(&[ORPHANED, NEW_HOLDER, HOLD_ENDED]),
        Scenario::new(
            "older-life",
            0,
            "an older life wakes, and wants what a newer one holds",
            Bounds { failovers: 1, ..Bounds::calm(vec![older, newer]) },
        )
        .breaking(&[Rule::ReclaimByNewer], OLDER_LIFE_OUT)
        .breaking(&[Rule::InstanceGrows], OLDER_LIFE_OUT)
        .of_states(22_000)
        .reaching(&[NEW_HOLDER, FAILED_OVER, HOLD_ENDED]),
    ]
}

fn revocations() -> Vec<Scenario> {
    let staying = Plan::held(A).under(Condition::Hold);
    let queueing = ClientPlan::new('S', 1, 2, &[staying, Plan::wait(A)]).wishing(&[Wish::Claim]);
    let waiter = ClientPlan::new('T', 1, 1, &[Plan::wait(A)]);
    let silent = ClientPlan::new('S', 1, 0, &[Plan::held(A)]);
    let reclaimer = ClientPlan::new('S', 2, 1, &[Plan::reclaim(A, 0, 0)]);
    let two_names = ClientPlan::new('S', 1, 1, &[Plan::held(A), Plan::held(Z)]);
    let once = |clients| Bounds { revocations: 1, ..Bounds::calm(clients) };
    vec![
        Scenario::new(
            "revoked",
            0,
            "a session is revoked that holds a lock and waits for it, too; and comes again",
            once(vec![queueing]),
        )
        .breaking(&[Rule::EndingFirst], BELIEVED_IS_HELD)
        .breaking(&[Rule::RevokeEndsWaits], REVOKED_LEAVES)
        .breaking(&[Rule::RevokeServesLast], REVOKED_LEAVES)
        .of_states(66_000)
        .reaching(&[ENDING, ORPHANED, BACK_AFTER_REVOCATION, HOLD_ENDED]),
        Scenario::new(
            "revoked-reclaim",
            0,
            "a session is revoked of which a new life is taking back what the older one holds",
            once(vec![silent, reclaimer, waiter]),
        )
        .breaking(&[Rule::OperatorEndsReclaim], REVOKED_LEAVES)
        .of_states(21_000)
        .reaching(&[ENDING, NEW_HOLDER, HOLD_ENDED]),
        Scenario::new(
            "revoked-by-range",
            0,
            "a session is revoked in one range after the other while the range splits",
            Bounds { splits: 1, revocations: 2, ..Bounds::calm(vec![two_names]) },
        )
        .of_states(340_000)
        .reaching(&[ENDING, SPLIT_APPLIED, HOLD_ENDED]),
    ]
}
