//! Identity, duplicates and ghosts: holes 13 to 20.

use super::{A, Z};
use crate::{
    bounds::{Bounds, ClientPlan, Plan},
    properties::*,
    rules::Rule,
    scenario::Scenario,
};

pub fn all() -> Vec<Scenario> {
    let mut all = nested();
    all.extend(late_and_lost());
    all
}

fn nested() -> Vec<Scenario> {
    let both = ClientPlan::new('S', 1, 0, &[Plan::held(A), Plan::joined(A, 0)]);
    let nested = ClientPlan::new('S', 1, 1, &[Plan::held(A), Plan::reenter(A, 0)]);
    let once_more = |client| Bounds { duplicates: 1, ..Bounds::calm(vec![client]) };
    vec![
        Scenario::new(
            "hole-13",
            13,
            "a Release that names only the token is repeated, and closes another id",
            once_more(both.closing()),
        )
        .breaking(&[Rule::ReleaseNamesId], BELIEVED_IS_HELD)
        .of_states(360)
        .reaching(&[JOINED, HOLD_ENDED]),
        Scenario::new(
            "hole-14",
            14,
            "a late duplicate joins again what has been closed",
            once_more(nested.clone().closing()),
        )
        .breaking(&[Rule::HoldRemembersClosed, Rule::RingOfFinished], FINISHED_STAYS)
        .sparing(&[Rule::HoldRemembersClosed])
        .of_states(16_000)
        .reaching(&[JOINED, HOLD_ENDED]),
        Scenario::new(
            "hole-15",
            15,
            "a re-entry finds the lock free and gets a grant of its own",
            Bounds::calm(vec![nested.clone()]),
        )
        .breaking(&[Rule::ReenterNamesToken], REENTRY_JOINS)
        .of_states(100)
        .reaching(&[JOINED, HOLD_ENDED]),
        Scenario::new(
            "hole-17",
            17,
            "a Cancel overtakes its Acquire, which then joins for good",
            Bounds::calm(vec![nested.closing()]),
        )
        .breaking(&[Rule::CancelRecorded], FINISHED_STAYS)
        .of_states(1_600)
        .reaching(&[JOINED, HOLD_ENDED]),
    ]
}

fn late_and_lost() -> Vec<Scenario> {
    let busy = ClientPlan::new('S', 1, 2, &[Plan::held(Z), Plan::wait(A)]).closing_only(1);
    let in_and_out = |attempts| ClientPlan::new('S', 1, attempts, &[Plan::wait(A)]).closing();
    let holder = ClientPlan::new('T', 1, 0, &[Plan::held(A)]).closing();
    let waiter = ClientPlan::new('S', 1, 2, &[Plan::wait(A)]);
    let trier = ClientPlan::new('S', 1, 2, &[Plan::try_once(A)]);
    let forgotten = trier.clone();
    let holder_again = holder.clone();
    let lives = vec![
        ClientPlan::new('S', 1, 1, &[Plan::held(A)]).crashing(),
        ClientPlan::new('S', 2, 2, &[Plan::wait(A)]),
    ];
    vec![
        Scenario::new(
            "hole-16",
            16,
            "a late copy of an Acquire, older than the ring, lives as long as its session",
            Bounds {
                ttl: 1,
                duplicates: 1,
                prompt: true,
                ghosts: true,
                ..Bounds::calm(vec![busy])
            },
        )
        .lacking(&[Rule::RingOfFinished])
        .breaking(&[Rule::RenewalNamesItems], UNNAMED_ENDS)
        .of_states(240_000)
        .reaching(&[NEW_HOLDER, HOLD_ENDED]),
        Scenario::new(
            "hole-17-unknown",
            17,
            "a client is granted what it has given back, and keeps silent",
            Bounds {
                duplicates: 1,
                lossless: true,
                ghosts: true,
                ..Bounds::calm(vec![in_and_out(1)])
            },
        )
        .lacking(&[Rule::RingOfFinished])
        .breaking(&[Rule::UnknownGrantReleased], QUIET_IS_CLEAN)
        .of_states(1_700)
        .reaching(&[NEW_HOLDER, HOLD_ENDED]),
        Scenario::new(
            "newest-grant",
            34,
            "a client hears of two grants of one acquisition, and takes the older for its own",
            Bounds { duplicates: 1, ghosts: true, ..Bounds::calm(vec![in_and_out(2)]) },
        )
        .lacking(&[Rule::RingOfFinished])
        .breaking(&[Rule::NewestGrantCounts], BELIEVED_IS_HELD)
        .of_states(63_000)
        .reaching(&[NEW_HOLDER, HOLD_ENDED]),
        Scenario::new(
            "hole-18",
            18,
            "a wait time-out releases a lock that was granted meanwhile",
            Bounds { wait_timeouts: 1, ..Bounds::calm(vec![waiter, holder.clone()]) },
        )
        .breaking(&[Rule::TimeoutSparesHolds], BELIEVED_IS_HELD)
        .of_states(62_000)
        .reaching(&[NEW_HOLDER, HOLD_ENDED]),
        Scenario::new(
            "hole-19",
            19,
            "a try is refused and its duplicate granted",
            Bounds { duplicates: 1, ..Bounds::calm(vec![trier, holder]) },
        )
        .breaking(&[Rule::RingOfFinished], FINISHED_STAYS)
        .of_states(47_000)
        .reaching(&[NEW_HOLDER, HOLD_ENDED]),
        Scenario::new(
            "forgotten-try",
            35,
            "a try is refused, the range forgets that, and the duplicate is granted",
            Bounds { duplicates: 1, forgettings: 1, ..Bounds::calm(vec![forgotten, holder_again]) },
        )
        .breaking(&[Rule::DoubtfulIsNotDone], FINISHED_STAYS)
        .of_states(200_000)
        .reaching(&[NEW_HOLDER, SERVED_ANEW, HOLD_ENDED]),
        Scenario::new(
            "forgotten-cancel",
            35,
            "a Cancel overtakes its Acquire, is forgotten, and the Acquire is granted, over a new leader",
            Bounds { forgettings: 2, failovers: 1, ..Bounds::calm(vec![in_and_out(2)]) },
        )
        .breaking(&[Rule::DoubtfulIsNotDone], FINISHED_STAYS)
        .of_states(42_000)
        .reaching(&[NEW_HOLDER, SERVED_ANEW, FAILED_OVER, HOLD_ENDED]),
        Scenario::new(
            "hole-20",
            20,
            "a restarted process finds the hold of its older life under its own id",
            Bounds::calm(lives),
        )
        .breaking(&[Rule::InstanceInIdentity], ONE_BELIEVER)
        .of_states(48_000)
        .reaching(&[NEW_HOLDER, HOLD_ENDED]),
    ]
}
