//! Leases and time: holes 1 to 9, and what else D7 needs.

use super::{A, Z};
use crate::{
    bounds::{Bounds, ClientPlan, Plan},
    properties::*,
    rules::Rule,
    scenario::Scenario,
};

/// S holds `a` and T waits for it.
fn holder_and_waiter(keepalives: u8) -> Vec<ClientPlan> {
    vec![
        ClientPlan::new('S', 1, keepalives, &[Plan::held(A)]),
        ClientPlan::new('T', 1, 1, &[Plan::wait(A)]),
    ]
}

pub fn all() -> Vec<Scenario> {
    let mut all = within_a_range();
    all.extend(over_leaders_and_splits());
    all
}

fn within_a_range() -> Vec<Scenario> {
    let used_again = vec![ClientPlan::new('S', 1, 2, &[Plan::held(A), Plan::wait(A)]).closing()];
    let granted_late = vec![
        ClientPlan::new('S', 1, 2, &[Plan::wait(A)]),
        ClientPlan::new('T', 1, 0, &[Plan::held(A)]).closing(),
    ];
    let nested = ClientPlan::new('S', 1, 2, &[Plan::held(A), Plan::reenter(A, 0)]);
    let joined_once = ClientPlan::new('S', 1, 1, &[Plan::held(A), Plan::reenter(A, 0)]);
    let asked_twice = vec![ClientPlan::new('S', 1, 2, &[Plan::wait(A)])];
    vec![
        Scenario::new(
            "hole-2",
            2,
            "an Expire that was decided before ends a younger use of the lock",
            Bounds::calm(used_again),
        )
        .breaking(&[Rule::ExpireNamesToken, Rule::ExpireNamesNewest], BELIEVED_IS_HELD)
        .sparing(&[Rule::ExpireNamesNewest])
        .of_states(250_000)
        .reaching(&[NEW_HOLDER, HOLD_ENDED, LAST_TICK]),
        Scenario::new(
            "hole-3",
            3,
            "the answer to an early attempt is taken for that to a late one",
            Bounds::calm(holder_and_waiter(3)),
        )
        .breaking(&[Rule::SeqEchoed], BELIEVED_IS_HELD)
        .of_states(51_000)
        .reaching(&[NEW_HOLDER, HOLD_ENDED, LAST_TICK]),
        Scenario::new(
            "hole-4",
            4,
            "a pushed grant is counted from its arrival",
            Bounds::calm(granted_late),
        )
        .breaking(&[Rule::PushCarriesNoTime], BELIEVED_IS_HELD)
        .of_states(16_000)
        .reaching(&[NEW_HOLDER, HOLD_ENDED]),
        Scenario::new(
            "hole-5",
            5,
            "one hold has two leases, and only one of them is renewed",
            Bounds::calm(vec![nested.closing().splitting_keepalives()]),
        )
        .breaking(&[Rule::OneLeasePerHold], BELIEVED_IS_HELD)
        .of_states(77_000)
        .reaching(&[JOINED, HOLD_ENDED, LAST_TICK]),
        Scenario::new(
            "hole-6",
            6,
            "an id joins before an Expire is applied that does not know of it",
            Bounds::calm(vec![joined_once]),
        )
        .breaking(&[Rule::ExpireNamesNewest, Rule::EveryReceiptRenews], BELIEVED_IS_HELD)
        .sparing(&[Rule::ExpireNamesNewest, Rule::EveryReceiptRenews])
        .of_states(100)
        .reaching(&[JOINED, HOLD_ENDED]),
        Scenario::new(
            "hole-6-silence",
            6,
            "a keepalive is answered while the end of its lease is pending",
            Bounds::calm(asked_twice.clone()),
        )
        .breaking(&[Rule::SilentWhilePending], BELIEVED_IS_HELD)
        .of_states(570)
        .reaching(&[NEW_HOLDER, HOLD_ENDED]),
        Scenario::new(
            "receipt",
            0,
            "a duplicate Acquire is answered with its seq, and moves no deadline",
            Bounds::calm(asked_twice),
        )
        .breaking(&[Rule::EveryReceiptRenews], BELIEVED_IS_HELD)
        .breaking(&[Rule::ScanEntersLogInOrder], BELIEVED_IS_HELD)
        .of_states(570)
        .reaching(&[NEW_HOLDER, HOLD_ENDED]),
        Scenario::new(
            "hole-9",
            9,
            "the server's clock runs fast",
            Bounds::calm(holder_and_waiter(1)),
        )
        .breaking(&[Rule::SlowerServerClock], BELIEVED_IS_HELD)
        .of_states(1_300)
        .reaching(&[NEW_HOLDER, LAST_TICK]),
    ]
}

fn over_leaders_and_splits() -> Vec<Scenario> {
    let two_names = vec![ClientPlan::new('S', 1, 2, &[Plan::held(A), Plan::held(Z)])];
    let moved = vec![
        ClientPlan::new('S', 1, 2, &[Plan::held(Z)]),
        ClientPlan::new('T', 1, 1, &[Plan::wait(Z)]),
    ];
    let early = vec![ClientPlan::new('S', 1, 2, &[Plan::wait(A)])];
    let split = |clients| Bounds { splits: 1, ..Bounds::calm(clients) };
    let failover = |clients| Bounds { failovers: 1, ..Bounds::calm(clients) };
    vec![
        Scenario::new(
            "hole-1",
            1,
            "a range answers for a whole session, also for what a split has moved away",
            split(two_names),
        )
        .breaking(&[Rule::AnswersPerItem], BELIEVED_IS_HELD)
        .of_states(78_000)
        .reaching(&[SPLIT_APPLIED, HOLD_ENDED]),
        Scenario::new(
            "hole-7",
            7,
            "a superseded leader proposes Expire, or answers without a quorum",
            failover(holder_and_waiter(2)),
        )
        .breaking(&[Rule::ProposerTerm], BELIEVED_IS_HELD)
        .breaking(&[Rule::ProofOfLeadership], BELIEVED_IS_HELD)
        .breaking(&[Rule::FullLeaseAtNewLeader], BELIEVED_IS_HELD)
        .of_states(120_000)
        .reaching(&[FAILED_OVER, NEW_HOLDER, HOLD_ENDED]),
        Scenario::new(
            "hole-7-mailbox",
            7,
            "a leader wakes from a stall and scans before it reads",
            Bounds { mailbox: true, ..Bounds::calm(holder_and_waiter(2)) },
        )
        .breaking(&[Rule::ScanAfterMailbox], RENEWALS_HEARD)
        .of_states(14_000)
        .reaching(&[NEW_HOLDER, HOLD_ENDED]),
        Scenario::new(
            "hole-8",
            8,
            "a follower applies the split first and counts leases that the parent still answers for",
            split(moved.clone()),
        )
        .breaking(&[Rule::SilentWhileSplitting], BELIEVED_IS_HELD)
        .of_states(160_000)
        .reaching(&[SPLIT_APPLIED, NEW_HOLDER, HOLD_ENDED]),
        Scenario::new(
            "hole-31",
            31,
            "a range says gone of a name that a split has moved away",
            split(moved.clone()),
        )
        .breaking(&[Rule::GoneWithinBounds], GONE_IS_GONE)
        .of_states(160_000)
        .reaching(&[SPLIT_APPLIED]),
        Scenario::new(
            "hole-31-overtaken",
            31,
            "a keepalive overtakes its Acquire and is told gone",
            Bounds::calm(early),
        )
        .breaking(&[Rule::GoneNeedsLaterKeepAlive], GONE_IS_GONE)
        .of_states(570)
        .reaching(&[NEW_HOLDER]),
        Scenario::new(
            "split-tokens",
            0,
            "a split child counts tokens from the start",
            split(moved),
        )
        .breaking(&[Rule::ChildCopiesCounter], TOKENS_GROW)
        .of_states(160_000)
        .reaching(&[SPLIT_APPLIED, NEW_HOLDER]),
    ]
}
