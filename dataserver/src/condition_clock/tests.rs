use sharklock_locktable::{Change, Condition, Lease};

use super::*;
use crate::lease_clock::LeaseClock;

const TERM: u64 = 7;

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn clock() -> LeaseClock {
    LeaseClock::inheriting(at(0), TERM, at(2_000), vec![])
}

fn time_up(token: u64, what: Timed) -> Command {
    let (name, token) = ("a".into(), Token(token));
    Command::TimeUp(TimeUp { name, token, what, proposer_term: TERM })
}

fn agreement(revision: u64) -> Agreement {
    let condition =
        Condition { max_hold_ms: Some(60_000), ask_grace_ms: Some(5_000), ..Condition::default() };
    Agreement { condition, revision, claimed: false, ttl_ms: 10_000 }
}

fn set(revision: u64, asked: bool) -> Change {
    let (token, name) = (Token(5), "a".into());
    Change::ConditionSet { token, name, agreement: agreement(revision), asked }
}

fn asked(revision: u64) -> Change {
    let acquisitions = vec![];
    let (token, name, grace_ms) = (Token(5), "a".into(), 5_000);
    let since_unix_ms = 0;
    Change::Asked { token, name, acquisitions, by: None, since_unix_ms, grace_ms, revision }
}

#[test]
fn a_lock_delay_is_never_over_too_early() {
    let mut clock = clock();
    let began = Change::DelayBegan { token: Token(5), name: "a".into(), delay_ms: 15_000 };
    clock.observe(at(1_000), &began);
    assert_eq!(clock.next_alarm(), Some(at(16_150)));
    assert_eq!(clock.delay_left(at(6_150), Token(5), 15_000), Some(at(10_000)));
    assert_eq!(clock.due(at(16_149)), vec![]);
    assert_eq!(clock.due(at(16_150)), vec![time_up(5, Timed::LockDelay)]);
    assert_eq!(clock.due(at(99_999)), vec![], "it is proposed once");
}

#[test]
fn a_new_leader_begins_every_time_anew_and_in_full() {
    let delay = Lease::Delay { name: "a".into(), token: Token(5), delay_ms: 15_000 };
    let hold = Lease::Hold {
        name: "b".into(),
        token: Token(6),
        ttl_ms: 600_000,
        newest: sharklock_locktable::AcquisitionId(1),
        acquisitions: vec![],
        ending: false,
        agreement: agreement(3),
        asked: true,
    };
    let mut clock = LeaseClock::inheriting(at(100_000), TERM, at(2_000), vec![delay, hold]);
    let of_hold = |what| {
        let (name, token) = ("b".into(), Token(6));
        Command::TimeUp(TimeUp { name, token, what, proposer_term: TERM })
    };
    assert_eq!(clock.due(at(105_049)), vec![]);
    assert_eq!(clock.due(at(105_050)), vec![of_hold(Timed::AskGrace { revision: 3 })]);
    assert_eq!(clock.due(at(115_150)), vec![time_up(5, Timed::LockDelay)]);
    assert_eq!(clock.due(at(160_600)), vec![of_hold(Timed::MaxHold { revision: 3 })]);
}

#[test]
fn a_new_condition_begins_its_times_anew() {
    let mut clock = clock();
    clock.observe(at(0), &set(1, false));
    clock.observe(at(1_000), &asked(1));
    assert_eq!(clock.next_alarm(), Some(at(6_050)));
    clock.observe(at(5_000), &set(2, true));
    let grace = Timed::AskGrace { revision: 2 };
    assert_eq!(clock.due(at(10_049)), vec![]);
    assert_eq!(clock.due(at(10_050)), vec![time_up(5, grace)]);
    assert_eq!(clock.due(at(65_600)), vec![time_up(5, Timed::MaxHold { revision: 2 })]);
}

#[test]
fn the_times_of_a_hold_go_on_under_another_token() {
    let mut clock = ConditionClock::default();
    clock.agree(at(0), &"a".into(), Token(5), &agreement(0), true);
    clock.rename_hold(Token(5), Token(9));
    let grace = Timed::AskGrace { revision: 0 };
    assert_eq!(clock.due(at(5_050), TERM, 9), vec![time_up(9, grace)]);
    clock.stop_hold(Token(9));
    assert_eq!(clock.next_alarm(), None);
}

#[test]
fn an_ending_hold_has_no_other_time_than_its_lease() {
    let mut clock = clock();
    clock.observe(at(0), &set(1, true));
    let ending = Change::EndingBegan {
        token: Token(5),
        name: "a".into(),
        ttl_ms: 10_000,
        acquisitions: vec![],
        reason: "stuck".into(),
        how: sharklock_locktable::Finished::ForceReleased,
    };
    clock.observe(at(1), &ending);
    assert_eq!(clock.next_alarm(), None);
}
