//! What is agreed about a hold while it is held, and ends that a condition brings.

use super::A;
use crate::{
    bounds::{Bounds, ClientPlan, Plan, Wish},
    message::Terms,
    properties::*,
    rules::Rule,
    scenario::Scenario,
    state::Condition,
};

pub fn all() -> Vec<Scenario> {
    let terms = |longer| Wish::Agree(Terms { condition: Condition::OnExpiry, longer });
    let lengthening =
        ClientPlan::new('S', 1, 2, &[Plan::held(A)]).wishing(&[terms(true), terms(false)]);
    let staying = Plan::wait(A).under(Condition::Hold);
    let unseen = ClientPlan::new('S', 1, 2, &[staying]).wishing(&[Wish::Claim]);
    let bounded = ClientPlan::new('S', 1, 2, &[Plan::held(A).under(Condition::Bounded)]);
    let staying_instead = [Wish::condition(Condition::Hold), Wish::Claim];
    let asker = ClientPlan::new('T', 1, 1, &[Plan::wait(A)]).asking().closing();
    let changing = bounded.clone().wishing(&staying_instead);
    let bounded = ClientPlan { attempts: 1, ..bounded };
    vec![
        Scenario::new(
            "unseen",
            0,
            "a hold that is to stay is granted, and its client never hears of it",
            Bounds::calm(vec![unseen]),
        )
        .breaking(&[Rule::HoldNeedsClaim], SEEN_STAYS)
        .of_states(640)
        .reaching(&[NEW_HOLDER, ORPHANED, HOLD_ENDED]),
        Scenario::new(
            "longer",
            0,
            "a longer lease is agreed about a hold, and then a shorter one; an operator takes it away",
            Bounds {
                longer: 1,
                force_releases: 1,
                ..Bounds::calm(vec![lengthening])
            },
        )
        .breaking(&[Rule::LongerLeaseFromKnown], BELIEVED_IS_HELD)
        .breaking(&[Rule::LeaseNeverShorter], BELIEVED_IS_HELD)
        .of_states(190_000)
        .reaching(&[LONGER, ENDING, HOLD_ENDED]),
        Scenario::new(
            "held-too-long",
            0,
            "a hold comes to the end of its longest time while its client wants it to stay",
            Bounds { time_ups: 1, ..Bounds::calm(vec![changing]) },
        )
        .breaking(&[Rule::EndingFirst], BELIEVED_IS_HELD)
        .breaking(&[Rule::TimeUpNamesAgreement], ENDED_AS_AGREED)
        .breaking(&[Rule::EndingRefusesClaim], CLAIMED_STAYS)
        .of_states(36_000)
        .reaching(&[ENDING_BY_CLAUSE, ORPHANED, HOLD_ENDED]),
        Scenario::new(
            "asked",
            0,
            "who has asked for a lock goes away before the grace is over",
            Bounds { time_ups: 1, ..Bounds::calm(vec![bounded, asker]) },
        )
        .breaking(&[Rule::GraceNeedsWaiter], ASKED_BY_SOMEBODY)
        .of_states(110_000)
        .reaching(&[ENDING_BY_CLAUSE, NEW_HOLDER, HOLD_ENDED]),
    ]
}
